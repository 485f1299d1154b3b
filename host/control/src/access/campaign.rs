//! Access reviews as they are kept, and their rules: what an item is, who may decide it, what is left of a review. Pure.
//!
//! Must never let somebody decide about what is his own, nor about what he gave.
//! Records, in the tenant's store: `review/head/<id>` and `review/item/<id>/<number>`.

use jiff::Timestamp;
use ringfence_core::{Capability, PluginName, PrincipalId, RequestId, ResourceName, ReviewId, Role};
use ringfence_store::Key;
use serde::{Deserialize, Serialize};

/// LIMIT: items of one review.
pub(crate) const ITEMS_COUNT_MAX: usize = 2_000;
/// LIMIT: reviews that a tenant keeps; the one that was closed first gives way.
pub(crate) const REVIEWS_COUNT_MAX: usize = 64;
/// LIMIT: reviewers of one review.
pub(crate) const REVIEWERS_COUNT_MAX: usize = 64;
/// Longest time a review is open, in days.
pub(crate) const DAYS_MAX: i64 = 366;

/// What becomes of items that nobody decided in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Overdue {
    /// They are reported, and can still be decided.
    Report,
    /// They are revoked, in the name of who opened the review and as far as he still may.
    Revoke,
}

/// A review.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Campaign {
    pub(crate) id: ReviewId,
    pub(crate) title: String,
    pub(crate) opened_by: PrincipalId,
    pub(crate) opened_at: Timestamp,
    pub(crate) due_at: Timestamp,
    pub(crate) overdue: Overdue,
    pub(crate) reviewers: Vec<PrincipalId>,
    pub(crate) items_count: usize,
    pub(crate) closed_at: Option<Timestamp>,
    pub(crate) closed_by: Option<PrincipalId>,
    /// Whether what was promised for its last day was done.
    pub(crate) due_done: bool,
}

/// What an item is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub(crate) enum About {
    /// A person and his role.
    Person { name: ResourceName, role: Role },
    /// An API key and its role.
    ApiKey { id: String, name: ResourceName, role: Role },
    /// A capability of a plugin.
    Grant { plugin: PluginName, capability: Capability, scope: Vec<String> },
    /// A role that is held for a while.
    Elevation { id: String, role: Role, until: Timestamp },
    /// A role of the tenant's own making, by label.
    Label { principal: PrincipalId, role: String },
}

/// One thing to decide.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Item {
    pub(crate) number: u64,
    pub(crate) about: About,
    /// Whose access it is; none for a plugin's.
    pub(crate) holder: Option<PrincipalId>,
    /// Who gave it, where that is known.
    pub(crate) given_by: Option<PrincipalId>,
    /// When it was last used, and the word for that, as known when the review was opened.
    pub(crate) used_at: Option<Timestamp>,
    pub(crate) state: String,
    /// What was decided, oldest first; more than one when it was escalated.
    pub(crate) decisions: Vec<Decision>,
}

/// What can be decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Choice {
    /// It stays.
    Keep,
    /// It goes, now.
    Revoke,
    /// A tenant-admin is to decide.
    Escalate,
}

/// One decision.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Decision {
    pub(crate) choice: Choice,
    pub(crate) reason: String,
    pub(crate) by: PrincipalId,
    pub(crate) at: Timestamp,
    /// The request that is on the audit log; none for what the host did on the last day.
    pub(crate) request: Option<RequestId>,
    /// Of a revocation: whether it is done. One that a kill cut is carried on.
    pub(crate) done: bool,
}

/// Who decides an item next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// A reviewer.
    Reviewer,
    /// A tenant-admin: it was escalated.
    Admin,
    /// Nobody: it is decided.
    Nobody,
}

/// Why somebody may not decide an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conflict {
    /// It is his own, or he gave it, or he escalated it.
    Own,
    /// He is no second person beside its holder, so it cannot stay by his word.
    NoSecondPerson,
}

