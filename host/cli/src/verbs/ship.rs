//! `push`, `deploy`, `rollback`, `diff`: versions go up, routes move.
//!
//! Must never deploy by itself: publishing and going live are two acts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::BASE64;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reqwest::Method;
use ringfence_control::wire::{Deploy, NeedState, Published, RouteView, VersionDiff};
use ringfence_core::limits::{COMPONENT_BYTES_MAX, MANIFEST_BYTES_MAX};
use ringfence_core::{Capability, Manifest, TenantId};

use crate::args::{DeployArgs, DiffArgs, PluginArgs, PushArgs};
use crate::client::{Body, Request};
use crate::context::Context;
use crate::error::{CliError, Exit, need_words};
use crate::table::{bytes_words, needs_table};
use crate::ui::{Stopwatch, read_capped};

/// LIMIT: longest wait for an upload and its compilation together.
const PUSH_MAX: Duration = Duration::from_secs(900);

/// `ringfence push`.
pub async fn push(cx: &mut Context<'_>, args: &PushArgs) -> Result<Exit, CliError> {
    let (text, manifest) = read_manifest(&args.dir)?;
    let component = component_path(&args.dir, args.component.as_deref(), &manifest);
    let bytes = check_component(&component, &args.dir)?;
    let (api, tenant) = cx.tenant().await?;
    let (name, version) = (&manifest.plugin.name, &manifest.plugin.version);
    let watch = Stopwatch::start();
    let progress = bar(cx, bytes);
    let request = Request::new(Method::PUT, format!("/tenants/{tenant}/plugins/{name}/versions/{version}"))
        .header("ringfence-manifest", BASE64.encode(text.as_bytes()))
        .body(Body::File { path: &component, progress: progress.clone() })
        .time(Some(PUSH_MAX));
    let answer = api.send::<Published>(&request).await;
    progress.finish_and_clear();
    let answer = answer?;
    let compile = Duration::from_millis(answer.value.compile_ms);
    cx.ui.phase("uploaded", &format!("{name} {version}  {}", bytes_words(bytes)), watch.took().saturating_sub(compile));
    if answer.value.created {
        cx.ui.phase("compiled", "", compile);
    }
    cx.print(&answer, |published| published_text(published, &tenant))?;
    Ok(Exit::Ok)
}

/// `ringfence deploy`.
pub async fn deploy(cx: &mut Context<'_>, args: &DeployArgs) -> Result<Exit, CliError> {
    let (api, tenant) = cx.tenant().await?;
    let (plugin, version) = (&args.version.plugin, args.version.version.to_string());
    let body = Deploy { version: version.clone(), percent: args.percent };
    let request = Request::post(
        format!("/tenants/{tenant}/plugins/{plugin}/deploy"),
        serde_json::to_value(&body).unwrap_or_default(),
    );
    let answer = api.send::<RouteView>(&request).await.map_err(|error| error.about_version(&version))?;
    cx.print(&answer, |route| route_text("deployed", plugin.as_str(), route))?;
    Ok(Exit::Ok)
}

/// `ringfence rollback`.
pub async fn rollback(cx: &mut Context<'_>, args: &PluginArgs) -> Result<Exit, CliError> {
    let (api, tenant) = cx.tenant().await?;
    let path = format!("/tenants/{tenant}/plugins/{}/rollback", args.plugin);
    let answer = api.send::<RouteView>(&Request::new(Method::POST, path)).await?;
    cx.print(&answer, |route| route_text("rolled back to", args.plugin.as_str(), route))?;
    Ok(Exit::Ok)
}

