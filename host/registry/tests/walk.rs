//! Walk 2 from the outside, over a real store and a real compile child: publish, refuse, deploy, roll back, grant, revoke.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test is a panic with a place"
)]

mod support;

use std::time::Duration;

use bytes::Bytes;
use ringfence_core::{Budget, Capability, Grant};
use ringfence_registry::{Change, Registry, RegistryError, RouteState};
use ringfence_store::TenantStore;
use support::{World, body, component, component_with, label, manifest, name, permit, push};

const KEYVALUE: &str = "wasi:keyvalue/store@0.2.0-draft2";

async fn deploy(
    registry: &Registry,
    store: &TenantStore,
    version: &str,
    percent: Option<u8>,
) -> Result<RouteState, RegistryError> {
    registry.deploy(permit(store, Some("visits")), store, &name("visits"), &label(version), percent).await
}

async fn rollback(registry: &Registry, store: &TenantStore) -> Result<RouteState, RegistryError> {
    registry.rollback(permit(store, Some("visits")), store, &name("visits")).await
}

async fn grant(
    registry: &Registry,
    store: &TenantStore,
    capability: Capability,
    scope: &[&str],
) -> Result<(), RegistryError> {
    let grant = Grant { capability, scope: scope.iter().map(ToString::to_string).collect() };
    registry.grant(permit(store, Some("visits")), store, &name("visits"), grant).await.map(drop)
}

