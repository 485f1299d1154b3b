//! Ceremonies of passkeys under way: what was asked of an authenticator, until it answers.
//!
//! Must never hand one out twice, nor let a flood of new ones close anybody out: the oldest of the same source gives way
//! first. Pure: time is passed in.

use std::collections::VecDeque;
use std::time::Duration;

use ringfence_core::limits::{CEREMONIES_COUNT_MAX, CEREMONIES_PER_SOURCE_COUNT_MAX, CEREMONY_SECONDS};
use ringfence_core::{PrincipalId, Source};
use webauthn_rs::prelude::{
    AttestedPasskeyRegistration, DiscoverableAuthentication, PasskeyAuthentication, PasskeyRegistration,
};

/// What was asked, and of whom.
pub(crate) enum Pending {
    /// Signing in; of whoever holds a passkey of this host.
    SignIn(Box<DiscoverableAuthentication>),
    /// Proving more in a session.
    StepUp(PrincipalId, Box<PasskeyAuthentication>),
    /// Adding a passkey.
    Register(PrincipalId, Box<PasskeyRegistration>),
    /// Adding a passkey of an authenticator that says what it is.
    RegisterAttested(PrincipalId, Box<AttestedPasskeyRegistration>),
}

struct UnderWay<T> {
    id: String,
    source: Source,
    ends: Duration,
    pending: T,
}

/// All of them, oldest first.
pub(crate) struct Ceremonies<T = Pending>(VecDeque<UnderWay<T>>);

impl<T> Default for Ceremonies<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> Ceremonies<T> {
    /// Begins one.
    pub(crate) fn begin(&mut self, id: String, source: Source, pending: T, now: Duration) {
        while self.0.front().is_some_and(|oldest| oldest.ends <= now) {
            self.0.pop_front();
        }
        let same = self.0.iter().filter(|other| other.source == source).count();
        if same >= CEREMONIES_PER_SOURCE_COUNT_MAX
            && let Some(at) = self.0.iter().position(|other| other.source == source)
        {
            self.0.remove(at);
        } else if self.0.len() >= CEREMONIES_COUNT_MAX {
            self.0.pop_front();
        }
        let ends = now + Duration::from_secs(CEREMONY_SECONDS);
        self.0.push_back(UnderWay { id, source, ends, pending });
    }

    /// What was asked in one, which goes on; of one that is over it may still be known.
    pub(crate) fn of(&self, id: &str) -> Option<&T> {
        self.0.iter().find(|under_way| under_way.id == id).map(|under_way| &under_way.pending)
    }

    /// Ends one: it is handed out, and gone. None when it is unknown, over, or was ended before.
    pub(crate) fn end(&mut self, id: &str, now: Duration) -> Option<T> {
        let at = self.0.iter().position(|under_way| under_way.id == id)?;
        self.0.remove(at).filter(|under_way| now < under_way.ends).map(|under_way| under_way.pending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(last: u8) -> Source {
        Source::of(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, last)))
    }

    const START: Duration = Duration::from_secs(1_000);

    #[test]
    fn a_ceremony_is_handed_out_once_and_in_its_time() {
        let mut all = Ceremonies::default();
        all.begin("a".to_owned(), source(1), 1, START);
        all.begin("b".to_owned(), source(1), 2, START);
        assert_eq!((all.end("a", START), all.end("a", START), all.end("c", START)), (Some(1), None, None));
        assert_eq!(all.end("b", START + Duration::from_secs(CEREMONY_SECONDS)), None);
    }

    #[test]
    fn a_flood_from_one_source_takes_nothing_from_another() {
        let mut all = Ceremonies::default();
        all.begin("mine".to_owned(), source(1), 0, START);
        for number in 0..CEREMONIES_COUNT_MAX {
            all.begin(number.to_string(), source(2), number, START);
        }
        assert_eq!(all.0.len(), 1 + CEREMONIES_PER_SOURCE_COUNT_MAX);
        assert_eq!(all.end("mine", START), Some(0));
    }

    #[test]
    fn there_are_never_more_than_the_cap() {
        let mut all = Ceremonies::default();
        for number in 0..2 * CEREMONIES_COUNT_MAX {
            let part = u16::try_from(number).unwrap().to_be_bytes();
            let from = std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, part[0], part[1]));
            all.begin(number.to_string(), Source::of(from), number, START);
        }
        assert_eq!(all.0.len(), CEREMONIES_COUNT_MAX);
        all.begin("late".to_owned(), source(1), 0, START + Duration::from_secs(CEREMONY_SECONDS));
        assert_eq!(all.0.len(), 1, "those that are over make room");
    }
}
