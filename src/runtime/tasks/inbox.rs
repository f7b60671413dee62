//! Received bytes of one connection that nobody has used yet.

/// The memory of an inbox as it is first taken: a whole head of nearly every request.
pub const SMALL: usize = 16 << 10;

/// The memory of an inbox that a large head or a bulk transfer needs.
pub const LARGE: usize = 160 << 10;

/// Unused buffers kept by a worker, of each size: 4 MiB, and 10 MiB.
const SMALL_KEPT_MAX: usize = 256;
const LARGE_KEPT_MAX: usize = 64;

/// Bytes between `start` and `end` of a buffer; without bytes, no buffer (K3).
#[derive(Debug, Default)]
pub struct Inbox {
    store: Option<Box<[u8]>>,
    start: usize,
    end: usize,
}

/// Buffers without bytes, of the two sizes.
#[derive(Debug, Default)]
pub struct Spares {
    small: Vec<Box<[u8]>>,
    large: Vec<Box<[u8]>>,
}

impl Spares {
    fn take(&mut self, size: usize) -> Box<[u8]> {
        let kept = if size == SMALL { self.small.pop() } else { self.large.pop() };
        kept.unwrap_or_else(|| vec![0; size].into_boxed_slice())
    }

    fn give(&mut self, store: Box<[u8]>) {
        let (kept, max) = match store.len() {
            SMALL => (&mut self.small, SMALL_KEPT_MAX),
            _ => (&mut self.large, LARGE_KEPT_MAX),
        };
        if kept.len() < max {
            kept.push(store);
        }
    }
}

impl Inbox {
    #[must_use]
    pub const fn new() -> Self {
        Self { store: None, start: 0, end: 0 }
    }

    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.store.as_ref().map_or(&[], |store| &store[self.start..self.end])
    }

    #[must_use]
    pub const fn len(&self) -> usize {
        self.end - self.start
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Drops `n` bytes from the front.
    pub fn consume(&mut self, n: usize) {
        debug_assert!(n <= self.len());
        self.start += n;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Makes room for `more` bytes behind the last; false if even the large size has none.
    pub fn reserve(&mut self, more: usize, spares: &mut Spares) -> bool {
        let needed = self.len() + more;
        let capacity = self.store.as_ref().map_or(0, |store| store.len());
        if needed > LARGE {
            return false;
        }
        if needed > capacity {
            let mut roomy = spares.take(if needed <= SMALL { SMALL } else { LARGE });
            roomy[..self.len()].copy_from_slice(self.bytes());
            if let Some(old) = self.store.replace(roomy) {
                spares.give(old);
            }
            (self.start, self.end) = (0, self.len());
        } else if self.end + more > capacity
            && let Some(store) = &mut self.store
        {
            store.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.len());
        }
        true
    }

    /// The room behind the last byte.
    pub fn room(&mut self) -> &mut [u8] {
        self.store.as_mut().map_or(&mut [], |store| &mut store[self.end..])
    }

    /// Says that the first `n` bytes of the room were written.
    pub fn filled(&mut self, n: usize) {
        self.end += n;
        debug_assert!(self.store.as_ref().is_some_and(|store| self.end <= store.len()));
    }

    /// Appends `bytes`, for which there is room.
    pub fn push(&mut self, bytes: &[u8]) {
        self.room()[..bytes.len()].copy_from_slice(bytes);
        self.filled(bytes.len());
    }

    /// Gives the memory back if there is nothing in it.
    pub fn rest(&mut self, spares: &mut Spares) {
        if self.is_empty()
            && let Some(store) = self.store.take()
        {
            spares.give(store);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_keep_their_order_through_growth_and_use() {
        let (mut inbox, mut spares) = (Inbox::default(), Spares::default());
        let mut expected = Vec::new();
        for round in 0..40_usize {
            let more: Vec<u8> = (0..4096).map(|at| (at * 7 + round) as u8).collect();
            assert!(inbox.reserve(more.len(), &mut spares));
            inbox.push(&more);
            expected.extend_from_slice(&more);
            inbox.consume(1000);
            expected.drain(..1000);
            assert_eq!(inbox.bytes(), expected);
        }
    }

    #[test]
    fn holds_no_memory_without_bytes_and_no_more_than_its_bound() {
        let (mut inbox, mut spares) = (Inbox::default(), Spares::default());
        assert!(inbox.reserve(10, &mut spares));
        inbox.push(b"0123456789");
        inbox.rest(&mut spares);
        assert!(inbox.store.is_some());
        inbox.consume(10);
        inbox.rest(&mut spares);
        assert!(inbox.store.is_none());
        assert!(!inbox.reserve(LARGE + 1, &mut spares));
    }
}
