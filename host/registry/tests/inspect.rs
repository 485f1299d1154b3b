//! Reading uploads: what is taken, what is refused, and in which words.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test is a panic with a place"
)]

use proptest::prelude::*;
use ringfence_core::Capability;
use ringfence_registry::{ImportKind, InspectError, World, inspect};

/// A component that exports a p2 handler and imports `imports`, each an instance without members.
fn component(imports: &[&str], handler: &str) -> Vec<u8> {
    let imports: String = imports.iter().map(|name| format!("(import \"{name}\" (instance))\n")).collect();
    wat::parse_str(format!("(component {imports} (instance $h) (export \"{handler}\" (instance $h)))")).unwrap()
}

const P2: &str = "wasi:http/incoming-handler@0.2.6";

#[test]
fn needs_are_read_from_the_bytes() {
    let bytes = component(
        &[
            "wasi:cli/environment@0.2.6",
            "wasi:keyvalue/store@0.2.0-draft2",
            "wasi:keyvalue/atomics@0.2.0-draft2",
            "wasi:http/outgoing-handler@0.2.0",
        ],
        P2,
    );
    let inspection = inspect(&bytes).unwrap();
    assert_eq!(inspection.world, World::P2);
    assert_eq!(inspection.capabilities, [Capability::Keyvalue, Capability::Http]);
    assert_eq!(inspection.imports.len(), 4);
    assert_eq!(inspection.imports[0].kind, ImportKind::Inert);
    assert_eq!(inspection.exports, [P2]);
    assert_eq!(inspection.bytes, bytes.len() as u64);
}

#[test]
fn a_p3_handler_is_told_from_a_p2_one() {
    assert_eq!(inspect(&component(&[], "wasi:http/handler@0.3.0")).unwrap().world, World::P3);
    assert_eq!(inspect(&component(&["wasi:cli/types@0.3.0"], "wasi:http/handler@0.3.2")).unwrap().world, World::P3);
}

#[test]
fn a_core_module_is_told_how_to_become_a_component() {
    let error = inspect(&wat::parse_str("(module (func (export \"_start\")))").unwrap()).unwrap_err();
    assert_eq!(error.code(), "core-module");
    assert_eq!(
        error.to_string(),
        "this is a core module; make it a component with `wasm-tools component new`, or build for `wasm32-wasip2`"
    );
}

#[test]
fn what_is_not_wasm_is_told_what_it_is() {
    let words = |bytes: &[u8]| {
        let error = inspect(bytes).unwrap_err();
        assert_eq!(error.code(), "not-a-component");
        error.to_string()
    };
    assert_eq!(words(b""), "not a component: the file is empty");
    assert_eq!(words(b"hello"), "not a component: it does not start with the WebAssembly magic number");
    assert_eq!(words(&[0x1f, 0x8b, 8]), "not a component: it is compressed with gzip; send the component itself");
    assert_eq!(
        words(b"(component)"),
        "not a component: it looks like WebAssembly text; turn it into bytes with `wasm-tools parse`"
    );
    assert!(words(b"\0asm\x0d\0\x01\0\xff\xff\xff").starts_with("not a component: "));
    assert!(words(b"\0asm").starts_with("not a component: "));
}

#[test]
fn every_truncation_of_a_component_is_refused() {
    // Without names of its parts: their section is the last, and what is cut before it is a whole component.
    let text =
        format!("(component (import \"wasi:io/poll@0.2.0\" (instance)) (instance) (export \"{P2}\" (instance 1)))");
    let bytes = wat::parse_str(text).unwrap();
    assert_eq!(inspect(&bytes).unwrap().imports.len(), 1);
    for end in 0..bytes.len() {
        assert!(inspect(&bytes[..end]).is_err(), "{end} of {}", bytes.len());
    }
}

