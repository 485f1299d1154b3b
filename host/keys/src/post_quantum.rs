//! ML-DSA-44 signatures (FIPS 204), for cosignatures of the audit log's tree heads.
//!
//! Must never be the only signature of anything: it stands beside Ed25519. The seed is the private key and leaves through one
//! door that says `SECURITY:`. Signing is hedged: the library adds randomness of its own to each signature, which the
//! signature's safety does not rest on.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{KeyPair as _, ML_DSA_44, ML_DSA_44_SIGNING, PqdsaKeyPair, UnparsedPublicKey};
use ringfence_core::Entropy;
use zeroize::Zeroizing;

use crate::error::KeysError;

const SEED_BYTES: usize = 32;
/// Bytes of an ML-DSA-44 public key.
pub const ML_DSA_44_PUBLIC_BYTES: usize = 1_312;
/// Bytes of an ML-DSA-44 signature.
pub const ML_DSA_44_SIGNATURE_BYTES: usize = 2_420;

/// An ML-DSA-44 key pair. Cheap to clone.
///
/// LIMIT: the seed is zeroed on drop; the library's expanded copy of it is not.
#[derive(Clone)]
pub struct PostQuantumKey(Arc<Inner>);

struct Inner {
    seed: Zeroizing<[u8; SEED_BYTES]>,
    pair: PqdsaKeyPair,
}

impl PostQuantumKey {
    /// A new key pair.
    pub fn generate(entropy: &dyn Entropy) -> Result<Self, KeysError> {
        let mut seed = Zeroizing::new([0_u8; SEED_BYTES]);
        entropy.fill(seed.as_mut_slice());
        Self::from_zeroizing(seed)
    }

    /// Reads what [`PostQuantumKey::seed`] gave.
    pub fn from_seed(seed: &[u8]) -> Result<Self, KeysError> {
        let seed: [u8; SEED_BYTES] = seed.try_into().map_err(|_| KeysError::BadSigningKey)?;
        Self::from_zeroizing(Zeroizing::new(seed))
    }

    /// SECURITY: the private key, for the store to seal. Goes nowhere else.
    pub fn seed(&self) -> Zeroizing<[u8; SEED_BYTES]> {
        self.0.seed.clone()
    }

    /// The signature of `message`, [`ML_DSA_44_SIGNATURE_BYTES`] long.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeysError> {
        let mut signature = vec![0_u8; ML_DSA_44_SIGNATURE_BYTES];
        let written = self.0.pair.sign(message, &mut signature).map_err(|_| KeysError::BadSigningKey)?;
        if written == ML_DSA_44_SIGNATURE_BYTES { Ok(signature) } else { Err(KeysError::BadSigningKey) }
    }

    /// The public key, [`ML_DSA_44_PUBLIC_BYTES`] long.
    pub fn public_key(&self) -> &[u8] {
        self.0.pair.public_key().as_ref()
    }

    fn from_zeroizing(seed: Zeroizing<[u8; SEED_BYTES]>) -> Result<Self, KeysError> {
        let pair =
            PqdsaKeyPair::from_seed(&ML_DSA_44_SIGNING, seed.as_slice()).map_err(|_| KeysError::BadSigningKey)?;
        Ok(Self(Arc::new(Inner { seed, pair })))
    }
}

impl fmt::Debug for PostQuantumKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<post-quantum signing key>")
    }
}

/// Checks an ML-DSA-44 signature (pure mode, empty context).
pub fn verify_ml_dsa_44(public: &[u8], message: &[u8], signature: &[u8]) -> Result<(), KeysError> {
    UnparsedPublicKey::new(&ML_DSA_44, public).verify(message, signature).map_err(|_| KeysError::BadSignature)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::tests::Fixed;

    #[test]
    fn a_signature_fits_one_message_and_one_key() {
        let (key, other) = (PostQuantumKey::generate(&Fixed(5)).unwrap(), PostQuantumKey::generate(&Fixed(6)).unwrap());
        let signature = key.sign(b"message").unwrap();
        assert_eq!((key.public_key().len(), signature.len()), (ML_DSA_44_PUBLIC_BYTES, ML_DSA_44_SIGNATURE_BYTES));
        assert!(verify_ml_dsa_44(key.public_key(), b"message", &signature).is_ok());
        assert!(verify_ml_dsa_44(key.public_key(), b"massage", &signature).is_err());
        assert!(verify_ml_dsa_44(other.public_key(), b"message", &signature).is_err());
        assert!(verify_ml_dsa_44(key.public_key(), b"message", &signature[..2_419]).is_err());
        assert!(verify_ml_dsa_44(&key.public_key()[1..], b"message", &signature).is_err());
        assert!(verify_ml_dsa_44(&[], b"message", &signature).is_err());
    }

    #[test]
    fn a_key_survives_its_seed_and_prints_nothing() {
        let key = PostQuantumKey::generate(&Fixed(5)).unwrap();
        let again = PostQuantumKey::from_seed(key.seed().as_slice()).unwrap();
        assert_eq!(again.public_key(), key.public_key());
        assert!(PostQuantumKey::from_seed(&[0; 31]).is_err());
        assert_eq!(format!("{key:?}"), "<post-quantum signing key>");
    }
}
