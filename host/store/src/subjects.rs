//! The people in a tenant's data: one wrapped data key each, so that one of them can be erased for good.
//!
//! Must never write a subject's name, not even sealed: here a subject is its pseudonym. Records: `personal-key` the key that
//! wraps those of people and makes their pseudonyms (see `ringfence_keys::PersonalKey`), `subject/<ref>` a wrapped key, `subject-erased/<ref>/<key version>` that it was destroyed, when and by whom, `subject-token/<field>/
//! <token>/<ref>` a sealed value that a token leads back to, and `subject-token-of/<ref>/<field>/<token>` to find these.
//!
//! Destroying a wrapped key is what erases: values lie where their plugins put them, and none of them opens again.
//! LIMIT: whoever kept an older copy of the data directory together with the tenant's key still has the wrapped key.

use data_encoding::BASE64;
use jiff::Timestamp;
use ringfence_keys::{KeysError, PersonalKey, SealedField, SubjectKey, SubjectRef, Zeroizing};
use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::key::{Key, Segment};
use crate::record::{Op, Precondition, Record};
use crate::tenant_store::TenantStore;

/// LIMIT: most bytes of a subject's name.
pub const SUBJECT_BYTES_MAX: usize = 256;
/// LIMIT: most bytes of a field's name.
pub const FIELD_BYTES_MAX: usize = 64;
/// LIMIT: most bytes of one value that is sealed as a field.
pub const FIELD_VALUE_BYTES_MAX: usize = 256 << 10;
/// LIMIT: mappings read for [`SubjectAbout::tokens_count`], subjects tried for one token.
pub const SUBJECT_TOKENS_COUNT_MAX: usize = 1_000;
/// LIMIT: how often making a key starts over because someone else was faster.
const ATTEMPTS_MAX: usize = 4;
/// Mappings deleted in one batch, each with its way back.
const TOKENS_AT_A_TIME: usize = 400;

/// The subjects of one tenant. Cheap to clone.
#[derive(Clone)]
pub struct Subjects(TenantStore);

/// What is known of a subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectAbout {
    /// Its pseudonym.
    pub subject: SubjectRef,
    /// Version of its living key and when it was made; none when there is no key.
    pub key: Option<(u32, Timestamp)>,
    /// Erasures, the newest first.
    pub erasures: Vec<Tombstone>,
    /// Tokens that lead back to a value of it, counted up to [`SUBJECT_TOKENS_COUNT_MAX`].
    pub tokens_count: usize,
}

/// That a subject's key was destroyed. Names nobody: it lies under the subject's pseudonym.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// Which version of the key is gone.
    pub key_version: u32,
    /// When.
    pub erased_at: Timestamp,
    /// By whom.
    pub erased_by: String,
}

#[derive(Serialize, Deserialize)]
struct KeyRecord {
    version: u32,
    wrapped: String,
    created_at: Timestamp,
}

impl TenantStore {
    /// The people in this tenant's data.
    pub fn subjects(&self) -> Subjects {
        Subjects(self.clone())
    }
}

impl Subjects {
    /// The pseudonym of a subject. Fails for an empty name or one over [`SUBJECT_BYTES_MAX`].
    pub async fn pseudonym(&self, subject: &str) -> Result<SubjectRef, StoreError> {
        check_subject(subject)?;
        Ok(self.personal().await?.subject_ref(subject))
    }

    /// Seals a value of a field for a subject; its key is made when there is none. The result is printable.
    pub async fn seal(
        &self,
        field: &str,
        subject: &str,
        plaintext: &[u8],
        now: Timestamp,
    ) -> Result<String, StoreError> {
        check_value(field, plaintext)?;
        check_subject(subject)?;
        let personal = self.personal().await?;
        let key = self.living(&personal, personal.subject_ref(subject), now).await?;
        Ok(key.seal(field, plaintext, &*self.0.shared().entropy)?)
    }

