//! A tenant's own policies, and the operator's ceiling over them: parsed, held to the schema and to the tenant, and
//! sorted by scope.
//!
//! Must never take a text that names another tenant, the host or its operators, nor one that leaves no tenant-admin
//! able to change it. Runs on the control plane only; the walks use what it made.

use std::collections::HashSet;

use cedar_policy::{
    ActionConstraint, Effect as CedarEffect, EntityUid, Policy as CedarPolicy, PolicyId, PolicySet, PolicySetError,
    PrincipalConstraint, ValidationMode, ValidationResult, ValidationWarning, Validator,
};
use miette::Diagnostic;
use ringfence_core::TenantId;
use ringfence_core::limits::POLICY_APPLICABLE_COUNT_MAX;

use crate::PolicyError;
use crate::decision::{Analysis, Effect, Finding, FindingKind, PolicySummary};
use crate::host_calls::HostReads;
use crate::index::{ACTIONS_SPREAD_COUNT_MAX, Index};
use crate::question::Words;
use crate::scores::TrustReads;
use crate::structure;
use crate::text::{Form, forms, invalid, statements};

/// Prefix of the ids of tenants' policies in decisions.
const TENANT_PREFIX: &str = "tenant/";
/// Prefix of the ids of the ceiling's policies in decisions.
const CEILING_PREFIX: &str = "ceiling/";
/// Most characters of an id or a text that a decision repeats.
const QUOTE_CHARS_MAX: usize = 400;

/// Whose text it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Author {
    /// The tenant's own policy.
    Tenant,
    /// The operator's ceiling over the tenant: it may only forbid.
    Operator,
}

/// What every text is checked with.
pub(crate) struct Checker {
    pub(crate) words: Words,
    pub(crate) validator: Validator,
    /// The platform's policies, by scope.
    pub(crate) platform: Index,
    /// The same, as one set: for proofs, and for tests that ask them all.
    pub(crate) platform_set: PolicySet,
}

/// A text that passed, ready to be asked.
#[derive(Default)]
pub(crate) struct Rules {
    /// In the order of the text.
    pub(crate) policies: Vec<CedarPolicy>,
    pub(crate) index: Index,
    /// What of it applies to host calls, and reads of their occasions.
    pub(crate) host: HostReads,
    /// For which other acts it reads the trust score of who asks.
    pub(crate) trust: TrustReads,
}

/// Rules and what was found about them.
pub(crate) struct Checked {
    pub(crate) rules: Rules,
    pub(crate) analysis: Analysis,
}

impl Checker {
    /// Parses `text`, validates it strictly, keeps it inside `tenant`, and sorts it by scope.
    pub(crate) fn check(&self, tenant: &TenantId, text: &str, author: Author) -> Result<Checked, PolicyError> {
        let starts = statements(text)?;
        let parsed: PolicySet = text.parse().map_err(|error| located(text, &error, 0))?;
        if parsed.templates().next().is_some() {
            return Err(invalid(
                text,
                0,
                "`?principal` and `?resource` are not supported",
                Some("name the principal or resource itself".to_owned()),
            ));
        }
        let mut own: Vec<(usize, &CedarPolicy)> =
            parsed.policies().map(|policy| (ordinal(policy.id()), policy)).collect();
        own.sort_by_key(|(ordinal, _)| *ordinal);
        let start_of = |place: usize| starts.get(place).copied().unwrap_or(0);

        let forms = forms(text, &starts);
        let verdict = self.validate(&own, &forms).map_err(|error| invalid(text, 0, error.to_string(), None))?;
        // The validator reports in no order; the first place in the text is where its author reads first.
        let mistakes = verdict.validation_errors().map(|error| {
            let start = start_of(ordinal(error.policy_id()));
            (offset(error).unwrap_or(start), start, error)
        });
        if let Some((_, start, error)) = mistakes.min_by_key(|(at, _, error)| (*at, error.to_string())) {
            return Err(located(text, error, start));
        }
        for (place, policy) in &own {
            if author == Author::Operator && policy.effect() == CedarEffect::Permit {
                return Err(invalid(text, start_of(*place), "a ceiling can only `forbid`", None));
            }
            if let Some(foreign) = policy.entity_literals().iter().find(|literal| !belongs(literal, tenant)) {
                return Err(foreign_error(text, start_of(*place), foreign, tenant));
            }
        }
        let prefix = if author == Author::Tenant { TENANT_PREFIX } else { CEILING_PREFIX };
        let policies: Vec<CedarPolicy> =
            own.iter().map(|(place, policy)| policy.new_id(PolicyId::new(format!("{prefix}{}", place + 1)))).collect();
        let index = Index::build(&policies, ACTIONS_SPREAD_COUNT_MAX).map_err(|error| invalid(text, 0, error, None))?;
        let applicable = index.applicable_count_max();
        if applicable > POLICY_APPLICABLE_COUNT_MAX {
            return Err(PolicyError::TooBroad { count: applicable, count_max: POLICY_APPLICABLE_COUNT_MAX });
        }
        let analysis = self.analyse(&policies, &forms, &verdict);
        let (host, trust) = (HostReads::of(&policies, &forms), TrustReads::of(&policies, &forms));
        Ok(Checked { rules: Rules { policies, index, host, trust }, analysis })
    }

