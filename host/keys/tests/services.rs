//! Vault Transit and AWS KMS, each against a small server that keeps what it was told and checks token or signature and context
//! byte for byte. Nothing here knows how the adapters work: it speaks the services' documented HTTP.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, its helpers too"
)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use data_encoding::{BASE64, HEXLOWER};
use jiff::Timestamp;
use ringfence_core::{Clock, Entropy};
use ringfence_keys::{
    Assurance, AwsCredentials, Context, KeysError, MissingRootKey, Outside, Purpose, RootKey, RootKeyUri, Secret,
    Shredding,
};
use serde_json::{Value, json};

const TOKEN: &str = "s.correct-token";
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
    Outside {
        entropy: Arc::new(Dice(Mutex::new(7))),
        clock: Arc::new(Noon),
        aws: Some(AwsCredentials {
            access_key: "AKIDEXAMPLE".to_owned(),
            secret_key: Secret::new(SECRET.to_owned()),
            session_token: Some(Secret::new("session".to_owned())),
        }),
    }
}

/// One request as it arrived.
struct Asked {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Asked {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

/// Answers requests, one connection each, until the test ends.
fn serve(answer: impl Fn(Asked) -> (u16, Value) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            let asked = read(&stream);
            let (status, body) = answer(asked);
            let body = body.to_string();
            let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            (&stream).write_all(format!("{head}{body}").as_bytes()).unwrap();
        }
    });
    format!("http://{address}")
}

