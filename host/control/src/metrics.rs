//! What monitoring reads: OpenMetrics text for the host and for one tenant, and the loads that `ringfence top` shows.
//!
//! Must never carry a label that a guest or a caller chose: tenants are the only names, as many as metering tells apart,
//! and all other labels are words of ours. A tenant's own people see no other tenant's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::header;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use ringfence_audit::{TENANTS_TOLD_MAX, UsageSum};
use ringfence_capabilities::Ledger;
use ringfence_core::proof::act;
use ringfence_core::{QuotaKind, TenantId};
use ringfence_store::StoreError;
use tokio::task::spawn_blocking;

use crate::Control;
use crate::call::Call;
use crate::problem::ApiError;
use crate::wire::{LoadView, LoadsView, Problem};

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Stands for all tenants that are not told apart. No tenant can have this name.
const OTHER: &str = "_other";

type Count = Gauge<u64, AtomicU64>;
type Sum = Counter<f64, AtomicU64>;
/// SECURITY: keys are ours, and values are tenants' names and words of ours.
type Labels = Vec<(&'static str, String)>;

/// What a tenant has and had.
struct Known {
    load: LoadView,
    sum: UsageSum,
    quota: QuotaNow,
}

/// What a tenant's quota allows, what is in use of it, and how often it refused something.
#[derive(Debug, Clone, Copy, Default)]
struct QuotaNow {
    memory_bytes: u64,
    memory_bytes_max: u64,
    storage_bytes: u64,
    storage_bytes_max: u64,
    /// In the order of [`QuotaKind::ALL`].
    refused_counts: [u64; QuotaKind::ALL.len()],
}

/// Whose quotas are told by name, kept from one answer to the next: a name that changes hands is a jump in two counters.
#[derive(Debug, Default)]
pub(crate) struct Told {
    names: BTreeSet<String>,
    /// The most refusals that were told of all those without a name, in the order of [`QuotaKind::ALL`].
    others_refused_counts: [u64; QuotaKind::ALL.len()],
}

/// Every counter of a tenant: name, help, and how much of it a sum holds.
type TenantCounter = (&'static str, &'static str, fn(&UsageSum) -> f64);
const TENANT_COUNTERS: [TenantCounter; 13] = [
    ("tenant_invocations", "Invocations that ended", |sum| sum.invocations_count as f64),
    ("tenant_cpu_seconds", "CPU time of ended invocations", |sum| sum.cpu_us as f64 / 1e6),
    ("tenant_wall_seconds", "Wall time of ended invocations", |sum| sum.wall_us as f64 / 1e6),
    ("tenant_memory_byte_seconds", "Memory held over time", |sum| sum.memory_byte_us as f64 / 1e6),
    ("tenant_request_bytes", "Bytes of requests' bodies", |sum| sum.request_bytes as f64),
    ("tenant_response_bytes", "Bytes of answers' bodies", |sum| sum.response_bytes as f64),
    ("tenant_log_bytes", "Bytes of guest logs", |sum| sum.log_bytes as f64),
    ("tenant_host_calls", "Calls of guests to the host", |sum| sum.host_calls_count as f64),
    ("tenant_outgoing_requests", "Outgoing requests of guests", |sum| sum.outgoing_count as f64),
    ("tenant_egress_out_bytes", "Bytes of bodies sent with them", |sum| sum.egress_out_bytes as f64),
    ("tenant_egress_in_bytes", "Bytes of bodies answered to them", |sum| sum.egress_in_bytes as f64),
    ("tenant_storage_operations", "Operations on stored values", |sum| sum.storage_ops_count as f64),
    ("tenant_storage_byte_seconds", "Stored bytes held over time", |sum| sum.storage_byte_us as f64 / 1e6),
];

/// OpenMetrics text about the host and its tenants. For operators.
#[utoipa::path(get, path = "/metrics", tag = "host",
    responses((status = 200, body = String, content_type = "application/openmetrics-text"),
        (status = "default", body = Problem)))]
