//! Faults: kills, torn files, full disks, silent peers, the end of the process. What was acknowledged stays; what
//! cannot be done is refused; the host opens again.

mod disk_full;
mod kills;
mod peers;
