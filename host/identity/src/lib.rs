//! Proves who a caller is: bootstrap, API keys, access tokens, sessions. The only room that mints a Principal.
//!
//! Must never decide what a caller may do, keep a secret in clear, or tell a guesser whether a key exists.
//! Second step of both walks: the route is known, policy has not been asked yet.
//!
//! Signing in opens a session, which lives as long as its one access token: five minutes. There is no refresh; whoever
//! wants more proves himself again. Sessions are durable: a token outlives a restart of the host, and so does its end.
#![forbid(unsafe_code)]

mod about;
mod attestation;
mod ceremonies;
mod certificate;
mod devices;
#[cfg(any(test, feature = "fuzzing"))]
pub mod doors;
mod dpop;
mod error;
mod factors;
mod fallen;
mod federation;
mod manage;
mod oidc;
mod on_device;
mod operators;
mod passkeys;
mod people;
mod person;
mod record;
mod refused;
mod replay;
mod risk;
mod second_person;
mod secret_hash;
mod sessions;
mod settings;
mod shelf;
mod shown;
mod standing;
mod survey;
mod svid;
mod tables;
mod throttle;
mod token;
mod tpm;
mod trust;
mod used;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use jiff::Timestamp;
use ringfence_core::limits::{CREDENTIAL_BYTES_MAX, NONCE_SECONDS, TOKENS_CACHED_COUNT_MAX};
use ringfence_core::{
    Clock, Entropy, PluginName, Principal, PrincipalId, PrincipalKind, ResourceName, Role, SessionId, Source, Strength,
    TenantId,
};
use ringfence_store::{Locks, TenantStore, Tenants};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

pub use attestation::{AttestationTrust, Attested};
pub use certificate::{CertificateHolder, CertificateTrust};
pub use devices::{
    DeviceEvidence, DeviceFound, DeviceRecord, DeviceVerdict, EvidenceAnswer, EvidenceQuestion, EvidenceVerifier,
    PostureIssuer, PostureTrust,
};
pub use error::{Factor, IdentityError, Needed};
pub use factors::{CodesOffer, StepUp};
pub use fallen::{Fallen, FallenThere};
pub use federation::{Ask, FederatedStart, Fetch, NoProviders, PROVIDER_DOCUMENT_BYTES_MAX};
pub use oidc::{ClaimRole, ClientSecret, ProviderTrust};
pub use operators::{OperatorsTrust, WantedTrust, WeighedTrust};
pub use passkeys::{Ceremony, PasskeyAnswer};
pub use person::{Factors, NewPerson, PasskeyRecord, PersonRecord};
pub use record::{Binding, KeyRecord, Method, NewKey, SessionRecord};
pub use refused::{Named, Untaken};
pub use risk::{Adjustment, NewAdjustment, Withdrawal};
pub use settings::{SignInSettings, UnboundTokens};
pub use shown::{Channel, ClientCertificate, Shown};
pub use standing::{TrustSettings, Verdict, Verified};
pub use survey::AccessFigures;
pub use svid::Workloads;
pub use tpm::TpmTrust;
pub use trust::{Contribution, Finding, Posture, Score};
pub use used::{LAST_USE_SECONDS, LastUse};

use ceremonies::Ceremonies;
use devices::ForDevice;
use dpop::Proven;
use fallen::Falls;
use federation::Federation;
use refused::{NO_PROOF, OTHER_KEY, REPLAYED};
use replay::{Refused, Replay, Rotating};
use secret_hash::Hasher;
use sessions::{Arrival, Holder, ProvedBy};
use shelf::Shelf;
use shown::Scheme;
use tables::{Held, Now, Tables};
use throttle::{Throttle, Tried};
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
    /// The certificate of the connection that the sign-in comes on.
    ClientCertificate {
        /// Whose trust roots it is to be checked against.
        tenant: TenantId,
    },
    /// An invitation, used up by this; the session is for adding factors.
    Invitation {
        /// The whole of it.
        token: SecretString,
        /// The password to set; none for somebody who will only use passkeys.
        password: Option<SecretString>,
    },
    /// A person's password, and a one-time or recovery code where he has them.
    Password {
        /// Whom the caller says he is; anything at all.
        principal: String,
        /// The password.
        password: SecretString,
        /// The code.
        code: Option<SecretString>,
    },
    /// What an authenticator answered to a ceremony that [`Identity::start_passkey_sign_in`] began.
    Passkey {
        /// Which ceremony.
        ceremony: String,
        /// The answer.
        answer: PasskeyAnswer,
    },
    /// What an identity provider sent back to a sign-in that [`Identity::start_federated`] began.
    Federated {
        /// Which sign-in: the `state`.
        ceremony: String,
        /// The code.
        code: SecretString,
        /// The `iss` beside it, where the provider says it (RFC 9207).
        issuer: Option<String>,
    },
}

