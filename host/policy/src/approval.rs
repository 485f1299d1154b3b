//! What a run asks people for, as statements about `approve-run` read it.
//!
//! Must never be left out where a run asks: a statement that forbids by it would let the word through.

use cedar_policy::RestrictedExpression;
use ringfence_core::PrincipalId;
use serde::{Deserialize, Serialize};

use crate::question::text;

/// What a run asks people for, and what it is to who decides.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Approval {
    /// Under which name it asks.
    pub name: String,
    /// Who began the run.
    pub began_by: PrincipalId,
    /// Whether that is who decides, be it by another key of one owner.
    pub is_own: bool,
    /// For how many seconds it has been asked.
    pub waited_s: u64,
}

impl Approval {
    /// Its word in the context, in Cedar's words.
    pub(crate) fn pair(&self) -> Result<(String, RestrictedExpression), String> {
        let string = |value: &str| RestrictedExpression::new_string(value.to_owned());
        let fields = [
            ("name", string(&self.name)),
            ("began_by", string(self.began_by.as_str())),
            ("is_own", RestrictedExpression::new_bool(self.is_own)),
            ("waited_s", RestrictedExpression::new_long(i64::try_from(self.waited_s).unwrap_or(i64::MAX))),
        ];
        let fields = fields.map(|(name, value)| (name.to_owned(), value));
        Ok(("approval".to_owned(), RestrictedExpression::new_record(fields).map_err(text)?))
    }
}
