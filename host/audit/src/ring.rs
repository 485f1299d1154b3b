//! The keys that sign the heads of all logs: the present one and, for a while, those before it.
//!
//! Must never drop a key without the log saying so: each log gets an entry about a change before anything else is appended
//! to it under the new key, and a head right after that entry that both keys sign ([`KeyChange`]). A key that was replaced
//! signs along for [`OVERLAP_DAYS`]; then its private part is destroyed, and its public part stays known. Keys lie in the
//! host's own store and sign heads of logs, manifests of exports, receipts of use and of destruction, and nothing else.

use std::sync::Arc;

use ringfence_core::Entropy;
use ringfence_keys::{PostQuantumKey, SigningKey};
use ringfence_store::{Key, Op, Precondition, StoreError, TenantStore};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::cosign::Cosigner;
use crate::key_change::{CHANGES_COUNT_MAX, KeyChange};
use crate::note::{SignedHead, Verifier, checkpoint_text, signature_line};
use crate::terms::PostQuantum;
use crate::writer::{self, Command, Draft, Group, Phase, Writer, unavailable};
use crate::{Audit, AuditError, Event, Log, Outcome, codes};

/// How long a key that was replaced signs along, in days.
pub const OVERLAP_DAYS: i64 = 30;
const OVERLAP_MS: i64 = OVERLAP_DAYS * 24 * 3_600 * 1_000;
/// LIMIT: keys that sign at once; so many signatures fit a checkpoint with room for witnesses.
const SIGNERS_COUNT_MAX: usize = 3;
/// Generation of the key that hosts had before keys could change.
pub(crate) const FIRST_GENERATION: u32 = 1;
/// Bytes of a post-quantum seed, behind the other key in its record.
const SEED_BYTES: usize = 32;

/// The keys at one moment.
pub(crate) struct Ring {
    current: Signer,
    /// Those before it whose private part is still there, the newest first.
    before: Vec<Signer>,
    stored: StoredRing,
}

#[derive(Clone)]
struct Signer {
    generation: u32,
    plain: SigningKey,
    post_quantum: PostQuantumKey,
    retired_ms: Option<i64>,
}

/// All keys there ever were, the oldest first, without their private parts.
#[derive(Clone, Serialize, Deserialize)]
struct StoredRing {
    v: u8,
    keys: Vec<StoredKey>,
}

#[derive(Clone, Serialize, Deserialize)]
struct StoredKey {
    generation: u32,
    public: String,
    retired_ms: Option<i64>,
}

/// The public side of the keys of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogKeys {
    /// Who signs now (C2SP vkey).
    pub vkey: String,
    /// Who signed before, the newest first.
    pub before: Vec<String>,
    /// Who cosigns now, when post-quantum cosignatures are on.
    pub cosigner_vkey: Option<String>,
    /// The changes, the oldest first, to follow from a key that is known.
    pub changes: Vec<KeyChange>,
}

// === impl Ring ===

impl Ring {
    /// Reads the keys, or makes the first.
    pub(crate) async fn open(platform: &TenantStore, entropy: &dyn Entropy) -> Result<Self, AuditError> {
        let reached = |error: StoreError| unavailable("signing key", &error);
        let Some(stored) = platform.get_json::<StoredRing>(&ring_key()).await.map_err(reached)? else {
            return Self::make(platform, entropy).await;
        };
        let mut signers = Vec::new();
        for key in stored.keys.iter().rev() {
            if let Some(record) = platform.get(&private_key(key.generation)).await.map_err(reached)? {
                signers.push(Signer::read(key, &record.value)?);
            }
        }
        let mut signers = signers.into_iter();
        let current = signers.next().filter(|signer| signer.retired_ms.is_none()).ok_or(AuditError::Unavailable)?;
        Ok(Self { current, before: signers.collect(), stored })
    }

    /// The first key; a host from before keys could change brings it along.
    async fn make(platform: &TenantStore, entropy: &dyn Entropy) -> Result<Self, AuditError> {
        let reached = |error: StoreError| unavailable("signing key", &error);
        let legacy = Key::new(["audit-signing-key"]);
        let plain = match platform.get(&legacy).await.map_err(reached)? {
            Some(record) => SigningKey::from_pkcs8(&record.value),
            None => SigningKey::generate(entropy),
        };
        let plain = plain.map_err(|_| AuditError::Unavailable)?;
        let post_quantum = PostQuantumKey::generate(entropy).map_err(|_| AuditError::Unavailable)?;
        let current = Signer { generation: FIRST_GENERATION, plain, post_quantum, retired_ms: None };
        let stored = StoredRing { v: 1, keys: vec![current.stored()] };
        let ops = vec![current.op(), put_ring(&stored)?, Op::delete(legacy)];
        platform.batch(ops, vec![Precondition::Absent(ring_key())]).await.map_err(reached)?;
        Ok(Self { current, before: Vec::new(), stored })
    }

