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
    command.env("IMPASTO_MIRROR", format!("file:{}", debian::mirror().display()));
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
  remove  = ["hello-traditional"]
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
    let log = project.ok(&["log", "tools"]);
    assert!(log.contains("impasto: packages of bookworm (main) from file:/run/impasto/apt/archive"), "{log}");
    assert!(log.contains("impasto: the mirror has no suite bookworm-updates"), "{log}");
    assert!(ran.stderr.contains("built  fewer"), "{}", ran.stderr);
    let guest = |line: &str| project.in_guest("tools", line);
    assert_eq!(guest("hello; readlink /etc/localtime"), "Hello, world!\n/usr/share/zoneinfo/Europe/Berlin\n");
    // The image's own policy about services and its own sources are as they were.
    assert_eq!(guest("stat -c %a /usr/sbin/policy-rc.d*; tail -n 1 /usr/sbin/policy-rc.d"), "750\nexit 104\n");
    assert_eq!(guest("cat /etc/apt/sources.list"), "deb http://image.example.org/debian bookworm main\n");
    assert_eq!(guest("cat /etc/resolv.conf"), "nameserver 192.0.2.1\n");
    assert_eq!(guest("find /var/lib/apt/lists /var/cache/apt -type f ! -name lock"), "");
    // The host's mirror is nowhere in the image, by neither of its names.
    let mirror = debian::mirror().display();
    let found = guest(&format!(
        "grep -rlF -e '{mirror}' -e /run/impasto/apt / --exclude-dir=proc --exclude-dir=sys \
                                --exclude-dir=run --exclude-dir=dev 2>/dev/null || true"
    ));
    assert_eq!(found, "");
    assert_eq!(guest("apt-mark showmanual hello cron"), "cron\nhello\n");
    let fewer = project.in_guest("fewer", "ls /etc/crontab 2>&1; dpkg -l cron 2>&1 | tail -n 1");
    assert!(fewer.contains("No such file") && fewer.contains("un  cron "), "{fewer}");
}

#[test]
fn what_cannot_be_installed_is_an_error_that_names_it() {
    let project = project(
        r#"
stage "packages" "unknown" {
  from    = stage.base
  install = ["no-such-package", "hello", "nor-this1.0", "hello=99"]
}
stage "packages" "release" {
  from    = stage.base
  install = ["hello"]
  suite   = "trixie"
}
stage "run" "bare" {
  from     = stage.base
  commands = ["rm /usr/share/keyrings/debian-archive-keyring.gpg"]
}
stage "packages" "keyless" {
  from    = stage.bare
  install = ["hello"]
}
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
    let ran = build(&project, &["--keep-going"]);
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    let said = |stage: &str, text: &str| {
        let log = project.ok(&["log", stage]);
        assert!(log.contains(&format!("\nimpasto: {text}\n  help: ")), "{stage}: {log}");
        assert!(ran.stderr.contains(text), "{}", ran.stderr);
    };
    said("unknown", "there are no packages hello=99 no-such-package nor-this1.0 here");
    let archive = "file:/run/impasto/apt/archive";
    let log = project.ok(&["log", "release"]);
    assert!(log.starts_with(&format!("impasto: the mirror {archive} has no suite trixie\n  help: ")), "{log}");
    let log = project.ok(&["log", "keyless"]);
    assert!(log.contains("it has no package debian-archive-keyring\n"), "{log}");
    said(
        "unbootable",
        "the image would not boot its newest kernel: /boot/grub/grub.cfg has no entry for /boot/vmlinuz-6.1.0-10",
    );
    // Nothing half-made is kept: a failed stage runs again.
    let again = build(&project, &["unknown"]);
    assert_eq!(again.code, 4);
    assert!(again.stderr.contains("run  unknown"), "{}", again.stderr);
}

#[test]
fn mirrors_that_do_not_answer_and_images_without_apt_are_errors() {
    let text = "stage \"packages\" \"tools\" {\n  from = stage.base\n  install = [\"hello\"]\n}\n";
    let project = project(text);
    // Nobody listens on this port (RFC 863's is long out of use).
    let ran = ran(project.command(&["build", "--mirror", "http://me:geheim@127.0.0.1:9/debian"]));
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    assert!(ran.stderr.contains("impasto: the mirror http://127.0.0.1:9/debian cannot be reached"), "{}", ran.stderr);
    assert!(ran.stderr.contains("--mirror URL or IMPASTO_MIRROR"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("geheim"), "{}", ran.stderr);

    let small = Project::new();
    small.write(
        "impasto.hcl",
        &format!("recipe {{ name = \"p\" }}\nstage \"fetch\" \"base\" {{ path = \"base.qcow2\" }}\n{text}"),
    );
    let ran = small.run(&["build"]);
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    assert!(ran.stderr.contains("impasto: this image has no apt-get and dpkg"), "{}", ran.stderr);
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
    let menu = project.in_guest("kernel", "grep -P '^\\tlinux' /boot/grub/grub.cfg; ls /boot");
    let root = format!("root=UUID={}", debian::ROOT_UUID);
    assert!(menu.contains("/boot/vmlinuz-6.1.") && menu.contains(&root) && menu.contains("initrd.img-6.1."), "{menu}");
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
  repositories = {{ vendor = {{ uri = "{vendor}", suite = "bookworm", key = file("vendor.asc") }} }}
}}
stage "run" "other" {{
  from     = stage.tools
  commands = ["sed -i s/^ID=.*/ID=other/ /etc/os-release && rm /etc/apt/sources.list"]
}}
stage "packages" "derived" {{
  from    = stage.other
  install = ["cron"]
}}
"#
    ));
    project.write("vendor.asc", &crate::base::tool("sh", &["-c", armor]));
    // me:s3same
    let port = serve(debian::mirror(), Some("bWU6czNzYW1l"));
    let mut command = project.command(&["build", "--mirror", &format!("http://me:s3same@127.0.0.1:{port}/debian")]);
    command.env("IMPASTO_SECURITY_MIRROR", format!("http://me:s3same@127.0.0.1:{port}/security"));
    let ran = ran(command);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let log = project.ok(&["log", "tools"]);
    let archive = format!("http://127.0.0.1:{port}/debian");
    assert!(log.contains(&format!("impasto: packages of bookworm (main) from {archive} and ")), "{log}");
    assert!(log.contains("impasto: the mirror has no suite bookworm-updates\n"), "{log}");
    assert!(log.contains("impasto: the mirror of security updates has no suite bookworm-security\n"), "{log}");
    assert!(log.contains(&format!(" {vendor} bookworm InRelease")), "{log}");
    let source = format!(
        "Types: deb\nURIs: {vendor}\nSuites: bookworm\nComponents: main\nSigned-By: /etc/apt/keyrings/vendor.asc\n"
    );
    let guest = |line: &str| project.in_guest("tools", line);
    assert_eq!(guest("cat /etc/apt/sources.list.d/vendor.sources"), source);
    assert_eq!(guest(&format!("grep -rlF -e s3same -e 127.0.0.1:{port} /etc /var /usr /root || true")), "");
    assert!(!format!("{log}{}{}", ran.stderr, project.claims()).contains("s3same"), "{log}");
    // What is not Debian has the sources that it brings, and nothing of the host's mirror.
    let log = project.ok(&["log", "derived"]);
    assert!(
        log.starts_with("impasto: the image is other, not Debian: its own sources of packages are used as they are\n"),
        "{log}"
    );
    assert!(log.contains(&format!(" {vendor} bookworm InRelease")) && !log.contains(&archive), "{log}");
}

