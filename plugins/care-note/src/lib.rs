//! Notes about people: `PUT /person` keeps a note sealed for that person, `GET /person` opens it, `POST /` finds personal
//! data in a text, `POST /echo` answers with the JSON it was sent. Once a person is erased, their note never opens again.

use ringfence_sdk::{IntoResponse, Kind, Kv, Method, Pii, Request, Response, Result, StatusCode, plugin};

#[plugin]
async fn care_note(mut request: Request, kv: Kv, pii: Pii) -> Result<Response> {
    let person = request.path().trim_start_matches('/').to_owned();
    match *request.method() {
        Method::PUT => {
            let note = request.body().bytes().await?;
            kv.set(&person, pii.seal("note", &person, note)?)?;
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        Method::POST if person == "echo" => echo(request, &kv).await,
        Method::POST => {
            let text = request.body().text().await?;
            let lines = pii.detect(&text)?.into_iter().map(|f| format!("{} {} {}\n", word(f.kind), f.start, f.end));
            Ok(lines.collect::<String>().into_response())
        }
        _ => {
            let Some(sealed) = kv.text(&person)? else { return Ok(StatusCode::NOT_FOUND.into_response()) };
            Ok(Response::new(pii.open("note", Some(&person), &sealed)?))
        }
    }
}

/// What the plugin itself saw of a JSON body is kept under `seen`, and sent back.
async fn echo(mut request: Request, kv: &Kv) -> Result<Response> {
    let body = request.body().bytes().await?;
    kv.set("seen", &body)?;
    Ok(Response::new(body).header("content-type", "application/json"))
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Email => "email",
        Kind::Phone => "phone",
        Kind::NhsNumber => "nhs-number",
        Kind::PaymentCard => "payment-card",
    }
}
