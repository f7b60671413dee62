//! Why a message is refused: a closed set with one table.
//!
//! A reject from a server's bytes is a 502 to the client, who is not told more.

/// Why a message is refused. After each of them the connection is closed: where the next
/// message begins is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reject {
    RequestLine,
    EmptyLines,
    MethodTooLong,
    MethodRefused,
    Target,
    UriTooLong,
    VersionSyntax,
    VersionUnsupported,
    BareLf,
    LineEnd,
    FieldName,
    FieldValue,
    HeaderTooLarge,
    FieldsTooMany,
    HostMissing,
    HostRepeated,
    HostSyntax,
    HostUnlikeTarget,
    LengthSyntax,
    LengthRepeated,
    LengthWithCoding,
    CodingSyntax,
    CodingUnknown,
    CodingOnHttp10,
    ConnectionOptions,
    ExpectationUnknown,
    ChunkSize,
    ChunkExtension,
    ChunkExtensionsTooLarge,
    ChunkEnd,
    Trailer,
    TrailerTooLarge,
    BodyTruncated,
    BodyTooLarge,
    BodySyntax,
    BodyCoding,
    PathSyntax,
    PathEscape,
    PathEncodedSlash,
    PathBackslash,
    PathNonAscii,
    PathSpace,
    PathParameters,
    Status,
    Switch,
    FramingOfBodiless,
    HeadTimeout,
    Loop,
    Misdirected,
}

/// One row of [`TABLE`].
type Row = (Reject, u16, &'static str);

/// Status and sentence of each reject, in the order of the enum.
const TABLE: [Row; 49] = {
    use Reject as R;
    [
        (R::RequestLine, 400, "The request line is malformed."),
        (R::EmptyLines, 400, "More than one empty line stands before the request."),
        (R::MethodTooLong, 501, "The method is longer than any that is known."),
        (R::MethodRefused, 405, "CONNECT and TRACE are not offered."),
        (R::Target, 400, "The request target has no valid form for this method."),
        (R::UriTooLong, 414, "The request target is too long."),
        (R::VersionSyntax, 400, "The HTTP version is malformed."),
        (R::VersionUnsupported, 505, "Only HTTP/1.0 and HTTP/1.1 are spoken here."),
        (R::BareLf, 400, "A line ends in LF without CR."),
        (R::LineEnd, 400, "A line does not end in CRLF."),
        (
            R::FieldName,
            400,
            "A field name is empty, malformed, folded, or not followed by a colon.",
        ),
        (R::FieldValue, 400, "A field value holds a control byte."),
        (R::HeaderTooLarge, 431, "The header section is too large."),
        (R::FieldsTooMany, 431, "There are too many header fields."),
        (R::HostMissing, 400, "Host is missing."),
        (R::HostRepeated, 400, "There is more than one Host."),
        (R::HostSyntax, 400, "The host is malformed."),
        (R::HostUnlikeTarget, 400, "Host differs from the host in the request target."),
        (R::LengthSyntax, 400, "Content-Length is not a plain decimal number."),
        (R::LengthRepeated, 400, "There is more than one Content-Length."),
        (R::LengthWithCoding, 400, "Content-Length and Transfer-Encoding are both present."),
        (R::CodingSyntax, 400, "Transfer-Encoding is malformed or repeated."),
        (R::CodingUnknown, 501, "The only transfer coding known here is chunked."),
        (R::CodingOnHttp10, 400, "Transfer-Encoding does not exist in HTTP/1.0."),
        (
            R::ConnectionOptions,
            400,
            "Connection names a field that may not be removed, or too many.",
        ),
        (R::ExpectationUnknown, 417, "The only expectation known here is 100-continue."),
        (R::ChunkSize, 400, "A chunk size is malformed or too large."),
        (R::ChunkExtension, 400, "A chunk extension is malformed."),
        (R::ChunkExtensionsTooLarge, 400, "Chunk extensions outweigh the data."),
        (R::ChunkEnd, 400, "A chunk does not end where its size says."),
        (R::Trailer, 400, "A trailer field is malformed."),
        (R::TrailerTooLarge, 431, "The trailer section is too large."),
        (R::BodyTruncated, 400, "The connection ended before the body did."),
        (R::BodyTooLarge, 413, "The body is larger than is allowed here."),
        (R::BodySyntax, 400, "The body is not the JSON that its type says."),
        (R::BodyCoding, 415, "The body is encoded, and has to be read here."),
        (R::PathSyntax, 400, "The path holds a byte that may not stand in it."),
        (R::PathEscape, 400, "The path holds a broken escape or an escaped control."),
        (R::PathEncodedSlash, 400, "The path holds an escaped slash."),
        (R::PathBackslash, 400, "The path holds a backslash."),
        (R::PathNonAscii, 400, "The path holds a byte above 7F that is not escaped."),
        (R::PathSpace, 400, "A path segment begins or ends with a space."),
        (R::PathParameters, 400, "A path segment is empty or dots once its parameters are cut."),
        (R::Status, 502, "The status line is malformed."),
        (R::Switch, 502, "The server switched protocols without being asked, or not as asked."),
        (R::FramingOfBodiless, 502, "A message without a body declares one."),
        (R::HeadTimeout, 408, "The request head did not arrive in time."),
        (R::Loop, 508, "The request has come through this gateway before."),
        (
            R::Misdirected,
            421,
            "The host asks other certificates of clients than this connection was made with.",
        ),
    ]
};

// The table is indexed by discriminant.
const _: () = {
    let mut at = 0;
    while at < TABLE.len() {
        assert!(TABLE[at].0 as usize == at);
        at += 1;
    }
};

impl Reject {
    /// The status to answer with, when the bytes came from a client.
    #[must_use]
    pub fn status(self) -> u16 {
        TABLE[self as usize].1
    }

    /// One sentence for the answer's `detail`.
    #[must_use]
    pub fn detail(self) -> &'static str {
        TABLE[self as usize].2
    }

    /// Every reject, for tables in docs and tests.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|row| row.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reject_has_an_error_status_and_a_sentence() {
        for reject in Reject::all() {
            assert!((400..=508).contains(&reject.status()), "{reject:?}");
            assert!(reject.detail().ends_with('.'), "{reject:?}");
        }
        assert_eq!(Reject::HeadTimeout.status(), 408);
    }
}
