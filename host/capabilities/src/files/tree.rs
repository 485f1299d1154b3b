//! The directory of one plugin as records of its tenant's store: names, nodes and pieces of content, all sealed.
//!
//! Under `file/<plugin>`: `entry/<directory>/<name>` says which node a name stands for, `node/<node>` what it is,
//! `above/<directory>` which directory a directory lies in, `piece/<node>/<number>` holds 64 KiB of a file's content (a
//! piece that is missing or short reads as zeros), and `gone/<node>` says that the pieces of a node without a name are
//! being removed. The root is node 0 and always there.
//! Every act is one batch that holds only while what it was decided on is unchanged, and is tried again when it is not:
//! a crash leaves it done or not begun. There are no links of either kind, so that a path means one thing.
//! Must never reach outside `file/<plugin>`: nothing here is a path of the host's.

use ringfence_core::{Clock, Entropy, PluginName};
use ringfence_store::{Key, Op, PageToken, Precondition, StoreError, TenantStore};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The plugin's directory itself.
pub(crate) const ROOT: u64 = 0;
/// Bytes of a piece; a value of this length still lies in the database.
const PIECE_BYTES: u64 = 64 << 10;
/// LIMIT: bytes of one read or write.
pub(crate) const TRANSFER_BYTES_MAX: usize = 1 << 20;
/// LIMIT: most bytes of one file (64 GiB).
pub(crate) const FILE_BYTES_MAX: u64 = 64 << 30;
/// LIMIT: most bytes of one name and of a path.
const NAME_BYTES_MAX: usize = 255;
const PATH_BYTES_MAX: usize = 4_096;
/// LIMIT: how deep directories lie in each other.
const DEPTH_MAX: usize = 64;
/// LIMIT: times an act is tried again when somebody else was faster.
const TRIES_MAX: usize = 64;
/// Pieces removed by one batch.
const REMOVE_COUNT: u64 = 500;
/// Files whose removal was cut short that one call goes on with.
const RESUMED_COUNT_MAX: usize = 8;

/// Why an act is refused, in the words of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    Access,
    Busy,
    Quota,
    Exists,
    TooLarge,
    Sequence,
    Invalid,
    Broken,
    IsDirectory,
    NameTooLong,
    NoEntry,
    Full,
    NotDirectory,
    NotEmpty,
    Unsupported,
    NotPermitted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Directory,
    File,
}

/// What is known of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    /// Of a file: its length.
    pub(crate) bytes: u64,
    pub(crate) modified_at_ns: u64,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Entry {
    node: u64,
    kind: Kind,
}

/// Where a path leads: a directory, and a name in it that may be there.
pub(crate) struct Place {
    directory: u64,
    /// None for the directory itself, where the path was `.` or came back with `..`.
    name: Option<String>,
    found: Option<(Entry, u64)>,
    must_be_directory: bool,
}

/// What opening may do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Create {
    Never,
    IfAbsent,
    Always,
}

/// One plugin's directory. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Tree {
    pub(crate) store: TenantStore,
    pub(crate) plugin: PluginName,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
}

type Answer<T> = Result<T, Refused>;

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        tracing::debug!(%error, "a call on files failed");
        match error {
            StoreError::Quota { .. } => Self::Quota,
            StoreError::Full { .. } => Self::Full,
            StoreError::TooLarge { .. } => Self::TooLarge,
            _ => Self::Broken,
        }
    }
}

// === impl Place ===

impl Place {
    /// The node the path leads to.
    pub(crate) fn node(&self) -> Answer<(u64, Kind)> {
        match (&self.name, &self.found) {
            (None, _) => Ok((self.directory, Kind::Directory)),
            (Some(_), Some((entry, _))) if self.must_be_directory && entry.kind == Kind::File => {
                Err(Refused::NotDirectory)
            }
            (Some(_), Some((entry, _))) => Ok((entry.node, entry.kind)),
            (Some(_), None) => Err(Refused::NoEntry),
        }
    }

