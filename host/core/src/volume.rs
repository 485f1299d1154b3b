//! How much each plugin sends out of the host, against what it usually sends.
//!
//! Pure: bytes and times are given. What is usual is the median of the plugin's own past windows, and what is far from it is
//! measured by their median distance from it (a robust z-score), so that a few windows of a flood change neither. Must never
//! take silence for what is usual, nor grow without bound.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::{PluginName, TenantId};

/// The window in which bytes are added up.
pub const VOLUME_WINDOW: Duration = Duration::from_secs(300);
/// Bytes in a window up to which nothing is unusual.
pub const VOLUME_BYTES_MIN: u64 = 32 << 20;
/// LIMIT: past windows of a plugin that are remembered; only those in which it sent something.
const WINDOWS_COUNT_MAX: usize = 32;
/// With fewer past windows it is not known what is usual.
const KNOWN_WINDOWS_COUNT_MIN: usize = 4;
/// How many times the spread of past windows is far from what is usual.
const SPREADS: u64 = 6;
/// The spread is the median distance, in thousandths: what makes it the standard deviation of a normal distribution.
const SPREAD_PER_MILLE: u64 = 1_483;
/// LIMIT: plugins whose volumes are measured at once; beyond, whichever has sent nothing for longest is forgotten.
const PLUGINS_COUNT_MAX: usize = 8_192;
/// LIMIT: volumes that wait to be recorded; further ones are told with a later byte.
const WAITING_COUNT_MAX: usize = 256;

/// A plugin that sends far more than it usually does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Whose plugin; none for a drill of the operators.
    pub tenant: Option<TenantId>,
    /// The tenant by its unique id, for another may have the name by now; none for a drill.
    pub tenant_uid: Option<String>,
    /// Which.
    pub plugin: PluginName,
    /// Bytes in the window so far.
    pub bytes: u64,
    /// What is usual in a window; none while that is not known.
    pub usual_bytes: Option<u64>,
}

/// The tenant by name and by unique id, so that what was usual for one is not for a namesake.
type Key = (Option<TenantId>, Option<String>, PluginName);

/// The volumes of all plugins.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    plugins: HashMap<Key, Sent>,
    waiting: Vec<Volume>,
}

#[derive(Debug)]
struct Sent {
    since: Duration,
    bytes: u64,
    is_told: bool,
    usual: Option<u64>,
    /// Bytes of a window up to which nothing is told.
    border: u64,
    past: VecDeque<u64>,
}

// === impl Volumes ===

impl Volumes {
    /// Counts bytes.
    pub(crate) fn count(&mut self, key: Key, bytes: u64, now: Duration) {
        if self.plugins.len() >= PLUGINS_COUNT_MAX && !self.plugins.contains_key(&key) {
            let oldest = self.plugins.iter().min_by_key(|(_, sent)| sent.since).map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                self.plugins.remove(&oldest);
            }
        }
        let (tenant, tenant_uid, plugin) = key.clone();
        let sent = self.plugins.entry(key).or_insert_with(|| Sent::new(now));
        if now.saturating_sub(sent.since) >= VOLUME_WINDOW {
            sent.turn(now);
        }
        sent.bytes = sent.bytes.saturating_add(bytes);
        if sent.bytes > sent.border && !sent.is_told && self.waiting.len() < WAITING_COUNT_MAX {
            sent.is_told = true;
            self.waiting.push(Volume { tenant, tenant_uid, plugin, bytes: sent.bytes, usual_bytes: sent.usual });
        }
    }

    /// Counts what is told of a plugin that nobody has, and forgets the plugin.
    pub(crate) fn play(&mut self, key: Key, now: Duration) {
        self.count(key.clone(), VOLUME_BYTES_MIN + 1, now);
        self.plugins.remove(&key);
    }

    /// What is to be told since the last call.
    pub(crate) fn take(&mut self) -> Vec<Volume> {
        std::mem::take(&mut self.waiting)
    }
}

// === impl Sent ===

impl Sent {
    fn new(now: Duration) -> Self {
        let past = VecDeque::new();
        Self { since: now, bytes: 0, is_told: false, usual: None, border: VOLUME_BYTES_MIN, past }
    }

