//! Who asks: the peer, or whom trusted proxies say that they ask for.
//!
//! They say it in `X-Forwarded-For`, in `Forwarded` (RFC 7239), or in both. One that writes the first passes on what a
//! user says in the second, and the reverse, so that neither is believed alone where both are there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::{HeaderMap, HeaderValue};

use crate::addr::Networks;

/// Whom each member of a line names, the nearest last. `None` is somebody who cannot be told.
type Read = fn(&[u8]) -> Vec<Option<IpAddr>>;

const FIELDS: [(&str, Read); 2] = [("x-forwarded-for", x_forwarded_for), ("forwarded", forwarded)];

/// Whether whoever asks is in these networks, by all that trusted proxies say.
pub(super) fn is_in(allowed: &Networks, peer: IpAddr, headers: &HeaderMap, trusted: &Networks) -> bool {
    let said = FIELDS.iter().filter(|(name, _)| trusted.contains(peer) && headers.contains_key(*name));
    let mut clients: Vec<_> =
        said.map(|(name, read)| client(peer, headers.get_all(*name).iter().rev(), *read, trusted)).collect();
    if clients.is_empty() {
        clients.push(Some(peer));
    }
    clients.iter().all(|client| client.is_some_and(|client| allowed.contains(client)))
}

/// The first who is no trusted proxy, from the nearest on. `None` if that cannot be read.
fn client<'a>(
    peer: IpAddr,
    lines: impl Iterator<Item = &'a HeaderValue>,
    read: Read,
    trusted: &Networks,
) -> Option<IpAddr> {
    let mut client = peer;
    // The last was added by whoever is nearest.
    for named in lines.flat_map(|line| read(line.as_bytes()).into_iter().rev()) {
        if !trusted.contains(client) {
            break;
        }
        client = named?;
    }
    Some(client)
}

fn x_forwarded_for(line: &[u8]) -> Vec<Option<IpAddr>> {
    let address = |member: &[u8]| str::from_utf8(member.trim_ascii()).ok()?.parse().ok();
    line.split(|b| *b == b',').map(address).collect()
}

/// A line with a fault anywhere names nobody: what a user began, such as a quoted string without an end, could change
/// what the proxy's own words after it mean.
fn forwarded(line: &[u8]) -> Vec<Option<IpAddr>> {
    let elements: Option<Vec<_>> =
        split(line, b',').and_then(|elements| elements.into_iter().map(pairs).collect());
    elements.map_or_else(|| vec![None], |elements| elements.iter().map(|pairs| named(pairs)).collect())
}

/// A parameter and its value, as it is without quotes.
type Pair<'a> = (&'a [u8], Vec<u8>);

/// What an element of `Forwarded` says (RFC 7239 §4). `None` if it is none.
fn pairs(element: &[u8]) -> Option<Vec<Pair<'_>>> {
    let pairs = split(element, b';')?.into_iter().map(<[u8]>::trim_ascii);
    pairs.filter(|pair| !pair.is_empty()).map(pair).collect()
}

fn pair(written: &[u8]) -> Option<Pair<'_>> {
    let at = written.iter().position(|b| *b == b'=')?;
    let (name, value) = (written.get(..at)?, written.get(at + 1..)?);
    let is_name = !name.is_empty() && name.iter().copied().all(is_token);
    Some((name, unquoted(value).filter(|_| is_name)?))
}