    /// The name with what it stands for; a path without one (`.`) can be neither made nor removed.
    fn named(&self) -> Answer<(&str, Option<(Entry, u64)>)> {
        let name = self.name.as_deref().ok_or(Refused::Invalid)?;
        Ok((name, self.found))
    }
}

// === impl Tree: keys ===

impl Tree {
    fn key(&self, area: &str, node: u64) -> Key {
        Key::new(["file", self.plugin.as_str(), area]).number(node)
    }
    fn node_key(&self, node: u64) -> Key {
        self.key("node", node)
    }
    fn entry_key(&self, directory: u64, name: &str) -> Key {
        self.key("entry", directory).push(name)
    }
    fn above_key(&self, directory: u64) -> Key {
        self.key("above", directory)
    }
    fn piece_key(&self, node: u64, piece: u64) -> Key {
        self.key("piece", node).number(piece)
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.clock.now().as_nanosecond()).unwrap_or(0)
    }

    fn new_node(&self) -> u64 {
        let mut number = [0; 8];
        self.entropy.fill(&mut number);
        u64::from_be_bytes(number).max(ROOT + 1)
    }
}

// === impl Tree: looking ===

impl Tree {
    /// A node with the revision it was found at; the root is there without a record.
    async fn get(&self, node: u64) -> Answer<(Node, Option<u64>)> {
        match self.store.get(&self.node_key(node)).await? {
            Some(record) => Ok((record.json()?, Some(record.revision))),
            None if node == ROOT => Ok((Node { kind: Kind::Directory, bytes: 0, modified_at_ns: 0 }, None)),
            None => Err(Refused::NoEntry),
        }
    }

    pub(crate) async fn stat(&self, node: u64) -> Answer<Node> {
        Ok(self.get(node).await?.0)
    }

    /// Follows a path from a directory. Never above it, whatever the path says.
    pub(crate) async fn follow(&self, base: u64, path: &str) -> Answer<Place> {
        if path.len() > PATH_BYTES_MAX {
            return Err(Refused::NameTooLong);
        }
        if path.is_empty() {
            return Err(Refused::NoEntry);
        }
        if path.starts_with('/') {
            return Err(Refused::NotPermitted);
        }
        if path.contains('\0') {
            return Err(Refused::Sequence);
        }
        let must_be_directory = path.ends_with('/') || path.ends_with("/.");
        let mut above: Vec<u64> = Vec::new();
        let mut here = Place { directory: base, name: None, found: None, must_be_directory };
        for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
            // What came before has to be a directory.
            let (node, kind) = here.node()?;
            if kind != Kind::Directory {
                return Err(Refused::NotDirectory);
            }
            if part == ".." {
                let directory =
                    if here.name.is_some() { here.directory } else { above.pop().ok_or(Refused::NotPermitted)? };
                here = Place { directory, name: None, found: None, must_be_directory };
                continue;
            }
            if part.len() > NAME_BYTES_MAX || above.len() > DEPTH_MAX {
                return Err(Refused::NameTooLong);
            }
            if here.name.is_some() {
                above.push(here.directory);
            }
            let found = self.entry(node, part).await?;
            here = Place { directory: node, name: Some(part.to_owned()), found, must_be_directory };
        }
        Ok(here)
    }

    async fn entry(&self, directory: u64, name: &str) -> Answer<Option<(Entry, u64)>> {
        let Some(record) = self.store.get(&self.entry_key(directory, name)).await? else { return Ok(None) };
        Ok(Some((record.json()?, record.revision)))
    }

    /// Some names of a directory, after the token of the page before.
    pub(crate) async fn list(
        &self,
        directory: u64,
        after: Option<&PageToken>,
        limit: usize,
    ) -> Answer<(Vec<(String, Kind)>, Option<PageToken>)> {
        let page = self.store.scan(&self.key("entry", directory), after, limit).await?;
        let mut names = Vec::with_capacity(page.records.len());
        for (key, record) in &page.records {
            let entry: Entry = record.json()?;
            names.extend(key.last_name().map(|name| (name.to_owned(), entry.kind)));
        }
        Ok((names, page.next))
    }
}

// === impl Tree: names ===

