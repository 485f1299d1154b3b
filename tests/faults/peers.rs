//! Peers that send nothing, send slowly, or go away.

use std::time::Duration;

use anyhow::Result;
use reqwest::{Method, StatusCode};
use ringfence_tests::{Host, Place, Tenant, answer, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

#[tokio::test]
async fn two_hundred_silent_connections_keep_nobody_out_and_are_closed() -> Result<()> {
    let place = Place::new()?;
    let host = Host::start(&place)?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    let mut silent = Vec::new();
    for port in [&host.plugins, &host.control] {
        for n in 0..100 {
            let mut stream = TcpStream::connect(port.trim_start_matches("http://")).await?;
            if n % 2 == 0 {
                stream.write_all(b"GET /acme/hello/ HTTP/1.1\r\nho").await?;
            }
            silent.push(stream);
        }
    }
    assert_eq!(acme.fetch("hello", "/").await?.0, StatusCode::OK);
    assert_eq!(operator.get("/whoami").send().await?.status(), StatusCode::OK);
    let ends = silent.into_iter().map(|mut stream| async move {
        let mut buffer = Vec::new();
        tokio::time::timeout(Duration::from_secs(25), stream.read_to_end(&mut buffer)).await.is_ok()
    });
    assert!(futures::future::join_all(ends).await.into_iter().all(|closed| closed), "a silent connection was kept");
    Ok(())
}

/// A connection whose own end keeps little: what is not read waits on the host's side.
async fn narrow(port: &str) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(16 << 10)?;
    Ok(socket.connect(port.trim_start_matches("http://").parse()?).await?)
}

#[tokio::test]
async fn who_asks_and_reads_nothing_is_cut_off() -> Result<()> {
    let place = Place::new()?;
    let host = Host::start(&place)?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    ship_hostile(&acme).await?;
    let token = acme.admin.token.clone().unwrap_or_default();
    let open = "GET /openapi.json HTTP/1.1\r\nhost: a\r\n\r\n".to_owned();
    let streamed = format!(
        "GET /acme/hostile/huge-response?bytes=16000000 HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\r\n"
    );
    let ends = [(&host.control, open), (&host.plugins, streamed)].map(|(port, request)| async move {
        let mut stream = narrow(port).await?;
        // Asks again and again. When nobody takes the requests any more, the answers to the first wait for a reader.
        let asking = async { while stream.write_all(request.as_bytes()).await.is_ok() {} };
        anyhow::Ok(tokio::time::timeout(Duration::from_secs(40), asking).await.is_ok())
    });
    for end in futures::future::join_all(ends).await {
        assert!(end?, "a connection whose peer reads nothing was kept");
    }
    Ok(())
}

