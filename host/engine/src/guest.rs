//! The state of one running guest: what WASI, HTTP and the capabilities find when it calls the host.
//!
//! Must never hold more than was bound: the WASI context is empty (no directories, variables, arguments or sockets).

use std::any::Any;
use std::sync::Arc;

use ringfence_core::Budget;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView};

use crate::idle::Reuse;
use crate::meter::Meter;
use crate::output::{GuestOutput, NoOutput, Sink};
use crate::replay::Replay;

/// LIMIT: most handles to host resources a guest may have at once. With the two below it bounds what a guest can make the
/// host hold outside the memory budget: headers and the buffers of bodies, some 32 MiB at worst.
const RESOURCES_COUNT_MAX: usize = 1_000;
/// LIMIT: most random bytes of one call.
const RANDOM_BYTES_MAX: u64 = 1 << 20;
/// LIMIT: most bytes of one set of header fields.
const FIELDS_BYTES_MAX: usize = 32 << 10;
/// LIMIT: most memories, tables and core instances of one component (the pool is sized by them).
pub(crate) const MEMORIES_COUNT_MAX: u32 = 8;
pub(crate) const TABLES_COUNT_MAX: u32 = 32;
pub(crate) const INSTANCES_COUNT_MAX: u32 = 64;
/// Bytes one table element takes in the host.
const TABLE_ELEMENT_BYTES: u64 = 8;

/// What the capabilities bind for one invocation.
pub struct GuestSetup {
    /// State of the capabilities; they find it again with [`Guest::host`].
    pub host: Box<dyn Any + Send>,
    /// The egress gate for outgoing HTTP.
    pub hooks: Box<dyn WasiHttpHooks + Send>,
    /// Where standard output goes.
    pub stdout: Arc<dyn GuestOutput>,
    /// Where standard error goes.
    pub stderr: Arc<dyn GuestOutput>,
    /// The counters, with the budget.
    pub meter: Arc<Meter>,
    /// Whether the instance may serve further invocations; each has a fresh one when absent.
    pub reuse: Option<Reuse>,
    /// The wall clock and dice of code that is run again over its history; the real ones when absent.
    pub replay: Option<Replay>,
}

impl GuestSetup {
    /// A guest with no capabilities at all, for a rehearsal or a test: every outgoing request is denied.
    pub fn bare(budget: Budget) -> Self {
        Self {
            host: Box::new(()),
            hooks: Box::new(NoEgress),
            stdout: Arc::new(NoOutput),
            stderr: Arc::new(NoOutput),
            meter: Meter::new(budget),
            reuse: None,
            replay: None,
        }
    }
}

/// The data of a guest's store.
pub struct Guest {
    host: Box<dyn Any + Send>,
    hooks: Box<dyn WasiHttpHooks + Send>,
    meter: Arc<Meter>,
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    /// Most bytes of one memory.
    memory_bytes_max: u64,
    /// Bytes of all memories and tables.
    grown_bytes: u64,
    /// How much they still have to grow before it is forgotten that a growth was refused: half of that one at first. A message
    /// about the refusal takes some memory too.
    refused_bytes: u64,
}

// === impl Guest ===

