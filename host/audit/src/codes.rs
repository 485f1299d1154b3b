//! The small stable codes of audit events, for people and rules. A code is never reused for another meaning.
//!
//! Must never depend on anything: these are words. The letters name the area, the number the event, the words after it
//! say it to a person. [`class_of`] and [`activity_of`] give the matching OCSF 1.8 class and activity.

/// A tenant was made.
pub const TENANT_CREATED: &str = "TEN-001 tenant-created";
/// A tenant was suspended.
pub const TENANT_SUSPENDED: &str = "TEN-002 tenant-suspended";
/// A tenant was resumed.
pub const TENANT_RESUMED: &str = "TEN-003 tenant-resumed";
/// A tenant was deleted and its key destroyed.
pub const TENANT_DELETED: &str = "TEN-004 tenant-deleted";
/// A tenant's plan or quotas were chosen.
pub const TENANT_QUOTA_SET: &str = "TEN-005 tenant-quota-set";
/// A tenant asked for more than its quota has.
pub const QUOTA_REFUSED: &str = "TEN-006 quota-refused";
/// Someone reached for a thing of another tenant.
pub const TENANT_ISOLATION: &str = "TEN-900 tenant-isolation";

/// A backup of a tenant was made.
pub const BACKUP_CREATED: &str = "BAK-001 backup-created";
/// A backup was restored.
pub const BACKUP_RESTORED: &str = "BAK-002 backup-restored";
/// A backup was restored where nobody sees it, and compared.
pub const BACKUP_DRILLED: &str = "BAK-003 backup-drilled";
/// A backup was deleted.
pub const BACKUP_DELETED: &str = "BAK-004 backup-deleted";
/// The key that opens a tenant's backups was handed to the tenant.
pub const RECOVERY_KEY_TAKEN: &str = "BAK-005 recovery-key-taken";
/// A record that does not open was removed.
pub const DAMAGE_REMOVED: &str = "BAK-006 damage-removed";

/// The first operator enrolled.
pub const OPERATOR_ENROLLED: &str = "AUT-001 operator-enrolled";
/// Someone signed in.
pub const SIGNED_IN: &str = "AUT-002 signed-in";
/// A sign-in was refused.
pub const SIGN_IN_REFUSED: &str = "AUT-003 sign-in-refused";
/// An API key was made.
pub const TOKEN_CREATED: &str = "AUT-005 api-key-created";
/// An API key was revoked.
pub const TOKEN_REVOKED: &str = "AUT-006 api-key-revoked";
/// A session was ended before its time.
pub const SESSION_ENDED: &str = "AUT-007 session-ended";
/// How one signs in to a tenant was changed.
pub const SIGN_IN_CHANGED: &str = "AUT-008 sign-in-changed";
/// Someone was invited.
pub const PERSON_INVITED: &str = "AUT-009 person-invited";
/// A person was removed.
pub const PERSON_REMOVED: &str = "AUT-010 person-removed";
/// Someone changed what he proves himself with.
pub const FACTOR_CHANGED: &str = "AUT-011 factor-changed";
/// Someone proved more in a session, or laid that down (`step-down`).
pub const STEPPED_UP: &str = "AUT-012 stepped-up";
/// What a tenant asks of sessions was changed.
pub const TRUST_CHANGED: &str = "AUT-013 trust-settings-changed";
/// Somebody adjusted the risk of a principal, or asked for what takes two people.
pub const RISK_ADJUSTED: &str = "AUT-014 risk-adjusted";
/// A second person agreed to a risk adjustment.
pub const RISK_ADJUSTMENT_APPROVED: &str = "AUT-015 risk-adjustment-approved";
/// A session fell below its tenant's floor and was ended.
pub const SESSION_FALLEN: &str = "AUT-016 session-fallen";
/// Someone registered or removed a device of his, or revoked another's.
pub const DEVICE_CHANGED: &str = "AUT-017 device-changed";
/// Evidence about a device was checked.
pub const DEVICE_VERIFIED: &str = "AUT-018 device-verified";
/// A token that this host signed was shown without, or with another than, what it is bound to, or with a proof used before.
pub const TOKEN_REFUSED: &str = "AUT-019 token-refused";
/// Somebody wants a risk adjustment withdrawn that takes two people.
pub const RISK_WITHDRAWAL_ASKED: &str = "AUT-020 risk-withdrawal-asked";
/// A risk adjustment was withdrawn.
pub const RISK_ADJUSTMENT_WITHDRAWN: &str = "AUT-021 risk-adjustment-withdrawn";

