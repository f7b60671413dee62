//! A body compressed while it streams.
//!
//! Output is appended to the caller's buffer. `push` may hold bytes back for a better ratio;
//! `flush` brings out all that was pushed, for events and other slow bodies.

use std::io::Write as _;

use brotli::CompressorWriter;
use flate2::write::GzEncoder;

use crate::route::spec::Algorithm;

/// Of 11. Smaller than gzip's best at about its speed; above it, time grows much faster than
/// size falls.
const BROTLI_QUALITY: u32 = 4;
/// Window of 2^18 bytes: what most pages fit in, at a quarter megabyte for each answer.
const BROTLI_WINDOW_LOG2: u32 = 18;
/// Bytes that the encoder takes at once.
const BROTLI_BUFFER_LEN: usize = 4096;
/// Of 9: where the ratio's curve bends.
const GZIP_LEVEL: u32 = 5;

pub struct Encoder {
    inner: Inner,
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
        Self { inner }
    }

    /// Takes bytes of the body; appends what comes out.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        // Writing to a Vec cannot fail, and neither encoder refuses bytes.
        let taken = match &mut self.inner {
            Inner::Brotli(encoder) => encoder.write_all(bytes),
            Inner::Gzip(encoder) => encoder.write_all(bytes),
        };
        debug_assert!(taken.is_ok());
        self.drain(out);
    }

    /// Brings out all that was pushed.
    pub fn flush(&mut self, out: &mut Vec<u8>) {
        let flushed = match &mut self.inner {
            Inner::Brotli(encoder) => encoder.flush(),
            Inner::Gzip(encoder) => encoder.flush(),
        };
        debug_assert!(flushed.is_ok());
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
