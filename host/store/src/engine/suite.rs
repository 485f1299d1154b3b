//! What every engine must do: one list of behaviours for all of them, and one model that all are compared with, whatever
//! happens in between. Every random run prints its seed when it fails; the counts grow with `RINGFENCE_TORTURE`.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;

const CACHE_BYTES: u64 = 1 << 20;

/// Random numbers from a seed (SplitMix64, Steele and others 2014).
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % below.max(1)
    }
}

/// How many times to do something: more when `RINGFENCE_TORTURE` says how many times more.
#[expect(clippy::disallowed_methods, reason = "how often a test repeats itself is asked of whoever runs it")]
pub(super) fn times(usual: u64) -> u64 {
    let factor = std::env::var("RINGFENCE_TORTURE").ok().and_then(|text| text.parse().ok()).unwrap_or(1_u64);
    usual * factor
}

pub(super) fn write(key: impl AsRef<[u8]>, value: Option<&[u8]>) -> Write {
    Write { key: key.as_ref().to_vec(), value: value.map(<[u8]>::to_vec) }
}

pub(super) fn all() -> Span {
    Span {
        from: Bound::Unbounded,
        to: Bound::Unbounded,
        order: Order::Forward,
        count_max: usize::MAX,
        bytes_max: usize::MAX,
    }
}

pub(super) type Model = BTreeMap<Vec<u8>, Vec<u8>>;

pub(super) fn content(engine: &dyn Engine) -> Model {
    engine.range(&all()).unwrap().pairs.into_iter().collect()
}

/// A batch that the model takes in as well.
pub(super) fn random_batch(dice: &mut Dice, model: &mut Model) -> Vec<Write> {
    let mut writes = Vec::new();
    for _ in 0..=dice.roll(6) {
        let key = format!("key {:03}", dice.roll(200)).into_bytes();
        let value = (dice.roll(4) > 0).then(|| {
            let length = if dice.roll(20) == 0 { dice.roll(70_000) } else { dice.roll(300) };
            vec![dice.roll(256) as u8; length as usize]
        });
        match &value {
            Some(value) => model.insert(key.clone(), value.clone()),
            None => model.remove(&key),
        };
        writes.push(Write { key, value });
    }
    writes
}

// === the list ===

type Behaviour = fn(&dyn Engine);

const BEHAVIOURS: &[Behaviour] = &[
    a_batch_is_there_at_once_and_the_last_change_of_a_key_counts,
    values_may_be_empty_and_large,
    keys_come_in_order_from_either_end,
    bounds_are_kept_and_impossible_ones_hold_nothing,
    limits_stop_a_span_and_say_that_there_is_more,
    an_engine_that_is_closed_says_so,
];

fn a_batch_is_there_at_once_and_the_last_change_of_a_key_counts(engine: &dyn Engine) {
    engine.apply(vec![write("a", Some(b"1")), write("b", Some(b"2"))]).unwrap();
    assert_eq!(engine.get(b"a").unwrap().unwrap(), b"1");
    engine.apply(vec![write("a", Some(b"x")), write("a", Some(b"3")), write("b", None), write("c", None)]).unwrap();
    assert_eq!(content(engine), Model::from([(b"a".to_vec(), b"3".to_vec())]));
    engine.apply(Vec::new()).unwrap();
    engine.sync().unwrap();
    engine.recover().unwrap();
    assert_eq!(engine.get(b"a").unwrap().unwrap(), b"3");
    assert_eq!(engine.get(b"b").unwrap(), None);
}

fn values_may_be_empty_and_large(engine: &dyn Engine) {
    let large = vec![7; 300_000];
    engine.apply(vec![write("empty", Some(b"")), write("large", Some(&large)), write([0; 900], Some(b"k"))]).unwrap();
    engine.sync().unwrap();
    assert_eq!(engine.get(b"empty").unwrap().unwrap(), b"");
    assert_eq!(engine.get(b"large").unwrap().unwrap(), large);
    assert_eq!(engine.get(&[0; 900]).unwrap().unwrap(), b"k");
}

