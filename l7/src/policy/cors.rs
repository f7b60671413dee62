//! Cross-origin requests: which pages of other origins may read the answers (Fetch, §3.2).

use std::io::Write as _;

use crate::route::Fields;

/// One `cors` policy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cors {
    /// As a browser writes them; `*` stands for all.
    pub origins: Vec<String>,
    pub methods: Vec<String>,
    pub headers: Vec<String>,
    pub expose: Vec<String>,
    pub credentials: bool,
    /// Seconds.
    pub max_age: u64,
}

/// Whether it is a preflight: a question of a browser before a request.
#[must_use]
pub fn asked_method<'f>(method: &str, fields: &'f dyn Fields) -> Option<&'f [u8]> {
    if method != "OPTIONS" || fields.line("origin", 0).is_none() {
        return None;
    }
    fields.line("access-control-request-method", 0)
}

impl Cors {
    fn any(&self) -> bool {
        self.origins.iter().any(|origin| origin == "*")
    }

    /// What `Access-Control-Allow-Origin` says to this request, if it is allowed.
    fn allowed<'f>(&self, fields: &'f dyn Fields) -> Option<&'f [u8]> {
        let origin = fields.line("origin", 0)?;
        if fields.line("origin", 1).is_some() {
            return None;
        }
        if self.any() {
            return Some(b"*");
        }
        self.origins.iter().any(|own| own.as_bytes() == origin).then_some(origin)
    }

    /// Appends the lines that every answer has. The origin makes a difference, so caches are
    /// told, also where none came.
    pub fn write_answer(&self, fields: &dyn Fields, out: &mut Vec<u8>) {
        if !self.any() {
            out.extend_from_slice(b"Vary: Origin\r\n");
        }
        let Some(origin) = self.allowed(fields) else { return };
        self.write_origin(origin, out);
        write_list("Access-Control-Expose-Headers", &self.expose, out);
    }

    /// Appends the lines of the answer to a preflight; for an origin that is not allowed they
    /// say nothing, and the browser refuses.
    pub fn write_preflight(&self, fields: &dyn Fields, out: &mut Vec<u8>) {
        out.extend_from_slice(
            b"Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers\r\n",
        );
        let Some(origin) = self.allowed(fields) else { return };
        self.write_origin(origin, out);
        write_list("Access-Control-Allow-Methods", &self.methods, out);
        write_list("Access-Control-Allow-Headers", &self.headers, out);
        let _ = write!(out, "Access-Control-Max-Age: {}\r\n", self.max_age);
    }

    fn write_origin(&self, origin: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(b"Access-Control-Allow-Origin: ");
        out.extend_from_slice(origin);
        out.extend_from_slice(b"\r\n");
        if self.credentials {
            out.extend_from_slice(b"Access-Control-Allow-Credentials: true\r\n");
        }
    }
}

fn write_list(name: &str, values: &[String], out: &mut Vec<u8>) {
    if !values.is_empty() {
        let _ = write!(out, "{name}: {}\r\n", values.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app() -> Cors {
        Cors {
            origins: vec!["https://app.test".to_owned()],
            methods: vec!["GET".to_owned(), "PUT".to_owned()],
            headers: vec!["X-A".to_owned()],
            expose: vec!["X-B".to_owned()],
            credentials: true,
            max_age: 600,
        }
    }

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn only_a_named_origin_is_named_back() {
        let good = [("origin", "https://app.test")];
        let told = text(|out| app().write_answer(&good, out));
        assert!(told.contains("Access-Control-Allow-Origin: https://app.test\r\n"), "{told}");
        assert!(told.contains("Allow-Credentials: true") && told.contains("Vary: Origin"));
        assert!(told.contains("Access-Control-Expose-Headers: X-B"));
        for bad in ["https://app.test.evil.test", "https://APP.test", "null", "http://app.test"] {
            let told = text(|out| app().write_answer(&[("origin", bad)], out));
            assert_eq!(told, "Vary: Origin\r\n", "{bad}");
        }
        let twice = [("origin", "https://app.test"), ("origin", "https://app.test")];
        assert_eq!(text(|out| app().write_answer(&twice, out)), "Vary: Origin\r\n");
    }

    #[test]
    fn a_preflight_is_told_what_may_be_done() {
        let head = [("origin", "https://app.test"), ("access-control-request-method", "PUT")];
        assert_eq!(asked_method("OPTIONS", &head), Some(&b"PUT"[..]));
        assert_eq!(asked_method("GET", &head), None);
        assert_eq!(asked_method("OPTIONS", &[("origin", "x")]), None);
        let told = text(|out| app().write_preflight(&head, out));
        assert!(told.contains("Access-Control-Allow-Methods: GET, PUT\r\n"), "{told}");
        assert!(told.contains("Access-Control-Allow-Headers: X-A\r\n"));
        assert!(told.contains("Access-Control-Max-Age: 600\r\n"));
    }

    #[test]
    fn any_origin_gets_a_star_and_no_vary() {
        let open = Cors { origins: vec!["*".to_owned()], credentials: false, ..app() };
        let told = text(|out| open.write_answer(&[("origin", "https://x")], out));
        assert!(told.contains("Access-Control-Allow-Origin: *\r\n") && !told.contains("Vary"));
    }
}
