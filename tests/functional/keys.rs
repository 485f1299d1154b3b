//! Keys through the API: a start without the root key provider, rotation, disabling, destruction by two people.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::Method;
use ringfence_tests::{Host, Place, Session, answer, eventually, problem, ringfence, string};
use serde_json::{Value, json};

use crate::started;

/// The part of Vault's Transit that a start needs, over what it was told before. Plain text under base64: what is tested here
/// is when the host asks, not how Vault encrypts.
fn serve_vault(listener: TcpListener) {
    serve_vault_while(listener, Arc::new(AtomicBool::new(true)));
}

/// The same, refusing while it is told to.
fn serve_vault_while(listener: TcpListener, open: Arc<AtomicBool>) {
    serve_vault_with(listener, open, Arc::default());
}

/// Whether the deletion of a key is answered.
#[derive(Default)]
struct Deleting {
    is_held: AtomicBool,
    is_asked: AtomicBool,
}

/// The same, and not answering the deletion of a key, nor anything after it, while that is held.
fn serve_vault_with(listener: TcpListener, open: Arc<AtomicBool>, deleting: Arc<Deleting>) {
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(&stream);
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let mut length = 0;
            loop {
                let mut header = String::new();
                reader.read_line(&mut header).unwrap();
                match header.trim_end().split_once(':') {
                    Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                        length = value.trim().parse().unwrap();
                    }
                    Some(_) => {}
                    None => break,
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            if !open.load(Ordering::Relaxed) {
                let refused = "HTTP/1.1 403 x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                (&stream).write_all(refused.as_bytes()).unwrap();
                continue;
            }
            if line.starts_with("DELETE ") {
                deleting.is_asked.store(true, Ordering::Relaxed);
                while deleting.is_held.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            let body: Value = serde_json::from_slice(&body).unwrap_or_default();
            let data = if line.contains("/encrypt/") {
                json!({ "ciphertext": format!("vault:v1:{}|{}", body["plaintext"].as_str().unwrap(), body["context"]) })
            } else if line.contains("/decrypt/") {
                let sealed = body["ciphertext"].as_str().unwrap().strip_prefix("vault:v1:").unwrap();
                json!({ "plaintext": sealed.split('|').next().unwrap() })
            } else {
                json!({ "latest_version": 1 })
            };
            let text = json!({ "data": data }).to_string();
            let head = format!("HTTP/1.1 200 x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", text.len());
            (&stream).write_all(format!("{head}{text}").as_bytes()).unwrap();
        }
    });
}

#[tokio::test]
async fn a_host_without_its_root_key_provider_comes_up_locked_and_unlocks_by_itself() -> Result<()> {
    let place = Place::new()?;
    // The port is known, and nobody listens there yet.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let token = place.data().parent().context("parent")?.join("vault-token");
    std::fs::write(&token, "s.token")?;
    let root = format!("vault:http://{address}/transit/keys/ringfence?token-file={}", token.display());
    let host = Host::start_with(&place, &[], &[("RINGFENCE_KEYS_ROOT", &root)])?;
    let http = reqwest::Client::builder().no_proxy().build()?;
    let ready = async || -> Result<(u16, String)> {
        let answer = http.get(format!("{}/readyz", host.control)).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    };
    assert_eq!(http.get(format!("{}/healthz", host.control)).send().await?.status(), 200);
    let (status, text) = ready().await?;
    assert_eq!(status, 503);
    assert!(text.contains("vault:") && !text.contains(&address.port().to_string()), "{text}");
    for url in [format!("{}/api/v1/tenants", host.control), format!("{}/acme/hello/", host.plugins)] {
        let answer = http.get(url).send().await?;
        assert!(answer.headers().contains_key("retry-after"));
        let (status, problem) = problem(answer).await?;
        assert_eq!((status, problem["code"].as_str()), (503, Some("host-locked")));
    }
    let page = http.get(format!("{}/docs/errors/host-locked", host.control)).send().await?;
    assert!(page.status() == 200 && page.text().await?.contains("Retry-After"), "it says what that means");
    serve_vault(TcpListener::bind(address)?);
    eventually("the host unlocks", async || Ok(ready().await?.0 == 200)).await?;
    let operator = host.operator().await?;
    let keys = answer(operator.get("/keys").send().await?).await?;
    assert_eq!((keys["provider"].as_str(), keys["assurance"].as_str()), (Some("vault"), Some("service")));
    host.tenant(&operator, "acme").await?;
    Ok(())
}

