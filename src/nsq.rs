//! Heartbeats in: which nsqds there are, a supervised reader for each, and what a message does to the live
//! set. Heartbeats out, for the sample dataserver: a publisher. The only room that names tokio-nsq.
//!
//! tokio-nsq is wrapped and not trusted: it gives up on an nsqd after 15 minutes, ends for good on any
//! protocol error, says nothing when a connection is lost and believes any frame's size. So each nsqd has a
//! link that owns the reconnecting, and between tokio-nsq and nsqd stands a guard that sees
//! every frame: it knows at once when the link is down, asks nsqd for a quick heartbeat, and lets no frame
//! through that tokio-nsq would not survive.
//!
//! A message is judged by its age, and that by the clock of the nsqd that stamped it: each is asked over HTTP what time
//! it is, and while at it, whether others read our channel.

mod clock;
mod discovery;
mod guard;
mod intake;
mod link;
mod nsqd;
mod publisher;
mod signed;
mod stats;
mod subscriber;

pub use intake::{Intake, RESULTS};
pub use publisher::{Nsqds, PublishError, Publisher};
pub use signed::Signed;
pub use subscriber::Subscriber;