pub async fn host(State(control): State<Control>, call: Call) -> Result<Response, ApiError> {
    let _permit = control.reach_host::<act::ReadHost>(&call).await?;
    let mut registry = Registry::with_prefix("ringfence");
    control.register_host(&mut registry).await?;
    let quotas = control.quotas_now().await?;
    let known = control.told.lock().unwrap_or_else(PoisonError::into_inner).with_quotas(control.known(), quotas);
    register_tenants(&mut registry, &known);
    answer(&registry)
}

/// OpenMetrics text about one tenant.
#[utoipa::path(get, path = "/tenants/{tenant}/metrics", tag = "tenants",
    responses((status = 200, body = String, content_type = "application/openmetrics-text"),
        (status = "default", body = Problem)))]
pub async fn tenant(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<Response, ApiError> {
    let reached = control.reach_tenant::<act::ReadUsage>(&call, &tenant).await?;
    let mut registry = Registry::with_prefix("ringfence");
    let mut known = control.known_of(&reached);
    if let Some(ledger) = control.parts.quotas.of(&reached.tenant) {
        known.quota = QuotaNow::of(&ledger)?;
    }
    register_tenants(&mut registry, &[known]);
    answer(&registry)
}

/// Reads what tenants have and had since the host started: all of them for an operator, his own for anybody else.
#[utoipa::path(get, path = "/host/loads", tag = "host",
    responses((status = 200, body = LoadsView), (status = "default", body = Problem)))]
pub async fn loads(State(control): State<Control>, call: Call) -> Result<Json<LoadsView>, ApiError> {
    let known = match call.principal.tenant() {
        Some(own) => vec![control.known_of(&control.reach_tenant::<act::ReadUsage>(&call, own.as_str()).await?)],
        None => {
            let _permit = control.reach_host::<act::ReadHost>(&call).await?;
            control.known()
        }
    };
    let read_at_us = u64::try_from(control.parts.clock.monotonic().as_micros()).unwrap_or(u64::MAX);
    Ok(Json(LoadsView { read_at_us, tenants: known.into_iter().map(|known| known.load).collect() }))
}

impl Control {
    async fn register_host(&self, registry: &mut Registry) -> Result<(), ApiError> {
        let status = self.status(crate::host::Figures::All).await?;
        let store = self.parts.store.stats().await?;
        let threat = self.parts.threat.health();
        let certificate = &self.parts.facts.certificate;
        let loaded = self.parts.registry.loaded();
        let (native_count, native_bytes) = self.parts.registry.native_size().await?;
        for (name, help, value) in [
            ("tenants", "Tenants", status.tenants_count),
            ("routes", "Deployed plugins", status.routes_count),
            ("invocations_running", "Invocations running now", status.running_count),
            ("invocations_waiting", "Invocations waiting for a slot", status.waiting_count),
            ("slots", "Slots in all", status.slots_count),
            ("store_bytes", "Bytes the store takes on disk", store.bytes_on_disk),
            ("store_batches_waiting", "Batches waiting to be written", store.waiting as u64),
            ("instances_idle", "Instances that wait for another invocation", self.parts.engine.idle_count().into()),
            ("code_loaded", "Versions whose code is loaded", loaded.count as u64),
            ("code_cached", "Pieces of native code on disk", native_count),
            ("code_cached_bytes", "Their bytes", native_bytes),
            ("uptime_seconds", "Seconds since the start", status.uptime_seconds),
            (
                "certificate_until_seconds",
                "When the listeners' certificate ends, in seconds since 1970; 0 for none",
                certificate.until().and_then(|until| u64::try_from(until.as_second()).ok()).unwrap_or_default(),
            ),
            (
                "certificate_failures",
                "Tries for the next certificate that failed in a row",
                certificate.failures_count(),
            ),
            ("threat_backlog", "Audit entries that detection has not looked at yet", threat.backlog_count),
            ("threat_backlog_age_ms", "How far detection is behind, milliseconds", threat.backlog_age_ms),
            ("threat_entries_evaluated", "Audit entries looked at since the start", threat.evaluated_count),
            (
                "threat_entries_missed",
                "Audit entries read from the logs, since the feed lost them",
                threat.missed_count,
            ),
            (
                "threat_entries_skipped",
                "Audit entries that detection did not look at and never will",
                threat.skipped_count,
            ),
            ("threat_findings", "Findings since the start", threat.findings_count),
            (
                "threat_findings_counted_only",
                "Findings that were only counted, for there were too many",
                threat.counted_only_count,
            ),
        ] {
            let gauge = Count::default();
            gauge.set(value);
            registry.register(name, help, gauge);
        }
        let connections = Family::<Labels, Count>::default();
        for (plane, open) in ["plugins", "control"].into_iter().zip(&self.parts.facts.connections) {
            connections.get_or_create(&vec![("plane", plane.to_owned())]).set(open.load(Ordering::Relaxed));
        }
        registry.register("connections", "Open connections", connections);
        for (name, help, value) in [
            ("store_batches", "Batches written", store.commits as f64),
            ("store_syncs", "Times the disk was asked to make them durable", store.syncs as f64),
            ("code_hits", "Times a version was asked for whose code was loaded", loaded.hits as f64),
            ("code_misses", "Times it was not, and was loaded or waited for", loaded.misses as f64),
            ("code_wait_seconds", "How long that took in all", loaded.waited.as_secs_f64()),
            (
                "memory_share_ended",
                "Invocations ended because their tenants were above their shares of memory and others waited",
                self.parts.engine.memory().ended_count() as f64,
            ),
            ("code_evictions", "Versions unloaded because others needed the room", loaded.evicted as f64),
        ] {
            let counter = Sum::default();
            counter.inc_by(value);
            registry.register(name, help, counter);
        }
        Ok(())
    }

