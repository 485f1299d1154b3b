//! What the kernel is told about our threads: I/O before guests, lent-out guests behind everyone.
//!
//! The wake-up of the I/O threads bounds every tail, so they climb a ladder and stay on the first rung they may have:
//! `SCHED_FIFO` (needs a privilege), a short slice of the fair class (Linux 6.12 and later, `sched_setattr(2)`: the slice
//! asked for decides the deadline, so a short one is served soon), a better nice value, or nothing. Must never be fatal: a
//! kernel that says no leaves the thread as it was. Every rung is reset in children.

use std::sync::atomic::{AtomicU8, Ordering};

/// The slice that I/O threads ask for (nanoseconds).
const IO_SLICE_NS: u64 = 100_000;
/// Above every fair thread, below the kernel's own.
const IO_FIFO_PRIORITY: u32 = 10;
const IO_NICE: i32 = -10;
/// A third of the part of a thread of the usual class.
const CROWD_NICE: i32 = 5;
const LAST_NICE: i32 = 19;
/// How much later than asked a sleeper of ours may be woken (nanoseconds).
const TIMER_SLACK_NS: u64 = 1_000;
/// Policies of `sched(7)`.
const SCHED_OTHER: u32 = 0;
const SCHED_FIFO: u32 = 1;
const SCHED_IDLE: u32 = 5;
/// Bytes of the first form of `sched_attr`, which every kernel knows.
const SIZE: u32 = 48;

/// The rung that the host's I/O threads stand on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum IoClass {
    /// Nothing was granted: I/O waits its turn behind guests.
    Usual = 0,
    /// A better nice value.
    Nice = 1,
    /// A slice of 100 us in the fair class.
    ShortSlice = 2,
    /// Before every fair thread.
    Fifo = 3,
}

impl IoClass {
    /// All, best first.
    pub const LADDER: [Self; 4] = [Self::Fifo, Self::ShortSlice, Self::Nice, Self::Usual];

    /// In a word, for people and machines.
    pub fn word(self) -> &'static str {
        match self {
            Self::Fifo => "fifo",
            Self::ShortSlice => "short-slice",
            Self::Nice => "nice",
            Self::Usual => "usual",
        }
    }
}

/// The lowest rung among some threads that were raised: a request may come on any of them.
#[derive(Debug)]
pub struct LowestRung(AtomicU8);

impl Default for LowestRung {
    fn default() -> Self {
        Self(AtomicU8::new(u8::MAX))
    }
}

impl LowestRung {
    /// Notes where one of them stands.
    pub fn note(&self, class: IoClass) {
        self.0.fetch_min(class as u8, Ordering::Relaxed);
    }

    /// The rung in a word, `unknown` while none of them has started.
    pub fn word(&self) -> &'static str {
        let lowest = self.0.load(Ordering::Relaxed);
        IoClass::LADDER.into_iter().find(|class| *class as u8 == lowest).map_or("unknown", IoClass::word)
    }
}

/// Raises the calling thread as far as it is wanted and granted; where it stands then.
pub fn raise_thread(best: IoClass) -> IoClass {
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(TIMER_SLACK_NS));
    let wanted = IoClass::LADDER.into_iter().filter(|class| *class as u8 <= best as u8);
    wanted.into_iter().find(|class| take(*class)).unwrap_or(IoClass::Usual)
}

/// Puts the calling thread, which drives the connections of crowds, behind those that run guests and serve everyone else.
pub fn step_back() {
    set(0, &Attributes { nice: CROWD_NICE, ..Attributes::USUAL });
}

fn take(class: IoClass) -> bool {
    match class {
        IoClass::Fifo => set(0, &Attributes { policy: SCHED_FIFO, priority: IO_FIFO_PRIORITY, ..Attributes::USUAL }),
        IoClass::ShortSlice => {
            set(0, &Attributes { slice_ns: IO_SLICE_NS, ..Attributes::USUAL })
                && slice_of_this_thread() == Some(IO_SLICE_NS)
        }
        IoClass::Nice => set(0, &Attributes { nice: IO_NICE, ..Attributes::USUAL }),
        IoClass::Usual => true,
    }
}

/// Puts another thread of ours behind everyone.
pub(crate) fn lower_thread(thread: i32) {
    if thread > 0 {
        set(thread, &Attributes { policy: SCHED_IDLE, ..Attributes::USUAL });
    }
}

/// Puts the calling thread, and every thread and process it starts from then on, where it only gets what nobody else wants.
/// Whether the kernel agreed.
pub(crate) fn sink() -> bool {
    set_with(0, &Attributes { policy: SCHED_IDLE, nice: LAST_NICE, ..Attributes::USUAL }, 0)
}