impl Tree {
    /// The node at a path, made as an empty file when it is not there and may be.
    pub(crate) async fn open(&self, base: u64, path: &str, create: Create) -> Answer<(u64, Kind)> {
        for _ in 0..TRIES_MAX {
            let place = self.follow(base, path).await?;
            match (place.node(), create) {
                (Ok(_), Create::Always) => return Err(Refused::Exists),
                (Err(Refused::NoEntry), Create::IfAbsent | Create::Always) => {
                    if place.must_be_directory {
                        return Err(Refused::IsDirectory);
                    }
                    if let Some(node) = self.make(&place, Kind::File).await? {
                        return Ok((node, Kind::File));
                    }
                }
                (found, _) => return found,
            }
        }
        Err(Refused::Busy)
    }

    pub(crate) async fn make_directory(&self, base: u64, path: &str) -> Answer<()> {
        for _ in 0..TRIES_MAX {
            let place = self.follow(base, path).await?;
            match place.node() {
                Ok(_) | Err(Refused::NotDirectory) => return Err(Refused::Exists),
                Err(Refused::NoEntry) => {}
                Err(refused) => return Err(refused),
            }
            if self.depth(place.directory).await?.len() >= DEPTH_MAX {
                return Err(Refused::NameTooLong);
            }
            if self.make(&place, Kind::Directory).await?.is_some() {
                return Ok(());
            }
        }
        Err(Refused::Busy)
    }

    pub(crate) async fn remove_file(&self, base: u64, path: &str) -> Answer<()> {
        self.remove(base, path, Kind::File).await
    }

    pub(crate) async fn remove_directory(&self, base: u64, path: &str) -> Answer<()> {
        self.remove(base, path, Kind::Directory).await
    }

    /// Gives a node another name, in place of what is there: a file for a file, a directory for an empty directory.
    pub(crate) async fn rename(&self, from: (u64, &str), to: (u64, &str)) -> Answer<()> {
        for _ in 0..TRIES_MAX {
            let (was, will) = (self.follow(from.0, from.1).await?, self.follow(to.0, to.1).await?);
            let (_, moved) = was.named()?;
            let (entry, _) = moved.ok_or(Refused::NoEntry)?;
            if (was.must_be_directory || will.must_be_directory) && entry.kind == Kind::File {
                return Err(Refused::NotDirectory);
            }
            if (was.directory, &was.name) == (will.directory, &will.name) {
                return Ok(());
            }
            let Some(removed) = self.try_rename(&was, &will).await? else { continue };
            if removed {
                self.remove_gone().await?;
            }
            return Ok(());
        }
        Err(Refused::Busy)
    }

    /// None when somebody else was faster; otherwise whether a file lost its name.
    async fn try_rename(&self, was: &Place, will: &Place) -> Answer<Option<bool>> {
        let ((name, moved), (new_name, target)) = (was.named()?, will.named()?);
        let (entry, revision) = moved.ok_or(Refused::NoEntry)?;
        let (old_key, new_key) = (self.entry_key(was.directory, name), self.entry_key(will.directory, new_name));
        let mut ops = vec![Op::delete(old_key.clone()), Op::put_json(new_key.clone(), &entry)?];
        let mut only_if = vec![Precondition::Revision(old_key, revision)];
        let mut removed = false;
        match target {
            None => only_if.push(Precondition::Absent(new_key)),
            Some((target, revision)) => {
                only_if.push(Precondition::Revision(new_key, revision));
                match (entry.kind, target.kind) {
                    (Kind::File, Kind::Directory) => return Err(Refused::IsDirectory),
                    (Kind::Directory, Kind::File) => return Err(Refused::NotDirectory),
                    (Kind::Directory, Kind::Directory) => only_if.push(self.empty(target.node).await?),
                    (Kind::File, Kind::File) => removed = true,
                }
                self.end_node(target, &mut ops);
            }
        }
        if entry.kind == Kind::Directory && was.directory != will.directory {
            // The way up from the new place must not pass the directory itself, nor change until this is written.
            let way = self.depth(will.directory).await?;
            if way.iter().any(|(node, _)| *node == entry.node) || will.directory == entry.node {
                return Err(Refused::Invalid);
            }
            if way.len() >= DEPTH_MAX {
                return Err(Refused::NameTooLong);
            }
            let same = |(node, revision): &(u64, u64)| Precondition::Revision(self.above_key(*node), *revision);
            only_if.extend(way.iter().map(same));
            let (_, revision) = self.above(entry.node).await?;
            only_if.push(same(&(entry.node, revision)));
            ops.push(Op::put_json(self.above_key(entry.node), &will.directory)?);
        }
        for directory in [was.directory, will.directory] {
            self.touch(directory, &mut ops, &mut only_if).await?;
        }
        Ok(self.commit(ops, only_if).await?.then_some(removed))
    }

