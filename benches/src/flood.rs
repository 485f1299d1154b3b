//! A flood of requests in an open loop: they are due on a schedule, and written when they are, whether or not earlier ones were
//! answered. What a connection does not take at once another takes; what none takes stays due.
//!
//! Must never cost much, since it shares the cores with the server: one plain thread, bytes made once and written many
//! requests at a time, answers read only so that they are out of the way. Must never outlive its process: its connections
//! are reset, or the server would work off what lies in the sockets while the next phase is measured.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::sync::mpsc::UnboundedSender;

use crate::answer::{self, Then};
use crate::load::Target;
use crate::neighbour::{REOPEN_WAIT, Tally};
use crate::stats::Arrivals;

/// Pause between two looks at the schedule.
const PACE: Duration = Duration::from_millis(2);
/// Looks between two readings of answers.
const LOOKS_A_READ: u64 = 8;
/// Most requests that are written to a connection before the next connection's turn.
const TOGETHER_COUNT: usize = 16;
/// Bytes of answers read at a time.
const READ_BYTES: usize = 16 << 10;
/// LIMIT: longest flood.
const TIME_MAX: Duration = Duration::from_secs(3_600);

/// Starts a flood of `rate` requests a second over some connections. It ends with the process.
///
/// # Errors
/// No thread.
pub fn start(target: &Target, connections: usize, rate: f64, tally: &Arc<Tally>) -> Result<()> {
    let (lost, mut wanted) = tokio::sync::mpsc::unbounded_channel();
    let (opened, open) = mpsc::channel();
    (0..connections).try_for_each(|_| lost.send(()))?;
    let (address, opening) = (target.address, Arc::clone(tally));
    // In a task of its own, so that a server that does not accept holds up nothing.
    tokio::spawn(async move {
        while wanted.recv().await.is_some() {
            let stream = loop {
                match connect(address).await {
                    Ok(stream) => break stream,
                    Err(_) => opening.lost(),
                }
                tokio::time::sleep(REOPEN_WAIT).await;
            };
            if opened.send(stream).is_err() {
                return;
            }
        }
    });
    let (request, tally) = (target.request(), Arc::clone(tally));
    let flood = Flood { open, lost, request_bytes: request.len(), together: request.repeat(TOGETHER_COUNT), tally };
    std::thread::Builder::new().name("flood".to_owned()).spawn(move || flood.run(rate))?;
    Ok(())
}

/// A connection that never waits and is reset when it is closed.
async fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = tokio::net::TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    stream.set_zero_linger()?;
    // It stays non-blocking.
    Ok(stream.into_std()?)
}

struct Flood {
    open: mpsc::Receiver<TcpStream>,
    lost: UnboundedSender<()>,
    /// Some requests, one after another.
    together: Vec<u8>,
    request_bytes: usize,
    tally: Arc<Tally>,
}

impl Flood {
    fn run(self, rate: f64) {
        let mut due = Arrivals::new(rate, TIME_MAX, 1).peekable();
        let (mut pipes, mut owed_count) = (VecDeque::<Pipe>::new(), 0_usize);
        let start = Instant::now();
        for look in 1_u64.. {
            std::thread::sleep(PACE);
            pipes.extend(self.open.try_iter().map(|stream| Pipe { stream, begun_bytes: 0, answers: Vec::new() }));
            if look.is_multiple_of(LOOKS_A_READ) {
                pipes.retain_mut(|pipe| self.kept(pipe.drain(&self.tally)).is_some());
            }
            let now = start.elapsed();
            while due.next_if(|due| *due <= now).is_some() {
                owed_count += 1;
            }
            owed_count = owed_count.saturating_sub(self.write(&mut pipes, owed_count));
        }
    }

    /// Writes as many of the requests that are due as the connections take, each once at most; how many that were.
    fn write(&self, pipes: &mut VecDeque<Pipe>, owed_count: usize) -> usize {
        let mut written_count = 0;
        for _ in 0..pipes.len() {
            let left_count = owed_count.saturating_sub(written_count).min(TOGETHER_COUNT);
            if left_count == 0 {
                break;
            }
            let Some(mut pipe) = pipes.pop_front() else { break };
            if let Some(count) = self.kept(pipe.write(&self.together, self.request_bytes, left_count)) {
                written_count += count;
                pipes.push_back(pipe);
            }
        }
        self.tally.sent(written_count);
        written_count
    }

    /// What a connection gave; none when it is lost, and another is asked for.
    fn kept<T>(&self, given: Result<T>) -> Option<T> {
        if given.is_err() {
            self.tally.lost();
            // Nobody opens another when the process ends.
            let _ = self.lost.send(());
        }
        given.ok()
    }
}

/// One connection.
struct Pipe {
    stream: TcpStream,
    /// Bytes of the next request that were written already.
    begun_bytes: usize,
    answers: Vec<u8>,
}

impl Pipe {
    /// Writes requests as far as the socket takes them without waiting; how many are whole by that.
    fn write(&mut self, together: &[u8], request_bytes: usize, count: usize) -> Result<usize> {
        let piece = together.get(self.begun_bytes..count * request_bytes).unwrap_or_default();
        match self.stream.write(piece) {
            Ok(bytes) => {
                let all_bytes = self.begun_bytes + bytes;
                self.begun_bytes = all_bytes % request_bytes;
                Ok(all_bytes / request_bytes)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads what there is of answers.
    fn drain(&mut self, tally: &Tally) -> Result<()> {
        let mut piece = [0; READ_BYTES];
        loop {
            let bytes = match self.stream.read(&mut piece) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            ensure!(bytes > 0, "the connection was closed");
            self.answers.extend_from_slice(piece.get(..bytes).unwrap_or_default());
            let mut read_bytes = 0;
            while let Some(found) = answer::read(self.answers.get(read_bytes..).unwrap_or_default())? {
                tally.answered(found.status);
                ensure!(found.then == Then::KeepAlive, "the server closes the connection");
                read_bytes += found.bytes;
            }
            self.answers.drain(..read_bytes);
            if bytes < READ_BYTES {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_request_that_was_cut_goes_on_where_it_was() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        let mut pipe = Pipe { stream, begun_bytes: 4, answers: Vec::new() };
        // Two requests of six bytes: four of the first are out already.
        assert_eq!(pipe.write(b"abcdefabcdef", 6, 2).unwrap(), 2);
        let mut seen = [0; 8];
        far.read_exact(&mut seen).unwrap();
        assert_eq!((&seen, pipe.begun_bytes), (b"efabcdef", 0));
    }

    /// A server that answers nobody: who waits for answers would send one request a connection, and no more.
    #[tokio::test]
    async fn a_server_that_answers_nobody_is_sent_what_is_due() {
        const CONNECTIONS_COUNT: usize = 4;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let target = Target { address, path: "/".to_owned(), token: None };
        let tally = Arc::new(Tally::default());
        start(&target, CONNECTIONS_COUNT, 20_000.0, &tally).unwrap();
        let mut accepted = Vec::new();
        for _ in 0..CONNECTIONS_COUNT {
            accepted.push(listener.accept().await.unwrap());
        }
        let sent = async {
            while tally.sent_count() < 2_000 {
                tokio::time::sleep(PACE).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), sent).await.unwrap();
    }
}