/// An access review was opened.
pub const REVIEW_OPENED: &str = "AUT-030 review-opened";
/// Somebody decided an item of an access review.
pub const REVIEW_DECIDED: &str = "AUT-031 review-decided";
/// An access review was closed.
pub const REVIEW_CLOSED: &str = "AUT-032 review-closed";
/// An access review came to its last day with items that nobody had decided.
pub const REVIEW_OVERDUE: &str = "AUT-033 review-overdue";

/// A version was published.
pub const VERSION_PUSHED: &str = "PLG-001 version-pushed";
/// A route was moved.
pub const VERSION_DEPLOYED: &str = "PLG-002 version-deployed";
/// A route was moved back.
pub const VERSION_ROLLED_BACK: &str = "PLG-003 version-rolled-back";
/// A capability was granted.
pub const CAPABILITY_GRANTED: &str = "PLG-004 capability-granted";
/// A capability was revoked.
pub const CAPABILITY_REVOKED: &str = "PLG-005 capability-revoked";
/// A plugin's configuration was changed.
pub const CONFIG_WRITTEN: &str = "PLG-006 config-written";

/// A secret was set.
pub const SECRET_WRITTEN: &str = "SEC-001 secret-written";
/// A secret was deleted.
pub const SECRET_DELETED: &str = "SEC-002 secret-deleted";

/// A tenant's key, or one purpose of it, got a new version.
pub const KEY_ROTATED: &str = "KEY-001 key-rotated";
/// A tenant's keys were disabled.
pub const KEY_DISABLED: &str = "KEY-002 key-disabled";
/// A tenant's keys were enabled.
pub const KEY_ENABLED: &str = "KEY-003 key-enabled";
/// Somebody asked for a tenant's keys to be destroyed.
pub const KEY_DESTROY_ASKED: &str = "KEY-004 key-destroy-asked";
/// Somebody else agreed.
pub const KEY_DESTROY_APPROVED: &str = "KEY-005 key-destroy-approved";
/// A tenant's keys were destroyed; a signed receipt names this entry.
pub const KEY_DESTROYED: &str = "KEY-006 key-destroyed";
/// The root key got a new version, and every key was wrapped anew.
pub const ROOT_KEY_ROTATED: &str = "KEY-007 root-key-rotated";

/// A tenant put a key that it keeps itself around its key.
pub const OWN_KEY_TAKEN: &str = "KEY-008 own-key-taken";
/// And took it away again.
pub const OWN_KEY_GIVEN_UP: &str = "KEY-009 own-key-given-up";
/// A tenant was locked, because its own key provider does not open its key.
pub const OWN_KEY_LOCKED: &str = "KEY-010 own-key-locked";
/// It opens it again.
pub const OWN_KEY_OPENED: &str = "KEY-011 own-key-opened";

/// Old versions of a tenant's key were forgotten, because nothing is sealed under them.
pub const KEY_VERSIONS_RETIRED: &str = "KEY-012 key-versions-retired";

/// A tenant's policy was changed.
pub const POLICY_WRITTEN: &str = "POL-001 policy-written";
/// A candidate policy was put into the shadow, or taken out.
pub const POLICY_SHADOWED: &str = "POL-003 policy-shadowed";
/// An operator changed what a tenant may at most allow itself.
pub const CEILING_WRITTEN: &str = "POL-004 ceiling-written";
/// Someone asked for what another must allow.
pub const APPROVAL_ASKED: &str = "POL-005 approval-asked";
/// What someone asked for was allowed by another.
pub const APPROVAL_GIVEN: &str = "POL-006 approval-given";
/// What someone asked for was refused or withdrawn.
pub const APPROVAL_REFUSED: &str = "POL-007 approval-refused";
/// A role held for a while was ended before its time.
pub const ELEVATION_ENDED: &str = "POL-008 elevation-ended";
/// A tenant changed the labels that its policies read.
pub const LABELS_WRITTEN: &str = "POL-009 labels-written";
/// Policy refused an action.
pub const ACTION_DENIED: &str = "POL-002 action-denied";

