//! `wasi:config/store`, in every spelling: what a tenant's people set for a plugin, read-only for the guest.
//!
//! Must never show another plugin's values. Kept in the tenant's store under `config/<plugin>/<name>`.

use ringfence_core::{Capability, limits};
use ringfence_engine::Guest;
use ringfence_store::Key;
use wasmtime::component::Linker;

use crate::bind::{Bindings, View};
use crate::bindings::{config_draft, config_rc1, config_wasmcloud};
use crate::pii::Verdict;

/// Offers `wasi:config/store` `@0.2.0-rc.1`, `@0.2.0-draft-2024-09-27` and `@0.2.0-draft`.
pub(crate) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    config_rc1::config::store::add_to_linker::<_, Bindings>(linker, |guest| View::of(guest))?;
    config_draft::config::store::add_to_linker::<_, Bindings>(linker, |guest| View::of(guest))?;
    config_wasmcloud::config::store::add_to_linker::<_, Bindings>(linker, |guest| View::of(guest))
}

/// Why a value is not given, in words for the guest.
type Refusal = String;

// === impl View ===

impl View<'_> {
    async fn config_get(&mut self, name: &str) -> wasmtime::Result<Result<Option<String>, Refusal>> {
        let bound = self.bound()?;
        bound.call()?;
        if !bound.grants.has(Capability::Config) {
            return Ok(Err(denied()));
        }
        if name.len() > limits::KV_KEY_BYTES_MAX {
            return Ok(Ok(None));
        }
        bound.leave.notes.note(Capability::Config, "read-config", name, Verdict::Granted);
        let key = Key::new(["config", bound.plugin.as_str(), name]);
        Ok(match bound.store.get(&key).await {
            Ok(record) => Ok(record.map(|record| text(&record.value))),
            Err(_) => Err(unavailable()),
        })
    }

    async fn config_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, Refusal>> {
        let bound = self.bound()?;
        bound.call()?;
        if !bound.grants.has(Capability::Config) {
            return Ok(Err(denied()));
        }
        bound.leave.notes.note(Capability::Config, "list-config", "", Verdict::Granted);
        let prefix = Key::new(["config", bound.plugin.as_str()]);
        let Ok(page) = bound.store.scan(&prefix, None, limits::PAGE_COUNT_MAX).await else {
            return Ok(Err(unavailable()));
        };
        let values =
            page.records.iter().filter_map(|(key, record)| Some((key.last_name()?.to_owned(), text(&record.value))));
        Ok(Ok(values.collect()))
    }
}

impl config_rc1::config::store::Host for View<'_> {
    async fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, config_rc1::config::store::Error>> {
        Ok(self.config_get(&key).await?.map_err(config_rc1::config::store::Error::Upstream))
    }
    async fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, config_rc1::config::store::Error>> {
        Ok(self.config_all().await?.map_err(config_rc1::config::store::Error::Upstream))
    }
}

impl config_draft::config::store::Host for View<'_> {
    async fn get(
        &mut self,
        key: String,
    ) -> wasmtime::Result<Result<Option<String>, config_draft::config::store::Error>> {
        Ok(self.config_get(&key).await?.map_err(config_draft::config::store::Error::Upstream))
    }
    async fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, config_draft::config::store::Error>> {
        Ok(self.config_all().await?.map_err(config_draft::config::store::Error::Upstream))
    }
}

impl config_wasmcloud::config::store::Host for View<'_> {
    async fn get(
        &mut self,
        key: String,
    ) -> wasmtime::Result<Result<Option<String>, config_wasmcloud::config::store::Error>> {
        Ok(self.config_get(&key).await?.map_err(config_wasmcloud::config::store::Error::Upstream))
    }
    async fn get_all(
        &mut self,
    ) -> wasmtime::Result<Result<Vec<(String, String)>, config_wasmcloud::config::store::Error>> {
        Ok(self.config_all().await?.map_err(config_wasmcloud::config::store::Error::Upstream))
    }
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

fn denied() -> Refusal {
    "`config` is not granted".to_owned()
}

fn unavailable() -> Refusal {
    "the configuration is unavailable".to_owned()
}

#[cfg(test)]
mod tests {
    use ringfence_core::Budget;

    use super::*;
    use crate::testing::Rig;
    use config_draft::config::store::Host as Draft;
    use config_rc1::config::store::Host as Rc1;
    use config_wasmcloud::config::store::Host as WasmCloud;

    #[tokio::test]
    async fn every_spelling_reads_the_plugins_own_values() {
        let rig = Rig::new(&[(Capability::Config, &[])]).await;
        for (plugin, value) in [("visits", "mine"), ("other", "theirs")] {
            rig.store.put(&Key::new(["config", plugin, "colour"]), value.as_bytes().to_vec()).await.unwrap();
        }
        let mut guest = rig.guest(Budget::DEFAULT);
        let mut view = guest.view();
        assert_eq!(Rc1::get(&mut view, "colour".into()).await.unwrap().unwrap(), Some("mine".to_owned()));
        assert_eq!(WasmCloud::get(&mut view, "colour".into()).await.unwrap().unwrap(), Some("mine".to_owned()));
        assert_eq!(Draft::get(&mut view, "none".into()).await.unwrap().unwrap(), None);
        assert_eq!(Draft::get_all(&mut view).await.unwrap().unwrap(), [("colour".to_owned(), "mine".to_owned())]);
        rig.grant(&[]);
        assert!(Rc1::get(&mut guest.view(), "colour".into()).await.unwrap().is_err());
        assert!(Rc1::get_all(&mut guest.view()).await.unwrap().is_err());
    }
}
