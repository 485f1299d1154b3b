//! Runs in the words of the wire. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use ringfence_automation::workflow::event::{Ending, Entry, Event};
use ringfence_automation::workflow::state::Progress;
use ringfence_automation::workflow::{Head, Shown};
use ringfence_core::RunId;
use serde_json::Value;

use crate::wire::{RunDetail, RunView, TimelineEntry, WaitView};

impl RunView {
    /// What the wire says of a run.
    pub(super) fn of(head: &Head) -> Self {
        let error = match &head.ending {
            Some(Ending::Failed { code, message }) => Some(format!("{code}: {message}")),
            Some(Ending::Cancelled { message }) => Some(message.clone()),
            Some(Ending::Terminated { reason, .. }) => Some(reason.clone()),
            _ => head.stuck.clone(),
        };
        let continued_as = match &head.ending {
            Some(Ending::Continued { run }) => Some(run.to_string()),
            _ => None,
        };
        Self {
            id: head.run.to_string(),
            plugin: head.plugin.to_string(),
            version: head.version.to_string(),
            workflow: head.workflow.clone(),
            status: head.status.as_str().to_owned(),
            by: head.by.to_string(),
            parent: head.parent.as_ref().map(ToString::to_string),
            started_at: time(head.started_ms),
            changed_at: time(head.changed_ms),
            ended_at: head.ended_ms.map(time),
            events_count: head.events_count,
            attributes: head.attributes.clone(),
            error,
            continued_as,
        }
    }
}

impl RunView {
    /// What the wire says of a run whose record does not open.
    pub(super) fn damaged(run: &RunId) -> Self {
        let nothing = String::new;
        Self {
            id: run.to_string(),
            plugin: nothing(),
            version: nothing(),
            workflow: nothing(),
            status: "damaged".to_owned(),
            by: nothing(),
            parent: None,
            started_at: time(0),
            changed_at: time(0),
            ended_at: None,
            events_count: 0,
            attributes: BTreeMap::new(),
            error: Some("its record does not open: restore a backup, or remove it".to_owned()),
            continued_as: None,
        }
    }
}

impl RunDetail {
    /// What the wire says of a run with its history.
    pub(super) fn of(shown: &Shown) -> Self {
        let state = &shown.state;
        let output = match &shown.head.ending {
            Some(Ending::Completed { output }) => json_of(output),
            _ => Value::Null,
        };
        let waits = if shown.head.status.is_ended() { Vec::new() } else { waits(shown) };
        Self {
            run: RunView::of(&shown.head),
            input: state.started.as_ref().map_or(Value::Null, |started| json_of(&started.input)),
            output,
            waits,
            timeline: shown.history.iter().map(entry).collect(),
        }
    }
}

/// A text as the JSON it holds.
pub(super) fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

fn waits(shown: &Shown) -> Vec<WaitView> {
    let wait = |place: &ringfence_core::workflow::Place, what: &str, name: &str, until: Option<u64>| WaitView {
        place: place.to_string(),
        what: what.to_owned(),
        name: name.to_owned(),
        until: until.map(time),
        question: None,
    };
    let found = shown.state.ops.iter().filter_map(|(place, op)| match &op.progress {
        Progress::Done(_) | Progress::Begun { .. } => None,
        Progress::Again { again_at_ms, .. } => Some(wait(place, op.what, &op.name, Some(*again_at_ms))),
        Progress::Waiting { until_ms } => Some(wait(place, op.what, &op.name, *until_ms)),
        Progress::Asked { question, until_ms, .. } => {
            Some(WaitView { question: Some(question.title.clone()), ..wait(place, op.what, &op.name, *until_ms) })
        }
    });
    found.collect()
}

fn entry(entry: &Entry) -> TimelineEntry {
    TimelineEntry {
        at: time(entry.at_ms),
        event: entry.event.word().to_owned(),
        place: entry.event.place().map(ToString::to_string),
        name: entry.event.name().map(str::to_owned),
        details: details(&entry.event),
    }
}

/// An event's own fields, without those that the entry has already and those that nobody is shown.
fn details(event: &Event) -> Value {
    let mut value = serde_json::to_value(event).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        for word in ["event", "place", "name", "dice", "signal_keys"] {
            fields.remove(word);
        }
    }
    value
}

fn time(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    time.unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}