/// What `ringfence` prints with `--json` about a data directory without running a host on it, and whether it went well.
fn told(words: &[&str], data: Option<&Path>, environment: &[(&str, &str)]) -> Result<(Vec<Value>, bool)> {
    let mut command = Command::new(ringfence()?);
    command.args(words).arg("--json").envs(environment.iter().copied());
    command.args(data.iter().flat_map(|data| [OsStr::new("--data"), data.as_os_str()]));
    let output = command.output()?;
    Ok((serde_json::from_slice(&output.stdout)?, output.status.success()))
}

/// Verdict and detail of one of the doctor's checks.
fn verdict(checks: &[Value], name: &str) -> Result<(String, String)> {
    let found = checks.iter().find(|one| one["check"] == name).with_context(|| format!("no check `{name}`"))?;
    Ok((string(found, "verdict")?, string(found, "detail")?))
}

const DOCTOR: [&str; 6] = ["doctor", "--dev", "--plugins", "127.0.0.1:0", "--control", "127.0.0.1:0"];

#[tokio::test]
async fn a_root_key_that_is_gone_is_named_and_none_is_made_in_its_place() -> Result<()> {
    let place = Place::new()?;
    let (key, aside) = (place.data().join("root.key"), place.data().join("aside.key"));
    let (checks, _) = told(&DOCTOR, Some(&place.data()), &[])?;
    let (word, detail) = verdict(&checks, "root key")?;
    assert!(word == "warn" && detail.contains(&*key.to_string_lossy()), "{word}: {detail}");
    Host::start(&place)?.stop()?;
    let (checks, _) = told(&DOCTOR, Some(&place.data()), &[])?;
    let (_, detail) = verdict(&checks, "root key")?;
    assert!(detail.contains("development"), "the doctor sees the key that the host made: {detail}");

    std::fs::rename(&key, &aside)?;
    let root = format!("file:{}", key.display());
    let starts: [&dyn Fn() -> Result<Host>; 2] = [&|| Host::start(&place), &|| Host::start_with_root(&place, &root)];
    for start in starts {
        let Err(error) = start().map(drop) else { bail!("a host came up without its root key") };
        let text = format!("{error:#}");
        assert!(text.contains("there is no root key at") && text.contains(&*key.to_string_lossy()), "{text}");
        assert!(!key.exists(), "another key was made in its place");
    }
    let (checks, is_well) = told(&DOCTOR, Some(&place.data()), &[])?;
    let (word, detail) = verdict(&checks, "root key")?;
    assert!(!is_well && word == "fail" && detail.contains(&*key.to_string_lossy()), "{word}: {detail}");

    std::fs::rename(&aside, &key)?;
    Host::start(&place)?.stop()?;
    Ok(())
}

#[tokio::test]
async fn a_deployed_host_that_makes_its_root_key_says_which_and_only_then() -> Result<()> {
    const SAID: &str = "a root key was made";
    let place = Place::new()?;
    let key = place.data().with_extension("key").display().to_string();
    let first = Host::start_deployed(&place)?;
    eventually("the host says so", async || Ok(first.stderr().contains(SAID))).await?;
    let stderr = first.stderr();
    let line = stderr.lines().find(|line| line.contains(SAID)).unwrap_or_default();
    assert!(line.contains("WARN") && line.contains(&key) && line.contains("keep it"), "{line}");
    first.stop()?;
    let second = Host::start_deployed(&place)?;
    answer(second.operator().await?.get("/host").send().await?).await?;
    assert!(!second.stderr().contains(SAID), "{}", second.stderr());
    Ok(())
}

