//! A note about a care visit, before the product takes it: a note that says nothing, or an unknown outcome, is refused.

use ringfence_sdk::{Result, hook, refuse};
use serde::Deserialize;

#[derive(Deserialize)]
struct Visit {
    note: String,
    minutes: u32,
    #[serde(default)]
    outcome: Option<String>,
}

#[hook("visit.validate")]
fn care_visit(visit: Visit) -> Result<()> {
    if visit.note.trim().len() < 10 {
        return Err(refuse("the note does not say what was done"));
    }
    if visit.minutes == 0 || visit.minutes > 24 * 60 {
        return Err(refuse(format!("a visit of {} minutes", visit.minutes)));
    }
    match visit.outcome.as_deref() {
        None | Some("well" | "unwell" | "not-at-home") => Ok(()),
        Some(other) => Err(refuse(format!("no such outcome: {other}"))),
    }
}