fn read(stream: &TcpStream) -> Asked {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(0, |text| text.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    Asked { method, path, headers, body }
}

// === Vault ===

#[derive(Default)]
struct Vault {
    /// Newest version and oldest that may decrypt, by name of the key.
    keys: BTreeMap<String, (u64, u64)>,
    /// What was encrypted: key, context, plaintext.
    sealed: BTreeMap<String, (String, String, String)>,
    /// Contexts seen.
    contexts: Vec<Vec<u8>>,
    deletable: Vec<String>,
    /// Beginnings of paths that the token may not use.
    forbidden: Vec<&'static str>,
}

fn vault() -> (Arc<Mutex<Vault>>, String) {
    let state = Arc::new(Mutex::new(Vault::default()));
    let shared = Arc::clone(&state);
    let url = serve(move |asked| {
        if asked.headers.get("x-vault-token").map(String::as_str) != Some(TOKEN) {
            return (403, json!({ "errors": ["permission denied"] }));
        }
        vault_answer(&mut shared.lock().unwrap(), &asked)
    });
    (state, url)
}

fn vault_answer(vault: &mut Vault, asked: &Asked) -> (u16, Value) {
    let path = asked.path.strip_prefix("/v1/transit/").expect("the mount");
    if vault.forbidden.iter().any(|beginning| path.starts_with(*beginning)) {
        return (403, json!({ "errors": ["1 error occurred: permission denied"] }));
    }
    let body = asked.json();
    let text = |name: &str| body[name].as_str().expect(name).to_owned();
    match (asked.method.as_str(), path.split('/').collect::<Vec<_>>().as_slice()) {
        ("GET", ["keys", name]) => match vault.keys.get(*name) {
            Some((newest, _)) => (200, json!({ "data": { "latest_version": newest } })),
            None => (404, json!({ "errors": [] })),
        },
        ("POST", ["keys", name]) => {
            assert_eq!((text("type").as_str(), body["derived"].as_bool()), ("aes256-gcm96", Some(true)));
            vault.keys.entry((*name).to_owned()).or_insert((1, 1));
            (204, Value::Null)
        }
        ("POST", ["keys", name, "rotate"]) => {
            vault.keys.get_mut(*name).unwrap().0 += 1;
            (204, Value::Null)
        }
        ("POST", ["keys", name, "config"]) => {
            let Some(key) = vault.keys.get_mut(*name) else {
                return (400, json!({ "errors": ["no existing key named x"] }));
            };
            if let Some(oldest) = body["min_decryption_version"].as_u64() {
                key.1 = oldest;
            }
            if body["deletion_allowed"] == true {
                vault.deletable.push((*name).to_owned());
            }
            (204, Value::Null)
        }
        ("DELETE", ["keys", name]) => {
            assert!(vault.deletable.iter().any(|allowed| allowed == name), "it must be allowed first");
            vault.keys.remove(*name);
            (204, Value::Null)
        }
        ("POST", ["encrypt", name]) => {
            let Some((newest, _)) = vault.keys.get(*name) else { return (404, Value::Null) };
            assert_eq!(text("context"), text("associated_data"));
            vault.contexts.push(BASE64.decode(text("context").as_bytes()).unwrap());
            let sealed = format!("vault:v{newest}:{}", BASE64.encode(vault.sealed.len().to_string().as_bytes()));
            vault.sealed.insert(sealed.clone(), ((*name).to_owned(), text("context"), text("plaintext")));
            (200, json!({ "data": { "ciphertext": sealed } }))
        }
        ("POST", ["decrypt", name]) => {
            let Some((_, oldest)) = vault.keys.get(*name) else {
                return (400, json!({ "errors": ["encryption key not found"] }));
            };
            let version: u64 = text("ciphertext")[7..].split(':').next().unwrap().parse().unwrap();
            match vault.sealed.get(&text("ciphertext")) {
                Some((key, context, plain)) if key == name && *context == text("context") && version >= *oldest => {
                    assert_eq!(text("context"), text("associated_data"));
                    (200, json!({ "data": { "plaintext": plain } }))
                }
                _ => (400, json!({ "errors": ["cipher: message authentication failed"] })),
            }
        }
        other => panic!("not an endpoint of Transit: {other:?}"),
    }
}

fn vault_uri(directory: &Path, url: &str) -> RootKeyUri {
    let token = directory.join("token");
    std::fs::write(&token, format!("{TOKEN}\n")).unwrap();
    format!("vault:{url}/transit/keys/ringfence?token-file={}", token.display()).parse().unwrap()
}

/// The documented encoding of a context.
fn encoded(tenant: &str, store: &str, key: &str, revision: u64) -> Vec<u8> {
    let mut out = Vec::new();
    for field in [tenant, store, key] {
        out.extend((field.len() as u64).to_be_bytes());
        out.extend(field.as_bytes());
    }
    out.extend(revision.to_be_bytes());
    out
}

#[test]
fn vault_wraps_under_the_exact_context_and_unwraps_for_its_tenant_alone() {
    let (directory, (state, url)) = (tempfile::tempdir().unwrap(), vault());
    let uri = vault_uri(directory.path(), &url);
    assert!(matches!(RootKey::connect(&uri, MissingRootKey::Refuse, &outside()), Err(KeysError::Refused { .. })));
    let root = RootKey::connect(&uri, MissingRootKey::Create, &outside()).unwrap();
    assert_eq!(
        (root.id().as_str(), root.assurance(), root.shredding()),
        ("ringfence#1", Assurance::Service, Shredding::OldCopiesToo)
    );
    let (keys, wrapped) = root.new_tenant_key("acme", &*outside().entropy).unwrap();
    let sealed = keys.seal(Purpose::Record, &HERE, b"v", &*outside().entropy).unwrap();
    {
        let state = state.lock().unwrap();
        let shard = state.keys.keys().find(|name| *name != "ringfence").unwrap().strip_prefix("ringfence-").unwrap();
        assert_eq!(
            state.contexts,
            [encoded("acme", "tenant-shard", shard, 1), encoded("acme", "tenant-key", "ringfence", 1)]
        );
    }
    let again = root.unwrap_tenant_key("acme", &wrapped).unwrap();
    assert_eq!(again.open(Purpose::Record, &HERE, &sealed).unwrap().as_slice(), b"v");
    assert!(matches!(root.unwrap_tenant_key("evil", &wrapped), Err(KeysError::NotAuthentic)));
}

#[test]
fn a_rotation_in_vault_rewraps_and_then_refuses_the_old_version() {
    let (directory, (_state, url)) = (tempfile::tempdir().unwrap(), vault());
    let root = RootKey::connect(&vault_uri(directory.path(), &url), MissingRootKey::Create, &outside()).unwrap();
    let (_, wrapped) = root.new_tenant_key("acme", &*outside().entropy).unwrap();
    assert_eq!(root.rotate(&*outside().entropy).unwrap(), "ringfence#2");
    assert!(root.unwrap_tenant_key("acme", &wrapped).is_ok());
    let rewrapped = root.rewrap("acme", &wrapped, &*outside().entropy).unwrap().unwrap();
    root.retire().unwrap();
    assert!(root.unwrap_tenant_key("acme", &rewrapped).is_ok());
    assert!(matches!(root.unwrap_tenant_key("acme", &wrapped), Err(KeysError::NotAuthentic)));
}

#[test]
fn a_tenants_key_that_was_destroyed_in_vault_is_gone_and_others_are_not() {
    let (directory, (_state, url)) = (tempfile::tempdir().unwrap(), vault());
    let root = RootKey::connect(&vault_uri(directory.path(), &url), MissingRootKey::Create, &outside()).unwrap();
    let entropy = outside().entropy;
    let (_, acme) = root.new_tenant_key("acme", &*entropy).unwrap();
    let (_, bolt) = root.new_tenant_key("bolt", &*entropy).unwrap();
    assert_eq!(root.destroy_tenant_key(&acme).unwrap(), Shredding::OldCopiesToo);
    root.destroy_tenant_key(&acme).unwrap();
    assert!(matches!(root.unwrap_tenant_key("acme", &acme), Err(KeysError::ShardGone)));
    assert!(root.unwrap_tenant_key("bolt", &bolt).is_ok());
}

#[test]
fn what_vault_forbids_is_not_taken_for_destroyed() {
    let (directory, (state, url)) = (tempfile::tempdir().unwrap(), vault());
    let root = RootKey::connect(&vault_uri(directory.path(), &url), MissingRootKey::Create, &outside()).unwrap();
    let entropy = outside().entropy;
    let (_, acme) = root.new_tenant_key("acme", &*entropy).unwrap();
    let rotated = |forbidden: &[&'static str]| {
        state.lock().unwrap().forbidden = forbidden.to_vec();
        root.add_version("acme", &acme, None, &*entropy)
    };
    for forbidden in [&["encrypt/ringfence-"][..], &["encrypt/ringfence-", "keys/ringfence-"]] {
        let error = rotated(forbidden).unwrap_err();
        assert!(matches!(error, KeysError::Refused { .. }) && error.is_transient(), "{forbidden:?}: {error}");
    }
    assert!(rotated(&[]).is_ok());
    root.destroy_tenant_key(&acme).unwrap();
    for forbidden in [Vec::new(), vec!["encrypt/ringfence-"]] {
        assert!(matches!(rotated(&forbidden), Err(KeysError::ShardGone)), "{forbidden:?}");
    }
    let error = rotated(&["encrypt/ringfence-", "keys/ringfence-"]).unwrap_err();
    assert!(matches!(error, KeysError::Refused { .. }), "nobody can tell: {error}");
}

#[test]
fn a_wrong_token_and_a_server_that_is_away_are_told_apart_from_damage_and_show_no_secret() {
    let (directory, (_state, url)) = (tempfile::tempdir().unwrap(), vault());
    let uri = vault_uri(directory.path(), &url);
    let root = RootKey::connect(&uri, MissingRootKey::Create, &outside()).unwrap();
    let (_, wrapped) = root.new_tenant_key("acme", &*outside().entropy).unwrap();
    std::fs::write(directory.path().join("token"), "s.wrong-token").unwrap();
    let error = root.unwrap_tenant_key("acme", &wrapped).unwrap_err();
    assert!(matches!(error, KeysError::Refused { .. }) && error.is_transient());
    assert!(!error.to_string().contains("s.wrong"), "{error}");
    std::fs::write(directory.path().join("token"), TOKEN).unwrap();
    assert!(root.unwrap_tenant_key("acme", &wrapped).is_ok(), "the token is read anew");
    let away = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let uri = vault_uri(directory.path(), &format!("http://{away}"));
    let error = RootKey::connect(&uri, MissingRootKey::Refuse, &outside()).unwrap_err();
    assert!(matches!(error, KeysError::Unreachable { .. }) && error.is_transient());
    let busy = serve(|_| (503, json!({ "errors": ["Vault is sealed"] })));
    let error = RootKey::connect(&vault_uri(directory.path(), &busy), MissingRootKey::Create, &outside()).unwrap_err();
    assert!(matches!(error, KeysError::Unreachable { .. }), "{error}");
}

// === AWS KMS ===

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

/// The signature, worked out a second time from what arrived and not from what the adapter meant to send.
fn signature_of(asked: &Asked, host: &str) -> String {
    use ring::{digest, hmac};
    let hash = |bytes: &[u8]| HEXLOWER.encode(digest::digest(&digest::SHA256, bytes).as_ref());
    let mac =
        |key: &[u8], data: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data.as_bytes()).as_ref().to_vec();
    assert_eq!(asked.headers["host"], host);
    let signed = "content-type;host;x-amz-date;x-amz-security-token;x-amz-target";
    let lines: String = signed.split(';').map(|name| format!("{name}:{}\n", asked.headers[name])).collect();
    let canonical = format!("POST\n/\n\n{lines}\n{signed}\n{}", hash(&asked.body));
    let date = &asked.headers["x-amz-date"];
    let scope = format!("{}/eu-west-1/kms/aws4_request", &date[..8]);
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hash(canonical.as_bytes()));
    let mut key = mac(format!("AWS4{SECRET}").as_bytes(), &date[..8]);
    for part in ["eu-west-1", "kms", "aws4_request"] {
        key = mac(&key, part);
    }
    let signature = HEXLOWER.encode(&mac(&key, &to_sign));
    format!("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/{scope}, SignedHeaders={signed}, Signature={signature}")
}