fn keys_come_in_order_from_either_end(engine: &dyn Engine) {
    let keys: Vec<Vec<u8>> = (0..500_u16).map(|number| number.wrapping_mul(40_503).to_be_bytes().to_vec()).collect();
    for key in &keys {
        engine.apply(vec![write(key, Some(key))]).unwrap();
    }
    let mut sorted = keys;
    sorted.sort();
    let names = |order| {
        let rows = engine.range(&Span { order, ..all() }).unwrap();
        rows.pairs.into_iter().map(|(key, value)| if key == value { key } else { Vec::new() }).collect::<Vec<_>>()
    };
    assert_eq!(names(Order::Forward), sorted);
    sorted.reverse();
    assert_eq!(names(Order::Backward), sorted);
}

fn bounds_are_kept_and_impossible_ones_hold_nothing(engine: &dyn Engine) {
    use Bound::{Excluded, Included, Unbounded};
    engine.apply((b'a'..=b'e').map(|key| write([key], Some(b"v"))).collect()).unwrap();
    let key = |byte: u8| vec![byte];
    for (from, to, expected) in [
        (Included(key(b'b')), Included(key(b'd')), "bcd"),
        (Excluded(key(b'b')), Excluded(key(b'd')), "c"),
        (Excluded(key(b'b')), Unbounded, "cde"),
        (Unbounded, Excluded(key(b'b')), "a"),
        (Included(key(b'c')), Included(key(b'c')), "c"),
        (Excluded(key(b'c')), Excluded(key(b'c')), ""),
        (Included(key(b'd')), Excluded(key(b'b')), ""),
        (Included(key(b'x')), Unbounded, ""),
    ] {
        for order in [Order::Forward, Order::Backward] {
            let rows = engine.range(&Span { from: from.clone(), to: to.clone(), order, ..all() }).unwrap();
            let mut found: Vec<u8> = rows.pairs.into_iter().flat_map(|(key, _)| key).collect();
            found.sort_unstable();
            assert_eq!((found.as_slice(), rows.more), (expected.as_bytes(), false));
        }
    }
}

fn limits_stop_a_span_and_say_that_there_is_more(engine: &dyn Engine) {
    engine.apply((0..10_u8).map(|key| write([key], Some(&[0; 99]))).collect()).unwrap();
    for (count_max, bytes_max, expected) in [(3, usize::MAX, 3), (10, usize::MAX, 10), (99, 250, 3), (99, 1, 1)] {
        for order in [Order::Forward, Order::Backward] {
            let rows = engine.range(&Span { count_max, bytes_max, order, ..all() }).unwrap();
            assert_eq!((rows.pairs.len(), rows.more), (expected, expected < 10));
        }
    }
}

fn an_engine_that_is_closed_says_so(engine: &dyn Engine) {
    engine.close();
    engine.close();
    assert_eq!(engine.get(b"a"), Err(EngineError::Closed));
    assert_eq!(engine.apply(vec![write("a", None)]), Err(EngineError::Closed));
    assert_eq!(engine.sync(), Err(EngineError::Closed));
    assert_eq!(engine.recover(), Err(EngineError::Closed));
    assert!(engine.range(&all()).is_err());
}

#[test]
fn memory_does_what_every_engine_does() {
    for behaviour in BEHAVIOURS {
        behaviour(&MemoryEngine::new(Faults::default()));
    }
}

fn does_what_every_engine_does(backend: Backend) {
    for behaviour in BEHAVIOURS {
        let directory = tempfile::tempdir().unwrap();
        behaviour(&*backend.open(directory.path(), CACHE_BYTES).unwrap());
    }
}

#[test]
fn sled_does_what_every_engine_does() {
    does_what_every_engine_does(Backend::Sled);
}

