//! Reads a component without executing or compiling it: what it is, exports, imports and needs. Pure.
//!
//! Must never trust a count or a length the bytes claim, and never recurse with their nesting. It is the second step of
//! an upload, and what `ringfence inspect` prints before one. It checks structure; the compile child validates every
//! instruction.

use ringfence_core::Capability;
use ringfence_core::limits::{COMPONENT_BYTES_MAX, COMPONENT_DEPTH_MAX, COMPONENT_PARTS_COUNT_MAX};
use ringfence_definition::limits::{DEFINITION_BYTES_MAX, DEFINITIONS_COUNT_MAX};
use ringfence_definition::{Definition, NAMES_SECTION, Refusal, SECTION};
use serde::{Deserialize, Serialize};
use wasmparser::{
    BinaryReaderError, ComponentExportSectionReader, ComponentImportSectionReader, ComponentTypeRef,
    CustomSectionReader, Encoding, KnownCustom, Parser, Payload,
};

use crate::interfaces::{ImportKind, World, handler_world, import_hint, import_kind};

/// LIMIT: most imports or exports of a component.
const NAMES_COUNT_MAX: usize = 512;
/// LIMIT: most workflows that a component names.
const WORKFLOWS_COUNT_MAX: usize = 128;
/// LIMIT: most producer words kept.
const PRODUCERS_COUNT_MAX: usize = 16;
/// LIMIT: longest name repeated in an error or kept as a producer, in bytes.
const WORD_BYTES_MAX: usize = 200;

/// One import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// Full name, `wasi:keyvalue/store@0.2.0-draft2`.
    pub name: String,
    /// What it means.
    #[serde(flatten)]
    pub kind: ImportKind,
}

/// What a component is, read from its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// Which generation of `wasi:http` it speaks, if any; the newer when it speaks both.
    pub world: World,
    /// Full names of its exports.
    pub exports: Vec<String>,
    /// Its imports, all of which the host can provide.
    pub imports: Vec<Import>,
    /// The capabilities its imports stand for, sorted, each once.
    pub capabilities: Vec<Capability>,
    /// Size.
    pub bytes: u64,
    /// Modules, components and instances at all depths.
    pub parts: usize,
    /// Deepest nesting; 1 for a component without inner parts.
    pub depth: usize,
    /// Its declarative workflows, as `name@version`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub definitions: Vec<String>,
    /// Names of all its workflows, sorted; empty when it does not say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub workflows: Vec<String>,
    /// What made it, such as `Rust 1.96.0` or `wit-component 0.254.0`, as far as it says.
    pub producers: Vec<String>,
}

/// Why bytes are not a component that this host runs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InspectError {
    /// Not WebAssembly, or broken.
    #[error("not a component: {why}")]
    NotAComponent {
        /// In the user's words.
        why: String,
    },
    /// A core module.
    #[error("this is a core module; make it a component with `wasm-tools component new`, or build for `wasm32-wasip2`")]
    CoreModule,
    /// Over the size limit.
    #[error("the component is larger than {max_bytes} bytes")]
    TooLarge {
        /// The limit.
        max_bytes: u64,
    },
    /// Nested too deep or in too many parts.
    #[error("the component is too complex: {what}")]
    TooComplex {
        /// Which limit.
        what: String,
    },
    /// An import nobody offers.
    #[error("import `{name}` is not offered by this host{}", hint.as_deref().map(|hint| format!(": {hint}")).unwrap_or_default())]
    UnknownImport {
        /// Its full name.
        name: String,
        /// Versions offered, or a near name.
        hint: Option<String>,
    },
    /// It carries a declarative workflow that is not taken.
    #[error("its workflow definition is refused at {refusal}")]
    Definition {
        /// Where, and why.
        refusal: Refusal,
    },
    /// Nothing to call.
    #[error(
        "the component exports no handler: `wasi:http/incoming-handler@0.2.x`, `wasi:http/handler@0.3.x`, or one of `ringfence:plugin`: `hook`, `schedule`, `message`, `workflow`{}",
        listed(exports)
    )]
    NoHandler {
        /// What it exports instead.
        exports: Vec<String>,
    },
}

impl InspectError {
    /// Stable slug, also the name of its page in the error reference.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotAComponent { .. } => "not-a-component",
            Self::CoreModule => "core-module",
            Self::TooLarge { .. } => "too-large",
            Self::TooComplex { .. } => "too-complex",
            Self::UnknownImport { .. } => "unknown-import",
            Self::Definition { .. } => "workflow-definition",
            Self::NoHandler { .. } => "no-handler",
        }
    }
}

