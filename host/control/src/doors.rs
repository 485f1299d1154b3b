//! What a stranger's bytes meet at the control plane before anybody is known, as one function that bytes go into: for fuzzing,
//! and for the same properties over a bounded number of cases in the tests. Not in the product: only `fuzz/` asks for the
//! feature `fuzzing`.
//!
//! It must never panic, and never take what two readers could take in two ways.

use ringfence_core::{PrincipalId, TenantId};
use ringfence_identity::Proof;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::extract::parsed;
use crate::sign_in::proof_of;
use crate::wire::{Authenticate, StartFederated};

/// The body of a sign-in, and of one that begins at an identity provider: what is to be proved is what was sent.
pub fn sign_in_body(data: &[u8]) {
    if let Some(asked) = taken::<StartFederated>(data)
        && let Ok(tenant) = asked.tenant.parse::<TenantId>()
    {
        assert_eq!(tenant.as_str(), asked.tenant, "a tenant was taken for another");
    }
    let Some(asked) = taken::<Authenticate>(data) else { return };
    if let Authenticate::Password { principal, .. } = &asked
        && let Ok(named) = principal.parse::<PrincipalId>()
    {
        assert_eq!(named.as_str(), principal, "a name was taken for another");
    }
    match proof_of(asked.clone()) {
        Ok(proof) => assert!(is_of(&proof, &asked), "something else is to be proved than what was sent"),
        Err(refused) => assert!(refused.status().is_client_error(), "{refused:?}"),
    }
}

/// What the product's reader takes. Written and read again it is the same, and it says what any other reader of JSON finds there.
fn taken<T: Serialize + DeserializeOwned>(data: &[u8]) -> Option<T> {
    let asked = parsed::<T>(data).ok()?;
    let written = serde_json::to_value(&asked).ok()?;
    let again = serde_json::from_value::<T>(written.clone()).ok();
    let again = again.and_then(|again| serde_json::to_value(&again).ok());
    assert_eq!(again.as_ref(), Some(&written), "what was taken reads otherwise when it is written");
    // Of a list the places say what the names do else.
    if let (Ok(Value::Object(plain)), Value::Object(written)) = (serde_json::from_slice::<Value>(data), written) {
        assert_eq!(said(written), said(plain), "two readers take it in two ways");
    }
    Some(asked)
}

/// The fields that say something: none and nothing are one.
fn said(fields: Map<String, Value>) -> Map<String, Value> {
    fields.into_iter().filter(|(_, value)| !value.is_null()).collect()
}

/// Whether a proof is of the kind that was sent, and of all that was sent.
fn is_of(proof: &Proof, asked: &Authenticate) -> bool {
    match (asked, proof) {
        (Authenticate::Bootstrap { token, name }, Proof::Bootstrap { token: shown, name: called }) => {
            token == shown.expose() && name.as_deref().unwrap_or("operator") == called.as_str()
        }
        (Authenticate::ApiKey { key }, Proof::ApiKey { key: shown }) => key == shown.expose(),
        (Authenticate::ClientCertificate { tenant }, Proof::ClientCertificate { tenant: of }) => tenant == of.as_str(),
        (Authenticate::Invitation { token, password }, Proof::Invitation { token: shown, password: set }) => {
            token == shown.expose() && password.as_ref() == set.as_ref().map(|set| set.expose())
        }
        (
            Authenticate::Password { principal, password, code },
            Proof::Password { principal: named, password: shown, code: beside },
        ) => {
            principal == named
                && password == shown.expose()
                && code.as_ref() == beside.as_ref().map(|beside| beside.expose())
        }
        (Authenticate::Passkey { ceremony, answer }, Proof::Passkey { ceremony: of, answer: shown }) => {
            ceremony == of && *answer == shown.0
        }
        (
            Authenticate::Federated { ceremony, code, issuer },
            Proof::Federated { ceremony: of, code: shown, issuer: named },
        ) => ceremony == of && code == shown.expose() && issuer == named,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_taken(body: &str) -> bool {
        sign_in_body(body.as_bytes());
        parsed::<Authenticate>(body.as_bytes()).is_ok()
    }

    #[test]
    fn the_body_of_a_sign_in_is_taken_when_each_name_stands_once() {
        for body in [
            r#"{"method":"bootstrap","token":"t"}"#,
            r#"{"method":"bootstrap","token":"t","name":"not a name"}"#,
            r#"{"key":"rfk_a_b","method":"api_key"}"#,
            r#"{"method":"client_certificate","tenant":"../acme"}"#,
            r#"{"method":"invitation","token":"rfi_a","password":null}"#,
            r#"{"method":"password","principal":"acme/ann","password":"p","code":"000 000"}"#,
            r#"{"method":"password","principal":"operator/../acme/ann","password":"p"}"#,
            r#"{"method":"passkey","ceremony":"c","answer":{"id":[1e9,-0,{"a":1,"a":[]}]}}"#,
            r#"{"method":"federated","ceremony":"c","code":"d","issuer":"https://id.example"}"#,
        ] {
            assert!(is_taken(body), "{body}");
        }
        for body in [
            "",
            "{}",
            r#"{"method":"api_key"}"#,
            r#"{"method":"api_key","key":"a","key":"b"}"#,
            r#"{"method":"api_key","method":"bootstrap","token":"t"}"#,
            r#"{"method":"bootstrap","token":"t","key":"a","method":"api_key"}"#,
            r#"{"method":"api_key","key":"a","more":1}"#,
            r#"{"method":"api_key","key":["a"]}"#,
            r#"{"method":1,"key":"a"}"#,
            r#"{"method":"api_key","key":"a"} {}"#,
        ] {
            assert!(!is_taken(body), "{body}");
        }
        let deep =
            format!(r#"{{"method":"passkey","ceremony":"c","answer":{}{}}}"#, "[".repeat(9_999), "]".repeat(9_999));
        assert!(!is_taken(&deep));
        sign_in_body(br#"{"tenant":"acme","provider":"idp","redirect_uri":"https://app.example/back"}"#);
        sign_in_body(br#"["acme","idp","https://app.example/back"]"#);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn the_body_of_a_sign_in_holds_against_any_bytes(data in proptest::collection::vec(any::<u8>(), 0..300)) {
            sign_in_body(&data);
        }
        #[test]
        fn the_body_of_a_sign_in_holds_against_any_fields(
            method in "bootstrap|api_key|client_certificate|invitation|password|passkey|federated|x",
            fields in proptest::collection::vec(
                (
                    "token|name|key|tenant|password|principal|code|ceremony|answer|issuer|method|provider|redirect_uri",
                    "\"[a-zA-Zé/._ -]{0,8}\"|null|1e9|-0|\\{\"a\":1,\"a\":\\[\\]\\}|\\[\"a\"\\]",
                ),
                0..5,
            ),
        ) {
            let fields: String = fields.iter().map(|(name, value)| format!(",\"{name}\":{value}")).collect();
            sign_in_body(format!("{{\"method\":\"{method}\"{fields}}}").as_bytes());
        }
    }
}
