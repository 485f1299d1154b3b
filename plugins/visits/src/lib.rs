//! Counts visits in the plugin's key-value bucket, one counter a path, in one indivisible step each.

use ringfence_sdk::{Kv, Request, Result, plugin};

#[plugin]
fn visits(request: Request, kv: Kv) -> Result<String> {
    let path = request.path();
    let count = kv.add(path, 1)?;
    let noun = if count == 1 { "visit" } else { "visits" };
    Ok(format!("{count} {noun} from {path}\n"))
}
