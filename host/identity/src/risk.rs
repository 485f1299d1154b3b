//! Risk adjustments: somebody says for a while that a principal is to be trusted less, or more. And what else is known
//! about principals: findings, networks they came from.
//!
//! Must never let one person alone make another look better while there is somebody else to ask, nor anybody himself, nor
//! shut a whole place out; and never count an adjustment whose signature does not fit, or that is over.

use data_encoding::{BASE64, HEXLOWER};
use jiff::{SignedDuration, Timestamp};
use ringfence_core::limits::{NETWORKS_PER_PRINCIPAL_COUNT_MAX, RISK_HOURS_MAX, RISKS_PER_PRINCIPAL_COUNT_MAX};
use ringfence_core::proof::act;
use ringfence_core::{Permit, PrincipalId, SessionId, Source, TenantId};
use ringfence_store::{Key, Op, StoreError};
use serde::{Deserialize, Serialize};

use crate::about::{is_place, place, place_of};
use crate::devices::DeviceRecord;
use crate::manage::{covers, finish, not_found};
use crate::trust::{Finding, score, score_apart};
use crate::{Identity, IdentityError};

/// What is signed of an adjustment begins with this.
const SIGNED_AS: &str = "ringfence risk adjustment v1\n";

/// What somebody wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAdjustment {
    /// About whom or what: a principal, a plugin (`acme/plugin/hello`), or the place as a whole (`acme`).
    pub subject: PrincipalId,
    /// What it adds to his scores: below zero for more risk; 0 where a floor is given.
    pub delta: i32,
    /// The least risk instead, 1 to 100: scores are at most 100 less this.
    pub floor: Option<u8>,
    /// Why, for those who read it.
    pub reason: String,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// An adjustment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adjustment {
    /// Its name.
    pub id: String,
    /// About whom.
    pub subject: PrincipalId,
    /// What it adds to his scores.
    pub delta: i32,
    /// The least risk, 1 to 100, of one that sets that instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<u8>,
    /// Why.
    pub reason: String,
    /// Who asked for it.
    pub by: PrincipalId,
    /// When.
    pub at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// Who agreed, where that is needed.
    pub approved_by: Option<PrincipalId>,
    /// Who wants it withdrawn, while that takes another's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawn_by: Option<PrincipalId>,
    /// The host's signature over all of this, in base64.
    pub signature: String,
}

impl Adjustment {
    /// Whether it counts: one that makes somebody look better, or is of a whole place, needs a second person's word.
    pub fn is_in_force(&self, now: Timestamp) -> bool {
        now < self.expires_at && (self.approved_by.is_some() || (self.raises_risk() && !is_place(&self.subject)))
    }

    fn raises_risk(&self) -> bool {
        self.delta < 0 || self.floor.is_some()
    }

    fn signed_part(&self) -> Result<Vec<u8>, IdentityError> {
        let unsigned = Self { signature: String::new(), ..self.clone() };
        let text = serde_json::to_string(&unsigned).map_err(|_| IdentityError::Host("a record cannot be written"))?;
        Ok([SIGNED_AS.as_bytes(), text.as_bytes()].concat())
    }
}

/// What somebody's word does to an adjustment that he wants withdrawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withdrawal {
    /// The adjustment as it is.
    pub adjustment: Adjustment,
    /// Whether it goes by his word now; else it waits for another's.
    pub is_enough: bool,
    /// Whether it goes by one word though it takes two, because there is nobody else to ask.
    pub by_one: bool,
}

/// What is known about a principal beside his sessions.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct About {
    pub(crate) principal: Option<PrincipalId>,
    #[serde(default)]
    pub(crate) adjustments: Vec<Adjustment>,
    /// Networks he signed in from: since when, and when last.
    #[serde(default)]
    pub(crate) networks: Vec<Network>,
    #[serde(default)]
    pub(crate) devices: Vec<DeviceRecord>,
    /// Open findings, by the name that whoever found them gave them.
    #[serde(default)]
    pub(crate) findings: Vec<OpenFinding>,
}