fn code<T>(result: Result<T, RegistryError>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(error) => error.code(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_is_published_deployed_found_and_loaded() {
    let world = World::new().await;
    let (acme, registry) = (world.tenant("acme").await, world.open().await);
    let bytes = component("one", &[]);
    let published = push(&registry, &acme, "visits", "0.1.0", "[budget]\ncpu_ms = 7\n", bytes.clone()).await.unwrap();
    assert!(published.created && published.previous.is_none() && published.needs.0.is_empty());
    assert!(published.compile_ms > 0);
    assert_eq!(published.bytes, bytes.len() as u64);
    assert!(registry.find(None, "/acme/visits").is_none(), "publishing is not going live");

    deploy(&registry, &acme, "0.1.0", None).await.unwrap();
    let route = registry.find(None, "/acme/visits/a?b").unwrap();
    assert_eq!((route.tenant.as_str(), route.plugin.as_str(), route.rest.as_str()), ("acme", "visits", "/a?b"));
    let version = route.choose(99_u8);
    assert_eq!((version.digest, version.budget.cpu_us), (published.digest, 7_000));
    registry.compiled(&version).await.unwrap();

    let detail = registry.plugin(permit(&acme, Some("visits")), &acme, &name("visits")).await.unwrap();
    assert_eq!((detail.versions.len(), detail.route.unwrap().stable), (1, label("0.1.0")));
    assert_eq!(detail.versions[0].pushed_by.as_str(), "acme/ci");
    let plugins = registry.plugins(permit(&acme, None), &acme).await.unwrap();
    assert_eq!((plugins.len(), plugins[0].versions_count, plugins[0].live.clone()), (1, 1, Some(label("0.1.0"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_bytes_again_change_nothing_and_other_bytes_conflict() {
    let world = World::new().await;
    let (acme, registry) = (world.tenant("acme").await, world.open().await);
    let first = push(&registry, &acme, "visits", "0.1.0", "", component("one", &[])).await.unwrap();
    let again = push(&registry, &acme, "visits", "0.1.0", "", component("one", &[])).await.unwrap();
    assert_eq!((first.created, again.created, first.digest == again.digest), (true, false, true));
    let other = push(&registry, &acme, "visits", "0.1.0", "", component("two", &[])).await.unwrap_err();
    assert_eq!(other.code(), "version-exists");
    assert_eq!(
        other.to_string(),
        format!("`visits@0.1.0` is already published with other bytes ({}); publish under a new version", first.digest)
    );
    assert_eq!(world.files(), 1);
    let next = push(&registry, &acme, "visits", "0.2.0", "", component("two", &[])).await.unwrap();
    assert_eq!((next.previous, next.created), (Some(label("0.1.0")), true));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_uploads_of_one_label_at_once_end_as_one_version() {
    let world = World::new().await;
    let (acme, registry) = (world.tenant("acme").await, world.open().await);
    let (one, two) = tokio::join!(
        push(&registry, &acme, "visits", "0.1.0", "", component("one", &[])),
        push(&registry, &acme, "visits", "0.1.0", "", component("two", &[])),
    );
    let outcomes = [code(one), code(two)];
    assert!(outcomes.contains(&"ok") && outcomes.contains(&"version-exists"), "{outcomes:?}");
    assert_eq!(world.files(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_refused_leaves_nothing_behind() {
    let world = World::new().await;
    let (acme, registry) = (world.tenant("acme").await, world.open().await);
    let refused = async |bytes: Vec<u8>| code(push(&registry, &acme, "visits", "0.1.0", "", bytes).await);
    assert_eq!(refused(b"hello".to_vec()).await, "not-a-component");
    assert_eq!(refused(Vec::new()).await, "not-a-component");
    assert_eq!(refused(wat::parse_str("(module)").unwrap()).await, "core-module");
    assert_eq!(refused(component("x", &["acme:billing/ledger@1.0.0"])).await, "unknown-import");
    // This engine links nothing but WASI, so an interface of the list that is used is unknown to it all the same. (One that
    // is only named asks for nothing: an instance without members is there everywhere.)
    let used =
        "wasi:config/store@0.2.0-rc.1\" (instance (export \"get\" (func)))) (import \"wasi:logging/logging@0.1.0-draft";
    assert_eq!(refused(component("x", &[used])).await, "unknown-import");
    assert_eq!(
        refused(wat::parse_str(format!("{}{}", "(component ".repeat(40), ")".repeat(40))).unwrap()).await,
        "too-complex"
    );
    assert_eq!(refused(component_with("x", &[], "(func $f unreachable) (start $f)")).await, "rehearsal-failed");
    assert_eq!(refused(component_with("x", &[], "(func $f (loop (br 0))) (start $f)")).await, "rehearsal-failed");
    // Nor is code that does not start kept for later.
    assert_eq!(std::fs::read_dir(world.directory.path().join("cache")).unwrap().count(), 0);
    // Sound on the outside, nonsense inside: only the compile child sees it.
    let mut broken = component_with("x", &[], "(func (export \"f\") (result i32) i32.const 77)");
    let at = broken.windows(2).position(|pair| pair == [0x41, 0xcd]).unwrap();
    broken[at] = 0x42;
    assert_eq!(refused(broken).await, "not-a-component");

    let whole = component("x", &[]);
    let cut: Vec<Result<Bytes, &str>> = vec![Ok(Bytes::copy_from_slice(&whole[..50])), Err("reset")];
    let upload =
        |more: &str, version: &str| (permit(&acme, Some("visits")), manifest("visits", version, more), label("0.1.0"));
    let (allowed, said, version) = upload("", "0.1.0");
    let truncated = registry.push(allowed, &acme, &name("visits"), &version, said, futures::stream::iter(cut)).await;
    assert_eq!(truncated.unwrap_err().to_string(), "the upload ended early: the connection broke");
    let (allowed, said, version) = upload("", "0.2.0");
    let misnamed = registry.push(allowed, &acme, &name("visits"), &version, said, body(whole)).await.unwrap_err();
    assert_eq!(misnamed.to_string(), "plugin.toml says version `0.2.0`, but the upload is for `0.1.0`");

    assert_eq!(world.files(), 0);
    assert!(registry.plugins(permit(&acme, None), &acme).await.unwrap().is_empty());
    let page = acme.scan(&ringfence_store::Key::new(["quarantine"]), None, 10).await.unwrap();
    assert!(page.records.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_over_the_limit_is_stopped_while_it_arrives() {
    let world = World::new().await;
    let (acme, registry) = (world.tenant("acme").await, world.open().await);
    let piece = Bytes::from(vec![0_u8; 1 << 20]);
    // Endless: whoever waited for its end would never answer.
    let endless = futures::stream::repeat_with(move || Ok::<_, std::io::Error>(piece.clone()));
    let (visits, version, said) = (name("visits"), label("0.1.0"), manifest("visits", "0.1.0", ""));
    let pushed = registry.push(permit(&acme, Some("visits")), &acme, &visits, &version, said, endless).await;
    assert_eq!(code(pushed), "too-large");
    assert_eq!(world.files(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_cannot_take_all_places_for_uploads() {
    let world = World::new().await;
    let (acme, evil, registry) = (world.tenant("acme").await, world.tenant("evil").await, world.open().await);
    let (target, tenant) = (&registry, &evil);
    let stuck = (0..4).map(|_| {
        let never = futures::stream::pending::<Result<Bytes, std::io::Error>>();
        let (allowed, said) = (permit(tenant, Some("visits")), manifest("visits", "0.1.0", ""));
        Box::pin(async move { target.push(allowed, tenant, &name("visits"), &label("0.1.0"), said, never).await })
    });
    let stuck = futures::future::join_all(stuck);
    let others = async {
        // The four are polled first and hold their places from then on.
        tokio::task::yield_now().await;
        assert_eq!(code(push(&registry, &evil, "visits", "0.2.0", "", component("x", &[])).await), "overloaded");
        assert_eq!(code(push(&registry, &acme, "visits", "0.2.0", "", component("x", &[])).await), "ok");
    };
    tokio::select! {
        biased;
        _ = stuck => panic!("they never end"),
        () = others => {}
    }
    assert_eq!(
        code(push(&registry, &evil, "visits", "0.2.0", "", component("x", &[])).await),
        "ok",
        "places are given back"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_cut_off_is_swept_away() {
    let world = World::new().await;
    let (acme, registry) = (world.tenant("acme").await, world.open().await);
    // Arrives whole, and is dropped by its requester while being compiled.
    let pushed = push(&registry, &acme, "visits", "0.1.0", "", component("one", &[]));
    let cut = tokio::time::timeout(Duration::from_millis(1), pushed).await;
    let swept = async {
        while world.files() > 0 {
            tokio::task::yield_now().await;
        }
    };
    if cut.is_err() {
        tokio::time::timeout(Duration::from_secs(10), swept).await.expect("the file is removed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_in_quarantine_is_removed_at_the_next_start() {
    let world = World::new().await;
    let acme = world.tenant("acme").await;
    let mut writer = acme.blobs().create().await.unwrap();
    writer.write(Bytes::from_static(b"half an upload")).await.unwrap();
    let blob = writer.finish().await.unwrap();
    acme.put(&ringfence_store::Key::new(["quarantine", &blob.to_string()]), Vec::new()).await.unwrap();
    assert_eq!(world.files(), 1);
    world.open().await;
    assert_eq!(world.files(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_goes_live_only_when_its_needs_are_granted() {
    let world = World::new().await;
    let (acme, registry) = (world.tenant("acme").await, world.open().await);
    let needs = "[needs]\nkeyvalue = [\"default\"]\n";
    push(&registry, &acme, "visits", "0.1.0", "", component("one", &[])).await.unwrap();
    deploy(&registry, &acme, "0.1.0", None).await.unwrap();
    let published = push(&registry, &acme, "visits", "0.2.0", needs, component("two", &[KEYVALUE])).await.unwrap();
    assert_eq!((published.missing.len(), published.added.len()), (1, 1));
    let refused = deploy(&registry, &acme, "0.2.0", None).await.unwrap_err();
    assert_eq!(refused.to_string(), "`visits@0.2.0` needs `keyvalue`, which tenant `acme` has not granted");
    let RegistryError::NeedNotGranted { missing, added, .. } = refused else { panic!("{refused}") };
    assert_eq!((missing.len(), added.len(), missing[0].capability), (1, 1, Capability::Keyvalue));
    assert_eq!(registry.find(None, "/acme/visits").unwrap().stable().label, label("0.1.0"), "the route stayed");

    assert_eq!(code(grant(&registry, &acme, Capability::Keyvalue, &["other"]).await), "ok");
    assert_eq!(
        code(deploy(&registry, &acme, "0.2.0", None).await),
        "need-not-granted",
        "another bucket is another bucket"
    );
    assert_eq!(code(grant(&registry, &acme, Capability::Keyvalue, &[]).await), "ok");
    assert_eq!(code(deploy(&registry, &acme, "0.2.0", None).await), "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_is_seen_through_a_route_that_was_found_before() {
    let world = World::new().await;
    let (acme, registry) = (world.tenant("acme").await, world.open().await);
    push(&registry, &acme, "visits", "0.1.0", "", component("one", &[KEYVALUE])).await.unwrap();
    grant(&registry, &acme, Capability::Keyvalue, &[]).await.unwrap();
    deploy(&registry, &acme, "0.1.0", None).await.unwrap();
    let route = registry.find(None, "/acme/visits").unwrap();
    assert!(route.grants.load().covers(Capability::Keyvalue, "default"));
    let left =
        registry.revoke(permit(&acme, Some("visits")), &acme, &name("visits"), Capability::Keyvalue).await.unwrap();
    assert!(left.get(Capability::Keyvalue).is_none());
    assert!(!route.grants.load().covers(Capability::Keyvalue, "default"));
    // And a roll back or deploy cannot bring it back.
    assert_eq!(code(deploy(&registry, &acme, "0.1.0", None).await), "need-not-granted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_takes_its_share_and_rolling_back_ends_it() {
    let world = World::new().await;
    let (acme, registry) = (world.tenant("acme").await, world.open().await);
    for (version, mark) in [("0.1.0", "one"), ("0.2.0", "two"), ("0.3.0", "three")] {
        push(&registry, &acme, "visits", version, "", component(mark, &[])).await.unwrap();
    }
    assert_eq!(code(deploy(&registry, &acme, "0.1.0", Some(10)).await), "bad-percent", "nothing answers the rest");
    deploy(&registry, &acme, "0.1.0", Some(100)).await.unwrap();
    assert_eq!(code(deploy(&registry, &acme, "0.1.0", Some(10)).await), "bad-percent", "it is the rest");
    for percent in [0, 101, 255] {
        assert_eq!(code(deploy(&registry, &acme, "0.2.0", Some(percent)).await), "bad-percent");
    }
    deploy(&registry, &acme, "0.2.0", Some(17)).await.unwrap();
    let route = registry.find(None, "/acme/visits").unwrap();
    let share = (0..100_u8).filter(|draw| route.choose(*draw).label == label("0.2.0")).count();
    assert_eq!(share, 17);
    let share = (0..100_000_u64)
        .filter(|n| route.choose(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).label == label("0.2.0"))
        .count();
    assert!((16_000..18_000).contains(&share), "{share}");

    let state = rollback(&registry, &acme).await.unwrap();
    assert_eq!((state.stable, state.canary), (label("0.1.0"), None));
    deploy(&registry, &acme, "0.2.0", None).await.unwrap();
    deploy(&registry, &acme, "0.3.0", None).await.unwrap();
    assert_eq!(rollback(&registry, &acme).await.unwrap().stable, label("0.2.0"));
    assert_eq!(rollback(&registry, &acme).await.unwrap().stable, label("0.1.0"));
    let nothing = rollback(&registry, &acme).await.unwrap_err();
    assert_eq!(nothing.to_string(), "`visits` has no earlier version to roll back to");
    assert_eq!(registry.find(None, "/acme/visits").unwrap().stable().label, label("0.1.0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_everything_is_as_it_was() {
    let world = World::new().await;
    let acme = world.tenant("acme").await;
    let digest = {
        let registry = world.open().await;
        push(&registry, &acme, "visits", "0.1.0", "", component("one", &[KEYVALUE])).await.unwrap();
        let published = push(&registry, &acme, "visits", "0.2.0", "", component("two", &[KEYVALUE])).await.unwrap();
        grant(&registry, &acme, Capability::Keyvalue, &["default", "sessions"]).await.unwrap();
        deploy(&registry, &acme, "0.1.0", None).await.unwrap();
        deploy(&registry, &acme, "0.2.0", Some(30)).await.unwrap();
        published.digest
    };
    let registry = world.open().await;
    let route = registry.find(None, "/acme/visits").unwrap();
    assert_eq!((route.stable().label.clone(), route.choose(0_u8).digest), (label("0.1.0"), digest));
    assert!(route.grants.load().covers(Capability::Keyvalue, "sessions"));
    for _ in 0..3 {
        registry.compiled(&route.choose(0_u8)).await.unwrap();
    }
    let loaded = registry.loaded();
    assert_eq!((loaded.count, loaded.hits, loaded.misses, loaded.evicted), (1, 2, 1, 0));
    assert_eq!(registry.plugins(permit(&acme, None), &acme).await.unwrap()[0].versions_count, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn code_that_is_not_in_the_cache_any_more_is_compiled_again_once() {
    let world = World::new().await;
    let acme = world.tenant("acme").await;
    {
        let registry = world.open().await;
        push(&registry, &acme, "visits", "0.1.0", "", component("one", &[])).await.unwrap();
        deploy(&registry, &acme, "0.1.0", None).await.unwrap();
    }
    let cache = world.directory.path().join("cache");
    let entries = || std::fs::read_dir(&cache).unwrap().flatten().map(|entry| entry.path()).collect::<Vec<_>>();
    assert_eq!(entries().len(), 1);
    let native = std::fs::read(&entries()[0]).unwrap();
    assert!(!native.windows(4).any(|word| word == b"\x7fELF"), "the cache is sealed");
    std::fs::remove_file(&entries()[0]).unwrap();
    let registry = world.open().await;
    let version = registry.find(None, "/acme/visits").unwrap().choose(0_u8);
    let (one, two) = tokio::join!(registry.compiled(&version), registry.compiled(&version));
    assert!(one.is_ok() && two.is_ok());
    assert_eq!(entries().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_component_is_not_compiled() {
    let world = World::new().await;
    let acme = world.tenant("acme").await;
    {
        let registry = world.open().await;
        push(&registry, &acme, "visits", "0.1.0", "", component("one", &[])).await.unwrap();
        deploy(&registry, &acme, "0.1.0", None).await.unwrap();
    }
    for directory in ["cache", "store/blobs"] {
        damage(&world.directory.path().join(directory));
    }
    let registry = world.open().await;
    let version = registry.find(None, "/acme/visits").unwrap().choose(0_u8);
    assert!(registry.compiled(&version).await.is_err());
}

fn damage(directory: &std::path::Path) {
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        if entry.path().is_dir() {
            damage(&entry.path());
        } else {
            let mut bytes = std::fs::read(entry.path()).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(entry.path(), bytes).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_with_the_same_names_do_not_meet() {
    let world = World::new().await;
    let (acme, evil, registry) = (world.tenant("acme").await, world.tenant("evil").await, world.open().await);
    push(&registry, &acme, "visits", "0.1.0", "", component("one", &[KEYVALUE])).await.unwrap();
    grant(&registry, &acme, Capability::Keyvalue, &[]).await.unwrap();
    deploy(&registry, &acme, "0.1.0", None).await.unwrap();
    assert_eq!(code(deploy(&registry, &evil, "0.1.0", None).await), "plugin-not-found");
    push(&registry, &evil, "visits", "0.1.0", "", component("one", &[KEYVALUE])).await.unwrap();
    assert_eq!(
        code(deploy(&registry, &evil, "0.1.0", None).await),
        "need-not-granted",
        "a grant of another tenant is none"
    );
    assert!(registry.find(None, "/evil/visits").is_none());

    // A permit for one tenant is of no use with another's store.
    let foreign = registry.deploy(permit(&acme, Some("visits")), &evil, &name("visits"), &label("0.1.0"), None).await;
    assert!(matches!(foreign, Err(RegistryError::Host(_))));
    let misnamed = registry.deploy(permit(&acme, Some("hello")), &acme, &name("visits"), &label("0.1.0"), None).await;
    assert!(matches!(misnamed, Err(RegistryError::Host(_))));

    let id = "acme".parse().unwrap();
    world.tenants.delete(&id).await.unwrap();
    registry.forget(&id).await;
    assert!(registry.find(None, "/acme/visits").is_none());
    assert_eq!(code(push(&registry, &acme, "visits", "0.2.0", "", component("two", &[])).await), "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_plugins_and_versions_are_not_found() {
    let world = World::new().await;
    let (acme, registry) = (world.tenant("acme").await, world.open().await);
    assert_eq!(code(rollback(&registry, &acme).await), "plugin-not-found");
    assert_eq!(code(grant(&registry, &acme, Capability::Logging, &[]).await), "plugin-not-found");
    assert_eq!(code(registry.plugin(permit(&acme, Some("visits")), &acme, &name("visits")).await), "plugin-not-found");
    push(&registry, &acme, "visits", "0.1.0", "", component("one", &[])).await.unwrap();
    assert_eq!(code(deploy(&registry, &acme, "9.9.9", None).await), "version-not-found");
    assert_eq!(code(rollback(&registry, &acme).await), "nothing-to-roll-back");
    assert_eq!(code(grant(&registry, &acme, Capability::Http, &["*"]).await), "bad-scope");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_versions_are_shown_side_by_side() {
    let world = World::new().await;
    let (acme, registry) = (world.tenant("acme").await, world.open().await);
    let logging = "wasi:logging/logging@0.1.0-draft";
    push(&registry, &acme, "visits", "0.1.0", "[needs]\nkeyvalue = [\"a\"]\n", component("one", &[KEYVALUE, logging]))
        .await
        .unwrap();
    let later = "[needs]\nkeyvalue = [\"a\", \"b\"]\n[budget]\ncpu_ms = 9\n";
    push(&registry, &acme, "visits", "0.2.0", later, component("two", &[KEYVALUE])).await.unwrap();
    grant(&registry, &acme, Capability::Keyvalue, &["a"]).await.unwrap();
    let diff = registry
        .diff(permit(&acme, Some("visits")), &acme, &name("visits"), &label("0.1.0"), &label("0.2.0"))
        .await
        .unwrap();
    let rows: Vec<_> =
        diff.needs.iter().map(|row| (row.need.capability, row.need.scope.join(","), row.change, row.granted)).collect();
    assert_eq!(
        rows,
        [
            (Capability::Keyvalue, "a".to_owned(), Change::Same, true),
            (Capability::Keyvalue, "b".to_owned(), Change::Added, false),
            (Capability::Logging, String::new(), Change::Removed, false),
        ]
    );
    assert_eq!((diff.budget.0.cpu_us, diff.budget.1.cpu_us), (Budget::DEFAULT.cpu_us, 9_000));
    assert!(diff.imports.contains(&(logging.to_owned(), Change::Removed)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_name_below_the_domain_finds_the_route() {
    let world = World::new().await;
    let (acme, registry) = (world.tenant("acme").await, world.open_with_domain(Some("ringfence.example")).await);
    push(&registry, &acme, "visits", "0.1.0", "", component("one", &[])).await.unwrap();
    deploy(&registry, &acme, "0.1.0", None).await.unwrap();
    let route = registry.find(Some("visits.acme.ringfence.example:7001"), "/a/b?c").unwrap();
    assert_eq!((route.plugin.as_str(), route.rest.as_str()), ("visits", "/a/b?c"));
    assert!(registry.find(Some("hello.acme.ringfence.example"), "/acme/visits").is_none());
    assert!(registry.find(Some("localhost"), "/acme/visits").is_some());
}
