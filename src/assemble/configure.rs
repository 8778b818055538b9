//! Makes a tree a machine's root: mounts, names, network, growing, host keys; and takes out what belongs to no image.
//! Knows Debian's and systemd's files; knows no bytes of the disk.

use std::fmt::Write;

use impasto_stages::disk::{DiskSpec, DiskTable, ExtraFileSystem, Networking, PartitionSpec, Role};

use super::error::AssembleError;
use super::partitions::{LINUX_DATA, PlannedPartition};
use super::tree::{RootTree, TreeAccess};

const PUBLIC: TreeAccess = TreeAccess::root(0o644);

/// Where systemd looks for units, in the order of the links that it would make.
const UNIT_DIRS: &[&str] = &[
    "/etc/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// Configures the tree for the disk that `spec` describes and `parts` lay out.
pub(super) fn configure(
    tree: &RootTree,
    spec: &DiskSpec,
    parts: &[PlannedPartition],
    log: &mut dyn FnMut(&str),
) -> Result<(), AssembleError> {
    clean(tree)?;
    mounts(tree, spec, parts)?;
    names(tree, &spec.host_name)?;
    if spec.networking == Networking::Dhcp {
        network(tree, log)?;
    }
    // Without partitions the file system grows, by `x-systemd.growfs`, and there is nothing else to grow.
    if spec.growpart && spec.table == DiskTable::Gpt {
        grow(tree, spec)?;
    }
    host_keys(tree)
}

/// What a running machine makes for itself, or what some other machine left.
fn clean(tree: &RootTree) -> Result<(), AssembleError> {
    for name in tree.list("/etc/ssh")? {
        if name.starts_with("ssh_host_") && (name.ends_with("_key") || name.ends_with("_key.pub")) {
            tree.remove(&format!("/etc/ssh/{name}"))?;
        }
    }
    // Empty, not absent: then systemd makes one at boot, and does not take it for the first boot of a fresh system,
    // which would reset what is enabled (machine-id(5)).
    tree.write("/etc/machine-id", "", TreeAccess::root(0o444))?;
    if tree.is_plain_file("/var/lib/dbus/machine-id")? {
        tree.remove("/var/lib/dbus/machine-id")?;
    }
    if tree.is_plain_file("/etc/resolv.conf")? {
        tree.remove("/etc/resolv.conf")?;
    }
    tree.remove("/var/lib/systemd/random-seed")
}

fn mounts(
    tree: &RootTree,
    spec: &DiskSpec,
    parts: &[PlannedPartition],
) -> Result<(), AssembleError> {
    let mut fstab = "# <file system> <mount point> <type> <options> <dump> <pass>\n".to_owned();
    let mut line = |what: &str, place: &str, ty: &str, options: &str, pass: u8| {
        writeln!(fstab, "UUID={what} {place} {ty} {options} 0 {pass}")
            .expect("BUG: writing to a String failed");
    };
    for part in parts.iter().rev() {
        let grow = spec.growpart && part.role == spec.growing();
        let grow = if grow { ",x-systemd.growfs" } else { "" };
        match part.role {
            Role::BiosBoot => {}
            Role::Root => {
                line(
                    &part.fs_id(),
                    "/",
                    "ext4",
                    &format!("errors=remount-ro{grow}"),
                    1,
                );
            }
            Role::Efi => {
                tree.make_dir("/boot/efi", TreeAccess::root(0o700))?;
                line(&part.fs_id(), "/boot/efi", "vfat", "umask=0077,nofail", 2);
            }
            Role::Extra(index) => {
                let extra = &spec.partitions[index];
                let fs = match extra.file_system {
                    Some(ExtraFileSystem::Swap) => {
                        line(&part.fs_id(), "none", "swap", "sw", 0);
                        continue;
                    }
                    Some(fs) => fs,
                    None => continue,
                };
                let Some(mount) = &extra.mount else { continue };
                tree.make_dir(mount, TreeAccess::root(0o755))?;
                // Those that are never checked at boot say so (fsck.xfs(8), btrfs-check(8)).
                let pass = match fs {
                    ExtraFileSystem::Xfs | ExtraFileSystem::Btrfs => 0,
                    _ => 2,
                };
                let options = format!("defaults{grow}");
                line(&part.fs_id(), mount, fs.name(), &options, pass);
            }
        }
    }
    tree.write("/etc/fstab", fstab, PUBLIC)
}

fn names(tree: &RootTree, host_name: &str) -> Result<(), AssembleError> {
    tree.write("/etc/hostname", format!("{host_name}\n"), PUBLIC)?;
    let old = tree.read_text("/etc/hosts")?;
    let old = if old.trim().is_empty() {
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    } else {
        &old
    };
    let mut hosts = String::new();
    // Debian's place for the own name is beside `localhost` (Debian reference, 5.1.1).
    for text in old
        .lines()
        .filter(|text| text.split_whitespace().next() != Some("127.0.1.1"))
    {
        hosts += text;
        hosts.push('\n');
        if text.split_whitespace().next() == Some("127.0.0.1") && !hosts.contains("127.0.1.1") {
            hosts += &match host_name.split_once('.') {
                Some((short, _)) => format!("127.0.1.1\t{host_name} {short}\n"),
                None => format!("127.0.1.1\t{host_name}\n"),
            };
        }
    }
    tree.write("/etc/hosts", hosts, PUBLIC)
}

fn network(tree: &RootTree, log: &mut dyn FnMut(&str)) -> Result<(), AssembleError> {
    let missing = || {
        AssembleError::missing(
            "systemd-networkd, which gets the image its address",
            "systemd-sysv",
        )
    };
    if !tree.is_file("/usr/lib/systemd/systemd-networkd")? {
        return Err(missing());
    }
    const DHCP: &str = "[Match]\nType=ether\n# Not the virtual ones that containers and bridges make.\nKind=!*\n\n\
                        [Network]\nDHCP=yes\n";
    tree.write("/etc/systemd/network/80-dhcp.network", DHCP, PUBLIC)?;
    if !enable(tree, "systemd-networkd.service")? {
        return Err(missing());
    }
    if tree.is_file("/usr/lib/systemd/systemd-resolved")?
        && enable(tree, "systemd-resolved.service")?
    {
        tree.link(
            "/etc/resolv.conf",
            "../run/systemd/resolve/stub-resolv.conf",
        )?;
    } else {
        log(
            "the tree has no systemd-resolved: the image has no name server until something writes /etc/resolv.conf",
        );
    }
    Ok(())
}

/// The partition grows before the file system does; the latter is `x-systemd.growfs` in fstab(5).
fn grow(tree: &RootTree, spec: &DiskSpec) -> Result<(), AssembleError> {
    let (name, mount, variable) = match spec.growing() {
        Role::Extra(index) => {
            let extra = &spec.partitions[index];
            let mount = extra.mount.as_deref();
            let mount = mount.expect("BUG: a partition that grows is mounted");
            (extra.name.as_str(), mount, "device")
        }
        _ => ("root", "/", "root"),
    };
    // Needs no data source, unlike cloud-init, which does nothing on a machine without one.
    if tree
        .first_file(&["/usr/bin/systemd-repart", "/bin/systemd-repart"])?
        .is_some()
    {
        return repart(tree, spec);
    }
    if !tree.is_file("/usr/bin/growpart")? {
        return Err(AssembleError::missing(
            "program that grows a partition at boot",
            "systemd-repart or cloud-guest-utils, or set `growpart = false`, or add it",
        ));
    }
    let script = format!(
        "#!/bin/sh\n# Grows the last partition to its disk's end; says nothing where there is no room.\n\
        {variable}=$(findmnt -no SOURCE {mount}) || exit 0\n\
        name=${{{variable}##*/}}\n\
        number=$(cat \"/sys/class/block/$name/partition\") || exit 0\n\
        disk=$(basename \"$(readlink -f \"/sys/class/block/$name/..\")\")\n\
        growpart \"/dev/$disk\" \"$number\"\n\
        # 1 means that there was nothing to grow.\n\
        [ $? -le 1 ]\n"
    );
    // Both names of the root's unit: until systemd 254 it was one of fstab's generator.
    let before = match mount {
        "/" => "systemd-growfs-root.service systemd-growfs@-.service".to_owned(),
        mount => format!("systemd-growfs@{}.service", unit_name(mount)),
    };
    let unit = format!(
        "[Unit]\nDescription=Grow the {name} partition to its disk\nDefaultDependencies=no\n\
        After=systemd-remount-fs.service\nBefore={before}\n\
        RequiresMountsFor={mount}\n\n\
        [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/lib/impasto/grow-{name}\n\n\
        [Install]\nWantedBy=sysinit.target\n"
    );
    let program = format!("/usr/lib/impasto/grow-{name}");
    tree.write(&program, script, TreeAccess::root(0o755))?;
    let service = format!("impasto-grow-{name}.service");
    tree.write(&format!("/etc/systemd/system/{service}"), unit, PUBLIC)?;
    enable(tree, &service).map(drop)
}

/// What systemd-repart needs to know: it takes the first partition of a type that no earlier file took (repart.d(5)), so
/// each of the type before the one that grows has its file.
fn repart(tree: &RootTree, spec: &DiskSpec) -> Result<(), AssembleError> {
    let Role::Extra(growing) = spec.growing() else {
        let content = "[Partition]\nType=root\n";
        return tree.write("/etc/repart.d/50-root.conf", content, PUBLIC);
    };
    let swap = Some(ExtraFileSystem::Swap);
    let data = |one: &&PartitionSpec| one.file_system != swap;
    let before = spec.partitions[..=growing].iter().filter(data);
    for (index, partition) in before.enumerate() {
        let path = format!("/etc/repart.d/50-data-{index:03}-{}.conf", partition.name);
        tree.write(&path, format!("[Partition]\nType={LINUX_DATA}\n"), PUBLIC)?;
    }
    Ok(())
}

/// A path as units' names have it (systemd.unit(5)).
fn unit_name(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || ":_.".contains(c);
    let path = path.trim_matches('/');
    let mut name = String::new();
    for (index, c) in path.char_indices() {
        match c {
            '/' => name.push('-'),
            c if plain(c) && !(index == 0 && c == '.') => name.push(c),
            c => {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    write!(name, "\\x{byte:02x}").expect("BUG: writing to a String failed");
                }
            }
        }
    }
    name
}