/// Invocations of the last second or so, counted.
pub const INVOCATIONS: &str = "INV-001 invocations";
/// An invocation was refused before the guest ran.
pub const INVOCATION_REFUSED: &str = "INV-002 invocation-refused";
/// An invocation ended by its own fault or at its budget.
pub const INVOCATION_FAILED: &str = "INV-003 invocation-failed";
/// A guest's outgoing request was refused.
pub const EGRESS_REFUSED: &str = "INV-004 egress-refused";
/// Policy did not leave a guest what it was granted.
pub const HOST_CALL_DENIED: &str = "INV-005 host-call-denied";

/// A field of personal data was opened, by a plugin or for a caller.
pub const PERSONAL_OPENED: &str = "PII-001 personal-opened";
/// A plugin asked to open a field that it was not granted.
pub const PERSONAL_OPEN_REFUSED: &str = "PII-002 personal-open-refused";
/// A subject's key was destroyed.
pub const SUBJECT_ERASED: &str = "PII-003 subject-erased";
/// The rules about fields of a plugin were set.
pub const FIELD_RULES_WRITTEN: &str = "PII-004 field-rules-written";

/// A run of a workflow was begun.
pub const RUN_STARTED: &str = "RUN-001 run-started";
/// What happened in a run of a workflow, by itself or at somebody's word: events by their numbers.
pub const RUN_ADVANCED: &str = "RUN-002 run-advanced";
/// Somebody sent a run a signal.
pub const RUN_SIGNALLED: &str = "RUN-003 run-signalled";
/// Somebody cancelled, terminated, paused, resumed, retried or migrated a run.
pub const RUN_CHANGED: &str = "RUN-004 run-changed";
/// Somebody decided what a run asked for.
pub const RUN_DECIDED: &str = "RUN-005 run-decided";
/// An extension point was declared, changed or withdrawn.
pub const HOOK_DECLARED: &str = "EVT-001 hook-declared";
/// A plugin was bound to an extension point, or a binding taken away.
pub const HOOK_BOUND: &str = "EVT-002 hook-bound";
/// A queue was made, changed or deleted.
pub const QUEUE_WRITTEN: &str = "EVT-003 queue-written";
/// Dead messages of a queue were put back.
pub const QUEUE_REDRIVEN: &str = "EVT-004 queue-redriven";
/// Dead messages of a queue were thrown away.
pub const QUEUE_DISCARDED: &str = "EVT-008 queue-discarded";
/// A message was put into a queue through the API.
pub const MESSAGE_SENT: &str = "EVT-005 message-sent";
/// A schedule was made, changed or deleted.
pub const SCHEDULE_WRITTEN: &str = "EVT-006 schedule-written";
/// A schedule was run out of its time.
pub const SCHEDULE_RUN: &str = "EVT-007 schedule-run";

/// The host started.
pub const HOST_STARTED: &str = "HST-001 host-started";
/// The host stopped in order.
pub const HOST_STOPPED: &str = "HST-002 host-stopped";
/// Data was read that is worth a record, such as the audit log itself.
pub const DATA_READ: &str = "HST-003 data-read";
/// An intent whose outcome nobody wrote: the host stopped, or the request was cut, in between.
pub const OUTCOME_UNKNOWN: &str = "AUD-001 outcome-unknown";

