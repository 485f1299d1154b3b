//! Every endpoint is accounted for: each has its row in the matrix of roles, and each that takes an id is asked with the
//! real id of another tenant's thing and with one that nothing has, which must be the same answer.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use reqwest::Method;
use ringfence_tests::{Host, Place, Session, Tenant, answer, eventually, problem, root, string};
use serde_json::{Value, json};

use crate::boundary::{NO_ROW, body_for, labels};
use crate::sign_ins::{Seen, seen};
use crate::started;

/// Endpoints whose id is the caller's own to choose or of the caller's own place, so that nobody else's can be meant: names
/// in a tenant, places in its log, capabilities. Those of a tenant's path are asked for another tenant in `boundary.rs`.
const OWN_NAMES: [&str; 13] = [
    "{tenant}",
    "{plugin}",
    "{version}",
    "{capability}",
    "{name}",
    "{device}",
    "{check}",
    "{subject}",
    "{day}",
    "{seq}",
    "{path}",
    "{item}",
    "{place}",
];
/// Endpoints with an id that are an operator's alone. The first two are asked below with what a tenant has; the third is about
/// the log of a tenant that an operator names, and says whose hold it is (`tests/functional/audit.rs`).
const OPERATORS: [&str; 3] = [
    "DELETE /api/v1/sessions/{id}",
    "DELETE /api/v1/tokens/{id}",
    "DELETE /api/v1/tenants/{tenant}/audit/holds/{hold}",
];
/// Ids that are looked up among what the caller himself has, under a name that he chose or that only a browser can make.
const CALLERS_OWN: [&str; 3] = [
    "DELETE /api/v1/zero-trust/devices/{id}",
    "POST /api/v1/zero-trust/devices/{id}/challenge",
    "DELETE /api/v1/zero-trust/passkeys/{id}",
];
/// Asked below with a real foreign id: the endpoint and which thing its id names.
const PROBED: [(&str, &str); 37] = [
    ("DELETE /api/v1/audit/holds/{hold}", "hold"),
    ("GET /api/v1/zero-trust/threat-assessments/{id}", "assessment"),
    ("GET /api/v1/audit/evidence-packages/{package}", "package"),
    ("GET /api/v1/decisions/{id}", "decision"),
    ("GET /api/v1/jobs/{job}", "job"),
    ("GET /api/v1/security/findings/{id}", "finding"),
    ("GET /api/v1/security/incidents/{id}", "incident"),
    ("DELETE /api/v1/security/responses/{id}", "response"),
    ("POST /api/v1/security/responses/{id}/approve", "waiting"),
    ("DELETE /api/v1/zero-trust/risk-adjustments/{id}", "adjustment"),
    ("POST /api/v1/zero-trust/risk-adjustments/{id}/approve", "adjustment"),
    ("DELETE /api/v1/zero-trust/sessions/{id}", "session"),
    ("DELETE /api/v1/tenants/{tenant}/sessions/{id}", "session"),
    ("DELETE /api/v1/tenants/{tenant}/tokens/{id}", "key"),
    ("DELETE /api/v1/tenants/{tenant}/approvals/{id}", "approval"),
    ("POST /api/v1/tenants/{tenant}/approvals/{id}/approve", "approval"),
    ("DELETE /api/v1/tenants/{tenant}/elevations/{id}", "elevation"),
    ("GET /api/v1/tenants/{tenant}/backups/{backup}", "backup"),
    ("DELETE /api/v1/tenants/{tenant}/backups/{backup}", "backup"),
    ("POST /api/v1/tenants/{tenant}/backups/{backup}/drill", "backup"),
    ("POST /api/v1/tenants/{tenant}/backups/{backup}/restore", "backup"),
    ("GET /api/v1/tenants/{tenant}/access/reviews/{review}", "review"),
    ("GET /api/v1/tenants/{tenant}/access/reviews/{review}/export", "review"),
    ("PUT /api/v1/tenants/{tenant}/access/reviews/{review}/items/{item}", "review"),
    ("POST /api/v1/tenants/{tenant}/access/reviews/{review}/close", "review"),
    ("GET /api/v1/audit/trails/{tenant}", "tenant"),
    ("GET /api/v1/tenants/{tenant}/plugins/{plugin}/invocations/{invocation}", "invocation"),
    ("GET /api/v1/tenants/{tenant}/runs/{run}", "run"),
    ("GET /api/v1/tenants/{tenant}/runs/{run}/queries/{name}", "run"),
    ("POST /api/v1/tenants/{tenant}/runs/{run}/approve", "run"),
    ("POST /api/v1/tenants/{tenant}/runs/{run}/cancel", "run"),
    ("POST /api/v1/tenants/{tenant}/runs/{run}/migrate", "run"),
    ("POST /api/v1/tenants/{tenant}/runs/{run}/pause", "run"),
    ("POST /api/v1/tenants/{tenant}/runs/{run}/resume", "run"),
    ("POST /api/v1/tenants/{tenant}/runs/{run}/retry", "run"),
    ("POST /api/v1/tenants/{tenant}/runs/{run}/signal", "run"),
    ("POST /api/v1/tenants/{tenant}/runs/{run}/terminate", "run"),
];

