//! Sealed streams: contents of any length in chunks, with order, length and end authenticated.
//!
//! The STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár: Online Authenticated-Encryption and its Nonce-Reuse
//! Misuse-Resistance, 2015) over AES-256-GCM. Format: magic `S` (1 byte), version of the tenant key (1 byte, from 1), salt (32 bytes), then chunks
//! of 64 KiB of ciphertext and a 16-byte tag each; only the last may be shorter. An empty stream is one empty chunk, and a
//! stream that is not empty never ends in one, so that each content has one form.
//! Key: HKDF-Expand(purpose key, "ringfence/stream/v1" || salt || encoded context), fresh for each stream. Nonce: 7 zero
//! bytes, the chunk's number as 4 bytes big-endian, 1 for the last chunk and 0 before. Associated data: as for records.
//!
//! Must never hand out a byte of a chunk that did not authenticate. What came before a missing end is authentic but
//! incomplete: a reader acts on it only after [`StreamOpener::finish`] said yes.

use std::fmt;

use ring::aead::{Aad, LessSafeKey, Nonce};
use ringfence_core::Entropy;
use zeroize::Zeroizing;

use crate::context::{Context, Purpose};
use crate::derive::{DerivingKey, KEY_BYTES, KeyBytes};
use crate::error::KeysError;
use crate::record::{SALT_BYTES, TAG_BYTES, cipher};
use crate::tenant::TenantKeys;

/// Plaintext bytes of every chunk but the last.
pub const CHUNK_BYTES: usize = 64 << 10;

/// What authenticates a chunk, and lies behind it.
pub type ChunkTag = [u8; TAG_BYTES];

pub(crate) const MAGIC: u8 = b'S';
pub(crate) const HEADER_BYTES: usize = 2 + SALT_BYTES;
pub(crate) const SEALED_CHUNK_BYTES: usize = CHUNK_BYTES + TAG_BYTES;
const LABEL: &[u8] = b"ringfence/stream/v1";
/// What a stream says under a key that is not a tenant's and has no versions.
pub(crate) const OWN_VERSION: u8 = 1;

/// How long a sealed stream of `plaintext_bytes` is.
pub const fn sealed_stream_bytes(plaintext_bytes: u64) -> u64 {
    let chunks = if plaintext_bytes == 0 { 1 } else { plaintext_bytes.div_ceil(CHUNK_BYTES as u64) };
    HEADER_BYTES as u64 + plaintext_bytes + chunks * TAG_BYTES as u64
}

/// Whether a sealed stream can be so long: most cuts show in the length alone.
pub const fn is_sealed_stream_bytes(bytes: u64) -> bool {
    let Some(body) = bytes.checked_sub(HEADER_BYTES as u64) else { return false };
    let rest = body % SEALED_CHUNK_BYTES as u64;
    body == TAG_BYTES as u64 || (body > 0 && (rest == 0 || rest > TAG_BYTES as u64))
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Inner,
    Last,
}

/// The key of one stream and how far it has come.
pub(crate) struct Chunks {
    key: LessSafeKey,
    associated: Vec<u8>,
    pub(crate) next: u32,
}

impl Chunks {
    pub(crate) fn new(purpose_key: &DerivingKey, version: u8, salt: &[u8], context: &[u8]) -> Result<Self, KeysError> {
        let key = cipher(purpose_key.expand::<KEY_BYTES>(&[LABEL, salt, context])?.as_slice())?;
        Ok(Self { key, associated: [&[MAGIC, version], context].concat(), next: 0 })
    }

    /// INVARIANT: each number is used once, and the last flag parts the last chunk's nonce from an inner one's.
    fn nonce(&mut self, place: Place) -> Result<Nonce, KeysError> {
        let [a, b, c, d] = self.next.to_be_bytes();
        // LIMIT: 2^32 - 1 chunks, 256 TiB.
        self.next = self.next.checked_add(1).ok_or(KeysError::TooLong)?;
        Ok(Nonce::assume_unique_for_key([0, 0, 0, 0, 0, 0, 0, a, b, c, d, u8::from(place == Place::Last)]))
    }

    /// Appends a sealed chunk, encrypted where it will lie: one copy less of all that is ever stored.
    fn seal(&mut self, plaintext: &[u8], place: Place, out: &mut Vec<u8>) -> Result<(), KeysError> {
        let start = out.len();
        out.extend_from_slice(plaintext);
        match self.seal_in_place(out.get_mut(start..).unwrap_or_default(), place) {
            Ok(tag) => {
                out.extend_from_slice(&tag);
                Ok(())
            }
            Err(error) => {
                // SECURITY: what is in `out` is on its way to the disk.
                out.truncate(start);
                Err(error)
            }
        }
    }

