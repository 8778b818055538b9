//! Binary packages: `.deb` files (deb(5)), read from the front to the end.
//!
//! Knows the members and how they are packed, and bounds what they unpack to; does not know what lies in the data, nor
//! whether the bytes are the right ones: who reads a package compares its hash.

use std::io::{self, BufReader, Read};

use super::control::{Stanza, StanzaWriter};
use super::relation::is_name;
use super::version::Version;
use impasto_store::sha256::Sha256;

/// Largest `control` file, in bytes.
const CONTROL_LIMIT: u64 = 1 << 20;
/// Largest control archive, unpacked; maintainer scripts and lists of files lie beside `control`.
const CONTROL_TAR_LIMIT: u64 = 64 << 20;
/// Largest data archive, unpacked.
const DATA_LIMIT: u64 = 32 << 30;
/// Memory that a decompressor may take: xz's level 9 needs 65 MiB, zstd's level 22 128 MiB.
const MEMORY_LIMIT: u64 = 256 << 20;
/// log2 of the largest window of zstd, in bytes.
const WINDOW_LOG: u32 = 27;

/// A package that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// Its bytes cannot be read, or end early.
    #[error("the package cannot be read")]
    Read { source: io::Error },
    /// It is none.
    #[error("this is not a Debian package: {problem}")]
    Form { problem: &'static str },
    /// Its format is of another version.
    #[error("the package has the format {format:?}, but only 2.x is supported")]
    Format { format: String },
    /// A member that must not stand where it stands.
    #[error("the package has {found:?} instead of {expected}")]
    Member {
        found: String,
        expected: &'static str,
    },
    /// Its control archive cannot be unpacked.
    #[error("the package's {member} cannot be unpacked")]
    Unpack { member: String, source: io::Error },
    /// Its control file does not say what it must.
    #[error("the package's control file {problem}")]
    Control { problem: &'static str },
}

fn form(problem: &'static str) -> PackageError {
    PackageError::Form { problem }
}

/// A package that was read up to its data.
#[derive(Debug)]
pub struct Package<R> {
    control: String,
    packing: Packing,
    data: ArMember<R>,
}

impl<R: Read> Package<R> {
    /// Reads up to the data.
    ///
    /// # Errors
    /// It cannot be read, or is not a package of this format.
    pub fn read(mut reader: R) -> Result<Package<R>, PackageError> {
        let mut magic = [0; 8];
        read_exact(&mut reader, &mut magic)?;
        if &magic != b"!<arch>\n" {
            return Err(form("it is not an ar archive"));
        }
        let header = ArHeader::read(&mut reader)?;
        if header.name != "debian-binary" {
            return Err(PackageError::Member {
                found: header.name,
                expected: "debian-binary",
            });
        }
        let mut text = Vec::new();
        let mut member = ArMember::new(reader, header.size);
        (&mut member)
            .take(64)
            .read_to_end(&mut text)
            .map_err(|source| PackageError::Read { source })?;
        let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let minor = line
            .strip_prefix(b"2.")
            .filter(|minor| !minor.is_empty() && minor.iter().all(u8::is_ascii_digit));
        if minor.is_none() {
            return Err(PackageError::Format {
                format: String::from_utf8_lossy(line).into_owned(),
            });
        }
        let (header, packing, member) = next(member, "control.tar")?;
        let reader = member.reader;
        let member = ArMember::new(reader, header.size);
        let (control, member) = control(member, packing, &header.name)?;
        let (header, packing, member) = next(member, "data.tar")?;
        Ok(Package {
            control,
            packing,
            data: ArMember::new(member.reader, header.size),
        })
    }

    /// Its control file. It is one stanza, with a name, a version and an architecture.
    pub fn control(&self) -> &str {
        &self.control
    }

    /// The fields of its control file.
    pub fn stanza(&self) -> Stanza<'_> {
        Stanza::only(self.control.as_bytes()).expect("BUG: checked when it was read")
    }

    /// A field that every package has: `Package`, `Version` or `Architecture`.
    pub fn field(&self, name: &str) -> &str {
        self.stanza().get(name).unwrap_or_default()
    }

    /// The stanza of an index for it: its control file, where it lies, its size in bytes and its SHA-256.
    pub fn index_stanza(&self, filename: &str, size: u64, sha256: Sha256) -> Vec<u8> {
        let mut writer = StanzaWriter::new();
        writer.fields_of(
            &self.stanza(),
            &["Filename", "Size", "SHA256", "MD5sum", "SHA1", "Status"],
        );
        writer
            .field("Filename", filename)
            .field("Size", size.to_string())
            .field("SHA256", sha256.to_string());
        writer.finish()
    }

    /// The data: an archive of tar, unpacked as it is read. It is whole where it ends without an error.
    ///
    /// # Errors
    /// The decompressor cannot begin.
    pub fn data(self) -> io::Result<DebData<R>> {
        DebData::new(self.data, self.packing, DATA_LIMIT)
    }
}

