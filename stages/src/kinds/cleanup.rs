//! `cleanup`: takes out of an image what belongs to the machine that made it, by named operations.
//! Knows parameters and the operations' scripts, not how they are run.

use crate::action::Step;
use crate::error::ParamError;
use crate::kinds::common;
use crate::params::Params;
use crate::registry::{Kind, Lowered, Makes, ParamSpec, StageContext, Type};

pub(crate) const KIND: Kind = Kind {
    name: "cleanup",
    version: 1,
    summary: "removes what belongs to one machine: identity, keys, logs, caches, credentials",
    example: r#"stage "cleanup" "clean" {
  from   = stage.tools
  except = ["cron-spool"]
}"#,
    makes: Makes::Disk,
    files: &[],
    params: &[
        common::FROM,
        PARAMS,
        common::CUTOFF,
        common::SANDBOXED_BY_KIND,
    ],
    lower,
    expand: None,
};

const PARAMS: &[ParamSpec] = &[
    ParamSpec::optional("operations", Type::List(&Type::OneOf(NAMES)), HELP),
    ParamSpec::optional(
        "except",
        Type::List(&Type::OneOf(NAMES)),
        "Operations to skip.",
    ),
];

struct Operation {
    /// Its name, virt-sysprep's where it has one.
    name: &'static str,
    /// Whether it is done where none are named.
    default: bool,
    /// Lines of shell, in the terms of `cleanup.sh`.
    script: &'static str,
}

/// Makes the list of operations, of their names, and their help: `on` or `off`, name, one line, shell.
macro_rules! operations {
    (@default on) => { true };
    (@default off) => { false };
    (@mark on) => { "" };
    (@mark off) => { " (only if named)" };
    ($($when:ident $name:literal $help:literal $script:literal)*) => {
        const OPERATIONS: &[Operation] =
            &[$(Operation { name: $name, default: operations!(@default $when), script: $script }),*];
        const NAMES: &[&str] = &[$($name),*];
        const HELP: &str = concat!(
            "Operations to run, in the order of this list. Default: all except those that run only if named.",
            $("\n", $name, operations!(@mark $when), ": ", $help),*
        );
    };
}

