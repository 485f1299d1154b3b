//! A reader of the disk: nothing a tenant gave us is found in the data directory, by any of its words.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use anyhow::{Context, Result};
use ringfence_tests::{Host, Place, Tenant, answer, eventually, files_under, guest, ringfence, string};
use serde_json::json;

use crate::{ship_hostile, started};

/// What [`automate`] leaves with the host.
const AUTOMATED: [&str; 9] = [
    "wallaby-queue",
    "tapir-message",
    "ocelot-group",
    "pangolin-input",
    "axolotl-attribute",
    "lemur-signal",
    "capybara-schedule",
    "tamarin-payload",
    "okapi-key",
];

/// A message that waits for its second attempt and one that is dead, a run that was told something, a schedule that ran.
async fn automate(tenant: &Tenant) -> Result<()> {
    tenant.ship("events", "events", "", &[("keyvalue", &["default"]), ("queue", &["work"])]).await?;
    let queue = tenant.path("/queues/wallaby-queue");
    let settings = json!({ "plugin": "events", "backoff_ms": 600_000, "backoff_ms_max": 600_000 });
    answer(tenant.admin.put(&queue).json(&settings).send().await?).await?;
    for act in ["fail", "refuse"] {
        let message = json!({
            "payload": { "do": act, "name": "tapir-message" }, "group": format!("ocelot-group-{act}"),
            "idempotency_key": format!("okapi-key-{act}"),
        });
        answer(tenant.admin.post(&format!("{queue}/messages")).json(&message).send().await?).await?;
    }
    let dead = format!("{queue}/dead");
    eventually("one message is dead and the other waits", async || {
        let letters = answer(tenant.admin.get(&dead).send().await?).await?;
        let state = answer(tenant.admin.get(&queue).send().await?).await?;
        let is_dead = letters["items"].as_array().is_some_and(|items| items.len() == 1);
        Ok(is_dead && state["depth_count"] == 1 && state["running_count"] == 0)
    })
    .await?;

    tenant.ship("runs", "runs", "", &[("http", &["http://127.0.0.1:9"])]).await?;
    let begun = json!({
        "plugin": "runs", "workflow": "waiter", "input": { "word": "pangolin-input" },
        "attributes": { "word": "axolotl-attribute" }, "key": "okapi-key-run",
    });
    let run = answer(tenant.admin.post(&tenant.path("/runs")).json(&begun).send().await?).await?;
    let run = tenant.path(&format!("/runs/{}", string(&run, "id")?));
    // Nobody waits for this one, so that it stays where it is.
    let signal = json!({ "name": "lemur-signal", "payload": "lemur-signal", "key": "okapi-key-signal" });
    answer(tenant.admin.post(&format!("{run}/signal")).json(&signal).send().await?).await?;
    eventually(
        "the run waits",
        async || Ok(answer(tenant.admin.get(&run).send().await?).await?["status"] == "waiting"),
    )
    .await?;

    let schedule = json!({
        "plugin": "events", "cron": "0 3 * * *", "zone": "Europe/London", "payload": { "word": "tamarin-payload" },
    });
    let path = tenant.path("/schedules/capybara-schedule");
    answer(tenant.admin.put(&path).json(&schedule).send().await?).await?;
    answer(tenant.admin.post(&format!("{path}/run")).send().await?).await?;
    Ok(())
}

#[tokio::test]
async fn no_word_of_a_tenant_is_found_on_disk() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "zanzibar").await?;
    acme.ship("visits", "quokka-visits", "", &[("keyvalue", &["default"])]).await?;
    acme.fetch("quokka-visits", "/kea-bird-key").await?;
    ship_hostile(&acme, "time_ms = 5000").await?;
    acme.fetch("hostile", "/kv?key=platypus-key&value=wombat-value").await?;
    acme.fetch("hostile", "/log-flood?n=5").await?;
    answer(acme.admin.put(&acme.path("/secrets/numbat-name")).body("echidna-secret").send().await?).await?;
    let config = json!({ "value": "dingo-value" });
    answer(acme.admin.put(&acme.path("/plugins/hostile/config/cassowary-config")).json(&config).send().await?).await?;
    acme.member(&host, "bilby-member", "caller").await?;
    let policy = json!({ "text": "@id(\"bandicoot-policy\")\npermit(principal, action == Ringfence::Action::\"invoke\", resource) when { false };" });
    answer(acme.admin.put(&acme.path("/policy")).json(&policy).send().await?).await?;
    eventually("the guest log is stored", async || {
        let page = answer(acme.admin.get(&acme.path("/plugins/hostile/logs")).send().await?).await?;
        Ok(page["items"].as_array().is_some_and(|lines| !lines.is_empty()))
    })
    .await?;
    let component = guest("visits")?;
    acme.ship("album", "album", "[budget]\ntime_ms = 9000\n", &[("blob", &["default"])]).await?;
    acme.ship("files", "files", "[needs]\nfiles = []\n", &[("files", &[])]).await?;
    // Short enough to lie in the database, and long enough for a file of its own.
    for (plugin, rest) in [("album", "/potoroo-small"), ("album", "/bilby-large"), ("files", "/write?at=/quoll-file")] {
        let body = "kookaburra-content ".repeat(if rest.contains("large") { 20_000 } else { 50 });
        let path = format!("/zanzibar/{plugin}{rest}");
        let stored = acme.admin.call(reqwest::Method::PUT, &path).body(body).send().await?;
        assert!(stored.status().is_success(), "{path}: {}", stored.status());
    }
    automate(&acme).await?;
    let (data, key) = (host.data.clone(), acme.admin.key.clone());
    host.stop()?;

    let mut words: Vec<Vec<u8>> = [
        "quokka-visits",
        "kea-bird-key",
        "platypus-key",
        "wombat-value",
        "numbat-name",
        "echidna-secret",
        "cassowary-config",
        "dingo-value",
        "bilby-member",
        "bandicoot-policy",
        "potoroo-small",
        "bilby-large",
        "quoll-file",
        "kookaburra-content",
    ]
    .iter()
    .chain(&AUTOMATED)
    .map(|word| word.as_bytes().to_vec())
    .collect();
    words.push(key.into_bytes());
    // Any piece of a component: its names are in its bytes and in the native code made from it.
    words.push(b"wasi:keyvalue".to_vec());
    words.push(component[..64].to_vec());
    for (path, bytes) in files_under(&data)? {
        let name = path.display().to_string();
        for word in &words {
            assert!(
                !bytes.windows(word.len()).any(|window| window == word),
                "{} is in {name}",
                String::from_utf8_lossy(word)
            );
            assert!(!name.contains(&*String::from_utf8_lossy(word)), "{name}");
        }
        assert!(!name.contains("zanzibar"), "{name}");
        let mode = std::fs::metadata(&path)?.permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name} can be read by others: {mode:o}");
    }
    Ok(())
}