/// Whether a sign-in can succeed at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Open,
    Shut,
}

/// What the operator decides about identities.
pub struct IdentityConfig {
    /// `iss` of tokens: another issuer's tokens are refused.
    pub issuer: String,
    /// Where browsers see the control plane, `https://ringfence.example.com`; none when nobody signs in with a passkey.
    pub origin: Option<String>,
    /// For how long somebody who was invited by another does not count as a second person beside him, in hours.
    pub second_person_hours: u32,
    /// Who checks evidence about devices that this room has no means for; usually nobody.
    pub verifiers: Vec<Box<dyn EvidenceVerifier>>,
    /// Who asks identity providers.
    pub fetch: Arc<dyn Fetch>,
}

/// A signed-in session.
#[derive(Debug)]
pub struct Issued {
    /// The token to send from now on (RFC 9068 `at+jwt`, EdDSA).
    pub access_token: SecretString,
    /// `DPoP` when it is bound to the key of a proof, else `Bearer`.
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
    nonces: Mutex<Rotating>,
    replay: Mutex<Replay>,
    /// The enrolment token; none once it was used or somebody can sign in as operator.
    bootstrap: Mutex<Option<SecretString>>,
    /// What tokens say that were verified, by their hash. Only the signature is remembered; all else is looked up.
    verified: RwLock<HashMap<[u8; 32], Arc<Claims>>>,
    /// Held while a key is made, of its place alone: no tenant's queue of writes keeps another's people waiting.
    making: Locks<Option<TenantId>>,
    /// Held while a person's record is changed, so that nothing that is used up can be used twice; of his place alone, likewise.
    changing_people: Locks<Option<TenantId>>,
    /// Held while what is known about a principal is changed; of his place alone, likewise.
    changing_about: Locks<Option<TenantId>>,
    /// None when nobody signs in with a passkey.
    webauthn: Option<webauthn_rs::Webauthn>,
    ceremonies: Mutex<Ceremonies>,
    /// Nonces given out for devices.
    challenges: Mutex<Ceremonies<ForDevice>>,
    /// Sessions that fell below their floor, and are not on the record or not out of the store yet. Taken after `tables`.
    falls: Mutex<Falls>,
    /// Who checks evidence that this room has no means for.
    verifiers: Vec<Box<dyn EvidenceVerifier>>,
    federation: Federation,
    second_person_seconds: i64,
}