    /// Ends a window and begins the next.
    fn turn(&mut self, now: Duration) {
        if self.past.len() >= WINDOWS_COUNT_MAX {
            self.past.pop_front();
        }
        self.past.push_back(self.bytes);
        (self.since, self.bytes, self.is_told) = (now, 0, false);
        if self.past.len() < KNOWN_WINDOWS_COUNT_MIN {
            return;
        }
        let usual = median(self.past.iter().copied());
        let spread = median(self.past.iter().map(|past| past.abs_diff(usual)));
        let far = spread.saturating_mul(SPREAD_PER_MILLE) / 1_000;
        let far = usual.saturating_add(far.saturating_mul(SPREADS));
        // Who always sends the same has no spread; twice of that is still life.
        (self.usual, self.border) = (Some(usual), VOLUME_BYTES_MIN.max(far).max(usual.saturating_mul(2)));
    }
}

fn median(values: impl Iterator<Item = u64>) -> u64 {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn key(plugin: &str) -> Key {
        key_of("first", plugin)
    }

    /// Of one of the tenants that had the name.
    fn key_of(uid: &str, plugin: &str) -> Key {
        (Some("acme".parse().unwrap()), Some(uid.to_owned()), plugin.parse().unwrap())
    }

    /// Sends in each window of a plugin, from one on; which of them were told.
    fn told(volumes: &mut Volumes, plugin: &str, first: u64, sent: &[u64]) -> Vec<bool> {
        let tell = |(number, bytes): (u64, &u64)| {
            let now = VOLUME_WINDOW * u32::try_from(number).unwrap();
            (0..4).for_each(|_| volumes.count(key(plugin), bytes / 4, now));
            !volumes.take().is_empty()
        };
        (first..).zip(sent).map(tell).collect()
    }

    #[test]
    fn what_is_far_more_than_usual_is_told_once_a_window_and_little_never() {
        let mut volumes = Volumes::default();
        assert_eq!(told(&mut volumes, "p", 0, &[4 * MIB; 8]), [false; 8]);
        // Eight times what is usual, and still little.
        assert_eq!(told(&mut volumes, "p", 8, &[VOLUME_BYTES_MIN]), [false]);
        let now = VOLUME_WINDOW * 9;
        (0..100).for_each(|_| volumes.count(key("p"), MIB, now));
        let found = volumes.take();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].bytes, found[0].usual_bytes), (VOLUME_BYTES_MIN + MIB, Some(4 * MIB)));
    }

    #[test]
    fn what_a_plugin_always_sends_is_usual_after_a_while_and_for_it_alone() {
        let mut volumes = Volumes::default();
        let heavy: Vec<u64> = (0..20).map(|number| (900 + number * 7 % 90) * MIB).collect();
        let found = told(&mut volumes, "backup", 0, &heavy);
        assert!(found[..4].iter().all(|told| *told) && found[4..].iter().all(|told| !told), "{found:?}");
        assert_eq!(told(&mut volumes, "backup", 20, &[3_000 * MIB]), [true]);
        assert_eq!(
            told(&mut volumes, "visits", 20, &[900 * MIB]),
            [true],
            "another plugin's is not usual for this one"
        );
    }

    #[test]
    fn what_was_usual_for_a_tenant_that_is_gone_is_not_for_a_namesake() {
        let mut volumes = Volumes::default();
        told(&mut volumes, "backup", 0, &[900 * MIB; 8]);
        volumes.count(key("backup"), 900 * MIB, VOLUME_WINDOW * 8);
        assert!(volumes.take().is_empty());
        volumes.count(key_of("second", "backup"), 900 * MIB, VOLUME_WINDOW * 8);
        let found = volumes.take();
        assert_eq!((found[0].tenant_uid.as_deref(), found[0].usual_bytes), (Some("second"), None), "{found:?}");
    }

    #[test]
    fn a_flood_that_goes_on_is_told_for_long_before_it_is_usual() {
        let mut volumes = Volumes::default();
        let quiet = told(&mut volumes, "p", 0, &[MIB; 32]);
        assert!(quiet.iter().all(|told| !told));
        let flood = told(&mut volumes, "p", 32, &[500 * MIB; 40]);
        assert!(flood[..12].iter().all(|told| *told) && !flood[39], "{flood:?}");
    }

    #[test]
    fn a_drills_plugin_is_told_and_forgotten_and_plugins_without_end_cost_a_bound() {
        let mut volumes = Volumes::default();
        volumes.play((None, None, "drill-1".parse().unwrap()), Duration::ZERO);
        assert_eq!((volumes.take().len(), volumes.plugins.len()), (1, 0));
        for number in 0..PLUGINS_COUNT_MAX + 10 {
            volumes.count(key(&format!("p{number}")), 1, Duration::from_secs(number as u64));
        }
        assert_eq!(volumes.plugins.len(), PLUGINS_COUNT_MAX);
        assert!(!volumes.plugins.contains_key(&key("p0")), "the one that was silent for longest gave way");
    }
}
