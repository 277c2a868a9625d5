//! A user's request, made into the one that a dataserver gets.

use http::{HeaderValue, Method, Version};

use super::fields::{insert_te_trailers, insert_upgrade, remove_hop_by_hop, upgrade_wanted};
use super::origin::Origin;
use super::via::Via;
use super::{Trailers, target};
use crate::addr::Networks;
use crate::message::{Name, RequestHead};
use crate::proxy::error::Error;

/// Checks a request, whose cookies are joined, and makes it one for a dataserver that speaks HTTP/1.1. Returns what may
/// become of the answer's trailers.
///
/// # Errors
/// When it must not be forwarded.
pub(super) fn rewrite(
    head: &mut RequestHead,
    origin: &Origin,
    trusted_proxies: &Networks,
    via: &Via,
) -> Result<Trailers, Error> {
    if head.method == Method::CONNECT || head.method == Method::TRACE {
        return Err(Error::MethodNotAllowed);
    }
    if via.names_us(&head.headers) {
        return Err(Error::Loop);
    }
    target::settle(head)?;
    if head.version == Version::HTTP_10 {
        head.headers.remove(Name::Expect); // which HTTP/1.0 does not have (RFC 9110 §10.1.1)
    }
    if head.version == Version::HTTP_2 {
        // h2 holds the body against the length; said twice, it would be two lengths to the next.
        if head.headers.count(Name::ContentLength) > 1 {
            return Err(Error::BadRequest("there is more than one Content-Length"));
        }
        // h2 takes an empty one for 0, and hyper for none.
        let is_number = |length: &[u8]| !length.is_empty() && length.iter().all(u8::is_ascii_digit);
        if !head.headers.get(Name::ContentLength).is_none_or(is_number) {
            return Err(Error::BadRequest("the Content-Length is malformed"));
        }
    }

    let headers = &mut head.headers;
    let upgrade = if head.version == Version::HTTP_11 { upgrade_wanted(headers) } else { None };
    let wants_trailers = remove_hop_by_hop(headers);
    if let Some(protocol) = upgrade {
        insert_upgrade(headers, &protocol);
    }
    if wants_trailers && head.version != Version::HTTP_10 {
        insert_te_trailers(headers);
    }
    // Ours go in after the others' went out: no `Connection` field can name them.
    origin.tell(headers, trusted_proxies);
    via.add(headers, head.version);
    let trailers = match std::mem::replace(&mut head.version, Version::HTTP_11) {
        Version::HTTP_2 => Trailers::Kept,
        Version::HTTP_11 if wants_trailers => Trailers::Kept,
        _ => Trailers::Dropped,
    };
    Ok(trailers)
}

