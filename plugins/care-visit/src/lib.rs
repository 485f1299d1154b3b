//! A care visit. At the point `visit.validate` a note that says nothing is refused; at `visit.seal` its personal fields are
//! sealed too, before anybody keeps them. At `visit.kept` a run begins, one for each visit however often that is told: it tells
//! the office, waits for somebody to acknowledge the visit (`visit.acknowledged`), and tells the manager when nobody does in
//! time: through the queue `visit-notices`, whose messages come back here.

use std::time::Duration;

use ringfence_sdk::*;
use serde::{Deserialize, Serialize, de::IgnoredAny};

#[derive(Deserialize, Serialize)]
struct Visit {
    id: String,
    person: String,
    name: String,
    note: String,
    acknowledge_within_s: u64,
}

#[hook("*")]
fn on_visit(mut visit: Visit, occasion: Occasion, pii: Pii, runs: Runs) -> Result<Visit> {
    let (id, seal) = (visit.id.as_str(), |field: &str, value: &str| pii.seal(field, &visit.person, value));
    match (occasion.name.as_str(), visit.note.trim().len()) {
        (_, ..10) => return Err(refuse("the note does not say what was done")),
        ("visit.seal", _) => (visit.name, visit.note) = (seal("name", &visit.name)?, seal("note", &visit.note)?),
        ("visit.kept", _) => drop(runs.begin("care-visit", &visit, Beginning::once(id))?),
        ("visit.acknowledged", _) => runs.signal(&runs.find("care-visit", None, id)?, "acknowledged", &(), Some(id))?,
        _ => {}
    }
    Ok(visit)
}

#[workflow]
async fn care_visit(Input(visit): Input<Visit>, steps: Steps, queues: Queues) -> Result<&'static str> {
    tell(&steps, &queues, "office", &visit.id).await?;
    let time = Duration::from_secs(visit.acknowledge_within_s);
    if steps.wait_for_signal::<IgnoredAny>("acknowledged", Some(time))?.is_some() {
        return Ok("acknowledged");
    }
    tell(&steps, &queues, "manager", &visit.id).await?;
    Ok("escalated")
}

/// One message a step, however often the step is tried: the queue knows it by the step's key.
async fn tell(steps: &Steps, queues: &Queues, whom: &str, visit: &str) -> Result<()> {
    let sent = steps.run(whom, async |call| {
        let delivery = Delivery { idempotency_key: Some(call.idempotency_key), ..Delivery::usual() };
        queues.send("visit-notices", &(whom, visit), delivery)
    });
    sent.await.map(drop)
}

#[plugin(queue = "visit-notices")]
async fn on_notice((whom, visit): (String, String), occasion: Occasion, config: Config, http: Http) -> Result<()> {
    let url = format!("{}/{whom}", config.require("notices-url")?);
    let answer = http.send(HttpRequest::post(&url).header("idempotency-key", &occasion.id).body(visit)).await?;
    ensure!(answer.is_success(), "the {whom} answered {}", answer.status());
    Ok(())
}
