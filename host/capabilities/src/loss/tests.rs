//! What is found and what is not, wherever a stream is cut.

use proptest::prelude::*;

use super::*;

/// Everything is looked for, and refused.
const ALL: LossActions = LossActions {
    card: LossAction::Refuse,
    nhs_number: LossAction::Refuse,
    email: LossAction::Refuse,
    phone: LossAction::Refuse,
    uninspected: LossAction::Refuse,
};

/// What is usual.
fn usual() -> LossActions {
    LossActions::default()
}

fn hits(mut scanner: Scanner, text: &[u8]) -> Vec<Hit> {
    let mut hits = scanner.feed(text);
    hits.extend(scanner.end());
    hits
}

fn found(actions: LossActions, text: &str) -> Vec<(LossKind, &str)> {
    let place = |at: u64| usize::try_from(at).unwrap();
    let hits = hits(Scanner::new(actions), text.as_bytes());
    hits.iter().map(|hit| (hit.kind, text.get(place(hit.start)..place(hit.end)).unwrap())).collect()
}

#[test]
fn cards_and_nhs_numbers_are_found_as_people_and_programs_write_them() {
    for (text, value, kind) in [
        (r#"{"card":"4111111111111111"}"#, "4111111111111111", LossKind::Card),
        (r#"{"card":4111111111111111,"cvv":123}"#, "4111111111111111", LossKind::Card),
        ("pay 12 4111 1111 1111 1111 12/27 123", "4111 1111 1111 1111", LossKind::Card),
        ("4111-1111-1111-1111.", "4111-1111-1111-1111", LossKind::Card),
        ("amex 3782 822463 10005", "3782 822463 10005", LossKind::Card),
        ("30569309025904", "30569309025904", LossKind::Card),
        ("6212 3456 7890 1234 569", "6212 3456 7890 1234 569", LossKind::Card),
        (r"line\n5555555555554444\n", "5555555555554444", LossKind::Card),
        ("/patients/9434765919?x", "9434765919", LossKind::NhsNumber),
        ("NHS 943 476 5919, next", "943 476 5919", LossKind::NhsNumber),
        ("943-476-5919", "943-476-5919", LossKind::NhsNumber),
        ("of Scotland: 0101500017", "0101500017", LossKind::NhsNumber),
        ("4505577104.pdf", "4505577104", LossKind::NhsNumber),
    ] {
        assert_eq!(found(usual(), text), [(kind, value)], "{text}");
    }
}

#[test]
fn numbers_that_fail_a_check_or_do_not_stand_alone_are_not_found() {
    for text in [
        "4111111111111112",
        "943 476 5918",
        "14111111111111111",
        "x4111111111111111",
        "4111111111111111x",
        "id_4111111111111111",
        // Decimals, versions, addresses.
        "0.4111111111111111",
        "4111111111111111.5",
        "1.9434765919.2",
        // Times in seconds and milliseconds, an article's number with a check digit of Luhn's.
        "1764300009",
        "1764300000000",
        "4006381333930",
        // Fillers, phone numbers.
        "1111111111",
        "9999999999",
        "+4111111111111111",
        "+44 943 476 5919",
        // Groups of other lengths.
        "41 11 11 11 11 11 11 11",
        "4111 1111  1111 1111",
        "no digits at all",
        "",
    ] {
        assert_eq!(found(usual(), text), [], "{text}");
    }
}

#[test]
fn addresses_and_phone_numbers_are_found_where_they_are_looked_for() {
    let text = "Ann <ann.o'hara+x@mail.example.co.uk>, 020 7946 0958 or +44 20 7946 0958.";
    assert_eq!(found(usual(), text), []);
    assert_eq!(
        found(ALL, text),
        [
            (LossKind::Email, "ann.o'hara+x@mail.example.co.uk"),
            (LossKind::Phone, "020 7946 0958"),
            (LossKind::Phone, "+44 20 7946 0958"),
        ]
    );
    for text in ["a@b", "@example.com", "x@y.", "pkg@1.2.3", "a@-b.example", "2026-11-22 04:10", "0.2079460958"] {
        assert_eq!(found(ALL, text), [], "{text}");
    }
    for text in ["+1 (202) 555-0143", "(020) 7946 0958", "07700 900123", "020-7946-0958"] {
        assert_eq!(found(ALL, text).first().map(|hit| hit.0), Some(LossKind::Phone), "{text}");
    }
    let long = format!("{}@example.com", "a".repeat(LOCAL_BYTES_MAX + 1));
    assert_eq!(found(ALL, &long), []);
}

#[test]
fn what_is_off_is_not_found() {
    let off = LossActions { card: LossAction::Off, ..usual() };
    assert_eq!(found(off, "4111111111111111 9434765919"), [(LossKind::NhsNumber, "9434765919")]);
}

#[test]
fn escapes_of_forms_are_read_and_places_are_those_of_what_was_sent() {
    let found = |text: &str| -> Vec<(LossKind, String)> {
        let place = |at: u64| usize::try_from(at).unwrap();
        let hits = hits(Scanner::of_form(ALL), text.as_bytes());
        hits.iter().map(|hit| (hit.kind, text[place(hit.start)..place(hit.end)].to_owned())).collect()
    };
    let card = (LossKind::Card, "4111+1111%201111+1111".to_owned());
    assert_eq!(found("card=4111+1111%201111+1111&x=1"), [card]);
    assert_eq!(found("to=ann%40example.com"), [(LossKind::Email, "ann%40example.com".to_owned())]);
    let first = format!("%34{}", "1".repeat(15));
    assert_eq!(found(&format!("card={first}")), [(LossKind::Card, first)]);
    // Ones that are broken off are what they look like.
    assert_eq!(found("4111111111111111%"), [(LossKind::Card, "4111111111111111".to_owned())]);
    assert_eq!(found("4111111111111111%4"), [(LossKind::Card, "4111111111111111".to_owned())]);
    assert_eq!(found("%zz%%2C4111111111111111"), [(LossKind::Card, "4111111111111111".to_owned())]);
}

#[test]
fn a_line_shows_a_word_in_the_place_of_a_value_also_where_it_is_cut() {
    let line = |text: &str, max: usize| masked(text, max, ALL).0;
    assert_eq!(line("paid with 4111 1111 1111 1111 by ann@example.com", 100), "paid with [card] by [email]");
    assert_eq!(line("nothing to see", 100), "nothing to see");
    let text = format!("{}4111111111111111 and so on", "x ".repeat(10));
    for max in 20..text.len() {
        let shown = line(&text, max);
        assert!(!shown.contains('4') && !shown.contains("11") && shown.ends_with("(cut)"), "{max}: {shown}");
        assert!(shown.len() <= max + " (cut)".len(), "{max}: {shown}");
    }
    assert_eq!(masked("4111111111111111", 100, LossActions { card: LossAction::Off, ..usual() }).0, "4111111111111111");
    assert_eq!(masked("ä 9434765919 ä", 100, usual()).1.len(), 1);
}

/// Texts in which values, near values and what stands around them come close together.
fn texts() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "4111111111111111",
        "4111 1111 1111 1111",
        "3782-822463-10005",
        "9434765919",
        "943 476 5919",
        "ann@example.com",
        "+44 20 7946 0958",
        "(020) 7946 0958",
        "411111111",
        "943 476",
        "ann@",
        "%40",
        "%2",
        "%",
        "+",
        " ",
        "-",
        ".",
        "\\n",
        "x",
        "_",
        "7",
        "1234",
        "\u{e4}",
        "{\"a\":",
    ]);
    prop::collection::vec(pieces, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn however_a_stream_is_cut_the_same_is_found(
        text in texts(),
        cuts in prop::collection::vec(1_usize..9, 0..80),
        is_form in any::<bool>(),
    ) {
        let scanner = || if is_form { Scanner::of_form(ALL) } else { Scanner::new(ALL) };
        let whole = hits(scanner(), text.as_bytes());
        let (mut pieces, mut rest, mut found) = (scanner(), text.as_bytes(), Vec::new());
        for cut in cuts {
            let (piece, further) = rest.split_at(cut.min(rest.len()));
            found.extend(pieces.feed(piece));
            // Whatever is found later begins within what was open.
            prop_assert!(pieces.open() <= OPEN_BYTES_MAX);
            let closed = pieces.at() - pieces.open() as u64;
            let mut later = whole.iter().skip(found.len());
            prop_assert!(later.all(|hit| hit.start >= closed), "{text:?} {closed}");
            rest = further;
        }
        found.extend(pieces.feed(rest));
        found.extend(pieces.end());
        prop_assert_eq!(found, whole);
    }

    #[test]
    fn any_bytes_are_looked_through_and_what_stays_open_is_bounded(
        bytes in prop::collection::vec(any::<u8>(), 0..4_096),
        digits in "[0-9 @a.%+(-]{0,4096}",
    ) {
        for text in [bytes.as_slice(), digits.as_bytes()] {
            for mut scanner in [Scanner::new(ALL), Scanner::of_form(ALL)] {
                for piece in text.chunks(7) {
                    let found = scanner.feed(piece);
                    prop_assert!(found.iter().all(|hit| hit.start < hit.end && hit.end <= scanner.at()));
                    prop_assert!(scanner.open() <= OPEN_BYTES_MAX);
                }
                scanner.end();
            }
        }
    }
}
