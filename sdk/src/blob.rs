//! Large objects of the plugin (`wasi:blobstore`), encrypted by the host under the tenant's key.
//!
//! Objects are streamed both ways: a plugin never holds a whole one unless it collects the body. Must never leave half an
//! object: what is not finished is not there.

use wstd::io::{AsyncInputStream, AsyncOutputStream};

use crate::bindings::wasi::blobstore::blobstore;
use crate::bindings::wasi::blobstore::container::{Container, OutgoingValue};
use crate::bindings::wasi::blobstore::types::IncomingValue;
use crate::{Body, Call, FromHost, HostError, Result};

/// How much of an object is read at once: what the host has ready at once, which it then gives without a copy of its own.
const PIECE_BYTES: usize = 256 << 10;
/// Names asked for at once.
const NAMES_COUNT: u64 = 1_000;

/// A container of objects. As a parameter: the container `default`, made when it is not there.
#[derive(Debug)]
pub struct Blobs {
    container: Container,
}

/// What is known of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobInfo {
    /// Its length.
    pub bytes: u64,
    /// When it was written, in seconds since 1970 UTC.
    pub created_at_s: u64,
}

impl FromHost for Blobs {
    fn from_host(_: &mut Call) -> Result<Self> {
        Ok(Self::container("default")?)
    }
}

impl Blobs {
    /// Opens another container, which the grant has to name; makes it when it is not there.
    pub fn container(name: &str) -> Result<Self, HostError> {
        let container = match blobstore::container_exists(name).map_err(refused)? {
            true => blobstore::get_container(name),
            // Somebody else may have been faster.
            false => blobstore::create_container(name).or_else(|_| blobstore::get_container(name)),
        };
        Ok(Self { container: container.map_err(refused)? })
    }

    /// Writes an object, in place of one of that name; answers its length. Whoever reads sees the old one or the new.
    pub async fn put(&self, name: &str, body: impl Into<Body>) -> Result<u64> {
        let value = OutgoingValue::new_outgoing_value();
        let stream = value
            .outgoing_value_write_body()
            .map_err(|()| HostError::Failed("too many objects are open".to_owned()))?;
        self.container.write_data(name, &value).map_err(refused)?;
        let out = AsyncOutputStream::new(stream);
        let mut bytes = 0;
        let mut chunks = body.into().chunks();
        while let Some(chunk) = futures_lite::StreamExt::next(&mut chunks).await {
            let chunk = chunk?;
            bytes += chunk.len() as u64;
            out.write_all(&chunk).await?;
        }
        // The stream goes before the value it belongs to.
        drop(out);
        OutgoingValue::finish(value).map_err(refused)?;
        Ok(bytes)
    }

    /// An object's bytes, as a stream; none when there is no such object.
    pub fn get(&self, name: &str) -> Result<Option<Body>, HostError> {
        self.range(name, 0, u64::MAX)
    }

    /// The bytes from `first` to `last`, both included, or to the object's end when that comes before. An error when the
    /// object ends before `first`.
    pub fn range(&self, name: &str, first: u64, last: u64) -> Result<Option<Body>, HostError> {
        if !self.container.has_object(name).map_err(refused)? {
            return Ok(None);
        }
        let value = self.container.get_data(name, first, last).map_err(refused)?;
        let stream = IncomingValue::incoming_value_consume_async(value).map_err(refused)?;
        let pieces = AsyncInputStream::new(stream).into_stream_of(PIECE_BYTES);
        Ok(Some(Body(wstd::http::Body::from_try_stream(pieces))))
    }

    /// What is known of an object.
    pub fn info(&self, name: &str) -> Result<Option<BlobInfo>, HostError> {
        if !self.container.has_object(name).map_err(refused)? {
            return Ok(None);
        }
        let info = self.container.object_info(name).map_err(refused)?;
        Ok(Some(BlobInfo { bytes: info.size, created_at_s: info.created_at }))
    }

    /// The names of all objects, in no particular order.
    pub fn names(&self) -> Result<Vec<String>, HostError> {
        let stream = self.container.list_objects().map_err(refused)?;
        let mut all = Vec::new();
        loop {
            let (mut page, ended) = stream.read_stream_object_names(NAMES_COUNT).map_err(refused)?;
            all.append(&mut page);
            if ended {
                return Ok(all);
            }
        }
    }

    /// Removes an object; no error when there was none.
    pub fn delete(&self, name: &str) -> Result<(), HostError> {
        self.container.delete_object(name).map_err(refused)
    }

    /// Removes all objects.
    pub fn clear(&self) -> Result<(), HostError> {
        self.container.clear().map_err(refused)
    }
}

/// The interface has words only; the host's end in these when the grant is not there.
fn refused(why: String) -> HostError {
    if why.ends_with("is not granted") {
        HostError::Denied("blob container".to_owned())
    } else {
        HostError::Failed(format!("blob: {why}"))
    }
}