/// `ringfence diff`.
pub async fn diff(cx: &mut Context<'_>, args: &DiffArgs) -> Result<Exit, CliError> {
    let plugin = &args.from.plugin;
    if args.to.plugin.as_ref().is_some_and(|other| other != plugin) {
        return Err(CliError::Usage {
            code: "two-plugins",
            detail: "two versions of one plugin can be compared".to_owned(),
            help: Some(format!("ringfence diff {} {}", args.from, args.to.version)),
        });
    }
    let (api, tenant) = cx.tenant().await?;
    let request = Request::get(format!("/tenants/{tenant}/plugins/{plugin}/diff"))
        .query("from", Some(&args.from.version))
        .query("to", Some(&args.to.version));
    let answer = api.send::<VersionDiff>(&request).await?;
    cx.print(&answer, |diff| diff_text(plugin.as_str(), diff))?;
    Ok(Exit::Ok)
}

/// Reads and checks `plugin.toml` of a folder: its text as it is, and parsed.
pub fn read_manifest(dir: &Path) -> Result<(String, Manifest), CliError> {
    let path = dir.join("plugin.toml");
    let mut file = match std::fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(CliError::Failed {
                code: "no-plugin",
                detail: format!("`{}` does not exist", path.display()),
                help: Some("make a plugin with  ringfence new NAME".to_owned()),
            });
        }
        Err(error) => return Err(CliError::file("read", &path, &error)),
    };
    let bytes = read_capped(&mut file, MANIFEST_BYTES_MAX, "plugin.toml")?;
    let text = String::from_utf8(bytes)
        .map_err(|_| CliError::failed("bad-manifest", format!("`{}` is not UTF-8 text", path.display()), None))?;
    let manifest = Manifest::parse(&text).map_err(|error| CliError::Manifest { path, error })?;
    Ok((text, manifest))
}

/// Where the component of a folder is: the flag, the manifest's word, or where the release build leaves it.
pub fn component_path(dir: &Path, flag: Option<&Path>, manifest: &Manifest) -> PathBuf {
    let custom = || format!("target/wasm32-wasip2/release/{}.wasm", manifest.plugin.name.as_str().replace('-', "_"));
    match flag {
        Some(path) => path.to_owned(),
        None => plain(dir.join(manifest.plugin.component.clone().unwrap_or_else(custom))),
    }
}

/// `./x` as `x`, for messages.
fn plain(path: PathBuf) -> PathBuf {
    path.strip_prefix(".").map(Path::to_owned).unwrap_or(path)
}

fn check_component(path: &Path, dir: &Path) -> Result<u64, CliError> {
    let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            let folder = if dir == Path::new(".") { String::new() } else { format!(" {}", dir.display()) };
            CliError::Failed {
                code: "not-built",
                detail: format!("`{}` does not exist", path.display()),
                help: Some(format!("ringfence build{folder}")),
            }
        }
        _ => CliError::file("read", path, &error),
    })?;
    if !metadata.is_file() {
        return Err(CliError::failed("not-built", format!("`{}` is not a file", path.display()), None));
    }
    if metadata.len() > COMPONENT_BYTES_MAX {
        return Err(CliError::failed(
            "too-large",
            format!(
                "`{}` is {}, and the host takes at most {}",
                path.display(),
                bytes_words(metadata.len()),
                bytes_words(COMPONENT_BYTES_MAX)
            ),
            "build with optimisation for size and strip symbols",
        ));
    }
    Ok(metadata.len())
}

fn bar(cx: &Context<'_>, bytes: u64) -> ProgressBar {
    if !cx.ui.may_animate() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("  uploading {bar:40} {bytes}/{total_bytes}") {
        bar.set_style(style);
    }
    bar
}

fn published_text(published: &Published, tenant: &TenantId) -> String {
    let Published { plugin, version, .. } = published;
    let mut text = if published.created {
        format!("pushed {plugin}@{version}  {}\n", published.digest)
    } else {
        format!("{plugin}@{version} is there already, with the same bytes  {}\n", published.digest)
    };
    text.push_str(&needs_table(&published.needs, published.previous.as_ref().map(|_| version.as_str())));
    let missing: Vec<&NeedState> = published.needs.iter().filter(|need| !need.granted).collect();
    text.push_str("  next:");
    for need in &missing {
        let unnamed = need.capability.parse::<Capability>().ok().filter(|_| need.scope.is_none());
        let name = unnamed.and_then(Capability::name_to_say).map(|name| format!(" {name}")).unwrap_or_default();
        text.push_str(&format!(" ringfence grant {plugin} {}{name}\n       ", need_words(need).replace("  ", " ")));
    }
    text.push_str(&format!(" ringfence deploy {plugin}@{version}\n"));
    if !missing.is_empty() {
        text.push_str(&format!("  nothing is granted to it in tenant {tenant} beyond the lines that say yes\n"));
    }
    text
}

