//! Statements about every request that can be, proved by a solver: that nothing allowed crosses the border, that a changed
//! policy allows nothing new, and that each of its permits can apply.
//!
//! Must never say `proved` when the solver did not: what it cannot tell, or cannot be asked, is `not run` with the
//! reason. The solver is the caller's; this room starts no process.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use cedar_policy::{Effect, Entities, Entity, Policy as CedarPolicy, PolicySet, RequestEnv};
use cedar_policy_symcc::err::Error;
use cedar_policy_symcc::{CedarSymCompiler, CompiledPolicySet};
use ringfence_core::TenantId;

pub use cedar_policy_symcc::solver::{LocalSolver, Solver, SolverError};

use crate::decide::TenantState;
use crate::tenant::{Rules, display_id};
use crate::{Policy, PolicyError, structure};

const BORDER: &str = include_str!("border.cedar");

/// How a proof ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It holds for every request that the schema allows.
    Proved {
        /// Kinds of request that were looked at: principal, action and resource by type.
        kinds_count: usize,
    },
    /// It does not.
    Disproved {
        /// A request for which it does not hold, and the entities it names; or a line for each statement that it is not so of.
        counterexample: String,
    },
    /// Nobody knows.
    NotRun {
        /// Why.
        reason: String,
    },
}

/// For which kinds of request the border is to be proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kinds {
    /// All that the schema has, those included where the platform's policies alone allow anything.
    All,
    /// Those that a permit of the text can apply to: in all others it allows nothing that the platform's policies do not.
    OfPermits,
}

/// Without the actions, roles and capabilities, which are all there in every counterexample.
fn telling(all: Entities) -> Entities {
    let is_word = |entity: &&Entity| matches!(entity.uid().type_name().basename(), "Action" | "Role" | "Capability");
    let others = all.iter().filter(|entity| !is_word(entity)).cloned();
    Entities::from_entities(others, None).unwrap_or(all)
}

impl Policy {
    /// Proves that what `text`, or without one the policies in force, and the platform allow stays within the border of
    /// `border.cedar`. Fails like [`Policy::set_tenant_policy`].
    pub async fn prove_border<S: Solver>(
        &self,
        tenant: &TenantId,
        text: Option<&str>,
        kinds: Kinds,
        solver: S,
    ) -> Result<Verdict, PolicyError> {
        let state = self.known(tenant)?;
        let rules = self.rules_of(tenant, &state, text)?;
        let allowed = self.joined(&[&state.ceiling, &rules])?;
        let border = BORDER.parse().map_err(|error: cedar_policy::ParseErrors| broken(&error))?;
        let kinds = match kinds {
            Kinds::All => self.all_kinds(),
            Kinds::OfPermits => self.kinds_of(rules.policies.iter().filter(|policy| is_permit(policy))).await,
        };
        Ok(self.prove_within(&allowed, &border, kinds, solver).await)
    }

    /// Proves that `text` allows nothing that the tenant's policies in force do not, whatever ceiling stands above them. Fails
    /// like [`Policy::set_tenant_policy`].
    pub async fn prove_narrows<S: Solver>(
        &self,
        tenant: &TenantId,
        text: &str,
        solver: S,
    ) -> Result<Verdict, PolicyError> {
        let state = self.known(tenant)?;
        let (candidate, _) = self.compile(tenant, text)?;
        // SECURITY: the solver passes over a statement that fails, and a decision does not.
        if state.rules.policies.iter().any(structure::can_fail) {
            let reason = "a statement in force can fail to evaluate, which denies, and the solver does not see that";
            return Ok(Verdict::NotRun { reason: reason.to_owned() });
        }
        // SECURITY: without the ceiling. A permit of what it forbids would be proved to allow nothing new, and would allow it all on
        // the day that the operator lifts it, of which nobody in the tenant is asked.
        let then = self.joined(&[&candidate])?;
        let now = self.joined(&[&state.rules])?;
        // In every other kind of request the two say the same, or the candidate forbids more.
        let kinds = self.kinds_of(structure::widening(&state.rules.policies, &candidate.policies)).await;
        Ok(self.prove_within(&then, &now, kinds, solver).await)
    }

