//! The Dockerfile.

use std::process::Command;

use libtest_mimic::Trial;

use super::{read, understands};
use crate::support::{tools, trial_with, trials};

pub fn trials() -> Vec<Trial> {
    let mut trials = trials![
        every_target_is_copied_or_stood_in_for,
        it_copies_what_is_not_ignored,
        its_commands_are_understood
    ];
    trials.push(trial_with(
        "packaging::docker::a_linter_finds_nothing",
        &tools::LINTERS,
        a_linter_finds_nothing,
    ));
    trials
}

/// The instructions, with continued lines joined and without comments.
fn instructions() -> Vec<String> {
    let text = read("Dockerfile");
    let lines = text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
    lines.replace("\\\n", " ").lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

fn every_target_is_copied_or_stood_in_for() {
    // Cargo reads no manifest of which a target is missing.
    let manifest = read("Cargo.toml");
    let instructions = instructions();
    let stand_ins = instructions.iter().find(|line| line.contains("touch ")).unwrap();
    let is_copied = |target: &str| {
        instructions.iter().filter_map(|line| line.strip_prefix("COPY ")).any(|copy| {
            copy.split_whitespace()
                .any(|path| target.strip_prefix(path).is_some_and(|rest| rest.starts_with('/')))
        })
    };
    let mut targets: Vec<_> = manifest
        .lines()
        .filter_map(|line| line.strip_prefix("path = \""))
        .map(|path| path.trim_end_matches('"').to_owned())
        .collect();
    let benches = manifest.split("[[bench]]\n").skip(1);
    let benches = benches.map(|bench| bench.lines().next().unwrap().split('"').nth(1).unwrap());
    targets.extend(benches.map(|name| format!("benches/{name}.rs")));
    assert!(targets.len() >= 6, "{targets:?}");
    for target in targets {
        let is_there = is_copied(&target) || stand_ins.contains(&target);
        assert!(is_there, "the Dockerfile neither copies {target} nor has a stand-in for it");
    }
}

fn it_copies_what_is_not_ignored() {
    let ignored = read(".dockerignore");
    let kept: Vec<_> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    for copy in instructions().iter().filter_map(|line| line.strip_prefix("COPY ")) {
        if copy.starts_with("--from") {
            continue;
        }
        let words: Vec<_> = copy.split_whitespace().collect();
        let (_, from) = words.split_last().unwrap();
        for path in from {
            assert!(kept.contains(path) && tools::source(path).exists(), "{path} is not there to be copied");
        }
    }
}

fn its_commands_are_understood() {
    let mut found = 0;
    for line in instructions().iter().filter(|line| line.contains("[\"/usr/local/bin/apiserver\"")) {
        let list = &line[line.find('[').unwrap()..];
        let words: Vec<String> = serde_json::from_str(list).unwrap();
        understands(&words);
        found += 1;
    }
    assert_eq!(found, 3, "RUN, HEALTHCHECK, ENTRYPOINT");
}

fn a_linter_finds_nothing() {
    let hadolint = tools::LINTERS.as_ref().unwrap().join("hadolint");
    let output = Command::new(hadolint).arg(tools::source("Dockerfile")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
