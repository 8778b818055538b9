//! The kind `cleanup` on a real Debian: every operation takes what it promises, and nothing else.

use std::collections::BTreeMap;
use std::fmt::Write;

use impasto_stages::action::Step;
use impasto_stages::{Kind, Params, Registry, StageContext, Type, Value};

use crate::debian;
use crate::project::Project;

/// What is left of a planted file.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Left {
    Nothing,
    Text(&'static str),
}

use Left::{Nothing, Text};

/// Where `/` can be seen without the memory that lies over its `/tmp` and `/run` while a stage runs.
const UNDER: &str = "/run/impasto/root";

/// A file, what it holds before, and what operations leave of it; others leave it alone.
type Planted = (&'static str, &'static str, &'static [(&'static str, Left)]);

const KEY: &str = "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n-----END OPENSSH PRIVATE KEY-----\n";

const PLANTED: &[Planted] = &[
    (
        "/etc/machine-id",
        "0123456789abcdef0123456789abcdef\n",
        &[("machine-id", Text(""))],
    ),
    (
        "/var/lib/dbus/machine-id",
        "0123456789abcdef0123456789abcdef\n",
        &[("machine-id", Nothing)],
    ),
    (
        "/etc/ssh/ssh_host_ed25519_key",
        KEY,
        &[("ssh-hostkeys", Nothing)],
    ),
    (
        "/etc/ssh/ssh_host_ed25519_key.pub",
        "ssh-ed25519 x\n",
        &[("ssh-hostkeys", Nothing)],
    ),
    (
        "/root/.ssh/known_hosts",
        "x\n",
        &[("ssh-userkeys", Nothing), ("ssh-userdir", Nothing)],
    ),
    (
        "/root/.ssh/id_ed25519",
        KEY,
        &[("ssh-userkeys", Nothing), ("ssh-userdir", Nothing)],
    ),
    (
        "/home/two words/.ssh/deploy",
        KEY,
        &[("ssh-userkeys", Nothing), ("ssh-userdir", Nothing)],
    ),
    (
        "/home/two words/.ssh/authorized_keys",
        "ssh-ed25519 x\n",
        &[("ssh-userdir", Nothing)],
    ),
    ("/root/.bash_history", "x\n", &[("bash-history", Nothing)]),
    (
        "/home/two words/.bash_history",
        "x\n",
        &[("bash-history", Nothing)],
    ),
    (
        "/srv/service/.zsh_history",
        "x\n",
        &[("zsh-history", Nothing)],
    ),
    (
        "/root/.python_history",
        "x\n",
        &[("program-history", Nothing)],
    ),
    (
        "/root/.psql_history",
        "x\n",
        &[("program-history", Nothing)],
    ),
    (
        "/root/.mysql_history",
        "x\n",
        &[("program-history", Nothing)],
    ),
    (
        "/root/.node_repl_history",
        "x\n",
        &[("program-history", Nothing)],
    ),
    (
        "/home/two words/.lesshst",
        "x\n",
        &[("program-history", Nothing)],
    ),
    ("/var/log/app.log", "x\n", &[("logfiles", Text(""))]),
    ("/var/log/app/app.log.1", "x\n", &[("logfiles", Nothing)]),
    ("/var/log/app/app.log.2.gz", "x\n", &[("logfiles", Nothing)]),
    (
        "/var/log/journal/0123/system.journal",
        "x\n",
        &[("journald", Nothing)],
    ),
    ("/var/log/wtmp", "x\n", &[("utmp", Text(""))]),
    ("/var/log/lastlog", "x\n", &[("utmp", Text(""))]),
    (
        "/var/log/btmp.1",
        "x\n",
        &[("utmp", Nothing), ("logfiles", Nothing)],
    ),
    ("/var/log/account/pacct", "x\n", &[("pacct-log", Text(""))]),
    (
        "/var/lib/apt/lists/mirror.example.org_InRelease",
        "x\n",
        &[("package-manager-cache", Nothing)],
    ),
    (
        "/var/cache/apt/archives/hello_1_all.deb",
        "x\n",
        &[("package-manager-cache", Nothing)],
    ),
    (
        "/var/cache/apt/pkgcache.bin",
        "x\n",
        &[("package-manager-cache", Nothing)],
    ),
    (
        "/run/impasto/root/tmp/left",
        "x\n",
        &[("tmp-files", Nothing)],
    ),
    (
        "/run/impasto/root/run/left/pid",
        "x\n",
        &[("tmp-files", Nothing)],
    ),
    ("/var/tmp/left", "x\n", &[("tmp-files", Nothing)]),
    ("/var/crash/app.crash", "x\n", &[("crash-data", Nothing)]),
    (
        "/var/lib/systemd/coredump/core.app",
        "x\n",
        &[("crash-data", Nothing)],
    ),
    (
        "/var/spool/cron/crontabs/root",
        "x\n",
        &[("cron-spool", Nothing)],
    ),
    (
        "/var/spool/cron/atjobs/a00001",
        "x\n",
        &[("cron-spool", Nothing)],
    ),
    ("/var/mail/root", "x\n", &[("mail-spool", Nothing)]),
    (
        "/var/spool/postfix/deferred/A/AB12",
        "x\n",
        &[("mail-spool", Nothing)],
    ),
    (
        "/var/lib/dhcp/dhclient.eth0.leases",
        "x\n",
        &[("dhcp-client-state", Nothing)],
    ),
    (
        "/var/lib/dhcp/dhcpd.leases",
        "x\n",
        &[("dhcp-server-state", Nothing)],
    ),
    (
        "/etc/udev/rules.d/70-persistent-net.rules",
        "x\n",
        &[("udev-persistent-net", Nothing)],
    ),
    (
        "/etc/network/interfaces.d/eth0",
        "iface eth0 inet dhcp\n  hwaddress ether 02:00:00:00:00:01\n",
        &[("net-hwaddr", Text("iface eth0 inet dhcp\n"))],
    ),
    (
        "/etc/NetworkManager/system-connections/home.nmconnection",
        "psk=x\n",
        &[("net-nmconn", Nothing)],
    ),
    ("/etc/hostname", "builder\n", &[("net-hostname", Text(""))]),
    ("/etc/shadow-", "x\n", &[("passwd-backups", Nothing)]),
    (
        "/var/backups/passwd.bak",
        "x\n",
        &[("passwd-backups", Nothing), ("backup-files", Nothing)],
    ),
    ("/etc/app/app.conf~", "x\n", &[("backup-files", Nothing)]),
    (
        "/etc/app.conf.dpkg-old",
        "x\n",
        &[("backup-files", Nothing)],
    ),
    ("/root/notes.bak", "x\n", &[("backup-files", Nothing)]),
    ("/etc/blkid.tab", "x\n", &[("blkid-tab", Nothing)]),
    (
        "/var/lib/sudo/lectured/root",
        "x\n",
        &[("pam-data", Nothing)],
    ),
    (
        "/etc/lvm/devices/system.devices",
        "x\n",
        &[("lvm-system-devices", Nothing)],
    ),
    (
        "/etc/iscsi/initiatorname.iscsi",
        "# own\nInitiatorName=iqn.1993-08.org.example:01:x\n",
        &[("iscsi-name", Text("# own\nGenerateName=yes\n"))],
    ),
    (
        "/etc/krb5.keytab",
        "x\n",
        &[("kerberos-hostkeytab", Nothing)],
    ),
    (
        "/var/lib/sss/db/cache_example.ldb",
        "x\n",
        &[("sssd-db", Nothing)],
    ),
    (
        "/var/lib/samba/private/secrets.tdb",
        "x\n",
        &[("samba-db", Nothing)],
    ),
    (
        "/var/lib/puppet/ssl/private_keys/a.pem",
        "x\n",
        &[("puppet-data", Nothing)],
    ),
    (
        "/var/lib/dovecot/instances",
        "x\n",
        &[("dovecot-data", Nothing)],
    ),
    (
        "/var/lib/cloud/data/instance-id",
        "x\n",
        &[("cloud-init", Nothing)],
    ),
    (
        "/var/log/cloud-init.log",
        "x\n",
        &[("cloud-init", Nothing), ("logfiles", Text(""))],
    ),
    (
        "/etc/netplan/50-cloud-init.yaml",
        "x\n",
        &[("cloud-init", Nothing)],
    ),
    (
        "/etc/sudoers.d/90-cloud-init-users",
        "x\n",
        &[("cloud-init", Nothing)],
    ),
    (
        "/var/lib/cloud/seed/nocloud/user-data",
        "x\n",
        &[("cloud-init-seed", Nothing)],
    ),
    (
        "/var/lib/systemd/random-seed",
        "x\n",
        &[("random-seed", Nothing)],
    ),
    (
        "/var/lib/systemd/credential.secret",
        "x\n",
        &[("random-seed", Nothing)],
    ),
    (
        "/var/lib/systemd/timers/stamp-apt-daily.timer",
        "x\n",
        &[("systemd-state", Nothing)],
    ),
    (
        "/etc/apt/auth.conf",
        "machine x login y password z\n",
        &[("apt-credentials", Nothing)],
    ),
    (
        "/etc/apt/sources.list.d/own.list",
        "deb https://me:secret@packages.example.org/debian ./\n",
        &[(
            "apt-credentials",
            Text("deb https://packages.example.org/debian ./\n"),
        )],
    ),
    (
        "/etc/apt/apt.conf.d/01proxy",
        "x\n",
        &[("proxies", Nothing)],
    ),
    (
        "/etc/apt/apt.conf.d/50own",
        "Acquire::http::Proxy \"http://proxy.example.org\";\nAPT::Color \"0\";\n",
        &[("proxies", Text("APT::Color \"0\";\n"))],
    ),
    (
        "/etc/environment",
        "EDITOR=vi\nhttps_proxy=http://proxy.example.org\nexport NO_PROXY=x\n",
        &[("proxies", Text("EDITOR=vi\n"))],
    ),
    ("/root/.netrc", "x\n", &[("credentials", Nothing)]),
    (
        "/root/.docker/config.json",
        "x\n",
        &[("credentials", Nothing)],
    ),
    (
        "/root/.cargo/credentials.toml",
        "x\n",
        &[("credentials", Nothing)],
    ),
    (
        "/home/two words/.aws/credentials",
        "x\n",
        &[("credentials", Nothing)],
    ),
    (
        "/home/two words/.config/gcloud/credentials.db",
        "x\n",
        &[("credentials", Nothing)],
    ),
    (
        "/srv/service/.git-credentials",
        "x\n",
        &[("credentials", Nothing)],
    ),
    (
        "/srv/service/.npmrc",
        "//x/:_authToken=y\nfund=false\n",
        &[("credentials", Text("fund=false\n"))],
    ),
    (
        "/srv/service/.config/pip/pip.conf",
        "index-url = https://me:secret@pypi.example.org/simple\n",
        &[(
            "credentials",
            Text("index-url = https://pypi.example.org/simple\n"),
        )],
    ),
    (
        "/etc/resolv.conf",
        "nameserver 192.0.2.1\n",
        &[("resolv-conf", Text(""))],
    ),
    (
        "/etc/hosts",
        "127.0.0.1 localhost\n# mine\n192.0.2.7 builder\n::1 localhost\n127.0.1.1 debian\n",
        &[(
            "hosts",
            Text("127.0.0.1 localhost\n# mine\n::1 localhost\n127.0.1.1 debian\n"),
        )],
    ),
    ("/var/lib/dpkg/status-old", "x\n", &[("dpkg-old", Nothing)]),
    (
        "/var/cache/debconf/config.dat-old",
        "x\n",
        &[("dpkg-old", Nothing)],
    ),
    (
        "/var/cache/ldconfig/aux-cache",
        "x\n",
        &[("ldconfig-cache", Nothing)],
    ),
    ("/etc/sudoers.d/packer", "x\n", &[("build-users", Nothing)]),
    ("/home/packer/note", "x\n", &[("build-users", Nothing)]),
    (
        "/swapped",
        "",
        &[(
            "swap",
            Text("zero 7d1f4a66-1b2c-4d3e-8f90-a1b2c3d4e5f6 own\n"),
        )],
    ),
    // What nothing may touch: beside what goes, and behind links to it.
    ("/etc/keep", "x\n", &[]),
    ("/root/keep", "x\n", &[]),
    ("/var/lib/keep", "x\n", &[]),
    ("/srv/elsewhere/config.json", "x\n", &[]),
    ("/srv/elsewhere/kept.1", "x\n", &[]),
];

