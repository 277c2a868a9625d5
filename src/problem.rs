//! The gateway's own errors as people and machines read them: `application/problem+json` (RFC 9457).

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value};

/// An answer that says what went wrong. `title` is the same for every error of its kind, `detail` is not.
pub fn problem(status: StatusCode, title: &str, detail: &str) -> Response<Bytes> {
    problem_with(status, title, detail, Map::new())
}

/// As [`problem`], with more that is known of it: extension members (RFC 9457 §3.2).
pub fn problem_with(
    status: StatusCode,
    title: &str,
    detail: &str,
    mut members: Map<String, Value>,
) -> Response<Bytes> {
    members.insert("title".to_owned(), title.into());
    members.insert("status".to_owned(), status.as_u16().into());
    members.insert("detail".to_owned(), detail.into());
    let mut response = Response::new(Bytes::from(Value::Object(members).to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
