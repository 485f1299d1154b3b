//! Signing in through an identity provider: authorization code flow with PKCE (RFC 6749, RFC 7636, OpenID Connect Core 1.0).
//! Begun here, carried on in the person's browser, ended here with the code that the provider gave it.
//!
//! Must never ask anybody but the provider that the tenant trusts, wait for one without an end, or let one that is slow
//! or down cost another tenant's sign-ins; nor tell, before somebody was proved, which tenants there are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use futures::future::BoxFuture;
use jsonwebtoken::jwk::Jwk;
use ringfence_core::limits::PROVIDERS_KNOWN_COUNT_MAX;
use ringfence_core::{PrincipalId, PrincipalKind, Source, TenantId};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::ceremonies::Ceremonies;
use crate::dpop::Proven;
use crate::oidc::{self, Discovery, ProviderTrust};
use crate::record::Method;
use crate::sessions::{Arrival, Holder, ProvedBy};
use crate::settings::SignInSettings;
use crate::throttle::Tried;
use crate::{Identity, IdentityError, Issued, SecretString};

/// LIMIT: most bytes of a document of a provider.
pub const PROVIDER_DOCUMENT_BYTES_MAX: usize = 256 << 10;
/// How long what a provider said of itself is believed.
const KNOWN_FOR: Duration = Duration::from_mins(10);
/// How long a provider that failed is left alone, and how often its keys are asked for at most.
const REST: Duration = Duration::from_secs(10);
/// LIMIT: questions under way at one moment, and of them those for sign-ins of one tenant: whoever names providers that
/// hang waits for his own.
const ASKED_COUNT_MAX: usize = 64;
const ASKED_FOR_TENANT_COUNT_MAX: usize = 8;

/// Something to ask of a provider.
#[derive(Debug)]
pub struct Ask {
    /// Where.
    pub url: Url,
    /// What is posted, `application/x-www-form-urlencoded`; none for a GET.
    pub form: Option<SecretString>,
    /// The `Authorization` header.
    pub authorization: Option<SecretString>,
}

/// Who asks providers: over TLS, addresses checked, no redirects, at most [`PROVIDER_DOCUMENT_BYTES_MAX`], in bounded time.
pub trait Fetch: Send + Sync {
    /// The body of a 200; none for anything else.
    fn fetch(&self, ask: Ask) -> BoxFuture<'static, Option<Vec<u8>>>;
}

/// Asks nobody: for a host that nobody signs in to in this way.
pub struct NoProviders;

impl Fetch for NoProviders {
    fn fetch(&self, _: Ask) -> BoxFuture<'static, Option<Vec<u8>>> {
        Box::pin(std::future::ready(None))
    }
}

/// A sign-in that was begun.
#[derive(Debug)]
pub struct FederatedStart {
    /// Names it; the `state` that the provider sends back. To be sent with the code.
    pub ceremony: String,
    /// Where the person's browser is to go.
    pub authorization_url: String,
}

/// What is remembered of a sign-in while the person is at his provider.
pub(crate) struct AtProvider {
    tenant: TenantId,
    provider: String,
    redirect_uri: String,
    nonce: String,
    verifier: SecretString,
}

/// What a provider said of itself, or that it failed, and when.
#[derive(Clone)]
struct Known {
    at: Duration,
    said: Option<Arc<(Discovery, Vec<Jwk>)>>,
}

/// Sign-ins at providers, and what is known of these.
pub(crate) struct Federation {
    fetch: Arc<dyn Fetch>,
    under_way: Mutex<Ceremonies<AtProvider>>,
    known: Mutex<HashMap<String, Known>>,
    /// How many questions are under way for each tenant that has any.
    asking: Mutex<HashMap<TenantId, usize>>,
}

/// A question under way; it is over when this is dropped.
struct Asking<'a> {
    federation: &'a Federation,
    tenant: TenantId,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut asking = self.federation.asking();
        if let Some(count) = asking.get_mut(&self.tenant) {
            *count = count.saturating_sub(1);
        }
        asking.retain(|_, count| *count > 0);
    }
}

impl Federation {
    pub(crate) fn new(fetch: Arc<dyn Fetch>) -> Self {
        Self { fetch, under_way: Mutex::default(), known: Mutex::default(), asking: Mutex::default() }
    }

