//! An HTTP component that knows nothing of Ringfence: Spin's own SDK (`wasi:http` 0.3) and the standard key-value
//! interfaces in the version that Spin offers (0.2.0-draft2). Spin's own `spin:key-value` is no standard, and not offered.

use spin_sdk::http::{IntoResponse, Request, StatusCode};
use spin_sdk::http_service;

mod standard {
    spin_sdk::wit_bindgen::generate!({
        inline: "
            package example:visits;
            world imports {
                import wasi:keyvalue/store@0.2.0-draft2;
                import wasi:keyvalue/atomics@0.2.0-draft2;
            }
        ",
        path: "../../../../wit/deps/keyvalue-draft2",
        runtime_path: "::spin_sdk::wit_bindgen::rt",
        generate_all,
    });
}

use standard::wasi::keyvalue::{atomics, store};

#[http_service]
async fn visits(request: Request) -> impl IntoResponse {
    let counted = store::open("default").and_then(|bucket| atomics::increment(&bucket, request.uri().path(), 1));
    match counted {
        Ok(count) => (StatusCode::OK, format!("{count} visits, says Spin's SDK\n")),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:?}\n")),
    }
}
