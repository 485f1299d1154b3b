//! `threat`: findings, rules, responses, intelligence, incidents, drills.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{AssessArgs, DestinationCommand, FeedCommand};

/// `threat ...`.
#[derive(Debug, Subcommand)]
pub enum ThreatCommand {
    /// List findings, newest first
    #[command(alias = "findings")]
    List(FindingsArgs),
    /// List the rules that apply
    Rules,
    /// Write a text of rules (Sigma YAML)
    RulesPut(RulesPutArgs),
    /// Delete a text of your own rules
    RulesDelete(RulesDeleteArgs),
    /// Show how detection acts, or set it from a file
    Settings(ThreatSettingsArgs),
    /// List responses, those that are over too
    Responses,
    /// Hold something against a principal, a source, a version or a tenant
    Respond(RespondArgs),
    /// Agree to a response that another person asked for
    Approve(ResponseApproveArgs),
    /// Take a response back
    Undo(UndoArgs),
    /// Play the attacks of the shipped rules and measure what comes of them
    Drill(DrillArgs),
    /// Show threat intelligence, or load a STIX 2.1 bundle
    Intel(IntelArgs),
    /// Ask today's rules of a stretch of the log
    Assess(AssessArgs),
    /// Channels that tell people of findings
    #[command(subcommand)]
    Channel(DestinationCommand),
    /// Feeds of intelligence, asked by the host
    #[command(subcommand)]
    Feed(FeedCommand),
    /// Incidents: open, step on, show
    #[command(subcommand)]
    Incident(IncidentCommand),
}

/// `threat list`, which answers to `threat findings` too.
#[derive(Debug, Clone, Args)]
pub struct FindingsArgs {
    /// For other tools
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<FindingsFormatArg>,
}

/// What findings are told as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FindingsFormatArg {
    /// STIX 2.1: a bundle a line, without drills
    Stix,
}

/// `threat rules-put`.
#[derive(Debug, Clone, Args)]
pub struct RulesPutArgs {
    /// What to call the text
    pub name: String,
    /// The file
    pub file: PathBuf,
}

/// `threat rules-delete`.
#[derive(Debug, Clone, Args)]
pub struct RulesDeleteArgs {
    /// The text's name
    pub name: String,
}

/// `threat settings`.
#[derive(Debug, Clone, Args)]
pub struct ThreatSettingsArgs {
    /// A JSON file with the settings to put into force
    #[arg(long, value_name = "FILE")]
    pub set: Option<PathBuf>,
}

/// `threat respond`.
#[derive(Debug, Clone, Args)]
pub struct RespondArgs {
    /// What is done, such as suspend-principal
    pub kind: String,
    /// Why
    #[arg(long)]
    pub reason: String,
    /// Against whom
    #[arg(long, value_name = "PRINCIPAL")]
    pub principal: Option<String>,
    /// Against an address
    #[arg(long, value_name = "ADDRESS")]
    pub source: Option<String>,
    /// Against a component
    #[arg(long, value_name = "DIGEST")]
    pub digest: Option<String>,
    /// Against a plugin
    #[arg(long, value_name = "PLUGIN")]
    pub plugin: Option<String>,
    /// In this tenant; for operators
    #[arg(long, value_name = "TENANT")]
    pub of: Option<String>,
    /// For how long
    #[arg(long, value_name = "MINUTES", default_value_t = 60)]
    pub minutes: u32,
    /// The pace of a rate limit, requests a minute
    #[arg(long, value_name = "COUNT")]
    pub per_minute: Option<u32>,
    /// The finding it answers
    #[arg(long, value_name = "ID")]
    pub finding: Option<String>,
    /// Only say whom it would touch
    #[arg(long)]
    pub dry_run: bool,
}

/// `threat approve`.
#[derive(Debug, Clone, Args)]
pub struct ResponseApproveArgs {
    /// The response
    pub id: String,
}

/// `threat undo`.
#[derive(Debug, Clone, Args)]
pub struct UndoArgs {
    /// The response
    pub id: String,
}

/// `threat drill`.
#[derive(Debug, Clone, Args)]
pub struct DrillArgs {
    /// How often each attack is played
    #[arg(long, default_value_t = 1)]
    pub rounds: u32,
}

/// `threat intel`.
#[derive(Debug, Clone, Args)]
pub struct IntelArgs {
    /// A STIX 2.1 bundle to load
    #[arg(long, value_name = "FILE")]
    pub load: Option<PathBuf>,
    /// What to call its feed
    #[arg(long, value_name = "NAME", default_value = "upload")]
    pub feed: String,
    /// Confidence below which what is loaded is not matched, 0 to 100
    #[arg(long, value_name = "NUMBER", requires = "load")]
    pub confidence_min: Option<u32>,
    /// Days in which its confidence halves; it stays without
    #[arg(long, value_name = "DAYS", requires = "load")]
    pub half_life_days: Option<u32>,
}

/// `threat incident ...`.
#[derive(Debug, Subcommand)]
pub enum IncidentCommand {
    /// List incidents, newest first
    List,
    /// Show an incident with drafts of the notices that are due
    Show(IncidentShowArgs),
    /// Open an incident
    Open(IncidentOpenArgs),
    /// Take a step: triage it, declare it, and so on to its end
    Step(IncidentStepArgs),
}

/// `threat incident show`.
#[derive(Debug, Clone, Args)]
pub struct IncidentShowArgs {
    /// The incident
    pub id: String,
}

/// `threat incident open`.
#[derive(Debug, Clone, Args)]
pub struct IncidentOpenArgs {
    /// What it is
    pub title: String,
    /// Why it is opened
    #[arg(long)]
    pub reason: String,
    /// How bad: informational, low, medium, high, critical
    #[arg(long)]
    pub level: Option<String>,
    /// A finding, a place in a log, a document; again for more
    #[arg(long, value_name = "LINK")]
    pub evidence: Vec<String>,
}

/// `threat incident step`.
#[derive(Debug, Clone, Args)]
pub struct IncidentStepArgs {
    /// The incident
    pub id: String,
    /// triage, declare, dismiss, note, contain, eradicate, recover, close, improve, approve-action
    #[arg(value_name = "STEP")]
    pub transition: String,
    /// Why
    #[arg(long)]
    pub reason: String,
    /// A finding, a place in a log, a document; again for more
    #[arg(long, value_name = "LINK")]
    pub evidence: Vec<String>,
    /// Whether personal data is concerned: unknown, concerned, untouched
    #[arg(long, value_name = "WORD")]
    pub personal_data: Option<String>,
    /// Where the people concerned are, which starts its clock: uk, eu, ireland, jersey, guernsey, isle-of-man; again
    /// for more
    #[arg(long, value_name = "PLACE")]
    pub jurisdiction: Vec<String>,
}
