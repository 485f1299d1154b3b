//! The root key in a PKCS#11 token: AES-256 keys that are made there, never leave it, and encrypt with AES-GCM.
//!
//! Must never see a key, nor the PIN for longer than the login takes. Versions of the root key are objects of the same label
//! with ids 1, 2, ...; a tenant's wrapping key is an object of its own, labelled `OBJECT/<name>`, which can be destroyed.
//!
//! Format of encrypted bytes: nonce (12 bytes), ciphertext, tag (16 bytes); associated data is the encoded context of
//! tenant, store word (`tenant-key` or `tenant-shard`), key's label and id, and version.
//! LIMIT: nonces are random, so a root key version should not encrypt more than 2^32 times (SP 800-38D, section 8.3).

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use ringfence_core::Entropy;
use zeroize::Zeroizing;

use super::file::MissingRootKey;
use super::provider::{Assurance, Bound, Encrypted, RootKeyProvider, Shredding, With};
use super::uri::Pkcs11Uri;
use crate::context::Context;
use crate::error::KeysError;

const NONCE_BYTES: usize = 12;
const TAG_BITS: u64 = 128;
const KEY_BYTES: u64 = 32;
/// LIMIT: no PIN file is longer.
const PIN_BYTES_MAX: u64 = 256;

pub(super) struct Pkcs11Provider {
    uri: Pkcs11Uri,
    module: Pkcs11,
    /// One session, opened anew when the token was away.
    session: Mutex<Option<Session>>,
    newest: Mutex<u8>,
    was_made: bool,
}

// === impl Pkcs11Provider ===

impl Pkcs11Provider {
    pub(super) fn open(uri: &Pkcs11Uri, missing: MissingRootKey) -> Result<Self, KeysError> {
        let module = Pkcs11::new(&uri.module_path).map_err(|error| unreachable(&error))?;
        match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            // Another handle of this process did it.
            Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            other => other.map_err(|error| unreachable(&error))?,
        }
        let mut this =
            Self { uri: uri.clone(), module, session: Mutex::new(None), newest: Mutex::new(0), was_made: false };
        let newest = this.with_session(|session| this.find_newest(session))?;
        let newest = match (newest, missing) {
            (0, MissingRootKey::Create) => {
                this.with_session(|session| generate(session, &uri.object, 1))?;
                this.was_made = true;
                1
            }
            (0, MissingRootKey::Refuse) => return Err(refused("there is no key of that label in the token")),
            (newest, _) => newest,
        };
        *this.newest() = newest;
        Ok(this)
    }

    fn newest(&self) -> MutexGuard<'_, u8> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The highest id among the root key's objects; 0 when there is none.
    fn find_newest(&self, session: &Session) -> Result<u8, Error> {
        let objects = session.find_objects(&template(&self.uri.object, None))?;
        let mut newest = 0;
        for object in objects {
            for attribute in session.get_attributes(object, &[AttributeType::Id])? {
                if let Attribute::Id(id) = attribute
                    && let [version] = id[..]
                {
                    newest = newest.max(version);
                }
            }
        }
        Ok(newest)
    }

    /// Runs one act in a session. When the token was away, tries once more in a new one.
    fn with_session<T>(&self, act: impl Fn(&Session) -> Result<T, Error>) -> Result<T, KeysError> {
        let mut held = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = &*held {
            match act(session) {
                Err(error) if is_lost(&error) => *held = None,
                other => return other.map_err(|error| told(&error)),
            }
        }
        let session = self.connect()?;
        let result = act(&session);
        *held = Some(session);
        result.map_err(|error| told(&error))
    }

    fn connect(&self) -> Result<Session, KeysError> {
        let slots = self.module.get_slots_with_token().map_err(|error| unreachable(&error))?;
        let slot = slots
            .into_iter()
            .find(|slot| self.module.get_token_info(*slot).is_ok_and(|info| info.label().trim_end() == self.uri.token));
        let slot = slot.ok_or_else(|| KeysError::Unreachable {
            provider: "pkcs11",
            reason: format!("there is no token `{}`", self.uri.token),
        })?;
        let session = self.module.open_rw_session(slot).map_err(|error| unreachable(&error))?;
        let pin = AuthPin::new(read_pin(&self.uri.pin_file)?.into());
        match session.login(UserType::User, Some(&pin)) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(session),
            Err(error) => Err(refused(&format!("the token refuses the login: {error}"))),
        }
    }

    /// The label and id of a key.
    fn name(&self, with: With<'_>, by: &str) -> Result<(String, u8), KeysError> {
        match with {
            With::Shard(shard) => Ok((self.shard_label(shard), 1)),
            With::Root => {
                let version = by.rsplit_once('#').filter(|(label, _)| *label == self.uri.object);
                let version = version.and_then(|(_, version)| version.parse().ok());
                let version = version.ok_or_else(|| KeysError::OtherRootKey {
                    wrapped_by: by.chars().take(64).collect(),
                    at_hand: self.id(),
                })?;
                Ok((self.uri.object.clone(), version))
            }
        }
    }

    fn shard_label(&self, shard: &str) -> String {
        format!("{}/{shard}", self.uri.object)
    }
}

impl RootKeyProvider for Pkcs11Provider {
    fn id(&self) -> String {
        format!("{}#{}", self.uri.object, *self.newest())
    }
    fn assurance(&self) -> Assurance {
        Assurance::Hardware
    }
    fn shredding(&self) -> Shredding {
        Shredding::OldCopiesToo
    }
    fn was_made(&self) -> bool {
        self.was_made
    }