fn route_text(act: &str, plugin: &str, route: &RouteView) -> String {
    let mut text = match &route.canary {
        Some(canary) => format!(
            "{act} {plugin}: {} % of calls to {}, the rest to {}\n",
            canary.percent, canary.version, route.version
        ),
        None => format!("{act} {plugin}@{}\n", route.version),
    };
    text.push_str(&format!("  path  {}\n", route.path));
    if let Some(previous) = &route.previous {
        text.push_str(&format!("  back  ringfence rollback {plugin}  (to {previous})\n"));
    }
    text
}

fn diff_text(plugin: &str, diff: &VersionDiff) -> String {
    let mut text = format!("{plugin}  {} -> {}\n", diff.from, diff.to);
    if diff.same_digest {
        text.push_str("  the same bytes\n");
        return text;
    }
    text.push_str(&format!("  size  {} -> {}\n", bytes_words(diff.from_bytes), bytes_words(diff.to_bytes)));
    for (sign, needs) in [("+", &diff.added), ("-", &diff.removed), (" ", &diff.kept)] {
        for need in needs {
            let granted = match (sign, need.granted) {
                ("-", _) => "",
                (_, true) => "  granted",
                (_, false) => "  not granted",
            };
            text.push_str(&format!("  {sign} {}{granted}\n", need_words(need)));
        }
    }
    if diff.added.is_empty() && diff.removed.is_empty() {
        text.push_str("  the needs are the same\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(capability: &str, scope: Option<&str>, granted: bool, is_new: bool) -> NeedState {
        NeedState { capability: capability.into(), scope: scope.map(Into::into), granted, is_new }
    }

    #[test]
    fn the_next_step_after_a_push_grants_exactly_what_is_missing() {
        let published = Published {
            plugin: "visits".into(),
            version: "0.2.0".into(),
            digest: "sha256:00".into(),
            bytes: 1,
            created: true,
            needs: vec![
                need("keyvalue", Some("default"), true, false),
                need("http", Some("https://a.example"), false, true),
                need("http", None, false, true),
                need("queue", None, false, true),
            ],
            previous: Some("0.1.0".into()),
            compile_ms: 10,
        };
        let text = published_text(&published, &"acme".parse().unwrap());
        assert!(text.contains("ringfence grant visits http https://a.example\n"), "{text}");
        assert!(text.contains("ringfence grant visits http ORIGIN\n"), "{text}");
        assert!(text.contains("ringfence grant visits queue QUEUE\n"), "{text}");
        assert!(!text.contains("grant visits keyvalue"), "{text}");
        assert!(text.contains("new in 0.2.0"), "{text}");
        assert!(text.contains("ringfence deploy visits@0.2.0"), "{text}");
    }

    #[test]
    fn a_diff_shows_what_came_and_went() {
        let diff = VersionDiff {
            from: "0.1.0".into(),
            to: "0.2.0".into(),
            added: vec![need("http", Some("https://a.example"), false, true)],
            removed: vec![need("config", None, true, false)],
            kept: vec![need("keyvalue", Some("default"), true, false)],
            from_bytes: 1024,
            to_bytes: 2048,
            same_digest: false,
        };
        assert_eq!(
            diff_text("visits", &diff),
            "visits  0.1.0 -> 0.2.0\n  size  1.0 KiB -> 2.0 KiB\n  + http  https://a.example  not granted\n  - config\n    keyvalue  default  granted\n"
        );
    }
}
