//! Does as much of one thing as its query says: the victim and the neighbours of the benchmarks.
//!
//! Must never need a capability: the same component has to run on hosts that know nothing but `wasi:http`.

use std::hint::black_box;

use ringfence_sdk::{IntoResponse, Request, Response, Result, plugin};

const MEBIBYTE: usize = 1 << 20;

#[plugin]
async fn work(mut request: Request) -> Result<Response> {
    let path = request.path().to_owned();
    let (count, mebibytes) = (number(&request, "n"), number(&request, "mib"));
    Ok(match path.as_str() {
        "/" => "ok\n".into_response(),
        // One answer after `n` turns; without `n` there is none.
        "/compute" => format!("{:x}\n", compute(count.unwrap_or(u64::MAX))).into_response(),
        "/memgrow" => grow(mebibytes.unwrap_or(96)),
        "/bulkmem" => fill(mebibytes.unwrap_or(62), count.unwrap_or(u64::MAX)),
        "/allocstorm" => allocate(count.unwrap_or(100_000)),
        "/swallow" => format!("{} bytes\n", request.body().bytes().await?.len()).into_response(),
        _ => (404, "nothing to do\n").into_response(),
    })
}

fn number(request: &Request, name: &str) -> Option<u64> {
    request.query(name).and_then(|text| text.parse().ok())
}

/// A chain of shifts (xorshift, Marsaglia 2003): each turn needs the one before, so none can be left out.
fn compute(turns: u64) -> u64 {
    let mut word = black_box(0x9e37_79b9_7f4a_7c15_u64);
    for _ in 0..turns {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
    }
    black_box(word)
}

/// Grows a MiB at a time and touches all of it.
fn grow(mebibytes: u64) -> Response {
    let mut held = Vec::new();
    for _ in 0..mebibytes {
        held.push(black_box(vec![1_u8; MEBIBYTE]));
    }
    format!("grew by {} MiB\n", held.len()).into_response()
}

/// Fills one block again and again: each turn is one `memory.fill`, which no host can interrupt.
fn fill(mebibytes: u64, turns: u64) -> Response {
    let mut block = vec![0_u8; usize::try_from(mebibytes).unwrap_or(1) * MEBIBYTE];
    for turn in 0..turns {
        block.fill(turn as u8);
        black_box(&mut block);
    }
    format!("filled {turns} times\n").into_response()
}

/// Many blocks of many sizes, all held, then freed in another order.
fn allocate(count: u64) -> Response {
    let mut held = Vec::new();
    for number in 0..count {
        held.push(black_box(vec![number as u8; 16 + (number as usize * 37) % 480]));
    }
    let mut freed = 0;
    while !held.is_empty() {
        let at = (freed * 7919) % held.len();
        held.swap_remove(at);
        freed += 1;
    }
    format!("allocated {freed} blocks\n").into_response()
}
