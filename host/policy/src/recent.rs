//! The questions a tenant was asked lately, each once with how often: what a changed policy is tried on.
//!
//! Must never cost the walks more than an addition for a question that is known, nor grow without end. Has no time:
//! whoever takes the questions out and keeps them has a clock.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ringfence_core::limits::{POLICY_RECENT_COUNT_MAX, POLICY_RECENT_HOST_CALLS_COUNT_MAX};
use ringfence_core::proof::act;
use ringfence_core::{Device, HostAct, KeyScope, PrincipalId, PrincipalKind, Resource, Role, TenantId};
use serde::{Deserialize, Serialize};

use crate::decision::Outcome;
use crate::occasion::Occasion;
use crate::particulars::Particulars;
use crate::question::{Question, Who};

/// One question as it was asked, enough to ask it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Who asked.
    pub principal: PrincipalId,
    /// What sort of thing that is.
    pub kind: PrincipalKind,
    /// In which role; none for anonymous callers.
    pub role: Option<Role>,
    /// Of which tenant; none for anonymous callers.
    pub tenant: Option<TenantId>,
    /// Its own role, when it acted in another for a time.
    pub elevated_from: Option<Role>,
    /// What it was on, as that was then; none on records older than this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<Device>,
    /// The trust score of its session then, where a policy in force or in the shadow read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<u8>,
    /// What the key that it came with was good for, where that was less than its role allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Arc<KeyScope>>,
    /// The action's word.
    pub action: String,
    /// For what.
    pub resource: Resource,
    /// Of a host call: what it was about. Of calls that differ in a key, a name or a path behind its first `/` alone, or in
    /// the caller alone, the first stands for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occasion: Option<Occasion>,
    /// What another act was about, where it was asked for with that. Of decisions of runs that differ in how long the run has
    /// asked alone, the last stands for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub particulars: Option<Particulars>,
    /// How often it was allowed.
    pub allowed_count: u64,
    /// How often it was denied.
    pub denied_count: u64,
}

/// What was asked since it was last taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Taken {
    /// Each question once.
    pub asked: Vec<Asked>,
    /// Distinct questions that found no room.
    pub left_out_count: u64,
}

/// How often one question was asked.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    allowed: AtomicU64,
    denied: AtomicU64,
    /// Taken out: whoever still holds it must register the question anew.
    closed: AtomicBool,
}

/// What a tenant was asked lately.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    asked: Mutex<HashMap<Question, Arc<Counts>>>,
    /// Host calls, in a place of their own: what plugins do often does not drive out what people do.
    host_calls: Mutex<HashMap<Slice, (Question, Arc<Counts>)>>,
    left_out: AtomicU64,
}

/// What host calls have in common that are remembered as one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Slice {
    plugin: PrincipalId,
    action: &'static str,
    resource: Resource,
    role: Option<Role>,
    cause: String,
    method: String,
    name: String,
}

impl Counts {
    /// Counts one asking; false when it was taken out meanwhile and does not count any more.
    pub(crate) fn count(&self, outcome: Outcome) -> bool {
        if self.closed.load(Ordering::Relaxed) {
            return false;
        }
        match outcome {
            Outcome::Allow => self.allowed.fetch_add(1, Ordering::Relaxed),
            Outcome::Deny => self.denied.fetch_add(1, Ordering::Relaxed),
        };
        true
    }
}