impl About {
    /// Whether any of it is more than a memory of networks.
    pub(crate) fn counts(&self, now: Timestamp) -> bool {
        self.adjustments.iter().any(|adjustment| now < adjustment.expires_at)
            || self.findings.iter().any(|finding| now < finding.until)
            || !self.devices.is_empty()
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Network {
    pub(crate) source: Source,
    pub(crate) since: Timestamp,
    pub(crate) last: Timestamp,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct OpenFinding {
    pub(crate) id: String,
    pub(crate) severity: Finding,
    pub(crate) at: Timestamp,
    pub(crate) until: Timestamp,
}

/// What is wrong with what would leave who decides it below what his place asks.
const BELOW: &str = "you would stand below what is asked here yourself";

/// How long a network is remembered after it was last used.
const NETWORK_KEPT: SignedDuration = SignedDuration::from_hours(90 * 24);
/// How often its last use is written down.
const NETWORK_NOTED: SignedDuration = SignedDuration::from_hours(24);

pub(crate) fn about_at(principal: &PrincipalId) -> Key {
    Key::new(["identity", "about", &HEXLOWER.encode(principal.as_str().as_bytes())])
}

impl Identity {
    /// Adjusts the risk of a principal of a place. Raising it is in force at once, and ends his sessions that fall below
    /// the floor; lowering it, and any of a whole place, waits for a second person. `BadAdjustment` when who asks could not
    /// take it back himself.
    pub async fn adjust_risk(
        &self,
        permit: Permit<act::RevokeToken>,
        tenant: Option<&TenantId>,
        new: NewAdjustment,
    ) -> Result<Adjustment, IdentityError> {
        covers(permit.resource(), tenant)?;
        let now = self.shared.clock.now();
        self.admissible_adjustment(&new, tenant, permit.principal(), now)?;
        let mut id = [0_u8; 16];
        self.shared.entropy.fill(&mut id);
        let mut adjustment = Adjustment {
            id: format!("ra_{}", HEXLOWER.encode(&id)),
            subject: new.subject,
            delta: new.delta,
            floor: new.floor,
            reason: new.reason,
            by: permit.principal().clone(),
            at: now,
            expires_at: new.expires_at,
            approved_by: None,
            withdrawn_by: None,
            signature: String::new(),
        };
        if !self.could_take_back(tenant, &adjustment, permit.principal()) {
            return Err(IdentityError::BadAdjustment(BELOW));
        }
        self.sign(&mut adjustment)?;
        let kept = adjustment.clone();
        self.change_about(tenant, &adjustment.subject, move |about| {
            about.adjustments.retain(|other| now < other.expires_at);
            if about.adjustments.len() >= RISKS_PER_PRINCIPAL_COUNT_MAX {
                return Err(IdentityError::FactorState("there are 32 risk adjustments of this principal already"));
            }
            about.adjustments.push(kept);
            Ok(())
        })
        .await?;
        self.end_fallen_by(tenant, &adjustment.subject);
        Ok(adjustment)
    }

    /// Agrees to what another wanted. `BadAdjustment` when who agrees, or by now who asked, could not take it back himself.
    pub async fn approve_adjustment(
        &self,
        permit: Permit<act::RevokeToken>,
        tenant: Option<&TenantId>,
        id: &str,
    ) -> Result<Adjustment, IdentityError> {
        covers(permit.resource(), tenant)?;
        let found = self.adjustment_now(tenant, id)?;
        let approver = permit.principal();
        // Beside the one who asked, and beside the one it is about.
        if found.is_in_force(self.shared.clock.now())
            || !self.is_second_person(&found.by, approver)
            || self.is_one_owner(&found.subject, approver)
        {
            return Err(IdentityError::SecondPerson);
        }
        if !self.could_take_back(tenant, &found, approver) {
            return Err(IdentityError::BadAdjustment(BELOW));
        }
        // It takes both to withdraw it, and he may have fallen since.
        if !self.could_take_back(tenant, &found, &found.by) {
            return Err(IdentityError::BadAdjustment("who asked for it would stand below what is asked here by now"));
        }
        let mut approved = Adjustment { approved_by: Some(approver.clone()), ..found };
        self.sign(&mut approved)?;
        let kept = approved.clone();
        self.change_about(tenant, &approved.subject, move |about| {
            let waiting = about.adjustments.iter_mut().find(|other| other.id == kept.id && other.approved_by.is_none());
            match waiting {
                Some(waiting) => *waiting = kept,
                None => return Err(not_found(&kept.id)),
            }
            Ok(())
        })
        .await?;
        self.end_fallen_by(tenant, &approved.subject);
        Ok(approved)
    }

    /// An adjustment of a place that is not over, and whether this one's word alone withdraws it now. What makes somebody look
    /// worse, or is of a whole place, takes two people, neither of them him: the second after the first, who is in the adjustment
    /// then. Where there is nobody else to ask, one is enough. `BadAdjustment` when who asks would fall by it himself.
    pub fn withdrawal(
        &self,
        permit: &Permit<act::RevokeToken>,
        tenant: Option<&TenantId>,
        id: &str,
    ) -> Result<Withdrawal, IdentityError> {
        covers(permit.resource(), tenant)?;
        let (found, by) = (self.adjustment_now(tenant, id)?, permit.principal());
        let takes_two = found.raises_risk() || is_place(&found.subject);
        if !takes_two || !found.is_in_force(self.shared.clock.now()) {
            return Ok(Withdrawal { adjustment: found, is_enough: true, by_one: false });
        }
        if self.is_one_owner(&found.subject, by) {
            return Err(IdentityError::SelfLowering);
        }
        if !self.could_do_without(tenant, &found, by) {
            return Err(IdentityError::BadAdjustment(BELOW));
        }
        // One who would fall by it, or cannot sign in, by now wants it no longer: this one's word takes the place of his.
        let is_second = found
            .withdrawn_by
            .as_ref()
            .is_some_and(|one| self.is_second_person(one, by) && self.could_do_without(tenant, &found, one));
        let by_one = !is_second && !self.has_another_to_ask(tenant, &found.subject, by);
        Ok(Withdrawal { is_enough: is_second || by_one, by_one, adjustment: found })
    }

    /// Withdraws an adjustment, as [`Identity::withdrawal`] says it is; the adjustment while it waits for another's word, none
    /// when it is gone. What falls below the floor by that ends.
    pub async fn withdraw_adjustment(
        &self,
        permit: Permit<act::RevokeToken>,
        tenant: Option<&TenantId>,
        id: &str,
    ) -> Result<Option<Adjustment>, IdentityError> {
        let Withdrawal { adjustment: found, is_enough, .. } = self.withdrawal(&permit, tenant, id)?;
        let mut waiting =
            (!is_enough).then(|| Adjustment { withdrawn_by: Some(permit.principal().clone()), ..found.clone() });
        if let Some(waiting) = &mut waiting {
            self.sign(waiting)?;
        }
        let (subject, left) = (found.subject.clone(), waiting.clone());
        self.change_about(tenant, &subject, move |about| {
            let count = about.adjustments.len();
            about.adjustments.retain(|other| *other != found);
            if about.adjustments.len() == count {
                return Err(not_found(&found.id));
            }
            about.adjustments.extend(left);
            Ok(())
        })
        .await?;
        self.end_fallen_by(tenant, &subject);
        Ok(waiting)
    }

    /// The adjustments of a place that are not over, oldest first.
    pub fn list_adjustments(
        &self,
        permit: Permit<act::ListTokens>,
        tenant: Option<&TenantId>,
    ) -> Result<Vec<Adjustment>, IdentityError> {
        covers(permit.resource(), tenant)?;
        let now = self.shared.clock.now();
        let mut all = self.shared.read().adjustments_of(tenant);
        all.retain(|adjustment| now < adjustment.expires_at);
        all.sort_by(|a, b| (a.at, &a.id).cmp(&(b.at, &b.id)));
        Ok(all)
    }

    /// Notes a finding about a principal, or takes it back with no severity; for whoever watches the log. His sessions
    /// that fall below the floor by it end; which ones.
    pub async fn note_finding(
        &self,
        principal: &PrincipalId,
        tenant: Option<&TenantId>,
        id: &str,
        severity: Option<Finding>,
        until: Timestamp,
    ) -> Result<Vec<ringfence_core::SessionId>, IdentityError> {
        let at = self.shared.clock.now();
        self.change_about(tenant, principal, |about| {
            about.findings.retain(|other| other.id != id && at < other.until);
            if about.findings.len() >= RISKS_PER_PRINCIPAL_COUNT_MAX {
                // LIMIT: the mildest gives way; the score counts the worst alone.
                let mildest = about.findings.iter().map(|finding| finding.severity).min();
                if let Some(at) = about.findings.iter().position(|finding| Some(finding.severity) == mildest) {
                    about.findings.remove(at);
                }
            }
            if let Some(severity) = severity {
                about.findings.push(OpenFinding { id: id.to_owned(), severity, at, until });
            }
            Ok(())
        })
        .await?;
        Ok(self.end_fallen(tenant, Some(principal)))
    }

    /// Notes whether detection keeps up; for whoever watches it. While it does not, that nothing was found of somebody is unknown,
    /// which scores show and deduct for; no session ends by that.
    pub fn note_detection(&self, keeps_up: bool) {
        self.shared.write().is_unwatched = !keeps_up;
    }

    /// Notes where a principal signed in from; written down when it is new, and once a day.
    pub(crate) async fn note_network(
        &self,
        tenant: Option<&TenantId>,
        principal: &PrincipalId,
        source: std::net::IpAddr,
    ) -> Result<(), IdentityError> {
        let (source, now) = (Source::of(source), self.shared.clock.now());
        let noted = |last: Timestamp| now.duration_since(last) < NETWORK_NOTED;
        if self.shared.read().network_last(principal, source).is_some_and(noted) {
            return Ok(());
        }
        let noted = self.change_about(tenant, principal, |about| {
            about.networks.retain(|network| now.duration_since(network.last) < NETWORK_KEPT);
            match about.networks.iter_mut().find(|network| network.source == source) {
                Some(network) => network.last = now,
                None => {
                    if about.networks.len() >= NETWORKS_PER_PRINCIPAL_COUNT_MAX {
                        about.networks.sort_by_key(|network| network.last);
                        about.networks.remove(0);
                    }
                    about.networks.push(Network { source, since: now, last: now });
                }
            }
            Ok(())
        });
        match noted.await {
            // A network that cannot be remembered stays a new one; nobody is kept out for that.
            Err(IdentityError::FactorState(_)) => Ok(()),
            // The tenant was deleted meanwhile: its keys prove nothing any more.
            Err(IdentityError::NotFound { .. } | IdentityError::Store(StoreError::Gone)) => {
                Err(IdentityError::Unauthenticated)
            }
            other => other,
        }
    }

    fn adjustment_now(&self, tenant: Option<&TenantId>, id: &str) -> Result<Adjustment, IdentityError> {
        let now = self.shared.clock.now();
        let found = self.shared.read().adjustment(tenant, id).filter(|found| now < found.expires_at).cloned();
        found.ok_or_else(|| not_found(id))
    }

    /// Ends what falls below the floor by what is held against a subject: against a place, that is everybody there.
    fn end_fallen_by(&self, tenant: Option<&TenantId>, subject: &PrincipalId) {
        self.end_fallen(tenant, Some(subject).filter(|subject| !is_place(subject)));
    }

    /// Whether who holds this against himself, or against all of his place, could still take it back: else nobody may be left
    /// there who can.
    fn could_take_back(&self, tenant: Option<&TenantId>, adjustment: &Adjustment, by: &PrincipalId) -> bool {
        let concerned = adjustment.subject == *by || is_place(&adjustment.subject);
        let held = (adjustment.delta, adjustment.floor.unwrap_or(0));
        !concerned || !adjustment.raises_risk() || self.would_stand(tenant, by, held)
    }

    /// Whether who takes away what makes up for what is held against all of his place would still stand as high as could
    /// take that back.
    fn could_do_without(&self, tenant: Option<&TenantId>, adjustment: &Adjustment, by: &PrincipalId) -> bool {
        if adjustment.raises_risk() || !is_place(&adjustment.subject) {
            return true;
        }
        let (sum, _) = self.shared.read().risk_of(&adjustment.subject, self.shared.clock.now());
        // As `Tables::risk_against` counts it: never in anybody's favour beyond what is held against the place.
        let change = sum.saturating_sub(adjustment.delta).min(0).saturating_sub(sum.min(0));
        change == 0 || self.would_stand(tenant, by, (change, 0))
    }

    /// Whether a session of somebody, with this held against it too, would stand as high as taking something back needs. Of one
    /// who is signed out, whether what is known of him apart from any session lets one stand as high.
    fn would_stand(&self, tenant: Option<&TenantId>, who: &PrincipalId, (delta, floor): (i32, u8)) -> bool {
        let least = self.trust_of(tenant).least_to_take_back();
        if least == 0 {
            return true;
        }
        let now = self.shared.now();
        let own: Vec<SessionId> = {
            let tables = self.shared.read();
            let own = tables.sessions_of(tenant, now).filter(|stored| stored.principal == *who);
            own.map(|stored| stored.id.clone()).collect()
        };
        if own.is_empty() {
            // As everybody is minutes after he signed in.
            let tables = self.shared.read();
            let mut keys = tables.keys_of(tenant).filter(|key| key.principal == *who);
            if tables.person(who).is_none() && !keys.any(|key| key.is_live(now.wall)) {
                return false;
            }
            let (own_delta, own_floor) = tables.risk_of(who, now.wall);
            let (against, there) = place_of(tenant).map_or((0, 0), |place| tables.risk_against(&place, now.wall));
            let found = tables.found_about(who, now.wall);
            let held = own_delta.saturating_add(against).saturating_add(delta);
            return score_apart(found, held, own_floor.max(there).max(floor)).value >= least;
        }
        let mut standing = own.iter().filter_map(|session| self.signals(session, None, None));
        standing.any(|mut signals| {
            signals.adjustment = signals.adjustment.saturating_add(delta);
            signals.risk_floor = signals.risk_floor.max(floor);
            score(&signals).value >= least
        })
    }

    fn sign(&self, adjustment: &mut Adjustment) -> Result<(), IdentityError> {
        adjustment.signature = BASE64.encode(&self.shared.tokens.sign_bytes(&adjustment.signed_part()?));
        Ok(())
    }

    /// Whether this host signed an adjustment as it is.
    pub(crate) fn is_signed(&self, adjustment: &Adjustment) -> bool {
        let signature = BASE64.decode(adjustment.signature.as_bytes());
        let part = adjustment.signed_part();
        matches!((signature, part), (Ok(signature), Ok(part)) if self.shared.tokens.signed_bytes(&part, &signature))
    }

    fn admissible_adjustment(
        &self,
        new: &NewAdjustment,
        tenant: Option<&TenantId>,
        by: &PrincipalId,
        now: Timestamp,
    ) -> Result<(), IdentityError> {
        if place(&new.subject) != tenant.map_or(crate::OPERATOR, TenantId::as_str) {
            return Err(not_found(new.subject.as_str()));
        }
        match new.floor {
            None if new.delta == 0 || !(-100..=100).contains(&new.delta) => {
                return Err(IdentityError::BadAdjustment("the delta is -100 to 100, and not 0"));
            }
            Some(floor) if new.delta != 0 || !(1..=100).contains(&floor) => {
                return Err(IdentityError::BadAdjustment("the floor is 1 to 100, and stands without a delta"));
            }
            _ => {}
        }
        let longest = SignedDuration::from_hours(RISK_HOURS_MAX);
        if new.expires_at <= now || new.expires_at.duration_since(now) > longest {
            return Err(IdentityError::BadAdjustment("it ends in the future, and within 90 days"));
        }
        if new.reason.trim().is_empty() || new.reason.len() > 500 {
            return Err(IdentityError::BadAdjustment("the reason has 1 to 500 bytes"));
        }
        if new.delta > 0 && self.is_one_owner(&new.subject, by) {
            return Err(IdentityError::SelfLowering);
        }
        Ok(())
    }

    /// Changes what is known about a principal: durable first, then in force.
    pub(crate) async fn change_about(
        &self,
        tenant: Option<&TenantId>,
        principal: &PrincipalId,
        change: impl FnOnce(&mut About) -> Result<(), IdentityError>,
    ) -> Result<(), IdentityError> {
        let store = self.store_of(tenant)?;
        let _changing = self.shared.changing_about.of(tenant.cloned()).await;
        let mut about = self.shared.read().about(principal).cloned().unwrap_or_default();
        about.principal = Some(principal.clone());
        change(&mut about)?;
        let gives_way = self.shared.read().making_room(tenant, principal, self.shared.clock.now())?;
        let mut ops = vec![Op::put_json(about_at(principal), &about)?];
        ops.extend(gives_way.iter().map(|other| Op::delete(about_at(other))));
        finish(store, ops).await?;
        let mut tables = self.shared.write();
        gives_way.iter().for_each(|other| tables.drop_about(other));
        tables.put_about(about);
        Ok(())
    }
}
