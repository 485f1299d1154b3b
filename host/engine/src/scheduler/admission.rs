//! The queue before the sandbox: who gets a slot, who waits, who is sent away.
//!
//! A bounded FIFO for each tenant and deficit round robin over the tenants that have someone waiting (Shreedhar and
//! Varghese 1995): each round a tenant earns its weight, and a slot costs `SLOT_COST`. A tenant holds at most a quarter of
//! the slots, or fewer by its own share, and about a tenth of them is kept for tenants that hold none, so that nobody is
//! locked out. What a running invocation called goes before what comes anew, and is refused at once when all that run wait
//! like its caller: nobody would give up a slot. While somebody waits, invocations that wait for their own clients are ended
//! (`clients.rs`), as many as those who wait can use. Every wait has a deadline. Must never hand out more slots than the pool
//! of instances was built for.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ringfence_core::{Budget, InvocationId, TenantId, limits};
use tokio::sync::oneshot;

use super::TenantShare;
use super::clients::{Clients, Noted};
use crate::error::AdmitError;
use crate::meter::{End, Meter};

/// What a tenant that is full is told to wait (milliseconds).
const RETRY_AFTER_MS: u64 = 1_000;
/// What a slot costs a waiting tenant; a usual weight earns it in one round.
const SLOT_COST: u32 = TenantShare::USUAL.weight;

/// How often those who wait for a slot look for invocations that wait for their clients.
const CLIENTS_LOOK: Duration = Duration::from_millis(250);

/// A turn to run one invocation. Gives its place back when dropped.
#[must_use = "a slot that is dropped is a turn not taken"]
pub struct Slot {
    room: Arc<Room>,
    tenant: TenantId,
    budget: Budget,
    asker: Asker,
    /// Of its tenant's lane when it was asked for.
    pub(crate) lane_number: u64,
    /// Which takes it, where somebody said so.
    invocation: Option<InvocationId>,
    /// Where its invocation is noted, once it runs.
    noted: Option<u64>,
}

impl Slot {
    /// Says which invocation takes it: that one does not give way to what is called below it.
    pub fn taken_by(&mut self, invocation: &InvocationId) {
        self.invocation = Some(invocation.clone());
    }

    /// Notes what runs in it. What a plugin called is not noted: it waits for a plugin, and that one's own client counts.
    pub(crate) fn runs(&mut self, meter: &Arc<Meter>) {
        if self.asker == Asker::Newcomer && self.noted.is_none() {
            let (tenant, invocation) = (self.tenant.clone(), self.invocation.clone());
            self.noted = Some(self.room.note(Noted { tenant, invocation, meter: Arc::clone(meter) }));
        }
    }

    /// Whose turn it is.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }
    /// What the invocation may spend.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        Room::give_back(&self.room, &self.tenant, self.noted);
    }
}

/// A running invocation waits for one that it called, until this is dropped.
#[must_use = "a caller that is not counted as waiting hides that nobody can go on"]
pub struct Calling {
    room: Arc<Room>,
    pub(super) tenant: TenantId,
    caller: InvocationId,
    /// The one that no plugin called, above all of it.
    root: InvocationId,
}

impl Drop for Calling {
    fn drop(&mut self) {
        self.room.call_is_over(&self.tenant, &self.caller);
    }
}

/// All slots and everyone who waits for one.
pub(crate) struct Room {
    slots: u32,
    wait: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    used: u32,
    tenants: HashMap<TenantId, TenantState>,
    /// Tenants with someone waiting, next first.
    round: VecDeque<TenantId>,
    next_number: u64,
    /// Tenants of whom something else than the usual was said.
    terms: HashMap<TenantId, Terms>,
    /// Running invocations that have a client.
    clients: Clients,
    /// Nobody was found to wait too long for its client: until then nobody looks again.
    quiet_until: Option<Instant>,
}

#[derive(Clone, Copy)]
struct Terms {
    weight: u32,
    concurrency_count: u32,
    shut: Shut,
}

/// Why nobody of a tenant is let in: each reason for itself, and somebody is only where there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Shut {
    suspended: bool,
    /// Until its share is set again.
    locked: bool,
}

impl Shut {
    fn is_shut(self) -> bool {
        self.suspended || self.locked
    }
}

