//! The table at the end: what was promised, and what was measured in this run.

use std::sync::Mutex;

use crate::rows::{Drill, Proof, ROWS, Row};
use crate::stage::{Outcome, Verdict};

/// What the drills of a run have found.
#[derive(Default)]
pub struct Report(Mutex<Vec<Line>>);

struct Line {
    row: usize,
    /// Its drill, of which a row may have several.
    drill: &'static str,
    measured: String,
    verdict: &'static str,
}

impl Report {
    pub fn add(&self, row: &Row, drill: &Drill, verdict: &Verdict) {
        let line = Line {
            row: row.number,
            drill: drill.name,
            measured: verdict.measured.clone(),
            verdict: match verdict.outcome {
                Outcome::Pass => "pass",
                Outcome::Miss => "MISS",
                Outcome::Cannot => "cannot",
            },
        };
        self.0.lock().unwrap().push(line);
    }

    /// Prints it, if there was a drill; `whole` with the rows that are for `cargo test`, too.
    pub fn print(&self, whole: bool) {
        let lines = self.0.lock().unwrap();
        if lines.is_empty() {
            return;
        }
        println!("| # | fault | promise | measured | verdict |\n|---|---|---|---|---|");
        for row in ROWS {
            let mut begun = false;
            for line in lines.iter().filter(|line| line.row == row.number) {
                let (fault, promise) = if begun { ("", "") } else { (row.fault, row.promise) };
                begun = true;
                let Line { drill, measured, verdict, .. } = line;
                println!("| {} | {fault} | {promise} | {drill}: {measured} | {verdict} |", row.number);
            }
            if whole && !begun {
                let elsewhere = match row.shown_by {
                    [] => "not yet",
                    proofs if proofs.iter().any(|proof| matches!(proof, Proof::Drill(_))) => "not run",
                    _ => "`cargo test`",
                };
                println!("| {} | {} | {} | | {elsewhere} |", row.number, row.fault, row.promise);
            }
        }
    }
}
