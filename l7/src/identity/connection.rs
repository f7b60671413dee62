//! What `Connection` and `Upgrade` say about this connection (RFC 9110 §7.6.1, §7.8).

use crate::route::{Fields, lines};

/// Options in `Connection`. Honest peers send one to three; each is compared with every name of
/// the head, so a peer may not send thousands.
pub const OPTIONS_MAX: usize = 16;

/// Options of this connection, names as sent.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'f> {
    /// Fields that are for the next hop only.
    names: [&'f [u8]; OPTIONS_MAX],
    len: usize,
    pub close: bool,
    pub keep_alive: bool,
    pub upgrade: bool,
}

/// More than [`OPTIONS_MAX`] options, or one that is no name: 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyOptions;

impl<'f> Connection<'f> {
    /// Reads all `Connection` lines of a head.
    ///
    /// # Errors
    /// [`TooManyOptions`]
    pub fn parse(fields: &'f dyn Fields) -> Result<Self, TooManyOptions> {
        let mut parsed = Self {
            names: [b""; OPTIONS_MAX],
            len: 0,
            close: false,
            keep_alive: false,
            upgrade: false,
        };
        let options = lines(fields, "connection").flat_map(|line| line.split(|&b| b == b','));
        for option in options.map(<[u8]>::trim_ascii).filter(|option| !option.is_empty()) {
            if option.eq_ignore_ascii_case(b"close") {
                parsed.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                parsed.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                parsed.upgrade = true;
            } else {
                *parsed.names.get_mut(parsed.len).ok_or(TooManyOptions)? = option;
                parsed.len += 1;
            }
        }
        Ok(parsed)
    }

    /// Whether the field is said to be for this connection only.
    #[must_use]
    pub fn nominates(&self, name: &[u8]) -> bool {
        self.names[..self.len].iter().any(|own| own.eq_ignore_ascii_case(name))
    }

    /// The protocol to ask the server for: the first of `Upgrade` that is not another HTTP or
    /// TLS, which would hide requests from the gateway. `None` without the connection option.
    ///
    /// Only for HTTP/1.1 requests on a route that lets upgrades through.
    #[must_use]
    pub fn upgrade_to(&self, fields: &'f dyn Fields) -> Option<&'f [u8]> {
        if !self.upgrade {
            return None;
        }
        let protocols = lines(fields, "upgrade").flat_map(|line| line.split(|&b| b == b','));
        protocols.map(<[u8]>::trim_ascii).find(|protocol| {
            let name = protocol.split(|&byte| byte == b'/').next().unwrap_or_default();
            let hides = ["h2c", "h2", "h3", "http", "tls", "ssl"];
            !name.is_empty() && !hides.iter().any(|own| name.eq_ignore_ascii_case(own.as_bytes()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_all_lines_count() {
        let fields = [("Connection", "Keep-Alive,, X-A"), ("Connection", "UPGRADE , close")];
        let connection = Connection::parse(&fields).expect("few options");
        assert!(connection.close && connection.keep_alive && connection.upgrade);
        assert!(connection.nominates(b"x-a"));
        assert!(!connection.nominates(b"close"), "an option is no field");
    }

    #[test]
    fn too_many_options_are_refused() {
        let many = vec!["a"; OPTIONS_MAX].join(",");
        assert!(Connection::parse(&[("Connection", many.as_str())]).is_ok());
        let more = format!("{many},b");
        let fields = [("Connection", more.as_str())];
        assert_eq!(Connection::parse(&fields).map(|_| ()), Err(TooManyOptions));
    }

    #[test]
    fn an_upgrade_hides_no_http() {
        let to = |connection, upgrade| {
            let fields = [("Connection", connection), ("Upgrade", upgrade)];
            let connection = Connection::parse(&fields).expect("few options");
            connection.upgrade_to(&fields).map(|to| String::from_utf8_lossy(to).into_owned())
        };
        assert_eq!(to("Upgrade", "websocket, h2c").as_deref(), Some("websocket"));
        assert_eq!(to("Upgrade", "H2C , websocket").as_deref(), Some("websocket"));
        assert_eq!(to("Upgrade", "h2c"), None);
        assert_eq!(to("Upgrade", "TLS/1.0, HTTP/2.0"), None);
        assert_eq!(to("close", "websocket"), None);
    }
}
