//! Statements about every request that can be, proved by a solver: that nothing allowed crosses the border, and that a
//! changed policy allows nothing new.
//!
//! Must never say `proved` when the solver did not: what it cannot tell, or cannot be asked, is `not run` with the
//! reason. The solver is the caller's; this room starts no process.

use cedar_policy::PolicySet;
use cedar_policy_symcc::err::Error;
use cedar_policy_symcc::{CedarSymCompiler, CompiledPolicySet};
use ringfence_core::TenantId;

pub use cedar_policy_symcc::solver::{LocalSolver, Solver, SolverError};

use crate::tenant::Rules;
use crate::{Policy, PolicyError};

const BORDER: &str = include_str!("border.cedar");

/// How a proof ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It holds for every request that the schema allows.
    Proved {
        /// Kinds of request: principal, action and resource by type.
        kinds_count: usize,
    },
    /// It does not.
    Disproved {
        /// A request for which it does not hold, and the entities it names.
        counterexample: String,
    },
    /// Nobody knows.
    NotRun {
        /// Why.
        reason: String,
    },
}

impl Policy {
    /// Proves that whatever the tenant's policies in force allow stays within the border of `border.cedar`.
    pub async fn prove_border<S: Solver>(&self, tenant: &TenantId, solver: S) -> Result<Verdict, PolicyError> {
        let state = self.known(tenant)?;
        let allowed = self.joined(&[&state.ceiling, &state.rules])?;
        let border = BORDER.parse().map_err(|error: cedar_policy::ParseErrors| broken(&error))?;
        Ok(self.prove_within(&allowed, &border, solver).await)
    }

    /// Proves that `text` allows nothing that the tenant's policies in force do not. Fails like
    /// [`Policy::set_tenant_policy`].
    pub async fn prove_narrows<S: Solver>(
        &self,
        tenant: &TenantId,
        text: &str,
        solver: S,
    ) -> Result<Verdict, PolicyError> {
        let state = self.known(tenant)?;
        let (candidate, _) = self.compile(tenant, text)?;
        let then = self.joined(&[&state.ceiling, &candidate])?;
        let now = self.joined(&[&state.ceiling, &state.rules])?;
        Ok(self.prove_within(&then, &now, solver).await)
    }

    /// Whether everything that `inner` allows is allowed by `outer`, kind of request by kind of request.
    async fn prove_within<S: Solver>(&self, inner: &PolicySet, outer: &PolicySet, solver: S) -> Verdict {
        match self.first_outside(inner, outer, solver).await {
            Ok((_, Some(counterexample))) => Verdict::Disproved { counterexample },
            Ok((kinds_count, None)) => Verdict::Proved { kinds_count },
            Err(error) => Verdict::NotRun { reason: format!("the solver gave no answer: {error}") },
        }
    }

    async fn first_outside<S: Solver>(
        &self,
        inner: &PolicySet,
        outer: &PolicySet,
        solver: S,
    ) -> Result<(usize, Option<String>), Error> {
        let schema = &self.shared.checker.words.schema;
        let mut compiler = CedarSymCompiler::new(solver)?;
        let mut kinds_count = 0;
        for kind in schema.request_envs() {
            let inner = CompiledPolicySet::compile(inner, &kind, schema)?;
            let outer = CompiledPolicySet::compile(outer, &kind, schema)?;
            if let Some(found) = compiler.check_implies_with_counterexample_opt(&inner, &outer).await? {
                return Ok((kinds_count, Some(found.to_string())));
            }
            kinds_count += 1;
        }
        Ok((kinds_count, None))
    }

    fn joined(&self, others: &[&Rules]) -> Result<PolicySet, PolicyError> {
        let mut all = self.shared.checker.platform_set.clone();
        for policy in others.iter().flat_map(|rules| &rules.policies) {
            all.add(policy.clone()).map_err(|error| broken(&error))?;
        }
        Ok(all)
    }
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
        runtime.block_on(policy.prove_border(&tenant("acme"), Says(decision, tokio::io::sink()))).unwrap()
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
        runtime.block_on(async { policy.prove_within(&inner, &outer, solver()).await })
    }

    #[test]
    fn what_a_program_says_is_the_verdict_and_what_is_no_answer_is_none() {
        assert!(matches!(within(WIDE, NARROW, || says("unsat")), Verdict::Proved { .. }));
        let Verdict::Disproved { counterexample } = within(WIDE, NARROW, || says("sat")) else {
            panic!("not disproved")
        };
        assert!(counterexample.contains("Person") && counterexample.contains("read-tenant"), "{counterexample}");
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

    /// Whether there is a solver: one that is installed, or that this machine lets a test install.
    fn has_cvc5() -> bool {
        let runs = |program: &str, words: &[&str]| {
            std::process::Command::new(program).args(words).output().is_ok_and(|output| output.status.success())
        };
        let install = || runs("apt-get", &["-y", "-o", "DPkg::Lock::Timeout=120", "install", "cvc5"]);
        let there = || runs("cvc5", &["--version"]);
        // A machine that has never asked has no list of packages yet.
        there() || ((install() || (runs("apt-get", &["update"]) && install())) && there())
    }

    #[test]
    fn the_solver_proves_the_border_and_disproves_one_that_was_widened() {
        if !has_cvc5() {
            println!("SKIPPED: there is no `cvc5` and it could not be installed, so no solver was asked");
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        let policy = active();
        policy.set_tenant_policy(&tenant("acme"), PERMIT_ALL).unwrap();
        let proved = runtime.block_on(policy.prove_border(&tenant("acme"), LocalSolver::cvc5().unwrap())).unwrap();
        assert!(matches!(proved, Verdict::Proved { .. }), "{proved:?}");
        // The platform's statements without the one that keeps tenants apart.
        let platform = format!("{}\n{}", crate::BOUNDARY, crate::ROLES).parse::<PolicySet>().unwrap();
        let kept = platform.policies().filter(|policy| policy.annotation("id") != Some("boundary.tenant")).cloned();
        let own = PERMIT_ALL.parse::<PolicySet>().unwrap();
        let own = own.policies().map(|policy| policy.new_id(cedar_policy::PolicyId::new("own")));
        let widened = PolicySet::from_policies(kept.chain(own)).unwrap();
        assert_eq!(widened.policies().count(), platform.policies().count(), "one was taken and one was added");
        let border = BORDER.parse().unwrap();
        let verdict = runtime.block_on(policy.prove_within(&widened, &border, LocalSolver::cvc5().unwrap()));
        let Verdict::Disproved { counterexample } = verdict else { panic!("{verdict:?}") };
        assert!(counterexample.contains("Ringfence::"), "{counterexample}");
    }
}
