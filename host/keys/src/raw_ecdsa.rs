//! ECDSA signatures as two numbers of fixed length, which is how a TPM makes them; certificates have them in DER.
//!
//! Must never sign. Verification is ring's; what a key is comes from its certificate, through the library for those.

use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, EcdsaVerificationAlgorithm, UnparsedPublicKey,
};
use rustls::pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id};

/// `r || s` under a key on P-256, over SHA-256.
pub static P256_SHA256_RAW: &dyn SignatureVerificationAlgorithm = &Raw {
    algorithm: &ECDSA_P256_SHA256_FIXED,
    key: alg_id::ECDSA_P256,
    signature: alg_id::ECDSA_SHA256,
    number_bytes: 32,
};

/// `r || s` under a key on P-384, over SHA-384.
pub static P384_SHA384_RAW: &dyn SignatureVerificationAlgorithm = &Raw {
    algorithm: &ECDSA_P384_SHA384_FIXED,
    key: alg_id::ECDSA_P384,
    signature: alg_id::ECDSA_SHA384,
    number_bytes: 48,
};

#[derive(Debug)]
struct Raw {
    algorithm: &'static EcdsaVerificationAlgorithm,
    key: AlgorithmIdentifier,
    signature: AlgorithmIdentifier,
    number_bytes: usize,
}

impl SignatureVerificationAlgorithm for Raw {
    fn verify_signature(&self, public_key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        if signature.len() != 2 * self.number_bytes {
            return Err(InvalidSignature);
        }
        let key = UnparsedPublicKey::new(self.algorithm, public_key);
        key.verify(message, signature).map_err(|ring::error::Unspecified| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.key
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.signature
    }
}
