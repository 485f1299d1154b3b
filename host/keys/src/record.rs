//! The sealed record: one value, one fresh key, bound to its place.
//!
//! Format: magic `T` (1 byte), version of the tenant key (1 byte, from 1), salt (32 bytes), ciphertext (as long as the plaintext), tag (16 bytes).
//! Key: HKDF-Expand(purpose key, "ringfence/record/v2" || salt). Cipher: AES-256-GCM with a zero nonce,
//! which is used once because the key is. Associated data: magic, version, encoded context.
//! The key chain's own records, which have no tenant key above them, are of version 1.
//! A fresh key a record takes away the 2^32 messages limit of random nonces (NIST SP 800-38D, section 8.3).
//! The salt alone makes the key fresh, and the associated data alone binds the record to its place: to derive the key from
//! the place too, as records of magic `R` do ("ringfence/record/v1" || salt || encoded context), took three more
//! compressions of SHA-256 for each record. Those open as ever; none is made any more. Among 2^64 records under one purpose
//! key two salts are equal with a chance of 2^-129. The labels are of one length, so that no input of one derivation is that of another.
//! LIMIT: entropy that repeats gives two records one key and one nonce, and with them their values away; where the place was part
//! of the key that took two writes of one place. So salts come from the kernel at that moment, and never from what was fetched ahead.
//! LIMIT: the length of a value shows in the length of its record.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ringfence_core::Entropy;
use zeroize::Zeroizing;

use crate::context::Context;
use crate::derive::{DerivingKey, KeyBytes};
use crate::error::KeysError;

/// How many bytes longer a record is than its value.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + SALT_BYTES + TAG_BYTES;

pub(crate) const SALT_BYTES: usize = 32;
pub(crate) const TAG_BYTES: usize = 16;
const MAGIC: u8 = b'T';
/// Of records whose key is of their place too.
const MAGIC_OF_PLACE: u8 = b'R';
const HEADER_BYTES: usize = 2;
const LABEL: &[u8] = b"ringfence/record/v2";
const LABEL_OF_PLACE: &[u8] = b"ringfence/record/v1";

/// Which version of the tenant key a record says it was sealed under.
pub(crate) fn version(sealed: &[u8]) -> Result<u8, KeysError> {
    match sealed.first_chunk() {
        Some([MAGIC | MAGIC_OF_PLACE, version]) => Ok(*version),
        _ => Err(KeysError::NotAuthentic),
    }
}

/// Which version of the tenant key a sealed record or stream says it is under; none for bytes that are neither.
pub fn sealed_version(sealed: &[u8]) -> Option<u8> {
    match sealed.first_chunk() {
        Some([MAGIC | MAGIC_OF_PLACE | crate::stream::MAGIC, version]) => Some(*version),
        _ => None,
    }
}

