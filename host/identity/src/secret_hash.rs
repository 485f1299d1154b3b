//! API keys as text, and secrets as argon2id hashes (RFC 9106).
//!
//! What a hash costs is for guesses to cost. A password, which a person chose, costs what OWASP advises: 19 MiB, 2 passes, 1
//! lane. A key's secret is 256 random bits, which nobody guesses at whatever cost: it costs a hundredth of that, so that
//! whoever signs in with keys all day takes little of the processor from others, and waits for no password.
//!
//! Must never hash on a thread that serves requests, nor more than a few at a time, nor before those who serve, nor say
//! sooner that a name or a key id is unknown: an unknown one costs one hash as well.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use argon2::{Algorithm, Argon2, Params, Version};
use data_encoding::{BASE32_NOPAD, BASE64};
use ringfence_core::Entropy;
use ringfence_core::limits::{
    SIGN_IN_KEYS_COUNT_MAX, SIGN_IN_KNOWN_COUNT_MAX, SIGN_IN_PARALLEL_COUNT_MAX, SIGN_IN_STRANGERS_COUNT_MAX,
    SIGN_IN_WAIT_MS_MAX,
};
use ringfence_keys::{Zeroizing, constant_time_eq};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, oneshot};

use crate::{IdentityError, SecretString};

const PREFIX: &str = "rfk_";
const ID_CHARS: usize = 16;
const SECRET_CHARS: usize = 52;
const LANES: u32 = 1;
/// Of the threads that hash: those who serve come first, and hashing keeps a ninth of what one of them has on its core.
const NICE: i32 = 10;

/// What the hash of a secret takes.
#[derive(Clone, Copy)]
struct Cost {
    memory_kib: u32,
    passes: u32,
}

/// Of what a person chose.
const PASSWORD: Cost = Cost { memory_kib: 19 * 1024, passes: 2 };
/// Of 256 random bits.
const KEY: Cost = Cost { memory_kib: 256, passes: 1 };

/// The public and the secret part of a key that was shown.
pub(crate) struct Shown<'a> {
    pub(crate) id: &'a str,
    pub(crate) secret: &'a str,
}

/// Takes a key apart; none when it does not look like `rfk_<16>_<52>` in lower-case base32.
pub(crate) fn parse(key: &str) -> Option<Shown<'_>> {
    let (id, secret) = key.strip_prefix(PREFIX)?.split_once('_')?;
    let fits = |text: &str, chars: usize| {
        text.len() == chars && text.bytes().all(|b| b.is_ascii_lowercase() || (b'2'..=b'7').contains(&b))
    };
    (fits(id, ID_CHARS) && fits(secret, SECRET_CHARS)).then_some(Shown { id, secret })
}

/// A new key: its id (80 random bits) and the whole of it (a secret of 256).
pub(crate) fn generate(entropy: &dyn Entropy) -> (String, SecretString) {
    let mut id = [0_u8; 10];
    entropy.fill(&mut id);
    let id = BASE32_NOPAD.encode(&id).to_ascii_lowercase();
    let secret = random_text(entropy);
    let mut whole = String::with_capacity(PREFIX.len() + ID_CHARS + 1 + SECRET_CHARS);
    [PREFIX, &id, "_", secret.expose()].iter().for_each(|part| whole.push_str(part));
    (id, SecretString::new(whole))
}

/// 256 random bits as 52 characters.
pub(crate) fn random_text(entropy: &dyn Entropy) -> SecretString {
    let mut bytes = Zeroizing::new([0_u8; 32]);
    entropy.fill(bytes.as_mut_slice());
    let mut text = BASE32_NOPAD.encode(bytes.as_slice());
    text.make_ascii_lowercase();
    SecretString::new(text)
}

/// A secret's hash, with what it was made with.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hashed {
    salt: String,
    hash: String,
    memory_kib: u32,
    passes: u32,
}

impl Hashed {
    /// What an unknown name is compared with; nothing hashes to it, since its hash is empty.
    fn dummy(cost: Cost) -> Self {
        let Cost { memory_kib, passes } = cost;
        Self { salt: BASE64.encode(&[0_u8; 16]), hash: String::new(), memory_kib, passes }
    }
}

/// Hashes secrets, a few at a time, with a bounded number waiting.
#[derive(Clone)]
pub(crate) struct Hasher {
    passwords: Lane,
    keys: Lane,
    jobs: mpsc::Sender<Job>,
    /// How many hashes were computed, so that a test can see that guesses cost the same.
    #[cfg(test)]
    count: Arc<std::sync::atomic::AtomicUsize>,
}

type Job = Box<dyn FnOnce() + Send>;

/// Of passwords, and of keys.
const KINDS_COUNT: usize = 2;