impl Guest {
    /// One of which each memory may have at most so many bytes.
    pub(crate) fn new(setup: GuestSetup, memory_bytes_max: u64) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_COUNT_MAX);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(FIELDS_BYTES_MAX);
        Self {
            host: setup.host,
            hooks: setup.hooks,
            meter: setup.meter,
            table,
            wasi: empty_wasi(setup.stdout, setup.stderr, setup.replay),
            http,
            memory_bytes_max,
            grown_bytes: 0,
            refused_bytes: 0,
        }
    }

    /// Lets go of everything of the invocation that is over but the memory, which stays counted. False when the guest still
    /// holds something of the host's: a handle of one invocation must never be there in the next.
    pub(crate) fn rest(&mut self) -> bool {
        if !self.table.is_empty() {
            return false;
        }
        self.host = Box::new(());
        self.hooks = Box::new(NoEgress);
        self.wasi = empty_wasi(Arc::new(NoOutput), Arc::new(NoOutput), None);
        true
    }

    /// Takes up the next invocation. The memory moves to its meter; when that may not hold so much, the setup comes back
    /// and this guest is of no use any more.
    #[expect(clippy::result_large_err, reason = "the setup is handed back, not an error")]
    pub(crate) fn renew(&mut self, setup: GuestSetup) -> Result<(), GuestSetup> {
        self.meter.release(self.grown_bytes);
        if setup.meter.try_reserve(self.grown_bytes).is_err() {
            self.grown_bytes = 0;
            return Err(setup);
        }
        self.host = setup.host;
        self.hooks = setup.hooks;
        self.wasi = empty_wasi(setup.stdout, setup.stderr, setup.replay);
        self.meter = setup.meter;
        self.refused_bytes = 0;
        Ok(())
    }

    /// No longer counts its memory, which whoever drops it is about to free: room for others at once.
    pub(crate) fn uncount(&mut self) {
        self.meter.release(std::mem::take(&mut self.grown_bytes));
    }

    /// Bytes of all memories and tables.
    pub(crate) fn grown_bytes(&self) -> u64 {
        self.grown_bytes
    }

    /// The counters.
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// The state the capabilities bound, when it is a `T`.
    pub fn host<T: Any>(&mut self) -> Option<&mut T> {
        self.host.downcast_mut()
    }

    /// The state the capabilities bound, when it is a `T`, with the table of resources.
    pub fn host_and_table<T: Any>(&mut self) -> (Option<&mut T>, &mut ResourceTable) {
        (self.host.downcast_mut(), &mut self.table)
    }

    /// The table of resources.
    pub fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }

    async fn growing(&mut self, bytes: u64) -> bool {
        let allowed = self.meter.reserve_in_turn(bytes).await.is_ok();
        if !allowed {
            self.refused_bytes = (bytes / 2).max(1);
        } else if self.refused_bytes > 0 {
            self.refused_bytes = self.refused_bytes.saturating_sub(bytes);
            if self.refused_bytes == 0 {
                self.meter.forget_refused_growth();
            }
        }
        if allowed {
            self.grown_bytes = self.grown_bytes.saturating_add(bytes);
        }
        allowed
    }

    /// Refuses what could not be, before it is counted.
    fn beyond(&mut self, bytes: u64) -> bool {
        self.meter.note_refused_growth();
        self.refused_bytes = (bytes / 2).max(1);
        false
    }

    /// SECURITY: nothing is taken back. A growth past what any memory can have is told here alone, without having been asked
    /// for: what was allowed last was another one, which the guest has. What the kernel refuses stays counted to the end.
    fn growth_failed(&self) {
        self.meter.note_refused_growth();
    }
}

/// What WASI finds: two sinks, clocks and dice, and nothing else.
fn empty_wasi(stdout: Arc<dyn GuestOutput>, stderr: Arc<dyn GuestOutput>, replay: Option<Replay>) -> WasiCtx {
    let mut wasi = WasiCtx::builder();
    wasi.stdout(Sink(stdout)).stderr(Sink(stderr)).max_random_size(RANDOM_BYTES_MAX);
    wasi.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false);
    if let Some(replay) = replay {
        replay.onto(&mut wasi);
    }
    wasi.build()
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.meter.release(self.grown_bytes);
    }
}

#[wasmtime_wasi::async_trait]
impl wasmtime::ResourceLimiterAsync for Guest {
    async fn memory_growing(&mut self, current: usize, desired: usize, max: Option<usize>) -> wasmtime::Result<bool> {
        let bytes = desired.saturating_sub(current) as u64;
        if desired as u64 > self.memory_bytes_max || max.is_some_and(|max| desired > max) {
            return Ok(self.beyond(bytes));
        }
        Ok(self.growing(bytes).await)
    }
    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.growth_failed();
        Ok(())
    }
    async fn table_growing(&mut self, current: usize, desired: usize, max: Option<usize>) -> wasmtime::Result<bool> {
        let bytes = (desired.saturating_sub(current) as u64).saturating_mul(TABLE_ELEMENT_BYTES);
        if max.is_some_and(|max| desired > max) {
            return Ok(self.beyond(bytes));
        }
        Ok(self.growing(bytes).await)
    }
    fn table_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.growth_failed();
        Ok(())
    }
    fn instances(&self) -> usize {
        INSTANCES_COUNT_MAX as usize
    }
    fn tables(&self) -> usize {
        TABLES_COUNT_MAX as usize
    }
    fn memories(&self) -> usize {
        MEMORIES_COUNT_MAX as usize
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut *self.hooks }
    }
}

// === impl NoEgress ===

/// What [`WasiHttpHooks::send_request`] answers with.
pub type SendAnswer = Box<
    dyn Future<Output = Result<(http::Response<wasmtime_wasi_http::WasiBody>, SendEnd), wasmtime_wasi_http::Error>>
        + Send,
>;
/// The end of an outgoing request's connection.
pub type SendEnd = Box<dyn Future<Output = Result<(), wasmtime_wasi_http::Error>> + Send>;