/// How a member is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    None,
    Gzip,
    Xz,
    Zstd,
}

impl Packing {
    fn of(suffix: &str) -> Option<Packing> {
        Some(match suffix {
            "" => Packing::None,
            ".gz" => Packing::Gzip,
            ".xz" => Packing::Xz,
            ".zst" => Packing::Zstd,
            _ => return None,
        })
    }
}

/// What stands before each member.
struct ArHeader {
    name: String,
    size: u64,
}

impl ArHeader {
    // ar(5): name 16, time 12, owner 6, group 6, mode 8, size 10, end 2.
    const LEN: usize = 60;

    fn read(reader: &mut impl Read) -> Result<ArHeader, PackageError> {
        let mut bytes = [0; Self::LEN];
        read_exact(reader, &mut bytes)?;
        if &bytes[58..] != b"`\n" {
            return Err(form("a member has no header"));
        }
        let text = |bytes: &[u8]| std::str::from_utf8(bytes.trim_ascii_end()).map(str::to_owned);
        let name = text(&bytes[..16]).map_err(|_| form("a member's name is not text"))?;
        let size = text(&bytes[48..58])
            .ok()
            .filter(|size| size.bytes().all(|byte| byte.is_ascii_digit()));
        let size = size
            .and_then(|size| size.parse().ok())
            .ok_or_else(|| form("a member's size is not a number"))?;
        Ok(ArHeader {
            name: name.strip_suffix('/').unwrap_or(&name).to_owned(),
            size,
        })
    }
}

fn read_exact(reader: &mut impl Read, buffer: &mut [u8]) -> Result<(), PackageError> {
    reader
        .read_exact(buffer)
        .map_err(|source| PackageError::Read { source })
}

/// Reads on to the header of the member that must come next, and gives back the bytes behind it.
fn next<R: Read>(
    mut member: ArMember<R>,
    expected: &'static str,
) -> Result<(ArHeader, Packing, ArMember<R>), PackageError> {
    loop {
        member
            .skip()
            .map_err(|source| PackageError::Read { source })?;
        let header = ArHeader::read(&mut member.reader)?;
        if let Some(packing) = header.name.strip_prefix(expected).and_then(Packing::of) {
            return Ok((header, packing, member));
        }
        // deb(5): what may be passed over begins with an underscore.
        if !header.name.starts_with('_') {
            return Err(PackageError::Member {
                found: header.name,
                expected,
            });
        }
        member = ArMember::new(member.reader, header.size);
    }
}

