//! The export that runs a plugin's workflows by name, whatever they are written in.

use proc_macro2::TokenStream;
use quote::quote;

/// The export `ringfence:plugin/workflow`. `arms` match a `name: &str` and give a result from a `call: &mut Call`; what none
/// of them matches is no workflow of the plugin.
pub(crate) fn workflows(arms: &TokenStream) -> TokenStream {
    quote! {
        const _: () = {
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
