//! A program of the recipe that answers a tested machine, in namespaces of its own: it reaches nothing but who connects to it.
//! Knows bytes, ports and HTTP's first lines; knows no machine and no test.
//!
//! ```text
//! impasto ── outer   dies with impasto; user namespace where it is not root
//!              └─ inner   pid 1 of its pid namespace: hands connections on, tells requests on standard output
//!                   └─ the program   listens on 127.0.0.1 of a network that leads nowhere
//! QEMU ── relay   one for each connection of the guest, between it and a socket in QEMU's directory
//! ```

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change,
    mount_remount, unmount,
};
use rustix::process::{geteuid, getgid, getuid, pivot_root};
use rustix::thread::UnshareFlags;

use super::container::make_devices;
use super::probe::map_root;
use super::supervisor::{SUPERVISOR_ARGUMENT, die_with_parent, isolate};
use crate::base::bounded;
use crate::sandbox::sys;

/// Second argument that makes a supervisor the server's outer process; the port and the program's file follow.
pub const SERVER: &str = "server";
/// That of the process within.
pub(super) const SERVER_INNER: &str = "server-inner";
/// Second argument that makes a supervisor a relay; the socket's name follows.
pub const RELAY: &str = "relay";

/// Where the program is.
const PROGRAM: &str = "/run/server";
/// What of the host it sees, read-only: its interpreter.
const SHOWN: [&str; 7] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc"];
/// The user that it is, where impasto is root.
const NOBODY: u32 = 65534;
/// How long it may take to listen.
const PATIENCE: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(50);
/// The most connections at once.
const MOST: usize = 64;
/// The longest line that may be a request, in bytes.
const MAX_LINE: usize = 2048;

/// The socket of a port, in the machine's directory.
pub fn server_socket(port: u16) -> String {
    format!("serve-{port}")
}

fn argument(arguments: &mut impl Iterator<Item = OsString>) -> io::Result<OsString> {
    arguments
        .next()
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// The outer process, in the machine's directory: makes namespaces, and waits for who lives in them.
pub(super) fn outer(mut arguments: impl Iterator<Item = OsString>) -> io::Result<bool> {
    sys::close_inherited_on_exec()?;
    let mut flags = UnshareFlags::NEWPID | UnshareFlags::NEWNS;
    let ids = (getuid().as_raw(), getgid().as_raw());
    if !geteuid().is_root() {
        flags |= UnshareFlags::NEWUSER;
    }
    sys::unshare(flags)
        .map_err(|error| io::Error::other(format!("cannot create namespaces: {error}")))?;
    if flags.contains(UnshareFlags::NEWUSER) {
        map_root(ids).map_err(io::Error::other)?;
    }
    sys::leave_keyring()?;
    mount_change(
        "/",
        MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
    )?;
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the sandbox, which runs programs"
    )]
    let mut inner = Command::new("/proc/self/exe");
    inner.args([SUPERVISOR_ARGUMENT, SERVER_INNER]);
    inner.args([argument(&mut arguments)?, argument(&mut arguments)?]);
    let mut inner = inner.stdin(Stdio::piped()).spawn()?;
    // Its end would tell the other one that this process has ended; waiting would close it.
    let pipe = inner.stdin.take();
    let status = inner.wait()?;
    drop(pipe);
    Ok(status.success())
}

/// The inner process: starts the program, and hands connections on to it until it ends.
pub(super) fn inner(mut arguments: impl Iterator<Item = OsString>) -> io::Result<bool> {
    die_with_parent(io::stdin())?;
    let port = argument(&mut arguments)?;
    let port: u16 = port
        .to_str()
        .and_then(|port| port.parse().ok())
        .ok_or(io::ErrorKind::InvalidInput)?;
    let program = bounded::read(PathBuf::from(argument(&mut arguments)?), bounded::TEXT)?;
    let listener = UnixListener::bind(server_socket(port))?;
    isolate(false).map_err(|problem| io::Error::other(problem.to_string()))?;
    enter(&PathBuf::from(format!("room-{port}")), &program)?;
    rustix::thread::set_no_new_privs(true)?;
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the sandbox, which runs programs"
    )]
    let mut command = Command::new(PROGRAM);
    command
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
        .env("HOME", "/tmp")
        .env("LANG", "C.UTF-8")
        .env("PORT", port.to_string())
        .current_dir("/tmp")
        .stdin(Stdio::null())
        // Standard output tells requests; what the program writes goes to its log.
        .stdout(Stdio::from(io::stderr().as_fd().try_clone_to_owned()?));
    if getuid().is_root() && !in_user_namespace() {
        command.uid(NOBODY).gid(NOBODY);
    }
    sys::filter_program(&mut command);
    let mut child = command
        .spawn()
        .map_err(|error| io::Error::other(format!("cannot start the program: {error}")))?;
    std::thread::spawn(move || accept(&listener, port));
    let status = child.wait()?;
    writeln!(io::stderr(), "the program ended: {status}")?;
    // The first process of its namespace: nothing of the program outlives it.
    Ok(false)
}

