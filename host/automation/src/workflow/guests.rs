//! Runs as guests of the tenant reach them: begun of what is deployed now, signalled, cancelled and looked at.
//!
//! Must never do anything to a run before it is announced on the tenant's audit log in the asking plugin's name, nor leave how
//! it ended unsaid. Whether the plugin may is asked where its call comes in (`capabilities/src/runs.rs`). What is begun goes to its
//! end, also where the guest that asked is gone.

use std::sync::Arc;

use futures::future::BoxFuture;
use ringfence_audit::{Event as Record, Intent, Log, Outcome, codes};
use ringfence_capabilities::{Begun, NewRun, RunAsker, RunChange, RunDesk, RunRefused, RunState, SeenRun};
use ringfence_core::{HostAct, PluginName, PrincipalId, RunId, TenantId};
use ringfence_engine::Export;
use ringfence_registry::VersionRef;
use ringfence_store::{StoreError, TenantStore};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::Automation;
use crate::workflow::command::{Command, Refusal};
use crate::workflow::error::WorkflowError;
use crate::workflow::event::Ending;
use crate::workflow::journal::{self, Head, Status};
use crate::workflow::limits::NAME_BYTES_MAX;
use crate::workflow::runs::{Begin, Workflows};

/// Before a guest whose tenant's storage is used up tries again, milliseconds.
const FULL_MS: u64 = 30_000;
/// The same where too much waits to be written, milliseconds.
const BUSY_MS: u64 = 1_000;

/// Who does what guests ask for.
#[derive(Clone)]
struct Desk {
    automation: Automation,
    workflows: Workflows,
    /// Where it is done: guests run on threads that are in no runtime.
    io: Handle,
}

impl Workflows {
    /// Lets guests of these rooms begin runs and do something to them. Must be called once, inside a runtime.
    pub fn open_to_guests(&self, automation: &Automation) {
        let (automation, workflows, io) = (automation.clone(), self.clone(), Handle::current());
        let capabilities = Arc::clone(&automation.parts.capabilities);
        let desk: Arc<dyn RunDesk> = Arc::new(Desk { automation, workflows, io });
        capabilities.set_run_desk(Arc::downgrade(&desk));
        // Held by the runtime alone, as whoever takes messages is.
        tokio::spawn(async move { (std::future::pending::<()>().await, desk).0 });
    }
}

impl Desk {
    async fn begin_run(&self, store: &TenantStore, from: &RunAsker, new: NewRun) -> Result<Begun, RunRefused> {
        if new.key.as_ref().is_some_and(|key| !(1..=NAME_BYTES_MAX).contains(&key.len())) {
            return Err(RunRefused::Invalid(format!("a key is 1 to {NAME_BYTES_MAX} bytes")));
        }
        let tenant = store.tenant().ok_or(RunRefused::Unavailable)?;
        let version = self.version(tenant, &new.plugin, &new.workflow).await?;
        let by = asker(store.label(), from)?;
        let begin = Begin {
            plugin: new.plugin,
            version: version.label.clone(),
            workflow: new.workflow,
            input: new.input,
            by: by.clone(),
            attributes: new.attributes,
            key: new.key,
            led_by: Some(from.trail.clone()),
        };
        let mut details = json!({ "workflow": begin.workflow, "version": begin.version.to_string() });
        let record =
            record((codes::RUN_STARTED, HostAct::BeginRun), by, (store.label(), &begin.plugin), from, &mut details);
        let intent = self.announce(store, record).await?;
        let begun = self.workflows.begin(store, begin).await;
        let begun = begun.map(|(head, is_new)| Begun { run: head.run, is_new }).map_err(refused);
        if let (Ok(Begun { run, is_new }), Some(details)) = (&begun, details.as_object_mut()) {
            details.insert("run".to_owned(), json!(run));
            details.insert("is_new".to_owned(), json!(is_new));
        }
        settle(intent, begun.as_ref().err(), details).await;
        begun
    }

