//! `wasi:blobstore`: containers of large objects of a plugin in its tenant's store.
//!
//! An object appears, changes and goes whole: what a guest writes goes to a sealed file as it comes and becomes the object
//! at `finish`; whoever reads the old one reads it to its end. Ranges are read without what lies before them. Must never
//! reach outside `blob/<plugin>`, and asks for the grant and policy at every call, also on a container and a stream that are open.

mod host;
mod pipe;
mod shelf;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use ringfence_core::limits::{BLOB_NAME_BYTES_MAX, BLOB_STREAMS_COUNT_MAX, BLOB_WHOLE_BYTES_MAX};
use ringfence_core::{Capability, HostAct, On, ResourceName};
use ringfence_engine::Guest;
use ringfence_store::{PageToken, StoreError, ValueReader};
use wasmtime::component::{Linker, Resource, ResourceTableError};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream};

use self::pipe::{Counted, Pipe, STREAM_BYTES, Source, Tied};
use self::shelf::{Alive, Shelf};
use crate::bind::{Bound, View};
use crate::guarded::Got;

/// LIMIT: names in one answer of a list.
const NAMES_COUNT_MAX: usize = 1_000;
/// LIMIT: bytes that a copy reads at a time.
const COPY_BYTES: u64 = 256 << 10;
/// So many bytes of a copy count as one host call and one operation.
const COPY_CALL_BYTES: u64 = 1 << 20;

/// An open container.
pub struct Container {
    name: ResourceName,
}

/// A list of objects that is being read.
pub struct Names {
    container: ResourceName,
    number: u64,
    next: Next,
}

enum Next {
    Start,
    After(PageToken),
    End,
}

/// A value on its way to become an object.
pub struct Outgoing {
    /// None until the guest asks where to write.
    pipe: Option<Pipe>,
    /// What it is to become.
    target: Option<(ResourceName, String)>,
}

/// An object, or a range of one, that is about to be read.
pub struct Incoming {
    reader: ValueReader,
    from: u64,
    /// After the last byte.
    end: u64,
    tied: Tied,
}

/// Why a call fails: in words for the guest, or as a trap.
#[derive(Debug)]
pub(crate) enum BlobError {
    Said(String),
    Trap(wasmtime::Error),
}

type Answer<T> = Result<T, BlobError>;

/// Offers `wasi:blobstore@0.2.0-draft`.
pub(crate) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    host::link(linker)
}

// === impl BlobError ===

impl BlobError {
    fn denied(container: &ResourceName) -> Self {
        Self::Said(format!("the container `{container}` is not granted"))
    }
    fn forbidden(act: HostAct) -> Self {
        Self::Said(format!("policy forbids `{}` here", act.as_str()))
    }
    fn no_container(name: &ResourceName) -> Self {
        Self::Said(format!("there is no container `{name}`"))
    }
    fn no_object(name: &str) -> Self {
        Self::Said(format!("there is no object `{name}`"))
    }
    fn words(self) -> String {
        match self {
            Self::Said(why) => why,
            Self::Trap(_) => "the invocation is over".to_owned(),
        }
    }
}

impl From<wasmtime::Error> for BlobError {
    fn from(error: wasmtime::Error) -> Self {
        Self::Trap(error)
    }
}

impl From<ResourceTableError> for BlobError {
    fn from(error: ResourceTableError) -> Self {
        Self::Trap(error.into())
    }
}

impl From<StoreError> for BlobError {
    fn from(error: StoreError) -> Self {
        // The guest learns that the store did not do it, not why: causes are the host's business.
        tracing::debug!(%error, "a call on objects failed");
        match error {
            StoreError::Quota { .. } | StoreError::TooLarge { .. } | StoreError::ReadOnly => {
                Self::Said(error.to_string())
            }
            _ => Self::Said("the store is unavailable".to_owned()),
        }
    }
}

// === impl Bound ===

