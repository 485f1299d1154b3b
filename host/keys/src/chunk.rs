//! Random access to a sealed stream whose length is known: any chunk, without those before it.
//!
//! The caller knows the length of the content from a record that was itself authenticated, and has checked that the file is
//! as long as [`crate::sealed_stream_bytes`] says; then a cut, extended or reordered file cannot be read as a whole one,
//! because each chunk is bound to its number and the last one to being the last. Must never open a chunk beyond the length.

use std::fmt;

use crate::context::{Context, Purpose};
use crate::error::KeysError;
use crate::record::TAG_BYTES;
use crate::stream::{CHUNK_BYTES, Chunks, HEADER_BYTES, MAGIC, Place, SEALED_CHUNK_BYTES};
use crate::tenant::TenantKeys;

/// Bytes at the start of a sealed stream that [`crate::TenantKeys::chunk_opener`] needs.
pub const STREAM_HEAD_BYTES: usize = HEADER_BYTES;

/// Opens chunks of one sealed stream in any order.
pub struct ChunkOpener {
    chunks: Chunks,
    content_bytes: u64,
}

// === impl ChunkOpener ===

impl ChunkOpener {
    pub(crate) fn new(
        keys: &TenantKeys,
        purpose: Purpose,
        context: &Context<'_>,
        head: &[u8],
        content_bytes: u64,
    ) -> Result<Self, KeysError> {
        let Some((&[MAGIC, version], salt)) = head.split_first_chunk().filter(|_| head.len() == HEADER_BYTES) else {
            return Err(KeysError::NotAuthentic);
        };
        let chunks = keys.with_key(purpose, version, |key| Chunks::new(key, version, salt, &context.encode()))?;
        Ok(Self { chunks, content_bytes })
    }

    /// Bytes of the whole content.
    pub fn content_bytes(&self) -> u64 {
        self.content_bytes
    }

    /// Where a chunk lies in the sealed stream: its first byte and its length; none beyond the last chunk.
    pub fn place(&self, chunk: u32) -> Option<(u64, usize)> {
        let last = self.last();
        if u64::from(chunk) > last {
            return None;
        }
        let from = HEADER_BYTES as u64 + u64::from(chunk) * SEALED_CHUNK_BYTES as u64;
        let plain =
            if u64::from(chunk) == last { self.content_bytes - last * CHUNK_BYTES as u64 } else { CHUNK_BYTES as u64 };
        // At most a chunk, which fits.
        Some((from, usize::try_from(plain).unwrap_or(CHUNK_BYTES) + TAG_BYTES))
    }

    /// Opens whole chunks that follow one another, `first` the number of the first, where they lie: their content is at the
    /// start of `sealed` then, as long as this says. What lies behind it, and all of it after a failure, is of no use.
    pub fn open(&mut self, first: u32, sealed: &mut [u8]) -> Result<usize, KeysError> {
        let (mut chunk, mut from, mut opened) = (first, 0, 0);
        while from < sealed.len() {
            let (_, bytes) = self.place(chunk).ok_or(KeysError::NotAuthentic)?;
            let end = from.saturating_add(bytes);
            // From where the content so far ends, so that each chunk moves there while it is opened.
            let room = sealed.get_mut(opened..end).ok_or(KeysError::NotAuthentic)?;
            let place = if u64::from(chunk) == self.last() { Place::Last } else { Place::Inner };
            self.chunks.next = chunk;
            opened += self.chunks.open_to_start(room, from - opened, place)?;
            from = end;
            chunk = chunk.checked_add(1).ok_or(KeysError::NotAuthentic)?;
        }
        Ok(opened)
    }

    /// The number of the last chunk; an empty stream has one, which is empty.
    fn last(&self) -> u64 {
        self.content_bytes.saturating_sub(1) / CHUNK_BYTES as u64
    }
}

