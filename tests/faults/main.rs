//! Faults: kills, torn files, full disks, silent peers, the end of the process. What was acknowledged stays; what
//! cannot be done is refused; the host opens again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test is a panic with a place"
)]

mod backups;
mod churn;
mod deletions;
mod disk_full;
mod disk_read_only;
mod kills;
mod objects;
mod peers;
mod rotation;
mod runs;
mod stop;
