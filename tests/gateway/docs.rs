//! What the documents say, held against what is.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::Trial;
use nsq_gateway::config::Config;

use crate::support::{tools, trials};

pub fn trials() -> Vec<Trial> {
    trials![
        the_config_reference_is_the_defaults,
        the_config_reference_has_every_key,
        every_metric_is_documented_and_every_documented_one_exists,
        every_event_is_documented_and_every_documented_one_exists,
        every_alert_has_a_runbook_and_every_runbook_an_alert,
        every_link_leads_somewhere,
        every_document_can_be_reached_from_the_readme,
        nothing_of_a_workplace_is_in_the_repository,
    ]
}

fn read(file: impl AsRef<Path>) -> String {
    let path = tools::source(".").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The first YAML block of the configuration's document.
fn reference() -> String {
    let document = read("docs/configuration.md");
    let (_, block) = document.split_once("```yaml\n").expect("no YAML block");
    block.split("```").next().unwrap().to_owned()
}

fn the_config_reference_is_the_defaults() {
    let config: Config = reference().parse().unwrap();
    assert_eq!(config, Config::default());
}

fn the_config_reference_has_every_key() {
    let reference: serde_yaml::Value = serde_yaml::from_str(&reference()).unwrap();
    // Sections that are none without their keys have these here.
    let config: Config = "gateway: {tls: {cert: a, key: b}}".parse().unwrap();
    let keys = config.keys();
    assert!(keys.len() > 60, "{keys:?}");
    for path in keys.keys() {
        let mut place = &reference;
        for key in path.split('.') {
            place = place.get(key).unwrap_or_else(|| panic!("{path} is not in the reference"));
        }
    }
}

/// Everything in a text that looks like the name of one of the gateway's metrics.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'));
    words.filter(|word| word.starts_with("gateway_") && *word != "gateway_").collect()
}

fn every_metric_is_documented_and_every_documented_one_exists() {
    let mut there_are = BTreeSet::new();
    for file in sources("src/metrics").into_iter().chain([PathBuf::from("src/metrics.rs")]) {
        let source = read(file);
        let names = source.split('"').filter(|text| metrics_in(text).first() == Some(text));
        there_are.extend(names.map(str::to_owned));
    }
    assert!(there_are.len() > 20, "{there_are:?}");
    let document = read("docs/metrics.md");
    let documented: BTreeSet<_> = metrics_in(&document).into_iter().map(str::to_owned).collect();
    assert_eq!(there_are, documented);
}

/// The events of a source file from INFO on, as the document has them: level and message.
fn events_in(source: &str) -> Vec<(String, String)> {
    let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let mut found = Vec::new();
    for level in ["info", "warn", "error"] {
        for (at, begun) in source.match_indices(&format!("{level}!(")) {
            if source[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
                continue;
            }
            let (_, rest) = source[at + begun.len()..].split_once('"').expect("an event that says nothing");
            let mut end = 0;
            while !rest[end..].starts_with('"') {
                end += if rest[end..].starts_with('\\') {
                    2
                } else {
                    rest[end..].chars().next().unwrap().len_utf8()
                };
            }
            found.push((level.to_uppercase(), as_documented(&rest[..end])));
        }
    }
    found
}

/// A message as it is in the source, its placeholders as `…`.
fn as_documented(literal: &str) -> String {
    let lines: Vec<_> = literal.split("\\\n").map(str::trim_start).collect();
    let mut pieces = Vec::new();
    for piece in lines.concat().split('{') {
        pieces.push(piece.split_once('}').map_or(piece, |(_, after)| after).to_owned());
    }
    pieces.join("…")
}

fn every_event_is_documented_and_every_documented_one_exists() {
    let files = sources("src").into_iter().filter(|file| !file.to_string_lossy().contains("tests"));
    let there_are: BTreeSet<_> = files.flat_map(|file| events_in(&read(file))).collect();
    assert!(there_are.len() > 60, "{there_are:?}");
    let document = read("docs/logs.md");
    let rows = document.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | "));
    let rows = rows.filter(|(level, _)| ["INFO", "WARN", "ERROR"].contains(level));
    let documented: BTreeSet<_> =
        rows.map(|(level, rest)| (level.to_owned(), rest.split(" | ").next().unwrap().to_owned())).collect();
    assert_eq!(there_are, documented);
}

