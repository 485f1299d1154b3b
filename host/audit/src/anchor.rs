//! Outside anchors: what makes it visible to others when the host rewrites its logs, and how far that goes.
//!
//! A round commits to the heads of all logs, writes the mirror, then asks the witnesses. Must never claim more than holds:
//! a level is computed from what a mirror has and witnesses signed, not from what is configured. A mirror that is configured
//! and cannot be written, or does not answer, for [`BEHIND_MAX`] stops the logs, because what must be in two places is then in one.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ringfence_store::Key;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::heads::{Cover, Round};
use crate::mirror::{COMMITMENTS_COUNT_MAX, Mirror, MirrorError};
use crate::proof::InclusionProof;
use crate::witness::{Answer, Witness, WitnessError, with_cosignatures};
use crate::writer::unavailable;
use crate::{Audit, AuditError, Log};

/// LIMIT: longest time that the logs go on while a configured mirror cannot be written.
pub const BEHIND_MAX: Duration = Duration::from_secs(120);
/// LIMIT: witnesses asked.
pub const WITNESSES_COUNT_MAX: usize = 8;
/// LIMIT: times a witness is asked again in one round because it knows the log at another size.
const TRIES_COUNT_MAX: usize = 2;

/// Who else keeps or signs heads.
#[derive(Clone)]
pub struct Anchors {
    /// Time between two rounds.
    pub every: Duration,
    /// Who signs.
    pub witnesses: Vec<Witness>,
    /// Where heads are kept.
    pub mirror: Option<Mirror>,
}

/// Against whom a log is evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Level {
    /// Signed by the host: evidence against everyone who has not its key.
    L0,
    /// And its owner kept an older head: a client's word, which the host cannot give.
    L1,
    /// And a mirror elsewhere has its head.
    L2,
    /// And an independent witness signed for its head.
    L3,
}

/// How far a log is anchored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchored {
    /// The level, of what `cover` covers.
    pub level: Level,
    /// The commitment to the log's head; none before the first round.
    pub cover: Option<Cover>,
    /// The commitment's place in the log of logs, cosigned when there are witnesses.
    pub proof: Option<InclusionProof>,
    /// Names of the witnesses that signed for it.
    pub witnesses: Vec<String>,
}

/// What is known of the anchors now.
#[derive(Default)]
pub(crate) struct Standing {
    mirrored: Mutex<Mirrored>,
}

#[derive(Default)]
struct Mirrored {
    size: u64,
    /// Since when, by the monotonic clock, the mirror cannot be written.
    failing_since: Option<Duration>,
}

#[derive(Serialize, Deserialize)]
struct StoredCosigned {
    size: u64,
    checkpoint: String,
    witnesses: Vec<String>,
}