#[test]
fn the_configuration_of_a_dev_host_names_the_root_key_beside_its_data() -> Result<()> {
    let place = Place::new()?;
    let data = place.data();
    let shown = |data: Option<&Path>, environment: &[(&str, &str)]| -> Result<(String, String)> {
        let (shown, _) = told(&["config", "show", "--dev"], data, environment)?;
        let value = |key: &str| {
            let found = shown.iter().find(|one| one["key"] == key).with_context(|| format!("no `{key}`"))?;
            string(found, "value")
        };
        Ok((value("store.path")?, value("keys.root")?))
    };
    let (path, root) = (data.display().to_string(), format!("file:{}", data.join("root.key").display()));
    assert_eq!(shown(Some(&data), &[])?, (path.clone(), root.clone()));
    // Wherever it was said: a key in a directory that passes would leave data that nothing opens.
    assert_eq!(shown(None, &[("RINGFENCE_STORE_PATH", &path)])?, (path, root));
    let (path, root) = shown(None, &[])?;
    assert!(!path.starts_with("/var/lib") && root == format!("file:{path}/root.key"), "{path} {root}");
    Ok(())
}

#[tokio::test]
async fn the_doctor_tells_ports_of_the_running_host_from_those_that_something_else_has() -> Result<()> {
    let (place, other) = (Place::new()?, Place::new()?);
    let host = Host::start(&place)?;
    let [plugins, control] = [&host.plugins, &host.control].map(|url| url.trim_start_matches("http://"));
    let words = ["doctor", "--dev", "--plugins", plugins, "--control", control];
    let (here, _) = told(&words, Some(&place.data()), &[])?;
    let (there, is_well) = told(&words, Some(&other.data()), &[])?;
    assert!(!is_well, "`serve` could not listen, and the doctor said that all is well");
    for port in ["plugins port", "control port"] {
        let (word, detail) = verdict(&here, port)?;
        assert!(word == "warn" && detail.contains("by the host that runs on"), "{word}: {detail}");
        let (word, detail) = verdict(&there, port)?;
        assert!(word == "fail" && !detail.contains("by the host"), "{word}: {detail}");
    }
    Ok(())
}

#[tokio::test]
async fn a_deletion_whose_provider_does_not_answer_keeps_no_change_of_another_tenant_waiting() -> Result<()> {
    let (place, listener, deleting) = (Place::new()?, TcpListener::bind("127.0.0.1:0")?, Arc::<Deleting>::default());
    let token = place.data().parent().context("parent")?.join("vault-token");
    std::fs::write(&token, "s.token")?;
    let address = listener.local_addr()?;
    let root = format!("vault:http://{address}/transit/keys/ringfence?token-file={}", token.display());
    serve_vault_with(listener, Arc::new(AtomicBool::new(true)), Arc::clone(&deleting));
    let host = Host::start_with(&place, &[], &[("RINGFENCE_KEYS_ROOT", &root)])?;
    let (http, ready) = (reqwest::Client::builder().no_proxy().build()?, format!("{}/readyz", host.control));
    eventually("the host unlocks", async || Ok(http.get(&ready).send().await?.status() == 200)).await?;
    let operator = host.operator().await?;
    for name in ["acme", "globex"] {
        host.tenant(&operator, name).await?;
    }
    deleting.is_held.store(true, Ordering::Relaxed);
    let deleted = tokio::spawn(operator.delete("/tenants/acme").send());
    eventually("the provider is asked", async || Ok(deleting.is_asked.load(Ordering::Relaxed))).await?;
    for act in ["suspend", "resume"] {
        answer(operator.post(&format!("/tenants/globex/{act}")).send().await?).await?;
    }
    assert_eq!(operator.delete("/tenants/acme").send().await?.status(), 404, "somebody was faster");
    // The host gives up on a provider after ten seconds.
    assert!(!deleted.is_finished(), "they waited for the deletion");
    deleting.is_held.store(false, Ordering::Relaxed);
    assert_eq!(deleted.await??.status(), 204);
    let list = answer(operator.get("/keys/receipts").send().await?).await?;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1), "{list}");
    Ok(())
}

