//! How a line looks. Whatever a user can write is escaped, so that no request can make a line of its own or break one.

use std::io::Write;
use std::time::{Duration, UNIX_EPOCH};

use http::Version;

use super::entry::{Entry, Try};
use crate::config::{self, Field, Format, Part};

/// A second as it is written: `2026-11-22T16:31:52`.
#[derive(Clone, Copy, Default)]
pub(super) struct Second {
    since_1970: u64,
    text: [u8; 19],
}

impl Second {
    pub(super) fn of(since_1970: Duration) -> Self {
        let since_1970 = since_1970.as_secs();
        let whole = UNIX_EPOCH.checked_add(Duration::from_secs(since_1970)).unwrap_or(UNIX_EPOCH);
        let text = humantime::format_rfc3339_seconds(whole).to_string();
        let text = text.as_bytes().first_chunk().copied().unwrap_or_default();
        Self { since_1970, text }
    }

    pub(super) fn is(&self, since_1970: Duration) -> bool {
        self.since_1970 == since_1970.as_secs() && self.since_1970 > 0
    }
}

/// A moment as it is written.
#[derive(Clone, Copy)]
pub(super) struct Time {
    pub(super) second: Second,
    pub(super) millis: u32,
}

/// What a field is.
enum Value<'a> {
    Nothing,
    Number(u64),
    Millis(Duration),
    Time(Time),
    /// Nothing in it has to be escaped.
    Plain(&'a str),
    /// Nothing in it has to be escaped either.
    Address(std::net::IpAddr),
    /// What the user wrote, or might have.
    Text(&'a [u8]),
    Tries(&'a [Try]),
}

/// Writes a whole line.
pub(super) fn write(
    out: &mut Vec<u8>,
    entry: &Entry,
    took: Duration,
    time: Time,
    config: &config::AccessLog,
) {
    let tries = entry.tries.borrow();
    let why = entry.why.borrow();
    let value = |field| match field {
        Field::Time => Value::Time(time),
        Field::Client => Value::Address(entry.client),
        Field::Method => Value::Text(entry.method.as_str().as_bytes()),
        Field::Host => host(entry),
        Field::Path if config.query => {
            Value::Text(entry.target.path_and_query().map_or("", |target| target.as_str()).as_bytes())
        }
        Field::Path => Value::Text(entry.target.path().as_bytes()),
        Field::Protocol => Value::Plain(match entry.version {
            Version::HTTP_10 => "HTTP/1.0",
            Version::HTTP_2 => "HTTP/2",
            _ => "HTTP/1.1",
        }),
        Field::Status => Value::Number(entry.status.get().into()),
        Field::Tries if tries.is_empty() => Value::Nothing,
        Field::Tries => Value::Tries(&tries),
        Field::Error => why.as_ref().map_or(Value::Nothing, |why| Value::Plain(why.error)),
        Field::Detail => why.as_ref().map_or(Value::Nothing, |why| Value::Text(why.detail.as_bytes())),
        Field::DurationMs => Value::Millis(took),
        Field::FirstByteMs => entry.first_byte.get().map_or(Value::Nothing, Value::Millis),
        Field::BytesIn => Value::Number(entry.bytes_in.get()),
        Field::BytesOut => Value::Number(entry.bytes_out.get()),
        Field::RequestId => entry.id.as_ref().map_or(Value::Nothing, |id| Value::Text(id.value().as_bytes())),
        Field::TraceId => {
            // `traceparent` was checked: the trace stands behind the version.
            let trace = entry.trace.as_ref().and_then(|trace| trace.get(3..35));
            trace.map_or(Value::Nothing, Value::Text)
        }
    };
    match &config.format {
        Format::Template(template) => {
            for part in template.parts() {
                match part {
                    Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                    Part::Field(field) => write_text(out, &value(*field), config.field_bytes),
                }
            }
        }
        Format::Json => {
            for (n, (name, field)) in Field::ALL.into_iter().enumerate() {
                out.extend_from_slice(if n == 0 { b"{\"" } else { b",\"" });
                out.extend_from_slice(name.as_bytes());
                out.extend_from_slice(b"\":");
                write_json(out, &value(field), config.field_bytes);
            }
            out.push(b'}');
        }
    }
    out.push(b'\n');
}

/// Whom a request is for: the target says it better. A name and a password before it are nobody's business.
fn host(entry: &Entry) -> Value<'_> {
    let target = entry.target.authority().map(|authority| authority.as_str().as_bytes());
    let host = target.or(entry.host.as_deref());
    host.map_or(Value::Nothing, |host| Value::Text(host.rsplit(|byte| *byte == b'@').next().unwrap_or(host)))
}

fn write_text(out: &mut Vec<u8>, value: &Value<'_>, most: usize) {
    match value {
        Value::Nothing | Value::Text([]) => out.push(b'-'),
        Value::Text(text) => escape(out, text, most, |out, byte| match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            byte => put(out, format_args!("\\x{byte:02x}")),
        }),
        Value::Tries(tries) => {
            for (n, tried) in tries.iter().enumerate() {
                let comma = if n == 0 { "" } else { "," };
                put(out, format_args!("{comma}{}=", tried.upstream.addr));
                match tried.result {
                    Some(Ok(status)) => put(out, format_args!("{status}")),
                    Some(Err(failure)) => out.extend_from_slice(failure.label().as_bytes()),
                    None => out.push(b'-'),
                }
            }
        }
        other => write_plain(out, other),
    }
}

