//! The checksums of the formats that are read and written here.
//! Knows polynomials, not what is summed.

/// CRC-32 (ISO-HDLC) of partition tables.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    !update(&ISO, !0, bytes)
}

/// CRC-32C of ext4, continued from `crc`, without the final complement: as the kernel's `crc32c()`.
pub(crate) fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    update(&CASTAGNOLI, crc, bytes)
}

/// CRC-16 (ARC) of group descriptors before ext4 had the others, continued from `crc`: as the kernel's `crc16()`.
pub(crate) fn crc16(crc: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(crc, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xa001 * (crc & 1))
        })
    })
}

/// Entry `[n][byte]` is the sum of `byte` and `n` zero bytes, so that eight bytes are looked up at once.
type CrcTables = [[u32; 256]; 8];

static ISO: CrcTables = tables(0xedb8_8320);
static CASTAGNOLI: CrcTables = tables(0x82f6_3b78);

fn update(tables: &CrcTables, mut crc: u32, bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let [a, b, c, d, e, f, g, h] = word;
        let [w, x, y, z] = crc.to_le_bytes();
        // No loop: builds that are not optimised sum much metadata too.
        crc = tables[7][(a ^ w) as usize]
            ^ tables[6][(b ^ x) as usize]
            ^ tables[5][(c ^ y) as usize]
            ^ tables[4][(d ^ z) as usize]
            ^ tables[3][*e as usize]
            ^ tables[2][*f as usize]
            ^ tables[1][*g as usize]
            ^ tables[0][*h as usize];
    }
    rest.iter().fold(crc, |crc, byte| {
        (crc >> 8) ^ tables[0][usize::from(crc as u8 ^ byte)]
    })
}

const fn tables(polynomial: u32) -> CrcTables {
    let mut tables = [[0; 256]; 8];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (polynomial * (crc & 1));
            bit += 1;
        }
        tables[0][index] = crc;
        index += 1;
    }
    let mut zeros = 1;
    while zeros < 8 {
        let mut index = 0;
        while index < 256 {
            let crc = tables[zeros - 1][index];
            tables[zeros][index] = (crc >> 8) ^ tables[0][(crc & 0xff) as usize];
            index += 1;
        }
        zeros += 1;
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_catalogue() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
        assert_eq!(crc16(0, b"123456789"), 0xbb3d);
    }

    #[test]
    fn a_sum_is_that_of_its_parts_wherever_they_are_cut() {
        let bytes: Vec<u8> = (0..100).map(|n: u8| n.wrapping_mul(37)).collect();
        let single = bytes.iter().fold(!0, |crc, byte| crc32c(crc, &[*byte]));
        for cut in 0..bytes.len() {
            assert_eq!(
                crc32c(crc32c(!0, &bytes[..cut]), &bytes[cut..]),
                single,
                "{cut}"
            );
        }
    }
}