/// Who waits for hashes of one kind, and those that are being worked out.
#[derive(Clone)]
struct Lane {
    turns: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

impl Lane {
    fn new(places: usize) -> Self {
        Self { turns: Arc::new(Semaphore::new(SIGN_IN_PARALLEL_COUNT_MAX)), places: Arc::new(Semaphore::new(places)) }
    }
}

impl Hasher {
    /// Starts the threads that hash; they end with the last clone.
    pub(crate) fn start() -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        // As many as there are turns, so that no key waits for the end of a password on the thread that it needs.
        for _ in 0..KINDS_COUNT * SIGN_IN_PARALLEL_COUNT_MAX {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new().name("hash".to_owned()).spawn(move || {
                // On Linux it is this thread's alone. A kernel that says no leaves it where it is.
                let _ = rustix::process::nice(NICE);
                loop {
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    match job {
                        // A job that panicked has dropped its answer; the thread is there for the next.
                        Ok(job) => drop(std::panic::catch_unwind(AssertUnwindSafe(job))),
                        Err(mpsc::RecvError) => break,
                    }
                }
            })?;
        }
        Ok(Self {
            // As many as the throttle lets in: which tenant has how many of them is its to say.
            passwords: Lane::new(SIGN_IN_STRANGERS_COUNT_MAX + SIGN_IN_KNOWN_COUNT_MAX),
            keys: Lane::new(SIGN_IN_KEYS_COUNT_MAX),
            jobs,
            #[cfg(test)]
            count: Arc::default(),
        })
    }

    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.count.load(std::sync::atomic::Ordering::SeqCst)
    }

    /// The hash of a new key's secret, with a new salt.
    pub(crate) async fn hash_key(&self, key: &SecretString, entropy: &dyn Entropy) -> Result<Hashed, IdentityError> {
        let shown = parse(key.expose()).ok_or(IdentityError::Host("a new key is malformed"))?;
        self.hash(&self.keys, shown.secret, KEY, entropy).await
    }

    /// The hash of a new password, with a new salt.
    pub(crate) async fn hash_password(&self, text: &str, entropy: &dyn Entropy) -> Result<Hashed, IdentityError> {
        self.hash(&self.passwords, text, PASSWORD, entropy).await
    }

    async fn hash(
        &self,
        lane: &Lane,
        secret: &str,
        cost: Cost,
        entropy: &dyn Entropy,
    ) -> Result<Hashed, IdentityError> {
        let mut salt = [0_u8; 16];
        entropy.fill(&mut salt);
        let hash = self.run(lane, secret, salt.to_vec(), cost).await?;
        let Cost { memory_kib, passes } = cost;
        Ok(Hashed { salt: BASE64.encode(&salt), hash: BASE64.encode(hash.as_slice()), memory_kib, passes })
    }

    /// Whether `secret` is the key's. SECURITY: takes as long when there is none.
    pub(crate) async fn is_key(&self, secret: &str, stored: Option<Hashed>) -> Result<bool, IdentityError> {
        self.matches(&self.keys, secret, stored.unwrap_or_else(|| Hashed::dummy(KEY))).await
    }

    /// Whether `text` is the password. SECURITY: takes as long when there is none.
    pub(crate) async fn is_password(&self, text: &str, stored: Option<Hashed>) -> Result<bool, IdentityError> {
        self.matches(&self.passwords, text, stored.unwrap_or_else(|| Hashed::dummy(PASSWORD))).await
    }

    async fn matches(&self, lane: &Lane, secret: &str, stored: Hashed) -> Result<bool, IdentityError> {
        let corrupt = |_| IdentityError::Host("a stored hash is malformed");
        let salt = BASE64.decode(stored.salt.as_bytes()).map_err(corrupt)?;
        let expected = BASE64.decode(stored.hash.as_bytes()).map_err(corrupt)?;
        let cost =
            Cost { memory_kib: stored.memory_kib.min(PASSWORD.memory_kib), passes: stored.passes.min(PASSWORD.passes) };
        let hash = self.run(lane, secret, salt, cost).await?;
        Ok(constant_time_eq(hash.as_slice(), &expected))
    }

    async fn run(
        &self,
        lane: &Lane,
        secret: &str,
        salt: Vec<u8>,
        cost: Cost,
    ) -> Result<Zeroizing<[u8; 32]>, IdentityError> {
        let busy = || IdentityError::Busy { retry_after_seconds: 1 };
        let _place = lane.places.clone().try_acquire_owned().map_err(|_| busy())?;
        let wait = Duration::from_millis(SIGN_IN_WAIT_MS_MAX);
        let turn = tokio::time::timeout(wait, lane.turns.clone().acquire_owned())
            .await
            .map_err(|_| busy())?
            .map_err(|_| busy())?;
        #[cfg(test)]
        self.count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let secret = Zeroizing::new(secret.to_owned());
        let (answer, done) = oneshot::channel();
        let job = move || {
            // The turn ends with the work, even when nobody waits for its result any more.
            let _turn = turn;
            let mut out = Zeroizing::new([0_u8; 32]);
            let hashed = Params::new(cost.memory_kib, cost.passes, LANES, Some(32)).and_then(|params| {
                let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
                argon2.hash_password_into(secret.as_bytes(), &salt, out.as_mut_slice())
            });
            let _ = answer.send(hashed.is_ok().then_some(out));
        };
        let stopped = IdentityError::Host("hashing stopped");
        if self.jobs.send(Box::new(job)).is_err() {
            return Err(stopped);
        }
        done.await.map_err(|_| stopped)?.ok_or(IdentityError::Host("hashing failed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Dice;

    #[tokio::test]
    async fn a_key_matches_its_hash_and_no_other() {
        let (hasher, dice) = (Hasher::start().unwrap(), Dice::new());
        let ((id, key), (_, other)) = (generate(&dice), generate(&dice));
        let hashed = hasher.hash_key(&key, &dice).await.unwrap();
        let (shown, wrong) = (parse(key.expose()).unwrap(), parse(other.expose()).unwrap());
        assert_eq!(shown.id, id);
        assert!(hasher.is_key(shown.secret, Some(hashed.clone())).await.unwrap());
        assert!(!hasher.is_key(wrong.secret, Some(hashed.clone())).await.unwrap());
        assert!(!hasher.is_key(shown.secret, None).await.unwrap());
        assert!(!serde_json::to_string(&hashed).unwrap().contains(shown.secret));
    }

    #[tokio::test]
    async fn a_password_is_hashed_at_a_persons_cost_and_one_that_is_not_there_as_well() {
        let (hasher, dice) = (Hasher::start().unwrap(), Dice::new());
        let hashed = hasher.hash_password("correct horse", &dice).await.unwrap();
        assert_eq!((hashed.memory_kib, hashed.passes), (19 * 1024, 2));
        assert_eq!(Hashed::dummy(PASSWORD).memory_kib, hashed.memory_kib);
        assert!(hasher.is_password("correct horse", Some(hashed.clone())).await.unwrap());
        assert!(!hasher.is_password("battery staple", Some(hashed)).await.unwrap());
        assert!(!hasher.is_password("correct horse", None).await.unwrap());
    }

    #[test]
    fn only_whole_keys_are_taken_apart() {
        let (_, key) = generate(&Dice::new());
        let key = key.expose();
        assert!(parse(key).is_some());
        for bad in [
            &key[1..],
            &key[..key.len() - 1],
            &format!("{key}a"),
            &key.to_uppercase(),
            &key.replace("rfk_", "rfb_"),
            "",
            "rfk_",
            "rfk__",
        ] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }

    #[tokio::test]
    async fn more_waiting_than_the_cap_are_told_to_come_back() {
        let hasher = Hasher { keys: Lane::new(1), ..Hasher::start().unwrap() };
        let held = hasher.keys.places.clone().try_acquire_owned().unwrap();
        assert!(matches!(hasher.is_key("x", None).await, Err(IdentityError::Busy { .. })));
        drop(held);
        assert!(!hasher.is_key("x", None).await.unwrap());
    }

    #[tokio::test]
    async fn a_key_waits_for_no_password() {
        let hasher = Hasher { passwords: Lane::new(1), ..Hasher::start().unwrap() };
        let _place = hasher.passwords.places.clone().try_acquire_owned().unwrap();
        let parallel = u32::try_from(SIGN_IN_PARALLEL_COUNT_MAX).unwrap();
        let _turns = hasher.passwords.turns.clone().try_acquire_many_owned(parallel).unwrap();
        assert!(matches!(hasher.is_password("x", None).await, Err(IdentityError::Busy { .. })));
        assert!(!hasher.is_key("x", None).await.unwrap());
    }

    #[tokio::test]
    async fn a_key_waits_for_no_password_that_is_being_worked_out() {
        let hasher = Hasher::start().unwrap();
        let (end, wait) = mpsc::channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        for _ in 0..SIGN_IN_PARALLEL_COUNT_MAX {
            let wait = Arc::clone(&wait);
            // As long as the test lasts.
            let job = move || {
                let _ = wait.lock().unwrap().recv();
            };
            hasher.jobs.send(Box::new(job)).unwrap();
        }
        let key = tokio::time::timeout(Duration::from_secs(60), hasher.is_key("x", None)).await;
        drop(end);
        assert!(!key.expect("a key has a thread").unwrap());
    }
}