impl Bound {
    fn shelf(&self) -> Shelf<'_> {
        let now_s = u64::try_from(self.clock.now().as_second()).unwrap_or(0);
        Shelf { store: &self.store, plugin: &self.plugin, entropy: &*self.entropy, now_s }
    }

    /// Counts a call on a container, asks for the grant, and counts an operation.
    fn blob_enter(&self, container: &ResourceName) -> Answer<()> {
        self.call()?;
        if !self.may(Capability::Blob, container.as_str()) {
            return Err(BlobError::denied(container));
        }
        self.ledger.storage_ops(1).map_err(|exhausted| BlobError::Said(exhausted.to_string()))?;
        self.meter.storage_op();
        Ok(())
    }

    fn blob_container(&self, name: &str) -> Answer<ResourceName> {
        let name: ResourceName = match name.parse() {
            Ok(name) => name,
            Err(error) => {
                self.call()?;
                return Err(BlobError::Said(format!("not a container name: {error}")));
            }
        };
        self.blob_enter(&name)?;
        Ok(name)
    }

    /// Whether policy leaves an act on an object; the name is empty for all of a container.
    fn blob_leave(&self, act: HostAct, container: &ResourceName, name: &str) -> Answer<()> {
        self.leave.ask(act, On::Object { container, name }).map_err(|_| BlobError::forbidden(act))
    }

    /// Tells of an object's name that is bait.
    fn blob_asked<T>(&self, name: &str, found: &Answer<Option<T>>) {
        let got = match found {
            Ok(Some(_)) => Got::Something,
            Ok(None) => Got::Nothing,
            Err(_) => Got::Unknown,
        };
        self.guarded.asked_path("object", name, got);
    }

    /// What a stream of an object that is read is counted with and may be stopped by.
    fn tie(&self, container: ResourceName, name: &str) -> Answer<Tied> {
        let counted = Arc::new(self.counted_object()?);
        let (grants, leave, meter) = (self.grants.clone(), self.leave.clone(), Arc::clone(&self.meter));
        Ok(Tied { container, name: name.to_owned(), grants, leave, meter, counted, uncounted: 0 })
    }

    /// What a stream of an object is counted with.
    fn counted_object(&self) -> Answer<Counted> {
        let Ok(place) = Arc::clone(&self.blob_streams).try_acquire_owned() else {
            return Err(BlobError::Said(format!("at most {BLOB_STREAMS_COUNT_MAX} objects can be open at once")));
        };
        let held = self.meter.hold(STREAM_BYTES).map_err(wasmtime::Error::from)?;
        Ok(Counted { _place: place, _held: held })
    }

    /// For long work: counts a call, which fails once the invocation has to end.
    fn blob_alive(&self) -> Alive {
        Ok(self.call()?)
    }
}

fn object_name(name: &str) -> Answer<&str> {
    if name.is_empty() || name.len() > BLOB_NAME_BYTES_MAX {
        return Err(BlobError::Said(format!("the name of an object has 1 to {BLOB_NAME_BYTES_MAX} bytes")));
    }
    Ok(name)
}

// === impl View: containers ===

impl View<'_> {
    async fn blob_create(&mut self, name: &str) -> Answer<Resource<Container>> {
        let bound = self.bound()?;
        let name = bound.blob_container(name)?;
        bound.blob_leave(HostAct::WriteObject, &name, "")?;
        bound.shelf().create(&name).await?;
        Ok(self.table.push(Container { name })?)
    }

    async fn blob_get(&mut self, name: &str) -> Answer<Resource<Container>> {
        let bound = self.bound()?;
        let name = bound.blob_container(name)?;
        bound.shelf().container(&name).await?;
        Ok(self.table.push(Container { name })?)
    }

    async fn blob_delete(&mut self, name: &str) -> Answer<()> {
        let bound = self.bound()?;
        let name = bound.blob_container(name)?;
        bound.blob_leave(HostAct::DeleteObject, &name, "")?;
        bound.shelf().delete(&name, &|| bound.blob_alive()).await
    }

    async fn blob_exists(&mut self, name: &str) -> Answer<bool> {
        let bound = self.bound()?;
        let name = bound.blob_container(name)?;
        Ok(bound.shelf().find(&name).await?.is_some())
    }

    /// The container's name, after the call is counted and the grant is asked.
    fn blob_open(&mut self, container: &Resource<Container>) -> Answer<ResourceName> {
        let name = self.table.get(container)?.name.clone();
        self.bound()?.blob_enter(&name)?;
        Ok(name)
    }

    async fn blob_clear(&mut self, container: &Resource<Container>) -> Answer<()> {
        let name = self.blob_open(container)?;
        let bound = self.bound()?;
        bound.blob_leave(HostAct::DeleteObject, &name, "")?;
        bound.shelf().clear(&name, &|| bound.blob_alive()).await
    }

    async fn blob_info(&mut self, container: &Resource<Container>) -> Answer<(String, u64)> {
        let name = self.blob_open(container)?;
        let found = self.bound()?.shelf().container(&name).await?;
        Ok((name.to_string(), found.record.created_at_s))
    }

    async fn blob_list(&mut self, container: &Resource<Container>) -> Answer<Resource<Names>> {
        let name = self.blob_open(container)?;
        self.bound()?.blob_leave(HostAct::ListObjects, &name, "")?;
        let number = self.bound()?.shelf().container(&name).await?.record.number;
        Ok(self.table.push(Names { container: name, number, next: Next::Start })?)
    }

    /// Up to `count` more names and whether that was all; fewer than asked for is not the end.
    async fn blob_names(&mut self, names: &Resource<Names>, count: u64) -> Answer<(Vec<String>, bool)> {
        let Names { container, number, next } = self.table.get_mut(names)?;
        let (container, number, next) = (container.clone(), *number, std::mem::replace(next, Next::End));
        let bound = self.bound()?;
        bound.blob_enter(&container)?;
        bound.blob_leave(HostAct::ListObjects, &container, "")?;
        let after = match &next {
            Next::End => return Ok((Vec::new(), true)),
            _ if count == 0 => {
                self.table.get_mut(names)?.next = next;
                return Ok((Vec::new(), false));
            }
            Next::Start => None,
            Next::After(token) => Some(token),
        };
        let limit = usize::try_from(count).unwrap_or(NAMES_COUNT_MAX).min(NAMES_COUNT_MAX);
        let page = bound.shelf().list(number, after, limit).await;
        let (found, next) = match page {
            Ok(page) => (page.records, page.next),
            Err(error) => {
                self.table.get_mut(names)?.next = next;
                return Err(error);
            }
        };
        let ended = next.is_none();
        self.table.get_mut(names)?.next = next.map_or(Next::End, Next::After);
        Ok((found.iter().filter_map(|(key, _)| key.last_name().map(str::to_owned)).collect(), ended))
    }

    async fn blob_skip(&mut self, names: &Resource<Names>, count: u64) -> Answer<(u64, bool)> {
        let mut skipped = 0_u64;
        loop {
            let (page, ended) = self.blob_names(names, count.saturating_sub(skipped)).await?;
            skipped = skipped.saturating_add(page.len() as u64);
            if ended || skipped >= count {
                return Ok((skipped, ended));
            }
        }
    }
}

