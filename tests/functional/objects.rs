//! Objects and files of plugins: stored, listed, served by range, within the quota, only with the grant.

use anyhow::{Context, Result, ensure};
use reqwest::{Method, StatusCode};
use ringfence_tests::{Tenant, answer, problem};
use serde_json::json;

use crate::started;

const ALBUM: &str = "[needs]\nblob = [\"default\"]\n[budget]\ntime_ms = 30000\ncpu_ms = 5000\nmemory_mib = 32\n";
const BULK: &str = "[needs]\nblob = [\"default\"]\n[budget]\ntime_ms = 60000\ncpu_ms = 5000\nmemory_mib = 16\n";
const FILES: &str = "[needs]\nfiles = []\n[budget]\ntime_ms = 20000\ncpu_ms = 5000\nmemory_mib = 64\n";

fn picture(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 % 251) as u8).collect()
}

async fn put(tenant: &Tenant, plugin: &str, rest: &str, body: Vec<u8>) -> Result<(StatusCode, String)> {
    let path = format!("/{}/{plugin}{rest}", tenant.name);
    let response = tenant.admin.call(Method::PUT, &path).body(body).send().await?;
    Ok((response.status(), response.text().await?))
}

async fn range(tenant: &Tenant, rest: &str, range: &str) -> Result<(u16, Option<String>, Vec<u8>)> {
    let path = format!("/{}/album{rest}", tenant.name);
    let response = tenant.admin.call(Method::GET, &path).header("range", range).send().await?;
    let content_range =
        response.headers().get("content-range").and_then(|value| value.to_str().ok()).map(str::to_owned);
    Ok((response.status().as_u16(), content_range, response.bytes().await?.to_vec()))
}

/// What the standard library answered inside the guest.
async fn file(tenant: &Tenant, act: &str) -> Result<String> {
    let (status, text) = tenant.fetch("files", act).await?;
    ensure!(status == StatusCode::OK || status == StatusCode::CONFLICT, "{act}: {status} {text}");
    Ok(text)
}

#[tokio::test]
async fn an_album_stores_lists_serves_ranges_and_removes() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("album", "album", ALBUM, &[("blob", &["default"])]).await?;
    let large = picture(5_000_000);
    assert_eq!(put(&acme, "album", "/large", large.clone()).await?.1, "5000000 bytes\n");
    assert_eq!(put(&acme, "album", "/small", b"tiny".to_vec()).await?.0, StatusCode::CREATED);
    assert_eq!(acme.fetch("album", "/").await?.1, "large\nsmall\n");
    let whole = acme.admin.call(Method::GET, "/acme/album/large").send().await?;
    assert_eq!(whole.content_length(), Some(5_000_000));
    assert!(whole.bytes().await? == large);
    for (asked, first, last) in
        [("bytes=0-9", 0, 9), ("bytes=4000000-", 4_000_000, 4_999_999), ("bytes=-7", 4_999_993, 4_999_999)]
    {
        let (status, content_range, bytes) = range(&acme, "/large", asked).await?;
        assert_eq!((status, content_range), (206, Some(format!("bytes {first}-{last}/5000000"))));
        assert!(bytes == large[first..=last], "{asked}");
    }
    assert_eq!(range(&acme, "/large", "bytes=5000000-").await?.0, 416);
    // A second picture of that name takes the place of the first, whole.
    put(&acme, "album", "/large", picture(100)).await?;
    assert!(acme.fetch("album", "/large").await?.1.len() <= 300);
    acme.admin.call(Method::DELETE, "/acme/album/large").send().await?;
    assert_eq!(acme.fetch("album", "/large").await?.0, StatusCode::NOT_FOUND);
    assert_eq!(acme.fetch("album", "/").await?.1, "small\n");
    Ok(())
}

#[tokio::test]
async fn objects_need_the_grant_at_deploy_and_at_every_call() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.push("album", "album", "0.1.0", ALBUM).await?;
    let body = json!({ "version": "0.1.0" });
    let refused = acme.admin.post(&acme.path("/plugins/album/deploy")).json(&body).send().await?;
    let (status, refused) = problem(refused).await?;
    assert_eq!((status, &refused["code"]), (409, &json!("need-not-granted")), "{refused}");
    acme.grant("album", "blob", &["other"]).await?;
    assert!(acme.deploy("album", "0.1.0").await.is_err(), "another container is not this one");
    acme.grant("album", "blob", &["default"]).await?;
    acme.deploy("album", "0.1.0").await?;
    put(&acme, "album", "/a", b"x".to_vec()).await?;
    answer(acme.admin.delete(&acme.path("/plugins/album/grants/blob")).send().await?).await?;
    assert_eq!(acme.fetch("album", "/a").await?.0, StatusCode::INTERNAL_SERVER_ERROR);
    acme.grant("album", "blob", &["default"]).await?;
    assert_eq!(acme.fetch("album", "/a").await?.1, "x");
    Ok(())
}

#[tokio::test]
async fn a_quota_stops_an_upload_in_the_middle_and_keeps_nothing_of_it() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("album", "album", ALBUM, &[("blob", &["default"])]).await?;
    let held = async || -> Result<u64> {
        let quota = answer(acme.admin.get(&acme.path("/quota")).send().await?).await?;
        quota.pointer("/use/storage_bytes").and_then(serde_json::Value::as_u64).context("no bytes held")
    };
    put(&acme, "album", "/small", b"tiny".to_vec()).await?;
    let before = held().await?;
    let limit = json!({ "overrides": { "storage_bytes": 16_000_000 } });
    answer(operator.put(&acme.path("/quota")).json(&limit).send().await?).await?;
    let (status, _) = put(&acme, "album", "/huge", picture(25_000_000)).await?;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(acme.fetch("album", "/").await?.1, "small\n");
    assert_eq!(held().await?, before);
    assert_eq!(put(&acme, "album", "/fits", picture(4_000_000)).await?.0, StatusCode::CREATED);
    Ok(())
}

