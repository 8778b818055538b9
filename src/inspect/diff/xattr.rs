//! Extended attributes as people read them: capabilities and ACLs by name, texts as texts, the rest in hexadecimal.
//!
//! Knows the values of a few names as they lie on the disk; decides nothing.

use super::plain;

/// `CAP_*` by number (`include/uapi/linux/capability.h`), without the prefix.
const CAPABILITIES: [&str; 41] = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];

/// Bytes of a value that are shown in hexadecimal.
const SHOWN: usize = 32;

pub(super) fn value(name: &[u8], value: &[u8]) -> String {
    let known = match name {
        b"security.capability" => capability(value),
        b"system.posix_acl_access" | b"system.posix_acl_default" => acl(value),
        _ => None,
    };
    known.or_else(|| text(value)).unwrap_or_else(|| hex(value))
}

fn word(value: &[u8], at: usize) -> Option<u32> {
    value
        .get(at..at + 4)?
        .try_into()
        .ok()
        .map(u32::from_le_bytes)
}

fn half(value: &[u8], at: usize) -> Option<u16> {
    value
        .get(at..at + 2)?
        .try_into()
        .ok()
        .map(u16::from_le_bytes)
}

/// `struct vfs_cap_data`, as `getcap` writes it: `cap_net_raw=ep`; more than one set of flags is written one by one.
fn capability(value: &[u8]) -> Option<String> {
    const EFFECTIVE: u32 = 1;
    let magic = word(value, 0)?;
    let (words, length) = match magic >> 24 {
        1 => (1, 12),
        2 => (2, 20),
        3 => (2, 24),
        _ => return None,
    };
    if value.len() != length {
        return None;
    }
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for bit in 0..words * 32 {
        let at = 4 + bit / 32 * 8;
        let has = |at: usize| word(value, at).is_some_and(|set| set >> (bit % 32) & 1 == 1);
        let mut flags = String::new();
        if magic & EFFECTIVE != 0 && (has(at) || has(at + 4)) {
            flags.push('e');
        }
        flags.extend(has(at + 4).then_some('i'));
        flags.extend(has(at).then_some('p'));
        if flags.is_empty() {
            continue;
        }
        let name = CAPABILITIES
            .get(bit)
            .map_or_else(|| format!("{bit}"), |name| format!("cap_{name}"));
        match groups.iter_mut().find(|(other, _)| *other == flags) {
            Some((_, names)) => names.push(name),
            None => groups.push((flags, vec![name])),
        }
    }
    let mut shown: Vec<_> = groups
        .iter()
        .map(|(flags, names)| format!("{}={flags}", names.join(",")))
        .collect();
    if shown.is_empty() {
        shown.push("none".to_owned());
    }
    if let Some(root) = word(value, 20).filter(|_| magic >> 24 == 3) {
        shown.push(format!("[rootid={root}]"));
    }
    Some(shown.join(" "))
}

/// An ACL as `setfacl` reads it, owners by number. On the disk (version 1) an entry without an id is short; the kernel's
/// own form (version 2) has one everywhere.
fn acl(value: &[u8]) -> Option<String> {
    let version = word(value, 0)?;
    let mut at = 4;
    let mut shown = Vec::new();
    while at < value.len() {
        let (tag, bits) = (half(value, at)?, half(value, at + 2)?);
        let (who, has_id) = match tag {
            0x1 => ("user", false),
            0x2 => ("user", true),
            0x4 => ("group", false),
            0x8 => ("group", true),
            0x10 => ("mask", false),
            0x20 => ("other", false),
            _ => return None,
        };
        let id = if has_id {
            word(value, at + 4)?.to_string()
        } else {
            String::new()
        };
        at += if has_id || version == 2 { 8 } else { 4 };
        let letter = |bit, letter| if bits & bit != 0 { letter } else { '-' };
        shown.push(format!(
            "{who}:{id}:{}{}{}",
            letter(4, 'r'),
            letter(2, 'w'),
            letter(1, 'x')
        ));
    }
    matches!(version, 1 | 2).then(|| shown.join(","))
}

/// A short text; a NUL at its end, as SELinux writes one, does not show.
fn text(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value.strip_suffix(b"\0").unwrap_or(value)).ok()?;
    (text.len() <= 200 && !text.chars().any(char::is_control))
        .then(|| format!("\"{}\"", plain::name(text.as_bytes())))
}

fn hex(value: &[u8]) -> String {
    let digits: String = value
        .iter()
        .take(SHOWN)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    match value.len().saturating_sub(SHOWN) {
        0 => format!("0x{digits}"),
        more => format!("0x{digits}… ({more} more bytes)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn capabilities_are_written_as_getcap_writes_them() {
        let show = |words: &[u32]| value(b"security.capability", &bytes(words));
        assert_eq!(show(&[0x0200_0001, 1 << 13, 0, 0, 0]), "cap_net_raw=ep");
        assert_eq!(
            show(&[0x0200_0000, 1 << 10 | 1 << 12, 1 << 10, 1 << 7, 0]),
            "cap_net_bind_service=ip cap_net_admin,cap_bpf=p"
        );
        assert_eq!(
            show(&[0x0300_0001, 1 << 13, 0, 1 << 31, 0, 1000]),
            "cap_net_raw,63=ep [rootid=1000]"
        );
        assert_eq!(show(&[0x0900_0001, 1]), "0x0100000901000000");
    }

    #[test]
    fn acls_are_written_as_setfacl_reads_them() {
        let entry = |tag: u16, bits: u16| [tag.to_le_bytes(), bits.to_le_bytes()].concat();
        let acl = [
            bytes(&[1]),
            entry(1, 6),
            entry(2, 7),
            bytes(&[1000]),
            entry(4, 4),
            entry(16, 7),
            entry(32, 0),
        ]
        .concat();
        let shown = value(b"system.posix_acl_access", &acl);
        assert_eq!(
            shown,
            "user::rw-,user:1000:rwx,group::r--,mask::rwx,other::---"
        );
        assert_eq!(
            value(b"system.posix_acl_access", &acl[..acl.len() - 1]).get(..2),
            Some("0x")
        );
    }

    #[test]
    fn other_values_are_texts_or_numbers() {
        assert_eq!(value(b"user.note", b"a \xc3\xb6"), "\"a ö\"");
        assert_eq!(value(b"user.note", b"\x1b"), "0x1b");
        assert_eq!(
            value(b"user.note", &[255; 40]),
            format!("0x{}… (8 more bytes)", "ff".repeat(32))
        );
    }
}
