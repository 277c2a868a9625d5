//! The names of fields that the gateway itself has to do with.

/// Names with a variant each, so that whoever looks for one compares a byte.
macro_rules! names {
    ($($variant:ident = $name:literal,)*) => {
        /// The name of a field that the gateway reads, writes or removes. Of all others it only passes on what they say.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(missing_docs, reason = "each is the name itself")]
        pub enum Name {
            $($variant,)*
        }

        impl Name {
            /// Each of them.
            #[cfg(test)]
            pub(crate) const ALL: &[Self] = &[$(Self::$variant,)*];

            /// As it is written, in lower case.
            pub fn as_bytes(self) -> &'static [u8] {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The one that is written so, in lower case.
            pub fn of(name: &[u8]) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

names! {
    Allow = b"allow",
    Authorization = b"authorization",
    Connection = b"connection",
    ContentEncoding = b"content-encoding",
    ContentLength = b"content-length",
    ContentType = b"content-type",
    Cookie = b"cookie",
    Date = b"date",
    Expect = b"expect",
    Forwarded = b"forwarded",
    Host = b"host",
    KeepAlive = b"keep-alive",
    MaxForwards = b"max-forwards",
    ProxyAuthenticate = b"proxy-authenticate",
    ProxyAuthorization = b"proxy-authorization",
    ProxyConnection = b"proxy-connection",
    ProxyStatus = b"proxy-status",
    RetryAfter = b"retry-after",
    SetCookie = b"set-cookie",
    Te = b"te",
    Traceparent = b"traceparent",
    Tracestate = b"tracestate",
    Trailer = b"trailer",
    TransferEncoding = b"transfer-encoding",
    Upgrade = b"upgrade",
    Via = b"via",
    XForwardedFor = b"x-forwarded-for",
    XForwardedHost = b"x-forwarded-host",
    XForwardedProto = b"x-forwarded-proto",
    XRequestId = b"x-request-id",
}

/// Some of the names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Names(u32);

impl Names {
    /// These.
    pub const fn of(names: &[Name]) -> Self {
        let mut set = Self(0);
        let mut rest = names;
        while let [first, others @ ..] = rest {
            set.0 |= 1 << *first as u32;
            rest = others;
        }
        set
    }

    /// Whether this is one of them.
    pub fn contains(self, name: Name) -> bool {
        self.0 & (1 << name as u32) != 0
    }

    /// Whether both have one.
    pub fn meets(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    /// Adds one.
    pub fn insert(&mut self, name: Name) {
        self.0 |= 1 << name as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_known_by_how_it_is_written_and_there_is_a_bit_for_it() {
        assert!(Name::ALL.len() <= 32);
        for name in Name::ALL {
            assert_eq!(Name::of(name.as_bytes()), Some(*name));
            assert_eq!(
                http::HeaderName::from_bytes(name.as_bytes()).unwrap().as_str().as_bytes(),
                name.as_bytes()
            );
            let set = Names::of(&[*name]);
            assert!(Name::ALL.iter().all(|other| set.contains(*other) == (other == name)));
        }
        assert_eq!((Name::of(b"Host"), Name::of(b"hos"), Name::of(b"")), (None, None, None));
    }
}
