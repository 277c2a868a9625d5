//! The invariants at the head of `src/lib.rs`, kept by reading the sources.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use libtest_mimic::Trial;

use crate::support::{tools, trials};

pub fn trials() -> Vec<Trial> {
    trials![
        rooms_import_only_what_they_may,
        the_registry_does_no_io_and_spawns_nothing,
        only_nsq_names_tokio_nsq,
        only_metrics_names_the_metrics_crates,
        only_app_spawns_threads,
        every_room_is_in_the_table,
        no_file_holds_two_things,
    ]
}

/// Room by room, what it may import. Leaves that anyone may use are in `LEAVES`.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("main", &["app", "cli", "config", "health", "systemd", "telemetry"]),
    ("bin", &["cli", "config", "dataserver", "telemetry"]),
    (
        "app",
        &[
            "admin",
            "config",
            "dataserver",
            "embedded_nsq",
            "liveness",
            "metrics",
            "nsq",
            "proxy",
            "registry",
            "server",
            "systemd",
            "takeover",
            "telemetry",
        ],
    ),
    ("cli", &["config", "shutdown", "telemetry"]),
    ("server", &["proxy", "config", "metrics"]),
    ("proxy", &["registry", "metrics", "config"]),
    ("admin", &["registry", "metrics", "config"]),
    ("liveness", &["registry", "metrics", "config"]),
    ("registry", &[]),
    ("health", &["config"]),
    ("heartbeat", &[]),
    ("nsq", &["heartbeat", "registry", "metrics", "config"]),
    ("embedded_nsq", &[]),
    ("dataserver", &["heartbeat", "nsq", "config"]),
    ("config", &[]),
    ("metrics", &[]),
    ("telemetry", &["config"]),
    ("shutdown", &[]),
    ("systemd", &[]),
    ("takeover", &[]),
    ("addr", &[]),
    ("alarm", &[]),
    ("current", &[]),
    ("fetch", &[]),
    ("file_watch", &[]),
    ("presence", &[]),
    ("problem", &[]),
    ("http1", &[]),
    ("key", &[]),
    ("lines", &[]),
    ("message", &[]),
    ("protocol", &[]),
    ("resolved", &[]),
    ("small_file", &[]),
    ("tls", &[]),
];

/// Small rooms without imports of their own.
const LEAVES: &[&str] = &[
    "addr",
    "alarm",
    "current",
    "fetch",
    "file_watch",
    "http1",
    "key",
    "lines",
    "message",
    "presence",
    "problem",
    "protocol",
    "resolved",
    "small_file",
    "tls",
];

/// Every source file, by room, without its tests and comments.
fn sources() -> BTreeMap<String, Vec<(PathBuf, String)>> {
    let src = tools::source("src");
    let mut files = Vec::new();
    walk(&src, &mut files);
    let mut rooms: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for file in files {
        let path = file.strip_prefix(&src).unwrap().to_owned();
        let room = path.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned();
        let text = std::fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        let code: Vec<_> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        if path.file_name().is_none_or(|name| name != "tests.rs" && name != "testing.rs") {
            rooms.entry(room).or_default().push((path, code.join("\n")));
        }
    }
    rooms.remove("lib");
    rooms
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The rooms that a text names after `crate::` or, in the binaries, after the library's name.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for root in ["crate::", "nsq_gateway::"] {
        for (at, _) in code.match_indices(root) {
            let rest = &code[at + root.len()..];
            let names = match rest.strip_prefix('{') {
                // `use crate::{a, b::c}`
                Some(list) => list.split('}').next().unwrap().split(',').map(str::trim).collect(),
                None => vec![rest],
            };
            for name in names {
                let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
                found.push(name[..end].to_owned());
            }
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

fn rooms_import_only_what_they_may() {
    let sources = sources();
    let rooms: Vec<_> = sources.keys().cloned().collect();
    let mut faults = Vec::new();
    for (room, files) in &sources {
        let may = MAY_IMPORT.iter().find(|(name, _)| name == room).map_or(&[][..], |(_, may)| may);
        for (path, code) in files {
            for import in imports(code).iter().filter(|import| rooms.contains(import)) {
                if import != room && !may.contains(&import.as_str()) && !LEAVES.contains(&import.as_str()) {
                    faults.push(format!("{} imports {import}", path.display()));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

fn every_room_is_in_the_table() {
    for room in sources().keys() {
        assert!(MAY_IMPORT.iter().any(|(name, _)| name == room), "{room} is not in the table of rooms");
    }
}

#[track_caller]
fn nowhere_but_in(allowed: &[&str], needles: &[&str]) {
    let mut faults = Vec::new();
    for (room, files) in sources().iter().filter(|(room, _)| !allowed.contains(&room.as_str())) {
        for (path, code) in files {
            for needle in needles.iter().filter(|needle| code.contains(**needle)) {
                faults.push(format!("{} ({room}) names {needle}", path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

fn the_registry_does_no_io_and_spawns_nothing() {
    let forbidden = ["tokio::net", "std::net", "std::fs", "tokio::fs", "spawn(", "spawn_local("];
    for (path, code) in &sources()["registry"] {
        for needle in forbidden {
            assert!(!code.contains(needle), "{} names {needle}", path.display());
        }
    }
}

fn only_nsq_names_tokio_nsq() {
    nowhere_but_in(&["nsq"], &["tokio_nsq::"]);
}

fn only_metrics_names_the_metrics_crates() {
    nowhere_but_in(
        &["metrics"],
        &["metrics_exporter_prometheus", "metrics_util", "metrics_process", "use metrics::"],
    );
}

fn only_app_spawns_threads() {
    // The log is there before and after the app.
    nowhere_but_in(&["app", "cli"], &["thread::spawn", "thread::Builder"]);
}

fn no_file_holds_two_things() {
    for (path, code) in sources().into_values().flatten() {
        let lines = code.lines().filter(|line| !line.trim().is_empty()).count();
        assert!(lines <= 420, "{} has {lines} lines of code", path.display());
    }
}
