//! The command tree with what derive cannot say: groups of verbs, examples first, 80 columns.
//!
//! Must name every verb that is not hidden; a test walks the tree.

use std::fmt::Write as _;

use clap::{Arg, ArgAction, Command, CommandFactory};

use super::Cli;

/// Widest line of any help text, in columns.
const HELP_COLUMNS_MAX: usize = 80;

const ROOT_TEMPLATE: &str = "{about}\n\n{usage-heading} {usage}\n\n{before-help}Global:\n{options}{after-help}\n";
const GROUP_TEMPLATE: &str = "{about}\n\n{usage-heading} {usage}\n\nCommands:\n{subcommands}\n\nGlobal:\n{options}\n";
const LEAF_TEMPLATE: &str = "{about}{after-help}\n\n{usage-heading} {usage}\n\n{all-args}\n";

/// Groups of the root's help, in order.
const GROUPS: &[(&str, &[&str])] = &[
    ("Make", &["new", "build", "inspect", "call"]),
    ("Ship", &["push", "deploy", "rollback", "diff"]),
    ("See", &["logs", "status", "usage", "top", "why"]),
    ("Give", &["grant", "revoke", "grants", "secret", "config", "pii"]),
    ("Automate", &["hook", "queue", "schedule", "run"]),
    (
        "Govern",
        &[
            "tenant",
            "quota",
            "key",
            "token",
            "person",
            "provider",
            "session",
            "device",
            "trust",
            "access",
            "policy",
            "approval",
            "elevation",
            "audit",
            "threat",
        ],
    ),
    ("Operate", &["serve", "doctor", "store", "backup", "restore"]),
    ("Self", &["login", "whoami", "factor", "use", "completions", "version"]),
];