impl Recent {
    /// The counts of a question, made when it is new; none when there is no room, or it is too long to be kept.
    pub(crate) fn register(&self, question: &Question) -> Option<Arc<Counts>> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counts) = asked.get(question) {
            return Some(counts.clone());
        }
        if !question.is_short() || asked.len() >= POLICY_RECENT_COUNT_MAX {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(asked.entry(question.clone()).or_default().clone())
    }

    /// The counts of a host call and all that are like it; none when there is no room, or for what is no host call.
    pub(crate) fn register_host_call(&self, question: &Question) -> Option<Arc<Counts>> {
        let occasion = question.occasion.as_ref()?;
        let slice = Slice {
            plugin: question.who.id.clone(),
            action: question.action,
            resource: question.resource.clone(),
            role: occasion.role,
            cause: occasion.cause.clone(),
            method: occasion.kept().method,
            name: occasion.slice().to_owned(),
        };
        let mut asked = self.host_calls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, counts)) = asked.get(&slice) {
            return Some(counts.clone());
        }
        if asked.len() >= POLICY_RECENT_HOST_CALLS_COUNT_MAX {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let kept = || Question { occasion: Some(occasion.kept()), ..question.clone() };
        Some(asked.entry(slice).or_insert_with(|| (kept(), Arc::default())).1.clone())
    }

    /// Everything since the last time.
    pub(crate) fn take(&self) -> Taken {
        let all = std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner));
        let calls = std::mem::take(&mut *self.host_calls.lock().unwrap_or_else(PoisonError::into_inner));
        let asked = all.into_iter().chain(calls.into_values()).map(|(question, counts)| {
            counts.closed.store(true, Ordering::Relaxed);
            let (allowed, denied) = (counts.allowed.load(Ordering::Relaxed), counts.denied.load(Ordering::Relaxed));
            Asked::of(&question, allowed, denied)
        });
        Taken { asked: asked.collect(), left_out_count: self.left_out.swap(0, Ordering::Relaxed) }
    }
}

impl Asked {
    pub(crate) fn of(question: &Question, allowed_count: u64, denied_count: u64) -> Self {
        Self {
            principal: question.who.id.clone(),
            kind: question.who.kind,
            role: question.who.role,
            tenant: question.who.tenant.clone(),
            elevated_from: question.who.elevated_from,
            device: question.who.device.clone(),
            trust: question.who.trust,
            scope: question.who.scope.clone(),
            action: question.action.to_owned(),
            resource: question.resource.clone(),
            occasion: question.occasion.as_ref().map(Occasion::kept),
            particulars: question.particulars.clone(),
            allowed_count,
            denied_count,
        }
    }

    /// For what, with the key, the name or the path of a host call, and with what another act was about.
    pub fn about(&self) -> String {
        match (&self.occasion, &self.particulars) {
            (Some(occasion), _) if !occasion.name.is_empty() => format!("{} {}", self.resource, occasion.name),
            (_, Some(particulars)) => format!("{} ({particulars})", self.resource),
            _ => self.resource.to_string(),
        }
    }

    /// The same for the same question, however often it was asked.
    pub fn key(&self) -> String {
        let role = |role: Option<Role>| role.map_or("-", Role::as_str);
        let mut key = format!(
            "{} {:?} {} {} {} {}",
            self.principal,
            self.kind,
            role(self.role),
            role(self.elevated_from),
            self.action,
            self.resource
        );
        if let Some(Device { name, verified, evidence, posture }) = &self.device {
            key.push_str(&format!(" on {name} {verified} {evidence} {posture:?}"));
        }
        if let Some(trust) = self.trust {
            key.push_str(&format!(" trusted {trust}"));
        }
        if let Some(scope) = &self.scope {
            key.push_str(&format!(" for {scope}"));
        }
        if let Some(particulars) = &self.particulars {
            key.push_str(&format!(" about {:?}", particulars.without_time()));
        }
        if let Some(Occasion { cause, method, .. }) = &self.occasion {
            let slice = self.occasion.as_ref().map(Occasion::slice).unwrap_or_default();
            key.push_str(&format!(" {cause} {} {method} {slice}", role(self.occasion.as_ref().and_then(|o| o.role))));
        }
        key
    }

    /// The question; none for an action that is no more.
    pub(crate) fn question(&self) -> Option<Question> {
        let plain = act::ACTIONS.iter().copied().find(|word| *word == self.action);
        let action = plain.or_else(|| HostAct::of_word(&self.action).map(HostAct::as_str))?;
        let who = Who {
            id: self.principal.clone(),
            kind: self.kind,
            role: self.role,
            tenant: self.tenant.clone(),
            elevated_from: self.elevated_from,
            device: self.device.clone(),
            trust: self.trust,
            scope: self.scope.clone(),
        };
        let (occasion, particulars) = (self.occasion.clone(), self.particulars.clone());
        Some(Question { who, action, resource: self.resource.clone(), occasion, particulars })
    }
}
