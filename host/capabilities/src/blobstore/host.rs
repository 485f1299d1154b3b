//! `wasi:blobstore@0.2.0-draft`, as wasmCloud spells it.
//!
//! Must hold no rule of its own: it turns the words of this spelling into those of `blobstore`.

use ringfence_engine::Guest;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream};

use super::{Answer, BlobError, Container, Fate, Incoming, Names, Outgoing};
use crate::bind::{Bindings, View};
use crate::bindings::blobstore::wasi::blobstore::{blobstore, container, types};

pub(super) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    types::add_to_linker::<_, Bindings>(linker, |guest| View::of(guest))?;
    container::add_to_linker::<_, Bindings>(linker, |guest| View::of(guest))?;
    blobstore::add_to_linker::<_, Bindings>(linker, |guest| View::of(guest))
}

type Told<T> = wasmtime::Result<Result<T, String>>;

fn told<T>(answer: Answer<T>) -> Told<T> {
    match answer {
        Ok(value) => Ok(Ok(value)),
        Err(BlobError::Said(why)) => Ok(Err(why)),
        Err(BlobError::Trap(error)) => Err(error),
    }
}

impl blobstore::Host for View<'_> {
    async fn create_container(&mut self, name: String) -> Told<Resource<Container>> {
        told(self.blob_create(&name).await)
    }
    async fn get_container(&mut self, name: String) -> Told<Resource<Container>> {
        told(self.blob_get(&name).await)
    }
    async fn delete_container(&mut self, name: String) -> Told<()> {
        told(self.blob_delete(&name).await)
    }
    async fn container_exists(&mut self, name: String) -> Told<bool> {
        told(self.blob_exists(&name).await)
    }
    async fn copy_object(&mut self, src: types::ObjectId, dest: types::ObjectId) -> Told<()> {
        let (from, to) = ((&*src.container, &*src.object), (&*dest.container, &*dest.object));
        told(self.blob_copy(from, to, Fate::Kept).await)
    }
    async fn move_object(&mut self, src: types::ObjectId, dest: types::ObjectId) -> Told<()> {
        let (from, to) = ((&*src.container, &*src.object), (&*dest.container, &*dest.object));
        told(self.blob_copy(from, to, Fate::Removed).await)
    }
}

impl container::Host for View<'_> {}

impl container::HostContainer for View<'_> {
    async fn name(&mut self, this: Resource<Container>) -> Told<String> {
        told(self.blob_open(&this).map(|name| name.to_string()))
    }
    async fn info(&mut self, this: Resource<Container>) -> Told<types::ContainerMetadata> {
        told(self.blob_info(&this).await.map(|(name, created_at)| types::ContainerMetadata { name, created_at }))
    }
    async fn get_data(
        &mut self,
        this: Resource<Container>,
        name: String,
        start: u64,
        end: u64,
    ) -> Told<Resource<Incoming>> {
        told(self.blob_read(&this, &name, start, end).await)
    }
    async fn write_data(&mut self, this: Resource<Container>, name: String, data: Resource<Outgoing>) -> Told<()> {
        told(self.blob_name(&this, &name, &data).await)
    }
    async fn list_objects(&mut self, this: Resource<Container>) -> Told<Resource<Names>> {
        told(self.blob_list(&this).await)
    }
    async fn delete_object(&mut self, this: Resource<Container>, name: String) -> Told<()> {
        told(self.blob_remove(&this, vec![name]).await)
    }
    async fn delete_objects(&mut self, this: Resource<Container>, names: Vec<String>) -> Told<()> {
        told(self.blob_remove(&this, names).await)
    }
    async fn has_object(&mut self, this: Resource<Container>, name: String) -> Told<bool> {
        told(self.blob_object(&this, &name).await.map(|found| found.is_some()))
    }
    async fn object_info(&mut self, this: Resource<Container>, name: String) -> Told<types::ObjectMetadata> {
        let found = self.blob_object(&this, &name).await;
        told(found.and_then(|found| {
            let (container, created_at, size) = found.ok_or_else(|| BlobError::no_object(&name))?;
            Ok(types::ObjectMetadata { name, container, created_at, size })
        }))
    }
    async fn clear(&mut self, this: Resource<Container>) -> Told<()> {
        told(self.blob_clear(&this).await)
    }
    async fn drop(&mut self, this: Resource<Container>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl container::HostStreamObjectNames for View<'_> {
    async fn read_stream_object_names(&mut self, this: Resource<Names>, len: u64) -> Told<(Vec<String>, bool)> {
        told(self.blob_names(&this, len).await)
    }
    async fn skip_stream_object_names(&mut self, this: Resource<Names>, num: u64) -> Told<(u64, bool)> {
        told(self.blob_skip(&this, num).await)
    }
    async fn drop(&mut self, this: Resource<Names>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl types::Host for View<'_> {}

impl types::HostOutgoingValue for View<'_> {
    async fn new_outgoing_value(&mut self) -> wasmtime::Result<Resource<Outgoing>> {
        match self.blob_value() {
            Ok(value) => Ok(value),
            Err(BlobError::Trap(error)) => Err(error),
            Err(BlobError::Said(why)) => Err(wasmtime::Error::msg(why)),
        }
    }
    async fn outgoing_value_write_body(
        &mut self,
        this: Resource<Outgoing>,
    ) -> wasmtime::Result<Result<Resource<DynOutputStream>, ()>> {
        // The interface has no words here.
        Ok(told(self.blob_body(&this))?.map_err(drop))
    }
    async fn finish(&mut self, this: Resource<Outgoing>) -> Told<()> {
        told(self.blob_finish(this).await)
    }
    async fn drop(&mut self, this: Resource<Outgoing>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl types::HostIncomingValue for View<'_> {
    async fn incoming_value_consume_sync(&mut self, this: Resource<Incoming>) -> Told<Vec<u8>> {
        told(self.blob_read_whole(this).await)
    }
    async fn incoming_value_consume_async(&mut self, this: Resource<Incoming>) -> Told<Resource<DynInputStream>> {
        told(self.blob_read_stream(this))
    }
    async fn size(&mut self, this: Resource<Incoming>) -> wasmtime::Result<u64> {
        let incoming = self.table.get(&this)?;
        Ok(incoming.end.saturating_sub(incoming.from))
    }
    async fn drop(&mut self, this: Resource<Incoming>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}
