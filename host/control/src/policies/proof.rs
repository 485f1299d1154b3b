//! Proofs about a tenant's policy by a solver in a process of its own, when one is installed.
//!
//! Must never answer `proved` without the solver's word, nor let it run without a deadline and a cap on its memory, or
//! beside another of the same tenant, or long where that leaves no place for a tenant that changes its policy.

use std::path::Path as FilePath;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use ringfence_core::TenantId;
use ringfence_core::proof::act;
use ringfence_policy::prove::{Kinds, LocalSolver, SolverError, Verdict};
use ringfence_policy::{Policy, PolicyError};

use crate::Control;
use crate::call::Call;
use crate::extract::PolicyBody;
use crate::problem::ApiError;
use crate::turns::Turn;
use crate::wire::{PolicyProof, Problem, ProofVerdict, ProofView, ProofsView};

/// LIMIT: longest time for each proof that is asked for by itself.
const PROOF_MS_MAX: u64 = 60_000;
/// LIMIT: longest time for each proof beside a review, whose caller waits for all of them.
const REVIEW_PROOF_MS_MAX: u64 = 10_000;
/// Longest wait for a turn to ask.
const TURN_TIME_MAX: Duration = Duration::from_secs(2);
/// LIMIT: most memory of the solver, in KiB.
const SOLVER_KIB_MAX: u64 = 4 << 20;

/// What is proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Statement {
    /// Of all kinds of request.
    Border,
    /// Of those that a permit of the text can apply to.
    BorderOfPermits,
    Narrows,
    PermitsApply,
}

impl Statement {
    fn name(self) -> &'static str {
        match self {
            Self::Border | Self::BorderOfPermits => "border",
            Self::Narrows => "narrows",
            Self::PermitsApply => "permits-apply",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Border => {
                "nobody gets past the border of a tenant, operators see no tenant's data, who showed nothing only invokes, and \
                 a scoped key does nothing that it is not good for"
            }
            Self::BorderOfPermits => {
                "no permit of this text lets anybody past the border of a tenant, operators see a tenant's data, who showed \
                 nothing do more than invoke, or a scoped key do what it is not good for"
            }
            Self::Narrows => "this text allows nothing that the policy in force does not",
            Self::PermitsApply => "each permit of this text allows some request that nothing forbids",
        }
    }

    /// Asks; `text` is the policy in force when absent.
    async fn ask(
        self,
        policy: &Policy,
        tenant: &TenantId,
        text: Option<&str>,
        solver: LocalSolver,
    ) -> Result<Verdict, PolicyError> {
        match self {
            Self::Border => policy.prove_border(tenant, text, Kinds::All, solver).await,
            Self::BorderOfPermits => policy.prove_border(tenant, text, Kinds::OfPermits, solver).await,
            Self::Narrows => policy.prove_narrows(tenant, text.unwrap_or_default(), solver).await,
            Self::PermitsApply => policy.prove_permits_apply(tenant, text, solver).await,
        }
    }
}

/// Proves that the policy in force, or a text that is sent, keeps the tenant's border for every request that can be, and that
/// its permits can apply; of a text that is sent, also whether it allows anything new.
#[utoipa::path(post, path = "/tenants/{tenant}/policy/proof", tag = "policy", request_body = PolicyProof,
    responses((status = 200, body = ProofsView), (status = "default", body = Problem)))]
pub async fn prove(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
    PolicyBody(asked): PolicyBody<PolicyProof>,
) -> Result<Json<ProofsView>, ApiError> {
    let reached = control.reach_tenant::<act::ReadPolicy>(&call, &tenant).await?;
    let version = super::text::stored(&reached.store).await?.unwrap_or_default().version;
    if let Some(text) = asked.text.clone() {
        // What is no policy is refused, whether or not there is a solver.
        let of = reached.tenant.clone();
        control.in_turn(&reached.tenant, move |policy| policy.check_tenant_policy(&of, &text)).await?;
    }
    let statements: &[Statement] = match &asked.text {
        Some(_) => &[Statement::Border, Statement::Narrows, Statement::PermitsApply],
        None => &[Statement::Border, Statement::PermitsApply],
    };
    let proofs = control.ask_all(&reached.tenant, asked.text.as_deref(), statements, PROOF_MS_MAX).await?;
    Ok(Json(ProofsView { version, proofs }))
}

/// Of proofs beside a review: whether the text allows anything new.
pub(super) fn narrows(proofs: &[ProofView]) -> Option<&ProofView> {
    proofs.iter().find(|proof| proof.name == Statement::Narrows.name())
}

/// Of proofs beside a review: a line for each permit that never applies, with its id in back quotes in front.
pub(super) fn idle(proofs: &[ProofView]) -> impl Iterator<Item = &str> {
    let lines = proofs.iter().filter(|proof| proof.name == Statement::PermitsApply.name());
    lines.filter_map(|proof| proof.counterexample.as_deref()).flat_map(str::lines)
}