#[test]
fn every_endpoint_has_a_row_in_the_matrix_of_roles_and_every_row_an_endpoint() -> Result<()> {
    let matrix = std::fs::read_to_string(root().join("tests/golden/roles.txt"))?;
    let rows: BTreeSet<&str> =
        matrix.lines().skip(1).filter_map(|line| line.split("  ").next()).map(str::trim).collect();
    let row = |label: &str| -> String { label.split_whitespace().take(2).collect::<Vec<_>>().join(" ") };
    let rows: BTreeSet<String> = rows.into_iter().map(row).collect();
    let labels: BTreeSet<String> = labels()?.into_iter().collect();
    let without: BTreeSet<String> = NO_ROW.iter().map(|(label, _)| (*label).to_owned()).collect();
    let missing: Vec<_> = labels.iter().filter(|label| !rows.contains(*label) && !without.contains(*label)).collect();
    assert!(missing.is_empty(), "no row in tests/golden/roles.txt: {missing:?}");
    let gone: Vec<_> = rows.union(&without).filter(|row| !labels.contains(*row)).collect();
    assert!(gone.is_empty(), "a row without an endpoint: {gone:?}");
    assert!(rows.is_disjoint(&without));
    Ok(())
}

#[test]
fn every_endpoint_that_takes_an_id_is_asked_with_a_strangers() -> Result<()> {
    let known: BTreeSet<&str> = PROBED.iter().map(|(label, _)| *label).chain(OPERATORS).chain(CALLERS_OWN).collect();
    let labels = labels()?;
    for label in &labels {
        let mut path = label.clone();
        OWN_NAMES.iter().for_each(|own| path = path.replace(own, "x"));
        assert!(!path.contains('{') || known.contains(label.as_str()), "{label} takes an id that nothing probes");
    }
    for label in known {
        assert!(labels.iter().any(|known| known == label), "{label} is no endpoint");
    }
    Ok(())
}