/// The text of the file `control` in a member, and what is left of the member.
fn control<R: Read>(
    member: ArMember<R>,
    packing: Packing,
    name: &str,
) -> Result<(String, ArMember<R>), PackageError> {
    let unpack = |source| PackageError::Unpack {
        member: name.to_owned(),
        source,
    };
    let bad = |problem| PackageError::Control { problem };
    let data = DebData::new(member, packing, CONTROL_TAR_LIMIT).map_err(unpack)?;
    let mut archive = tar::Archive::new(data);
    let mut text = None;
    for entry in archive.entries().map_err(unpack)? {
        let mut entry = entry.map_err(unpack)?;
        let path = entry.path_bytes();
        let is_control = matches!(path.as_ref(), b"control" | b"./control");
        if !is_control || !entry.header().entry_type().is_file() {
            continue;
        }
        if text.is_some() {
            return Err(bad("appears twice"));
        }
        if entry.size() > CONTROL_LIMIT {
            return Err(bad("is too large"));
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(unpack)?;
        text = Some(String::from_utf8(bytes).map_err(|_| bad("is not text"))?);
    }
    let mut data = archive.into_inner();
    io::copy(&mut data, &mut io::sink()).map_err(unpack)?;
    let text = text.ok_or_else(|| bad("is missing"))?;
    let stanza = Stanza::only(text.as_bytes()).ok_or_else(|| bad("is not a single stanza"))?;
    let [package, version, architecture] = stanza.get_all(["Package", "Version", "Architecture"]);
    if !package.is_some_and(is_name) {
        return Err(bad("has no package name"));
    }
    if version.is_none_or(|version| Version::parse(version).is_err()) {
        return Err(bad("has no version"));
    }
    if !architecture.is_some_and(is_name) {
        return Err(bad("has no architecture"));
    }
    Ok((text, data.into_member()))
}

/// The bytes of a member, and its padding. That they end early is an error.
#[derive(Debug)]
struct ArMember<R> {
    reader: R,
    left: u64,
    padded: bool,
}

impl<R: Read> ArMember<R> {
    fn new(reader: R, size: u64) -> Self {
        ArMember {
            reader,
            left: size,
            padded: !size.is_multiple_of(2),
        }
    }

    fn skip(&mut self) -> io::Result<()> {
        io::copy(self, &mut io::sink())?;
        if std::mem::take(&mut self.padded) {
            self.reader.read_exact(&mut [0])?;
        }
        Ok(())
    }
}

impl<R: Read> Read for ArMember<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let count = self.reader.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it ends early",
            ));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// A member's content, unpacked as it is read.
pub struct DebData<R: Read> {
    decoder: Decoder<R>,
    left: u64,
}

enum Decoder<R: Read> {
    None(ArMember<R>),
    Gzip(flate2::read::MultiGzDecoder<ArMember<R>>),
    Xz(liblzma::read::XzDecoder<ArMember<R>>),
    Zstd(zstd::Decoder<'static, BufReader<ArMember<R>>>),
}

impl<R: Read> DebData<R> {
    fn new(member: ArMember<R>, packing: Packing, limit: u64) -> io::Result<DebData<R>> {
        let decoder = match packing {
            Packing::None => Decoder::None(member),
            Packing::Gzip => Decoder::Gzip(flate2::read::MultiGzDecoder::new(member)),
            Packing::Xz => {
                let stream = liblzma::stream::Stream::new_stream_decoder(
                    MEMORY_LIMIT,
                    liblzma::stream::CONCATENATED,
                )?;
                Decoder::Xz(liblzma::read::XzDecoder::new_stream(member, stream))
            }
            Packing::Zstd => {
                let mut decoder = zstd::Decoder::new(member)?;
                decoder.window_log_max(WINDOW_LOG)?;
                Decoder::Zstd(decoder)
            }
        };
        Ok(DebData {
            decoder,
            left: limit,
        })
    }

    /// The member, of which the decompressor may have taken more than it gave.
    fn into_member(self) -> ArMember<R> {
        match self.decoder {
            Decoder::None(member) => member,
            Decoder::Gzip(decoder) => decoder.into_inner(),
            Decoder::Xz(decoder) => decoder.into_inner(),
            Decoder::Zstd(decoder) => decoder.finish().into_inner(),
        }
    }
}

impl<R: Read> Read for DebData<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match &mut self.decoder {
            Decoder::None(reader) => reader.read(buffer),
            Decoder::Gzip(reader) => reader.read(buffer),
            Decoder::Xz(reader) => reader.read(buffer),
            Decoder::Zstd(reader) => reader.read(buffer),
        }?;
        let error = || {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "it unpacks to more than the limit for packages",
            )
        };
        self.left = self.left.checked_sub(count as u64).ok_or_else(error)?;
        Ok(count)
    }
}

impl<R: Read> std::fmt::Debug for DebData<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Data")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests;
