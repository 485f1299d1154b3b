//! A small HTTP server: keeps what it was sent, answers what the test says.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// One request.
#[derive(Debug, Clone)]
pub struct Got {
    pub target: String,
    pub head: String,
    pub body: String,
}

impl Got {
    pub fn header(&self, name: &str) -> Option<String> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then(|| value.to_owned())
        })
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// What comes back: the bytes as they are, and whether the connection is then left open without a word.
pub enum Reply {
    Bytes(Vec<u8>),
    Hang,
}

/// An answer in order.
pub fn reply(status: u16, headers: &str, body: &str) -> Reply {
    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n", body.len());
    Reply::Bytes([head.as_bytes(), body.as_bytes()].concat())
}

type Say = dyn Fn(usize, &Got) -> Reply + Send + Sync;

pub struct Server {
    pub address: SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    /// `say` is asked with the number of the request.
    pub async fn start(say: impl Fn(usize, &Got) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let got: Arc<Mutex<Vec<Got>>> = Arc::default();
        let (kept, say): (_, Arc<Say>) = (Arc::clone(&got), Arc::new(say));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&kept), Arc::clone(&say)));
            }
        });
        Self { address, got, task }
    }

    pub async fn taking_all() -> Self {
        Self::start(|_, _| reply(204, "", "")).await
    }

    pub fn url(&self) -> String {
        format!("http://{}/in", self.address)
    }

    pub fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    /// Every event of every batch, in the order they came.
    pub fn events(&self) -> Vec<serde_json::Value> {
        self.got().iter().flat_map(|got| got.json()["events"].as_array().unwrap().clone()).collect()
    }

    pub fn seqs(&self) -> Vec<u64> {
        self.events().iter().map(|event| event["seq"].as_u64().unwrap()).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, kept: Arc<Mutex<Vec<Got>>>, say: Arc<Say>) {
    let mut bytes = Vec::new();
    let got = loop {
        let mut chunk = vec![0_u8; 65_536];
        let count = stream.read(&mut chunk).await.unwrap_or(0);
        if count == 0 {
            return;
        }
        bytes.extend_from_slice(&chunk[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length =
            head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ").map(str::to_owned));
        if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
            let target = head.split(' ').nth(1).unwrap().to_owned();
            break Got { target, head: head.to_owned(), body: body.to_owned() };
        }
    };
    let number = {
        let mut kept = kept.lock().unwrap();
        kept.push(got.clone());
        kept.len() - 1
    };
    match say(number, &got) {
        Reply::Bytes(bytes) => drop(stream.write_all(&bytes).await),
        // Until the other side has had enough.
        Reply::Hang => drop(stream.read(&mut [0_u8; 1]).await),
    }
}
