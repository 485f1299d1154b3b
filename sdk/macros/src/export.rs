//! The export that runs a plugin's workflows by name, whatever they are written in.

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::LitByteStr;

/// The custom section in which a module names all of its workflows, each name ended by a line feed; the host's reader has it too
/// (`ringfence_definition::NAMES_SECTION`, which plugins without definitions do not build).
const NAMES_SECTION: &str = "ringfence:workflow-names";

/// The export `ringfence:plugin/workflow`. `arms` match a `name: &str` and give a result from a `call: &mut Call`; what none
/// of them matches is no workflow of the plugin. `names` are those that they match: embedded, so that the host refuses to begin
/// a run of any other.
pub(crate) fn workflows(names: &[String], arms: &TokenStream) -> TokenStream {
    let bytes: Vec<u8> = names.iter().flat_map(|name| format!("{name}\n").into_bytes()).collect();
    let (length, bytes) = (bytes.len(), LitByteStr::new(&bytes, Span::call_site()));
    quote! {
        const _: () = {
            #[cfg(target_arch = "wasm32")]
            #[allow(unsafe_code, reason = "a custom section is data that nothing runs")]
            #[unsafe(link_section = #NAMES_SECTION)]
            #[used]
            static NAMES: [u8; #length] = *#bytes;

            struct Workflows;

            impl ::ringfence_sdk::rt::workflow::Guest for Workflows {
                fn handle(
                    payload: ::std::vec::Vec<u8>,
                    context: ::ringfence_sdk::rt::workflow::Context,
                ) -> ::core::result::Result<::std::vec::Vec<u8>, ::ringfence_sdk::rt::workflow::Failure> {
                    ::ringfence_sdk::rt::run_workflow(payload, context, async |name: &str, call: &mut ::ringfence_sdk::Call| {
                        match name {
                            #arms
                            other => ::core::result::Result::Err(::ringfence_sdk::rt::no_workflow(other)),
                        }
                    })
                }
            }

            ::ringfence_sdk::rt::workflow::export_workflow!(Workflows with_types_in ::ringfence_sdk::rt::workflow);
        };
    }
}
