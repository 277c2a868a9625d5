//! What the tests stand on.

mod apiserver;
mod broker;
pub mod browser;
mod endless_lookup;
mod event_stream;
pub mod frames;
pub mod h2_stub;
mod http;
mod nsqd_stub;
mod process;
mod stub;
mod subscriber;
pub mod tls;
pub mod tools;

use std::time::Duration;

use libtest_mimic::{Failed, Trial};

pub use apiserver::{Apiserver, DataserverProcess, PATIENT, event, on_free_ports};
pub use broker::{Broker, Cluster};
pub use endless_lookup::EndlessLookup;
pub use event_stream::EventStream;
pub use h2_stub::H2Stub;
pub use http::{Reply, connect, ends, exchange, get, post, read_body, read_head, read_reply, request};
pub use nsqd_stub::{HttpSide, IDENTIFIED, NsqdStub, frame};
pub use process::Process;
pub use stub::{Exchange, Stub, go_deaf};
pub use subscriber::{Heard, Subscriber};

/// Lists test functions of a module as trials named `module::function`.
macro_rules! trials {
    ($($name:ident),+ $(,)?) => {
        vec![$(crate::support::trial(concat!(module_path!(), "::", stringify!($name)), $name)),+]
    };
}
pub(crate) use trials;

/// A test that can always run. It fails by panicking.
pub fn trial(path: &str, test: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name_of(path), move || {
        test();
        Ok(())
    })
}

fn name_of(path: &str) -> String {
    ["gateway::", "drills::"].iter().find_map(|target| path.strip_prefix(target)).unwrap_or(path).to_owned()
}

/// A test that runs only with something from outside: without it it is ignored, and in CI it fails.
pub fn trial_with<T: Send + 'static>(
    path: &str,
    tool: &Result<T, String>,
    test: impl FnOnce() + Send + 'static,
) -> Trial {
    let name = name_of(path);
    match tool {
        Ok(_) => trial(path, test),
        Err(why) if std::env::var_os("CI").is_some() => {
            let why = why.clone();
            Trial::test(name, move || Err(Failed::from(why)))
        }
        Err(why) => {
            eprintln!("{name} is ignored: {why}");
            Trial::test(name, || Ok(())).with_ignored_flag(true)
        }
    }
}

/// Polls until `condition` gives a value, and fails with `what` after a generous time.
#[track_caller]
pub fn eventually<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    within(Duration::from_secs(20), what, condition)
}

/// As [`eventually`], with a limit of its own.
#[track_caller]
pub fn within<T>(limit: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = std::time::SystemTime::now() + limit;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(std::time::SystemTime::now() < deadline, "not within {limit:?}: {what}");
        pause(Duration::from_millis(10));
    }
}

/// Lets time pass. For conditions that are polled, and for time that a test is about.
pub fn pause(time: Duration) {
    let (_keep, never) = std::sync::mpsc::channel::<()>();
    let _ = never.recv_timeout(time);
}
