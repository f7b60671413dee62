//! Compression of answers on a worker: how many encoders there may be, and when one lets go of
//! what it holds back.
//!
//! An encoder lives as long as its answer's body comes, which a client that reads slowly, or many
//! streams of one, stretch as they like. So a worker has so many of them at once as fit into
//! [`ENCODER_BYTES_MAX`]; the answers beyond go out as they come.

use std::cell::Cell;
use std::rc::Rc;

use sluicegate_l7::compress::Encoder;
use sluicegate_l7::route::spec::Algorithm;

/// Memory of all encoders of a worker: 56 of brotli, 136 of gzip. Most answers are through with
/// theirs at once, so that it takes a thousand clients, or a bad one, to have so many.
const ENCODER_BYTES_MAX: usize = 64 << 20;

/// The encoders of a worker.
#[derive(Debug, Default)]
pub struct Encoders {
    bytes: Rc<Cell<usize>>,
}

impl Encoders {
    /// Whether there may be one more.
    pub fn have_room(&self, algorithm: Algorithm) -> bool {
        self.bytes.get() + Encoder::bytes_max(algorithm) <= ENCODER_BYTES_MAX
    }

    /// One more, for an answer that was told of it.
    pub fn add(&self, algorithm: Algorithm) -> Squeezer {
        debug_assert!(self.have_room(algorithm));
        let bytes = Encoder::bytes_max(algorithm);
        self.bytes.set(self.bytes.get() + bytes);
        let place = Place { of: Rc::clone(&self.bytes), bytes };
        Squeezer { encoder: Encoder::new(algorithm), made: Vec::new(), _place: place }
    }
}

/// What an encoder takes of the worker's memory.
#[derive(Debug)]
struct Place {
    of: Rc<Cell<usize>>,
    bytes: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.of.set(self.of.get() - self.bytes);
    }
}

/// The encoder of one answer.
#[derive(Debug)]
pub struct Squeezer {
    encoder: Encoder,
    /// What came out of it last.
    made: Vec<u8>,
    _place: Place,
}

impl Squeezer {
    /// What comes out of the encoder for these bytes; nothing, while it has too few of them.
    pub fn push(&mut self, payload: &[u8]) -> &[u8] {
        self.made.clear();
        self.encoder.push(payload, &mut self.made);
        &self.made
    }

    /// What it has held back so far.
    pub fn flush(&mut self) -> &[u8] {
        self.made.clear();
        self.encoder.flush(&mut self.made);
        &self.made
    }

    pub const fn holds_back(&self) -> bool {
        self.encoder.holds_back()
    }

    /// The end of the body.
    pub fn finish(self) -> Vec<u8> {
        let Self { encoder, mut made, _place } = self;
        made.clear();
        encoder.finish(&mut made);
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_encoders_as_fit_and_each_gives_its_place_back() {
        let encoders = Encoders::default();
        let mut alive = Vec::new();
        while encoders.have_room(Algorithm::Brotli) {
            alive.push(encoders.add(Algorithm::Brotli));
        }
        assert_eq!(alive.len(), 56);
        assert!(!encoders.have_room(Algorithm::Brotli));
        drop(alive.pop());
        assert!(encoders.have_room(Algorithm::Brotli));
        while encoders.have_room(Algorithm::Gzip) {
            alive.push(encoders.add(Algorithm::Gzip));
        }
        alive.drain(..).for_each(|one| drop(one.finish()));
        assert_eq!(encoders.bytes.get(), 0);
    }

    #[test]
    fn pieces_are_held_back_until_a_flush_and_none_comes_out_twice() {
        let mut squeezer = Encoders::default().add(Algorithm::Gzip);
        let header = squeezer.push(b"some ").len();
        assert!(header <= 10 && squeezer.push(b"words").is_empty() && squeezer.holds_back());
        assert!(!squeezer.flush().is_empty() && !squeezer.holds_back());
        assert!(squeezer.flush().is_empty());
    }
}
