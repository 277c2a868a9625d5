//! The wire format of the NSQ V2 protocol: commands in (here), frames out. Pure: bytes and values.
//!
//! <https://nsq.io/clients/tcp_protocol_spec.html>; where the page is silent, nsqd 1.3.0 rules.

use std::time::Duration;

use super::limits::{Limits, millis};
use super::message::WireId;
use super::names::Name;

mod body;
mod frame;

use self::body::Body;
pub(super) use self::body::split_batch;
pub(super) use self::frame::{put_bad_protocol, put_error, put_message, put_response};

/// What a client sends first.
pub(super) const MAGIC: &[u8; 4] = b"  V2";

/// One command. Bodies and names point into the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command<'a> {
    Identify(&'a [u8]),
    Auth,
    Sub { topic: Name<'a>, channel: Name<'a> },
    Pub { topic: Name<'a>, body: &'a [u8] },
    MultiPub { topic: Name<'a>, bodies: Vec<&'a [u8]> },
    DeferredPub { topic: Name<'a>, body: &'a [u8], delay: Duration },
    Ready(u32),
    Finish(WireId),
    Requeue { id: WireId, delay: Duration },
    Touch(WireId),
    Close,
    Nop,
}

/// How far a connection has come; part of the grammar, as it decides which commands are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Init,
    Subscribed,
    /// After CLS: takes no more messages, still answers those in flight.
    Closing,
}

/// What the start of the input holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decoded<'a> {
    /// The beginning of a command.
    Partial,
    /// A command, and the bytes that it takes of the input.
    Whole(Command<'a>, usize),
}

/// An error answer: nsqd's code, then a text for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CommandError {
    pub(super) code: &'static str,
    pub(super) text: String,
    /// Whether the connection ends with it.
    pub(super) fatal: bool,
}

impl CommandError {
    pub(super) fn fatal(code: &'static str, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), fatal: true }
    }

    pub(super) fn passing(code: &'static str, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), fatal: false }
    }

    fn invalid(text: impl Into<String>) -> Self {
        Self::fatal("E_INVALID", text)
    }
}

/// Reads one command from the start of `input`.
///
/// # Errors
///
/// Every error of the format is fatal: nobody can tell where the next command would begin.
pub(super) fn decode<'a>(
    input: &'a [u8],
    phase: Phase,
    limits: &Limits,
) -> Result<Decoded<'a>, CommandError> {
    let Some(end) = input.iter().take(limits.command_line_bytes + 1).position(|byte| *byte == b'\n') else {
        if input.len() > limits.command_line_bytes {
            return Err(CommandError::invalid("command line too long"));
        }
        return Ok(Decoded::Partial);
    };
    let (line, rest) = input.split_at(end);
    let rest = rest.strip_prefix(b"\n").unwrap_or(rest);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut params = line.split(|byte| *byte == b' ');
    let verb = params.next().unwrap_or_default();

    let body = Body { rest, message_limit: limits.message_bytes, limit: limits.body_bytes };
    let parsed = match (verb, phase) {
        // A RDY while closing has crossed our CLOSE_WAIT on the wire.
        (b"NOP", _) | (b"RDY", Phase::Closing) => Some((Command::Nop, 0)),
        (b"PUB", _) => publish(&mut params, &body)?,
        (b"MPUB", _) => multi_publish(&mut params, &body, limits)?,
        (b"DPUB", _) => deferred_publish(&mut params, &body, limits)?,
        (b"IDENTIFY", Phase::Init) => {
            let body = body.sized("IDENTIFY", "E_BAD_BODY", "body", body.limit)?;
            body.map(|body| (Command::Identify(body), 4 + body.len()))
        }
        (b"AUTH", Phase::Init) => {
            if params.next().is_some() {
                return Err(CommandError::invalid("AUTH invalid number of parameters"));
            }
            let body = body.sized("AUTH", "E_BAD_BODY", "body", body.limit)?;
            body.map(|body| (Command::Auth, 4 + body.len()))
        }
        (b"SUB", Phase::Init) => Some((subscribe(&mut params)?, 0)),
        (b"RDY", Phase::Subscribed) => Some((Command::Ready(ready_count(&mut params, limits)?), 0)),
        (b"CLS", Phase::Subscribed) => Some((Command::Close, 0)),
        (b"FIN", Phase::Subscribed | Phase::Closing) => {
            Some((Command::Finish(message_id("FIN", params.next())?), 0))
        }
        (b"TOUCH", Phase::Subscribed | Phase::Closing) => {
            Some((Command::Touch(message_id("TOUCH", params.next())?), 0))
        }
        (b"REQ", Phase::Subscribed | Phase::Closing) => Some((requeue(&mut params, limits)?, 0)),
        (b"IDENTIFY" | b"AUTH" | b"SUB" | b"RDY" | b"CLS" | b"FIN" | b"TOUCH" | b"REQ", _) => {
            return Err(CommandError::invalid(format!("cannot {} in current state", lossy(verb))));
        }
        _ => return Err(CommandError::invalid(format!("invalid command {}", lossy(verb)))),
    };
    Ok(match parsed {
        Some((command, body_bytes)) => Decoded::Whole(command, end + 1 + body_bytes),
        None => Decoded::Partial,
    })
}

/// A command with the bytes of its body, its length prefix included; `None` while it is partial.
type Parsed<'a> = Result<Option<(Command<'a>, usize)>, CommandError>;

