//! W3C Trace Context: `traceparent` passed on with a new span, or made.
//!
//! Version 00 is written; later versions are read as far as 00 goes (Trace Context §4.3). A
//! malformed or doubled line is as none: a new trace begins. `tracestate` is not this module's:
//! it goes on untouched as long as the trace does, and is dropped with it.

use crate::route::Fields;

/// Bytes of a `traceparent` of version 00.
pub const TRACEPARENT_LEN: usize = 55;
/// The flag that says the caller may have recorded the trace.
const SAMPLED: u8 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    pub trace_id: [u8; 16],
    pub parent_id: [u8; 8],
    pub flags: u8,
}

impl Trace {
    /// Reads the value of `traceparent`.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (fixed, more) = value.split_at_checked(TRACEPARENT_LEN)?;
        let dashes = [2, 35, 52].iter().all(|&at| fixed[at] == b'-');
        let mut version = [0];
        decode(&fixed[..2], &mut version)?;
        let known_end = match version[0] {
            0 => more.is_empty(),
            0xff => false,
            _ => more.is_empty() || more[0] == b'-',
        };
        let mut trace = Self { trace_id: [0; 16], parent_id: [0; 8], flags: 0 };
        decode(&fixed[3..35], &mut trace.trace_id)?;
        decode(&fixed[36..52], &mut trace.parent_id)?;
        let mut flags = [0];
        decode(&fixed[53..], &mut flags)?;
        // Only this flag is defined for version 00.
        trace.flags = flags[0] & SAMPLED;
        let named = trace.trace_id != [0; 16] && trace.parent_id != [0; 8];
        (dashes && known_end && named).then_some(trace)
    }

    /// The trace of a request: the client's with a new span, or a new one, not sampled. `true`
    /// when it is the client's, whose `tracestate` then goes on.
    ///
    /// `random` makes the ids; all zero bytes are set to one, as zero is no id.
    #[must_use]
    pub fn of(fields: &dyn Fields, random: [u8; 24]) -> (Self, bool) {
        let only = fields.line("traceparent", 1).is_none();
        let line = fields.line("traceparent", 0).filter(|_| only);
        let mut new = Self { trace_id: [0; 16], parent_id: [0; 8], flags: 0 };
        new.trace_id.copy_from_slice(&random[..16]);
        new.parent_id.copy_from_slice(&random[16..]);
        if new.trace_id == [0; 16] {
            new.trace_id[15] = 1;
        }
        if new.parent_id == [0; 8] {
            new.parent_id[7] = 1;
        }
        match line.and_then(Self::parse) {
            Some(own) => (Self { parent_id: new.parent_id, ..own }, true),
            None => (new, false),
        }
    }

    /// The value of `traceparent`.
    #[must_use]
    pub fn encode(&self) -> [u8; TRACEPARENT_LEN] {
        let mut out = *b"00-00000000000000000000000000000000-0000000000000000-00";
        encode(&self.trace_id, &mut out[3..35]);
        encode(&self.parent_id, &mut out[36..52]);
        encode(&[self.flags], &mut out[53..]);
        out
    }
}

/// Lower case only: upper case is not valid (Trace Context §3.2.2).
fn decode(hex: &[u8], out: &mut [u8]) -> Option<()> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    for (pair, byte) in hex.chunks_exact(2).zip(out) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(())
}

fn encode(bytes: &[u8], out: &mut [u8]) {
    let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble)];
    for (byte, pair) in bytes.iter().zip(out.chunks_exact_mut(2)) {
        pair[0] = digit(byte >> 4);
        pair[1] = digit(byte & 15);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::route::NoFields;

    const LINE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_trace_goes_on_with_a_new_span() {
        let (trace, own) = Trace::of(&[("Traceparent", LINE)], [7; 24]);
        let written = trace.encode();
        assert!(own);
        assert_eq!(written, *b"00-4bf92f3577b34da6a3ce929d0e0e4736-0707070707070707-01");
    }

    #[test]
    fn without_a_good_line_a_new_trace_begins() {
        for bad in [
            "",
            "00",
            &LINE.to_uppercase(),
            &format!("{LINE}-00"),
            &LINE.replace("00-4", "ff-4"),
            &LINE.replace('-', "_"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        ] {
            let (trace, own) = Trace::of(&[("traceparent", bad)], [7; 24]);
            assert!(!own && trace.trace_id == [7; 16] && trace.flags == 0, "{bad}");
        }
        let twice = [("traceparent", LINE), ("traceparent", LINE)];
        assert!(!Trace::of(&twice, [7; 24]).1);
    }

    #[test]
    fn a_later_version_is_read_as_far_as_known() {
        let later = LINE.replacen("00", "cc", 1);
        assert!(Trace::parse(later.as_bytes()).is_some());
        assert!(Trace::parse(format!("{later}-what").as_bytes()).is_some());
        assert!(Trace::parse(format!("{later}what").as_bytes()).is_none());
    }

    #[test]
    fn ids_are_never_zero() {
        let (trace, _) = Trace::of(&NoFields, [0; 24]);
        assert_eq!(Trace::parse(&trace.encode()), Some(trace));
    }

    proptest! {
        #[test]
        fn what_is_made_can_be_read(random in any::<[u8; 24]>()) {
            let (trace, own) = Trace::of(&NoFields, random);
            prop_assert!(!own);
            prop_assert_eq!(Trace::parse(&trace.encode()), Some(trace));
        }

        #[test]
        fn no_bytes_are_too_odd_to_read(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Some(trace) = Trace::parse(&bytes) {
                prop_assert_eq!(&trace.encode()[3..52], &bytes[3..52]);
            }
        }
    }
}