fn write_json(out: &mut Vec<u8>, value: &Value<'_>, most: usize) {
    match value {
        Value::Nothing => out.extend_from_slice(b"null"),
        Value::Number(_) | Value::Millis(_) => write_plain(out, value),
        Value::Plain(_) | Value::Time(_) | Value::Address(_) => {
            out.push(b'"');
            write_plain(out, value);
            out.push(b'"');
        }
        Value::Text(text) => {
            out.push(b'"');
            escape(out, text, most, |out, byte| match byte {
                b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
                byte => put(out, format_args!("\\u{byte:04x}")),
            });
            out.push(b'"');
        }
        Value::Tries(tries) => {
            for (n, tried) in tries.iter().enumerate() {
                let before = if n == 0 { "[" } else { "," };
                put(out, format_args!("{before}{{\"dataserver\":\"{}\",\"result\":", tried.upstream.addr));
                match tried.result {
                    Some(Ok(status)) => put(out, format_args!("\"{status}\"}}")),
                    Some(Err(failure)) => put(out, format_args!("\"{}\"}}", failure.label())),
                    None => out.extend_from_slice(b"null}"),
                }
            }
            out.push(b']');
        }
    }
}

fn write_plain(out: &mut Vec<u8>, value: &Value<'_>) {
    match value {
        Value::Number(number) => put(out, format_args!("{number}")),
        Value::Millis(duration) => {
            let micros = duration.as_micros();
            put(out, format_args!("{}.{:03}", micros / 1000, micros % 1000));
        }
        Value::Time(Time { second, millis }) => {
            out.extend_from_slice(&second.text);
            put(out, format_args!(".{millis:03}Z"));
        }
        Value::Plain(text) => out.extend_from_slice(text.as_bytes()),
        Value::Address(ip) => put(out, format_args!("{ip}")),
        Value::Nothing | Value::Text(_) | Value::Tries(_) => {}
    }
}

/// Writes text of which `special` writes what is not plain ASCII, and no more than `most` bytes of it.
fn escape(out: &mut Vec<u8>, text: &[u8], most: usize, special: impl Fn(&mut Vec<u8>, u8)) {
    let cut = text.get(..most);
    for byte in cut.unwrap_or(text) {
        match byte {
            b'"' | b'\\' => special(out, *byte),
            b' '..=b'~' => out.push(*byte),
            byte => special(out, *byte),
        }
    }
    if cut.is_some_and(|cut| cut.len() < text.len()) {
        out.extend_from_slice(b"...");
    }
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text); // writing to a Vec does not fail
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(bytes: &[u8], most: usize) -> String {
        let mut out = Vec::new();
        write_text(&mut out, &Value::Text(bytes), most);
        String::from_utf8(out).unwrap()
    }

    fn json(bytes: &[u8], most: usize) -> String {
        let mut out = Vec::new();
        write_json(&mut out, &Value::Text(bytes), most);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_a_user_wrote_is_escaped_and_cut() {
        assert_eq!(text(b"/a\"b\\c\n\x7f\xff", 99), "/a\\\"b\\\\c\\x0a\\x7f\\xff");
        assert_eq!(json(b"/a\"b\\c\n\x7f\xff", 99), "\"/a\\\"b\\\\c\\u000a\\u007f\\u00ff\"");
        assert_eq!((text(b"abcd", 4), text(b"abcde", 4)), ("abcd".to_owned(), "abcd...".to_owned()));
    }

    #[test]
    fn times_and_durations_are_as_others_write_them() {
        let at = Duration::from_millis(1_795_365_112_007);
        let mut out = Vec::new();
        write_plain(&mut out, &Value::Time(Time { second: Second::of(at), millis: at.subsec_millis() }));
        assert_eq!(out, humantime::format_rfc3339_millis(UNIX_EPOCH + at).to_string().as_bytes());
        assert!(Second::of(at).is(at) && !Second::of(at).is(at + Duration::from_secs(1)));
        assert!(!Second::default().is(Duration::ZERO), "there is no text in it yet");
        out.clear();
        write_plain(&mut out, &Value::Millis(Duration::from_micros(1_234_005)));
        assert_eq!(out, b"1234.005");
    }

    proptest! {
        #[test]
        fn no_text_leaves_its_place(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let shown = text(&bytes, 50);
            prop_assert!(shown.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{}", shown);
            // No quotation mark that would end a quotation.
            prop_assert!(!shown.replace("\\\\", "").replace("\\\"", "").contains('"'), "{}", shown);
            let parsed: String = serde_json::from_str(&json(&bytes, 60)).unwrap();
            let latin: String = bytes.iter().map(|byte| char::from(*byte)).collect();
            prop_assert_eq!(parsed, latin);
        }
    }
}
