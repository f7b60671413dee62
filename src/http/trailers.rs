//! The trailers of a request: which of them its server gets.
//!
//! A decoder drops those that would change how a message is read, whatever the route. What is
//! dropped here depends on the route and the head: whatever a client may not say in its head, it
//! may not say behind its body either.

use std::rc::Rc;

use sluicegate_l7::http1::{Framing, Known, Lines};

use super::errand::Errand;
use super::session::Session;
use super::site::SiteRef;
use crate::runtime::driver::Driver;

/// What a request's trailers are judged by.
pub struct Trailers {
    site: SiteRef,
    route: Option<usize>,
    /// Names in the request's `Connection`, as a list.
    hop: Vec<u8>,
}

impl Trailers {
    /// The lines that pass, each with its CRLF.
    #[must_use]
    pub fn passing(&self, lines: &[u8]) -> Vec<u8> {
        let mut passing = Vec::with_capacity(lines.len());
        for line in lines.split_inclusive(|&byte| byte == b'\n') {
            let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
            if self.passes(name) {
                passing.extend_from_slice(line);
            }
        }
        passing
    }

    fn passes(&self, name: &[u8]) -> bool {
        let site = &self.site;
        let mut hop = self.hop.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        site.sieve.passes_trailer(name)
            && !site.takes(self.route, name)
            && !site.rules.hides(site.chain(self.route), name, b"")
            && !hop.any(|own| own.eq_ignore_ascii_case(name))
    }
}

/// What `Connection` says, for a request that may have trailers.
pub(super) fn hop_names(framing: Framing, lines: &Lines<'_>) -> Vec<u8> {
    if framing != Framing::Chunked {
        return Vec::new();
    }
    let values: Vec<&[u8]> = lines.fields.values(lines.bytes, Known::Connection).collect();
    values.join(&b',')
}

impl<D: Driver> Session<D> {
    /// What the trailers of a request are judged by, if it may have some.
    pub(super) fn trailers_of(&self, errand: &Errand) -> Option<Box<Trailers>> {
        (errand.framing == Framing::Chunked).then(|| {
            let hop = errand.hop_names.clone();
            Box::new(Trailers { site: Rc::clone(&self.site), route: errand.route(), hop })
        })
    }
}
