//! The two checksums of the formats that are written here.
//! Knows polynomials, not what is summed.

/// CRC-32 (ISO-HDLC) of partition tables.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    !update(&ISO, !0, bytes)
}

/// CRC-32C of ext4, continued from `crc`, without the final complement: as the kernel's `crc32c()`.
pub(super) fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    update(&CASTAGNOLI, crc, bytes)
}

const ISO: [u32; 256] = table(0xedb8_8320);
const CASTAGNOLI: [u32; 256] = table(0x82f6_3b78);

fn update(table: &[u32; 256], crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, byte| (crc >> 8) ^ table[usize::from(crc as u8 ^ byte)])
}

const fn table(polynomial: u32) -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (polynomial * (crc & 1));
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_catalogue() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
    }
}
