//! Which purpose's key seals a record: decided by the first segment of its name, said by its kind.
//!
//! Records from before there was more than one purpose are all of kinds 1 and 2. They open as ever, and get the kind of their
//! area when they are written or sealed anew. Must never let a kind stand for anything else than it did: kinds are on disk.

use ringfence_keys::{Purpose, TenantKeys};

use crate::error::StoreError;
use crate::key::{Key, Uid};

/// A purpose, and the kinds of the records that its key seals.
#[derive(Clone, Copy)]
pub(crate) struct Sealing {
    pub(crate) purpose: Purpose,
    /// The kind of those with their value inside.
    pub(crate) inside: u8,
    /// The kind of those whose value is in a file.
    pub(crate) in_file: u8,
}

/// Of all names that are not in [`OWN`].
static USUAL: Sealing = Sealing { purpose: Purpose::Record, inside: 1, in_file: 2 };

/// Of the audit log.
const AUDIT: Sealing = Sealing { purpose: Purpose::Audit, inside: 7, in_file: 8 };

/// By the first segment of names. Only grows. Below `history` lie the logs of tenants that others were restored from.
static OWN: [(&str, Sealing); 7] = [
    ("secret", Sealing { purpose: Purpose::Secret, inside: 3, in_file: 4 }),
    ("log", Sealing { purpose: Purpose::Log, inside: 5, in_file: 6 }),
    ("audit", AUDIT),
    ("history", AUDIT),
    ("file", Sealing { purpose: Purpose::File, inside: 9, in_file: 10 }),
    ("blob", Sealing { purpose: Purpose::Blob, inside: 11, in_file: 12 }),
    ("backup", Sealing { purpose: Purpose::Backup, inside: 13, in_file: 14 }),
];

/// The first segments of one tenant's names that have a purpose of their own, in their stored form: who has nothing but
/// stored keys can tell what they are for.
pub(crate) struct Sealings(Vec<(Box<[u8]>, Sealing)>);

// === impl Sealing ===

impl Sealing {
    /// What a kind stands for; none where nothing is of that kind.
    pub(crate) fn of_kind(kind: u8) -> Option<Self> {
        let mut all = std::iter::once(USUAL).chain(OWN.iter().map(|(_, own)| *own));
        all.find(|sealing| kind == sealing.inside || kind == sealing.in_file)
    }
}

// === impl Sealings ===

impl Sealings {
    pub(crate) fn new(keys: &TenantKeys, uid: &Uid) -> Result<Self, StoreError> {
        let seal = |(first, sealing): &(&str, Sealing)| {
            Key::new([*first]).seal(keys, uid).map(|stored| (stored.into_boxed_slice(), *sealing))
        };
        OWN.iter().map(seal).collect::<Result<Vec<_>, StoreError>>().map(Self)
    }

    /// How the record under a stored key is sealed when it is written.
    pub(crate) fn of(&self, stored_key: &[u8]) -> Sealing {
        let own = self.0.iter().find(|(first, _)| stored_key.starts_with(first));
        own.map_or(USUAL, |(_, sealing)| *sealing)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU8;
    use std::time::Duration;

    use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
    use ring::hkdf::{HKDF_SHA256, Prk};
    use ringfence_core::{Clock, TenantId};
    use ringfence_keys::{Context, RootKey, RootKeyUri};

    use super::*;
    use crate::engine::{Backend, Write};
    use crate::record::{INLINE_BYTES_MAX, Stored};
    use crate::reseal::ResealStep;
    use crate::store::{DiskOptions, Store};
    use crate::tenant_store::TenantStore;
    use crate::tenant_store::tests::{Counting, tenant_in};
    use crate::tenants::Tenants;
    use crate::transfer::migrate;

    struct Still;
    impl Clock for Still {
        fn now(&self) -> jiff::Timestamp {
            jiff::Timestamp::UNIX_EPOCH
        }
        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }
    }

    fn areas() -> Vec<(&'static str, Sealing)> {
        OWN.iter().copied().chain([("kv", USUAL), ("secret-about", USUAL)]).collect()
    }

    /// What lies under a key, and the key's stored form.
    fn lying(store: &TenantStore, key: &Key) -> (Vec<u8>, Vec<u8>) {
        let stored_key = store.seal(key).unwrap();
        let bytes = store.engine().get(&stored_key).unwrap().unwrap();
        (stored_key, bytes)
    }