/// Whether ids of this process mean others outside.
fn in_user_namespace() -> bool {
    bounded::read_text("/proc/self/uid_map", bounded::LINES).map_or(true, |map| {
        map.split_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"]
    })
}

/// Leaves the host's `/` for a small one: what programs need to start, a `/tmp`, and the program.
fn enter(room: &Path, program: &[u8]) -> io::Result<()> {
    fs::create_dir(room)?;
    let safe = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", room, "tmpfs", safe, Some(c"mode=0755,size=256m"))?;
    let inside = |path: &str| room.join(path.trim_start_matches('/'));
    for path in SHOWN {
        let Ok(metadata) = fs::symlink_metadata(path) else {
            continue;
        };
        if metadata.is_symlink() {
            symlink(fs::read_link(path)?, inside(path))?;
            continue;
        }
        fs::create_dir(inside(path))?;
        mount_bind(path, inside(path))?;
        let flags = MountFlags::BIND | MountFlags::RDONLY | safe;
        mount_remount(inside(path), flags, "")?;
    }
    for path in ["/proc", "/dev", "/run", "/tmp"] {
        fs::create_dir(inside(path))?;
    }
    fs::set_permissions(inside("/tmp"), fs::Permissions::from_mode(0o1777))?;
    mount(
        "proc",
        inside("/proc"),
        "proc",
        safe | MountFlags::NOEXEC,
        None,
    )?;
    make_devices(&inside("/dev")).map_err(|problem| io::Error::other(problem.to_string()))?;
    fs::write(inside(PROGRAM), program)?;
    fs::set_permissions(inside(PROGRAM), fs::Permissions::from_mode(0o755))?;
    std::env::set_current_dir(room)?;
    // The old root is put over the new one and taken away again: no directory is needed for it (pivot_root(2)).
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    std::env::set_current_dir("/")
}

