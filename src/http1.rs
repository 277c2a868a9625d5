//! HTTP/1 (RFC 9112), as a server speaks it to users and as a client to dataservers: heads, framing, bodies, and the
//! life of a connection.
//!
//! The heads are parsed by httparse, as hyper's are. The rest is ours, because of what hyper's server cannot be told:
//! - a request whose length is in doubt is refused, where hyper takes one of the two lengths and hides the other;
//! - every refusal says why, in a document, and is counted;
//! - an answer of unknown length that breaks off ends in a reset, which is all that tells it from a whole one;
//! - an early answer to an upload is read by the user, whose rest is read and dropped before the connection closes;
//! - a connection that is idle holds its socket, its timer and no buffer; hyper's holds two of 8 KiB.
//!
//! Everything runs on the thread that the connection belongs to.

mod answer;
mod body;
mod chunked;
mod client;
mod connection;
mod head;
mod output;
mod response;
mod transport;
mod wire;

pub use body::{BodyError, Incoming, OnUpgrade, Upgraded};
pub use client::{Answer, Client, Error, Failed};
pub use connection::{Connection, Ending, HeadRules, Opening, serve};
pub use head::{Limits, Refusal};
pub use response::Malformed;
pub use wire::{Io, Scratch};

/// Among the extensions of an answer: it ends when the gateway does, so that the end is not to wait for it.
#[derive(Debug, Clone, Copy)]
pub struct Unwaited;
