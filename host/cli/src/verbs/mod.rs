//! From a parsed command line to the verb that does it.

use crate::args::{
    BackupCommand, Command, ConfigCommand, PiiCommand, PiiFieldsCommand, QuotaCommand, SecretCommand, TenantCommand,
    TokenCommand, UsageCommand, command,
};
use crate::context::Context;
use crate::error::{CliError, Exit};

pub mod access;
pub mod approvals;
pub mod audit;
mod audit_keeping;
mod audit_views;
pub mod automation;
pub mod backup;
pub mod call;
mod checks;
pub mod data;
mod devices;
pub mod grants;
pub mod keys;
pub mod local;
pub mod logs;
mod outward;
pub mod people;
pub mod pii;
pub mod policies;
pub mod quota;
pub mod runs;
pub mod session;
mod sessions;
pub mod ship;
mod sign_in;
pub mod tenants;
mod threat;
pub mod tokens;
pub mod top;
mod trust;
pub mod usage;
pub mod watch;

/// Runs a verb that speaks to a host, or needs none. Those of the host's own side are handed out before.
pub async fn run(cx: &mut Context<'_>, verb: &Command) -> Result<Exit, CliError> {
    match verb {
        Command::New(args) => local::new(cx, args),
        Command::Build(args) => local::build(cx, args),
        Command::Inspect(args) => local::inspect(cx, args),
        Command::Completions(args) => local::completions(cx, args, command()),
        Command::Version => local::version(cx),
        Command::Call(args) => call::call(cx, args).await,
        Command::Push(args) => ship::push(cx, args).await,
        Command::Deploy(args) => ship::deploy(cx, args).await,
        Command::Rollback(args) => ship::rollback(cx, args).await,
        Command::Diff(args) => ship::diff(cx, args).await,
        Command::Logs(args) => logs::logs(cx, args).await,
        Command::Status(args) => watch::status(cx, args).await,
        Command::Top(args) => top::top(cx, args).await,
        Command::Why(args) => policies::why(cx, args).await,
        Command::Grant(args) => grants::grant(cx, args).await,
        Command::Revoke(args) => grants::revoke(cx, args).await,
        Command::Grants(args) => grants::grants(cx, args).await,
        Command::Login(args) => session::login(cx, args).await,
        Command::Whoami => session::whoami(cx).await,
        Command::Use(args) => session::choose(cx, args).await,
        nouns => run_noun(cx, nouns).await,
    }
}

async fn run_noun(cx: &mut Context<'_>, noun: &Command) -> Result<Exit, CliError> {
    match noun {
        Command::Usage(args) => match &args.command {
            None => usage::usage(cx, args).await,
            Some(UsageCommand::Receipts) => usage::receipts(cx).await,
            Some(UsageCommand::Receipt(args)) => usage::receipt(cx, args).await,
            Some(UsageCommand::Verify(args)) => usage::verify(cx, args),
        },
        Command::Secret(SecretCommand::Set(args)) => data::secret_set(cx, args).await,
        Command::Secret(SecretCommand::List) => data::secret_list(cx).await,
        Command::Secret(SecretCommand::Delete(args)) => data::secret_delete(cx, args).await,
        Command::Config(ConfigCommand::Set(args)) => data::config_set(cx, args).await,
        Command::Config(ConfigCommand::List(args)) => data::config_list(cx, args).await,
        Command::Config(ConfigCommand::Delete(args)) => data::config_delete(cx, args).await,
        Command::Pii(PiiCommand::Fields(PiiFieldsCommand::Show(args))) => pii::fields_show(cx, args).await,
        Command::Pii(PiiCommand::Fields(PiiFieldsCommand::Set(args))) => pii::fields_set(cx, args).await,
        Command::Pii(PiiCommand::Show(args)) => pii::show(cx, args).await,
        Command::Pii(PiiCommand::Erase(args)) => pii::erase(cx, args).await,
        Command::Hook(command) => automation::hook(cx, command).await,
        Command::Queue(command) => automation::queue(cx, command).await,
        Command::Schedule(command) => automation::schedule(cx, command).await,
        Command::Tenant(TenantCommand::Create(args)) => tenants::create(cx, args).await,
        Command::Tenant(TenantCommand::List) => tenants::list(cx).await,
        Command::Tenant(TenantCommand::Show(args)) => tenants::show(cx, args).await,
        Command::Tenant(TenantCommand::Suspend(args)) => tenants::suspend(cx, args).await,
        Command::Tenant(TenantCommand::Resume(args)) => tenants::resume(cx, args).await,
        Command::Tenant(TenantCommand::Delete(args)) => tenants::delete(cx, args).await,
        Command::Token(TokenCommand::Create(args)) => tokens::create(cx, args).await,
        Command::Token(TokenCommand::List(args)) => tokens::list(cx, args).await,
        Command::Token(TokenCommand::Revoke(args)) => tokens::revoke(cx, args).await,
        Command::Person(command) => people::person(cx, command).await,
        Command::Provider(command) => people::provider(cx, command).await,
        Command::Session(command) => sessions::session(cx, command).await,
        Command::Factor(command) => sessions::factor(cx, command).await,
        Command::Device(command) => devices::run(cx, command).await,
        Command::Trust(command) => trust::run(cx, command).await,
        Command::Access(command) => access::run(cx, command).await,
        Command::Quota(QuotaCommand::Show(args)) => quota::show(cx, args).await,
        Command::Quota(QuotaCommand::Set(args)) => quota::set(cx, args).await,
        Command::Backup(BackupCommand::Create(args)) => backup::create(cx, args).await,
        Command::Backup(BackupCommand::List) => backup::list(cx).await,
        Command::Backup(BackupCommand::Verify(args)) => backup::verify(cx, args).await,
        Command::Backup(BackupCommand::Drill(args)) => backup::drill(cx, args).await,
        Command::Backup(BackupCommand::Delete(args)) => backup::delete(cx, args).await,
        Command::Backup(BackupCommand::RecoveryKey(args)) => backup::recovery_key(cx, args).await,
        Command::Backup(BackupCommand::Damage) => backup::damage(cx).await,
        Command::Backup(BackupCommand::RemoveDamaged(args)) => backup::remove_damaged(cx, args).await,
        Command::Run(command) => runs::run(cx, command).await,
        Command::Restore(args) => backup::restore(cx, args).await,
        Command::Key(command) => keys::run(cx, command).await,
        Command::Threat(command) => threat::run(cx, command).await,
        Command::Policy(policy) => policies::run(cx, policy).await,
        Command::Approval(approval) => approvals::approval(cx, approval).await,
        Command::Elevation(elevation) => approvals::elevation(cx, elevation).await,
        Command::Audit(command) => audit::run(cx, command).await,
        // The host's own side has been handed out by the caller.
        _ => Ok(Exit::Failed),
    }
}