impl Control {
    /// Asks a solver what there is to know of a candidate. It does not wait long where there is none, or where others keep it:
    /// then that is the verdict. Fails for what is no policy.
    pub(super) async fn prove_candidate(&self, tenant: &TenantId, text: &str) -> Result<Vec<ProofView>, ApiError> {
        let statements = [Statement::BorderOfPermits, Statement::Narrows, Statement::PermitsApply];
        self.ask_all(tenant, Some(text), &statements, REVIEW_PROOF_MS_MAX).await
    }

    /// Asks for each statement in turn.
    async fn ask_all(
        &self,
        tenant: &TenantId,
        text: Option<&str>,
        statements: &[Statement],
        time_ms_max: u64,
    ) -> Result<Vec<ProofView>, ApiError> {
        let mut views = Vec::with_capacity(statements.len());
        for statement in statements.iter().copied() {
            let begun = self.parts.clock.monotonic();
            let verdict = self.ask_solver(statement, tenant, text, time_ms_max).await?;
            let took = self.parts.clock.monotonic().saturating_sub(begun);
            if matches!(
                (statement, &verdict),
                (Statement::Border | Statement::BorderOfPermits, Verdict::Disproved { .. })
            ) {
                // SECURITY: nothing is wrong with the tenant's policy then, but with the platform's own.
                tracing::error!(tenant = %tenant, "the border of a tenant is disproved");
            }
            views.push(view(statement, verdict, u64::try_from(took.as_micros()).unwrap_or(u64::MAX)));
        }
        Ok(views)
    }

    /// A tenant's turn to ask a solver, and before it the one to ask it for longer than a review waits.
    async fn turns_of_solver(&self, tenant: &TenantId, time_ms_max: u64) -> Option<(Option<Turn>, Turn)> {
        let owner = tenant.as_str();
        let long = match time_ms_max > REVIEW_PROOF_MS_MAX {
            true => Some(self.proving_long.take(owner, TURN_TIME_MAX).await?),
            false => None,
        };
        Some((long, self.proving.take(owner, TURN_TIME_MAX).await?))
    }

    /// Asks a solver of its own, in turn, with a deadline; no longer than the answer is waited for.
    async fn ask_solver(
        &self,
        statement: Statement,
        tenant: &TenantId,
        text: Option<&str>,
        time_ms_max: u64,
    ) -> Result<Verdict, ApiError> {
        let Some(program) = self.parts.facts.cvc5.clone() else {
            return Ok(not_run("`cvc5` is not installed where this host runs"));
        };
        let Some(turns) = self.turns_of_solver(tenant, time_ms_max).await else {
            return Ok(not_run("the solver is asked about other policies; try again"));
        };
        let (policy, io) = (self.parts.policy.clone(), tokio::runtime::Handle::current());
        let (tenant, text) = (tenant.clone(), text.map(ToOwned::to_owned));
        let (_waiting, gone) = tokio::sync::oneshot::channel::<()>();
        // Putting a policy into the solver's words is work for a thread that may be kept.
        let asked = tokio::task::spawn_blocking(move || {
            // SECURITY: the turn ends with the solver, not with the request: who goes away and asks again has one solver still.
            let _turns = turns;
            io.block_on(async move {
                let solver = match start(&program, time_ms_max) {
                    Ok(solver) => solver,
                    Err(error) => return Ok(not_run(format!("the solver does not start: {error}"))),
                };
                let ask = statement.ask(&policy, &tenant, text.as_deref(), solver);
                tokio::select! {
                    verdict = tokio::time::timeout(Duration::from_millis(time_ms_max), ask) => match verdict {
                        Ok(verdict) => verdict,
                        Err(_) => Ok(not_run(format!("no answer within {} s", time_ms_max / 1_000))),
                    },
                    _ = gone => Ok(not_run("nobody waits for it any more")),
                }
            })
        });
        Ok(asked.await.map_err(|error| ApiError::host(&error))??)
    }
}

fn not_run(reason: impl Into<String>) -> Verdict {
    Verdict::NotRun { reason: reason.into() }
}

fn view(statement: Statement, verdict: Verdict, took_us: u64) -> ProofView {
    let mut view = ProofView {
        name: statement.name().to_owned(),
        statement: statement.text().to_owned(),
        verdict: ProofVerdict::NotRun,
        kinds_count: 0,
        took_us,
        reason: None,
        counterexample: None,
    };
    match verdict {
        Verdict::Proved { kinds_count } => (view.verdict, view.kinds_count) = (ProofVerdict::Proved, kinds_count),
        Verdict::Disproved { counterexample } => {
            (view.verdict, view.counterexample) = (ProofVerdict::Disproved, Some(counterexample));
        }
        Verdict::NotRun { reason } => view.reason = Some(reason),
    }
    view
}

/// The solver, with nothing of this process's environment, and gone when it is dropped.
fn start(program: &FilePath, time_ms_max: u64) -> Result<LocalSolver, SolverError> {
    let mut command = tokio::process::Command::new("/bin/sh");
    command
        .args(["-c", &format!("ulimit -v {SOLVER_KIB_MAX}; exec \"$0\" --lang smt --tlimit={time_ms_max}")])
        .arg(program)
        .env_clear()
        .kill_on_drop(true);
    LocalSolver::from_command(&mut command)
}
