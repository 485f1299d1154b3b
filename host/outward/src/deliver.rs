//! One batch to its destination, in whatever form that takes.
//!
//! Must never try twice: whether and when to try again is decided elsewhere.

use std::time::Duration;

use jiff::Timestamp;
use url::Url;

use crate::batch::Batch;
use crate::decide::Failure;
use crate::destination::{Destination, Secrets, To, roots_of};
use crate::mail::{self, Mailer};
use crate::reach::{Reach, ReachError};
use crate::{otlp, syslog, webhook};

/// What a delivery needs besides the batch.
pub(crate) struct Means<'a> {
    pub reach: &'a Reach,
    pub mailer: Option<&'a Mailer>,
    pub now: Timestamp,
    /// For one answer.
    pub wait: Duration,
}

/// Delivers; how many of the batch the receiver said it does not keep.
pub(crate) async fn deliver(
    means: &Means<'_>,
    destination: &Destination,
    secrets: &Secrets,
    batch: &Batch,
) -> Result<u64, Failure> {
    match &destination.to {
        To::Webhook { url } => {
            let ask = webhook::ask(destination, checked(means, url)?, secrets, batch, means);
            let answer = means.reach.send(ask).await.map_err(failure)?;
            webhook::judge(&answer, means.now).map(|()| 0)
        }
        To::Otlp { url } => {
            let answer =
                means.reach.send(otlp::ask(checked(means, url)?, secrets, batch, means.wait)).await.map_err(failure)?;
            webhook::judge(&answer, means.now).map(|()| otlp::rejected_count(&answer))
        }
        To::Syslog { host, port, roots } => {
            let roots = roots.as_deref().map(roots_of).transpose();
            let roots = roots.map_err(|error| Failure::new(error.to_string()))?;
            let target = syslog::Target { host, port: *port, roots };
            syslog::send(means.reach, target, batch, means.wait).await.map(|()| 0).map_err(failure)
        }
        To::Email { recipients } => {
            let Some(mailer) = means.mailer else { return Err(Failure::new("this host sends no mail any more")) };
            let id = format!("{}_{}", destination.id, batch.next);
            mailer.send(recipients, mail::compose(batch), &id, means.now).await.map(|()| 0)
        }
    }
}

/// The operator may have taken an exception away since the destination was made.
fn checked(means: &Means<'_>, url: &str) -> Result<Url, Failure> {
    means.reach.check(url).map_err(failure)
}

fn failure(error: ReachError) -> Failure {
    Failure::new(error.to_string())
}
