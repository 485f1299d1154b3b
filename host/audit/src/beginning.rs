//! Where a log begins whose oldest entries were deleted after their retention, in a form that anybody can check.
//!
//! Pure. Must never make a missing entry look deleted: the peaks count only when the walk from them ends in the signed root,
//! and the log itself must say that the deletion was its own. In the words of c2sp.org/tlog-tiles the log is pruned, and
//! [`Beginning::size`] is its minimum index: always a multiple of 256, so that no tile is cut.

use serde::{Deserialize, Serialize};

use crate::envelope::hex;
use crate::tiles::{Edge, fold, nodes_of};
use crate::tree::{Frontier, Hash, Span};

/// What stands for the deleted part of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beginning {
    /// The first entry that is there.
    pub size: u64,
    /// Roots of the complete subtrees over the entries before it, largest first, hexadecimal.
    pub peaks: Vec<String>,
    /// The signed final head of the youngest shard of which something is deleted. It covers at least `size` entries.
    pub final_checkpoint: String,
}

impl Beginning {
    /// The tree over what is not there; none when the peaks do not fit the size.
    pub fn frontier(&self) -> Option<Frontier> {
        let hash = |text: &String| data_encoding::HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok();
        let peaks: Option<Vec<Hash>> = self.peaks.iter().map(hash).collect();
        Frontier::from_parts(self.size, peaks?)
    }
}

/// The roots of the complete subtrees of a tree, largest first, from its edge.
pub(crate) fn peaks(edge: &Edge) -> Vec<Hash> {
    let nodes = nodes_of(Span { from: 0, to: edge.size() });
    let peak = |node: crate::tiles::Node| {
        let (level, _, range) = node.place();
        edge.hashes(level).get(range).map(|hashes| fold(hashes.to_vec()))
    };
    nodes.into_iter().filter_map(peak).collect()
}

/// The same as text.
pub(crate) fn peaks_text(edge: &Edge) -> Vec<String> {
    peaks(edge).iter().map(|peak| hex(peak)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::leaf_hash;

    #[test]
    fn the_peaks_of_an_edge_are_those_of_the_tree() {
        let (mut edge, mut frontier) = (Edge::default(), Frontier::new());
        for index in 0..66_304_u64 {
            let leaf = leaf_hash(&index.to_be_bytes());
            edge.push(leaf);
            frontier.push(leaf);
            if [1, 255, 256, 257, 65_535, 65_536, 66_048, 66_303].contains(&index) {
                assert_eq!(peaks(&edge), frontier.peaks(), "{index}");
            }
        }
        let beginning = Beginning { size: edge.size(), peaks: peaks_text(&edge), final_checkpoint: String::new() };
        assert_eq!(beginning.frontier().unwrap().root(), frontier.root());
        let short = Beginning { peaks: beginning.peaks[1..].to_vec(), ..beginning };
        assert!(short.frontier().is_none());
    }
}
