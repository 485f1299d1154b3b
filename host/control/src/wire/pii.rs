//! The wire types of personal data: rules about fields, what is known of a subject.

use ringfence_core::fields::FieldRule;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body and answer of `/tenants/{t}/plugins/{p}/fields`: the rules about fields of a plugin's JSON bodies.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FieldRulesBody {
    /// At most 64. Of several that name one value the earliest seals it and says what others see; where one of them is for
    /// some requests only, an answer shows it to who may see all of them.
    #[schema(value_type = Vec<FieldRuleBody>)]
    pub rules: Vec<FieldRule>,
}

/// One rule about one field.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FieldRuleBody {
    /// The methods of the requests that it is for, in capitals; none stands for all.
    pub methods: Option<Vec<String>>,
    /// A pattern of their paths; none stands for all. A segment `*` stands for any one; as the last, for whatever is below, too.
    pub path: Option<String>,
    /// JSON pointer (RFC 6901); a step `*` stands for every element or member.
    pub pointer: String,
    /// The field's name, as in grants and policies.
    pub field: String,
    /// Whose value it is: `{"pointer": "/id"}` in the same body, or `{"constant": "..."}`. Needed for requests.
    #[schema(value_type = Option<Object>)]
    pub subject: Option<serde_json::Value>,
    /// `request` (sealed before the plugin sees it) or `response` (opened for those who may).
    pub direction: String,
    /// In answers, for those who may not: `sealed` or `mask`.
    pub otherwise: Option<String>,
}

/// What is known of a subject. Names nobody.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SubjectView {
    /// Its pseudonym in this tenant, as in the audit log.
    pub subject: String,
    /// Version of its living key; none when there is no key.
    pub key_version: Option<u32>,
    /// When that key was made.
    pub created_at: Option<String>,
    /// Tokens that lead back to a value of it; 1000 stands for that many or more.
    pub tokens_count: u64,
    /// Erasures, the newest first; at most 100.
    pub erasures: Vec<ErasureView>,
}

/// That a subject's key was destroyed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ErasureView {
    /// Which version of the key is gone.
    pub key_version: u32,
    /// When.
    pub erased_at: String,
    /// By whom.
    pub erased_by: String,
}
