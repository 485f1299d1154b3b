//! One run of a schedule: what is due is decided and written, then run, then its end is written.
//!
//! Must never run what is not written as begun, so that a kill at any moment leaves either nothing or the same run. Nor decide
//! anything for a tenant of which nothing is run now: what it misses is for its schedule's own rule.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ringfence_capabilities::Trail;
use ringfence_core::{Principal, ResourceName, TenantId};
use ringfence_engine::{EventContext, Export, RunError};
use ringfence_store::{StoreError, TenantState, TenantStore};

use super::plan::jitter_ms;
use super::timer::{Entry, Running, STEP_BACK};
use super::{LastRun, Overlap, Schedule, schedule_key, schedules_key};
use crate::{Automation, AutomationError, Call, CallError, Done, Effects, ToItsEnd};

/// Attempts of one run that cannot begin just now.
const ATTEMPTS_COUNT: u32 = 10;
/// LIMIT: longest wait between two of them.
const WAIT_MS_MAX: u64 = 30_000;
/// LIMIT: how often a run that the end of the host cut is begun again.
const CUTS_COUNT_MAX: usize = 3;
/// Between two looks at a tenant of which nothing is run now, should nobody say when that is over.
const SHUT_WAIT: SignedDuration = SignedDuration::from_secs(5);
/// Wait after the store could not be written.
const STORE_WAIT: SignedDuration = SignedDuration::from_secs(2);
/// Between two looks of a run that has to wait for its tenant or the store.
const LOOK_MS: u64 = 1_000;
/// Schedules read in one go.
const PAGE_COUNT: usize = 1_000;

/// How one run ended: a stable word, and a text.
type Ending = (String, Option<String>);
/// Who asks for a run at once, and from where.
type Asker = (Principal, Option<IpAddr>);

/// A schedule that runs, as it was when that began.
#[derive(Clone)]
struct Ran {
    tenant: TenantId,
    store: TenantStore,
    schedule: Schedule,
    running: Arc<Mutex<Running>>,
}

/// What is to run and is written as begun: now, or one time when what is under way is over.
struct Decided {
    run: Vec<Timestamp>,
    next: Option<Timestamp>,
}

impl Automation {
    /// Reads a tenant's schedules, puts them on the timer, and runs again what was begun when the host stopped.
    pub(crate) async fn open_schedules(&self, tenant: &TenantId, store: &TenantStore) -> Result<(), AutomationError> {
        let page = store.scan(&schedules_key(), None, PAGE_COUNT).await?;
        let now = self.parts.clock.now();
        let works = works(store) == Some(true);
        let mut held_count = 0_u32;
        for (_, record) in page.records {
            let mut schedule: Schedule = record.json()?;
            held_count +=
                u32::from(schedule.held_until(now).is_some_and(|until| until.duration_since(now) > STEP_BACK));
            if self.timer.holds(store, &schedule.name) {
                // It was made a moment ago, and what it began is under way.
                continue;
            }
            let mut again = Vec::new();
            if !schedule.begun.is_empty() {
                // Durable before anything runs: a run that brings the host down each time comes to an end.
                let changed = self
                    .change_schedule(store, &schedule.name, |schedule| again = take_up(schedule, now, works))
                    .await?;
                let Some(changed) = changed else { continue };
                schedule = changed;
            }
            let running = self.timer.running(store, &schedule.name);
            // INVARIANT: before the schedule is on the timer: its next tick meets what is taken up.
            count_taken_up(&mut lock(&running), again.len(), schedule.spec.overlap);
            self.timer.set(tenant, store, &schedule);
            if !again.is_empty() {
                let ran = Ran { tenant: tenant.clone(), store: store.clone(), schedule, running };
                tokio::spawn(self.clone().run_again(ran, again));
            }
        }
        if held_count > 0 {
            tracing::warn!(
                %tenant, held_count,
                "schedules were decided by a clock that was ahead of now: they run nothing until then unless they are set or \
                 resumed"
            );
        }
        Ok(())
    }

