//! What leaves the host for places that a tenant named, and what is fetched from there: audit logs streamed out, findings
//! told to people, intelligence polled.
//!
//! A room of its own because of its authority: it opens sockets for tenants when no guest runs. Must never reach an
//! address that a guest may not ([`Reach`] is the only door), carry one owner's entries to another's destination, or hold
//! more than one batch of a log in memory. Layout: [`Reach`] is the door, `decide`, `batch`, `webhook`, `otlp`, `syslog`,
//! `mail` and `taxii` are pure but for their last step, `work` and `feeds` the tasks, `places` says how many of them are under
//! way, [`Outward`] is the outside.
#![forbid(unsafe_code)]

mod batch;
mod decide;
mod deliver;
mod destination;
mod error;
mod feed;
mod feeds;
mod mail;
mod otlp;
mod outward;
mod places;
mod reach;
mod syslog;
mod taxii;
mod webhook;
mod work;

pub use decide::Pace;
pub use destination::{
    Carries, DESTINATIONS_COUNT_MAX, Destination, Paused, Progress, Switch, To, View, Wanted, WantedChange,
};
pub use error::OutwardError;
pub use feed::{FEEDS_COUNT_MAX, Feed, FeedState, FeedView, WantedFeed};
pub use mail::{MailConfig, MailSecurity, Mailer};
pub use outward::{Made, Outward, OutwardParts, Tested};
pub use reach::{Answer, Ask, Reach, ReachError};
