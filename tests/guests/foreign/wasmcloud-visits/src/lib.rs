//! An HTTP component that knows nothing of Ringfence: wasmCloud's own library over `wasi:http` 0.2, `wasi:keyvalue`,
//! `wasi:config` and `wasi:logging`, each in the version that wasmCloud offers.

use wasmcloud_component::wasi::config::store as config;
use wasmcloud_component::wasi::keyvalue::{atomics, store};
use wasmcloud_component::{http, info};

struct Visits;

http::export!(Visits);

impl http::Server for Visits {
    fn handle(request: http::IncomingRequest) -> http::Result<http::Response<impl http::OutgoingBody>> {
        let path = request.uri().path();
        let failed = |error: String| http::ErrorCode::InternalError(Some(error));
        let bucket = store::open("default").map_err(|error| failed(format!("{error:?}")))?;
        let count = atomics::increment(&bucket, path, 1).map_err(|error| failed(format!("{error:?}")))?;
        let greeting = config::get("greeting").map_err(|error| failed(format!("{error:?}")))?;
        info!("visit {count} of {path}");
        Ok(http::Response::new(format!("{} {count}, says wasmCloud's library\n", greeting.unwrap_or_default())))
    }
}