impl Identity {
    /// Loads keys and live sessions of the platform and of every tenant, and the token key (made at the first start).
    pub async fn open(
        platform: TenantStore,
        tenants: Tenants,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        config: IdentityConfig,
    ) -> Result<Self, IdentityError> {
        let shelf = Shelf { platform, tenants };
        let now = Now { wall: clock.now(), monotonic: clock.monotonic() };
        let tokens = Tokens::new(shelf.token_key(entropy.as_ref()).await?, config.issuer)?;
        let tables = shelf.load(now).await?;
        let enrolled = tables.keys_of(None).any(|key| key.role == Role::Operator && key.is_live(now.wall))
            || tables.people_of(None).any(|person| person.record.enrolled_at.is_some());
        let webauthn = config.origin.as_deref().map(passkeys::relying_party).transpose()?;
        let bootstrap = (!enrolled).then(|| enrolment_token(entropy.as_ref()));
        let nonces = Rotating::new(entropy.as_ref(), now.monotonic);
        let shared = Shared {
            shelf,
            clock,
            entropy,
            tokens,
            hasher: Hasher::start().map_err(|_| IdentityError::Host("no thread for hashing could be started"))?,
            anonymous: "anonymous".parse().map_err(|_| IdentityError::Host("anonymous has no name"))?,
            tables: RwLock::new(tables),
            throttle: Mutex::default(),
            nonces: Mutex::new(nonces),
            replay: Mutex::default(),
            bootstrap: Mutex::new(bootstrap),
            verified: RwLock::default(),
            making: Locks::default(),
            changing_people: Locks::default(),
            changing_about: Locks::default(),
            webauthn,
            ceremonies: Mutex::default(),
            challenges: Mutex::default(),
            falls: Mutex::default(),
            verifiers: [Box::new(tpm::Quotes) as Box<dyn EvidenceVerifier>]
                .into_iter()
                .chain(config.verifiers)
                .collect(),
            federation: Federation::new(config.fetch),
            second_person_seconds: i64::from(config.second_person_hours) * 3_600,
        };
        let identity = Self { shared: Arc::new(shared) };
        identity.drop_unsigned();
        Ok(identity)
    }

    /// SECURITY: an adjustment that this host did not sign as it is counts for nothing.
    fn drop_unsigned(&self) {
        let mut tables = self.shared.write();
        for about in tables.about.values_mut() {
            about.adjustments.retain(|adjustment| self.is_signed(adjustment));
        }
    }

    /// The operator's enrolment token: only while no operator key could sign in, and not after it was used. It is a new
    /// one at every start and kept in memory only, so whoever can read the host's own files can always enrol again
    /// after the last operator key has ended, and nobody else can.
    pub async fn bootstrap_token(&self) -> Result<Option<SecretString>, IdentityError> {
        Ok(self.shared.bootstrap().clone())
    }

    /// Whether a sign-in may be tried now: `Throttled` while its source must wait. To be asked before anything is looked up for
    /// it; [`Identity::authenticate`] asks again.
    pub fn may_try(&self, proof: &Proof, from: IpAddr) -> Result<(), IdentityError> {
        let tried = self.shared.tried(proof, Source::of(from));
        let now = self.shared.clock.monotonic();
        self.shared.throttle().check(Source::of(from), &tried, now).map_err(throttled)
    }

    /// Signs in. Fails with `Unauthenticated` whatever was wrong with the credential, and slows a source down after its
    /// failures. With a proof of possession the token is bound to its key.
    pub async fn authenticate(&self, proof: Proof, from: IpAddr, shown: &Shown<'_>) -> Result<Issued, IdentityError> {
        self.attempt(proof, from, shown, Door::Open).await
    }

    /// Refuses a sign-in whatever it shows: the answer, the cost and the debt of a wrong credential.
    pub async fn turn_away(&self, proof: Proof, from: IpAddr, shown: &Shown<'_>) -> Result<Issued, IdentityError> {
        self.attempt(proof, from, shown, Door::Shut).await
    }

    async fn attempt(
        &self,
        proof: Proof,
        from: IpAddr,
        shown: &Shown<'_>,
        door: Door,
    ) -> Result<Issued, IdentityError> {
        let source = Source::of(from);
        let shared = &self.shared;
        let place = shared.admit(source, shared.tried(&proof, source))?;
        // The proof first: one that must come again with a nonce spends nothing.
        let proven = shown.proof.map(|proof| shared.proven(shown, proof, None)).transpose()?;
        let proved = match door {
            Door::Open => self.prove(proof, from, shown, proven.as_ref()).await,
            Door::Shut => Err(self.refuse(&proof).await),
        };
        if matches!(proved, Err(IdentityError::Unauthenticated)) {
            let now = shared.clock.monotonic();
            shared.throttle().failed(source, place.tried.with(), now);
        }
        proved
    }

