//! Proves who a caller is: bootstrap, API keys, access tokens, sessions. The only room that mints a Principal.
//!
//! Must never decide what a caller may do, keep a secret in clear, or tell a guesser whether a key exists.
//! Second step of both walks: the route is known, policy has not been asked yet.
//!
//! Signing in opens a session, which lives as long as its one access token: five minutes. There is no refresh; whoever
//! wants more proves himself again. Sessions are durable: a token outlives a restart of the host, and so does its end.
#![forbid(unsafe_code)]

mod error;
mod manage;
mod record;
mod secret_hash;
mod shelf;
mod tables;
mod throttle;
mod token;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use jiff::{SignedDuration, Timestamp};
use ringfence_core::limits::{ACCESS_TOKEN_SECONDS, CREDENTIAL_BYTES_MAX, TOKENS_CACHED_COUNT_MAX};
use ringfence_core::{
    Clock, Entropy, Principal, PrincipalId, PrincipalKind, ResourceName, Role, SessionId, Strength, TenantId,
};
use ringfence_store::{Op, StoreError, TenantStore, Tenants};
use sha2::{Digest as _, Sha256};

pub use error::IdentityError;
pub use record::{KeyRecord, NewKey};

use record::StoredSession;
use secret_hash::Hasher;
use shelf::{Shelf, ending, session_at};
use tables::{Now, Tables};
use throttle::{Source, Throttle};
use token::{Claims, Tokens};

/// A secret in text form: redacted Debug, no Display, wiped when dropped. Read with `expose`.
pub type SecretString = ringfence_keys::Secret<String>;

/// The `aud` of every access token.
pub const AUDIENCE: &str = "ringfence";
/// First part of operators' principal ids; no tenant may be called so.
const OPERATOR: &str = "operator";
/// First part of an enrolment token.
const BOOTSTRAP_PREFIX: &str = "rfb_";

/// What a caller shows to be signed in.
#[derive(Debug)]
pub enum Proof {
    /// The one-time token of the first start; enrols an operator called `operator/<name>`.
    Bootstrap {
        /// What `operator.token` holds.
        token: SecretString,
        /// What to call the operator.
        name: ResourceName,
    },
    /// An API key, `rfk_<id>_<secret>`.
    ApiKey {
        /// The whole key.
        key: SecretString,
    },
}

/// A signed-in session.
#[derive(Debug)]
pub struct Issued {
    /// The bearer token to send from now on (RFC 9068 `at+jwt`, EdDSA).
    pub access_token: SecretString,
    /// Always `Bearer`.
    pub token_type: &'static str,
    /// How long it is good, in seconds.
    pub expires_in: i64,
    /// Names the session; revoking it ends the token.
    pub session_id: SessionId,
    /// Who was proved.
    pub principal: Principal,
    /// How.
    pub strength: Strength,
}

/// Everything that can be proved. Cheap to clone; all clones share one state.
#[derive(Clone)]
pub struct Identity {
    shared: Arc<Shared>,
}

struct Shared {
    shelf: Shelf,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    tokens: Tokens,
    hasher: Hasher,
    anonymous: PrincipalId,
    tables: RwLock<Tables>,
    throttle: Mutex<Throttle>,
    /// The enrolment token; none once it was used or somebody can sign in as operator.
    bootstrap: Mutex<Option<SecretString>>,
    /// What tokens say that were verified, by their hash. Only the signature is remembered; all else is looked up.
    verified: RwLock<HashMap<[u8; 32], Arc<Claims>>>,
    /// Held while a key is made.
    making: tokio::sync::Mutex<()>,
}

/// Who opens a session, and with what.
struct Holder {
    id: PrincipalId,
    kind: PrincipalKind,
    role: Role,
    tenant: Option<TenantId>,
    key: Option<String>,
}