#[tokio::test]
async fn a_tampered_native_code_entry_is_never_loaded() -> Result<()> {
    let (place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    let key = acme.admin.key.clone();
    host.stop()?;
    let native = place.data().join("native");
    let entries = files_under(&native)?;
    assert!(!entries.is_empty());
    for (path, mut bytes) in entries {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, bytes)?;
    }
    let host = Host::start(&place)?;
    let admin = host.sign_in(&key).await?;
    let (status, text) = admin.fetch("/acme/hello/").await?;
    assert!(status.is_success() && text.starts_with("hello"), "{status} {text}");
    assert!(host.stderr().contains("cache"), "the tampering is reported: {}", host.stderr());
    Ok(())
}

#[tokio::test]
async fn the_host_cannot_leave_its_memory_in_a_core_file() -> Result<()> {
    let (_place, host, operator) = started().await?;
    // This one is with --dev, for somebody who may look into it.
    let handed = std::fs::read_to_string("/proc/sys/kernel/core_pattern")?.starts_with(['|', '@']);
    let said = if handed { "crash-handler" } else { "debuggers" };
    assert_eq!(answer(operator.get("/host").send().await?).await?["memory_dumps"], said);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", host.pid()))?;
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).context("no such limit")?;
    // The hard limit too: nothing it starts, and no handler, can raise it again.
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    Ok(())
}

/// What the host says here the kernel told it; as root, who runs these tests, nothing else can be seen from outside.
#[tokio::test]
async fn nobody_of_its_account_reads_the_memory_of_a_deployed_host() -> Result<()> {
    let place = Place::new()?;
    let host = Host::start_deployed(&place)?;
    let operator = host.operator().await?;
    assert_eq!(answer(operator.get("/host").send().await?).await?["memory_dumps"], "off");
    if !rustix::process::geteuid().is_root() {
        let of_it = std::fs::metadata(format!("/proc/{}/mem", host.pid()))?;
        assert_eq!(of_it.uid(), 0, "what is not dumpable belongs to root");
        assert!(std::fs::File::open(format!("/proc/{}/mem", host.pid())).is_err());
    }
    Ok(())
}

#[test]
fn the_doctor_says_who_gets_the_memory_and_that_a_root_key_in_a_file_is_for_development() -> Result<()> {
    let place = Place::new()?;
    let key = place.data().with_extension("key");
    std::fs::write(&key, "7".repeat(64))?;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600))?;
    let say = |mode: &[&str], check: &str| -> Result<(String, String)> {
        let mut command = Command::new(ringfence()?);
        command.args(["doctor", "--json", "--plugins", "127.0.0.1:0", "--control", "127.0.0.1:0"]).args(mode);
        command.arg("--data").arg(place.data()).env("RINGFENCE_KEYS_ROOT", format!("file:{}", key.display()));
        let checks: Vec<serde_json::Value> = serde_json::from_slice(&command.output()?.stdout)?;
        let found = checks.iter().find(|one| one["check"] == check).with_context(|| format!("no check `{check}`"))?;
        Ok((string(found, "verdict")?, string(found, "detail")?))
    };
    let (verdict, detail) = say(&[], "memory dumps")?;
    assert!(verdict == "ok" && detail.starts_with("off"), "{verdict}: {detail}");
    let (verdict, detail) = say(&["--dev"], "memory dumps")?;
    assert!(verdict == "warn" && detail.contains("debugger"), "{verdict}: {detail}");
    let modes: [&[&str]; 2] = [&[], &["--dev"]];
    for mode in modes {
        let (verdict, detail) = say(mode, "emptied slots")?;
        let known = if verdict == "ok" { "the pages that a guest wrote" } else { "all of their memory goes back" };
        assert!(detail.starts_with(known), "{verdict}: {detail}");
    }
    let (verdict, detail) = say(&[], "root key")?;
    assert!(verdict == "warn" && detail.contains("for development"), "{verdict}: {detail}");
    Ok(())
}
