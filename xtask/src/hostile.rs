//! Generated hostile components: small files that ask for enormous work from whoever parses or compiles them.
//!
//! Must never be instantiated or compiled in this process; they are written to `target/guests` for the tests.

use anyhow::{Context, Result};

/// Levels of [`nested_components`]: far more than anybody nests, few enough bytes to pass every size cap.
const NESTING: usize = 5_000;
/// Doublings of [`instances`] and [`types`]: 2^40 of either fit no memory.
const DOUBLINGS: usize = 40;

/// The generated components: file stem and bytes.
pub fn all() -> Result<Vec<(&'static str, Vec<u8>)>> {
    Ok(vec![
        ("nested-components", nested_components(NESTING)),
        ("instance-bomb", wat::parse_str(instances(DOUBLINGS)).context("instance bomb")?),
        ("type-bomb", wat::parse_str(types(DOUBLINGS)).context("type bomb")?),
    ])
}

/// A component in a component in a component. Format: component-model `design/mvp/Binary.md`, section 4.
fn nested_components(levels: usize) -> Vec<u8> {
    const PREAMBLE: [u8; 8] = [0x00, 0x61, 0x73, 0x6d, 0x0d, 0x00, 0x01, 0x00];
    const COMPONENT_SECTION: u8 = 4;
    // Built from the inside out and reversed at the end, so that each level is appended and nothing is moved.
    let mut reversed: Vec<u8> = PREAMBLE.into_iter().rev().collect();
    for _ in 0..levels {
        let mut head = PREAMBLE.to_vec();
        head.push(COMPONENT_SECTION);
        head.extend(leb128(reversed.len()));
        reversed.extend(head.into_iter().rev());
    }
    reversed.reverse();
    reversed
}

fn leb128(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(value & 0x7f).unwrap_or_default();
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// Each component instantiates the one before it twice: instances double with every line.
fn instances(doublings: usize) -> String {
    let mut text = String::from("(component\n(component $c0 (core module $m) (core instance (instantiate $m)))\n");
    for level in 1..=doublings {
        let inner = format!("(instance (instantiate $c{}))", level - 1);
        text.push_str(&format!("(component $c{level} {inner} {inner})\n"));
    }
    text.push_str(&format!("(instance (instantiate $c{doublings})))"));
    text
}

/// Each type holds the one before it twice: the size of the last doubles with every line.
fn types(doublings: usize) -> String {
    let mut text = String::from("(component\n(type $t0 (tuple u8 u8))\n");
    for level in 1..=doublings {
        text.push_str(&format!("(type $t{level} (tuple $t{0} $t{0}))\n", level - 1));
    }
    text.push(')');
    text
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_bombs_are_small_files() {
        for (name, bytes) in all().unwrap() {
            assert!(bytes.len() < 128 * 1024, "{name} has {} bytes", bytes.len());
            assert!(wasmparser::Parser::is_component(&bytes), "{name}");
        }
    }

    #[test]
    fn shallow_nesting_is_a_valid_component_and_deep_nesting_is_not() {
        assert!(wasmparser::validate(&nested_components(3)).is_ok());
        assert!(wasmparser::validate(&nested_components(NESTING)).is_err());
    }

    #[test]
    fn doubled_types_are_refused_by_validation() {
        assert!(wasmparser::validate(&wat::parse_str(types(3)).unwrap()).is_ok());
        assert!(wasmparser::validate(&wat::parse_str(types(DOUBLINGS)).unwrap()).is_err());
    }
}
