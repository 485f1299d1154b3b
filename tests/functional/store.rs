//! `ringfence store` on the data directory of a host: moved to the other backend while it is stopped, and checked there.

use std::process::{Command, Output};

use anyhow::{Result, bail};
use ringfence_tests::{Host, Place, ringfence};

use crate::started;

fn store(place: &Place, words: &[&str]) -> Result<Output> {
    Ok(Command::new(ringfence()?).arg("store").args(words).args(["--dev", "--data"]).arg(place.data()).output()?)
}

/// All that it said.
fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text)).concat()
}

#[tokio::test]
async fn a_store_that_is_moved_serves_what_it_served_and_the_backend_it_was_on_is_refused_by_name() -> Result<()> {
    let (place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("visits", "visits", "[budget]\ntime_ms = 20000\n", &[("keyvalue", &["default"])]).await?;
    let first = acme.fetch("visits", "/n").await?.1;
    assert!(first.starts_with("1 "), "{first}");
    let key = acme.admin.key.clone();
    let too_early = store(&place, &["migrate", "sled", "redb"])?;
    assert!(!too_early.status.success() && said(&too_early).contains("in use by another process"), "{too_early:?}");
    host.stop()?;

    let moved = store(&place, &["migrate", "sled", "redb"])?;
    assert!(moved.status.success() && said(&moved).contains("backend = \"redb\""), "{moved:?}");
    let checked = store(&place, &["check"])?;
    assert!(checked.status.success() && said(&checked).contains("nothing is damaged"), "{checked:?}");
    let Err(error) = Host::start(&place).map(drop) else { bail!("it came up on the backend it was moved from") };
    assert!(format!("{error:#}").contains("ringfence store migrate redb sled"), "{error:#}");
    let host = Host::start_with(&place, &[], &[("RINGFENCE_STORE_BACKEND", "redb")])?;
    let second = host.sign_in(&key).await?.fetch("/acme/visits/n").await?.1;
    assert!(second.starts_with("2 "), "{second}");
    Ok(())
}