/// Makes what no file is, before everything is planted.
const PREPARE: &str = r#"
rm -rf /swapfile /home/packer
grep -q ^packer: /etc/passwd || echo 'packer:x:1234:1234::/home/packer:/bin/sh' >>/etc/passwd
grep -q ^service: /etc/passwd || echo 'service:x:1235:1235::/srv/service:/bin/sh' >>/etc/passwd
echo '/swapfile none swap sw 0 0' >/etc/fstab
# Links out of what is cleaned.
mkdir -p /srv/elsewhere /home/linked /var/log
ln -sfn /srv/elsewhere /home/linked/.docker
ln -sfn /srv/elsewhere/kept.1 /var/log/link.1
dd if=/dev/zero of=/swapfile bs=4096 count=16 2>/dev/null
mkswap -q -U 7d1f4a66-1b2c-4d3e-8f90-a1b2c3d4e5f6 -L own /swapfile >/dev/null
printf secret | dd of=/swapfile bs=1 seek=20000 conv=notrunc 2>/dev/null
"#;

/// Tells of what no file is, in a file.
const INSPECT: &str = r#"
: >/swapped
if cmp -s -i 4096:0 -n 61440 /swapfile /dev/zero; then
    echo "zero $(blkid -p -o value -s UUID /swapfile) $(blkid -p -o value -s LABEL /swapfile)" >/swapped
