//! The kind `packages` on a real Debian, from a frozen mirror: what it installs, what it leaves, how it fails.

use std::process::Command;

use crate::debian;
use crate::mirror::serve;
use crate::project::{Project, Ran, ran};

/// A recipe over the Debian base, whose stages' bodies are given.
fn project(stages: &str) -> Project {
    let project = Project::empty();
    project.link(debian::base(), "debian.qcow2");
    let head = "recipe {\n  name = \"packages\"\n  source_date_epoch = 1700000000\n}\n\
                stage \"fetch\" \"base\" { path = \"debian.qcow2\" }\n";
    project.write("impasto.hcl", &format!("{head}{stages}"));
    project
}

/// A build from the frozen mirror.
fn command(project: &Project, arguments: &[&str]) -> Command {
    let mut command = project.command(&[&["build"], arguments].concat());
    command.env(
        "IMPASTO_MIRROR",
        format!("file:{}", debian::mirror().display()),
    );
    command.env_remove("IMPASTO_SECURITY_MIRROR");
    command
}

fn build(project: &Project, arguments: &[&str]) -> Ran {
    ran(command(project, arguments))
}

fn built(project: &Project, arguments: &[&str]) -> Ran {
    let ran = build(project, arguments);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    ran
}

#[test]
fn packages_are_installed_and_nothing_of_the_host_stays() {
    let project = project(
        r#"
stage "run" "image" {
  from     = stage.base
  commands = [
    "printf '#!/bin/sh\nexit 104\n' >/usr/sbin/policy-rc.d && chmod 0750 /usr/sbin/policy-rc.d",
    "touch /etc/apt/sources.list.d/empty.list",
  ]
}
stage "packages" "tools" {
  from    = stage.image
  install = ["hello", "tzdata", "cron"]
  remove  = ["nano"]
  debconf = ["tzdata tzdata/Areas select Europe", "tzdata tzdata/Zones/Europe select Berlin"]
}
stage "packages" "fewer" {
  from       = stage.tools
  remove     = ["cron"]
  autoremove = true
}
"#,
    );
    let ran = built(&project, &[]);
    assert!(
        project
            .read("impasto.lock")
            .contains("  { name = \"debian/bookworm\", date = \""),
        "no further suite is there"
    );
    assert!(ran.stderr.contains("built  fewer"), "{}", ran.stderr);
    let guest = |line: &str| project.in_guest("tools", line);
    assert_eq!(
        guest("hello; readlink /etc/localtime"),
        "Hello, world!\n/usr/share/zoneinfo/Europe/Berlin\n"
    );
    // The image's own policy about services and its own sources are as they were.
    assert_eq!(
        guest("stat -c %a /usr/sbin/policy-rc.d*; tail -n 1 /usr/sbin/policy-rc.d"),
        "750\nexit 104\n"
    );
    assert_eq!(
        guest("cat /etc/apt/sources.list"),
        "deb http://image.example.org/debian bookworm main\n"
    );
    assert_eq!(guest("cat /etc/resolv.conf"), "nameserver 192.0.2.1\n");
    assert_eq!(
        guest("find /var/lib/apt/lists /var/cache/apt -type f ! -name lock"),
        ""
    );
    // The host's mirror is nowhere in the image, by neither of its names.
    let mirror = debian::mirror().display();
    let found = guest(&format!(
        "grep -rlF -e '{mirror}' -e /run/impasto/apt / --exclude-dir=proc --exclude-dir=sys \
                                --exclude-dir=run --exclude-dir=dev 2>/dev/null || true"
    ));
    assert_eq!(found, "");
    assert_eq!(guest("apt-mark showmanual hello cron"), "cron\nhello\n");
    let fewer = project.in_guest(
        "fewer",
        "ls /etc/crontab 2>&1; dpkg -l cron 2>&1 | tail -n 1",
    );
    assert!(
        fewer.contains("No such file") && fewer.contains("un  cron "),
        "{fewer}"
    );
}

#[test]
fn what_cannot_be_locked_is_an_error_that_names_it() {
    let project = project(
        r#"
stage "packages" "unknown" {
  from    = stage.base
  install = ["helo", "cron", "nor-this1.0", "hello=99"]
}
stage "packages" "release" {
  from    = stage.base
  install = ["hello"]
  suite   = "trixie"
}
"#,
    );
    let said = |stage: &str| {
        let ran = build(&project, &[stage]);
        assert_eq!(ran.code, 4, "{}", ran.stderr);
        ran.stderr
    };
    let unknown = said("unknown");
    assert!(
        unknown.contains("there are no packages hello=99, helo, nor-this1.0 in debian/bookworm\n"),
        "{unknown}"
    );
    assert!(
        unknown.contains("\n  help: did you mean `hello`"),
        "{unknown}"
    );
    let release = said("release");
    assert!(
        release.contains("the archive debian/trixie cannot be read"),
        "{release}"
    );
    assert!(release.contains("\n  help: correct `suite`"), "{release}");
    // Nothing is locked by halves.
    assert!(!project.path("impasto.lock").exists());
}