    async fn make(&self, place: &Place, kind: Kind) -> Answer<Option<u64>> {
        let (name, _) = place.named()?;
        let (key, node) = (self.entry_key(place.directory, name), self.new_node());
        let record = Node { kind, bytes: 0, modified_at_ns: self.now_ns() };
        let mut ops =
            vec![Op::put_json(key.clone(), &Entry { node, kind })?, Op::put_json(self.node_key(node), &record)?];
        let mut only_if = vec![Precondition::Absent(key), Precondition::Absent(self.node_key(node))];
        if kind == Kind::Directory {
            ops.push(Op::put_json(self.above_key(node), &place.directory)?);
        }
        self.touch(place.directory, &mut ops, &mut only_if).await?;
        Ok(self.commit(ops, only_if).await?.then_some(node))
    }

    async fn remove(&self, base: u64, path: &str, kind: Kind) -> Answer<()> {
        for _ in 0..TRIES_MAX {
            let place = self.follow(base, path).await?;
            let (name, found) = place.named()?;
            let (entry, revision) = found.ok_or(Refused::NoEntry)?;
            match (entry.kind, kind) {
                (Kind::File, Kind::Directory) => return Err(Refused::NotDirectory),
                (Kind::Directory, Kind::File) => return Err(Refused::IsDirectory),
                (Kind::File, Kind::File) if place.must_be_directory => return Err(Refused::NotDirectory),
                _ => {}
            }
            let key = self.entry_key(place.directory, name);
            let mut ops = vec![Op::delete(key.clone())];
            let mut only_if = vec![Precondition::Revision(key, revision)];
            if kind == Kind::Directory {
                only_if.push(self.empty(entry.node).await?);
            }
            self.end_node(entry, &mut ops);
            self.touch(place.directory, &mut ops, &mut only_if).await?;
            if self.commit(ops, only_if).await? {
                return if kind == Kind::File { self.remove_gone().await } else { Ok(()) };
            }
        }
        Err(Refused::Busy)
    }

    /// What a node without a name leaves: nothing, and of a file the note that its pieces are to go.
    fn end_node(&self, entry: Entry, ops: &mut Vec<Op>) {
        ops.push(Op::delete(self.node_key(entry.node)));
        match entry.kind {
            Kind::File => ops.push(Op::put(self.key("gone", entry.node), Vec::new())),
            Kind::Directory => ops.push(Op::delete(self.above_key(entry.node))),
        }
    }

    /// That a directory is empty and stays so: whatever is made in it changes its node.
    async fn empty(&self, directory: u64) -> Answer<Precondition> {
        let revision = self.get(directory).await?.1.ok_or(Refused::NotPermitted)?;
        if self.list(directory, None, 1).await?.0.is_empty() {
            Ok(Precondition::Revision(self.node_key(directory), revision))
        } else {
            Err(Refused::NotEmpty)
        }
    }

    /// Notes the time in a directory that changes, if it is still there. The root has no record until something changes.
    async fn touch(&self, directory: u64, ops: &mut Vec<Op>, only_if: &mut Vec<Precondition>) -> Answer<()> {
        let key = self.node_key(directory);
        let (node, _) = self.get(directory).await?;
        ops.push(Op::put_json(key.clone(), &Node { modified_at_ns: self.now_ns(), ..node })?);
        if directory != ROOT {
            only_if.push(Precondition::Present(key));
        }
        Ok(())
    }