/// Reads a component. Time is linear in the bytes; memory is a few names.
pub fn inspect(bytes: &[u8]) -> Result<Inspection, InspectError> {
    if bytes.len() as u64 > COMPONENT_BYTES_MAX {
        return Err(InspectError::TooLarge { max_bytes: COMPONENT_BYTES_MAX });
    }
    check_magic(bytes)?;
    let mut walk = Walk::default();
    for payload in Parser::new(0).parse_all(bytes) {
        walk.take(payload.map_err(|error| broken(&error))?)?;
    }
    walk.finish(bytes.len() as u64)
}

#[derive(Default)]
struct Walk {
    /// Encodings of the parts being read, outermost first.
    inside: Vec<Encoding>,
    depth: usize,
    parts: usize,
    imports: Vec<(String, bool)>,
    exports: Vec<String>,
    producers: Vec<String>,
    definitions: Vec<String>,
    workflows: Vec<String>,
}

impl Walk {
    fn take(&mut self, payload: Payload<'_>) -> Result<(), InspectError> {
        match payload {
            Payload::Version { encoding, .. } => self.enter(encoding),
            Payload::End(_) => {
                self.inside.pop();
                Ok(())
            }
            Payload::InstanceSection(section) => self.count(section.count()),
            Payload::ComponentInstanceSection(section) => self.count(section.count()),
            Payload::ComponentImportSection(section) if self.inside.len() == 1 => self.read_imports(section),
            Payload::ComponentExportSection(section) if self.inside.len() == 1 => self.read_exports(section),
            // At any depth: a composed component has those of its parts.
            Payload::CustomSection(section) if section.name() == SECTION => self.read_definitions(section.data()),
            Payload::CustomSection(section) if section.name() == NAMES_SECTION => self.read_workflows(section.data()),
            Payload::CustomSection(section) if self.inside.len() <= 2 => {
                self.read_producers(&section);
                Ok(())
            }
            Payload::UnknownSection { id, .. } => {
                Err(InspectError::NotAComponent { why: format!("it has a section of the unknown kind {id}") })
            }
            _ => Ok(()),
        }
    }

    fn enter(&mut self, encoding: Encoding) -> Result<(), InspectError> {
        if self.inside.is_empty() && encoding == Encoding::Module {
            return Err(InspectError::CoreModule);
        }
        self.inside.push(encoding);
        self.depth = self.depth.max(self.inside.len());
        if self.depth > COMPONENT_DEPTH_MAX {
            return Err(InspectError::TooComplex {
                what: format!("components nested more than {COMPONENT_DEPTH_MAX} deep"),
            });
        }
        self.count(1)
    }

    fn count(&mut self, more: u32) -> Result<(), InspectError> {
        self.parts = self.parts.saturating_add(more as usize);
        if self.parts > COMPONENT_PARTS_COUNT_MAX {
            return Err(InspectError::TooComplex {
                what: format!("more than {COMPONENT_PARTS_COUNT_MAX} modules, components and instances"),
            });
        }
        Ok(())
    }

    fn read_imports(&mut self, section: ComponentImportSectionReader<'_>) -> Result<(), InspectError> {
        for import in section {
            let import = import.map_err(|error| broken(&error))?;
            let plain = import.name.implements.is_none() && matches!(import.ty, ComponentTypeRef::Instance(_));
            self.imports.push((import.name.name.to_owned(), plain));
            check_names(self.imports.len(), "imports")?;
        }
        Ok(())
    }

    fn read_exports(&mut self, section: ComponentExportSectionReader<'_>) -> Result<(), InspectError> {
        for export in section {
            let export = export.map_err(|error| broken(&error))?;
            self.exports.push(export.name.name.to_owned());
            check_names(self.exports.len(), "exports")?;
        }
        Ok(())
    }

    /// Keeps what made it. A producers section that cannot be read is decoration, not a reason to refuse.
    fn read_producers(&mut self, section: &CustomSectionReader<'_>) {
        let KnownCustom::Producers(fields) = section.as_known() else { return };
        for field in fields.into_iter().flatten() {
            for value in field.values.into_iter().flatten().take(PRODUCERS_COUNT_MAX) {
                let word = shorten(format!("{} {}", value.name, value.version).trim());
                if self.producers.len() < PRODUCERS_COUNT_MAX && !self.producers.contains(&word) {
                    self.producers.push(word);
                }
            }
        }
    }