/// What acme has, by the words of [`PROBED`].
async fn things(host: &Host, acme: &Tenant) -> Result<Vec<(&'static str, String)>> {
    let admin = &acme.admin;
    let post = async |who: &Session, path: &str, body: Value| answer(who.post(path).json(&body).send().await?).await;
    let developer = acme.member(host, "dev", "developer").await?;
    let mut denial = Value::Null;
    for _ in 0..4 {
        let denied =
            developer.post(&acme.path("/tokens")).json(&json!({ "name": "k", "role": "caller" })).send().await?;
        denial = problem(denied).await?.1;
    }
    let asked = json!({ "role": "tenant-admin", "minutes": 5, "reason": "a look" });
    let approval = post(&developer, &acme.path("/elevations"), asked.clone()).await?;
    let elevation = string(&post(&developer, &acme.path("/elevations"), asked).await?, "id")?;
    post(admin, &acme.path(&format!("/approvals/{elevation}/approve")), json!({})).await?;
    let due = json!({ "title": "all", "reviewers": ["acme/dev"], "due_at": far_off() });
    let review = post(admin, &acme.path("/access/reviews"), due).await?;
    let backup = post(admin, &acme.path("/backups"), json!({})).await?;
    let made = async || {
        Ok::<_, anyhow::Error>(answer(admin.get(&acme.path("/backups")).send().await?).await?["items"][0].clone())
    };
    eventually("a backup", async || Ok(!made().await?.is_null())).await?;
    let sessions = answer(admin.get("/zero-trust/sessions").send().await?).await?;
    let keys = answer(admin.get(&acme.path("/tokens")).send().await?).await?;
    let target = json!({ "kind": "suspend-principal", "target": { "principal": "acme/nobody" }, "reason": "r" });
    let response = post(admin, "/security/responses", target).await?;
    let stop = json!({ "kind": "disable-key", "target": {}, "reason": "r" });
    let waiting = post(admin, "/security/responses", stop).await?;
    let report = json!({ "transition": "report", "title": "a key was lost", "reason": "told" });
    let incident = post(admin, "/security/incident-response", report).await?;
    let package = post(admin, "/audit/evidence-package", json!({})).await?;
    let lower = json!({ "subject": "acme/dev", "delta": -5, "reason": "a look", "expires_at": far_off() });
    let adjustment = answer(admin.put("/zero-trust/risk-adjustment").json(&lower).send().await?).await?;
    let hold = post(admin, "/audit/holds", json!({ "reason": "a case" })).await?;
    let assessment = post(admin, "/zero-trust/threat-assessment", json!({})).await?;
    let found = async || {
        Ok::<_, anyhow::Error>(answer(admin.get("/security/findings").send().await?).await?["items"][0].clone())
    };
    eventually("a finding about denials", async || Ok(!found().await?.is_null())).await?;
    let finding = found().await?;
    let id = |value: &Value, key: &str| string(value, key).with_context(|| key.to_owned());
    let mut all = vec![
        ("tenant", "acme".to_owned()),
        ("decision", id(&denial, "decision_id")?),
        ("approval", id(&approval, "id")?),
        ("elevation", elevation),
        ("review", id(&review, "id")?),
        ("job", id(&backup, "id")?),
        ("backup", id(&made().await?, "id")?),
        ("session", id(&sessions["items"][0], "id")?),
        ("key", id(&keys["items"][0], "id")?),
        ("response", id(&response, "id")?),
        ("waiting", id(&waiting, "id")?),
        ("incident", id(&incident, "incident_id")?),
        ("package", id(&package, "id")?),
        ("adjustment", id(&adjustment, "id")?),
        ("finding", id(&finding, "id")?),
        ("hold", id(&hold, "id")?),
        ("assessment", id(&assessment, "id")?),
    ];
    all.extend(ran(acme).await?);
    Ok(all)
}

/// A run that waits and an invocation that is over.
async fn ran(acme: &Tenant) -> Result<[(&'static str, String); 2]> {
    let budget = "[budget]\ncpu_ms = 4000\ntime_ms = 30000\n";
    acme.ship("runs", "runs", budget, &[("http", &["http://127.0.0.1:9"])]).await?;
    let waiter = json!({ "plugin": "runs", "workflow": "waiter" });
    let run = answer(acme.admin.post(&acme.path("/runs")).json(&waiter).send().await?).await?;
    acme.ship("hello", "hello", "", &[]).await?;
    let called = acme.admin.call(Method::GET, "/acme/hello/").send().await?;
    let id = called.headers().get("x-ringfence-invocation").context("an invocation without an id")?;
    let id = id.to_str()?.to_owned();
    called.bytes().await?;
    let kept = acme.path(&format!("/plugins/hello/invocations/{id}"));
    eventually("the invocation is kept", async || Ok(acme.admin.get(&kept).send().await?.status().is_success()))
        .await?;
    Ok([("run", string(&run, "id")?), ("invocation", id)])
}

/// Some months from now.
#[expect(clippy::disallowed_methods, reason = "a caller has a clock of its own")]
fn far_off() -> String {
    let later = jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_hours(24 * 90));
    later.map(|at| at.to_string()).unwrap_or_default()
}

