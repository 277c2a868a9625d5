//! The drills: every fault of the table in [`rows`], made on purpose and under load, against the built binaries.
//!
//! `cargo test --test drills -- --ignored` runs them one after another and ends with a table of what was promised and
//! what was measured. Each is a process of its own, in a network of its own where the kernel allows that.

// A drill fails by panicking, and its files are nobody's library.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(unreachable_pub, missing_docs, clippy::missing_panics_doc)]
// A drill returns that it cannot be done, even if it always can; the numbers are small.
#![allow(clippy::unnecessary_wraps, clippy::cast_precision_loss)]
// What is measured is real time.
#![allow(clippy::disallowed_types)]

mod broker;
mod chaos;
mod crowd;
mod dataservers;
mod findings;
mod firewall;
mod fleet;
mod leaving;
mod load;
mod machine;
mod network;
mod reload;
mod report;
mod rows;
mod stage;
mod start;
#[allow(dead_code, unused_imports, reason = "the drills stand on a part of what the tests stand on")]
#[path = "../gateway/support/mod.rs"]
mod support;
mod user;
mod watch;
mod witness;

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};

use report::Report;
use rows::ROWS;

fn main() -> ExitCode {
    if let Some(name) = stage::asked_for() {
        return stage::perform(&name);
    }
    let mut arguments = Arguments::from_args();
    // One by one: what is measured is time.
    arguments.test_threads = Some(1);
    let report = Arc::new(Report::default());
    let mut trials = rows::trials();
    for row in ROWS {
        for drill in row.drills() {
            let (row_of, report) = (row, report.clone());
            let trial = Trial::ignorable_test(drill.full_name(row.number), move || {
                let verdict = stage::run(row_of.number, drill);
                report.add(row_of, drill, &verdict);
                verdict.into()
            });
            let kind = if drill.long { "long" } else { "" };
            trials.push(trial.with_kind(kind).with_ignored_flag(true));
        }
    }
    if arguments.ignored || arguments.include_ignored {
        findings::make_tools();
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !arguments.list {
        report.print(arguments.filter.is_none());
    }
    conclusion.exit_code()
}
