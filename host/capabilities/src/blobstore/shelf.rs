//! Containers and objects of one plugin as records of its tenant's store.
//!
//! Under `blob/<plugin>`: `container/<name>` holds the number that its objects lie under and when it was made,
//! `object/<number>/<name>` an object's length and time, `content/<number>/<name>` its bytes, `gone/<number>` says that what
//! lies under that number is being removed. A container is emptied and deleted by one small batch, whatever it holds; the
//! objects follow, and when that is cut short, the next such act of the plugin goes on with it.
//! Must never show half an object: length and bytes change in one batch, and only while the container is as it was found.

use ringfence_core::{Entropy, PluginName, ResourceName};
use ringfence_store::{Key, Op, Page, PageToken, Precondition, StagedValue, StoreError, TenantStore, ValueReader};
use serde::{Deserialize, Serialize};

use super::BlobError;

/// Objects removed by one batch.
const REMOVE_COUNT: usize = 250;
/// Containers whose removal was cut short that one call goes on with.
const RESUMED_COUNT_MAX: usize = 8;

/// One plugin's part of its tenant's store.
pub(crate) struct Shelf<'a> {
    pub(crate) store: &'a TenantStore,
    pub(crate) plugin: &'a PluginName,
    pub(crate) entropy: &'a dyn Entropy,
    pub(crate) now_s: u64,
}

/// A container as it was found.
pub(crate) struct Found {
    pub(crate) record: ContainerRecord,
    unchanged: Precondition,
    key: Key,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) number: u64,
    pub(crate) created_at_s: u64,
}

/// What is known of an object beside its bytes.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct ObjectRecord {
    pub(crate) bytes: u64,
    pub(crate) created_at_s: u64,
}

// === impl Found ===

impl Found {
    /// That the container is as it was found.
    pub(crate) fn unchanged(&self) -> Precondition {
        self.unchanged.clone()
    }
}

// === impl Shelf ===

