//! Every hard cap of definitions, with its unit last.

/// LIMIT: most bytes of a definition, as JSON.
pub const DEFINITION_BYTES_MAX: usize = 256 << 10;
/// LIMIT: most definitions of one component.
pub const DEFINITIONS_COUNT_MAX: usize = 16;
/// LIMIT: most tasks of a definition, at all depths together.
pub const TASKS_COUNT_MAX: usize = 500;
/// LIMIT: deepest nesting of task lists; a fork costs two of the sixteen levels that a run's places have.
pub const TASK_DEPTH_MAX: usize = 7;
/// LIMIT: deepest nesting of data in a definition: a body, a `set`.
pub const DATA_DEPTH_MAX: usize = 32;
/// LIMIT: longest expression, in bytes.
pub const EXPRESSION_BYTES_MAX: usize = 2 << 10;
/// LIMIT: longest name of a task, variable, event or workflow, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// LIMIT: longest other text, a URL or an error's type, in bytes.
pub const TEXT_BYTES_MAX: usize = 2 << 10;
/// LIMIT: most branches of a fork.
pub const BRANCHES_COUNT_MAX: usize = 64;
/// LIMIT: most times a `try` is tried.
pub const ATTEMPTS_COUNT_MAX: u64 = 100;
/// LIMIT: longest wait (ten years), in milliseconds.
pub const WAIT_MS_MAX: u64 = 10 * 366 * 24 * 3_600 * 1_000;
/// LIMIT: most items a `for` goes through.
pub const ITEMS_COUNT_MAX: usize = 1_000;
/// LIMIT: most tasks one run does, however it jumps; a longer one belongs into child runs.
pub const TASKS_RUN_COUNT_MAX: u32 = 10_000;
/// LIMIT: most bytes of an HTTP answer that a step gives.
pub const ANSWER_BYTES_MAX: usize = 192 << 10;
/// LIMIT: longest text of an error that is kept, in bytes.
pub const DETAIL_BYTES_MAX: usize = 1_000;
