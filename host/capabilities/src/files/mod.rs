//! `wasi:filesystem`: a directory of the plugin's own, kept sealed in its tenant's store.
//!
//! Nothing of the host's file system stands behind it, so that no path can lead there. A plugin without the grant finds no
//! directory at all, as if nothing were offered. There are no links; a file that loses its name is gone for those too who
//! have it open. Must never give out a directory without the grant, and asks for it again at every call.

mod host;
mod stream;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::VecDeque;
use std::fmt;

use ringfence_core::{Capability, HostAct, On};
use ringfence_engine::Guest;
use ringfence_store::PageToken;
use wasmtime::component::{Linker, Resource, ResourceTableError};

use self::stream::Counted;
use self::tree::{Create, Kind, Node, ROOT, Refused, Tree};
use crate::bind::{Bound, View};
use crate::guarded::Got;

/// Names read at a time.
const NAMES_COUNT: usize = 100;

/// An open file or directory.
pub struct Descriptor {
    node: u64,
    kind: Kind,
    access: Access,
}

/// What an open file or directory may be used for: its contents, or for a directory the names in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Access {
    read: Allowed,
    change: Allowed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Allowed {
    Yes,
    No,
}

/// A directory that is being listed.
pub struct Listing {
    directory: u64,
    waiting: VecDeque<(String, Kind)>,
    next: Next,
}

enum Next {
    Start,
    After(PageToken),
    End,
}

/// What failed under a stream, for the call that asks.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) Refused);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the file could not be read or written")
    }
}

impl std::error::Error for Failure {}

/// Why a call fails: for the guest, or as a trap.
pub(crate) enum FilesError {
    Refused(Refused),
    Trap(wasmtime::Error),
}

type Answer<T> = Result<T, FilesError>;

/// Offers `wasi:filesystem@0.2.x` in place of the one that is always empty.
pub(crate) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    host::link(linker)
}

impl From<Refused> for FilesError {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}
impl From<wasmtime::Error> for FilesError {
    fn from(error: wasmtime::Error) -> Self {
        Self::Trap(error)
    }
}
impl From<ResourceTableError> for FilesError {
    fn from(error: ResourceTableError) -> Self {
        Self::Trap(error.into())
    }
}

impl Allowed {
    fn of(is: bool) -> Self {
        if is { Self::Yes } else { Self::No }
    }
    fn check(self) -> Result<(), Refused> {
        if self == Self::Yes { Ok(()) } else { Err(Refused::NotPermitted) }
    }
}

// === impl Bound ===

impl Bound {
    fn tree(&self) -> Tree {
        Tree {
            store: self.store.clone(),
            plugin: self.plugin.clone(),
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
        }
    }

    /// Counts a call and an operation, and asks for the grant and policy.
    fn files_enter(&self, act: HostAct) -> Answer<Tree> {
        self.call()?;
        if !self.grants.has(Capability::Files) {
            return Err(Refused::Access.into());
        }
        self.files_leave(act)?;
        self.ledger.storage_ops(1).map_err(|_exhausted| Refused::Quota)?;
        self.meter.storage_op();
        Ok(self.tree())
    }

    fn files_leave(&self, act: HostAct) -> Answer<()> {
        Ok(self.leave.ask(act, On::Directory).map_err(|_| Refused::Access)?)
    }

    /// What a stream is counted with that does this.
    fn counted(&self, act: HostAct) -> Answer<Counted> {
        let leave = (self.leave.clone(), act);
        Ok(Counted::new(self.grants.clone(), leave, self.meter.clone(), self.ledger.clone())?)
    }
}

// === impl View ===