#[tokio::test]
async fn keys_are_rotated_while_the_plugin_answers_and_its_data_stays() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("visits", "visits", "[needs]\nkeyvalue = [\"default\"]\n", &[("keyvalue", &["default"])]).await?;
    let (status, before) = acme.fetch("visits", "/ada").await?;
    assert_eq!(status, 200, "{before}");
    let key = answer(acme.admin.post(&acme.path("/keys/rotate")).send().await?).await?;
    assert_eq!(key["versions"].as_array().map(Vec::len), Some(2));
    let root = answer(operator.post("/keys/rotate").send().await?).await?;
    assert!(root["rewrapped_count"].as_u64() >= Some(2), "{root}");
    assert_eq!((&root["over"], &root["failed"]), (&json!(true), &json!([])), "{root}");
    assert_eq!(answer(operator.get("/keys").send().await?).await?["rotating"], false);
    let (status, after) = acme.fetch("visits", "/ada").await?;
    assert_eq!(status, 200);
    assert_ne!(before, after, "the count went on");
    eventually("everything is sealed anew", async || {
        Ok(answer(acme.admin.get(&acme.path("/keys")).send().await?).await?.get("reseal").is_none())
    })
    .await?;
    assert_eq!(acme.fetch("visits", "/ada").await?.0, 200);
    let (status, wrong) =
        problem(acme.admin.post(&acme.path("/keys/rotate")).json(&json!({ "purpose": "name" })).send().await?).await?;
    assert_eq!((status, wrong["code"].as_str()), (422, Some("bad-purpose")));
    let body = json!({ "purpose": "secret" });
    let key = answer(acme.admin.post(&acme.path("/keys/rotate")).json(&body).send().await?).await?;
    let newest = key["versions"].as_array().and_then(|versions| versions.last()).cloned().unwrap_or_default();
    assert_eq!(newest["purpose"], "secret", "{key}");
    Ok(())
}

#[tokio::test]
async fn disabled_keys_are_felt_by_the_next_request_and_by_no_other_tenant() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let globex = host.tenant(&operator, "globex").await?;
    for tenant in [&acme, &globex] {
        tenant.ship("hello", "hello", "", &[]).await?;
        assert_eq!(tenant.fetch("hello", "/").await?.0, 200);
    }
    let key = answer(operator.post("/tenants/acme/keys/disable").send().await?).await?;
    assert_eq!(key["state"], "disabled");
    let call = acme.admin.call(Method::GET, "/acme/hello/").send().await?;
    let (status, refused) = problem(call).await?;
    assert_eq!((status, refused["code"].as_str()), (423, Some("key-disabled")));
    let (status, refused) = problem(acme.admin.get(&acme.path("/plugins")).send().await?).await?;
    assert_eq!((status, refused["code"].as_str()), (423, Some("key-disabled")));
    assert_eq!(globex.fetch("hello", "/").await?.0, 200);
    // A stranger sees no difference between a tenant with disabled keys and none.
    let (status, _) = problem(globex.admin.get("/tenants/acme/plugins").send().await?).await?;
    assert_eq!(status, 404);
    answer(operator.post("/tenants/acme/keys/enable").send().await?).await?;
    assert_eq!(acme.fetch("hello", "/").await?.0, 200);
    Ok(())
}

