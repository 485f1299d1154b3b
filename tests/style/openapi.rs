//! The committed description of the control plane is the one the code makes.

use anyhow::{Context, Result};
use ringfence_tests::root;

#[test]
fn the_committed_openapi_document_is_current() -> Result<()> {
    let path = root().join("docs/reference/openapi.json");
    let made = ringfence_control::openapi() + "\n";
    if std::env::var_os("RINGFENCE_GOLDEN").is_some_and(|mode| mode == "write") {
        std::fs::create_dir_all(path.parent().context("a file has a directory")?)?;
        std::fs::write(&path, &made)?;
    }
    let kept = std::fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
    assert!(
        kept == made,
        "docs/reference/openapi.json differs from the code; write it anew with RINGFENCE_GOLDEN=write"
    );
    Ok(())
}
