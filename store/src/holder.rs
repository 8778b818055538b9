//! Which process something belongs to that nobody else may touch while it lives: a lease, a file in the making.
//! Knows processes, process namespaces and boots, not what belongs to them.

use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::stamp::boot_id;

/// What belongs to a process that cannot be looked at (of another boot, machine or container) counts as used for so
/// long after it was last written, in seconds.
pub const FOREIGN_SECS: i64 = 24 * 3600;

/// Hexadecimal digits of the boot's id in a file name.
const BOOT_DIGITS: usize = 12;

/// A process, so that it is not taken for a later one of the same number. Leases hold it: changing the fields is a
/// format break.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub(crate) boot: String,
    /// Process ids mean something in their namespace only, of which one boot has many.
    pub(crate) pid_namespace: u64,
    pub(crate) pid: u32,
    /// When the process started, in ticks since the boot: process ids are used again.
    pub(crate) started: u64,
}

impl Holder {
    pub(crate) fn this() -> Holder {
        let pid = std::process::id();
        Holder {
            boot: boot_id().unwrap_or_default(),
            pid_namespace: pid_namespace(),
            pid,
            started: process_start(pid).unwrap_or(0),
        }
    }

    /// What the names of this process' files in the making begin with.
    pub fn prefix() -> &'static str {
        static PREFIX: OnceLock<String> = OnceLock::new();
        PREFIX.get_or_init(|| {
            let Holder {
                boot,
                pid_namespace,
                pid,
                started,
            } = Holder::this();
            let boot = digits(&boot);
            let boot = boot.get(..BOOT_DIGITS).unwrap_or("unknown");
            format!("{boot}-{pid_namespace:x}-{pid:x}-{started:x}-")
        })
    }

    /// The process that a file name begins with; none where it begins with none.
    pub fn of_name(name: &str) -> Option<Holder> {
        let mut parts = name.split('-');
        let boot = parts.next()?.to_owned();
        let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
        let (pid_namespace, pid, started) = (number()?, number()?, number()?);
        parts.next()?;
        Some(Holder {
            boot,
            pid_namespace,
            pid: pid.try_into().ok()?,
            started,
        })
    }

    /// Whether the process lives; `None` where it cannot be looked at.
    pub fn is_alive(&self) -> Option<bool> {
        let boot = digits(&self.boot);
        let here = boot.len() >= BOOT_DIGITS
            && self.started != 0
            && digits(&boot_id()?).starts_with(&boot)
            && self.pid_namespace == pid_namespace();
        here.then(|| process_start(self.pid) == Some(self.started))
    }
}

fn digits(boot: &str) -> String {
    boot.chars().filter(char::is_ascii_hexdigit).collect()
}

fn pid_namespace() -> u64 {
    std::fs::metadata("/proc/self/ns/pid").map_or(0, |stat| stat.ino())
}

/// When a process started, in ticks since the boot; `None` where there is no such process.
fn process_start(pid: u32) -> Option<u64> {
    // proc(5): the command in parentheses may hold anything; the 22nd field is the 20th after it.
    #[expect(
        clippy::disallowed_methods,
        reason = "a file of the kernel, of one line"
    )]
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after = &stat[stat.rfind(')')? + 1..];
    let mut fields = after.split_ascii_whitespace();
    // A zombie does nothing any more.
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_whose_it_is() {
        let name = format!("{}0123", Holder::prefix());
        assert!(name.len() < 64, "{name}: sockets lie below such names");
        let holder = Holder::of_name(&name).unwrap();
        assert_eq!(holder.is_alive(), Some(true));
        let used_again = Holder {
            started: holder.started + 1,
            ..holder.clone()
        };
        assert_eq!(used_again.is_alive(), Some(false));
        assert_eq!(
            Holder {
                boot: "0123456789ab".to_owned(),
                ..holder.clone()
            }
            .is_alive(),
            None
        );
        assert_eq!(
            Holder {
                boot: String::new(),
                ..holder.clone()
            }
            .is_alive(),
            None
        );
        assert_eq!(
            Holder {
                pid_namespace: 1,
                ..holder
            }
            .is_alive(),
            None
        );
        for other in [
            "",
            "dead",
            "0123456789abcdef0123456789abcdef",
            "a-b-c-d",
            "a-1-2-x-4",
        ] {
            assert_eq!(Holder::of_name(other), None, "{other}");
        }
    }

    #[test]
    fn a_process_that_ended_is_dead() {
        #[expect(clippy::disallowed_methods, reason = "a process that ends")]
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let holder = Holder {
            pid: child.id(),
            started: process_start(child.id()).unwrap(),
            ..Holder::this()
        };
        assert_eq!(holder.is_alive(), Some(true));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(holder.is_alive(), Some(false));
    }
}