    /// Encrypts a chunk where it lies; the tag is what comes behind it.
    fn seal_in_place(&mut self, chunk: &mut [u8], place: Place) -> Result<ChunkTag, KeysError> {
        let nonce = self.nonce(place)?;
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(&self.associated), chunk)
            .map_err(|ring::error::Unspecified| KeysError::Cipher)?;
        tag.as_ref().try_into().map_err(|_| KeysError::Cipher)
    }

    pub(crate) fn open(&mut self, sealed: &mut [u8], place: Place, out: &mut Vec<u8>) -> Result<(), KeysError> {
        let nonce = self.nonce(place)?;
        let plaintext = self
            .key
            .open_in_place(nonce, Aad::from(&self.associated), sealed)
            .map_err(|ring::error::Unspecified| KeysError::NotAuthentic)?;
        out.extend_from_slice(plaintext);
        Ok(())
    }

    /// Opens the chunk that lies from `from` on to the start of `sealed`; gives its length there.
    pub(crate) fn open_to_start(&mut self, sealed: &mut [u8], from: usize, place: Place) -> Result<usize, KeysError> {
        let nonce = self.nonce(place)?;
        let plaintext = self
            .key
            .open_within(nonce, Aad::from(&self.associated), sealed, from..)
            .map_err(|ring::error::Unspecified| KeysError::NotAuthentic)?;
        Ok(plaintext.len())
    }
}

/// Seals a stream as it comes. Holds at most one chunk.
pub struct StreamSealer {
    chunks: Chunks,
    /// What the stream begins with, until it is written.
    head: Option<(u8, [u8; SALT_BYTES])>,
    held: Zeroizing<Vec<u8>>,
}

// === impl StreamSealer ===

impl StreamSealer {
    pub(crate) fn new(
        purpose_key: &DerivingKey,
        version: u8,
        context: &Context<'_>,
        entropy: &dyn Entropy,
    ) -> Result<Self, KeysError> {
        let mut salt = [0_u8; SALT_BYTES];
        entropy.fill(&mut salt);
        let chunks = Chunks::new(purpose_key, version, &salt, &context.encode())?;
        Ok(Self { chunks, head: Some((version, salt)), held: Zeroizing::new(Vec::with_capacity(CHUNK_BYTES)) })
    }

    /// Takes the next bytes of the content and appends what is ready of the sealed stream to `out`.
    pub fn push(&mut self, mut data: &[u8], out: &mut Vec<u8>) -> Result<(), KeysError> {
        self.head(out);
        while !data.is_empty() {
            // A full chunk waits for one more byte before it goes: only then is it known not to be the last.
            if self.held.len() == CHUNK_BYTES {
                self.chunks.seal(&self.held, Place::Inner, out)?;
                self.held.clear();
            }
            // What is followed by more here and now has nothing to wait for.
            if let Some((now, later)) = data.split_at_checked(CHUNK_BYTES)
                && self.held.is_empty()
                && !later.is_empty()
            {
                self.chunks.seal(now, Place::Inner, out)?;
                data = later;
                continue;
            }
            let (now, later) = data.split_at_checked(CHUNK_BYTES - self.held.len()).unwrap_or((data, &[]));
            self.held.extend_from_slice(now);
            data = later;
        }
        Ok(())
    }

    /// As [`StreamSealer::push`], but seals whole chunks where they lie, for whoever has no more use for the content. What is
    /// ready of the sealed stream goes to `before`, then comes each chunk of `data` for which there is a tag, with the tag
    /// behind it. The rest of `data` waits here. On a failure nothing in `data` may be stored.
    pub fn push_in_place(&mut self, data: &mut [u8], before: &mut Vec<u8>) -> Result<Vec<ChunkTag>, KeysError> {
        self.head(before);
        let inner_bytes = match self.held.len() {
            // As in `push`, the last chunk waits for one more byte.
            0 | CHUNK_BYTES => data.len().saturating_sub(1) / CHUNK_BYTES * CHUNK_BYTES,
            // The chunks of the stream are not those of the content.
            _ => 0,
        };
        let (inner, rest) = data.split_at_mut_checked(inner_bytes).ok_or(KeysError::Cipher)?;
        if !inner.is_empty() && !self.held.is_empty() {
            self.chunks.seal(&self.held, Place::Inner, before)?;
            self.held.clear();
        }
        let mut tags = Vec::with_capacity(inner_bytes / CHUNK_BYTES);
        for chunk in inner.chunks_exact_mut(CHUNK_BYTES) {
            tags.push(self.chunks.seal_in_place(chunk, Place::Inner)?);
        }
        self.push(rest, before)?;
        Ok(tags)
    }