#[tokio::test]
async fn a_standard_library_works_on_files_as_on_any_disk() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("files", "files", FILES, &[("files", &[])]).await?;
    assert_eq!(
        put(&acme, "files", "/write?at=/a.txt", b"hello, file".to_vec()).await?,
        (StatusCode::OK, String::new())
    );
    assert_eq!(file(&acme, "/read?at=/a.txt&from=7").await?, "file");
    assert_eq!(file(&acme, "/stat?at=/a.txt").await?, "file 11");
    put(&acme, "files", "/append?at=/a.txt", b"!".to_vec()).await?;
    put(&acme, "files", "/patch?at=/a.txt&from=7", b"FILE".to_vec()).await?;
    assert_eq!(file(&acme, "/read?at=/a.txt").await?, "hello, FILE!");
    file(&acme, "/cut?at=/a.txt&from=5").await?;
    assert_eq!(file(&acme, "/read?at=/a.txt").await?, "hello");
    assert_eq!(file(&acme, "/mkdir?at=/d/e").await?, "");
    assert_eq!(file(&acme, "/rename?at=/a.txt&to=/d/e/b.txt").await?, "");
    assert_eq!(file(&acme, "/list?at=/").await?, "d/\n");
    assert_eq!(file(&acme, "/list?at=/d/e").await?, "b.txt\n");
    assert_eq!(file(&acme, "/create-new?at=/d/e/b.txt").await?, "AlreadyExists\n");
    assert_ne!(file(&acme, "/rmdir?at=/d").await?, "", "it is not empty");
    assert_eq!(file(&acme, "/read?at=/none").await?, "NotFound\n");
    let large = "x".repeat(1_500_000);
    put(&acme, "files", "/write?at=/large", large.clone().into_bytes()).await?;
    assert!(file(&acme, "/read?at=/large").await? == large);
    assert_eq!(file(&acme, "/rmtree?at=/d").await?, "");
    assert_eq!(file(&acme, "/list?at=/").await?, "large\n");
    Ok(())
}

#[tokio::test]
async fn nothing_of_the_host_and_of_others_is_reached_by_any_path() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let (acme, globex) = (host.tenant(&operator, "acme").await?, host.tenant(&operator, "globex").await?);
    for tenant in [&acme, &globex] {
        tenant.ship("files", "files", FILES, &[("files", &[])]).await?;
    }
    put(&acme, "files", "/write?at=/secret", b"acme's".to_vec()).await?;
    assert_eq!(file(&globex, "/read?at=/secret").await?, "NotFound\n");
    for path in
        ["/etc/passwd", "/../etc/passwd", "/proc/self/environ", "../../../../etc/passwd", "/secret/../../etc/passwd"]
    {
        let text = file(&acme, &format!("/read?at={path}")).await?;
        assert!(text.len() < 40 && !text.contains("root"), "{path}: {text}");
    }
    assert!(!file(&acme, "/link?at=/secret&to=/second").await?.is_empty(), "hard links are refused");
    assert_eq!(file(&acme, "/list?at=/").await?, "secret\n");
    Ok(())
}

#[tokio::test]
async fn files_are_there_only_while_they_are_granted() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    // The manifest does not ask: it deploys, and finds no directory.
    acme.ship("files", "files", "", &[]).await?;
    assert_eq!(put(&acme, "files", "/write?at=/a", b"x".to_vec()).await?.0, StatusCode::CONFLICT);
    acme.push("files", "files", "0.2.0", FILES).await?;
    assert!(acme.deploy("files", "0.2.0").await.is_err(), "what is asked for has to be granted");
    acme.grant("files", "files", &[]).await?;
    acme.deploy("files", "0.2.0").await?;
    assert_eq!(put(&acme, "files", "/write?at=/a", b"x".to_vec()).await?.0, StatusCode::OK);
    answer(acme.admin.delete(&acme.path("/plugins/files/grants/files")).send().await?).await?;
    assert_eq!(put(&acme, "files", "/write?at=/a", b"y".to_vec()).await?.0, StatusCode::CONFLICT);
    acme.grant("files", "files", &[]).await?;
    assert_eq!(file(&acme, "/read?at=/a").await?, "x");
    Ok(())
}

/// KiB that the kernel counts for a process under a name.
fn kib(pid: u32, name: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| name.to_owned())?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

#[tokio::test]
async fn an_object_of_many_times_the_memory_it_may_take_is_written_and_read() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("bulk", "bulk", BULK, &[("blob", &["default"])]).await?;
    // What the first call of all needs is there already; the highest that was seen is forgotten.
    ensure!(acme.fetch("bulk", "/put?mib=1&name=first").await?.0 == StatusCode::OK);
    std::fs::write(format!("/proc/{}/clear_refs", host.pid()), "5")?;
    let before = kib(host.pid(), "VmRSS:")?;
    for act in ["/put?mib=96", "/get"] {
        let (status, text) = acme.fetch("bulk", act).await?;
        ensure!(status == StatusCode::OK && text.starts_with("100663296 "), "{act}: {status} {text}");
    }
    let grown = kib(host.pid(), "VmHWM:")?.saturating_sub(before);
    // The benchmark holds it to half of this, on a machine of its own.
    assert!(grown < 64 << 10, "96 MiB took {grown} KiB of memory");
    Ok(())
}