    async fn prove(
        &self,
        proof: Proof,
        from: IpAddr,
        shown: &Shown<'_>,
        proven: Option<&Proven>,
    ) -> Result<Issued, IdentityError> {
        let binding = proven.map_or(Binding::Unbound, |proven| Binding::Key(proven.jkt.clone()));
        let arrival = Arrival { binding, source: from };
        match proof {
            Proof::Bootstrap { token, name } => self.enrol(&token, &name, proven, arrival).await,
            Proof::ApiKey { key } => self.sign_in(&key, proven, arrival).await,
            Proof::ClientCertificate { tenant } => self.sign_in_by_certificate(tenant, shown.channel, from).await,
            Proof::Invitation { token, password } => {
                self.enrol_person(&token, password.as_ref(), proven, arrival).await
            }
            Proof::Password { principal, password, code } => {
                self.sign_in_by_password(&principal, &password, code.as_ref(), proven, arrival).await
            }
            Proof::Passkey { ceremony, answer } => self.sign_in_by_passkey(&ceremony, &answer, proven, arrival).await,
            Proof::Federated { ceremony, code, issuer } => {
                self.sign_in_federated(&ceremony, &code, issuer.as_deref(), proven, arrival).await
            }
        }
    }

    /// Who sends this request. Cheap: the signature of a token is checked once. Its time, its session, the session's key
    /// and tenant, and what the token is bound to are looked at on every call, so a revoked one is refused from the next
    /// call on.
    pub fn verify(&self, shown: &Shown<'_>) -> Result<Principal, IdentityError> {
        let shared = &self.shared;
        let (scheme, token) = shown.token.ok_or(IdentityError::Unauthenticated)?;
        if token.len() > CREDENTIAL_BYTES_MAX {
            return Err(IdentityError::Unauthenticated);
        }
        let now = shared.now();
        let claims = shared.claims(token, now.wall)?;
        token::fresh(&claims, now.wall)?;
        let held = shared.read().holder(&claims, now)?;
        if !shared.has_tenant_of(&held.principal) {
            return Err(IdentityError::Unauthenticated);
        }
        shared.check_binding(&held, scheme, token, shown)?;
        Ok(held.principal)
    }

    /// The nonce that the next proof of possession must carry.
    pub fn dpop_nonce(&self) -> String {
        let mut nonces = self.shared.nonces();
        nonces.turn(self.shared.entropy.as_ref(), self.shared.clock.monotonic());
        nonces.current().to_owned()
    }

    /// Whether a session still stands: not over, not revoked, nor its key or tenant gone. For streams that were allowed
    /// once and go on; they end with the session.
    pub fn is_alive(&self, session: &SessionId) -> bool {
        let principal = self.shared.read().holder_of(session, self.shared.now());
        principal.is_ok_and(|principal| self.shared.has_tenant_of(&principal))
    }