#[test]
fn an_import_that_nobody_offers_is_named() {
    let words = |name| inspect(&component(&[name], P2)).unwrap_err();
    let error = words("wasi:nn/graph@0.2.0");
    assert_eq!(error.code(), "unknown-import");
    assert_eq!(error.to_string(), "import `wasi:nn/graph@0.2.0` is not offered by this host");
    assert_eq!(
        words("wasi:keyvalue/store@0.2.0").to_string(),
        "import `wasi:keyvalue/store@0.2.0` is not offered by this host: this host offers 0.2.0-draft and 0.2.0-draft2"
    );
    assert_eq!(
        words("wasi:keyvalu/store@0.2.0").to_string(),
        "import `wasi:keyvalu/store@0.2.0` is not offered by this host: did you mean `wasi:keyvalue/store`?"
    );
}

#[test]
fn an_import_that_is_not_an_interface_is_named() {
    let bytes =
        wat::parse_str(format!("(component (import \"run\" (func)) (instance $h) (export \"{P2}\" (instance $h)))"))
            .unwrap();
    assert!(matches!(inspect(&bytes), Err(InspectError::UnknownImport { name, .. }) if name == "run"));
    // A function under the name of an interface is not the interface.
    let bytes = wat::parse_str(format!(
        "(component (import \"wasi:io/poll@0.2.0\" (func)) (instance $h) (export \"{P2}\" (instance $h)))"
    ));
    assert!(matches!(inspect(&bytes.unwrap()), Err(InspectError::UnknownImport { .. })));
}

#[test]
fn a_component_without_a_handler_is_told_what_it_exports() {
    let error = inspect(&component(&[], "wasi:cli/run@0.2.0")).unwrap_err();
    assert_eq!(error.code(), "no-handler");
    assert_eq!(
        error.to_string(),
        "the component exports no handler: `wasi:http/incoming-handler@0.2.x`, `wasi:http/handler@0.3.x`, or one of `ringfence:plugin`: `hook`, `schedule`, `message`, `workflow`; it exports `wasi:cli/run@0.2.0`"
    );
    assert_eq!(inspect(&component(&[], "wasi:http/handler@0.2.0")).unwrap_err().code(), "no-handler");
    assert_eq!(inspect(&wat::parse_str("(component)").unwrap()).unwrap_err().code(), "no-handler");
}

#[test]
fn only_the_outermost_imports_and_exports_count() {
    let inner = format!(
        "(component (component (import \"wasi:nn/graph@0.2.0\" (instance)) (instance $x) (export \"{P2}\" (instance $x))))"
    );
    assert_eq!(inspect(&wat::parse_str(inner).unwrap()).unwrap_err().code(), "no-handler");
}

#[test]
fn a_nested_bomb_is_refused_by_its_depth() {
    let deep = format!("{}{}", "(component ".repeat(40), ")".repeat(40));
    let error = inspect(&wat::parse_str(deep).unwrap()).unwrap_err();
    assert_eq!(
        (error.code(), error.to_string().as_str()),
        ("too-complex", "the component is too complex: components nested more than 12 deep")
    );
}

#[test]
fn a_wide_bomb_is_refused_by_its_parts() {
    let modules = format!("(component {})", "(core module)".repeat(2_500));
    assert_eq!(inspect(&wat::parse_str(modules).unwrap()).unwrap_err().code(), "too-complex");
    let instances = format!("(component (component $c) {})", "(instance (instantiate $c))".repeat(2_500));
    assert_eq!(inspect(&wat::parse_str(instances).unwrap()).unwrap_err().code(), "too-complex");
}

#[test]
fn a_section_that_lies_about_its_count_is_refused() {
    // A component with an instance section (5) that claims four thousand million instances.
    let lie = b"\0asm\x0d\0\x01\0\x05\x06\xff\xff\xff\xff\x0f\0";
    assert_eq!(inspect(lie).unwrap_err().code(), "too-complex");
}