/// What is known of two principals.
pub(crate) trait Persons {
    /// Whether both are of one owner.
    fn are_one(&self, one: &PrincipalId, other: &PrincipalId) -> bool;
    /// Whether they count as two people.
    fn are_two(&self, one: &PrincipalId, other: &PrincipalId) -> bool;
}

impl Campaign {
    /// What to call its state: `open`, `overdue`, `complete` or `closed`.
    pub(crate) fn state(&self, open_count: usize, now: Timestamp) -> &'static str {
        match (self.closed_at, open_count, self.due_at <= now) {
            (Some(_), _, _) => "closed",
            (None, 0, _) => "complete",
            (None, _, true) => "overdue",
            (None, _, false) => "open",
        }
    }
}

impl Item {
    /// Whose turn it is.
    pub(crate) fn turn(&self) -> Turn {
        match self.decisions.last().map(|last| last.choice) {
            None => Turn::Reviewer,
            Some(Choice::Escalate) => Turn::Admin,
            Some(Choice::Keep | Choice::Revoke) => Turn::Nobody,
        }
    }

    /// A revocation that was decided and is not known to be done.
    pub(crate) fn is_cut(&self) -> bool {
        self.decisions.last().is_some_and(|last| last.choice == Choice::Revoke && !last.done)
    }

    /// Whether any of these may decide it at all.
    pub(crate) fn is_for_any(&self, reviewers: &[PrincipalId], persons: &impl Persons) -> bool {
        reviewers.iter().any(|by| self.conflict(by, Choice::Revoke, persons).is_none())
    }

    /// Why `by` may not choose this, if so. Nobody decides about himself, nor keeps what he gave; what is to stay stays by the
    /// word of a second person. A revocation takes away and needs no more than another person.
    pub(crate) fn conflict(&self, by: &PrincipalId, choice: Choice, persons: &impl Persons) -> Option<Conflict> {
        let own = self.holder.as_ref().is_some_and(|holder| persons.are_one(holder, by));
        let escalated = self.decisions.last().filter(|last| last.choice == Choice::Escalate);
        let again = escalated.is_some_and(|last| persons.are_one(&last.by, by));
        let gave = self.given_by.as_ref().is_some_and(|giver| persons.are_one(giver, by));
        if own || again || (gave && choice == Choice::Keep && self.holder.is_none()) {
            return Some(Conflict::Own);
        }
        let alone = self.holder.as_ref().is_some_and(|holder| !persons.are_two(holder, by));
        (choice == Choice::Keep && alone).then_some(Conflict::NoSecondPerson)
    }
}

pub(crate) fn heads_key() -> Key {
    Key::new(["review", "head"])
}

pub(crate) fn head_key(id: &ReviewId) -> Key {
    heads_key().push(id.as_str())
}

pub(crate) fn items_key(id: &ReviewId) -> Key {
    Key::new(["review", "item", id.as_str()])
}