    /// Holds statements to the schema. One that fits costs a millisecond, so of those of one shape the first is held alone; when
    /// there is anything to say about it, all of them are.
    fn validate(&self, own: &[(usize, &CedarPolicy)], forms: &[Form]) -> Result<ValidationResult, Box<PolicySetError>> {
        let shape = |place: usize| forms.get(place).map(|form| form.shape.as_str());
        let mut seen = HashSet::new();
        let mut firsts = PolicySet::new();
        for (place, policy) in own {
            // One whose place in the text is not known is like no other.
            if shape(*place).is_none_or(|shape| seen.insert(shape)) {
                firsts.add(CedarPolicy::clone(policy))?;
            }
        }
        let verdict = self.validator.validate(&firsts, ValidationMode::Strict);
        let errors = verdict.validation_errors().map(|error| error.policy_id());
        let told: HashSet<Option<&str>> = errors
            .chain(verdict.validation_warnings().map(|told| told.policy_id()))
            .map(|id| shape(ordinal(id)))
            .collect();
        if told.is_empty() {
            return Ok(verdict);
        }
        let mut all = PolicySet::new();
        for (_, policy) in own.iter().filter(|(place, _)| told.contains(&shape(*place))) {
            all.add(CedarPolicy::clone(policy))?;
        }
        Ok(self.validator.validate(&all, ValidationMode::Strict))
    }

    fn analyse(&self, policies: &[CedarPolicy], forms: &[Form], verdict: &ValidationResult) -> Analysis {
        let mut analysis = Analysis { policies: Vec::new(), findings: structure::findings(policies, forms) };
        for policy in policies {
            let (id, effect) = (display_id(policy), effect_of(policy));
            if self.opens_to_anonymous(policy) {
                analysis.findings.push(Finding {
                    kind: FindingKind::OpensToAnonymous,
                    text: format!("`{id}` can let callers who show no credentials invoke plugins"),
                });
            }
            analysis.policies.push(PolicySummary { id, effect });
        }
        for warning in verdict.validation_warnings() {
            let kind = match warning {
                ValidationWarning::ImpossiblePolicy(_) => FindingKind::Unreachable,
                _ => FindingKind::Warning,
            };
            analysis.findings.push(Finding { kind, text: quote(&warning.to_string()) });
        }
        analysis
    }

    fn opens_to_anonymous(&self, policy: &CedarPolicy) -> bool {
        // Cedar's own word costs as much as holding the policy to the schema: asked where the scope leaves it open.
        let anyone = match policy.principal_constraint() {
            PrincipalConstraint::Any => true,
            PrincipalConstraint::Is(kind) => kind.basename() == "Anonymous",
            PrincipalConstraint::In(uid) | PrincipalConstraint::Eq(uid) | PrincipalConstraint::IsIn(_, uid) => {
                uid.type_name().basename() == "Anonymous"
            }
        };
        let invokes = |uid: &EntityUid| uid.id().unescaped() == "invoke";
        let invoking = match policy.action_constraint() {
            ActionConstraint::Any => true,
            ActionConstraint::Eq(uid) => invokes(&uid),
            ActionConstraint::In(list) => list.iter().any(invokes),
        };
        policy.effect() == CedarEffect::Permit
            && anyone
            && invoking
            && policy
                .get_valid_request_envs(&self.words.schema)
                .any(|env| env.principal().basename() == "Anonymous" && env.action().id().unescaped() == "invoke")
    }
}

