//! Verbs that need no host: `new`, `build`, `inspect`, `completions`, `version`.
//!
//! Must never overwrite what is there: `new` refuses a folder that exists, `build` changes `[needs]` and nothing else.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Command;
use ringfence_core::limits::COMPONENT_BYTES_MAX;
use ringfence_core::{Capability, Digest, Manifest};
use ringfence_guest_build::Profile;
use ringfence_registry::{InspectError, Inspection, inspect as inspect_bytes};
use serde_json::json;
use sha2::Digest as _;

use crate::Format;
use crate::args::{BuildArgs, CompletionsArgs, InspectArgs, NewArgs};
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::manifest_edit::write_needs;
use crate::table::bytes_words;
use crate::template;
use crate::ui::{Stopwatch, read_capped};
use crate::verbs::ship::read_manifest;

/// `ringfence new`.
pub fn new(cx: &mut Context<'_>, args: &NewArgs) -> Result<Exit, CliError> {
    let dir = args.dir.clone().unwrap_or_else(|| PathBuf::from(args.name.as_str()));
    let sdk = sdk_folder(cx, args)?;
    if dir.exists() {
        return Err(CliError::failed("exists", format!("`{}` exists already", dir.display()), None));
    }
    let failed = |error: std::io::Error| CliError::file("write", &dir, &error);
    fs::create_dir_all(dir.join("src")).map_err(failed)?;
    for (name, text) in template::files(&args.name, &sdk) {
        fs::write(dir.join(name), text).map_err(failed)?;
    }
    match cx.ui.format {
        Format::Json => cx.ui.json(&json!({ "name": args.name, "dir": dir }))?,
        Format::Text => cx.ui.text(&format!("made {}\n  next: cd {0} && ringfence build", dir.display()))?,
    }
    Ok(Exit::Ok)
}

/// `ringfence build`.
pub fn build(cx: &mut Context<'_>, args: &BuildArgs) -> Result<Exit, CliError> {
    let (text, manifest) = read_manifest(&args.dir)?;
    let watch = Stopwatch::start();
    let profile = if args.debug { Profile::Dev } else { Profile::Release };
    let built = ringfence_guest_build::build(&args.dir, &args.dir.join("target"), profile)
        .map_err(|error| CliError::Failed { code: "build-failed", detail: format!("{error:#}"), help: None })?;
    cx.ui.phase("built", &format!("{} {}", manifest.plugin.name, manifest.plugin.version), watch.took());
    let bytes = read_component(&built)?;
    let inspection = inspect_bytes(&bytes).map_err(|error| inspect_error(&error))?;
    let component = leave_component(&args.dir, &manifest, &built)?;
    let changed = write_needs(&text, &manifest, &inspection.capabilities, &component)
        .map_err(|error| CliError::Manifest { path: args.dir.join("plugin.toml"), error })?;
    let path = args.dir.join("plugin.toml");
    if let Some(changed) = &changed {
        fs::write(&path, changed).map_err(|error| CliError::file("write", &path, &error))?;
    }
    let manifest =
        Manifest::parse(changed.as_deref().unwrap_or(&text)).map_err(|error| CliError::Manifest { path, error })?;
    let file = args.dir.join(&component);
    print_built(cx, &manifest, &inspection, &file)?;
    Ok(Exit::Ok)
}

/// `ringfence inspect`.
pub fn inspect(cx: &mut Context<'_>, args: &InspectArgs) -> Result<Exit, CliError> {
    let bytes = read_component(&args.file)?;
    let inspection = inspect_bytes(&bytes).map_err(|error| inspect_error(&error))?;
    let digest = Digest::from_sha256(sha2::Sha256::digest(&bytes).into());
    match cx.ui.format {
        Format::Json => {
            let mut value = serde_json::to_value(&inspection).unwrap_or_default();
            if let Some(map) = value.as_object_mut() {
                map.insert("digest".to_owned(), json!(digest));
            }
            cx.ui.json(&value)?;
        }
        Format::Text => cx.ui.text(&inspection_text(&args.file, &inspection, &digest))?,
    }
    Ok(Exit::Ok)
}

/// `ringfence completions`.
pub fn completions(cx: &mut Context<'_>, args: &CompletionsArgs, mut tree: Command) -> Result<Exit, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut tree, "ringfence", &mut script);
    match cx.ui.format {
        Format::Json => {
            let script = String::from_utf8_lossy(&script);
            cx.ui.json(&json!({ "shell": args.shell.to_string(), "script": script }))?;
        }
        Format::Text => cx.ui.raw(&script)?,
    }
    Ok(Exit::Ok)
}