// === impl View: objects ===

impl View<'_> {
    async fn blob_object(&mut self, container: &Resource<Container>, name: &str) -> Answer<Option<(String, u64, u64)>> {
        let container = self.blob_open(container)?;
        let bound = self.bound()?;
        bound.blob_leave(HostAct::ReadObject, &container, name)?;
        let shelf = bound.shelf();
        let found = shelf.container(&container).await?;
        let record = shelf.object(&found, object_name(name)?).await;
        bound.blob_asked(name, &record);
        Ok(record?.map(|record| (container.to_string(), record.created_at_s, record.bytes)))
    }

    async fn blob_remove(&mut self, container: &Resource<Container>, names: Vec<String>) -> Answer<()> {
        let container = self.blob_open(container)?;
        let bound = self.bound()?;
        for name in &names {
            bound.blob_leave(HostAct::DeleteObject, &container, object_name(name)?)?;
        }
        let shelf = bound.shelf();
        let number = shelf.container(&container).await?.record.number;
        shelf.remove(number, &names, &|| bound.blob_alive()).await
    }

    /// Opens the bytes from `start` to `end`, the last included, or to the object's end if that comes before.
    async fn blob_read(
        &mut self,
        container: &Resource<Container>,
        name: &str,
        start: u64,
        end: u64,
    ) -> Answer<Resource<Incoming>> {
        let container = self.blob_open(container)?;
        let bound = self.bound()?;
        bound.blob_leave(HostAct::ReadObject, &container, name)?;
        let shelf = bound.shelf();
        let found = shelf.container(&container).await?;
        let opened = shelf.open(&found, object_name(name)?).await;
        bound.blob_asked(name, &opened);
        let reader = opened?.ok_or_else(|| BlobError::no_object(name))?;
        let all = reader.bytes();
        // Of an empty object there is only the whole.
        if start > end || (start >= all && (start, all) != (0, 0)) {
            return Err(BlobError::Said(format!("an object of {all} bytes has no range from {start} to {end}")));
        }
        let tied = bound.tie(container, name)?;
        Ok(self.table.push(Incoming { reader, from: start, end: end.saturating_add(1).min(all), tied })?)
    }

    async fn blob_read_whole(&mut self, incoming: Resource<Incoming>) -> Answer<Vec<u8>> {
        let Incoming { mut reader, from, end, tied } = self.table.delete(incoming)?;
        let bound = self.bound()?;
        bound.blob_enter(&tied.container)?;
        tied.leave_to_read()?;
        let bytes = end.saturating_sub(from);
        if bytes > BLOB_WHOLE_BYTES_MAX {
            return Err(BlobError::Said(format!("more than {BLOB_WHOLE_BYTES_MAX} bytes have to be read as a stream")));
        }
        let _held = bound.meter.hold(bytes).map_err(wasmtime::Error::from)?;
        let mut content = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0));
        while (content.len() as u64) < bytes {
            let done = content.len() as u64;
            let piece = reader.read_at(from.saturating_add(done), bytes.saturating_sub(done)).await?;
            if piece.is_empty() {
                return Err(BlobError::Said("the object ends early".to_owned()));
            }
            content.extend_from_slice(&piece);
        }
        Ok(content)
    }

    fn blob_read_stream(&mut self, incoming: Resource<Incoming>) -> Answer<Resource<DynInputStream>> {
        let Incoming { reader, from, end, tied } = self.table.delete(incoming)?;
        self.bound()?.blob_enter(&tied.container)?;
        let stream: DynInputStream = Box::new(Source::new(reader, from, end, tied));
        Ok(self.table.push(stream)?)
    }

    fn blob_value(&mut self) -> Answer<Resource<Outgoing>> {
        self.bound()?.call()?;
        Ok(self.table.push(Outgoing { pipe: None, target: None })?)
    }

    /// The stream to write to; given once.
    fn blob_body(&mut self, value: &Resource<Outgoing>) -> Answer<Resource<DynOutputStream>> {
        let bound = self.bound()?;
        bound.call()?;
        // Where it goes is said before or after; until then any grant will do.
        if !bound.grants.has(Capability::Blob) {
            return Err(BlobError::Said("no container is granted".to_owned()));
        }
        let writer = bound.store.value_writer_keeping(bound.counted_object()?)?;
        let meter = Arc::clone(&bound.meter);
        let value = self.table.get_mut(value)?;
        if value.pipe.is_some() {
            return Err(BlobError::Said("the body was given already".to_owned()));
        }
        let pipe = Pipe::new(writer);
        let stream: DynOutputStream = Box::new(pipe.sink(meter));
        value.pipe = Some(pipe);
        Ok(self.table.push(stream)?)
    }

    async fn blob_name(
        &mut self,
        container: &Resource<Container>,
        name: &str,
        value: &Resource<Outgoing>,
    ) -> Answer<()> {
        let container = self.blob_open(container)?;
        let name = object_name(name)?.to_owned();
        let bound = self.bound()?;
        bound.blob_leave(HostAct::WriteObject, &container, &name)?;
        bound.shelf().container(&container).await?;
        self.table.get_mut(value)?.target = Some((container, name));
        Ok(())
    }

    /// Makes the value the object it was named; an unnamed value leaves nothing.
    async fn blob_finish(&mut self, value: Resource<Outgoing>) -> Answer<()> {
        let Outgoing { pipe, target } = self.table.delete(value)?;
        let bound = self.bound()?;
        let Some((container, name)) = target else {
            bound.call()?;
            return Err(BlobError::Said("the value was written to no container".to_owned()));
        };
        bound.blob_enter(&container)?;
        bound.blob_leave(HostAct::WriteObject, &container, &name)?;
        let staged = match pipe {
            Some(pipe) => pipe.finish().await?,
            None => bound.store.value_writer()?.finish().await?,
        };
        bound.shelf().put(&container, &name, staged).await
    }

    /// Copies an object, or moves it; overwrites what is there.
    async fn blob_copy(&mut self, from: (&str, &str), to: (&str, &str), fate: Fate) -> Answer<()> {
        let bound = self.bound()?;
        let (from_container, to_container) = (bound.blob_container(from.0)?, bound.blob_container(to.0)?);
        let (from_name, to_name) = (object_name(from.1)?, object_name(to.1)?);
        bound.blob_leave(HostAct::ReadObject, &from_container, from_name)?;
        bound.blob_leave(HostAct::WriteObject, &to_container, to_name)?;
        if fate == Fate::Removed {
            bound.blob_leave(HostAct::DeleteObject, &from_container, from_name)?;
        }
        let shelf = bound.shelf();
        let found = shelf.container(&from_container).await?;
        let opened = shelf.open(&found, from_name).await;
        bound.blob_asked(from_name, &opened);
        let mut reader = opened?.ok_or_else(|| BlobError::no_object(from_name))?;
        if from_container == to_container && from_name == to_name {
            return Ok(());
        }
        shelf.container(&to_container).await?;
        let _tied = bound.tie(from_container, from_name)?;
        let mut writer = bound.store.value_writer()?;
        let mut counted = 0_u64;
        while writer.bytes() < reader.bytes() {
            let piece = reader.read_at(writer.bytes(), COPY_BYTES).await?;
            if piece.is_empty() {
                return Err(BlobError::Said("the object ends early".to_owned()));
            }
            writer.write(piece).await?;
            if writer.bytes() >= counted.saturating_add(COPY_CALL_BYTES) {
                counted = writer.bytes();
                bound.meter.storage_op();
                bound.blob_alive()?;
            }
        }
        let staged = writer.finish().await?;
        match fate {
            Fate::Kept => shelf.put(&to_container, to_name, staged).await,
            Fate::Removed => {
                let revision = reader.revision();
                shelf.put_moved((&to_container, to_name), staged, (found, from_name), revision).await
            }
        }
    }
}

/// What becomes of the object that is copied.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Kept,
    Removed,
}