/// A rule held, a score was high, or an indicator matched: a finding.
pub const THREAT_FOUND: &str = "THR-001 threat-found";
/// A principal is far above the usual pace.
pub const REQUEST_BURST: &str = "THR-002 request-burst";
/// A plugin asked for a name that is bait.
pub const CANARY_TOUCHED: &str = "THR-003 canary-touched";
/// Something is held against a principal, a source, a version or a tenant.
pub const RESPONSE_MADE: &str = "THR-004 response-made";
/// A response was taken back before its end.
pub const RESPONSE_UNDONE: &str = "THR-005 response-undone";
/// A response came to its end.
pub const RESPONSE_ENDED: &str = "THR-006 response-ended";
/// Rules of detection, or how they act, were written.
pub const RULES_WRITTEN: &str = "THR-007 rules-written";
/// Rules of detection were deleted.
pub const RULES_DELETED: &str = "THR-008 rules-deleted";
/// Threat intelligence was loaded.
pub const INTELLIGENCE_LOADED: &str = "THR-009 intelligence-loaded";
/// An incident was opened or went on.
pub const INCIDENT_CHANGED: &str = "THR-010 incident-changed";
/// A notice about an incident is due within a day, or is overdue.
pub const BREACH_CLOCK: &str = "INC-001 breach-clock";
/// A drill was run.
pub const DRILL_RUN: &str = "THR-011 drill-run";
/// A response was asked for that another person must agree to.
pub const RESPONSE_ASKED: &str = "THR-012 response-asked";
/// Detection did not look at entries of a log: they are damaged, or too many were missed at once.
pub const ENTRIES_SKIPPED: &str = "THR-013 entries-skipped";
/// A plugin sends far more out of the host than it usually does.
pub const EGRESS_VOLUME: &str = "THR-014 egress-volume";
/// What looks like personal data was in what a plugin sent out or logged.
pub const DATA_LOSS: &str = "THR-015 data-loss";
/// A body that a plugin sent out could not be looked through for personal data.
pub const DATA_UNINSPECTED: &str = "THR-016 data-uninspected";
/// A part of the audit log was taken away as an archive.
pub const AUDIT_EXPORTED: &str = "AUD-002 audit-exported";
/// A damaged log was closed and a new shard of it begun.
pub const AUDIT_REPAIRED: &str = "AUD-003 audit-repaired";
/// A place that logs or findings are carried to was made or changed.
pub const DESTINATION_WRITTEN: &str = "OUT-001 destination-written";
/// Such a place was deleted.
pub const DESTINATION_DELETED: &str = "OUT-002 destination-deleted";
/// The host stopped carrying to a place that takes nothing.
pub const DESTINATION_PAUSED: &str = "OUT-003 destination-paused";
/// Something made up was sent to such a place.
pub const DESTINATION_TESTED: &str = "OUT-004 destination-tested";
/// A feed of intelligence was made, changed or asked out of its time.
pub const FEED_WRITTEN: &str = "OUT-005 feed-written";
/// A feed was deleted.
pub const FEED_DELETED: &str = "OUT-006 feed-deleted";
/// The host's logs got another signing key.
pub const AUDIT_KEY_ROTATED: &str = "AUD-020 audit-key-rotated";
/// This log goes on under another key.
pub const AUDIT_KEY_CHANGED: &str = "AUD-021 audit-key-changed";
/// How long a log is kept was set.
pub const RETENTION_SET: &str = "AUD-022 retention-set";
/// A shard of a log is due, and when its deletion begins.
pub const SHARD_DUE: &str = "AUD-023 shard-due";
/// A deletion that was announced is put off.
pub const SHARD_SPARED: &str = "AUD-024 shard-spared";
/// The deletion of a shard begins.
pub const SHARD_DELETING: &str = "AUD-025 shard-deleting";
/// A shard is deleted.
pub const SHARD_DELETED: &str = "AUD-026 shard-deleted";
/// A legal hold was set on a log.
pub const HOLD_SET: &str = "AUD-027 hold-set";
/// Somebody wants a legal hold lifted.
pub const HOLD_LIFT_ASKED: &str = "AUD-028 hold-lift-asked";
/// A legal hold was lifted, because two people wanted it.
pub const HOLD_LIFTED: &str = "AUD-029 hold-lifted";
/// Somebody wants the body of an application's event erased.
pub const ERASURE_ASKED: &str = "AUD-030 erasure-asked";
/// The body of an application's event was erased, because two people wanted it.
pub const BODY_ERASED: &str = "AUD-031 body-erased";
/// An event of a tenant's own application; its own code is in the details.
pub const APPLICATION_EVENT: &str = "APP-001 application-event";
/// An event that a plugin put on the log; its own code is in the details.
pub const PLUGIN_EVENT: &str = "APP-002 plugin-event";

/// A tenant's own check was defined or changed.
pub const CHECK_WRITTEN: &str = "CHK-001 check-written";
/// A tenant's own check was deleted.
pub const CHECK_DELETED: &str = "CHK-002 check-deleted";
/// What a check came to: a finding.
pub const CHECK_RESULT: &str = "CHK-003 check-result";
/// Somebody took on, went on with or ended what is done about a violation.
pub const REMEDIATION_CHANGED: &str = "CHK-004 remediation-changed";