/// Host keys are never in a tree: two machines of one image would have the same.
fn host_keys(tree: &RootTree) -> Result<(), AssembleError> {
    if !tree.is_file("/usr/sbin/sshd")? {
        return Ok(());
    }
    const UNIT: &str = "[Unit]\nDescription=Make the SSH host keys of this machine\n\
        Before=ssh.service ssh.socket sshd.service\nConditionPathExistsGlob=!/etc/ssh/ssh_host_*_key\n\n\
        [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/bin/ssh-keygen -A\n\n\
        [Install]\nWantedBy=multi-user.target\n";
    tree.write(
        "/etc/systemd/system/impasto-ssh-keygen.service",
        UNIT,
        PUBLIC,
    )?;
    enable(tree, "impasto-ssh-keygen.service").map(drop)
}

/// Makes the links that `systemctl enable` makes of a unit's `[Install]` section. Whether there is such a unit.
fn enable(tree: &RootTree, unit: &str) -> Result<bool, AssembleError> {
    let mut left = vec![unit.to_owned()];
    let mut done: Vec<String> = Vec::new();
    while let Some(name) = left.pop() {
        if done.contains(&name) {
            continue;
        }
        let mut found = None;
        for dir in UNIT_DIRS {
            let path = format!("{dir}/{name}");
            if tree.is_file(&path)? {
                found = Some(path);
                break;
            }
        }
        let Some(path) = found else {
            if name == unit {
                return Ok(false);
            }
            continue;
        };
        for (key, value) in install_section(&tree.read_text(&path)?) {
            let link = match key.as_str() {
                "WantedBy" => format!("/etc/systemd/system/{value}.wants/{name}"),
                "RequiredBy" => format!("/etc/systemd/system/{value}.requires/{name}"),
                "Alias" => format!("/etc/systemd/system/{value}"),
                "Also" => {
                    left.push(value);
                    continue;
                }
                _ => continue,
            };
            // One that is there may name the unit by another path, and is right all the same.
            if tree.stat(&link)?.is_none() {
                tree.link(&link, &path)?;
            }
        }
        done.push(name);
    }
    Ok(true)
}

