//! Where a file is cut into pieces, so that an insertion moves no cut but the nearest.
//! Knows bytes; cuts decide what can be shared, never what is read back.

/// Largest piece of any grain, in bytes. A reader refuses larger ones: making it smaller is a format break.
pub(crate) const MAX: usize = 256 << 10;

/// How finely a file is cut.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grain {
    /// Smallest piece but the last, in bytes.
    min: usize,
    /// Largest piece, in bytes.
    pub(crate) max: usize,
    /// A cut is taken where so many of the hash's top bits are zero: on average two to their power of bytes after the
    /// smallest piece, if the largest allows it.
    bits: u32,
}

/// For large files: pieces of about 64 KiB.
pub(crate) const COARSE: Grain = Grain {
    min: 16 << 10,
    max: MAX,
    bits: 16,
};
/// For small files with small changes: pieces of about 10 KiB.
pub(crate) const FINE: Grain = Grain {
    min: 2 << 10,
    max: 64 << 10,
    bits: 13,
};

/// One random number per value of a byte; any fixed table does.
const GEAR: [u64; 256] = gear();

const fn gear() -> [u64; 256] {
    // splitmix64
    let mut table = [0; 256];
    let mut state = 0x696d_7061_7374_6f31_u64;
    let mut at = 0;
    while at < table.len() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        table[at] = word ^ (word >> 31);
        at += 1;
    }
    table
}

/// Length of the first piece of `bytes`, which hold at least the grain's largest piece or the file's end.
pub(crate) fn first(bytes: &[u8], grain: Grain) -> usize {
    let end = bytes.len().min(grain.max);
    let mask = !0 << (64 - grain.bits);
    let mut hash = 0u64;
    for (at, byte) in bytes[..end].iter().enumerate().skip(grain.min) {
        hash = (hash << 1).wrapping_add(GEAR[*byte as usize]);
        if hash & mask == 0 {
            return at + 1;
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..length).map(|_| next()).collect()
    }

    fn pieces(mut bytes: &[u8], grain: Grain) -> Vec<&[u8]> {
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(first(bytes, grain));
            pieces.push(piece);
            bytes = rest;
        }
        pieces
    }

    #[test]
    fn pieces_are_of_the_promised_sizes() {
        let bytes = noise(8 << 20);
        for (grain, expected) in [(COARSE, 48 << 10..96 << 10), (FINE, 8 << 10..12 << 10)] {
            let pieces = pieces(&bytes, grain);
            assert!(pieces.iter().all(|piece| piece.len() <= grain.max));
            assert!(
                pieces[..pieces.len() - 1]
                    .iter()
                    .all(|piece| piece.len() >= grain.min)
            );
            let average = bytes.len() / pieces.len();
            assert!(expected.contains(&average), "{average}");
        }
    }

    #[test]
    fn an_inserted_byte_changes_few_pieces() {
        let bytes = noise(4 << 20);
        let mut longer = bytes.clone();
        longer.insert(1 << 20, 7);
        for grain in [COARSE, FINE] {
            let (before, after) = (pieces(&bytes, grain), pieces(&longer, grain));
            let changed = after.iter().filter(|piece| !before.contains(piece)).count();
            assert!(changed <= 3, "{changed} of {}", after.len());
        }
    }
}