    /// Told when a session is ended before its time; for answers that go on streaming after their request was allowed.
    pub fn session_cut(&self, session: &SessionId) -> CancellationToken {
        self.shared.read().cut_of(session)
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

    /// The plugin itself, for what runs on nobody else's behalf: a schedule, a message. What it may do is the tenant's
    /// policy's to say, as `Service` with the id `<tenant>/plugin/<plugin>`; by default what a caller may, in its tenant.
    #[expect(
        clippy::disallowed_methods,
        reason = "this room says who acts, and here the host itself starts the plugin"
    )]
    pub fn workload(&self, tenant: &TenantId, plugin: &PluginName) -> Result<Principal, IdentityError> {
        let id = format!("{tenant}/plugin/{plugin}").parse();
        Ok(Principal::mint(
            id.map_err(|_| IdentityError::Host("a name is too long"))?,
            PrincipalKind::Service,
            Some(Role::Caller),
            Some(tenant.clone()),
            Strength::None,
            None,
            self.shared.clock.now(),
        ))
    }

    // === signing in ===

    async fn enrol(
        &self,
        token: &SecretString,
        name: &ResourceName,
        proven: Option<&Proven>,
        arrival: Arrival,
    ) -> Result<Issued, IdentityError> {
        let id = format!("{OPERATOR}/{name}").parse().map_err(|_| IdentityError::Host("a name is too long"))?;
        // Taken before anything is awaited, so that it works once even when used twice at the same time.
        let mut taken = Taken { shared: &self.shared, token: self.shared.take_bootstrap(token)? };
        let holder = Holder {
            id,
            kind: PrincipalKind::Person,
            role: Role::Operator,
            tenant: None,
            key: None,
            method: Method::Bootstrap,
            strength: Strength::Secret,
            scope: None,
            proved_by: ProvedBy::Itself,
        };
        self.shared.spend(proven)?;
        let issued = self.open_session(holder, arrival).await?;
        taken.token = None;
        Ok(issued)
    }

    async fn sign_in(
        &self,
        key: &SecretString,
        proven: Option<&Proven>,
        arrival: Arrival,
    ) -> Result<Issued, IdentityError> {
        let shared = &self.shared;
        let shown = secret_hash::parse(key.expose()).ok_or(IdentityError::Unauthenticated)?;
        // SECURITY: an ended key takes the same path as a live one, and an unknown one as well: one hash each.
        let hashed = shared.read().keys.get(shown.id).map(|stored| stored.hashed.clone());
        let matches = shared.hasher.is_key(shown.secret, hashed).await?;
        let holder = shared.read().live_key(shown.id, shared.clock.now()).map(|stored| Holder {
            id: stored.record.principal.clone(),
            kind: PrincipalKind::Service,
            role: stored.record.role,
            tenant: stored.record.tenant.clone(),
            key: Some(stored.record.id.clone()),
            method: Method::ApiKey,
            strength: Strength::Secret,
            scope: stored.record.scope.clone(),
            proved_by: ProvedBy::Itself,
        });
        match holder {
            Some(holder) if matches => {
                // Only now, when the key is known to be somebody's: guesses must not fill the memory of used proofs.
                shared.spend(proven)?;
                self.open_session(holder, arrival).await
            }
            _ => Err(IdentityError::Unauthenticated),
        }
    }
}

