//! Tests of the file provider and of wrapping, rotation and destruction on top of it.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::*;
use crate::context::Context;
use crate::tenant::tests::Fixed;

const HERE: Context<'_> = Context { tenant: "acme", store: "kv", key: b"k", revision: 1 };

/// A tenant key wrapped by the root key of ones before there were versions. Made by another implementation (the Python package
/// `cryptography`).
const OLD_WRAPPED: &str = r#"{"root":"1760524f8ad03881","sealed":"UgEJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCSl8LfUoz8Ede99h9lD+MTG++1+gqA0JzZMKbTxc6iFUGzJKrL8RN8v/tfzr8vh9TA=="}"#;

fn open(path: &Path) -> Result<RootKey, KeysError> {
    let provider = Box::new(file::FileProvider::open(path, MissingRootKey::Refuse, &Fixed(1))?);
    Ok(RootKey { provider, scheme: "file", own: None })
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> PathBuf {
    std::fs::write(path, bytes).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    path.to_owned()
}

fn root_in(directory: &Path, seed: u8) -> RootKey {
    open(&write(&directory.join(format!("root-{seed}.key")), &[seed; 32], 0o600)).unwrap()
}

/// As the operating system gives them: two draws are never the same.
struct Dice(std::sync::atomic::AtomicU64);
impl Entropy for Dice {
    fn fill(&self, into: &mut [u8]) {
        for chunk in into.chunks_mut(8) {
            let next = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, std::sync::atomic::Ordering::Relaxed);
            chunk.copy_from_slice(&next.to_le_bytes()[..chunk.len()]);
        }
    }
}

fn dice() -> Dice {
    Dice(std::sync::atomic::AtomicU64::new(11))
}

#[test]
fn a_missing_key_is_made_once_with_mode_0600_and_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("etc/root.key");
    let uri = RootKeyUri::File(path.clone());
    assert!(matches!(open(&path), Err(KeysError::Missing { .. })));
    let first = RootKey::open_or_create(&uri, &Fixed(1)).unwrap();
    assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o600);
    let second = RootKey::open_or_create(&uri, &Fixed(2)).unwrap();
    assert_eq!(first.id(), second.id());
    assert!(first.was_made() && !second.was_made());
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    assert_eq!(first.assurance(), Assurance::Development);
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("root.key");
    for mode in [0o644, 0o640, 0o604, 0o660, 0o610] {
        let error = open(&write(&path, &[7; 32], mode)).unwrap_err();
        assert!(matches!(error, KeysError::TooOpen { .. }), "{mode:o}");
        assert!(error.to_string().contains("chmod 600"));
        assert!(RootKey::open_or_create(&RootKeyUri::File(path.clone()), &Fixed(1)).is_err());
    }
    assert!(open(&write(&path, &[7; 32], 0o400)).is_ok());
}

#[test]
fn raw_and_hex_are_the_same_key_and_anything_else_is_malformed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("root.key");
    let hex = "07".repeat(32);
    let raw = open(&write(&path, &[7; 32], 0o600)).unwrap();
    for same in [hex.clone(), format!("{hex}\n"), format!("{hex}\r\n"), hex.to_uppercase()] {
        assert_eq!(open(&write(&path, same.as_bytes(), 0o600)).unwrap().id(), raw.id());
    }
    for wrong in [&b""[..], b"\n", &[7; 31], &[7; 33], &[b'g'; 64], &[b'0'; 63], &[b'0'; 66], &[b'0'; 5000]] {
        assert!(matches!(open(&write(&path, wrong, 0o600)), Err(KeysError::Malformed { .. })), "{wrong:?}");
    }
    assert!(matches!(open(directory.path()), Err(KeysError::NotOurs { .. })));
}

#[test]
fn a_wrapped_key_opens_for_its_tenant_and_its_root_key_only() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (root_in(directory.path(), 1), root_in(directory.path(), 2));
    let (keys, wrapped) = one.new_tenant_key("acme", &dice()).unwrap();
    let sealed = keys.seal(Purpose::Record, &HERE, b"v", &Fixed(2)).unwrap();
    let stored = serde_json::to_string(&wrapped).unwrap();
    let again: WrappedKey = serde_json::from_str(&stored).unwrap();
    let unwrapped = one.unwrap_tenant_key("acme", &again).unwrap();
    assert_eq!(unwrapped.open(Purpose::Record, &HERE, &sealed).unwrap().as_slice(), b"v");
    assert!(matches!(one.unwrap_tenant_key("evil", &again), Err(KeysError::NotAuthentic)));
    assert!(matches!(two.unwrap_tenant_key("acme", &again), Err(KeysError::OtherRootKey { .. })));
    let mut lied = again.clone();
    lied.versions[0].root = two.id();
    assert!(matches!(two.unwrap_tenant_key("acme", &lied), Err(KeysError::NotAuthentic)));
    let (_, other) = one.new_tenant_key("acme", &Fixed(3)).unwrap();
    let crossed = WrappedKey { shard: other.shard, ..again };
    assert!(matches!(one.unwrap_tenant_key("acme", &crossed), Err(KeysError::NotAuthentic)));
}