    fn under_way(&self) -> MutexGuard<'_, Ceremonies<AtProvider>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which tenant a sign-in that is under way is for.
    pub(crate) fn tenant_of(&self, ceremony: &str) -> Option<TenantId> {
        self.under_way().of(ceremony).map(|at| at.tenant.clone())
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asking(&self) -> MutexGuard<'_, HashMap<TenantId, usize>> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a question for a tenant's sign-in.
    fn begin(&self, tenant: &TenantId) -> Result<Asking<'_>, IdentityError> {
        let mut asking = self.asking();
        let (all, own) = (asking.values().sum::<usize>(), asking.get(tenant).copied().unwrap_or(0));
        if all >= ASKED_COUNT_MAX || own >= ASKED_FOR_TENANT_COUNT_MAX {
            return Err(IdentityError::Busy { retry_after_seconds: 1 });
        }
        asking.insert(tenant.clone(), own + 1);
        Ok(Asking { federation: self, tenant: tenant.clone() })
    }

    async fn fetch(&self, tenant: &TenantId, ask: Ask) -> Result<Vec<u8>, IdentityError> {
        let _asking = self.begin(tenant)?;
        self.fetch.fetch(ask).await.ok_or(IdentityError::ProviderAway("it does not answer as it should"))
    }

    /// What a provider says of itself; asked anew when it is older than `oldest`.
    async fn provider(
        &self,
        tenant: &TenantId,
        issuer: &str,
        now: Duration,
        oldest: Duration,
    ) -> Result<Arc<(Discovery, Vec<Jwk>)>, IdentityError> {
        let known = self.known().get(issuer).cloned();
        if let Some(known) = known {
            let age = now.saturating_sub(known.at);
            match known.said {
                Some(said) if age < oldest => return Ok(said),
                None if age < REST => return Err(IdentityError::ProviderAway("it did not answer a moment ago")),
                _ => {}
            }
        }
        let asked = self.ask(tenant, issuer).await;
        // That this host is busy says nothing about the provider.
        if !matches!(asked, Err(IdentityError::Busy { .. })) {
            let mut all = self.known();
            if all.len() >= PROVIDERS_KNOWN_COUNT_MAX && !all.contains_key(issuer) {
                let oldest = all.iter().min_by_key(|(_, known)| known.at).map(|(issuer, _)| issuer.clone());
                oldest.and_then(|issuer| all.remove(&issuer));
            }
            all.insert(issuer.to_owned(), Known { at: now, said: asked.as_ref().ok().cloned() });
        }
        asked
    }

    async fn ask(&self, tenant: &TenantId, issuer: &str) -> Result<Arc<(Discovery, Vec<Jwk>)>, IdentityError> {
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let url = Url::parse(&url).map_err(|_| IdentityError::ProviderAway("its issuer is not a URL"))?;
        let document = self.fetch(tenant, Ask { url, form: None, authorization: None }).await?;
        let discovery = Discovery::parse(&document, issuer)?;
        let keys = Ask { url: discovery.jwks_uri.clone(), form: None, authorization: None };
        let keys = self.fetch(tenant, keys).await?;
        Ok(Arc::new((discovery, oidc::keys(&keys)?)))
    }

    /// The ID token for a code.
    async fn redeem(
        &self,
        trust: &ProviderTrust,
        discovery: &Discovery,
        at: &AtProvider,
        code: &SecretString,
    ) -> Result<String, IdentityError> {
        #[derive(Deserialize)]
        struct Tokens {
            id_token: String,
        }
        let (form, authorization) = trust.asking(discovery, at, code);
        let url = discovery.token_endpoint.clone();
        let answer = self.fetch(&at.tenant, Ask { url, form: Some(form), authorization }).await?;
        let tokens: Tokens = serde_json::from_slice(&answer)
            .map_err(|_| IdentityError::BadFederation("it gave no ID token for this code"))?;
        Ok(tokens.id_token)
    }
}

impl ProviderTrust {
    /// The form that asks for the token of a code, and the header that proves who asks (RFC 6749, section 2.3.1).
    fn asking(
        &self,
        discovery: &Discovery,
        at: &AtProvider,
        code: &SecretString,
    ) -> (SecretString, Option<SecretString>) {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "authorization_code");
        form.append_pair("code", code.expose());
        form.append_pair("redirect_uri", &at.redirect_uri);
        form.append_pair("code_verifier", at.verifier.expose());
        let mut authorization = None;
        match &self.client_secret {
            Some(secret) if !discovery.wants_secret_in_form() => {
                let part = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
                let pair = SecretString::new(format!("{}:{}", part(&self.client_id), part(secret.0.expose())));
                let encoded = data_encoding::BASE64.encode(pair.expose().as_bytes());
                authorization = Some(SecretString::new(format!("Basic {encoded}")));
            }
            Some(secret) => {
                form.append_pair("client_id", &self.client_id).append_pair("client_secret", secret.0.expose());
            }
            None => {
                form.append_pair("client_id", &self.client_id);
            }
        }
        (SecretString::new(form.finish()), authorization)
    }
}