/// The id people see: `boundary.tenant` and `role.caller` are the platform's, `tenant/<@id or place>` a tenant's.
pub(crate) fn display_id(policy: &CedarPolicy) -> String {
    let id = policy.id().to_string();
    match policy.annotation("id") {
        Some(annotation) if !annotation.is_empty() => {
            match [TENANT_PREFIX, CEILING_PREFIX].iter().find(|prefix| id.starts_with(**prefix)) {
                Some(prefix) => format!("{prefix}{}", quote(annotation)),
                None => id,
            }
        }
        _ => id,
    }
}

/// What a policy says of itself: its `@description`, or else its text.
pub(crate) fn describe(policy: &CedarPolicy) -> String {
    policy.annotation("description").map_or_else(|| quote(&policy.to_string()), quote)
}

/// What a policy does when it applies.
pub(crate) fn effect_of(policy: &CedarPolicy) -> Effect {
    match policy.effect() {
        CedarEffect::Permit => Effect::Permit,
        CedarEffect::Forbid => Effect::Forbid,
    }
}

/// Whether a policy is the tenant's own.
pub(crate) fn is_tenants(id: &str) -> bool {
    id.starts_with(TENANT_PREFIX)
}

/// Whether a policy is of the operator's ceiling.
pub(crate) fn is_ceilings(id: &str) -> bool {
    id.starts_with(CEILING_PREFIX)
}

/// Whether a tenant's policy may name this entity.
fn belongs(literal: &EntityUid, tenant: &TenantId) -> bool {
    let id = literal.id().unescaped();
    match literal.type_name().to_string().as_str() {
        "Ringfence::Action" | "Ringfence::Role" | "Ringfence::Capability" => true,
        "Ringfence::Anonymous" => id == "anonymous",
        "Ringfence::Tenant" => id == tenant.as_str(),
        "Ringfence::Person"
        | "Ringfence::Service"
        | "Ringfence::Plugin"
        | "Ringfence::Secret"
        | "Ringfence::Field"
        | "Ringfence::Bucket"
        | "Ringfence::Container"
        | "Ringfence::Directory"
        | "Ringfence::Origin"
        | "Ringfence::Queue" => id
            .strip_prefix(tenant.as_str())
            .and_then(|rest| rest.strip_prefix('/'))
            .is_some_and(|name| !name.is_empty()),
        _ => false,
    }
}

fn foreign_error(text: &str, start: usize, foreign: &EntityUid, tenant: &TenantId) -> PolicyError {
    let written = foreign.to_string();
    let at = text.get(start..).and_then(|rest| rest.find(&written)).map_or(start, |found| start + found);
    let help = match foreign.type_name().basename() {
        "Operator" | "Host" => "operators and the host are the platform's to decide about".to_owned(),
        "Tenant" => format!("write Ringfence::Tenant::\"{tenant}\""),
        "Anonymous" => "write Ringfence::Anonymous::\"anonymous\"".to_owned(),
        kind => format!("ids start with the tenant: Ringfence::{kind}::\"{tenant}/...\""),
    };
    invalid(text, at, format!("`{}` is not of tenant `{tenant}`", quote(&written)), Some(help))
}

/// The place of a policy in its text, from 0: Cedar numbers them `policy0`, `policy1`, ...
fn ordinal(id: &PolicyId) -> usize {
    id.to_string().strip_prefix("policy").and_then(|number| number.parse().ok()).unwrap_or(usize::MAX)
}

fn offset(error: &dyn Diagnostic) -> Option<usize> {
    error.labels().and_then(|mut labels| labels.next()).map(|label| label.offset())
}

fn located(text: &str, error: &dyn Diagnostic, fallback: usize) -> PolicyError {
    let mut message = error.to_string();
    // Cedar's number of the statement says less than line and column do.
    if let Some((_, rest)) = message.strip_prefix("for policy `").and_then(|rest| rest.split_once('`')) {
        message = rest.trim_start_matches([',', ':', ' ']).to_owned();
    }
    // What the place is called ("expected `;`") says more than the headline alone.
    if let Some(detail) = error.labels().and_then(|mut labels| labels.next()).as_ref().and_then(|label| label.label()) {
        message = format!("{message}: {detail}");
    }
    let mut help = error.help().map(|help| quote(&help.to_string()));
    if help.is_none() && message.starts_with("attribute") {
        help = Some("not everything has it: ask first, as in `principal has role && principal.role == ...`".to_owned());
    }
    invalid(text, offset(error).unwrap_or(fallback), quote(&message), help)
}

fn quote(text: &str) -> String {
    let mut out: String = text.chars().take(QUOTE_CHARS_MAX).collect();
    if text.chars().nth(QUOTE_CHARS_MAX).is_some() {
        out.push_str("...");
    }
    out
}
