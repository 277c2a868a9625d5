//! The page: one document with its style and its script in it, and nothing from anywhere else.

use std::sync::LazyLock;

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, header};
use ring::digest::{SHA256, digest};

const STYLE: &str = include_str!("page/page.css");

/// In an order in which each uses only what stands before it while it is loaded.
const SCRIPT: &str = concat!(
    include_str!("page/format.js"),
    include_str!("page/graphs.js"),
    include_str!("page/table.js"),
    include_str!("page/details.js"),
    include_str!("page/stream.js"),
    include_str!("page/page.js"),
);

static PAGE: LazyLock<Page> = LazyLock::new(Page::new);

struct Page {
    document: Bytes,
    policy: HeaderValue,
    version: String,
}

impl Page {
    fn new() -> Self {
        let version = hash(&[STYLE, SCRIPT].concat());
        let document = include_str!("page/page.html")
            .replace("{version}", &version)
            .replace("{style}", STYLE)
            .replace("{script}", SCRIPT);
        // Besides what is in it, a page may open its stream and ask for a dataserver, and no more. Text can become
        // markup nowhere: what heartbeats bring is text.
        let policy = format!(
            "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; img-src data:; connect-src 'self'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
             trusted-types 'none'",
            hash(SCRIPT),
            hash(STYLE)
        );
        let policy = HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"));
        Self { document: document.into(), policy, version }
    }
}

/// As a Content-Security-Policy names what may be in a page.
fn hash(text: &str) -> String {
    STANDARD.encode(digest(&SHA256, text.as_bytes()))
}

/// Changes with the page.
pub(super) fn version() -> &'static str {
    &PAGE.version
}

/// The page as an answer.
pub(super) fn page() -> Response<Body> {
    let mut response = Response::new(Body::from(PAGE.document.clone()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, PAGE.policy.clone());
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_page_is_what_its_policy_allows() {
        let document = std::str::from_utf8(&PAGE.document).unwrap();
        let between = |before: &str, after: &str| {
            let (_, rest) = document.split_once(before).unwrap();
            rest.split_once(after).unwrap().0
        };
        let policy = PAGE.policy.to_str().unwrap();
        for (directive, text) in [
            ("script-src", between("<script type=\"module\">", "</script>")),
            ("style-src", between("<style>", "</style>")),
        ] {
            assert!(policy.contains(&format!("{directive} 'sha256-{}'", hash(text))), "{directive}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
    }

    #[test]
    fn nothing_is_from_anywhere_else_and_no_text_becomes_markup() {
        let document = std::str::from_utf8(&PAGE.document).unwrap();
        let namespace = "http://www.w3.org/2000/svg";
        for forbidden in [
            "http://",
            "https://",
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            " style=\"",
            " onclick",
        ] {
            assert!(!document.replace(namespace, "").contains(forbidden), "{forbidden}");
        }
    }
}