    /// Opens a sealed value of a field, and says whose it is. With a `subject`, only when it is that subject's. Fails with
    /// [`StoreError::Erased`] when its key was destroyed, and with [`StoreError::Keys`] for whatever was not sealed for
    /// this field of this tenant.
    pub async fn open(
        &self,
        field: &str,
        subject: Option<&str>,
        sealed: &str,
    ) -> Result<(SubjectRef, Zeroizing<Vec<u8>>), StoreError> {
        let sealed = SealedField::parse(sealed)?;
        subject.map(check_subject).transpose()?;
        let personal = self.personal_if_any().await?.ok_or(KeysError::NotAuthentic)?;
        if subject.is_some_and(|subject| personal.subject_ref(subject) != sealed.subject) {
            return Err(KeysError::NotAuthentic.into());
        }
        let key = match self.key(&personal, sealed.subject).await? {
            Some((key, _)) if key.version() == sealed.version => key,
            _ if self.0.get(&tombstone_key(sealed.subject, sealed.version)).await?.is_some() => {
                return Err(StoreError::Erased);
            }
            _ => return Err(KeysError::NotAuthentic.into()),
        };
        Ok((sealed.subject, key.open(field, &sealed)?))
    }

    /// The token of a value. With a `subject`, the value is kept sealed under that subject's key, so that
    /// [`Subjects::detokenise`] finds it until the subject is erased; without, there is no way back.
    pub async fn tokenise(
        &self,
        field: &str,
        subject: Option<&str>,
        value: &[u8],
        now: Timestamp,
    ) -> Result<String, StoreError> {
        check_value(field, value)?;
        subject.map(check_subject).transpose()?;
        let personal = self.personal().await?;
        let token = personal.field_token(field, value);
        let Some(subject) = subject else { return Ok(token) };
        let person = personal.subject_ref(subject);
        let mapping = token_key(field, &token, person);
        if let Some(kept) = self.0.get(&mapping).await?
            && let Ok(text) = std::str::from_utf8(&kept.value)
            && self.open(field, None, text).await.is_ok()
        {
            return Ok(token);
        }
        let sealed = self.seal(field, subject, value, now).await?;
        let ops = vec![Op::put(mapping, sealed.into_bytes()), Op::put(token_of_key(person, field, &token), Vec::new())];
        self.0.batch(ops, vec![Precondition::Present(living_key(person))]).await?;
        Ok(token)
    }

