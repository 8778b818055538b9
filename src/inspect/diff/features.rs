//! Names of the bits that file systems and files carry: features as e2fsprogs calls them, attributes as `chattr` does.
//!
//! Knows numbers and names, not which of them matter.

type FeatureNames = &'static [(u32, &'static str)];

/// Features that a writer and a reader may ignore (`lib/e2p/feature.c` of e2fsprogs, as the other two).
const COMPAT: FeatureNames = &[
    (0x1, "dir_prealloc"),
    (0x2, "imagic_inodes"),
    (0x4, "has_journal"),
    (0x8, "ext_attr"),
    (0x10, "resize_inode"),
    (0x20, "dir_index"),
    (0x40, "lazy_bg"),
    (0x100, "snapshot_bitmap"),
    (0x200, "sparse_super2"),
    (0x400, "fast_commit"),
    (0x800, "stable_inodes"),
    (0x1000, "orphan_file"),
];
/// Features that nobody may ignore.
const INCOMPAT: FeatureNames = &[
    (0x1, "compression"),
    (0x2, "filetype"),
    (0x4, "needs_recovery"),
    (0x8, "journal_dev"),
    (0x10, "meta_bg"),
    (0x40, "extent"),
    (0x80, "64bit"),
    (0x100, "mmp"),
    (0x200, "flex_bg"),
    (0x400, "ea_inode"),
    (0x1000, "dirdata"),
    (0x2000, "metadata_csum_seed"),
    (0x4000, "large_dir"),
    (0x8000, "inline_data"),
    (0x1_0000, "encrypt"),
    (0x2_0000, "casefold"),
];
/// Features that a reader may ignore.
const RO_COMPAT: FeatureNames = &[
    (0x1, "sparse_super"),
    (0x2, "large_file"),
    (0x8, "huge_file"),
    (0x10, "uninit_bg"),
    (0x20, "dir_nlink"),
    (0x40, "extra_isize"),
    (0x80, "snapshot"),
    (0x100, "quota"),
    (0x200, "bigalloc"),
    (0x400, "metadata_csum"),
    (0x800, "replica"),
    (0x1000, "read-only"),
    (0x2000, "project"),
    (0x4000, "shared_blocks"),
    (0x8000, "verity"),
    (0x1_0000, "orphan_present"),
];
/// Default mount options (`lib/e2p/mntopts.c`); bits 0x20 and 0x40 together are a third mode of the journal.
const MOUNT: FeatureNames = &[
    (0x1, "debug"),
    (0x2, "bsdgroups"),
    (0x4, "user_xattr"),
    (0x8, "acl"),
    (0x10, "uid16"),
    (0x20, "journal_data"),
    (0x40, "journal_data_ordered"),
    (0x100, "nobarrier"),
    (0x200, "block_validity"),
    (0x400, "discard"),
    (0x800, "nodelalloc"),
];
/// `FS_*_FL` of the kernel's `include/uapi/linux/fs.h`.
const ATTRIBUTES: FeatureNames = &[
    (0x1, "secure-deletion"),
    (0x2, "undelete"),
    (0x4, "compressed"),
    (0x8, "synchronous"),
    (0x10, "immutable"),
    (0x20, "append-only"),
    (0x40, "no-dump"),
    (0x80, "no-atime"),
    (0x4000, "journaled"),
    (0x8000, "no-tail-merging"),
    (0x1_0000, "synchronous-directory"),
    (0x2_0000, "top-directory"),
    (0x10_0000, "verity"),
    (0x80_0000, "no-copy-on-write"),
    (0x200_0000, "dax"),
    (0x2000_0000, "project-hierarchy"),
    (0x4000_0000, "casefolded"),
];

/// What kind of name a fact of a volume has, and the names of its bits; none for a fact that is no set of bits.
pub(super) fn of_fact(fact: &str, value: &str) -> Option<(&'static str, Vec<String>)> {
    let (what, names) = match fact {
        "compat" => ("feature", COMPAT),
        "incompat" => ("feature", INCOMPAT),
        "ro-compat" => ("feature", RO_COMPAT),
        "mount-options" => ("default mount option", MOUNT),
        _ => return None,
    };
    let mut bits = u32::from_str_radix(value, 16).ok()?;
    let mut all = Vec::new();
    if fact == "mount-options" && bits & 0x60 == 0x60 {
        all.push("journal_data_writeback".to_owned());
        bits &= !0x60;
    }
    all.extend(named(bits, names));
    Some((what, all))
}

/// The attributes that are set.
pub(super) fn attributes(bits: u32) -> Vec<String> {
    named(bits, ATTRIBUTES)
}

fn named(bits: u32, names: FeatureNames) -> Vec<String> {
    let known = names.iter().fold(0, |all, (bit, _)| all | bit);
    let mut all: Vec<_> = names
        .iter()
        .filter(|(bit, _)| bits & bit != 0)
        .map(|(_, name)| (*name).to_owned())
        .collect();
    if bits & !known != 0 {
        all.push(format!("{:#x}", bits & !known));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_have_their_names_and_unknown_ones_their_numbers() {
        assert_eq!(
            of_fact("compat", "1024").unwrap(),
            (
                "feature",
                vec![
                    "has_journal".to_owned(),
                    "dir_index".to_owned(),
                    "orphan_file".to_owned()
                ]
            )
        );
        assert_eq!(
            of_fact("mount-options", "6c").unwrap().1,
            ["journal_data_writeback", "user_xattr", "acl"]
        );
        assert_eq!(
            of_fact("incompat", "80000002").unwrap().1,
            ["filetype", "0x80000000"]
        );
        assert_eq!(of_fact("blocks", "10"), None);
        assert_eq!(of_fact("compat", "no number"), None);
        assert_eq!(attributes(0x30), ["immutable", "append-only"]);
    }
}
