//! Writes and reads objects as large as its query says, without holding them: `/put?mib=1024&seed=7` answers with the
//! length and the time in microseconds, `/get` with the same after reading it all and checking every byte.

use std::time::Instant;

use futures_lite::StreamExt;
use ringfence_sdk::{Blobs, Body, Bytes, Request, Result, bail, plugin};

const PIECE_BYTES: usize = 256 << 10;

/// Whether the bytes are the same, word by word: slices are compared byte by byte in a guest, which took three times as long
/// as all the rest of a read.
fn same(one: &[u8], other: &[u8]) -> bool {
    let ((one, one_rest), (other, other_rest)) = (one.as_chunks::<8>(), other.as_chunks::<8>());
    one.len() == other.len()
        && one_rest == other_rest
        && one.iter().zip(other).all(|(one, other)| u64::from_ne_bytes(*one) == u64::from_ne_bytes(*other))
}

#[plugin]
async fn bulk(request: Request, blobs: Blobs) -> Result<String> {
    let number = |name: &str| request.query(name).and_then(|text| text.parse::<u64>().ok());
    let name = request.query("name").unwrap_or_else(|| "bulk".to_owned());
    let seed = number("seed").unwrap_or(1) as u8;
    let piece = Bytes::from((0..PIECE_BYTES).map(|i| (i as u8).wrapping_mul(31) ^ seed).collect::<Vec<_>>());
    let started = Instant::now();
    let bytes = match request.path() {
        "/put" => {
            let count = number("mib").unwrap_or(1) << 20;
            let left = count.div_ceil(PIECE_BYTES as u64);
            let body = Body::unfold((left, piece), |(left, piece)| async move {
                let next = left.checked_sub(1)?;
                Some((piece.clone(), (next, piece)))
            });
            blobs.put(&name, body).await?
        }
        "/get" => {
            let Some(body) = blobs.get(&name)? else { bail!("nothing there") };
            let (mut chunks, mut at) = (body.chunks(), 0);
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk?;
                let from = at % PIECE_BYTES;
                let now = chunk.len().min(PIECE_BYTES - from);
                if !same(&chunk[..now], &piece[from..from + now]) || !same(&chunk[now..], &piece[..chunk.len() - now]) {
                    bail!("other bytes than were written, after {at}");
                }
                at += chunk.len();
            }
            at as u64
        }
        _ => bail!("put or get"),
    };
    Ok(format!("{bytes} {}\n", started.elapsed().as_micros()))
}
