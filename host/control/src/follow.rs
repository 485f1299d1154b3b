//! Streams of the control plane: what goes on after its request was allowed.
//!
//! Must never tell one more thing to whoever may not go on: his session ended, or something is held against him.

use std::future::ready;
use std::time::Duration;

use futures::{Stream, StreamExt};
use ringfence_core::{Principal, limits};

use crate::Control;

/// How often an open stream asks while nothing comes.
const LOOK: Duration = Duration::from_millis(limits::STANDING_LOOK_MS_MAX);

impl Control {
    /// What `principal` follows, for as long as he may: asked before each thing is told, and each second while nothing comes.
    pub(crate) fn while_allowed<S: Stream>(
        &self,
        principal: Principal,
        told: S,
    ) -> impl Stream<Item = S::Item> + use<S> {
        let (control, who) = (self.clone(), principal.clone());
        let barred = async move {
            while control.may_follow(&who) {
                tokio::time::sleep(LOOK).await;
            }
        };
        let control = self.clone();
        told.take_until(barred).take_while(move |_| ready(control.may_follow(&principal)))
    }

    fn may_follow(&self, principal: &Principal) -> bool {
        let parts = &*self.parts;
        principal.session().is_some_and(|session| parts.identity.is_alive(session))
            && parts.threat.standing().may_go_on(principal, parts.clock.now()).is_ok()
    }
}
