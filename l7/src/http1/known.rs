//! Field names that the gateway cares about, found once when a head is parsed.
//!
//! One table says the name, and in which class it falls. To add one: a line in [`known!`].

/// What becomes of a field between a client and a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Concerns one connection only (RFC 9110 §7.6.1); never forwarded.
    Hop,
    /// Speaks in the gateway's name: dropped from every client, whoever it is.
    Identity,
    /// Overrides what the gateway decides by; dropped from clients unless `keep_headers` spares it.
    Override,
    /// Forwarded, but not from a trailer section: it would change how the message is read
    /// (RFC 9110 §6.5.1).
    Head,
    /// Forwarded from wherever it stands.
    Any,
}

macro_rules! known {
    ($($variant:ident $name:literal $class:ident)*) => {
        /// A field name that the gateway cares about.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Known { $($variant,)* }

        /// Name in lower case and class, in the order of the enum.
        const TABLE: &[(Known, &str, Class)] = &[$((Known::$variant, $name, Class::$class),)*];
    };
}

known! {
    // Framing and connection.
    Host "host" Head
    ContentLength "content-length" Head
    TransferEncoding "transfer-encoding" Hop
    Connection "connection" Hop
    KeepAlive "keep-alive" Hop
    ProxyConnection "proxy-connection" Hop
    ProxyAuthenticate "proxy-authenticate" Hop
    ProxyAuthorization "proxy-authorization" Hop
    Http2Settings "http2-settings" Hop
    Te "te" Hop
    Trailer "trailer" Hop
    Upgrade "upgrade" Hop
    Expect "expect" Head
    MaxForwards "max-forwards" Head
    // Who asks, by which way.
    XForwardedFor "x-forwarded-for" Head
    XForwardedProto "x-forwarded-proto" Head
    XForwardedHost "x-forwarded-host" Head
    XForwardedPort "x-forwarded-port" Head
    XForwardedMethod "x-forwarded-method" Head
    XForwardedUri "x-forwarded-uri" Head
    XRealIp "x-real-ip" Head
    XRequestId "x-request-id" Head
    Traceparent "traceparent" Head
    Tracestate "tracestate" Head
    Via "via" Head
    // A family by prefix, see `Known::of`.
    XConsumer "x-consumer-" Identity
    XClientCert "x-client-cert-" Identity
    ClientCert "client-cert" Identity
    ClientCertChain "client-cert-chain" Identity
    Forwarded "forwarded" Identity
    // httpoxy: CGI makes HTTP_PROXY of it.
    Proxy "proxy" Identity
    XOriginalUrl "x-original-url" Override
    XRewriteUrl "x-rewrite-url" Override
    XHttpMethodOverride "x-http-method-override" Override
    TrueClientIp "true-client-ip" Override
    CfConnectingIp "cf-connecting-ip" Override
    // Credentials and cookies.
    Authorization "authorization" Head
    WwwAuthenticate "www-authenticate" Head
    Cookie "cookie" Head
    SetCookie "set-cookie" Head
    XApiKey "x-api-key" Head
    // Answers and content.
    Accept "accept" Head
    AcceptEncoding "accept-encoding" Head
    AcceptRanges "accept-ranges" Head
    Age "age" Head
    Allow "allow" Head
    CacheControl "cache-control" Head
    ContentEncoding "content-encoding" Head
    ContentRange "content-range" Head
    ContentType "content-type" Head
    Date "date" Head
    Etag "etag" Any
    LastModified "last-modified" Head
    Location "location" Head
    Range "range" Head
    Referer "referer" Head
    RetryAfter "retry-after" Head
    Server "server" Head
    UserAgent "user-agent" Head
    Vary "vary" Head
    XPoweredBy "x-powered-by" Head
    // Cross-origin.
    Origin "origin" Head
    AccessControlRequestMethod "access-control-request-method" Head
    AccessControlRequestHeaders "access-control-request-headers" Head
    AccessControlAllowOrigin "access-control-allow-origin" Head
    // WebSocket.
    SecWebsocketKey "sec-websocket-key" Head
    SecWebsocketAccept "sec-websocket-accept" Head
    // gRPC.
    GrpcStatus "grpc-status" Any
    GrpcMessage "grpc-message" Any
    GrpcTimeout "grpc-timeout" Head
}

const LENGTH_MAX: usize = 30;
/// Names of one length; the table below does not compile with more.
const SAME_LENGTH_MAX: usize = 10;
const NONE: u8 = u8::MAX;

/// Rows of [`TABLE`] by length of name.
static BY_LENGTH: [[u8; SAME_LENGTH_MAX]; LENGTH_MAX + 1] = by_length();

const fn by_length() -> [[u8; SAME_LENGTH_MAX]; LENGTH_MAX + 1] {
    let mut rows = [[NONE; SAME_LENGTH_MAX]; LENGTH_MAX + 1];
    let mut row = 0;
    while row < TABLE.len() {
        assert!(TABLE[row].0 as usize == row && row < NONE as usize);
        let bucket = &mut rows[TABLE[row].1.len()];
        let mut free = 0;
        while bucket[free] != NONE {
            free += 1;
        }
        bucket[free] = row as u8;
        row += 1;
    }
    rows
}

impl Known {
    /// Finds a name, in either case.
    #[must_use]
    pub fn of(name: &[u8]) -> Option<Self> {
        if let Some(bucket) = BY_LENGTH.get(name.len()) {
            // Most names that are not meant already differ here.
            let first = name.first().map_or(0, u8::to_ascii_lowercase);
            for &row in bucket {
                if row == NONE {
                    break;
                }
                let (known, text, _) = &TABLE[row as usize];
                let text = text.as_bytes();
                if text[0] == first && name.eq_ignore_ascii_case(text) {
                    return Some(*known);
                }
            }
        }
        Self::family(name)
    }

    /// The families that are known by prefix.
    fn family(name: &[u8]) -> Option<Self> {
        if !matches!(name, [b'x' | b'X', b'-', b'c' | b'C', ..]) {
            return None;
        }
        [Self::XConsumer, Self::XClientCert].into_iter().find(|family| {
            let prefix = family.name().as_bytes();
            name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
        })
    }

    /// In lower case; of a family, the prefix.
    #[must_use]
    pub fn name(self) -> &'static str {
        TABLE[self as usize].1
    }

    #[must_use]
    pub fn class(self) -> Class {
        TABLE[self as usize].2
    }

    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|row| row.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_in_either_case() {
        for known in Known::all() {
            assert_eq!(Known::of(known.name().as_bytes()), Some(known));
            assert_eq!(Known::of(known.name().to_ascii_uppercase().as_bytes()), Some(known));
            assert_eq!(known.name(), known.name().to_ascii_lowercase());
        }
    }

    #[test]
    fn families_are_found_by_prefix_and_others_are_not_known() {
        assert_eq!(Known::of(b"x-consumer-ID"), Some(Known::XConsumer));
        assert_eq!(Known::of(b"X-Client-Cert-Subject-And-More-Than-The-Table-Holds"), {
            Some(Known::XClientCert)
        });
        for name in ["", "x-consumer", "transfer_encoding", "hos", "hostt", "x-custom"] {
            assert_eq!(Known::of(name.as_bytes()), None, "{name}");
        }
    }
}
