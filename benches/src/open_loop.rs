//! The victim's caller: an open loop in a process of its own, in the best scheduling class this machine allows.
//!
//! Requests are due on a schedule that nothing delays, and a latency counts from when its request was due, so that a
//! stalled server cannot make its own load go away (coordinated omission). Each request takes a free keep-alive
//! connection, and another is opened when none is free. Must never leave a request out: what fails or is refused counts
//! as the longest wait.
//!
//! Leaders and followers: a thread a connection; the one that holds the schedule sleeps until the next request is due,
//! lets the next thread have it, and sends. So no request waits for a hand-over between threads.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::Scope;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::answer::{self, Then};
use crate::load::Target;
use crate::stats::{Arrivals, Zipf};

/// Connections a loop starts with.
const CONNECTIONS_START_COUNT: usize = 4;
/// LIMIT: connections of a loop. A request that is due when all are taken waits, and its latency counts on.
const CONNECTIONS_COUNT_MAX: usize = 512;
/// Longest wait for an answer, and what a failed request counts as.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Exponent by which one of several targets is drawn.
pub const ZIPF_EXPONENT: f64 = 1.1;
/// LIMIT: bytes of an answer.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Ways to start the caller, best first: what is tried and what it is called in the figures.
const CLASSES: [(&[&str], &str); 3] = [
    (&["chrt", "--fifo", "20"], "SCHED_FIFO 20 (chrt)"),
    (&["nice", "-n", "-10"], "nice -10"),
    (&[], "none: as everything else"),
];

/// What to send and how often.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    /// Where and what. Of several, each request is for one that is drawn as Zipf says, with [`ZIPF_EXPONENT`]; they are all at
    /// one address.
    pub targets: Vec<Target>,
    /// Requests a second.
    pub rate: f64,
    /// Time at the start that is not counted.
    pub warm_up: Duration,
    /// Time that is.
    pub time: Duration,
    /// Seed of the schedule.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// From due to answered, microseconds.
    pub latencies_us: Vec<u64>,
    /// How late each was sent, microseconds: what is the caller's own, or a wait for a free connection.
    pub late_us: Vec<u64>,
    /// Of these, requests that failed or were not answered with 200.
    pub errors_count: u64,
    /// These by status, or by what went wrong.
    pub errors: BTreeMap<String, u64>,
    /// Connections opened.
    pub connections_count: usize,
}

/// A caller in a process of its own. Killed when dropped.
pub struct Caller {
    child: Child,
    orders: ChildStdin,
    outcomes: BufReader<ChildStdout>,
    /// The scheduling class it got.
    pub class: &'static str,
}

impl Caller {
    /// Starts one in the best class there is.
    pub fn start() -> Result<Self> {
        let works = |prefix: &&(&[&str], &str)| prefix.0.is_empty() || runs(prefix.0);
        let (prefix, class) = CLASSES.iter().find(works).context("no scheduling class")?;
        let mut child = command_of_self(prefix, "open-loop")?;
        let orders = child.stdin.take().context("stdin is piped")?;
        let outcomes = BufReader::new(child.stdout.take().context("stdout is piped")?);
        Ok(Self { child, orders, outcomes, class })
    }

