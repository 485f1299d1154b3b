//! Schedules: plugins that run on time. `plan.rs` is the arithmetic, `run.rs` one run, `timer.rs` the host's one timer.
//!
//! Durable: up to when everything is decided is written before anything runs, with the run that begins; a host that is
//! killed in the middle runs that one again under the same id, and nothing else twice.

pub mod plan;
mod run;
mod timer;

use jiff::Timestamp;
use ringfence_core::{PluginName, PrincipalId, ResourceName, TenantId};
use ringfence_engine::Export;
use ringfence_store::{Key, TenantStore};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use plan::Missed;
pub(crate) use timer::Timer;

use plan::{JITTER_MS_MAX, Times};

use crate::{Automation, AutomationError};

/// LIMIT: schedules of one tenant.
pub const SCHEDULES_COUNT_MAX: usize = 200;
/// LIMIT: most bytes of what a schedule gives its plugin.
const PAYLOAD_BYTES_MAX: usize = 16 << 10;
/// How many coming times are shown.
pub const NEXT_COUNT: usize = 5;

/// What to do when it is time and the last run is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Overlap {
    /// Nothing: this time is skipped.
    Skip,
    /// Run once more when it is over; more than one do not gather.
    Queue,
    /// Run beside it.
    Allow,
}

/// A schedule as its tenant describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScheduleSpec {
    /// What runs.
    #[schema(value_type = String)]
    pub plugin: PluginName,
    /// Cron: five fields, or six with seconds first.
    pub cron: String,
    /// IANA time zone; UTC when absent.
    #[serde(default = "utc")]
    pub zone: String,
    /// What to do about times that the host slept through; `skip` when absent.
    #[serde(default = "missed")]
    pub missed: Missed,
    /// What to do when the last run is not over; `skip` when absent.
    #[serde(default = "overlap")]
    pub overlap: Overlap,
    /// Runs up to so many milliseconds later.
    #[serde(default)]
    pub jitter_ms: u64,
    /// What the plugin is given.
    #[serde(default)]
    pub payload: Value,
    /// Whether it rests.
    #[serde(default)]
    pub paused: bool,
}

/// How the last run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LastRun {
    /// What it ran for.
    #[schema(value_type = String)]
    pub due_at: Timestamp,
    /// When it ended.
    #[schema(value_type = String)]
    pub ended_at: Timestamp,
    /// `done`, or a stable word for why not.
    pub outcome: String,
    /// In words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// A schedule as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Its name.
    pub name: ResourceName,
    /// As described.
    pub spec: ScheduleSpec,
    /// When it was made.
    pub created_at: Timestamp,
    /// By whom.
    pub created_by: PrincipalId,
    /// Up to here everything is decided.
    pub decided_until: Timestamp,
    /// What was begun and is not known to have ended.
    #[serde(default)]
    pub begun: Vec<Timestamp>,
    /// Of those, the ones that the end of the host cut, once for each time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cut: Vec<Timestamp>,
    /// Times that were not made up for, or met a run that was not over.
    #[serde(default)]
    pub skipped_count: u64,
    /// How the last one ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastRun>,
}

impl ScheduleSpec {
    pub(crate) fn times(&self) -> Result<Times, AutomationError> {
        Times::parse(&self.cron, &self.zone).map_err(AutomationError::BadSchedule)
    }

    fn check(&self) -> Result<Times, AutomationError> {
        if self.jitter_ms > JITTER_MS_MAX {
            return Err(AutomationError::BadSchedule(format!("`jitter_ms` is at most {JITTER_MS_MAX}")));
        }
        if self.payload.to_string().len() > PAYLOAD_BYTES_MAX {
            return Err(AutomationError::BadSchedule(format!("`payload` is at most {PAYLOAD_BYTES_MAX} bytes")));
        }
        self.times()
    }
}

impl Schedule {
    /// The times at which it will run next, without jitter; none while it rests.
    pub fn next(&self, now: Timestamp) -> Vec<Timestamp> {
        if self.spec.paused {
            return Vec::new();
        }
        let from = now.max(self.decided_until);
        self.spec.times().map(|times| times.upcoming(from, NEXT_COUNT)).unwrap_or_default()
    }