#[derive(Default)]
struct TenantState {
    running: u32,
    /// Of these, how many have to end and have not given back their slots, when somebody looked last.
    leaving: u32,
    waiting: VecDeque<Waiter>,
    /// What it has earned of its next slot.
    earned: u32,
    /// Running invocations that wait for what they called, and for how many.
    callers: HashMap<InvocationId, u32>,
}

/// Who wants a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asker {
    /// Something new.
    Newcomer,
    /// What a running invocation of the same tenant called.
    Callee,
}

struct Waiter {
    number: u64,
    turn: oneshot::Sender<()>,
}

// === impl Room ===

impl Room {
    /// A room of `slots` in which nobody waits longer than `wait`.
    pub(crate) fn new(slots: u32, wait: Duration) -> Arc<Self> {
        Arc::new(Self { slots: slots.max(1), wait, state: Mutex::new(State::default()) })
    }

    /// Waits for a turn.
    pub(crate) async fn admit(self: &Arc<Self>, tenant: &TenantId, budget: Budget) -> Result<Slot, AdmitError> {
        self.admit_as(Asker::Newcomer, tenant, budget, None).await
    }

    /// Waits for a turn for what a running invocation of the same tenant called, before those who come anew.
    pub(crate) async fn admit_called(self: &Arc<Self>, by: &Calling, budget: Budget) -> Result<Slot, AdmitError> {
        self.admit_as(Asker::Callee, &by.tenant, budget, Some(&by.root)).await
    }

    /// Notes that a running invocation waits from now on for one that it calls. The `root` above it may be itself.
    pub(crate) fn calling(self: &Arc<Self>, tenant: &TenantId, caller: &InvocationId, root: &InvocationId) -> Calling {
        let mut state = self.lock();
        let own = state.tenants.entry(tenant.clone()).or_default();
        let calls = own.callers.entry(caller.clone()).or_default();
        *calls = calls.saturating_add(1);
        Calling { room: Arc::clone(self), tenant: tenant.clone(), caller: caller.clone(), root: root.clone() }
    }

    fn call_is_over(&self, tenant: &TenantId, caller: &InvocationId) {
        let mut state = self.lock();
        if let Some(own) = state.tenants.get_mut(tenant)
            && let Some(calls) = own.callers.get_mut(caller)
        {
            *calls = calls.saturating_sub(1);
            if *calls == 0 {
                own.callers.remove(caller);
            }
        }
        state.tidy(tenant);
    }

    /// Whoever waits here never ends `spared`.
    async fn admit_as(
        self: &Arc<Self>,
        asker: Asker,
        tenant: &TenantId,
        budget: Budget,
        spared: Option<&InvocationId>,
    ) -> Result<Slot, AdmitError> {
        let (number, turn) = match self.ask(asker, tenant)? {
            Asked::Granted => return Ok(self.slot(asker, tenant, budget)),
            Asked::Waits { number, turn } => (number, turn),
        };
        let mut leave = LeaveQueue { room: self, tenant, number, turn };
        let mut left = self.wait;
        while !left.is_zero() {
            self.end_slowest(tenant, spared);
            let beat = left.min(CLIENTS_LOOK);
            match tokio::time::timeout(beat, &mut leave.turn).await {
                Ok(Ok(())) => {
                    // The turn is taken: the guard finds nothing to give back.
                    leave.turn.close();
                    return Ok(self.slot(asker, tenant, budget));
                }
                Ok(Err(_)) => return Err(AdmitError::Suspended),
                Err(_) => left = left.saturating_sub(beat),
            }
        }
        Err(self.refusal(tenant))
    }

    fn note(&self, noted: Noted) -> u64 {
        let mut state = self.lock();
        let number = state.next_number;
        state.next_number = number.wrapping_add(1);
        state.clients.insert(number, noted);
        number
    }

    /// Ends an invocation that waits too long for its client, for somebody of `tenant` who waits for a slot, if there is one
    /// and more are needed than are on their way out.
    fn end_slowest(&self, tenant: &TenantId, spared: Option<&InvocationId>) {
        let slowest = {
            let mut state = self.lock();
            // Under the lock, so that whoever looks next counts it.
            state.gives_way(tenant, self.slots, spared).inspect(|meter| meter.note_end(End::SlowClient))
        };
        if let Some(meter) = slowest {
            meter.end(End::SlowClient);
        }
    }