/// Puts a thread (0: the calling one) back where threads usually are.
pub(crate) fn restore_thread(thread: i32) {
    set(thread, &Attributes::USUAL);
}

/// CPU time that a thread of ours has had (nanoseconds).
#[expect(unsafe_code, reason = "libraries read the clock of the calling thread alone")]
pub(crate) fn cpu_ns_of(thread: i32) -> Option<u64> {
    let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // The clock of a thread's CPU time by its id, as in the kernel's `posix-timers.h` (CPUCLOCK_PERTHREAD, CPUCLOCK_SCHED).
    let clock = (!thread << 3) | 6;
    // SAFETY: the call writes one timespec, which it is given; an id that is gone is an error.
    let answer = unsafe { libc::clock_gettime(clock, &raw mut at) };
    let seconds = u64::try_from(at.tv_sec).ok()?;
    (answer == 0).then(|| seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(at.tv_nsec).unwrap_or(0)))
}

/// What `sched_setattr(2)` is told.
struct Attributes {
    policy: u32,
    nice: i32,
    priority: u32,
    slice_ns: u64,
}

impl Attributes {
    const USUAL: Self = Self { policy: SCHED_OTHER, nice: 0, priority: 0, slice_ns: 0 };
}

/// Sets a thread's attributes (0: the calling one) but not its children's; whether the kernel agreed.
fn set(thread: i32, to: &Attributes) -> bool {
    set_with(thread, to, libc::SCHED_FLAG_RESET_ON_FORK as u64)
}

/// Sets a thread's attributes (0: the calling one); whether the kernel agreed.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no library wraps sched_setattr with a slice for the fair class")]
fn set_with(thread: i32, to: &Attributes, flags: u64) -> bool {
    let attributes = libc::sched_attr {
        size: SIZE,
        sched_policy: to.policy,
        sched_flags: flags,
        sched_nice: to.nice,
        sched_priority: to.priority,
        sched_runtime: to.slice_ns,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the call reads `size` bytes of a plain structure that lives until it returns, and writes nothing.
    let answer = unsafe { libc::syscall(libc::SYS_sched_setattr, thread, &raw const attributes, 0) };
    answer == 0
}

/// The slice of the calling thread, as far as the kernel tells.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no library wraps sched_getattr")]
fn slice_of_this_thread() -> Option<u64> {
    let mut attributes = libc::sched_attr {
        size: SIZE,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the call writes at most `SIZE` bytes, the size of the structure that it is given.
    let answer = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, SIZE, 0) };
    (answer == 0).then_some(attributes.sched_runtime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_sunk_stays_sunk_with_all_it_starts() {
        let policy_of = |thread: String| {
            let text = std::fs::read_to_string(format!("/proc/thread-self/../{thread}/stat")).unwrap();
            // The 41st field; the second may hold blanks and ends with the last parenthesis.
            text.rsplit(')').next().unwrap().split_whitespace().nth(38).unwrap().to_owned()
        };
        let own = || rustix::thread::gettid().as_raw_pid().to_string();
        std::thread::spawn(move || {
            assert!(sink(), "the idle class needs no privilege");
            assert_eq!(policy_of(own()), SCHED_IDLE.to_string());
            std::thread::spawn(move || assert_eq!(policy_of(own()), SCHED_IDLE.to_string())).join().unwrap();
        })
        .join()
        .unwrap();
    }

    #[test]
    fn the_lowest_of_several_threads_counts() {
        let rung = LowestRung::default();
        assert_eq!(rung.word(), "unknown");
        for (class, word) in [(IoClass::Fifo, "fifo"), (IoClass::Nice, "nice"), (IoClass::ShortSlice, "nice")] {
            rung.note(class);
            assert_eq!(rung.word(), word);
        }
        rung.note(IoClass::Usual);
        assert_eq!(rung.word(), "usual");
    }

    #[test]
    fn a_thread_stands_where_the_kernel_let_it_and_comes_back() {
        std::thread::spawn(|| {
            let class = raise_thread(IoClass::ShortSlice);
            assert!(IoClass::LADDER.contains(&class));
            if class == IoClass::ShortSlice {
                assert_eq!(slice_of_this_thread(), Some(IO_SLICE_NS));
            }
            restore_thread(0);
            assert_ne!(slice_of_this_thread(), Some(IO_SLICE_NS));
            let own = rustix::thread::gettid().as_raw_pid();
            let before = cpu_ns_of(own).unwrap();
            while cpu_ns_of(own).unwrap() < before + 1_000_000 {
                std::hint::spin_loop();
            }
        })
        .join()
        .unwrap();
    }
}