/// A tenant chose which host calls of its plugins are on the log.
pub const HOST_CALLS_CHOSEN: &str = "AUD-010 host-calls-chosen";
/// Host calls of plugins on themselves and the tenant's settings, one row a call.
pub const MODULE_CALLS: &str = "INV-020 module-calls";
/// Host calls of plugins on stored data, one row a call.
pub const DATASTORE_CALLS: &str = "INV-021 datastore-calls";
/// Outgoing requests of plugins, one row a call.
pub const HTTP_CALLS: &str = "INV-022 http-calls";

/// The areas of the host's own codes: what an application may not call its events.
pub const AREAS: [&str; 18] = [
    "TEN", "BAK", "AUT", "PLG", "SEC", "KEY", "POL", "INV", "PII", "HST", "AUD", "CHK", "APP", "THR", "INC", "RUN",
    "EVT", "OUT",
];

/// The action's word in an entry about a refused action; which one was refused is in the details.
pub const DENIED_ACTION: &str = "denied-action";

/// OCSF class uids.
pub mod class {
    /// Authentication.
    pub const AUTHENTICATION: u32 = 3002;
    /// Entity Management.
    pub const ENTITY_MANAGEMENT: u32 = 3004;
    /// User Access Management.
    pub const USER_ACCESS: u32 = 3005;
    /// Application Lifecycle.
    pub const APPLICATION_LIFECYCLE: u32 = 6002;
    /// API Activity.
    pub const API_ACTIVITY: u32 = 6003;
    /// Module Activity.
    pub const MODULE_ACTIVITY: u32 = 1005;
    /// HTTP Activity.
    pub const HTTP_ACTIVITY: u32 = 4002;
    /// Datastore Activity.
    pub const DATASTORE: u32 = 6005;
    /// Compliance Finding.
    pub const COMPLIANCE: u32 = 2003;
    /// Detection Finding.
    pub const DETECTION: u32 = 2004;
    /// Incident Finding.
    pub const INCIDENT: u32 = 2005;
    /// Remediation Activity.
    pub const REMEDIATION: u32 = 7001;
}

/// The OCSF class a code belongs to; API Activity for a code this file does not know.
pub fn class_of(code: &str) -> u32 {
    match code {
        TENANT_CREATED | TENANT_SUSPENDED | TENANT_RESUMED | TENANT_DELETED | TENANT_QUOTA_SET | POLICY_WRITTEN
        | POLICY_SHADOWED | CEILING_WRITTEN | LABELS_WRITTEN | CONFIG_WRITTEN | FIELD_RULES_WRITTEN
        | SUBJECT_ERASED | SIGN_IN_CHANGED | TRUST_CHANGED | REVIEW_OPENED | REVIEW_DECIDED | REVIEW_CLOSED
        | REVIEW_OVERDUE => class::ENTITY_MANAGEMENT,
        TENANT_ISOLATION | THREAT_FOUND | REQUEST_BURST | EGRESS_VOLUME | DATA_LOSS | DATA_UNINSPECTED
        | CANARY_TOUCHED => class::DETECTION,
        INCIDENT_CHANGED | BREACH_CLOCK => class::INCIDENT,
        CHECK_RESULT => class::COMPLIANCE,
        REMEDIATION_CHANGED | RESPONSE_MADE | RESPONSE_UNDONE | RESPONSE_ENDED | RESPONSE_ASKED => class::REMEDIATION,
        OPERATOR_ENROLLED | SIGNED_IN | SIGN_IN_REFUSED | TOKEN_REFUSED | STEPPED_UP => class::AUTHENTICATION,
        TOKEN_CREATED
        | TOKEN_REVOKED
        | SESSION_ENDED
        | PERSON_INVITED
        | PERSON_REMOVED
        | FACTOR_CHANGED
        | RISK_ADJUSTED
        | RISK_ADJUSTMENT_APPROVED
        | RISK_WITHDRAWAL_ASKED
        | RISK_ADJUSTMENT_WITHDRAWN
        | SESSION_FALLEN
        | DEVICE_CHANGED
        | CAPABILITY_GRANTED
        | CAPABILITY_REVOKED
        | APPROVAL_ASKED
        | APPROVAL_GIVEN
        | APPROVAL_REFUSED
        | ELEVATION_ENDED => class::USER_ACCESS,
        VERSION_PUSHED | VERSION_DEPLOYED | VERSION_ROLLED_BACK | HOST_STARTED | HOST_STOPPED => {
            class::APPLICATION_LIFECYCLE
        }
        INVOCATIONS | INVOCATION_REFUSED | INVOCATION_FAILED | HOST_CALL_DENIED | MODULE_CALLS => {
            class::MODULE_ACTIVITY
        }
        EGRESS_REFUSED | HTTP_CALLS => class::HTTP_ACTIVITY,
        PERSONAL_OPENED | PERSONAL_OPEN_REFUSED | DATASTORE_CALLS => class::DATASTORE,
        _ => class::API_ACTIVITY,
    }
}

