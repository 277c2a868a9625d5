//! The header of the PROXY protocol, versions 1 and 2 (HAProxy's `doc/proxy-protocol.txt`, sections 2.1 and 2.2): a
//! proxy in front that only carries bytes says with it whose they are.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

const V1_START: &[u8] = b"PROXY ";

/// Bytes of a line of version 1, with its end.
const V1_MAX: usize = 107;

const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes of version 2 up to the addresses.
const V2_START: usize = V2_SIGNATURE.len() + 4;

/// Bytes of addresses and extensions that version 2 may have here; the protocol would allow 65535.
const V2_MAX: usize = 4096;

/// Bytes that are looked at in one go: most headers are shorter.
const STEP: usize = 512;

/// Takes the header off a connection and not a byte more. Returns the address that it gives; `None` if the
/// connection's own is the right one.
pub(super) async fn read(stream: &mut TcpStream) -> io::Result<Option<IpAddr>> {
    let mut header = Vec::new();
    loop {
        let had = header.len();
        header.resize(had + STEP, 0);
        let peeked = stream.peek(header.get_mut(had..).unwrap_or_default()).await?;
        if peeked == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        header.truncate(had + peeked);
        let parsed = parse(&header).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        // What is part of the header is taken; or the next look would see it again, and at once.
        let end = parsed.as_ref().map_or(header.len(), |parsed| parsed.length);
        stream.read_exact(header.get_mut(had..end).unwrap_or_default()).await?;
        if let Some(parsed) = parsed {
            return Ok(parsed.source);
        }
    }
}

/// A whole header.
#[derive(Debug, PartialEq)]
struct Header {
    /// In bytes.
    length: usize,
    source: Option<IpAddr>,
}

/// Why a header is none.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("{0}")]
struct Malformed(&'static str);

/// Reads a header at the beginning of `bytes`; `None` if it needs more of them.
fn parse(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    if let Some(rest) = bytes.strip_prefix(V2_SIGNATURE) {
        return parse_v2(rest);
    }
    if bytes.starts_with(V1_START) {
        return parse_v1(bytes);
    }
    if V1_START.starts_with(bytes) || V2_SIGNATURE.starts_with(bytes) {
        return Ok(None);
    }
    Err(Malformed("there is no PROXY protocol header"))
}

fn parse_v1(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let most = bytes.get(..V1_MAX).unwrap_or(bytes);
    let Some(end) = most.windows(2).position(|pair| pair == b"\r\n") else {
        let more = bytes.len() < V1_MAX;
        return if more { Ok(None) } else { Err(Malformed("the line of version 1 does not end in time")) };
    };
    let line = bytes.get(V1_START.len()..end).unwrap_or_default();
    let source = if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") {
        None
    } else {
        let source = std::str::from_utf8(line).ok().and_then(v1_source);
        Some(source.ok_or(Malformed("the line of version 1 is not one"))?)
    };
    Ok(Some(Header { length: end + 2, source }))
}

/// Family, source, destination and both ports, one space apart.
fn v1_source(line: &str) -> Option<IpAddr> {
    let mut words = line.split(' ');
    let family = words.next()?;
    let mut address = || -> Option<IpAddr> {
        let word = words.next()?;
        match family {
            "TCP4" => word.parse::<Ipv4Addr>().ok().map(IpAddr::from),
            "TCP6" => word.parse::<Ipv6Addr>().ok().map(IpAddr::from),
            _ => None,
        }
    };
    let (source, _) = (address()?, address()?);
    let ports = [words.next()?, words.next()?];
    (ports.into_iter().all(is_port) && words.next().is_none()).then_some(source)
}

/// `parse` alone would take a plus sign and leading zeros.
fn is_port(word: &str) -> bool {
    word.parse::<u16>().is_ok_and(|port| port.to_string() == word)
}

/// What follows the signature. Checksums and other extensions are skipped.
fn parse_v2(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let [command, family, high, low, rest @ ..] = bytes else { return Ok(None) };
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(Malformed("version 2 has another version or command")),
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if length > V2_MAX {
        return Err(Malformed("the addresses and extensions of version 2 are too long"));
    }
    let Some(block) = rest.get(..length) else { return Ok(None) };
    let source = match family {
        _ if is_local => None, // the proxy speaks for itself
        0x11 | 0x12 => Some(v2_source::<4, 12>(block)?),
        0x21 | 0x22 => Some(v2_source::<16, 36>(block)?),
        // Sockets without an IP address, and those of which nothing is known.
        family if family >> 4 <= 3 && family & 0xf <= 2 => None,
        _ => return Err(Malformed("version 2 has another family or transport")),
    };
    Ok(Some(Header { length: V2_START + length, source }))
}

