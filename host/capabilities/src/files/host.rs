//! `wasi:filesystem@0.2.x` in the words of its interface.
//!
//! Must hold no rule of its own but one: what has to do with links is refused here, because there are none.

use std::time::Duration;

use ringfence_core::HostAct;
use ringfence_engine::Guest;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::p2::bindings::clocks::wall_clock::Datetime;
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream};

use super::stream::{Reader, Writer};
use super::tree::{Create, Kind, Node, Refused};
use super::{Access, Allowed, Answer, Descriptor, Failure, FilesError, Listing, Next, Opening};
use crate::bind::{Bindings, View};
use crate::bindings::filesystem::wasi::filesystem::preopens;
use crate::bindings::filesystem::wasi::filesystem::types::{
    self, Advice, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry, ErrorCode, MetadataHashValue,
    NewTimestamp, OpenFlags, PathFlags,
};

pub(super) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    types::add_to_linker::<_, Bindings>(linker, |guest| View::of(guest))?;
    preopens::add_to_linker::<_, Bindings>(linker, |guest| View::of(guest))?;
    linker.allow_shadowing(false);
    Ok(())
}

type Told<T> = wasmtime::Result<Result<T, ErrorCode>>;

fn told<T>(answer: Answer<T>) -> Told<T> {
    match answer {
        Ok(value) => Ok(Ok(value)),
        Err(FilesError::Refused(refused)) => Ok(Err(code(refused))),
        Err(FilesError::Trap(error)) => Err(error),
    }
}

fn code(refused: Refused) -> ErrorCode {
    match refused {
        Refused::Access => ErrorCode::Access,
        Refused::Busy => ErrorCode::Busy,
        Refused::Quota => ErrorCode::Quota,
        Refused::Exists => ErrorCode::Exist,
        Refused::TooLarge => ErrorCode::FileTooLarge,
        Refused::Sequence => ErrorCode::IllegalByteSequence,
        Refused::Invalid => ErrorCode::Invalid,
        Refused::Broken => ErrorCode::Io,
        Refused::IsDirectory => ErrorCode::IsDirectory,
        Refused::NameTooLong => ErrorCode::NameTooLong,
        Refused::NoEntry => ErrorCode::NoEntry,
        Refused::Full => ErrorCode::InsufficientSpace,
        Refused::NotDirectory => ErrorCode::NotDirectory,
        Refused::NotEmpty => ErrorCode::NotEmpty,
        Refused::Unsupported => ErrorCode::Unsupported,
        Refused::NotPermitted => ErrorCode::NotPermitted,
    }
}

fn kind(kind: Kind) -> DescriptorType {
    match kind {
        Kind::Directory => DescriptorType::Directory,
        Kind::File => DescriptorType::RegularFile,
    }
}

fn stat(node: &Node) -> DescriptorStat {
    let at = Duration::from_nanos(node.modified_at_ns);
    let time = Datetime { seconds: at.as_secs(), nanoseconds: at.subsec_nanos() };
    DescriptorStat {
        type_: kind(node.kind),
        link_count: 1,
        size: node.bytes,
        data_access_timestamp: None,
        data_modification_timestamp: Some(time),
        status_change_timestamp: Some(time),
    }
}

/// The time to set; none when it stays. Inside: none means now.
fn time(new: NewTimestamp) -> Answer<Option<Option<u64>>> {
    Ok(match new {
        NewTimestamp::NoChange => None,
        NewTimestamp::Now => Some(None),
        NewTimestamp::Timestamp(at) => {
            let ns = at.seconds.checked_mul(1_000_000_000).and_then(|ns| ns.checked_add(at.nanoseconds.into()));
            Some(Some(ns.ok_or(Refused::Invalid)?))
        }
    })
}

/// Names the object, and not what is in it.
fn hash(node: u64) -> MetadataHashValue {
    MetadataHashValue { lower: node, upper: 0 }
}

impl preopens::Host for View<'_> {
    async fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        self.files_preopened()
    }
}

