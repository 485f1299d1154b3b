//! The attributes `#[plugin]` and `#[hook]`: turn one function into a component.
//!
//! Must never bind a parameter that the function does not name: what is not bound is not linked, and so the component
//! does not import it. Everything else is in `ringfence-sdk`.
#![forbid(unsafe_code)]

use proc_macro::TokenStream;
use proc_macro2::Ident;
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Error, Expr, ExprLit, FnArg, ItemFn, Lit, LitStr, MetaNameValue, Type, parse_macro_input};

#[cfg(feature = "definition")]
mod definition;
mod export;
mod workflow;

/// Makes a plugin of declarative workflows: `definition!("order.yaml");`, or several files, each beside `Cargo.toml`, YAML or
/// JSON, each run by the name in its `document`. What is not supported is an error here, with its path; the supported part is
/// in docs/reference/definitions.md. HTTP and queues become needs when a definition uses them.
#[cfg(feature = "definition")]
#[proc_macro]
pub fn definition(files: TokenStream) -> TokenStream {
    definition::expand(files.into()).unwrap_or_else(|error| error.to_compile_error()).into()
}

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
///
/// With `#[plugin(queue = "mail")]` it takes the messages of that queue instead: its first parameter is the message, the
/// others are needs, and it returns a `Result`. With `#[plugin(schedule = "nightly")]` it runs on that schedule; all of its
/// parameters are needs.
#[proc_macro_attribute]
pub fn plugin(attribute: TokenStream, item: TokenStream) -> TokenStream {
    let function = parse_macro_input!(item as ItemFn);
    if attribute.is_empty() {
        return expand(&function).unwrap_or_else(|error| error.to_compile_error().into());
    }
    let named = parse_macro_input!(attribute as MetaNameValue);
    let handler = match named.path.get_ident().map(ToString::to_string).as_deref() {
        Some("queue") => Handler { kind: "message", takes: Takes::Payload },
        Some("schedule") => Handler { kind: "schedule", takes: Takes::Needs },
        _ => return refuse(&named.path, "#[plugin] takes `queue = \"name\"` or `schedule = \"name\"`, or nothing"),
    };
    match &named.value {
        Expr::Lit(ExprLit { lit: Lit::Str(name), .. }) => on(&function, name, &handler),
        other => refuse(other, "write the name as a string"),
    }
}

/// Marks the function that answers an extension point: `#[hook("invoice.validate")]`. Its first parameter is the payload, a
/// type that is `Deserialize`; the others are needs. It returns a `Result` of what is `Serialize`; `refuse("why")` is a veto.
#[proc_macro_attribute]
pub fn hook(attribute: TokenStream, item: TokenStream) -> TokenStream {
    let function = parse_macro_input!(item as ItemFn);
    let name = parse_macro_input!(attribute as LitStr);
    on(&function, &name, &Handler { kind: "hook", takes: Takes::Payload })
}

/// One of the handlers beside HTTP.
struct Handler {
    kind: &'static str,
    takes: Takes,
}

/// What a function's first parameter is.
#[derive(PartialEq)]
enum Takes {
    Payload,
    Needs,
}

fn on(function: &ItemFn, name: &LitStr, handler: &Handler) -> TokenStream {
    expand_event(function, name, handler).unwrap_or_else(|error| error.to_compile_error().into())
}

fn expand_event(function: &ItemFn, name: &LitStr, handler: &Handler) -> syn::Result<TokenStream> {
    let mut needs = needs(function)?;
    let payload = match handler.takes {
        Takes::Needs => quote!(::ringfence_sdk::rt::Anything),
        Takes::Payload if needs.is_empty() => {
            return Err(Error::new(function.sig.span(), "its first parameter is what is handed over"));
        }
        Takes::Payload => needs.remove(0).1.to_token_stream(),
    };
    let taken = (handler.takes == Takes::Payload).then(|| quote!(payload,));
    let (bindings, names) = bindings(&needs);
    let (call, wait) = (&function.sig.ident, function.sig.asyncness.map(|_| quote!(.await)));
    let (kind, export) = (format_ident!("{}", handler.kind), format_ident!("export_{}", handler.kind));
    Ok(quote! {
        #function

        const _: () = {
            struct Plugin;

            impl ::ringfence_sdk::rt::#kind::exports::ringfence::plugin::#kind::Guest for Plugin {
                fn handle(
                    payload: ::std::vec::Vec<u8>,
                    context: ::ringfence_sdk::rt::EventContext,
                ) -> ::core::result::Result<::std::vec::Vec<u8>, ::ringfence_sdk::rt::EventFailure> {
                    ::ringfence_sdk::rt::event(
                        #name,
                        &payload,
                        context,
                        async |payload: #payload, mut call: ::ringfence_sdk::Call| {
                            let _ = (&mut call, &payload);
                            #(#bindings)*
                            #call(#taken #(#names),*)#wait
                        },
                    )
                }
            }

            ::ringfence_sdk::rt::#kind::#export!(Plugin with_types_in ::ringfence_sdk::rt::#kind);
        };
    }
    .into())
}

/// The parameters with their types.
fn needs(function: &ItemFn) -> syn::Result<Vec<(Ident, &Type)>> {
    let signature = &function.sig;
    if !signature.generics.params.is_empty() {
        return Err(Error::new(
            signature.generics.span(),
            "a plugin function has no generics: its needs must be plain",
        ));
    }
    let typed = signature.inputs.iter().enumerate().map(|(index, input)| match input {
        FnArg::Typed(parameter) => Ok((format_ident!("need_{index}"), &*parameter.ty)),
        FnArg::Receiver(_) => Err(Error::new(input.span(), "a plugin is a free function, not a method")),
    });
    typed.collect()
}

/// What binds them, and their names.
fn bindings<'a>(needs: &'a [(Ident, &Type)]) -> (Vec<proc_macro2::TokenStream>, Vec<&'a Ident>) {
    let bind = |(name, kind): &(Ident, &Type)| {
        quote_spanned! {kind.span()=>
            let #name = <#kind as ::ringfence_sdk::FromHost>::from_host(&mut call)?;
        }
    };
    (needs.iter().map(bind).collect(), needs.iter().map(|(name, _)| name).collect())
}

fn expand(function: &ItemFn) -> syn::Result<TokenStream> {
    let signature = &function.sig;
    let needs = needs(function)?;
    let (bindings, names) = bindings(&needs);
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
