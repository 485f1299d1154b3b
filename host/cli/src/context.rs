//! What every verb stands on: flags, environment, output, and the choice of host, tenant and key.
//!
//! Must never send a key to a host that it was not made by: a key of the profiles goes to its own host only.

use std::sync::Arc;

use ringfence_core::{Clock, Entropy, TenantId};

use crate::address::{Address, DEFAULT_HOST, PlainHttp};
use crate::args::Global;
use crate::client::{Answer, Api, Credential};
use crate::environment::Environment;
use crate::error::CliError;
use crate::profiles::{Home, Profile, Profiles};
use crate::ui::Ui;
use crate::{Format, args};

/// What every verb gets.
pub struct Context<'a> {
    /// Flags of every verb.
    pub flags: &'a Global,
    /// What the environment says.
    pub environment: &'a Environment,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The dice.
    pub entropy: Arc<dyn Entropy>,
    /// Output and questions.
    pub ui: Ui,
}

impl<'a> Context<'a> {
    /// Puts them together.
    pub fn new(
        cli: &'a args::Cli,
        environment: &'a Environment,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        ui: Ui,
    ) -> Self {
        Self { flags: &cli.global, environment, clock, entropy, ui }
    }

    /// The folder of profiles.
    pub fn home(&self) -> Result<Home, CliError> {
        Home::new(self.environment.home.as_deref())
    }

    /// How far plain HTTP may go.
    pub fn plain_http(&self) -> PlainHttp {
        if self.flags.plain_http { PlainHttp::Anywhere } else { PlainHttp::Loopback }
    }

    /// The host: the flag, else the one chosen last, else this machine.
    pub fn address(&self, profiles: &Profiles) -> Result<Address, CliError> {
        let chosen = profiles.current.as_ref().map(|current| current.host.as_str());
        Address::parse(self.flags.host.as_deref().or(chosen).unwrap_or(DEFAULT_HOST), self.plain_http())
    }

    /// The API without a key, for `login`.
    pub fn anonymous(&self, host: Address) -> Result<Api, CliError> {
        Api::new(host, Credential::Anonymous, (Arc::clone(&self.clock), Arc::clone(&self.entropy)), self.ui.trace())
    }

    /// The API with a key just read, for `login`.
    pub fn with_key(&self, host: Address, credential: Credential) -> Result<Api, CliError> {
        Api::new(host, credential, (Arc::clone(&self.clock), Arc::clone(&self.entropy)), self.ui.trace())
    }

    /// The API and the tenant that the verb acts in, with that tenant's key or else the operator's.
    pub async fn tenant(&self) -> Result<(Api, TenantId), CliError> {
        if let Some(key) = &self.environment.api_key {
            let api = self.with_environment_key(key.clone())?;
            let tenant = match self.flags.tenant.clone() {
                Some(tenant) => tenant,
                None => {
                    let principal = api.sign_in().await?.0.principal;
                    principal.tenant.and_then(|tenant| tenant.parse().ok()).ok_or_else(no_tenant)?
                }
            };
            return Ok((api, tenant));
        }
        let profiles = self.home()?.load()?;
        let host = self.address(&profiles)?;
        let tenant = self
            .flags
            .tenant
            .clone()
            .or_else(|| chosen_tenant(&profiles, &host))
            .or_else(|| only_tenant(&profiles, &host));
        let Some(tenant) = tenant else {
            let known = profiles.all.iter().any(|profile| profile.host == host.to_string());
            return Err(if known { no_tenant() } else { not_signed_in(&host, None) });
        };
        let name = host.to_string();
        let profile = profiles.find(&name, Some(&tenant)).or_else(|| profiles.find(&name, None));
        match profile {
            Some(profile) => Ok((self.with_profile(host, profile)?, tenant)),
            None => Err(not_signed_in(&host, Some(&tenant))),
        }
    }

    /// The API for what concerns one tenant that was named, with its key or else the operator's.
    pub fn of_tenant(&self, tenant: &TenantId) -> Result<Api, CliError> {
        if let Some(key) = &self.environment.api_key {
            return self.with_environment_key(key.clone());
        }
        let profiles = self.home()?.load()?;
        let host = self.address(&profiles)?;
        let name = host.to_string();
        match profiles.find(&name, Some(tenant)).or_else(|| profiles.find(&name, None)) {
            Some(profile) => self.with_profile(host, profile),
            None => Err(not_signed_in(&host, Some(tenant))),
        }
    }