    /// Runs what was taken up, beside each other or one after another as the schedule says.
    async fn run_again(self, ran: Ran, again: Vec<(Timestamp, u32)>) {
        let is_beside = ran.schedule.spec.overlap == Overlap::Allow;
        for (place, (tick, attempt)) in again.into_iter().enumerate() {
            if is_beside {
                let (this, ran) = (self.clone(), ran.clone());
                drop(tokio::spawn(async move { this.run_and_follow(&ran, tick, attempt).await }));
                continue;
            }
            if place > 0 {
                let mut running = lock(&ran.running);
                running.waiting_count = running.waiting_count.saturating_sub(1);
            }
            self.run_and_follow(&ran, tick, attempt).await;
        }
    }

    /// Runs a schedule at once, on behalf of who asks from there, whatever it says about time and rest. Resolves when the run
    /// is over. An error when another is under way that it may not run beside. Also when more is asked of his session, or it is
    /// over: that is no run of the schedule, and its last one stays on record.
    pub async fn run_now(
        &self,
        tenant: &TenantId,
        store: &TenantStore,
        name: &ResourceName,
        asker: (Principal, Option<IpAddr>),
    ) -> Result<LastRun, AutomationError> {
        let ran = self.begin_asked(tenant, store, name).await?;
        let this = self.clone();
        // Whoever asked may go away: what gathers behind the run follows it all the same.
        let work = ToItsEnd::new(async move {
            let last = this.run_asked(&ran, asker).await;
            let next = lock(&ran.running).end();
            if let Some(tick) = next {
                tokio::spawn(async move { this.run_and_follow(&ran, tick, 1).await });
            }
            last
        });
        work.await.unwrap_or(Err(CallError::Host.into()))
    }

    /// Counts a run that somebody asks for: the next times meet it as they meet any other.
    async fn begin_asked(
        &self,
        tenant: &TenantId,
        store: &TenantStore,
        name: &ResourceName,
    ) -> Result<Ran, AutomationError> {
        // While nothing of it is decided.
        let _own = self.schedule_locks.of((store.uid(), name.to_string())).await;
        let schedule = self.schedule(store, name).await?;
        let running = self.timer.running(store, name);
        {
            let mut running = lock(&running);
            if running.count > 0 && schedule.spec.overlap != Overlap::Allow {
                return Err(AutomationError::ScheduleRuns);
            }
            running.count += 1;
        }
        Ok(Ran { tenant: tenant.clone(), store: store.clone(), schedule, running })
    }

    async fn run_asked(&self, ran: &Ran, asker: Asker) -> Result<LastRun, AutomationError> {
        let now = self.parts.clock.now();
        let ended = self.run_once(ran, now, 1, Some(asker)).await;
        let (outcome, detail) = match ended.ok_or(CallError::Overloaded)? {
            Err(error @ (CallError::StepUp(_) | CallError::PluginAtRisk(_) | CallError::Unauthenticated)) => {
                return Err(error.into());
            }
            ended => ending(ended),
        };
        let last = LastRun { due_at: now, ended_at: self.parts.clock.now(), outcome, detail };
        self.change_schedule(&ran.store, &ran.schedule.name, |schedule| schedule.last = Some(last.clone())).await?;
        Ok(last)
    }

    /// It is time: decides what is due, and runs it. What cannot be decided now stays as it is: it is looked at once more.
    pub(crate) async fn fire(self, entry: Arc<Entry>, now: Timestamp) {
        // What is due at the end of the host is decided after the next start.
        let Some(_place) = self.closing.begin() else { return };
        let Some(works) = works(&entry.store) else { return };
        if !works {
            return self.timer.again(&entry, self.parts.clock.now(), SHUT_WAIT);
        }
        let (schedule, run) = match self.begin_due(&entry, now).await {
            Ok(Some(begun)) => begun,
            Ok(None) | Err(StoreError::Gone) => return,
            Err(error) => {
                if !entry.is_held {
                    tracing::warn!(%error, "a schedule cannot be written; what is due is decided as soon as it can be");
                }
                return self.timer.again(&entry, self.parts.clock.now(), STORE_WAIT);
            }
        };
        let (tenant, store, running) = (entry.tenant.clone(), entry.store.clone(), Arc::clone(&entry.running));
        let ran = Ran { tenant, store, schedule, running };
        for tick in run {
            let (this, ran) = (self.clone(), ran.clone());
            let is_beside = ran.schedule.spec.overlap == Overlap::Allow;
            let work = async move { this.run_and_follow(&ran, tick, 1).await };
            if is_beside { drop(tokio::spawn(work)) } else { work.await }
        }
    }