/// Examples of each leaf, by its words.
const EXAMPLES: &[(&str, &str)] = &[
    ("new", "ringfence new visits"),
    ("build", "ringfence build\nringfence build plugins/visits"),
    ("inspect", "ringfence inspect visits.wasm"),
    ("call", "ringfence call visits /ada\nringfence call redact / --data @letter.txt"),
    ("push", "ringfence push\nringfence push plugins/visits"),
    ("deploy", "ringfence deploy visits@0.1.0\nringfence deploy visits@0.2.0 --percent 10"),
    ("rollback", "ringfence rollback visits"),
    ("diff", "ringfence diff visits@0.1.0 0.2.0"),
    ("hook list", "ringfence hook list"),
    ("hook declare", "ringfence hook declare visit.validate point.json"),
    ("hook earlier", "ringfence hook earlier visit.validate"),
    ("hook withdraw", "ringfence hook withdraw visit.validate"),
    ("hook bind", "ringfence hook bind visit.validate care-visit"),
    ("hook unbind", "ringfence hook unbind visit.validate care-visit"),
    ("hook call", "ringfence hook call visit.validate visit.json --dry-run"),
    ("queue list", "ringfence queue list"),
    ("queue delete", "ringfence queue delete mail"),
    ("queue dead", "ringfence queue dead mail"),
    ("queue redrive", "ringfence queue redrive mail"),
    ("queue discard", "ringfence queue discard mail mail/1790000000000001\nringfence queue discard _hooks --all"),
    ("queue set", "ringfence queue set mail --plugin mailer --concurrency 8"),
    ("queue send", "ringfence queue send mail message.json --once order-7"),
    ("schedule list", "ringfence schedule list"),
    ("schedule set", "ringfence schedule set nightly nightly \"30 2 * * *\""),
    ("schedule delete", "ringfence schedule delete nightly"),
    ("schedule pause", "ringfence schedule pause nightly"),
    ("schedule resume", "ringfence schedule resume nightly"),
    ("schedule run", "ringfence schedule run nightly"),
    ("logs", "ringfence logs visits\nringfence logs visits --no-follow --limit 20"),
    ("backup create", "ringfence backup create\nringfence backup create --incremental"),
    ("backup list", "ringfence backup list"),
    ("backup verify", "ringfence backup verify b_u5ikx6nyz2ehd2sylqkcbxm7sa.rfb --recovery-key acme.key"),
    ("backup drill", "ringfence backup drill b_u5ikx6nyz2ehd2sylqkcbxm7sa"),
    ("backup delete", "ringfence backup delete b_u5ikx6nyz2ehd2sylqkcbxm7sa"),
    ("backup recovery-key", "ringfence backup recovery-key --out acme.key"),
    ("backup damage", "ringfence backup damage"),
    ("backup remove-damaged", "ringfence backup remove-damaged 9f86d081884c7d65"),
    (
        "restore",
        "ringfence restore b_u5ikx6nyz2ehd2sylqkcbxm7sa --replace\nringfence restore b_u5ikx6nyz2ehd2sylqkcbxm7sa --into acme-2",
    ),
    ("run list", "ringfence run list\nringfence run list --status stuck"),
    ("run show", "ringfence run show run_u5ikx6nyz2ehd2sylqkcbxm7sa"),
    ("run start", "ringfence run start checkout @order.json\nringfence run start checkout @order.json --once order-17"),
    ("run cancel", "ringfence run cancel run_u5ikx6nyz2ehd2sylqkcbxm7sa"),
    ("run terminate", "ringfence run terminate run_u5ikx6nyz2ehd2sylqkcbxm7sa"),
    ("run pause", "ringfence run pause run_u5ikx6nyz2ehd2sylqkcbxm7sa"),
    ("run resume", "ringfence run resume run_u5ikx6nyz2ehd2sylqkcbxm7sa"),
    ("run retry", "ringfence run retry run_u5ikx6nyz2ehd2sylqkcbxm7sa --from 2"),
    ("run migrate", "ringfence run migrate run_u5ikx6nyz2ehd2sylqkcbxm7sa 0.2.0"),
    ("run signal", "ringfence run signal run_u5ikx6nyz2ehd2sylqkcbxm7sa go"),
    ("run approve", "ringfence run approve run_u5ikx6nyz2ehd2sylqkcbxm7sa payment"),
    ("run query", "ringfence run query run_u5ikx6nyz2ehd2sylqkcbxm7sa parcel"),
    ("status", "ringfence status\nringfence status visits"),
    ("usage", "ringfence usage\nringfence usage --by-day --from 2026-11-01T00:00:00Z"),
    ("usage receipts", "ringfence usage receipts"),
    ("usage receipt", "ringfence usage receipt 2026-11-21 > 2026-11-21.receipt"),
    (
        "usage verify",
        "ringfence usage verify 2026-11-21.receipt --vkey acme.vkey\n\
         ringfence usage verify 2026-11-20.receipt 2026-11-21.receipt \\\n    --vkey acme.vkey",
    ),
    ("top", "ringfence top\nringfence top --once --json"),
    ("why", "ringfence why d_u5ikx6nyz2ehd2sylqkcbxm7sa"),
    ("grant", "ringfence grant visits keyvalue default\nringfence grant visits http https://api.example.com"),
    ("revoke", "ringfence revoke visits http"),
    ("grants", "ringfence grants visits"),
    ("threat list", "ringfence threat list\nringfence threat list --format stix > findings.json"),
    ("threat rules", "ringfence threat rules"),
    ("threat rules-put", "ringfence threat rules-put night-pushes night-pushes.yml"),
    ("threat rules-delete", "ringfence threat rules-delete night-pushes"),
    ("threat settings", "ringfence threat settings\nringfence threat settings --set threat.json"),
    ("threat responses", "ringfence threat responses"),
    (
        "threat respond",
        "ringfence threat respond suspend-principal --principal acme/ci \\\n    --reason \"its key was seen in a paste\" --dry-run",
    ),
    ("threat approve", "ringfence threat approve rs_u5ikx6nyz2ehd2sylqkcbxm7sa"),
    ("threat undo", "ringfence threat undo rs_u5ikx6nyz2ehd2sylqkcbxm7sa"),
    ("threat drill", "ringfence threat drill\nringfence threat drill --rounds 5"),
    ("threat intel", "ringfence threat intel\nringfence threat intel --load bundle.json --feed partner"),
    ("threat incident list", "ringfence threat incident list"),
    ("threat incident show", "ringfence threat incident show in_u5ikx6nyz2ehd2sylqkcbxm7sa"),
    ("threat incident open", "ringfence threat incident open \"key in a paste\" --reason \"told by a partner\""),
    (
        "threat incident step",
        "ringfence threat incident step in_u5ikx6nyz2ehd2sylqkcbxm7sa triage \\\n    --reason \"the key was used\"",
    ),
    ("key list", "ringfence key list"),
    ("key status", "ringfence key status acme"),
    ("key rotate", "ringfence key rotate acme\nringfence key rotate --root"),
    ("key disable", "ringfence key disable acme"),
    ("key enable", "ringfence key enable acme"),
    ("key own", "ringfence key own acme"),
    ("key disown", "ringfence key disown acme"),
    ("key destroy", "ringfence key destroy acme"),
    ("key approve", "ringfence key approve acme"),
    ("key receipts", "ringfence key receipts"),
    ("key receipt", "ringfence key receipt 412 > acme.receipt"),
    ("key verify", "ringfence key verify acme.receipt --vkey host.vkey"),
    ("secret set", "ringfence secret set webhook-key\nringfence secret set webhook-key --file key.bin"),
    ("secret list", "ringfence secret list"),
    ("secret delete", "ringfence secret delete webhook-key"),
    ("config set", "ringfence config set webhook forward-url https://api.example.com"),
    ("config list", "ringfence config list webhook"),
    ("config delete", "ringfence config delete webhook forward-url"),
    ("pii fields show", "ringfence pii fields show care-note"),
    ("pii fields set", "ringfence pii fields set care-note fields.json"),
    ("pii show", "ringfence pii show patient-17"),
    ("pii erase", "ringfence pii erase patient-17"),
    ("config show", "ringfence config show --origin --config ringfence.toml"),
    ("tenant create", "ringfence tenant create acme --display-name \"Acme Ltd\""),
    ("tenant list", "ringfence tenant list"),
    ("tenant show", "ringfence tenant show acme"),
    ("tenant suspend", "ringfence tenant suspend acme"),
    ("tenant resume", "ringfence tenant resume acme"),
    ("tenant delete", "ringfence tenant delete acme"),
    (
        "token create",
        "ringfence token create ada --tenant acme --role tenant-admin\n\
         ringfence token create ci --role developer --expires 30d --key-file ci.key\n\
         ringfence token create door --role caller --acts invoke --plugins hello",
    ),
    ("token list", "ringfence token list\nringfence token list --operator"),
    ("token revoke", "ringfence token revoke k7m2q4"),
    (
        "person invite",
        "ringfence person invite ann --role developer\n\
         ringfence person invite bob --role operator --out bob.invitation",
    ),
    ("person list", "ringfence person list\nringfence person list --operator"),
    ("person show", "ringfence person show ann"),
    ("person remove", "ringfence person remove ann"),
    ("person reset", "ringfence person reset ann"),
    (
        "provider add",
        "ringfence provider add corp --issuer https://id.example.com \\\n    \
         --client-id ringfence --role groups=devs:developer --public",
    ),
    ("provider list", "ringfence provider list"),
    ("provider remove", "ringfence provider remove corp"),
    ("session list", "ringfence session list\nringfence session list --own"),
    ("session end", "ringfence session end s_u5ikx6nyz2ehd2sylqkcbxm7sa"),
    ("factor show", "ringfence factor show"),
    ("factor codes", "ringfence factor codes"),
    ("factor confirm", "ringfence factor confirm"),
    ("factor remove-codes", "ringfence factor remove-codes"),
    ("factor password", "ringfence factor password"),
    ("device list", "ringfence device list\nringfence device list --own"),
    ("device show", "ringfence device show ann laptop"),
    ("device revoke", "ringfence device revoke ann laptop"),
    ("trust score", "ringfence trust score\nringfence trust score --subject acme/ann"),
    (
        "trust settings",
        "ringfence trust settings\nringfence trust settings --set trust.json\nringfence trust settings --operator",
    ),
    ("trust posture", "ringfence trust posture\nringfence trust posture --operator"),
    ("trust risk list", "ringfence trust risk list"),
    (
        "trust risk raise",
        "ringfence trust risk raise acme/ann --by 30 --for 12h \\\n    --reason \"signed in from two countries\"\n\
         ringfence trust risk raise acme/plugin/hello --at-least 50 --for 7d \\\n    --reason \"its maker was breached\"",
    ),
    (
        "trust risk lower",
        "ringfence trust risk lower acme/ann --by 20 --for 12h \\\n    --reason \"on call from a new place\"",
    ),
    ("trust risk approve", "ringfence trust risk approve ra_0f3a9c5d2e7b18460f3a9c5d2e7b1846"),
    ("trust risk withdraw", "ringfence trust risk withdraw ra_0f3a9c5d2e7b18460f3a9c5d2e7b1846"),
    ("access report", "ringfence access report\nringfence access report --unused 30"),
    (
        "access review open",
        "ringfence access review open autumn --reviewer acme/ann --due 14d\n\
         ringfence access review open keys --reviewer acme/ann --due 7d \\\n    --of keys --revoke-overdue",
    ),
    ("access review list", "ringfence access review list"),
    ("access review show", "ringfence access review show rv_u5ikx6nyz2ehd2sylqkcbxm7sa"),
    (
        "access review decide",
        "ringfence access review decide rv_u5ikx6nyz2ehd2sylqkcbxm7sa 3 revoke \\\n    --reason \"left the team\"",
    ),
    ("access review close", "ringfence access review close rv_u5ikx6nyz2ehd2sylqkcbxm7sa"),
    ("access review export", "ringfence access review export rv_u5ikx6nyz2ehd2sylqkcbxm7sa \\\n    --out autumn.json"),
    ("quota show", "ringfence quota show acme"),
    ("quota set", "ringfence quota set acme --plan standard\nringfence quota set acme --cpu-permille 500 --plugins 20"),
    ("policy show", "ringfence policy show"),
    ("policy versions", "ringfence policy versions"),
    ("policy test", "ringfence policy test acme.cedar"),
    ("policy diff", "ringfence policy diff acme.cedar"),
    ("policy apply", "ringfence policy apply acme.cedar\nringfence policy apply acme.cedar --note \"open the hook\""),
    ("policy shadow", "ringfence policy shadow acme.cedar\nringfence policy shadow\nringfence policy shadow --off"),
    ("policy rollback", "ringfence policy rollback\nringfence policy rollback 3"),
    ("policy prove", "ringfence policy prove\nringfence policy prove acme.cedar"),
    (
        "policy labels",
        "ringfence policy labels\nringfence policy labels --set labels.json\nringfence policy labels --versions",
    ),
    ("policy ceiling", "ringfence policy ceiling acme\nringfence policy ceiling acme --set ceiling.cedar"),
    ("approval list", "ringfence approval list"),
    ("approval show", "ringfence approval show ap_u5ikx6nyz2ehd2sylqkcbxm7sa"),
    ("approval approve", "ringfence approval approve ap_u5ikx6nyz2ehd2sylqkcbxm7sa"),
    ("approval refuse", "ringfence approval refuse ap_u5ikx6nyz2ehd2sylqkcbxm7sa"),
    ("elevation request", "ringfence elevation request tenant-admin --reason \"mend the hook\""),
    ("elevation list", "ringfence elevation list"),
    ("elevation end", "ringfence elevation end ap_u5ikx6nyz2ehd2sylqkcbxm7sa"),
    ("audit list", "ringfence audit list --from 40\nringfence audit list --operator"),
    (
        "audit verify",
        "ringfence audit verify\n\
         ringfence audit verify --file log/entries.ndjson \\\n    --checkpoint log/checkpoint --vkey log/vkey\n\
         ringfence audit verify november.tar --vkey acme.vkey",
    ),
    ("audit export", "ringfence audit export log"),
    ("audit search", "ringfence audit search --outcome denied\nringfence audit search --code PLG --actor acme/ada"),
    (
        "audit package",
        "ringfence audit package november.tar --from 4000 --csv --parquet\nringfence audit package sample.tar --sample 25",
    ),
    ("audit proof", "ringfence audit proof 42"),
    ("audit anchor", "ringfence audit anchor"),
    ("audit violations", "ringfence audit violations"),
    ("audit check list", "ringfence audit check list"),
    ("audit check show", "ringfence audit check show fresh-backup"),
    ("audit check set", "ringfence audit check set fresh-backup.json --dry-run"),
    ("audit check run", "ringfence audit check run fresh-backup"),
    ("audit check delete", "ringfence audit check delete fresh-backup"),
    (
        "audit remediate",
        "ringfence audit remediate v_0123456789abcdef assign \\\n    --owner acme/bob --due 2026-12-31T18:00:00Z\n\
         ringfence audit remediate v_0123456789abcdef resolve --note \"key revoked\"",
    ),
    ("audit host-calls", "ringfence audit host-calls\nringfence audit host-calls keyvalue=1/100 http=all"),
    ("audit stats", "ringfence audit stats --by actor --metric denials --window 7d"),
    ("audit record", "ringfence audit record order-placed \"order 17\" --resource order/17"),
    ("audit stream list", "ringfence audit stream list"),
    (
        "audit stream add",
        "ringfence audit stream add siem webhook https://siem.example.com/in\n\
         ringfence audit stream add logs syslog logs.example.com:6514 --roots ca.pem",
    ),
    ("audit stream change", "ringfence audit stream change siem --switch off"),
    ("audit stream delete", "ringfence audit stream delete siem"),
    ("audit stream test", "ringfence audit stream test siem"),
    ("audit stream renew", "ringfence audit stream renew siem"),
    ("threat channel list", "ringfence threat channel list"),
    ("threat channel add", "ringfence threat channel add people email ada@example.com"),
    ("threat channel change", "ringfence threat channel change people --switch off"),
    ("threat channel delete", "ringfence threat channel delete people"),
    ("threat channel test", "ringfence threat channel test people"),
    ("threat channel renew", "ringfence threat channel renew people"),
    ("threat feed list", "ringfence threat feed list"),
    ("threat feed put", "ringfence threat feed put isac https://isac.example.com/api1 91a7b528"),
    ("threat feed delete", "ringfence threat feed delete isac"),
    ("threat feed poll", "ringfence threat feed poll isac"),
    ("threat assess", "ringfence threat assess --window 7d"),
    ("audit retention", "ringfence audit retention\nringfence audit retention --days 3653"),
    ("audit hold", "ringfence audit hold \"case 17\"\nringfence audit hold \"court order 9\" --of acme"),
    ("audit lift", "ringfence audit lift h_0f3a9c5d2e7b1846"),
    ("audit erase", "ringfence audit erase 42 --reason \"a name by mistake\""),
    ("audit keys", "ringfence audit keys"),
    ("audit rotate-key", "ringfence audit rotate-key"),
    ("audit repair", "ringfence audit repair --config ringfence.toml"),
    ("serve", "ringfence serve --dev --data data\nringfence serve --config ringfence.toml"),
    ("doctor", "ringfence doctor --config ringfence.toml"),
    ("store migrate", "ringfence store migrate sled redb --data /var/lib/ringfence"),
    ("store salvage", "ringfence store salvage --config ringfence.toml"),
    (
        "store check",
        "ringfence store check --config ringfence.toml\n\
         ringfence store check --config ringfence.toml --recount",
    ),
    (
        "login",
        "ringfence login --host http://127.0.0.1:7000 --token-file data/operator.token\n\
         ringfence login --tenant acme\n\
         ringfence login --as acme/ann\n\
         ringfence login --as acme/ann --invited\n\
         ringfence login --tenant acme --provider corp",
    ),
    ("whoami", "ringfence whoami"),
    ("use", "ringfence use acme"),
    ("completions", "ringfence completions bash > ~/.bash_completion"),
    ("version", "ringfence version"),
];