    /// Every tenant that is told apart, by name, and the others as one.
    fn known(&self) -> Vec<Known> {
        let totals = self.parts.metering.totals();
        let mut known: BTreeMap<String, Known> =
            totals.tenants.iter().map(|(tenant, sum)| (tenant.to_string(), Known::of(tenant.as_str(), *sum))).collect();
        let mut other = Known::of(OTHER, totals.other);
        for load in self.parts.engine.scheduler().loads() {
            let tenant = load.tenant.as_str();
            let room = known.len() < TENANTS_TOLD_MAX && self.parts.tenants.open_tenant(&load.tenant).is_some();
            if room && !known.contains_key(tenant) {
                // Its first invocation has not ended yet.
                known.insert(tenant.to_owned(), Known::of(tenant, UsageSum::default()));
            }
            known.get_mut(tenant).unwrap_or(&mut other).take(&load);
        }
        let mut all: Vec<Known> = known.into_values().collect();
        if other.load != (LoadView { tenant: OTHER.to_owned(), memory_byte_us: "0".to_owned(), ..LoadView::default() })
        {
            all.push(other);
        }
        all
    }

    /// What quotas come to now, of all tenants. Reads a small record of each.
    async fn quotas_now(&self) -> Result<BTreeMap<TenantId, QuotaNow>, ApiError> {
        let ledgers = self.parts.quotas.all();
        let read = move || readable(ledgers.into_iter().map(|(tenant, ledger)| (tenant, QuotaNow::of(&ledger))));
        spawn_blocking(read).await.map_err(|error| ApiError::host(&error))
    }

    fn known_of<A>(&self, reached: &crate::call::Reached<A>) -> Known {
        let sum = self.parts.metering.total_of(&reached.store).unwrap_or_default();
        let mut known = Known::of(reached.tenant.as_str(), sum);
        for load in self.parts.engine.scheduler().loads().iter().filter(|load| load.tenant == reached.tenant) {
            known.take(load);
        }
        known
    }
}

// === impl Known ===

impl Known {
    fn of(tenant: &str, sum: UsageSum) -> Self {
        let load = LoadView {
            tenant: tenant.to_owned(),
            invocations_count: sum.invocations_count,
            failures_count: sum.failures_count,
            memory_byte_us: sum.memory_byte_us.to_string(),
            ..LoadView::default()
        };
        Self { load, sum, quota: QuotaNow::default() }
    }

    fn take(&mut self, load: &ringfence_engine::TenantLoad) {
        let mine = &mut self.load;
        mine.running_count = mine.running_count.saturating_add(load.running_count.into());
        mine.waiting_count = mine.waiting_count.saturating_add(load.waiting_count.into());
        mine.cpu_us = mine.cpu_us.saturating_add(load.cpu_us);
        mine.throttled_us = mine.throttled_us.saturating_add(load.throttled_us);
        mine.preempted_count = mine.preempted_count.saturating_add(load.preempted_count);
    }