/// An id of the same form that nothing has: the letters of the real one in another order.
fn like(real: &str) -> String {
    let (prefix, rest) = real.split_once('_').map_or(("", real), |(prefix, rest)| (prefix, rest));
    let turned: String = rest.chars().rev().collect();
    if prefix.is_empty() { turned } else { format!("{prefix}_{turned}") }
}

/// The request of a label, about a thing.
fn request_of(label: &str, thing: &str) -> Result<(Method, String)> {
    let (method, path) = label.split_once(' ').context("a label has a method")?;
    let mut path = path.trim_start_matches("/api/v1").to_owned();
    if path.starts_with("/tenants/") {
        // One's own tenant, and in it the id of somebody else's thing.
        path = path.replacen("{tenant}", "globex", 1);
    }
    path = path.replace("{item}", "0").replace("{plugin}", "hello").replace("{name}", "n");
    while let (Some(from), Some(to)) = (path.find('{'), path.find('}')) {
        path.replace_range(from..=to, thing);
    }
    Ok((Method::from_bytes(method.as_bytes())?, path))
}

async fn ask(who: &Session, label: &str, thing: &str) -> Result<Seen> {
    let (method, path) = request_of(label, thing)?;
    let mut request = who.request(method.clone(), &path);
    if matches!(method, Method::POST | Method::PUT) {
        request = request.json(&body_for(&path));
    }
    seen(request.send().await?).await
}

#[tokio::test]
async fn the_id_of_a_strangers_thing_is_the_id_of_nothing() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let globex = host.tenant(&operator, "globex").await?;
    globex.ship("hello", "hello", "", &[]).await?;
    let things = things(&host, &acme).await?;
    let hosts = [(OPERATORS[0], "session"), (OPERATORS[1], "key")].map(|probe| (&operator, probe));
    for (who, (label, kind)) in PROBED.map(|probe| (&globex.admin, probe)).into_iter().chain(hosts) {
        let (_, real) = things.iter().find(|(known, _)| *known == kind).context(kind)?;
        let (foreign, nothing) = (ask(who, label, real).await?, ask(who, label, &like(real)).await?);
        assert_eq!(foreign, nothing, "{label}");
        assert_eq!(foreign.0, 404, "{label}: {}", foreign.2);
    }
    // And they are still there for whose they are.
    let session = acme.admin.get("/whoami").send().await?;
    assert!(session.status().is_success());
    Ok(())
}

/// How often a figure of one is larger than a figure of the other; a half when they are alike (Mann and Whitney 1947).
fn superiority(one: &[u128], other: &[u128]) -> f64 {
    let larger = one.iter().flat_map(|a| other.iter().map(move |b| f64::from(u8::from(a > b))));
    larger.sum::<f64>() / (one.len() * other.len()) as f64
}

/// The two are asked in turn, so that what else the machine does is shared between them; what is compared is how often one
/// takes longer than the other, and not how long: 80 of each that are alike leave less than one in a hundred thousand outside
/// of these bounds, and one write to the disk more is felt in four of five pairs at least. The data plane keeps no such secret: who shows nothing is
/// asked for a token where there is a plugin, and told of none where there is none.
#[tokio::test]
async fn how_long_a_refusal_takes_does_not_tell_a_tenant_that_is_there_from_none() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let globex = host.tenant(&operator, "globex").await?;
    let sessions = answer(acme.admin.get("/zero-trust/sessions").send().await?).await?;
    let session = string(&sessions["items"][0], "id")?;
    let own = "/zero-trust/sessions/";
    let asked = [
        (Method::GET, "/tenants/acme/plugins".to_owned(), "/tenants/acne/plugins".to_owned()),
        (Method::GET, "/tenants/acme/policy/versions/1".to_owned(), "/tenants/acne/policy/versions/1".to_owned()),
        (Method::DELETE, "/tenants/acme/sessions/nothing".to_owned(), "/tenants/acne/sessions/nothing".to_owned()),
        (Method::GET, "/audit/trails/acme".to_owned(), "/audit/trails/acne".to_owned()),
        (Method::DELETE, format!("{own}{session}"), format!("{own}{}", like(&session))),
        (
            Method::DELETE,
            format!("/tenants/globex/sessions/{session}"),
            format!("/tenants/globex/sessions/{}", like(&session)),
        ),
    ];
    for (method, there, nowhere) in asked {
        let ask = async |path: &str| {
            Ok::<u16, anyhow::Error>(globex.admin.request(method.clone(), path).send().await?.status().as_u16())
        };
        let share = told_apart(&there, &nowhere, 90, ask).await?;
        assert!((0.25..0.75).contains(&share), "{method} {there}: slower than nothing in {share} of all pairs");
    }
    Ok(())
}