    /// Changes what a tenant may have, from now on; one that was locked is not any more.
    pub(crate) fn set_share(&self, tenant: &TenantId, share: TenantShare) {
        let mut state = self.lock();
        let terms = state.terms_mut(tenant);
        terms.weight = share.weight.max(1);
        terms.concurrency_count = share.concurrency_count.unwrap_or(u32::MAX);
        terms.shut.locked = false;
        state.pass_on(self.slots);
    }

    /// Lets nobody of a tenant in, and sends away those who wait.
    pub(crate) fn suspend(&self, tenant: &TenantId) {
        self.shut(tenant, |shut| shut.suspended = true);
    }

    /// The same until its share is set again, for another reason: it may be suspended beside.
    pub(crate) fn shut_locked(&self, tenant: &TenantId) {
        self.shut(tenant, |shut| shut.locked = true);
    }

    fn shut(&self, tenant: &TenantId, because: impl FnOnce(&mut Shut)) {
        let mut state = self.lock();
        because(&mut state.terms_mut(tenant).shut);
        // The waiters' ends close, which tells them.
        let left = state.tenants.get_mut(tenant).map(|own| std::mem::take(&mut own.waiting));
        state.tidy(tenant);
        drop(state);
        drop(left);
    }

    pub(crate) fn resume(&self, tenant: &TenantId) {
        self.lock().terms_mut(tenant).shut.suspended = false;
    }

    pub(crate) fn forget(&self, tenant: &TenantId) {
        self.lock().terms.remove(tenant);
    }

    /// Running and waiting invocations of a tenant.
    pub(crate) fn counts(&self, tenant: &TenantId) -> (u32, u32) {
        let state = self.lock();
        let waiting = state.tenants.get(tenant).map_or(0, |own| own.waiting.len());
        (state.running(tenant), u32::try_from(waiting).unwrap_or(u32::MAX))
    }

    /// Slots in use.
    pub(crate) fn used(&self) -> u32 {
        self.lock().used
    }

