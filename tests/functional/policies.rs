//! Policies as their admins meet them: reviewed, in the shadow, allowed by a second pair of eyes, rolled back; and roles
//! held for a while.

use anyhow::Result;
use ringfence_tests::{Host, Place, answer, problem, string};
use serde_json::json;

use crate::started;

const OPEN: &str = "permit (principal is Ringfence::Anonymous, action == Ringfence::Action::\"invoke\", resource);";

#[tokio::test]
async fn a_policy_that_allows_more_needs_another_admin_where_there_is_one() -> Result<()> {
    let place = Place::new()?;
    let host = Host::start_with(&place, &[], &[("RINGFENCE_IDENTITY_SECOND_PERSON_HOURS", "0")])?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    assert_eq!(host.anonymous().fetch("/acme/hello/").await?.0, 401);
    let draft = json!({ "text": OPEN, "mode": "draft" });
    let draft = answer(acme.admin.put(&acme.path("/policy")).json(&draft).send().await?).await?;
    assert_eq!((draft["state"].as_str(), draft["version"].as_u64()), (Some("draft"), Some(0)), "{draft}");
    assert_eq!(draft["review"]["newly_allowed"]["questions_count"], 1, "{draft}");

    let second = host.person(&acme.admin, "/tenants/acme/people", "second", "tenant-admin").await?;
    let key_of_same = acme.member(&host, "spare", "tenant-admin").await?;
    let asked = acme.admin.put(&acme.path("/policy")).json(&json!({ "text": OPEN })).send().await?;
    assert_eq!(asked.status(), 202);
    let asked = answer(asked).await?;
    let approve = acme.path(&format!("/approvals/{}/approve", string(&asked["approval"], "id")?));
    let (status, own) = problem(acme.admin.post(&approve).send().await?).await?;
    assert_eq!((status, own["code"].as_str()), (422, Some("own-request")), "{own}");
    assert_eq!(host.anonymous().fetch("/acme/hello/").await?.0, 401);
    let (status, own) = problem(key_of_same.post(&approve).send().await?).await?;
    assert_eq!((status, own["code"].as_str()), (409, Some("second-person-needed")), "{own}");
    answer(second.post(&approve).send().await?).await?;
    assert_eq!(host.anonymous().fetch("/acme/hello/").await?.0, 200);
    assert_eq!(problem(second.post(&approve).send().await?).await?.0, 404, "it is allowed once");

    // What only narrows waits for nobody, and every version is kept.
    answer(acme.admin.post(&acme.path("/policy/rollback")).json(&json!({})).send().await?).await?;
    assert_eq!(host.anonymous().fetch("/acme/hello/").await?.0, 401);
    let versions = answer(acme.admin.get(&acme.path("/policy/versions")).send().await?).await?;
    assert_eq!(
        (&versions["items"][0]["rolled_back_to"], &versions["items"][1]["approved_by"]),
        (&json!(0), &json!("acme/second"))
    );
    Ok(())
}

#[tokio::test]
async fn a_developer_acts_as_admin_for_a_while_when_an_admin_allows_it() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let developer = acme.member(&host, "dev", "developer").await?;
    let (status, denied) =
        problem(developer.put(&acme.path("/secrets/k")).json(&json!({ "value": "v" })).send().await?).await?;
    assert_eq!(status, 403, "{denied}");
    let why = answer(developer.get(&format!("/decisions/{}", string(&denied, "decision_id")?)).send().await?).await?;
    assert_eq!(why["changes"][0]["kind"], "elevation", "{why}");

    let wanted = json!({ "role": "tenant-admin", "minutes": 5, "reason": "mend the hook" });
    let asked = answer(developer.post(&acme.path("/elevations")).json(&wanted).send().await?).await?;
    let id = string(&asked, "id")?;
    answer(acme.admin.post(&acme.path(&format!("/approvals/{id}/approve"))).send().await?).await?;
    answer(developer.put(&acme.path("/secrets/k")).json(&json!({ "value": "v" })).send().await?).await?;
    // Separation of duties: who acts in a role that is not its own allows nobody anything.
    let other = answer(acme.admin.post(&acme.path("/elevations")).json(&wanted).send().await?).await?;
    let approve = acme.path(&format!("/approvals/{}/approve", string(&other, "id")?));
    assert_eq!(developer.post(&approve).send().await?.status(), 403);
    assert!(developer.delete(&acme.path(&format!("/elevations/{id}"))).send().await?.status().is_success());
    assert_eq!(developer.put(&acme.path("/secrets/k")).json(&json!({ "value": "v" })).send().await?.status(), 403);
    Ok(())
}