const ARN: &str = "arn:aws:kms:eu-west-1:1:key/k";

#[derive(Default)]
struct Kms {
    /// What was encrypted: context, plaintext, how many rotations were over.
    blobs: BTreeMap<String, (Value, String, u32)>,
    /// Rotations that were begun.
    rotations_count: u32,
    /// How many looks the newest of them is still in progress.
    looks_count: u32,
    is_used_up: bool,
}

fn kms() -> (Arc<Mutex<Kms>>, String) {
    let state = Arc::new(Mutex::new(Kms::default()));
    let shared = Arc::clone(&state);
    let url = serve(move |asked| {
        let host = asked.headers["host"].clone();
        if asked.headers.get("authorization") != Some(&signature_of(&asked, &host)) {
            return (400, json!({ "__type": "IncompleteSignatureException" }));
        }
        assert_eq!(asked.headers["x-amz-date"], "20261122T120000Z");
        assert_eq!(asked.headers["x-amz-security-token"], "session");
        kms_answer(&mut shared.lock().unwrap(), &asked)
    });
    (state, url)
}

/// How many were begun, and whether the newest is in progress.
fn rotations(kms: &Mutex<Kms>) -> (u32, u32) {
    let kms = kms.lock().unwrap();
    (kms.rotations_count, kms.looks_count)
}

