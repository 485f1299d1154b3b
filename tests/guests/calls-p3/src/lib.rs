//! Calls the plugin that its path names (`/back`), with the client of the third WASI, and says what came back.

use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Request, Response, Scheme};
use wasip3::{wit_future, wit_stream};

struct CallsP3;

wasip3::http::service::export!(CallsP3);

impl wasip3::exports::http::handler::Guest for CallsP3 {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let path = request.get_path_with_query().unwrap_or_default();
        let said = match get(path.trim_start_matches('/')).await {
            Ok((status, text)) => format!("{status} {text}"),
            Err(error) => format!("refused: {error:?}"),
        };
        let (mut body, body_reader) = wit_stream::new();
        let (_, trailers) = wit_future::new(|| Ok(None));
        let (response, _sent) = Response::new(Fields::new(), Some(body_reader), trailers);
        wit_bindgen::spawn_local(async move {
            let _unread = body.write_all(said.into_bytes()).await;
        });
        Ok(response)
    }
}

/// Status and text of what another plugin answers.
async fn get(plugin: &str) -> Result<(u16, String), ErrorCode> {
    let (_, trailers) = wit_future::new(|| Ok(None));
    let (asked, _sent) = Request::new(Fields::new(), None, trailers, None);
    let _ = asked.set_scheme(Some(&Scheme::Http));
    let _ = asked.set_authority(Some(&format!("{plugin}.plugin.internal")));
    let _ = asked.set_path_with_query(Some("/"));
    let answer = client::send(asked).await?;
    let status = answer.get_status_code();
    let (_, done) = wit_future::new(|| Ok(()));
    let (body, _trailers) = Response::consume_body(answer, done);
    Ok((status, String::from_utf8_lossy(&body.collect().await).into_owned()))
}
