//! The folder that `ringfence new` makes: the smallest plugin, ready to build.
//!
//! Pure text. The host parses the manifest again at every upload and trusts none of it.

use std::path::Path;

use ringfence_core::PluginName;

/// Paths inside the folder, with their text.
pub fn files(name: &PluginName, sdk: &Path) -> [(&'static str, String); 4] {
    let file = name.as_str().replace('-', "_");
    // TOML's basic strings take JSON's escapes.
    let sdk = serde_json::Value::from(sdk.to_string_lossy()).to_string();
    [
        (
            "Cargo.toml",
            format!(
                "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\npublish = false\n\n\
                 [lib]\ncrate-type = [\"cdylib\"]\n\n\
                 [dependencies]\nringfence-sdk = {{ path = {sdk} }}\n\n\
                 [profile.release]\nopt-level = \"s\"\nlto = true\ncodegen-units = 1\npanic = \"abort\"\nstrip = true\n\n\
                 [workspace]\n"
            ),
        ),
        (
            "plugin.toml",
            format!(
                "[plugin]\nname = \"{name}\"\nversion = \"0.1.0\"\n\
                 component = \"target/wasm32-wasip2/release/{file}.wasm\"\n\n\
                 [needs]  # kept up to date by `ringfence build`\n\n\
                 [budget]\ncpu_ms = 50\ntime_ms = 1000\nmemory_mib = 32\n"
            ),
        ),
        (
            "src/lib.rs",
            format!(
                "#[ringfence_sdk::plugin]\nfn {}() -> &'static str {{\n    \"hello from {name}\\n\"\n}}\n",
                ident(&file)
            ),
        ),
        (".gitignore", "/target\n".to_owned()),
    ]
}

/// The function's name; names of plugins may be words of the language.
fn ident(file: &str) -> String {
    const WORDS: &[&str] = &[
        "as", "async", "await", "break", "const", "continue", "dyn", "else", "enum", "extern", "false", "fn", "for",
        "gen", "if", "impl", "in", "let", "loop", "match", "mod", "move", "mut", "pub", "ref", "return", "static",
        "struct", "super", "trait", "true", "try", "type", "unsafe", "use", "where", "while", "yield", "abstract",
        "become", "box", "do", "final", "macro", "override", "priv", "typeof", "unsized", "virtual", "crate", "self",
    ];
    if WORDS.contains(&file) { format!("{file}_plugin") } else { file.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringfence_core::Manifest;

    #[test]
    fn the_new_manifest_parses_and_names_what_the_build_leaves() {
        let name: PluginName = "two-words".parse().unwrap();
        let files = files(&name, Path::new("/a \"b\"/sdk"));
        let manifest = Manifest::parse(&files[1].1).unwrap();
        assert_eq!(manifest.plugin.component.as_deref(), Some("target/wasm32-wasip2/release/two_words.wasm"));
        let cargo: toml::Table = files[0].1.parse().unwrap();
        assert_eq!(cargo["dependencies"]["ringfence-sdk"]["path"].as_str(), Some("/a \"b\"/sdk"));
    }

    #[test]
    fn a_name_that_is_a_word_of_the_language_still_builds() {
        let name: PluginName = "match".parse().unwrap();
        assert!(files(&name, Path::new("/sdk"))[2].1.contains("fn match_plugin()"));
    }
}
