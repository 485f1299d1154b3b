//! An order: charge the card, ship the goods; when shipping fails for good, or the run is cancelled, the charge is taken
//! back. Every step is done once, whatever happens to the host in between: the shop knows each by its idempotency key.

use std::rc::Rc;

use ringfence_sdk::{Config, Final, Http, HttpRequest, Input, Result, StepCall, Steps, workflow};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Order {
    id: String,
    pence: u64,
}

#[derive(Serialize)]
struct Receipt {
    charge: String,
    parcel: String,
}

#[workflow]
async fn checkout(order: Input<Order>, steps: Steps, config: Config, http: Http) -> Result<Receipt> {
    let (Order { id, pence }, http) = (order.0, Rc::new(http));
    let shop = config.require("shop-url")?;
    steps.set_attribute("order", &id)?;
    let charge = steps.run("charge", async |call| post(&http, &shop, "charge", &format!("{id} {pence}"), call).await);
    let charge = charge.await?;
    let (refund, to, what) = (Rc::clone(&http), shop.clone(), charge.clone());
    steps.on_failure("refund", move |call| async move { post(&refund, &to, "refund", &what, call).await.map(drop) });
    let parcel = steps.run("ship", async |call| post(&http, &shop, "ship", &id, call).await).await?;
    steps.publish("parcel", &parcel)?;
    Ok(Receipt { charge, parcel })
}

async fn post(http: &Http, shop: &str, what: &str, body: &str, call: StepCall) -> Result<String> {
    let request = HttpRequest::post(&format!("{shop}/{what}")).header("idempotency-key", &call.idempotency_key);
    let answer = http.send(request.body(body.to_owned())).await?;
    match answer.status() {
        200..300 => Ok(answer.text().await?),
        // The shop will not do it tomorrow either.
        400..500 => Err(Final(format!("{what} was refused with {}", answer.status())).into()),
        _ => Err(ringfence_sdk::anyhow!("{what} answered {}", answer.status())),
    }
}