    /// The API for what concerns the host: with the operator's key, else with the one in use.
    pub fn operator(&self) -> Result<Api, CliError> {
        if let Some(key) = &self.environment.api_key {
            return self.with_environment_key(key.clone());
        }
        let profiles = self.home()?.load()?;
        let host = self.address(&profiles)?;
        let name = host.to_string();
        match profiles.find(&name, None).or_else(|| self.in_use(&profiles, &name)) {
            Some(profile) => self.with_profile(host, profile),
            None => Err(not_signed_in(&host, None)),
        }
    }

    /// The API with the key in use: the chosen tenant's, else the operator's.
    pub fn current(&self) -> Result<Api, CliError> {
        if let Some(key) = &self.environment.api_key {
            return self.with_environment_key(key.clone());
        }
        let profiles = self.home()?.load()?;
        let host = self.address(&profiles)?;
        let name = host.to_string();
        match self.in_use(&profiles, &name) {
            Some(profile) => self.with_profile(host, profile),
            None => Err(not_signed_in(&host, self.flags.tenant.as_ref())),
        }
    }

    /// Prints an answer: its text with `--json`, else what `text` makes of it.
    pub fn print<T>(&mut self, answer: &Answer<T>, text: impl FnOnce(&T) -> String) -> Result<(), CliError> {
        match self.ui.format {
            Format::Json => {
                self.ui.raw(answer.text.trim_end().as_bytes())?;
                self.ui.raw(b"\n")
            }
            Format::Text => self.ui.text(&text(&answer.value)),
        }
    }

    /// Prints a list, or says on standard error that there is nothing yet.
    pub fn print_list<T>(
        &mut self,
        answer: &Answer<Vec<T>>,
        nothing: &str,
        text: impl FnOnce(&[T]) -> String,
    ) -> Result<(), CliError> {
        if self.ui.format == Format::Text && answer.value.is_empty() {
            self.ui.note(nothing);
            return Ok(());
        }
        self.print(answer, |items| text(items))
    }

    /// A line for people that stands for an empty answer.
    pub fn done(&mut self, text: &str) -> Result<(), CliError> {
        match self.ui.format {
            Format::Json => Ok(()),
            Format::Text => self.ui.text(text),
        }
    }

    fn in_use<'p>(&self, profiles: &'p Profiles, host: &str) -> Option<&'p Profile> {
        let chosen = profiles.current.as_ref().filter(|current| current.host == host);
        let tenant = self.flags.tenant.as_ref().or_else(|| chosen.and_then(|current| current.tenant.as_ref()));
        let exact = tenant.and_then(|tenant| profiles.find(host, Some(tenant)));
        let any = || profiles.all.iter().find(|profile| profile.host == host && self.flags.tenant.is_none());
        exact.or_else(|| profiles.find(host, None)).or_else(any)
    }

    fn with_environment_key(&self, key: crate::environment::Secret) -> Result<Api, CliError> {
        // A folder that is missing or broken does not matter here: the key comes from the environment.
        let profiles = self.home().and_then(|home| home.load()).unwrap_or_default();
        let host = self.address(&profiles)?;
        Api::new(host, Credential::Key(key), (Arc::clone(&self.clock), Arc::clone(&self.entropy)), self.ui.trace())
    }

    fn with_profile(&self, host: Address, profile: &Profile) -> Result<Api, CliError> {
        let credential = Credential::of(profile, self.home()?);
        Api::new(host, credential, (Arc::clone(&self.clock), Arc::clone(&self.entropy)), self.ui.trace())
    }
}

fn chosen_tenant(profiles: &Profiles, host: &Address) -> Option<TenantId> {
    let current = profiles.current.as_ref().filter(|current| current.host == host.to_string())?;
    current.tenant.clone()
}

fn only_tenant(profiles: &Profiles, host: &Address) -> Option<TenantId> {
    let name = host.to_string();
    let mut tenants = profiles.all.iter().filter(|profile| profile.host == name).filter_map(|p| p.tenant.as_ref());
    match (tenants.next(), tenants.next()) {
        (Some(tenant), None) => Some(tenant.clone()),
        _ => None,
    }
}

fn no_tenant() -> CliError {
    CliError::Usage {
        code: "no-tenant",
        detail: "no tenant is chosen".to_owned(),
        help: Some("add `--tenant TENANT`, or choose one with\nringfence use TENANT".to_owned()),
    }
}

fn not_signed_in(host: &Address, tenant: Option<&TenantId>) -> CliError {
    CliError::NotSignedIn { host: host.to_string(), tenant: tenant.map(ToString::to_string) }
}
