//! Adds users to the tree's databases, with homes, keys and sudo.
//! Knows passwd(5), shadow(5), group(5), gshadow(5), subuid(5); that names and keys are well-formed is known before.

use std::collections::BTreeMap;
use std::fmt::Write;

use impasto_stages::disk::UserSpec;

use super::error::AssembleError;
use super::tree::{RootTree, TreeAccess};

/// Debian's first number for people, and the last (Debian policy, 9.2.2).
const FIRST_ID: u32 = 1000;
const LAST_ID: u32 = 59_999;

/// Adds `users`; `root` is there, and gets its keys and password.
pub(super) fn add(
    tree: &RootTree,
    users: &BTreeMap<String, UserSpec>,
) -> Result<(), AssembleError> {
    if users.is_empty() {
        return Ok(());
    }
    let mut passwd = UserTable::read(tree, "/etc/passwd")?;
    let mut group = UserTable::read(tree, "/etc/group")?;
    let mut shadow = UserTable::read(tree, "/etc/shadow")?;
    let mut gshadow = UserTable::read(tree, "/etc/gshadow")?;
    check(tree, users, &passwd, &group)?;
    let days = (tree.epoch() / 86_400).to_string();
    let mut sudoers = String::new();
    let mut homes = Vec::new();
    // Given numbers first, so that a free one is not one that another user asks for.
    let taken: Vec<u32> = users.values().filter_map(|user| user.uid).collect();
    for (name, user) in users {
        let password = user.password_hash.as_deref().unwrap_or("!");
        if name == "root" {
            if user.password_hash.is_some() && !shadow.set("root", 1, password) {
                shadow.push(&["root", password, &days, "0", "99999", "7", "", "", ""]);
            }
            homes.push((name, "/root".to_owned(), 0, 0));
            continue;
        }
        let free = |id: u32| {
            passwd.by_id(id).is_none() && group.by_id(id).is_none() && !taken.contains(&id)
        };
        let uid = user
            .uid
            .or_else(|| (FIRST_ID..=LAST_ID).find(|id| free(*id)));
        let uid = uid.ok_or_else(|| bad("/etc/passwd", "no ID is free"))?;
        // The group has the user's number where it can.
        let free = |id: u32| group.by_id(id).is_none() && (id == uid || !taken.contains(&id));
        let gid = [uid]
            .into_iter()
            .chain(FIRST_ID..=LAST_ID)
            .find(|id| free(*id));
        let gid = gid.ok_or_else(|| bad("/etc/group", "no ID is free"))?;
        let home = format!("/home/{name}");
        passwd.push(&[
            name,
            "x",
            &uid.to_string(),
            &gid.to_string(),
            "",
            &home,
            &user.shell,
        ]);
        group.push(&[name, "x", &gid.to_string(), ""]);
        shadow.push(&[name, password, &days, "0", "99999", "7", "", "", ""]);
        gshadow.push(&[name, "!", "", ""]);
        for other in &user.groups {
            group.add_member(other, name);
            gshadow.add_member(other, name);
        }
        if user.sudo {
            writeln!(sudoers, "{name} ALL=(ALL:ALL) NOPASSWD: ALL")
                .expect("BUG: writing to a String failed");
        }
        for path in ["/etc/subuid", "/etc/subgid"] {
            add_subordinate(tree, path, name)?;
        }
        homes.push((name, home, uid, gid));
    }
    passwd.write(tree, TreeAccess::root(0o644))?;
    group.write(tree, TreeAccess::root(0o644))?;
    shadow.write(tree, TreeAccess::root(0o600))?;
    gshadow.write(tree, TreeAccess::root(0o600))?;
    for (name, home, uid, gid) in homes {
        let access = |mode| TreeAccess { uid, gid, mode };
        if name != "root" && tree.stat(&home)?.is_none() {
            tree.make_dir(&home, access(0o700))?;
            tree.copy_into("/etc/skel", &home, uid, gid)?;
        }
        let keys = &users[name].ssh_keys;
        if !keys.is_empty() {
            tree.make_dir(&home, access(0o700))?;
            tree.make_dir(&format!("{home}/.ssh"), access(0o700))?;
            let lines: String = keys.iter().map(|key| format!("{key}\n")).collect();
            tree.write(
                &format!("{home}/.ssh/authorized_keys"),
                lines,
                access(0o600),
            )?;
        }
    }
    if !sudoers.is_empty() {
        // One file for all: sudo skips files with a dot in their names.
        tree.write(
            "/etc/sudoers.d/90-impasto",
            sudoers,
            TreeAccess::root(0o440),
        )?;
    }
    Ok(())
}

