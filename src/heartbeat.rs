//! The wire format of a heartbeat: the body of one NSQ message. Pure: bytes in, a heartbeat or a refusal out.
//!
//! Two forms, told apart by the first byte: the plain `host:port` that the Go dataservers send, and a
//! JSON object `{"addr":"host:port","proto":"h2c","id":"5e0c…","seq":7,"state":"up"}` whose fields but `addr` are
//! optional; those not known here are ignored, so that a newer dataserver can talk to an older gateway. A signed one
//! has `time` and `sig` as well.

mod signature;

use serde::Deserialize;

pub use signature::Signature;

use signature::Statement;

use crate::addr::{Addr, AddrError};
use crate::key::Key;
use crate::presence::{Incarnation, Phase, ProcessId};
use crate::protocol::Protocol;

/// Longest body that is read, in bytes. A JSON heartbeat with every field is under 1 KiB.
pub const MAX_BODY: usize = 4096;

/// A dataserver says that it is alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// Where its requests go.
    pub addr: Addr,
    /// What it speaks; `None` if it does not say.
    pub protocol: Option<Protocol>,
    /// Whether it takes requests.
    pub phase: Phase,
    /// Which process it is; `None` if it does not say.
    pub incarnation: Option<Incarnation>,
    /// What came with it to prove who sent it; `None` if that cannot be a proof.
    pub signature: Option<Signature>,
}

/// Why a body is no heartbeat. The [`label`](Refusal::label) is the `result` under which it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Longer than [`MAX_BODY`].
    #[error("the body is longer than {MAX_BODY} bytes")]
    TooLarge,
    /// Not UTF-8.
    #[error("the body is not UTF-8")]
    NotUtf8,
    /// Begins with `{` and is not a JSON object with an `addr` of text.
    #[error("the body is not a JSON object with an \"addr\"")]
    BadJson,
    /// The address is one that no dataserver can have.
    #[error("the address {0}")]
    Addr(#[from] AddrError),
    /// Its `proto` is none that is known here: requests would not be understood.
    #[error("the \"proto\" is neither \"http/1.1\" nor \"h2c\"")]
    Proto,
    /// Its `id` is none, or `id` and `seq` do not come together.
    #[error("the \"id\" is not 1 to 64 printable ASCII characters together with a \"seq\"")]
    Id,
    /// Its `state` is none that is known here: whether it takes requests is not clear.
    #[error("the \"state\" is neither \"up\" nor \"draining\" nor \"down\"")]
    Phase,
    /// The address is one that this gateway listens on: a request would go round in circles.
    #[error("the address is one of this gateway's own listeners")]
    OwnListener,
    /// The address is in none of the networks that dataservers may be in.
    #[error("the address is in none of the networks of registry.allow")]
    NotAllowed,
    /// A key is configured, and what makes a signature is not all there.
    #[error(
        "it is not signed: \"id\", \"seq\", \"time\" and a \"sig\" of 64 lower-case hexadecimal digits are needed"
    )]
    Unsigned,
    /// Signed with another key, or changed since.
    #[error("the \"sig\" is not what a key in nsq.heartbeat_key_file makes of it")]
    Forged,
    /// Signed too long ago, or by a clock that is wrong.
    #[error("the \"time\" is further from this gateway's clock than nsq.clock_tolerance")]
    Clock,
    /// Not the first with this number, or overtaken by a later one.
    #[error("the \"seq\" is not above the last one of this \"id\": it came a second time, or late")]
    Replayed,
}

impl Refusal {
    /// Every refusal, for whoever counts them.
    pub const ALL: [Self; 18] = [
        Self::TooLarge,
        Self::NotUtf8,
        Self::BadJson,
        Self::Addr(AddrError::Empty),
        Self::Addr(AddrError::TooLong),
        Self::Addr(AddrError::Characters),
        Self::Addr(AddrError::Port),
        Self::Addr(AddrError::Host),
        Self::Addr(AddrError::Forbidden),
        Self::Proto,
        Self::Id,
        Self::Phase,
        Self::OwnListener,
        Self::NotAllowed,
        Self::Unsigned,
        Self::Forged,
        Self::Clock,
        Self::Replayed,
    ];