impl Identity {
    /// Begins a sign-in at a tenant's identity provider. A tenant or provider that does not exist is refused like a wrong
    /// credential.
    pub async fn start_federated(
        &self,
        tenant: &TenantId,
        provider: &str,
        redirect_uri: &str,
        from: std::net::IpAddr,
    ) -> Result<FederatedStart, IdentityError> {
        let shared = &self.shared;
        let source = Source::of(from);
        let _place = shared.admit(source, Tried::Nameless)?;
        let (trust, _) = self.provider_of(tenant, provider)?;
        if !trust.redirect_uris.iter().any(|known| oidc::is_redirect(known, redirect_uri)) {
            return Err(IdentityError::Unauthenticated);
        }
        let now = shared.clock.monotonic();
        let said = shared.federation.provider(tenant, &trust.issuer, now, KNOWN_FOR).await?;
        let random = || {
            let mut bytes = [0_u8; 32];
            shared.entropy.fill(&mut bytes);
            BASE64URL_NOPAD.encode(&bytes)
        };
        let (ceremony, nonce, verifier) = (random(), random(), SecretString::new(random()));
        let challenge = BASE64URL_NOPAD.encode(&Sha256::digest(verifier.expose().as_bytes()));
        let mut url = said.0.authorization_endpoint.clone();
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &trust.client_id)
            .append_pair("redirect_uri", redirect_uri)
            .append_pair("scope", "openid profile email")
            .append_pair("state", &ceremony)
            .append_pair("nonce", &nonce)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        let at = AtProvider {
            tenant: tenant.clone(),
            provider: provider.to_owned(),
            redirect_uri: redirect_uri.to_owned(),
            nonce,
            verifier,
        };
        shared.federation.under_way().begin(ceremony.clone(), source, at, now);
        Ok(FederatedStart { ceremony, authorization_url: url.into() })
    }

    /// Ends it with what the provider sent back.
    pub(crate) async fn sign_in_federated(
        &self,
        ceremony: &str,
        code: &SecretString,
        issuer: Option<&str>,
        proven: Option<&Proven>,
        arrival: Arrival,
    ) -> Result<Issued, IdentityError> {
        let shared = &self.shared;
        let now = shared.now();
        let at = shared.federation.under_way().end(ceremony, now.monotonic).ok_or(IdentityError::Unauthenticated)?;
        // Asked again: the trust may have ended while he was there. It may end while his provider is asked, too.
        let (trust, settings) = self.provider_of(&at.tenant, &at.provider)?;
        // RFC 9207: an answer of another provider.
        if issuer.is_some_and(|issuer| issuer != trust.issuer) {
            return Err(IdentityError::BadFederation("the answer is another provider's"));
        }
        let federation = &shared.federation;
        let said = federation.provider(&at.tenant, &trust.issuer, now.monotonic, KNOWN_FOR).await?;
        let token = federation.redeem(&trust, &said.0, &at, code).await?;
        let kid = oidc::key_id(&token)?;
        let mut said = said;
        if oidc::key_of(&said.1, kid.as_deref()).is_none() {
            // Its keys were rotated since.
            said = federation.provider(&at.tenant, &trust.issuer, now.monotonic, REST).await?;
        }
        let key = oidc::key_of(&said.1, kid.as_deref());
        let key = key.ok_or(IdentityError::BadFederation("its ID token is signed with a key that it does not show"))?;
        let found = trust.judge(&token, key, &at.nonce, shared.clock.now())?;
        let id: PrincipalId =
            format!("{}/{}", at.tenant, found.name).parse().map_err(|_| IdentityError::Host("a name is too long"))?;
        // SECURITY: nobody becomes somebody whom the tenant made itself.
        if shared.read().is_made_here(Some(&at.tenant), &id) {
            return Err(IdentityError::Unauthenticated);
        }
        shared.spend(proven)?;
        let holder = Holder {
            id,
            kind: PrincipalKind::Person,
            role: found.role,
            tenant: Some(at.tenant),
            key: None,
            method: Method::Federated,
            strength: found.strength,
            scope: None,
            proved_by: ProvedBy::Trust(settings),
        };
        self.open_session(holder, arrival).await
    }

    /// A provider that a tenant trusts, and the settings that say so.
    fn provider_of(
        &self,
        tenant: &TenantId,
        provider: &str,
    ) -> Result<(ProviderTrust, Arc<SignInSettings>), IdentityError> {
        let settings = self.shared.read().settings_of(Some(tenant)).cloned().ok_or(IdentityError::Unauthenticated)?;
        let found = settings.providers.iter().find(|known| known.name.as_str() == provider).cloned();
        Ok((found.ok_or(IdentityError::Unauthenticated)?, settings))
    }
}
