//! Request heads that two parsers could read in two ways, and paths that try to leave their route. Sent as raw bytes.

use std::time::Duration;

use anyhow::{Context, Result};
use ringfence_tests::{Host, Tenant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::started;

/// Sends bytes and reads until the host closes or falls silent.
async fn raw(host: &Host, bytes: &[u8]) -> Result<String> {
    let mut stream = TcpStream::connect(host.plugins.trim_start_matches("http://")).await?;
    stream.write_all(bytes).await?;
    let mut got = Vec::new();
    let mut buffer = [0_u8; 8192];
    while let Ok(Ok(count)) = tokio::time::timeout(Duration::from_millis(1500), stream.read(&mut buffer)).await {
        if count == 0 {
            break;
        }
        got.extend_from_slice(&buffer[..count]);
    }
    Ok(String::from_utf8_lossy(&got).into_owned())
}

fn statuses(answer: &str) -> Vec<u16> {
    answer.lines().filter_map(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()).collect()
}

async fn hello(host: &Host, operator: &ringfence_tests::Session) -> Result<(Tenant, String)> {
    let acme = host.tenant(operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    let token = acme.admin.token.clone().context("a token")?;
    Ok((acme, format!("authorization: Bearer {token}\r\n")))
}

#[tokio::test]
async fn a_head_that_can_be_read_in_two_ways_is_refused() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let (_acme, auth) = hello(&host, &operator).await?;
    let good = format!("GET /acme/hello/ HTTP/1.1\r\nhost: a\r\n{auth}\r\n");
    assert_eq!(statuses(&raw(&host, good.as_bytes()).await?), [200]);
    for head in [
        format!("GET /acme/hello/ HTTP/1.1\r\nhost: a\r\nhost: b\r\n{auth}\r\n"),
        format!("GET /acme/hello/ HTTP/1.1\r\n{auth}\r\n"),
        format!("GET http://b/acme/hello/ HTTP/1.1\r\nhost: a\r\n{auth}\r\n"),
        format!("GET /acme/hello/ HTTP/1.1\r\nhost: a b\r\n{auth}\r\n"),
        format!("GET /acme/hello/ HTTP/1.1\r\nhost : a\r\n{auth}\r\n"),
        format!("GET /acme/hello/ HTTP/1.1\r\nhost: a\r\n{auth}{auth}\r\n"),
        "GARBAGE\r\n\r\n".to_owned(),
    ] {
        let answer = raw(&host, head.as_bytes()).await?;
        assert_eq!(statuses(&answer), [400], "{head}\n{answer}");
    }
    Ok(())
}

#[tokio::test]
async fn what_follows_an_ambiguous_head_is_never_read_as_a_request() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let (_acme, auth) = hello(&host, &operator).await?;
    let inner = format!("GET /acme/hello/ HTTP/1.1\r\nhost: a\r\n{auth}\r\n");
    for head in [
        format!(
            "POST /acme/hello/ HTTP/1.1\r\nhost: a\r\n{auth}content-length: {}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{inner}",
            inner.len() + 5
        ),
        format!(
            "POST /acme/hello/ HTTP/1.1\r\nhost: a\r\n{auth}content-length: 0\r\ncontent-length: {}\r\n\r\n{inner}",
            inner.len()
        ),
        format!("POST /acme/hello/ HTTP/1.1\r\nhost: a\r\n{auth}transfer-encoding: xchunked\r\n\r\n{inner}"),
        format!("POST /acme/hello/ HTTP/1.1\r\nhost: a\r\n{auth}transfer-encoding: chunked, identity\r\n\r\n{inner}"),
    ] {
        let answer = raw(&host, head.as_bytes()).await?;
        assert_eq!(statuses(&answer).len(), 1, "{head}\n{answer}");
    }
    Ok(())
}

#[tokio::test]
async fn no_path_trick_leaves_its_route() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let (acme, auth) = hello(&host, &operator).await?;
    let globex = host.tenant(&operator, "globex").await?;
    globex.ship("hello", "private", "", &[]).await?;
    let _ = acme;
    for path in [
        "/acme/../globex/private/",
        "/acme/hello/../../globex/private/",
        "/acme%2f..%2fglobex/private/",
        "/globex%2fprivate/",
        "/acme/%2e%2e/globex/private/",
        "//globex/private/",
        "/acme//private/",
        "/ACME/hello/",
        "/acme/hello%00/",
        "/acme/hell%6f/",
        "/./acme/hello/",
        "/acme\\hello/",
        "/",
        "/acme",
        "*",
    ] {
        let head = format!("GET {path} HTTP/1.1\r\nhost: a\r\n{auth}\r\n");
        let answer = raw(&host, head.as_bytes()).await?;
        // A dotted rest inside acme's own plugin is acme's business; it must just not be globex.
        let own = path.starts_with("/acme/hello/");
        let status = statuses(&answer);
        assert!(own || status == [404] || status == [400], "{path}: {answer}");
        assert!(!answer.contains("globex"), "{path}: {answer}");
    }
    Ok(())
}

#[tokio::test]
async fn a_head_over_the_limit_is_refused() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let (_acme, auth) = hello(&host, &operator).await?;
    let many: String = (0..200).map(|n| format!("x-{n}: 1\r\n")).collect();
    let long = format!("x-long: {}\r\n", "a".repeat(64 << 10));
    for headers in [many, long] {
        let head = format!("GET /acme/hello/ HTTP/1.1\r\nhost: a\r\n{auth}{headers}\r\n");
        assert_eq!(statuses(&raw(&host, head.as_bytes()).await?), [431]);
    }
    Ok(())
}
