//! The keys of one tenant: purpose keys derived from the versions of its tenant key, and the acts that use them.
//!
//! Must never give a key out: callers hand in plaintext and context, and get ciphertext, or the other way round. Must never
//! seal or open once closed: closing takes effect for every clone, at the next call.
//!
//! A tenant key has versions, 1 to 255, each 32 random bytes; sealed things say in their second byte which one made them.
//! New things are sealed under the newest version that covers their purpose, old ones stay readable. Derivation, all
//! HKDF-Expand-SHA-256 over a version's bytes: seal key of a purpose "ringfence/tenant/v1/seal/" || purpose (32 bytes), MAC
//! key "ringfence/tenant/v1/mac/" || purpose (32 bytes), name key "ringfence/tenant/v1/siv/name" (64 bytes).
//!
//! LIMIT: names and MACs are looked up by their bytes, so they stay under version 1 for the tenant's whole life; a copy
//! into a new tenant is what changes them.

use std::fmt;
use std::sync::Arc;

use aes_siv::KeyInit;
use aes_siv::siv::Aes256Siv;
use arc_swap::ArcSwap;
use ringfence_core::Entropy;
use zeroize::{Zeroize, Zeroizing};

use crate::chunk::ChunkOpener;
use crate::context::{Context, Purpose};
use crate::derive::{DerivingKey, KeyBytes, MacKey, expand, mac};
use crate::error::KeysError;
use crate::locked::Locked;
use crate::record;
use crate::stream::{Keys, StreamOpener, StreamSealer};

const SEAL_LABEL: &[u8] = b"ringfence/tenant/v1/seal/";
const MAC_LABEL: &[u8] = b"ringfence/tenant/v1/mac/";
const NAME_LABEL: &[u8] = b"ringfence/tenant/v1/siv/name";
const NAME_KEY_BYTES: usize = 64;
/// The version that names and MACs are under, and that every tenant has.
pub(crate) const FIRST_VERSION: u8 = 1;

/// The keys of one tenant. Cheap to clone; all clones see a rotation, and a closing, at once. Zeroed when closed or when
/// the last clone goes.
#[derive(Clone)]
pub struct TenantKeys(Arc<Inner>);

struct Inner {
    tenant: Box<str>,
    state: ArcSwap<State>,
}

enum State {
    Open(Locked<Ring>),
    Closed(Closed),
}

/// Why keys are closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// Someone disabled them; they can be enabled again.
    Disabled,
    /// The provider that the tenant chose for itself does not open them now.
    Refused,
    /// They are destroyed.
    Destroyed,
}

/// One version of a tenant key, unwrapped.
pub(crate) struct OpenVersion {
    pub(crate) version: u8,
    /// What it is for; everything when none.
    pub(crate) purpose: Option<Purpose>,
    pub(crate) key: KeyBytes,
}

/// The keys of all versions, derived.
struct Ring {
    first: VersionKeys,
    /// The later ones, ascending.
    later: Vec<Locked<VersionKeys>>,
    macs: [KeyBytes; Purpose::ALL.len()],
    segment: KeyBytes<NAME_KEY_BYTES>,
}

struct VersionKeys {
    version: u8,
    purpose: Option<Purpose>,
    seals: [DerivingKey; Purpose::ALL.len()],
}

/// Seals names of one tenant. Zeroed on drop.
pub struct NameSealer(Aes256Siv);

// === impl Ring ===

impl Ring {
    fn derive(versions: &[OpenVersion]) -> Result<Self, KeysError> {
        let first = versions.iter().find(|version| version.version == FIRST_VERSION).ok_or(KeysError::NotAuthentic)?;
        let later = versions.iter().filter(|version| version.version != FIRST_VERSION);
        let mut later =
            later.map(|open| VersionKeys::derive(open).map(Locked::new)).collect::<Result<Vec<_>, KeysError>>()?;
        later.sort_by_key(|keys| keys.version);
        Ok(Self {
            first: VersionKeys::derive(first)?,
            later,
            macs: of_each_purpose(&first.key, MAC_LABEL)?,
            segment: expand(first.key.as_slice(), &[NAME_LABEL])?,
        })
    }

