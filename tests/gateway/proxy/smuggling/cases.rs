//! The table of cases, read.

use super::recorder::Request;

/// What a proxy may make of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Refuse,
    Forward,
    May,
    Deny,
}

/// One line of the table.
pub(super) struct Case {
    pub(super) verdict: Verdict,
    pub(super) name: &'static str,
    pub(super) bytes: Vec<u8>,
    /// The only request that a dataserver may see.
    pub(super) meaning: Option<Request>,
}

/// All cases. What the table's signs mean is said at its head.
pub(super) fn cases() -> Vec<Case> {
    let lines = include_str!("cases.txt").lines();
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(case).collect()
}

fn case(line: &'static str) -> Case {
    let mut columns = line.split(" | ");
    let verdict = match columns.next() {
        Some("refuse") => Verdict::Refuse,
        Some("forward") => Verdict::Forward,
        Some("may") => Verdict::May,
        Some("deny") => Verdict::Deny,
        _ => panic!("no verdict in {line}"),
    };
    let name = columns.next().unwrap();
    let bytes = bytes(columns.next().unwrap());
    let meaning = columns.next().map(|request| {
        let mut words = request.trim_end_matches(" |").split(' ');
        Request {
            method: words.next().unwrap().to_owned(),
            target: words.next().unwrap().to_owned(),
            host: words.next().map_or("a", |host| host.strip_prefix('@').unwrap()).to_owned(),
            body: self::bytes(columns.next().unwrap_or_default()),
        }
    });
    assert_eq!(meaning.is_none(), matches!(verdict, Verdict::Refuse | Verdict::Deny), "{line}");
    Case { verdict, name, bytes, meaning }
}

fn bytes(text: &str) -> Vec<u8> {
    let text = text
        .replace("$P", "POST / HTTP/1.1⏎Host: a⏎")
        .replace("$G", "GET / HTTP/1.1⏎Host: a⏎")
        .replace("$C", "Transfer-Encoding: chunked⏎");
    let mut chars = text.chars();
    let mut bytes = Vec::new();
    while let Some(char) = chars.next() {
        match char {
            '⏎' => bytes.extend(b"\r\n"),
            '\\' => bytes.push(match chars.next() {
                Some('r') => b'\r',
                Some('n') => b'\n',
                Some('t') => b'\t',
                Some('v') => 0x0b,
                Some('0') => 0,
                Some('\\') => b'\\',
                Some('x') => {
                    let digits: String = chars.by_ref().take(2).collect();
                    u8::from_str_radix(&digits, 16).unwrap()
                }
                other => panic!("\\{other:?} in {text}"),
            }),
            '{' => {
                let repeated = chars.next().unwrap();
                assert_eq!(chars.next(), Some('*'), "{text}");
                let count: String = chars.by_ref().take_while(|char| *char != '}').collect();
                bytes.extend(std::iter::repeat_n(u8::try_from(repeated).unwrap(), count.parse().unwrap()));
            }
            char => bytes.extend(char.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
    bytes
}