    /// Decides what is due and writes it; the schedule as it is then, and what begins now. None when it is gone.
    async fn begin_due(&self, entry: &Entry, now: Timestamp) -> Result<Option<(Schedule, Vec<Timestamp>)>, StoreError> {
        let (uid, name) = (entry.store.uid(), entry.name.to_string());
        let _own = self.schedule_locks.of((uid.clone(), name.clone())).await;
        // One that was made anew under the name has runs and times of its own: what was decided here would be nobody's.
        if !self.timer.is_same(&entry.store, &entry.name, &entry.running) {
            return Ok(None);
        }
        let key = schedule_key(&name);
        let Some(mut schedule) = entry.store.get_json::<Schedule>(&key).await? else { return Ok(None) };
        let decided = decide(&mut schedule, &uid, &name, now, &lock(&entry.running));
        if let Err(error) = entry.store.put_json(&key, &schedule).await {
            // It may be there all the same: what it began is what runs when it is found in the record.
            lock(&entry.running).doubt(decided);
            return Err(error);
        }
        if schedule.decided_until < now {
            // The jitter of a time is not over, and the timer waits for the one after it.
            self.timer.go_back(entry, schedule.decided_until, now);
        }
        // INVARIANT: not before it is written, and before anybody else decides.
        let run = lock(&entry.running).begin(decided);
        Ok(Some((schedule, run)))
    }

    /// Runs one tick, then the one that gathered behind it.
    async fn run_and_follow(&self, ran: &Ran, tick: Timestamp, attempt: u32) {
        self.run_tick(ran, tick, attempt).await;
        loop {
            let next = lock(&ran.running).end();
            let Some(tick) = next else { return };
            self.run_tick(ran, tick, 1).await;
        }
    }

    /// Runs one tick and writes its end; at the end of the host it stays begun, and runs again after the next start.
    async fn run_tick(&self, ran: &Ran, tick: Timestamp, attempt: u32) {
        let Some(_place) = self.closing.begin() else { return };
        let Some(ended) = self.run_once(ran, tick, attempt, None).await else { return };
        let (outcome, detail) = ending(ended);
        let last = LastRun { due_at: tick, ended_at: self.parts.clock.now(), outcome, detail };
        let written = self
            .change_schedule(&ran.store, &ran.schedule.name, |schedule| {
                schedule.is_over(tick);
                schedule.last = Some(last);
            })
            .await;
        if let Err(error) = written {
            tracing::warn!(%error, "the end of a scheduled run is not written: it runs again after a restart");
        }
    }

    /// Runs it, and waits for what passes: a run is not lost to a busy moment, nor to a suspension. None when the host ended
    /// before it could be run, or it is not run any more.
    async fn run_once(
        &self,
        ran: &Ran,
        tick: Timestamp,
        mut attempt: u32,
        asker: Option<Asker>,
    ) -> Option<Result<Done, CallError>> {
        let mut tries_count = 0;
        loop {
            let schedule = match asker {
                Some(_) => ran.schedule.clone(),
                None => self.still_begun(ran, tick, attempt).await?,
            };
            let ended = match self.call_of(&ran.tenant, schedule, tick, attempt, asker.clone()) {
                Ok(call) => self.call(call).await,
                Err(error) => return Some(Err(error)),
            };
            tries_count += 1;
            let wait_ms = ended.as_ref().err().and_then(wait_ms).filter(|_| tries_count < ATTEMPTS_COUNT);
            let Some(wait_ms) = wait_ms else { return Some(ended) };
            // It began and was cut: what it did may stand.
            attempt = attempt.saturating_add(u32::from(matches!(ended, Err(CallError::Run(_)))));
            if !self.passes(wait_ms).await {
                return None;
            }
        }
    }

