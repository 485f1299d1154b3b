//! Root key providers, tenant keys, envelope seal and open, signing. The only room that sees key bytes.
//!
//! A root key (a file, later a vault or a hardware module) wraps one key a tenant; from a tenant key come purpose keys,
//! and from a purpose key a fresh key for every record, name and stream. Must never print, log or return key bytes,
//! except for the two doors that say `SECURITY:`. Sits under `store`: whatever a tenant gave us passes here before disk.
#![forbid(unsafe_code)]

mod backup;
mod chunk;
mod context;
mod derive;
mod dumps;
mod error;
mod locked;
mod post_quantum;
mod raw_ecdsa;
mod record;
mod root;
mod secret;
mod shared;
mod sign;
mod stream;
mod subject;
mod svid;
mod tenant;

pub use backup::BackupKey;
pub use chunk::{ChunkOpener, STREAM_HEAD_BYTES};
pub use context::{Context, Purpose};
pub use derive::MacKey;
pub use dumps::{MemoryDumps, forbid_core_files, forbid_debuggers, memory_dumps};
pub use error::KeysError;
pub use locked::{LockedMemory, can_lock_memory, locked_memory};
pub use post_quantum::{ML_DSA_44_PUBLIC_BYTES, ML_DSA_44_SIGNATURE_BYTES, PostQuantumKey, verify_ml_dsa_44};
pub use raw_ecdsa::{P256_SHA256_RAW, P384_SHA384_RAW};
pub use record::{OVERHEAD_BYTES as RECORD_OVERHEAD_BYTES, sealed_version};
pub use root::{
    Assurance, AwsCredentials, AwsKmsUri, KeyVersion, MissingRootKey, Outside, Pkcs11Uri, RootKey, RootKeyUri,
    Shredding, VaultUri, WrappedKey,
};
pub use secret::{Secret, SecretBytes, constant_time_eq};
pub use shared::{SHARED_SECRET_BYTES, sign_shared};
pub use sign::{SigningKey, verify_ed25519};
pub use stream::{CHUNK_BYTES, ChunkTag, StreamOpener, StreamSealer, is_sealed_stream_bytes, sealed_stream_bytes};
pub use subject::{PersonalKey, SEALED_PREFIX, SealedField, SubjectKey, SubjectRef, TOKEN_PREFIX};
pub use svid::{Svid, SvidAuthority, is_trust_domain};
pub use tenant::{Closed, NameSealer, TenantKeys};
pub use zeroize::Zeroizing;