#[test]
fn an_image_that_would_not_boot_its_kernel_is_refused() {
    let project = project(
        r#"
stage "run" "kernel" {
  from     = stage.base
  commands = ["mkdir /boot/grub && touch /boot/vmlinuz-6.1.0-9 /boot/vmlinuz-6.1.0-10 && printf 'menuentry x {\n linux /boot/vmlinuz-6.1.0-9 root=UUID=x\n}\n' >/boot/grub/grub.cfg"]
}
stage "packages" "unbootable" {
  from    = stage.kernel
  install = ["hello"]
}
"#,
    );
    let ran = build(&project, &[]);
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    let text = "the image would not boot its newest kernel: /boot/grub/grub.cfg has no entry for /boot/vmlinuz-6.1.0-10";
    let log = project.ok(&["log", "unbootable"]);
    assert!(
        log.contains(&format!("\nimpasto: {text}\n  help: ")),
        "{log}"
    );
    assert!(ran.stderr.contains(text), "{}", ran.stderr);
    // Nothing half-made is kept: a failed stage runs again.
    let again = build(&project, &["unbootable"]);
    assert_eq!(again.code, 4);
    assert!(again.stderr.contains("run  unbootable"), "{}", again.stderr);
}

#[test]
fn mirrors_that_do_not_answer_and_images_without_packages_are_errors() {
    let text = "stage \"packages\" \"tools\" {\n  from = stage.base\n  install = [\"hello\"]\n}\n";
    let project = project(text);
    // Nobody listens on this port (RFC 863's is long out of use).
    let ran = ran(project.command(&["build", "--mirror", "http://me:geheim@127.0.0.1:9/debian"]));
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("http://127.0.0.1:9/debian"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("the server cannot be reached"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("--mirror URL, or IMPASTO_MIRROR"),
        "{}",
        ran.stderr
    );
    assert!(!ran.stderr.contains("geheim"), "{}", ran.stderr);

    let small = Project::new();
    small.write(
        "impasto.hcl",
        &format!("recipe {{ name = \"p\" }}\nstage \"fetch\" \"base\" {{ path = \"base.qcow2\" }}\n{text}"),
    );
    let ran = build(&small, &[]);
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    assert!(
        ran.stderr
            .contains("base has no /var/lib/dpkg/status: it has no package database"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_kernel_that_a_stage_installs_is_in_the_boot_loaders_menu() {
    let project = project(
        r#"
stage "run" "loader" {
  from     = stage.base
  commands = [
    "mkdir -p /boot/grub && touch /boot/grub/grub.cfg",
    # Few modules: this is about the menu, and packing all of them takes longer than everything else.
    "mkdir -p /etc/initramfs-tools/conf.d && echo MODULES=list >/etc/initramfs-tools/conf.d/small",
  ]
}
stage "packages" "kernel" {
  from    = stage.loader
  install = ["linux-image-cloud-amd64", "initramfs-tools", "grub-pc-bin", "grub2-common", "grub-efi-amd64-signed", "shim-signed"]
}
"#,
    );
    built(&project, &[]);
    let menu = project.in_guest(
        "kernel",
        "grep -P '^\\tlinux' /boot/grub/grub.cfg; ls /boot",
    );
    let root = format!("root=UUID={}", debian::ROOT_UUID);
    assert!(
        menu.contains("/boot/vmlinuz-6.1.")
            && menu.contains(&root)
            && menu.contains("initrd.img-6.1."),
        "{menu}"
    );
    assert!(!menu.contains("root=/dev"), "{menu}");
    let log = project.ok(&["log", "kernel"]);
    assert!(log.contains("impasto: boots linux 6.1."), "{log}");
}

#[test]
fn a_mirror_behind_a_password_serves_and_further_archives_stay_in_the_image() {
    // The base's keyring is binary; in a recipe keys are text.
    let armor = "printf -- '-----BEGIN PGP PUBLIC KEY BLOCK-----\\n\\n'; base64 /usr/share/keyrings/debian-archive-keyring.gpg; \
                 printf -- '-----END PGP PUBLIC KEY BLOCK-----\\n'";
    let vendor = format!("http://127.0.0.1:{}/vendor", serve(debian::mirror(), None));
    let project = project(&format!(
        r#"
stage "packages" "tools" {{
  from         = stage.base
  install      = ["hello"]
  repositories = {{ vendor = {{ uri = "{vendor}", suite = "bookworm", signed_by = file("vendor.asc") }} }}
}}
stage "packages" "more" {{
  from    = stage.tools
  install = ["cron"]
}}
"#
    ));
    project.write("vendor.asc", &crate::base::tool("sh", &["-c", armor]));
    // me:s3same
    let port = serve(debian::mirror(), Some("bWU6czNzYW1l"));
    let mut command = project.command(&[
        "build",
        "--mirror",
        &format!("http://me:s3same@127.0.0.1:{port}/debian"),
    ]);
    command.env(
        "IMPASTO_SECURITY_MIRROR",
        format!("http://me:s3same@127.0.0.1:{port}/security"),
    );
    let ran = ran(command);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let lock = project.read("impasto.lock");
    // The mirror has neither updates nor security updates, and needs none. What is added is there for what comes after.
    for stage in ["more", "tools"] {
        let entry = lock
            .split("\n[[stage]]")
            .find(|entry| entry.starts_with(&format!("\nname = \"{stage}\"")))
            .unwrap();
        let archives: Vec<_> = entry
            .lines()
            .filter_map(|line| line.strip_prefix("  { name = \"")?.split_once("\", date"))
            .collect();
        assert_eq!(
            archives.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
            ["debian/bookworm", "vendor"]
        );
    }
    let source = format!(
        "Types: deb\nURIs: {vendor}\nSuites: bookworm\nComponents: main\nSigned-By: /etc/apt/keyrings/vendor.asc\n"
    );
    let guest = |line: &str| project.in_guest("more", line);
    assert_eq!(guest("cat /etc/apt/sources.list.d/vendor.sources"), source);
    assert_eq!(
        guest(&format!(
            "grep -rlF -e s3same -e 127.0.0.1:{port} /etc /var /usr /root || true"
        )),
        ""
    );
    let log = project.ok(&["log", "tools"]);
    assert!(
        !format!("{log}{lock}{}{}", ran.stderr, project.claims()).contains("s3same"),
        "{log}"
    );
}

#[test]
fn debians_own_packages_take_the_place_of_those_that_they_conflict_with() {
    let install = |name: &str, from: &str, package: &str| {
        format!(
            "stage \"packages\" \"{name}\" {{\n  from = stage.{from}\n  install = [\"{package}\"]\n}}\n"
        )
    };
    let project = project(
        &[
            install("timesyncd", "base", "systemd-timesyncd"),
            install("chrony", "timesyncd", "chrony"),
            install("ntpsec", "timesyncd", "ntpsec"),
            install("postfix", "base", "postfix"),
            install("exim", "postfix", "exim4-daemon-light"),
        ]
        .concat(),
    );
    // From the host's own mirror: what the tests' frozen one has does not conflict.
    project.ok(&["update"]);
    let lock = project.read("impasto.lock");
    for (stage, gone) in [
        ("chrony", "systemd-timesyncd"),
        ("ntpsec", "systemd-timesyncd"),
        ("exim", "postfix"),
    ] {
        let entry = lock
            .split("\n[[stage]]")
            .find(|entry| entry.starts_with(&format!("\nname = \"{stage}\"")))
            .unwrap();
        let removed = entry.split_once("removed = [\n").expect(stage).1;
        let version = removed
            .strip_prefix(&format!("  {{ name = \"{gone}\", version = \""))
            .expect(stage);
        assert!(
            version.contains("\", architecture = \"amd64\" },\n]"),
            "{removed}"
        );
    }
    project.ok(&["fetch", "chrony"]);
    // Nobody listens there.
    let offline = project.run(&[
        "build",
        "chrony",
        "--locked",
        "--mirror",
        "http://127.0.0.1:9/debian",
    ]);
    assert_eq!(offline.code, 0, "{}", offline.stderr);
    let shown = project.in_guest(
        "chrony",
        "chronyd --version; dpkg-query -W -f '${Status}' systemd-timesyncd",
    );
    assert!(shown.starts_with("chronyd (chrony) version "), "{shown}");
    assert!(
        shown.trim_end().ends_with("\nunknown ok not-installed"),
        "{shown}"
    );
}