fn publish<'a>(params: &mut impl Iterator<Item = &'a [u8]>, body: &Body<'a>) -> Parsed<'a> {
    let topic = topic("PUB", required("PUB", params.next())?)?;
    let body = body.sized("PUB", "E_BAD_MESSAGE", "message", body.message_limit)?;
    Ok(body.map(|body| (Command::Pub { topic, body }, 4 + body.len())))
}

fn deferred_publish<'a>(
    params: &mut impl Iterator<Item = &'a [u8]>,
    body: &Body<'a>,
    limits: &Limits,
) -> Parsed<'a> {
    let (topic_name, delay) = (params.next(), params.next());
    let delay = required("DPUB", delay)?;
    let topic = topic("DPUB", required("DPUB", topic_name)?)?;
    let Some(delay_ms) = decimal(delay) else {
        return Err(CommandError::invalid(format!("DPUB could not parse timeout {}", lossy(delay))));
    };
    let delay = Duration::from_millis(delay_ms);
    if delay > limits.max_delay {
        let max_ms = millis(limits.max_delay);
        return Err(CommandError::invalid(format!("DPUB timeout {delay_ms} out of range 0-{max_ms}")));
    }
    let body = body.sized("DPUB", "E_BAD_MESSAGE", "message", body.message_limit)?;
    Ok(body.map(|body| (Command::DeferredPub { topic, body, delay }, 4 + body.len())))
}

fn multi_publish<'a>(
    params: &mut impl Iterator<Item = &'a [u8]>,
    body: &Body<'a>,
    limits: &Limits,
) -> Parsed<'a> {
    let topic = topic("MPUB", required("MPUB", params.next())?)?;
    let Some(batch) = body.sized("MPUB", "E_BAD_BODY", "body", body.limit)? else {
        return Ok(None);
    };
    let bodies = split_batch(batch, limits)?;
    Ok(Some((Command::MultiPub { topic, bodies }, 4 + batch.len())))
}

fn subscribe<'a>(params: &mut impl Iterator<Item = &'a [u8]>) -> Result<Command<'a>, CommandError> {
    let (topic_name, channel) = (params.next(), params.next());
    let channel = required("SUB", channel)?;
    let topic = topic("SUB", required("SUB", topic_name)?)?;
    let channel = Name::parse(channel).ok_or_else(|| {
        CommandError::fatal("E_BAD_CHANNEL", format!("SUB channel name {} is not valid", quoted(channel)))
    })?;
    Ok(Command::Sub { topic, channel })
}

fn requeue<'a>(
    params: &mut impl Iterator<Item = &'a [u8]>,
    limits: &Limits,
) -> Result<Command<'a>, CommandError> {
    let (id, delay) = (params.next(), params.next());
    let delay = required("REQ", delay)?;
    let id = message_id("REQ", id)?;
    let Some(delay_ms) = decimal(delay) else {
        return Err(CommandError::invalid(format!("REQ could not parse timeout {}", lossy(delay))));
    };
    Ok(Command::Requeue { id, delay: Duration::from_millis(delay_ms).min(limits.max_delay) })
}

fn ready_count<'a>(
    params: &mut impl Iterator<Item = &'a [u8]>,
    limits: &Limits,
) -> Result<u32, CommandError> {
    let Some(param) = params.next() else { return Ok(1) };
    let Some(count) = decimal(param) else {
        return Err(CommandError::invalid(format!("RDY could not parse count {}", lossy(param))));
    };
    let max = limits.max_rdy_count;
    u32::try_from(count)
        .ok()
        .filter(|count| *count <= max)
        .ok_or_else(|| CommandError::invalid(format!("RDY count {count} out of range 0-{max}")))
}

fn required<'a>(verb: &str, param: Option<&'a [u8]>) -> Result<&'a [u8], CommandError> {
    param.ok_or_else(|| {
        // nsqd's two wordings.
        let params = if matches!(verb, "FIN" | "REQ" | "TOUCH") { "params" } else { "parameters" };
        CommandError::invalid(format!("{verb} insufficient number of {params}"))
    })
}

fn topic<'a>(verb: &str, raw: &'a [u8]) -> Result<Name<'a>, CommandError> {
    Name::parse(raw).ok_or_else(|| {
        CommandError::fatal("E_BAD_TOPIC", format!("{verb} topic name {} is not valid", quoted(raw)))
    })
}

fn message_id(verb: &str, param: Option<&[u8]>) -> Result<WireId, CommandError> {
    required(verb, param)?.try_into().map_err(|_| CommandError::invalid("invalid message ID"))
}

/// Decimal digits only, no sign; nothing at all is zero, as in nsqd. A number too large for any
/// limit stays the largest.
fn decimal(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0_u64, |number, digit| {
        digit.is_ascii_digit().then(|| number.saturating_mul(10).saturating_add(u64::from(digit - b'0')))
    })
}

/// Enough of a client's own words to recognise them in an answer or a log line.
fn lossy(raw: &[u8]) -> String {
    String::from_utf8_lossy(raw.get(..64).unwrap_or(raw)).into_owned()
}

fn quoted(raw: &[u8]) -> String {
    format!("\"{}\"", raw.get(..80).unwrap_or(raw).escape_ascii())
}

#[cfg(test)]
mod tests;
