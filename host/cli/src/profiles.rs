//! The file of profiles: which hosts this person is signed in to, with which key, and the tenant chosen last.
//!
//! Must never be readable by others (mode 0600, refused otherwise), and never be half written: a new file is renamed
//! over the old one, under a lock, so that two commands at once lose nothing.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use ringfence_core::TenantId;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::environment::Secret;
use crate::error::CliError;
use crate::ui::read_capped;

const FILE: &str = "profiles.toml";
/// LIMIT: largest file of profiles, in bytes.
const FILE_BYTES_MAX: usize = 1 << 20;
/// LIMIT: longest wait for another command that writes the file.
const LOCK_MAX: Duration = Duration::from_secs(5);
const LOCK_STEP: Duration = Duration::from_millis(20);

/// All profiles of this person.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profiles {
    /// What verbs use when no flag says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<Current>,
    /// One a host and tenant.
    #[serde(default, rename = "profile", skip_serializing_if = "Vec::is_empty")]
    pub all: Vec<Profile>,
}

/// The host and tenant chosen last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Current {
    /// The host's address.
    pub host: String,
    /// The tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
}

/// One key of this person, or a session of his.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The host's address.
    pub host: String,
    /// The key's tenant; absent for an operator's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// Who the key or session speaks for.
    pub principal: String,
    /// The API key; absent for a person, whose session is all that is kept.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "write_optional_secret",
        deserialize_with = "read_optional_secret"
    )]
    pub key: Option<Secret>,
    /// The access token fetched last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<CachedToken>,
}

/// An access token and its end.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CachedToken {
    /// The token.
    #[serde(serialize_with = "write_secret", deserialize_with = "read_secret")]
    pub access_token: Secret,
    /// When it expires.
    pub expires_at: Timestamp,
    /// The key it is bound to; absent for a token that is bound to nothing.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "write_optional_secret",
        deserialize_with = "read_optional_secret"
    )]
    pub proof_key: Option<Secret>,
    /// The nonce that the host gave last for proofs made with that key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
}

/// The folder of profiles and kept checkpoints.
#[derive(Debug, Clone)]
pub struct Home(PathBuf);

impl Profiles {
    /// The profile for exactly this host and tenant; `None` for the operator's.
    pub fn find(&self, host: &str, tenant: Option<&TenantId>) -> Option<&Profile> {
        self.all.iter().find(|profile| profile.host == host && profile.tenant.as_ref() == tenant)
    }

    /// Puts a profile in the place of the one for the same host and tenant.
    pub fn put(&mut self, profile: Profile) {
        self.all.retain(|old| old.host != profile.host || old.tenant != profile.tenant);
        self.all.push(profile);
    }

    /// Keeps a token with the profile that it was fetched for.
    pub fn put_token(&mut self, host: &str, principal: &str, key: Option<&Secret>, token: CachedToken) {
        let fits = |profile: &&mut Profile| {
            profile.host == host && profile.principal == principal && profile.key.as_ref() == key
        };
        if let Some(profile) = self.all.iter_mut().find(fits) {
            profile.token = Some(token);
        }
    }
}

impl Home {
    /// The folder from the environment.
    pub fn new(path: Option<&Path>) -> Result<Self, CliError> {
        match path {
            Some(path) => Ok(Self(path.to_owned())),
            None => Err(CliError::Failed {
                code: "no-home",
                detail: "there is no folder to keep profiles in".to_owned(),
                help: Some("name one in the environment:  RINGFENCE_HOME=/path/to/folder".to_owned()),
            }),
        }
    }

