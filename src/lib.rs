//! An HTTP gateway that always knows which dataservers are alive.
//!
//! Dataservers announce themselves with heartbeats over NSQ; the gateway keeps the live set and forwards every
//! user's request to a live one. A reader follows a heartbeat in, and then a request through:
//!
//! | room | holds | imports |
//! |---|---|---|
//! | `main`, `bin/dataserver`, [`cli`] | command line, exit codes | [`app`] or [`dataserver`], [`health`], [`config`], [`systemd`], [`telemetry`] |
//! | [`app`] | builds, spawns, supervises, drains; the only place that sees everything | all below |
//! | [`nsq`] | which nsqds there are, a supervised link to each, the publisher | [`heartbeat`], [`registry`], [`metrics`], [`config`] |
//! | [`heartbeat`] | the wire format, pure | |
//! | [`registry`] | who is live, and a snapshot to pick from in O(1) | |
//! | [`liveness`] | when does an entry leave? | [`registry`], [`metrics`] |
//! | [`server`] | workers' listeners, connections and their limits, graceful close | [`proxy`], [`config`], [`metrics`] |
//! | [`proxy`] | the way of a request, as a stack of layers | [`registry`], [`metrics`], [`config`] |
//! | [`admin`] | what an operator asks | [`registry`], [`metrics`], [`config`] |
//! | [`health`] | how a running gateway is, asked from its own machine | [`config`] |
//! | [`embedded_nsq`] | an in-memory nsqd and nsqlookupd | |
//! | [`dataserver`] | the sample dataserver, the announcer | [`heartbeat`], [`nsq`], [`config`] |
//! | [`systemd`] | the sockets that the service manager passes on, and what it is told | |
//! | [`takeover`] | handing sockets and the live set to the gateway that comes next | |
//! | [`config`], [`metrics`], [`telemetry`], [`shutdown`] | what their names say | |
//! | [`http1`] | HTTP/1 towards users and dataservers: heads, framing, bodies, connections | |
//! | [`addr`], [`alarm`], [`current`], [`fetch`], [`file_watch`], [`key`], [`lines`], [`message`], [`presence`], [`problem`], [`protocol`], [`resolved`], [`small_file`], [`tls`] | leaves that any room may use: an address, a limit on waiting, what holds at present, one HTTP GET, files that change, a key that two sides share, lines on their way to a log, a request or an answer on its way through, what a dataserver says of itself, one error document, what it speaks, what its name leads to, a file that should be small, a certificate and its key | |
//!
//! Two kinds of threads: the data plane is one single-threaded runtime per worker, with its own listener, its own
//! connections to dataservers and nothing shared with another but the snapshot; the control work (NSQ, the sweep, the
//! admin paths) runs on a runtime of its own.
//!
//! # Invariants
//!
//! Each is kept by a test that reads these sources:
//! - a room imports only what stands beside it above; `nsq` and `proxy` never see each other;
//! - [`registry`] does no I/O and spawns nothing;
//! - only [`app`] makes threads, but for the one of the log;
//! - only [`nsq`] names tokio-nsq, and only [`metrics`] the metrics crates.

pub mod addr;
pub mod admin;
pub mod alarm;
pub mod app;
pub mod cli;
pub mod config;
pub mod current;
pub mod dataserver;
pub mod embedded_nsq;
pub mod fetch;
pub mod file_watch;
pub mod health;
pub mod heartbeat;
pub mod http1;
pub mod key;
pub mod lines;
pub mod liveness;
pub mod message;
pub mod metrics;
pub mod nsq;
pub mod presence;
pub mod problem;
pub mod protocol;
pub mod proxy;
pub mod registry;
pub mod resolved;
pub mod server;
pub mod shutdown;
pub mod small_file;
pub mod systemd;
pub mod takeover;
pub mod telemetry;
pub mod tls;