impl Audit {
    /// Anchors until `stopping` says so.
    pub async fn run_anchors(self, anchors: Anchors, mut stopping: watch::Receiver<bool>) {
        let mut rounds = tokio::time::interval(anchors.every);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let stopped = async { drop(stopping.wait_for(|stop| *stop).await) };
            tokio::select! {
                () = stopped => return,
                _ = rounds.tick() => {
                    if let Err(error) = self.anchor(&anchors).await {
                        tracing::warn!(%error, "the heads of the audit logs were not committed to");
                    }
                }
            }
        }
    }

    /// One round: commits, mirrors, asks witnesses. A mirror or a witness that fails is reported in the host's log and does
    /// not keep the round from the others.
    pub async fn anchor(&self, anchors: &Anchors) -> Result<Round, AuditError> {
        let round = self.cover().await?;
        if let Some(mirror) = &anchors.mirror {
            let written = self.mirror(mirror, &round).await;
            self.mirrored(round.to, written);
        }
        if round.to > 0 && !anchors.witnesses.is_empty() {
            self.ask_witnesses(anchors, &round).await?;
        }
        Ok(round)
    }

    /// How far a log is anchored, with what shows it.
    pub async fn anchored(&self, log: &Log) -> Result<Anchored, AuditError> {
        let none = Anchored { level: Level::L0, cover: None, proof: None, witnesses: Vec::new() };
        let Some(cover) = self.cover_of(log).await? else { return Ok(none) };
        let cosigned = self.cosigned().await?.filter(|cosigned| cosigned.size > cover.index);
        let mirrored = self.anchors().mirrored.lock().unwrap_or_else(PoisonError::into_inner).size > cover.index;
        let level = match (&cosigned, mirrored) {
            (Some(_), _) => Level::L3,
            (None, true) => Level::L2,
            (None, false) => Level::L0,
        };
        let witnesses = cosigned.as_ref().map(|cosigned| cosigned.witnesses.clone()).unwrap_or_default();
        let proof = self.heads_proof(cover.index, cosigned.map(|it| (it.size, it.checkpoint))).await?;
        Ok(Anchored { level, cover: Some(cover), proof, witnesses })
    }

    async fn mirror(&self, mirror: &Mirror, round: &Round) -> Result<(), MirrorError> {
        let (mut have, root) = mirror.run(Mirror::root).await?;
        let other = |size: u64| MirrorError::Other(format!("size {size}"));
        // What the mirror has must be the beginning of what there is, whoever wrote it.
        if have > round.to || self.heads_root(have).await.map_err(|_| other(have))? != root {
            return Err(other(have));
        }
        while have < round.to {
            let to = round.to.min(have.saturating_add(COMMITMENTS_COUNT_MAX));
            let root = self.heads_root(to).await.map_err(|_| other(have))?;
            let added = self.commitments(have, to).await.map_err(|_| other(have))?;
            let checkpoint = self.sign_heads(to, &root);
            mirror.run(move |mirror| mirror.write(to, &checkpoint, &added)).await?;
            have = to;
        }
        Ok(())
    }

    fn mirrored(&self, size: u64, written: Result<(), MirrorError>) {
        let now = self.clock().monotonic();
        let mut mirrored = self.anchors().mirrored.lock().unwrap_or_else(PoisonError::into_inner);
        match written {
            Ok(()) => *mirrored = Mirrored { size, failing_since: None },
            Err(error) => {
                tracing::error!(%error, "the mirror of the audit logs is behind");
                let since = *mirrored.failing_since.get_or_insert(now);
                // Another history is no matter of time.
                let lost = matches!(error, MirrorError::Other(_)) || now.saturating_sub(since) >= BEHIND_MAX;
                self.stop_writing(lost);
                return;
            }
        }
        self.stop_writing(false);
    }

    async fn ask_witnesses(&self, anchors: &Anchors, round: &Round) -> Result<(), AuditError> {
        let (mut lines, mut names) = (String::new(), Vec::new());
        for witness in anchors.witnesses.iter().take(WITNESSES_COUNT_MAX) {
            match self.ask_witness(witness, round).await {
                Ok(signed) => {
                    lines.push_str(&signed);
                    names.push(witness.name().to_owned());
                }
                Err(error) => tracing::warn!(witness = witness.name(), %error, "a witness did not sign"),
            }
        }
        let Some(checkpoint) = with_cosignatures(&round.checkpoint, &lines).filter(|_| !names.is_empty()) else {
            return Ok(());
        };
        let stored = StoredCosigned { size: round.to, checkpoint, witnesses: names };
        let put = self.store(&Log::Host).put_json(&cosigned_key(), &stored).await;
        put.map(drop).map_err(|error| unavailable(&self.heads_origin(), &error))
    }

    async fn ask_witness(&self, witness: &Witness, round: &Round) -> Result<String, WitnessError> {
        let mut old = self.seen_by(witness);
        for _ in 0..=TRIES_COUNT_MAX {
            if old > round.to {
                return Err(WitnessError::RolledBack { seen: old, size: round.to });
            }
            let path = self.heads_consistency(old, round.to).await;
            let path = path.map_err(|error| WitnessError::Unreachable(error.to_string()))?;
            let (asked, checkpoint) = (witness.clone(), round.checkpoint.clone());
            let answer = tokio::task::spawn_blocking(move || asked.add_checkpoint(old, &path, &checkpoint)).await;
            match answer.map_err(|error| WitnessError::Unreachable(error.to_string()))?? {
                Answer::Cosigned(lines) => {
                    self.saw(witness, round.to);
                    return Ok(lines);
                }
                Answer::Conflict(seen) => old = seen,
            }
        }
        Err(WitnessError::Refused(409))
    }

    async fn cosigned(&self) -> Result<Option<StoredCosigned>, AuditError> {
        let found = self.store(&Log::Host).get_json(&cosigned_key()).await;
        found.map_err(|error| unavailable(&self.heads_origin(), &error))
    }
}

fn cosigned_key() -> Key {
    Key::new(["heads-cosigned"])
}
