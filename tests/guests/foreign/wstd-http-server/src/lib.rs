//! An HTTP component that knows nothing of Ringfence: plain wstd, as its users write it. It shows that standard
//! components run unmodified. `/` greets, `/echo` streams the body back, `/wait` sleeps, `/headers` lists headers.

use wstd::http::{Body, Error, Request, Response, StatusCode};
use wstd::time::Duration;

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    match request.uri().path() {
        "/" => Ok(Response::new("a standard component\n".into())),
        "/echo" => Ok(Response::new(request.into_body())),
        "/wait" => {
            wstd::task::sleep(Duration::from_millis(50)).await;
            Ok(Response::new("waited 50 ms\n".into()))
        }
        "/headers" => {
            let names = request.headers().keys().map(|name| format!("{name}\n")).collect::<String>();
            Ok(Response::new(names.into()))
        }
        _ => Ok(Response::builder().status(StatusCode::NOT_FOUND).body("no such page\n".into())?),
    }
}
