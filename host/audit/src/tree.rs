//! The Merkle tree over a log's entries, RFC 6962 section 2.1: pure hashing, no state but what is passed in.
//!
//! Must never know what an entry means. The writer keeps a [`Frontier`] (a few hashes) and never the whole tree; proofs
//! are made from leaf hashes read back from the log, and checked here by whoever holds a checkpoint.

use ::ring::digest::{Context, SHA256};

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// Deepest path of a tree whose size fits 64 bits.
const PATH_COUNT_MAX: usize = 64;

/// Hash of the empty tree: SHA-256 of nothing.
pub fn empty_root() -> Hash {
    sha256(&[])
}

/// Hash of one entry, `SHA-256(0x00 || entry)`.
pub fn leaf_hash(entry: &[u8]) -> Hash {
    sha256(&[&[0], entry])
}

/// Hash of two subtrees, `SHA-256(0x01 || left || right)`.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    sha256(&[&[1], left, right])
}

/// SHA-256 of what the parts are together. Nearly all of a log's hashing is here: with the library whose own code is the
/// quicker one where the processor has no instructions for it, and as quick where it has.
pub(crate) fn sha256(parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut hash = Hash::default();
    for (to, from) in hash.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    hash
}

/// The right edge of a tree: the roots of its complete subtrees, largest first, one for each set bit of the size.
/// Enough to append and to compute the root; at most 64 hashes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frontier {
    size: u64,
    peaks: Vec<Hash>,
}

impl Frontier {
    /// The edge of the empty tree.
    pub fn new() -> Self {
        Self::default()
    }
    /// Takes a stored edge back; `None` when the number of peaks does not fit the size.
    pub fn from_parts(size: u64, peaks: Vec<Hash>) -> Option<Self> {
        (size.count_ones() as usize == peaks.len()).then_some(Self { size, peaks })
    }
    /// How many leaves there are.
    pub fn size(&self) -> u64 {
        self.size
    }
    /// The stored form, largest subtree first.
    pub fn peaks(&self) -> &[Hash] {
        &self.peaks
    }
    /// Appends a leaf by its hash.
    pub fn push(&mut self, leaf: Hash) {
        self.push_noting(leaf, 0);
    }
    /// Appends a leaf by its hash. The answer is the root of the complete subtree of `2^level` leaves, `level` above 0, that it
    /// ends; none when it ends none of that size.
    pub(crate) fn push_noting(&mut self, leaf: Hash, level: u32) -> Option<Hash> {
        let (mut hash, mut height, mut noted) = (leaf, 0, None);
        let mut size = self.size;
        while size & 1 == 1 {
            // INVARIANT: there is a peak for each set bit, so this pop gives one; a missing one would end the merge.
            let Some(left) = self.peaks.pop() else { break };
            hash = node_hash(&left, &hash);
            size >>= 1;
            height += 1;
            if height == level {
                noted = Some(hash);
            }
        }
        self.peaks.push(hash);
        self.size += 1;
        noted
    }
    /// The tree's root hash.
    pub fn root(&self) -> Hash {
        join(self.peaks.clone())
    }
}

/// Root over leaf hashes.
pub fn root(leaves: &[Hash]) -> Hash {
    let mut frontier = Frontier::new();
    leaves.iter().for_each(|leaf| frontier.push(*leaf));
    frontier.root()
}

/// A run of leaves, `from` inclusive, `to` exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first leaf.
    pub from: u64,
    /// The leaf after the last.
    pub to: u64,
}

/// The runs of leaves whose roots are the audit path of leaf `index` in the tree of `size` leaves (RFC 6962, 2.1.1);
/// `None` when there is no such leaf.
pub fn inclusion_spans(index: u64, size: u64) -> Option<Vec<Span>> {
    if index >= size {
        return None;
    }
    let (mut whole, mut path) = (Span { from: 0, to: size }, Vec::new());
    while let Some((left, right)) = whole.halves() {
        let (inside, beside) = if index < left.to { (left, right) } else { (right, left) };
        path.push(beside);
        whole = inside;
    }
    path.reverse();
    Some(path)
}

/// The runs of leaves whose roots prove that the tree over the first `old` leaves is a prefix of the tree over `size`
/// (RFC 6962, 2.1.2); `None` when `old` is zero or more than there are.
pub fn consistency_spans(old: u64, size: u64) -> Option<Vec<Span>> {
    if old == 0 || old > size {
        return None;
    }
    let (mut whole, mut path) = (Span { from: 0, to: size }, Vec::new());
    while old != whole.to {
        let Some((left, right)) = whole.halves() else { break };
        let (inside, beside) = if old <= left.to { (left, right) } else { (right, left) };
        path.push(beside);
        whole = inside;
    }
    if whole.from > 0 {
        path.push(whole);
    }
    path.reverse();
    Some(path)
}

/// [`inclusion_spans`] over leaves at hand.
pub fn inclusion_proof(index: usize, leaves: &[Hash]) -> Option<Vec<Hash>> {
    inclusion_spans(index as u64, leaves.len() as u64)?.into_iter().map(|span| span.root_of(leaves)).collect()
}

/// [`consistency_spans`] over leaves at hand.
pub fn consistency_proof(old: usize, leaves: &[Hash]) -> Option<Vec<Hash>> {
    consistency_spans(old as u64, leaves.len() as u64)?.into_iter().map(|span| span.root_of(leaves)).collect()
}

/// Root over the roots of complete subtrees, largest first, as a tree of any size is made of them.
pub fn join(peaks: Vec<Hash>) -> Hash {
    peaks.into_iter().rev().reduce(|right, left| node_hash(&left, &right)).unwrap_or_else(empty_root)
}