impl Identity {
    async fn sign_in_by_certificate(
        &self,
        tenant: TenantId,
        channel: &Channel,
        from: IpAddr,
    ) -> Result<Issued, IdentityError> {
        let Channel::Tls { certificate: Some(certificate) } = channel else {
            return Err(IdentityError::Unauthenticated);
        };
        let settings = self.shared.read().settings_of(Some(&tenant)).cloned().ok_or(IdentityError::Unauthenticated)?;
        let trust = settings.certificates.as_ref().ok_or(IdentityError::Unauthenticated)?;
        let found = trust.holder_of(certificate, self.shared.clock.now())?;
        let id: PrincipalId =
            format!("{tenant}/{}", found.name).parse().map_err(|_| IdentityError::Host("a name is too long"))?;
        // SECURITY: a certificate of the name of a person or a key would be them to policies and to four eyes.
        if self.shared.read().is_made_here(Some(&tenant), &id) {
            return Err(IdentityError::Unauthenticated);
        }
        let role = found.role;
        let holder = Holder {
            id,
            kind: PrincipalKind::Service,
            role,
            tenant: Some(tenant),
            key: None,
            method: Method::ClientCertificate,
            strength: Strength::Certificate,
            scope: None,
            proved_by: ProvedBy::Trust(settings),
        };
        let binding = Binding::Certificate(certificate.thumbprint().to_owned());
        self.open_session(holder, Arrival { binding, source: from }).await
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

    fn challenges(&self) -> MutexGuard<'_, Ceremonies<ForDevice>> {
        self.challenges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ceremonies(&self) -> MutexGuard<'_, Ceremonies> {
        self.ceremonies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn nonces(&self) -> MutexGuard<'_, Rotating> {
        self.nonces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a proof of possession proves for this request, and this token if there is one. It is not used up by that.
    fn proven(&self, shown: &Shown<'_>, proof: &str, token: Option<&str>) -> Result<Proven, IdentityError> {
        let nonces = {
            let mut nonces = self.nonces();
            nonces.turn(self.entropy.as_ref(), self.clock.monotonic());
            nonces.clone()
        };
        dpop::check(shown, proof, token, self.clock.now(), &nonces)
    }

    /// Uses a proof up; fails when it was used before.
    fn spend(&self, proven: Option<&Proven>) -> Result<(), IdentityError> {
        let Some(proven) = proven else { return Ok(()) };
        let mut replay = self.replay.lock().unwrap_or_else(PoisonError::into_inner);
        replay.spend(proven, self.clock.monotonic()).map_err(|refused| match refused {
            Refused::Used => IdentityError::BadProof(REPLAYED),
            Refused::Full => IdentityError::TooManyProofs { retry_after_seconds: NONCE_SECONDS },
        })
    }

    /// Whether what must come with a token came with it.
    fn check_binding(&self, held: &Held, scheme: Scheme, token: &str, shown: &Shown<'_>) -> Result<(), IdentityError> {
        match (&held.binding, scheme, shown.channel) {
            (Binding::Unbound, Scheme::Bearer, _) => match held.unbound {
                UnboundTokens::Allowed => Ok(()),
                UnboundTokens::Refused => Err(IdentityError::Unbound),
            },
            (Binding::Key(jkt), Scheme::Dpop, _) => {
                let proof = shown.proof.ok_or(IdentityError::BadProof(NO_PROOF))?;
                let proven = self.proven(shown, proof, Some(token))?;
                if proven.jkt != *jkt {
                    return Err(IdentityError::BadProof(OTHER_KEY));
                }
                self.spend(Some(&proven))
            }
            (Binding::Certificate(x5t), Scheme::Bearer, Channel::Tls { certificate: Some(certificate) })
                if certificate.thumbprint() == x5t =>
            {
                Ok(())
            }
            _ => Err(IdentityError::Unauthenticated),
        }
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
    fn admit(&self, source: Source, tried: Tried) -> Result<UnderWay<'_>, IdentityError> {
        let mut throttle = self.throttle();
        let now = self.clock.monotonic();
        throttle.check(source, &tried, now).map_err(throttled)?;
        throttle.enter(source, &tried).map_err(throttled)?;
        Ok(UnderWay { shared: self, source, tried })
    }

    /// What failures of a sign-in count against beside its source. Looks up no more for a name that there is than for others.
    fn tried(&self, proof: &Proof, source: Source) -> Tried {
        match proof {
            Proof::ApiKey { key } => {
                secret_hash::parse(key.expose()).map_or(Tried::Nameless, |shown| Tried::Key(shown.id.to_owned()))
            }
            Proof::Password { principal, .. } => {
                // As long as a name can be: a longer one is nobody's.
                let name: String = principal.chars().take(200).collect();
                let who = name.parse::<PrincipalId>().ok();
                let is_known = who.is_some_and(|who| self.read().network_since(&who, source).is_some());
                if is_known { Tried::Known(name) } else { Tried::Stranger(name) }
            }
            Proof::Bootstrap { .. }
            | Proof::ClientCertificate { .. }
            | Proof::Invitation { .. }
            | Proof::Passkey { .. }
            | Proof::Federated { .. } => Tried::Nameless,
        }
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
    tried: Tried,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.shared.throttle().leave(self.source, &self.tried);
    }
}

fn throttled(wait: std::time::Duration) -> IdentityError {
    IdentityError::Throttled { retry_after_seconds: wait.as_secs() + u64::from(wait.subsec_nanos() > 0) }
}

fn enrolment_token(entropy: &dyn Entropy) -> SecretString {
    let random = secret_hash::random_text(entropy);
    let mut text = String::with_capacity(BOOTSTRAP_PREFIX.len() + random.expose().len());
    [BOOTSTRAP_PREFIX, random.expose()].iter().for_each(|part| text.push_str(part));
    SecretString::new(text)
}

#[cfg(test)]
mod tests;
