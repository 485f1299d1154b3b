//! Components made for measuring: distinct ones from one, and one that takes long to compile.
//!
//! Must never be run: they are uploaded, and the bulky one traps when it is called.

use anyhow::{Context, Result};

/// The smallest component that passes for a plugin.
const HANDLER: &str = include_str!("../../tests/guests/wat/handler.wat");
/// Functions of [`bulky`].
const FUNCTIONS_COUNT: usize = 3_000;
/// Steps of each.
const STEPS_COUNT: usize = 60;

/// The same component with a number in a custom section at its end: other bytes, another digest, the same code.
/// Format: component-model `design/mvp/Binary.md`; a custom section is id 0, its size, and a name with its own size.
pub fn distinct(component: &[u8], number: u64) -> Vec<u8> {
    let digits = format!("{number:020}");
    let mut bytes = component.to_vec();
    // 1 for the name's size, 1 for the name, 20 for the digits: all under 128, so each size is one byte.
    bytes.extend([0, 22, 1, b'n']);
    bytes.extend(digits.as_bytes());
    bytes
}

/// A component of about a megabyte whose functions are all different, so that a compiler has real work with it.
pub fn bulky() -> Result<Vec<u8>> {
    let mut module = String::from("(core module $bulky (memory 1)\n");
    for function in 0..FUNCTIONS_COUNT {
        module.push_str("(func (param i32) (result i32)\n");
        for step in 0..STEPS_COUNT {
            let number = (function * 31 + step * 17) % 9_973;
            module.push_str(&format!(
                "(local.set 0 (i32.add (i32.mul (local.get 0) (i32.const {number})) (i32.load offset={} (i32.and (local.get 0) (i32.const 1023)))))\n",
                number * 4
            ));
        }
        module.push_str("(local.get 0))\n");
    }
    module.push_str(")\n");
    let open = HANDLER.trim_end().strip_suffix(')').context("the handler does not end its component")?;
    wat::parse_str(format!("{open}\n{module})")).context("the bulky component")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distinct_components_differ_only_behind_their_end() {
        let handler = wat::parse_str(HANDLER).unwrap();
        let (one, other) = (distinct(&handler, 1), distinct(&handler, 2));
        assert_ne!(one, other);
        assert_eq!(one.len(), other.len());
        assert!(one.starts_with(&handler) && other.starts_with(&handler));
        assert_eq!(one.len() - handler.len(), 2 + 22);
    }

    #[test]
    fn the_bulky_component_is_bulky() {
        let bytes = bulky().unwrap();
        assert!((1 << 20..8 << 20).contains(&bytes.len()), "{} bytes", bytes.len());
    }
}
