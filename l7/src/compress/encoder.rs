//! A body compressed while it streams.
//!
//! Output is appended to the caller's buffer. `push` may hold bytes back for a better ratio;
//! `flush` brings out all that was pushed, for events and other slow bodies.
//!
//! An encoder costs at most [`Encoder::bytes_max`], whatever is pushed: brotli keeps all of a
//! block, and several times more beside it, until it is flushed, so it is at [`HELD_MAX`].

use std::io::Write as _;

use brotli::CompressorWriter;
use flate2::write::GzEncoder;

use crate::route::spec::Algorithm;

/// Of 11. From 5 on an encoder takes half as much memory again, and more.
const BROTLI_QUALITY: u32 = 4;
/// Window of 2^17 bytes: what most pages fit in. One of 2^18 costs a quarter megabyte more and
/// makes text 1 % smaller, one of 2^16 an eighth less and makes it 3 % larger.
const BROTLI_WINDOW_LOG2: u32 = 17;
/// Bytes that the encoder takes at once.
const BROTLI_BUFFER_LEN: usize = 4096;
/// Of 9: where the ratio's curve bends.
const GZIP_LEVEL: u32 = 5;

/// Bytes of the body that an encoder holds back. Brotli without flushes takes up to 3.5 MiB;
/// with one after so many it takes 1.1 MiB, and the output grows by 1.5 %.
const HELD_MAX: usize = 16 << 10;

pub struct Encoder {
    inner: Inner,
    /// Bytes pushed since the last flush.
    held: usize,
}

enum Inner {
    // Boxed: a session has room for one and most have none.
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    Gzip(Box<GzEncoder<Vec<u8>>>),
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self.inner {
            Inner::Brotli(_) => "Encoder(br)",
            Inner::Gzip(_) => "Encoder(gzip)",
        };
        f.write_str(name)
    }
}

impl Encoder {
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        let inner = match algorithm {
            Algorithm::Brotli => Inner::Brotli(Box::new(CompressorWriter::new(
                Vec::new(),
                BROTLI_BUFFER_LEN,
                BROTLI_QUALITY,
                BROTLI_WINDOW_LOG2,
            ))),
            Algorithm::Gzip => {
                let level = flate2::Compression::new(GZIP_LEVEL);
                Inner::Gzip(Box::new(GzEncoder::new(Vec::new(), level)))
            }
        };
        Self { inner, held: 0 }
    }

    /// Bytes of memory that an encoder takes at most, as measured.
    #[must_use]
    pub const fn bytes_max(algorithm: Algorithm) -> usize {
        match algorithm {
            Algorithm::Brotli => 1_152 << 10,
            Algorithm::Gzip => 480 << 10,
        }
    }

    /// Takes bytes of the body; appends what comes out.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(HELD_MAX - self.held));
            // Writing to a Vec cannot fail, and neither encoder refuses bytes.
            let taken = match &mut self.inner {
                Inner::Brotli(encoder) => encoder.write_all(now),
                Inner::Gzip(encoder) => encoder.write_all(now),
            };
            debug_assert!(taken.is_ok());
            bytes = later;
            self.held += now.len();
            if self.held == HELD_MAX {
                self.flush(out);
            } else {
                self.drain(out);
            }
        }
    }

    /// Whether bytes that were pushed may not have come out.
    #[must_use]
    pub const fn holds_back(&self) -> bool {
        self.held > 0
    }

    /// Brings out all that was pushed.
    pub fn flush(&mut self, out: &mut Vec<u8>) {
        if !self.holds_back() {
            return; // an empty block would only make the body longer
        }
        let flushed = match &mut self.inner {
            Inner::Brotli(encoder) => encoder.flush(),
            Inner::Gzip(encoder) => encoder.flush(),
        };
        debug_assert!(flushed.is_ok());
        self.held = 0;
        self.drain(out);
    }

    /// Ends the body.
    pub fn finish(self, out: &mut Vec<u8>) {
        let last = match self.inner {
            Inner::Brotli(encoder) => encoder.into_inner(),
            Inner::Gzip(encoder) => encoder.finish().unwrap_or_default(),
        };
        out.extend_from_slice(&last);
    }

    fn drain(&mut self, out: &mut Vec<u8>) {
        let made = match &mut self.inner {
            Inner::Brotli(encoder) => encoder.get_mut(),
            Inner::Gzip(encoder) => encoder.get_mut(),
        };
        out.extend_from_slice(made);
        made.clear();
    }
}