/// The first of two addresses of `BYTES` bytes, which with their ports make `ALL`.
fn v2_source<const BYTES: usize, const ALL: usize>(block: &[u8]) -> Result<IpAddr, Malformed>
where
    IpAddr: From<[u8; BYTES]>,
{
    let all = block.first_chunk::<ALL>().and_then(|all| all.first_chunk::<BYTES>());
    all.map(|source| IpAddr::from(*source)).ok_or(Malformed("the addresses of version 2 are cut short"))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;

    fn v1(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
        let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
        let (from, to) = (source.ip(), destination.ip());
        format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
    }

    fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [&V2_SIGNATURE[..], &[command, family], &length, block].concat()
    }

    fn v2_of(source: SocketAddr, destination: SocketAddr, extensions: &[u8]) -> Vec<u8> {
        let octets = |ip| match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let mut block = [octets(source.ip()), octets(destination.ip())].concat();
        block.extend([source.port(), destination.port()].map(u16::to_be_bytes).concat());
        block.extend(extensions);
        v2(0x21, if source.is_ipv4() { 0x11 } else { 0x21 }, &block)
    }

    fn source(bytes: &[u8]) -> Option<IpAddr> {
        let header = parse(bytes).unwrap().unwrap();
        assert_eq!(header.length, bytes.len());
        header.source
    }

    #[test]
    fn a_proxy_that_does_not_know_keeps_the_peers_address() {
        assert_eq!(source(b"PROXY UNKNOWN\r\n"), None);
        assert_eq!(source(b"PROXY UNKNOWN \xff any thing\r\n"), None);
        assert_eq!(source(&v2(0x20, 0, &[])), None);
        // LOCAL: whatever stands in the rest is skipped.
        assert_eq!(source(&v2(0x20, 0xff, &[7; 100])), None);
        for family in [0x00, 0x01, 0x10, 0x20, 0x31, 0x32] {
            assert_eq!(source(&v2(0x21, family, &[7; 216])), None, "{family:x}");
        }
        let udp = v2(0x21, 0x12, &[1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 0, 2]);
        assert_eq!(source(&udp), Some(IpAddr::from([1, 2, 3, 4])));
    }

    #[test]
    fn what_is_not_exactly_a_header_is_malformed() {
        for line in [
            "TCP4 1.2.3.4 5.6.7.8 1\r\n",
            "TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
            "TCP4 1.2.3.4  5.6.7.8 1 2\r\n",
            "TCP4 01.2.3.4 5.6.7.8 1 2\r\n",
            "TCP4 ::1 ::1 1 2\r\n",
            "TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
            "TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
            "TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
            "TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
            "TCP4 1.2.3.4 5.6.7.8 1 2 \r\n",
            "TCP5 1.2.3.4 5.6.7.8 1 2\r\n",
            "UNKNOWNS\r\n",
            "\r\n",
        ] {
            assert!(parse(format!("PROXY {line}").as_bytes()).is_err(), "{line}");
        }
        assert!(parse(b"GET / HTTP/1.1\r\n").is_err() && parse(b"\r\n\r\nx").is_err());
        assert!(parse(b"PROXY\tTCP4").is_err());
        let endless = [V1_START, &[b'x'; 200]].concat();
        assert!(parse(&endless[..V1_MAX]).is_err() && parse(&endless[..V1_MAX - 1]) == Ok(None));
        let longest = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; V1_MAX - 16], b"\r\n"].concat();
        assert_eq!(longest.len(), V1_MAX);
        assert_eq!(source(&longest), None);
        for (command, family) in [(0x11, 0x11), (0x22, 0x11), (0x31, 0x11), (0x21, 0x41), (0x21, 0x13)] {
            assert!(parse(&v2(command, family, &[0; 216])).is_err(), "{command:x} {family:x}");
        }
        assert!(parse(&v2(0x21, 0x11, &[0; 11])).is_err() && parse(&v2(0x21, 0x21, &[0; 35])).is_err());
        assert!(parse(&v2(0x21, 0x11, &[0; V2_MAX])).is_ok());
        // Refused before its body has come.
        assert!(parse(&v2(0x21, 0x11, &[0; V2_MAX + 1])[..V2_START]).is_err());
    }

    fn pair() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
        let v4 = any::<([u8; 4], [u8; 4], u16, u16)>();
        let v6 = any::<([u8; 16], [u8; 16], u16, u16)>();
        prop_oneof![
            v4.prop_map(|(a, b, p, q)| (SocketAddr::from((a, p)), SocketAddr::from((b, q)))),
            v6.prop_map(|(a, b, p, q)| (SocketAddr::from((a, p)), SocketAddr::from((b, q)))),
        ]
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_header_or_malformed(bytes in proptest::collection::vec(any::<u8>(), 0..300), start in 0..4) {
            let start: &[u8] = match start {
                0 => b"",
                1 => b"PROXY TCP4 ",
                2 => V2_SIGNATURE,
                _ => b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0",
            };
            let bytes = [start, &bytes].concat();
            if let Ok(Some(header)) = parse(&bytes) {
                prop_assert!(header.length <= bytes.len());
            }
        }

        #[test]
        fn what_was_encoded_is_decoded_and_its_prefixes_ask_for_more(
            (from, to) in pair(),
            extensions in proptest::collection::vec(any::<u8>(), 0..300),
            after in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            for header in [v1(from, to), v2_of(from, to, &extensions)] {
                for length in 0..header.len() {
                    prop_assert_eq!(parse(&header[..length]), Ok(None));
                }
                let expected = Header { length: header.len(), source: Some(from.ip()) };
                prop_assert_eq!(parse(&[&header[..], &after].concat()), Ok(Some(expected)));
            }
        }
    }
}
