//! `definition!`: reads declarative workflows at build time, checks them as the host will, and embeds them.
//!
//! Must never embed what the host would refuse, nor a word of where the files lie.

use std::fs;
use std::path::PathBuf;

use proc_macro2::{Span, TokenStream};
use quote::quote;
use ringfence_definition::limits::DEFINITIONS_COUNT_MAX;
use ringfence_definition::{Definition, SECTION, check_expressions};
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::{Error, LitByteStr, LitStr, Token};

use crate::export::workflows;

/// One file.
struct Source {
    file: LitStr,
    path: PathBuf,
    json: String,
    definition: Definition,
}

pub(crate) fn expand(files: TokenStream) -> syn::Result<TokenStream> {
    let files = Punctuated::<LitStr, Token![,]>::parse_terminated.parse2(files)?;
    if files.is_empty() || files.len() > DEFINITIONS_COUNT_MAX {
        return Err(Error::new(Span::call_site(), format!("name 1 to {DEFINITIONS_COUNT_MAX} files")));
    }
    let sources = files.into_iter().map(read).collect::<syn::Result<Vec<Source>>>()?;
    check_names(&sources)?;
    let has = |of: fn(&Definition) -> bool| sources.iter().any(|source| of(&source.definition));
    let calls = need(has(|definition| definition.has_calls), quote!(::ringfence_sdk::Http));
    let events = need(has(|definition| definition.has_events), quote!(::ringfence_sdk::Queues));
    let embedded = sources.iter().map(embed).collect::<syn::Result<Vec<_>>>()?;
    let names: Vec<String> = sources.iter().map(|source| source.definition.name.clone()).collect();
    let texts = sources.iter().map(|source| source.json.as_str());
    let arms = quote! {
        #(#names => ::ringfence_sdk::rt::run_definition::<#calls, #events>(#texts, call).await,)*
    };
    let export = workflows(&names, &arms);
    Ok(quote!(#(#embedded)* #export))
}

/// What a need is bound to: the need, or nothing, which is not imported.
fn need(is_used: bool, need: TokenStream) -> TokenStream {
    if is_used { need } else { quote!(::ringfence_sdk::rt::NoNeed) }
}

fn read(file: LitStr) -> syn::Result<Source> {
    let wrong = |why: String| Error::new(file.span(), format!("{}: {why}", file.value()));
    let folder = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    let path = folder.join(file.value());
    let text = fs::read_to_string(&path).map_err(|error| wrong(error.to_string()))?;
    // JSON is nearly YAML, but for the error messages and the odd escape.
    let value: serde_json::Value = match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?,
        _ => serde_norway::from_str(&text).map_err(|error| wrong(error.to_string()))?,
    };
    let json = value.to_string();
    let definition = Definition::parse(&json).map_err(|refusal| wrong(refusal.to_string()))?;
    check_expressions(&definition).map_err(|refusal| wrong(refusal.to_string()))?;
    Ok(Source { path, json, definition, file })
}

/// Names are told apart, and every child is one of them.
fn check_names(sources: &[Source]) -> syn::Result<()> {
    for (index, Source { file, definition, .. }) in sources.iter().enumerate() {
        let is_same = |other: &Source| other.definition.name == definition.name;
        if sources.iter().take(index).any(is_same) {
            let why = format!("{}: another file has the name `{}`", file.value(), definition.name);
            return Err(Error::new(file.span(), why));
        }
        for (path, child) in &definition.children {
            if !sources.iter().any(|other| other.definition.name == *child) {
                let why = format!("{}: {path}: no file of this plugin has the name `{child}`", file.value());
                return Err(Error::new(file.span(), why));
            }
        }
    }
    Ok(())
}

/// The definition in a custom section, where the host reads it at upload.
fn embed(source: &Source) -> syn::Result<TokenStream> {
    let bytes = format!("{}\n", source.json).into_bytes();
    let (length, bytes) = (bytes.len(), LitByteStr::new(&bytes, Span::call_site()));
    let Some(path) = source.path.to_str() else {
        return Err(Error::new(source.file.span(), "the path to it is not UTF-8"));
    };
    Ok(quote! {
        const _: () = {
            // So that a change of the file is a reason to build again.
            const _: &[u8] = include_bytes!(#path);

            #[cfg(target_arch = "wasm32")]
            #[allow(unsafe_code, reason = "a custom section is data that nothing runs")]
            #[unsafe(link_section = #SECTION)]
            #[used]
            static DEFINITION: [u8; #length] = *#bytes;
        };
    })
}