    /// Ends the stream and appends the rest of it to `out`.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(), KeysError> {
        self.head(out);
        self.chunks.seal(&self.held, Place::Last, out)
    }

    fn head(&mut self, out: &mut Vec<u8>) {
        if let Some((version, salt)) = self.head.take() {
            out.extend_from_slice(&[MAGIC, version]);
            out.extend_from_slice(&salt);
        }
    }
}

impl fmt::Debug for StreamSealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<stream sealer>")
    }
}

/// Opens a stream as it comes. Holds at most one chunk.
pub struct StreamOpener {
    state: State,
    held: Vec<u8>,
}

enum State {
    /// The header is not complete yet.
    Head { keys: Keys, context: Vec<u8> },
    /// Chunks are being opened.
    Body(Box<Chunks>),
    /// Something did not authenticate; nothing after it counts.
    Broken,
}

/// Where the key of a stream comes from.
pub(crate) enum Keys {
    /// The version of a tenant's key that the stream names.
    Tenant(TenantKeys, Purpose),
    /// A key that has one version, [`OWN_VERSION`].
    Own(KeyBytes),
}

// === impl Keys ===

impl Keys {
    fn chunks(&self, version: u8, salt: &[u8], context: &[u8]) -> Result<Chunks, KeysError> {
        match self {
            Self::Tenant(keys, purpose) => {
                keys.with_key(*purpose, version, |key| Chunks::new(key, version, salt, context))
            }
            Self::Own(key) if version == OWN_VERSION => {
                Chunks::new(&DerivingKey::new(key.as_slice()), version, salt, context)
            }
            Self::Own(_) => Err(KeysError::NotAuthentic),
        }
    }
}

// === impl StreamOpener ===

impl StreamOpener {
    pub(crate) fn new(keys: Keys, context: &Context<'_>) -> Self {
        Self { state: State::Head { keys, context: context.encode() }, held: Vec::new() }
    }

    /// Takes the next bytes of the sealed stream and appends the content that is authentic so far to `out`.
    pub fn push(&mut self, sealed: &[u8], out: &mut Vec<u8>) -> Result<(), KeysError> {
        let result = self.take(sealed, out);
        if result.is_err() {
            self.state = State::Broken;
        }
        result
    }

    /// Ends the stream: opens the last chunk into `out`, or fails when the stream was cut, extended or altered.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(), KeysError> {
        match &mut self.state {
            State::Body(chunks) => {
                // One form only: an empty chunk ends nothing but an empty stream.
                if self.held.len() == TAG_BYTES && chunks.next > 0 {
                    return Err(KeysError::NotAuthentic);
                }
                chunks.open(&mut self.held, Place::Last, out)
            }
            State::Head { .. } | State::Broken => Err(KeysError::NotAuthentic),
        }
    }

    fn take(&mut self, mut sealed: &[u8], out: &mut Vec<u8>) -> Result<(), KeysError> {
        if let State::Head { keys, context } = &self.state {
            let (now, later) = sealed.split_at_checked(HEADER_BYTES - self.held.len()).unwrap_or((sealed, &[]));
            self.held.extend_from_slice(now);
            sealed = later;
            if self.held.len() < HEADER_BYTES {
                return Ok(());
            }
            let Some((&[MAGIC, version], salt)) = self.held.split_first_chunk() else {
                return Err(KeysError::NotAuthentic);
            };
            let chunks = keys.chunks(version, salt, context)?;
            self.state = State::Body(Box::new(chunks));
            self.held.clear();
        }
        let State::Body(chunks) = &mut self.state else {
            return Err(KeysError::NotAuthentic);
        };
        while !sealed.is_empty() {
            if self.held.len() == SEALED_CHUNK_BYTES {
                chunks.open(&mut self.held, Place::Inner, out)?;
                self.held.clear();
            }
            let (now, later) = sealed.split_at_checked(SEALED_CHUNK_BYTES - self.held.len()).unwrap_or((sealed, &[]));
            self.held.extend_from_slice(now);
            sealed = later;
        }
        Ok(())
    }
}