impl types::Host for View<'_> {
    async fn filesystem_error_code(&mut self, error: Resource<wasmtime::Error>) -> wasmtime::Result<Option<ErrorCode>> {
        Ok(self.table.get(&error)?.downcast_ref::<Failure>().map(|failure| code(failure.0)))
    }
}

impl types::HostDirectoryEntryStream for View<'_> {
    async fn read_directory_entry(&mut self, this: Resource<Listing>) -> Told<Option<DirectoryEntry>> {
        let next = self.files_next_name(&this).await;
        told(next.map(|next| next.map(|(name, is)| DirectoryEntry { type_: kind(is), name })))
    }
    async fn drop(&mut self, this: Resource<Listing>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

/// The bodies of calls, with `?` on what they may be refused for.
impl View<'_> {
    async fn read_now(&mut self, this: &Resource<Descriptor>, length: u64, offset: u64) -> Answer<(Vec<u8>, bool)> {
        let (tree, node, access) = self.files_file(this, HostAct::ReadFile)?;
        access.read.check()?;
        let content = tree.read(node, offset, usize::try_from(length).unwrap_or(usize::MAX)).await?;
        let ended = length > 0 && content.is_empty();
        Ok((content, ended))
    }

    async fn write_now(&mut self, this: &Resource<Descriptor>, buffer: &[u8], offset: u64) -> Answer<u64> {
        let (tree, node, access) = self.files_file(this, HostAct::WriteFile)?;
        access.change.check()?;
        // As much as goes in one batch; the caller writes the rest next.
        let now = buffer.get(..super::tree::TRANSFER_BYTES_MAX).unwrap_or(buffer);
        tree.write(node, Some(offset), now).await?;
        Ok(now.len() as u64)
    }

    fn reader(&mut self, this: &Resource<Descriptor>, offset: u64) -> Answer<Resource<DynInputStream>> {
        let (tree, node, access) = self.files_file(this, HostAct::ReadFile)?;
        access.read.check()?;
        let counted = self.bound()?.counted(HostAct::ReadFile)?;
        let stream: DynInputStream = Box::new(Reader::new(tree, node, offset, counted));
        Ok(self.table.push(stream)?)
    }

    fn writer(&mut self, this: &Resource<Descriptor>, at: Option<u64>) -> Answer<Resource<DynOutputStream>> {
        let (tree, node, access) = self.files_file(this, HostAct::WriteFile)?;
        access.change.check()?;
        let counted = self.bound()?.counted(HostAct::WriteFile)?;
        let stream: DynOutputStream = Box::new(Writer::new(tree, node, at, counted));
        Ok(self.table.push(stream)?)
    }

    async fn resize(&mut self, this: &Resource<Descriptor>, size: u64) -> Answer<()> {
        let (tree, node, access) = self.files_file(this, HostAct::WriteFile)?;
        access.change.check()?;
        Ok(tree.set_bytes(node, size).await?)
    }

    async fn retime(&mut self, this: &Resource<Descriptor>, path: Option<&str>, modified: NewTimestamp) -> Answer<()> {
        let (tree, base, _, access) = self.files_at(this, HostAct::WriteFile)?;
        access.change.check()?;
        let node = match path {
            None => base,
            Some(path) => tree.follow(self.files_directory(this, HostAct::WriteFile)?.1, path).await?.node()?.0,
        };
        match time(modified)? {
            None => Ok(()),
            Some(at) => Ok(tree.set_modified(node, at).await?),
        }
    }

    async fn status(&mut self, this: &Resource<Descriptor>) -> Answer<DescriptorStat> {
        let (tree, node, ..) = self.files_at(this, HostAct::ReadFile)?;
        Ok(stat(&tree.stat(node).await?))
    }

    /// Whether it is still there: everything that was written is durable already.
    async fn settled(&mut self, this: &Resource<Descriptor>) -> Answer<()> {
        let (tree, node, ..) = self.files_at(this, HostAct::ReadFile)?;
        tree.stat(node).await?;
        Ok(())
    }

    fn listing(&mut self, this: &Resource<Descriptor>) -> Answer<Resource<Listing>> {
        let (_, directory, access) = self.files_directory(this, HostAct::ReadFile)?;
        access.read.check()?;
        Ok(self.table.push(Listing { directory, waiting: Default::default(), next: Next::Start })?)
    }

    async fn rename_now(
        &mut self,
        this: &Resource<Descriptor>,
        from: &str,
        other: &Resource<Descriptor>,
        to: &str,
    ) -> Answer<()> {
        let (tree, base) = self.files_changing(this)?;
        let (_, other) = self.files_changing(other)?;
        Ok(tree.rename((base, from), (other, to)).await?)
    }

    async fn make_directory_now(&mut self, this: &Resource<Descriptor>, path: &str) -> Answer<()> {
        let (tree, base) = self.files_changing(this)?;
        Ok(tree.make_directory(base, path).await?)
    }

    async fn remove_directory_now(&mut self, this: &Resource<Descriptor>, path: &str) -> Answer<()> {
        let (tree, base) = self.files_changing(this)?;
        Ok(tree.remove_directory(base, path).await?)
    }

    async fn remove_file_now(&mut self, this: &Resource<Descriptor>, path: &str) -> Answer<()> {
        let (tree, base) = self.files_changing(this)?;
        Ok(tree.remove_file(base, path).await?)
    }

    fn link_refused<T>(&mut self, this: &Resource<Descriptor>, refused: Refused) -> Answer<T> {
        self.files_changing(this)?;
        Err(refused.into())
    }
}

