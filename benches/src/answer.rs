//! Reading HTTP/1.1 answers off a buffer, as cheaply as a load generator must.
//!
//! Must never take an unfinished answer for a finished one, nor one whose end it cannot know.

use anyhow::{Context, Result, bail};

/// LIMIT: header fields of an answer.
const HEADERS_COUNT_MAX: usize = 64;

/// One whole answer at the start of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Bytes it takes in the buffer, head and body.
    pub bytes: usize,
    /// What becomes of the connection.
    pub then: Then,
}

/// What becomes of a connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It takes another request.
    KeepAlive,
    /// The server closes it.
    Close,
}

/// The answer at the start of `buffer`; none while it is not complete.
///
/// # Errors
/// What is no HTTP/1.1, or an answer that says neither its length nor that it comes in chunks.
pub fn read(buffer: &[u8]) -> Result<Option<Answer>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_COUNT_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head_bytes) = head.parse(buffer)? else { return Ok(None) };
    let status = head.code.context("an answer without a status")?;
    let (mut length, mut chunked, mut then) = (None, false, Then::KeepAlive);
    for header in head.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            length = Some(std::str::from_utf8(header.value)?.trim().parse::<usize>()?);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = header.value.eq_ignore_ascii_case(b"chunked");
        } else if header.name.eq_ignore_ascii_case("connection") && header.value.eq_ignore_ascii_case(b"close") {
            then = Then::Close;
        }
    }
    let body = buffer.get(head_bytes..).unwrap_or_default();
    let body_bytes = match (chunked, length) {
        (true, _) => chunks(body)?,
        (false, Some(length)) => (body.len() >= length).then_some(length),
        (false, None) if matches!(status, 100..=199 | 204 | 304) => Some(0),
        (false, None) => bail!("an answer with neither a length nor chunks"),
    };
    Ok(body_bytes.map(|body_bytes| Answer { status, bytes: head_bytes + body_bytes, then }))
}

/// Bytes of a chunked body with its end; none while it is not complete. Trailers are not expected.
fn chunks(body: &[u8]) -> Result<Option<usize>> {
    let mut at = 0;
    loop {
        let rest = body.get(at..).unwrap_or_default();
        let parsed = httparse::parse_chunk_size(rest).map_err(|_| anyhow::anyhow!("a chunk of no size"))?;
        let httparse::Status::Complete((line_bytes, size)) = parsed else { return Ok(None) };
        // The chunk is followed by a line end, and so is the last one, which has no bytes.
        at = at + line_bytes + usize::try_from(size)? + 2;
        if at > body.len() {
            return Ok(None);
        }
        if size == 0 {
            return Ok(Some(at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    const CHUNKED: &[u8] =
        b"HTTP/1.1 502 Bad Gateway\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n";

    #[test]
    fn an_answer_is_whole_only_with_its_last_byte() {
        for (text, status, then) in [(PLAIN, 200, Then::KeepAlive), (CHUNKED, 502, Then::Close)] {
            for end in 0..text.len() {
                assert_eq!(read(&text[..end]).unwrap(), None, "{end}");
            }
            assert_eq!(read(text).unwrap(), Some(Answer { status, bytes: text.len(), then }));
        }
    }

    #[test]
    fn the_next_answer_in_the_buffer_is_left_alone() {
        let two = [PLAIN, CHUNKED].concat();
        assert_eq!(read(&two).unwrap().unwrap().bytes, PLAIN.len());
    }

    #[test]
    fn an_answer_without_an_end_is_an_error() {
        assert!(read(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(read(b"not http at all\r\n\r\n").is_err());
        assert_eq!(read(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap().unwrap().bytes, 27);
    }
}
