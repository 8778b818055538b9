//! Where a large file is cut into pieces, so that an insertion moves no cut but the nearest.
//! Knows bytes; cuts decide what can be shared, never what is read back.

/// Smallest piece but the last, in bytes.
pub(crate) const MIN: usize = 16 << 10;
/// Largest piece, in bytes.
pub(crate) const MAX: usize = 256 << 10;
/// A cut is taken where so many of the hash's top bits are zero: 48 KiB after the smallest piece, on average.
const MASK: u64 = !0 << (64 - 16);

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

/// Length of the first piece of `bytes`, which hold at least [`MAX`] bytes or the file's end.
pub(crate) fn first(bytes: &[u8]) -> usize {
    let end = bytes.len().min(MAX);
    let mut hash = 0u64;
    for (at, byte) in bytes[..end].iter().enumerate().skip(MIN) {
        hash = (hash << 1).wrapping_add(GEAR[*byte as usize]);
        if hash & MASK == 0 {
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

    fn pieces(mut bytes: &[u8]) -> Vec<&[u8]> {
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(first(bytes));
            pieces.push(piece);
            bytes = rest;
        }
        pieces
    }

    #[test]
    fn pieces_are_of_the_promised_sizes() {
        let bytes = noise(8 << 20);
        let pieces = pieces(&bytes);
        assert!(pieces.iter().all(|piece| piece.len() <= MAX));
        assert!(pieces[..pieces.len() - 1].iter().all(|piece| piece.len() >= MIN));
        let average = bytes.len() / pieces.len();
        assert!((48 << 10..96 << 10).contains(&average), "{average}");
    }

    #[test]
    fn an_inserted_byte_changes_few_pieces() {
        let bytes = noise(4 << 20);
        let mut longer = bytes.clone();
        longer.insert(1 << 20, 7);
        let (before, after) = (pieces(&bytes), pieces(&longer));
        let changed = after.iter().filter(|piece| !before.contains(piece)).count();
        assert!(changed <= 3, "{changed} of {}", after.len());
    }
}
