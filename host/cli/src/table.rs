//! Text tables: columns two spaces apart, the needs table of errors and uploads, sizes and times for people.
//!
//! Pure.

use std::fmt::Write as _;

use ringfence_control::wire::NeedState;

use crate::error::need_words;

/// Width of the first column of the needs table, as the golden texts have it.
const NEEDS_COLUMNS: usize = 35;

/// Rows under a header, each column as wide as its widest cell. Empty when there are no rows.
pub fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = header.map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    push_row(&mut text, &widths, &header.map(ToOwned::to_owned));
    for row in rows {
        push_row(&mut text, &widths, row);
    }
    text
}

fn push_row<const N: usize>(text: &mut String, widths: &[usize; N], row: &[String; N]) {
    let mut line = String::new();
    for (width, cell) in widths.iter().zip(row) {
        // SECURITY: what somebody else wrote makes no rows of its own.
        let cell = cell.replace(['\n', '\t'], " ");
        let _ = write!(line, "{cell:<width$}  ");
    }
    text.push_str(line.trim_end());
    text.push('\n');
}

/// Needs beside grants, indented by four; what is new says since when, if `version` is known. Empty without needs.
pub fn needs_table(needs: &[NeedState], version: Option<&str>) -> String {
    if needs.is_empty() {
        return String::new();
    }
    let widest = needs.iter().map(|need| need_words(need).chars().count() + 2).max().unwrap_or_default();
    let width = widest.max(NEEDS_COLUMNS);
    let mut text = format!("    {:<width$}granted\n", "needs");
    for need in needs {
        let granted = if need.granted { "yes" } else { "no" };
        let new = match (need.is_new, version) {
            (false, _) => String::new(),
            (true, Some(version)) => format!("new in {version}"),
            (true, None) => "new".to_owned(),
        };
        let line = format!("    {:<width$}{granted:<9} {new}", need_words(need));
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Bytes for people: `66.1 KiB`.
pub fn bytes_words(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = "KiB";
    for next in UNITS.iter().skip(1) {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// A count with its noun, which takes an `s` but for one: `1 question`, `2 questions`.
pub fn counted(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// A span for people: `350 us`, `1.9 s`, `2 h 5 min`.
pub fn micros_words(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..1_000_000 => format!("{:.1} ms", micros as f64 / 1e3),
        1_000_000..60_000_000 => format!("{:.1} s", micros as f64 / 1e6),
        _ => {
            let minutes = micros / 60_000_000;
            match (minutes / 1440, minutes / 60 % 24, minutes % 60) {
                (0, 0, minutes) => format!("{minutes} min"),
                (0, hours, minutes) => format!("{hours} h {minutes} min"),
                (days, hours, _) => format!("{days} d {hours} h"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(capability: &str, scope: Option<&str>, granted: bool, is_new: bool) -> NeedState {
        NeedState { capability: capability.into(), scope: scope.map(Into::into), granted, is_new }
    }

    #[test]
    fn the_needs_table_is_the_contract_to_the_column() {
        let needs = [need("keyvalue", None, true, false), need("http", Some("https://api.example.com"), false, true)];
        assert_eq!(
            needs_table(&needs, Some("0.2.0")),
            "    needs                              granted\n\
             \x20   keyvalue                           yes\n\
             \x20   http  https://api.example.com      no        new in 0.2.0\n"
        );
        assert_eq!(needs_table(&[], None), "");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a".to_owned(), "1".to_owned()], ["longer".to_owned(), String::new()]];
        assert_eq!(table(["name", "n"], &rows), "name    n\na       1\nlonger\n");
        assert_eq!(table(["id", "n"], &[["a\nb\tc".to_owned(), "1".to_owned()]]), "id     n\na b c  1\n");
    }

    #[test]
    fn one_thing_is_no_plural() {
        assert_eq!([0, 1, 2].map(|count| counted(count, "question")), ["0 questions", "1 question", "2 questions"]);
    }

    #[test]
    fn sizes_and_times_are_for_people() {
        let sizes: Vec<String> = [0, 1023, 1024, 66 << 10, 20 << 20, u64::MAX].into_iter().map(bytes_words).collect();
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "66.0 KiB", "20.0 MiB", "16777216.0 TiB"]);
        let times: Vec<String> =
            [5, 1_500, 1_900_000, 300_000_000, 7_500_000_000, 90_000_000_000].into_iter().map(micros_words).collect();
        assert_eq!(times, ["5 us", "1.5 ms", "1.9 s", "5 min", "2 h 5 min", "1 d 1 h"]);
    }
}
