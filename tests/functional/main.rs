//! The main job as its users do it: upload, grant, deploy, call, look; through the binary and its two ports.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test is a panic with a place"
)]

mod access;
mod assurance;
mod audit;
mod automation;
mod backups;
mod begun;
mod calls;
mod capabilities;
mod care;
mod certificates;
mod data_loss;
mod definitions;
mod deploys;
mod destructions;
mod devices;
mod foreign;
mod hostcalls;
mod idempotency;
mod invocations;
mod keys;
mod looking;
mod metering;
mod objects;
mod opinions;
mod outward;
mod policies;
mod queues;
mod quotas;
mod runs;
mod store;
mod uploads;
mod workflows;

/// One host for all tests of this program would be faster, but a test that breaks it would break the others: each has
/// its own, on free ports, in a directory of its own.
async fn started() -> anyhow::Result<(ringfence_tests::Place, ringfence_tests::Host, ringfence_tests::Session)> {
    let place = ringfence_tests::Place::new()?;
    let host = ringfence_tests::Host::start(&place)?;
    let operator = host.operator().await?;
    Ok((place, host, operator))
}