fi
"#;

fn kind() -> &'static Kind {
    Registry::default()
        .get("cleanup")
        .expect("there is such a kind")
}

fn operations() -> &'static [&'static str] {
    match kind().param("operations").unwrap().ty {
        Type::List(Type::OneOf(names)) => names,
        ref other => panic!("{other:?}"),
    }
}

/// The script of one operation alone.
fn script(operation: &str) -> String {
    let list = Value::list(vec![Value::string(operation)]);
    let params = Params(BTreeMap::from([("operations".to_owned(), list)]));
    let lowered = (kind().lower)(&params, &StageContext::default()).unwrap();
    match &lowered.actions[0].steps[..] {
        [Step::ShowRoot, Step::Script { text }] => text.clone(),
        other => panic!("{other:?}"),
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// What is left of the planted files after each operation, by operation and path. All run in one sandbox, one after the
/// other, and everything is planted again before each.
fn run_each() -> BTreeMap<String, BTreeMap<String, String>> {
    let project = Project::empty();
    project.link(debian::base(), "debian.qcow2");
    let mut plant = format!("set -e\nrm -rf /home/linked\n{PREPARE}\n");
    for (path, before, _) in PLANTED {
        let (dir, _) = path.rsplit_once('/').unwrap();
        writeln!(
            plant,
            "mkdir -p {}/; rm -rf {}; printf %s {} >{}",
            quoted(dir),
            quoted(path),
            quoted(before),
            quoted(path)
        )
        .unwrap();
    }
    project.write("work/plant", &plant);
    project.write("work/inspect", INSPECT);
    let mut driver = format!(
        "mkdir -p {UNDER}\nperl -e 'my @a = (\"/\", \"{UNDER}\", \"\"); syscall(165, @a, 4096, $a[2]) == 0 or die $!'\n\
         work=/run/impasto/inputs/work\n"
    );
    let paths: String = PLANTED
        .iter()
        .map(|(path, ..)| format!("{} ", quoted(path)))
        .collect();
    for operation in operations() {
        project.write(&format!("work/{operation}"), &script(operation));
        writeln!(
            driver,
            "sh $work/plant\nsh -e $work/{operation}\nsh -e $work/inspect\necho '@@ {operation}' >>/tmp/report\n\
             tail -v -n +1 -- {paths} >>/tmp/report 2>/dev/null || :"
        )
        .unwrap();
    }
    project.write("work/driver", &driver);
    project.write(
        "impasto.hcl",
        r#"
recipe { name = "cleanup" }
stage "fetch" "base" { path = "debian.qcow2" }
stage "run" "each" {
  from       = stage.base
  script     = file("work/driver")
  privileged = true # mounts the root once more, as the agent does for a cleanup stage
  inputs     = { work = "work" }
  output     = { report = "/tmp/report" }
}
image "report" { files = [stage.each.files["report"]] }
"#,
    );
    let ran = project.run(&["build"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let report = project.read("out/report/report");
    let mut all = BTreeMap::new();
    for section in report.split("@@ ").skip(1) {
        let (operation, files) = section.split_once('\n').unwrap();
        let files = files.split("==> ").skip(1).map(|file| {
            let (path, text) = file.split_once(" <==\n").unwrap();
            (path.to_owned(), text.to_owned())
        });
        all.insert(operation.to_owned(), files.collect());
    }
    all
}

#[test]
fn every_operation_takes_what_it_promises_and_nothing_else() {
    let all = run_each();
    let mut wrong = String::new();
    for operation in operations() {
        let left = &all[*operation];
        let mut takes = false;
        for (path, before, after) in PLANTED {
            let expected = after
                .iter()
                .find(|(other, _)| other == operation)
                .map(|(_, left)| *left);
            takes |= expected.is_some();
            // `tail` puts a blank line between files.
            let found = left.get(*path).map(|text| {
                text.strip_suffix('\n')
                    .filter(|text| text.ends_with('\n'))
                    .unwrap_or(text)
            });
            let found = found.map(|text| if text == "\n" { "" } else { text });
            let right = match expected.unwrap_or(Text(before)) {
                Nothing => found.is_none(),
                Text(text) => found == Some(text),
            };
            if !right {
                writeln!(wrong, "{operation}: {path} is {found:?}, not {expected:?}").unwrap();
            }
        }
        assert!(takes, "no file is planted for {operation}");
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn a_cleaned_image_still_has_what_it_needs() {
    let project = Project::empty();
    project.link(debian::base(), "debian.qcow2");
    project.write(
        "impasto.hcl",
        r#"
recipe { name = "cleanup" }
stage "fetch" "base" { path = "debian.qcow2" }
stage "run" "used" {
  from     = stage.base
  commands = [
    "mkdir -p /root/.ssh && echo ssh-ed25519 >/root/.ssh/authorized_keys && echo x >/root/.bash_history",
    "echo 0123456789abcdef0123456789abcdef >/etc/machine-id && chmod 0444 /etc/machine-id && dpkg -V >/var/lib/before",
  ]
}
stage "cleanup" "clean" {
  from   = stage.used
  except = ["bash-history"]
}
stage "cleanup" "again" { from = stage.clean }
"#,
    );
    let ran = project.run(&["build"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let log = project.ok(&["log", "clean"]);
    assert!(
        log.contains("cleanup: machine-id: 1 file\n") && !log.contains("bash-history"),
        "{log}"
    );
    assert!(
        !log.contains("ssh-userdir") && !log.contains("build-users"),
        "{log}"
    );
    let guest = |line: &str| project.in_guest("clean", line);
    assert_eq!(
        guest(
            "stat -c '%s %a' /etc/machine-id; cat /root/.ssh/authorized_keys /root/.bash_history"
        ),
        "0 444\nssh-ed25519\nx\n"
    );
    // All files of all packages are as they were, and apt and dpkg work.
    assert_eq!(
        guest(
            "dpkg -V | diff /var/lib/before - && dpkg --audit && apt-get check >/dev/null && echo right"
        ),
        "right\n"
    );
    // What is clean stays so.
    let again = project.ok(&["log", "again"]);
    let touched: Vec<_> = again
        .lines()
        .filter(|line| !line.ends_with(": nothing to do"))
        .collect();
    assert_eq!(touched, ["cleanup: bash-history: 1 file"]);
}

#[test]
fn an_unknown_operation_is_an_error_that_knows_the_right_name() {
    let project = Project::with(
        "recipe { name = \"c\" }\nstage \"fetch\" \"base\" { path = \"base.qcow2\" }\n\
         stage \"cleanup\" \"clean\" {\n  from = stage.base\n  operations = [\"machine-ids\"]\n}\n\
         stage \"cleanup\" \"none\" {\n  from = stage.base\n  operations = [\"swap\"]\n  except = [\"swap\"]\n}\n",
    );
    let ran = project.run(&["validate"]);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("did you mean \"machine-id\"?"),
        "{}",
        ran.stderr
    );
    project.write(
        "impasto.hcl",
        "recipe { name = \"c\" }\nstage \"fetch\" \"base\" { path = \"base.qcow2\" }\n\
         stage \"cleanup\" \"none\" {\n  from = stage.base\n  operations = [\"swap\"]\n  except = [\"swap\"]\n}\n",
    );
    let ran = project.run(&["validate"]);
    assert!(
        ran.stderr.contains("no operations are left"),
        "{}",
        ran.stderr
    );
}