#[tokio::test]
async fn slow_clients_give_way_when_somebody_waits_for_their_slots() -> Result<()> {
    // What one tenant may have running at once: a quarter of the slots of a host that was told nothing else.
    const SLOTS_COUNT: u64 = 32;
    let place = Place::new()?;
    let host = Host::start(&place)?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    ship_hostile(&acme).await?;
    let token = acme.admin.token.clone().unwrap_or_default();
    let head = |line: &str| format!("{line} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n");
    let sends = head("POST /acme/hostile/swallow") + "transfer-encoding: chunked\r\n\r\n1\r\na\r\n";
    let reads = head("GET /acme/hostile/huge-response?bytes=16000000") + "\r\n";
    let running = async || -> Result<u64> {
        Ok(answer(operator.get("/host").send().await?).await?["running_count"].as_u64().unwrap_or(99))
    };
    for request in [sends, reads] {
        let mut slow = Vec::new();
        for _ in 0..SLOTS_COUNT {
            let mut stream = narrow(&host.plugins).await?;
            stream.write_all(request.as_bytes()).await?;
            slow.push(stream);
        }
        eventually("slow clients hold every slot", async || Ok(running().await? == SLOTS_COUNT)).await?;
        assert_eq!(acme.fetch("hostile", "/ok").await?.0, StatusCode::OK, "{request}");
        drop(slow);
        eventually("the slots are free", async || Ok(running().await? == 0)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_burst_ends_no_more_of_others_calls_than_it_can_use() -> Result<()> {
    // A quarter of four: each tenant may have one call running, and four that hold one fill the host.
    let place = Place::new()?;
    let host = Host::start_with(&place, &[], &[("RINGFENCE_ENGINE_SLOTS", "4")])?;
    let operator = host.operator().await?;
    let running = async || -> Result<u64> {
        Ok(answer(operator.get("/host").send().await?).await?["running_count"].as_u64().unwrap_or(99))
    };
    let hasty = host.tenant(&operator, "hasty").await?;
    ship_hostile(&hasty).await?;
    let mut tenants = Vec::new();
    for n in 0..4 {
        tenants.push(host.tenant(&operator, &format!("slow-{n}")).await?);
        ship_hostile(&tenants[n]).await?;
    }
    let mut slow = Vec::new();
    for tenant in &tenants {
        let name = &tenant.name;
        let token = tenant.admin.token.clone().unwrap_or_default();
        let mut stream = TcpStream::connect(host.plugins.trim_start_matches("http://")).await?;
        let head = format!("POST /{name}/hostile/swallow HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n");
        stream.write_all((head + "transfer-encoding: chunked\r\n\r\n1\r\na\r\n").as_bytes()).await?;
        slow.push(stream);
    }
    eventually("slow clients hold every slot", async || Ok(running().await? == 4)).await?;
    let burst = (0..20).map(|_| hasty.fetch("hostile", "/ok"));
    for answered in futures::future::join_all(burst).await {
        assert_eq!(answered?.0, StatusCode::OK);
    }
    eventually("three slow clients still hold theirs", async || Ok(running().await? == 3)).await
}

#[tokio::test]
async fn a_slow_reader_who_reads_on_gets_everything() -> Result<()> {
    const REQUESTS: usize = 10;
    let place = Place::new()?;
    let host = Host::start(&place)?;
    let mut stream = TcpStream::connect(host.control.trim_start_matches("http://")).await?;
    for n in 1..=REQUESTS {
        let connection = if n == REQUESTS { "close" } else { "keep-alive" };
        let request = format!("GET /openapi.json HTTP/1.1\r\nhost: a\r\nconnection: {connection}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
    }
    // About 250 KiB a second of more than 6 MB: longer than a reader may stand still, and never standing still.
    let (mut got, mut piece) = (Vec::new(), vec![0; 25 << 10]);
    loop {
        let count = stream.read(&mut piece).await?;
        if count == 0 {
            break;
        }
        got.extend_from_slice(&piece[..count]);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let answers = got.windows(15).filter(|piece| *piece == b"HTTP/1.1 200 OK").count();
    assert_eq!(answers, REQUESTS, "cut after {} bytes", got.len());
    Ok(())
}

/// The plugin `hostile`, with a minute for each call.
async fn ship_hostile(tenant: &Tenant) -> Result<()> {
    let grants = [("keyvalue", &["*"][..]), ("logging", &[]), ("http", &["https://example.com"])];
    tenant.ship("hostile", "hostile", "[budget]\ntime_ms = 60000\n", &grants).await
}

#[tokio::test]
async fn a_body_that_stops_arriving_is_ended() -> Result<()> {
    let place = Place::new()?;
    let host = Host::start(&place)?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("redact", "redact", "[budget]\ntime_ms = 60000\n", &[]).await?;
    for (port, path) in
        [(&host.plugins, "/acme/redact/"), (&host.control, "/api/v1/tenants/acme/plugins/x/versions/0.1.0")]
    {
        let method = if path.starts_with("/api") { "PUT" } else { "POST" };
        let token = acme.admin.token.clone().unwrap_or_default();
        let mut stream = TcpStream::connect(port.trim_start_matches("http://")).await?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\ncontent-length: 1000\r\n\r\nabc"
        );
        stream.write_all(head.as_bytes()).await?;
        let mut got = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(40), stream.read_buf(&mut got)).await?;
        let text = String::from_utf8_lossy(&got);
        assert!(text.starts_with("HTTP/1.1 4") || text.starts_with("HTTP/1.1 5") || got.is_empty(), "{text}");
    }
    Ok(())
}

#[tokio::test]
async fn a_caller_who_goes_away_frees_the_slot() -> Result<()> {
    let place = Place::new()?;
    let host = Host::start(&place)?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    ship_hostile(&acme).await?;
    let running = async || -> Result<u64> {
        Ok(answer(operator.get("/host").send().await?).await?["running_count"].as_u64().unwrap_or(99))
    };
    for path in ["/drip", "/sleep?ms=50000"] {
        let call = tokio::spawn(acme.admin.call(Method::GET, &format!("/acme/hostile{path}")).send());
        eventually("the call runs", async || Ok(running().await? == 1)).await?;
        if path == "/drip" {
            drop(call.await??);
        } else {
            call.abort();
        }
        eventually("the slot is free", async || Ok(running().await? == 0)).await?;
    }
    Ok(())
}
