//! `impasto doctor`: what this host can do, and what to install where it cannot.
//! Knows the host's devices and programs that impasto uses.

use std::path::Path;

use clap::Args;

use super::error::CliError;
use super::session::Session;
use super::{exit, hint};
use crate::{sandbox, ui, vm};

#[derive(Debug, Args)]
pub(crate) struct Doctor {}

/// The mirror that packages come from.
fn mirror(session: &Session) -> Result<String, String> {
    let mirrors = session.mirrors(None).map_err(|error| error.to_string())?;
    let mirrors = mirrors.resolve().map_err(|error| error.to_string())?;
    mirrors.archive.map(|mirror| mirror.to_string()).ok_or_else(|| "this host's apt knows none".to_owned())
}

/// One thing that was looked at.
struct Check {
    name: &'static str,
    /// What was found, or what is missing.
    found: Result<String, String>,
    /// The way out.
    help: &'static str,
}

impl Doctor {
    pub(crate) fn run(self, session: &Session) -> Result<u8, CliError> {
        let host = &session.host;
        let present = |path: &str| {
            let there = Path::new(path).exists();
            if there { Ok(path.to_owned()) } else { Err(format!("{path} is not there")) }
        };
        let program = |name: &str| {
            // Stages look there too, whatever the user's own path is.
            let dirs = host.var("PATH").unwrap_or_default().split(':').chain(["/usr/sbin", "/sbin"]).map(Path::new);
            let found = dirs.map(|dir| dir.join(name)).find(|path| path.is_file());
            found.map(|path| path.display().to_string()).ok_or_else(|| format!("{name} is not in the PATH"))
        };
        let checks = [
            Check {
                name: "root",
                found: if host.root { Ok("yes".to_owned()) } else { Err("this user is not root".to_owned()) },
                help: "stages that run programs need root; plan, validate, fetch and convert do not",
            },
            Check {
                name: "disk server",
                found: program("qemu-storage-daemon"),
                help: "apt-get install qemu-system-common qemu-utils",
            },
            Check {
                name: "FUSE",
                found: present("/dev/fuse"),
                help: "modprobe fuse; in a container, pass the device in",
            },
            Check {
                name: "loop devices",
                found: present("/dev/loop-control"),
                help: "modprobe loop; in a container, pass the device in",
            },
            Check { name: "disk tools", found: program("qemu-img"), help: "apt-get install qemu-utils" },
            Check {
                name: "Debian's mirror",
                found: mirror(session),
                help: "name one with --mirror URL or IMPASTO_MIRROR: packages come from there, and the tools that impasto uses",
            },
            Check { name: "machine", found: program(vm::QEMU), help: hint::QEMU_PACKAGES },
            Check {
                name: "UEFI firmware",
                found: present(&format!("{}/OVMF_CODE_4M.fd", vm::OVMF)),
                help: hint::OVMF_PACKAGES,
            },
            Check { name: "limits", found: Ok(sandbox::describe_limits()), help: "" },
            Check {
                name: "sandbox",
                found: Ok("namespaces of this kernel: for recipes and images that you trust; no mounts, devices or \
                           keys for steps, but the kernel is the host's own"
                    .to_owned()),
                help: "",
            },
            Check { name: "kernel", found: Ok(host.kernel.clone()), help: "" },
            Check { name: "CPUs", found: Ok(host.cpus.to_string()), help: "" },
            match session.store() {
                Ok(store) => Check { name: "store", found: Ok(store.path().display().to_string()), help: "" },
                Err(error) => Check { name: "store", found: Err(error.to_string()), help: "name another with --store" },
            },
        ];
        let mut rows = Vec::new();
        let mut missing = 0;
        for check in checks {
            match check.found {
                Ok(found) => rows.push(vec!["ok".to_owned(), check.name.to_owned(), found]),
                Err(problem) => {
                    missing += 1;
                    rows.push(vec!["missing".to_owned(), check.name.to_owned(), problem]);
                    rows.push(vec![String::new(), String::new(), format!("help: {}", check.help)]);
                }
            }
        }
        ui::output(&ui::columns(&rows));
        Ok(if missing == 0 { exit::OK } else { exit::INTERNAL })
    }
}
