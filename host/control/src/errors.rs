//! What each error code means, as docs/reference/errors.md has it: the page behind the `type` of every problem of this port.
//!
//! Must never say more than that document: this needs no token, and is answered by a host that is locked too.

use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use http::header;

use crate::problem::ApiError;
use crate::wire::Problem;

/// The document, whose tables have a row for every code; a test holds them to the sources.
const DOCUMENT: &str = include_str!("../../../docs/reference/errors.md");

/// Reads what an error code means and what mends it. For everybody.
#[utoipa::path(get, path = "/docs/errors/{code}", tag = "host",
    responses((status = 200, body = String, content_type = "text/plain"), (status = "default", body = Problem)))]
pub async fn explain(Path(code): Path<String>) -> Result<Response, ApiError> {
    let page = error_page(&code).ok_or_else(|| ApiError::new("not-found", "there is no such error code"))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], page).into_response())
}

/// What a code means, wherever it is met; none when there is no such code.
pub fn error_page(code: &str) -> Option<String> {
    let (mut port, mut page) = ("", String::new());
    for line in DOCUMENT.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            port = heading;
        }
        let mut cells = line.trim_matches('|').split(" | ").map(str::trim);
        let (Some(codes), Some(status), Some(meaning)) = (cells.next(), cells.next(), cells.next()) else { continue };
        if !codes.split(", ").any(|word| word.strip_prefix('`').and_then(|word| word.strip_suffix('`')) == Some(code)) {
            continue;
        }
        page.push_str(&format!("\n{port}, status {status}: {meaning}\n"));
        if let Some(mends) = cells.next().filter(|cell| !cell.is_empty()) {
            page.push_str(&format!("What to do: {mends}\n"));
        }
    }
    (!page.is_empty()).then(|| format!("# {code}\n{page}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_what_the_code_means_on_either_port_and_nothing_else_has_one() {
        let page = error_page("key-refused").unwrap();
        assert!(page.starts_with("# key-refused\n\nCalls of plugins (data plane), status 423: "), "{page}");
        assert!(page.contains("Managing (control plane), status 423: "), "{page}");
        assert!(page.contains("What to do: "), "{page}");
        let one_of_two = error_page("version-exists").unwrap();
        assert!(one_of_two.contains("a version is immutable"), "{one_of_two}");
        for none in ["", "code", "---", "`denied`", "exists`, `version-exists", "DENIED", "../denied"] {
            assert_eq!(error_page(none), None, "{none}");
        }
    }
}