#[tokio::test]
async fn a_tenant_whose_own_key_provider_refuses_is_locked_and_no_other_is() -> Result<()> {
    let place = Place::new()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let vault = Arc::new(AtomicBool::new(true));
    serve_vault_while(listener, vault.clone());
    let home = place.data().parent().context("parent")?.to_owned();
    std::fs::write(home.join("token"), "s.token")?;
    let config = home.join("ringfence.toml");
    std::fs::write(
        &config,
        format!(
            "[keys.own]\nacme = \"vault:http://{address}/transit/keys/acme?token-file={}\"\n",
            home.join("token").display()
        ),
    )?;
    let args = ["--config", config.to_str().context("path")?];
    let host = Host::start_with(&place, &args, &[])?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let globex = host.tenant(&operator, "globex").await?;
    for tenant in [&acme, &globex] {
        tenant.ship("hello", "hello", "", &[]).await?;
    }
    let (status, refused) = problem(globex.admin.put("/tenants/globex/keys/own").send().await?).await?;
    assert_eq!((status, refused["code"].as_str()), (409, Some("own-key-not-allowed")));
    let key = answer(acme.admin.put("/tenants/acme/keys/own").send().await?).await?;
    assert_eq!((&key["own"]["opens"], &key["own"]["id"]), (&json!(true), &json!("acme#1")));
    assert_eq!(acme.fetch("hello", "/").await?.0, 200);
    let locked = async |host: &Host, admin: &Session| -> Result<bool> {
        let (status, refused) = problem(admin.get("/tenants/acme/plugins").send().await?).await.unwrap_or_default();
        assert_eq!(globex_answers(host).await?, 200, "the other tenant is served all along");
        Ok((status, refused["code"].as_str()) == (423, Some("key-refused")))
    };
    vault.store(false, Ordering::Relaxed);
    eventually("the tenant is locked", async || locked(&host, &acme.admin).await).await?;
    let (status, refused) = problem(acme.admin.call(Method::GET, "/acme/hello/").send().await?).await?;
    assert_eq!((status, refused["code"].as_str()), (423, Some("key-refused")));
    vault.store(true, Ordering::Relaxed);
    eventually("it opens again", async || Ok(acme.fetch("hello", "/").await?.0 == 200)).await?;

    // The same over a start: nobody of the tenant can sign in until its provider opens the key.
    let (operator_key, admin_key) = (operator.key.clone(), acme.admin.key.clone());
    vault.store(false, Ordering::Relaxed);
    host.kill()?;
    let host = Host::start_with(&place, &args, &[])?;
    let operator = host.sign_in(&operator_key).await?;
    let key = answer(operator.get("/tenants/acme/keys").send().await?).await?;
    assert_eq!(key["own"]["opens"], false, "{key}");
    assert!(host.sign_in(&admin_key).await.is_err());
    vault.store(true, Ordering::Relaxed);
    eventually("its admin signs in", async || Ok(host.sign_in(&admin_key).await.is_ok())).await?;
    let admin = host.sign_in(&admin_key).await?;
    eventually("its plugin answers", async || {
        Ok(admin.call(Method::GET, "/acme/hello/").send().await?.status().as_u16() == 200)
    })
    .await?;
    let page = answer(operator.get("/audit?limit=1000").send().await?).await?.to_string();
    assert!(["KEY-008", "KEY-010", "KEY-011"].iter().all(|code| page.contains(code)), "{page}");
    Ok(())
}

async fn globex_answers(host: &Host) -> Result<u16> {
    // Without a key of the caller's: that it is asked for one is an answer of its own policy.
    Ok(match host.anonymous().call(Method::GET, "/globex/hello/").send().await?.status().as_u16() {
        401 => 200,
        other => other,
    })
}

#[tokio::test]
async fn an_admin_cannot_enable_what_an_operator_disabled() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let key = answer(operator.post("/tenants/acme/keys/disable").send().await?).await?;
    assert_eq!(key["disabled"]["side"], "operator");
    let (status, held) = problem(acme.admin.post("/tenants/acme/keys/enable").send().await?).await?;
    assert_eq!((status, held["code"].as_str()), (409, Some("held-by-operator")));
    answer(operator.post("/tenants/acme/keys/enable").send().await?).await?;
    answer(acme.admin.post("/tenants/acme/keys/disable").send().await?).await?;
    answer(acme.admin.post("/tenants/acme/keys/enable").send().await?).await?;
    Ok(())
}

#[tokio::test]
async fn one_operator_deletes_a_tenant_with_a_delay_to_think_and_two_people_at_once() -> Result<()> {
    let place = Place::new()?;
    // Who was invited this minute is no second person otherwise.
    let settings = [("RINGFENCE_KEYS_DESTROY_DELAY_HOURS", "24"), ("RINGFENCE_IDENTITY_SECOND_PERSON_HOURS", "0")];
    let host = Host::start_with(&place, &[], &settings)?;
    let operator = host.operator().await?;
    let other = second_operator(&host, &operator).await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    let later = operator.delete("/tenants/acme").send().await?;
    assert_eq!(later.status(), 202);
    let later: Value = later.json().await?;
    assert!(later["destroy"]["due_at"].is_string() && later["destroy"]["approved_by"].is_null(), "{later}");
    let (status, _) = problem(acme.admin.call(Method::GET, "/acme/hello/").send().await?).await?;
    assert_eq!(status, 423, "shut from the first moment");
    assert_eq!(operator.delete("/tenants/acme").send().await?.status(), 202, "one asking twice is one");
    answer(operator.post("/tenants/acme/keys/enable").send().await?).await?;
    assert_eq!(acme.fetch("hello", "/").await?.0, 200, "undone, and nothing was lost");
    assert_eq!(other.delete("/tenants/acme").send().await?.status(), 202);
    assert_eq!(operator.delete("/tenants/acme").send().await?.status(), 204, "two people want it");
    assert_eq!(operator.get("/tenants/acme").send().await?.status(), 404);
    let page = answer(operator.get("/audit?limit=1000").send().await?).await?;
    assert!(page.to_string().contains("old-copies-too"), "the receipt is on the host's log");
    Ok(())
}