    /// Whether anything of it ran since the start, or waits to.
    fn has_run(&self) -> bool {
        let LoadView { invocations_count, running_count, waiting_count, cpu_us, .. } = self.load;
        invocations_count > 0 || running_count > 0 || waiting_count > 0 || cpu_us > 0
    }

    fn labels(&self) -> Labels {
        vec![("tenant", self.load.tenant.clone())]
    }
}

// === impl QuotaNow ===

impl QuotaNow {
    fn of(ledger: &Ledger) -> Result<Self, StoreError> {
        let (may, uses) = (ledger.quota(), ledger.usage()?);
        Ok(Self {
            memory_bytes: uses.memory_bytes,
            memory_bytes_max: may.memory_bytes,
            storage_bytes: uses.storage_bytes,
            storage_bytes_max: may.storage_bytes,
            refused_counts: QuotaKind::ALL.map(|kind| ledger.refused_count(kind)),
        })
    }

    fn add(&mut self, other: &Self) {
        self.memory_bytes = self.memory_bytes.saturating_add(other.memory_bytes);
        self.memory_bytes_max = self.memory_bytes_max.saturating_add(other.memory_bytes_max);
        self.storage_bytes = self.storage_bytes.saturating_add(other.storage_bytes);
        self.storage_bytes_max = self.storage_bytes_max.saturating_add(other.storage_bytes_max);
        for (mine, theirs) in self.refused_counts.iter_mut().zip(other.refused_counts) {
            *mine = mine.saturating_add(theirs);
        }
    }
}

// === impl Told ===

impl Told {
    /// Tenants with what their quotas come to. One that used nothing yet holds storage too: it is told by name while there is
    /// room, and summed with the others then. Whoever has a name keeps it, and who begins to run takes nobody's.
    fn with_quotas(&mut self, known: Vec<Known>, quotas: BTreeMap<TenantId, QuotaNow>) -> Vec<Known> {
        let ran = known.into_iter().filter(|one| one.load.tenant == OTHER || one.has_run());
        let mut named: BTreeMap<String, Known> = ran.map(|one| (one.load.tenant.clone(), one)).collect();
        let there: BTreeSet<&str> = quotas.keys().map(TenantId::as_str).collect();
        self.names.retain(|name| there.contains(name.as_str()));
        self.names.extend(named.keys().filter(|name| *name != OTHER).cloned());
        for (tenant, quota) in quotas {
            let tenant = tenant.as_str();
            // LIMIT: beside those that ran, of which metering tells no more apart.
            if self.names.len() < TENANTS_TOLD_MAX {
                self.names.insert(tenant.to_owned());
            }
            let name = if self.names.contains(tenant) { tenant } else { OTHER };
            let one = named.entry(name.to_owned()).or_insert_with(|| Known::of(name, UsageSum::default()));
            one.quota.add(&quota);
        }
        if let Some(other) = named.get_mut(OTHER) {
            // One that came to a name or was deleted is not in the sum any more, and a counter that falls reads as a new start.
            for (now, most) in other.quota.refused_counts.iter_mut().zip(&mut self.others_refused_counts) {
                *most = (*most).max(*now);
                *now = *most;
            }
        }
        named.into_values().collect()
    }
}

/// What could be read. A tenant of whom it could not is left out: the others' figures are told all the same.
fn readable(all: impl Iterator<Item = (TenantId, Result<QuotaNow, StoreError>)>) -> BTreeMap<TenantId, QuotaNow> {
    let read = |(tenant, now): (TenantId, Result<QuotaNow, StoreError>)| match now {
        Ok(now) => Some((tenant, now)),
        Err(error) => {
            tracing::warn!(%tenant, %error, "what a tenant's quota comes to cannot be read, and is not in the metrics");
            None
        }
    };
    all.filter_map(read).collect()
}

/// Name, help and figure of what a tenant has now.
type OfQuota = (&'static str, &'static str, fn(&QuotaNow) -> u64);