    /// Checks the declarative workflows of a section: one JSON document a line. What runs is the guest's own copy, in the
    /// sandbox; this is what tells an author before anything runs.
    fn read_definitions(&mut self, data: &[u8]) -> Result<(), InspectError> {
        for line in data.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            if self.definitions.len() >= DEFINITIONS_COUNT_MAX {
                return Err(InspectError::TooComplex {
                    what: format!("more than {DEFINITIONS_COUNT_MAX} workflow definitions"),
                });
            }
            let refused = |refusal| InspectError::Definition { refusal };
            // LIMIT: before the bytes are looked at as text.
            if line.len() > DEFINITION_BYTES_MAX {
                return Err(refused(Refusal::new("", format!("is larger than {DEFINITION_BYTES_MAX} bytes"))));
            }
            let text = std::str::from_utf8(line).map_err(|_| refused(Refusal::new("", "is not UTF-8")))?;
            let Definition { name, version, .. } = Definition::parse(text).map_err(refused)?;
            self.definitions.push(shorten(&format!("{name}@{version}")));
        }
        Ok(())
    }

    /// Reads names of workflows, one a line. One that is no text, or longer than any run's may be, could never be asked for.
    fn read_workflows(&mut self, data: &[u8]) -> Result<(), InspectError> {
        let lines = data.split(|byte| *byte == b'\n').filter(|line| !line.is_empty() && line.len() <= WORD_BYTES_MAX);
        for name in lines.filter_map(|line| std::str::from_utf8(line).ok()) {
            if self.workflows.len() >= WORKFLOWS_COUNT_MAX {
                return Err(InspectError::TooComplex { what: format!("more than {WORKFLOWS_COUNT_MAX} workflows") });
            }
            self.workflows.push(name.to_owned());
        }
        Ok(())
    }

    fn finish(mut self, bytes: u64) -> Result<Inspection, InspectError> {
        if !self.inside.is_empty() {
            return Err(InspectError::NotAComponent { why: "it ends too early".to_owned() });
        }
        let mut imports = Vec::with_capacity(self.imports.len());
        for (name, plain) in self.imports {
            match import_kind(&name).filter(|_| plain) {
                Some(kind) => imports.push(Import { name, kind }),
                None => return Err(InspectError::UnknownImport { hint: import_hint(&name), name: shorten(&name) }),
            }
        }
        let world = self.exports.iter().filter_map(|name| handler_world(name)).max();
        let Some(world) = world else {
            return Err(InspectError::NoHandler { exports: self.exports.iter().map(|name| shorten(name)).collect() });
        };
        let mut capabilities: Vec<Capability> = imports
            .iter()
            .filter_map(|import| match import.kind {
                ImportKind::Capability(capability) => Some(capability),
                ImportKind::Inert => None,
            })
            .collect();
        capabilities.sort_unstable();
        capabilities.dedup();
        self.workflows.sort_unstable();
        self.workflows.dedup();
        Ok(Inspection {
            world,
            exports: self.exports,
            imports,
            capabilities,
            bytes,
            parts: self.parts,
            depth: self.depth,
            definitions: self.definitions,
            workflows: self.workflows,
            producers: self.producers,
        })
    }
}

fn check_magic(bytes: &[u8]) -> Result<(), InspectError> {
    let why = match bytes {
        [] => "the file is empty",
        [0, b'a', b's', b'm', ..] => return Ok(()),
        [0x1f, 0x8b, ..] => "it is compressed with gzip; send the component itself",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "it is compressed with zstd; send the component itself",
        [b'P', b'K', ..] => "it is a zip archive; send the component itself",
        [b'(' | b';', ..] => "it looks like WebAssembly text; turn it into bytes with `wasm-tools parse`",
        _ => "it does not start with the WebAssembly magic number",
    };
    Err(InspectError::NotAComponent { why: why.to_owned() })
}

fn check_names(count: usize, what: &str) -> Result<(), InspectError> {
    if count > NAMES_COUNT_MAX {
        return Err(InspectError::TooComplex { what: format!("more than {NAMES_COUNT_MAX} {what}") });
    }
    Ok(())
}

fn broken(error: &BinaryReaderError) -> InspectError {
    InspectError::NotAComponent { why: format!("{} (at byte {})", shorten(error.message()), error.offset()) }
}

/// LIMIT: a name of megabytes must not come back in an error.
fn shorten(text: &str) -> String {
    text.chars().take(WORD_BYTES_MAX).collect()
}

fn listed(exports: &[String]) -> String {
    match exports {
        [] => String::new(),
        some => format!(
            "; it exports {}",
            some.iter().take(8).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
        ),
    }
}
