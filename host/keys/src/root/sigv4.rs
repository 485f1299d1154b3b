//! AWS Signature Version 4 for one request with its headers, after the AWS General Reference ("Signing AWS API requests").
//!
//! Must never put the secret key anywhere but into the HMAC. Knows requests without a query only: KMS has no others.

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};
use zeroize::Zeroizing;

use super::provider::AwsCredentials;
use crate::derive::mac;

/// What is signed.
pub(super) struct Signed<'a> {
    pub(super) method: &'a str,
    pub(super) region: &'a str,
    pub(super) service: &'a str,
    /// `20150830T123600Z`.
    pub(super) date: &'a str,
    /// Names in lower case, sorted; `host` and `x-amz-date` among them.
    pub(super) headers: &'a [(&'a str, &'a str)],
    pub(super) body: &'a [u8],
}

/// The value of the header `Authorization`.
pub(super) fn authorization(signed: &Signed<'_>, credentials: &AwsCredentials) -> String {
    let names = signed.headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let lines: String = signed.headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
    let canonical = format!("{}\n/\n\n{lines}\n{names}\n{}", signed.method, hash(signed.body));
    let day = signed.date.get(..8).unwrap_or_default();
    let scope = format!("{day}/{}/{}/aws4_request", signed.region, signed.service);
    let to_sign = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{}", signed.date, hash(canonical.as_bytes()));
    let key = key(credentials.secret_key.expose(), day, signed.region, signed.service);
    let signature = HEXLOWER.encode(&mac(key.as_slice(), to_sign.as_bytes()));
    let access_key = &credentials.access_key;
    format!("AWS4-HMAC-SHA256 Credential={access_key}/{scope}, SignedHeaders={names}, Signature={signature}")
}

fn key(secret: &str, day: &str, region: &str, service: &str) -> Zeroizing<[u8; 32]> {
    let first = Zeroizing::new(format!("AWS4{secret}"));
    let mut key = Zeroizing::new(mac(first.as_bytes(), day.as_bytes()));
    for part in [region, service, "aws4_request"] {
        key = Zeroizing::new(mac(key.as_slice(), part.as_bytes()));
    }
    key
}

fn hash(bytes: &[u8]) -> String {
    HEXLOWER.encode(digest(&SHA256, bytes).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

    #[test]
    fn the_signing_key_agrees_with_the_published_example() {
        let key = key(SECRET, "20150830", "us-east-1", "iam");
        assert_eq!(HEXLOWER.encode(key.as_slice()), "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9");
    }

    #[test]
    fn a_signature_agrees_with_the_published_test_suite() {
        let signed = Signed {
            method: "GET",
            region: "us-east-1",
            service: "service",
            date: "20150830T123600Z",
            headers: &[("host", "example.amazonaws.com"), ("x-amz-date", "20150830T123600Z")],
            body: b"",
        };
        let credentials = AwsCredentials {
            access_key: "AKIDEXAMPLE".to_owned(),
            secret_key: Secret::new(SECRET.to_owned()),
            session_token: None,
        };
        assert_eq!(
            authorization(&signed, &credentials),
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders=host;x-amz-date, Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
        );
    }
}