#[test]
fn of_the_images_sources_debians_own_are_replaced_and_others_stay() {
    use impasto_stages::action::Step;
    use impasto_stages::{Data, Params, Registry, StageContext, Value};
    let list = Value::new(Data::List(vec![Value::string("hello")]));
    let params = Params([("install".to_owned(), list)].into());
    let kind = *Registry::default().get("packages").unwrap();
    let lowered = (kind.lower)(&params, &StageContext::default()).unwrap();
    let Some(Step::Script { text }) = lowered.actions[0].steps.last() else { panic!("the last step is the script") };
    let begin = text.find("others() {").unwrap();
    let others = &text[begin..begin + text[begin..].find("\n}\n").unwrap() + 3];

    let project = Project::empty();
    let kept = [
        ("docker.list", "deb [arch=amd64] https://tool.example.org/linux/debian bookworm stable\n"),
        ("keyed.list", "deb [signed-by=/etc/apt/keyrings/tool.asc] https://tool.example.org/debian bookworm main\n"),
        ("zabbix.list", "# own\ndeb https://tool.example.org/6.0/debian bookworm main\n"),
        (
            "vendor.sources",
            "Types: deb\nURIs: https://tool.example.org/debian\nSuites: bookworm\nComponents: main\nSigned-By:\n -----BEGIN\n .\n\n",
        ),
    ];
    let own = [
        (
            "sources.list",
            "deb http://a.example.org/debian/ bookworm main non-free-firmware # near\n#deb x\n\ndeb-src y z\n",
        ),
        ("sources.list.d/b.list", "deb http://security.debian.example.org/ bookworm-security main contrib\n"),
        (
            "sources.list.d/c.list",
            "deb [ signed-by=/usr/share/keyrings/debian-archive-keyring.gpg ] copy:/m bookworm main\n",
        ),
        (
            "sources.list.d/d.sources",
            "# of the cloud\nTypes: deb deb-src\nURIs: mirror+file:///etc/apt/mirrors/debian.list\n\
             suites: bookworm bookworm-backports\nComponents: main\n\n\
             Types: deb\nEnabled: no\nURIs: http://a.example.org/debian\nSuites: bookworm\nComponents: non-free\n",
        ),
    ];
    for (name, text) in kept {
        project.write(&format!("apt/sources.list.d/{name}"), text);
    }
    for (name, text) in own {
        project.write(&format!("apt/{name}"), text);
    }
    let others = others.replace("/etc/apt", project.path("apt").to_str().unwrap());
    project.write(
        "others",
        &format!("set -eu\nsuite=bookworm work=$1\nmkdir -p $1/parts; : >$1/found\n{others}\nothers\n"),
    );
    let work = project.path("work");
    crate::base::tool("sh", &[project.path("others").to_str().unwrap(), work.to_str().unwrap()]);
    for (name, text) in kept {
        assert_eq!(project.read(&format!("work/parts/{name}")), text, "{name}");
    }
    let lines = |name: &str| project.read(&format!("work/parts/{name}"));
    assert_eq!(lines("00-image.list"), "#deb x\n\ndeb-src y z\n");
    assert_eq!(format!("{}{}", lines("b.list"), lines("c.list")), "");
    // What is switched off stays so.
    assert!(lines("d.sources").starts_with("Types: deb\nEnabled: no\n"), "{}", lines("d.sources"));
    let mut found: Vec<_> = project.read("work/found").lines().map(str::to_owned).collect();
    found.sort();
    found.dedup();
    let expected = [
        "component contrib",
        "component main",
        "component non-free-firmware",
        "suite bookworm",
        "suite bookworm-backports",
        "suite bookworm-security",
    ];
    assert_eq!(found, expected);
}
