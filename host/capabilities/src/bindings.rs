//! Rust types and traits made from `wit/`, one module for each spelling of an interface.
//!
//! Must hold nothing written by hand but short names for the versioned modules. Every function may trap, so that a budget can end the invocation.

/// `wasi:keyvalue@0.2.0-draft`.
pub mod keyvalue_draft {
    pub use wasi::keyvalue0_2_0_draft as keyvalue;

    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "ringfence:plugin/keyvalue-draft",
        imports: { default: async | trappable },
        with: { "wasi:keyvalue/store.bucket": crate::keyvalue::Bucket },
        require_store_data_send: true,
    });
}

/// `wasi:keyvalue@0.2.0-draft2`.
pub mod keyvalue_draft2 {
    pub use wasi::keyvalue0_2_0_draft2 as keyvalue;

    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "ringfence:plugin/keyvalue-draft2",
        imports: { default: async | trappable },
        with: {
            "wasi:keyvalue/store.bucket": crate::keyvalue::Bucket,
            "wasi:keyvalue/atomics.cas": crate::keyvalue::Cas,
        },
        require_store_data_send: true,
    });
}

/// `wasi:config@0.2.0-rc.1`.
pub mod config_rc1 {
    pub use wasi::config0_2_0_rc_1 as config;

    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "ringfence:plugin/config-rc1",
        imports: { default: async | trappable },
        require_store_data_send: true,
    });
}

/// `wasi:config@0.2.0-draft-2024-09-27`.
pub mod config_draft {
    pub use wasi::config0_2_0_draft_2024_09_27 as config;

    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "ringfence:plugin/config-draft",
        imports: { default: async | trappable },
        require_store_data_send: true,
    });
}

/// `wasi:config@0.2.0-draft`.
pub mod config_wasmcloud {
    pub use wasi::config0_2_0_draft as config;

    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "ringfence:plugin/config-wasmcloud",
        imports: { default: async | trappable },
        require_store_data_send: true,
    });
}

/// `wasi:logging@0.1.0-draft`.
pub mod logging {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "ringfence:plugin/logging",
        imports: { default: trappable },
        require_store_data_send: true,
    });
}

/// `ringfence:plugin/secrets@0.1.0`.
pub mod secrets {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "ringfence:plugin/secrets-import",
        imports: { default: async | trappable },
        require_store_data_send: true,
    });
}

/// `wasi:blobstore@0.2.0-draft`.
pub mod blobstore {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "ringfence:plugin/blobstore",
        imports: { default: async | trappable },
        with: {
            "wasi:io": wasmtime_wasi::p2::bindings::io,
            "wasi:blobstore/container.container": crate::blobstore::Container,
            "wasi:blobstore/container.stream-object-names": crate::blobstore::Names,
            "wasi:blobstore/types.outgoing-value": crate::blobstore::Outgoing,
            "wasi:blobstore/types.incoming-value": crate::blobstore::Incoming,
        },
        require_store_data_send: true,
    });
}

/// `wasi:filesystem@0.2.x`.
pub mod filesystem {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "ringfence:plugin/filesystem",
        imports: { default: async | trappable },
        with: {
            "wasi:io": wasmtime_wasi::p2::bindings::io,
            "wasi:clocks": wasmtime_wasi::p2::bindings::clocks,
            "wasi:filesystem/types.descriptor": crate::files::Descriptor,
            "wasi:filesystem/types.directory-entry-stream": crate::files::Listing,
        },
        require_store_data_send: true,
    });
}

/// `ringfence:plugin/queue@0.1.0`.
pub mod queue {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "ringfence:plugin/queue-import",
        imports: { default: async | trappable },
        require_store_data_send: true,
    });
}

/// `ringfence:plugin/audit@0.1.0`.
pub mod audit {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "ringfence:plugin/audit-import",
        imports: { default: async | trappable },
        require_store_data_send: true,
    });
}

/// `ringfence:plugin/runs@0.1.0`.
pub mod runs {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "ringfence:plugin/runs-import",
        imports: { default: async | trappable },
        require_store_data_send: true,
    });
}

/// `ringfence:plugin/pii@0.1.0`.
pub mod pii {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "ringfence:plugin/pii-import",
        imports: { default: async | trappable },
        require_store_data_send: true,
    });
}

/// `ringfence:plugin/steps@0.1.0`.
pub mod steps {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "ringfence:plugin/steps-import",
        imports: { default: async | trappable },
        require_store_data_send: true,
    });
}
