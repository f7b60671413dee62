//! PostgreSQL's question for TLS: eight bytes before the hello, one byte as the answer.
//!
//! ```text
//!  client ── SSLRequest ─▶ we ── "S" ─▶ ClientHello …
//!  client ── GSSENCRequest ─▶ we ── "N" ─▶ SSLRequest …
//! ```
//!
//! Whoever sends more before the answer is taken for an attacker: bytes that arrive in the clear
//! must never be read as if they had come encrypted (CVE-2021-23214 here, CVE-2021-23222 towards
//! servers). Nothing else of the protocol is understood; a client without TLS is told so.

/// SSLRequest: its length and the code 1234.5679 ("Message Formats" in PostgreSQL's manual).
pub const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// GSSENCRequest, code 1234.5680.
const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];

/// A fatal ErrorResponse. Class 28, so that clients take it for a refusal and do not retry.
const TLS_REQUIRED: &[u8] = b"E\0\0\0\x64SFATAL\0VFATAL\0C28000\0\
    Mthis address takes TLS connections only: set sslmode=require or stricter\0\0";

/// The client's side of the question, as we answer it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Question {
    gss_refused: bool,
}

/// What to do about the bytes of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    More,
    /// Send these, forget the bytes that were read, and wait for the next question.
    Again(&'static [u8]),
    /// Send these, forget the bytes that were read; TLS begins.
    Tls(&'static [u8]),
    /// Send these, perhaps none, and close.
    Refuse(&'static [u8]),
}

impl Question {
    /// `bytes` is all that came since the last answer.
    pub fn read(&mut self, bytes: &[u8]) -> Step {
        let begins = |request: &[u8; 8]| bytes.starts_with(request) || request.starts_with(bytes);
        let known = begins(&SSL_REQUEST) || (!self.gss_refused && begins(&GSS_REQUEST));
        if !known {
            return Step::Refuse(TLS_REQUIRED);
        }
        match bytes.len() {
            0..8 => Step::More,
            8 if bytes == SSL_REQUEST => Step::Tls(b"S"),
            8 => {
                self.gss_refused = true;
                Step::Again(b"N")
            }
            _ => Step::Refuse(b""),
        }
    }
}

/// What a server said to our [`SSL_REQUEST`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    More,
    Tls,
    /// It has no TLS; the session ends, as it would otherwise go on in the clear.
    NoTls,
    /// Not an answer, or more than one byte of it.
    Bad,
}

/// `bytes` is all that came since the question.
#[must_use]
pub const fn answer(bytes: &[u8]) -> Answer {
    match bytes {
        [] => Answer::More,
        b"S" => Answer::Tls,
        b"N" => Answer::NoTls,
        _ => Answer::Bad,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ssl_request_in_any_pieces_begins_tls() {
        for cut in 0..8 {
            assert_eq!(Question::default().read(&SSL_REQUEST[..cut]), Step::More, "{cut} bytes");
        }
        assert_eq!(Question::default().read(&SSL_REQUEST), Step::Tls(b"S"));
    }

    #[test]
    fn gss_encryption_is_declined_once_and_the_next_question_is_read() {
        let mut question = Question::default();
        assert_eq!(question.read(&GSS_REQUEST[..5]), Step::More);
        assert_eq!(question.read(&GSS_REQUEST), Step::Again(b"N"));
        assert_eq!(question.read(&SSL_REQUEST), Step::Tls(b"S"));
        assert_eq!(question.read(&GSS_REQUEST), Step::Refuse(TLS_REQUIRED));
    }

    #[test]
    fn bytes_before_the_answer_close_the_connection_without_one() {
        for request in [SSL_REQUEST, GSS_REQUEST] {
            let mut eager = request.to_vec();
            eager.push(0x16);
            assert_eq!(Question::default().read(&eager), Step::Refuse(b""));
        }
        assert_eq!(answer(b"SX"), Answer::Bad);
    }

    #[test]
    fn a_client_without_tls_is_told_what_is_missing() {
        // A start-up message of protocol 3.0, a hello without the question, and a web browser.
        for bytes in [&b"\0\0\0\x29\0\x03\0\0user\0"[..], b"\x16\x03\x01", b"GET / HTTP/1.1"] {
            assert_eq!(Question::default().read(bytes), Step::Refuse(TLS_REQUIRED));
        }
        let (head, fields) = TLS_REQUIRED.split_at(5);
        assert_eq!(head[0], b'E');
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        assert_eq!(length, TLS_REQUIRED.len() - 1, "the length counts itself, not the kind");
        let fields: Vec<&[u8]> = fields.split(|byte| *byte == 0).collect();
        assert_eq!(&fields[..3], [&b"SFATAL"[..], b"VFATAL", b"C28000"]);
        assert!(fields[3].starts_with(b"Mthis address takes TLS"));
        assert_eq!(&fields[4..], [b"", b""], "one zero ends the text, one the message");
    }

    #[test]
    fn a_server_answers_with_one_byte() {
        assert_eq!(answer(b""), Answer::More);
        assert_eq!(answer(b"S"), Answer::Tls);
        assert_eq!(answer(b"N"), Answer::NoTls);
        assert_eq!(answer(b"E"), Answer::Bad);
    }
}
