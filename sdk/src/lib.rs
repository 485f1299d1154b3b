//! Write Ringfence plugins. A plugin is one function; **its parameters are its needs**: what the function does not name,
//! the component does not import, and nobody has to grant it.
//!
//! ```ignore
//! use ringfence_sdk::{Kv, Request, Result, plugin};
//!
//! #[plugin]
//! fn visits(request: Request, kv: Kv) -> Result<String> {
//!     Ok(format!("{} visits", kv.add(request.path(), 1)?))
//! }
//! ```
//!
//! The result is a standard `wasi:http` component. Must never touch a host interface that no parameter stands for:
//! that would make it a need of every plugin. `cargo xtask guests` prints the needs of every component it builds.
#![deny(unsafe_code)]

mod audit;
mod blob;
mod body;
mod config;
#[cfg(feature = "definition")]
mod definition;
mod error;
mod event;
mod files;
mod http;
mod kv;
mod log;
mod pii;
mod queue;
mod request;
mod response;
mod runs;
mod secrets;
#[cfg(feature = "json")]
mod steps;

pub mod rt;
pub mod time;

pub use anyhow::{Context, Error, anyhow, bail, ensure};
pub use audit::{AuditLog, Happening};
pub use blob::{BlobInfo, Blobs};
pub use body::Body;
pub use bytes::Bytes;
pub use config::Config;
pub use error::{HostError, Result};
pub use event::{Occasion, refuse, retry};
pub use files::Files;
pub use http::{Http, HttpRequest, HttpResponse};
pub use kv::{Keys, Kv};
pub use log::Log;
pub use pii::{Finding, Kind, Pii};
pub use queue::{Delivery, Queues};
pub use request::{Call, FromHost, Request};
#[cfg(feature = "json")]
pub use response::Json;
pub use response::{IntoResponse, Response};
#[cfg(feature = "definition")]
pub use ringfence_sdk_macros::definition;
#[cfg(feature = "json")]
pub use ringfence_sdk_macros::hook;
pub use ringfence_sdk_macros::{plugin, workflow};
pub use runs::{Beginning, Begun, RunError, RunState, Runs, SeenRun};
pub use secrets::Secrets;
#[cfg(feature = "json")]
pub use steps::{About, Final, Input, Question, Retry, StepCall, Steps, Stopped, Verdict};
pub use wstd::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

/// Bindings to the interfaces in `wit/`, private so that a plugin reaches them through its parameters only.
#[allow(missing_docs, unsafe_code, clippy::all, reason = "generated")]
mod bindings {
    wit_bindgen::generate!({
        path: "../wit",
        world: "capabilities",
        // Streams of objects are those of the HTTP bodies, so that the same runtime waits for both.
        with: {
            "wasi:io/error@0.2.12": ::wasip2::io::error,
            "wasi:io/poll@0.2.12": ::wasip2::io::poll,
            "wasi:io/streams@0.2.12": ::wasip2::io::streams,
        },
        generate_all,
    });
}
