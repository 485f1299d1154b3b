//! The sealed record: one value, one fresh key, bound to its place.
//!
//! Format: magic `R` (1 byte), version of the tenant key (1 byte, from 1), salt (32 bytes), ciphertext (as long as the plaintext), tag (16 bytes).
//! Key: HKDF-Expand(purpose key, "ringfence/record/v1" || salt || encoded context). Cipher: AES-256-GCM with a zero nonce,
//! which is used once because the key is. Associated data: magic, version, encoded context.
//! The key chain's own records, which have no tenant key above them, are of version 1.
//! A fresh key a record takes away the 2^32 messages limit of random nonces (NIST SP 800-38D, section 8.3).
//! LIMIT: the length of a value shows in the length of its record.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ringfence_core::Entropy;
use zeroize::Zeroizing;

use crate::context::Context;
use crate::derive::{KeyBytes, expand_key};
use crate::error::KeysError;

/// How many bytes longer a record is than its value.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + SALT_BYTES + TAG_BYTES;

pub(crate) const SALT_BYTES: usize = 32;
pub(crate) const TAG_BYTES: usize = 16;
const MAGIC: u8 = b'R';
const HEADER_BYTES: usize = 2;
const LABEL: &[u8] = b"ringfence/record/v1";

/// Which version of the tenant key a record says it was sealed under.
pub(crate) fn version(sealed: &[u8]) -> Result<u8, KeysError> {
    match sealed.first_chunk() {
        Some([MAGIC, version]) => Ok(*version),
        _ => Err(KeysError::NotAuthentic),
    }
}

/// Which version of the tenant key a sealed record or stream says it is under; none for bytes that are neither.
pub fn sealed_version(sealed: &[u8]) -> Option<u8> {
    match sealed.first_chunk() {
        Some([MAGIC | crate::stream::MAGIC, version]) => Some(*version),
        _ => None,
    }
}

/// Seals `plaintext` under a key derived from `purpose_key` and a fresh salt.
pub(crate) fn seal(
    purpose_key: &[u8],
    version: u8,
    context: &Context<'_>,
    plaintext: &[u8],
    entropy: &dyn Entropy,
) -> Result<Vec<u8>, KeysError> {
    let mut salt = [0_u8; SALT_BYTES];
    entropy.fill(&mut salt);
    let bound = bound(version, context);
    let key = cipher(record_key(purpose_key, &salt, &bound)?.as_slice())?;
    let mut out = Vec::with_capacity(plaintext.len() + OVERHEAD_BYTES);
    out.extend_from_slice(&[MAGIC, version]);
    out.extend_from_slice(&salt);
    out.extend_from_slice(plaintext);
    let (_, body) = out.split_at_mut_checked(HEADER_BYTES + SALT_BYTES).ok_or(KeysError::Cipher)?;
    let tag = key
        .seal_in_place_separate_tag(zero_nonce(), Aad::from(&bound), body)
        .map_err(|ring::error::Unspecified| KeysError::TooLong)?;
    out.extend_from_slice(tag.as_ref());
    Ok(out)
}

/// Opens what [`seal`] made, under the same key and context only.
pub(crate) fn open(purpose_key: &[u8], context: &Context<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeysError> {
    let version = version(sealed)?;
    let (_, rest) = sealed.split_at_checked(HEADER_BYTES).ok_or(KeysError::NotAuthentic)?;
    let (salt, body) = rest.split_at_checked(SALT_BYTES).ok_or(KeysError::NotAuthentic)?;
    let bound = bound(version, context);
    let key = cipher(record_key(purpose_key, salt, &bound)?.as_slice())?;
    let mut buffer = Zeroizing::new(body.to_vec());
    let length = key
        .open_in_place(zero_nonce(), Aad::from(&bound), buffer.as_mut_slice())
        .map_err(|ring::error::Unspecified| KeysError::NotAuthentic)?
        .len();
    buffer.truncate(length);
    Ok(buffer)
}

/// AES-256-GCM with this key.
pub(crate) fn cipher(key: &[u8]) -> Result<LessSafeKey, KeysError> {
    UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new).map_err(|ring::error::Unspecified| KeysError::Cipher)
}

