//! The kind `system` on a real Debian: each setting is where the machine looks for it, and what cannot be is said.
//! Needs root, FUSE, and the tests' Debian. That has no systemd: what is asked of `systemctl` is written down instead.

use crate::debian;
use crate::project::{Project, ran};

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO7nYzhvHy9nWYiOmLsWUwcPLMzTzKGZuYVaXUL3lyQn me";

fn recipe(settings: &str) -> String {
    format!(
        r#"recipe {{
  name              = "system"
  source_date_epoch = 1700000000
}}
stage "fetch" "base" {{ path = "debian.qcow2" }}
stage "run" "units" {{
  from     = stage.base
  commands = [
    "mkdir -p /usr/lib/systemd/system /etc/systemd/system /etc/sudoers.d",
    "touch /usr/lib/systemd/system/web.service /usr/lib/systemd/system/getty@.service /usr/lib/systemd/systemd-networkd",
    "touch /usr/lib/systemd/system/systemd-networkd.service",
    "mkdir -p /usr/share/zoneinfo/Europe && touch /usr/share/zoneinfo/Europe/Berlin",
    "printf '#!/bin/sh\necho \"$@\" >>/var/lib/asked\n' >/usr/bin/systemctl && chmod 755 /usr/bin/systemctl",
    "cp /usr/bin/systemctl /usr/sbin/update-grub && cp /usr/bin/true /usr/bin/sudo",
  ]
}}
stage "system" "set" {{
  from = stage.units
{settings}
}}
"#
    )
}

fn project(settings: &str) -> Project {
    let project = Project::with(&recipe(settings));
    project.link(debian::base(), "debian.qcow2");
    project
}

#[test]
fn every_setting_is_where_the_machine_looks_for_it() {
    let project = project(&format!(
        r#"  hostname  = "web.example.org"
  timezone  = "Europe/Berlin"
  locale    = "C.UTF-8"
  keymap    = "de"
  enable    = ["web.service", "getty@tty7.service"]
  disable   = ["web.timer"]
  mask      = ["later.mount"]
  groups    = {{ www = {{ gid = 1700 }} }}
  users     = {{
    root   = {{ ssh_keys = ["{KEY}"] }}
    deploy = {{ ssh_keys = ["{KEY}"], groups = ["www", "adm"], sudo = true, uid = 1600 }}
    plain  = {{ shell = "/bin/sh" }}
  }}
  interfaces = {{ "en*" = {{ addresses = ["192.0.2.10/24"], gateways = ["192.0.2.1"], name_servers = ["192.0.2.2"] }} }}
  kernel_arguments = ["panic=10"]
"#
    ));
    // A unit that nobody installed: named, and nothing of the stage is kept.
    let ran = project.run(&["build"]);
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("this image has no unit web.timer"),
        "{}",
        ran.stderr
    );

    project.write(
        "impasto.hcl",
        &project
            .read("impasto.hcl")
            .replace("  disable   = [\"web.timer\"]\n", ""),
    );
    project.build(&[]);
    let guest = |line: &str| project.in_guest("set", line);
    assert_eq!(guest("cat /etc/hostname"), "web.example.org\n");
    let own = guest("grep ^127.0.1.1 /etc/hosts");
    let own: Vec<_> = own.split_whitespace().collect();
    assert_eq!(own, ["127.0.1.1", "web.example.org", "web"]);
    assert_eq!(
        guest("readlink /etc/localtime; cat /etc/timezone"),
        "/usr/share/zoneinfo/Europe/Berlin\nEurope/Berlin\n"
    );
    assert_eq!(guest("cat /etc/default/locale"), "LANG=C.UTF-8\n");
    assert_eq!(guest("cat /etc/vconsole.conf"), "KEYMAP=de\n");
    assert!(guest("cat /etc/default/keyboard").contains("XKBLAYOUT=\"de\""));
    assert_eq!(
        guest("cat /var/lib/asked"),
        "--quiet enable systemd-networkd.service\n--quiet mask later.mount\n--quiet enable web.service\n\
         --quiet enable getty@tty7.service\n\n"
    );
    assert_eq!(
        guest("cat /etc/systemd/network/20-impasto.network"),
        "[Match]\nName=en*\n\n[Network]\nAddress=192.0.2.10/24\nGateway=192.0.2.1\nDNS=192.0.2.2\n"
    );
    assert_eq!(
        guest("cat /etc/default/grub.d/60-impasto-system.cfg"),
        "GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX panic=10\"\n"
    );
    assert_eq!(
        guest("id deploy"),
        "uid=1600(deploy) gid=1600(deploy) groups=1600(deploy),4(adm),1700(www)\n"
    );
    assert_eq!(
        guest("getent passwd plain | cut -d: -f3,6,7"),
        "1000:/home/plain:/bin/sh\n"
    );
    // Nobody logs in with a password, and the day of its change is the recipe's.
    assert_eq!(
        guest("getent shadow deploy"),
        "deploy:!:19675:0:99999:7:::\n"
    );
    let keys = "cd ~deploy/.ssh && stat -c '%U %a' . authorized_keys && cat authorized_keys";
    assert_eq!(guest(keys), format!("deploy 700\ndeploy 600\n{KEY}\n"));
    assert_eq!(guest("cat /root/.ssh/authorized_keys"), format!("{KEY}\n"));
    assert_eq!(
        guest("stat -c %a /etc/sudoers.d/91-impasto-deploy; cat /etc/sudoers.d/91-impasto-deploy"),
        "440\ndeploy ALL=(ALL:ALL) NOPASSWD: ALL\n"
    );
    // The same again: the same disk.
    project.ok(&["audit", "set"]);
}

