//! What the file says. Pure: bytes in, a set or why it is none out.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::addr::AddrError;
use crate::presence::Incarnation;
use crate::registry::Member;

/// The form that is written, and the only one that is read.
const VERSION: u64 = 1;

/// How far ahead the clock may have been that the file was written by.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// Longest that one dataserver is in the file, in bytes: an address of at most 259, an id of at most 64.
pub(super) const MEMBER_BYTES: u64 = 512;

/// A set, and when it was written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Document {
    pub(super) written_at: SystemTime,
    pub(super) members: Vec<Member>,
}

/// Why a file is no use.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Useless {
    // Without what the parser found there: that may be of any length.
    #[error("is not a snapshot, or broken off: see line {line}, column {column}")]
    Syntax { line: usize, column: usize },
    #[error("is of version {0}, and this gateway reads version {VERSION}")]
    Version(u64),
    #[error("has a \"written_at\" that is not a time")]
    Time,
    #[error("names dataserver {index} whose address {why}")]
    Addr { index: usize, why: AddrError },
    #[error("names dataserver {index} whose \"{field}\" {why}")]
    Field { index: usize, field: &'static str, why: &'static str },
    #[error("is {} old, after which too much may have changed", humantime::format_duration(*.0))]
    Old(Duration),
    #[error("was written in the future: a clock is wrong, or was")]
    Future,
}

#[derive(Deserialize)]
struct Version {
    version: u64,
}

#[derive(Serialize, Deserialize)]
struct Json {
    version: u64,
    written_at: String,
    dataservers: Vec<JsonMember>,
}

/// Its fields are those of a heartbeat.
#[derive(Serialize, Deserialize)]
struct JsonMember {
    addr: String,
    proto: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
}

impl From<serde_json::Error> for Useless {
    fn from(error: serde_json::Error) -> Self {
        Self::Syntax { line: error.line(), column: error.column() }
    }
}

impl Document {
    /// Reads a file. Whatever is in it was validated.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Useless> {
        let Version { version } = serde_json::from_slice(bytes)?;
        if version != VERSION {
            return Err(Useless::Version(version));
        }
        let json: Json = serde_json::from_slice(bytes)?;
        let written_at = humantime::parse_rfc3339(&json.written_at).map_err(|_| Useless::Time)?;
        let members = json.dataservers.iter().enumerate().map(|(n, member)| member.read(n + 1));
        Ok(Self { written_at, members: members.collect::<Result<_, _>>()? })
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&Json {
            version: VERSION,
            written_at: humantime::format_rfc3339_millis(self.written_at).to_string(),
            dataservers: self.members.iter().map(JsonMember::of).collect(),
        })
    }

    /// How old it is, if it is not too old.
    pub(super) fn age(&self, now: SystemTime, most: Duration) -> Result<Duration, Useless> {
        match now.duration_since(self.written_at) {
            Ok(age) if age > most => Err(Useless::Old(Duration::from_secs(age.as_secs()))),
            Ok(age) => Ok(age),
            Err(ahead) if ahead.duration() > CLOCK_TOLERANCE => Err(Useless::Future),
            Err(_) => Ok(Duration::ZERO),
        }
    }
}

impl JsonMember {
    fn of(Member { addr, protocol, incarnation }: &Member) -> Self {
        Self {
            addr: addr.to_string(),
            proto: protocol.to_string(),
            id: incarnation.as_ref().map(|incarnation| incarnation.id.to_string()),
            seq: incarnation.as_ref().map(|incarnation| incarnation.seq),
        }
    }

