//! HKDF-SHA-256 and HMAC-SHA-256, the two ways one key becomes another here (RFC 5869, RFC 2104).
//!
//! Must never be given a low-entropy secret: every input key is 32 random bytes or was derived from such, which is why the
//! extract step is left out (RFC 5869, section 3.3).

use std::hint::black_box;

use ring::{hkdf, hmac};
use zeroize::{Zeroize, Zeroizing};

use crate::KeysError;

/// Length of every symmetric key here, in bytes.
pub(crate) const KEY_BYTES: usize = 32;

/// Key bytes that are zeroed on drop.
pub(crate) type KeyBytes<const N: usize = KEY_BYTES> = Zeroizing<[u8; N]>;

/// Asks HKDF for this many bytes.
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// A key that others are derived from, with the two halves of its HMAC begun: a key that is derived from often costs half as
/// much so. It is as secret as the key, and zeroed as one, when it is dropped too.
pub(crate) struct DerivingKey(hkdf::Prk);

// === impl DerivingKey ===

impl DerivingKey {
    pub(crate) fn new(key: &[u8]) -> Self {
        Self(hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, key))
    }

    /// HKDF-Expand over the concatenation of `info`. The caller makes that concatenation unambiguous.
    ///
    /// LIMIT: the library keeps its own copy of a key while it works and does not zero it.
    pub(crate) fn expand<const N: usize>(&self, info: &[&[u8]]) -> Result<KeyBytes<N>, KeysError> {
        let mut out = Zeroizing::new([0_u8; N]);
        self.0
            .expand(info, Length(N))
            .and_then(|okm| okm.fill(out.as_mut_slice()))
            .map_err(|ring::error::Unspecified| KeysError::Cipher)?;
        Ok(out)
    }
}

/// The library's type has no way to be emptied: it is overwritten by that of a key of zeros, which the compiler must take for
/// used.
impl Zeroize for DerivingKey {
    fn zeroize(&mut self) {
        self.0 = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &[0; KEY_BYTES]);
        black_box(&self.0);
    }
}

impl Drop for DerivingKey {
    fn drop(&mut self) {
        self.zeroize();
    }
}

/// [`DerivingKey::expand`] of a key that is derived from once.
pub(crate) fn expand<const N: usize>(key: &[u8], info: &[&[u8]]) -> Result<KeyBytes<N>, KeysError> {
    DerivingKey::new(key).expand(info)
}

/// The common case: a key of 32 bytes.
pub(crate) fn expand_key(key: &[u8], info: &[&[u8]]) -> Result<KeyBytes, KeysError> {
    expand::<KEY_BYTES>(key, info)
}

/// HMAC-SHA-256 of `data`.
pub(crate) fn mac(key: &[u8], data: &[u8]) -> [u8; 32] {
    sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data)
}

fn sign(key: &hmac::Key, data: &[u8]) -> [u8; 32] {
    let tag = hmac::sign(key, data);
    let mut out = [0_u8; 32];
    for (to, from) in out.iter_mut().zip(tag.as_ref()) {
        *to = *from;
    }
    out
}

/// HMAC-SHA-256 under one key, whose two halves are begun once: of several short values each costs half as much so. It is as
/// secret as the key, and overwritten when it is dropped; in one place until then.
pub struct MacKey(Box<hmac::Key>);

// === impl MacKey ===

impl MacKey {
    pub(crate) fn new(key: &[u8]) -> Self {
        Self(Box::new(hmac::Key::new(hmac::HMAC_SHA256, key)))
    }

    /// HMAC-SHA-256 of `data`.
    pub fn mac(&self, data: &[u8]) -> [u8; 32] {
        sign(&self.0, data)
    }
}

/// As [`DerivingKey`], the library's type has no way to be emptied.
impl Drop for MacKey {
    fn drop(&mut self) {
        *self.0 = hmac::Key::new(hmac::HMAC_SHA256, &[0; KEY_BYTES]);
        black_box(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;

    #[test]
    fn expand_agrees_with_rfc_5869_case_1() {
        let prk = HEXLOWER.decode(b"077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5").unwrap();
        let info = HEXLOWER.decode(b"f0f1f2f3f4f5f6f7f8f9").unwrap();
        let okm = expand::<42>(&prk, &[&info]).unwrap();
        assert_eq!(
            HEXLOWER.encode(okm.as_slice()),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
        );
    }

    #[test]
    fn a_key_that_others_were_derived_from_is_overwritten_and_not_only_forgotten() {
        let mut key = DerivingKey::new(&[3; KEY_BYTES]);
        let of = |key: &DerivingKey| HEXLOWER.encode(key.expand::<KEY_BYTES>(&[b"x"]).unwrap().as_slice());
        let zeros = DerivingKey::new(&[0; KEY_BYTES]);
        assert_ne!(of(&key), of(&zeros));
        key.zeroize();
        assert_eq!(of(&key), of(&zeros));
        assert!(std::mem::needs_drop::<DerivingKey>(), "it would stay in memory when it goes");
    }

    #[test]
    fn mac_agrees_with_rfc_4231_case_2() {
        assert_eq!(
            HEXLOWER.encode(&mac(b"Jefe", b"what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }
}
