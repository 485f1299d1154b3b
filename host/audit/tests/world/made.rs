//! A log of forty entries with a head of its first half, and what somebody without its key does to an archive of it.

use std::io::Read;

use ringfence_audit::{Audit, Event, Log};

use super::World;

/// Entries of the log, and of the older head that was kept.
pub const COUNT: u64 = 40;
pub const OLDER: u64 = 20;

pub struct Made {
    pub audit: Audit,
    pub log: Log,
    pub vkey: String,
    pub older: String,
    _world: World,
}

impl Made {
    /// A log of the events of these numbers.
    pub async fn of(event: impl Fn(u64) -> Event) -> Self {
        let world = World::new().await;
        let (log, audit) = (Log::Tenant(world.tenant("acme").await), world.open().await);
        let mut older = String::new();
        for n in 0..COUNT {
            if n == OLDER {
                older = audit.checkpoint(&log).await.unwrap().text;
            }
            audit.record(&log, event(n)).await.unwrap();
        }
        let vkey = audit.vkey(&log);
        Self { audit, log, vkey, older, _world: world }
    }
}

/// The archive with one of its files changed.
pub fn with(archive: &[u8], name: &str, change: impl Fn(String) -> String) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for file in tar::Archive::new(archive).entries().unwrap() {
        let mut file = file.unwrap();
        let path = file.path().unwrap().to_string_lossy().into_owned();
        let mut content = Vec::new();
        file.read_to_end(&mut content).unwrap();
        if path == name {
            content = change(String::from_utf8(content).unwrap()).into_bytes();
        }
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, path, content.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}