// The names and the work of virt-sysprep, where it has an operation that means something on Debian; then what it forgets.
operations! {
    on "machine-id" "Empties /etc/machine-id, so that each machine gets its own when it boots."
r#"
emptied /etc/machine-id
[ -L /var/lib/dbus/machine-id ] || gone /var/lib/dbus/machine-id
"#
    on "ssh-hostkeys" "Removes the host keys of the SSH server. If nothing in the image makes new ones at boot, adds a \
                       unit that does."
r#"
gone /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub
# Without keys the server does not start, and cloud-init makes them only where it finds its data.
if [ -x /usr/sbin/sshd ] && [ -d /lib/systemd/system ] &&
    ! grep -qrsF 'ssh-keygen -A' /etc/systemd/system /lib/systemd/system
then
    unit=impasto-ssh-keygen.service
    mkdir -p /etc/systemd/system/multi-user.target.wants
    cat >/etc/systemd/system/$unit <<'UNIT'
[Unit]
Description=Make the SSH host keys of this machine
Before=ssh.service ssh.socket sshd.service
ConditionPathExistsGlob=!/etc/ssh/ssh_host_*_key

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/ssh-keygen -A

[Install]
WantedBy=multi-user.target
UNIT
    ln -s /etc/systemd/system/$unit /etc/systemd/system/multi-user.target.wants/$unit
    echo "cleanup: $name: $unit makes new ones at boot"
fi
"#
    off "ssh-userdir" "Removes ~/.ssh of every user, including authorized keys."
r#"
at_home .ssh
"#
    on "ssh-userkeys" "Removes private keys and known hosts from ~/.ssh of every user; authorized keys stay."
r#"
at_home .ssh/known_hosts '.ssh/known_hosts.*' '.ssh/id_*.pub'
unless_public() {
    if [ -f "$1" ] && head -n 1 -- "$1" | grep -qE -e '-----BEGIN .*PRIVATE KEY-----|^PuTTY-User-Key-File'; then gone "$1"; fi
}
each_at_home '.ssh/*' unless_public
"#
    on "bash-history" "Removes histories of Bourne-family shells."
r#"
at_home .bash_history .sh_history .ash_history .ksh_history '.bash_history-*.tmp'
"#
    on "zsh-history" "Removes histories of zsh."
r#"
at_home .zsh_history .zhistory .histfile .zsh_sessions
"#
    on "program-history" "Removes histories of other programs: python, node, psql, mysql, sqlite, less, editors, wget."
r#"
at_home .python_history .node_repl_history .psql_history .mysql_history .mariadb_history .sqlite_history \
    .rediscli_history .irb_history .gdb_history .lesshst .local/state/lesshst .viminfo .wget-hsts .lua_history \
    .local/share/fish/fish_history .nano/search_history .local/share/nano/search_history .rnd
"#
    on "logfiles" "Empties the logs under /var/log and removes rotated ones."
r#"
below /var/log ! -path '/var/log/journal/*' -type f '(' -name '*.gz' -o -name '*.xz' -o -name '*.bz2' -o -name '*.zst' \
    -o -name '*.old' -o -name '*.[0-9]' -o -name '*.[0-9][0-9]' -o -name '*-[0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]' ')'
gone /var/log/installer
logs() { [ ! -d /var/log ] || find /var/log -xdev -type f -size +0 ! -path '/var/log/journal/*' \
    ! -name wtmp ! -name btmp ! -name lastlog ! -name faillog ! -name tallylog ! -path '*/account/*' "$@"; }
touched=$((touched + $(logs -print | wc -l)))
logs -exec sh -c 'for log; do : >"$log"; done' sh {} +
"#
    on "journald" "Removes systemd's journal, but keeps its directory."
r#"
below /var/log/journal
"#
    on "utmp" "Empties the records of who logged in, and when."
r#"
emptied /var/log/wtmp /var/log/btmp /var/log/lastlog /var/log/faillog /var/log/tallylog
gone /var/log/wtmp.[0-9]* /var/log/btmp.[0-9]* /var/lib/wtmpdb/wtmp.db /var/lib/lastlog/lastlog2.db
"#
    on "pacct-log" "Removes process accounting records."
r#"
emptied /var/log/account/pacct /var/account/pacct
gone /var/log/account/pacct.* /var/account/pacct.*
"#
    on "package-manager-cache" "Removes apt's lists, archives and caches."
r#"
below /var/lib/apt/lists ! -type d
below /var/cache/apt/archives ! -type d
below /var/lib/apt/periodic ! -type d
gone /var/cache/apt/pkgcache.bin /var/cache/apt/srcpkgcache.bin
"#
    on "tmp-files" "Removes the contents of /tmp, /var/tmp and /run in the image, which are hidden while it is built."
r#"
below /var/tmp
# While a stage runs, memory lies over /tmp and /run; below the root that the agent shows once more nothing does.
below /run/impasto/root/tmp
below /run/impasto/root/run
"#
    on "crash-data" "Removes crash reports and core dumps."
r#"
below /var/crash
below /var/log/dump
below /var/spool/abrt
below /var/lib/systemd/coredump
"#
    on "cron-spool" "Removes users' crontabs and at jobs."
r#"
below /var/spool/cron ! -type d ! -name .SEQ
below /var/spool/at ! -type d ! -name .SEQ
below /var/spool/anacron ! -type d
"#
    on "mail-spool" "Removes mail, delivered and queued."
r#"
below /var/mail
below /var/spool/mail
for queue in active bounce corrupt defer deferred flush hold incoming maildrop saved; do
    below "/var/spool/postfix/$queue" ! -type d
done
below /var/spool/exim4/input ! -type d
below /var/spool/exim4/msglog ! -type d
"#
    on "dhcp-client-state" "Removes leases of DHCP clients."
r#"
gone /var/lib/dhcp/dhclient*.lease* /var/lib/dhclient/* /var/lib/dhcpcd/*.lease* /var/lib/dhcpcd5/* \
    /var/lib/NetworkManager/*.lease /var/lib/NetworkManager/secret_key /var/lib/NetworkManager/seen-bssids \
    /var/lib/NetworkManager/timestamps
"#
    on "dhcp-server-state" "Removes leases that a DHCP server gave."
r#"
gone /var/lib/dhcp/dhcpd*.leases* /var/lib/dhcpd/* /var/lib/misc/dnsmasq.leases /var/lib/kea/*
"#
    on "udev-persistent-net" "Removes udev rules that tie interface names to one machine's hardware."
r#"
gone /etc/udev/rules.d/70-persistent-net.rules /etc/udev/rules.d/75-persistent-net-generator.rules \
    /etc/systemd/network/10-persistent-*.link
"#
    on "net-hwaddr" "Removes hardware addresses from /etc/network/interfaces."
r#"
edited '/^[[:space:]]*hwaddress[[:space:]]/d' /etc/network/interfaces /etc/network/interfaces.d/*
"#
    on "net-nmconn" "Removes NetworkManager's connections."
r#"
gone /etc/NetworkManager/system-connections/*.nmconnection
"#
    off "net-hostname" "Empties /etc/hostname, so that DHCP or cloud-init sets the name."
r#"
emptied /etc/hostname
"#
    on "passwd-backups" "Removes backup copies of the user and group databases."
r#"
gone /etc/passwd- /etc/shadow- /etc/group- /etc/gshadow- /etc/subuid- /etc/subgid- \
    /var/backups/passwd.bak /var/backups/shadow.bak /var/backups/group.bak /var/backups/gshadow.bak
"#
    on "backup-files" "Removes backup files of editors and packages in /etc and /root, and the contents of \
                       /var/backups."
r#"
for top in /etc /root; do
    below "$top" -type f '(' -name '*~' -o -name '*.bak' -o -name '*.dpkg-old' -o -name '*.dpkg-dist' -o -name '*.dpkg-new' \
        -o -name '*.dpkg-tmp' -o -name '*.ucf-old' -o -name '*.ucf-dist' ')'
done
below /var/backups ! -type d
"#
    on "blkid-tab" "Removes blkid's cache of file systems."
r#"
gone /etc/blkid.tab /etc/blkid.tab.old /etc/blkid /var/run/blkid.tab
"#
    on "pam-data" "Removes PAM's and sudo's records about users."
r#"
below /var/lib/sudo ! -type d
below /var/db/sudo ! -type d
below /var/lib/pam_timestamp
"#
    on "lvm-system-devices" "Removes LVM's list of this machine's devices, its backups and its cache."
r#"
gone /etc/lvm/devices/system.devices /etc/lvm/backup/* /etc/lvm/archive/* /etc/lvm/cache/.cache
"#
    on "iscsi-name" "Makes open-iscsi generate its own initiator name when it starts."
r#"
[ ! -s /etc/iscsi/initiatorname.iscsi ] ||
    edited 's/^InitiatorName=.*/GenerateName=yes/' /etc/iscsi/initiatorname.iscsi
"#
    on "kerberos-hostkeytab" "Removes the host's Kerberos key."
r#"
gone /etc/krb5.keytab
"#
    on "sssd-db" "Removes caches and databases of sssd."
r#"
for part in db mc pubconf/krb5.include.d gpo_cache; do below "/var/lib/sss/$part" ! -type d; done
"#
    on "samba-db" "Removes databases of samba and winbind."
r#"
below /var/lib/samba -type f '(' -name '*.tdb' -o -name '*.ldb' ')'
below /var/cache/samba ! -type d
"#
    on "puppet-data" "Removes puppet's keys and state."
r#"
for top in /var/lib/puppet /etc/puppetlabs/puppet/ssl /etc/puppet/ssl /opt/puppetlabs/puppet/cache; do below "$top" ! -type d; done
"#
    on "dovecot-data" "Removes dovecot's state."
r#"
below /var/lib/dovecot ! -type d
"#
    on "cloud-init" "Removes cloud-init's state, its logs, and what it wrote for network, ssh and sudo, so that it \
                     runs again from scratch."
r#"
below /var/lib/cloud ! -path '/var/lib/cloud/seed*' ! -type d
gone /var/log/cloud-init.log /var/log/cloud-init-output.log /etc/netplan/50-cloud-init.yaml \
    /etc/network/interfaces.d/50-cloud-init /etc/network/interfaces.d/50-cloud-init.cfg \
    /etc/ssh/sshd_config.d/50-cloud-init.conf /etc/sudoers.d/90-cloud-init-users \
    /etc/systemd/network/10-cloud-init-*.network /etc/NetworkManager/system-connections/cloud-init-*.nmconnection \
    /etc/NetworkManager/conf.d/30-cloud-init-ip6-addr-gen-mode.conf
"#
    on "cloud-init-seed" "Removes seed data for cloud-init from the image, with the passwords and keys in it."
r#"
below /var/lib/cloud/seed
"#
    on "random-seed" "Removes random seeds and the key of systemd's credentials; each machine makes its own."
r#"
gone /var/lib/systemd/random-seed /var/lib/urandom/random-seed /var/lib/misc/random-seed \
    /var/lib/systemd/credential.secret /boot/efi/loader/random-seed /efi/loader/random-seed
"#
    on "systemd-state" "Removes systemd's saved clock and timer stamps, and saved rfkill and backlight states."
r#"
gone /var/lib/systemd/timesync/clock
below /var/lib/systemd/timers ! -type d
below /var/lib/systemd/rfkill ! -type d
below /var/lib/systemd/backlight ! -type d
"#
    on "apt-credentials" "Removes apt's passwords, from credential files and from the URLs of sources."
r#"
gone /etc/apt/auth.conf
below /etc/apt/auth.conf.d ! -type d
edited 's#://[^/@[:space:]]+@#://#g' /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources \
    /etc/apt/mirrors/*
"#
    on "proxies" "Removes proxies from the configuration of apt, wget and docker, from /etc/environment and \
                  /etc/profile.d."
r#"
gone /etc/apt/apt.conf.d/*proxy* /etc/profile.d/*proxy*.sh /etc/systemd/system/docker.service.d/*proxy*.conf
edited '/^[^#]*Acquire::[A-Za-z]+::[Pp]roxy/d' /etc/apt/apt.conf /etc/apt/apt.conf.d/*
edited '/^[[:space:]]*(export[[:space:]]+)?([Hh][Tt][Tt][Pp][Ss]?|[Ff][Tt][Pp]|[Aa][Ll][Ll]|[Nn][Oo])_([Pp][Rr][Oo][Xx][Yy])[[:space:]]*=/d' \
    /etc/environment /etc/wgetrc
"#
    on "credentials" "Removes files with passwords and tokens from every home directory: git, npm, pip, cargo, docker, \
                      clouds, databases."
r#"
at_home .netrc .git-credentials .config/git/credentials .config/gh/hosts.yml .config/hub .config/glab-cli/config.yml \
    .cargo/credentials .cargo/credentials.toml .pypirc .gem/credentials .docker/config.json \
    .config/containers/auth.json .aws/credentials .aws/sso/cache .aws/cli/cache .config/gcloud .boto .azure .kube/config \
    .terraform.d/credentials.tfrc.json .vault-token .pgpass .my.cnf .mylogin.cnf .s3cfg .config/rclone/rclone.conf \
    .subversion/auth .gnupg/private-keys-v1.d .gnupg/secring.gpg .config/pulumi .pulumi/credentials.json
each_at_home .npmrc edited '/(_authToken|_auth|_password)[[:space:]]*=/d'
each_at_home .yarnrc.yml edited '/npmAuth(Token|Ident)/d'
each_at_home .config/pip/pip.conf edited 's#://[^/@[:space:]]+@#://#g'
each_at_home .pip/pip.conf edited 's#://[^/@[:space:]]+@#://#g'
each_at_home .gitconfig edited 's#://[^/@[:space:]]+@#://#g'
edited 's#://[^/@[:space:]]+@#://#g' /etc/pip.conf /etc/gitconfig
edited '/(_authToken|_auth|_password)[[:space:]]*=/d' /etc/npmrc
"#
    on "resolv-conf" "Empties /etc/resolv.conf unless it is a symbolic link: its name servers are those of the build \
                      host's network."
r#"
emptied /etc/resolv.conf
"#
    on "hosts" "Removes all entries but the local machine's from /etc/hosts."
r#"
edited '/^[[:space:]]*(#|$|127\.|::1[[:space:]]|f[ef]0[0-9]::)/!d' /etc/hosts
"#
    on "swap" "Empties swap files and partitions that /etc/fstab names; their UUIDs and labels stay."
r#"
empty_swap() {
    id=$(blkid -p -o value -s UUID "$1") || return 0
    label=$(blkid -p -o value -s LABEL "$1") || label=
    size=$(blockdev --getsize64 "$1" 2>/dev/null) || size=$(stat -c %s "$1")
    # The first page is the header, which stays as it is.
    if dd if=/dev/zero bs=4096 count=$((size / 4096 - 1)) 2>/dev/null | cmp -s -i 0:4096 -n $((size / 4096 * 4096 - 4096)) - "$1"
    then return 0; fi
    dd if=/dev/zero of="$1" bs=4096 seek=1 count=$((size / 4096 - 1)) conv=notrunc 2>/dev/null
    mkswap -q -U "$id" ${label:+-L "$label"} "$1" >/dev/null
    touched=$((touched + 1))
}
if [ -f /etc/fstab ] && has mkswap && has blkid; then
    while read -r device _ type _; do
        [ "$type" = swap ] || continue
        case $device in
        UUID=*) device=/dev/disk/by-uuid/${device#UUID=} ;;
        LABEL=*) device=/dev/disk/by-label/${device#LABEL=} ;;
        PARTUUID=*) device=/dev/disk/by-partuuid/${device#PARTUUID=} ;;
        esac
        if [ -f "$device" ] && [ ! -L "$device" ] || [ -b "$device" ]; then empty_swap "$device"; fi
    done </etc/fstab
fi
"#
    on "dpkg-old" "Removes dpkg's and debconf's backup copies of their databases."
r#"
gone /var/lib/dpkg/*-old /var/cache/debconf/*-old
"#
    on "ldconfig-cache" "Removes ldconfig's auxiliary cache, which contains inode numbers."
r#"
gone /var/cache/ldconfig/aux-cache
"#
    off "build-users" "Removes the users packer, builder and vagrant, which other image builders leave behind, and \
                       their sudo rights."
r#"
for user in packer builder vagrant; do
    gone "/etc/sudoers.d/$user" "/etc/sudoers.d/90-$user" "/etc/sudoers.d/99_$user"
    grep -q "^$user:" /etc/passwd || continue
    userdel -f -r "$user" 2>/dev/null || [ $? = 12 ]
    touched=$((touched + 1))
done
"#
}

fn lower(params: &Params, context: &StageContext) -> Result<Lowered, Vec<ParamError>> {
    let mut errors = Vec::new();
    let (mut action, secrets) =
        common::sandboxed(KIND.name, KIND.version, params, context, &mut errors);
    let (named, except) = (params.texts("operations"), params.texts("except"));
    let has = |list: &[String], name: &str| list.iter().any(|listed| listed == name);
    let all = params.get("operations").is_none();
    let wanted = |operation: &&Operation| {
        let named = if all {
            operation.default
        } else {
            has(&named, operation.name)
        };
        named && !has(&except, operation.name)
    };
    let mut text = include_str!("cleanup.sh").to_owned();
    let mut count = 0;
    for operation in OPERATIONS.iter().filter(wanted) {
        text += &format!(
            "begin {}\n{}\nend\n\n",
            operation.name,
            operation.script.trim()
        );
        count += 1;
    }
    if count == 0 {
        let error = ParamError::stage("there is nothing to do: no operations are left");
        errors.push(error.help("omit `operations` to run all of them, or name some"));
    }
    action.steps.extend([Step::ShowRoot, Step::Script { text }]);
    if errors.is_empty() {
        Ok(Lowered {
            actions: vec![action],
            secrets,
            request: None,
        })
    } else {
        Err(errors)
    }
}