    /// Lays a record there as it was written before its area had a purpose of its own.
    fn lay_older(store: &TenantStore, key: &Key, value: &[u8], revision: u64) {
        let stored_key = store.seal(key).unwrap();
        let context = Context { tenant: store.label(), store: "record", key: &stored_key, revision };
        let sealed = store.keys().seal(Purpose::Record, &context, value, &Counting(AtomicU8::new(50))).unwrap();
        let whole = [&[1_u8][..], &revision.to_be_bytes()[..], sealed.as_slice()].concat();
        store.engine().apply(vec![Write { key: stored_key, value: Some(whole) }]).unwrap();
    }

    /// Seals a value as programs did that made directories of version 2: the key is of the place too. In the words of the formats,
    /// without the room that opens it.
    fn seal_of_place(tenant_key: [u8; 32], context: &Context<'_>, value: &[u8]) -> Vec<u8> {
        let expand = |key: [u8; 32], info: &[&[u8]]| {
            let (from, mut to) = (Prk::new_less_safe(HKDF_SHA256, &key), [0_u8; 32]);
            from.expand(info, HKDF_SHA256).unwrap().fill(&mut to).unwrap();
            to
        };
        let mut place = Vec::new();
        for field in [context.tenant.as_bytes(), context.store.as_bytes(), context.key] {
            place.extend_from_slice(&(field.len() as u64).to_be_bytes());
            place.extend_from_slice(field);
        }
        place.extend_from_slice(&context.revision.to_be_bytes());
        let (head, salt) = (b"R\x01", [0x5A_u8; 32]);
        let purpose_key = expand(tenant_key, &[&b"ringfence/tenant/v1/seal/"[..], &b"record"[..]]);
        let key = expand(purpose_key, &[&b"ringfence/record/v1"[..], &salt[..], &place[..]]);
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).unwrap());
        let (mut body, bound) = (value.to_vec(), [&head[..], &place[..]].concat());
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        let tag = key.seal_in_place_separate_tag(nonce, Aad::from(&bound), &mut body).unwrap();
        [&head[..], &salt[..], &body[..], tag.as_ref()].concat()
    }

    /// Lays a record there as such a program did, under the revision that the record there has.
    fn lay_of_version_2(store: &TenantStore, key: &Key, value: &[u8]) {
        let (stored_key, whole) = lying(store, key);
        let revision = Stored::parse(&whole).unwrap().revision;
        let context = Context { tenant: store.label(), store: "record", key: &stored_key, revision };
        // The keys of these tests are one byte again and again.
        let mut all = (0..=u8::MAX).map(|byte| seal_of_place([byte; 32], &context, value));
        let opens = |sealed: &Vec<u8>| store.keys().open(Purpose::Record, &context, sealed).is_ok();
        let sealed = all.find(opens).expect("none of them opens");
        let whole = [&[1_u8][..], &revision.to_be_bytes()[..], sealed.as_slice()].concat();
        store.engine().commit(vec![Write { key: stored_key, value: Some(whole) }]).unwrap();
    }

    #[tokio::test]
    async fn a_directory_of_version_2_opens_with_its_records_once_it_was_moved_too_and_is_of_this_version_then() {
        for (backend, other) in [(Backend::Sled, Backend::Redb), (Backend::Redb, Backend::Sled)] {
            let directory = tempfile::tempdir().unwrap();
            let dir = directory.path().join("data");
            let options = |backend| DiskOptions { backend, cache_bytes: 4 << 20, free_bytes_min: 0 };
            let [left, written] = ["left", "written"].map(|name| Key::new(["kv", name]));
            let store = tenant_in(&Store::open(&dir, options(backend)).unwrap());
            for key in [&left, &written] {
                store.put(key, *b"new").await.unwrap();
                lay_of_version_2(&store, key, b"old");
            }
            let revision = store.get(&left).await.unwrap().unwrap().revision;
            store.store().close().await.unwrap();
            let format = dir.join("FORMAT");
            std::fs::write(&format, format!("version 2\nbackend {backend}\n")).unwrap();
            for (round, now) in [backend, backend, other].into_iter().enumerate() {
                if now == other {
                    std::fs::write(&format, format!("version 2\nbackend {backend}\n")).unwrap();
                    migrate(&dir, backend, other, 4 << 20, &mut |_| ()).unwrap();
                    assert_eq!(std::fs::read_to_string(&format).unwrap(), format!("version 2\nbackend {other}\n"));
                }
                let store = tenant_in(&Store::open(&dir, options(now)).unwrap());
                assert_eq!(std::fs::read_to_string(&format).unwrap(), format!("version 3\nbackend {now}\n"));
                let record = store.get(&left).await.unwrap().unwrap();
                assert_eq!((record.value.as_slice(), record.revision), (&b"old"[..], revision), "round {round}");
                // Behind its kind and its revision.
                assert_eq!(lying(&store, &left).1[9], b'R', "nobody wrote it");
                store.put(&written, *b"again").await.unwrap();
                assert_eq!(lying(&store, &written).1[9], b'T', "round {round}");
                store.store().close().await.unwrap();
            }
        }
    }

    #[test]
    fn no_kind_stands_for_two_things() {
        // The log of whom a tenant was restored from is a log like its own.
        let others = OWN.iter().filter(|(first, _)| *first != "history");
        let all = || std::iter::once(USUAL).chain(others.clone().map(|(_, own)| *own));
        let kinds: Vec<u8> = all().flat_map(|sealing| [sealing.inside, sealing.in_file]).collect();
        assert_eq!(kinds, (1..=14).collect::<Vec<u8>>(), "they are on disk");
        for kind in 0..=u8::MAX {
            assert_eq!(Sealing::of_kind(kind).is_some(), kinds.contains(&kind), "{kind}");
        }
        let mut purposes: Vec<String> = all().map(|sealing| sealing.purpose.to_string()).collect();
        purposes.sort_unstable();
        purposes.dedup();
        assert_eq!(purposes.len(), OWN.len());
    }

    #[tokio::test]
    async fn a_record_opens_under_the_purpose_of_its_area_alone_and_as_no_other_kind() {
        let store = tenant_in(&Store::memory());
        for (first, sealing) in areas() {
            for (name, bytes_count, word) in [("small", 5, "record"), ("large", INLINE_BYTES_MAX + 1, "file")] {
                let (key, value) = (Key::new([first, name]), vec![7_u8; bytes_count]);
                store.put(&key, value.clone()).await.unwrap();
                assert_eq!(store.get(&key).await.unwrap().unwrap().value.as_slice(), value);
                let (stored_key, whole) = lying(&store, &key);
                let kind = if word == "file" { sealing.in_file } else { sealing.inside };
                assert_eq!(whole[0], kind, "{first} {name}");
                let stored = Stored::parse(&whole).unwrap();
                let context = Context { tenant: "acme", store: word, key: &stored_key, revision: stored.revision };
                for purpose in Purpose::ALL {
                    let opened = store.keys().open(purpose, &context, stored.sealed_bytes());
                    assert_eq!(opened.is_ok(), purpose == sealing.purpose, "{first} {name} {purpose}");
                }
                for other in (0..=u8::MAX).filter(|other| *other != kind) {
                    let altered = [&[other][..], &whole[1..]].concat();
                    let opened = Stored::parse(&altered).unwrap().open(store.keys(), &stored_key);
                    assert!(matches!(opened, Err(StoreError::Damaged)), "{first} {name} as kind {other}");
                }
            }
        }
    }

    #[tokio::test]
    async fn an_older_record_opens_and_gets_the_kind_of_its_area_when_it_is_written_or_sealed_anew() {
        let directory = tempfile::tempdir().unwrap();
        let entropy = Arc::new(Counting(AtomicU8::new(1)));
        let root = RootKey::open_or_create(&RootKeyUri::File(directory.path().join("root.key")), &*entropy).unwrap();
        let tenants = Tenants::open(Store::memory(), Arc::new(root), entropy, Arc::new(Still)).await.unwrap();
        let acme: TenantId = "acme".parse().unwrap();
        tenants.create(&acme, "Acme").await.unwrap();
        let store = tenants.open_tenant(&acme).unwrap();
        let kind = |key: &Key| lying(&store, key).1[0];
        for (first, sealing) in areas() {
            let [written, left] = ["written", "left"].map(|name| Key::new([first, name]));
            for key in [&written, &left] {
                lay_older(&store, key, b"value", 1);
                assert_eq!(store.get(key).await.unwrap().unwrap().value.as_slice(), b"value");
            }
            store.put(&written, *b"value").await.unwrap();
            assert_eq!((kind(&written), kind(&left)), (sealing.inside, 1), "{first}");
        }
        // Any rotation has all that is not as it would be written now sealed anew.
        tenants.rotate_key(&acme, Some(Purpose::Log)).await.unwrap();
        while tenants.reseal_step(&acme).await.unwrap() != ResealStep::Done {}
        for (first, sealing) in areas() {
            let left = Key::new([first, "left"]);
            assert_eq!(kind(&left), sealing.inside, "{first}");
            let record = store.get(&left).await.unwrap().unwrap();
            assert_eq!((record.value.as_slice(), record.revision), (&b"value"[..], 1));
        }
    }
}
