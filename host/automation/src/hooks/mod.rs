//! Hooks: the product asks the plugins that a tenant bound to one of its extension points.
//!
//! `point.rs` is what operators declare, `binding.rs` what tenants bind, `members.rs` whether a binding's condition is about what the
//! point's payload has, `ask.rs` one call, `fold.rs` what the answers come
//! to, `tell.rs` one call of a point that notifies. Must never let what a plugin answers through that does not fit the point's schema.

mod ask;
mod binding;
mod condition;
mod fold;
mod members;
mod point;
mod schema;
mod tell;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use ringfence_core::{PrincipalId, ResourceName};
use ringfence_store::{Key, Op};

pub use ask::Asked;
pub use binding::{BINDINGS_COUNT_MAX, Binding, BindingSpec};
pub use condition::CONDITION_BYTES_MAX;
pub use fold::{HookAnswer, HookOutcome, Step};
pub use point::{Binders, DEADLINE_MS_MAX, Mode, OnFailure, Point, PointSpec, RESULT_BYTES_MAX};

use binding::Bindings;
pub(crate) use point::POINT_VERSION;
use point::Ready;

use crate::{Automation, AutomationError};

/// LIMIT: extension points of one host.
pub const POINTS_COUNT_MAX: usize = 500;
/// LIMIT: earlier declarations that are kept of one point; of more, the oldest go.
pub const EARLIER_COUNT_MAX: usize = 32;

/// What is known of hooks in memory.
#[derive(Default)]
pub(crate) struct Hooks {
    points: RwLock<HashMap<String, Arc<Ready>>>,
    bindings: Bindings,
}

impl Hooks {
    fn point(&self, name: &str) -> Option<Arc<Ready>> {
        self.points.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
    fn put(&self, ready: Ready) {
        let name = ready.point.name.to_string();
        self.points.write().unwrap_or_else(PoisonError::into_inner).insert(name, Arc::new(ready));
    }
    /// A tenant's bindings are read anew when they are asked for.
    pub(crate) fn forget_bindings_of(&self, store: &ringfence_store::TenantStore) {
        self.bindings.forget_of(store);
    }
    fn remove(&self, name: &str) {
        self.points.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

impl Automation {
    /// Reads the declared points into memory.
    pub(crate) async fn open_points(&self) -> Result<(), AutomationError> {
        let page = self.parts.tenants.platform().scan(&points_key(), None, POINTS_COUNT_MAX * 2).await?;
        for (_, record) in page.records {
            self.hooks.put(Ready::of(record.json()?)?);
        }
        Ok(())
    }

    /// All extension points, by name.
    pub fn points(&self) -> Vec<Point> {
        let points = self.hooks.points.read().unwrap_or_else(PoisonError::into_inner);
        let mut points: Vec<Point> = points.values().map(|ready| ready.point.clone()).collect();
        points.sort_by(|a, b| a.name.cmp(&b.name));
        points
    }

    /// One extension point.
    pub fn point(&self, name: &ResourceName) -> Result<Point, AutomationError> {
        let ready = self.hooks.point(name.as_str()).ok_or(AutomationError::NotFound("extension point"))?;
        Ok(ready.point.clone())
    }

    /// Declares an extension point, or changes one. What would break bound plugins is refused while any is bound.
    pub async fn declare(
        &self,
        name: &ResourceName,
        spec: PointSpec,
        by: &PrincipalId,
    ) -> Result<Point, AutomationError> {
        let _one = self.changing.lock().await;
        let before = self.hooks.point(name.as_str());
        if before.is_none() && self.points().len() >= POINTS_COUNT_MAX {
            return Err(AutomationError::TooMany { what: "extension points", max: POINTS_COUNT_MAX });
        }
        if let Some(before) = before.as_ref().filter(|before| before.point.spec == spec) {
            return Ok(before.point.clone());
        }
        spec.check_new()?;
        let version = before.as_ref().map_or(0, |before| before.point.version).saturating_add(1);
        let point =
            Point { name: name.clone(), version, spec, declared_at: self.parts.clock.now(), declared_by: by.clone() };
        let ready = Ready::of(point.clone())?;
        let mut ops = vec![Op::put_json(point_key(name.as_str()), &point)?];
        if let Some(before) = before {
            let broken = before.point.spec.breaks(&point.spec);
            if !broken.is_empty() {
                self.refuse_while_bound(name, &format!("`{}`", broken.join("`, `"))).await?;
            }
            ops.push(Op::put_json(earlier_key(name.as_str(), before.point.version), &before.point)?);
            let kept = u32::try_from(EARLIER_COUNT_MAX).unwrap_or(u32::MAX);
            ops.extend(before.point.version.checked_sub(kept).map(|old| Op::delete(earlier_key(name.as_str(), old))));
        }
        self.parts.tenants.platform().batch(ops, Vec::new()).await?;
        self.hooks.put(ready);
        Ok(point)
    }

    /// How a point was declared before, the last first; nothing of a point that was withdrawn meanwhile.
    pub async fn earlier(&self, name: &ResourceName) -> Result<Vec<Point>, AutomationError> {
        self.point(name)?;
        let page =
            self.parts.tenants.platform().scan_back(&earlier_prefix(name.as_str()), None, EARLIER_COUNT_MAX).await?;
        page.records.iter().map(|(_, record)| Ok(record.json()?)).collect()
    }

    /// Withdraws an extension point, with how it was declared before; refused while any plugin is bound.
    pub async fn withdraw(&self, name: &ResourceName) -> Result<(), AutomationError> {
        let _one = self.changing.lock().await;
        self.point(name)?;
        self.refuse_while_bound(name, "the point is withdrawn").await?;
        let platform = self.parts.tenants.platform();
        let earlier = platform.scan(&earlier_prefix(name.as_str()), None, EARLIER_COUNT_MAX * 2).await?;
        let gone = earlier.records.into_iter().map(|(key, _)| key).chain([point_key(name.as_str())]);
        platform.batch(gone.map(Op::delete).collect(), Vec::new()).await?;
        self.hooks.remove(name.as_str());
        Ok(())
    }

    async fn refuse_while_bound(&self, name: &ResourceName, what: &str) -> Result<(), AutomationError> {
        let mut tenants_count = 0;
        for tenant in self.parts.tenants.list().await? {
            let Some(store) = self.parts.tenants.open_tenant(&tenant.id) else { continue };
            // Disabled keys hide what is bound: then it counts as bound.
            let is_bound = match store.scan(&binding::bindings_key(name.as_str()), None, 1).await {
                Ok(page) => !page.records.is_empty(),
                Err(_) => true,
            };
            tenants_count += usize::from(is_bound);
        }
        if tenants_count == 0 {
            Ok(())
        } else {
            Err(AutomationError::Breaking { what: what.to_owned(), tenants_count })
        }
    }
}

fn points_key() -> Key {
    Key::new(["hook-point"])
}
fn point_key(name: &str) -> Key {
    Key::new(["hook-point", name])
}

fn earlier_prefix(name: &str) -> Key {
    Key::new(["hook-point-earlier", name])
}
fn earlier_key(name: &str, version: u32) -> Key {
    earlier_prefix(name).number(version.into())
}