    /// Proves that each permit of `text`, or without one of the policies in force, allows some request that no statement
    /// forbids. Where that is not so, the counterexample has a line for each permit that never applies, which begins with its
    /// id in back quotes. Fails like [`Policy::set_tenant_policy`].
    pub async fn prove_permits_apply<S: Solver>(
        &self,
        tenant: &TenantId,
        text: Option<&str>,
        solver: S,
    ) -> Result<Verdict, PolicyError> {
        let state = self.known(tenant)?;
        let rules = self.rules_of(tenant, &state, text)?;
        let mut forbids = PolicySet::new();
        for policy in self.joined(&[&state.ceiling, &rules])?.policies().filter(|policy| !is_permit(policy)) {
            forbids.add(policy.clone()).map_err(|error| broken(&error))?;
        }
        Ok(self.find_idle(&rules, &forbids, solver).await.unwrap_or_else(|error| no_answer(&error)))
    }

    /// The permits of `rules` that allow no request beside `forbids`.
    async fn find_idle<S: Solver>(&self, rules: &Rules, forbids: &PolicySet, solver: S) -> Result<Verdict, Error> {
        let schema = &self.shared.checker.words.schema;
        let mut compiler = CedarSymCompiler::new(solver)?;
        let (mut kinds_count, mut idle) = (0, Vec::new());
        for permit in rules.policies.iter().filter(|policy| is_permit(policy)) {
            let mut both = forbids.clone();
            if let Err(error) = both.add(permit.clone()) {
                return Ok(Verdict::NotRun { reason: error.to_string() });
            }
            let mut applies = false;
            for kind in self.kinds_of([permit]).await {
                // A tenant's policies are not asked about operators.
                if kind.principal().basename() == "Operator" {
                    continue;
                }
                kinds_count += 1;
                let compiled = CompiledPolicySet::compile(&both, &kind, schema)?;
                if !compiler.check_always_denies_opt(&compiled).await? {
                    applies = true;
                    break;
                }
            }
            if !applies {
                idle.push(format!("`{}` never applies: there is no request that it could allow", display_id(permit)));
            }
        }
        Ok(match idle.as_slice() {
            [] => Verdict::Proved { kinds_count },
            idle => Verdict::Disproved { counterexample: idle.join("\n") },
        })
    }

    /// Whether everything that `inner` allows is allowed by `outer`, kind of request by kind of request.
    async fn prove_within<S: Solver>(
        &self,
        inner: &PolicySet,
        outer: &PolicySet,
        kinds: BTreeSet<RequestEnv>,
        solver: S,
    ) -> Verdict {
        match self.first_outside(inner, outer, kinds, solver).await {
            Ok((_, Some(counterexample))) => Verdict::Disproved { counterexample },
            Ok((kinds_count, None)) => Verdict::Proved { kinds_count },
            Err(error) => no_answer(&error),
        }
    }

    async fn first_outside<S: Solver>(
        &self,
        inner: &PolicySet,
        outer: &PolicySet,
        kinds: BTreeSet<RequestEnv>,
        solver: S,
    ) -> Result<(usize, Option<String>), Error> {
        let schema = &self.shared.checker.words.schema;
        let mut compiler = CedarSymCompiler::new(solver)?;
        let mut kinds_count = 0;
        for kind in kinds {
            breathe().await;
            let inner = CompiledPolicySet::compile(inner, &kind, schema)?;
            let outer = CompiledPolicySet::compile(outer, &kind, schema)?;
            if let Some(mut found) = compiler.check_implies_with_counterexample_opt(&inner, &outer).await? {
                found.entities = telling(found.entities);
                return Ok((kinds_count, Some(found.to_string())));
            }
            kinds_count += 1;
        }
        Ok((kinds_count, None))
    }

    fn all_kinds(&self) -> BTreeSet<RequestEnv> {
        self.shared.checker.words.schema.request_envs().collect()
    }

    /// The kinds of request that one of these statements can apply to, as far as types say.
    async fn kinds_of<'a>(&self, policies: impl IntoIterator<Item = &'a CedarPolicy>) -> BTreeSet<RequestEnv> {
        let mut kinds = BTreeSet::new();
        for policy in policies {
            breathe().await;
            kinds.extend(policy.get_valid_request_envs(&self.shared.checker.words.schema));
        }
        kinds
    }

    /// The statements of `text`, or without one those in force.
    fn rules_of(&self, tenant: &TenantId, state: &TenantState, text: Option<&str>) -> Result<Arc<Rules>, PolicyError> {
        match text {
            Some(text) => self.compile(tenant, text).map(|(rules, _)| rules),
            None => Ok(Arc::clone(&state.rules)),
        }
    }

    fn joined(&self, others: &[&Rules]) -> Result<PolicySet, PolicyError> {
        let mut all = self.shared.checker.platform_set.clone();
        for policy in others.iter().flat_map(|rules| &rules.policies) {
            all.add(policy.clone()).map_err(|error| broken(&error))?;
        }
        Ok(all)
    }
}

