//! A small Transit over HTTP that seals nothing, answers each request in a thread of its own, and holds answers back when it is
//! told to: what is tested is who waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use serde_json::{Value, json};

use super::DEADLINE;

/// What it is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// To encrypt or to decrypt.
    Seal,
    /// To make a new version of a key.
    Rotate,
    /// To destroy a key.
    Destroy,
}

/// The service. Cheap to clone.
#[derive(Clone, Default)]
pub struct Transit(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    holding: Option<Holding>,
    /// Requests that are held now.
    held_count: u64,
    /// The paths that the token may not ask for, below where the engine is mounted.
    forbidden: Option<fn(&str) -> bool>,
    /// By key; of those that were never rotated there is nothing.
    versions: BTreeMap<String, Versions>,
    /// Keys that were destroyed.
    destroyed: BTreeSet<String>,
}

struct Holding {
    act: Act,
    /// Requests that pass before the first that is held.
    passing_count: u64,
    /// Requests that are held, before others pass.
    holding_count: u64,
}

#[derive(Clone, Copy)]
struct Versions {
    newest: u64,
    /// The oldest that decrypts.
    oldest: u64,
}

impl Default for Versions {
    fn default() -> Self {
        Self { newest: 1, oldest: 1 }
    }
}

impl Transit {
    /// Serves until the test program ends; its address below.
    pub fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let this = self.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (this, stream) = (this.clone(), stream.unwrap());
                // Who asked may have gone away.
                std::thread::spawn(move || this.answer(&stream).unwrap_or_default());
            }
        });
        format!("http://{address}")
    }

    /// From now on it does not answer such.
    pub fn hold(&self, act: Act) {
        self.0.0.lock().unwrap().holding = Some(Holding { act, passing_count: 0, holding_count: u64::MAX });
    }

    /// It does not answer one such, after so many others.
    pub fn hold_one_after(&self, act: Act, passing_count: u64) {
        self.0.0.lock().unwrap().holding = Some(Holding { act, passing_count, holding_count: 1 });
    }

    /// It answers again, those too who wait.
    pub fn let_go(&self) {
        self.0.0.lock().unwrap().holding = None;
        self.0.1.notify_all();
    }

    /// From now on it answers 403 to requests for such paths, and to no others.
    pub fn forbid(&self, paths: fn(&str) -> bool) {
        self.0.0.lock().unwrap().forbidden = Some(paths);
    }

    /// The token may do all things again.
    pub fn allow(&self) {
        self.0.0.lock().unwrap().forbidden = None;
    }

    /// Until so many wait for its answer.
    pub async fn until_held(&self, count: u64) {
        let held = async {
            while self.0.0.lock().unwrap().held_count != count {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, held).await.expect("the provider was not asked");
    }

    /// The newest version of a key, and the oldest that decrypts.
    pub fn versions(&self, key: &str) -> (u64, u64) {
        let Versions { newest, oldest } = self.0.0.lock().unwrap().versions.get(key).copied().unwrap_or_default();
        (newest, oldest)
    }

    /// How many keys were destroyed.
    pub fn destroyed_count(&self) -> usize {
        self.0.0.lock().unwrap().destroyed.len()
    }

    fn answer(&self, mut stream: &TcpStream) -> std::io::Result<()> {
        let Asked { path, body, .. } = read(stream)?;
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let path = path.trim_start_matches("/v1/transit/");
        let is_forbidden = self.0.0.lock().unwrap().forbidden.is_some_and(|forbidden| forbidden(path));
        let parts: Vec<&str> = path.split('/').collect();
        let data = match parts[..] {
            _ if is_forbidden => None,
            ["encrypt", key] => {
                // Of when it was asked, however late it answers.
                let newest = self.versions(key).0;
                self.wait(Act::Seal);
                Some(json!({ "ciphertext": format!("vault:v{newest}:{}", text("plaintext")) }))
            }
            ["decrypt", key] => {
                self.wait(Act::Seal);
                let ciphertext = text("ciphertext");
                let opened = ciphertext.strip_prefix("vault:v").and_then(|rest| rest.split_once(':'));
                let opened = opened.filter(|(by, _)| by.parse::<u64>().is_ok_and(|by| by >= self.versions(key).1));
                opened.map(|(_, plain)| json!({ "plaintext": plain }))
            }
            ["keys", key, "rotate"] => {
                self.wait(Act::Rotate);
                self.change(key, |versions| versions.newest += 1);
                Some(json!({}))
            }
            ["keys", key, "config"] => {
                if body["deletion_allowed"].as_bool() == Some(true) {
                    self.wait(Act::Destroy);
                    self.0.0.lock().unwrap().destroyed.insert(key.to_owned());
                }
                if let Some(oldest) = body["min_decryption_version"].as_u64() {
                    self.change(key, |versions| versions.oldest = oldest);
                }
                Some(json!({}))
            }
            ["keys", key] => Some(json!({ "latest_version": self.versions(key).0 })),
            _ => None,
        };
        let status = match data {
            Some(_) => 200,
            None if is_forbidden => 403,
            None => 400,
        };
        let body = json!({ "data": data }).to_string();
        write!(stream, "HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
    }

    fn change(&self, key: &str, act: impl FnOnce(&mut Versions)) {
        act(self.0.0.lock().unwrap().versions.entry(key.to_owned()).or_default());
    }

    /// Waits while an act is held.
    fn wait(&self, act: Act) {
        let (state, bell) = &*self.0;
        let mut state = state.lock().unwrap();
        let Some(holding) = state.holding.as_mut().filter(|holding| holding.act == act) else { return };
        if holding.passing_count > 0 {
            holding.passing_count -= 1;
            return;
        }
        if holding.holding_count == 0 {
            return;
        }
        holding.holding_count -= 1;
        state.held_count += 1;
        while state.holding.is_some() {
            state = bell.wait(state).unwrap();
        }
        state.held_count -= 1;
    }
}

/// A request.
pub(super) struct Asked {
    path: String,
    /// What KMS is to do; empty for others.
    pub(super) target: String,
    pub(super) body: Value,
}

pub(super) fn read(stream: &TcpStream) -> std::io::Result<Asked> {
    let mut reader = BufReader::new(stream);
    let (mut line, mut length, mut target) = (String::new(), 0, String::new());
    reader.read_line(&mut line)?;
    let path = line.split_whitespace().nth(1).unwrap_or_default().to_owned();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().unwrap();
        } else if name.eq_ignore_ascii_case("x-amz-target") {
            value.trim().clone_into(&mut target);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Asked { path, target, body: serde_json::from_slice(&body).unwrap_or_default() })
}
