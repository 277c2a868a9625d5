//! HTTP messages on their way through a worker.
//!
//! `http` has such types as well, for programs that keep many fields and look some of them up. A gateway reads each field of
//! some ten once and writes it once, so here fields are a list; and a message passes through a dozen layers, so its head
//! stays where it is and only a pointer moves. Heads that are no longer needed are used again, with the room that their
//! lists have.

mod fields;
mod name;
mod pieces;
mod spare;

use http::{Extensions, HeaderMap, Method, StatusCode, Uri, Version};
use tokio::time::Instant;

pub use fields::{Field, Fields};
pub use name::{Name, Names};
pub use pieces::{PIECE, Pieces};

/// Whether an answer ends with its head, whatever that says of a body (RFC 9112 §6.3).
pub fn ends_with_head(to_head: bool, status: StatusCode) -> bool {
    to_head
        || status.is_informational()
        || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status)
}

/// What a request says before its body.
#[derive(Debug, Clone)]
pub struct RequestHead {
    /// What is to be done.
    pub method: Method,
    /// What it is to be done with.
    pub uri: Uri,
    /// What was spoken.
    pub version: Version,
    /// Everything else.
    pub headers: Fields,
    /// When it was there. The clock is read once for all who want to know.
    pub received: Instant,
}

/// What an answer says before its body.
#[derive(Debug, Clone)]
pub struct ResponseHead {
    /// What became of the request.
    pub status: StatusCode,
    /// What was spoken.
    pub version: Version,
    /// Everything else.
    pub headers: Fields,
    /// What no field says.
    pub extensions: Extensions,
}

/// A request.
#[derive(Debug)]
pub struct Request<B> {
    head: Box<RequestHead>,
    body: B,
}

/// An answer.
#[derive(Debug)]
pub struct Response<B> {
    head: Box<ResponseHead>,
    body: B,
}

impl RequestHead {
    /// Memory for a head that was received just now, and may have been one before. It says `GET /`, and has no fields.
    pub fn spare() -> Box<Self> {
        let mut head = spare::request();
        head.received = Instant::now();
        head
    }

    /// Gives the memory of a head back.
    pub fn recycle(self: Box<Self>) {
        spare::recycle_request(self);
    }

    fn clear(&mut self) {
        let Self { method, uri, version, headers, received: _ } = self;
        (*method, *uri, *version) = (Method::GET, Uri::default(), Version::HTTP_11);
        headers.clear();
    }
}

impl ResponseHead {
    /// Memory for a head, which may have been one before. It says 200, and has no fields.
    pub fn spare() -> Box<Self> {
        spare::response()
    }

    /// Gives the memory of a head back.
    pub fn recycle(self: Box<Self>) {
        spare::recycle_response(self);
    }

    fn clear(&mut self) {
        let Self { status, version, headers, extensions } = self;
        (*status, *version) = (StatusCode::OK, Version::HTTP_11);
        headers.clear();
        extensions.clear();
    }
}

impl Default for RequestHead {
    fn default() -> Self {
        Self {
            method: Method::GET,
            uri: Uri::default(),
            version: Version::HTTP_11,
            headers: Fields::default(),
            received: Instant::now(),
        }
    }
}

impl Default for ResponseHead {
    fn default() -> Self {
        Self {
            status: StatusCode::OK,
            version: Version::HTTP_11,
            headers: Fields::default(),
            extensions: Extensions::default(),
        }
    }
}

impl<B> Request<B> {
    /// Of its parts.
    pub fn from_parts(head: Box<RequestHead>, body: B) -> Self {
        Self { head, body }
    }

    /// Its parts.
    pub fn into_parts(self) -> (Box<RequestHead>, B) {
        (self.head, self.body)
    }

    /// The same with another body.
    pub fn map<T>(self, body: impl FnOnce(B) -> T) -> Request<T> {
        Request { head: self.head, body: body(self.body) }
    }

    /// What is to be done.
    pub fn method(&self) -> &Method {
        &self.head.method
    }

    /// What it is to be done with.
    pub fn uri(&self) -> &Uri {
        &self.head.uri
    }

    /// What was spoken.
    pub fn version(&self) -> Version {
        self.head.version
    }

    /// Its fields.
    pub fn headers(&self) -> &Fields {
        &self.head.headers
    }

    /// Its fields.
    pub fn headers_mut(&mut self) -> &mut Fields {
        &mut self.head.headers
    }

    /// When its head was there.
    pub fn received(&self) -> Instant {
        self.head.received
    }

    /// Its body.
    pub fn body(&self) -> &B {
        &self.body
    }

    /// Its body.
    pub fn body_mut(&mut self) -> &mut B {
        &mut self.body
    }
}

impl<B> Response<B> {
    /// One with status 200 and no fields.
    pub fn new(body: B) -> Self {
        Self { head: ResponseHead::spare(), body }
    }

    /// Of its parts.
    pub fn from_parts(head: Box<ResponseHead>, body: B) -> Self {
        Self { head, body }
    }

    /// Its parts.
    pub fn into_parts(self) -> (Box<ResponseHead>, B) {
        (self.head, self.body)
    }

    /// The same with another body.
    pub fn map<T>(self, body: impl FnOnce(B) -> T) -> Response<T> {
        Response { head: self.head, body: body(self.body) }
    }

    /// What became of the request.
    pub fn status(&self) -> StatusCode {
        self.head.status
    }

    /// What was spoken.
    pub fn version(&self) -> Version {
        self.head.version
    }

    /// Its fields.
    pub fn headers(&self) -> &Fields {
        &self.head.headers
    }

    /// Its fields.
    pub fn headers_mut(&mut self) -> &mut Fields {
        &mut self.head.headers
    }

    /// What no field says.
    pub fn extensions(&self) -> &Extensions {
        &self.head.extensions
    }

    /// Its body.
    pub fn body(&self) -> &B {
        &self.body
    }

    /// Its body.
    pub fn body_mut(&mut self) -> &mut B {
        &mut self.body
    }
}

impl<B> From<http::Request<B>> for Request<B> {
    fn from(request: http::Request<B>) -> Self {
        let (parts, body) = request.into_parts();
        let mut head = RequestHead::spare();
        (head.method, head.uri, head.version) = (parts.method, parts.uri, parts.version);
        head.headers.extend(&parts.headers);
        Self { head, body }
    }
}

impl<B> From<Request<B>> for http::Request<B> {
    fn from(request: Request<B>) -> Self {
        let (mut head, body) = request.into_parts();
        let mut request = Self::new(body);
        *request.method_mut() = std::mem::take(&mut head.method);
        *request.uri_mut() = std::mem::take(&mut head.uri);
        *request.version_mut() = head.version;
        *request.headers_mut() = HeaderMap::from(&head.headers);
        head.recycle();
        request
    }
}

impl<B> From<http::Response<B>> for Response<B> {
    fn from(response: http::Response<B>) -> Self {
        let (parts, body) = response.into_parts();
        let mut head = ResponseHead::spare();
        (head.status, head.version, head.extensions) = (parts.status, parts.version, parts.extensions);
        head.headers.extend(&parts.headers);
        Self { head, body }
    }
}

impl<B> From<Response<B>> for http::Response<B> {
    fn from(response: Response<B>) -> Self {
        let (mut head, body) = response.into_parts();
        let mut response = Self::new(body);
        *response.status_mut() = head.status;
        *response.version_mut() = head.version;
        *response.headers_mut() = HeaderMap::from(&head.headers);
        *response.extensions_mut() = std::mem::take(&mut head.extensions);
        head.recycle();
        response
    }
}