    /// A directory and those above it below the root, each with the revision of where it lies.
    async fn depth(&self, mut directory: u64) -> Answer<Vec<(u64, u64)>> {
        let mut way = Vec::new();
        while directory != ROOT {
            let (above, revision) = self.above(directory).await?;
            way.push((directory, revision));
            if way.len() > DEPTH_MAX {
                return Err(Refused::NameTooLong);
            }
            directory = above;
        }
        Ok(way)
    }

    /// The directory that a directory lies in.
    async fn above(&self, directory: u64) -> Answer<(u64, u64)> {
        let record = self.store.get(&self.above_key(directory)).await?.ok_or(Refused::NoEntry)?;
        Ok((record.json()?, record.revision))
    }

    /// Whether it was written; not when somebody else was faster.
    async fn commit(&self, ops: Vec<Op>, only_if: Vec<Precondition>) -> Answer<bool> {
        match self.store.batch(ops, only_if).await {
            Ok(_) => Ok(true),
            Err(StoreError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

// === impl Tree: content ===

impl Tree {
    /// Some bytes of a file; none at its end.
    pub(crate) async fn read(&self, node: u64, from: u64, count: usize) -> Answer<Vec<u8>> {
        let about = self.stat(node).await?;
        if about.kind == Kind::Directory {
            return Err(Refused::IsDirectory);
        }
        let end = about.bytes.min(from.saturating_add(count.min(TRANSFER_BYTES_MAX) as u64));
        let mut content = Vec::new();
        let mut at = from;
        while at < end {
            let piece = self.store.get(&self.piece_key(node, at / PIECE_BYTES)).await?;
            let piece = piece.as_ref().map(|record| record.value.as_slice()).unwrap_or_default();
            let skip = usize::try_from(at % PIECE_BYTES).unwrap_or(0);
            let wanted = usize::try_from((PIECE_BYTES - at % PIECE_BYTES).min(end - at)).unwrap_or(0);
            let there = piece.get(skip..).unwrap_or_default();
            let there = there.get(..wanted).unwrap_or(there);
            content.extend_from_slice(there);
            content.resize(content.len() + (wanted - there.len()), 0);
            at += wanted as u64;
        }
        Ok(content)
    }

    /// Writes bytes at a place, or at the end when `at` is none; says where the next ones go. One batch, at most
    /// [`TRANSFER_BYTES_MAX`] bytes.
    pub(crate) async fn write(&self, node: u64, at: Option<u64>, data: &[u8]) -> Answer<u64> {
        if data.len() > TRANSFER_BYTES_MAX {
            return Err(Refused::Invalid);
        }
        for _ in 0..TRIES_MAX {
            let (about, revision) = self.get(node).await?;
            if about.kind == Kind::Directory {
                return Err(Refused::IsDirectory);
            }
            let from = at.unwrap_or(about.bytes);
            let end =
                from.checked_add(data.len() as u64).filter(|end| *end <= FILE_BYTES_MAX).ok_or(Refused::TooLarge)?;
            if data.is_empty() {
                return Ok(from);
            }
            let about = Node { bytes: about.bytes.max(end), modified_at_ns: self.now_ns(), ..about };
            let mut ops = self.pieces(node, from, data).await?;
            ops.push(Op::put_json(self.node_key(node), &about)?);
            let key = self.node_key(node);
            let only_if = revision.map(|revision| Precondition::Revision(key, revision));
            if self.commit(ops, only_if.into_iter().collect()).await? {
                return Ok(end);
            }
        }
        Err(Refused::Busy)
    }

    /// The pieces that a write changes, as they will be.
    async fn pieces(&self, node: u64, from: u64, mut data: &[u8]) -> Answer<Vec<Op>> {
        let mut ops = Vec::with_capacity(data.len() / (PIECE_BYTES as usize) + 3);
        let mut at = from;
        while !data.is_empty() {
            let skip = usize::try_from(at % PIECE_BYTES).unwrap_or(0);
            let (now, later) = data.split_at_checked(PIECE_BYTES as usize - skip).unwrap_or((data, &[]));
            let key = self.piece_key(node, at / PIECE_BYTES);
            let mut piece = match now.len() as u64 {
                PIECE_BYTES => Vec::new(),
                _ => self.store.get(&key).await?.map(|record| record.value.to_vec()).unwrap_or_default(),
            };
            let end = skip + now.len();
            if piece.len() < end {
                piece.resize(end, 0);
            }
            if let Some(part) = piece.get_mut(skip..end) {
                part.copy_from_slice(now);
            }
            ops.push(Op::put(key, piece));
            at += now.len() as u64;
            data = later;
        }
        Ok(ops)
    }

    /// Cuts a file or makes it longer by zeros. A large cut is done in steps from the end, each whole.
    pub(crate) async fn set_bytes(&self, node: u64, bytes: u64) -> Answer<()> {
        if bytes > FILE_BYTES_MAX {
            return Err(Refused::TooLarge);
        }
        let mut tries = 0;
        while tries < TRIES_MAX {
            let (about, revision) = self.get(node).await?;
            if about.kind == Kind::Directory {
                return Err(Refused::IsDirectory);
            }
            let last = about.bytes.div_ceil(PIECE_BYTES);
            let step = bytes.max(last.saturating_sub(REMOVE_COUNT) * PIECE_BYTES).min(bytes.max(about.bytes));
            let mut ops: Vec<Op> =
                (step.div_ceil(PIECE_BYTES)..last).map(|piece| Op::delete(self.piece_key(node, piece))).collect();
            if step < about.bytes && step % PIECE_BYTES != 0 {
                let key = self.piece_key(node, step / PIECE_BYTES);
                if let Some(record) = self.store.get(&key).await? {
                    let keep = usize::try_from(step % PIECE_BYTES).unwrap_or(0);
                    ops.push(Op::put(key, record.value.get(..keep).unwrap_or(&record.value).to_vec()));
                }
            }
            let about = Node { bytes: step, modified_at_ns: self.now_ns(), ..about };
            ops.push(Op::put_json(self.node_key(node), &about)?);
            let key = self.node_key(node);
            let only_if = revision.map(|revision| Precondition::Revision(key, revision));
            match self.commit(ops, only_if.into_iter().collect()).await? {
                true if step == bytes => return Ok(()),
                true => {}
                false => tries += 1,
            }
        }
        Err(Refused::Busy)
    }

    /// Sets the time of the last change.
    pub(crate) async fn set_modified(&self, node: u64, modified_at_ns: Option<u64>) -> Answer<()> {
        for _ in 0..TRIES_MAX {
            let (about, revision) = self.get(node).await?;
            let key = self.node_key(node);
            let about = Node { modified_at_ns: modified_at_ns.unwrap_or_else(|| self.now_ns()), ..about };
            let put = Op::put_json(key.clone(), &about)?;
            let only_if = revision.map(|revision| Precondition::Revision(key, revision));
            if self.commit(vec![put], only_if.into_iter().collect()).await? {
                return Ok(());
            }
        }
        Err(Refused::Busy)
    }

    /// Removes the pieces of files without a name, those of a removal that was cut short too.
    async fn remove_gone(&self) -> Answer<()> {
        let gone = Key::new(["file", self.plugin.as_str(), "gone"]);
        let (nodes, _) = self.store.scan_names(&gone, None, RESUMED_COUNT_MAX).await?;
        for node in nodes.iter().filter_map(Key::last_number) {
            loop {
                // The names alone: a piece that does not open any more has to go too, and must not keep others from going.
                let count = usize::try_from(REMOVE_COUNT).unwrap_or(1);
                let (pieces, _) = self.store.scan_names(&self.key("piece", node), None, count).await?;
                if pieces.is_empty() {
                    break;
                }
                self.store.batch(pieces.into_iter().map(Op::delete).collect(), Vec::new()).await?;
            }
            self.store.delete(&gone.clone().number(node)).await?;
        }
        Ok(())
    }
}