/// The same for every thing that is looked up or taken away by its id. Sixty of each: where they are alike, one of all these
/// is outside of the bounds in less than one of ten thousand times.
#[tokio::test]
async fn how_long_a_refusal_takes_does_not_tell_a_strangers_thing_from_none() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let globex = host.tenant(&operator, "globex").await?;
    globex.ship("hello", "hello", "", &[]).await?;
    let things = things(&host, &acme).await?;
    // A job's record has to be opened before it is known whose it is, which takes some microseconds; nobody guesses a job's id.
    let is_opened_first = |label: &str| label == "GET /api/v1/jobs/{job}";
    let harmless = |label: &str| (label.starts_with("GET ") || label.starts_with("DELETE ")) && !is_opened_first(label);
    for (label, kind) in PROBED.into_iter().filter(|(label, _)| harmless(label)) {
        let (_, real) = things.iter().find(|(known, _)| *known == kind).context(kind)?;
        // Anew for each: a session lives five minutes, and a busy machine may take longer for all.
        let who = host.sign_in(&globex.admin.key).await?;
        let ((method, there), (_, nowhere)) = (request_of(label, real)?, request_of(label, &like(real))?);
        let ask = async |path: &str| {
            Ok::<u16, anyhow::Error>(who.request(method.clone(), path).send().await?.status().as_u16())
        };
        let share = told_apart(&there, &nowhere, 70, ask).await?;
        assert!((0.25..0.75).contains(&share), "{label}: slower than nothing in {share} of all pairs");
    }
    Ok(())
}

/// How often the one takes longer than the other, of so many rounds; both are refused as nothing.
async fn told_apart(there: &str, nowhere: &str, rounds: u32, ask: impl AsyncFn(&str) -> Result<u16>) -> Result<f64> {
    let (mut real, mut absent) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let mut paths = [(there, &mut real), (nowhere, &mut absent)];
        if round % 2 == 1 {
            paths.reverse();
        }
        for (path, times) in paths {
            let start = std::time::Instant::now();
            assert_eq!(ask(path).await?, 404, "{path}");
            // The first ones open connections and fill caches.
            if round >= 10 {
                times.push(start.elapsed().as_micros());
            }
        }
    }
    Ok(superiority(&real, &absent))
}

#[tokio::test]
async fn a_log_that_takes_nothing_does_not_tell_a_stranger_that_there_is_a_tenant() -> Result<()> {
    let elsewhere = tempfile::tempdir()?;
    let place = Place::new()?;
    let config = place.config(&format!("[audit]\nentries = {:?}\n", elsewhere.path()))?;
    let host = Host::start_with(&place, &["--config", config.to_str().context("path")?], &[])?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let globex = host.tenant(&operator, "globex").await?;
    let folders = std::fs::read_dir(elsewhere.path())?.collect::<Result<Vec<_>, _>>()?;
    let own = folders.iter().find(|folder| folder.file_name().to_string_lossy().starts_with("acme."));
    let own = own.context("a folder of acme's log")?.path();
    std::fs::rename(&own, elsewhere.path().join("aside"))?;
    std::fs::write(&own, "no folder")?;
    let refused = acme.admin.put(&acme.path("/secrets/s")).body("x").send().await?;
    assert_eq!(refused.status().as_u16(), 503, "its own log takes nothing");
    let [there, nowhere] = ["acme", "acne"].map(|tenant| format!("/tenants/{tenant}/plugins"));
    let (there, nowhere) = (globex.admin.get(&there).send().await?, globex.admin.get(&nowhere).send().await?);
    assert_eq!((there.status().as_u16(), nowhere.status().as_u16()), (404, 404));
    Ok(())
}