fn kms_answer(kms: &mut Kms, asked: &Asked) -> (u16, Value) {
    let body = asked.json();
    match (asked.headers["x-amz-target"].as_str(), body["KeyId"].as_str().unwrap()) {
        ("TrentService.Encrypt", "alias/ringfence") => {
            let blob = BASE64.encode(format!("blob {}", kms.blobs.len()).as_bytes());
            let plain = body["Plaintext"].as_str().unwrap().to_owned();
            let over_count = kms.rotations_count - u32::from(kms.looks_count > 0);
            kms.blobs.insert(blob.clone(), (body["EncryptionContext"].clone(), plain, over_count));
            (200, json!({ "CiphertextBlob": blob, "KeyId": ARN }))
        }
        ("TrentService.Decrypt", "alias/ringfence") => match kms.blobs.get(body["CiphertextBlob"].as_str().unwrap()) {
            Some((context, plain, _)) if *context == body["EncryptionContext"] => (200, json!({ "Plaintext": plain })),
            _ => (400, json!({ "__type": "com.amazonaws.kms#InvalidCiphertextException" })),
        },
        ("TrentService.RotateKeyOnDemand", ARN) if kms.is_used_up => {
            (400, json!({ "__type": "LimitExceededException" }))
        }
        ("TrentService.RotateKeyOnDemand", ARN) => {
            (kms.rotations_count, kms.looks_count) = (kms.rotations_count + 1, 2);
            (200, json!({ "KeyId": ARN }))
        }
        ("TrentService.GetKeyRotationStatus", ARN) if kms.looks_count > 0 => {
            kms.looks_count -= 1;
            (200, json!({ "KeyId": ARN, "KeyRotationEnabled": false, "OnDemandRotationStartDate": 1.795e9 }))
        }
        ("TrentService.GetKeyRotationStatus", ARN) => (200, json!({ "KeyId": ARN, "KeyRotationEnabled": false })),
        // These take an id or an ARN.
        ("TrentService.RotateKeyOnDemand" | "TrentService.GetKeyRotationStatus", _) => {
            (400, json!({ "__type": "InvalidArnException" }))
        }
        other => panic!("not an act of KMS that we use, or on another key: {other:?}"),
    }
}