/// Whom an element is for, if it says so once and with an address.
fn named(pairs: &[Pair<'_>]) -> Option<IpAddr> {
    let mut nodes = pairs.iter().filter(|(name, _)| name.eq_ignore_ascii_case(b"for"));
    let (_, node) = nodes.next()?;
    if nodes.next().is_none() { address(node) } else { None }
}

/// Splits where a separator stands outside of quoted strings. `None` if one of them does not end.
fn split(text: &[u8], separator: u8) -> Option<Vec<&[u8]>> {
    let (mut quoted, mut escaped) = (false, false);
    let parts = text.split(|b| {
        match b {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            _ => {}
        }
        *b == separator && !quoted
    });
    let parts = parts.collect();
    (!quoted).then_some(parts)
}

/// A token or a quoted string. What only belongs into quotes, as a port's colon does, is taken without them: many a proxy
/// writes it so, and it ends nothing.
fn unquoted(value: &[u8]) -> Option<Vec<u8>> {
    let Some(rest) = value.strip_prefix(b"\"") else {
        let is_whole = value.iter().all(|&b| is_token(b) || matches!(b, b':' | b'[' | b']'));
        return is_whole.then(|| value.to_owned());
    };
    let (mut text, mut bytes) = (Vec::new(), rest.strip_suffix(b"\"")?.iter());
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return None,
            b'\\' => text.push(*bytes.next()?),
            byte => text.push(*byte),
        }
    }
    Some(text)
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The address of a node (RFC 7239 §6): neither `unknown` nor a name that hides one, such as `_gazonk`, has one.
fn address(node: &[u8]) -> Option<IpAddr> {
    let node = str::from_utf8(node).ok()?;
    let (ip, port): (IpAddr, _) = if let Some(node) = node.strip_prefix('[') {
        let (ip, port) = node.split_once(']')?;
        (ip.parse::<Ipv6Addr>().ok()?.into(), port)
    } else {
        let (ip, port) = node.split_at(node.find(':').unwrap_or(node.len()));
        (ip.parse::<Ipv4Addr>().ok()?.into(), port)
    };
    (port.is_empty() || is_port(port.strip_prefix(':')?)).then_some(ip)
}