impl fmt::Debug for ChunkOpener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<chunk opener>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sealed_stream_bytes;
    use crate::tenant::tests::{Fixed, keys};
    use proptest::prelude::*;

    const HERE: Context<'_> = Context { tenant: "acme", store: "blob", key: b"b1", revision: 0 };

    fn content(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i * 31 % 251) as u8).collect()
    }

    fn seal(content: &[u8]) -> Vec<u8> {
        let mut sealer = keys("acme", 1).stream_sealer(Purpose::Blob, &HERE, &Fixed(7)).unwrap();
        let mut out = Vec::new();
        sealer.push(content, &mut out).unwrap();
        sealer.finish(&mut out).unwrap();
        out
    }

    fn opener(sealed: &[u8], content_bytes: usize) -> ChunkOpener {
        keys("acme", 1).chunk_opener(Purpose::Blob, &HERE, &sealed[..STREAM_HEAD_BYTES], content_bytes as u64).unwrap()
    }

    fn chunk(opener: &mut ChunkOpener, sealed: &[u8], chunk: u32, from: u32) -> Result<Vec<u8>, KeysError> {
        let (start, bytes) = opener.place(from).unwrap();
        let mut sealed = sealed[start as usize..start as usize + bytes].to_vec();
        let length = opener.open(chunk, &mut sealed)?;
        sealed.truncate(length);
        Ok(sealed)
    }

    #[test]
    fn every_chunk_opens_alone_and_in_any_order() {
        for length in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 3 * CHUNK_BYTES + 5] {
            let plain = content(length);
            let sealed = seal(&plain);
            let mut opener = opener(&sealed, length);
            let count = plain.chunks(CHUNK_BYTES).count().max(1);
            for n in (0..count).rev() {
                let want = plain.chunks(CHUNK_BYTES).nth(n).unwrap_or_default();
                assert_eq!(chunk(&mut opener, &sealed, n as u32, n as u32).unwrap(), want, "{length} {n}");
            }
            assert_eq!(opener.place(count as u32), None);
            let (start, bytes) = opener.place(count as u32 - 1).unwrap();
            assert_eq!(start + bytes as u64, sealed_stream_bytes(length as u64));
        }
    }

    #[test]
    fn chunks_that_follow_one_another_open_together_or_not_at_all() {
        let plain = content(3 * CHUNK_BYTES + 5);
        let sealed = seal(&plain);
        let mut opener = opener(&sealed, plain.len());
        let body = &sealed[STREAM_HEAD_BYTES..];
        for (from, to) in [(0, 4), (1, 3), (2, 4), (3, 4), (2, 2)] {
            let mut run = body[from * SEALED_CHUNK_BYTES..(to * SEALED_CHUNK_BYTES).min(body.len())].to_vec();
            let length = opener.open(from as u32, &mut run).unwrap();
            assert!(run[..length] == plain[from * CHUNK_BYTES..(to * CHUNK_BYTES).min(plain.len())], "{from} {to}");
        }
        for wrong in 0..6 {
            let mut run = body.to_vec();
            match wrong {
                0..4 => run[wrong * SEALED_CHUNK_BYTES] ^= 1,
                4 => run.truncate(body.len() - 1),
                _ => run.push(0),
            }
            assert!(opener.open(0, &mut run).is_err(), "{wrong}");
        }
        let mut swapped = body[..2 * SEALED_CHUNK_BYTES].to_vec();
        swapped.rotate_left(SEALED_CHUNK_BYTES);
        assert!(opener.open(0, &mut swapped).is_err());
    }

    #[test]
    fn a_chunk_in_anothers_place_a_flipped_bit_and_a_wrong_length_are_refused() {
        let plain = content(3 * CHUNK_BYTES);
        let sealed = seal(&plain);
        let mut whole = opener(&sealed, plain.len());
        assert!(chunk(&mut whole, &sealed, 0, 1).is_err());
        assert!(chunk(&mut whole, &sealed, 1, 0).is_err());
        // A record that says less or more than was sealed: the last chunk is bound to being the last.
        assert!(chunk(&mut opener(&sealed, 2 * CHUNK_BYTES), &sealed, 1, 1).is_err());
        assert!(chunk(&mut opener(&sealed, 4 * CHUNK_BYTES), &sealed, 2, 2).is_err());
        let mut altered = sealed.clone();
        altered[STREAM_HEAD_BYTES] ^= 1;
        assert!(chunk(&mut whole, &altered, 0, 0).is_err());
        assert!(chunk(&mut whole, &altered, 1, 1).is_ok(), "damage stays where it is");
        assert!(keys("acme", 1).chunk_opener(Purpose::Blob, &HERE, &sealed[..9], 9).is_err());
        assert!(
            keys("evil", 2)
                .chunk_opener(Purpose::Blob, &HERE, &sealed[..STREAM_HEAD_BYTES], 9)
                .is_ok_and(|mut evil| chunk(&mut evil, &seal(&content(9)), 0, 0).is_err())
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn any_chunk_of_any_length_is_what_a_whole_read_gives(length in 0_usize..300_000, pick in 0_usize..8) {
            let plain = content(length);
            let sealed = seal(&plain);
            let n = pick.min(length.saturating_sub(1) / CHUNK_BYTES);
            let got = chunk(&mut opener(&sealed, length), &sealed, n as u32, n as u32).unwrap();
            prop_assert_eq!(got, plain.chunks(CHUNK_BYTES).nth(n).unwrap_or_default().to_vec());
        }
    }
}
