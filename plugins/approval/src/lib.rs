//! A payment that waits for people: over 10000 for two of them, below for one, for seven days at most.

use std::time::Duration;

use ringfence_sdk::{Input, Question, Result, Steps, workflow};
use serde::Deserialize;

#[derive(Deserialize)]
struct Payment {
    to: String,
    pounds: u64,
}

#[workflow]
async fn approval(payment: Input<Payment>, steps: Steps) -> Result<String> {
    let Payment { to, pounds } = payment.0;
    let question = Question {
        title: format!("Pay {pounds} to {to}?"),
        needs_two: pounds > 10_000,
        timeout: Some(Duration::from_secs(7 * 24 * 3_600)),
        ..Question::default()
    };
    let verdict = steps.approve("payment", question)?;
    Ok(if verdict.approved { format!("paid, said {}", verdict.by) } else { format!("not paid: {}", verdict.note) })
}
