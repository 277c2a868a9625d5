//! Section `log.access`: a line for each request that was forwarded or refused.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use serde::{Serialize, Serializer};

use super::Fault;
use super::reader::Reader;
use crate::lines::Destination;

/// How lines look with `format: text`.
const TEXT: &str = "{time} {client} \"{method} {host}{path} {protocol}\" {status} tries={tries} error={error} \
                    duration_ms={duration_ms} first_byte_ms={first_byte_ms} bytes_in={bytes_in} \
                    bytes_out={bytes_out} request_id={request_id} trace_id={trace_id} detail=\"{detail}\"";

/// A line for each request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AccessLog {
    /// Where it is written: `stderr`, `stdout` or the name of a file. Default none: there is no access log.
    pub to: Option<Destination>,
    /// How a line looks: `text`, `json` or a template such as `'{client} {status}'`. Default text.
    pub format: Format,
    /// Whether the query of a target is in the line; secrets may be in it. Default false.
    pub query: bool,
    /// Of the requests that went well one of so many has a line. Whatever failed always has. Default 1, at most a million.
    pub one_in: usize,
    /// Bytes of a method, a host or a target in a line; what is longer is cut. Default 1024, from 64 to 65536.
    pub field_bytes: usize,
}

/// How a line looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// An object with every field.
    Json,
    /// A text with fields in it.
    Template(Template),
}

/// A text with fields in it. A brace is written twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    text: String,
    parts: Vec<Part>,
}

/// A part of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// As it is.
    Text(String),
    /// What is known of the request.
    Field(Field),
}

/// What a line can say of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// When it came.
    Time,
    /// The address of the other end of its connection, or what a PROXY protocol header says it is.
    Client,
    /// As it was sent.
    Method,
    /// Whom it was for.
    Host,
    /// Its target, with the query if that is wanted.
    Path,
    /// What the user speaks.
    Protocol,
    /// Of the answer; 499 where the user left before it.
    Status,
    /// Who was asked and what became of it.
    Tries,
    /// Why it failed, in a word.
    Error,
    /// Why it failed, in a sentence.
    Detail,
    /// From its head to the end of its answer.
    DurationMs,
    /// From its head to the head of its answer.
    FirstByteMs,
    /// Of its body.
    BytesIn,
    /// Of the body of its answer.
    BytesOut,
    /// `X-Request-Id`.
    RequestId,
    /// Of `traceparent`.
    TraceId,
}

impl Field {
    /// Each by its name, in the order of JSON.
    pub const ALL: [(&str, Self); 16] = [
        ("time", Self::Time),
        ("client", Self::Client),
        ("method", Self::Method),
        ("host", Self::Host),
        ("path", Self::Path),
        ("protocol", Self::Protocol),
        ("status", Self::Status),
        ("tries", Self::Tries),
        ("error", Self::Error),
        ("detail", Self::Detail),
        ("duration_ms", Self::DurationMs),
        ("first_byte_ms", Self::FirstByteMs),
        ("bytes_in", Self::BytesIn),
        ("bytes_out", Self::BytesOut),
        ("request_id", Self::RequestId),
        ("trace_id", Self::TraceId),
    ];

    fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, field)| *field)
    }
}

impl AccessLog {
    pub(super) fn read(mut section: Reader<'_>) -> Self {
        let access = Self {
            to: section.optional::<String>("to").map(|to| match to.as_str() {
                "stderr" => Destination::Stderr,
                "stdout" => Destination::Stdout,
                path => Destination::File(path.into()),
            }),
            format: read_format(&mut section),
            query: section.value("query", false),
            one_in: section.within("one_in", 1, 1, 1_000_000),
            field_bytes: section.within("field_bytes", 1_024, 64, 65_536),
        };
        section.finish();
        access
    }

    /// What is wrong with its file.
    pub(super) fn check(&self, faults: &mut Vec<Fault>) {
        let Some(Destination::File(path)) = &self.to else { return };
        if let Err(error) = try_to_write(path) {
            faults
                .push(Fault::new("log.access.to", format!("{} cannot be written: {error}", path.display())));
        }
    }
}

