//! Builds without a network: of what was fetched before, of what is gone from its mirror, and what a stage can reach.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::Command;

use crate::mirror::serve;
use crate::project::ran;
use crate::server::{Answer, Server};
use crate::site::{Done, Site, done};

/// A build in a network namespace in which there is nothing, not even a loopback device that is up.
fn build_offline(site: &Site, arguments: &[&str]) -> Done {
    let build = site.command(&[&["build", "--locked", "--progress", "json"], arguments].concat());
    let mut command = Command::new("unshare");
    command
        .arg("-n")
        .arg(build.get_program())
        .args(build.get_args())
        .current_dir(build.get_current_dir().unwrap());
    for (name, value) in build.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    // Whoever asked it would wait for nothing.
    command.env("IMPASTO_MIRROR", "http://192.0.2.1/debian");
    done(command)
}

/// Tries to reach one thing after another, and tells how each attempt ended. Perl is in every Debian.
const PROBE: &str = r#"
use strict;
use Socket;
my ($tcp, $udp, $name) = @ARGV;
my $v4 = sub { pack_sockaddr_in($_[1], inet_aton($_[0])) };
my $v6 = sub { pack_sockaddr_in6($_[1], Socket::inet_pton(AF_INET6, $_[0]), $_[2] // 0) };
sub attempt {
    my ($what, $work) = @_;
    local $SIG{ALRM} = sub { die "no answer\n" };
    alarm 3;
    my $done = eval { $work->() };
    my $error = $@ || "$!\n";
    alarm 0;
    print "probe $what: ", $done ? "reached\n" : $error;
}
sub reach {
    my ($what, $domain, $type, $address) = @_;
    attempt($what, sub {
        my $socket;
        socket($socket, $domain, $type, 0) && connect($socket, $address) && send($socket, "x", 0)
    });
}
reach("tcp", PF_INET, SOCK_STREAM, $v4->("192.0.2.1", 80));
reach("udp", PF_INET, SOCK_DGRAM, $v4->("192.0.2.1", 53));
reach("multicast", PF_INET, SOCK_DGRAM, $v4->("224.0.0.251", 5353));
reach("tcp of the host", PF_INET, SOCK_STREAM, $v4->("127.0.0.1", $tcp));
reach("ipv6", PF_INET6, SOCK_STREAM, $v6->("2001:db8::1", 80));
reach("ipv6 of the host", PF_INET6, SOCK_STREAM, $v6->("::1", $tcp));
reach("link-local", PF_INET, SOCK_STREAM, $v4->("169.254.169.254", 80));
reach("link-local ipv6", PF_INET6, SOCK_STREAM, $v6->("fe80::1", 80, 2));
reach("abstract socket", PF_UNIX, SOCK_STREAM, pack("S a*", AF_UNIX, "\0$name"));
attempt("dns", sub { my ($error) = Socket::getaddrinfo("www.example.org", "80", { socktype => SOCK_STREAM }); die "$error\n" if $error; 1 });
# What is sent to nobody is not refused: the host looks whether it came.
attempt("udp of the host", sub {
    my $socket;
    socket($socket, PF_INET, SOCK_DGRAM, 0) && send($socket, "probe", 0, $v4->("127.0.0.1", $udp));
    die "sent\n";
});
open(my $devices, "<", "/proc/net/dev") or die;
print "probe devices: ", join(" ", map { /^\s*(\S+):/ ? $1 : () } <$devices>), "\n";
"#;

const PROBES: [&str; 10] = [
    "tcp",
    "udp",
    "multicast",
    "tcp of the host",
    "ipv6",
    "ipv6 of the host",
    "link-local",
    "link-local ipv6",
    "abstract socket",
    "dns",
];

/// How attempts may end.
const REFUSALS: [&str; 3] = [
    "Network is unreachable",
    "Connection refused",
    "Temporary failure in name resolution",
];

#[test]
fn what_was_fetched_is_built_without_a_network_and_no_stage_reaches_one() {
    // What listens on the host, and what would be seen there.
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().port();
    let tcp6 = TcpListener::bind(("::1", port)).ok();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let name = format!("impasto-it-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let unix = UnixListener::bind_addr(&address).unwrap();
    TcpStream::connect(("127.0.0.1", port))
        .unwrap()
        .write_all(b"x")
        .unwrap();
    UnixStream::connect_addr(&address)
        .unwrap()
        .write_all(b"x")
        .unwrap();
    UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .send_to(b"x", udp.local_addr().unwrap())
        .unwrap();
    let mut byte = [0; 8];
    assert_eq!(tcp.accept().unwrap().0.read(&mut byte).unwrap(), 1);
    assert_eq!(unix.accept().unwrap().0.read(&mut byte).unwrap(), 1);
    assert_eq!(udp.recv(&mut byte).unwrap(), 1);
    tcp.set_nonblocking(true).unwrap();
    unix.set_nonblocking(true).unwrap();
    udp.set_nonblocking(true).unwrap();

    let mut site = Site::new();
    site.uri = format!(
        "http://127.0.0.1:{}/own",
        serve(site.repository.dir(), None)
    );
    site.project.write("probe.pl", PROBE);
    let ports = format!("{port} {} {name}", udp.local_addr().unwrap().port());
    site.recipe(&format!(
        "{}stage \"copy\" \"probe\" {{\n  from = stage.tools\n  files = {{ \"/probe.pl\" = \"probe.pl\" }}\n}}\n\
         stage \"run\" \"reach\" {{\n  from = stage.probe\n  commands = [\"perl /probe.pl {ports}\"]\n}}\n",
        site.packages("tools", "base", "install = [\"program\"]")
    ));
    let said = site.ok(&["fetch"]);
    assert!(
        said.ends_with(", and 1 file used by a stage are in the store\n"),
        "{said}"
    );
    let first = build_offline(&site, &[]).ok();
    assert_eq!(first.built, ["probe", "reach", "tools"]);
    let nothing_came = |log: &str| {
        for probe in PROBES {
            let line = log
                .lines()
                .find_map(|line| line.strip_prefix(&format!("probe {probe}: ")));
            let line = line.unwrap_or_else(|| panic!("{probe} was not tried: {log}"));
            assert!(REFUSALS.contains(&line), "{probe}: {line}");
        }
        assert!(log.contains("probe devices: lo\n"), "{log}");
        assert_eq!(
            tcp.accept().unwrap_err().kind(),
            std::io::ErrorKind::WouldBlock,
            "{log}"
        );
        assert!(
            tcp6.iter()
                .all(|tcp| tcp.set_nonblocking(true).is_ok() && tcp.accept().is_err()),
            "{log}"
        );
        assert_eq!(
            unix.accept().unwrap_err().kind(),
            std::io::ErrorKind::WouldBlock,
            "{log}"
        );
        assert_eq!(
            udp.recv(&mut [0; 8]).unwrap_err().kind(),
            std::io::ErrorKind::WouldBlock,
            "{log}"
        );
    };
    nothing_came(&site.project.ok(&["log", "reach"]));
    // Nor where the host has a network.
    assert_eq!(site.build(&["--rebuild", "reach"]).ok().built, ["reach"]);
    nothing_came(&site.project.ok(&["log", "reach"]));
}

/// A site whose lock is written, and whose packages are nowhere but in a directory beside.
fn gone() -> Site {
    let site = Site::new();
    site.recipe(&site.packages("tools", "base", "install = [\"program\"]"));
    site.ok(&["update"]);
    std::fs::rename(
        site.repository.dir().join("pool"),
        site.project.path("pool"),
    )
    .unwrap();
    site
}

#[test]
fn what_is_gone_from_the_mirror_comes_out_of_the_store() {
    let site = Site::new();
    site.recipe(&site.packages("tools", "base", "install = [\"program\"]"));
    // The collector shall find trees that it may delete.
    std::fs::remove_file(site.project.store().join("state/trees")).unwrap();
    site.ok(&["fetch"]);
    std::fs::remove_dir_all(site.repository.dir()).unwrap();
    // The collector keeps what the lock names, though no build has used it.
    let said = site.ok(&["gc", "--min-age", "0s"]);
    assert!(said.starts_with("deleted "), "{said}");
    assert_eq!(build_offline(&site, &[]).ok().built, ["tools"]);
    // Nor does it when a build has, and another one is to come.
    site.ok(&["gc", "--min-age", "0s"]);
    assert_eq!(
        build_offline(&site, &["--rebuild", "tools"]).ok().built,
        ["tools"]
    );
}

#[test]
fn what_is_gone_comes_from_a_snapshot() {
    let site = gone();
    let pool = site.project.path("pool");
    let server = Server::new(move |_, request| {
        let path = request
            .path
            .split_once("/pool/")
            .map(|(_, path)| pool.join(path));
        path.and_then(|path| std::fs::read(path).ok())
            .map_or(Answer::status("404 Not Found"), |body| Answer::ok(&body))
    });
    let mut command = site.command(&["build", "--locked"]);
    command.env(
        "IMPASTO_SNAPSHOT",
        server.url("archive/{archive}/{timestamp}/"),
    );
    let ran = ran(command);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let date = site
        .lock()
        .split("name = \"own\", date = \"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap()
        .to_owned();
    let timestamp = date.replace(['-', ':'], "");
    let paths: Vec<_> = server
        .requests()
        .into_iter()
        .map(|request| request.path)
        .collect();
    assert_eq!(paths.len(), 2);
    for name in ["library", "program"] {
        let path = format!("archive/own/{timestamp}/pool/main/{name}/{name}_1.0_all.deb");
        assert!(paths.contains(&path), "{paths:?}");
    }
}

#[test]
fn what_is_gone_for_good_is_named_with_the_way_out() {
    let site = gone();
    let text = [
        ("build", site.said(&["build", "--progress", "plain"])),
        ("fetch", site.said(&["fetch"])),
        ("a snapshot that does not have it", {
            let server = Server::new(|_, _| Answer::status("404 Not Found"));
            let mut command = site.command(&["fetch"]);
            command.env(
                "IMPASTO_SNAPSHOT",
                server.url("archive/{archive}/{timestamp}/"),
            );
            let said = site.shown(ran(command));
            assert!(!server.requests().is_empty());
            said
        }),
    ]
    .map(|(what, said)| format!("# {what}\n{said}\n"));
    insta::assert_snapshot!("gone", text.concat());
    assert!(
        text[1].contains("program") || text[1].contains("library"),
        "{}",
        text[1]
    );
}