    /// Carries out one order; takes as long as it says, and a little more.
    pub fn run(&mut self, order: &Order) -> Result<Outcome> {
        send(&mut self.orders, order)?;
        receive(&mut self.outcomes).context("the caller ended")
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The caller's own main: an order a line in, an outcome a line out.
pub fn main() -> Result<()> {
    for line in std::io::stdin().lock().lines() {
        let outcome = run(&serde_json::from_str(&line?)?)?;
        send(&mut std::io::stdout().lock(), &outcome)?;
    }
    Ok(())
}

/// This program again, with one argument, after some words that change its class. Its input and output are piped.
pub fn command_of_self(prefix: &[&str], verb: &str) -> Result<Child> {
    let own = std::env::current_exe()?;
    let mut command = match prefix.split_first() {
        None => Command::new(own),
        Some((program, arguments)) => {
            let mut command = Command::new(program);
            command.args(arguments).arg(own);
            command
        }
    };
    command.arg(verb).stdin(Stdio::piped()).stdout(Stdio::piped());
    command.spawn().with_context(|| format!("`{verb}` does not start"))
}

/// Writes a value as one line.
pub fn send(to: &mut impl Write, value: &impl Serialize) -> Result<()> {
    writeln!(to, "{}", serde_json::to_string(value)?)?;
    Ok(to.flush()?)
}

/// Reads a value from one line.
pub fn receive<T: DeserializeOwned>(from: &mut impl BufRead) -> Result<T> {
    let mut line = String::new();
    ensure!(from.read_line(&mut line)? > 0, "nothing more to read");
    Ok(serde_json::from_str(&line)?)
}

fn runs(prefix: &[&str]) -> bool {
    let Some((program, arguments)) = prefix.split_first() else { return false };
    let silent = Command::new(program).args(arguments).arg("true").stdout(Stdio::null()).stderr(Stdio::null()).status();
    silent.is_ok_and(|status| status.success())
}

/// What the threads of one loop share.
struct Loop {
    address: SocketAddr,
    requests: Vec<Vec<u8>>,
    start: Instant,
    warm_up: Duration,
    /// When the next request is due, and which one that is.
    schedule: Mutex<(Arrivals, Zipf)>,
    /// Threads that are not busy with a request.
    free: AtomicUsize,
    opened: AtomicUsize,
    outcome: Mutex<Outcome>,
}

fn run(order: &Order) -> Result<Outcome> {
    let arrivals = Arrivals::new(order.rate, order.warm_up + order.time, order.seed);
    let shared = Loop {
        address: order.targets.first().context("nobody to call")?.address,
        requests: order.targets.iter().map(Target::request).collect(),
        start: Instant::now() + Duration::from_millis(20),
        warm_up: order.warm_up,
        schedule: Mutex::new((arrivals, Zipf::new(order.targets.len(), ZIPF_EXPONENT, order.seed))),
        free: AtomicUsize::new(CONNECTIONS_START_COUNT),
        opened: AtomicUsize::new(CONNECTIONS_START_COUNT),
        outcome: Mutex::default(),
    };
    std::thread::scope(|scope| {
        for _ in 0..CONNECTIONS_START_COUNT {
            scope.spawn(|| shared.serve(scope));
        }
    });
    let mut outcome = shared.outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcome.connections_count = shared.opened.into_inner();
    Ok(outcome)
}

impl Loop {
    /// One connection's thread: lead, send, and again until nothing more is due.
    fn serve<'scope, 'loops: 'scope>(&'loops self, scope: &'scope Scope<'scope, 'loops>) {
        let mut connection = Line::open(self.address).ok();
        let mut own = Outcome::default();
        while let Some((due, rank)) = self.lead(scope) {
            let request = self.requests.get(rank).map(Vec::as_slice).unwrap_or_default();
            let late = self.start.elapsed().saturating_sub(due);
            let kept = connection.take().map_or_else(|| Line::open(self.address), Ok);
            let outcome = kept.and_then(|mut line| line.exchange(request).map(|answer| (line, answer)));
            let latency = self.start.elapsed().saturating_sub(due);
            let wrong = match outcome {
                Ok((line, answer)) => {
                    connection = (answer.then == Then::KeepAlive).then_some(line);
                    (answer.status != 200).then(|| answer.status.to_string())
                }
                Err(error) => Some(error.to_string()),
            };
            if due >= self.warm_up {
                own.late_us.push(microseconds(late));
                own.latencies_us.push(microseconds(if wrong.is_none() { latency } else { latency.max(WAIT_MAX) }));
                own.errors_count += u64::from(wrong.is_some());
                wrong.into_iter().for_each(|what| *own.errors.entry(what).or_default() += 1);
            }
            self.free.fetch_add(1, Ordering::Relaxed);
        }
        let mut all = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        all.latencies_us.append(&mut own.latencies_us);
        all.late_us.append(&mut own.late_us);
        all.errors_count += own.errors_count;
        own.errors.into_iter().for_each(|(what, count)| *all.errors.entry(what).or_default() += count);
    }

    /// Waits for the schedule, sleeps until the next request is due, and says when it was and which one.
    fn lead<'scope, 'loops: 'scope>(&'loops self, scope: &'scope Scope<'scope, 'loops>) -> Option<(Duration, usize)> {
        let mut schedule = self.schedule.lock().unwrap_or_else(PoisonError::into_inner);
        let (due, rank) = (schedule.0.next()?, schedule.1.draw());
        // When nobody else is free, the next request would have to wait: open another connection while there is time.
        if self.free.load(Ordering::Relaxed) <= 1 && self.opened.load(Ordering::Relaxed) < CONNECTIONS_COUNT_MAX {
            self.opened.fetch_add(1, Ordering::Relaxed);
            self.free.fetch_add(1, Ordering::Relaxed);
            scope.spawn(move || self.serve(scope));
        }
        std::thread::sleep((self.start + due).saturating_duration_since(Instant::now()));
        self.free.fetch_sub(1, Ordering::Relaxed);
        Some((due, rank))
    }
}

