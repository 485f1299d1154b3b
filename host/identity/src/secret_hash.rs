//! API keys as text, and their secrets as argon2id hashes (RFC 9106; 19 MiB, 2 passes, 1 lane as OWASP advises).
//!
//! Must never hash on a thread that serves requests, nor more than a few at a time, nor say sooner that a key id is
//! unknown: an unknown one costs one hash as well.

use std::sync::Arc;
use std::time::Duration;

use argon2::{Algorithm, Argon2, Params, Version};
use data_encoding::{BASE32_NOPAD, BASE64};
use ringfence_core::Entropy;
use ringfence_core::limits::{SIGN_IN_PARALLEL_COUNT_MAX, SIGN_IN_WAIT_MS_MAX, SIGN_IN_WAITING_COUNT_MAX};
use ringfence_keys::{Zeroizing, constant_time_eq};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::{IdentityError, SecretString};

const PREFIX: &str = "rfk_";
const ID_CHARS: usize = 16;
const SECRET_CHARS: usize = 52;
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

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
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Hashed {
    salt: String,
    hash: String,
    memory_kib: u32,
    passes: u32,
}

impl Hashed {
    /// What an unknown id is compared with; nothing hashes to it, since its hash is empty.
    fn dummy() -> Self {
        Self { salt: BASE64.encode(&[0_u8; 16]), hash: String::new(), memory_kib: MEMORY_KIB, passes: PASSES }
    }
}

/// Hashes secrets, a few at a time, with a bounded number waiting.
#[derive(Clone)]
pub(crate) struct Hasher {
    turns: Arc<Semaphore>,
    places: Arc<Semaphore>,
    /// How many hashes were computed, so that a test can see that guesses cost the same.
    #[cfg(test)]
    count: Arc<std::sync::atomic::AtomicUsize>,
}

impl Hasher {
    pub(crate) fn new() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(SIGN_IN_PARALLEL_COUNT_MAX)),
            places: Arc::new(Semaphore::new(SIGN_IN_PARALLEL_COUNT_MAX + SIGN_IN_WAITING_COUNT_MAX)),
            #[cfg(test)]
            count: Arc::default(),
        }
    }

    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.count.load(std::sync::atomic::Ordering::SeqCst)
    }

    /// The hash of a new key's secret, with a new salt.
    pub(crate) async fn hash(&self, key: &SecretString, entropy: &dyn Entropy) -> Result<Hashed, IdentityError> {
        let shown = parse(key.expose()).ok_or(IdentityError::Host("a new key is malformed"))?;
        self.hash_text(shown.secret, entropy).await
    }

    /// The hash of a secret, with a new salt.
    pub(crate) async fn hash_text(&self, secret: &str, entropy: &dyn Entropy) -> Result<Hashed, IdentityError> {
        let mut salt = [0_u8; 16];
        entropy.fill(&mut salt);
        let hash = self.run(secret, salt.to_vec(), MEMORY_KIB, PASSES).await?;
        Ok(Hashed {
            salt: BASE64.encode(&salt),
            hash: BASE64.encode(hash.as_slice()),
            memory_kib: MEMORY_KIB,
            passes: PASSES,
        })
    }

    /// Whether `secret` is the one that was hashed. SECURITY: takes as long when there is none.
    pub(crate) async fn matches(&self, secret: &str, stored: Option<Hashed>) -> Result<bool, IdentityError> {
        let stored = stored.unwrap_or_else(Hashed::dummy);
        let corrupt = |_| IdentityError::Host("a stored hash is malformed");
        let salt = BASE64.decode(stored.salt.as_bytes()).map_err(corrupt)?;
        let expected = BASE64.decode(stored.hash.as_bytes()).map_err(corrupt)?;
        let hash = self.run(secret, salt, stored.memory_kib.min(MEMORY_KIB), stored.passes.min(PASSES)).await?;
        Ok(constant_time_eq(hash.as_slice(), &expected))
    }

    async fn run(
        &self,
        secret: &str,
        salt: Vec<u8>,
        memory_kib: u32,
        passes: u32,
    ) -> Result<Zeroizing<[u8; 32]>, IdentityError> {
        let busy = || IdentityError::Busy { retry_after_seconds: 1 };
        let _place = self.places.clone().try_acquire_owned().map_err(|_| busy())?;
        let wait = Duration::from_millis(SIGN_IN_WAIT_MS_MAX);
        let turn = tokio::time::timeout(wait, self.turns.clone().acquire_owned())
            .await
            .map_err(|_| busy())?
            .map_err(|_| busy())?;
        #[cfg(test)]
        self.count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let secret = Zeroizing::new(secret.to_owned());
        let work = move || {
            // The turn ends with the work, even when nobody waits for its result any more.
            let _turn = turn;
            let mut out = Zeroizing::new([0_u8; 32]);
            let params = Params::new(memory_kib, passes, LANES, Some(32)).ok()?;
            Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                .hash_password_into(secret.as_bytes(), &salt, out.as_mut_slice())
                .ok()?;
            Some(out)
        };
        let done = tokio::task::spawn_blocking(work).await.map_err(|_| IdentityError::Host("hashing stopped"))?;
        done.ok_or(IdentityError::Host("hashing failed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Dice;

    #[tokio::test]
    async fn a_key_matches_its_hash_and_no_other() {
        let (hasher, dice) = (Hasher::new(), Dice::new());
        let ((id, key), (_, other)) = (generate(&dice), generate(&dice));
        let hashed = hasher.hash(&key, &dice).await.unwrap();
        let (shown, wrong) = (parse(key.expose()).unwrap(), parse(other.expose()).unwrap());
        assert_eq!(shown.id, id);
        assert!(hasher.matches(shown.secret, Some(hashed.clone())).await.unwrap());
        assert!(!hasher.matches(wrong.secret, Some(hashed.clone())).await.unwrap());
        assert!(!hasher.matches(shown.secret, None).await.unwrap());
        assert!(!serde_json::to_string(&hashed).unwrap().contains(shown.secret));
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
        let hasher = Hasher { places: Arc::new(Semaphore::new(1)), ..Hasher::new() };
        let held = hasher.places.clone().try_acquire_owned().unwrap();
        assert!(matches!(hasher.matches("x", None).await, Err(IdentityError::Busy { .. })));
        drop(held);
        assert!(!hasher.matches("x", None).await.unwrap());
    }
}
