//! `wasi:keyvalue@0.2.0-draft2`, as Spin spells it: text cursors, signed increment, compare-and-swap.
//!
//! Must hold no rule of its own: it turns the words of this spelling into those of `keyvalue`.

use ringfence_engine::Guest;
use ringfence_store::PageToken;
use wasmtime::component::{Linker, Resource};

use super::{Answer, Bucket, Cas, KvError, SwapError};
use crate::bind::{Bindings, View};
use crate::bindings::keyvalue_draft2::keyvalue::atomics::CasError;
use crate::bindings::keyvalue_draft2::keyvalue::store::{Error, KeyResponse};
use crate::bindings::keyvalue_draft2::keyvalue::{atomics, batch, store};

pub(super) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    store::add_to_linker::<_, Bindings>(linker, |guest| View::of(guest))?;
    atomics::add_to_linker::<_, Bindings>(linker, |guest| View::of(guest))?;
    batch::add_to_linker::<_, Bindings>(linker, |guest| View::of(guest))
}

type Told<T> = wasmtime::Result<Result<T, Error>>;

fn told<T>(answer: Answer<T>) -> Told<T> {
    match answer {
        Ok(value) => Ok(Ok(value)),
        Err(error) => Ok(Err(word(error)?)),
    }
}

fn word(error: KvError) -> wasmtime::Result<Error> {
    match error {
        KvError::NoSuchStore => Ok(Error::NoSuchStore),
        KvError::AccessDenied => Ok(Error::AccessDenied),
        KvError::Other(why) => Ok(Error::Other(why)),
        KvError::Trap(error) => Err(error),
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
    async fn list_keys(&mut self, bucket: Resource<Bucket>, cursor: Option<String>) -> Told<KeyResponse> {
        let answer = async {
            let after = match cursor.filter(|text| !text.is_empty()) {
                Some(text) => {
                    Some(text.parse::<PageToken>().map_err(|_| KvError::Other("the cursor is unknown".to_owned()))?)
                }
                None => None,
            };
            let (keys, next) = self.kv_list(&bucket, after.as_ref()).await?;
            Ok(KeyResponse { keys, cursor: next.map(|token| token.to_string()) })
        };
        told(answer.await)
    }
    async fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

impl atomics::HostCas for View<'_> {
    async fn new(&mut self, bucket: Resource<Bucket>, key: String) -> Told<Resource<Cas>> {
        told(self.kv_cas(&bucket, key).await)
    }
    async fn current(&mut self, cas: Resource<Cas>) -> Told<Option<Vec<u8>>> {
        told(self.kv_current(&cas))
    }
    async fn drop(&mut self, cas: Resource<Cas>) -> wasmtime::Result<()> {
        self.table.delete(cas)?;
        Ok(())
    }
}

impl atomics::Host for View<'_> {
    async fn increment(&mut self, bucket: Resource<Bucket>, key: String, delta: i64) -> Told<i64> {
        let add = |now: i128| now.checked_add(i128::from(delta)).filter(|sum| i64::try_from(*sum).is_ok());
        told(self.kv_increment(&bucket, &key, add).await.map(|new| i64::try_from(new).unwrap_or(i64::MAX)))
    }

    async fn swap(&mut self, cas: Resource<Cas>, value: Vec<u8>) -> wasmtime::Result<Result<(), CasError>> {
        match self.kv_swap(cas, value).await {
            Ok(()) => Ok(Ok(())),
            Err(SwapError::Store(error)) => Ok(Err(CasError::StoreError(word(error)?))),
            Err(SwapError::Stale(newer)) => Ok(Err(CasError::CasFailed(self.table.push(newer)?))),
        }
    }
}

impl batch::Host for View<'_> {
    async fn get_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Told<Vec<(String, Option<Vec<u8>>)>> {
        told(self.kv_get_many(&bucket, keys).await)
    }
    async fn set_many(&mut self, bucket: Resource<Bucket>, pairs: Vec<(String, Vec<u8>)>) -> Told<()> {
        told(self.kv_set_many(&bucket, pairs).await)
    }
    async fn delete_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Told<()> {
        told(self.kv_delete_many(&bucket, keys).await)
    }
}