    /// The keys with a new one in front, and the writes that make them so.
    fn rotated(&self, entropy: &dyn Entropy, now_ms: i64) -> Result<(Self, Vec<Op>), AuditError> {
        let generation = self.current.generation.checked_add(1).ok_or(AuditError::Unrepresentable)?;
        if self.signing(now_ms).count() >= SIGNERS_COUNT_MAX || self.stored.keys.len() >= CHANGES_COUNT_MAX {
            return Err(AuditError::TooMany { what: "keys that sign" });
        }
        let plain = SigningKey::generate(entropy).map_err(|_| AuditError::Unavailable)?;
        let post_quantum = PostQuantumKey::generate(entropy).map_err(|_| AuditError::Unavailable)?;
        let current = Signer { generation, plain, post_quantum, retired_ms: None };
        let last = Signer { retired_ms: Some(now_ms), ..self.current.clone() };
        let mut stored = self.stored.clone();
        stored.keys.retain(|key| key.generation != last.generation);
        stored.keys.extend([last.stored(), current.stored()]);
        let ops = vec![current.op(), put_ring(&stored)?];
        let before = std::iter::once(last).chain(self.before.iter().cloned()).collect();
        Ok((Self { current, before, stored }, ops))
    }

    /// The keys without those whose time is over, and the writes that destroy these; none when there are no such.
    fn without_expired(&self, now_ms: i64) -> Option<(Self, Vec<Op>)> {
        let (before, over): (Vec<Signer>, Vec<Signer>) =
            self.before.iter().cloned().partition(|signer| signer.signs_at(now_ms));
        let ops: Vec<Op> = over.iter().map(|signer| Op::delete(private_key(signer.generation))).collect();
        let rest = Self { current: self.current.clone(), before, stored: self.stored.clone() };
        (!ops.is_empty()).then_some((rest, ops))
    }

    /// Which key it is, counted from 1.
    pub(crate) fn generation(&self) -> u32 {
        self.current.generation
    }

    /// The verifier of the present key under a name.
    pub(crate) fn verifier(&self, name: &str) -> Verifier {
        Verifier::new(name, self.current.plain.public_key())
    }

    /// Signs a text as a note, with every key that signs now.
    pub(crate) fn note(&self, name: &str, text: &str, now_ms: i64) -> String {
        let lines = self.signing(now_ms).map(|signer| {
            signature_line(&Verifier::new(name, signer.plain.public_key()), &signer.plain.sign(text.as_bytes()))
        });
        format!("{text}\n{}", lines.collect::<String>())
    }

    /// Signs a head, with every key that signs now.
    pub(crate) fn checkpoint(&self, head: &SignedHead, now_ms: i64, post_quantum: PostQuantum) -> String {
        let mut note = self.note(&head.origin, &checkpoint_text(head), now_ms);
        if post_quantum == PostQuantum::On {
            let line = |signer: &Signer| {
                let cosigner = Cosigner::new(&head.origin, signer.post_quantum.public_key())?;
                Some(cosigner.line(&signer.post_quantum.sign(&cosigner.message(head)?).ok()?))
            };
            note.extend(self.signing(now_ms).filter_map(line));
        }
        note
    }

    /// The verifier key of one generation under a name.
    fn vkey_of(&self, generation: u32, name: &str) -> Option<String> {
        self.stored.keys.iter().find(|key| key.generation == generation).and_then(|key| key.vkey(name))
    }

    fn signing(&self, now_ms: i64) -> impl Iterator<Item = &Signer> {
        std::iter::once(&self.current).chain(self.before.iter().filter(move |signer| signer.signs_at(now_ms)))
    }
}

impl Signer {
    fn signs_at(&self, now_ms: i64) -> bool {
        self.retired_ms.is_none_or(|retired| now_ms < retired.saturating_add(OVERLAP_MS))
    }

    fn stored(&self) -> StoredKey {
        let public = crate::envelope::hex(&self.plain.public_key());
        StoredKey { generation: self.generation, public, retired_ms: self.retired_ms }
    }

    fn op(&self) -> Op {
        let mut value = self.plain.to_pkcs8().to_vec();
        value.extend_from_slice(self.post_quantum.seed().as_slice());
        Op::put(private_key(self.generation), value)
    }

    fn read(key: &StoredKey, value: &[u8]) -> Result<Self, AuditError> {
        let at = value.len().checked_sub(SEED_BYTES).ok_or(AuditError::Unavailable)?;
        let (pkcs8, seed) = value.split_at_checked(at).ok_or(AuditError::Unavailable)?;
        Ok(Self {
            generation: key.generation,
            plain: SigningKey::from_pkcs8(pkcs8).map_err(|_| AuditError::Unavailable)?,
            post_quantum: PostQuantumKey::from_seed(seed).map_err(|_| AuditError::Unavailable)?,
            retired_ms: key.retired_ms,
        })
    }
}