#[test]
fn kms_requests_are_signed_and_bound_to_tenant_and_version() {
    let (kms, url) = kms();
    let uri: RootKeyUri = format!("awskms:eu-west-1/alias/ringfence?endpoint={url}").parse().unwrap();
    let root = RootKey::connect(&uri, MissingRootKey::Refuse, &outside()).unwrap();
    assert_eq!(root.shredding(), Shredding::ThisCopyOnly, "and says so");
    let (keys, wrapped) = root.new_tenant_key("acme", &*outside().entropy).unwrap();
    let more = root.add_version("acme", &wrapped, Some(Purpose::Log), &*outside().entropy).unwrap();
    let contexts: Vec<Value> = kms.lock().unwrap().blobs.values().map(|(context, ..)| context.clone()).collect();
    for version in ["1", "2"] {
        assert!(contexts.contains(&json!({ "ringfence:tenant": "acme", "ringfence:key-version": version })));
    }
    let sealed = keys.seal(Purpose::Record, &HERE, b"v", &*outside().entropy).unwrap();
    let again = root.unwrap_tenant_key("acme", &more).unwrap();
    assert_eq!(again.open(Purpose::Record, &HERE, &sealed).unwrap().as_slice(), b"v");
    assert!(matches!(root.unwrap_tenant_key("evil", &wrapped), Err(KeysError::NotAuthentic)));
}

#[test]
fn a_rotation_in_kms_is_asked_for_by_arn_and_wraps_anew_once_it_is_over() {
    let (kms, url) = kms();
    let uri: RootKeyUri = format!("awskms:eu-west-1/alias/ringfence?endpoint={url}").parse().unwrap();
    let root = RootKey::connect(&uri, MissingRootKey::Refuse, &outside()).unwrap();
    let entropy = outside().entropy;
    let (_, wrapped) = root.new_tenant_key("acme", &*entropy).unwrap();
    root.rotate(&*entropy).unwrap();
    assert_eq!(rotations(&kms), (1, 0));
    let rewrapped = root.rewrap("acme", &wrapped, &*entropy).unwrap().unwrap();
    root.retire().unwrap();
    for form in [&wrapped, &rewrapped] {
        assert!(root.unwrap_tenant_key("acme", form).is_ok(), "KMS keeps what is older");
    }
    let kms = kms.lock().unwrap();
    let mut of_acme: Vec<u32> = kms
        .blobs
        .values()
        .filter(|(context, ..)| context["ringfence:tenant"] == "acme")
        .map(|(_, _, over_count)| *over_count)
        .collect();
    of_acme.sort_unstable();
    assert_eq!(of_acme, [0, 1]);
}

#[test]
fn a_rotation_in_kms_that_is_under_way_is_waited_for_and_one_too_many_is_refused() {
    let (kms, url) = kms();
    let uri: RootKeyUri = format!("awskms:eu-west-1/alias/ringfence?endpoint={url}").parse().unwrap();
    let root = RootKey::connect(&uri, MissingRootKey::Refuse, &outside()).unwrap();
    let entropy = outside().entropy;
    {
        // An attempt before this one, whose answer never came.
        let mut kms = kms.lock().unwrap();
        (kms.rotations_count, kms.looks_count) = (1, 2);
    }
    root.rotate(&*entropy).unwrap();
    assert_eq!(rotations(&kms), (1, 0));
    root.check_rotated().unwrap();
    // One that took longer than anybody waited: a look at it does not wait either, and begins none.
    kms.lock().unwrap().looks_count = 1;
    let error = root.check_rotated().unwrap_err();
    assert!(matches!(error, KeysError::Unreachable { .. }), "{error}");
    root.check_rotated().unwrap();
    assert_eq!(rotations(&kms), (1, 0));
    kms.lock().unwrap().is_used_up = true;
    let error = root.rotate(&*entropy).unwrap_err();
    assert!(matches!(error, KeysError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("LimitExceededException"), "{error}");
}

#[test]
fn kms_refuses_a_request_that_another_secret_signed_and_credentials_of_a_file_are_read_anew() {
    let (directory, (_blobs, url)) = (tempfile::tempdir().unwrap(), kms());
    let file = directory.path().join("credentials.json");
    let write = |secret: &str| {
        let content =
            json!({ "Version": 1, "AccessKeyId": "AKIDEXAMPLE", "SecretAccessKey": secret, "SessionToken": "session" });
        std::fs::write(&file, content.to_string()).unwrap();
    };
    let uri = format!("awskms:eu-west-1/alias/ringfence?endpoint={url}&credentials-file={}", file.display());
    let uri: RootKeyUri = uri.parse().unwrap();
    write("another");
    let error = RootKey::connect(&uri, MissingRootKey::Refuse, &outside()).unwrap_err();
    assert!(matches!(error, KeysError::Refused { .. }), "{error}");
    write(SECRET);
    assert!(RootKey::connect(&uri, MissingRootKey::Refuse, &outside()).is_ok());
}