    async fn change_run(
        &self,
        store: &TenantStore,
        from: &RunAsker,
        run: &SeenRun,
        change: RunChange,
    ) -> Result<(), RunRefused> {
        let (of, command) = match change {
            RunChange::Signal { name, payload, key } => {
                ((codes::RUN_SIGNALLED, HostAct::SignalRun), Command::Signal { name, payload, key })
            }
            RunChange::Cancel => ((codes::RUN_CHANGED, HostAct::CancelRun), Command::Cancel),
        };
        let by = asker(store.label(), from)?;
        let mut details = json!({ "run": run.run, "command": command.word() });
        let record = record(of, by.clone(), (store.label(), &run.plugin), from, &mut details);
        let intent = self.announce(store, record).await?;
        let done = self.workflows.command(store, &run.run, &command, &by).await.map(drop).map_err(refused);
        settle(intent, done.as_ref().err(), Value::Null).await;
        done
    }

    /// The version of a plugin that answers now, if it has such a workflow.
    async fn version(&self, tenant: &TenantId, plugin: &PluginName, workflow: &str) -> Result<VersionRef, RunRefused> {
        let registry = &self.automation.parts.registry;
        let Some(route) = registry.route(tenant, plugin) else {
            return Err(RunRefused::NoWorkflow(format!("nothing of `{plugin}` is deployed")));
        };
        let version = route.stable().clone();
        let code = registry.compiled(&version).await.map_err(|error| {
            tracing::error!(%error, plugin = %plugin, "code of which a plugin begins a run cannot be loaded");
            RunRefused::Unavailable
        })?;
        let known = &version.workflows;
        if code.has(Export::Workflow) && (known.is_empty() || known.iter().any(|name| name == workflow)) {
            return Ok(version);
        }
        Err(RunRefused::NoWorkflow(format!("`{plugin}@{}` has no workflow `{workflow}`", version.label)))
    }

    async fn announce(&self, store: &TenantStore, record: Record) -> Result<Intent, RunRefused> {
        let log = Log::Tenant(store.clone());
        self.automation.parts.audit.intent(&log, record).await.map_err(|_| RunRefused::Unavailable)
    }

    /// Does something to its end where work is done, unless nothing of the tenant may be changed.
    fn hand_over<T: Send + 'static>(
        &self,
        store: &TenantStore,
        work: impl Future<Output = Result<T, RunRefused>> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, RunRefused>> {
        if store.check_writes().is_err() {
            return Box::pin(std::future::ready(Err(RunRefused::Unavailable)));
        }
        let done = self.io.spawn(work);
        Box::pin(async move { done.await.unwrap_or(Err(RunRefused::Unavailable)) })
    }
}

impl RunDesk for Desk {
    fn begin(&self, store: &TenantStore, from: RunAsker, new: NewRun) -> BoxFuture<'static, Result<Begun, RunRefused>> {
        let (this, of) = (self.clone(), store.clone());
        self.hand_over(store, async move { this.begin_run(&of, &from, new).await })
    }

    fn change(
        &self,
        store: &TenantStore,
        from: RunAsker,
        run: SeenRun,
        change: RunChange,
    ) -> BoxFuture<'static, Result<(), RunRefused>> {
        let (this, of) = (self.clone(), store.clone());
        self.hand_over(store, async move { this.change_run(&of, &from, &run, change).await })
    }

    fn inspect(&self, store: &TenantStore, run: RunId) -> BoxFuture<'static, Result<SeenRun, RunRefused>> {
        let store = store.clone();
        Box::pin(async move { seen(journal::newest(&store, &run).await.map_err(refused)?) })
    }

    fn find(
        &self,
        store: &TenantStore,
        workflow: (PluginName, String),
        key: String,
    ) -> BoxFuture<'static, Result<RunId, RunRefused>> {
        let (workflows, store) = (self.workflows.clone(), store.clone());
        Box::pin(async move {
            let found = workflows.find(&store, (&workflow.0, &workflow.1), &key).await;
            found.map(|head| head.run).map_err(refused)
        })
    }
}

