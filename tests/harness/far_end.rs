//! A far end for workflows: counts what it is told to do, by idempotency key, over plain HTTP on a port of its own.
//!
//! Does a thing once however often it is asked under one key, as a payment service would; tells both counts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What was asked for under one key: the path and body, and how often.
type Asked = BTreeMap<String, (String, usize)>;

/// A far end that listens until it is dropped.
pub struct FarEnd {
    /// Where.
    pub address: SocketAddr,
    asked: Arc<Mutex<Asked>>,
    refused: Arc<Mutex<Option<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl FarEnd {
    /// Begins to listen.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (asked, refused) = (Arc::<Mutex<Asked>>::default(), Arc::<Mutex<Option<String>>>::default());
        let (for_asked, for_refused) = (Arc::clone(&asked), Arc::clone(&refused));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (asked, refused) = (Arc::clone(&for_asked), Arc::clone(&for_refused));
                tokio::spawn(async move {
                    let _ = serve(stream, &asked, &refused).await;
                });
            }
        });
        Ok(Self { address, asked, refused, task })
    }

    /// `http://127.0.0.1:...`.
    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers this path with 422 from now on.
    pub fn refuse(&self, path: &str) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(path.to_owned());
    }

    /// What was asked for, by key: `PATH BODY` and how often.
    pub fn asked(&self) -> BTreeMap<String, (String, usize)> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for FarEnd {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, asked: &Mutex<Asked>, refused: &Mutex<Option<String>>) -> Result<()> {
    let mut bytes = Vec::new();
    let (head, body) = loop {
        let mut chunk = [0_u8; 4_096];
        let count = stream.read(&mut chunk).await?;
        bytes.extend_from_slice(chunk.get(..count).unwrap_or_default());
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let is_chunked = field(head, "transfer-encoding").is_some();
            let wanted = field(head, "content-length").and_then(|length| length.parse::<usize>().ok());
            if is_chunked && body.ends_with("0\r\n\r\n") {
                let plain: String = body.split("\r\n").skip(1).step_by(2).collect();
                break (head.to_owned(), plain);
            }
            if !is_chunked && body.len() >= wanted.unwrap_or(0) {
                break (head.to_owned(), body.to_owned());
            }
        }
        if count == 0 {
            return Ok(());
        }
    };
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let is_refused = refused.lock().unwrap_or_else(PoisonError::into_inner).as_ref() == Some(&path);
    let key = field(&head, "idempotency-key").unwrap_or_default();
    let status = if is_refused { "422 Unprocessable Content" } else { "200 OK" };
    if !is_refused {
        let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.entry(key.clone()).or_insert_with(|| (format!("{path} {body}"), 0)).1 += 1;
    }
    let text = format!("{}-{key}", path.trim_start_matches('/'));
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}", text.len());
    stream.write_all(answer.as_bytes()).await?;
    Ok(stream.shutdown().await?)
}

fn field(head: &str, name: &str) -> Option<String> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}