impl View<'_> {
    /// The plugin's directory, when it is granted; never an error, because every program asks as it starts.
    fn files_preopened(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        let Ok(bound) = self.bound() else { return Ok(Vec::new()) };
        if !bound.grants.has(Capability::Files) {
            return Ok(Vec::new());
        }
        bound.call()?;
        let access = Access { read: Allowed::Yes, change: Allowed::Yes };
        let root = self.table.push(Descriptor { node: ROOT, kind: Kind::Directory, access })?;
        Ok(vec![(root, "/".to_owned())])
    }

    /// An open file or directory, after the call is counted and the grant and policy are asked.
    fn files_at(&mut self, descriptor: &Resource<Descriptor>, act: HostAct) -> Answer<(Tree, u64, Kind, Access)> {
        let Descriptor { node, kind, access } = *self.table.get(descriptor)?;
        Ok((self.bound()?.files_enter(act)?, node, kind, access))
    }

    fn files_directory(&mut self, descriptor: &Resource<Descriptor>, act: HostAct) -> Answer<(Tree, u64, Access)> {
        let (tree, node, kind, access) = self.files_at(descriptor, act)?;
        if kind == Kind::Directory { Ok((tree, node, access)) } else { Err(Refused::NotDirectory.into()) }
    }

    fn files_file(&mut self, descriptor: &Resource<Descriptor>, act: HostAct) -> Answer<(Tree, u64, Access)> {
        let (tree, node, kind, access) = self.files_at(descriptor, act)?;
        if kind == Kind::File { Ok((tree, node, access)) } else { Err(Refused::IsDirectory.into()) }
    }

    /// A directory whose names may be changed.
    fn files_changing(&mut self, descriptor: &Resource<Descriptor>) -> Answer<(Tree, u64)> {
        let (tree, node, access) = self.files_directory(descriptor, HostAct::WriteFile)?;
        access.change.check()?;
        Ok((tree, node))
    }

    async fn files_next_name(&mut self, listing: &Resource<Listing>) -> Answer<Option<(String, Kind)>> {
        let found = self.table.get_mut(listing)?;
        if let Some(name) = found.waiting.pop_front() {
            return Ok(Some(name));
        }
        let (directory, next) = (found.directory, std::mem::replace(&mut found.next, Next::End));
        let after = match &next {
            Next::End => return Ok(None),
            Next::Start => None,
            Next::After(token) => Some(token),
        };
        let tree = self.bound()?.files_enter(HostAct::ReadFile)?;
        let (names, next) = tree.list(directory, after, NAMES_COUNT).await?;
        let found = self.table.get_mut(listing)?;
        found.next = next.map_or(Next::End, Next::After);
        found.waiting = names.into();
        Ok(found.waiting.pop_front())
    }

    /// Tells of a path that is bait. Only what is not there says something of a name of the host's.
    fn files_asked<T>(&mut self, path: &str, found: &Answer<T>) {
        let got = match found {
            Ok(_) => Got::Something,
            Err(FilesError::Refused(Refused::NoEntry)) => Got::Nothing,
            Err(FilesError::Refused(Refused::Access)) => Got::Unknown,
            Err(_) => return,
        };
        if let Ok(bound) = self.bound() {
            bound.guarded.asked_path("file", path, got);
        }
    }

    async fn files_stat_at(&mut self, descriptor: &Resource<Descriptor>, path: &str) -> Answer<(u64, Node)> {
        let found = self.files_find(descriptor, path).await;
        self.files_asked(path, &found);
        found
    }

    async fn files_find(&mut self, descriptor: &Resource<Descriptor>, path: &str) -> Answer<(u64, Node)> {
        let (tree, base, _) = self.files_directory(descriptor, HostAct::ReadFile)?;
        let (node, _) = tree.follow(base, path).await?.node()?;
        Ok((node, tree.stat(node).await?))
    }

    async fn files_open(
        &mut self,
        descriptor: &Resource<Descriptor>,
        path: &str,
        how: Opening,
    ) -> Answer<Resource<Descriptor>> {
        let opened = self.files_open_now(descriptor, path, how).await;
        self.files_asked(path, &opened);
        opened
    }

    async fn files_open_now(
        &mut self,
        descriptor: &Resource<Descriptor>,
        path: &str,
        how: Opening,
    ) -> Answer<Resource<Descriptor>> {
        // Libraries open directories as if to change them, and then only read.
        let writes = how.create != Create::Never || how.truncate == Allowed::Yes;
        let act = if writes { HostAct::WriteFile } else { HostAct::ReadFile };
        let (tree, base, access) = self.files_directory(descriptor, act)?;
        if writes || how.access.change == Allowed::Yes {
            access.change.check()?;
        }
        if how.directory == Allowed::Yes && how.create != Create::Never {
            return Err(Refused::Invalid.into());
        }
        let (node, kind) = tree.open(base, path, how.create).await?;
        match kind {
            Kind::File if how.directory == Allowed::Yes => return Err(Refused::NotDirectory.into()),
            Kind::Directory if how.truncate == Allowed::Yes => return Err(Refused::IsDirectory.into()),
            Kind::File if how.truncate == Allowed::Yes => tree.set_bytes(node, 0).await?,
            _ => {}
        }
        // Within a directory that may be changed every directory may be, however it is opened: libraries open them to read.
        let access = if kind == Kind::Directory { access } else { how.access };
        Ok(self.table.push(Descriptor { node, kind, access })?)
    }
}

/// How a path is opened.
#[derive(Clone, Copy)]
struct Opening {
    create: Create,
    /// It has to be a directory.
    directory: Allowed,
    truncate: Allowed,
    access: Access,
}