    /// The schedule that a tick runs under, as it is once its tenant can work: it may have been changed since. None when the
    /// tick is not run any more: the schedule or its tenant is gone, or rests and this never ran, or the host ends.
    async fn still_begun(&self, ran: &Ran, tick: Timestamp, attempt: u32) -> Option<Schedule> {
        let name = &ran.schedule.name;
        let schedule = loop {
            if works(&ran.store)? {
                match ran.store.get_json::<Schedule>(&schedule_key(name.as_str())).await {
                    Ok(schedule) => break schedule?,
                    Err(StoreError::Gone) => return None,
                    Err(error) => tracing::debug!(%error, "a scheduled run waits for its schedule to be read"),
                }
            }
            if !self.passes(LOOK_MS).await {
                return None;
            }
        };
        if !self.timer.is_same(&ran.store, name, &ran.running) || !schedule.begun.contains(&tick) {
            return None;
        }
        if !schedule.spec.paused || attempt > 1 {
            return Some(schedule);
        }
        let skipped = self.change_schedule(&ran.store, name, |schedule| {
            schedule.is_over(tick);
            schedule.skipped_count = schedule.skipped_count.saturating_add(1);
        });
        if let Err(error) = skipped.await {
            tracing::warn!(%error, "a time that a schedule rests at is not written as skipped: it runs after a restart");
        }
        None
    }

    /// Waits so long. Whether that passed: the end of the host cuts it.
    async fn passes(&self, wait_ms: u64) -> bool {
        tokio::select! {
            () = self.closing.announced() => false,
            () = tokio::time::sleep(Duration::from_millis(wait_ms)) => true,
        }
    }

    fn call_of(
        &self,
        tenant: &TenantId,
        schedule: Schedule,
        tick: Timestamp,
        attempt: u32,
        asker: Option<Asker>,
    ) -> Result<Call, CallError> {
        let (principal, peer) = match asker {
            Some(asker) => asker,
            None => (self.workload(tenant, &schedule.spec.plugin)?, None),
        };
        Ok(Call {
            tenant: tenant.clone(),
            plugin: schedule.spec.plugin,
            version: None,
            export: Export::Schedule,
            payload: serde_json::to_vec(&schedule.spec.payload).unwrap_or_default(),
            context: EventContext {
                name: schedule.name.to_string(),
                id: format!("{}/{tick}", schedule.name),
                attempt,
                at: tick.to_string(),
                attributes: Vec::new(),
            },
            principal,
            peer,
            cause: format!("schedule/{}", schedule.name),
            trail: Trail::default(),
            time_ms_max: None,
            begin_until: None,
            effects: Effects::Real,
        })
    }

    /// Reads a schedule, changes it and writes it. None when it is gone.
    async fn change_schedule(
        &self,
        store: &TenantStore,
        name: &ResourceName,
        change: impl FnOnce(&mut Schedule),
    ) -> Result<Option<Schedule>, StoreError> {
        let _own = self.schedule_locks.of((store.uid(), name.to_string())).await;
        let key = schedule_key(name.as_str());
        let Some(mut schedule) = store.get_json::<Schedule>(&key).await? else { return Ok(None) };
        change(&mut schedule);
        store.put_json(&key, &schedule).await?;
        Ok(Some(schedule))
    }
}

/// What was begun when the host ended and is run again now, with the number of its attempt; what was cut too often is over.
/// Where the tenant does not work, what waits for that is not cut once more with every start.
fn take_up(schedule: &mut Schedule, now: Timestamp, works: bool) -> Vec<(Timestamp, u32)> {
    let mut again = Vec::new();
    for tick in std::mem::take(&mut schedule.begun) {
        let cuts_count = schedule.cut.iter().filter(|cut| **cut == tick).count();
        if cuts_count >= CUTS_COUNT_MAX {
            schedule.cut.retain(|cut| *cut != tick);
            let detail = Some("the host ended during each of its attempts".to_owned());
            schedule.last = Some(LastRun { due_at: tick, ended_at: now, outcome: "host-ended".to_owned(), detail });
            continue;
        }
        schedule.begun.push(tick);
        if works {
            schedule.cut.push(tick);
        }
        again.push((tick, u32::try_from(cuts_count).unwrap_or(u32::MAX).saturating_add(2)));
    }
    again
}

// === impl Running ===

impl Running {
    /// Notes what was decided and written. Gives what begins now.
    fn begin(&mut self, decided: Decided) -> Vec<Timestamp> {
        let Decided { mut run, next } = decided;
        self.in_doubt.clear();
        if self.count > 0 && next.is_some() {
            self.next = next;
        } else {
            // What it was to follow ended while this was written.
            run.extend(next);
        }
        self.count += run.len();
        run
    }

