//! Attempts to do what must not be possible, from outside: other tenants, forged tokens, crafted heads, hostile guests,
//! a reader of the disk.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test is a panic with a place"
)]

mod boundary;
mod coverage;
mod disk;
mod egress;
mod federation;
mod heads;
mod held;
mod hostile;
mod identifiers;
mod people;
mod personal;
mod possession;
mod posture;
mod sessions;
mod sign_ins;
mod stolen;
mod threat;
mod tls;
mod tokens;
mod trust;

async fn started() -> anyhow::Result<(ringfence_tests::Place, ringfence_tests::Host, ringfence_tests::Session)> {
    let place = ringfence_tests::Place::new()?;
    let host = ringfence_tests::Host::start(&place)?;
    let operator = host.operator().await?;
    Ok((place, host, operator))
}

/// The misbehaving guest with everything it asks for, under a budget.
async fn ship_hostile(tenant: &ringfence_tests::Tenant, budget: &str) -> anyhow::Result<()> {
    tenant.push("hostile", "hostile", "0.1.0", &format!("[budget]\n{budget}\n")).await?;
    let grants: [(&str, &[&str]); 3] = [("keyvalue", &["*"]), ("logging", &[]), ("http", &["https://example.com"])];
    for (capability, scope) in grants {
        tenant.grant("hostile", capability, scope).await?;
    }
    tenant.deploy("hostile", "0.1.0").await?;
    Ok(())
}