pub(crate) fn item_key(id: &ReviewId, number: u64) -> Key {
    items_key(id).number(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Owners are what stands before the first dot; `new` ones count as nobody's second person.
    struct Owners;

    impl Persons for Owners {
        fn are_one(&self, one: &PrincipalId, other: &PrincipalId) -> bool {
            owner(one) == owner(other)
        }
        fn are_two(&self, one: &PrincipalId, other: &PrincipalId) -> bool {
            !self.are_one(one, other) && !owner(one).contains("new") && !owner(other).contains("new")
        }
    }

    fn owner(of: &PrincipalId) -> &str {
        of.as_str().split('.').next().unwrap()
    }

    fn who(name: &str) -> PrincipalId {
        format!("acme/{name}").parse().unwrap()
    }

    fn decision(choice: Choice, by: &str) -> Decision {
        let at = Timestamp::UNIX_EPOCH;
        Decision { choice, reason: "a test".to_owned(), by: who(by), at, request: None, done: false }
    }

    fn key_of(holder: &str) -> Item {
        Item {
            number: 0,
            about: About::ApiKey { id: "k".to_owned(), name: "ci".parse().unwrap(), role: Role::Developer },
            holder: Some(who(holder)),
            given_by: Some(who("eve")),
            used_at: None,
            state: "unknown".to_owned(),
            decisions: Vec::new(),
        }
    }

    #[test]
    fn nobody_decides_about_himself_under_any_of_his_names() {
        for choice in [Choice::Keep, Choice::Revoke, Choice::Escalate] {
            assert_eq!(key_of("ann").conflict(&who("ann"), choice, &Owners), Some(Conflict::Own));
            assert_eq!(key_of("ann.ci").conflict(&who("ann"), choice, &Owners), Some(Conflict::Own));
            assert_eq!(key_of("ann").conflict(&who("bob"), choice, &Owners), None);
        }
    }

    #[test]
    fn what_is_all_reviewers_own_is_for_none_of_them() {
        assert!(!key_of("ann.ci").is_for_any(&[who("ann"), who("ann.phone")], &Owners));
        assert!(key_of("ann.ci").is_for_any(&[who("ann"), who("new-bob")], &Owners));
        assert!(
            Item { holder: None, ..key_of("ann") }.is_for_any(&[who("eve")], &Owners),
            "he may take back what he gave"
        );
    }

    #[test]
    fn what_stays_stays_by_a_second_person_and_what_goes_needs_only_another() {
        assert_eq!(key_of("ann").conflict(&who("new-bob"), Choice::Keep, &Owners), Some(Conflict::NoSecondPerson));
        assert_eq!(key_of("ann").conflict(&who("new-bob"), Choice::Revoke, &Owners), None);
        assert_eq!(key_of("ann").conflict(&who("new-bob"), Choice::Escalate, &Owners), None);
    }

    #[test]
    fn who_granted_a_plugin_something_does_not_keep_it_and_may_take_it_back() {
        let about = About::Grant { plugin: "hello".parse().unwrap(), capability: Capability::Http, scope: Vec::new() };
        let grant = Item { about, holder: None, ..key_of("ann") };
        assert_eq!(grant.conflict(&who("eve.key"), Choice::Keep, &Owners), Some(Conflict::Own));
        assert_eq!(grant.conflict(&who("eve"), Choice::Revoke, &Owners), None);
        assert_eq!(grant.conflict(&who("new-bob"), Choice::Keep, &Owners), None);
    }

    #[test]
    fn an_escalated_item_is_an_admins_and_not_the_one_who_escalated_it() {
        let mut item = key_of("ann");
        assert_eq!(item.turn(), Turn::Reviewer);
        item.decisions.push(decision(Choice::Escalate, "bob"));
        assert_eq!(item.turn(), Turn::Admin);
        assert_eq!(item.conflict(&who("bob.admin"), Choice::Keep, &Owners), Some(Conflict::Own));
        assert_eq!(item.conflict(&who("cleo"), Choice::Keep, &Owners), None);
        item.decisions.push(decision(Choice::Revoke, "cleo"));
        assert!(item.turn() == Turn::Nobody && item.is_cut());
    }

    #[test]
    fn a_review_is_complete_before_it_is_overdue_and_closed_before_both() {
        let at = Timestamp::UNIX_EPOCH;
        let mut campaign = Campaign {
            id: "rv_aaaaaaaaaaaaaaaaaaaaaaaaaa".parse().unwrap(),
            title: "autumn".to_owned(),
            opened_by: who("ann"),
            opened_at: at,
            due_at: at,
            overdue: Overdue::Report,
            reviewers: vec![who("bob")],
            items_count: 1,
            closed_at: None,
            closed_by: None,
            due_done: false,
        };
        assert_eq!((campaign.state(1, at), campaign.state(0, at)), ("overdue", "complete"));
        assert_eq!(campaign.state(1, Timestamp::MIN), "open");
        campaign.closed_at = Some(at);
        assert_eq!(campaign.state(0, at), "closed");
    }
}