    /// A file in the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The profiles; none when the file does not exist.
    pub fn load(&self) -> Result<Profiles, CliError> {
        let path = self.file(FILE);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Profiles::default()),
            Err(error) => return Err(CliError::file("read", &path, &error)),
        };
        let mode = file.metadata().map_err(|error| CliError::file("read", &path, &error))?.permissions().mode();
        // SECURITY: a key that others could have read is not used silently.
        if mode & 0o077 != 0 {
            return Err(CliError::Failed {
                code: "profiles-exposed",
                detail: format!("`{}` holds keys and can be read by others", path.display()),
                help: Some(format!("chmod 600 {}", path.display())),
            });
        }
        let bytes = read_capped(&mut file, FILE_BYTES_MAX, "the file of profiles")?;
        let text = String::from_utf8_lossy(&bytes);
        toml::from_str(&text).map_err(|error| {
            let place = ringfence_core::ManifestError::from_toml(&text, &error);
            // The line itself may be a key: name the place only.
            CliError::Failed {
                code: "bad-profiles",
                detail: format!("`{}` cannot be read, line {}", path.display(), place.line),
                help: Some(format!("remove it and sign in again:  rm {}", path.display())),
            }
        })
    }

    /// Changes the profiles under a lock.
    pub fn update(&self, change: impl FnOnce(&mut Profiles)) -> Result<(), CliError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0)
            .map_err(|error| CliError::file("create", &self.0, &error))?;
        let _lock = self.lock()?;
        let mut profiles = self.load()?;
        change(&mut profiles);
        let text = toml::to_string(&profiles)
            .map_err(|_| CliError::failed("bad-profiles", "the profiles cannot be written".to_owned(), None))?;
        self.write(FILE, text.as_bytes())
    }

    /// Writes a file of the folder whole or not at all, for this person alone.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), CliError> {
        let path = self.file(name);
        let fresh = self.file(&format!("{name}.{}.new", std::process::id()));
        let failed = |error: std::io::Error| CliError::file("write", &path, &error);
        if let Some(parent) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(failed)?;
        }
        let _ = fs::remove_file(&fresh);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh).map_err(failed)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&fresh, &path));
        if written.is_err() {
            let _ = fs::remove_file(&fresh);
        }
        written.map_err(failed)
    }

    fn lock(&self) -> Result<File, CliError> {
        let path = self.file("profiles.lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| CliError::file("write", &path, &error))?;
        let start = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if start.elapsed() < LOCK_MAX => std::thread::sleep(LOCK_STEP),
                Err(TryLockError::WouldBlock) => {
                    return Err(CliError::failed("locked", "another command is writing the profiles".to_owned(), None));
                }
                Err(TryLockError::Error(error)) => return Err(CliError::file("lock", &path, &error)),
            }
        }
    }
}

fn write_secret<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.reveal())
}

fn read_secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    String::deserialize(deserializer).map(Secret::new)
}

fn write_optional_secret<S: Serializer>(secret: &Option<Secret>, serializer: S) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(Secret::reveal).serialize(serializer)
}

fn read_optional_secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(Secret::new))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(tenant: Option<&str>, key: &str) -> Profile {
        Profile {
            host: "http://127.0.0.1:7000".into(),
            tenant: tenant.map(|t| t.parse().unwrap()),
            principal: "acme/ci".into(),
            key: Some(Secret::new(key.into())),
            token: None,
        }
    }

    #[test]
    fn a_profile_survives_its_file_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(Some(folder.path())).unwrap();
        home.update(|profiles| profiles.put(profile(Some("acme"), "rfk_a_b"))).unwrap();
        home.update(|profiles| profiles.put(profile(None, "rfk_c_d"))).unwrap();
        let read = home.load().unwrap();
        assert_eq!(read.find("http://127.0.0.1:7000", None).unwrap().key.as_ref().unwrap().reveal(), "rfk_c_d");
        let mode = fs::metadata(home.file(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(Some(folder.path())).unwrap();
        home.update(|profiles| profiles.put(profile(None, "rfk_a_b"))).unwrap();
        fs::set_permissions(home.file(FILE), fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(home.load().unwrap_err().code(), "profiles-exposed");
    }

    #[test]
    fn a_broken_file_is_named_and_its_keys_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(Some(folder.path())).unwrap();
        home.write(FILE, b"[[profile]]\nkey = \"rfk_canary_canary\" x\n").unwrap();
        let error = home.load().unwrap_err();
        assert_eq!(error.code(), "bad-profiles");
        assert!(!format!("{error} {:?}", error.help()).contains("canary"));
    }

    #[test]
    fn two_commands_at_once_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(Some(folder.path())).unwrap();
        std::thread::scope(|scope| {
            for n in 0..8 {
                let home = home.clone();
                scope.spawn(move || {
                    let name = format!("t{n}");
                    home.update(|profiles| profiles.put(profile(Some(&name), "rfk_a_b"))).unwrap();
                });
            }
        });
        assert_eq!(home.load().unwrap().all.len(), 8);
    }
}
