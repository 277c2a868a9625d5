//! What a dataserver speaks.

use std::fmt;
use std::str::FromStr;

/// What requests to a dataserver are spoken in. Its text is what a heartbeat's `proto` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 in the clear, with prior knowledge (RFC 9113 §3.3): what gRPC is carried by.
    H2c,
}

impl Protocol {
    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http/1.1",
            Self::H2c => "h2c",
        }
    }
}

impl FromStr for Protocol {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "http/1.1" => Ok(Self::Http1),
            "h2c" => Ok(Self::H2c),
            _ => Err("is neither http/1.1 nor h2c"),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