    fn encrypt(
        &self,
        with: With<'_>,
        bound: &Bound<'_>,
        plain: &[u8],
        entropy: &dyn Entropy,
    ) -> Result<Encrypted, KeysError> {
        let by = self.id();
        let (label, id) = self.name(with, &by)?;
        let mut nonce = [0_u8; NONCE_BYTES];
        entropy.fill(&mut nonce);
        let associated = associated(with, bound, &label, id);
        let sealed = self.with_session(|session| {
            let Some(key) = find(session, &label, id)? else { return Ok(None) };
            let mut used = nonce;
            let gcm = GcmParams::new(&mut used, &associated, TAG_BITS.into())?;
            session.encrypt(&Mechanism::AesGcm(gcm), key, plain).map(Some)
        })?;
        let sealed = sealed.ok_or_else(|| missing(with))?;
        Ok(Encrypted { by, bytes: [nonce.as_slice(), &sealed].concat() })
    }

    fn decrypt(
        &self,
        with: With<'_>,
        bound: &Bound<'_>,
        by: &str,
        bytes: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, KeysError> {
        let (label, id) = self.name(with, by)?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_BYTES>().ok_or(KeysError::NotAuthentic)?;
        let associated = associated(with, bound, &label, id);
        let found = self.with_session(|session| {
            let Some(key) = find(session, &label, id)? else { return Ok(None) };
            let mut used = *nonce;
            let gcm = GcmParams::new(&mut used, &associated, TAG_BITS.into())?;
            match session.decrypt(&Mechanism::AesGcm(gcm), key, sealed) {
                Err(error) if is_lost(&error) => Err(error),
                // Tokens name a wrong tag in many ways; whatever else it was, nothing was opened.
                decrypted => Ok(Some(decrypted.ok())),
            }
        })?;
        found.ok_or_else(|| missing(with))?.map(Zeroizing::new).ok_or(KeysError::NotAuthentic)
    }

    fn make_shard(&self, shard: &str, _entropy: &dyn Entropy) -> Result<(), KeysError> {
        let label = self.shard_label(shard);
        self.with_session(|session| generate(session, &label, 1))
    }

    fn destroy_shard(&self, shard: &str) -> Result<(), KeysError> {
        let label = self.shard_label(shard);
        self.with_session(|session| match find(session, &label, 1)? {
            Some(key) => session.destroy_object(key),
            None => Ok(()),
        })
    }

    fn rotate(&self, _entropy: &dyn Entropy) -> Result<(), KeysError> {
        let mut newest = self.newest();
        let next = newest.checked_add(1).ok_or_else(|| refused("the root key has 255 versions already"))?;
        self.with_session(|session| generate(session, &self.uri.object, next))?;
        *newest = next;
        Ok(())
    }

    fn retire(&self) -> Result<(), KeysError> {
        let newest = *self.newest();
        for old in 1..newest {
            self.with_session(|session| match find(session, &self.uri.object, old)? {
                Some(key) => session.destroy_object(key),
                None => Ok(()),
            })?;
        }
        Ok(())
    }
}

fn associated(with: With<'_>, bound: &Bound<'_>, label: &str, id: u8) -> Vec<u8> {
    let store = match with {
        With::Root => "tenant-key",
        With::Shard(_) => "tenant-shard",
    };
    let key = format!("{label}#{id}");
    Context { tenant: bound.tenant, store, key: key.as_bytes(), revision: bound.version.into() }.encode()
}

fn template(label: &str, id: Option<u8>) -> Vec<Attribute> {
    let mut template = vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::Token(true),
        Attribute::Label(label.as_bytes().to_vec()),
    ];
    template.extend(id.map(|id| Attribute::Id(vec![id])));
    template
}

fn find(session: &Session, label: &str, id: u8) -> Result<Option<ObjectHandle>, Error> {
    Ok(session.find_objects(&template(label, Some(id)))?.into_iter().next())
}

/// Makes a key in the token that cannot be read out of it; fine when it is there.
fn generate(session: &Session, label: &str, id: u8) -> Result<(), Error> {
    if find(session, label, id)?.is_some() {
        return Ok(());
    }
    let mut template = template(label, Some(id));
    template.extend([
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
        Attribute::ValueLen(KEY_BYTES.into()),
    ]);
    session.generate_key(&Mechanism::AesKeyGen, &template).map(|_| ())
}

fn read_pin(path: &Path) -> Result<String, KeysError> {
    let io = |source| KeysError::Io { path: path.to_owned(), source };
    let mut pin = Zeroizing::new(String::with_capacity(PIN_BYTES_MAX as usize));
    File::open(path).map_err(io)?.take(PIN_BYTES_MAX).read_to_string(&mut pin).map_err(io)?;
    Ok(pin.trim_end_matches(['\r', '\n']).to_owned())
}

/// Whether the token or our login went away, so that a new session may help.
fn is_lost(error: &Error) -> bool {
    matches!(
        error,
        Error::Pkcs11(
            RvError::SessionHandleInvalid
                | RvError::SessionClosed
                | RvError::DeviceRemoved
                | RvError::TokenNotPresent
                | RvError::UserNotLoggedIn
                | RvError::DeviceError,
            _
        )
    )
}

fn told(error: &Error) -> KeysError {
    if is_lost(error) { unreachable(error) } else { refused(&error.to_string()) }
}

fn unreachable(error: &Error) -> KeysError {
    KeysError::Unreachable { provider: "pkcs11", reason: error.to_string() }
}

fn refused(reason: &str) -> KeysError {
    KeysError::Refused { provider: "pkcs11", reason: reason.to_owned() }
}

fn missing(with: With<'_>) -> KeysError {
    match with {
        With::Shard(_) => KeysError::ShardGone,
        With::Root => refused("that version of the root key is not in the token any more"),
    }
}