#[test]
fn every_altered_bit_of_a_wrapped_key_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let root = root_in(directory.path(), 1);
    let (_, first) = root.new_tenant_key("acme", &dice()).unwrap();
    let wrapped = root.add_version("acme", &first, Some(Purpose::Log), &dice()).unwrap();
    for at in 0..wrapped.versions.len() {
        let sealed = BASE64.decode(wrapped.versions[at].sealed.as_bytes()).unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut bytes = sealed.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let mut altered = wrapped.clone();
            altered.versions[at].sealed = BASE64.encode(&bytes);
            assert!(root.unwrap_tenant_key("acme", &altered).is_err(), "version {at} bit {bit}");
        }
    }
    let mut swapped = wrapped.clone();
    swapped.versions[1].sealed = wrapped.versions[0].sealed.clone();
    assert!(root.unwrap_tenant_key("acme", &swapped).is_err(), "a version in the place of another");
}

#[test]
fn a_key_wrapped_before_there_were_versions_still_opens() {
    let directory = tempfile::tempdir().unwrap();
    let root = root_in(directory.path(), 1);
    let wrapped: WrappedKey = serde_json::from_str(OLD_WRAPPED).unwrap();
    let keys = root.unwrap_tenant_key("acme", &wrapped).unwrap();
    assert_eq!(HEXLOWER.encode(&keys.seal_name(b"parent", b"visits").unwrap()), OLD_NAME);
    assert_eq!(wrapped.shredding(), Shredding::ThisCopyOnly);
    let more = root.add_version("acme", &wrapped, None, &dice()).unwrap();
    assert_eq!(root.unwrap_tenant_key("acme", &more).unwrap().newest_version(Purpose::Record).unwrap(), 2);
}
/// The name of the vector in `tenant.rs` under the key of nines that was wrapped then.
const OLD_NAME: &str = "2ece5f7f5fb5d7f237fced433c9fd719acf70a5a2d7d";

