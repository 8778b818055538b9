//! What to write in a recipe or its scripts, so that a reason is gone.
//! Knows what impasto and the usual tools offer, not contents.

use super::CauseKind;
use crate::inspect::diff::plain;

/// What helps against a reason, for a file at this path; `packed` where the reason lies within an archive.
pub(super) fn remedy(kind: CauseKind, path: &[u8], packed: bool) -> String {
    let path = plain::name(path);
    let volatile = format!(
        "`volatile = [\"{}\"]`",
        path.replace('\\', "\\\\").replace('"', "\\\"")
    );
    let cleanup = |operation: &str| {
        format!(
            "Remove it with a `cleanup` stage (operation `{operation}`, see `impasto stages cleanup`): each machine \
             creates its own."
        )
    };
    let text = match kind {
        CauseKind::MachineId => return cleanup("machine-id"),
        CauseKind::SshHostKey => return cleanup("ssh-hostkeys"),
        CauseKind::RandomSeed if !packed => {
            return format!(
                "Write {volatile} in the stage, or remove it with a `cleanup` stage (operation `random-seed` knows the usual seeds)."
            );
        }
        CauseKind::Cache | CauseKind::Log if !packed => {
            return format!(
                "Write {volatile} in the stage: the file is then restored when the stage ends. A `cleanup` stage also \
                 empties logs and removes caches."
            );
        }
        CauseKind::RandomSeed => "Create it when the machine boots, not while the image is built.",
        CauseKind::Cache | CauseKind::Log => "Remove it before the archive is made.",
        CauseKind::GeneratedKey => {
            "Create it when the machine boots, or copy in one that you keep. In the script, remove the one that a \
             package created."
        }
        CauseKind::PycTimestamp => {
            "Compile with `python3 -m compileall --invalidation-mode unchecked-hash`, or set `PYTHONDONTWRITEBYTECODE = \"1\"` in `env`."
        }
        CauseKind::BuildId => {
            "Link with `-Wl,--build-id=none` or `-Wl,--build-id=sha1`, and compile with `-ffile-prefix-map=DIR=.` so that no path is in it."
        }
        CauseKind::DirectoryOrder => {
            "Sort in the script: `find … | LC_ALL=C sort`, `ls` without `-U`; for hashes `PYTHONHASHSEED=0`."
        }
        CauseKind::Collation => {
            "Sort with `LC_ALL=C sort`, or set `LC_ALL = \"C\"` in the stage's `env`."
        }
        CauseKind::Initramfs => {
            "Set its files' times with `touch -h -d @$SOURCE_DATE_EPOCH` and pack it with `find . | LC_ALL=C sort | cpio -o -H newc --reproducible`."
        }
        CauseKind::ArchiveOrder => {
            "Pack in a fixed order: `tar --sort=name`, `find … | LC_ALL=C sort | cpio --reproducible`, `… | LC_ALL=C \
             sort | zip -@`."
        }
        CauseKind::ArchiveTimes => {
            "Pack with fixed times: `tar --mtime=@$SOURCE_DATE_EPOCH`, `ar D`, `zip -X` after `touch -d @$SOURCE_DATE_EPOCH`."
        }
        CauseKind::ArchiveOwners => {
            "Pack without owners and inodes: `tar --owner=0 --group=0 --numeric-owner --mode=go=rX,u+rw`, `ar D`, `cpio --reproducible`."
        }
        CauseKind::GzipTime => "Compress with `gzip -n`.",
        CauseKind::BuildTime => {
            "Write `date -u -d @$SOURCE_DATE_EPOCH` instead of the time of the build, or leave it out."
        }
        CauseKind::HostName => {
            "Write a fixed name in the recipe instead of the output of `hostname` and `uname -n`."
        }
        CauseKind::Locale => {
            "Set `LC_ALL=C` in the script, or `LC_ALL = \"C\"` in the stage's `env`."
        }
        CauseKind::TimeZone => {
            "Set `TZ = \"UTC\"` in the stage's `env`, or use `date -u` in the script."
        }
        CauseKind::BuildPath => {
            "Use paths that do not depend on the location of the recipe; compile with `-ffile-prefix-map=DIR=.`."
        }
        CauseKind::CpuCount => {
            "Write a fixed number instead of the output of `nproc`; compress with one thread (`-T1`) if the output \
             depends on their number."
        }
        CauseKind::Umask => {
            "Set the mode in the recipe or script: `mode = \"0644\"`, `chmod`, or `umask 022` at its beginning."
        }
        CauseKind::RandomId => {
            "Write a fixed identifier in the recipe, or make it from a name (`uuidgen --sha1`)."
        }
        CauseKind::PasswordSalt => {
            "Write the hashed password in the recipe, made once with `openssl passwd -6`, or hash with a fixed salt (`-salt`)."
        }
        CauseKind::ModificationTime => {
            "Set its time in the script: `touch -h -d @$SOURCE_DATE_EPOCH FILE`."
        }
        CauseKind::PackageVersion => {
            "Install with a `packages` stage, whose versions are locked, or from a repository that does not change (`snapshot`)."
        }
        CauseKind::Checksums => "Fix the files that it lists.",
    };
    text.to_owned()
}
