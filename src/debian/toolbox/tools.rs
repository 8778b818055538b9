//! Which programs the toolbox has: names of Debian packages, of one release.
//! Knows names only; the lock says which versions, and `closure` what they need beside themselves.

/// The release that the toolbox's packages come from.
pub const SUITE: &str = "bookworm";

/// The toolbox's packages. No maintainer script of theirs runs, so only what works as it is unpacked can be used.
pub const TOOLS: &[&str] = &[
    // Solve, unpack and configure.
    "apt",
    "dpkg",
    // What dpkg demands of its environment, and what our own steps use.
    "coreutils",
    "dash",
    "diffutils",
    "findutils",
    "grep",
    "gzip",
    "libc-bin",
    "mawk",
    "sed",
    "tar",
    "xz-utils",
    "zstd",
    // File systems.
    "dosfstools",
    "e2fsprogs",
    "mtools",
];

/// The package that runs programs of other machines; a part of the toolbox only where one is built for.
pub const EMULATOR: &str = "qemu-user-static";

/// The package that makes file systems of a type beyond those of [`TOOLS`]; a part of the toolbox only where one is made.
pub fn makes(file_system: &str) -> Option<&'static str> {
    match file_system {
        "xfs" => Some("xfsprogs"),
        "btrfs" => Some("btrfs-progs"),
        _ => None,
    }
}
