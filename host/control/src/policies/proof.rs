//! Proofs about a tenant's policy by a solver in a process of its own, when one is installed.
//!
//! Must never answer `proved` without the solver's word, nor let it run without a deadline and a cap on its memory.

use std::path::Path as FilePath;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use ringfence_core::TenantId;
use ringfence_core::proof::act;
use ringfence_policy::prove::{LocalSolver, SolverError, Verdict};
use ringfence_policy::{Policy, PolicyError};

use crate::Control;
use crate::call::Call;
use crate::problem::ApiError;
use crate::wire::{Problem, ProofVerdict, ProofView, ProofsView};

/// LIMIT: longest time for all of a proof.
const PROOF_MS_MAX: u64 = 60_000;
/// LIMIT: most memory of the solver, in KiB.
const SOLVER_KIB_MAX: u64 = 4 << 20;
/// What is proved.
const BORDER: &str = "nobody gets past the border of a tenant, operators see no tenant's data, who showed nothing only invokes, \
    and a scoped key does nothing that it is not good for";

/// Proves that the policy in force keeps the tenant's border, for every request that can be.
#[utoipa::path(post, path = "/tenants/{tenant}/policy/proof", tag = "policy",
    responses((status = 200, body = ProofsView), (status = "default", body = Problem)))]
pub async fn prove(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<Json<ProofsView>, ApiError> {
    let reached = control.reach_tenant::<act::ReadPolicy>(&call, &tenant).await?;
    let version = super::text::stored(&reached.store).await?.unwrap_or_default().version;
    let begun = control.parts.clock.monotonic();
    let asked = reached.tenant.clone();
    let ask = async move |policy: Policy, solver| policy.prove_border(&asked, solver).await;
    let verdict = control.ask_solver(ask).await?;
    let took = control.parts.clock.monotonic().saturating_sub(begun);
    let mut proof = ProofView {
        statement: BORDER.to_owned(),
        verdict: ProofVerdict::NotRun,
        kinds_count: 0,
        took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        reason: None,
        counterexample: None,
    };
    match verdict {
        Verdict::Proved { kinds_count } => (proof.verdict, proof.kinds_count) = (ProofVerdict::Proved, kinds_count),
        Verdict::Disproved { counterexample } => {
            // SECURITY: nothing is wrong with the tenant's policy then, but with the platform's own.
            tracing::error!(tenant = %reached.tenant, "the border of a tenant is disproved");
            (proof.verdict, proof.counterexample) = (ProofVerdict::Disproved, Some(counterexample));
        }
        Verdict::NotRun { reason } => proof.reason = Some(reason),
    }
    Ok(Json(ProofsView { version, proofs: vec![proof] }))
}

impl Control {
    /// Whether the solver shows that a text allows nothing new; no when it cannot be asked.
    pub(super) async fn is_proved_to_narrow(&self, tenant: &TenantId, text: &str) -> Result<bool, ApiError> {
        let (tenant, text) = (tenant.clone(), text.to_owned());
        let ask = async move |policy: Policy, solver| policy.prove_narrows(&tenant, &text, solver).await;
        Ok(matches!(self.ask_solver(ask).await?, Verdict::Proved { .. }))
    }

    /// Asks a solver of its own, in turn, with a deadline.
    async fn ask_solver<F>(&self, ask: F) -> Result<Verdict, ApiError>
    where
        F: AsyncFnOnce(Policy, LocalSolver) -> Result<Verdict, PolicyError> + Send + 'static,
    {
        let Some(program) = self.parts.facts.cvc5.clone() else {
            return Ok(Verdict::NotRun { reason: "`cvc5` is not installed where this host runs".to_owned() });
        };
        let Ok(_turn) = self.reviewing.try_acquire() else {
            return Err(ApiError::new("overloaded", "other policies are being reviewed; try again"));
        };
        let (policy, io) = (self.parts.policy.clone(), tokio::runtime::Handle::current());
        // Putting a policy into the solver's words is work for a thread that may be kept.
        let asked = tokio::task::spawn_blocking(move || {
            io.block_on(async move {
                let solver = match start(&program) {
                    Ok(solver) => solver,
                    Err(error) => return Ok(Verdict::NotRun { reason: format!("the solver does not start: {error}") }),
                };
                match tokio::time::timeout(Duration::from_millis(PROOF_MS_MAX), ask(policy, solver)).await {
                    Ok(verdict) => verdict,
                    Err(_) => Ok(Verdict::NotRun { reason: format!("no answer within {} s", PROOF_MS_MAX / 1_000) }),
                }
            })
        });
        Ok(asked.await.map_err(|error| ApiError::host(&error))??)
    }
}

/// The solver, with nothing of this process's environment, and gone when it is dropped.
fn start(program: &FilePath) -> Result<LocalSolver, SolverError> {
    let mut command = tokio::process::Command::new("/bin/sh");
    command
        .args(["-c", &format!("ulimit -v {SOLVER_KIB_MAX}; exec \"$0\" --lang smt --tlimit={PROOF_MS_MAX}")])
        .arg(program)
        .env_clear()
        .kill_on_drop(true);
    LocalSolver::from_command(&mut command)
}