    /// Nobody knows whether what was decided was written, nor so of what was in doubt before.
    fn doubt(&mut self, decided: Decided) {
        let known = std::mem::take(&mut self.in_doubt);
        let new = decided.run.into_iter().chain(decided.next).filter(|tick| !known.contains(tick)).collect::<Vec<_>>();
        self.in_doubt.extend(known.into_iter().chain(new));
    }

    /// A run is over. Gives the one that follows in its place.
    fn end(&mut self) -> Option<Timestamp> {
        let next = self.next.take();
        self.count = self.count.saturating_sub(usize::from(next.is_none()));
        next
    }
}

/// Whether anything of a tenant is run now; none when the tenant is gone.
fn works(store: &TenantStore) -> Option<bool> {
    match store.check_keys() {
        Err(StoreError::Gone) => None,
        keys => Some(keys.is_ok() && store.state() == TenantState::Active),
    }
}

/// How long what kept a run from its end is waited for; none when that is its end.
fn wait_ms(error: &CallError) -> Option<u64> {
    let wait_ms = match error {
        // Stopped by a suspension, or for want of the host's memory, or of a larger share of it.
        CallError::Run(RunError::Killed | RunError::Overloaded | RunError::MemoryShare) => Some(LOOK_MS),
        error => error.passes_after_ms(),
    };
    wait_ms.map(|wait_ms| wait_ms.clamp(100, WAIT_MS_MAX))
}

/// Which ticks run now or follow: notes in the record what is decided and begun.
fn decide(schedule: &mut Schedule, uid: &str, name: &str, now: Timestamp, running: &Running) -> Decided {
    // What a write began of which nobody knew whether it was made, and it was: it is due as if this were the first look.
    let mut run = running.in_doubt.clone();
    run.retain(|tick| schedule.begun.contains(tick));
    schedule.begun.retain(|tick| !run.contains(tick));
    run.extend(due(schedule, uid, name, now));
    if running.count > 0 && schedule.spec.overlap != Overlap::Allow {
        let mut next = None;
        // One that was taken up and waits is the one that follows.
        if schedule.spec.overlap == Overlap::Queue && running.next.is_none() && running.waiting_count == 0 {
            next = run.pop();
            schedule.begun.extend(next);
        }
        schedule.skipped_count = schedule.skipped_count.saturating_add(run.len() as u64);
        return Decided { run: Vec::new(), next };
    }
    schedule.begun.extend(run.iter().copied());
    Decided { run, next: None }
}

/// What is due by the schedule alone: notes in the record up to when that is decided.
fn due(schedule: &mut Schedule, uid: &str, name: &str, now: Timestamp) -> Vec<Timestamp> {
    let Ok(times) = schedule.spec.times() else { return Vec::new() };
    if schedule.spec.paused {
        return Vec::new();
    }
    let jitter = |tick: Timestamp| {
        let late = jitter_ms(uid, name, tick, schedule.spec.jitter_ms);
        SignedDuration::from_millis(i64::try_from(late).unwrap_or(0))
    };
    let due = times.due(schedule.decided_until, now, schedule.spec.missed, jitter);
    schedule.decided_until = due.until;
    schedule.skipped_count = schedule.skipped_count.saturating_add(due.skipped_count);
    due.run
}

fn ending(ended: Result<Done, CallError>) -> Ending {
    match ended {
        Ok(done) => match done.answer {
            Ok(_) => ("done".to_owned(), None),
            Err(failure) => ("plugin-failed".to_owned(), Some(failure.text().to_owned())),
        },
        Err(error) => (error.code().to_owned(), Some(error.to_string())),
    }
}

/// Notes so many runs that are taken up as under way: together, or all but one behind it.
fn count_taken_up(running: &mut Running, count: usize, overlap: Overlap) {
    running.count += count;
    if overlap != Overlap::Allow {
        running.waiting_count += count.saturating_sub(1);
    }
}