impl StoredKey {
    fn vkey(&self, name: &str) -> Option<String> {
        let public = data_encoding::HEXLOWER.decode(self.public.as_bytes()).ok()?;
        Some(Verifier::new(name, public.try_into().ok()?).vkey())
    }
}

// === the acts ===

impl Audit {
    /// Gives the host a new key for its logs. Each log says so in an entry of its own before anything else is appended to it;
    /// the logs that can be written now are made to at once, the others at their next entry.
    pub async fn rotate_key(&self) -> Result<u32, AuditError> {
        {
            let _turn = self.keeping().lock().await;
            let now = self.clock().now().as_millisecond();
            let (ring, ops) = self.shared().ring().rotated(self.entropy(), now)?;
            self.write_ring(ops).await?;
            self.shared().set_ring(ring);
        }
        for handle in self.all_handles() {
            if let Err(error) = crate::audit::ask(&handle, Command::Announce).await {
                tracing::warn!(%error, "a log says at its next entry that its key changed");
            }
        }
        Ok(self.shared().ring().generation())
    }

    /// Destroys the private parts of keys whose time is over.
    pub(crate) async fn retire_keys(&self) -> Result<(), AuditError> {
        let _turn = self.keeping().lock().await;
        let now = self.clock().now().as_millisecond();
        if let Some((ring, ops)) = self.shared().ring().without_expired(now) {
            self.write_ring(ops).await?;
            self.shared().set_ring(ring);
        }
        Ok(())
    }

    /// The keys of a log, present and past, with what leads from one to the next.
    pub async fn keys(&self, log: &Log) -> Result<LogKeys, AuditError> {
        let (ring, origin) = (self.shared().ring(), self.origin(log));
        let mut before: Vec<String> = ring.stored.keys.iter().filter_map(|key| key.vkey(&origin)).collect();
        let vkey = before.pop().unwrap_or_default();
        before.reverse();
        let on = self.shared().terms().post_quantum == PostQuantum::On;
        let cosigner = Cosigner::new(&origin, ring.current.post_quantum.public_key()).filter(|_| on);
        let page = self.store(log).scan(&Key::new(["audit-key"]), None, CHANGES_COUNT_MAX).await;
        let page = page.map_err(|error| unavailable(&origin, &error))?;
        let changes: Result<Vec<KeyChange>, StoreError> =
            page.records.iter().map(|(_, record)| record.json()).collect();
        let changes = changes.map_err(|error| unavailable(&origin, &error))?;
        Ok(LogKeys { vkey, before, cosigner_vkey: cosigner.map(|cosigner| cosigner.vkey()), changes })
    }

    async fn write_ring(&self, ops: Vec<Op>) -> Result<(), AuditError> {
        let written = self.store(&Log::Host).batch(ops, Vec::new()).await;
        written.map(drop).map_err(|error| unavailable("signing key", &error))
    }
}

impl Writer {
    /// Puts first that the key changed, when this log has not said so yet.
    pub(crate) fn announced(&self, mut group: Group) -> Result<Group, AuditError> {
        let ring = self.shared.ring();
        let (before, now) = (group.state.generation, ring.generation());
        group.state.generation = now;
        if group.state.frontier.size() == 0 || before >= now {
            return Ok(group);
        }
        let old_vkey = ring.vkey_of(before, &self.origin).unwrap_or_default();
        let new_vkey = ring.verifier(&self.origin).vkey();
        let mut event =
            Event::new(codes::AUDIT_KEY_CHANGED, "change-audit-key", writer::host_actor(), self.origin.clone());
        event.details = json!({ "old": old_vkey, "new": new_vkey });
        let draft = Draft { event, phase: Phase::Single, outcome: Outcome::Success };
        let seq = self.entry(&mut group, draft)?.seq;
        let at_ms = self.shared.clock.now().as_millisecond();
        let checkpoint = self.shared.checkpoint(&group.state.head(&self.origin));
        let change = KeyChange { old_vkey, new_vkey, seq, at_ms, checkpoint };
        let key = Key::new(["audit-key"]).number(now.into());
        group.ops.push(Op::put_json(key, &change).map_err(|_| AuditError::Unrepresentable)?);
        Ok(group)
    }
}

/// Keys and terms behind one lock each, replaced whole.
pub(crate) type Held<T> = std::sync::RwLock<Arc<T>>;

fn put_ring(stored: &StoredRing) -> Result<Op, AuditError> {
    Op::put_json(ring_key(), stored).map_err(|_| AuditError::Unrepresentable)
}

fn ring_key() -> Key {
    Key::new(["audit-ring"])
}

fn private_key(generation: u32) -> Key {
    Key::new(["audit-ring-key"]).number(generation.into())
}