struct NoEgress;

impl WasiHttpHooks for NoEgress {
    fn send_request(
        &mut self,
        _: http::Request<wasmtime_wasi_http::WasiBody>,
        _: Option<wasmtime_wasi_http::RequestOptions>,
        _: SendEnd,
    ) -> SendAnswer {
        Box::new(async { Err(wasmtime_wasi_http::Error::HttpRequestDenied) })
    }
}

#[cfg(test)]
mod tests {
    use wasmtime::ResourceLimiterAsync;

    use super::*;
    use crate::pool::Full;

    fn with(host: u32) -> GuestSetup {
        GuestSetup { host: Box::new(host), ..GuestSetup::bare(Budget::DEFAULT) }
    }

    #[tokio::test]
    async fn a_guest_that_copes_with_a_refusal_and_grows_by_less_is_not_blamed_on_memory_later() {
        let mut guest = Guest::new(GuestSetup::bare(Budget { memory_bytes: 100, ..Budget::DEFAULT }), 1_000);
        assert!(guest.memory_growing(0, 30, None).await.unwrap());
        assert!(!guest.memory_growing(30, 110, None).await.unwrap());
        // What the host holds for it is no growth of its own, and a little is taken to tell of the refusal.
        drop(guest.meter().hold(1).unwrap());
        assert!(guest.memory_growing(30, 69, None).await.unwrap());
        assert_eq!(guest.meter().refused_memory(), Some(Full::Own));
        assert!(guest.memory_growing(69, 70, None).await.unwrap());
        assert_eq!(guest.meter().refused_memory(), None, "half of what it wanted");
        assert!(!guest.table_growing(0, 7, None).await.unwrap());
        assert_eq!(guest.meter().refused_memory(), Some(Full::Own), "the last word counts");
    }

    #[tokio::test]
    async fn what_no_memory_can_have_is_forgotten_like_any_other_refusal() {
        let mut guest = Guest::new(GuestSetup::bare(Budget { memory_bytes: 200, ..Budget::DEFAULT }), 100);
        assert!(!guest.memory_growing(0, 101, None).await.unwrap());
        assert_eq!(guest.meter().refused_memory(), Some(Full::Own));
        assert!(guest.memory_growing(0, 50, Some(60)).await.unwrap());
        assert_eq!(guest.meter().refused_memory(), None);
        assert!(!guest.memory_growing(50, 70, Some(60)).await.unwrap());
        assert_eq!(guest.meter().refused_memory(), Some(Full::Own));
        assert!(guest.memory_growing(50, 60, Some(60)).await.unwrap());
        assert_eq!((guest.meter().refused_memory(), guest.grown_bytes()), (None, 60));
    }

    #[tokio::test]
    async fn a_growth_that_fails_takes_nothing_back_of_one_that_did_not() {
        let mut guest = Guest::new(GuestSetup::bare(Budget { memory_bytes: 100, ..Budget::DEFAULT }), 80);
        assert!(guest.memory_growing(0, 30, Some(70)).await.unwrap());
        guest.memory_grow_failed(wasmtime::Error::msg("past what any memory can have")).unwrap();
        guest.table_grow_failed(wasmtime::Error::msg("past what any table can have")).unwrap();
        assert_eq!((guest.meter().memory_bytes(), guest.grown_bytes()), (30, 30));
        assert!(!guest.memory_growing(30, 71, Some(70)).await.unwrap());
        assert!(!guest.memory_growing(30, 81, None).await.unwrap());
        assert!(!guest.table_growing(0, 5, Some(4)).await.unwrap());
        assert_eq!((guest.meter().memory_bytes(), guest.meter().refused_memory()), (30, Some(Full::Own)));
    }

    #[test]
    fn a_guest_that_rests_has_nothing_of_its_invocation_and_then_only_what_the_next_brings() {
        let mut guest = Guest::new(with(1), 1_000);
        let first = Arc::clone(guest.meter());
        assert_eq!(guest.host::<u32>().copied(), Some(1));
        assert!(guest.rest());
        assert_eq!(guest.host::<u32>(), None);
        assert!(guest.renew(with(2)).is_ok());
        assert_eq!(guest.host::<u32>().copied(), Some(2));
        assert!(!Arc::ptr_eq(&first, guest.meter()));
        // What it holds of the host's would be there in the next.
        let held = guest.table().push(7_u8).unwrap();
        assert!(!guest.rest());
        guest.table().delete(held).unwrap();
        assert!(guest.rest());
    }
}
