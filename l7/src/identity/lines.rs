//! The lines that tell a server who asks: X-Forwarded-*, X-Real-IP, X-Request-Id, Via.

use std::net::IpAddr;

use crate::route::{Fields, lines};
use crate::text::{push_decimal, push_ip};

/// Longest X-Request-Id that is kept: room for any usual id, none for a payload in logs.
pub const REQUEST_ID_LEN_MAX: usize = 128;

/// Takes a name and what appends its value.
type Emit<'e> = dyn FnMut(&'static str, &dyn Fn(&mut Vec<u8>)) + 'e;

/// What a server is told about one request. Values from the peer are believed only if it is
/// trusted.
#[derive(Clone, Copy)]
pub struct Identity<'i> {
    /// The TCP or PROXY source; `None` on a Unix listener.
    pub peer: Option<IpAddr>,
    pub peer_trusted: bool,
    pub client: Option<IpAddr>,
    /// See [`scheme`](super::scheme).
    pub scheme: &'i str,
    /// `Host` as received, port included; empty if there was none.
    pub host: &'i [u8],
    /// The port that the client reached.
    pub port: u16,
    pub request_id: &'i [u8],
    /// Of the message that came in: `1.0`, `1.1` or `2.0`.
    pub version: &'i str,
    /// Our name in Via, one of its own for each process.
    pub via: &'i str,
    /// The head as received.
    pub fields: &'i dyn Fields,
}

impl std::fmt::Debug for Identity<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("peer", &self.peer)
            .field("client", &self.client)
            .field("scheme", &self.scheme)
            .finish_non_exhaustive()
    }
}

impl Identity<'_> {
    /// Appends the lines for an HTTP/1 head, each with its CRLF.
    pub fn write_http1(&self, out: &mut Vec<u8>) {
        let mut emit = |name: &str, write: &dyn Fn(&mut Vec<u8>)| {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            write(out);
            out.extend_from_slice(b"\r\n");
        };
        self.each(&mut emit);
    }

    fn each(&self, emit: &mut Emit<'_>) {
        if let Some(peer) = self.peer {
            emit("X-Forwarded-For", &|out| self.write_forwarded_for(peer, out));
        }
        emit("X-Forwarded-Proto", &|out| out.extend_from_slice(self.scheme.as_bytes()));
        let host = self.said("x-forwarded-host", is_host).unwrap_or(self.host);
        if !host.is_empty() {
            emit("X-Forwarded-Host", &|out| out.extend_from_slice(host));
        }
        emit("X-Forwarded-Port", &|out| match self.said("x-forwarded-port", is_port) {
            Some(port) => out.extend_from_slice(port),
            None => push_decimal(self.port.into(), out),
        });
        if let Some(client) = self.client {
            emit("X-Real-IP", &|out| push_ip(client, out));
        }
        emit("X-Request-Id", &|out| out.extend_from_slice(self.request_id));
        // A line more is an item more (RFC 9110 §5.3); those received are kept before it.
        emit("Via", &|out| {
            for part in [self.version, " ", self.via] {
                out.extend_from_slice(part.as_bytes());
            }
        });
    }

    fn write_forwarded_for(&self, peer: IpAddr, out: &mut Vec<u8>) {
        let received = self.peer_trusted.then(|| lines(self.fields, "x-forwarded-for"));
        for line in received.into_iter().flatten().filter(|line| !line.is_empty()) {
            out.extend_from_slice(line);
            out.extend_from_slice(b", ");
        }
        push_ip(peer.to_canonical(), out);
    }

    /// What a trusted peer says in one well-formed line.
    fn said(&self, name: &str, is_good: fn(&[u8]) -> bool) -> Option<&[u8]> {
        if !self.peer_trusted {
            return None;
        }
        let line = self.fields.line(name, 0).filter(|line| is_good(line))?;
        self.fields.line(name, 1).is_none().then_some(line)
    }
}

fn is_host(value: &[u8]) -> bool {
    let fine = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~:[]%".contains(byte);
    !value.is_empty() && value.iter().all(fine)
}

fn is_port(value: &[u8]) -> bool {
    let text = std::str::from_utf8(value).unwrap_or_default();
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port > 0)
}

/// The client's X-Request-Id, if it is one line of 1–128 of `[A-Za-z0-9._-]`.
#[must_use]
pub fn kept_request_id(fields: &dyn Fields) -> Option<&[u8]> {
    let line = fields.line("x-request-id", 0)?;
    let fine = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    let good = (1..=REQUEST_ID_LEN_MAX).contains(&line.len()) && line.iter().all(fine);
    (good && fields.line("x-request-id", 1).is_none()).then_some(line)
}

