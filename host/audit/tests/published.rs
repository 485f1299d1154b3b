//! What a log gives out, read by crates that are not ours: `signed_note` and `tlog_tiles`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test is a panic with a place"
)]

mod world;

use ringfence_audit::note::Verifier;
use ringfence_audit::proof::InclusionProof;
use ringfence_audit::tiles::{Tile, TilePath};
use ringfence_audit::{Audit, Log};
use ringfence_store::{Key, Op};
use signed_note::{Note, StandardVerifier, VerifierList};
use tlog_tiles::checkpoint::Checkpoint;
use tlog_tiles::tlog::{Hash, check_record, check_tree, record_hash};
use world::{World, pushed};

/// The head of a log as the published crates read it.
async fn head(audit: &Audit, log: &Log) -> Checkpoint {
    let vkey = StandardVerifier::new(&audit.vkey(log)).unwrap();
    let text = audit.checkpoint(log).await.unwrap().text;
    let note = Note::from_bytes(text.as_bytes()).unwrap();
    let (signed, _) = note.verify(&VerifierList::new(vec![Box::new(vkey)])).unwrap();
    assert_eq!(signed.len(), 1);
    Checkpoint::from_bytes(note.text()).unwrap()
}

fn hashes(path: &[[u8; 32]]) -> Vec<Hash> {
    path.iter().map(|hash| Hash(*hash)).collect()
}

async fn record(audit: &Audit, log: &Log, count: usize) {
    let recording: Vec<_> = (0..count)
        .map(|_| {
            let (audit, log) = (audit.clone(), log.clone());
            tokio::spawn(async move { audit.record(&log, pushed()).await.unwrap() })
        })
        .collect();
    for recorded in recording {
        recorded.await.unwrap();
    }
}

#[tokio::test]
async fn heads_inclusion_and_consistency_hold_for_published_crates() {
    let world = World::new().await;
    let (acme, audit) = (world.tenant("acme").await, world.open().await);
    let log = Log::Tenant(acme);
    record(&audit, &log, 300).await;
    let old = head(&audit, &log).await;
    record(&audit, &log, 700).await;
    let new = head(&audit, &log).await;
    assert_eq!((old.size(), new.size()), (300, 1_000));
    let path = audit.consistency(&log, 300, 1_000).await.unwrap().unwrap();
    check_tree(&hashes(&path), 1_000, *new.hash(), 300, *old.hash()).unwrap();
    for seq in [0, 255, 256, 299, 511, 767, 999] {
        let proof = audit.proof(&log, seq).await.unwrap().unwrap();
        let entry = audit.list(&log, seq, 1).await.unwrap().remove(0).envelope;
        check_record(&hashes(&proof.path), 1_000, *new.hash(), seq, record_hash(entry.as_bytes())).unwrap();
        let altered = entry.replace("Success", "Failure");
        assert!(check_record(&hashes(&proof.path), 1_000, *new.hash(), seq, record_hash(altered.as_bytes())).is_err());
        let (text, verifier) = (proof.to_string(), Verifier::parse(&audit.vkey(&log)).unwrap());
        let read = InclusionProof::parse(&text).unwrap();
        assert_eq!(read, proof);
        assert_eq!(read.verify(&verifier, entry.as_bytes()).unwrap().size, 1_000);
        assert!(read.verify(&verifier, altered.as_bytes()).is_none());
        assert!(InclusionProof { index: seq ^ 1, ..read }.verify(&verifier, entry.as_bytes()).is_none());
    }
    assert!(audit.proof(&log, 1_000).await.unwrap().is_none());
    assert!(audit.consistency(&log, 300, 1_001).await.unwrap().is_none());
}

/// Reads tiles the way a reader of a tiled log does: by path, from the log as given out.
struct Reader<'a>(&'a Audit, &'a Log);

impl Reader<'_> {
    async fn get(&self, path: &str) -> Option<Vec<u8>> {
        match TilePath::parse(path)? {
            TilePath::Checkpoint => None,
            TilePath::Hashes(tile) => self.0.tile(self.1, tile).await.unwrap(),
            TilePath::Entries(tile) => self.0.bundle(self.1, tile).await.unwrap(),
        }
    }
}

#[tokio::test]
async fn tiles_and_bundles_are_those_of_the_published_layout() {
    let world = World::new().await;
    let (acme, audit) = (world.tenant("acme").await, world.open().await);
    let log = Log::Tenant(acme);
    record(&audit, &log, 600).await;
    let head = head(&audit, &log).await;
    let reader = Reader(&audit, &log);
    // Their names for the tiles of a tree of this size are ours, and the leaves in them give the signed root.
    let mut leaves = Vec::new();
    for tile in tlog_tiles::tile::Tile::new_tiles(8, 0, 600) {
        // They put the height, which is always 8 here, into the path, as the layout before C2SP's did.
        let path = tile.path().replacen("tile/8/", "tile/", 1);
        let bytes = reader.get(&path).await.unwrap_or_else(|| panic!("{path}"));
        if path.starts_with("tile/0/") {
            leaves.extend(bytes.chunks(32).map(|hash| Hash(hash.try_into().unwrap())));
        }
    }
    assert_eq!(leaves.len(), 600);
    let ours: Vec<[u8; 32]> = leaves.iter().map(|hash| hash.0).collect();
    assert_eq!(ringfence_audit::tree::root(&ours), head.hash().0);
    let bundle = reader.get("tile/entries/002.p/88").await.unwrap();
    let (mut rest, mut seq) = (bundle.as_slice(), 512);
    while let [high, low, more @ ..] = rest {
        let (entry, after) = more.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        assert_eq!(record_hash(entry), leaves[seq], "{seq}");
        (rest, seq) = (after, seq + 1);
    }
    assert_eq!(seq, 600);
    for absent in ["tile/0/002", "tile/0/002.p/89", "tile/entries/003.p/1", "tile/2/000.p/1", "tile/1/000.p/3"] {
        assert_eq!(reader.get(absent).await, None, "{absent}");
    }
}

#[tokio::test]
async fn a_log_from_before_tiles_gets_them_from_its_entries() {
    let world = World::new().await;
    let (acme, audit) = (world.tenant("acme").await, world.open().await);
    let log = Log::Tenant(acme.clone());
    record(&audit, &log, 800).await;
    let tile = Tile { level: 0, index: 2, width: 256 };
    let before = (audit.tile(&log, tile).await.unwrap(), audit.proof(&log, 10).await.unwrap().unwrap().path);
    for (level, index) in [(0, 0), (0, 1), (0, 2), (1, 0)] {
        acme.batch(vec![Op::delete(Key::new(["audit-tile"]).number(level).number(index))], Vec::new()).await.unwrap();
    }
    let audit = world.open().await;
    let after = (audit.tile(&log, tile).await.unwrap(), audit.proof(&log, 10).await.unwrap().unwrap().path);
    assert!(before.0.is_some());
    assert_eq!(before, after);
    record(&audit, &log, 300).await;
    let head = head(&audit, &log).await;
    let path = audit.proof(&log, 1_050).await.unwrap().unwrap().path;
    let entry = audit.list(&log, 1_050, 1).await.unwrap().remove(0).envelope;
    check_record(&hashes(&path), 1_100, *head.hash(), 1_050, record_hash(entry.as_bytes())).unwrap();
}
