//! The body of a user's request as it comes in, and what the gateway knows of the request beside its head.

use std::rc::Rc;

use super::stream::Stream;
use crate::http1;
use crate::proxy::access_log::Entry;
use crate::proxy::identify::RequestId;

/// The body of a user's request, whichever HTTP brought it.
pub struct Incoming {
    wire: Wire,
    /// What the request is called, once that is settled.
    pub(in crate::proxy) id: Option<RequestId>,
    /// How many fields its head has got here, which its user did not send.
    pub(in crate::proxy) made: usize,
    /// Where to tell what becomes of it, if anybody wants to know.
    pub(in crate::proxy) entry: Option<Rc<Entry>>,
}

enum Wire {
    Http1(http1::Incoming),
    Http2(hyper::body::Incoming),
}

impl Incoming {
    /// Of HTTP/1.
    pub fn http1(body: http1::Incoming) -> Self {
        Self::new(Wire::Http1(body))
    }

    /// Of HTTP/2.
    pub fn http2(body: hyper::body::Incoming) -> Self {
        Self::new(Wire::Http2(body))
    }

    fn new(wire: Wire) -> Self {
        Self { wire, id: None, made: 0, entry: None }
    }
}

impl From<Incoming> for Stream {
    fn from(incoming: Incoming) -> Self {
        match incoming.wire {
            Wire::Http1(body) => Self::Request(body),
            Wire::Http2(body) => Self::http2(body),
        }
    }
}