/// The plugin that asks, as a principal.
fn asker(tenant: &str, from: &RunAsker) -> Result<PrincipalId, RunRefused> {
    format!("{tenant}/plugin/{}", from.plugin).parse().map_err(|_| RunRefused::Unavailable)
}

/// What the log says of it: that the plugin does it, in which of its invocations, what led to that and who began it.
fn record(
    (code, act): (&'static str, HostAct),
    by: PrincipalId,
    (tenant, plugin): (&str, &PluginName),
    from: &RunAsker,
    details: &mut Value,
) -> Record {
    if let Some(details) = details.as_object_mut() {
        details.insert("invocation".to_owned(), json!(from.invocation));
        if let Some(by) = from.trail.by.as_ref() {
            details.insert("root".to_owned(), json!(by.root));
        }
        if let Some(began_by) = &from.trail.began_by {
            details.insert("on_behalf_of".to_owned(), json!(began_by));
        }
    }
    let mut record = Record::new(code, act.as_str(), by, format!("tenant/{tenant}/plugin/{plugin}"));
    record.details = details.clone();
    record
}

/// Puts on record how it ended. It stands: when that cannot be written, the log shows it as open, and says so.
async fn settle(intent: Intent, refused: Option<&RunRefused>, details: Value) {
    let outcome = refused.map_or(Outcome::Success, |refused| Outcome::Failure(slug(refused).to_owned()));
    if let Err(error) = intent.outcome(outcome, details).await {
        tracing::error!(%error, "what became of a run that a plugin asked for could not be written to the audit log");
    }
}

/// The stable word for a refusal, as the control plane has it.
const fn slug(refused: &RunRefused) -> &'static str {
    match refused {
        RunRefused::Unknown => "not-found",
        RunRefused::NoWorkflow(_) => "no-workflow",
        RunRefused::OtherInput => "conflict",
        RunRefused::Ended => "run-ended",
        RunRefused::OverLimit(_) => "workflow-limit",
        RunRefused::Invalid(_) => "bad-word",
        RunRefused::Busy { .. } => "quota-exhausted",
        RunRefused::Unavailable => "store-unavailable",
    }
}

/// In the words of guests.
fn refused(error: WorkflowError) -> RunRefused {
    match error {
        WorkflowError::UnknownRun => RunRefused::Unknown,
        WorkflowError::OtherRun => RunRefused::OtherInput,
        WorkflowError::NoWorkflow(why) => RunRefused::NoWorkflow(why),
        WorkflowError::Refused(Refusal::Ended) => RunRefused::Ended,
        WorkflowError::Limit { .. } | WorkflowError::Refused(Refusal::Limit { .. }) => {
            RunRefused::OverLimit(error.to_string())
        }
        WorkflowError::NotJson(_) | WorkflowError::Refused(_) => RunRefused::Invalid(error.to_string()),
        WorkflowError::Store(StoreError::Quota { .. } | StoreError::Full { .. }) => {
            RunRefused::Busy { retry_after_ms: FULL_MS }
        }
        WorkflowError::Store(StoreError::Busy) => RunRefused::Busy { retry_after_ms: BUSY_MS },
        WorkflowError::Store(_) => RunRefused::Unavailable,
    }
}

/// What a guest sees of a run.
fn seen(head: Head) -> Result<SeenRun, RunRefused> {
    let state = match (head.status, head.ending) {
        (_, Some(Ending::Completed { output })) => RunState::Completed(output),
        (_, Some(Ending::Failed { code, message })) => RunState::Failed(format!("{code}: {message}")),
        (_, Some(Ending::Cancelled { message })) => RunState::Cancelled(message),
        (_, Some(Ending::Terminated { reason, .. })) => RunState::Terminated(reason),
        (Status::Running, None) => RunState::Running,
        (Status::Waiting, None) => RunState::Waiting,
        (Status::Paused, None) => RunState::Paused,
        (Status::Stuck, None) => RunState::Stuck(head.stuck.unwrap_or_default()),
        // It went on as another too often to be followed, or its record says what cannot be.
        _ => return Err(RunRefused::Unavailable),
    };
    Ok(SeenRun {
        run: head.run,
        plugin: head.plugin,
        workflow: head.workflow,
        version: head.version.to_string(),
        state,
        attributes: head.attributes,
    })
}