fn lock(running: &Mutex<Running>) -> MutexGuard<'_, Running> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{Missed, ScheduleSpec};

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn schedule(missed: Missed, overlap: Overlap) -> Schedule {
        let spec = ScheduleSpec {
            plugin: "nightly".parse().unwrap(),
            cron: "* * * * *".into(),
            zone: "UTC".into(),
            missed,
            overlap,
            jitter_ms: 0,
            payload: serde_json::Value::Null,
            paused: false,
        };
        Schedule {
            name: "nightly".parse().unwrap(),
            spec,
            created_at: at("2026-01-01T00:00:00Z"),
            created_by: "acme/ada".parse().unwrap(),
            decided_until: at("2026-01-01T00:00:00Z"),
            begun: Vec::new(),
            cut: Vec::new(),
            skipped_count: 0,
            last: None,
        }
    }

    fn decide_at(schedule: &mut Schedule, now: &str, running: &mut Running) -> Vec<Timestamp> {
        let decided = decide(schedule, "uid", "nightly", at(now), running);
        running.begin(decided)
    }

    #[test]
    fn what_runs_is_on_record_as_begun_and_decided_once() {
        let (mut schedule, mut running) = (schedule(Missed::All, Overlap::Allow), Running::default());
        let run = decide_at(&mut schedule, "2026-01-01T00:02:30Z", &mut running);
        assert_eq!(run.len(), 2);
        assert_eq!((schedule.begun.clone(), running.count), (run, 2));
        assert!(decide_at(&mut schedule, "2026-01-01T00:02:30Z", &mut running).is_empty());
    }

    #[test]
    fn a_run_that_is_cut_each_time_is_begun_again_three_times_and_then_over() {
        let (mut schedule, now) = (schedule(Missed::All, Overlap::Allow), at("2026-01-01T00:09:00Z"));
        let tick = at("2026-01-01T00:01:00Z");
        schedule.begun = vec![tick];
        for _ in 0..5 {
            assert_eq!(take_up(&mut schedule, now, false), [(tick, 2)], "it waits for its tenant");
        }
        for attempt in 2..5 {
            assert_eq!(take_up(&mut schedule, now, true), [(tick, attempt)]);
            assert_eq!(schedule.begun, [tick]);
        }
        assert!(take_up(&mut schedule, now, true).is_empty());
        assert!(schedule.begun.is_empty() && schedule.cut.is_empty());
        assert_eq!(schedule.last.unwrap().outcome, "host-ended");
    }

    #[test]
    fn a_clock_that_is_set_back_runs_nothing_twice_and_one_that_is_set_forward_follows_the_policy() {
        let mut running = Running::default();
        let mut schedule = schedule(Missed::Once, Overlap::Allow);
        assert_eq!(decide_at(&mut schedule, "2026-01-01T01:00:00Z", &mut running), [at("2026-01-01T01:00:00Z")]);
        // Back by half an hour: every minute up to one o'clock is decided, and stays so.
        for now in ["2026-01-01T00:30:00Z", "2026-01-01T00:59:00Z", "2026-01-01T01:00:00Z"] {
            assert!(decide_at(&mut schedule, now, &mut running).is_empty(), "{now}");
        }
        assert_eq!(decide_at(&mut schedule, "2026-01-01T01:01:00Z", &mut running), [at("2026-01-01T01:01:00Z")]);
        // Forward by a day: once, not 1,440 times.
        assert_eq!(decide_at(&mut schedule, "2026-01-02T01:01:00Z", &mut running), [at("2026-01-02T01:01:00Z")]);
        assert_eq!(schedule.skipped_count, 59 + 1_439);
    }

    #[test]
    fn what_a_clock_that_was_far_ahead_decided_is_said_and_gone_when_the_schedule_is_set() {
        let mut running = Running::default();
        let mut schedule = schedule(Missed::Skip, Overlap::Allow);
        assert_eq!(schedule.held_until(at("2026-01-01T00:00:00Z")), None);
        let far = at("2026-01-02T00:00:00Z");
        assert_eq!(decide_at(&mut schedule, "2026-01-02T00:00:00Z", &mut running), [far]);
        let now = at("2026-01-01T00:02:00Z");
        assert!(decide_at(&mut schedule, "2026-01-01T00:02:00Z", &mut running).is_empty());
        assert_eq!(schedule.held_until(now), Some(far));
        assert_eq!(schedule.next(now).first(), Some(&at("2026-01-02T00:01:00Z")), "what is shown is what runs");
        let resting = ScheduleSpec { paused: true, ..schedule.spec.clone() };
        assert_eq!(schedule.clone().described(resting, now).held_until(now), None);

        let spec = schedule.spec.clone();
        let mut schedule = schedule.described(spec, now);
        assert_eq!(schedule.held_until(now), None);
        assert_eq!(schedule.next(now).first(), Some(&at("2026-01-01T00:03:00Z")));
        assert_eq!(decide_at(&mut schedule, "2026-01-01T00:03:00Z", &mut running), [at("2026-01-01T00:03:00Z")]);
        assert_eq!(schedule.begun, [far, at("2026-01-01T00:03:00Z")], "what was begun is not forgotten");
    }

    #[test]
    fn the_day_on_which_the_clock_is_set_runs_a_fixed_time_once_however_often_the_host_restarts() {
        // New York goes from 01:59 to 03:00 on 8 March 2026 and from 01:59 back to 01:00 on 1 November 2026.
        for (day, cron) in [("2026-03-08", "30 2 * * *"), ("2026-11-01", "30 1 * * *")] {
            let mut schedule = schedule(Missed::All, Overlap::Allow);
            (schedule.spec.cron, schedule.spec.zone) = (cron.to_owned(), "America/New_York".to_owned());
            schedule.decided_until = at(&format!("{day}T05:00:00Z"));
            let mut count = 0;
            for minute in 0..300 {
                // Read from its record each time, as after a restart.
                let stored = serde_json::to_string(&schedule).unwrap();
                schedule = serde_json::from_str(&stored).unwrap();
                let now = at(&format!("{day}T05:00:10Z")) + SignedDuration::from_mins(minute);
                count += decide_at(&mut schedule, &now.to_string(), &mut Running::default()).len();
            }
            assert_eq!(count, 1, "{day}");
        }
    }

    #[test]
    fn a_time_that_meets_a_run_is_skipped_gathers_once_or_runs_beside_it() {
        for (overlap, beside, gathers) in
            [(Overlap::Skip, 0, false), (Overlap::Queue, 0, true), (Overlap::Allow, 1, false)]
        {
            let (mut schedule, mut running) = (schedule(Missed::Skip, overlap), Running::default());
            assert_eq!(decide_at(&mut schedule, "2026-01-01T00:01:00Z", &mut running).len(), 1);
            assert_eq!(decide_at(&mut schedule, "2026-01-01T00:02:00Z", &mut running).len(), beside, "{overlap:?}");
            assert_eq!(running.next.is_some(), gathers, "{overlap:?}");
            decide_at(&mut schedule, "2026-01-01T00:03:00Z", &mut running);
            assert_eq!(schedule.skipped_count, if overlap == Overlap::Skip { 2 } else { u64::from(gathers) });
        }
    }

    #[test]
    fn what_is_not_written_is_not_in_memory_and_is_decided_again_whether_it_was_written_or_not() {
        for overlap in [Overlap::Skip, Overlap::Queue, Overlap::Allow] {
            let tick = at("2026-01-01T00:01:00Z");
            for is_written in [true, false] {
                let (mut schedule, mut running) = (schedule(Missed::Skip, overlap), Running::default());
                running.count = usize::from(overlap == Overlap::Queue);
                let before = (schedule.clone(), running.count);
                let decided = decide(&mut schedule, "uid", "nightly", tick, &running);
                assert_eq!((running.count, running.next), (before.1, None), "{overlap:?}");
                assert_eq!(schedule.begun, [tick]);
                running.doubt(decided);
                if !is_written {
                    schedule = before.0;
                }
                let run = decide_at(&mut schedule, "2026-01-01T00:01:02Z", &mut running);
                let begins = run.into_iter().chain(running.next).collect::<Vec<_>>();
                assert_eq!((begins, schedule.begun), (vec![tick], vec![tick]), "{overlap:?} {is_written}");
                assert_eq!((schedule.skipped_count, running.in_doubt.len()), (0, 0));
            }
        }
    }

    #[test]
    fn what_is_in_doubt_stays_so_while_nothing_can_be_written_and_is_decided_once() {
        for overlap in [Overlap::Skip, Overlap::Queue, Overlap::Allow] {
            let (mut schedule, mut running) = (schedule(Missed::All, overlap), Running::default());
            let ticks = [at("2026-01-01T00:01:00Z"), at("2026-01-01T00:02:00Z")];
            // The first write was made, and nobody knows; a run that is asked for begins beside; the second is not made.
            running.doubt(decide(&mut schedule, "uid", "nightly", ticks[1], &running));
            running.count = 1;
            let written = schedule.clone();
            for _ in 0..2 {
                running.doubt(decide(&mut schedule, "uid", "nightly", ticks[1], &running));
                assert_eq!(running.in_doubt, ticks, "{overlap:?}");
                schedule = written.clone();
            }
            let run = decide_at(&mut schedule, "2026-01-01T00:02:02Z", &mut running);
            let (begins, skipped_count) = match overlap {
                Overlap::Skip => (Vec::new(), 2),
                Overlap::Queue => (vec![ticks[1]], 1),
                Overlap::Allow => (ticks.to_vec(), 0),
            };
            assert_eq!(run.into_iter().chain(running.next).collect::<Vec<_>>(), begins, "{overlap:?}");
            assert_eq!((schedule.begun, schedule.skipped_count), (begins, skipped_count), "nothing stays begun unseen");
            assert!(running.in_doubt.is_empty());
        }
    }

    #[test]
    fn what_is_to_follow_a_run_that_ended_meanwhile_begins_at_once() {
        let (mut schedule, mut running) = (schedule(Missed::Skip, Overlap::Queue), Running::default());
        running.count = 1;
        let tick = at("2026-01-01T00:01:00Z");
        let decided = decide(&mut schedule, "uid", "nightly", tick, &running);
        assert_eq!(running.end(), None);
        assert_eq!(running.begin(decided), [tick]);
        assert_eq!((running.count, running.next), (1, None));
    }

    #[test]
    fn a_run_that_a_suspension_stopped_is_waited_for_and_one_that_was_refused_is_not() {
        assert!(wait_ms(&CallError::Run(RunError::Killed)).is_some());
        assert!(wait_ms(&CallError::Run(RunError::Overloaded)).is_some());
        assert!(wait_ms(&CallError::Run(RunError::MemoryShare)).is_some());
        assert!(wait_ms(&CallError::Suspended).is_some());
        assert_eq!(wait_ms(&CallError::Run(RunError::NoHandler)), None);
        assert_eq!(wait_ms(&CallError::NoPlugin), None);
    }

    #[test]
    fn what_is_taken_up_is_what_the_next_time_meets_and_one_of_it_is_enough_to_follow() {
        for (overlap, beside, gathers) in
            [(Overlap::Skip, 0, false), (Overlap::Queue, 0, true), (Overlap::Allow, 1, false)]
        {
            for taken_up_count in [1, 2] {
                let (mut schedule, mut running) = (schedule(Missed::Skip, overlap), Running::default());
                count_taken_up(&mut running, taken_up_count, overlap);
                assert_eq!(decide_at(&mut schedule, "2026-01-01T00:01:00Z", &mut running).len(), beside, "{overlap:?}");
                assert_eq!(running.next.is_some(), gathers && taken_up_count == 1, "{overlap:?} {taken_up_count}");
            }
        }
    }

    #[test]
    fn a_schedule_that_rests_decides_nothing() {
        let (mut schedule, mut running) = (schedule(Missed::All, Overlap::Skip), Running::default());
        schedule.spec.paused = true;
        assert!(decide_at(&mut schedule, "2026-01-01T00:05:00Z", &mut running).is_empty());
        assert_eq!(schedule.decided_until, at("2026-01-01T00:00:00Z"));
    }

    #[test]
    fn a_tick_whose_jitter_is_not_over_is_left_for_later() {
        let mut schedule = schedule(Missed::All, Overlap::Allow);
        schedule.spec.jitter_ms = 50_000;
        let late = jitter_ms("uid", "nightly", at("2026-01-01T00:01:00Z"), 50_000);
        assert!(late > 0);
        let mut running = Running::default();
        assert!(decide_at(&mut schedule, "2026-01-01T00:01:00Z", &mut running).is_empty());
        assert_eq!(decide_at(&mut schedule, "2026-01-01T00:01:59Z", &mut running), [at("2026-01-01T00:01:00Z")]);
    }
}
