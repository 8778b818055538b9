//! Pictures of a machine's screen: QEMU's PPM made into PNG.
//! Knows the two formats, not what is on the screen.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::ZlibEncoder;

/// The most bytes of a picture that are read: QEMU's card has 16 MiB of memory.
pub(super) const MAX_PICTURE: u64 = 128 << 20;

/// A PNG of a PPM of three bytes a pixel (P6).
pub(super) fn png(ppm: &[u8]) -> io::Result<Vec<u8>> {
    let (width, height, pixels) = parse(ppm)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is not a picture"))?;
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut head = Vec::with_capacity(13);
    head.extend(width.to_be_bytes());
    head.extend(height.to_be_bytes());
    // Eight bits a colour, RGB, the only compression, the only filters, not interlaced.
    head.extend([8, 2, 0, 0, 0]);
    chunk(&mut png, b"IHDR", &head);
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::default());
    for row in pixels.chunks_exact(width as usize * 3) {
        // No filter.
        packed.write_all(&[0])?;
        packed.write_all(row)?;
    }
    chunk(&mut png, b"IDAT", &packed.finish()?);
    chunk(&mut png, b"IEND", &[]);
    Ok(png)
}

fn chunk(png: &mut Vec<u8>, kind: &[u8; 4], data: &[u8]) {
    png.extend((data.len() as u32).to_be_bytes());
    let mut sum = flate2::Crc::new();
    sum.update(kind);
    sum.update(data);
    png.extend_from_slice(kind);
    png.extend_from_slice(data);
    png.extend(sum.sum().to_be_bytes());
}

/// Width, height and pixels.
fn parse(ppm: &[u8]) -> Option<(u32, u32, &[u8])> {
    let mut rest = ppm.strip_prefix(b"P6")?;
    let mut numbers = [0u32; 3];
    for number in &mut numbers {
        rest = rest.trim_ascii_start();
        let end = rest.iter().position(|byte| !byte.is_ascii_digit())?;
        *number = std::str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
        rest = &rest[end..];
    }
    let [width, height, most] = numbers;
    let bytes = u64::from(width) * u64::from(height) * 3;
    let pixels = rest.get(1..)?;
    (most == 255 && bytes > 0 && bytes == pixels.len() as u64).then_some((width, height, pixels))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_becomes_a_png_of_the_same_size() {
        let mut ppm = b"P6\n3 2\n255\n".to_vec();
        ppm.extend(0..18);
        let png = png(&ppm).unwrap();
        assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n");
        assert_eq!(&png[16..24], [0, 0, 0, 3, 0, 0, 0, 2]);
        // The sum of IEND is the same in every PNG.
        assert_eq!(&png[png.len() - 8..], b"IEND\xae\x42\x60\x82");
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        for wrong in [
            &b""[..],
            b"P6\n3 2\n255\n123",
            b"P5\n1 1\n255\nabc",
            b"P6\n0 0\n255\n",
        ] {
            png(wrong).unwrap_err();
        }
    }
}