impl Identity {
    /// Loads keys and live sessions of the platform and of every tenant, and the token key (made at the first start).
    /// `issuer` is the `iss` of tokens: another issuer's tokens are refused.
    pub async fn open(
        platform: TenantStore,
        tenants: Tenants,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        issuer: String,
    ) -> Result<Self, IdentityError> {
        let shelf = Shelf { platform, tenants };
        let now = Now { wall: clock.now(), monotonic: clock.monotonic() };
        let tokens = Tokens::new(shelf.token_key(entropy.as_ref()).await?, issuer)?;
        let tables = shelf.load(now).await?;
        let enrolled = tables.keys_of(None).any(|key| key.role == Role::Operator && key.is_live(now.wall));
        let bootstrap = (!enrolled).then(|| enrolment_token(entropy.as_ref()));
        let shared = Shared {
            shelf,
            clock,
            entropy,
            tokens,
            hasher: Hasher::new(),
            anonymous: "anonymous".parse().map_err(|_| IdentityError::Host("anonymous has no name"))?,
            tables: RwLock::new(tables),
            throttle: Mutex::default(),
            bootstrap: Mutex::new(bootstrap),
            verified: RwLock::default(),
            making: tokio::sync::Mutex::new(()),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The operator's enrolment token: only while no operator key could sign in, and not after it was used. It is a new
    /// one at every start and kept in memory only, so whoever can read the host's own files can always enrol again
    /// after the last operator key has ended, and nobody else can.
    pub async fn bootstrap_token(&self) -> Result<Option<SecretString>, IdentityError> {
        Ok(self.shared.bootstrap().clone())
    }

    /// Signs in. Fails with `Unauthenticated` whatever was wrong, and slows a source down after its failures.
    pub async fn authenticate(&self, proof: Proof, source: IpAddr) -> Result<Issued, IdentityError> {
        let source = Source::of(source);
        let shared = &self.shared;
        let key_id = match &proof {
            Proof::ApiKey { key } => secret_hash::parse(key.expose()).map(|shown| shown.id.to_owned()),
            Proof::Bootstrap { .. } => None,
        };
        let _place = shared.admit(source, key_id.as_deref())?;
        let proved = match proof {
            Proof::Bootstrap { token, name } => self.enrol(&token, &name).await,
            Proof::ApiKey { key } => self.sign_in(&key).await,
        };
        if matches!(proved, Err(IdentityError::Unauthenticated)) {
            shared.throttle().failed(source, key_id.as_deref(), shared.clock.monotonic());
        }
        proved
    }

    /// Who sends this bearer token. Cheap: the signature of a token is checked once. Its time, its session, the
    /// session's key and tenant are looked at on every call, so a revoked one is refused from the next call on.
    pub fn verify(&self, bearer: &str) -> Result<Principal, IdentityError> {
        let shared = &self.shared;
        if bearer.len() > CREDENTIAL_BYTES_MAX {
            return Err(IdentityError::Unauthenticated);
        }
        let now = shared.now();
        let claims = shared.claims(bearer, now.wall)?;
        token::fresh(&claims, now.wall)?;
        let principal = shared.read().holder(&claims, now)?;
        if shared.has_tenant_of(&principal) { Ok(principal) } else { Err(IdentityError::Unauthenticated) }
    }

    /// Whether a session still stands: not over, not revoked, nor its key or tenant gone. For streams that were allowed
    /// once and go on; they end with the session.
    pub fn is_alive(&self, session: &SessionId) -> bool {
        let principal = self.shared.read().holder_of(session, self.shared.now());
        principal.is_ok_and(|principal| self.shared.has_tenant_of(&principal))
    }

    /// A caller who showed nothing.
    #[expect(clippy::disallowed_methods, reason = "this room says who calls, and here nobody said")]
    pub fn anonymous(&self) -> Principal {
        let shared = &self.shared;
        Principal::mint(
            shared.anonymous.clone(),
            PrincipalKind::Anonymous,
            None,
            None,
            Strength::None,
            None,
            shared.clock.now(),
        )
    }

    // === signing in ===

    async fn enrol(&self, token: &SecretString, name: &ResourceName) -> Result<Issued, IdentityError> {
        let id = format!("{OPERATOR}/{name}").parse().map_err(|_| IdentityError::Host("a name is too long"))?;
        // Taken before anything is awaited, so that it works once even when used twice at the same time.
        let mut taken = Taken { shared: &self.shared, token: self.shared.take_bootstrap(token)? };
        let holder = Holder { id, kind: PrincipalKind::Person, role: Role::Operator, tenant: None, key: None };
        let issued = self.open_session(holder).await?;
        taken.token = None;
        Ok(issued)
    }

    async fn sign_in(&self, key: &SecretString) -> Result<Issued, IdentityError> {
        let shared = &self.shared;
        let shown = secret_hash::parse(key.expose()).ok_or(IdentityError::Unauthenticated)?;
        // SECURITY: an ended key takes the same path as a live one, and an unknown one as well: one hash each.
        let hashed = shared.read().keys.get(shown.id).map(|stored| stored.hashed.clone());
        let matches = shared.hasher.matches(shown.secret, hashed).await?;
        let holder = shared.read().live_key(shown.id, shared.clock.now()).map(|stored| Holder {
            id: stored.record.principal.clone(),
            kind: PrincipalKind::Service,
            role: stored.record.role,
            tenant: stored.record.tenant.clone(),
            key: Some(stored.record.id.clone()),
        });
        match holder {
            Some(holder) if matches => self.open_session(holder).await,
            _ => Err(IdentityError::Unauthenticated),
        }
    }

    async fn open_session(&self, holder: Holder) -> Result<Issued, IdentityError> {
        let shared = &self.shared;
        let store = shared.shelf.of(holder.tenant.as_ref()).ok_or(IdentityError::Unauthenticated)?;
        let now = shared.now();
        let beyond = |_| IdentityError::Host("the clock is out of range");
        let stored = StoredSession {
            id: SessionId::random(shared.entropy.as_ref()),
            principal: holder.id,
            kind: holder.kind,
            role: holder.role,
            tenant: holder.tenant,
            key: holder.key,
            strength: Strength::Secret,
            // Whole seconds, as tokens have them.
            issued_at: Timestamp::from_second(now.wall.as_second()).map_err(beyond)?,
            expires_at: now.wall.checked_add(SignedDuration::from_secs(ACCESS_TOKEN_SECONDS)).map_err(beyond)?,
        };
        let principal = stored.principal();
        let access_token = shared.tokens.issue(&principal, &stored.id, stored.issued_at)?;
        let over = shared.read().to_end(stored.tenant.as_ref(), stored.key.as_deref(), now);
        let mut ops = vec![Op::put_json(session_at(&stored.id), &stored)?];
        ops.extend(ending(&over));
        match store.batch(ops, Vec::new()).await {
            // The tenant was deleted meanwhile: its keys prove nothing any more.
            Err(StoreError::Gone) => return Err(IdentityError::Unauthenticated),
            other => other?,
        };
        let session_id = stored.id.clone();
        let revoked = {
            let mut tables = shared.write();
            tables.end(&over);
            let revoked = stored.key.as_ref().is_some_and(|key| tables.live_key(key, now.wall).is_none());
            if !revoked {
                tables.open_session(stored, now);
            }
            revoked
        };
        if revoked {
            // Revoked while the session was being written.
            store.batch(ending(&[session_id]).collect(), Vec::new()).await?;
            return Err(IdentityError::Unauthenticated);
        }
        Ok(Issued {
            access_token,
            token_type: "Bearer",
            expires_in: ACCESS_TOKEN_SECONDS,
            session_id,
            principal,
            strength: Strength::Secret,
        })
    }
}

impl Shared {
    fn now(&self) -> Now {
        Now { wall: self.clock.now(), monotonic: self.clock.monotonic() }
    }

    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn throttle(&self) -> MutexGuard<'_, Throttle> {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bootstrap(&self) -> MutexGuard<'_, Option<SecretString>> {
        self.bootstrap.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A deleted tenant has nobody, even before `forget_tenant` is told.
    fn has_tenant_of(&self, principal: &Principal) -> bool {
        principal.tenant().is_none_or(|tenant| self.shelf.tenants.open_tenant(tenant).is_some())
    }

    /// The enrolment token, when it is this one; it is gone then.
    fn take_bootstrap(&self, token: &SecretString) -> Result<Option<SecretString>, IdentityError> {
        let mut waiting = self.bootstrap();
        if waiting.as_ref() == Some(token) { Ok(waiting.take()) } else { Err(IdentityError::Unauthenticated) }
    }

    /// What a token of ours says. The same text was signed by us whenever it was once.
    fn claims(&self, bearer: &str, now: Timestamp) -> Result<Arc<Claims>, IdentityError> {
        let hash: [u8; 32] = Sha256::digest(bearer.as_bytes()).into();
        if let Some(claims) = self.verified.read().unwrap_or_else(PoisonError::into_inner).get(&hash) {
            return Ok(claims.clone());
        }
        let claims = Arc::new(self.tokens.read(bearer)?);
        let mut verified = self.verified.write().unwrap_or_else(PoisonError::into_inner);
        if verified.len() >= TOKENS_CACHED_COUNT_MAX {
            verified.retain(|_, claims| token::fresh(claims, now).is_ok());
            // LIMIT: more live tokens than are remembered; their signatures will be checked again.
            if verified.len() >= TOKENS_CACHED_COUNT_MAX {
                verified.clear();
            }
        }
        verified.insert(hash, claims.clone());
        Ok(claims)
    }

    /// Lets a sign-in try, unless its source must wait; it counts as being under way until the answer is dropped.
    fn admit(&self, source: Source, key: Option<&str>) -> Result<UnderWay<'_>, IdentityError> {
        let mut throttle = self.throttle();
        let now = self.clock.monotonic();
        let refused = |wait: std::time::Duration| IdentityError::Throttled {
            retry_after_seconds: wait.as_secs() + u64::from(wait.subsec_nanos() > 0),
        };
        throttle.check(source, key, now).map_err(refused)?;
        throttle.enter(source).map_err(refused)?;
        Ok(UnderWay { shared: self, source })
    }
}

/// The enrolment token in use. Goes back when nobody was enrolled with it, be it for a failure or a caller who hung up.
struct Taken<'a> {
    shared: &'a Shared,
    token: Option<SecretString>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(token) = self.token.take() {
            *self.shared.bootstrap() = Some(token);
        }
    }
}

/// A sign-in under way.
struct UnderWay<'a> {
    shared: &'a Shared,
    source: Source,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.shared.throttle().leave(self.source);
    }
}

fn enrolment_token(entropy: &dyn Entropy) -> SecretString {
    let random = secret_hash::random_text(entropy);
    let mut text = String::with_capacity(BOOTSTRAP_PREFIX.len() + random.expose().len());
    [BOOTSTRAP_PREFIX, random.expose()].iter().for_each(|part| text.push_str(part));
    SecretString::new(text)
}

#[cfg(test)]
mod tests;