impl fmt::Debug for StreamOpener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<stream opener>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Purpose;
    use crate::tenant::tests::{Fixed, keys};
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    const HERE: Context<'_> = Context { tenant: "acme", store: "blob", key: b"b1", revision: 0 };

    fn seal(content: &[u8], step: usize, salt: u8) -> Vec<u8> {
        let mut sealer = keys("acme", 1).stream_sealer(Purpose::Blob, &HERE, &Fixed(salt)).unwrap();
        let mut out = Vec::new();
        for part in content.chunks(step) {
            sealer.push(part, &mut out).unwrap();
        }
        sealer.finish(&mut out).unwrap();
        out
    }

    fn open_in(context: &Context<'_>, sealed: &[u8], step: usize) -> Result<Vec<u8>, KeysError> {
        let mut opener = keys("acme", 1).stream_opener(Purpose::Blob, context);
        let mut out = Vec::new();
        for part in sealed.chunks(step) {
            opener.push(part, &mut out)?;
        }
        opener.finish(&mut out)?;
        Ok(out)
    }

    fn open(sealed: &[u8]) -> Result<Vec<u8>, KeysError> {
        open_in(&HERE, sealed, 10_007)
    }

    fn content(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i * 31 % 251) as u8).collect()
    }

    /// The sealed chunks after the header.
    fn parts(sealed: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
        let (head, body) = sealed.split_at(HEADER_BYTES);
        (head.to_vec(), body.chunks(SEALED_CHUNK_BYTES).map(<[u8]>::to_vec).collect())
    }

    fn join(head: &[u8], chunks: &[&[u8]]) -> Vec<u8> {
        [head, &chunks.concat()].concat()
    }

    #[test]
    fn the_format_is_golden() {
        assert_eq!(HEXLOWER.encode(&seal(b"forty-two", 3, 0xA5)), GOLDEN);
    }
    /// Made by another implementation (HKDF and AES-GCM of the Python package `cryptography`) from the words of the header.
    const GOLDEN: &str = "5301a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5fe95ddb862f77a9dd0ab94020840011ce9cd757e7f907cafed";

    #[test]
    fn lengths_around_the_chunk_border_survive() {
        for length in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 2 * CHUNK_BYTES + 5] {
            let plain = content(length);
            let sealed = seal(&plain, 4_099, 7);
            assert_eq!(sealed.len() as u64, sealed_stream_bytes(length as u64), "{length}");
            assert_eq!(open(&sealed).unwrap(), plain, "{length}");
            assert_eq!(sealed, seal(&plain, 1 << 20, 7), "the cut of the input must not show");
        }
    }

    /// Seals in place, in steps of these lengths and what is left.
    fn seal_in_place(content: &[u8], steps: &[usize], salt: u8) -> Vec<u8> {
        let mut sealer = keys("acme", 1).stream_sealer(Purpose::Blob, &HERE, &Fixed(salt)).unwrap();
        let (mut out, mut rest) = (Vec::new(), content);
        for step in steps.iter().copied().chain([content.len()]) {
            let (now, later) = rest.split_at(step.min(rest.len()));
            rest = later;
            let mut now = now.to_vec();
            let tags = sealer.push_in_place(&mut now, &mut out).unwrap();
            for (chunk, tag) in now.chunks(CHUNK_BYTES).zip(tags) {
                out.extend_from_slice(chunk);
                out.extend_from_slice(&tag);
            }
        }
        sealer.finish(&mut out).unwrap();
        out
    }

    #[test]
    fn sealing_in_place_makes_the_same_stream() {
        const C: usize = CHUNK_BYTES;
        for length in [0, 1, C, C + 1, 4 * C, 9 * C + 7] {
            let plain = content(length);
            for steps in [&[][..], &[4 * C, 4 * C], &[C, C, C, C], &[0, 2 * C, 0, C + 1], &[5, 4 * C, C - 5, 4 * C]] {
                assert!(seal_in_place(&plain, steps, 7) == seal(&plain, 4_099, 7), "{length} {steps:?}");
            }
        }
    }

    #[test]
    fn a_cut_stream_is_refused_wherever_it_is_cut() {
        let sealed = seal(&content(2 * CHUNK_BYTES + 5), 1 << 20, 7);
        let borders = [0, 1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 1];
        let chunk_borders = [1, 2].map(|n| HEADER_BYTES + n * SEALED_CHUNK_BYTES);
        for length in
            borders.into_iter().chain(chunk_borders).chain(chunk_borders.map(|n| n - 1)).chain([sealed.len() - 1])
        {
            assert!(open(&sealed[..length]).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn an_extended_reordered_repeated_or_thinned_stream_is_refused() {
        let sealed = seal(&content(3 * CHUNK_BYTES + 5), 1 << 20, 7);
        let (head, chunks) = parts(&sealed);
        let [a, b, c, d] = [&chunks[0][..], &chunks[1], &chunks[2], &chunks[3]];
        let wrongs: [&[&[u8]]; 8] = [
            &[b, a, c, d],
            &[a, c, b, d],
            &[a, a, b, c, d],
            &[a, c, d],
            &[d],
            &[a, b, c, d, d],
            &[a, b, c, d, &[0]],
            &[a, b, c],
        ];
        assert!(open(&join(&head, &[a, b, c, d])).is_ok());
        for wrong in wrongs {
            assert!(open(&join(&head, wrong)).is_err());
        }
    }

    #[test]
    fn a_spliced_stream_is_refused() {
        let (head, one) = parts(&seal(&content(2 * CHUNK_BYTES), 1 << 20, 7));
        let (_, two) = parts(&seal(&content(2 * CHUNK_BYTES), 1 << 20, 8));
        assert!(open(&join(&head, &[&one[0], &two[1]])).is_err());
        assert!(open(&join(&head, &[&two[0], &two[1]])).is_err());
    }

    #[test]
    fn a_full_last_chunk_cannot_be_followed_by_an_empty_one() {
        // What a sealer with the right key but another habit would make: content, then an empty last chunk.
        let keys = keys("acme", 1);
        let mut sealer = keys.stream_sealer(Purpose::Blob, &HERE, &Fixed(7)).unwrap();
        let mut out = Vec::new();
        sealer.push(&content(CHUNK_BYTES), &mut out).unwrap();
        let held = std::mem::take(&mut *sealer.held);
        sealer.chunks.seal(&held, Place::Inner, &mut out).unwrap();
        sealer.finish(&mut out).unwrap();
        assert!(open(&out).is_err());
    }

    #[test]
    fn a_stream_moved_elsewhere_is_refused() {
        let sealed = seal(b"x", 1, 7);
        for elsewhere in
            [Context { tenant: "evil", ..HERE }, Context { key: b"b2", ..HERE }, Context { revision: 1, ..HERE }]
        {
            assert!(open_in(&elsewhere, &sealed, 99).is_err());
        }
        assert!(keys("acme", 1).open(Purpose::Blob, &HERE, &sealed).is_err(), "a stream is no record");
    }

    #[test]
    fn every_single_flipped_bit_is_refused() {
        let sealed = seal(b"forty-two", 4, 7);
        for bit in 0..sealed.len() * 8 {
            let mut altered = sealed.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&altered).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_broken_opener_stays_broken() {
        let mut sealed = seal(&content(2 * CHUNK_BYTES), 1 << 20, 7);
        sealed[HEADER_BYTES] ^= 1;
        let mut opener = keys("acme", 1).stream_opener(Purpose::Blob, &HERE);
        let mut out = Vec::new();
        assert!(opener.push(&sealed, &mut out).is_err());
        assert!(out.is_empty());
        assert!(opener.push(&[], &mut out).is_err());
        assert!(opener.finish(&mut out).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn contents_survive_any_cut_of_input_and_output(length in 0_usize..200_000, one in 1_usize..70_000, two in 1_usize..70_000) {
            let plain = content(length);
            let sealed = seal(&plain, one, 3);
            prop_assert_eq!(open_in(&HERE, &sealed, two).unwrap(), plain);
        }
        #[test]
        fn a_stream_sealed_in_place_is_the_same_however_it_was_cut(
            length in 0_usize..400_000,
            steps in prop::collection::vec(prop_oneof![0_usize..150_000, Just(CHUNK_BYTES), Just(2 * CHUNK_BYTES)], 0..6),
        ) {
            let plain = content(length);
            prop_assert!(seal_in_place(&plain, &steps, 3) == seal(&plain, 1 << 20, 3));
        }
        #[test]
        fn garbage_is_refused_without_a_panic(garbage in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(open(&garbage).is_err());
        }
    }
}