    /// The newest version for a purpose and its key.
    fn newest(&self, purpose: Purpose) -> Result<(u8, &DerivingKey), KeysError> {
        let keys = self.versions().rev().find(|keys| keys.covers(purpose)).ok_or(KeysError::Cipher)?;
        Ok((keys.version, keys.seal(purpose)?))
    }

    /// The key that a thing of this version was sealed under.
    fn of(&self, purpose: Purpose, version: u8) -> Result<&DerivingKey, KeysError> {
        let keys = self.versions().find(|keys| keys.version == version && keys.covers(purpose));
        keys.ok_or(KeysError::NotAuthentic)?.seal(purpose)
    }

    /// Ascending.
    fn versions(&self) -> impl DoubleEndedIterator<Item = &VersionKeys> {
        std::iter::once(&self.first).chain(self.later.iter().map(|keys| &**keys))
    }
}

impl Zeroize for Ring {
    fn zeroize(&mut self) {
        self.first.zeroize();
        self.later.clear();
        self.macs.iter_mut().for_each(Zeroize::zeroize);
        self.segment.zeroize();
    }
}

impl Zeroize for VersionKeys {
    fn zeroize(&mut self) {
        self.seals.iter_mut().for_each(Zeroize::zeroize);
    }
}

impl VersionKeys {
    fn derive(open: &OpenVersion) -> Result<Self, KeysError> {
        let OpenVersion { version, purpose, ref key } = *open;
        let seals = of_each_purpose(key, SEAL_LABEL)?.each_ref().map(|key| DerivingKey::new(key.as_slice()));
        Ok(Self { version, purpose, seals })
    }
    fn covers(&self, purpose: Purpose) -> bool {
        self.purpose.is_none_or(|only| only == purpose)
    }
    fn seal(&self, purpose: Purpose) -> Result<&DerivingKey, KeysError> {
        self.seals.get(purpose.index()).ok_or(KeysError::Cipher)
    }
}

fn of_each_purpose(key: &KeyBytes, label: &[u8]) -> Result<[KeyBytes; Purpose::ALL.len()], KeysError> {
    let mut out = std::array::from_fn(|_| Zeroizing::new([0_u8; 32]));
    for (to, purpose) in out.iter_mut().zip(Purpose::ALL) {
        *to = expand(key.as_slice(), &[label, purpose.label()])?;
    }
    Ok(out)
}

// === impl TenantKeys ===

impl TenantKeys {
    pub(crate) fn derive(tenant: &str, versions: &[OpenVersion]) -> Result<Self, KeysError> {
        let state = ArcSwap::from_pointee(State::Open(Locked::new(Ring::derive(versions)?)));
        Ok(Self(Arc::new(Inner { tenant: tenant.into(), state })))
    }

    /// Keys that are not at hand; [`TenantKeys::adopt`] may change that.
    pub fn closed(tenant: &str, why: Closed) -> Self {
        Self(Arc::new(Inner { tenant: tenant.into(), state: ArcSwap::from_pointee(State::Closed(why)) }))
    }

    /// Whose keys these are; the word that goes into [`Context::tenant`].
    pub fn tenant(&self) -> &str {
        &self.0.tenant
    }

    /// Puts what was unwrapped for the same tenant into force here, for all clones: opens closed keys too. Asks no provider.
    /// Another tenant's keys are refused with [`KeysError::NotAuthentic`]; destroyed ones stay destroyed.
    pub fn adopt(&self, unwrapped: &Self) -> Result<(), KeysError> {
        if self.0.tenant != unwrapped.0.tenant {
            return Err(KeysError::NotAuthentic);
        }
        self.change(unwrapped.0.state.load_full())
    }

    /// Forgets the key bytes, for all clones: sealing and opening fail with [`KeysError::Closed`] from now on.
    pub fn close(&self, why: Closed) {
        // What is destroyed already needs no other reason.
        let _ = self.change(Arc::new(State::Closed(why)));
    }

    /// Whether the keys can be used, and if not, why.
    pub fn check(&self) -> Result<(), KeysError> {
        match &**self.0.state.load() {
            State::Open(_) => Ok(()),
            State::Closed(why) => Err(KeysError::Closed(*why)),
        }
    }