impl Shelf<'_> {
    fn key(&self, area: &str) -> Key {
        Key::new(["blob", self.plugin.as_str(), area])
    }
    fn container_key(&self, name: &ResourceName) -> Key {
        self.key("container").push(name.as_str())
    }
    fn objects(&self, number: u64) -> Key {
        self.key("object").number(number)
    }
    fn object_key(&self, number: u64, name: &str) -> Key {
        self.objects(number).push(name)
    }
    fn content_key(&self, number: u64, name: &str) -> Key {
        self.key("content").number(number).push(name)
    }

    /// The container, or the refusal that there is none.
    pub(crate) async fn container(&self, name: &ResourceName) -> Result<Found, BlobError> {
        self.find(name).await?.ok_or_else(|| BlobError::no_container(name))
    }

    pub(crate) async fn find(&self, name: &ResourceName) -> Result<Option<Found>, BlobError> {
        let key = self.container_key(name);
        let Some(record) = self.store.get(&key).await? else { return Ok(None) };
        let unchanged = Precondition::Revision(key.clone(), record.revision);
        Ok(Some(Found { record: record.json()?, unchanged, key }))
    }

    pub(crate) async fn create(&self, name: &ResourceName) -> Result<(), BlobError> {
        let key = self.container_key(name);
        let put = Op::put_json(key.clone(), &self.new_container(self.now_s))?;
        match self.store.batch(vec![put], vec![Precondition::Absent(key)]).await {
            Err(StoreError::Conflict { .. }) => Err(BlobError::Said(format!("there is already a container `{name}`"))),
            result => Ok(result.map(drop)?),
        }
    }

    /// Removes a container with all it holds.
    pub(crate) async fn delete(&self, name: &ResourceName, alive: &impl Fn() -> Alive) -> Result<(), BlobError> {
        let found = self.container(name).await?;
        let gone = self.key("gone").number(found.record.number);
        let ops = vec![Op::delete(found.key.clone()), Op::put(gone, Vec::new())];
        self.store.batch(ops, vec![found.unchanged()]).await.map_err(|error| changed(error, name))?;
        self.remove_gone(alive).await
    }

    /// Removes all that a container holds.
    pub(crate) async fn clear(&self, name: &ResourceName, alive: &impl Fn() -> Alive) -> Result<(), BlobError> {
        let found = self.container(name).await?;
        let gone = self.key("gone").number(found.record.number);
        let put = Op::put_json(found.key.clone(), &self.new_container(found.record.created_at_s))?;
        let ops = vec![put, Op::put(gone, Vec::new())];
        self.store.batch(ops, vec![found.unchanged()]).await.map_err(|error| changed(error, name))?;
        self.remove_gone(alive).await
    }

    /// Some objects of a container that was found, after the token of the page before.
    pub(crate) async fn list(&self, number: u64, after: Option<&PageToken>, limit: usize) -> Result<Page, BlobError> {
        Ok(self.store.scan(&self.objects(number), after, limit).await?)
    }

    pub(crate) async fn object(&self, found: &Found, name: &str) -> Result<Option<ObjectRecord>, BlobError> {
        Ok(self.store.get_json(&self.object_key(found.record.number, name)).await?)
    }

    /// The object's bytes; none when there is no such object.
    pub(crate) async fn open(&self, found: &Found, name: &str) -> Result<Option<ValueReader>, BlobError> {
        Ok(self.store.open_value(&self.content_key(found.record.number, name)).await?)
    }

    /// Gives a container an object, in place of one of that name if there is one.
    pub(crate) async fn put(&self, container: &ResourceName, name: &str, value: StagedValue) -> Result<(), BlobError> {
        let found = self.container(container).await?;
        let (put, content) = self.put_ops(&found, name, value)?;
        let wrote = self.store.batch_with(vec![put], vec![content], vec![found.unchanged()]).await;
        wrote.map(drop).map_err(|error| changed(error, container))
    }

    /// The same for an object that came from elsewhere and is removed there, in one step. `from` was read at `revision`.
    pub(crate) async fn put_moved(
        &self,
        (container, name): (&ResourceName, &str),
        value: StagedValue,
        (from, from_name): (Found, &str),
        revision: u64,
    ) -> Result<(), BlobError> {
        let found = self.container(container).await?;
        let (put, content) = self.put_ops(&found, name, value)?;
        let (number, was) = (from.record.number, self.content_key(from.record.number, from_name));
        let ops = vec![Op::delete(self.object_key(number, from_name)), Op::delete(was.clone()), put];
        let unchanged = vec![found.unchanged(), from.unchanged(), Precondition::Revision(was, revision)];
        let wrote = self.store.batch_with(ops, vec![content], unchanged).await;
        wrote.map(drop).map_err(|error| changed(error, container))
    }

    /// Removes objects; those that are not there are fine.
    pub(crate) async fn remove(
        &self,
        number: u64,
        names: &[String],
        alive: &impl Fn() -> Alive,
    ) -> Result<(), BlobError> {
        for names in names.chunks(REMOVE_COUNT) {
            alive()?;
            let ops = names.iter().flat_map(|name| {
                [Op::delete(self.object_key(number, name)), Op::delete(self.content_key(number, name))]
            });
            self.store.batch(ops.collect(), Vec::new()).await?;
        }
        Ok(())
    }

    fn put_ops(&self, found: &Found, name: &str, value: StagedValue) -> Result<(Op, (Key, StagedValue)), BlobError> {
        let number = found.record.number;
        let record = ObjectRecord { bytes: value.bytes(), created_at_s: self.now_s };
        let put = Op::put_json(self.object_key(number, name), &record)?;
        Ok((put, (self.content_key(number, name), value)))
    }

    fn new_container(&self, created_at_s: u64) -> ContainerRecord {
        let mut number = [0; 8];
        self.entropy.fill(&mut number);
        ContainerRecord { number: u64::from_be_bytes(number), created_at_s }
    }

    /// Removes what lies under the numbers of containers that are gone, those of a removal that was cut short too.
    async fn remove_gone(&self, alive: &impl Fn() -> Alive) -> Result<(), BlobError> {
        let (gone, _) = self.store.scan_names(&self.key("gone"), None, RESUMED_COUNT_MAX).await?;
        for number in gone.iter().filter_map(Key::last_number) {
            // The names alone: what does not open any more has to go too. Of both, since a record that rotted may have been taken
            // out from beside its bytes.
            for area in ["object", "content"] {
                loop {
                    let (keys, _) = self.store.scan_names(&self.key(area).number(number), None, REMOVE_COUNT).await?;
                    let names: Vec<String> = keys.iter().filter_map(|key| key.last_name().map(str::to_owned)).collect();
                    if names.is_empty() {
                        break;
                    }
                    self.remove(number, &names, alive).await?;
                }
            }
            self.store.delete(&self.key("gone").number(number)).await?;
        }
        Ok(())
    }
}

/// Whether the guest may go on; asked between the steps of long work.
pub(crate) type Alive = Result<(), BlobError>;

fn changed(error: StoreError, container: &ResourceName) -> BlobError {
    match error {
        StoreError::Conflict { .. } => {
            BlobError::Said(format!("the container `{container}` or the object was changed in the meantime"))
        }
        error => error.into(),
    }
}