#[cfg(test)]
mod tests {
    use ringfence_core::InvocationId;

    use super::*;

    #[test]
    fn each_refusal_says_what_a_guest_can_do_about_it() {
        let over = || WorkflowError::Limit { what: "the input of a run", max: 1 };
        for (error, expected) in [
            (WorkflowError::UnknownRun, "not-found"),
            (WorkflowError::OtherRun, "conflict"),
            (Refusal::Ended.into(), "run-ended"),
            (over(), "workflow-limit"),
            (Refusal::BadName("a b".to_owned()).into(), "bad-word"),
            (WorkflowError::NotJson("the input of a run"), "bad-word"),
            (StoreError::Quota { bytes_max: 1 }.into(), "quota-exhausted"),
            (StoreError::Busy.into(), "quota-exhausted"),
            (StoreError::KeyDisabled.into(), "store-unavailable"),
        ] {
            let text = error.to_string();
            assert_eq!(slug(&refused(error)), expected, "{text}");
        }
        assert!(refused(over()).to_string().contains("the input of a run"));
    }

    #[test]
    fn what_is_on_the_log_is_the_plugins_with_its_invocation_and_who_stands_behind_it() {
        let invocation: InvocationId = serde_json::from_value(json!("i_aaaaaaaaaaaaaaaaaaaaaaaaaa")).unwrap();
        let trail = json!({
            "by": { "root": "i_bbbbbbbbbbbbbbbbbbbbbbbbbb", "parent": invocation }, "began_by": "acme/ann",
        });
        let trail = serde_json::from_value(trail).unwrap();
        let from = RunAsker { plugin: "care".parse().unwrap(), invocation, trail };
        let (by, plugin) = (asker("acme", &from).unwrap(), "shop".parse().unwrap());
        let mut details = json!({ "workflow": "charge" });
        let of = (codes::RUN_STARTED, HostAct::BeginRun);
        let record = record(of, by, ("acme", &plugin), &from, &mut details);
        assert_eq!((record.actor.as_str(), record.action), ("acme/plugin/care", "begin-run"));
        assert_eq!(record.resource, "tenant/acme/plugin/shop");
        let expected = json!({
            "workflow": "charge", "invocation": "i_aaaaaaaaaaaaaaaaaaaaaaaaaa",
            "root": "i_bbbbbbbbbbbbbbbbbbbbbbbbbb", "on_behalf_of": "acme/ann",
        });
        assert_eq!((&record.details, &details), (&expected, &expected));
    }

    #[test]
    fn a_guest_sees_how_a_run_stands_and_what_it_came_to() {
        let run = journal::id_of(&[b"a run"]);
        let head = json!({
            "run": run, "plugin": "shop", "version": "0.1.0", "workflow": "charge", "status": "waiting",
            "by": "acme/plugin/care", "parent": null, "started_ms": 1, "changed_ms": 1, "ended_ms": null,
            "events_count": 1, "events_bytes": 1, "attributes": { "order": "17" }, "ending": null, "stuck": null,
        });
        let head: Head = serde_json::from_value(head).unwrap();
        let now = seen(head.clone()).unwrap();
        assert_eq!(
            (&now.state, now.version.as_str(), &now.attributes),
            (&RunState::Waiting, "0.1.0", &head.attributes)
        );
        let ended = |ending: Ending| seen(Head { status: ending.status(), ending: Some(ending), ..head.clone() });
        let completed = ended(Ending::Completed { output: "7".to_owned() }).unwrap();
        assert_eq!(completed.state, RunState::Completed("7".to_owned()));
        let failed = ended(Ending::Failed { code: "workflow-failed".to_owned(), message: "no".to_owned() }).unwrap();
        assert_eq!(failed.state, RunState::Failed("workflow-failed: no".to_owned()));
        assert_eq!(ended(Ending::Continued { run }), Err(RunRefused::Unavailable));
    }
}