fn register_quotas(registry: &mut Registry, known: &[Known]) {
    let refused = Family::<Labels, Sum>::default();
    for one in known {
        for (kind, count) in QuotaKind::ALL.into_iter().zip(one.quota.refused_counts) {
            let mut labels = one.labels();
            labels.push(("quota", kind.as_str().to_owned()));
            refused.get_or_create(&labels).inc_by(count as f64);
        }
    }
    registry.register("tenant_quota_refused", "What a tenant's quota refused, by which quota", refused);
    let gauges: [OfQuota; 4] = [
        ("tenant_memory_bytes", "Memory of running invocations now", |quota| quota.memory_bytes),
        ("tenant_memory_allowed_bytes", "Memory that they may take together", |quota| quota.memory_bytes_max),
        ("tenant_storage_bytes", "Bytes stored now", |quota| quota.storage_bytes),
        ("tenant_storage_allowed_bytes", "Bytes that may be stored", |quota| quota.storage_bytes_max),
    ];
    for (name, help, of) in gauges {
        let family = Family::<Labels, Count>::default();
        for one in known {
            family.get_or_create(&one.labels()).set(of(&one.quota));
        }
        registry.register(name, help, family);
    }
}

fn register_tenants(registry: &mut Registry, known: &[Known]) {
    for (name, help, of) in TENANT_COUNTERS {
        let family = Family::<Labels, Sum>::default();
        for one in known {
            family.get_or_create(&one.labels()).inc_by(of(&one.sum));
        }
        registry.register(name, help, family);
    }
    let failures = Family::<Labels, Sum>::default();
    for one in known {
        for (blame, count) in [
            ("caller", one.sum.failures_by_caller_count),
            ("plugin", one.sum.failures_by_plugin_count),
            ("host", one.sum.failures_by_host_count),
        ] {
            let mut labels = one.labels();
            labels.push(("blame", blame.to_owned()));
            failures.get_or_create(&labels).inc_by(count as f64);
        }
    }
    registry.register("tenant_failures", "Invocations without the guest's own answer, by whose fault it was", failures);
    let scheduled: [Series<f64>; 2] = [
        ("tenant_throttled_seconds", "Time a tenant's own cap kept it from running", |load| {
            load.throttled_us as f64 / 1e6
        }),
        ("tenant_preemptions", "Times a guest made room for another tenant's", |load| load.preempted_count as f64),
    ];
    for (name, help, of) in scheduled {
        let family = Family::<Labels, Sum>::default();
        for one in known {
            family.get_or_create(&one.labels()).inc_by(of(&one.load));
        }
        registry.register(name, help, family);
    }
    let now: [Series<u64>; 2] = [
        ("tenant_invocations_running", "Invocations running now", |load| load.running_count),
        ("tenant_invocations_waiting", "Invocations waiting for a slot", |load| load.waiting_count),
    ];
    for (name, help, of) in now {
        let family = Family::<Labels, Count>::default();
        for one in known {
            family.get_or_create(&one.labels()).set(of(&one.load));
        }
        registry.register(name, help, family);
    }
    register_quotas(registry, known);
}

/// Name, words and value of a series made from a tenant's load.
type Series<T> = (&'static str, &'static str, fn(&LoadView) -> T);