    /// The newest version for a purpose: what is sealed now is under it.
    pub fn newest_version(&self, purpose: Purpose) -> Result<u8, KeysError> {
        self.with(|ring| ring.newest(purpose).map(|(version, _)| version))
    }

    /// Seals a value for its place. 50 bytes longer than the value ([`crate::RECORD_OVERHEAD_BYTES`]); up to 64 GiB.
    pub fn seal(
        &self,
        purpose: Purpose,
        context: &Context<'_>,
        plaintext: &[u8],
        entropy: &dyn Entropy,
    ) -> Result<Vec<u8>, KeysError> {
        self.with(|ring| {
            let (version, key) = ring.newest(purpose)?;
            record::seal(key, version, context, plaintext, entropy)
        })
    }

    /// Opens what [`TenantKeys::seal`] made for the same purpose and context, or fails with [`KeysError::NotAuthentic`].
    pub fn open(
        &self,
        purpose: Purpose,
        context: &Context<'_>,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, KeysError> {
        self.with(|ring| record::open(ring.of(purpose, record::version(sealed)?)?, context, sealed))
    }

    /// What seals names, for several at once: setting up the cipher costs as much as sealing one.
    pub fn names(&self) -> Result<NameSealer, KeysError> {
        self.with(siv).map(NameSealer)
    }

    /// Seals one segment of a key name below `parent`: AES-256-SIV (RFC 5297) with the parent as associated data.
    /// The same segment below the same parent always gives the same bytes, 16 longer than the segment, so that a stored
    /// name can be looked up and listed without showing it. LIMIT: equal names below one parent, and lengths, can be seen.
    pub fn seal_name(&self, parent: &[u8], segment: &[u8]) -> Result<Vec<u8>, KeysError> {
        self.names()?.seal(parent, segment)
    }

    /// Opens what [`TenantKeys::seal_name`] made below the same parent.
    pub fn open_name(&self, parent: &[u8], sealed: &[u8]) -> Result<Vec<u8>, KeysError> {
        self.with(|ring| siv(ring)?.decrypt([parent], sealed).map_err(|_| KeysError::NotAuthentic))
    }

    /// HMAC-SHA-256 of `data` under this tenant's MAC key of a purpose: file names, pseudonyms.
    pub fn mac(&self, purpose: Purpose, data: &[u8]) -> Result<[u8; 32], KeysError> {
        self.with(|ring| Ok(mac(ring.macs.get(purpose.index()).ok_or(KeysError::Cipher)?.as_slice(), data)))
    }

    /// What [`TenantKeys::mac`] uses, for several values at once. It outlives the keys' being closed: keep it no longer than one
    /// batch of work takes.
    pub fn macs(&self, purpose: Purpose) -> Result<MacKey, KeysError> {
        self.with(|ring| Ok(MacKey::new(ring.macs.get(purpose.index()).ok_or(KeysError::Cipher)?.as_slice())))
    }

    /// Starts sealing a stream of any length for its place.
    pub fn stream_sealer(
        &self,
        purpose: Purpose,
        context: &Context<'_>,
        entropy: &dyn Entropy,
    ) -> Result<StreamSealer, KeysError> {
        self.with(|ring| {
            let (version, key) = ring.newest(purpose)?;
            StreamSealer::new(key, version, context, entropy)
        })
    }

    /// Starts opening a stream that was sealed for this place.
    pub fn stream_opener(&self, purpose: Purpose, context: &Context<'_>) -> StreamOpener {
        StreamOpener::new(Keys::Tenant(self.clone(), purpose), context)
    }

    /// Starts opening single chunks of a stream that was sealed for this place: `head` is its first
    /// [`crate::STREAM_HEAD_BYTES`] bytes, `content_bytes` the length of its content as an authentic record has it.
    pub fn chunk_opener(
        &self,
        purpose: Purpose,
        context: &Context<'_>,
        head: &[u8],
        content_bytes: u64,
    ) -> Result<ChunkOpener, KeysError> {
        ChunkOpener::new(self, purpose, context, head, content_bytes)
    }