/// A new X-Request-Id from random bytes: 32 hexadecimal digits.
#[must_use]
pub fn new_request_id(random: [u8; 16]) -> [u8; 32] {
    let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble)];
    let mut id = [0; 32];
    for (at, byte) in random.into_iter().enumerate() {
        id[2 * at] = digit(byte >> 4);
        id[2 * at + 1] = digit(byte & 15);
    }
    id
}

/// Whether the request has been here before: our name in Via. A loop, then: 508.
#[must_use]
pub fn passed_here(fields: &dyn Fields, via: &str) -> bool {
    let mut entries = lines(fields, "via").flat_map(|line| line.split(|&byte| byte == b','));
    entries.any(|entry| {
        let mut words = entry.trim_ascii().split(|&byte| byte == b' ' || byte == b'\t');
        words.nth(1).is_some_and(|name| name == via.as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::NoFields;

    fn written(peer_trusted: bool, fields: &dyn Fields) -> String {
        let identity = Identity {
            peer: Some("::ffff:10.0.0.1".parse().expect("address")),
            peer_trusted,
            client: Some("192.0.2.7".parse().expect("address")),
            scheme: "https",
            host: b"a.test:8443",
            port: 8443,
            request_id: b"id",
            version: "1.1",
            via: "sg-1",
            fields,
        };
        let mut out = Vec::new();
        identity.write_http1(&mut out);
        String::from_utf8(out).expect("text")
    }

    const SAID: [(&str, &str); 6] = [
        ("X-Forwarded-For", "6.6.6.6"),
        ("x-forwarded-for", "192.0.2.7"),
        ("X-Forwarded-Host", "b.test"),
        ("X-Forwarded-Port", "443"),
        ("X-Real-IP", "6.6.6.6"),
        ("Via", "1.1 other"),
    ];

    #[test]
    fn nothing_an_untrusted_peer_says_is_told_on() {
        let own = "X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\n\
            X-Forwarded-Host: a.test:8443\r\nX-Forwarded-Port: 8443\r\nX-Real-IP: 192.0.2.7\r\n\
            X-Request-Id: id\r\nVia: 1.1 sg-1\r\n";
        assert_eq!(written(false, &SAID), own);
        assert_eq!(written(false, &NoFields), own);
        assert_eq!(written(true, &NoFields), own);
    }

    #[test]
    fn a_trusted_peers_list_goes_on_with_the_peer_last() {
        let lines = written(true, &SAID);
        assert!(lines.starts_with("X-Forwarded-For: 6.6.6.6, 192.0.2.7, 10.0.0.1\r\n"), "{lines}");
        assert!(lines.contains("X-Forwarded-Host: b.test\r\n"));
        assert!(lines.contains("X-Forwarded-Port: 443\r\n"));
        assert!(lines.contains("X-Real-IP: 192.0.2.7\r\n"));
    }

    #[test]
    fn a_trusted_peer_that_says_no_host_or_port_is_not_believed() {
        let lines = written(true, &[("X-Forwarded-Host", "a b"), ("X-Forwarded-Port", "99999")]);
        assert!(lines.contains("X-Forwarded-Host: a.test:8443\r\nX-Forwarded-Port: 8443\r\n"));
        let twice = [("X-Forwarded-Host", "b.test"), ("X-Forwarded-Host", "c.test")];
        assert!(written(true, &twice).contains("X-Forwarded-Host: a.test:8443\r\n"));
    }

    #[test]
    fn a_request_id_is_kept_if_it_is_harmless() {
        let kept = |value: &str| kept_request_id(&[("X-Request-ID", value)]).is_some();
        assert!(kept("A-z.0_9"));
        assert!(kept(&"a".repeat(128)));
        for bad in ["", "a b", "a\"b", "é", &"a".repeat(129)] {
            assert!(!kept(bad), "{bad}");
        }
        let twice = [("x-request-id", "a"), ("x-request-id", "b")];
        assert!(kept_request_id(&twice).is_none());
    }

    #[test]
    fn a_new_request_id_is_one_that_would_be_kept() {
        let id = new_request_id([0xf0; 16]);
        assert_eq!(&id[..4], b"f0f0");
        let text = std::str::from_utf8(&id).expect("digits");
        assert!(kept_request_id(&[("x-request-id", text)]).is_some());
    }

    #[test]
    fn a_loop_is_seen_by_our_own_name_only() {
        assert!(passed_here(&[("Via", "1.0 a, 1.1 sg-1 (x)")], "sg-1"));
        assert!(passed_here(&[("Via", "1.0 a"), ("via", "2 sg-1")], "sg-1"));
        assert!(!passed_here(&[("Via", "1.1 sg-12, 1.1 x sg-1")], "sg-1"));
    }
}
