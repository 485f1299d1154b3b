//! Making an export from a log: its entries, its head and its proofs, at one size.
//!
//! Must never mix sizes: the head is taken once, and every proof leads to it.

use serde_json::Value;

use crate::envelope::hex;
use crate::export::{Content, Coverage, Row, SaidAnchor, Table};
use crate::note::claimed_head;
use crate::proof::InclusionProof;
use crate::tree::inclusion_spans;
use crate::{Audit, AuditError, Entry, Log};

/// LIMIT: entries of one export.
pub const EXPORT_COUNT_MAX: usize = 50_000;

/// Whether an entry, by its place, is wanted.
pub type Keep<'a> = dyn Fn(u64, &Entry) -> bool + Send + Sync + 'a;

/// What goes into an export.
pub struct Selection<'a> {
    /// First place.
    pub from: u64,
    /// The place after the last; the log's end when none or beyond it.
    pub to: Option<u64>,
    /// Which entries; none for all.
    pub keep: Option<&'a Keep<'a>>,
    /// Takes out of a body what the reader may not see, and says what it took.
    pub redact: &'a (dyn Fn(&mut Entry) -> Vec<String> + Send + Sync),
    /// The question in words, for the manifest.
    pub query: Value,
    /// Whether a table for spreadsheets goes in.
    pub csv: Option<Table>,
    /// Whether a Parquet file goes in.
    pub parquet: Option<Table>,
}

impl Audit {
    /// The content of an export; the first [`EXPORT_COUNT_MAX`] entries when there are more, and the flag says so.
    pub async fn export(&self, log: &Log, selection: Selection<'_>) -> Result<(Content, bool), AuditError> {
        let (state, edge) = self.edge(log).await?;
        let size = state.frontier.size();
        let head = state.head(&self.origin(log));
        let checkpoint = self.sign_head(&head);
        let to = selection.to.unwrap_or(size).min(size);
        // From the beginning means from what is left of it; a place that was deleted is refused below.
        let from = if selection.from == 0 { state.first } else { selection.from };
        let (mut rows, mut redacted, mut seq, mut cut) = (Vec::new(), Vec::new(), from, false);
        while seq < to && !cut {
            let page = self.list(log, seq, usize::try_from(to - seq).unwrap_or(usize::MAX)).await?;
            if page.is_empty() {
                break;
            }
            for mut entry in page {
                if selection.keep.is_none_or(|keep| keep(seq, &entry)) {
                    cut = rows.len() == EXPORT_COUNT_MAX;
                    if cut {
                        break;
                    }
                    redacted.extend((selection.redact)(&mut entry));
                    rows.push(Row { seq, entry, path: Vec::new() });
                }
                seq += 1;
            }
        }
        redacted.sort_unstable();
        redacted.dedup();
        let coverage = if selection.keep.is_some() { Coverage::Filtered } else { Coverage::Complete };
        if coverage == Coverage::Filtered {
            for row in &mut rows {
                let spans = inclusion_spans(row.seq, size).unwrap_or_default();
                row.path = self.roots(log, &edge, spans).await?.iter().map(|hash| hex(hash)).collect();
            }
        }
        let mut ends = Vec::new();
        for row in rows.first().into_iter().chain(rows.last().filter(|_| rows.len() > 1)) {
            let path = self.roots(log, &edge, inclusion_spans(row.seq, size).unwrap_or_default()).await?;
            ends.push(InclusionProof { index: row.seq, path, checkpoint: checkpoint.clone() });
        }
        let (origin, vkey, created_ms) = (head.origin, self.vkey(log), self.clock().now().as_millisecond());
        let Selection { query, csv, parquet, .. } = selection;
        // A sweep may have gone on meanwhile: then the entries themselves show that they are not the first any more.
        let beginning = self.beginning(log).await?.filter(|beginning| beginning.size == from);
        let changes = self.keys(log).await?.changes;
        let anchored = self.anchored(log).await?;
        let covered = anchored.cover.and_then(|cover| claimed_head(&cover.checkpoint));
        let anchor = SaidAnchor { level: anchored.level, size: covered.map_or(0, |head| head.size) };
        let content = Content {
            origin,
            vkey,
            checkpoint,
            created_ms,
            coverage,
            query,
            anchor,
            redacted,
            rows,
            ends,
            csv,
            parquet,
            beginning,
            changes,
        };
        Ok((content, cut))
    }

    /// The archive of an export, its manifest signed with the log's key.
    pub fn archive(&self, log: &Log, content: &Content) -> Result<Vec<u8>, crate::export::ExportError> {
        crate::export::archive(content, |text| self.sign_note(log, text))
    }
}