/// Hands connections on.
fn accept(listener: &UnixListener, port: u16) {
    let open = Arc::new(AtomicUsize::new(0));
    for guest in listener.incoming().flatten() {
        if open.fetch_add(1, Ordering::SeqCst) >= MOST {
            open.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let open = open.clone();
        std::thread::spawn(move || {
            // One connection less is not the end of the others.
            let _ = connect(port).and_then(|server| hand_on(guest, server));
            open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

/// Connects to the program, which may not listen yet.
fn connect(port: u16) -> io::Result<TcpStream> {
    let begun = Instant::now();
    loop {
        match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            Err(_) if begun.elapsed() < PATIENCE => std::thread::sleep(TICK),
            result => return result,
        }
    }
}

/// Copies between the two until both have said all.
fn hand_on(guest: UnixStream, server: TcpStream) -> io::Result<()> {
    let (mut from_server, mut to_guest) = (server.try_clone()?, guest.try_clone()?);
    let back = std::thread::spawn(move || {
        let _ = io::copy(&mut from_server, &mut to_guest);
        let _ = to_guest.shutdown(Shutdown::Write);
    });
    let mut requests = RequestLines::default();
    let mut buffer = [0; 4096];
    let (mut guest, mut to_server) = (BufReader::new(guest), server);
    while let Ok(count @ 1..) = guest.read(&mut buffer) {
        for request in requests.take(&buffer[..count]) {
            // A line at once, so that those of two connections do not mix.
            let _ = io::stdout()
                .lock()
                .write_all(format!("{request}\n").as_bytes());
            let _ = io::stdout().flush();
        }
        if to_server.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to_server.shutdown(Shutdown::Write);
    let _ = back.join();
    Ok(())
}

/// The first lines of HTTP requests in what a guest sends.
#[derive(Default)]
struct RequestLines {
    line: Vec<u8>,
}

impl RequestLines {
    /// The requests that end in these bytes, each as `METHOD PATH`.
    fn take(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut found = Vec::new();
        for byte in bytes {
            match byte {
                b'\n' => found.extend(request(&std::mem::take(&mut self.line))),
                byte if self.line.len() < MAX_LINE => self.line.push(*byte),
                _ => {}
            }
        }
        found
    }
}

/// The request that a line makes; none where it is another line.
fn request(line: &[u8]) -> Option<String> {
    let line = std::str::from_utf8(line).ok()?.trim_end_matches('\r');
    let mut words = line.split(' ');
    let (method, path, version) = (words.next()?, words.next()?, words.next()?);
    let is_request = words.next().is_none()
        && !method.is_empty()
        && method.bytes().all(|byte| byte.is_ascii_uppercase())
        && path.bytes().all(|byte| byte.is_ascii_graphic())
        && version.starts_with("HTTP/1.");
    is_request.then(|| format!("{method} {path}"))
}

/// A relay: copies between standard input and output, which QEMU made one socket, and a server's socket.
pub(super) fn relay(mut arguments: impl Iterator<Item = OsString>) -> io::Result<bool> {
    let server = UnixStream::connect(PathBuf::from(argument(&mut arguments)?))?;
    let guest = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let (mut from_server, mut to_guest) = (server.try_clone()?, guest.try_clone()?);
    let back = std::thread::spawn(move || {
        let _ = io::copy(&mut from_server, &mut to_guest);
        let _ = to_guest.shutdown(Shutdown::Write);
    });
    let (mut guest, mut server) = (guest, server);
    let _ = io::copy(&mut guest, &mut server);
    let _ = server.shutdown(Shutdown::Write);
    let _ = back.join();
    Ok(true)
}

/// What a program needs that this host lacks, or why it is none; nothing where it can be started.
pub fn lacks(program: &[u8]) -> Option<String> {
    if program.starts_with(b"\x7fELF") {
        return None;
    }
    let Some(line) = program.strip_prefix(b"#!") else {
        return Some("it does not begin with `#!` and its interpreter".to_owned());
    };
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line).into_owned();
    let mut words = line.split_whitespace();
    let interpreter = words.next().unwrap_or_default();
    let is_there = |path: &Path| bounded::open(path).is_ok();
    if interpreter.ends_with("/env") {
        let name = words.find(|word| !word.starts_with('-') && !word.contains('='));
        let name = name.unwrap_or_default();
        let dirs = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"];
        let found = dirs.iter().any(|dir| is_there(&Path::new(dir).join(name)));
        return (!found).then(|| format!("this host has no `{name}` in {}", dirs[..3].join(", ")));
    }
    let seen = SHOWN
        .iter()
        .any(|dir| Path::new(interpreter).starts_with(dir));
    let found = seen && is_there(Path::new(interpreter));
    (!found).then(|| format!("this host has no `{interpreter}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_found_in_what_comes_in_pieces() {
        let mut lines = RequestLines::default();
        assert!(lines.take(b"POST /v1/heart").is_empty());
        let found = lines.take(b"beat/7 HTTP/1.1\r\nHost: x y z\r\n\r\nGET / HTTP/1.0\n");
        assert_eq!(found, ["POST /v1/heartbeat/7", "GET /"]);
        let flood = vec![b'A'; 1 << 20];
        assert!(lines.take(&flood).is_empty() && lines.line.len() == MAX_LINE);
        assert!(request(b"GET /\x1b[2J HTTP/1.1").is_none());
        assert!(request(b"get / HTTP/1.1").is_none());
    }

    #[test]
    fn a_program_without_its_interpreter_is_told() {
        assert_eq!(lacks(b"#!/bin/sh -e\nexit 1\n"), None);
        assert_eq!(lacks(b"#!/usr/bin/env -S sh\n"), None);
        assert_eq!(lacks(b"\x7fELF\x02"), None);
        assert!(
            lacks(b"#!/usr/bin/env python9\n")
                .unwrap()
                .contains("`python9`")
        );
        assert!(lacks(b"#!/opt/none\n").unwrap().contains("`/opt/none`"));
        assert!(lacks(b"echo\n").unwrap().contains("#!"));
    }
}