/// Everything that can be wrong, before anything is written.
fn check(
    tree: &RootTree,
    users: &BTreeMap<String, UserSpec>,
    passwd: &UserTable,
    group: &UserTable,
) -> Result<(), AssembleError> {
    for (name, user) in users.iter().filter(|(name, _)| *name != "root") {
        let name = || name.clone();
        if let Some(fields) = passwd.by_name(&name()) {
            return Err(AssembleError::UserExists {
                name: name(),
                uid: id(fields),
            });
        }
        if let Some(fields) = group.by_name(&name()) {
            return Err(AssembleError::GroupExists {
                name: name(),
                gid: id(fields),
            });
        }
        if let Some((uid, other)) = user.uid.and_then(|uid| Some((uid, passwd.by_id(uid)?))) {
            return Err(AssembleError::UidTaken {
                name: name(),
                uid,
                other: other[0].clone(),
            });
        }
        if let Some(missing) = user
            .groups
            .iter()
            .find(|name| group.by_name(name).is_none())
        {
            return Err(AssembleError::NoGroup {
                name: name(),
                group: missing.clone(),
            });
        }
        if !tree.is_file(&user.shell)? {
            return Err(AssembleError::NoShell {
                name: name(),
                shell: user.shell.clone(),
            });
        }
        if user.sudo && !tree.is_file("/usr/bin/sudo")? {
            return Err(AssembleError::missing(
                format!("sudo, which the user {:?} is to use", name()),
                "sudo",
            ));
        }
    }
    Ok(())
}

fn id(fields: &[String]) -> u32 {
    fields.get(2).and_then(|id| id.parse().ok()).unwrap_or(0)
}

fn bad(path: &str, problem: &str) -> AssembleError {
    AssembleError::BadFile {
        path: path.to_owned(),
        problem: problem.to_owned(),
    }
}

/// The next 65536 numbers, as useradd gives them, where the tree uses such numbers at all.
fn add_subordinate(tree: &RootTree, path: &'static str, name: &str) -> Result<(), AssembleError> {
    if !tree.is_file(path)? {
        return Ok(());
    }
    let mut table = UserTable::read(tree, path)?;
    let end = |fields: &Vec<String>| {
        Some(fields.get(1)?.parse::<u64>().ok()? + fields.get(2)?.parse::<u64>().ok()?)
    };
    let start = table
        .lines
        .iter()
        .filter_map(end)
        .max()
        .unwrap_or(0)
        .max(100_000);
    table.push(&[name, &start.to_string(), "65536"]);
    table.write(tree, TreeAccess::root(0o644))
}

/// A database of lines with fields between colons.
struct UserTable {
    path: &'static str,
    is_there: bool,
    lines: Vec<Vec<String>>,
}

impl UserTable {
    fn read(tree: &RootTree, path: &'static str) -> Result<UserTable, AssembleError> {
        let text = tree.read_text(path)?;
        let lines = text.lines().filter(|line| !line.is_empty());
        let lines = lines
            .map(|line| line.split(':').map(str::to_owned).collect())
            .collect();
        Ok(UserTable {
            path,
            is_there: tree.is_file(path)?,
            lines,
        })
    }

    fn by_name(&self, name: &str) -> Option<&[String]> {
        self.lines
            .iter()
            .find(|fields| fields[0] == name)
            .map(Vec::as_slice)
    }

    fn by_id(&self, wanted: u32) -> Option<&[String]> {
        let has = |fields: &&Vec<String>| fields.get(2).is_some_and(|id| id.parse() == Ok(wanted));
        self.lines.iter().find(has).map(Vec::as_slice)
    }

    fn push(&mut self, fields: &[&str]) {
        self.lines
            .push(fields.iter().map(|field| (*field).to_owned()).collect());
    }

    /// Sets a field of a line; whether there is such a line.
    fn set(&mut self, name: &str, field: usize, value: &str) -> bool {
        let line = self
            .lines
            .iter_mut()
            .find(|fields| fields[0] == name && fields.len() > field);
        line.map(|fields| fields[field] = value.to_owned())
            .is_some()
    }

    fn add_member(&mut self, group: &str, user: &str) {
        if let Some(fields) = self
            .lines
            .iter_mut()
            .find(|fields| fields[0] == group && fields.len() > 3)
        {
            let members = &mut fields[3];
            if !members.split(',').any(|member| member == user) {
                members.push_str(if members.is_empty() { "" } else { "," });
                members.push_str(user);
            }
        }
    }

    /// Writes it back; a database that was not there stays away, but for the first three.
    fn write(&self, tree: &RootTree, access: TreeAccess) -> Result<(), AssembleError> {
        if !self.is_there && self.path == "/etc/gshadow" {
            return Ok(());
        }
        let text: String = self
            .lines
            .iter()
            .map(|fields| fields.join(":") + "\n")
            .collect();
        tree.rewrite(self.path, text, access)
    }
}
