//! Labels: what a tenant says of its people and things, for its policies to read. Who was trained in what, holds which
//! certification and has which role of the tenant's own making; how a plugin, a secret or a field is classified, and what it is for.
//!
//! Must never speak of another tenant's people, nor decide: a label that no statement reads changes nothing. What is not
//! named is `internal`, for no purpose, and trained in nothing, so that every entity has every attribute of the schema.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use cedar_policy_core::ast::Value;
use ringfence_core::limits::{POLICY_LABELLED_COUNT_MAX, POLICY_LABELS_BYTES_MAX, POLICY_LABELS_COUNT_MAX};
use ringfence_core::{PluginName, ResourceName, Role, TenantId, WordError};
use serde::Deserialize;

use crate::PolicyError;

/// Attributes of people and things that labels fill, as the JSON of a statement that reads one has them.
pub(crate) const ATTRIBUTES: [&str; 5] =
    ["\"training\"", "\"certifications\"", "\"roles\"", "\"classification\"", "\"purposes\""];

/// Most characters of a name that an error repeats.
const QUOTE_CHARS_MAX: usize = 80;

/// Those of a tenant that set none.
pub(crate) static NO_LABELS: Labels = Labels {
    principals: BTreeMap::new(),
    plugins: BTreeMap::new(),
    secrets: BTreeMap::new(),
    fields: BTreeMap::new(),
    buckets: BTreeMap::new(),
    containers: BTreeMap::new(),
};

static OF_OTHERS: OfPrincipal = OfPrincipal {
    training: BTreeSet::new(),
    certifications: BTreeSet::new(),
    purposes: BTreeSet::new(),
    roles: BTreeSet::new(),
};
static OF_OTHER_THINGS: OfThing = OfThing { classification: Classification::Internal, purposes: BTreeSet::new() };

/// Says why a text is no name.
type IsName = fn(&str) -> Result<(), String>;

/// All labels of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Labels {
    /// By id: `acme/ann`, `acme/plugin/visits`.
    principals: BTreeMap<String, OfPrincipal>,
    /// These by name.
    plugins: BTreeMap<String, OfThing>,
    secrets: BTreeMap<String, OfThing>,
    fields: BTreeMap<String, OfThing>,
    /// These by plugin and name: `visits/default`.
    buckets: BTreeMap<String, OfThing>,
    containers: BTreeMap<String, OfThing>,
}

/// Those of one person or service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct OfPrincipal {
    training: BTreeSet<String>,
    certifications: BTreeSet<String>,
    purposes: BTreeSet<String>,
    roles: BTreeSet<String>,
}

/// Those of one plugin, secret, field, bucket or container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct OfThing {
    classification: Classification,
    purposes: BTreeSet<String>,
}

/// How much harm it does when others see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Classification {
    Public,
    #[default]
    Internal,
    Confidential,
    Restricted,
}

impl Labels {
    /// Reads a tenant's labels from JSON, and keeps them inside the tenant.
    pub(crate) fn parse(tenant: &TenantId, text: &str) -> Result<Self, PolicyError> {
        if text.len() > POLICY_LABELS_BYTES_MAX {
            let why = format!("{} bytes, and at most {POLICY_LABELS_BYTES_MAX} are allowed", text.len());
            return Err(refused("labels", why));
        }
        let labels: Self = serde_json::from_str(text).map_err(|error| refused("labels", error.to_string()))?;
        labels.check(tenant)?;
        Ok(labels)
    }

    pub(crate) fn principal(&self, id: &str) -> &OfPrincipal {
        self.principals.get(id).unwrap_or(&OF_OTHERS)
    }

    pub(crate) fn plugin(&self, name: &str) -> &OfThing {
        self.plugins.get(name).unwrap_or(&OF_OTHER_THINGS)
    }

    pub(crate) fn secret(&self, name: &str) -> &OfThing {
        self.secrets.get(name).unwrap_or(&OF_OTHER_THINGS)
    }

    pub(crate) fn field(&self, name: &str) -> &OfThing {
        self.fields.get(name).unwrap_or(&OF_OTHER_THINGS)
    }

    pub(crate) fn bucket(&self, plugin: &str, name: &str) -> &OfThing {
        of_plugin(&self.buckets, plugin, name)
    }

    pub(crate) fn container(&self, plugin: &str, name: &str) -> &OfThing {
        of_plugin(&self.containers, plugin, name)
    }

