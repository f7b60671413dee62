//! Bodies of a gigabyte through HTTP listeners, byte for byte and in bounded memory.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::thread;

use super::gate::Gate;
use super::peers::{command, need};

const CERTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/certs");

/// Far more than any buffer on the way.
const SIZE: u64 = 1 << 30;

/// What the process may grow by while such a body passes, at its peak.
const GROWTH_MAX: u64 = 64 << 20;

/// What a body repeats. Its length divides no buffer's, so that a lost or doubled piece shows.
static TAPE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut word = 0x9e37_79b9_u32;
    let next = |_| {
        // Xorshift (Marsaglia, 2003).
        word ^= word << 13;
        word ^= word >> 17;
        word ^= word << 5;
        word as u8
    };
    (0..1_048_573).map(next).collect()
});

/// Writes a whole body.
fn play(to: &mut impl Write) -> std::io::Result<()> {
    let mut left = SIZE;
    while left > 0 {
        let piece = &TAPE[..TAPE.len().min(left as usize)];
        to.write_all(piece)?;
        left -= piece.len() as u64;
    }
    to.flush()
}

/// Reads to the end; how much of a good body it was.
fn take(from: &mut impl Read) -> u64 {
    let (mut taken, mut chunk) = (0, vec![0; 256 << 10]);
    while let Ok(n @ 1..) = from.read(&mut chunk) {
        let mut piece = &chunk[..n];
        while !piece.is_empty() {
            let at = (taken % TAPE.len() as u64) as usize;
            let len = piece.len().min(TAPE.len() - at);
            assert!(piece[..len] == TAPE[at..at + len], "another byte after {taken}");
            taken += len as u64;
            piece = &piece[len..];
        }
    }
    taken
}

/// The payload of a chunked body (RFC 9112 §7.1).
struct Unchunked<R> {
    from: R,
    /// Of the chunk at hand.
    left: u64,
    ended: bool,
}

impl<R: BufRead> Read for Unchunked<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 && !self.ended {
            let mut line = String::new();
            self.from.read_line(&mut line)?;
            self.left = u64::from_str_radix(line.trim_end(), 16).expect("a chunk's size");
            self.ended = self.left == 0;
        }
        let room = into.len().min(self.left as usize);
        let n = self.from.read(&mut into[..room])?;
        self.left -= n as u64;
        if self.left == 0 {
            self.from.read_line(&mut String::new())?;
        }
        Ok(n)
    }
}

/// Gives a body to GET, and tells PUT how much of one came.
fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream));
        }
    });
    address
}

fn serve(mut stream: TcpStream) {
    let mut reader = BufReader::with_capacity(256 << 10, stream.try_clone().expect("a descriptor"));
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return;
        }
    }
    if head.starts_with("GET ") {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n");
        let _ = stream.write_all(head.as_bytes()).and_then(|()| play(&mut stream));
        return;
    }
    let chunked = head.to_ascii_lowercase().contains("\r\ntransfer-encoding: chunked\r\n");
    let taken = if chunked {
        take(&mut Unchunked { from: reader, left: 0, ended: false })
    } else {
        take(&mut reader.take(SIZE))
    };
    let text = taken.to_string();
    let length = text.len();
    let answer =
        format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{text}");
    let _ = stream.write_all(answer.as_bytes());
}

fn curl(version: &str, url: &str) -> Command {
    let mut curl = command("curl");
    curl.args(["--silent", "--show-error", "--insecure", "--fail", version, url]);
    curl.stdout(Stdio::piped());
    curl
}

fn download(version: &str, url: &str) -> u64 {
    let mut curl = curl(version, url).spawn().expect("it starts");
    let taken = take(curl.stdout.as_mut().expect("piped"));
    assert!(curl.wait().expect("our own child").success());
    taken
}

/// What the server says that it got. Its length is told to nobody before.
fn upload(version: &str, url: &str) -> u64 {
    let mut curl = curl(version, url);
    // Without this curl waits a second for a 100 that the server does not send.
    curl.args(["--upload-file", "-", "--header", "Expect:"]).stdin(Stdio::piped());
    let mut curl = curl.spawn().expect("it starts");
    let mut stdin = curl.stdin.take().expect("piped");
    play(&mut stdin).expect("curl takes it");
    drop(stdin);
    let output = curl.wait_with_output().expect("our own child");
    assert!(output.status.success());
    String::from_utf8_lossy(&output.stdout).parse().expect("a number")
}

#[test]
fn a_gigabyte_passes_each_way_in_bounded_memory() {
    if !need(&["curl"]) {
        return;
    }
    let gate = Gate::start(&format!(
        "version = 1\n[log]\naccess = \"stdout\"\n[listener.plain]\nbind = \"127.0.0.1:0\"\n\
         mode = \"http\"\npool = \"app\"\n[listener.secure]\nbind = \"127.0.0.1:0\"\n\
         mode = \"http\"\npool = \"app\"\ntls = {{ cert = \"file:{CERTS}/www.pem\", \
         key = \"file:{CERTS}/www.key\" }}\n[pool.app.servers]\na = \"{}\"\n",
        server()
    ));
    let plain = format!("http://{}/", gate.address("plain"));
    let secure = format!("https://{}/", gate.address("secure"));
    let before = gate.resident();
    let (down, up) = (download as fn(&str, &str) -> u64, upload as fn(&str, &str) -> u64);
    for (version, url, way, carry) in [
        ("--http1.1", &plain, "down", down),
        ("--http1.1", &plain, "up", up),
        ("--http1.1", &secure, "down", down),
        ("--http2", &secure, "up", up),
    ] {
        gate.forget_peak();
        let begun = std::time::Instant::now();
        assert_eq!(carry(version, url), SIZE, "{version} {url} {way}");
        let (peak, after) = (gate.resident_peak(), gate.resident());
        println!(
            "{version} {url} {way}: {:.1} s; resident before {} KiB, peak {} KiB, after {} KiB",
            begun.elapsed().as_secs_f64(),
            before >> 10,
            peak >> 10,
            after >> 10
        );
        assert!(peak < before + GROWTH_MAX, "grew from {before} to {peak} bytes");
    }
    for line in gate.log(4) {
        assert_eq!(line["reason"], "ok", "{line}");
        let (sent, got) = (line["bytes_in"].as_u64(), line["bytes_out"].as_u64());
        assert!(sent == Some(SIZE) || got == Some(SIZE), "{line}");
    }
}