    /// Invocations in the queues of all tenants.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().tenants.values().map(|own| own.waiting.len()).sum()
    }

    /// Slots in all.
    pub(crate) fn slots(&self) -> u32 {
        self.slots
    }

    fn slot(self: &Arc<Self>, asker: Asker, tenant: &TenantId, budget: Budget) -> Slot {
        let (room, tenant) = (Arc::clone(self), tenant.clone());
        Slot { room, tenant, budget, asker, lane_number: 0, invocation: None, noted: None }
    }

    fn ask(&self, asker: Asker, tenant: &TenantId) -> Result<Asked, AdmitError> {
        let mut state = self.lock();
        if state.terms(tenant).shut.is_shut() {
            return Err(AdmitError::Suspended);
        }
        let is_callee = asker == Asker::Callee;
        let nobody_before = state.tenants.get(tenant).is_none_or(|own| own.waiting.is_empty());
        if (nobody_before || is_callee) && state.may_run(tenant, self.slots) {
            state.start(tenant);
            return Ok(Asked::Granted);
        }
        if is_callee && state.only_callers_run(tenant, self.slots) {
            return Err(AdmitError::CallersWait);
        }
        let number = state.next_number;
        state.next_number = number.wrapping_add(1);
        let own = state.tenants.entry(tenant.clone()).or_default();
        // LIMIT: newcomers that fill the queue do not shut out what was begun before them.
        let waiting_max = limits::TENANT_QUEUE_COUNT_MAX.saturating_mul(if is_callee { 2 } else { 1 });
        if own.waiting.len() >= waiting_max {
            return Err(AdmitError::TenantBusy { retry_after_ms: RETRY_AFTER_MS });
        }
        let (sender, turn) = oneshot::channel();
        let waiter = Waiter { number, turn: sender };
        match asker {
            Asker::Newcomer => own.waiting.push_back(waiter),
            Asker::Callee => own.waiting.push_front(waiter),
        }
        if nobody_before {
            state.round.push_back(tenant.clone());
        }
        Ok(Asked::Waits { number, turn })
    }

    /// Who is to blame when nobody gave up a slot in time: the tenant that fills its own share, or the host.
    fn refusal(&self, tenant: &TenantId) -> AdmitError {
        let state = self.lock();
        if state.terms(tenant).shut.is_shut() {
            AdmitError::Suspended
        } else if state.running(tenant) >= state.cap(tenant, self.slots) {
            AdmitError::TenantBusy { retry_after_ms: RETRY_AFTER_MS }
        } else {
            AdmitError::Overloaded
        }
    }

    fn give_back(room: &Arc<Self>, tenant: &TenantId, noted: Option<u64>) {
        let mut state = room.lock();
        let ended = noted.and_then(|number| state.clients.remove(number));
        state.stop(tenant);
        state.pass_on(room.slots);
        drop(state);
        drop(ended);
    }

    fn leave(&self, tenant: &TenantId, number: u64) {
        let mut state = self.lock();
        if let Some(own) = state.tenants.get_mut(tenant) {
            own.waiting.retain(|waiter| waiter.number != number);
        }
        state.tidy(tenant);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    fn terms(&self, tenant: &TenantId) -> Terms {
        self.terms.get(tenant).copied().unwrap_or(Terms::USUAL)
    }

    fn terms_mut(&mut self, tenant: &TenantId) -> &mut Terms {
        self.terms.entry(tenant.clone()).or_insert(Terms::USUAL)
    }

    /// Most slots a tenant may hold: a quarter of all, or fewer by its own share.
    fn cap(&self, tenant: &TenantId, slots: u32) -> u32 {
        (slots / 4).max(1).min(self.terms(tenant).concurrency_count)
    }

    fn running(&self, tenant: &TenantId) -> u32 {
        self.tenants.get(tenant).map_or(0, |own| own.running)
    }

    fn may_run(&self, tenant: &TenantId, slots: u32) -> bool {
        let free = slots.saturating_sub(self.used);
        match self.running(tenant) {
            0 => free > 0 && self.cap(tenant, slots) > 0,
            running => running < self.cap(tenant, slots) && free > reserve(slots),
        }
    }

    /// Whether a tenant has all that it may have running, and every one of them waits for one that it called.
    fn only_callers_run(&self, tenant: &TenantId, slots: u32) -> bool {
        let running = self.running(tenant);
        let callers = self.tenants.get(tenant).map_or(0, |own| own.callers.len());
        running >= self.cap(tenant, slots) && callers >= usize::try_from(running).unwrap_or(usize::MAX)
    }

    /// Who gives way to somebody of `tenant` who waits for a slot: one of its own where it has all that it may have, else
    /// anybody's; none while those that are on their way out are enough for all who wait.
    fn gives_way(&mut self, tenant: &TenantId, slots: u32, spared: Option<&InvocationId>) -> Option<Arc<Meter>> {
        let now = Instant::now();
        if self.quiet_until.is_some_and(|until| now < until) {
            return None;
        }
        if !self.clients.any_is_slow() {
            self.quiet_until = now.checked_add(CLIENTS_LOOK);
            return None;
        }
        let coming = slots.saturating_sub(self.used).saturating_add(self.count_leaving());
        let (own, cap) = (self.tenants.get(tenant)?, self.cap(tenant, slots));
        let only = if own.running >= cap {
            // Where the cap was lowered, those above it have to go first.
            let wanted = own.waits().min(cap);
            let above = if wanted == 0 { 0 } else { own.running.saturating_sub(cap) };
            (own.leaving < wanted.saturating_add(above)).then_some(Some(tenant))
        } else if own.held() > 0 && coming < reserve(slots) {
            // What others gave up would go back to the reserve. It is for this tenant too, once its only one is gone.
            (own.held() == 1).then_some(Some(tenant))
        } else {
            self.wants_more(coming, slots).then_some(None)
        }?;
        let held = |whose: &TenantId| self.tenants.get(whose).map_or(0, TenantState::held);
        self.clients.slowest(only, spared, held)
    }

    /// Counts anew who of each tenant is on its way out, and gives how many they are in all.
    fn count_leaving(&mut self) -> u32 {
        for own in self.tenants.values_mut() {
            own.leaving = 0;
        }
        let mut all: u32 = 0;
        for tenant in self.clients.leaving() {
            all = all.saturating_add(1);
            // A tenant is known as long as anything of it runs.
            if let Some(own) = self.tenants.get_mut(tenant) {
                own.leaving = own.leaving.saturating_add(1);
            }
        }
        all
    }

    /// Whether those who wait can use one slot more than those that are free or on their way out: of a tenant that holds none
    /// the first can use any, all others what is left beside the reserve.
    fn wants_more(&self, coming: u32, slots: u32) -> bool {
        let (mut firsts, mut others): (u32, u32) = (0, 0);
        for (whose, own) in &self.tenants {
            let wanted = own.waits().min(self.cap(whose, slots).saturating_sub(own.held()));
            let first = u32::from(own.held() == 0).min(wanted);
            firsts = firsts.saturating_add(first);
            others = others.saturating_add(wanted.saturating_sub(first));
        }
        let kept = firsts.saturating_add(reserve(slots));
        coming < firsts || (kept..kept.saturating_add(others)).contains(&coming)
    }

    fn start(&mut self, tenant: &TenantId) {
        self.used = self.used.saturating_add(1);
        let own = self.tenants.entry(tenant.clone()).or_default();
        own.running = own.running.saturating_add(1);
    }

    fn stop(&mut self, tenant: &TenantId) {
        self.used = self.used.saturating_sub(1);
        if let Some(own) = self.tenants.get_mut(tenant) {
            own.running = own.running.saturating_sub(1);
        }
        self.tidy(tenant);
    }

    /// Gives free slots to those who wait, a round after the other.
    fn pass_on(&mut self, slots: u32) {
        // INVARIANT: each turn of the loop starts or forgets someone, lets a tenant earn towards a slot that it may have, or
        // skips one that may not run, which only someone's start or end can change.
        let mut skipped = 0;
        while skipped < self.round.len() {
            let Some(tenant) = self.round.pop_front() else { return };
            if !self.may_run(&tenant, slots) {
                self.round.push_back(tenant);
                skipped = skipped.saturating_add(1);
                continue;
            }
            skipped = 0;
            let weight = self.terms(&tenant).weight;
            let Some(own) = self.tenants.get_mut(&tenant) else { continue };
            if own.earned < SLOT_COST {
                own.earned = own.earned.saturating_add(weight);
            }
            if own.earned < SLOT_COST {
                self.round.push_back(tenant);
                continue;
            }
            own.earned = own.earned.saturating_sub(SLOT_COST);
            let (next, earned) = (own.waiting.pop_front(), own.earned);
            if own.waiting.is_empty() {
                // Nothing is saved up for later.
                own.earned = 0;
            } else if earned >= SLOT_COST {
                self.round.push_front(tenant.clone());
            } else {
                self.round.push_back(tenant.clone());
            }
            if let Some(waiter) = next
                && waiter.turn.send(()).is_ok()
            {
                self.start(&tenant);
            }
        }
    }

    fn tidy(&mut self, tenant: &TenantId) {
        let Some(own) = self.tenants.get(tenant) else { return };
        if own.waiting.is_empty() {
            self.round.retain(|other| other != tenant);
            if own.running == 0 && own.callers.is_empty() {
                self.tenants.remove(tenant);
            }
        }
    }
}

