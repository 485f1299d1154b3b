//! Generated hostile components: small files that ask for enormous work from whoever parses or compiles them.
//!
//! Must never be instantiated or compiled in this process; they are written to `target/guests` for the tests.

use anyhow::{Context, Result};

/// Levels of [`nested_components`]: far more than anybody nests, few enough bytes to pass every size cap.
const NESTING: usize = 5_000;
/// Doublings of [`instances`] and [`types`]: 2^40 of either fit no memory.
const DOUBLINGS: usize = 40;
/// What makes a component look like a plugin, so that the bombs get past whoever asks for a handler first.
const HANDLER: &str = include_str!("../../tests/guests/wat/handler.wat");

/// The generated components: file stem and bytes.
pub fn all() -> Result<Vec<(&'static str, Vec<u8>)>> {
    Ok(vec![
        ("nested-components", nested_components(NESTING)?),
        ("instance-bomb", handler_with(&instances(DOUBLINGS))?),
        ("type-bomb", handler_with(&types(DOUBLINGS))?),
    ])
}

/// A component in a component in a component. Format: component-model `design/mvp/Binary.md`, section 4.
fn nested_components(levels: usize) -> Result<Vec<u8>> {
    const PREAMBLE: [u8; 8] = [0x00, 0x61, 0x73, 0x6d, 0x0d, 0x00, 0x01, 0x00];
    // Built from the inside out and reversed at the end, so that each level is appended and nothing is moved.
    let mut reversed: Vec<u8> = PREAMBLE.into_iter().rev().collect();
    for _ in 1..levels {
        let head = [PREAMBLE.to_vec(), component_section(reversed.len())].concat();
        reversed.extend(head.into_iter().rev());
    }
    reversed.reverse();
    let mut bytes = handler_with("")?;
    bytes.extend(component_section(reversed.len()));
    bytes.extend(reversed);
    Ok(bytes)
}

/// The head of a section that holds a component of this many bytes.
fn component_section(bytes: usize) -> Vec<u8> {
    const COMPONENT_SECTION: u8 = 4;
    [vec![COMPONENT_SECTION], leb128(bytes)].concat()
}

/// The handler with more definitions at its end.
fn handler_with(definitions: &str) -> Result<Vec<u8>> {
    let open = HANDLER.trim_end().strip_suffix(')').context("handler.wat does not end its component")?;
    wat::parse_str(format!("{open}\n{definitions})")).context("generated component")
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
    let mut text = String::from("(component $c0 (core module $m) (core instance (instantiate $m)))\n");
    for level in 1..=doublings {
        let inner = format!("(instance (instantiate $c{}))", level - 1);
        text.push_str(&format!("(component $c{level} {inner} {inner})\n"));
    }
    text.push_str(&format!("(instance (instantiate $c{doublings}))\n"));
    text
}

/// Each type holds the one before it twice: the size of the last doubles with every line.
fn types(doublings: usize) -> String {
    let mut text = String::from("(type $t0 (tuple u8 u8))\n");
    for level in 1..=doublings {
        text.push_str(&format!("(type $t{level} (tuple $t{0} $t{0}))\n", level - 1));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bombs_are_small_files() {
        for (name, bytes) in all().unwrap() {
            assert!(bytes.len() < 128 * 1024, "{name} has {} bytes", bytes.len());
            assert!(wasmparser::Parser::is_component(&bytes), "{name}");
        }
    }

    #[test]
    fn nested_components_and_doubled_instances_pass_validation_and_are_left_to_the_host() {
        assert!(wasmparser::validate(&nested_components(NESTING).unwrap()).is_ok());
        assert!(wasmparser::validate(&handler_with(&instances(DOUBLINGS)).unwrap()).is_ok());
    }

    #[test]
    fn doubled_types_are_refused_by_validation() {
        assert!(wasmparser::validate(&handler_with(&types(3)).unwrap()).is_ok());
        assert!(wasmparser::validate(&handler_with(&types(DOUBLINGS)).unwrap()).is_err());
    }
}