/// HTTP/2 may split a cookie into several fields; HTTP/1.1 has one (RFC 9113 §8.2.3).
pub(super) fn join_cookies(head: &mut RequestHead) {
    let headers = &mut head.headers;
    if head.version != Version::HTTP_2 || headers.count(Name::Cookie) < 2 {
        return;
    }
    let cookies: Vec<_> = headers.get_all(Name::Cookie).collect();
    // Values that are fine one by one are fine joined.
    if let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..])) {
        headers.insert(Name::Cookie, &joined);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Client;
    use super::super::fields::{is_hop_by_hop, named_by_connection};
    use super::*;
    use crate::message::Fields;

    const OURS: [&str; 3] = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"];

    /// What users may send to remove or forge what is for the gateway to say, and other fields.
    fn field() -> impl Strategy<Value = (&'static str, String)> {
        let name = prop::sample::select(vec![
            "connection",
            "connection",
            "connection",
            "keep-alive",
            "proxy-connection",
            "proxy-authorization",
            "proxy-authenticate",
            "te",
            "transfer-encoding",
            "upgrade",
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-forwarded-host",
            "x_forwarded_for",
            "x-forwarded_host",
            "forwarded",
            "via",
            "cookie",
            "authorization",
            "x-mine",
            "x-other",
            "content-length",
        ]);
        let option = prop::sample::select(vec![
            "close",
            "Keep-Alive",
            "Upgrade",
            "TE",
            "x-mine",
            "X-OTHER",
            "cookie",
            "Via",
            "X-Forwarded-For",
            "x-forwarded-proto",
            "X-Forwarded-Host",
            "forwarded",
            "host",
            "Content-Length",
            "connection",
            "",
            "a b",
            "\"x-mine\"",
        ]);
        let listed = prop::collection::vec(option, 0..5).prop_map(|options| options.join(", "));
        let value = prop::sample::select(vec![
            "trailers",
            "gzip, Trailers;q=1",
            "websocket",
            "h2c",
            "1",
            "6.6.6.6",
            "chunked",
            "1.1 x",
        ]);
        (name, listed, value).prop_map(|(name, listed, value)| {
            (name, if name == "connection" { listed } else { value.to_owned() })
        })
    }

    fn values<'a>(headers: &'a Fields, name: &str) -> Vec<&'a str> {
        let fields = headers.iter().filter(|field| field.written_name() == name.as_bytes());
        fields.map(|field| str::from_utf8(field.value()).unwrap()).collect()
    }

    fn names(headers: &Fields) -> impl Iterator<Item = &str> {
        headers.iter().map(|field| str::from_utf8(field.written_name()).unwrap())
    }

    proptest! {
        #[test]
        fn rewriting_removes_what_is_for_one_connection_and_nothing_else_and_says_what_is_ours_to_say(
            fields in prop::collection::vec(field(), 0..14),
            version in prop::sample::select(vec![Version::HTTP_10, Version::HTTP_11, Version::HTTP_2]),
            trusted in any::<bool>(),
        ) {
            let mut head = RequestHead { version, ..RequestHead::default() };
            head.headers.append(Name::Host, &HeaderValue::from_static("a"));
            for (name, value) in &fields {
                head.headers.append_checked(name.as_bytes(), value.as_bytes());
            }
            let before = head.headers.clone();
            let named = named_by_connection(&before);
            let proxies = if trusted { Networks::all() } else { Networks::default() };
            let client = Client { ip: [203, 0, 113, 7].into(), over_tls: false };
            join_cookies(&mut head);
            let rewritten = rewrite(&mut head, &Origin::new(client), &proxies, &Via::new());
            let lengths = values(&before, "content-length");
            let is_number = |length: &&str| !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
            if version == Version::HTTP_2 && (lengths.len() > 1 || !lengths.iter().all(is_number)) {
                prop_assert!(rewritten.is_err());
                return Ok(());
            }
            let after = head.headers;
            let asked = |name: &str, option: &str| {
                values(&before, name).iter().any(|value| {
                    let mut members = value.split([',', ';']);
                    members.any(|member| member.trim().eq_ignore_ascii_case(option))
                })
            };

            // Of what is for one connection there is only what the next one needs.
            let switches = version == Version::HTTP_11
                && asked("connection", "upgrade")
                && before.contains(Name::Upgrade)
                && !values(&before, "upgrade").contains(&"h2c");
            let trailers = version != Version::HTTP_10 && asked("te", "trailers");
            for name in names(&after).filter(|name| is_hop_by_hop(name.as_bytes())) {
                match name {
                    "connection" => prop_assert!(switches || trailers),
                    "te" => prop_assert!(trailers && values(&after, "te") == ["trailers"]),
                    "upgrade" => prop_assert_eq!(after.get(Name::Upgrade), before.get(Name::Upgrade)),
                    _ => prop_assert!(false, "{name} survives"),
                }
            }
            for option in values(&after, "connection") {
                prop_assert!(option == "te" || option == "upgrade", "{option:?}");
            }

            // Ours is there, once, and last where a trusted proxy spoke before.
            for name in OURS {
                prop_assert_eq!(values(&after, name).len(), if trusted { values(&after, name).len().max(1) } else { 1 });
            }
            let said = values(&after, "x-forwarded-for").last().copied().unwrap();
            prop_assert!(if trusted { said.ends_with("203.0.113.7") } else { said == "203.0.113.7" }, "{said}");
            if !trusted {
                prop_assert_eq!(values(&after, "x-forwarded-proto"), ["http"]);
                prop_assert_eq!(values(&after, "x-forwarded-host"), ["a"]);
                prop_assert!(!after.contains(Name::Forwarded));
                prop_assert!(!names(&after).any(|name| name.replace('_', "-").starts_with("x-forwarded") && !OURS.contains(&name)));
            }
            prop_assert!(values(&after, "via").last().copied().unwrap().contains("nsq-gateway-"));
            prop_assert_eq!(values(&after, "host"), ["a"]);

            // And everything else is as it was.
            let stays = |name: &&str| !is_hop_by_hop(name.as_bytes()) && !named.contains(name.as_bytes());
            for name in names(&before).filter(stays) {
                let (was, is) = (values(&before, name), values(&after, name));
                match name {
                    "via" => prop_assert_eq!(&was[..], &is[..is.len() - 1]),
                    "cookie" if version == Version::HTTP_2 => prop_assert_eq!(is.len(), 1),
                    _ if name.contains("forwarded") => {}
                    _ => prop_assert_eq!(was, is, "{}", name),
                }
            }
            for name in names(&after).filter(|name| named.contains(name.as_bytes())) {
                prop_assert!(name == "via" || is_hop_by_hop(name.as_bytes()), "{name} was named and survives");
            }
        }
    }
}