/// A number of up to five digits, or a name that hides one.
fn is_port(port: &str) -> bool {
    let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    match port.strip_prefix('_') {
        Some(name) => !name.is_empty() && name.bytes().all(is_name),
        None => (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Config;

    #[test]
    fn behind_trusted_proxies_it_is_whom_they_ask_for_who_asks() {
        let config: Config = "gateway: {trusted_proxies: [10.0.0.0/8]}".parse().unwrap();
        let trusted = &config.gateway.trusted_proxies;
        let who = |peer: &str, read: Read, lines: &[&'static str]| {
            let lines: Vec<_> = lines.iter().map(|line| HeaderValue::from_static(line)).collect();
            client(peer.parse().unwrap(), lines.iter().rev(), read, trusted).map(|ip| ip.to_string())
        };
        let as_forwarded = |line: &str| -> &'static str {
            let members: Vec<_> = line.split(", ").map(|member| format!("for={member}")).collect();
            members.join(", ").leak()
        };
        for (peer, lines, client) in [
            ("10.0.0.1", &[][..], Some("10.0.0.1")),
            ("10.0.0.1", &["127.0.0.1, 9.9.9.9"], Some("9.9.9.9")),
            ("10.0.0.1", &["127.0.0.1", "9.9.9.9, 10.0.0.2"], Some("9.9.9.9")),
            // Nobody's word but a proxy's.
            ("9.9.9.9", &["127.0.0.1"], Some("9.9.9.9")),
            ("10.0.0.1", &["unknown, 9.9.9.9"], Some("9.9.9.9")),
            ("10.0.0.1", &["9.9.9.9, unknown"], None),
        ] {
            assert_eq!(who(peer, x_forwarded_for, lines).as_deref(), client, "{lines:?}");
            let lines: Vec<_> = lines.iter().map(|line| as_forwarded(line)).collect();
            assert_eq!(who(peer, forwarded, &lines).as_deref(), client, "{lines:?}");
        }
    }

    #[test]
    fn all_that_is_said_must_be_of_a_client_that_is_allowed() {
        let config: Config =
            "gateway: {trusted_proxies: [10.0.0.1], admin_allow: [192.168.0.1]}".parse().unwrap();
        let is_allowed = |peer: &str, fields: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            let gateway = &config.gateway;
            is_in(&gateway.admin_allow, peer.parse().unwrap(), &headers, &gateway.trusted_proxies)
        };
        let (xff, forwarded) = ("x-forwarded-for", "forwarded");
        assert!(is_allowed("192.168.0.1", &[]) && !is_allowed("10.0.0.1", &[]));
        assert!(is_allowed("192.168.0.1", &[(xff, "9.9.9.9"), (forwarded, "for=9.9.9.9")]), "nobody's word");
        for (fields, allowed) in [
            (&[(xff, "192.168.0.1")][..], true),
            (&[(forwarded, "for=192.168.0.1")], true),
            (&[(xff, "192.168.0.1"), (forwarded, "for=192.168.0.1")], true),
            (&[(xff, "192.168.0.1"), (forwarded, "for=9.9.9.9")], false),
            (&[(xff, "9.9.9.9"), (forwarded, "for=192.168.0.1")], false),
            (&[(xff, "192.168.0.1"), (forwarded, "proto=https")], false),
            (&[(forwarded, "for=192.168.0.1"), (forwarded, "")], false),
        ] {
            assert_eq!(is_allowed("10.0.0.1", fields), allowed, "{fields:?}");
        }
    }

    #[test]
    fn rfc7239_elements_are_read_as_they_may_be_written() {
        let read = |line: &str| -> Vec<_> {
            let named = forwarded(line.as_bytes()).into_iter();
            named.map(|ip| ip.map_or_else(|| "?".to_owned(), |ip| ip.to_string())).collect()
        };
        for (line, named) in [
            ("for=192.0.2.60;proto=http;by=203.0.113.43", &["192.0.2.60"][..]),
            ("for=192.0.2.43, for=198.51.100.17;by=\"x,y;for=\\\"\"", &["192.0.2.43", "198.51.100.17"]),
            ("For=\"[2001:db8:cafe::17]:4711\"", &["2001:db8:cafe::17"]),
            ("proto=http; FOR=\"192.0.2.1:_x.y\" ;;", &["192.0.2.1"]),
            ("for=192.0.2.1:80,for=[2001:db8::1]:80", &["192.0.2.1", "2001:db8::1"]),
            ("for=\"1\\92.0.2.1\"", &["192.0.2.1"]),
            // Nobody who can be told.
            ("for=unknown, for=_gazonk, for=\"\", proto=http, ", &["?", "?", "?", "?", "?"]),
            (
                "for=\"2001:db8::1\", for=192.0.2.1:, for=192.0.2.1:123456, for=192.0.2.1:_",
                &["?", "?", "?", "?"],
            ),
            ("for=\"[192.0.2.1]\", for=192.0.2, for=\"[2001:db8::1\"", &["?", "?", "?"]),
            // A fault anywhere.
            ("for=\"x, for=127.0.0.1", &["?"]),
            ("for=\"x\"y, for=127.0.0.1", &["?"]),
            ("for=\"x\\\", for=127.0.0.1", &["?"]),
            ("x=\", for=\"9.9.9.9\", for=127.0.0.1", &["?"]),
            ("for, for=127.0.0.1", &["?"]),
            ("=x, for=127.0.0.1", &["?"]),
            ("for =9.9.9.9, for=127.0.0.1", &["?"]),
            ("for=9.9.9.9 for=127.0.0.1", &["?"]),
            ("for=9.9.9.9;For=127.0.0.1", &["?"]),
        ] {
            assert_eq!(read(line), named, "{line}");
        }
    }

    /// A node as one proxy or another writes it.
    fn written(ip: IpAddr, port: Option<u16>, quoted: bool) -> String {
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let node = if ip.is_ipv4() { format!("{ip}{port}") } else { format!("[{ip}]{port}") };
        if quoted { format!("\"{node}\"") } else { node }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(line: Vec<u8>) {
            prop_assert!(!forwarded(&line).is_empty());
        }

        #[test]
        fn what_looks_like_it_is_read(line in "((for|by|FOR)?=?[\"\\\\:;,. \\[\\]_a0-9]{0,8}[;,]?){0,6}") {
            prop_assert!(!forwarded(line.as_bytes()).is_empty());
        }

        #[test]
        fn whoever_is_written_is_named(
            nodes in prop::collection::vec((any::<IpAddr>(), any::<Option<u16>>(), any::<bool>()), 1..4),
            host in "[ -~]{0,10}",
        ) {
            let host = host.replace('\\', "\\\\").replace('"', "\\\"");
            let elements: Vec<_> = nodes
                .iter()
                .map(|(ip, port, quoted)| format!("host=\"{host}\";for={}", written(*ip, *port, *quoted)))
                .collect();
            let named: Vec<_> = nodes.iter().map(|(ip, ..)| Some(*ip)).collect();
            prop_assert_eq!(forwarded(elements.join(", ").as_bytes()), named);
        }

        /// A user can make the proxy's word one that names nobody, and no other.
        #[test]
        fn what_comes_before_changes_nothing_of_what_the_proxy_says(
            before in "((for|by)?=?[\"\\\\:;,. a0-9]{0,8}[;,]?){0,6}",
            ip: IpAddr,
            quoted: bool,
        ) {
            let line = format!("{before}, for={};proto=http", written(ip, None, quoted));
            let last = forwarded(line.as_bytes()).pop().flatten();
            prop_assert!(last.is_none() || last == Some(ip), "{}", line);
        }
    }
}