#[test]
fn forms_that_are_no_wrapped_key_are_refused() {
    for wrong in [
        r#"{"shard":"","versions":[]}"#,
        r#"{"shard":"","versions":[{"version":2,"root":"r","sealed":""}]}"#,
        r#"{"shard":"../x","versions":[{"version":1,"root":"r","sealed":""}]}"#,
        r#"{"shard":"","versions":[{"version":1,"root":"r","sealed":""},{"version":1,"root":"r","sealed":""}]}"#,
        r#"{"root":"r","sealed":"","more":1}"#,
    ] {
        assert!(serde_json::from_str::<WrappedKey>(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn destroying_the_tenants_wrapping_key_makes_every_copy_of_the_wrapped_key_useless() {
    let directory = tempfile::tempdir().unwrap();
    let root = root_in(directory.path(), 1);
    let (_, wrapped) = root.new_tenant_key("acme", &dice()).unwrap();
    let (_, other) = root.new_tenant_key("bolt", &Fixed(7)).unwrap();
    let shard = directory.path().join("root-1.key.tenants").join(&wrapped.shard);
    assert_eq!(shard.metadata().unwrap().mode() & 0o7777, 0o600);
    // A second name of the same file shows what became of its bytes.
    let bytes = directory.path().join("bytes");
    std::fs::hard_link(&shard, &bytes).unwrap();
    assert_eq!(root.destroy_tenant_key(&wrapped).unwrap(), Shredding::OldCopiesToo);
    root.destroy_tenant_key(&wrapped).unwrap();
    assert!(std::fs::read(&bytes).unwrap().iter().all(|byte| *byte == b'0'));
    assert!(matches!(
        open(&directory.path().join("root-1.key")).unwrap().unwrap_tenant_key("acme", &wrapped),
        Err(KeysError::ShardGone)
    ));
    assert!(root.unwrap_tenant_key("bolt", &other).is_ok());
}

#[test]
fn a_rotated_root_key_opens_the_old_until_it_is_retired_and_survives_a_stop_at_any_step() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(&directory.path().join("root.key"), &[1; 32], 0o600);
    let root = open(&path).unwrap();
    let (keys, wrapped) = root.new_tenant_key("acme", &dice()).unwrap();
    let sealed = keys.seal(Purpose::Record, &HERE, b"v", &Fixed(2)).unwrap();
    let before = root.id();
    let after = root.rotate(&dice()).unwrap();
    assert_ne!(before, after);
    assert_eq!(root.rotate(&dice()).unwrap(), after, "a rotation that is under way goes on");
    // A stop here: both keys are there.
    let root = open(&path).unwrap();
    assert_eq!(root.id(), after);
    let rewrapped = root.rewrap("acme", &wrapped, &dice()).unwrap().unwrap();
    assert!(root.rewrap("acme", &rewrapped, &dice()).unwrap().is_none());
    for form in [&wrapped, &rewrapped] {
        let opened = root.unwrap_tenant_key("acme", form).unwrap();
        assert_eq!(opened.open(Purpose::Record, &HERE, &sealed).unwrap().as_slice(), b"v");
    }
    root.retire().unwrap();
    root.retire().unwrap();
    for root in [root, open(&path).unwrap()] {
        assert_eq!(root.id(), after);
        assert!(root.unwrap_tenant_key("acme", &rewrapped).is_ok());
        assert!(matches!(root.unwrap_tenant_key("acme", &wrapped), Err(KeysError::OtherRootKey { .. })));
    }
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "the key and the directory of wrapping keys: {left:?}");
}

#[test]
fn a_stop_between_the_new_keys_arrival_and_the_old_ones_end_is_mended_at_the_next_opening() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(&directory.path().join("root.key"), &[2; 32], 0o600);
    let retired = write(&directory.path().join("root.key.retired"), &[1; 32], 0o600);
    open(&path).unwrap();
    assert!(!retired.exists());
}

#[test]
fn debug_prints_no_key() {
    let directory = tempfile::tempdir().unwrap();
    let root = root_in(directory.path(), 1);
    let (_, wrapped) = root.new_tenant_key("acme", &dice()).unwrap();
    let printed = format!("{root:?} {wrapped:?}");
    assert_eq!(printed, format!("<root key {id}> <key wrapped by {id}>", id = root.id()));
}

/// A root key whose tenant acme may keep the key in `own` itself.
fn with_own(directory: &Path, own: &Path) -> RootKey {
    struct Still;
    impl ringfence_core::Clock for Still {
        fn now(&self) -> jiff::Timestamp {
            jiff::Timestamp::UNIX_EPOCH
        }
        fn monotonic(&self) -> std::time::Duration {
            std::time::Duration::ZERO
        }
    }
    let outside = Outside { entropy: std::sync::Arc::new(dice()), clock: std::sync::Arc::new(Still), aws: None };
    let allowed = std::collections::BTreeMap::from([("acme".to_owned(), RootKeyUri::File(own.to_owned()))]);
    root_in(directory, 1).with_own(allowed, outside)
}

#[test]
fn a_key_with_a_layer_of_the_tenants_own_opens_with_both_keys_alone() {
    let directory = tempfile::tempdir().unwrap();
    let own = write(&directory.path().join("own.key"), &[9; 32], 0o600);
    let other = write(&directory.path().join("other.key"), &[8; 32], 0o600);
    let root = with_own(directory.path(), &own);
    let (keys, plain) = root.new_tenant_key("acme", &dice()).unwrap();
    let sealed = keys.seal(crate::Purpose::Record, &HERE, b"secret", &dice()).unwrap();
    let wrapped = root.take_own("acme", &plain, &dice()).unwrap();
    assert!(wrapped.own().is_some() && plain.own().is_none());
    let rotated = root.add_version("acme", &wrapped, None, &dice()).unwrap();
    let stored: WrappedKey = serde_json::from_str(&serde_json::to_string(&rotated).unwrap()).unwrap();
    let opened = root.unwrap_tenant_key("acme", &stored).unwrap();
    assert_eq!(opened.open(crate::Purpose::Record, &HERE, &sealed).unwrap().as_slice(), b"secret");
    // Without the tenant's key, with another, for another tenant, and with the layer left out by whoever has the file.
    let alone = root_in(directory.path(), 1).unwrap_tenant_key("acme", &stored).unwrap_err();
    assert!(matches!(alone, KeysError::OwnNotAllowed) && alone.is_own_refusal());
    let wrong = with_own(directory.path(), &other).unwrap_tenant_key("acme", &stored).unwrap_err();
    assert!(wrong.is_own() && wrong.is_own_refusal() && !wrong.is_transient(), "{wrong}");
    assert!(root.take_own("bolt", &plain, &dice()).is_err());
    let text = serde_json::to_string(&wrapped).unwrap();
    let without = text.replace(&format!("\"own\":\"{}\",", wrapped.own().unwrap()), "");
    assert_ne!(text, without);
    let cut: WrappedKey = serde_json::from_str(&without).unwrap();
    assert!(root_in(directory.path(), 1).unwrap_tenant_key("acme", &cut).is_err());
    let given_up = root.give_up_own("acme", &stored, &dice()).unwrap();
    assert!(root_in(directory.path(), 1).unwrap_tenant_key("acme", &given_up).is_ok());
}
