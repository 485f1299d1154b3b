//! What standing says of one plugin now, and who is told of what it tries: refused destinations, names that are bait,
//! how much it sends out, and what was found in that.
//!
//! Must never wait, and never let on to a guest that a name is bait: its answer is the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use ringfence_core::{
    Clock, InvocationId, Loss, LossActions, LossKind, LossPlace, LossTaken, PluginName, Standing, TenantId,
};

use crate::pii::Witness;

/// Something a guest tried that says something about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tried {
    /// An outgoing request that was refused.
    Egress {
        /// Scheme, host and port.
        origin: String,
        /// Why: `not-granted`, `not-public`, `frozen`.
        why: &'static str,
    },
    /// A name that is bait.
    Canary {
        /// Of what: `secret`, `key`, `file`, `object`.
        kind: &'static str,
        /// The name.
        name: String,
    },
}

/// One plugin under watch.
#[derive(Clone)]
pub struct Guarded {
    /// What is held now.
    pub standing: Arc<Standing>,
    /// Whose plugin.
    pub tenant: TenantId,
    /// The same by its unique id: a name can be used again.
    pub tenant_uid: String,
    /// Which.
    pub plugin: PluginName,
    /// The time that holds are measured by.
    pub clock: Arc<dyn Clock>,
    /// Who is told.
    pub witness: Arc<dyn Witness>,
}

impl Guarded {
    /// Whether it may send nothing out now.
    pub(crate) fn is_frozen(&self) -> bool {
        self.standing.is_frozen(&self.tenant, &self.plugin, self.clock.now())
    }

    /// Counts bytes that it sends out of the host.
    pub(crate) fn sent(&self, bytes: u64) {
        let whose = (&self.tenant, self.tenant_uid.as_str());
        self.standing.sent(whose, &self.plugin, bytes, self.clock.monotonic());
    }

    /// What is done about personal data that it sends to a host; without one, that it logs.
    pub(crate) fn loss_actions(&self, host: Option<&str>) -> LossActions {
        self.standing.loss_actions(&self.tenant, host)
    }

    /// Tells of what was found on its way out.
    pub(crate) fn lost(&self, lost: &Lost<'_>, kinds: impl IntoIterator<Item = LossKind>) {
        let mut counts = BTreeMap::<LossKind, u64>::new();
        kinds.into_iter().for_each(|kind| *counts.entry(kind).or_default() += 1);
        for (kind, count) in counts {
            self.standing.lost(Loss {
                tenant: Some(self.tenant.clone()),
                tenant_uid: Some(self.tenant_uid.clone()),
                plugin: self.plugin.clone(),
                invocation: Some(lost.invocation.clone()),
                kind,
                place: lost.place,
                host: lost.host.map(ToOwned::to_owned),
                taken: lost.taken,
                count,
                others_count: 0,
            });
        }
    }

    /// Tells of a refused destination.
    pub(crate) fn refused(&self, origin: &str, why: &'static str) {
        self.witness.tried(Tried::Egress { origin: origin.to_owned(), why });
    }

    /// Tells of a name that was asked for, if it is bait: one that the tenant chose in any case, one of the host's own when
    /// the plugin has none of that name.
    pub(crate) fn asked(&self, kind: &'static str, name: &str, got: Got) {
        let bait = match got {
            Got::Something | Got::Unknown => self.standing.is_chosen_canary(&self.tenant, name),
            Got::Nothing => self.standing.is_canary(&self.tenant, name),
        };
        if bait {
            self.witness.tried(Tried::Canary { kind, name: name.to_owned() });
        }
    }

    /// The same of what lies somewhere in a tree: by its last part, and by all of its path.
    pub(crate) fn asked_path(&self, kind: &'static str, path: &str, got: Got) {
        let last = path.rsplit('/').find(|part| !part.is_empty()).unwrap_or(path);
        self.asked(kind, last, got);
        if last != path {
            self.asked(kind, path, got);
        }
    }
}

/// Where something was found on its way out, and what was done.
pub(crate) struct Lost<'a> {
    pub(crate) invocation: &'a InvocationId,
    pub(crate) place: LossPlace,
    pub(crate) host: Option<&'a str>,
    pub(crate) taken: LossTaken,
}

/// What a guest got that asked for a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Got {
    /// A value.
    Something,
    /// None; or of a secret a refusal.
    Nothing,
    /// Nobody looked, or the store failed: one of the guest's own may be there.
    Unknown,
}

#[cfg(test)]
mod tests {
    use ringfence_core::standing::{CANARY_NAMES, Table};

    use super::*;
    use crate::testing::Rig;

    #[tokio::test]
    async fn a_name_of_the_hosts_is_bait_while_nothing_is_there_and_a_chosen_one_always() {
        let rig = Rig::new(&[]).await;
        let chosen = Arc::new(["payroll-root".to_owned()].into());
        rig.standing.publish(Table { canaries: [("acme".parse().unwrap(), chosen)].into(), ..Table::default() });
        let guarded = rig.guarded();
        guarded.asked("key", CANARY_NAMES[0], Got::Something);
        guarded.asked("key", CANARY_NAMES[0], Got::Unknown);
        guarded.asked("key", "visits", Got::Nothing);
        assert!(rig.sworn.tried().is_empty());
        guarded.asked("secret", CANARY_NAMES[0], Got::Nothing);
        guarded.asked("key", "payroll-root", Got::Something);
        assert_eq!(rig.sworn.tried().len(), 2);
        guarded.asked("key", "payroll-root", Got::Unknown);
        assert_eq!(rig.sworn.tried().len(), 3);
        for (path, got) in
            [("home/.ssh/id_rsa", Got::Nothing), (".env/", Got::Nothing), ("a/payroll-root", Got::Something)]
        {
            guarded.asked_path("file", path, got);
        }
        guarded.asked_path("file", "id_rsa/note", Got::Nothing);
        guarded.asked_path("file", "home/.env", Got::Something);
        assert_eq!(rig.sworn.tried().len(), 6);
    }
}
