//! The `#[workflow]` attribute: a function as a durable workflow, and the export that runs those of a plugin by name.
//!
//! Must never bind a parameter that the function does not name.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Error, FnArg, Ident, ItemFn, Meta, Token};

use crate::export::workflows;

/// What the attribute says.
enum Kind {
    /// One more workflow, which another function's attribute names.
    Part,
    /// The one that exports the plugin's workflows: itself and these.
    Whole(Vec<Ident>),
}

pub(crate) fn expand(attribute: TokenStream, function: &ItemFn) -> syn::Result<TokenStream> {
    let kind = kind(attribute)?;
    let runner = runner(function)?;
    let Kind::Whole(others) = kind else { return Ok(quote!(#function #runner)) };
    let all: Vec<&Ident> = std::iter::once(&function.sig.ident).chain(&others).collect();
    let names: Vec<String> = all.iter().map(|ident| ident.to_string().replace('_', "-")).collect();
    let runners = all.iter().map(|ident| format_ident!("__workflow_{ident}"));
    let export = workflows(&names, &quote!(#(#names => #runners(call).await,)*));
    Ok(quote!(#function #runner #export))
}

/// A function that binds the needs, runs the workflow and gives its result as JSON.
fn runner(function: &ItemFn) -> syn::Result<TokenStream> {
    let signature = &function.sig;
    if !signature.generics.params.is_empty() {
        return Err(Error::new(signature.generics.span(), "a workflow has no generics: its needs must be plain"));
    }
    let (mut names, mut bindings) = (Vec::new(), Vec::new());
    for (index, input) in signature.inputs.iter().enumerate() {
        let FnArg::Typed(parameter) = input else {
            return Err(Error::new(input.span(), "a workflow is a free function, not a method"));
        };
        let (name, kind) = (format_ident!("need_{index}"), &parameter.ty);
        bindings.push(quote_spanned! {kind.span()=>
            let #name = <#kind as ::ringfence_sdk::FromHost>::from_host(call)?;
        });
        names.push(name);
    }
    let (code, runner) = (&signature.ident, format_ident!("__workflow_{}", signature.ident));
    let wait = signature.asyncness.map(|_| quote!(.await));
    Ok(quote! {
        #[doc(hidden)]
        async fn #runner(call: &mut ::ringfence_sdk::Call) -> ::ringfence_sdk::Result<::std::vec::Vec<u8>> {
            let _ = &call;
            #(#bindings)*
            ::ringfence_sdk::rt::to_json(&#code(#(#names),*)#wait?)
        }
    })
}

fn kind(attribute: TokenStream) -> syn::Result<Kind> {
    let words = Punctuated::<Meta, Token![,]>::parse_terminated.parse2(attribute)?;
    let mut others = Vec::new();
    for word in words {
        match word {
            Meta::Path(path) if path.is_ident("part") => return Ok(Kind::Part),
            Meta::List(list) if list.path.is_ident("also") => {
                others.extend(list.parse_args_with(Punctuated::<Ident, Token![,]>::parse_terminated)?);
            }
            other => return Err(Error::new(other.span(), "say `part`, `also(...)` or nothing")),
        }
    }
    Ok(Kind::Whole(others))
}