    /// The value behind a token, when some subject that is not erased has it; none otherwise.
    pub async fn detokenise(
        &self,
        field: &str,
        token: &str,
    ) -> Result<Option<(SubjectRef, Zeroizing<Vec<u8>>)>, StoreError> {
        check_value(field, token.as_bytes())?;
        let prefix = Key::new(["subject-token", field, token]);
        let page = self.0.scan(&prefix, None, SUBJECT_TOKENS_COUNT_MAX).await?;
        for (_, record) in page.records {
            let Ok(text) = std::str::from_utf8(&record.value) else { continue };
            match self.open(field, None, text).await {
                Ok(found) => return Ok(Some(found)),
                Err(StoreError::Erased | StoreError::Keys(_)) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(None)
    }

    /// Destroys a subject's key and what its tokens lead to. Again is fine and finishes what was left; none for a subject
    /// that never had a key.
    pub async fn erase(&self, subject: &str, by: &str, now: Timestamp) -> Result<Option<Tombstone>, StoreError> {
        let person = self.pseudonym(subject).await?;
        for _ in 0..ATTEMPTS_MAX {
            let Some(record) = self.0.get(&living_key(person)).await? else { break };
            let version = record.json::<KeyRecord>()?.version;
            let tombstone = Tombstone { key_version: version, erased_at: now, erased_by: by.to_owned() };
            let ops = vec![Op::delete(living_key(person)), Op::put_json(tombstone_key(person, version), &tombstone)?];
            match self.0.batch(ops, vec![Precondition::Revision(living_key(person), record.revision)]).await {
                Err(StoreError::Conflict { .. }) => {}
                other => {
                    other?;
                    break;
                }
            }
        }
        self.forget_tokens(person).await?;
        Ok(self.erasures(person, 1).await?.into_iter().next())
    }

    /// What is known of a subject; fine for one that was never seen.
    pub async fn about(&self, subject: &str) -> Result<SubjectAbout, StoreError> {
        check_subject(subject)?;
        let personal = self.personal().await?;
        let person = personal.subject_ref(subject);
        let tokens = Key::new(["subject-token-of".to_owned(), person.to_string()]);
        let tokens_count = self.0.scan(&tokens, None, SUBJECT_TOKENS_COUNT_MAX).await?.records.len();
        let key = self.key(&personal, person).await?.map(|(key, created_at)| (key.version(), created_at));
        Ok(SubjectAbout { subject: person, key, erasures: self.erasures(person, 100).await?, tokens_count })
    }

    /// The tombstone, when a record of an older copy of this tenant is the key, or a token's value, of a person that was
    /// erased since.
    pub(crate) async fn tombstone_of(&self, key: &Key, value: &[u8]) -> Result<Option<Op>, StoreError> {
        let (person, version) = match key.segments() {
            [Segment::Name(first), Segment::Name(person)] if first == "subject" => {
                let Ok(KeyRecord { version, .. }) = serde_json::from_slice(value) else { return Ok(None) };
                (person.clone(), version)
            }
            [Segment::Name(first), _, _, Segment::Name(person)] if first == "subject-token" => {
                let Ok(sealed) = SealedField::parse(&String::from_utf8_lossy(value)) else { return Ok(None) };
                (person.clone(), sealed.version)
            }
            _ => return Ok(None),
        };
        let tombstone = Key::new(["subject-erased".to_owned(), person]).number(version.into());
        let record = self.0.get(&tombstone).await?;
        Ok(record.map(|record| Op::put(tombstone, record.value.to_vec())))
    }

    /// Removes the ways back to tokens' values that are not there.
    pub(crate) async fn forget_ways_to_nothing(&self) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let page = self.0.scan(&Key::new(["subject-token-of"]), after.as_ref(), TOKENS_AT_A_TIME).await?;
            let mut ops = Vec::new();
            for (key, _) in page.records {
                let [_, Segment::Name(person), Segment::Name(field), Segment::Name(token)] = key.segments() else {
                    continue;
                };
                let mapping = Key::new(["subject-token", field, token]).push(person.clone());
                if self.0.get(&mapping).await?.is_none() {
                    ops.push(Op::delete(key));
                }
            }
            if !ops.is_empty() {
                self.0.batch(ops, Vec::new()).await?;
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    async fn personal_if_any(&self) -> Result<Option<PersonalKey>, StoreError> {
        let Some(record) = self.0.get(&personal_key()).await? else { return Ok(None) };
        Ok(Some(PersonalKey::from_bytes(&record.value)?))
    }

    /// The tenant's key for personal data, made when there is none.
    async fn personal(&self) -> Result<PersonalKey, StoreError> {
        for _ in 0..ATTEMPTS_MAX {
            if let Some(personal) = self.personal_if_any().await? {
                return Ok(personal);
            }
            let personal = PersonalKey::generate(self.0.keys().tenant(), &*self.0.shared().entropy)?;
            let op = Op::put(personal_key(), personal.to_bytes().to_vec());
            match self.0.batch(vec![op], vec![Precondition::Absent(personal_key())]).await {
                Err(StoreError::Conflict { .. }) => {}
                other => {
                    other?;
                    return Ok(personal);
                }
            }
        }
        Err(StoreError::Busy)
    }

    async fn key(
        &self,
        personal: &PersonalKey,
        person: SubjectRef,
    ) -> Result<Option<(SubjectKey, Timestamp)>, StoreError> {
        let Some(record) = self.0.get(&living_key(person)).await? else { return Ok(None) };
        let KeyRecord { version, wrapped, created_at } = record.json()?;
        let wrapped = BASE64.decode(wrapped.as_bytes()).map_err(|_| StoreError::Damaged)?;
        Ok(Some((personal.subject_key(person, version, &wrapped)?, created_at)))
    }

    /// The living key, made when there is none. After an erasure it is the next version: what was sealed before stays shut.
    async fn living(
        &self,
        personal: &PersonalKey,
        person: SubjectRef,
        now: Timestamp,
    ) -> Result<SubjectKey, StoreError> {
        for _ in 0..ATTEMPTS_MAX {
            if let Some((key, _)) = self.key(personal, person).await? {
                return Ok(key);
            }
            let last = self.erasures(person, 1).await?.first().map_or(0, |tombstone| tombstone.key_version);
            let version = last.checked_add(1).ok_or(StoreError::Damaged)?;
            let (key, wrapped) = personal.new_subject_key(person, version, &*self.0.shared().entropy)?;
            let record = KeyRecord { version, wrapped: BASE64.encode(&wrapped), created_at: now };
            let conditions =
                vec![Precondition::Absent(living_key(person)), Precondition::Absent(tombstone_key(person, version))];
            match self.0.batch(vec![Op::put_json(living_key(person), &record)?], conditions).await {
                Err(StoreError::Conflict { .. }) => {}
                other => {
                    other?;
                    return Ok(key);
                }
            }
        }
        Err(StoreError::Busy)
    }

    async fn erasures(&self, person: SubjectRef, limit: usize) -> Result<Vec<Tombstone>, StoreError> {
        let prefix = Key::new(["subject-erased".to_owned(), person.to_string()]);
        let page = self.0.scan_back(&prefix, None, limit).await?;
        page.records.iter().map(|(_, record): &(Key, Record)| record.json()).collect()
    }

    async fn forget_tokens(&self, person: SubjectRef) -> Result<(), StoreError> {
        let prefix = Key::new(["subject-token-of".to_owned(), person.to_string()]);
        loop {
            let page = self.0.scan(&prefix, None, TOKENS_AT_A_TIME).await?;
            if page.records.is_empty() {
                return Ok(());
            }
            let mut ops = Vec::new();
            for (key, _) in page.records {
                if let [_, _, Segment::Name(field), Segment::Name(token)] = key.segments() {
                    ops.push(Op::delete(token_key(field, token, person)));
                }
                ops.push(Op::delete(key));
            }
            self.0.batch(ops, Vec::new()).await?;
        }
    }
}

fn check_subject(subject: &str) -> Result<(), StoreError> {
    if subject.is_empty() {
        return Err(StoreError::NoSubject);
    }
    if subject.len() > SUBJECT_BYTES_MAX {
        return Err(StoreError::TooLarge { what: "the name of a subject", max: SUBJECT_BYTES_MAX as u64 });
    }
    Ok(())
}

fn check_value(field: &str, value: &[u8]) -> Result<(), StoreError> {
    if field.len() > FIELD_BYTES_MAX {
        return Err(StoreError::TooLarge { what: "the name of a field", max: FIELD_BYTES_MAX as u64 });
    }
    if value.len() > FIELD_VALUE_BYTES_MAX {
        return Err(StoreError::TooLarge { what: "the value of a field", max: FIELD_VALUE_BYTES_MAX as u64 });
    }
    Ok(())
}

fn personal_key() -> Key {
    Key::new(["personal-key"])
}

fn living_key(person: SubjectRef) -> Key {
    Key::new(["subject".to_owned(), person.to_string()])
}

fn tombstone_key(person: SubjectRef, version: u32) -> Key {
    Key::new(["subject-erased".to_owned(), person.to_string()]).number(version.into())
}

fn token_key(field: &str, token: &str, person: SubjectRef) -> Key {
    Key::new(["subject-token", field, token]).push(person.to_string())
}

fn token_of_key(person: SubjectRef, field: &str, token: &str) -> Key {
    Key::new(["subject-token-of".to_owned(), person.to_string()]).push(field).push(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;
    use crate::tenant_store::tests::tenant_in;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn subjects() -> Subjects {
        tenant_in(&Store::memory()).subjects()
    }

    async fn opened(subjects: &Subjects, subject: Option<&str>, sealed: &str) -> Result<String, StoreError> {
        let (_, value) = subjects.open("email", subject, sealed).await?;
        Ok(String::from_utf8(value.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_value_opens_for_its_own_subject_with_or_without_naming_it() {
        let subjects = subjects();
        let sealed = subjects.seal("email", "ann", b"ann@example.com", NOW).await.unwrap();
        assert_eq!(opened(&subjects, None, &sealed).await.unwrap(), "ann@example.com");
        assert_eq!(opened(&subjects, Some("ann"), &sealed).await.unwrap(), "ann@example.com");
        assert!(matches!(opened(&subjects, Some("bob"), &sealed).await, Err(StoreError::Keys(_))));
        assert!(matches!(subjects.open("phone", None, &sealed).await, Err(StoreError::Keys(_))));
    }

    #[tokio::test]
    async fn an_erased_subject_opens_nothing_again_and_others_are_untouched() {
        let subjects = subjects();
        let ann = subjects.seal("email", "ann", b"a", NOW).await.unwrap();
        let bob = subjects.seal("email", "bob", b"b", NOW).await.unwrap();
        let token = subjects.tokenise("email", Some("ann"), b"a", NOW).await.unwrap();
        assert_eq!(subjects.about("ann").await.unwrap().tokens_count, 1);
        let tombstone = subjects.erase("ann", "acme/admin", NOW).await.unwrap().unwrap();
        assert_eq!((tombstone.key_version, tombstone.erased_by.as_str()), (1, "acme/admin"));
        assert!(matches!(opened(&subjects, None, &ann).await, Err(StoreError::Erased)));
        assert_eq!(opened(&subjects, None, &bob).await.unwrap(), "b");
        assert!(subjects.detokenise("email", &token).await.unwrap().is_none());
        let about = subjects.about("ann").await.unwrap();
        assert_eq!((about.key, about.tokens_count, about.erasures.len()), (None, 0, 1));
        assert_eq!(subjects.erase("ann", "someone-else", NOW).await.unwrap().unwrap(), tombstone, "again is fine");
        assert!(subjects.erase("carol", "acme/admin", NOW).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_subject_who_comes_back_has_a_new_key_and_the_old_values_stay_shut() {
        let subjects = subjects();
        let before = subjects.seal("email", "ann", b"a", NOW).await.unwrap();
        subjects.erase("ann", "acme/admin", NOW).await.unwrap();
        let after = subjects.seal("email", "ann", b"a", NOW).await.unwrap();
        assert_eq!(subjects.about("ann").await.unwrap().key.unwrap().0, 2);
        assert!(matches!(opened(&subjects, None, &before).await, Err(StoreError::Erased)));
        assert_eq!(opened(&subjects, None, &after).await.unwrap(), "a");
        subjects.erase("ann", "acme/admin", NOW).await.unwrap();
        assert!(matches!(opened(&subjects, None, &after).await, Err(StoreError::Erased)));
        assert_eq!(subjects.about("ann").await.unwrap().erasures.len(), 2);
    }

    #[tokio::test]
    async fn a_token_leads_back_only_where_a_subject_was_named() {
        let subjects = subjects();
        let token = subjects.tokenise("email", None, b"a", NOW).await.unwrap();
        assert!(subjects.detokenise("email", &token).await.unwrap().is_none());
        assert_eq!(subjects.tokenise("email", Some("ann"), b"a", NOW).await.unwrap(), token);
        assert_eq!(subjects.tokenise("email", Some("bob"), b"a", NOW).await.unwrap(), token);
        subjects.erase("ann", "acme/admin", NOW).await.unwrap();
        let (whose, value) = subjects.detokenise("email", &token).await.unwrap().unwrap();
        assert_eq!((whose, value.as_slice()), (subjects.pseudonym("bob").await.unwrap(), b"a".as_slice()));
        assert!(subjects.detokenise("phone", &token).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn names_and_values_over_their_limits_are_refused() {
        let subjects = subjects();
        assert!(matches!(subjects.pseudonym("").await, Err(StoreError::NoSubject)));
        assert!(subjects.pseudonym(&"x".repeat(SUBJECT_BYTES_MAX + 1)).await.is_err());
        assert!(subjects.seal(&"f".repeat(FIELD_BYTES_MAX + 1), "ann", b"", NOW).await.is_err());
        assert!(subjects.seal("f", "ann", &vec![0; FIELD_VALUE_BYTES_MAX + 1], NOW).await.is_err());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn of_many_who_seal_first_all_values_open() {
        let subjects = subjects();
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0_u8..16 {
            let subjects = subjects.clone();
            tasks.spawn(async move { (n, subjects.seal("email", "ann", &[n], NOW).await.unwrap()) });
        }
        for (n, sealed) in tasks.join_all().await {
            assert_eq!(subjects.open("email", None, &sealed).await.unwrap().1.as_slice(), [n]);
        }
    }
}