    /// The key of a stream of this version, for the time it takes to derive the stream's own.
    pub(crate) fn with_key<T>(
        &self,
        purpose: Purpose,
        version: u8,
        act: impl FnOnce(&DerivingKey) -> Result<T, KeysError>,
    ) -> Result<T, KeysError> {
        self.with(|ring| act(ring.of(purpose, version)?))
    }

    fn with<T>(&self, act: impl FnOnce(&Ring) -> Result<T, KeysError>) -> Result<T, KeysError> {
        match &**self.0.state.load() {
            State::Open(ring) => act(ring),
            State::Closed(why) => Err(KeysError::Closed(*why)),
        }
    }

    fn change(&self, to: Arc<State>) -> Result<(), KeysError> {
        let destroyed = |state: &State| matches!(state, State::Closed(Closed::Destroyed));
        let before = self.0.state.rcu(|now| if destroyed(now) { Arc::clone(now) } else { Arc::clone(&to) });
        if destroyed(&before) { Err(KeysError::Closed(Closed::Destroyed)) } else { Ok(()) }
    }
}

// === impl NameSealer ===

impl NameSealer {
    /// As [`TenantKeys::seal_name`].
    pub fn seal(&mut self, parent: &[u8], segment: &[u8]) -> Result<Vec<u8>, KeysError> {
        self.0.encrypt([parent], segment).map_err(|_| KeysError::TooLong)
    }
}

impl fmt::Debug for NameSealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<names>")
    }
}

fn siv(ring: &Ring) -> Result<Aes256Siv, KeysError> {
    Aes256Siv::new_from_slice(ring.segment.as_slice()).map_err(|_| KeysError::Cipher)
}

