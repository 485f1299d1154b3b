//! A tree cut into tiles of 256 hashes (c2sp.org/tlog-tiles): names of tiles, the tree's right edge, and which hashes a proof
//! is made of.
//!
//! Pure: must never read or write anything. `shelf` keeps tiles in the store; a level-`L` tile `N` holds the roots of the
//! complete subtrees of `256^L` leaves from place `256 * N` of that level on.

use crate::tree::{Hash, Span, node_hash};

/// Hashes in a full tile.
pub const TILE_COUNT: u64 = 256;
/// Levels of a tree below the root of a full tile.
pub(crate) const TILE_HEIGHT: u32 = TILE_COUNT.ilog2();
/// Levels of a tree whose size fits 64 bits.
const LEVELS_COUNT_MAX: u8 = 8;
/// LIMIT: longest path read, in bytes; the longest valid one is well below.
const PATH_BYTES_MAX: usize = 64;

/// A tile, or so much of it as there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tile {
    /// Level, 0 at the leaves.
    pub level: u8,
    /// Which one of the level.
    pub index: u64,
    /// Hashes asked for, 1 to 256.
    pub width: u16,
}

/// What a reader of a tiled log may ask for by path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TilePath {
    /// The signed head.
    Checkpoint,
    /// Hashes.
    Hashes(Tile),
    /// The entries below a tile of level 0.
    Entries(Tile),
}

/// A complete subtree of `2^level` leaves, the `index`th of its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// Its height.
    pub level: u8,
    /// Its place among those of its height.
    pub index: u64,
}

/// The hashes of all tiles that are not full yet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Edge {
    size: u64,
    levels: Vec<Vec<Hash>>,
}

/// A tile that changed by an append, with all its hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Level, 0 at the leaves.
    pub level: u8,
    /// Which one of the level.
    pub index: u64,
    /// Its hashes, 256 when it is full.
    pub hashes: Vec<Hash>,
}

// === impl TilePath ===

impl TilePath {
    /// Reads `checkpoint`, `tile/<L>/<N>[.p/<W>]` and `tile/entries/<N>[.p/<W>]`; none for anything else, and for every
    /// second spelling of a path.
    pub fn parse(path: &str) -> Option<Self> {
        if path.len() > PATH_BYTES_MAX {
            return None;
        }
        if path == "checkpoint" {
            return Some(Self::Checkpoint);
        }
        let (level, rest) = path.strip_prefix("tile/")?.split_once('/')?;
        let (index, width) = match rest.split_once(".p/") {
            Some((index, width)) => (index, width.parse().ok().filter(|width| (1..256).contains(width))?),
            None => (rest, 256),
        };
        let index = parse_index(index)?;
        let found = match level {
            "entries" => Self::Entries(Tile { level: 0, index, width }),
            _ => Self::Hashes(Tile { level: level.parse().ok().filter(|l| *l < LEVELS_COUNT_MAX)?, index, width }),
        };
        (found.to_string() == path).then_some(found)
    }
}

impl std::fmt::Display for TilePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tile = match self {
            Self::Checkpoint => return f.write_str("checkpoint"),
            Self::Hashes(tile) => {
                write!(f, "tile/{}/", tile.level)?;
                tile
            }
            Self::Entries(tile) => {
                f.write_str("tile/entries/")?;
                tile
            }
        };
        f.write_str(&index_text(tile.index))?;
        if u64::from(tile.width) < TILE_COUNT { write!(f, ".p/{}", tile.width) } else { Ok(()) }
    }
}

// === impl Edge ===

impl Edge {
    /// The edge of a tree of `size` leaves, from the hashes of the unfinished tile of each level; none when they do not fit.
    pub fn from_parts(size: u64, levels: Vec<Vec<Hash>>) -> Option<Self> {
        let fits = levels.iter().zip(0_u8..).all(|(hashes, level)| hashes.len() as u64 == partial(size, level));
        let whole = levels.len() == usize::from(levels_of(size));
        (fits && whole).then_some(Self { size, levels })
    }

    /// Leaves in the tree.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf by its hash. Tiles that became full by it, and the unfinished one above the last of them, are in the
    /// answer: they are what must be kept, since the leaves of an unfinished tile are in the log.
    pub fn push(&mut self, leaf: Hash) -> Vec<Changed> {
        self.push_with(leaf, None)
    }

