//! What a log gives to those who check it without us: tiles, entry bundles, proofs of inclusion and of consistency.
//!
//! Must never give a proof against a head that is not the log's own: every path is made from the tiles of the tree whose
//! head is signed. Reads only.

use crate::audit::ask;
use crate::proof::InclusionProof;
use crate::shelf::{Reader, Shelf, untiled};
use crate::state::State;
use crate::tiles::{Edge, TILE_COUNT, Tile};
use crate::tree::{Hash, consistency_spans, inclusion_spans};
use crate::writer::{self, Command, TILES};
use crate::{Audit, AuditError, Log};

impl Audit {
    /// Proof that entry `seq` is in the log as it stands now; none when there is no such entry yet.
    pub async fn proof(&self, log: &Log, seq: u64) -> Result<Option<InclusionProof>, AuditError> {
        let (state, edge) = self.edge(log).await?;
        let size = state.frontier.size();
        let Some(spans) = inclusion_spans(seq, size) else { return Ok(None) };
        state.check_kept(&self.origin(log), seq)?;
        let path = self.roots(log, &edge, spans).await?;
        let checkpoint = self.sign_head(&state.head(&self.origin(log)));
        Ok(Some(InclusionProof { index: seq, path, checkpoint }))
    }

    /// Proof that the log at `old` entries is a prefix of the log at `new` entries; none when it never had so many, and
    /// for `old` 0, which needs no proof.
    pub async fn consistency(&self, log: &Log, old: u64, new: u64) -> Result<Option<Vec<Hash>>, AuditError> {
        let (state, edge) = self.edge(log).await?;
        match consistency_spans(old, new).filter(|_| new <= state.frontier.size()) {
            Some(spans) => {
                state.check_kept(&self.origin(log), old)?;
                self.roots(log, &edge, spans).await.map(Some)
            }
            None => Ok(None),
        }
    }

    /// A tile's hashes; none when the tree has not so many.
    pub async fn tile(&self, log: &Log, tile: Tile) -> Result<Option<Vec<u8>>, AuditError> {
        let (state, edge) = self.edge(log).await?;
        if !tile.is_in(state.frontier.size()) {
            return Ok(None);
        }
        state.check_tile(&self.origin(log), tile)?;
        let shelf = Shelf::new(self.store(log), TILES);
        let mut reader = Reader::new(&shelf, &edge);
        let hashes = reader.hashes(tile.level, tile.index).await.map_err(|error| untiled(&self.origin(log), &error))?;
        Ok(hashes.get(..usize::from(tile.width)).map(<[Hash]>::concat))
    }

    /// The entries below a tile of level 0, each as its length (2 bytes big-endian) and its envelope; none when the log has
    /// not so many.
    pub async fn bundle(&self, log: &Log, tile: Tile) -> Result<Option<Vec<u8>>, AuditError> {
        let state = self.state(log).await?;
        if tile.level != 0 || !tile.is_in(state.frontier.size()) {
            return Ok(None);
        }
        state.check_tile(&self.origin(log), tile)?;
        let (store, origin, first) = (self.store(log), self.origin(log), tile.index * TILE_COUNT);
        let mut bytes = Vec::new();
        for seq in first..first + u64::from(tile.width) {
            let missing = || AuditError::Broken { log: origin.clone(), seq, what: "it is missing" };
            let envelope = writer::read(&store, &origin, seq).await?.ok_or_else(missing)?.envelope;
            // Envelopes are at most 1 KiB, so their length fits.
            let length = u16::try_from(envelope.len()).map_err(|_| AuditError::Unrepresentable)?;
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(envelope.as_bytes());
        }
        Ok(Some(bytes))
    }

    pub(crate) async fn edge(&self, log: &Log) -> Result<(State, Edge), AuditError> {
        ask(&self.handle(log), Command::Edge).await
    }

    pub(crate) async fn roots(
        &self,
        log: &Log,
        edge: &Edge,
        spans: Vec<crate::tree::Span>,
    ) -> Result<Vec<Hash>, AuditError> {
        let shelf = Shelf::new(self.store(log), TILES);
        let roots = Reader::new(&shelf, edge).roots(spans).await;
        roots.map_err(|error| untiled(&self.origin(log), &error))
    }
}