impl fmt::Debug for TenantKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<tenant keys>")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    /// Not random at all: golden vectors need known salts.
    pub(crate) struct Fixed(pub u8);
    impl Entropy for Fixed {
        fn fill(&self, into: &mut [u8]) {
            into.fill(self.0);
        }
    }

    pub(crate) fn keys(tenant: &str, seed: u8) -> TenantKeys {
        of(tenant, &[version(1, None, seed)])
    }

    fn of(tenant: &str, versions: &[OpenVersion]) -> TenantKeys {
        TenantKeys::derive(tenant, versions).unwrap()
    }

    fn version(version: u8, purpose: Option<Purpose>, seed: u8) -> OpenVersion {
        OpenVersion { version, purpose, key: Zeroizing::new([seed; 32]) }
    }

    const HERE: Context<'_> = Context { tenant: "acme", store: "kv", key: b"visits", revision: 7 };

    #[test]
    fn names_and_macs_are_golden() {
        let keys = keys("acme", 1);
        assert_eq!(HEXLOWER.encode(&keys.seal_name(b"parent", b"visits").unwrap()), GOLDEN_NAME);
        assert_eq!(HEXLOWER.encode(&keys.mac(Purpose::Blob, b"x").unwrap()), GOLDEN_MAC);
        let several = keys.macs(Purpose::Blob).unwrap();
        assert_eq!(
            [HEXLOWER.encode(&several.mac(b"x")), HEXLOWER.encode(&several.mac(b"x"))],
            [GOLDEN_MAC, GOLDEN_MAC]
        );
    }
    /// Made by another implementation (the Python package `cryptography`) from the words of the header.
    const GOLDEN_NAME: &str = "3b58d0d43f0aeed3722b071a4d494d4b1bf089e59d25";
    const GOLDEN_MAC: &str = "27a8595ca8f97b068961818ebdd3e951a9eabb7592dadb0f401648f44cac6f89";

    #[test]
    fn what_a_purpose_seals_is_golden() {
        let keys = keys("acme", 1);
        for (purpose, golden) in GOLDEN_SEALED {
            let sealed = keys.seal(purpose, &HERE, b"forty-two", &Fixed(0xA5)).unwrap();
            assert_eq!(HEXLOWER.encode(&sealed), golden, "{purpose}");
        }
    }
    /// Made as those above.
    const GOLDEN_SEALED: [(Purpose, &str); 2] = [
        (
            Purpose::Record,
            "5401a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a58d9f3fa56f6ab9d3afaadf3a0c6606862564936755c74078f9",
        ),
        (
            Purpose::Secret,
            "5401a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a534c6cd7b5a4de102668f0ee248f8c6c304fb1524d05b1db138",
        ),
    ];

    #[test]
    fn the_name_cipher_agrees_with_rfc_5297_construction() {
        // A published vector for a 512-bit key is missing from the RFC; the 256-bit one pins the mode itself.
        use aes_siv::siv::Aes128Siv;
        let key = HEXLOWER.decode(b"fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff").unwrap();
        let parent = HEXLOWER.decode(b"101112131415161718191a1b1c1d1e1f2021222324252627").unwrap();
        let plain = HEXLOWER.decode(b"112233445566778899aabbccddee").unwrap();
        let sealed = Aes128Siv::new_from_slice(&key).unwrap().encrypt([&parent], &plain).unwrap();
        assert_eq!(HEXLOWER.encode(&sealed), "85632d07c6e8f37f950acd320a2ecc9340c02b9690c4dc04daef7f6afe5c");
    }

    #[test]
    fn a_purpose_cannot_open_what_another_sealed() {
        let keys = keys("acme", 1);
        let mut macs = Vec::new();
        for purpose in Purpose::ALL {
            let sealed = keys.seal(purpose, &HERE, b"v", &Fixed(9)).unwrap();
            for other in Purpose::ALL {
                assert_eq!(keys.open(other, &HERE, &sealed).is_ok(), purpose == other, "{purpose:?} {other:?}");
            }
            macs.push(keys.mac(purpose, b"v").unwrap());
        }
        macs.sort_unstable();
        macs.dedup();
        assert_eq!(macs.len(), Purpose::ALL.len());
    }

    #[test]
    fn a_tenant_cannot_open_what_another_sealed() {
        let (acme, evil) = (keys("acme", 1), keys("evil", 2));
        let sealed = acme.seal(Purpose::Record, &HERE, b"v", &Fixed(9)).unwrap();
        assert!(matches!(evil.open(Purpose::Record, &HERE, &sealed), Err(KeysError::NotAuthentic)));
        let name = acme.seal_name(b"p", b"visits").unwrap();
        assert!(evil.open_name(b"p", &name).is_err());
        assert_ne!(name, evil.seal_name(b"p", b"visits").unwrap());
    }

    #[test]
    fn a_name_is_bound_to_its_parent_and_every_bit() {
        let keys = keys("acme", 1);
        let sealed = keys.seal_name(b"kv/hello", b"visits").unwrap();
        assert_eq!(keys.open_name(b"kv/hello", &sealed).unwrap(), b"visits");
        assert!(keys.open_name(b"kv/hallo", &sealed).is_err());
        for bit in 0..sealed.len() * 8 {
            let mut altered = sealed.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(keys.open_name(b"kv/hello", &altered).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(keys.open_name(b"kv/hello", &sealed[..length]).is_err());
        }
    }

    #[test]
    fn after_a_rotation_every_clone_seals_under_the_new_version_and_opens_both() {
        let keys = keys("acme", 1);
        let clone = keys.clone();
        let old = keys.seal(Purpose::Record, &HERE, b"old", &Fixed(9)).unwrap();
        let name = keys.seal_name(b"p", b"visits").unwrap();
        let mac = keys.mac(Purpose::Audit, b"x").unwrap();
        keys.adopt(&of("acme", &[version(2, None, 2), version(1, None, 1)])).unwrap();
        let new = clone.seal(Purpose::Record, &HERE, b"new", &Fixed(9)).unwrap();
        assert_eq!((old[1], new[1]), (1, 2));
        assert_eq!(clone.open(Purpose::Record, &HERE, &old).unwrap().as_slice(), b"old");
        assert_eq!(keys.open(Purpose::Record, &HERE, &new).unwrap().as_slice(), b"new");
        assert_eq!(clone.seal_name(b"p", b"visits").unwrap(), name, "names stay where they are");
        assert_eq!(clone.mac(Purpose::Audit, b"x").unwrap(), mac);
        assert!(TenantKeys::derive("acme", &[version(2, None, 2)]).is_err(), "the first version is never missing");
    }

    #[test]
    fn a_version_for_one_purpose_changes_that_purpose_alone() {
        let keys = keys("acme", 1);
        keys.adopt(&of(
            "acme",
            &[version(1, None, 1), version(2, Some(Purpose::Log), 2), version(3, Some(Purpose::Blob), 3)],
        ))
        .unwrap();
        for purpose in Purpose::ALL {
            let expected = match purpose {
                Purpose::Log => 2,
                Purpose::Blob => 3,
                _ => 1,
            };
            let sealed = keys.seal(purpose, &HERE, b"v", &Fixed(9)).unwrap();
            assert_eq!(sealed[1], expected, "{purpose:?}");
            assert!(keys.open(purpose, &HERE, &sealed).is_ok());
            assert_eq!(keys.newest_version(purpose).unwrap(), expected);
        }
    }

    #[test]
    fn a_record_that_claims_another_version_is_refused() {
        let keys = keys("acme", 1);
        keys.adopt(&of("acme", &[version(1, None, 1), version(2, None, 2), version(3, Some(Purpose::Log), 3)]))
            .unwrap();
        let sealed = keys.seal(Purpose::Record, &HERE, b"v", &Fixed(9)).unwrap();
        for claimed in (0..=u8::MAX).filter(|claimed| *claimed != 2) {
            let mut altered = sealed.clone();
            altered[1] = claimed;
            assert!(matches!(keys.open(Purpose::Record, &HERE, &altered), Err(KeysError::NotAuthentic)), "{claimed}");
        }
        // Two versions with the same bytes would still not open each other's: the version is authenticated too.
        keys.adopt(&of("acme", &[version(1, None, 1), version(2, None, 2), version(4, None, 2)])).unwrap();
        let mut altered = sealed.clone();
        altered[1] = 4;
        assert!(keys.open(Purpose::Record, &HERE, &sealed).is_ok());
        assert!(keys.open(Purpose::Record, &HERE, &altered).is_err());
        for bit in 0..sealed.len() * 8 {
            let mut altered = sealed.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(keys.open(Purpose::Record, &HERE, &altered).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn closed_keys_do_nothing_in_any_clone_until_they_are_opened_again_and_destroyed_ones_never_are() {
        let keys = keys("acme", 1);
        let clone = keys.clone();
        let sealed = keys.seal(Purpose::Record, &HERE, b"v", &Fixed(9)).unwrap();
        keys.close(Closed::Disabled);
        for error in [
            clone.open(Purpose::Record, &HERE, &sealed).err(),
            clone.seal(Purpose::Record, &HERE, b"v", &Fixed(9)).err(),
            clone.seal_name(b"p", b"s").err(),
            clone.mac(Purpose::Audit, b"s").err(),
            clone.macs(Purpose::Audit).err(),
            clone.stream_sealer(Purpose::Blob, &HERE, &Fixed(1)).err(),
            clone.check().err(),
        ] {
            assert!(matches!(error, Some(KeysError::Closed(Closed::Disabled))), "{error:?}");
        }
        let (again, others) = (of("acme", &[version(1, None, 1)]), of("bolt", &[version(1, None, 1)]));
        assert!(matches!(keys.adopt(&others), Err(KeysError::NotAuthentic)));
        keys.adopt(&again).unwrap();
        // What it was taken from may be let go of.
        again.close(Closed::Disabled);
        assert_eq!(clone.open(Purpose::Record, &HERE, &sealed).unwrap().as_slice(), b"v");
        keys.close(Closed::Destroyed);
        assert!(matches!(keys.adopt(&of("acme", &[version(1, None, 1)])), Err(KeysError::Closed(Closed::Destroyed))));
        keys.close(Closed::Disabled);
        assert!(matches!(clone.check(), Err(KeysError::Closed(Closed::Destroyed))));
    }

    #[test]
    fn debug_prints_no_key() {
        assert_eq!(format!("{:?}", keys("acme", 1)), "<tenant keys>");
    }

    proptest! {
        #[test]
        fn names_survive(parent in prop::collection::vec(any::<u8>(), 0..80), segment in prop::collection::vec(any::<u8>(), 0..80)) {
            let keys = keys("acme", 1);
            let sealed = keys.seal_name(&parent, &segment).unwrap();
            prop_assert_eq!(sealed.len(), segment.len() + 16);
            prop_assert_eq!(keys.open_name(&parent, &sealed).unwrap(), segment);
        }
    }
}
