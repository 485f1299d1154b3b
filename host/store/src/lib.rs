//! The store: sealed views with the tenant fixed, over sled behind a durability wrapper, over redb, or over memory for tests.
//!
//! Whoever holds a [`TenantStore`] can reach that tenant's records and files and no others; what reaches the disk is
//! ciphertext, names included. A write is acknowledged once it would survive a power cut, never before. Must never decide
//! what a record means. Sits under audit, identity, registry and the capabilities; over `keys`.
#![forbid(unsafe_code)]

mod abandoned;
pub mod backup;
mod blobs;
mod check;
mod commit;
mod destroyed;
mod directory;
mod engine;
mod error;
mod fair;
mod files;
mod held;
mod key;
mod line;
mod locks;
mod measure;
mod own_keys;
mod pace;
mod record;
mod reseal;
mod retire;
mod rewrap;
mod root_rotation;
mod rotten;
mod salvage;
mod sealing;
mod store;
mod subjects;
mod tally;
mod tenant_keys;
mod tenant_store;
mod tenants;
mod transfer;
mod values;
mod watch;
mod watermark;

pub use blobs::{BLOB_BYTES_MAX, BlobId, BlobReader, BlobWriter, Blobs};
pub use check::{Checked, Damage, check, check_with};
pub use destroyed::Destroyed;
pub use directory::{is_held, made_by as backend_of};
pub use engine::{Backend, Fault, Faults};
pub use error::StoreError;
pub use held::HeldBytes;
pub use key::{KEY_NAME_BYTES_MAX, KEY_SEGMENTS_COUNT_MAX, Key, Segment};
pub use locks::Locks;
pub use own_keys::OwnChange;
pub use record::{Commit, INLINE_BYTES_MAX, Op, Page, PageToken, Precondition, Record, VALUE_BYTES_MAX};
pub use reseal::ResealStep;
pub use retire::Retired;
pub use root_rotation::RootRotation;
pub use rotten::RottenRecord;
pub use salvage::{Salvaged, SalvagedTenant, salvage};
pub use store::{DiskOptions, Stats, Store};
pub use subjects::{FIELD_BYTES_MAX, FIELD_VALUE_BYTES_MAX, SUBJECT_BYTES_MAX, SubjectAbout, Subjects, Tombstone};
pub use tally::recount;
pub use tenant_keys::{
    DeleteAsked, DestroyRequest, Disabled, IsAnother, KeyStatus, KeyUse, OwnStatus, Reseal, Side, TendedKeys,
};
pub use tenant_store::TenantStore;
pub use tenants::{PLATFORM, TenantRecord, TenantState, Tenants, has_keys};
pub use transfer::{Moved, migrate};
pub use values::{STREAMED_BYTES_MAX, SealedPiece, StagedValue, ValueReader, ValueWriter};
pub use watch::{Change, Event, Watch};