/// A connection that waits in the thread that uses it.
struct Line {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Line {
    fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, WAIT_MAX)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(WAIT_MAX))?;
        stream.set_write_timeout(Some(WAIT_MAX))?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    fn exchange(&mut self, request: &[u8]) -> Result<answer::Answer> {
        self.stream.write_all(request)?;
        self.buffer.clear();
        let mut piece = [0; 4096];
        loop {
            let count = self.stream.read(&mut piece)?;
            ensure!(count > 0, "the connection was closed");
            self.buffer.extend_from_slice(piece.get(..count).unwrap_or_default());
            if let Some(found) = answer::read(&self.buffer)? {
                return Ok(found);
            }
            ensure!(self.buffer.len() < ANSWER_BYTES_MAX, "an endless answer");
        }
    }
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::{Arc, Condvar};

    use super::*;

    /// A server that answers nobody until `patience` requests wait, and everybody at once from then on.
    fn server(patience: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let waiting = Arc::new((Mutex::new(0), Condvar::new()));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let waiting = waiting.clone();
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let mut piece = [0; 1024];
                    while stream.read(&mut piece).is_ok_and(|count| count > 0) {
                        *waiting.0.lock().unwrap() += 1;
                        waiting.1.notify_all();
                        drop(waiting.1.wait_while(waiting.0.lock().unwrap(), |count| *count < patience).unwrap());
                        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
                    }
                });
            }
        });
        address
    }

    fn order(address: SocketAddr) -> Order {
        Order {
            targets: vec![Target { address, path: "/".to_owned(), token: None }],
            rate: 200.0,
            warm_up: Duration::ZERO,
            time: Duration::from_millis(500),
            seed: 1,
        }
    }

    #[test]
    fn a_stalled_server_is_sent_what_is_due_and_charged_for_the_wait() {
        const PATIENCE: usize = 40;
        let outcome = run(&order(server(PATIENCE))).unwrap();
        let due: Vec<Duration> = Arrivals::new(200.0, Duration::from_millis(500), 1).collect();
        assert_eq!((outcome.latencies_us.len(), outcome.errors_count), (due.len(), 0));
        // A loop that waits for answers would never have sent so many, and the server would never have answered.
        assert!(outcome.connections_count >= PATIENCE, "{} connections", outcome.connections_count);
        let longest = outcome.latencies_us.iter().max().unwrap();
        assert!(*longest >= microseconds(due[PATIENCE - 1] - due[0]), "{longest} us");
    }

    #[test]
    fn a_refusing_server_counts_as_the_longest_wait() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let outcome = run(&order(address)).unwrap();
        assert_eq!(outcome.errors_count, outcome.latencies_us.len() as u64);
        assert!(outcome.latencies_us.iter().all(|us| *us >= microseconds(WAIT_MAX)));
    }
}
