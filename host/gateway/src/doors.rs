//! What a stranger's bytes meet at the gateway before anybody is known, each as one function that bytes go into: for fuzzing,
//! and for the same properties over a bounded number of cases in the tests. Not in the product: only `fuzz/` asks for the
//! feature `fuzzing`.
//!
//! Each must never panic, and never take what two readers could take in two ways.

use http::header::{self, HeaderName, HeaderValue};
use http::uri::Authority;
use http::{Request, Uri, Version};
use ringfence_core::fields::steps;

use crate::request::checked_host;
use crate::splice as json;

/// Pointers that lead somewhere in most texts, beside the one that the bytes name.
const POINTERS: [&str; 5] = ["", "/a", "/*", "/a/*", "/*/1/b"];

/// The head of a request: there is one host in it, or it is refused.
pub fn host(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let mut request = Request::new(());
    if let Some((kind, target)) = lines.next().and_then(<[u8]>::split_first) {
        *request.version_mut() = if kind % 2 == 0 { Version::HTTP_11 } else { Version::HTTP_10 };
        if let Ok(uri) = Uri::try_from(target) {
            *request.uri_mut() = uri;
        }
    }
    for line in lines.take(16) {
        let Some((kind, value)) = line.split_first() else { continue };
        let name = [header::HOST, header::CONTENT_LENGTH, header::AUTHORIZATION].into_iter().nth(usize::from(kind % 3));
        if let (Some(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
            request.headers_mut().append(name, value);
        }
    }
    let Ok(found) = checked_host(&request) else { return };
    let all = |name: HeaderName| request.headers().get_all(name).iter();
    for name in [header::HOST, header::CONTENT_LENGTH, header::AUTHORIZATION] {
        assert!(all(name.clone()).count() <= 1, "one of two `{name}` was taken");
    }
    let said = all(header::HOST).filter_map(|value| value.to_str().ok());
    let mut named = said.chain(request.uri().authority().map(Authority::as_str)).map(str::to_ascii_lowercase);
    match found {
        None => assert!(named.next().is_none() && request.version() == Version::HTTP_10, "a host was not seen"),
        Some(host) => {
            assert!(named.all(|name| name == host), "one of two hosts was taken");
            assert!(host.parse::<Authority>().is_ok(), "the host is none");
        }
    }
}

/// A body with protected fields, after a line that is a pointer: what is found is values at their places, and the rest stays.
pub fn splice(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let pointer = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let Ok(text) = json::checked(parts.next().unwrap_or_default()) else { return };
    for pointer in POINTERS.into_iter().chain([&*pointer]) {
        let Ok(steps) = steps(pointer) else { continue };
        let Ok(hits) = json::find(text, &steps) else { continue };
        let mut same = Vec::new();
        for hit in hits {
            let value = text.get(hit.place.clone()).unwrap_or_default();
            assert!(json::checked(value.as_bytes()).is_ok(), "what was found at {:?} is no value", hit.place);
            same.push((hit.place, value.to_owned()));
        }
        assert_eq!(json::replace(text, same).as_deref(), Ok(text), "something else was changed");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DOORS: [fn(&[u8]); 2] = [host, splice];

    #[test]
    fn every_door_holds_against_what_nearly_fits() {
        for data in [
            "".as_bytes(),
            b"\0",
            b"\0/x\n\0a\n\0b",
            b"\0http://a/x\n\0A",
            b"\0http://a/x\n\0b",
            b"\x01http://a@b:1/x",
            b"\0/x\n\0a b",
            b"\0/x\n\0[::1]:80\n\x01",
            b"\0/x\n\0a\n\x013\n\x014",
            b"/a\n{\"a\":1,\"\\u0061\":2}",
            b"/a\n{\"a\":[1e400,\"\\ud800\"]} ",
            b"//\n{\"\":{\"\":2}}",
            b"/~2\n[]",
        ] {
            DOORS.iter().for_each(|door| door(data));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn every_door_holds_against_any_bytes(data in proptest::collection::vec(any::<u8>(), 0..300)) {
            DOORS.iter().for_each(|door| door(&data));
        }
        #[test]
        fn the_host_holds_against_any_head(
            target in "[01](http://)?[aAb@:/.\\[\\]]{0,8}",
            lines in proptest::collection::vec("[\\x00-\\x02][aAb@:/.\\[\\] 0-9]{0,8}", 0..4),
        ) {
            host([target, lines.join("\n")].join("\n").as_bytes());
        }
        #[test]
        fn the_fields_hold_against_any_text(
            pointer in "(/[ab*01~]{0,2}){0,3}",
            text in "[ab01{}\\[\\]:,\"\\\\ .é-]{0,60}",
        ) {
            splice(format!("{pointer}\n{text}").as_bytes());
        }
    }
}