#[test]
fn redb_does_what_every_engine_does() {
    does_what_every_engine_does(Backend::Redb);
}

// === against the model ===

/// A database in a directory that can be left as a killed process leaves it.
struct Crashing {
    backend: Backend,
    root: tempfile::TempDir,
    generation: u32,
    engine: Arc<dyn Engine>,
}

impl Crashing {
    fn new(backend: Backend) -> Self {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("0");
        std::fs::create_dir(&directory).unwrap();
        let engine = backend.open(&directory, CACHE_BYTES).unwrap();
        Self { backend, root, generation: 0, engine }
    }

    fn directory(&self) -> PathBuf {
        self.root.path().join(self.generation.to_string())
    }

    /// What a killed process leaves is what it had written by then: a copy of its files.
    fn crash(&mut self) {
        let old = self.directory();
        self.generation += 1;
        copy(&old, &self.directory());
        self.engine = self.backend.open(&self.directory(), CACHE_BYTES).unwrap();
        std::fs::remove_dir_all(old).unwrap();
    }

    fn reopen(&mut self) {
        self.engine.close();
        self.engine = self.backend.open(&self.directory(), CACHE_BYTES).unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(&path, to).unwrap();
        }
    }
}

/// The same random batches for the map and all engines, with crashes and openings in between. After a crash an engine
/// holds what the map held after some batch: not one before the last sync, and none in part.
fn compare(seed: u64) {
    println!("seed {seed}");
    let mut dice = Dice(seed);
    let memory = MemoryEngine::new(Faults::default());
    let mut disks = Backend::ALL.map(Crashing::new);
    let mut model = Model::new();
    // What the map was after each batch since the last sync.
    let mut since = vec![model.clone()];
    for _ in 0..60 {
        match dice.roll(20) {
            0 => disks.iter_mut().for_each(Crashing::reopen),
            1 | 2 => {
                disks.iter_mut().for_each(Crashing::crash);
                for disk in &disks {
                    let found = content(&*disk.engine);
                    assert!(since.contains(&found), "{}: seed {seed}: lost or torn", disk.backend);
                }
                // They may have kept different ends: all go on from the one of the map.
                for disk in &disks {
                    let found = content(&*disk.engine);
                    let gone = found.keys().filter(|key| !model.contains_key(*key)).map(|key| write(key, None));
                    let kept = model.iter().map(|(key, value)| write(key, Some(value)));
                    disk.engine.apply(gone.chain(kept).collect()).unwrap();
                    disk.engine.sync().unwrap();
                }
                since = vec![model.clone()];
            }
            3..=6 => {
                disks.iter().for_each(|disk| disk.engine.sync().unwrap());
                since = vec![model.clone()];
            }
            kind => {
                let before = dice.0;
                memory.apply(random_batch(&mut dice, &mut model)).unwrap();
                for disk in &disks {
                    let batch = random_batch(&mut Dice(before), &mut Model::new());
                    if kind < 10 { disk.engine.commit(batch) } else { disk.engine.apply(batch) }.unwrap();
                }
                if kind < 10 {
                    since.clear();
                }
                since.push(model.clone());
            }
        }
        let from = format!("key {:03}", dice.roll(200)).into_bytes();
        let order = if dice.roll(2) == 0 { Order::Forward } else { Order::Backward };
        let span = Span { from: Bound::Included(from), count_max: 1 + dice.roll(9) as usize, order, ..all() };
        let expected = memory.range(&span).unwrap();
        for disk in &disks {
            let found = disk.engine.range(&span).unwrap();
            assert_eq!((&found.pairs, found.more), (&expected.pairs, expected.more), "{}: seed {seed}", disk.backend);
        }
    }
    for disk in &disks {
        assert_eq!(content(&*disk.engine), model, "{}: seed {seed}", disk.backend);
    }
}

#[test]
fn all_engines_hold_what_a_map_holds_whatever_happens_in_between() {
    (0..times(12)).for_each(compare);
}