    fn check(&self, tenant: &TenantId) -> Result<(), PolicyError> {
        few("principals", self.principals.len(), POLICY_LABELLED_COUNT_MAX)?;
        for (id, labels) in &self.principals {
            let place = place("principals", id);
            is_principal(tenant, id).map_err(|why| refused(&place, why))?;
            words(&format!("{place}.training"), &labels.training)?;
            words(&format!("{place}.certifications"), &labels.certifications)?;
            words(&format!("{place}.purposes"), &labels.purposes)?;
            roles(&format!("{place}.roles"), &labels.roles)?;
        }
        for (kind, things, is_one) in [
            ("plugins", &self.plugins, is_name::<PluginName> as IsName),
            ("secrets", &self.secrets, is_name::<ResourceName>),
            ("fields", &self.fields, is_name::<ResourceName>),
            ("buckets", &self.buckets, is_of_a_plugin),
            ("containers", &self.containers, is_of_a_plugin),
        ] {
            few(kind, things.len(), POLICY_LABELLED_COUNT_MAX)?;
            for (name, labels) in things {
                let place = place(kind, name);
                is_one(name).map_err(|why| refused(&place, why))?;
                words(&format!("{place}.purposes"), &labels.purposes)?;
            }
        }
        Ok(())
    }
}

impl OfPrincipal {
    /// In Cedar's words.
    pub(crate) fn attributes(&self) -> [(&'static str, Value); 4] {
        [
            ("training", set(&self.training)),
            ("certifications", set(&self.certifications)),
            ("purposes", set(&self.purposes)),
            ("roles", set(&self.roles)),
        ]
    }
}

impl OfThing {
    /// In Cedar's words.
    pub(crate) fn attributes(&self) -> [(&'static str, Value); 2] {
        [("classification", Value::from(self.classification.as_str())), ("purposes", set(&self.purposes))]
    }
}

impl Classification {
    fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Internal => "internal",
            Self::Confidential => "confidential",
            Self::Restricted => "restricted",
        }
    }
}

fn set(words: &BTreeSet<String>) -> Value {
    Value::set(words.iter().map(|word| Value::from(word.as_str())), None)
}

/// Whether this is the form of a principal of the tenant; that there is one is not asked, as people come and go.
fn is_principal(tenant: &TenantId, id: &str) -> Result<(), String> {
    let Some(name) = id.strip_prefix(tenant.as_str()).and_then(|rest| rest.strip_prefix('/')) else {
        return Err(format!("no principal of tenant `{tenant}`: their ids start with `{tenant}/`"));
    };
    match name.strip_prefix("plugin/") {
        Some(plugin) => is_name::<PluginName>(plugin),
        None => is_name::<ResourceName>(name),
    }
}

/// Most tenants label none of these, and their calls are many.
fn of_plugin<'a>(things: &'a BTreeMap<String, OfThing>, plugin: &str, name: &str) -> &'a OfThing {
    if things.is_empty() {
        return &OF_OTHER_THINGS;
    }
    things.get(&format!("{plugin}/{name}")).unwrap_or(&OF_OTHER_THINGS)
}

/// Whether this names a thing of a plugin, with the plugin.
fn is_of_a_plugin(text: &str) -> Result<(), String> {
    let Some((plugin, name)) = text.split_once('/') else {
        return Err("no thing of a plugin: write `PLUGIN/NAME`".to_owned());
    };
    is_name::<PluginName>(plugin)?;
    is_name::<ResourceName>(name)
}

fn is_name<T: FromStr<Err = WordError>>(text: &str) -> Result<(), String> {
    text.parse::<T>().map(drop).map_err(|error| error.to_string())
}

/// Labels are few, and each has the form of a plugin's name.
fn words(place: &str, words: &BTreeSet<String>) -> Result<(), PolicyError> {
    few(place, words.len(), POLICY_LABELS_COUNT_MAX)?;
    match words.iter().find(|word| word.parse::<PluginName>().is_err()) {
        Some(word) => {
            let why = format!(
                "`{}` is no label: 1 to 63 of a-z, 0-9 and `-`, starting with a letter and not ending with `-`",
                short(word)
            );
            Err(refused(place, why))
        }
        None => Ok(()),
    }
}

/// The same of roles; those that the host gives are not a tenant's to give by a label, and none looks like one.
fn roles(place: &str, names: &BTreeSet<String>) -> Result<(), PolicyError> {
    words(place, names)?;
    match names.iter().find(|name| Role::ALL.iter().any(|role| role.as_str() == name.as_str())) {
        Some(name) => Err(refused(place, format!("`{name}` is a role of the host, which keys and people are given"))),
        None => Ok(()),
    }
}

fn few(place: &str, count: usize, count_max: usize) -> Result<(), PolicyError> {
    if count > count_max {
        return Err(refused(place, format!("{count} entries, and at most {count_max} are allowed")));
    }
    Ok(())
}

fn place(kind: &str, name: &str) -> String {
    format!("{kind}.`{}`", short(name))
}

fn short(text: &str) -> String {
    text.chars().take(QUOTE_CHARS_MAX).collect()
}

fn refused(place: &str, why: String) -> PolicyError {
    PolicyError::Labels { place: place.to_owned(), message: why }
}
