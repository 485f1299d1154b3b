//! Each rule in `xtask/mutants.json` still stands where the table says, once, and so does the test that misses it.

use anyhow::{Context, Result};
use ringfence_tests::root;
use serde_json::Value;

#[test]
fn every_mutant_still_has_its_line_and_its_test() -> Result<()> {
    let table: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(root().join("xtask/mutants.json"))?)?;
    assert!(table.len() >= 40, "{} mutants", table.len());
    for mutant in &table {
        let word = |key: &str| mutant[key].as_str().with_context(|| format!("no `{key}`: {mutant}"));
        let (file, line, with) = (word("file")?, word("line")?, word("with")?);
        let text = std::fs::read_to_string(root().join(file))?;
        assert_eq!(text.matches(line).count(), 1, "{file}: `{line}`");
        assert!(!line.contains('\n') && line != with, "{file}: `{line}`");
        assert!(!word("rule")?.is_empty(), "{mutant}");

        let package = word("package")?.strip_prefix("ringfence-").context("a package of ours")?;
        let test = word("test")?;
        let (within, name) = test.rsplit_once("::").unwrap_or(("", test));
        // A module of tests is a file of its own, or stands in the file that it is about.
        let within = within.replace("::", "/");
        let about = within.strip_suffix("/tests").unwrap_or(&within);
        let inside = match word("target")? {
            "lib" => vec![format!("src/{within}.rs"), format!("src/{about}.rs")],
            target => vec![format!("tests/{target}.rs")],
        };
        let home = root().join("host").join(package);
        let mut texts = inside.iter().filter_map(|file| std::fs::read_to_string(home.join(file)).ok());
        assert!(texts.any(|text| text.contains(&format!("fn {name}("))), "there is no test `{test}`");
    }
    Ok(())
}
