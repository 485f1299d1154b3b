//! Who a sign-in or a token that is not taken was about: for the record, and for nobody else.
//!
//! Must never be told to a caller, nor make a refusal another one: all of it is looked up in memory, and a name that is
//! nobody's is answered like one that is somebody's.

use ringfence_core::limits::CREDENTIAL_BYTES_MAX;
use ringfence_core::{PrincipalId, TenantId};
use ringfence_store::TenantStore;

use crate::passkeys::handle_shown;
use crate::person::invitation_shown;
use crate::record::{Binding, Method};
use crate::shown::Shown;
use crate::{Identity, IdentityError, OPERATOR, Proof, secret_hash, token};

/// Whom a sign-in names.
#[derive(Debug, Clone)]
pub struct Named {
    /// How he wants to prove himself, in the word of the API.
    pub method: &'static str,
    /// The tenant that it is about; none for operators, and for what names nobody.
    pub tenant: Option<TenantId>,
    /// The principal, if there is one of that name.
    pub principal: Option<PrincipalId>,
    /// The public id of the API key, if there is or was one.
    pub key: Option<String>,
}

/// A token of this host that was not taken for how it was shown.
#[derive(Debug, Clone)]
pub struct Untaken {
    /// Whose it is.
    pub principal: PrincipalId,
    /// His tenant's store; none for operators.
    pub home: Option<TenantStore>,
    /// What was wrong: `no-proof`, `other-key`, `other-certificate`, `replayed`, `misfit`, `unbound`.
    pub wrong: &'static str,
}

/// Why a proof beside a token was not taken, where that says something about who shows it.
pub(crate) const NO_PROOF: &str = "there is none";
pub(crate) const OTHER_KEY: &str = "it is by another key than the token's";
pub(crate) const REPLAYED: &str = "it was used before";

impl Identity {
    /// Whom a sign-in names, whether or not it proves anything. For a name that a tenant does not have it is the tenant alone.
    pub fn named_by(&self, proof: &Proof) -> Named {
        let shared = &self.shared;
        let nobody = |method: Method| Named { method: method.as_str(), tenant: None, principal: None, key: None };
        let now = shared.now();
        // A stranger's bytes are hashed and read before the lock, which every call takes.
        let (mut invitation, mut handle) = (None, None);
        match proof {
            Proof::Invitation { token, .. } => invitation = invitation_shown(token),
            Proof::Passkey { answer, .. } => handle = handle_shown(answer),
            _ => {}
        }
        let tables = shared.read();
        let mut named = match proof {
            Proof::Bootstrap { .. } => nobody(Method::Bootstrap),
            Proof::ApiKey { key } => {
                let stored = secret_hash::parse(key.expose()).and_then(|shown| tables.keys.get(shown.id));
                Named {
                    method: Method::ApiKey.as_str(),
                    tenant: stored.and_then(|stored| stored.record.tenant.clone()),
                    principal: stored.map(|stored| stored.record.principal.clone()),
                    key: stored.map(|stored| stored.record.id.clone()),
                }
            }
            Proof::ClientCertificate { tenant } => {
                Named { tenant: Some(tenant.clone()), ..nobody(Method::ClientCertificate) }
            }
            Proof::Invitation { .. } => {
                let found = invitation.and_then(|shown| tables.invited(&shown, now.wall));
                let record = found.map(|person| &person.record);
                Named {
                    tenant: record.and_then(|record| record.tenant.clone()),
                    principal: record.map(|record| record.principal.clone()),
                    ..nobody(Method::Invitation)
                }
            }
            Proof::Password { principal, .. } => {
                let id = principal.parse::<PrincipalId>().ok();
                let known = id.as_ref().and_then(|id| tables.person(id)).map(|person| person.record.principal.clone());
                Named { tenant: place_of(principal), principal: known, ..nobody(Method::Password) }
            }
            Proof::Passkey { .. } => {
                let found = handle.and_then(|handle| tables.person_of_handle(&handle));
                Named {
                    tenant: found.and_then(|person| person.record.tenant.clone()),
                    principal: found.map(|person| person.record.principal.clone()),
                    ..nobody(Method::Passkey)
                }
            }
            Proof::Federated { ceremony, .. } => {
                let tenant = shared.federation.tenant_of(ceremony);
                Named { tenant, ..nobody(Method::Federated) }
            }
        };
        drop(tables);
        // The name of a tenant that is not there is the name of none.
        named.tenant = named.tenant.filter(|tenant| shared.shelf.tenants.open_tenant(tenant).is_some());
        named
    }

    /// What a sign-in costs that is refused whatever it shows: what a wrong one costs, with the same answer. For a source that
    /// the tenant does not let sign in, which must learn neither that nor whether what it showed was right.
    pub(crate) async fn refuse(&self, proof: &Proof) -> IdentityError {
        let hasher = &self.shared.hasher;
        let hashed = match proof {
            Proof::ApiKey { key } => match secret_hash::parse(key.expose()) {
                Some(shown) => hasher.is_key(shown.secret, None).await,
                None => Ok(false),
            },
            Proof::Password { password, .. } => hasher.is_password(crate::people::typed(password), None).await,
            _ => Ok(false),
        };
        hashed.err().unwrap_or(IdentityError::Unauthenticated)
    }

    /// Whose token it was, when it is one of ours that stands, and `refused` came of what was shown beside it: a sign that
    /// somebody else has it. None for every other refusal.
    pub fn untaken(&self, shown: &Shown<'_>, refused: &IdentityError) -> Option<Untaken> {
        let shared = &self.shared;
        let (_, text) = shown.token.filter(|(_, text)| text.len() <= CREDENTIAL_BYTES_MAX)?;
        let now = shared.now();
        let claims = shared.claims(text, now.wall).ok()?;
        token::fresh(&claims, now.wall).ok()?;
        let held = shared.read().holder(&claims, now).ok()?;
        let wrong = match (refused, &held.binding) {
            (IdentityError::BadProof(NO_PROOF), _) | (IdentityError::Unauthenticated, Binding::Key(_)) => "no-proof",
            (IdentityError::BadProof(OTHER_KEY), _) => "other-key",
            (IdentityError::BadProof(REPLAYED), _) => "replayed",
            (IdentityError::BadProof(_), _) => "misfit",
            (IdentityError::Unbound, _) => "unbound",
            (IdentityError::Unauthenticated, Binding::Certificate(_)) => "other-certificate",
            _ => return None,
        };
        let home = match held.principal.tenant() {
            Some(tenant) => Some(shared.shelf.tenants.open_tenant(tenant)?),
            None => None,
        };
        Some(Untaken { principal: held.principal.id().clone(), home, wrong })
    }
}

/// The tenant that a principal's name begins with.
fn place_of(principal: &str) -> Option<TenantId> {
    let (place, _) = principal.split_once('/')?;
    if place == OPERATOR { None } else { place.parse().ok() }
}