/// Lets whoever waits for this with a deadline look at it: the work between two questions to the solver waits for nothing.
async fn breathe() {
    let mut has_waited = false;
    poll_fn(|context| {
        if std::mem::replace(&mut has_waited, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn is_permit(policy: &CedarPolicy) -> bool {
    policy.effect() == Effect::Permit
}

fn no_answer(error: &Error) -> Verdict {
    Verdict::NotRun { reason: format!("the solver gave no answer: {error}") }
}

fn broken(error: &dyn std::fmt::Display) -> PolicyError {
    PolicyError::Platform { message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use cedar_policy_symcc::solver::{Decision, DecisionWithModel};

    use super::*;
    use crate::tests::{PERMIT_ALL, active, tenant};

    /// Says one thing to whatever it is asked, and reads nothing.
    struct Says(Decision, tokio::io::Sink);

    impl Solver for Says {
        fn smtlib_input(&mut self) -> &mut (dyn tokio::io::AsyncWrite + Unpin + Send) {
            &mut self.1
        }
        async fn enable_models(&mut self) -> Result<(), SolverError> {
            Ok(())
        }
        async fn check_sat(&mut self) -> Result<Decision, SolverError> {
            Ok(self.0.clone())
        }
        async fn check_sat_with_model(&mut self) -> Result<DecisionWithModel, SolverError> {
            match self.0 {
                Decision::Unsat => Ok(DecisionWithModel::Unsat),
                Decision::Unknown => Ok(DecisionWithModel::Unknown),
                Decision::Sat => Err(SolverError::Solver("it stopped".to_owned())),
            }
        }
    }

    fn border_when_the_solver_says(decision: Decision) -> Verdict {
        let policy = active();
        policy.set_tenant_policy(&tenant("acme"), PERMIT_ALL).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let solver = Says(decision, tokio::io::sink());
        runtime.block_on(policy.prove_border(&tenant("acme"), None, Kinds::All, solver)).unwrap()
    }

    #[test]
    fn only_the_solvers_no_to_every_kind_of_request_is_a_proof() {
        let Verdict::Proved { kinds_count } = border_when_the_solver_says(Decision::Unsat) else {
            panic!("not proved")
        };
        assert!(kinds_count > 100, "{kinds_count}");
        for said in [Decision::Unknown, Decision::Sat] {
            let verdict = border_when_the_solver_says(said);
            assert!(matches!(verdict, Verdict::NotRun { .. }), "{verdict:?}");
        }
    }

    /// Allowed whoever is elevated or not: more than [`NARROW`] allows.
    const WIDE: &str =
        r#"permit (principal is Ringfence::Person, action == Ringfence::Action::"read-tenant", resource);"#;
    const NARROW: &str = r#"permit (principal is Ringfence::Person, action == Ringfence::Action::"read-tenant", resource)
        when { principal.elevated };"#;

    /// A program that answers every question with one line, and with a model that says nothing when it is asked for one.
    fn says(line: &str) -> LocalSolver {
        let script = r#"while read -r asked; do case "$asked" in
            *check-sat*) printf '%s\n' "$0" ;; *get-model*) printf '(\n)\n' ;; esac; done"#;
        let mut command = tokio::process::Command::new("/bin/sh");
        LocalSolver::from_command(command.args(["-c", script, line]).kill_on_drop(true)).unwrap()
    }

    fn within(inner: &str, outer: &str, solver: impl FnOnce() -> LocalSolver) -> Verdict {
        let (policy, inner, outer) = (active(), inner.parse().unwrap(), outer.parse().unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { policy.prove_within(&inner, &outer, policy.all_kinds(), solver()).await })
    }

    #[test]
    fn what_a_program_says_is_the_verdict_and_what_is_no_answer_is_none() {
        assert!(matches!(within(WIDE, NARROW, || says("unsat")), Verdict::Proved { .. }));
        let Verdict::Disproved { counterexample } = within(WIDE, NARROW, || says("sat")) else {
            panic!("not disproved")
        };
        assert!(counterexample.contains("Person") && counterexample.contains("read-tenant"), "{counterexample}");
        assert_eq!(counterexample.matches("Ringfence::Action::").count(), 1, "{counterexample}");
        for line in ["unknown", "(error \"out of memory\")", "(error \"Parse Error: x\")", "satisfied", "", "UNSAT"] {
            let verdict = within(WIDE, NARROW, || says(line));
            assert!(matches!(verdict, Verdict::NotRun { .. }), "`{line}`: {verdict:?}");
        }
        let gone = || {
            let mut command = tokio::process::Command::new("/bin/true");
            LocalSolver::from_command(&mut command).unwrap()
        };
        let verdict = within(WIDE, NARROW, gone);
        assert!(matches!(verdict, Verdict::NotRun { .. }), "a program that ends: {verdict:?}");
    }

    /// Some of it needs no solver: a kind of request that one side always allows and the other never.
    #[test]
    fn what_leaves_the_border_for_a_whole_kind_of_request_is_disproved_whatever_the_solver_says() {
        let verdict = within(PERMIT_ALL, BORDER, || says("unsat"));
        let Verdict::Disproved { counterexample } = verdict else { panic!("{verdict:?}") };
        assert!(counterexample.contains("Ringfence::"), "{counterexample}");
    }

    fn changed(in_force: &str, candidate: &str, line: &str) -> (Verdict, Verdict, Verdict) {
        let (policy, acme) = (active(), tenant("acme"));
        policy.set_tenant_policy(&acme, in_force).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            (
                policy.prove_border(&acme, Some(candidate), Kinds::OfPermits, says(line)).await.unwrap(),
                policy.prove_narrows(&acme, candidate, says(line)).await.unwrap(),
                policy.prove_permits_apply(&acme, Some(candidate), says(line)).await.unwrap(),
            )
        })
    }

    #[test]
    fn of_a_change_the_solver_is_asked_what_the_change_can_touch() {
        let one = Verdict::Proved { kinds_count: 1 };
        let (border, narrows, apply) = changed(NARROW, WIDE, "unsat");
        assert_eq!((&border, &narrows), (&one, &one));
        let Verdict::Disproved { counterexample } = apply else { panic!("{apply:?}") };
        assert!(counterexample.starts_with("`tenant/1` never applies"), "{counterexample}");
        let (border, narrows, apply) = changed(NARROW, WIDE, "sat");
        // A solver that names no request that fits has shown nothing, and proved nothing either.
        for verdict in [border, narrows] {
            assert!(!matches!(verdict, Verdict::Proved { .. }), "{verdict:?}");
        }
        assert_eq!(apply, one);
        let (border, narrows, apply) = changed(NARROW, WIDE, "unknown");
        for verdict in [border, narrows, apply] {
            assert!(matches!(verdict, Verdict::NotRun { .. }), "{verdict:?}");
        }
        // One more forbid touches nothing that could be allowed, so there is nothing to ask; one less does.
        let forbids = format!(
            r#"{NARROW} forbid (principal is Ringfence::Person, action == Ringfence::Action::"read-tenant", resource)
            when {{ principal.training.contains("gdpr") }};"#
        );
        assert_eq!(changed(NARROW, &forbids, "unknown").1, Verdict::Proved { kinds_count: 0 });
        let (_, narrows, _) = changed(&forbids, NARROW, "unknown");
        assert!(matches!(narrows, Verdict::NotRun { .. }), "{narrows:?}");
    }

    #[test]
    fn what_denies_by_failing_is_not_said_to_be_narrowed() {
        let failing = r#"forbid (principal is Ringfence::Person, action == Ringfence::Action::"read-tenant", resource)
            when { context has trust && context.trust + 1 > 100 };"#;
        let (_, narrows, _) = changed(failing, failing, "unsat");
        assert!(matches!(narrows, Verdict::NotRun { .. }), "{narrows:?}");
    }

    /// Whether there is a solver to ask. `cargo xtask test` installs it, so there it has to be; by hand a test says that it did
    /// not run.
    fn has_cvc5() -> bool {
        let output = std::process::Command::new("cvc5").arg("--version").output();
        let is_there = output.is_ok_and(|output| output.status.success());
        assert!(is_there || std::env::var_os("RINGFENCE_TEST_SETUP").is_none(), "the setup left out `cvc5`");
        if !is_there {
            println!("NOT RUN: there is no `cvc5`, so no solver was asked; `cargo xtask test` installs it");
        }
        is_there
    }

    #[test]
    fn the_solver_proves_the_border_and_disproves_one_that_was_widened() {
        if !has_cvc5() {
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        let policy = active();
        policy.set_tenant_policy(&tenant("acme"), PERMIT_ALL).unwrap();
        let solver = LocalSolver::cvc5().unwrap();
        let proved = runtime.block_on(policy.prove_border(&tenant("acme"), None, Kinds::All, solver)).unwrap();
        assert!(matches!(proved, Verdict::Proved { .. }), "{proved:?}");
        // The platform's statements without the one that keeps tenants apart.
        let platform = format!("{}\n{}", crate::BOUNDARY, crate::ROLES).parse::<PolicySet>().unwrap();
        let kept = platform.policies().filter(|policy| policy.annotation("id") != Some("boundary.tenant")).cloned();
        let own = PERMIT_ALL.parse::<PolicySet>().unwrap();
        let own = own.policies().map(|policy| policy.new_id(cedar_policy::PolicyId::new("own")));
        let widened = PolicySet::from_policies(kept.chain(own)).unwrap();
        assert_eq!(widened.policies().count(), platform.policies().count(), "one was taken and one was added");
        let border = BORDER.parse().unwrap();
        let solver = LocalSolver::cvc5().unwrap();
        let verdict = runtime.block_on(policy.prove_within(&widened, &border, policy.all_kinds(), solver));
        let Verdict::Disproved { counterexample } = verdict else { panic!("{verdict:?}") };
        assert!(counterexample.contains("Ringfence::"), "{counterexample}");
    }

    #[test]
    fn the_solver_tells_a_narrower_text_from_a_wider_one_and_finds_permits_that_never_apply() {
        if !has_cvc5() {
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        let (policy, acme) = (active(), tenant("acme"));
        let solver = || LocalSolver::cvc5().unwrap();
        policy.set_tenant_policy(&acme, WIDE).unwrap();
        let narrower = runtime.block_on(policy.prove_narrows(&acme, NARROW, solver())).unwrap();
        assert_eq!(narrower, Verdict::Proved { kinds_count: 1 });
        policy.set_tenant_policy(&acme, NARROW).unwrap();
        // A caller may not read the tenant by his role, so who is not elevated gains it.
        let Verdict::Disproved { counterexample } =
            runtime.block_on(policy.prove_narrows(&acme, WIDE, solver())).unwrap()
        else {
            panic!("not disproved")
        };
        assert!(counterexample.contains("read-tenant"), "{counterexample}");
        // It is wider under a ceiling that forbids all of it today, too.
        policy
            .set_ceiling(&acme, r#"forbid (principal, action == Ringfence::Action::"read-tenant", resource);"#)
            .unwrap();
        let hidden = runtime.block_on(policy.prove_narrows(&acme, WIDE, solver())).unwrap();
        assert!(matches!(hidden, Verdict::Disproved { .. }), "{hidden:?}");
        policy.set_ceiling(&acme, "").unwrap();
        // What the types of a text do not show: a condition that contradicts itself, and one that another forbids.
        let text = format!(
            r#"{WIDE}
            @id("contradiction") permit (principal is Ringfence::Person, action == Ringfence::Action::"read-logs", resource)
            when {{ principal.elevated && !principal.elevated }};
            @id("forbidden") permit (principal is Ringfence::Person, action == Ringfence::Action::"read-config", resource)
            when {{ principal.training.contains("gdpr") }};
            forbid (principal, action == Ringfence::Action::"read-config", resource)
            when {{ principal has training && principal.training.contains("gdpr") }};"#
        );
        let idle = runtime.block_on(policy.prove_permits_apply(&acme, Some(&text), solver())).unwrap();
        let Verdict::Disproved { counterexample } = idle else { panic!("{idle:?}") };
        let found: Vec<&str> = counterexample.lines().filter_map(|line| line.split('`').nth(1)).collect();
        assert_eq!(found, ["tenant/contradiction", "tenant/forbidden"], "{counterexample}");
    }
}
