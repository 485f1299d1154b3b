//! `wasi:keyvalue@0.2.0-draft`, as wasmtime and wasmCloud spell it: number cursors, unsigned increment, no swap.
//!
//! Must hold no rule of its own: it turns the words of this spelling into those of `keyvalue`.

use ringfence_engine::Guest;
use ringfence_store::PageToken;
use wasmtime::component::{Linker, Resource};

use super::{Answer, Bucket, KvError};
use crate::bind::{Bindings, View};
use crate::bindings::keyvalue_draft::keyvalue::store::{Error, KeyResponse};
use crate::bindings::keyvalue_draft::keyvalue::{atomics, batch, store};

/// LIMIT: pages one invocation may list.
const CURSORS_COUNT_MAX: usize = 10_000;

pub(super) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    store::add_to_linker::<_, Bindings>(linker, |guest| View::of(guest))?;
    atomics::add_to_linker::<_, Bindings>(linker, |guest| View::of(guest))?;
    batch::add_to_linker::<_, Bindings>(linker, |guest| View::of(guest))
}

type Told<T> = wasmtime::Result<Result<T, Error>>;

fn told<T>(answer: Answer<T>) -> Told<T> {
    match answer {
        Ok(value) => Ok(Ok(value)),
        Err(KvError::NoSuchStore) => Ok(Err(Error::NoSuchStore)),
        Err(KvError::AccessDenied) => Ok(Err(Error::AccessDenied)),
        Err(KvError::Other(why)) => Ok(Err(Error::Other(why))),
        Err(KvError::Trap(error)) => Err(error),
    }
}

impl View<'_> {
    /// The page token that was given out under a number; the first page has number 0.
    fn token(&mut self, cursor: Option<u64>) -> Answer<Option<PageToken>> {
        let Some(index) = cursor.and_then(|cursor| cursor.checked_sub(1)) else { return Ok(None) };
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let token = self.bound()?.cursors.get(index).cloned();
        token.map(Some).ok_or_else(|| KvError::Other("the cursor is unknown".to_owned()))
    }

    fn cursor(&mut self, token: Option<PageToken>) -> Answer<Option<u64>> {
        let Some(token) = token else { return Ok(None) };
        let cursors = &mut self.bound()?.cursors;
        if cursors.len() >= CURSORS_COUNT_MAX {
            return Err(KvError::Other("too many pages were listed".to_owned()));
        }
        cursors.push(token);
        Ok(Some(cursors.len() as u64))
    }
}

impl store::Host for View<'_> {
    async fn open(&mut self, identifier: String) -> Told<Resource<Bucket>> {
        told(self.kv_open(&identifier))
    }
}

impl store::HostBucket for View<'_> {
    async fn get(&mut self, bucket: Resource<Bucket>, key: String) -> Told<Option<Vec<u8>>> {
        told(self.kv_get(&bucket, &key).await)
    }
    async fn set(&mut self, bucket: Resource<Bucket>, key: String, value: Vec<u8>) -> Told<()> {
        told(self.kv_set(&bucket, &key, value).await)
    }
    async fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> Told<()> {
        told(self.kv_delete(&bucket, &key).await)
    }
    async fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> Told<bool> {
        told(self.kv_exists(&bucket, &key).await)
    }
    async fn list_keys(&mut self, bucket: Resource<Bucket>, cursor: Option<u64>) -> Told<KeyResponse> {
        let answer = async {
            let after = self.token(cursor)?;
            let (keys, next) = self.kv_list(&bucket, after.as_ref()).await?;
            Ok(KeyResponse { keys, cursor: self.cursor(next)? })
        };
        told(answer.await)
    }
    async fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

impl atomics::Host for View<'_> {
    async fn increment(&mut self, bucket: Resource<Bucket>, key: String, delta: u64) -> Told<u64> {
        let add = |now: i128| now.checked_add(i128::from(delta)).filter(|sum| u64::try_from(*sum).is_ok());
        told(self.kv_increment(&bucket, &key, add).await.map(|new| u64::try_from(new).unwrap_or(u64::MAX)))
    }
}

impl batch::Host for View<'_> {
    async fn get_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Told<Vec<Option<(String, Vec<u8>)>>> {
        let found = self.kv_get_many(&bucket, keys).await;
        told(found.map(|found| found.into_iter().map(|(key, value)| value.map(|value| (key, value))).collect()))
    }
    async fn set_many(&mut self, bucket: Resource<Bucket>, pairs: Vec<(String, Vec<u8>)>) -> Told<()> {
        told(self.kv_set_many(&bucket, pairs).await)
    }
    async fn delete_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Told<()> {
        told(self.kv_delete_many(&bucket, keys).await)
    }
}