/// Key and value of every word in a unit's `[Install]` section.
fn install_section(unit: &str) -> Vec<(String, String)> {
    let mut inside = false;
    let mut pairs = Vec::new();
    for line in unit.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line == "[Install]";
        } else if inside && let Some((key, values)) = line.split_once('=') {
            let words = values.split_whitespace().filter(|word| !word.contains('/'));
            pairs.extend(words.map(|word| (key.trim().to_owned(), word.to_owned())));
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_escaped_as_systemd_does() {
        // `systemd-escape --path` gave these.
        for (path, expected) in [
            ("/srv", "srv"),
            ("/var/lib/data", "var-lib-data"),
            ("/srv/a-b", r"srv-a\x2db"),
            ("/.data", r"\x2edata"),
            ("/daten/ü", r"daten-\xc3\xbc"),
        ] {
            assert_eq!(unit_name(path), expected);
        }
    }

    #[test]
    fn a_unit_says_where_it_is_wanted() {
        let unit = "[Unit]\nWantedBy=no\n[Install]\n# comment\nWantedBy=a.target b.target\nAlias=c.service\nAlso=../evil\n";
        let pairs = install_section(unit);
        let shown: Vec<_> = pairs
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            shown,
            [
                ("WantedBy", "a.target"),
                ("WantedBy", "b.target"),
                ("Alias", "c.service")
            ]
        );
    }
}
