//! Secrets that the host shares with a receiver outside, to sign what it sends him (HMAC-SHA-256, RFC 2104).
//!
//! Must never be given a secret that people chose: they are random, made here and shown once.

use crate::derive::mac;
use crate::secret::SecretBytes;

/// Bytes of such a secret.
pub const SHARED_SECRET_BYTES: usize = 32;

/// The tag of a message for whoever knows the secret.
pub fn sign_shared(secret: &SecretBytes, message: &[u8]) -> [u8; 32] {
    mac(secret.expose(), message)
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64;

    use super::*;

    #[test]
    fn the_tag_agrees_with_the_published_vector_of_standard_webhooks() {
        let secret = SecretBytes::new(BASE64.decode(b"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap());
        let signed = b"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{\"test\": 2432232314}";
        assert_eq!(BASE64.encode(&sign_shared(&secret, signed)), "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