/// Leaves nothing behind: a file that is only checked is not made.
fn try_to_write(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(there) if there.is_file() || there.file_type().is_char_device() => {
            OpenOptions::new().append(true).open(path).map(|_| ())
        }
        Ok(_) => Err(io::Error::other("it is not a file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let name = path.file_name().ok_or_else(|| io::Error::other("it names no file"))?;
            let mut trial = name.to_owned();
            trial.push(format!(".{:016x}", rand::random::<u64>()));
            let trial = path.with_file_name(trial);
            OpenOptions::new().write(true).create_new(true).open(&trial)?;
            fs::remove_file(trial)
        }
        Err(error) => Err(error),
    }
}

fn read_format(section: &mut Reader<'_>) -> Format {
    const KEY: &str = "format";
    let text: Option<String> = section.optional(KEY);
    match text.as_deref().unwrap_or("text") {
        "text" => {}
        "json" => return Format::Json,
        template => match Template::parse(template) {
            Ok(template) => return Format::Template(template),
            Err(why) => section.fault(KEY, format!("{template:?} {why}")),
        },
    }
    Format::Template(Template::text())
}

impl Template {
    /// That of `format: text`, which has no faults; a test keeps it so.
    fn text() -> Self {
        Self {
            text: "text".to_owned(),
            ..Self::parse(TEXT).unwrap_or(Self { text: String::new(), parts: Vec::new() })
        }
    }

    /// On an error says what is wrong, to be said after the text.
    fn parse(text: &str) -> Result<Self, String> {
        if text.contains(['\n', '\r']) {
            return Err("is more than one line".to_owned());
        }
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            match c {
                '{' | '}' if rest.peek() == Some(&c) => plain.extend(rest.next()),
                '{' => {
                    let mut closed = false;
                    let name: String = rest
                        .by_ref()
                        .take_while(|c| {
                            closed = *c == '}';
                            !closed
                        })
                        .collect();
                    if !closed {
                        return Err("has a { that nothing closes".to_owned());
                    }
                    let Some(field) = Field::named(&name) else {
                        let known = Field::ALL.map(|(name, _)| name).join(", ");
                        return Err(format!(
                            "names {{{name}}}, which is no field of a line; there are {known}"
                        ));
                    };
                    if !plain.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut plain)));
                    }
                    parts.push(Part::Field(field));
                }
                '}' => return Err("has a } that closes nothing".to_owned()),
                c => plain.push(c),
            }
        }
        if parts.is_empty() {
            return Err("is neither text nor json, nor a template such as '{client} {status}'".to_owned());
        }
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self { text: text.to_owned(), parts })
    }

    /// What it is made of.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }
}

/// As it stands in the file.
impl Serialize for Format {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Self::Json => "json",
            Self::Template(template) => &template.text,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_template_is_text_with_fields_in_it() {
        let parts = |text: &str| Template::parse(text).map(|template| template.parts);
        let text = |text: &str| Part::Text(text.to_owned());
        assert_eq!(
            parts("a{{b}} {client}-{status}c"),
            Ok(vec![
                text("a{b} "),
                Part::Field(Field::Client),
                text("-"),
                Part::Field(Field::Status),
                text("c")
            ])
        );
        assert!(Template::text().parts.len() > 20);
        for (bad, why) in [
            ("txt", "is neither text nor json"),
            ("{user}", "names {user}, which is no field of a line; there are time, client, "),
            ("{status", "has a { that nothing closes"),
        ] {
            assert!(parts(bad).unwrap_err().starts_with(why), "{bad}");
        }
        assert_eq!(parts("{status} }"), Err("has a } that closes nothing".to_owned()));
        assert_eq!(parts("{status}\n{client}"), Err("is more than one line".to_owned()));
    }

    proptest! {
        #[test]
        fn any_text_is_a_template_or_a_fault(text in "(?s)[a-z{}\n ]{0,30}") {
            if let Ok(template) = Template::parse(&text) {
                prop_assert!(!template.parts.is_empty());
            }
        }
    }
}