    /// Until when it runs nothing because the clock stood there once and was set back; none when it runs as it should, or
    /// rests.
    pub fn held_until(&self, now: Timestamp) -> Option<Timestamp> {
        (!self.spec.paused && self.decided_until > now).then_some(self.decided_until)
    }

    /// A tick that was begun is over.
    fn is_over(&mut self, tick: Timestamp) {
        self.begun.retain(|begun| *begun != tick);
        self.cut.retain(|cut| *cut != tick);
    }

    /// As it is described anew: from now on, by the clock as it stands, also when that was ahead before.
    fn described(self, spec: ScheduleSpec, now: Timestamp) -> Self {
        Self { spec, decided_until: now, ..self }
    }
}

impl Automation {
    /// The tenant's schedules, by name.
    pub async fn schedules(&self, store: &TenantStore) -> Result<Vec<Schedule>, AutomationError> {
        let page = store.scan(&schedules_key(), None, SCHEDULES_COUNT_MAX * 2).await?;
        let mut schedules = Vec::with_capacity(page.records.len());
        for (_, record) in page.records {
            schedules.push(record.json::<Schedule>()?);
        }
        schedules.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(schedules)
    }

    /// One schedule.
    pub async fn schedule(&self, store: &TenantStore, name: &ResourceName) -> Result<Schedule, AutomationError> {
        store.get_json(&schedule_key(name.as_str())).await?.ok_or(AutomationError::NotFound("schedule"))
    }

    /// Makes a schedule or changes one. A changed one starts from now: nothing is made up for under other times, and nothing is
    /// held that a clock which was ahead decided.
    pub async fn set_schedule(
        &self,
        tenant: &TenantId,
        store: &TenantStore,
        name: &ResourceName,
        spec: ScheduleSpec,
        by: &PrincipalId,
    ) -> Result<Schedule, AutomationError> {
        let times = spec.check()?;
        let now = self.parts.clock.now();
        if times.next(now).is_none() {
            return Err(AutomationError::BadSchedule(format!("`{}` never comes", spec.cron)));
        }
        self.check_handler(tenant, &spec.plugin, Export::Schedule).await?;
        // How many there are is looked at by one at a time.
        let _one = self.adding_schedule.lock().await;
        let _own = self.schedule_locks.of((store.uid(), name.to_string())).await;
        let key = schedule_key(name.as_str());
        let before: Option<Schedule> = store.get_json(&key).await?;
        if before.is_none() && self.schedules(store).await?.len() >= SCHEDULES_COUNT_MAX {
            return Err(AutomationError::TooMany { what: "schedules", max: SCHEDULES_COUNT_MAX });
        }
        let schedule = match before {
            Some(before) => before.described(spec, now),
            None => Schedule {
                name: name.clone(),
                spec,
                created_at: now,
                created_by: by.clone(),
                decided_until: now,
                begun: Vec::new(),
                cut: Vec::new(),
                skipped_count: 0,
                last: None,
            },
        };
        store.put_json(&key, &schedule).await?;
        self.timer.set(tenant, store, &schedule);
        Ok(schedule)
    }

    /// Deletes a schedule; a run that is under way goes on, and nothing that gathered behind it begins.
    pub async fn delete_schedule(&self, store: &TenantStore, name: &ResourceName) -> Result<(), AutomationError> {
        let _own = self.schedule_locks.of((store.uid(), name.to_string())).await;
        let key = schedule_key(name.as_str());
        if store.get(&key).await?.is_none() {
            return Err(AutomationError::NotFound("schedule"));
        }
        store.delete(&key).await?;
        self.timer.remove(store, name);
        Ok(())
    }
}

fn utc() -> String {
    "UTC".to_owned()
}
fn missed() -> Missed {
    Missed::Skip
}
fn overlap() -> Overlap {
    Overlap::Skip
}

pub(crate) fn schedules_key() -> Key {
    Key::new(["schedule"])
}
pub(crate) fn schedule_key(name: &str) -> Key {
    Key::new(["schedule", name])
}
