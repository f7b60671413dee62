//! A client of HTTP/1.1 that asks one thing after another on one connection.

use std::io::{Read, Write};

use super::gate::Gate;

pub struct Talk<S> {
    stream: S,
    pub host: String,
}

#[derive(Debug)]
pub struct Said {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Said {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.split("\r\n").skip(1).find_map(|line| {
            let (own, value) = line.split_once(':')?;
            own.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn is_chunked(&self) -> bool {
        self.field("Transfer-Encoding") == Some("chunked")
    }
}

impl Talk<std::net::TcpStream> {
    pub fn to(gate: &Gate, listener: &str) -> Self {
        Self::over(gate.connect(listener))
    }
}

impl<S: Read + Write> Talk<S> {
    pub fn over(stream: S) -> Self {
        Self { stream, host: "a.test".to_owned() }
    }

    pub fn get(&mut self, path: &str) -> Said {
        self.ask("GET", path, "", b"")
    }

    /// One request with `fields` (each with its CRLF) and `body` as it is, and its answer.
    pub fn ask(&mut self, method: &str, path: &str, fields: &str, body: &[u8]) -> Said {
        self.try_ask(method, path, fields, body).unwrap_or_else(|error| {
            panic!("{method} {path}: {error}");
        })
    }

    pub fn try_ask(
        &mut self,
        method: &str,
        path: &str,
        fields: &str,
        body: &[u8],
    ) -> std::io::Result<Said> {
        let host = &self.host;
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n");
        self.stream.write_all(&[head.as_bytes(), body].concat())?;
        let head = self.head()?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status: {head}"));
        let mut said = Said { status, head, body: Vec::new() };
        if method == "HEAD" || matches!(status, 204 | 304) {
            return Ok(said);
        }
        said.body = if said.is_chunked() {
            self.chunks()?
        } else {
            let length = said.field("Content-Length").expect("a length, or chunks");
            self.exactly(length.parse().expect("a number"))?
        };
        Ok(said)
    }

    fn head(&mut self) -> std::io::Result<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.extend(self.exactly(1)?);
        }
        Ok(String::from_utf8(head).expect("ASCII"))
    }

    fn chunks(&mut self) -> std::io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") {
                line.extend(self.exactly(1)?);
            }
            let line = String::from_utf8_lossy(&line).into_owned();
            let size = usize::from_str_radix(line.trim_end(), 16).expect("a chunk's size");
            body.extend(self.exactly(size)?);
            assert_eq!(self.exactly(2)?, b"\r\n", "the end of a chunk, or of the trailers");
            if size == 0 {
                return Ok(body);
            }
        }
    }

    fn exactly(&mut self, len: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}
