//! Tiles of a tree in the store: kept as they become full, read back to make proofs.
//!
//! Must never be trusted more than the log: a tile that is missing or does not fit is an error, and a log from before tiles
//! were kept gets them from its entries. Full tiles never change; of level 1 and above the unfinished one is kept too, so
//! that opening a long log reads a few records. Leaves of the unfinished tile of level 0 are those of the last entries.

use std::collections::HashMap;

use ringfence_store::{Key, Op, StoreError, TenantStore};

use crate::AuditError;
use crate::tiles::{Changed, Edge, Node, TILE_COUNT, levels_of, nodes, nodes_of, partial};
use crate::tree::{Hash, Span, join};
use crate::writer::unavailable;

/// LIMIT: tiles written in one batch while a log gets the tiles it has not.
const FILL_COUNT: usize = 64;

/// Why tiles do not serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShelfError {
    /// The store did not answer.
    #[error("the store did not answer: {0}")]
    Store(#[from] StoreError),
    /// A tile is missing or has another length than the tree's size says.
    #[error("a tile is missing")]
    Missing,
}

/// Where the tiles of one tree lie.
#[derive(Clone)]
pub(crate) struct Shelf {
    store: TenantStore,
    name: &'static str,
}

/// Where the leaves of a tree come from that have no tile yet.
pub(crate) trait Leaves {
    /// The hash of leaf `index`, below the tree's size.
    async fn leaf(&self, index: u64) -> Result<Hash, ShelfError>;
}

/// Hashes of one tree at one size, from its edge and its shelf.
pub(crate) struct Reader<'a> {
    shelf: &'a Shelf,
    edge: &'a Edge,
    read: HashMap<(u8, u64), Vec<Hash>>,
}

impl Shelf {
    pub(crate) fn new(store: TenantStore, name: &'static str) -> Self {
        Self { store, name }
    }

    /// The writes that keep what changed. Of one tile changed twice the last counts, as in any batch.
    pub(crate) fn ops(&self, changed: Vec<Changed>) -> impl Iterator<Item = Op> {
        changed.into_iter().map(|tile| Op::put(self.key(tile.level, tile.index), tile.hashes.concat()))
    }

    /// The edge of the tree at `size`; tiles that are not there yet are made from the leaves.
    pub(crate) async fn edge(&self, size: u64, leaves: &impl Leaves) -> Result<Edge, ShelfError> {
        self.fill(size, leaves).await?;
        let mut levels = Vec::new();
        for level in 0..levels_of(size) {
            let (count, index) = (partial(size, level), nodes(size, level) / TILE_COUNT);
            let hashes = match (level, count) {
                (_, 0) => Vec::new(),
                (0, _) => {
                    let mut hashes = Vec::new();
                    for seq in size - count..size {
                        hashes.push(leaves.leaf(seq).await?);
                    }
                    hashes
                }
                (_, _) => self.tile(level, index, count).await?,
            };
            levels.push(hashes);
        }
        Edge::from_parts(size, levels).ok_or(ShelfError::Missing)
    }

    /// Makes the tiles that a log from before tiles has not. Goes on where an interrupted run stopped.
    async fn fill(&self, size: u64, leaves: &impl Leaves) -> Result<(), ShelfError> {
        let full = size / TILE_COUNT;
        let last = self.store.scan_back(&self.level(0), None, 1).await?;
        let have = last.records.first().and_then(|(key, _)| key.last_number()).map_or(0, |last| last + 1);
        if have >= full {
            return Ok(());
        }
        // The edge at `have` full tiles, whose levels above the leaves are all kept.
        let at = have * TILE_COUNT;
        let mut levels = Vec::new();
        for level in 0..levels_of(at) {
            let count = partial(at, level);
            levels.push(if count == 0 {
                Vec::new()
            } else {
                self.tile(level, nodes(at, level) / TILE_COUNT, count).await?
            });
        }
        let mut edge = Edge::from_parts(at, levels).ok_or(ShelfError::Missing)?;
        let mut ops = Vec::new();
        for seq in at..full * TILE_COUNT {
            ops.extend(self.ops(edge.push(leaves.leaf(seq).await?)));
            if ops.len() >= FILL_COUNT {
                self.store.batch(std::mem::take(&mut ops), Vec::new()).await?;
            }
        }
        if !ops.is_empty() {
            self.store.batch(ops, Vec::new()).await?;
        }
        Ok(())
    }

    /// A kept tile's first `count` hashes.
    async fn tile(&self, level: u8, index: u64, count: u64) -> Result<Vec<Hash>, ShelfError> {
        let record = self.store.get(&self.key(level, index)).await?.ok_or(ShelfError::Missing)?;
        let (hashes, rest) = record.value.as_chunks::<32>();
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if !rest.is_empty() {
            return Err(ShelfError::Missing);
        }
        hashes.get(..count).map(<[Hash]>::to_vec).ok_or(ShelfError::Missing)
    }

    fn level(&self, level: u8) -> Key {
        Key::new([self.name]).number(level.into())
    }

    fn key(&self, level: u8, index: u64) -> Key {
        self.level(level).number(index)
    }
}

/// What is wrong with a log's tiles, in the log's words.
pub(crate) fn untiled(origin: &str, error: &ShelfError) -> AuditError {
    match error {
        ShelfError::Store(error) => unavailable(origin, error),
        ShelfError::Missing => {
            AuditError::Broken { log: origin.to_owned(), seq: 0, what: "a tile of its tree is missing" }
        }
    }
}

// === impl Reader ===

impl<'a> Reader<'a> {
    pub(crate) fn new(shelf: &'a Shelf, edge: &'a Edge) -> Self {
        Self { shelf, edge, read: HashMap::new() }
    }

    /// The roots of these runs of leaves.
    pub(crate) async fn roots(&mut self, spans: Vec<Span>) -> Result<Vec<Hash>, ShelfError> {
        let mut roots = Vec::with_capacity(spans.len());
        for span in spans {
            let mut parts = Vec::new();
            for node in nodes_of(span) {
                parts.push(self.node(node).await?);
            }
            roots.push(join(parts));
        }
        Ok(roots)
    }

    /// All hashes of a tile, as many as there are.
    pub(crate) async fn hashes(&mut self, level: u8, index: u64) -> Result<&[Hash], ShelfError> {
        if index == nodes(self.edge.size(), level) / TILE_COUNT {
            return Ok(self.edge.hashes(level));
        }
        if !self.read.contains_key(&(level, index)) {
            let hashes = self.shelf.tile(level, index, TILE_COUNT).await?;
            self.read.insert((level, index), hashes);
        }
        self.read.get(&(level, index)).map(Vec::as_slice).ok_or(ShelfError::Missing)
    }

    async fn node(&mut self, node: Node) -> Result<Hash, ShelfError> {
        let (level, index, range) = node.place();
        let hashes = self.hashes(level, index).await?;
        hashes.get(range).map(|hashes| crate::tiles::fold(hashes.to_vec())).ok_or(ShelfError::Missing)
    }
}