/// `ringfence version`.
pub fn version(cx: &mut Context<'_>) -> Result<Exit, CliError> {
    let version = env!("CARGO_PKG_VERSION");
    match cx.ui.format {
        Format::Json => cx.ui.json(&json!({ "version": version }))?,
        Format::Text => cx.ui.text(&format!("ringfence {version}"))?,
    }
    Ok(Exit::Ok)
}

/// The SDK: the flag, the environment, or the checkout this binary was built from, if it is still there.
fn sdk_folder(cx: &Context<'_>, args: &NewArgs) -> Result<PathBuf, CliError> {
    let checkout = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../sdk")).to_owned();
    let named = args.sdk.clone().or_else(|| cx.environment.sdk.clone());
    let folder = named.clone().unwrap_or(checkout);
    if folder.join("Cargo.toml").is_file() && folder.join("src").is_dir() {
        return folder.canonicalize().map_err(|error| CliError::file("read", &folder, &error));
    }
    Err(CliError::Usage {
        code: "no-sdk",
        detail: match named {
            Some(folder) => format!("`{}` is not the Ringfence SDK", folder.display()),
            None => "the Ringfence SDK for Rust was not found".to_owned(),
        },
        help: Some(format!("ringfence new {} --sdk path/to/ringfence/sdk", args.name)),
    })
}

fn read_component(path: &Path) -> Result<Vec<u8>, CliError> {
    let mut file = fs::File::open(path).map_err(|error| CliError::file("read", path, &error))?;
    let bytes_max = usize::try_from(COMPONENT_BYTES_MAX).unwrap_or(usize::MAX);
    read_capped(&mut file, bytes_max, &format!("`{}`", path.display()))
}

/// Where the manifest says the component is, relative to it. A build that ends elsewhere is copied there.
fn leave_component(dir: &Path, manifest: &Manifest, built: &Path) -> Result<String, CliError> {
    let failed = |error: std::io::Error| CliError::file("write", built, &error);
    let Some(component) = &manifest.plugin.component else {
        let dir = dir.canonicalize().map_err(failed)?;
        let relative = built.strip_prefix(&dir).unwrap_or(built);
        return Ok(relative.to_string_lossy().into_owned());
    };
    let wanted = dir.join(component);
    let same = wanted.canonicalize().is_ok_and(|wanted| built.canonicalize().is_ok_and(|built| built == wanted));
    if !same {
        if let Some(parent) = wanted.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        fs::copy(built, &wanted).map_err(failed)?;
    }
    Ok(component.clone())
}

fn inspect_error(error: &InspectError) -> CliError {
    CliError::failed(error.code(), error.to_string(), None)
}

fn print_built(
    cx: &mut Context<'_>,
    manifest: &Manifest,
    inspection: &Inspection,
    file: &Path,
) -> Result<(), CliError> {
    let needs = manifest.needs(inspection.capabilities.iter().copied());
    if cx.ui.format == Format::Json {
        return cx.ui.json(&json!({
            "plugin": manifest.plugin.name, "version": manifest.plugin.version, "component": file,
            "bytes": inspection.bytes, "world": inspection.world, "needs": needs,
        }));
    }
    let shown = file.strip_prefix(".").unwrap_or(file);
    let mut text = format!("{}  {}\n", shown.display(), bytes_words(inspection.bytes));
    text.push_str(&needs_text(needs.0.iter().map(|need| (need.capability, need.scope.as_slice()))));
    cx.ui.text(&text)
}

fn needs_text<'n>(needs: impl Iterator<Item = (Capability, &'n [String])>) -> String {
    let lines: Vec<String> =
        needs.map(|(capability, scope)| format!("{capability}  {}", scope.join("  ")).trim_end().to_owned()).collect();
    match lines.is_empty() {
        true => "needs    nothing\n".to_owned(),
        false => format!("needs    {}\n", lines.join("\n         ")),
    }
}

fn inspection_text(path: &Path, inspection: &Inspection, digest: &Digest) -> String {
    let mut text = format!("{}\n", path.display());
    text.push_str(&format!("size     {}\ndigest   {digest}\n", bytes_words(inspection.bytes)));
    text.push_str(&format!("world    {}\n", inspection.world.as_str()));
    text.push_str(&needs_text(inspection.capabilities.iter().map(|capability| (*capability, [].as_slice()))));
    text.push_str(&format!("exports  {}\n", inspection.exports.join("\n         ")));
    let imports: Vec<&str> = inspection.imports.iter().map(|import| import.name.as_str()).collect();
    if !imports.is_empty() {
        text.push_str(&format!("imports  {}\n", imports.join("\n         ")));
    }
    if !inspection.definitions.is_empty() {
        text.push_str(&format!("defines  {}\n", inspection.definitions.join("\n         ")));
    }
    if !inspection.producers.is_empty() {
        text.push_str(&format!("made by  {}\n", inspection.producers.join(", ")));
    }
    text
}