    fn read(&self, index: usize) -> Result<Member, Useless> {
        let fault = |field| move |why| Useless::Field { index, field, why };
        let incarnation = match (&self.id, self.seq) {
            (None, None) => None,
            (Some(id), Some(seq)) => Some(Incarnation { id: id.parse().map_err(fault("id"))?, seq }),
            _ => return Err(fault("seq")("and \"id\" do not come together")),
        };
        Ok(Member {
            addr: self.addr.parse().map_err(|why| Useless::Addr { index, why })?,
            protocol: self.proto.parse().map_err(fault("proto"))?,
            incarnation,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::Protocol;

    const HOUR: Duration = Duration::from_secs(3600);

    fn with(members: &str) -> String {
        format!(
            r#"{{"version":1,"written_at":"2026-11-22T16:31:52.124Z","dataservers":[{members}],"more":[1]}}"#
        )
    }

    fn why_not(text: &str) -> String {
        Document::decode(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn what_is_read_was_validated_and_what_is_not_good_is_named() {
        let good = with(
            r#"{"addr":"a:1","proto":"h2c","id":"x","seq":7,"zone":1},{"addr":"a:2","proto":"http/1.1"}"#,
        );
        let members = Document::decode(good.as_bytes()).unwrap().members;
        assert_eq!((members[0].addr.as_str(), members[0].protocol), ("a:1", Protocol::H2c));
        assert_eq!((members[0].incarnation.as_ref().unwrap().seq, &members[1].incarnation), (7, &None));
        let good = r#"{"addr":"a:1","proto":"h2c"}"#;
        for (member, why) in [
            (
                r#"{"addr":"0.0.0.0:1","proto":"h2c"}"#,
                "names dataserver 2 whose address is unspecified, multicast",
            ),
            (r#"{"addr":"a","proto":"h2c"}"#, "names dataserver 2 whose address has no port"),
            (r#"{"addr":"a:1","proto":"h3"}"#, "names dataserver 2 whose \"proto\" is neither"),
            (
                r#"{"addr":"a:1","proto":"h2c","id":"a b","seq":1}"#,
                "names dataserver 2 whose \"id\" is not 1 to 64",
            ),
            (
                r#"{"addr":"a:1","proto":"h2c","id":"x"}"#,
                "names dataserver 2 whose \"seq\" and \"id\" do not",
            ),
            (r#"{"addr":"a:1"}"#, "is not a snapshot, or broken off: see line 1"),
            (r#"{"addr":1,"proto":"h2c"}"#, "is not a snapshot, or broken off: see line 1"),
        ] {
            let text = why_not(&with(&format!("{good},{member}")));
            assert!(text.starts_with(why), "{member}: {text}");
        }
        assert_eq!(why_not(r#"{"version":2}"#), "is of version 2, and this gateway reads version 1");
        assert!(why_not(&with("").replace("2026-11", "2026-13")).contains("written_at"));
        let long = why_not(&with(&format!("\"{}\"", "x".repeat(10_000))));
        assert!(long.len() < 200, "{long}");
    }

    #[test]
    fn an_old_one_and_one_of_the_future_are_no_use() {
        let now = SystemTime::now();
        let age = |written_at| Document { written_at, members: Vec::new() }.age(now, HOUR);
        assert_eq!(age(now - HOUR), Ok(HOUR));
        assert_eq!(
            age(now - HOUR - Duration::from_secs(1)),
            Err(Useless::Old(HOUR + Duration::from_secs(1)))
        );
        assert_eq!(age(now + CLOCK_TOLERANCE), Ok(Duration::ZERO));
        assert_eq!(age(now + CLOCK_TOLERANCE + Duration::from_secs(1)), Err(Useless::Future));
    }

    prop_compose! {
        fn member()(
            host in "[a-z][a-z0-9]{0,62}", port in 1u16.., h2c: bool, id in proptest::option::of("[!-~]{1,64}"), seq: u64,
        ) -> Member {
            Member {
                addr: format!("{host}:{port}").parse().unwrap(),
                protocol: if h2c { Protocol::H2c } else { Protocol::Http1 },
                incarnation: id.map(|id| Incarnation { id: id.parse().unwrap(), seq }),
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_set_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Document::decode(&bytes);
        }

        #[test]
        fn what_was_written_is_read_and_no_part_of_it_is(
            members in proptest::collection::vec(member(), 0..5), millis in 0u64..4_000_000_000_000, part in 0.0..1.0,
        ) {
            let written_at = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
            let document = Document { written_at, members };
            let bytes = document.encode().unwrap();
            #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let cut = (bytes.len() as f64 * part) as usize;
            prop_assert!(Document::decode(&bytes[..cut]).is_err());
            prop_assert!(bytes.len() as u64 <= (document.members.len() as u64 + 1) * MEMBER_BYTES);
            prop_assert_eq!(Document::decode(&bytes), Ok(document));
        }

        #[test]
        fn one_that_was_damaged_is_a_set_or_an_error(
            members in proptest::collection::vec(member(), 1..4), at: proptest::sample::Index, byte: u8,
        ) {
            let mut bytes = Document { written_at: SystemTime::UNIX_EPOCH, members }.encode().unwrap();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = Document::decode(&bytes);
        }
    }
}
