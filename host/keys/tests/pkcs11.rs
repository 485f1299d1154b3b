//! The PKCS#11 provider against SoftHSM, which `cargo xtask test` installs, with a token of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, its helpers too"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use ringfence_core::{Clock, Entropy};
use ringfence_keys::{Assurance, Context, KeysError, MissingRootKey, Outside, Purpose, RootKey, RootKeyUri, Shredding};

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const CONFIGURATION: &str = "RINGFENCE_TEST_SOFTHSM";
const HERE: Context<'_> = Context { tenant: "acme", store: "kv", key: b"k", revision: 1 };

struct Dice(Mutex<u64>);
impl Entropy for Dice {
    fn fill(&self, into: &mut [u8]) {
        let mut state = self.0.lock().unwrap();
        for byte in into {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (*state >> 56) as u8;
        }
    }
}

struct Noon;
impl Clock for Noon {
    fn now(&self) -> Timestamp {
        "2026-11-22T12:00:00Z".parse().unwrap()
    }
    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

fn outside() -> Outside {
    Outside { entropy: Arc::new(Dice(Mutex::new(7))), clock: Arc::new(Noon), aws: None }
}

/// SoftHSM reads its configuration from the environment, which a test may not change for itself: the tests run in a child
/// whose environment names a directory of its own. True in the child.
#[expect(clippy::disallowed_methods, reason = "how the test finds the token it started for itself")]
fn in_child(test: &str) -> Option<PathBuf> {
    if let Ok(directory) = std::env::var(CONFIGURATION) {
        return Some(directory.into());
    }
    assert!(
        Path::new(MODULE).exists(),
        "SoftHSM is missing: `cargo xtask test` installs it, or `sudo apt-get install softhsm2`"
    );
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("tokens")).unwrap();
    let configuration = directory.path().join("softhsm2.conf");
    std::fs::write(&configuration, format!("directories.tokendir = {}/tokens\n", directory.path().display())).unwrap();
    std::fs::write(directory.path().join("pin"), "98765432\n").unwrap();
    let made = Command::new("softhsm2-util")
        .args(["--init-token", "--free", "--label", "ringfence", "--so-pin", "12345678", "--pin", "98765432"])
        .env("SOFTHSM2_CONF", &configuration)
        .output()
        .expect("run `sudo apt-get install softhsm2`");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let child = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env("SOFTHSM2_CONF", &configuration)
        .env(CONFIGURATION, directory.path())
        .output()
        .unwrap();
    assert!(
        child.status.success(),
        "{}{}",
        String::from_utf8_lossy(&child.stdout),
        String::from_utf8_lossy(&child.stderr)
    );
    None
}

fn uri(directory: &Path, object: &str) -> RootKeyUri {
    let pin = directory.join("pin");
    format!("pkcs11:token=ringfence;object={object}?module-path={MODULE}&pin-source=file:{}", pin.display())
        .parse()
        .unwrap()
}

#[test]
fn a_token_wraps_unwraps_rotates_and_destroys_without_ever_giving_a_key_out() {
    let Some(directory) = in_child("a_token_wraps_unwraps_rotates_and_destroys_without_ever_giving_a_key_out") else {
        return;
    };
    let uri = uri(&directory, "root");
    assert!(matches!(RootKey::connect(&uri, MissingRootKey::Refuse, &outside()), Err(KeysError::Refused { .. })));
    let root = RootKey::connect(&uri, MissingRootKey::Create, &outside()).unwrap();
    assert_eq!((root.id().as_str(), root.assurance()), ("root#1", Assurance::Hardware));
    let entropy = outside().entropy;
    let (keys, acme) = root.new_tenant_key("acme", &*entropy).unwrap();
    let (_, bolt) = root.new_tenant_key("bolt", &*entropy).unwrap();
    let sealed = keys.seal(Purpose::Record, &HERE, b"v", &*entropy).unwrap();
    let opened = root.unwrap_tenant_key("acme", &acme).unwrap();
    assert_eq!(opened.open(Purpose::Record, &HERE, &sealed).unwrap().as_slice(), b"v");
    assert!(matches!(root.unwrap_tenant_key("bolt", &acme), Err(KeysError::NotAuthentic)));

    assert_eq!(root.rotate(&*entropy).unwrap(), "root#2");
    let acme_2 = root.rewrap("acme", &acme, &*entropy).unwrap().unwrap();
    let bolt_2 = root.rewrap("bolt", &bolt, &*entropy).unwrap().unwrap();
    assert!(root.unwrap_tenant_key("acme", &acme).is_ok(), "the old still opens");
    root.retire().unwrap();
    let root = RootKey::connect(&uri, MissingRootKey::Refuse, &outside()).unwrap();
    assert_eq!(root.id(), "root#2");
    assert!(root.unwrap_tenant_key("acme", &acme).is_err(), "and does not once it is retired");
    assert!(root.unwrap_tenant_key("acme", &acme_2).is_ok());

    assert_eq!(root.destroy_tenant_key(&acme_2).unwrap(), Shredding::OldCopiesToo);
    root.destroy_tenant_key(&acme_2).unwrap();
    assert!(matches!(root.unwrap_tenant_key("acme", &acme_2), Err(KeysError::ShardGone)));
    assert!(root.unwrap_tenant_key("bolt", &bolt_2).is_ok());
}

#[test]
fn a_wrong_pin_and_a_missing_token_are_refused_without_showing_the_pin() {
    let Some(directory) = in_child("a_wrong_pin_and_a_missing_token_are_refused_without_showing_the_pin") else {
        return;
    };
    let missing = format!(
        "pkcs11:token=elsewhere;object=root?module-path={MODULE}&pin-source=file:{}",
        directory.join("pin").display()
    );
    let error = RootKey::connect(&missing.parse().unwrap(), MissingRootKey::Create, &outside()).unwrap_err();
    assert!(matches!(error, KeysError::Unreachable { .. }) && error.is_transient(), "{error}");
    std::fs::write(directory.join("pin"), "11112222").unwrap();
    let error = RootKey::connect(&uri(&directory, "root"), MissingRootKey::Create, &outside()).unwrap_err();
    assert!(matches!(error, KeysError::Refused { .. }), "{error}");
    assert!(!error.to_string().contains("11112222"));
}