    /// As [`Edge::push`]; `whole` is the root of the tile of leaves that this leaf ends, when the caller has it:
    /// [`crate::tree::Frontier::push_noting`] of the same tree with [`TILE_HEIGHT`] makes it on the way.
    pub(crate) fn push_with(&mut self, leaf: Hash, mut whole: Option<Hash>) -> Vec<Changed> {
        let (mut changed, mut hash, mut level) = (Vec::new(), leaf, 0_u8);
        self.size += 1;
        loop {
            let place = usize::from(level);
            if self.levels.len() <= place {
                self.levels.push(Vec::new());
            }
            let Some(hashes) = self.levels.get_mut(place) else { return changed };
            hashes.push(hash);
            let index = nodes(self.size, level).saturating_sub(1) / TILE_COUNT;
            let full = hashes.len() as u64 == TILE_COUNT;
            if level > 0 || full {
                changed.push(Changed { level, index, hashes: hashes.clone() });
            }
            if !full {
                return changed;
            }
            let hashes = std::mem::take(hashes);
            // Of the leaves' tile alone.
            hash = whole.take().unwrap_or_else(|| fold(hashes));
            level += 1;
        }
    }

    /// The hashes of the unfinished tile of a level.
    pub fn hashes(&self, level: u8) -> &[Hash] {
        self.levels.get(usize::from(level)).map_or(&[], Vec::as_slice)
    }
}

// === impl Tile ===

impl Tile {
    /// Whether so many hashes of it are there in a tree of `size` leaves.
    pub fn is_in(&self, size: u64) -> bool {
        let end = self.index.checked_mul(TILE_COUNT).and_then(|first| first.checked_add(self.width.into()));
        end.is_some_and(|end| end <= nodes(size, self.level))
    }
}

// === impl Node ===

impl Node {
    /// The tile that this node's hash is computed from, and which of its hashes.
    pub fn place(&self) -> (u8, u64, std::ops::Range<usize>) {
        let (level, shift) = (self.level / 8, self.level % 8);
        let first = self.index << shift;
        let at = usize::try_from(first % TILE_COUNT).unwrap_or_default();
        (level, first / TILE_COUNT, at..at + (1 << shift))
    }
}

/// Complete nodes of a tile level in a tree of `size` leaves.
pub fn nodes(size: u64, level: u8) -> u64 {
    size.checked_shr(u32::from(level) * 8).unwrap_or(0)
}

/// Hashes in the unfinished tile of a level.
pub fn partial(size: u64, level: u8) -> u64 {
    nodes(size, level) % TILE_COUNT
}

/// Levels that a tree of `size` leaves has tiles of.
pub fn levels_of(size: u64) -> u8 {
    (0..LEVELS_COUNT_MAX).take_while(|level| nodes(size, *level) > 0).count().try_into().unwrap_or_default()
}

/// The complete subtrees that a run of leaves is made of, from the left; the run starts where a subtree of its size may.
pub fn nodes_of(span: Span) -> Vec<Node> {
    let (mut from, mut found) = (span.from, Vec::new());
    while from < span.to {
        let fits = (span.to - from).ilog2().min(if from == 0 { 63 } else { from.trailing_zeros() });
        let level = u8::try_from(fits).unwrap_or(63);
        found.push(Node { level, index: from >> fits });
        from += 1 << fits;
    }
    found
}

/// Root of a complete subtree from its lowest hashes, whose number is a power of two.
pub fn fold(mut hashes: Vec<Hash>) -> Hash {
    while hashes.len() > 1 {
        hashes = hashes
            .chunks(2)
            .map(|pair| match pair {
                [left, right] => node_hash(left, right),
                rest => rest.first().copied().unwrap_or_default(),
            })
            .collect();
    }
    hashes.first().copied().unwrap_or_else(crate::tree::empty_root)
}

/// `x001/x234/067` for 1234067.
fn index_text(index: u64) -> String {
    let mut text = format!("{:03}", index % 1000);
    let mut rest = index / 1000;
    while rest > 0 {
        text = format!("x{:03}/{text}", rest % 1000);
        rest /= 1000;
    }
    text
}