/// INVARIANT: only for a key that seals one message in its life.
fn zero_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

/// What a record is bound to: its first bytes, and the encoded context.
fn bound(version: u8, context: &Context<'_>) -> Vec<u8> {
    context.encode_after(&[MAGIC, version])
}

fn record_key(purpose_key: &[u8], salt: &[u8], bound: &[u8]) -> Result<KeyBytes, KeysError> {
    let context = bound.get(HEADER_BYTES..).ok_or(KeysError::Cipher)?;
    expand_key(purpose_key, &[LABEL, salt, context])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::tests::Fixed;
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    const HERE: Context<'_> = Context { tenant: "acme", store: "kv", key: b"visits", revision: 7 };

    #[test]
    fn the_format_is_golden() {
        let sealed = seal(&[3; 32], 1, &HERE, b"forty-two", &Fixed(0xA5)).unwrap();
        assert_eq!(sealed.len(), b"forty-two".len() + OVERHEAD_BYTES);
        assert_eq!(HEXLOWER.encode(&sealed), GOLDEN);
        assert_eq!(
            open(&[3; 32], &HERE, &HEXLOWER.decode(GOLDEN.as_bytes()).unwrap()).unwrap().as_slice(),
            b"forty-two"
        );
    }
    /// Made by another implementation (HKDF and AES-GCM of the Python package `cryptography`) from the words of the header.
    const GOLDEN: &str = "5201a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5b84119202705922112700c7cd897523f364d049140ff6069c6";

    #[test]
    fn a_moved_record_is_refused() {
        let sealed = seal(&[3; 32], 1, &HERE, b"forty-two", &Fixed(1)).unwrap();
        for elsewhere in [
            Context { tenant: "evil", ..HERE },
            Context { store: "secret", ..HERE },
            Context { key: b"visit", ..HERE },
            Context { revision: 8, ..HERE },
            Context { revision: 6, ..HERE },
        ] {
            assert!(matches!(open(&[3; 32], &elsewhere, &sealed), Err(KeysError::NotAuthentic)), "{elsewhere:?}");
        }
        assert!(matches!(open(&[4; 32], &HERE, &sealed), Err(KeysError::NotAuthentic)));
        assert!(open(&[3; 32], &HERE, &sealed).is_ok());
    }

    #[test]
    fn every_single_flipped_bit_is_refused() {
        let sealed = seal(&[3; 32], 1, &HERE, b"x", &Fixed(1)).unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut altered = sealed.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(open(&[3; 32], &HERE, &altered), Err(KeysError::NotAuthentic)), "bit {bit}");
        }
    }

    #[test]
    fn every_cut_and_every_added_byte_is_refused() {
        let mut sealed = seal(&[3; 32], 1, &HERE, b"forty-two", &Fixed(1)).unwrap();
        for length in 0..sealed.len() {
            assert!(open(&[3; 32], &HERE, &sealed[..length]).is_err(), "length {length}");
        }
        sealed.push(0);
        assert!(open(&[3; 32], &HERE, &sealed).is_err());
    }

    proptest! {
        #[test]
        fn a_value_survives_and_no_altered_record_does(
            value in prop::collection::vec(any::<u8>(), 0..600), salt in any::<u8>(), at in any::<prop::sample::Index>(), bit in 0_u8..8,
        ) {
            let mut sealed = seal(&[9; 32], 1, &HERE, &value, &Fixed(salt)).unwrap();
            let opened = open(&[9; 32], &HERE, &sealed).unwrap();
            prop_assert_eq!(opened.as_slice(), value.as_slice());
            let at = at.index(sealed.len());
            sealed[at] ^= 1 << bit;
            prop_assert!(open(&[9; 32], &HERE, &sealed).is_err());
        }
        #[test]
        fn garbage_is_refused_without_a_panic(garbage in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(open(&[9; 32], &HERE, &garbage).is_err());
        }
    }
}
