//! Uploads: what is taken, what is refused, in which words, and that a refusal leaves nothing behind.

use anyhow::Result;
use ringfence_tests::{Tenant, files_under, guest, problem, string};
use serde_json::Value;

use crate::started;

const MANIFEST: &str = "[plugin]\nname = \"x\"\nversion = \"0.1.0\"\n";

async fn refused(tenant: &Tenant, bytes: Vec<u8>) -> Result<(u16, Value)> {
    problem(tenant.push_raw(MANIFEST, "x", "0.1.0", bytes).await?).await
}

#[tokio::test]
async fn an_upload_says_what_it_needs_and_what_is_new() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let first = acme.push("hello", "greeter", "0.1.0", "").await?;
    assert_eq!(first["needs"], serde_json::json!([]));
    assert_eq!(first["created"], true);
    assert!(string(&first, "digest")?.starts_with("sha256:"));
    let second = acme.push("visits", "greeter", "0.2.0", "[needs]\nkeyvalue = [\"default\"]\n").await?;
    assert_eq!(second["previous"], "0.1.0");
    assert_eq!(
        second["needs"],
        serde_json::json!([{ "capability": "keyvalue", "scope": "default", "granted": false, "new": true }])
    );
    Ok(())
}

#[tokio::test]
async fn the_same_bytes_are_the_same_version_and_others_are_a_conflict() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    assert_eq!(acme.push_raw(MANIFEST, "x", "0.1.0", guest("hello")?).await?.status(), 201);
    let again = acme.push_raw(MANIFEST, "x", "0.1.0", guest("hello")?).await?;
    assert_eq!(again.status(), 200);
    let (status, other) = refused(&acme, guest("redact")?).await?;
    assert_eq!((status, other["code"].as_str()), (409, Some("version-exists")));
    Ok(())
}

#[tokio::test]
async fn what_is_not_a_component_is_refused_in_words_and_leaves_nothing() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let before = blob_count(&host.data)?;
    for (bytes, code, word) in [
        (b"this is not wasm".to_vec(), "not-a-component", "component"),
        (Vec::new(), "not-a-component", "component"),
        (guest("core-module")?, "core-module", "core module"),
        (guest("unknown-import")?, "unknown-import", "acme:nothing/here"),
        (guest("nested-components")?, "too-complex", "deep"),
    ] {
        let (status, answer) = refused(&acme, bytes).await?;
        assert_eq!(status, 422, "{answer}");
        assert_eq!(answer["code"], code, "{answer}");
        assert!(string(&answer, "detail")?.contains(word), "{answer}");
    }
    for bomb in ["instance-bomb", "type-bomb"] {
        let (status, answer) = refused(&acme, guest(bomb)?).await?;
        assert_eq!(status, 422, "{bomb}: {answer}");
    }
    let mut cut = guest("hello")?;
    cut.truncate(cut.len() / 2);
    assert_eq!(refused(&acme, cut).await?.0, 422);
    assert_eq!(blob_count(&host.data)?, before);
    let list = ringfence_tests::answer(acme.admin.get(&acme.path("/plugins")).send().await?).await?;
    assert_eq!(list["items"], serde_json::json!([]));
    Ok(())
}

#[tokio::test]
async fn an_upload_over_the_cap_is_cut_off() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let before = blob_count(&host.data)?;
    let chunk = bytes::Bytes::from(vec![0_u8; 1 << 20]);
    let endless = futures::stream::iter((0..70).map(move |_| Ok::<_, std::io::Error>(chunk.clone())));
    let sent =
        acme.admin.put(&acme.path("/plugins/x/versions/0.1.0")).body(reqwest::Body::wrap_stream(endless)).send().await;
    // The host may answer and close while bytes are still on their way.
    if let Ok(response) = sent {
        let (status, answer) = problem(response).await?;
        assert_eq!((status, answer["code"].as_str()), (422, Some("too-large")));
    }
    assert_eq!(blob_count(&host.data)?, before);
    Ok(())
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let before = blob_count(&host.data)?;
    let half = guest("hello")?;
    let half = bytes::Bytes::from(half[..half.len() / 2].to_vec());
    let broken = futures::stream::iter(vec![Ok(half), Err(std::io::Error::other("gone"))]);
    let sent =
        acme.admin.put(&acme.path("/plugins/x/versions/0.1.0")).body(reqwest::Body::wrap_stream(broken)).send().await;
    assert!(sent.is_err());
    ringfence_tests::eventually("the half upload is taken away", async || Ok(blob_count(&host.data)? == before))
        .await?;
    assert_eq!(acme.push_raw(MANIFEST, "x", "0.1.0", guest("hello")?).await?.status(), 201);
    Ok(())
}

#[tokio::test]
async fn a_wrong_manifest_is_pointed_at() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let manifest = format!("{MANIFEST}[budget]\nmemroy_mib = 32\n");
    let (status, answer) = problem(acme.push_raw(&manifest, "x", "0.1.0", guest("hello")?).await?).await?;
    assert_eq!((status, answer["code"].as_str()), (400, Some("bad-manifest")));
    assert_eq!(string(&answer, "detail")?, "plugin.toml:5:1: unknown key `memroy_mib`, did you mean `memory_mib`?");
    let (status, answer) = problem(acme.push_raw(MANIFEST, "y", "0.1.0", guest("hello")?).await?).await?;
    assert_eq!((status, answer["code"].as_str()), (422, Some("name-mismatch")));
    Ok(())
}

#[tokio::test]
async fn a_component_of_twenty_megabytes_works() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let mut bytes = guest("hello")?;
    pad(&mut bytes, 20 << 20);
    let answer = ringfence_tests::answer(acme.push_raw(MANIFEST, "x", "0.1.0", bytes).await?).await?;
    assert!(answer["bytes"].as_u64() > Some(20 << 20));
    acme.deploy("x", "0.1.0").await?;
    assert_eq!(acme.fetch("x", "/").await?.0, 200);
    Ok(())
}

/// Appends a custom section (component-model `Binary.md`: id 0, size, name, anything), so that a valid component grows.
fn pad(component: &mut Vec<u8>, bytes: usize) {
    let name = b"padding";
    let mut body = vec![u8::try_from(name.len()).unwrap()];
    body.extend_from_slice(name);
    body.extend((0..bytes).map(|at| (at % 251) as u8));
    component.push(0);
    let mut size = body.len();
    loop {
        let low = (size & 0x7f) as u8;
        size >>= 7;
        component.push(if size == 0 { low } else { low | 0x80 });
        if size == 0 {
            break;
        }
    }
    component.extend_from_slice(&body);
}

fn blob_count(data: &std::path::Path) -> Result<usize> {
    Ok(files_under(data)?.iter().filter(|(path, _)| path.components().any(|part| part.as_os_str() == "blobs")).count())
}
