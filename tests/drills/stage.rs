//! Where a drill takes place: a process of its own, with a time limit that ends everything it has started, and in a
//! network namespace of its own where the kernel allows one. There its loopback is nobody else's: it can be cut,
//! and no port is taken.

use std::os::unix::process::{CommandExt, parent_id};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use libtest_mimic::{Completion, Failed};
use serde_json::{Value, json};

use crate::findings::{Cannot, Drilled, all_are_required};
use crate::rows::{Drill, ROWS};
use crate::support::{Process, pause};

/// The environment variable that names the drill to a process that has to do it.
const DRILL: &str = "DRILL";

/// The environment variable that says whether the network is the drill's own.
const OWN_NETWORK: &str = "DRILL_OWN_NETWORK";

/// How a drill ended.
pub struct Verdict {
    pub measured: String,
    pub outcome: Outcome,
}

pub enum Outcome {
    Pass,
    Miss,
    Cannot,
}

impl From<Verdict> for Result<Completion, Failed> {
    fn from(Verdict { measured, outcome }: Verdict) -> Self {
        match outcome {
            Outcome::Pass => Ok(Completion::Completed),
            Outcome::Miss => Err(measured.into()),
            Outcome::Cannot => Ok(Completion::ignored_with(measured)),
        }
    }
}

/// The prefix of a command that gives it a network of its own, with a loopback that is up.
static NETWORK: LazyLock<Result<Vec<&str>, String>> = LazyLock::new(|| {
    // As root, else as root of a user namespace.
    let prefixes = [&["unshare", "--net"][..], &["unshare", "--net", "--map-root-user"]];
    let tries = prefixes.map(|prefix| {
        let tried = Command::new(prefix[0]).args(&prefix[1..]).args(LOOPBACK_UP).output();
        let output = tried.map_err(|error| format!("{}: {error}", prefix[0]))?;
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if output.status.success() { Ok(prefix.to_vec()) } else { Err(why) }
    });
    let [as_root, as_user] = tries;
    as_root.or(as_user)
});

const LOOPBACK_UP: [&str; 6] = ["ip", "link", "set", "dev", "lo", "up"];

/// Does a drill in a process of its own and waits for its end.
pub fn run(row: usize, drill: &Drill) -> Verdict {
    let exe = std::env::current_exe().unwrap();
    let mut command = match &*NETWORK {
        Ok(prefix) => {
            let mut command = Command::new(prefix[0]);
            command.args(&prefix[1..]).arg(exe).env(OWN_NETWORK, "yes");
            command
        }
        Err(why) => {
            let mut command = Command::new(exe);
            command.env(OWN_NETWORK, format!("no network namespace: {why}"));
            command
        }
    };
    // A group of its own, so that its end is the end of all it has started.
    let mut process = Process::start(command.env(DRILL, drill.full_name(row)).process_group(0));
    while process.is_running() {
        pause(Duration::from_millis(20));
    }
    process.wait();
    let output = process.output();
    let verdict = output.lines().find_map(read_result).unwrap_or_else(|| Verdict {
        measured: "it ended without a word".to_owned(),
        outcome: Outcome::Miss,
    });
    keep(&drill.full_name(row), &output, matches!(verdict.outcome, Outcome::Miss));
    verdict
}

/// Keeps what a drill and its processes have said, and shows the end of it if the drill missed.
fn keep(name: &str, output: &str, show: bool) {
    const SHOWN: usize = 30;
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("drill {name}.log"));
    std::fs::write(&file, output).unwrap();
    if show {
        // Without the log lines of its gateway.
        let lines: Vec<_> = output.lines().filter(|line| !line.starts_with('{')).collect();
        let last = lines[lines.len().saturating_sub(SHOWN)..].join("\n");
        eprintln!("\n--- {name}, all of it in {}\n{last}\n---", file.display());
    }
}

/// Which drill this process is for, if it is for one.
pub fn asked_for() -> Option<String> {
    std::env::var(DRILL).ok()
}

/// Does a drill in this process and prints what it has found.
pub fn perform(name: &str) -> ExitCode {
    let drill = ROWS
        .iter()
        .find_map(|row| row.drills().find(|drill| drill.full_name(row.number) == name))
        .expect("no such drill");
    let limit = drill.limit;
    std::thread::spawn(move || guard(limit));
    if own_network().is_ok() {
        let up = Command::new(LOOPBACK_UP[0]).args(&LOOPBACK_UP[1..]).status();
        assert!(up.unwrap().success());
    }
    println!("{}", result(catch_unwind(AssertUnwindSafe(drill.run))));
    ExitCode::SUCCESS
}

/// Whether the network is this drill's own, so that packets may be dropped in it.
pub fn own_network() -> Result<(), Cannot> {
    match std::env::var(OWN_NETWORK) {
        Ok(yes) if yes == "yes" => Ok(()),
        why => Err(Cannot::Privilege(why.unwrap_or_default())),
    }
}

/// Ends this process and all that it has started when its time is up, or when nobody waits for it any more.
fn guard(limit: Duration) {
    let (begun, parent) = (Instant::now(), parent_id());
    while begun.elapsed() < limit && parent_id() == parent {
        pause(Duration::from_millis(100));
    }
    println!("{}", json!({ "broke": format!("did not end within {limit:?}") }));
    let _ = Command::new("kill").args(["-KILL", "--"]).arg(format!("-{}", std::process::id())).status();
}

fn result(done: std::thread::Result<Drilled>) -> Value {
    match done {
        Ok(Ok(findings)) => {
            let findings: Vec<_> =
                findings.iter().map(|finding| json!([finding.text, finding.kept])).collect();
            json!({ "findings": findings })
        }
        Ok(Err(cannot)) => {
            let privilege = matches!(cannot, Cannot::Privilege(_));
            json!({ "cannot": cannot.to_string(), "privilege": privilege })
        }
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panicked");
            json!({ "broke": text.lines().next() })
        }
    }
}

fn read_result(line: &str) -> Option<Verdict> {
    let value: Value = serde_json::from_str(line).ok()?;
    if let Some(findings) = value["findings"].as_array() {
        let texts: Vec<_> = findings
            .iter()
            .map(|finding| match (finding[0].as_str()?, finding[1].as_bool()?) {
                (text, true) => Some(text.to_owned()),
                (text, false) => Some(format!("**{text}**")),
            })
            .collect::<Option<_>>()?;
        let kept = findings.iter().all(|finding| finding[1] == true);
        let outcome = if kept { Outcome::Pass } else { Outcome::Miss };
        return Some(Verdict { measured: texts.join("; "), outcome });
    }
    if let Some(why) = value["cannot"].as_str() {
        let excused = value["privilege"] == true || !all_are_required();
        let outcome = if excused { Outcome::Cannot } else { Outcome::Miss };
        return Some(Verdict { measured: format!("cannot: {why}"), outcome });
    }
    let why = value["broke"].as_str()?;
    Some(Verdict { measured: format!("**broke off: {why}**"), outcome: Outcome::Miss })
}
