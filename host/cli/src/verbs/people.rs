//! `person` and `provider`: who signs in to a tenant or the host, and at which identity providers.
//!
//! Must never show an invitation twice, nor take a client's secret from the command line.

use std::path::Path;

use clap::ValueEnum;
use ringfence_control::wire::{
    ClaimRoleWord, IdentityProvider, IdentityProviderView, InvitedPerson, NewPersonBody, PersonView, SignInSettingsView,
};
use ringfence_core::ResourceName;

use crate::Format;
use crate::args::{
    OperatorArgs, PersonCommand, PersonInviteArgs, PersonNameArgs, PersonResetArgs, ProviderAddArgs, ProviderCommand,
    RoleArg,
};
use crate::client::{Answer, Api, Request};
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::table::table;
use crate::ui::read_capped;
use crate::verbs::tokens::write_key;

/// LIMIT: longest secret of a client, in bytes.
const SECRET_BYTES_MAX: usize = 4_096;

/// `ringfence person ...`.
pub async fn person(cx: &mut Context<'_>, command: &PersonCommand) -> Result<Exit, CliError> {
    match command {
        PersonCommand::Invite(args) => invite(cx, args).await,
        PersonCommand::List(args) => list(cx, args).await,
        PersonCommand::Show(args) => show(cx, args).await,
        PersonCommand::Remove(args) => remove(cx, args).await,
        PersonCommand::Reset(args) => reset(cx, args).await,
    }
}

/// `ringfence provider ...`.
pub async fn provider(cx: &mut Context<'_>, command: &ProviderCommand) -> Result<Exit, CliError> {
    let (api, tenant) = cx.tenant().await?;
    let path = format!("/tenants/{tenant}/sign-in");
    match command {
        ProviderCommand::Add(args) => {
            let body = serde_json::to_value(wanted(cx, args)?).unwrap_or_default();
            let request = Request::put(format!("{path}/providers/{}", args.name), body);
            let answer = api.send::<IdentityProviderView>(&request).await?;
            let next = format!("ringfence login --tenant {tenant} --provider {}", args.name);
            cx.print(&answer, |view| format!("trusts {} ({})\n  next: {next}", view.name, view.issuer))?;
        }
        ProviderCommand::List => {
            let answer = api.send::<SignInSettingsView>(&Request::get(path)).await?;
            let text = serde_json::to_string(&answer.value.identity_providers).unwrap_or_default();
            let answer = Answer { value: answer.value.identity_providers, text, status: answer.status };
            cx.print_list(&answer, "no identity providers", providers_text)?;
        }
        ProviderCommand::Remove(args) => {
            let question = format!(
                "Trust `{}` no longer? Whoever signed in at a provider of this tenant is signed out.",
                args.name
            );
            cx.ui.confirm(&format!("provider remove {}", args.name), &question)?;
            api.act(&Request::delete(format!("{path}/providers/{}", args.name))).await?;
            cx.done(&format!("removed {}", args.name))?;
        }
    }
    Ok(Exit::Ok)
}

async fn invite(cx: &mut Context<'_>, args: &PersonInviteArgs) -> Result<Exit, CliError> {
    let (api, path) = place(cx, args.role == RoleArg::Operator).await?;
    let role = args.role.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    send_invitation(cx, &api, path, &args.name, role, args.out.as_deref()).await
}

async fn list(cx: &mut Context<'_>, args: &OperatorArgs) -> Result<Exit, CliError> {
    let (api, path) = place(cx, args.operator).await?;
    let answer = api.list::<PersonView>(&Request::get(path), "cursor").await?;
    cx.print_list(&answer, "no people", |people| {
        let row = |one: &PersonView| {
            let since = one.enrolled_at.clone().unwrap_or_else(|| one.invited_at.clone());
            [one.name.clone(), one.role.clone(), one.state.clone(), since, one.invited_by.clone()]
        };
        table(["name", "role", "state", "since", "invited by"], &people.iter().map(row).collect::<Vec<_>>())
    })?;
    Ok(Exit::Ok)
}

async fn show(cx: &mut Context<'_>, args: &PersonNameArgs) -> Result<Exit, CliError> {
    let (api, path) = place(cx, args.operator).await?;
    let found = find(&api, path, &args.name).await?;
    match cx.ui.format {
        Format::Json => cx.ui.json(&found)?,
        Format::Text => {
            let enrolled = found.enrolled_at.as_deref().unwrap_or("not yet");
            cx.ui.text(&format!(
                "person    {}\nrole      {}\nstate     {}\ninvited   {} by {}\nenrolled  {enrolled}",
                found.principal, found.role, found.state, found.invited_at, found.invited_by
            ))?;
        }
    }
    Ok(Exit::Ok)
}

async fn remove(cx: &mut Context<'_>, args: &PersonNameArgs) -> Result<Exit, CliError> {
    let question = format!("Remove `{}`? He is signed out at once and cannot sign in again.", args.name);
    cx.ui.confirm(&format!("person remove {}", args.name), &question)?;
    let (api, path) = place(cx, args.operator).await?;
    api.act(&Request::delete(format!("{path}/{}", args.name))).await?;
    cx.done(&format!("removed {}", args.name))?;
    Ok(Exit::Ok)
}