fn parse_index(text: &str) -> Option<u64> {
    text.split('/').try_fold(0_u64, |sum, part| {
        let digits = part.strip_prefix('x').unwrap_or(part);
        let three = digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit());
        if !three {
            return None;
        }
        sum.checked_mul(1000)?.checked_add(digits.parse().ok()?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{consistency_spans, inclusion_spans, leaf_hash, root};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn leaf(index: u64) -> Hash {
        leaf_hash(&index.to_be_bytes())
    }

    #[test]
    fn paths_are_spelt_in_one_way() {
        for path in ["checkpoint", "tile/0/000", "tile/1/x001/x234/067", "tile/entries/005.p/17", "tile/7/000.p/255"] {
            assert_eq!(TilePath::parse(path).unwrap().to_string(), path);
        }
        for path in [
            "",
            "tile/0/0",
            "tile/8/000",
            "tile/0/x001",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/0/000.p/017",
            "tile/00/000",
            "tile/0/x000/001",
            "tile/0/../000",
            "tile/entries/+01",
            "Checkpoint",
            "tile/-1/000",
        ] {
            assert_eq!(TilePath::parse(path), None, "{path}");
        }
        assert_eq!(TilePath::parse(&format!("tile/0/{}", "x999/".repeat(10))), None);
    }

    /// A tree of `size` leaves as tiles.
    fn grown(size: u64) -> (Edge, BTreeMap<(u8, u64), Vec<Hash>>) {
        let (mut edge, mut tiles) = (Edge::default(), BTreeMap::new());
        for index in 0..size {
            for changed in edge.push(leaf(index)) {
                tiles.insert((changed.level, changed.index), changed.hashes);
            }
        }
        (edge, tiles)
    }

    #[test]
    fn a_tile_made_with_the_frontiers_roots_is_the_same() {
        let (mut frontier, mut edge, mut with) = (crate::tree::Frontier::new(), Edge::default(), Edge::default());
        for index in 0..66_000 {
            let whole = frontier.push_noting(leaf(index), TILE_HEIGHT);
            assert_eq!(whole.is_some(), (index + 1_u64).is_multiple_of(TILE_COUNT), "{index}");
            assert_eq!(with.push_with(leaf(index), whole), edge.push(leaf(index)), "{index}");
        }
        assert_eq!(with, edge);
    }

    fn span_root(edge: &Edge, tiles: &BTreeMap<(u8, u64), Vec<Hash>>, span: Span) -> Hash {
        let roots = nodes_of(span).into_iter().map(|node| {
            let (level, index, range) = node.place();
            let open = index == nodes(edge.size(), level) / TILE_COUNT;
            let hashes = if open { edge.hashes(level) } else { &tiles[&(level, index)] };
            fold(hashes[range].to_vec())
        });
        crate::tree::join(roots.collect())
    }

    #[test]
    fn tiles_hold_the_roots_of_the_subtrees_below() {
        let size = 66_000;
        let (edge, tiles) = grown(size);
        let leaves: Vec<Hash> = (0..size).map(leaf).collect();
        assert_eq!(tiles[&(1, 0)][7], root(&leaves[7 * 256..8 * 256]));
        assert_eq!(tiles[&(2, 0)], vec![root(&leaves[..65_536])]);
        assert_eq!(edge.hashes(0).len() as u64, size % 256);
        assert_eq!(span_root(&edge, &tiles, Span { from: 0, to: size }), root(&leaves));
        let parts = (0..levels_of(size)).map(|level| edge.hashes(level).to_vec()).collect();
        assert_eq!(Edge::from_parts(size, parts).unwrap(), edge);
        assert!(Edge::from_parts(size + 1, vec![Vec::new()]).is_none());
    }

    proptest! {
        #[test]
        fn proofs_from_tiles_are_the_proofs_of_the_definition(size in 1_u64..1_500, a in 0_u64..1_500, b in 0_u64..1_500) {
            let (edge, tiles) = grown(size);
            let leaves: Vec<Hash> = (0..size).map(leaf).collect();
            let to = b % size + 1;
            let seq = a % to;
            let part = &leaves[..usize::try_from(to).unwrap()];
            let roots = |spans: Option<Vec<Span>>| {
                spans.map(|spans| spans.into_iter().map(|span| span_root(&edge, &tiles, span)).collect::<Vec<_>>())
            };
            let index = usize::try_from(seq).unwrap();
            prop_assert_eq!(roots(inclusion_spans(seq, to)), crate::tree::inclusion_proof(index, part));
            prop_assert_eq!(roots(consistency_spans(seq, to)), crate::tree::consistency_proof(index, part));
        }

        #[test]
        fn no_path_makes_the_parser_fall(path in ".{0,80}") {
            if let Some(found) = TilePath::parse(&path) {
                prop_assert_eq!(found.to_string(), path);
            }
        }
    }
}