    /// The label of `gateway_heartbeats_total{result}`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::TooLarge => "refused_too_large",
            Self::NotUtf8 => "refused_not_utf8",
            Self::BadJson => "refused_bad_json",
            Self::Addr(AddrError::Empty) => "refused_empty",
            Self::Addr(AddrError::TooLong) => "refused_addr_too_long",
            Self::Addr(AddrError::Characters) => "refused_addr_characters",
            Self::Addr(AddrError::Port) => "refused_addr_port",
            Self::Addr(AddrError::Host) => "refused_addr_host",
            Self::Addr(AddrError::Forbidden) => "refused_addr_forbidden",
            Self::Proto => "refused_proto",
            Self::Id => "refused_id",
            Self::Phase => "refused_state",
            Self::OwnListener => "refused_own_listener",
            Self::NotAllowed => "refused_not_allowed",
            Self::Unsigned => "refused_unsigned",
            Self::Forged => "refused_signature",
            Self::Clock => "refused_clock",
            Self::Replayed => "refused_replayed",
        }
    }
}

/// The JSON form. A struct of its own, so that what is on the wire is read in one place.
#[derive(Deserialize)]
struct Json<'a> {
    #[serde(borrow)]
    addr: std::borrow::Cow<'a, str>,
    /// Any value, as for the others: one of another type is as unknown as an unknown name.
    proto: Option<serde_json::Value>,
    id: Option<serde_json::Value>,
    seq: Option<serde_json::Value>,
    state: Option<serde_json::Value>,
    time: Option<serde_json::Value>,
    sig: Option<serde_json::Value>,
}

impl Heartbeat {
    /// Reads the body of a message.
    pub fn decode(body: &[u8]) -> Result<Self, Refusal> {
        if body.len() > MAX_BODY {
            return Err(Refusal::TooLarge);
        }
        let text = std::str::from_utf8(body).map_err(|_| Refusal::NotUtf8)?;
        if !text.starts_with('{') {
            return Ok(Self::plain(text.parse()?));
        }
        let json: Json<'_> = serde_json::from_str(text).map_err(|_| Refusal::BadJson)?;
        let addr = json.addr.parse()?;
        let protocol = json.proto.map(|proto| parse_text(&proto).ok_or(Refusal::Proto)).transpose()?;
        let phase = json.state.map(|state| parse_text(&state).ok_or(Refusal::Phase)).transpose()?;
        let incarnation = match (json.id, json.seq) {
            (Some(id), Some(seq)) => {
                let (id, seq) = parse_text::<ProcessId>(&id).zip(seq.as_u64()).ok_or(Refusal::Id)?;
                Some(Incarnation { id, seq })
            }
            // A seq alone tells nothing; an id alone would be a process of which no heartbeat is the newest.
            (None, _) => None,
            (Some(_), None) => return Err(Refusal::Id),
        };
        let statement = incarnation.as_ref().zip(json.time.and_then(|time| time.as_u64()));
        let statement = statement.map(|(Incarnation { id, seq }, time)| Statement {
            addr: &json.addr,
            id: id.as_str(),
            seq: *seq,
            time,
            state: phase.map_or("", Phase::as_str),
            proto: protocol.map_or("", Protocol::as_str),
        });
        let signature = statement.zip(json.sig).and_then(|(said, sig)| Signature::read(&said, sig.as_str()?));
        Ok(Self { addr, protocol, phase: phase.unwrap_or_default(), incarnation, signature })
    }

    /// What the plain form says.
    pub fn plain(addr: Addr) -> Self {
        Self { addr, protocol: None, phase: Phase::Up, incarnation: None, signature: None }
    }

    /// The plain form, which every gateway and the seed's own apiserver read, if it can say all there is to say. A
    /// signature that it came with does not go on.
    pub fn encode(&self) -> Vec<u8> {
        if self.protocol.is_none() && self.phase == Phase::Up && self.incarnation.is_none() {
            return self.addr.as_str().as_bytes().to_vec();
        }
        serde_json::Value::Object(self.json()).to_string().into()
    }

    /// The JSON form with a signature of this `time`, in milliseconds since 1970. Who does not say which process it is
    /// cannot sign: then there is none.
    pub fn encode_signed(&self, key: &Key, time: u64) -> Vec<u8> {
        let mut json = self.json();
        if let Some(Incarnation { id, seq }) = &self.incarnation {
            let statement = Statement {
                addr: self.addr.as_str(),
                id: id.as_str(),
                seq: *seq,
                time,
                state: self.phase.as_str(),
                proto: self.protocol.map_or("", Protocol::as_str),
            };
            json.insert("sig".to_owned(), statement.sign(key).into());
            json.insert("time".to_owned(), time.into());
        }
        serde_json::Value::Object(json).to_string().into()
    }