/// Asks for acme's deletion by somebody who is no second person: it stays the wish of one, and is not done.
async fn deletes_alone(who: &Session) -> Result<Value> {
    let answered = who.delete("/tenants/acme").send().await?;
    assert_eq!(answered.status(), 202);
    let keys: Value = answered.json().await?;
    assert!(keys["destroy"]["due_at"].is_string() && keys["destroy"]["approved_by"].is_null(), "{keys}");
    Ok(keys)
}

#[tokio::test]
async fn neither_another_key_of_one_operator_nor_whom_he_just_invited_deletes_a_tenant_at_once() -> Result<()> {
    let place = Place::new()?;
    let host = Host::start_with(&place, &[], &[("RINGFENCE_KEYS_DESTROY_DELAY_HOURS", "24")])?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    let body = json!({ "name": "spare", "role": "operator" });
    let spare = answer(operator.post("/tokens").json(&body).send().await?).await?;
    let spare = host.sign_in(&string(&spare, "key")?).await?;
    let invited = second_operator(&host, &operator).await?;
    for alone in [&spare, &invited] {
        let asked = deletes_alone(&operator).await?;
        assert_eq!(deletes_alone(alone).await?["destroy"], asked["destroy"], "the request stays as it is");
        answer(operator.post("/tenants/acme/keys/enable").send().await?).await?;
        // The other way round: the destruction of the keys, and the deletion as its agreement.
        answer(operator.post("/tenants/acme/keys/destroy").send().await?).await?;
        deletes_alone(alone).await?;
        deletes_alone(&operator).await?;
        answer(operator.post("/tenants/acme/keys/enable").send().await?).await?;
        assert_eq!(acme.fetch("hello", "/").await?.0, 200, "undone, and nothing was lost");
    }
    Ok(())
}

async fn second_operator(host: &Host, operator: &Session) -> Result<Session> {
    host.person(operator, "/people", "grace", "operator").await
}

#[tokio::test]
async fn keys_are_destroyed_when_two_operators_want_it_and_the_receipt_is_on_the_hosts_log() -> Result<()> {
    let place = Place::new()?;
    let host = Host::start_with(
        &place,
        &[],
        &[
            ("RINGFENCE_KEYS_DESTROY_DELAY_HOURS", "0"),
            // Who was invited this minute is no second person otherwise.
            ("RINGFENCE_IDENTITY_SECOND_PERSON_HOURS", "0"),
        ],
    )?;
    let operator = host.operator().await?;
    let other = second_operator(&host, &operator).await?;
    let acme = host.tenant(&operator, "acme").await?;
    let (status, refused) = problem(other.post("/tenants/acme/keys/destroy/approve").send().await?).await?;
    assert_eq!((status, refused["code"].as_str()), (409, Some("nothing-to-approve")));
    let (status, refused) = problem(acme.admin.post("/tenants/acme/keys/destroy").send().await?).await?;
    assert_eq!((status, refused["code"].as_str()), (403, Some("denied")));
    answer(operator.post("/tenants/acme/keys/destroy").send().await?).await?;
    let (status, refused) = problem(operator.post("/tenants/acme/keys/destroy/approve").send().await?).await?;
    assert_eq!((status, refused["code"].as_str()), (409, Some("second-person-needed")));
    answer(other.post("/tenants/acme/keys/destroy/approve").send().await?).await?;
    eventually("the keys are destroyed", async || {
        Ok(operator.get("/tenants/acme/keys").send().await?.status().as_u16() == 404)
    })
    .await?;
    // The keys are gone a moment before the outcome is on the record.
    let mut log = String::new();
    eventually("every act on the keys is on the record", async || {
        let page = answer(operator.get("/audit?limit=1000").send().await?).await?;
        log = page["items"].as_array().into_iter().flatten().map(Value::to_string).collect();
        Ok(["KEY-004", "KEY-005", "KEY-006", "TEN-004"].iter().all(|code| log.contains(code)))
    })
    .await?;
    assert!(log.contains("old-copies-too"), "the receipt says what it reaches");
    Ok(())
}
