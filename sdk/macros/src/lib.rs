//! The `#[plugin]` attribute: turns one function into a `wasi:http` component.
//!
//! Must never bind a parameter that the function does not name: what is not bound is not linked, and so the component
//! does not import it. Everything else is in `ringfence-sdk`.
#![forbid(unsafe_code)]

use proc_macro::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Error, FnArg, ItemFn, parse_macro_input};

mod workflow;

/// Marks a durable workflow: a function over `Input<T>` and `Steps`, beside any other needs. It is run again and again over
/// its history until it is through; its name is the workflow's, with `-` for `_`. A plugin has one of these, and further
/// ones that it names: `#[workflow(also(ship))]`, each marked `#[workflow(part)]`.
#[proc_macro_attribute]
pub fn workflow(attribute: TokenStream, item: TokenStream) -> TokenStream {
    let function = parse_macro_input!(item as ItemFn);
    workflow::expand(attribute.into(), &function).unwrap_or_else(|error| error.to_compile_error()).into()
}

/// Marks the function that answers requests. Sync or async; its parameters are its needs, bound by type, in any order;
/// it returns anything that is `IntoResponse`.
///
/// ```ignore
/// #[plugin]
/// fn hello() -> &'static str {
///     "hello"
/// }
/// ```
#[proc_macro_attribute]
pub fn plugin(attribute: TokenStream, item: TokenStream) -> TokenStream {
    let function = parse_macro_input!(item as ItemFn);
    if !attribute.is_empty() {
        return refuse(&function.sig.ident, "#[plugin] takes no arguments: needs are the function's parameters");
    }
    expand(&function).unwrap_or_else(|error| error.to_compile_error().into())
}

fn expand(function: &ItemFn) -> syn::Result<TokenStream> {
    let signature = &function.sig;
    if !signature.generics.params.is_empty() {
        return Err(Error::new(signature.generics.span(), "a plugin function has no generics: its needs must be plain"));
    }
    let mut names = Vec::new();
    let mut bindings = Vec::new();
    for (index, input) in signature.inputs.iter().enumerate() {
        let FnArg::Typed(parameter) = input else {
            return Err(Error::new(input.span(), "a plugin is a free function, not a method"));
        };
        let (name, kind) = (format_ident!("need_{index}"), &parameter.ty);
        bindings.push(quote_spanned! {kind.span()=>
            let #name = <#kind as ::ringfence_sdk::FromHost>::from_host(&mut call)?;
        });
        names.push(name);
    }
    let call = &signature.ident;
    let wait = signature.asyncness.map(|_| quote!(.await));
    Ok(quote! {
        #function

        const _: () = {
            struct Plugin;

            impl ::ringfence_sdk::rt::Guest for Plugin {
                fn handle(
                    request: ::ringfence_sdk::rt::IncomingRequest,
                    out: ::ringfence_sdk::rt::ResponseOutparam,
                ) {
                    ::ringfence_sdk::rt::serve(request, out, async |mut call: ::ringfence_sdk::Call| {
                        let _ = &mut call;
                        #(#bindings)*
                        let answer = #call(#(#names),*)#wait;
                        ::core::result::Result::Ok(::ringfence_sdk::IntoResponse::into_response(answer))
                    })
                }
            }

            use ::ringfence_sdk::rt::wasip2;
            wasip2::http::proxy::export!(Plugin with_types_in wasip2);
        };
    }
    .into())
}

fn refuse(at: &impl Spanned, message: &str) -> TokenStream {
    Error::new(at.span(), message).to_compile_error().into()
}