async fn reset(cx: &mut Context<'_>, args: &PersonResetArgs) -> Result<Exit, CliError> {
    let name = &args.person.name;
    let question = format!(
        "Take away the password, codes and passkeys of `{name}`? He is signed out and needs the new invitation."
    );
    cx.ui.confirm(&format!("person reset {name}"), &question)?;
    let (api, path) = place(cx, args.person.operator).await?;
    let found = find(&api, path.clone(), name).await?;
    send_invitation(cx, &api, path, name, found.role, args.out.as_deref()).await
}

async fn send_invitation(
    cx: &mut Context<'_>,
    api: &Api,
    path: String,
    name: &ResourceName,
    role: String,
    out: Option<&Path>,
) -> Result<Exit, CliError> {
    if let Some(out) = out.filter(|out| out.exists()) {
        return Err(CliError::failed("file", format!("`{}` exists already", out.display()), None));
    }
    let body = serde_json::to_value(NewPersonBody { name: name.to_string(), role }).unwrap_or_default();
    let answer = api.send::<InvitedPerson>(&Request::post(path, body)).await?;
    let written = out.map(|out| write_key(out, &answer.value.invitation)).transpose();
    // An invitation that could not be written is better on the terminal than lost: the person was replaced by it.
    print_invitation(cx, &answer, out.filter(|_| written.is_ok()))?;
    written.map(|_| Exit::Ok)
}

fn print_invitation(cx: &mut Context<'_>, answer: &Answer<InvitedPerson>, out: Option<&Path>) -> Result<(), CliError> {
    let InvitedPerson { person, invitation, expires_at } = &answer.value;
    match (cx.ui.format, out) {
        (Format::Json, None) => cx.print(answer, |_| String::new()),
        (Format::Json, Some(_)) => cx.ui.json(person),
        (Format::Text, None) => {
            cx.ui.note(&format!(
                "invited {} ({}) until {expires_at}; it cannot be shown again\n  next: ringfence login --invited",
                person.principal, person.role
            ));
            cx.ui.text(invitation)
        }
        (Format::Text, Some(out)) => {
            let (principal, role) = (&person.principal, &person.role);
            cx.ui.text(&format!(
                "wrote the invitation of {principal} ({role}), until {expires_at}, to {}",
                out.display()
            ))
        }
    }
}

async fn find(api: &Api, path: String, name: &ResourceName) -> Result<PersonView, CliError> {
    let answer = api.list::<PersonView>(&Request::get(path), "cursor").await?;
    let found = answer.value.into_iter().find(|person| person.name == name.as_str());
    found.ok_or_else(|| CliError::NoSuch { what: format!("nobody is called `{name}` here") })
}

async fn place(cx: &Context<'_>, operator: bool) -> Result<(Api, String), CliError> {
    if operator {
        return Ok((cx.operator()?, "/people".to_owned()));
    }
    let (api, tenant) = cx.tenant().await?;
    Ok((api, format!("/tenants/{tenant}/people")))
}

fn wanted(cx: &mut Context<'_>, args: &ProviderAddArgs) -> Result<IdentityProvider, CliError> {
    let client_secret = match (&args.secret_file, args.public) {
        (Some(path), _) => {
            let mut file = std::fs::File::open(path).map_err(|error| CliError::file("read", path, &error))?;
            let text = String::from_utf8(read_capped(&mut file, SECRET_BYTES_MAX, "the file of the secret")?).ok();
            let text = text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
            Some(text.ok_or_else(|| CliError::failed("input", "the file of the secret holds no text", None))?)
        }
        (None, true) => None,
        (None, false) => {
            let secret = cx.ui.ask_secret("secret of the client", "`--secret-file FILE` or `--public`")?;
            Some(secret.reveal().trim().to_owned()).filter(|secret| !secret.is_empty())
        }
    };
    let role = |one: &crate::words::ClaimToRole| ClaimRoleWord {
        claim: one.claim.clone(),
        value: one.value.clone(),
        role: one.role.clone(),
    };
    Ok(IdentityProvider {
        name: args.name.to_string(),
        issuer: args.issuer.clone(),
        client_id: args.client_id.clone(),
        client_secret,
        redirect_uris: args.redirect.clone(),
        roles: args.role.iter().map(role).collect(),
    })
}

fn providers_text(providers: &[IdentityProviderView]) -> String {
    let row = |one: &IdentityProviderView| {
        let roles: Vec<String> =
            one.roles.iter().map(|role| format!("{}={}:{}", role.claim, role.value, role.role)).collect();
        let secret = if one.has_secret { "yes" } else { "no" };
        [one.name.clone(), one.issuer.clone(), one.client_id.clone(), secret.to_owned(), roles.join(" ")]
    };
    table(["name", "issuer", "client", "secret", "roles"], &providers.iter().map(row).collect::<Vec<_>>())
}