/// Checks an audit path (RFC 9162, 2.1.3.2).
pub fn verify_inclusion(index: u64, size: u64, leaf: &Hash, path: &[Hash], root: &Hash) -> bool {
    if index >= size || path.len() > PATH_COUNT_MAX {
        return false;
    }
    let (mut node, mut last, mut hash) = (index, size - 1, *leaf);
    for step in path {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(step, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, step);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// Checks a consistency proof (RFC 9162, 2.1.4.2).
pub fn verify_consistency(old: u64, old_root: &Hash, new: u64, new_root: &Hash, path: &[Hash]) -> bool {
    if old == 0 || old > new || path.len() > PATH_COUNT_MAX + 1 {
        return false;
    }
    if old == new {
        return path.is_empty() && old_root == new_root;
    }
    let mut steps = path.iter();
    let first = if old.is_power_of_two() { Some(old_root) } else { steps.next() };
    let Some(first) = first else { return false };
    let (mut node, mut last) = (old - 1, new - 1);
    while node & 1 == 1 {
        node >>= 1;
        last >>= 1;
    }
    let (mut old_hash, mut new_hash) = (*first, *first);
    for step in steps {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            old_hash = node_hash(step, &old_hash);
            new_hash = node_hash(step, &new_hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            new_hash = node_hash(&new_hash, step);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && old_hash == *old_root && new_hash == *new_root
}

// === impl Span ===

impl Span {
    /// The two subtrees it divides into: the left one of the largest power of two below its length. None for one leaf.
    fn halves(self) -> Option<(Self, Self)> {
        let length = self.to.checked_sub(self.from).filter(|length| *length > 1)?;
        let middle = self.from + (1 << (length - 1).ilog2());
        Some((Self { to: middle, ..self }, Self { from: middle, ..self }))
    }

    fn root_of(self, leaves: &[Hash]) -> Option<Hash> {
        leaves.get(usize::try_from(self.from).ok()?..usize::try_from(self.to).ok()?).map(root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn leaves(count: usize) -> Vec<Hash> {
        (0..count).map(|i| leaf_hash(format!("entry {i}").as_bytes())).collect()
    }

    /// The largest power of two smaller than `count`, which must be at least 2.
    fn split(count: usize) -> usize {
        count.next_power_of_two() / 2
    }

    /// The definition of RFC 6962, word for word, as the reference.
    fn reference_root(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty_root(),
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(split(leaves.len()));
                node_hash(&reference_root(left), &reference_root(right))
            }
        }
    }

    #[test]
    fn a_hash_is_the_same_of_any_parts_and_of_another_library() {
        use sha2::{Digest as _, Sha256};
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(300).collect();
        for length in 0..bytes.len() {
            let whole = &bytes[..length];
            let expected: Hash = Sha256::digest(whole).into();
            for at in [0, 1, length / 2, length] {
                let (before, after) = whole.split_at(at.min(length));
                assert_eq!(sha256(&[before, after]), expected, "{length} bytes, cut at {at}");
            }
        }
    }

    #[test]
    fn the_frontier_gives_the_root_of_the_definition() {
        for count in 0..130 {
            let leaves = leaves(count);
            assert_eq!(root(&leaves), reference_root(&leaves), "{count}");
        }
    }

    #[test]
    fn a_stored_edge_that_does_not_fit_its_size_is_refused() {
        assert!(Frontier::from_parts(3, vec![[0; 32]]).is_none());
        assert!(Frontier::from_parts(3, vec![[0; 32], [1; 32]]).is_some());
    }

    proptest! {
        #[test]
        fn every_inclusion_verifies_and_no_altered_one_does(count in 1_usize..200, pick in any::<prop::sample::Index>(),
            at in any::<prop::sample::Index>(), bit in 0_usize..256) {
            let leaves = leaves(count);
            let index = pick.index(count);
            let path = inclusion_proof(index, &leaves).unwrap();
            let (index, size, top) = (index as u64, count as u64, root(&leaves));
            let leaf = leaves[index as usize];
            prop_assert!(verify_inclusion(index, size, &leaf, &path, &top));
            prop_assert!(!verify_inclusion(index, size, &flip(leaf, bit), &path, &top));
            prop_assert!(!verify_inclusion(index, size, &leaf, &path, &flip(top, bit)));
            if !path.is_empty() {
                let mut bad = path.clone();
                let at = at.index(bad.len());
                bad[at] = flip(bad[at], bit);
                prop_assert!(!verify_inclusion(index, size, &leaf, &bad, &top));
            }
        }

        #[test]
        fn every_prefix_is_consistent_and_no_fork_is(new in 1_usize..200, pick in any::<prop::sample::Index>(),
            at in any::<prop::sample::Index>(), bit in 0_usize..256) {
            let leaves = leaves(new);
            let old = pick.index(new) + 1;
            let path = consistency_proof(old, &leaves).unwrap();
            let (before, after) = (root(&leaves[..old]), root(&leaves));
            let (old, new) = (old as u64, new as u64);
            prop_assert!(verify_consistency(old, &before, new, &after, &path));
            prop_assert!(!verify_consistency(old, &flip(before, bit), new, &after, &path));
            prop_assert!(!verify_consistency(old, &before, new, &flip(after, bit), &path));
            if !path.is_empty() {
                let mut bad = path.clone();
                let at = at.index(bad.len());
                bad[at] = flip(bad[at], bit);
                prop_assert!(!verify_consistency(old, &before, new, &after, &bad));
            }
        }
    }

    fn flip(mut hash: Hash, bit: usize) -> Hash {
        hash[bit / 8] ^= 1 << (bit % 8);
        hash
    }
}
