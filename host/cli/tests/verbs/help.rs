//! The command tree: every verb has an example and golden help in 80 columns, and takes the global flags.

use clap::Command;
use ringfence_cli::args::command;

use crate::harness::Person;

/// Every leaf and every noun, by its words.
fn tree() -> Vec<(Vec<String>, Command)> {
    fn walk(command: &Command, words: &[String], into: &mut Vec<(Vec<String>, Command)>) {
        into.push((words.to_vec(), command.clone()));
        for sub in command.get_subcommands() {
            let mut words = words.to_vec();
            words.push(sub.get_name().to_owned());
            walk(sub, &words, into);
        }
    }
    let mut root = command();
    root.build();
    let mut all = Vec::new();
    walk(&root, &[], &mut all);
    all
}

fn leaves() -> Vec<(Vec<String>, Command)> {
    tree()
        .into_iter()
        .filter(|(words, command)| !command.has_subcommands() && !words.is_empty() && !command.is_hide_set())
        .collect()
}

fn help_of(words: &[String]) -> String {
    let mut args: Vec<&str> = words.iter().map(String::as_str).collect();
    args.push("--help");
    let outcome = Person::new().run(&args);
    assert!(outcome.err.is_empty(), "{args:?}: {}", outcome.err);
    outcome.out
}

#[test]
fn every_verb_has_an_example_that_starts_with_its_own_words() {
    let leaves = leaves();
    assert!(leaves.len() >= 40, "{} verbs", leaves.len());
    for (words, command) in leaves {
        let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let wanted = format!("  ringfence {}", words.join(" "));
        assert!(after.starts_with("Examples:\n"), "{words:?} has no examples");
        assert!(after.lines().nth(1).is_some_and(|line| line.starts_with(&wanted)), "{words:?}: {after}");
    }
}

#[test]
fn every_example_parses() {
    for (words, verb) in leaves() {
        let after = verb.get_after_help().map(ToString::to_string).unwrap_or_default().replace("\\\n", "");
        for line in after.lines().skip(1) {
            let line = line.split(" > ").next().unwrap_or_default();
            // As a shell would: what stands in quotes is one word.
            let quoted = line.split('"').enumerate();
            let words_of_line = quoted.flat_map(|(index, part)| match index % 2 {
                0 => part.split_whitespace().collect(),
                _ => vec![part],
            });
            let result = command().try_get_matches_from(words_of_line);
            assert!(result.is_ok(), "{words:?}: `{line}`: {}", result.unwrap_err());
        }
    }
}

/// What the host prints as help, with names in the place of words in capitals.
#[test]
fn every_command_that_the_host_says_would_help_parses() {
    let mut folders = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../control/src")];
    let mut count = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for said in text.split(".help(\"ringfence ").skip(1).filter_map(|rest| rest.split('"').next()) {
                let is_name = |word: &str| word.bytes().all(|byte| byte.is_ascii_uppercase());
                let words = said.split_whitespace().map(|word| match word {
                    "BACKUP" => "b_aaaaaaaaaaaaaaaaaaaaaaaaaa",
                    word if is_name(word) => "acme",
                    word => word,
                });
                let result = command().try_get_matches_from(std::iter::once("ringfence").chain(words));
                assert!(result.is_ok(), "{}: `ringfence {said}`: {}", path.display(), result.unwrap_err());
                count += 1;
            }
        }
    }
    assert!(count >= 5, "only {count} were found");
}

#[test]
fn every_verb_takes_the_global_flags_and_no_secret() {
    for (words, command) in leaves() {
        let names: Vec<&str> = command.get_arguments().filter_map(|arg| arg.get_long()).collect();
        for flag in ["json", "tenant", "host", "yes", "no-input", "quiet", "verbose"] {
            assert!(names.contains(&flag), "{words:?} lacks --{flag}");
        }
        for name in names {
            assert!(
                !["token", "key", "secret", "password", "api-key", "value"].contains(&name),
                "{words:?} has --{name}"
            );
        }
    }
}

#[test]
fn one_letter_flags_are_few() {
    for (words, command) in tree() {
        for arg in command.get_arguments() {
            assert!(arg.get_short().is_none_or(|short| "hVqvt".contains(short)), "{words:?} {arg}");
        }
    }
}

#[test]
fn help_fits_80_columns_and_does_not_change_unseen() {
    for (words, command) in tree() {
        if command.is_hide_set() {
            continue;
        }
        let text = help_of(&words);
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{words:?}: {line}");
        }
        let name = if words.is_empty() { "help".to_owned() } else { format!("help-{}", words.join("-")) };
        golden(&name, &text);
    }
}

#[test]
fn help_is_taken_as_a_word_too() {
    for words in [&["help"][..], &["help", "audit", "list"][..]] {
        let rest: Vec<String> = words.iter().skip(1).map(ToString::to_string).collect();
        let outcome = Person::new().run(words);
        assert_eq!((outcome.exit, outcome.out), (std::process::ExitCode::SUCCESS, help_of(&rest)));
    }
}

#[test]
fn the_first_page_names_every_verb() {
    let text = help_of(&[]);
    for (words, command) in tree() {
        if words.len() == 1 && !command.is_hide_set() {
            let line = format!("  {:<12} ", words.join(" "));
            assert!(text.contains(&line), "{words:?} is not on the first page");
        }
    }
    assert!(!text.contains("compile-child"));
}

/// Compares with the file of that name under `tests/golden`.
pub fn golden(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../golden");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}