fn answer(registry: &Registry) -> Result<Response, ApiError> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).map_err(|error| ApiError::host(&error))?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(known: &[Known]) -> String {
        let mut registry = Registry::with_prefix("ringfence");
        register_tenants(&mut registry, known);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn tenants_are_the_only_names_and_every_series_has_a_kind() {
        let sum =
            UsageSum { invocations_count: 3, cpu_us: 1_500_000, failures_by_plugin_count: 2, ..UsageSum::default() };
        let text = text_of(&[Known::of("acme", sum), Known::of(OTHER, UsageSum::default())]);
        assert!(text.contains("ringfence_tenant_invocations_total{tenant=\"acme\"} 3.0"), "{text}");
        assert!(text.contains("ringfence_tenant_cpu_seconds_total{tenant=\"acme\"} 1.5"), "{text}");
        assert!(text.contains("ringfence_tenant_failures_total{tenant=\"acme\",blame=\"plugin\"} 2.0"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
        let mut kinds = std::collections::HashSet::new();
        for line in text.lines().filter(|line| *line != "# EOF") {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                assert!(kinds.insert(rest.split(' ').next().unwrap().to_owned()), "{line} twice");
            } else if !line.starts_with('#') {
                let name = line.split('{').next().unwrap();
                assert!(kinds.contains(name.strip_suffix("_total").unwrap_or(name)), "{line}");
                let labels = line.split_once('{').unwrap().1.split_once('}').unwrap().0;
                for label in labels.split(',') {
                    let (key, _) = label.split_once('=').unwrap();
                    assert!(["tenant", "blame", "quota"].contains(&key), "{line}");
                }
            }
        }
    }

    #[test]
    fn quotas_are_shown_of_every_tenant_that_is_told_apart_and_summed_of_the_others() {
        let mut refused_counts = [0; QuotaKind::ALL.len()];
        refused_counts[1] = 7;
        let quota =
            QuotaNow { memory_bytes: 3, storage_bytes: 5, storage_bytes_max: 9, refused_counts, memory_bytes_max: 4 };
        let tenant = |name: &str| -> TenantId { name.parse().unwrap() };
        let quotas = |names: &[String]| names.iter().map(|name| (tenant(name), quota)).collect::<BTreeMap<_, _>>();
        let known = vec![Known::of("acme", UsageSum { invocations_count: 3, ..UsageSum::default() })];
        let text = text_of(&Told::default().with_quotas(known, quotas(&["acme".to_owned(), "idle".to_owned()])));
        for series in [
            "ringfence_tenant_invocations_total{tenant=\"acme\"} 3.0\n",
            "ringfence_tenant_quota_refused_total{tenant=\"acme\",quota=\"concurrency\"} 7.0\n",
            "ringfence_tenant_quota_refused_total{tenant=\"idle\",quota=\"requests\"} 0.0\n",
            "ringfence_tenant_memory_bytes{tenant=\"acme\"} 3\n",
            "ringfence_tenant_memory_allowed_bytes{tenant=\"acme\"} 4\n",
            "ringfence_tenant_storage_bytes{tenant=\"idle\"} 5\n",
            "ringfence_tenant_storage_allowed_bytes{tenant=\"idle\"} 9\n",
        ] {
            assert!(text.contains(series), "{series}: {text}");
        }
        let many: Vec<String> = (0..TENANTS_TOLD_MAX + 2).map(|n| format!("t{n:05}")).collect();
        let ran = |name: &str| Known::of(name, UsageSum { invocations_count: 1, ..UsageSum::default() });
        let mut names = Told::default();
        let told = names.with_quotas(vec![ran("zeta")], quotas(&many));
        assert_eq!(told.len(), TENANTS_TOLD_MAX + 1, "with those that are one");
        let other = told.iter().find(|one| one.load.tenant == OTHER).unwrap();
        assert_eq!((other.quota.refused_counts[1], other.quota.storage_bytes), (3 * 7, 3 * 5));
        assert!(told.iter().any(|one| one.load.tenant == "zeta"));
        // One that was summed begins to run: it has a name then, nobody loses his, and the sum does not fall.
        let last = many.last().unwrap().as_str();
        let later = names.with_quotas(vec![ran("zeta"), ran(last)], quotas(&many));
        let of = |all: &[Known], name: &str| {
            all.iter().find(|one| one.load.tenant == name).map(|one| one.quota.refused_counts[1])
        };
        assert_eq!((of(&later, last), of(&later, OTHER)), (Some(7), Some(3 * 7)));
        assert!(told.iter().all(|one| of(&later, &one.load.tenant).is_some()), "who had a name has it");
        assert_eq!(later.len(), told.len() + 1);
    }

    #[test]
    fn a_tenant_whose_figures_cannot_be_read_keeps_nobody_elses_out_of_the_metrics() {
        let tenant = |name: &str| -> TenantId { name.parse().unwrap() };
        let all = [(tenant("acme"), Err(StoreError::Gone)), (tenant("globex"), Ok(QuotaNow::default()))];
        let read = readable(all.into_iter());
        assert_eq!(read.keys().map(TenantId::as_str).collect::<Vec<_>>(), ["globex"]);
    }
}