    fn json(&self) -> serde_json::Map<String, serde_json::Value> {
        let mut json = serde_json::Map::new();
        json.insert("addr".to_owned(), self.addr.as_str().into());
        if let Some(protocol) = self.protocol {
            json.insert("proto".to_owned(), protocol.as_str().into());
        }
        if let Some(Incarnation { id, seq }) = &self.incarnation {
            json.insert("id".to_owned(), id.as_str().into());
            json.insert("seq".to_owned(), (*seq).into());
        }
        json.insert("state".to_owned(), self.phase.as_str().into());
        json
    }
}

fn parse_text<T: std::str::FromStr>(value: &serde_json::Value) -> Option<T> {
    value.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(body: &[u8]) -> Result<String, Refusal> {
        Heartbeat::decode(body).map(|heartbeat| heartbeat.addr.to_string())
    }

    #[test]
    fn both_forms_are_read() {
        assert_eq!(decode(b"127.0.0.1:10001").as_deref(), Ok("127.0.0.1:10001"));
        assert_eq!(decode(br#"{"addr":"127.0.0.1:10001"}"#).as_deref(), Ok("127.0.0.1:10001"));
        assert_eq!(decode(br#"{"seq":7,"addr":"db1:80","zone":{"a":[1]}}"#).as_deref(), Ok("db1:80"));
    }

    #[test]
    fn what_it_speaks_is_optional() {
        let protocol = |body: &str| Heartbeat::decode(body.as_bytes()).map(|heartbeat| heartbeat.protocol);
        for body in ["a:1", r#"{"addr":"a:1"}"#, r#"{"addr":"a:1","proto":null}"#] {
            assert_eq!(protocol(body), Ok(None), "{body}");
        }
        assert_eq!(protocol(r#"{"addr":"a:1","proto":"h2c"}"#), Ok(Some(Protocol::H2c)));
        assert_eq!(protocol(r#"{"proto":"http/1.1","addr":"a:1"}"#), Ok(Some(Protocol::Http1)));
        for proto in [r#""H2C""#, "\"\"", r#""h2""#, "7", "true", "[]", r#"{"h2c":1}"#] {
            let body = format!(r#"{{"addr":"a:1","proto":{proto}}}"#);
            assert_eq!(protocol(&body), Err(Refusal::Proto), "{body}");
        }
    }

    #[test]
    fn which_process_it_is_and_whether_it_goes_is_optional() {
        let read = |body: &str| Heartbeat::decode(body.as_bytes());
        let plain = read("a:1").unwrap();
        assert_eq!((plain.phase, &plain.incarnation), (Phase::Up, &None));
        assert_eq!(read(r#"{"addr":"a:1","seq":7,"state":null}"#).as_ref(), Ok(&plain));
        let going = read(r#"{"addr":"a:1","id":"x1","seq":7,"state":"draining"}"#).unwrap();
        let incarnation = Incarnation { id: "x1".parse().unwrap(), seq: 7 };
        assert_eq!((going.phase, going.incarnation), (Phase::Draining, Some(incarnation)));
        for id in ["\"\"", "7", "\"a b\"", "\"a\\n\"", &format!("\"{}\"", "x".repeat(65))] {
            assert_eq!(read(&format!(r#"{{"addr":"a:1","id":{id},"seq":1}}"#)), Err(Refusal::Id), "{id}");
        }
        for seq in ["-1", "\"1\"", "1.5", "null"] {
            assert_eq!(read(&format!(r#"{{"addr":"a:1","id":"x","seq":{seq}}}"#)), Err(Refusal::Id), "{seq}");
        }
        for state in ["\"UP\"", "\"\"", "1", "[]"] {
            assert_eq!(read(&format!(r#"{{"addr":"a:1","state":{state}}}"#)), Err(Refusal::Phase), "{state}");
        }
    }

    fn key() -> Key {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        std::fs::write(&file, "0123456789abcdef").unwrap();
        Key::load(&file).unwrap()
    }

    /// What is signed is what stands there, not what is made of it: nobody need know how addresses are normalised, or
    /// what is meant where nothing is said.
    #[test]
    fn a_signature_is_over_the_words_of_the_message() {
        let said = r#""addr":"DB1:080","id":"x","seq":1,"time":2"#;
        let statement = Statement { addr: "DB1:080", id: "x", seq: 1, time: 2, state: "", proto: "" };
        let sig = statement.sign(&key());
        let read = |body: String| Heartbeat::decode(body.as_bytes()).unwrap();
        let heartbeat = read(format!(r#"{{{said},"sig":"{sig}"}}"#));
        assert_eq!(heartbeat.addr.as_str(), "db1:80");
        assert!(heartbeat.signature.unwrap().is_by(&key()));
        for changed in [r#","state":"up""#, r#","state":"down""#, r#","proto":"http/1.1""#] {
            let heartbeat = read(format!(r#"{{{said}{changed},"sig":"{sig}"}}"#));
            assert!(!heartbeat.signature.unwrap().is_by(&key()), "{changed}");
        }
    }

    #[test]
    fn half_a_signature_is_none() {
        let sig = "0".repeat(64);
        let whole = format!(r#"{{"addr":"a:1","id":"x","seq":1,"time":2,"sig":"{sig}"}}"#);
        let read = |body: &str| Heartbeat::decode(body.as_bytes()).unwrap().signature;
        assert!(read(&whole).is_some());
        for (part, without) in [
            (r#""time":2"#, r#""time":null"#),
            (r#""time":2"#, r#""time":"2026-11-22T16:31:52Z""#),
            (r#""time":2"#, r#""time":2.5"#),
            (r#""id":"x","seq":1,"#, ""),
            (sig.as_str(), ""),
            (sig.as_str(), "x"),
        ] {
            assert_eq!(read(&whole.replace(part, without)), None, "{without}");
        }
        assert_eq!(read(&whole.replace(&format!("\"{sig}\""), "7")), None);
    }

    #[test]
    fn what_is_no_heartbeat_is_refused_by_name() {
        for (body, why) in [
            (&b""[..], Refusal::Addr(AddrError::Empty)),
            (b"\0", Refusal::Addr(AddrError::Characters)),
            (b"127.0.0.1:10001\r\n", Refusal::Addr(AddrError::Characters)),
            (b"\xff\xfe", Refusal::NotUtf8),
            (b"{", Refusal::BadJson),
            (b"{}", Refusal::BadJson),
            (br#"{"addr":7}"#, Refusal::BadJson),
            (br#"{"addr":"a:1"} x"#, Refusal::BadJson),
            (br#"{"addr":"0.0.0.0:1"}"#, Refusal::Addr(AddrError::Forbidden)),
            (br#"["127.0.0.1:1"]"#, Refusal::Addr(AddrError::Characters)),
            (&[b'1'; MAX_BODY + 1], Refusal::TooLarge),
        ] {
            assert_eq!(decode(body), Err(why), "{:?}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn every_refusal_has_a_label_of_its_own() {
        let labels: std::collections::HashSet<_> =
            Refusal::ALL.iter().map(|refusal| refusal.label()).collect();
        assert_eq!(labels.len(), Refusal::ALL.len());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_heartbeat_or_a_refusal(body in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(mut heartbeat) = Heartbeat::decode(&body) {
                prop_assert_eq!(Heartbeat::decode(&heartbeat.encode()), Ok(heartbeat.clone()));
                heartbeat.protocol = Some(Protocol::H2c);
                prop_assert_eq!(Heartbeat::decode(&heartbeat.encode()), Ok(heartbeat.clone()));
                heartbeat.protocol = None;
                let json = serde_json::json!({ "addr": heartbeat.addr.as_str() }).to_string();
                prop_assert_eq!(Heartbeat::decode(json.as_bytes()), Ok(heartbeat));
            }
        }

        #[test]
        fn any_json_is_a_heartbeat_or_a_refusal(
            addr in ".{0,60}", key in "[a-z]{1,8}", number: i64, proto in ".{0,10}", id in ".{0,70}", state in ".{0,9}",
            sig in ".{0,70}",
        ) {
            let body = serde_json::json!({
                "addr": addr, key: number, "proto": proto, "id": id, "seq": number, "state": state, "time": number,
                "sig": sig,
            });
            let _ = Heartbeat::decode(body.to_string().as_bytes());
        }

        #[test]
        fn what_is_written_is_read_again(
            id in proptest::option::of("[!-~]{1,64}"), seq: u64, phase in 0usize..3, h2c: bool, time: u64,
        ) {
            let phase = [Phase::Up, Phase::Draining, Phase::Down][phase];
            let incarnation = id.map(|id| Incarnation { id: id.parse().unwrap(), seq });
            let protocol = h2c.then_some(Protocol::H2c);
            let heartbeat = Heartbeat { protocol, phase, incarnation, ..Heartbeat::plain("a:1".parse().unwrap()) };
            prop_assert_eq!(Heartbeat::decode(&heartbeat.encode()), Ok(heartbeat.clone()));
            let signed = Heartbeat::decode(&heartbeat.encode_signed(&key(), time)).unwrap();
            prop_assert_eq!(signed.signature.is_some(), heartbeat.incarnation.is_some());
            prop_assert!(signed.signature.iter().all(|signature| signature.is_by(&key()) && signature.time == time));
            prop_assert_eq!(Heartbeat { signature: None, ..signed }, heartbeat);
        }
    }
}