#[test]
fn what_the_image_lacks_is_named_with_what_brings_it() {
    for (settings, sentence) in [
        (
            "timezone = \"Mars/Base\"",
            "this image has no time zone Mars/Base",
        ),
        ("locale = \"de_DE.UTF-8\"", "this image has no locale-gen"),
        (
            "users = { www-data = {} }",
            "the user www-data exists already",
        ),
        ("groups = { adm = {} }", "the group adm exists already"),
    ] {
        let project = project(&format!("  {settings}"));
        let ran = project.run(&["build"]);
        assert!(
            ran.code == 4 && ran.stderr.contains(sentence),
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn users_and_names_mean_the_same_before_packages_and_after_them() {
    let words = format!(
        r#"  hostname = "web.example.org"
  users    = {{
    root   = {{ ssh_keys = ["{KEY}"] }}
    deploy = {{ ssh_keys = ["{KEY}"], groups = ["adm"], sudo = true, uid = 1001 }}
    plain  = {{ shell = "/bin/sh" }}
    second = {{ password_hash = "$6$salt$0123456789abcdef" }}
  }}
"#
    );
    let disk = r#"
stage "run" "tree" {
  from     = stage.units
  commands = ["tar --one-file-system -C / -cf /tmp/tree.tar ."]
  output   = { "tree.tar" = "/tmp/tree.tar" }
}
stage "disk" "made" {
  tree       = stage.tree.files["tree.tar"]
  size       = "1GiB"
  bootloader = []
  networking = "none"
  growpart   = false
"#;
    let project = Project::with(
        &(recipe(&words) + disk + &words.replace("hostname =", "host_name =") + "}\n"),
    );
    project.link(debian::base(), "debian.qcow2");
    let mut command = project.command(&["build", "set", "made"]);
    command.env(
        "IMPASTO_MIRROR",
        format!("file:{}", debian::mirror().display()),
    );
    let built = ran(command);
    assert_eq!(built.code, 0, "{}", built.stderr);
    let line = "cat /etc/hostname; grep -h 127.0 /etc/hosts
        for table in passwd group shadow gshadow subuid subgid; do
            grep -h -E '^(root|deploy|plain|second|adm):' /etc/$table | sed \"s/^/$table /\"
        done
        cd /home; stat -c '%n %U:%G %a' . */ */.ssh */.ssh/* /root /root/.ssh/authorized_keys; ls -A deploy plain
        cat deploy/.ssh/authorized_keys; cat /etc/sudoers.d/*impasto*";
    let [set, made] = ["set", "made"].map(|stage| project.in_guest(stage, line));
    println!("{set}");
    assert!(
        set.contains("passwd plain:x:1000:1000::/home/plain:/bin/sh"),
        "{set}"
    );
    assert_eq!(set, made);
}