/// Seals `plaintext` under a key derived from `purpose_key` and a fresh salt.
pub(crate) fn seal(
    purpose_key: &DerivingKey,
    version: u8,
    context: &Context<'_>,
    plaintext: &[u8],
    entropy: &dyn Entropy,
) -> Result<Vec<u8>, KeysError> {
    let mut salt = [0_u8; SALT_BYTES];
    entropy.fill(&mut salt);
    let bound = context.encode_after(&[MAGIC, version]);
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
pub(crate) fn open(
    purpose_key: &DerivingKey,
    context: &Context<'_>,
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, KeysError> {
    version(sealed)?;
    let (header, rest) = sealed.split_at_checked(HEADER_BYTES).ok_or(KeysError::NotAuthentic)?;
    let (salt, body) = rest.split_at_checked(SALT_BYTES).ok_or(KeysError::NotAuthentic)?;
    let bound = context.encode_after(header);
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

/// The key of a record of this salt; `bound` is what it is bound to, its first bytes and the encoded context.
fn record_key(purpose_key: &DerivingKey, salt: &[u8], bound: &[u8]) -> Result<KeyBytes, KeysError> {
    match bound.split_at_checked(HEADER_BYTES) {
        Some(([MAGIC_OF_PLACE, _], context)) => purpose_key.expand(&[LABEL_OF_PLACE, salt, context]),
        _ => purpose_key.expand(&[LABEL, salt]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::tests::Fixed;
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    const HERE: Context<'_> = Context { tenant: "acme", store: "kv", key: b"visits", revision: 7 };

    fn key(byte: u8) -> DerivingKey {
        DerivingKey::new(&[byte; 32])
    }

    #[test]
    fn the_format_is_golden() {
        let sealed = seal(&key(3), 1, &HERE, b"forty-two", &Fixed(0xA5)).unwrap();
        assert_eq!(sealed.len(), b"forty-two".len() + OVERHEAD_BYTES);
        assert_eq!(HEXLOWER.encode(&sealed), GOLDEN);
        assert_eq!(
            open(&key(3), &HERE, &HEXLOWER.decode(GOLDEN.as_bytes()).unwrap()).unwrap().as_slice(),
            b"forty-two"
        );
    }
    /// Both made by another implementation (HKDF and AES-GCM of the Python package `cryptography`) from the words of the header.
    const GOLDEN: &str = "5401a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5da7674cc0a50112c9f03bbdcc53e2ed6516dd785dae2f0710f";
    const GOLDEN_OF_PLACE: &str = "5201a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5b84119202705922112700c7cd897523f364d049140ff6069c6";

    #[test]
    fn a_record_whose_key_is_of_its_place_opens_there_and_nowhere_else() {
        let mut sealed = HEXLOWER.decode(GOLDEN_OF_PLACE.as_bytes()).unwrap();
        assert_eq!(open(&key(3), &HERE, &sealed).unwrap().as_slice(), b"forty-two");
        assert_eq!(sealed_version(&sealed), Some(1));
        assert!(open(&key(3), &Context { revision: 8, ..HERE }, &sealed).is_err());
        // Nor does one pass for the other.
        sealed[0] = MAGIC;
        assert!(open(&key(3), &HERE, &sealed).is_err());
        let mut sealed = HEXLOWER.decode(GOLDEN.as_bytes()).unwrap();
        sealed[0] = MAGIC_OF_PLACE;
        assert!(open(&key(3), &HERE, &sealed).is_err());
    }

    #[test]
    fn a_moved_record_is_refused() {
        let sealed = seal(&key(3), 1, &HERE, b"forty-two", &Fixed(1)).unwrap();
        for elsewhere in [
            Context { tenant: "evil", ..HERE },
            Context { store: "secret", ..HERE },
            Context { key: b"visit", ..HERE },
            Context { revision: 8, ..HERE },
            Context { revision: 6, ..HERE },
        ] {
            assert!(matches!(open(&key(3), &elsewhere, &sealed), Err(KeysError::NotAuthentic)), "{elsewhere:?}");
        }
        assert!(matches!(open(&key(4), &HERE, &sealed), Err(KeysError::NotAuthentic)));
        assert!(open(&key(3), &HERE, &sealed).is_ok());
    }

    #[test]
    fn every_single_flipped_bit_is_refused() {
        let sealed = seal(&key(3), 1, &HERE, b"x", &Fixed(1)).unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut altered = sealed.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(open(&key(3), &HERE, &altered), Err(KeysError::NotAuthentic)), "bit {bit}");
        }
    }

    #[test]
    fn every_cut_and_every_added_byte_is_refused() {
        let mut sealed = seal(&key(3), 1, &HERE, b"forty-two", &Fixed(1)).unwrap();
        for length in 0..sealed.len() {
            assert!(open(&key(3), &HERE, &sealed[..length]).is_err(), "length {length}");
        }
        sealed.push(0);
        assert!(open(&key(3), &HERE, &sealed).is_err());
    }

    proptest! {
        #[test]
        fn a_value_survives_and_no_altered_record_does(
            value in prop::collection::vec(any::<u8>(), 0..600), salt in any::<u8>(), at in any::<prop::sample::Index>(), bit in 0_u8..8,
        ) {
            let mut sealed = seal(&key(9), 1, &HERE, &value, &Fixed(salt)).unwrap();
            let opened = open(&key(9), &HERE, &sealed).unwrap();
            prop_assert_eq!(opened.as_slice(), value.as_slice());
            let at = at.index(sealed.len());
            sealed[at] ^= 1 << bit;
            prop_assert!(open(&key(9), &HERE, &sealed).is_err());
        }
        #[test]
        fn garbage_is_refused_without_a_panic(garbage in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(open(&key(9), &HERE, &garbage).is_err());
        }
    }
}