impl TenantState {
    /// How many wait.
    fn waits(&self) -> u32 {
        u32::try_from(self.waiting.len()).unwrap_or(u32::MAX)
    }

    /// Slots that it will still have when those are gone that were on their way out.
    fn held(&self) -> u32 {
        self.running.saturating_sub(self.leaving)
    }
}

/// Slots that are kept for tenants that hold none.
fn reserve(slots: u32) -> u32 {
    slots / 10
}

enum Asked {
    Granted,
    Waits { number: u64, turn: oneshot::Receiver<()> },
}

/// Takes a waiter out of the queue when it gives up, and passes its turn on when that came too late.
struct LeaveQueue<'a> {
    room: &'a Arc<Room>,
    tenant: &'a TenantId,
    number: u64,
    turn: oneshot::Receiver<()>,
}

impl Drop for LeaveQueue<'_> {
    fn drop(&mut self) {
        self.room.leave(self.tenant, self.number);
        self.turn.close();
        if self.turn.try_recv().is_ok() {
            Room::give_back(self.room, self.tenant, None);
        }
    }
}

impl Terms {
    const USUAL: Self = Self {
        weight: TenantShare::USUAL.weight,
        concurrency_count: u32::MAX,
        shut: Shut { suspended: false, locked: false },
    };
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