#[test]
fn a_name_of_megabytes_does_not_come_back_in_the_error() {
    let long = format!("wasi:{}/x@0.2.0", "a".repeat(50_000));
    let error = inspect(&component(&[&long], P2)).unwrap_err();
    assert!(error.to_string().len() < 1_000);
}

#[test]
fn producers_are_shown() {
    let bytes = wat::parse_str(format!(
        "(component (core module (@producers (processed-by \"rustc\" \"1.96.0\"))) (instance $h) (export \"{P2}\" (instance $h)))"
    ));
    assert_eq!(inspect(&bytes.unwrap()).unwrap().producers, ["rustc 1.96.0"]);
}

proptest! {
    #[test]
    fn no_altered_component_makes_it_panic(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut bytes = component(&["wasi:io/poll@0.2.0", "wasi:keyvalue/store@0.2.0-draft"], P2);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = inspect(&bytes);
        let _ = inspect(&bytes[..cut.index(bytes.len())]);
    }

    #[test]
    fn no_garbage_makes_it_panic(tail in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = inspect(&[&b"\0asm\x0d\0\x01\0"[..], &tail].concat());
    }
}

/// The component with a definition section of this content, in a module of its own two levels down or outermost.
fn with_section(content: &str, is_inner: bool) -> Vec<u8> {
    let section = format!("(@custom \"ringfence:workflow\" {content:?})");
    let parts = if is_inner { format!("(component (core module {section}))") } else { section };
    let text = format!("(component {parts} (instance $h) (export \"{P2}\" (instance $h)))");
    wat::parse_str(text).unwrap()
}

fn definition(task: &str) -> String {
    let document = r#"{"dsl":"1.0.0","namespace":"n","name":"x","version":"0.1.0"}"#;
    format!(r#"{{"document":{document},"do":[{{"a":{task}}}]}}"#)
}

#[test]
fn the_names_of_all_workflows_are_read_wherever_they_lie_and_are_not_without_end() {
    let with = |content: &str| {
        let section = format!("(@custom \"ringfence:workflow-names\" {content:?})");
        let parts = format!("(component (core module {section}))");
        inspect(&wat::parse_str(format!("(component {parts} (instance $h) (export \"{P2}\" (instance $h)))")).unwrap())
    };
    assert_eq!(with("ship\norder\nship\n").unwrap().workflows, ["order", "ship"]);
    assert!(with("").unwrap().workflows.is_empty());
    let many: String = (0..=128).map(|number| format!("w{number}\n")).collect();
    assert_eq!(with(&many).unwrap_err().code(), "too-complex");
}

#[test]
fn a_definition_is_checked_wherever_it_lies_and_refused_with_its_path() {
    let good = definition(r#"{"set":{"a":1}}"#);
    for is_inner in [false, true] {
        assert!(inspect(&with_section("", is_inner)).is_ok());
        let two = inspect(&with_section(&format!("{good}\n{good}\n"), is_inner)).unwrap();
        assert_eq!(two.definitions, ["x@0.1.0", "x@0.1.0"]);
        let bad = format!("{good}\n{}\n", definition(r#"{"run":{"container":{"image":"x"}}}"#));
        let error = inspect(&with_section(&bad, is_inner)).unwrap_err();
        assert_eq!(error.code(), "workflow-definition");
        assert!(error.to_string().ends_with("refused at /do/0/a/run/container: not supported"), "{error}");
    }
    let many = format!("{good}\n").repeat(17);
    assert_eq!(inspect(&with_section(&many, false)).unwrap_err().code(), "too-complex");
    let deep = definition(&format!(r#"{{"set":{{"a":{}{}}}}}"#, "[".repeat(100_000), "]".repeat(100_000)));
    let large = definition(&format!(r#"{{"set":{{"a":"{}"}}}}"#, "x".repeat(300 << 10)));
    for hostile in [deep.as_str(), large.as_str(), "not JSON", "[]", "{}", "null"] {
        assert_eq!(inspect(&with_section(hostile, false)).unwrap_err().code(), "workflow-definition");
    }
}