impl types::HostDescriptor for View<'_> {
    async fn read_via_stream(&mut self, this: Resource<Descriptor>, offset: u64) -> Told<Resource<DynInputStream>> {
        told(self.reader(&this, offset))
    }
    async fn write_via_stream(&mut self, this: Resource<Descriptor>, offset: u64) -> Told<Resource<DynOutputStream>> {
        told(self.writer(&this, Some(offset)))
    }
    async fn append_via_stream(&mut self, this: Resource<Descriptor>) -> Told<Resource<DynOutputStream>> {
        told(self.writer(&this, None))
    }
    async fn advise(&mut self, this: Resource<Descriptor>, _: u64, _: u64, _: Advice) -> Told<()> {
        told(self.files_file(&this, HostAct::ReadFile).map(drop))
    }
    async fn sync_data(&mut self, this: Resource<Descriptor>) -> Told<()> {
        told(self.settled(&this).await)
    }
    async fn get_flags(&mut self, this: Resource<Descriptor>) -> Told<DescriptorFlags> {
        told(self.files_at(&this, HostAct::ReadFile).map(|(_, _, kind, access)| {
            let mut flags = DescriptorFlags::empty();
            if access.read == Allowed::Yes {
                flags |= DescriptorFlags::READ;
            }
            let change = if kind == Kind::File { DescriptorFlags::WRITE } else { DescriptorFlags::MUTATE_DIRECTORY };
            if access.change == Allowed::Yes {
                flags |= change;
            }
            flags
        }))
    }
    async fn get_type(&mut self, this: Resource<Descriptor>) -> Told<DescriptorType> {
        told(self.files_at(&this, HostAct::ReadFile).map(|(_, _, is, _)| kind(is)))
    }
    async fn set_size(&mut self, this: Resource<Descriptor>, size: u64) -> Told<()> {
        told(self.resize(&this, size).await)
    }
    async fn set_times(&mut self, this: Resource<Descriptor>, _: NewTimestamp, modified: NewTimestamp) -> Told<()> {
        told(self.retime(&this, None, modified).await)
    }
    async fn read(&mut self, this: Resource<Descriptor>, length: u64, offset: u64) -> Told<(Vec<u8>, bool)> {
        told(self.read_now(&this, length, offset).await)
    }
    async fn write(&mut self, this: Resource<Descriptor>, buffer: Vec<u8>, offset: u64) -> Told<u64> {
        told(self.write_now(&this, &buffer, offset).await)
    }
    async fn read_directory(&mut self, this: Resource<Descriptor>) -> Told<Resource<Listing>> {
        told(self.listing(&this))
    }
    async fn sync(&mut self, this: Resource<Descriptor>) -> Told<()> {
        told(self.settled(&this).await)
    }
    async fn create_directory_at(&mut self, this: Resource<Descriptor>, path: String) -> Told<()> {
        told(self.make_directory_now(&this, &path).await)
    }
    async fn stat(&mut self, this: Resource<Descriptor>) -> Told<DescriptorStat> {
        told(self.status(&this).await)
    }
    async fn stat_at(&mut self, this: Resource<Descriptor>, _: PathFlags, path: String) -> Told<DescriptorStat> {
        told(self.files_stat_at(&this, &path).await.map(|(_, node)| stat(&node)))
    }
    async fn set_times_at(
        &mut self,
        this: Resource<Descriptor>,
        _: PathFlags,
        path: String,
        _: NewTimestamp,
        modified: NewTimestamp,
    ) -> Told<()> {
        told(self.retime(&this, Some(&path), modified).await)
    }
    async fn link_at(
        &mut self,
        this: Resource<Descriptor>,
        _: PathFlags,
        _: String,
        _: Resource<Descriptor>,
        _: String,
    ) -> Told<()> {
        told(self.link_refused(&this, Refused::NotPermitted))
    }
    async fn open_at(
        &mut self,
        this: Resource<Descriptor>,
        _: PathFlags,
        path: String,
        open: OpenFlags,
        flags: DescriptorFlags,
    ) -> Told<Resource<Descriptor>> {
        let create = match (open.contains(OpenFlags::CREATE), open.contains(OpenFlags::EXCLUSIVE)) {
            (true, true) => Create::Always,
            (true, false) => Create::IfAbsent,
            (false, _) => Create::Never,
        };
        let change = flags.intersects(DescriptorFlags::WRITE | DescriptorFlags::MUTATE_DIRECTORY);
        let how = Opening {
            create,
            directory: Allowed::of(open.contains(OpenFlags::DIRECTORY)),
            truncate: Allowed::of(open.contains(OpenFlags::TRUNCATE)),
            access: Access { read: Allowed::of(flags.contains(DescriptorFlags::READ)), change: Allowed::of(change) },
        };
        told(self.files_open(&this, &path, how).await)
    }
    async fn readlink_at(&mut self, this: Resource<Descriptor>, path: String) -> Told<String> {
        // Whatever is there is no link.
        let found = self.files_stat_at(&this, &path).await;
        told(found.and_then(|_| Err(Refused::Invalid.into())))
    }
    async fn remove_directory_at(&mut self, this: Resource<Descriptor>, path: String) -> Told<()> {
        told(self.remove_directory_now(&this, &path).await)
    }
    async fn rename_at(
        &mut self,
        this: Resource<Descriptor>,
        path: String,
        other: Resource<Descriptor>,
        other_path: String,
    ) -> Told<()> {
        told(self.rename_now(&this, &path, &other, &other_path).await)
    }
    async fn symlink_at(&mut self, this: Resource<Descriptor>, _: String, _: String) -> Told<()> {
        told(self.link_refused(&this, Refused::Unsupported))
    }
    async fn unlink_file_at(&mut self, this: Resource<Descriptor>, path: String) -> Told<()> {
        told(self.remove_file_now(&this, &path).await)
    }
    async fn is_same_object(
        &mut self,
        this: Resource<Descriptor>,
        other: Resource<Descriptor>,
    ) -> wasmtime::Result<bool> {
        Ok(self.table.get(&this)?.node == self.table.get(&other)?.node)
    }
    async fn metadata_hash(&mut self, this: Resource<Descriptor>) -> Told<MetadataHashValue> {
        told(self.files_at(&this, HostAct::ReadFile).map(|(_, node, ..)| hash(node)))
    }
    async fn metadata_hash_at(
        &mut self,
        this: Resource<Descriptor>,
        _: PathFlags,
        path: String,
    ) -> Told<MetadataHashValue> {
        told(self.files_stat_at(&this, &path).await.map(|(node, _)| hash(node)))
    }
    async fn drop(&mut self, this: Resource<Descriptor>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}
