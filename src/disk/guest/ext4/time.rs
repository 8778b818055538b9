//! Times of inodes: 34 bits of seconds in two fields.
//! Knows the encoding, not which time it is.

/// The low 32 bits, signed; and in the extra field two bits of epochs of 2^32 seconds, below the nanoseconds.
pub(crate) fn encode(seconds: i64) -> (u32, u32) {
    let low = seconds as u32;
    let epochs = seconds.wrapping_sub(i64::from(low.cast_signed())) >> 32;
    (low, epochs as u32 & 3)
}

/// Seconds since 1970 of both fields.
pub(crate) fn decode(low: u32, extra: u32) -> i64 {
    i64::from(low.cast_signed()) + (i64::from(extra & 3) << 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_beyond_2038_keep_their_value() {
        for seconds in [
            0,
            -1,
            1_700_000_000,
            0x7fff_ffff,
            0x8000_0000,
            0x1_0000_0000,
            10_000_000_000,
        ] {
            let (low, extra) = encode(seconds);
            assert_eq!(decode(low, extra), seconds);
        }
        // The kernel's table: 2038-01-19 and 2106-02-07 lie beyond 32 bits.
        assert_eq!(encode(0x8000_0000), (0x8000_0000, 1));
        assert_eq!(encode(0x1_0000_0000), (0, 1));
    }
}