/// The OCSF activity of a code within its class; 99 (other) where the class has no nearer word.
pub fn activity_of(code: &str) -> u8 {
    match code {
        // create, log on, assign, install
        TENANT_CREATED | TENANT_ISOLATION | OPERATOR_ENROLLED | SIGNED_IN | SIGN_IN_REFUSED | TOKEN_CREATED
        | PERSON_INVITED | CAPABILITY_GRANTED | APPROVAL_GIVEN | VERSION_PUSHED | THREAT_FOUND | REQUEST_BURST
        | EGRESS_VOLUME | DATA_LOSS | DATA_UNINSPECTED | CANARY_TOUCHED | CHECK_RESULT | REVIEW_OPENED
        | BACKUP_CREATED => 1,
        // read, revoke, update of a finding
        TOKEN_REVOKED | PERSON_REMOVED | SESSION_FALLEN | SESSION_ENDED | CAPABILITY_REVOKED | ELEVATION_ENDED
        | DATA_READ | AUDIT_EXPORTED | INCIDENT_CHANGED | BREACH_CLOCK => 2,
        // decrypt
        PERSONAL_OPENED | PERSONAL_OPEN_REFUSED => 10,
        // update, start, invoke, restore
        TENANT_QUOTA_SET | POLICY_WRITTEN | POLICY_SHADOWED | CEILING_WRITTEN | LABELS_WRITTEN | CONFIG_WRITTEN
        | FIELD_RULES_WRITTEN | SIGN_IN_CHANGED | TRUST_CHANGED | REVIEW_DECIDED | SECRET_WRITTEN | HOST_STARTED
        | INVOCATIONS | INVOCATION_REFUSED | INVOCATION_FAILED | HOST_CALL_DENIED | MODULE_CALLS
        | HOST_CALLS_CHOSEN | CHECK_WRITTEN | RULES_WRITTEN | RETENTION_SET | RESPONSE_UNDONE | RESPONSE_ENDED => 3,
        // delete, stop
        TENANT_DELETED | SECRET_DELETED | SUBJECT_ERASED | HOST_STOPPED | SHARD_DELETING | SHARD_DELETED
        | BODY_ERASED | CHECK_DELETED | BACKUP_DELETED | RULES_DELETED | DESTINATION_DELETED | FEED_DELETED => 4,
        // enable, update
        TENANT_RESUMED | VERSION_DEPLOYED | VERSION_ROLLED_BACK => 8,
        // disable
        TENANT_SUSPENDED => 9,
        _ => 99,
    }
}

/// Whether a code says that something was refused, so that a single entry of it is recorded as denied.
pub fn is_refusal(code: &str) -> bool {
    matches!(
        code,
        TENANT_ISOLATION
            | SIGN_IN_REFUSED
            | TOKEN_REFUSED
            | QUOTA_REFUSED
            | ACTION_DENIED
            | INVOCATION_REFUSED
            | EGRESS_REFUSED
            | HOST_CALL_DENIED
            | CANARY_TOUCHED
            | PERSONAL_OPEN_REFUSED
    )
}

/// Whether a code says that something was allowed and then failed.
pub fn is_failure(code: &str) -> bool {
    code == INVOCATION_FAILED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_the_host_stands_in_an_area_that_applications_may_not_use() {
        let source = include_str!("codes.rs");
        let mut count = 0;
        for line in source.lines().filter(|line| line.starts_with("pub const ") && line.contains(": &str = \"")) {
            let code = line.split('"').nth(1).unwrap();
            if let Some((area, _)) =
                code.split_once('-').filter(|(area, _)| area.chars().all(|c| c.is_ascii_uppercase()))
            {
                assert!(AREAS.contains(&area), "{code}");
                count += 1;
            }
        }
        assert!(count > 50, "{count}");
    }
}
