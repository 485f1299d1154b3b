//! redb on a disk that loses power: every sector written since the last sync may have reached it or not, each for itself,
//! and the power goes at any write, in the middle of a commit too. And on a disk whose sync fails. Seeds are printed.

use std::io;
use std::sync::{Arc, Mutex};

use ::redb::StorageBackend;

use super::redb::{Medium, RedbEngine};
use super::suite::{Dice, Model, content, random_batch, times};
use super::*;

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// A disk: what it would hold after a power cut, what it says it holds, and how many acts it has left.
#[derive(Debug, Default)]
struct Disk {
    durable: Vec<u8>,
    current: Vec<u8>,
    /// Sectors written since the last sync.
    fresh: std::collections::BTreeSet<usize>,
    /// Writes and syncs until the power goes.
    acts_left: Option<u64>,
    /// Syncs until one fails.
    syncs_left: Option<u64>,
}

#[derive(Debug, Clone, Default)]
struct Shared(Arc<Mutex<Disk>>);

impl Shared {
    fn disk<T>(&self, act: impl FnOnce(&mut Disk) -> T) -> T {
        act(&mut self.0.lock().unwrap())
    }

    /// The power goes and comes back: each fresh sector is there or not.
    fn cut(&self, dice: &mut Dice) {
        self.disk(|disk| {
            let mut after = disk.durable.clone();
            // The length is a thing of its own, which may have reached the disk or not.
            if dice.roll(2) == 0 {
                after.resize(disk.current.len(), 0);
            }
            for sector in std::mem::take(&mut disk.fresh) {
                let end = ((sector + 1) * SECTOR_BYTES).min(after.len()).min(disk.current.len());
                if dice.roll(2) == 0 && sector * SECTOR_BYTES < end {
                    let place = sector * SECTOR_BYTES..end;
                    after[place.clone()].copy_from_slice(&disk.current[place]);
                }
            }
            *disk = Disk { durable: after.clone(), current: after, ..Disk::default() };
        });
    }
}

impl Disk {
    fn act(&mut self) -> io::Result<()> {
        match &mut self.acts_left {
            Some(0) => Err(io::Error::other("the power is gone")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl StorageBackend for Shared {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk(|disk| disk.current.len() as u64))
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk(|disk| {
            let place = disk.current.get(offset as usize..offset as usize + out.len());
            out.copy_from_slice(place.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk(|disk| {
            disk.act()?;
            disk.current.resize(len as usize, 0);
            Ok(())
        })
    }
    fn sync_data(&self) -> io::Result<()> {
        self.disk(|disk| {
            disk.act()?;
            if let Some(left) = &mut disk.syncs_left {
                if *left == 0 {
                    disk.syncs_left = None;
                    return Err(io::Error::other("the disk could not write"));
                }
                *left -= 1;
            }
            disk.durable = disk.current.clone();
            disk.fresh.clear();
            Ok(())
        })
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk(|disk| {
            disk.act()?;
            let start = offset as usize;
            disk.current[start..start + data.len()].copy_from_slice(data);
            disk.fresh.extend(start / SECTOR_BYTES..(start + data.len()).div_ceil(SECTOR_BYTES));
            Ok(())
        })
    }
}

impl Medium for Shared {
    type Backend = Self;
    fn open(&self) -> io::Result<Self> {
        Ok(self.clone())
    }
    fn forget(&self) -> io::Result<()> {
        Ok(())
    }
    fn bytes(&self) -> u64 {
        self.disk(|disk| disk.current.len() as u64)
    }
}

/// Batches, syncs and both at once until an error or `batches_max`; what was after each batch since the last sync that was acknowledged.
fn write_until_it_fails(engine: &dyn Engine, dice: &mut Dice, before: Model, batches_max: u64) -> Vec<Model> {
    let mut model = before;
    let mut since = vec![model.clone()];
    for _ in 0..batches_max {
        let batch = random_batch(dice, &mut model);
        let at_once = dice.roll(4) == 0;
        let applied = if at_once { engine.commit(batch) } else { engine.apply(batch) };
        // A batch that failed may be there all the same; nobody was told that it is.
        since.push(model.clone());
        if applied.is_err() {
            break;
        }
        if at_once {
            since = vec![model.clone()];
        } else if dice.roll(3) == 0 {
            if engine.sync().is_err() {
                break;
            }
            since = vec![model.clone()];
        }
    }
    since
}

#[test]
fn nothing_acknowledged_is_lost_when_the_power_goes_at_any_write() {
    for seed in 0..times(60) {
        println!("seed {seed}");
        let mut dice = Dice(seed);
        let shared = Shared::default();
        let mut since = vec![Model::new()];
        for _ in 0..4 {
            let engine = RedbEngine::open_on(shared.clone(), 1 << 20).unwrap_or_else(|failure| panic!("{failure}"));
            let found = content(&engine);
            assert!(since.contains(&found), "seed {seed}: lost or torn");
            shared.disk(|disk| disk.acts_left = Some(dice.roll(400)));
            since = write_until_it_fails(&engine, &mut dice, found, 60);
            drop(engine);
            shared.cut(&mut dice);
        }
    }
}

#[test]
fn a_sync_that_fails_is_never_acknowledged_and_nothing_is_served_until_the_disk_was_read_again() {
    for seed in 0..times(20) {
        println!("seed {seed}");
        let mut dice = Dice(seed);
        let shared = Shared::default();
        let engine = RedbEngine::open_on(shared.clone(), 1 << 20).unwrap();
        shared.disk(|disk| disk.syncs_left = Some(dice.roll(8)));
        let since = write_until_it_fails(&engine, &mut dice, Model::new(), 1_000);
        assert!(matches!(engine.sync(), Err(EngineError::Failed(_))), "seed {seed}: it stays out of service");
        assert!(matches!(engine.get(b"key 001"), Err(EngineError::Failed(_))));
        drop(engine);
        shared.cut(&mut dice);
        let engine = RedbEngine::open_on(shared, 1 << 20).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(since.contains(&content(&engine)), "seed {seed}: lost or torn");
    }
}
