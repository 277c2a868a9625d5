//! What a drill has measured, and whether that is what was promised.

use std::fmt;
use std::time::Duration;

use crate::support::tools;

/// What became of a drill.
pub type Drilled = Result<Vec<Finding>, Cannot>;

/// One thing measured.
pub struct Finding {
    pub text: String,
    /// Whether the promise was kept.
    pub kept: bool,
}

/// Why a drill cannot be done here.
#[derive(Debug, Clone)]
pub enum Cannot {
    /// A program is missing, which can be installed.
    Tool(String),
    /// The kernel does not let us.
    Privilege(String),
}

impl fmt::Display for Cannot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Tool(why) | Self::Privilege(why)) = self;
        f.write_str(why)
    }
}

/// What was measured in words, and whether it is as promised.
pub fn finding(text: impl Into<String>, kept: bool) -> Finding {
    Finding { text: text.into(), kept }
}

/// A time that must not be longer than its limit.
pub fn at_most(what: &str, measured: Duration, limit: Duration) -> Finding {
    finding(format!("{what} {} (≤ {})", seconds(measured), seconds(limit)), measured <= limit)
}

/// A time that is not measured if nothing happened; it must happen, and not later than its limit.
pub fn happens_within(what: &str, measured: Option<Duration>, limit: Duration) -> Finding {
    match measured {
        Some(measured) => at_most(what, measured, limit),
        None => finding(format!("{what}: never (≤ {})", seconds(limit)), false),
    }
}

/// Something that must be so.
pub fn holds(what: &str, is_so: bool) -> Finding {
    finding(format!("{what}: {}", if is_so { "yes" } else { "no" }), is_so)
}

/// A time that nothing was promised about.
pub fn for_the_record(what: &str, measured: Duration) -> Finding {
    finding(format!("{what} {}", seconds(measured)), true)
}

/// A count that must be 0.
pub fn none(what: &str, count: usize) -> Finding {
    finding(format!("{} {what}", grouped(count)), count == 0)
}

/// A program that a drill needs.
pub fn needs<T: Clone>(tool: &Result<T, String>) -> Result<T, Cannot> {
    tool.clone().map_err(Cannot::Tool)
}

/// Whether every drill has to be done, except those that the kernel forbids.
pub fn all_are_required() -> bool {
    ["CI", "DRILLS_REQUIRE_ALL"].iter().any(|name| std::env::var_os(name).is_some())
}

/// Makes ready what a drill without a way to the internet could not make.
pub fn make_tools() {
    let _ = &*tools::NSQD;
}

/// `1.25 s`.
pub fn seconds(time: Duration) -> String {
    let text = format!("{:.2}", time.as_secs_f64());
    format!("{} s", text.trim_end_matches('0').trim_end_matches('.'))
}

/// `10,000`.
pub fn grouped(count: usize) -> String {
    let digits = count.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}