fn every_alert_has_a_runbook_and_every_runbook_an_alert() {
    let alerts: serde_yaml::Value = serde_yaml::from_str(&read("dashboards/alerts.yaml")).unwrap();
    let rules = alerts["groups"]
        .as_sequence()
        .unwrap()
        .iter()
        .flat_map(|group| group["rules"].as_sequence().unwrap());
    let text = |value: &serde_yaml::Value| value.as_str().unwrap().to_owned();
    let alerts: Vec<_> = rules
        .map(|rule| (text(&rule["alert"]), format!("*{}.*", text(&rule["labels"]["severity"]))))
        .collect();
    let document = read("docs/runbooks.md");
    let runbooks: Vec<_> = document
        .split("\n## ")
        .skip(1)
        .map(|section| section.split_once("\n\n").unwrap())
        .map(|(alert, text)| (alert.to_owned(), text.split_inclusive(".*").next().unwrap().to_owned()))
        .collect();
    assert_eq!(alerts, runbooks);
}

/// The files below a folder, as paths from the top of the repository, in order.
fn sources(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(tools::source(".").join(&folder)).unwrap().map(Result::unwrap) {
            let path = folder.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() { &mut folders } else { &mut found }.push(path);
        }
    }
    found.sort();
    found
}

/// Every Markdown file that is not somebody else's.
fn documents() -> Vec<PathBuf> {
    let folders = ["docs", "benches", "tests/drills", "tests/gateway"].map(sources);
    let nested = folders.into_iter().flatten().filter(|file| file.extension().is_some_and(|ext| ext == "md"));
    nested.chain(["README.md", "CHANGELOG.md"].map(PathBuf::from)).collect()
}

/// The lines of a document that are not code.
fn prose(document: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    document.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// What a line links to.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0))
}

/// The anchor that GitHub gives a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

fn anchors(file: &Path) -> BTreeSet<String> {
    let document = read(file);
    let headings = prose(&document).filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#'))).collect()
}

/// The files that a document links to; each of its links must lead to something that there is.
fn follow(document: &Path) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    let top = tools::source(".").canonicalize().unwrap();
    for link in prose(&read(document)).flat_map(links).filter(|link| !link.starts_with("https://")) {
        let (path, heading) = link.split_once('#').unwrap_or((link, ""));
        let target = if path.is_empty() { document.to_owned() } else { document.with_file_name(path) };
        let found = top.join(&target).canonicalize();
        let found = found.unwrap_or_else(|_| panic!("{}: nothing is at {link}", document.display()));
        let target = found.strip_prefix(&top).expect("a link leaves the repository").to_owned();
        let there_is = heading.is_empty() || anchors(&target).contains(heading);
        assert!(there_is, "{}: {} has no heading #{heading}", document.display(), target.display());
        files.insert(target);
    }
    files
}

fn every_link_leads_somewhere() {
    for document in documents() {
        follow(&document);
    }
}

fn every_document_can_be_reached_from_the_readme() {
    let mut reached = BTreeSet::from([PathBuf::from("README.md")]);
    let mut next: Vec<_> = reached.iter().cloned().collect();
    while let Some(document) = next.pop() {
        let linked = follow(&document).into_iter().filter(|file| file.extension().is_some_and(|e| e == "md"));
        next.extend(linked.filter(|file| reached.insert(file.clone())).collect::<Vec<_>>());
    }
    let missing: Vec<_> = documents().into_iter().filter(|file| !reached.contains(file)).collect();
    assert!(missing.is_empty(), "nothing links to {missing:?}");
}

fn nothing_of_a_workplace_is_in_the_repository() {
    let listed = Command::new("git").args(["ls-files"]).current_dir(tools::source(".")).output();
    let Ok(listed) = listed else { return };
    for file in String::from_utf8_lossy(&listed.stdout).lines() {
        let Ok(text) = std::fs::read_to_string(tools::source(file)) else {
            continue;
        };
        for (n, line) in text.lines().enumerate() {
            let home = ["/ho", "me/"].concat();
            let root = ["/ro", "ot/"].concat();
            assert!(!line.contains(&home) && !line.contains(&root), "{file}:{}: {line}", n + 1);
        }
    }
}