/// The command tree, ready to parse.
pub fn command() -> Command {
    let root = Cli::command();
    let groups = groups_text(&root);
    decorate(root, "")
        .help_template(ROOT_TEMPLATE)
        .before_help(groups)
        .after_help("`ringfence <command> --help` shows examples and flags of one command.")
}

fn decorate(command: Command, path: &str) -> Command {
    // A verb that does something by itself shows its flags and examples, also when it has verbs below it.
    let template = if command.is_subcommand_required_set() { GROUP_TEMPLATE } else { LEAF_TEMPLATE };
    // One kind of help: the short one, which lists what a flag may be beside it.
    let help = Arg::new("help").short('h').long("help").action(ArgAction::HelpShort).help("Print help");
    let mut command = command
        .term_width(HELP_COLUMNS_MAX)
        .help_template(template)
        .disable_help_subcommand(true)
        .disable_help_flag(true)
        .arg(help);
    if let Some((_, examples)) = EXAMPLES.iter().find(|(words, _)| *words == path) {
        let lines: Vec<String> = examples.lines().map(|line| format!("  {line}")).collect();
        command = command.after_help(format!("Examples:\n{}", lines.join("\n")));
    }
    command.mut_subcommands(|sub| {
        let words = if path.is_empty() { sub.get_name().to_owned() } else { format!("{path} {}", sub.get_name()) };
        decorate(sub, &words)
    })
}

fn groups_text(root: &Command) -> String {
    let mut text = String::new();
    for (title, names) in GROUPS {
        let _ = writeln!(text, "{title}:");
        for name in *names {
            let about = root.find_subcommand(name).and_then(Command::get_about).map(ToString::to_string);
            let _ = writeln!(text, "  {name:<12} {}", about.unwrap_or_default());
        }
        text.push('\n');
    }
    text
}
