//! Ed25519 signatures (RFC 8032) for tokens and for tree heads of the audit log.
//!
//! Must never sign what it was not asked to, and gives its key out in one form only, through doors that say `SECURITY:`.

use std::fmt;
use std::sync::Arc;

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use ringfence_core::Entropy;
use zeroize::Zeroizing;

use crate::error::KeysError;

const SEED_BYTES: usize = 32;
/// PKCS#8 version 2 with the public key (RFC 5958, RFC 8410): everything before the seed, and between seed and public key.
const PKCS8_HEAD: [u8; 16] = [0x30, 0x51, 2, 1, 1, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
const PKCS8_MIDDLE: [u8; 3] = [0x81, 0x21, 0];

/// An Ed25519 key pair. Cheap to clone.
///
/// LIMIT: the seed is zeroed on drop; the library's expanded copy of it is not.
#[derive(Clone)]
pub struct SigningKey(Arc<Inner>);

struct Inner {
    seed: Zeroizing<[u8; SEED_BYTES]>,
    pair: Ed25519KeyPair,
    public: [u8; 32],
}

impl SigningKey {
    /// A new key pair.
    pub fn generate(entropy: &dyn Entropy) -> Result<Self, KeysError> {
        let mut seed = Zeroizing::new([0_u8; SEED_BYTES]);
        entropy.fill(seed.as_mut_slice());
        Self::from_seed(seed)
    }

    /// Reads what [`SigningKey::to_pkcs8`] wrote; refuses a public key that does not fit the private one.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, KeysError> {
        Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| KeysError::BadSigningKey)?;
        let rest = pkcs8.strip_prefix(&PKCS8_HEAD).ok_or(KeysError::BadSigningKey)?;
        let seed = rest.first_chunk::<SEED_BYTES>().ok_or(KeysError::BadSigningKey)?;
        Self::from_seed(Zeroizing::new(*seed))
    }

    /// SECURITY: the private key, for the store to seal. Goes nowhere else.
    pub fn to_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        let parts = [&PKCS8_HEAD[..], self.0.seed.as_slice(), &PKCS8_MIDDLE, &self.0.public];
        // Made with its final capacity, so that no shorter copy of the seed is left behind by growth.
        let mut out = Zeroizing::new(Vec::with_capacity(parts.iter().map(|part| part.len()).sum()));
        for part in parts {
            out.extend_from_slice(part);
        }
        out
    }

    /// SECURITY: the private key, for the token library of `identity`, which signs by itself. Goes nowhere else.
    pub fn pkcs8_for_tokens(&self) -> Zeroizing<Vec<u8>> {
        self.to_pkcs8()
    }

    /// The signature of `message`, 64 bytes.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let signature = self.0.pair.sign(message);
        let mut out = [0_u8; 64];
        for (to, from) in out.iter_mut().zip(signature.as_ref()) {
            *to = *from;
        }
        out
    }

    /// The public key, 32 bytes.
    pub fn public_key(&self) -> [u8; 32] {
        self.0.public
    }

    fn from_seed(seed: Zeroizing<[u8; SEED_BYTES]>) -> Result<Self, KeysError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_slice()).map_err(|_| KeysError::BadSigningKey)?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| KeysError::BadSigningKey)?;
        Ok(Self(Arc::new(Inner { seed, pair, public })))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<signing key>")
    }
}

/// Checks an Ed25519 signature.
pub fn verify_ed25519(public: &[u8; 32], message: &[u8], signature: &[u8]) -> Result<(), KeysError> {
    UnparsedPublicKey::new(&ED25519, public)
        .verify(message, signature)
        .map_err(|ring::error::Unspecified| KeysError::BadSignature)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::tests::Fixed;
    use data_encoding::HEXLOWER;

    #[test]
    fn signing_agrees_with_rfc_8032_test_2() {
        let seed = HEXLOWER.decode(b"4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb").unwrap();
        let key = SigningKey::from_seed(Zeroizing::new(seed.try_into().unwrap())).unwrap();
        assert_eq!(
            HEXLOWER.encode(&key.public_key()),
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
        );
        assert_eq!(
            HEXLOWER.encode(&key.sign(&[0x72])),
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        );
    }

    #[test]
    fn a_key_survives_its_bytes_and_only_its_own() {
        let key = SigningKey::generate(&Fixed(5)).unwrap();
        let bytes = key.to_pkcs8();
        let again = SigningKey::from_pkcs8(&bytes).unwrap();
        assert_eq!(again.public_key(), key.public_key());
        assert_eq!(again.sign(b"m"), key.sign(b"m"));
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            assert!(SigningKey::from_pkcs8(&altered).is_err(), "byte {at}");
        }
        assert!(SigningKey::from_pkcs8(&bytes[..40]).is_err());
    }

    #[test]
    fn a_signature_fits_one_message_and_one_key() {
        let (key, other) = (SigningKey::generate(&Fixed(5)).unwrap(), SigningKey::generate(&Fixed(6)).unwrap());
        let signature = key.sign(b"message");
        assert!(verify_ed25519(&key.public_key(), b"message", &signature).is_ok());
        assert!(verify_ed25519(&key.public_key(), b"massage", &signature).is_err());
        assert!(verify_ed25519(&other.public_key(), b"message", &signature).is_err());
        assert!(verify_ed25519(&key.public_key(), b"message", &signature[..63]).is_err());
        assert!(verify_ed25519(&key.public_key(), b"message", &[]).is_err());
    }

    #[test]
    fn debug_prints_no_key() {
        assert_eq!(format!("{:?}", SigningKey::generate(&Fixed(5)).unwrap()), "<signing key>");
    }
}
