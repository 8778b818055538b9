//! The way out of errors that come from below the command line.
//! Knows errors' fields; decides no exit code.

mod cause;
mod job;

use impasto_store::Error as StoreError;

pub(crate) use job::{CommandHints, job_help};

use crate::base::host::User;
use crate::engine::cause::{About, of_error};
use crate::engine::graph::SelectorError;
use crate::lock::PackageHint;
use crate::net::{DownloadCause, DownloadError};
use crate::recipe::scope::Outside;
use crate::recipe::{Lack, suggest};
use crate::sandbox::SandboxError;
use crate::source::git::GitError;
use crate::source::{SignatureError, SourceLookupError, SumsError};
use crate::vm::{MachineType, VmError};

/// What gives `qemu-system-x86_64` on Debian and Ubuntu.
pub(super) const QEMU_PACKAGES: &str = "apt-get install qemu-system-x86 qemu-utils";
/// What gives UEFI firmware on Debian and Ubuntu.
pub(super) const OVMF_PACKAGES: &str = "apt-get install ovmf";

/// The way out of a store's error.
pub(crate) fn store_help(error: &StoreError) -> Option<String> {
    Some(match error {
        StoreError::ReadOnly { .. } => "choose a store that you may write to with --store".to_owned(),
        StoreError::UnknownFormat { path, .. } => {
            format!("remove it (rm -r {}), or choose another with --store", path.display())
        }
        StoreError::FormatDamaged { path } => format_help(path.parent().unwrap_or(path)),
        StoreError::FormatMissing { path } => format_help(path),
        StoreError::NotSound { path, .. } => {
            format!("remove the store (rm -r {}), or choose another with --store", path.display())
        }
        StoreError::WrongType { .. } => {
            "`impasto store verify --repair` moves it to the store's trash; its results are built again".to_owned()
        }
        StoreError::RootDamaged { path, .. } => format!(
            "build that recipe once as a whole (`impasto build` without selectors), which writes it again; if the \
             recipe no longer exists, delete it: rm -r {}",
            path.display()
        ),
        StoreError::NotAStore { .. } => "choose a store, or an empty or missing directory, with --store".to_owned(),
        StoreError::NotYours { path, owner, caller } => {
            let name = |uid: &u32| User::by_uid(*uid).map_or(format!("'#{uid}'"), |user| user.name);
            let path = path.display();
            format!(
                "choose a store of {} with --store, or run impasto as {} (sudo keeps that user's store)\n\
                 if its files were restored with another owner, as CI caches do: chown -R {caller} {path}",
                name(caller),
                name(owner),
            )
        }
        StoreError::WorldWritable { path } => format!("remove that permission: chmod o-w {}", path.display()),
        StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            "choose a store that you may write to with --store".to_owned()
        }
        error => return host_help(error),
    })
}

/// The way out of what the system refused.
pub(crate) fn host_help(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    of_error(error).map(|cause| cause::cause_help(&cause, &About::default(), "").join("\n"))
}

/// What to do about a store without a valid `format`.
fn format_help(store: &std::path::Path) -> String {
    let store = store.display();
    format!(
        "remove the store (rm -r {store}), or choose another with --store\n\
         if its objects are intact, `impasto store verify --repair --new-format --store {store}` recreates `format`"
    )
}

/// The way out of a sandbox's error.
pub(crate) fn sandbox_help(error: &SandboxError) -> Option<String> {
    Some(match error {
        SandboxError::NotRoot { .. } => "run impasto as root, for example with sudo".to_owned(),
        SandboxError::Policy(_) => {
            "choose one that exists with --mirror URL or IMPASTO_MIRROR".to_owned()
        }
        SandboxError::HostLacks(_) => {
            "`impasto doctor` shows what is missing and how to install it".to_owned()
        }
        SandboxError::Root(_) | SandboxError::NoRoot(_) => {
            "select one with `root` in the stage that the disk comes from: \
             its number, \"LABEL=…\" or \"UUID=…\""
                .to_owned()
        }
        error => return host_help(error),
    })
}

/// The way out where a recipe cannot be read because something is not there yet.
pub(crate) fn recipe_help(lacks: Lack) -> String {
    match lacks {
        Lack::Path => "name a directory or an `.hcl` file; `impasto init` creates a recipe to start from",
        Lack::Recipe => "`impasto init` creates one to start from",
        Lack::Stages => {
            "add one, such as `stage \"fetch\" \"base\" { path = \"base.qcow2\" }`; `impasto stages` lists the kinds"
        }
    }
    .to_owned()
}

/// The way out where packages cannot be had.
pub(crate) fn package_help(hint: &PackageHint) -> String {
    match hint {
        PackageHint::Text(text) => text.clone(),
        PackageHint::Settle(text) => format!("{text}: impasto update"),
        PackageHint::Mirror(text) => format!("{text}: --mirror URL, or IMPASTO_MIRROR"),
        PackageHint::Gone => "lock the packages again (impasto update), or set IMPASTO_SNAPSHOT to a snapshot of the \
                              archive, such as https://HOST/archive/{archive}/{timestamp}/"
            .to_owned(),
    }
}

/// The way out where a file cannot be downloaded.
pub(crate) fn download_help(error: &DownloadError) -> Option<String> {
    match &error.cause {
        DownloadCause::RedirectHost { host, .. } => Some(format!(
            "if the file may come from there, add `redirects = [\"{host}\"]` to the stage"
        )),
        DownloadCause::Offline => Some("get it while there is a network: impasto fetch".to_owned()),
        DownloadCause::WebPage => Some(
            "open the URL in a browser: the server may want a login, or have moved the file"
                .to_owned(),
        ),
        _ => host_help(error),
    }
}

/// The way out where what a stage gets from elsewhere cannot be had, or not be believed.
pub(crate) fn source_help(error: &SourceLookupError) -> Option<String> {
    match error {
        SourceLookupError::Download(error) => match &error.cause {
            DownloadCause::Checksum { .. } => Some(
                "the list of checksums and the file are of different versions: try again later, or name a mirror"
                    .to_owned(),
            ),
            DownloadCause::TimedOut { .. } => Some("raise the stage's `timeout`".to_owned()),
            _ => download_help(error),
        },
        SourceLookupError::Sums { source, .. } => match source {
            SumsError::NotListed { name, listed } => {
                let listed: Vec<_> = listed.iter().map(String::as_str).collect();
                suggest::did_you_mean("it lists", name, listed)
            }
            SumsError::NoList => Some(
                "lines of a list are `DIGITS  NAME`, as sha256sum writes them, or `SHA256 (NAME) = DIGITS`"
                    .to_owned(),
            ),
            SumsError::Weak { .. } => {
                Some("name a list with SHA-256 or SHA-512, or put the file's own checksum into the recipe".to_owned())
            }
            SumsError::Twice { .. } => {
                Some("put the file's own checksum into the recipe: `checksum = \"sha256:…\"`".to_owned())
            }
        },
        SourceLookupError::Signature { source, .. } => match source {
            SignatureError::UnknownKey { .. } => {
                Some("if that key may sign it, add it to `signed_by`".to_owned())
            }
            SignatureError::ExpiredKey { .. } => Some(
                "get the current key from its owner: its life may have been extended".to_owned(),
            ),
            SignatureError::Keyring { .. } => {
                Some("use an armored public key, such as file(\"keys/vendor.asc\")".to_owned())
            }
            SignatureError::Bad { .. } => Some(
                "the list and its signature may be of different versions: try again later, or name a mirror"
                    .to_owned(),
            ),
            _ => None,
        },
        SourceLookupError::NoSignature { .. } => Some(
            "remove `signed_by` if the list may be used without a signature".to_owned(),
        ),
        SourceLookupError::Address { .. } => Some("write https://HOST/PATH".to_owned()),
        SourceLookupError::Read { .. } => Some(
            "`file:./NAME` is a list beside the recipe, `file:NAME` one beside the URL".to_owned(),
        ),
        SourceLookupError::Git(error) => git_help(error),
        SourceLookupError::Downloader(_) => host_help(error),
    }
}

/// The way out where a git repository does not give what is wanted.
pub(crate) fn git_help(error: &GitError) -> Option<String> {
    Some(match error {
        GitError::NoGit => "install it: apt-get install git".to_owned(),
        GitError::NoRef {
            reference, known, ..
        } => {
            let known: Vec<_> = known.iter().map(String::as_str).collect();
            return suggest::did_you_mean("it has", reference, known);
        }
        GitError::Ambiguous { reference, .. } => {
            format!("write refs/heads/{reference} or refs/tags/{reference}")
        }
        GitError::NoCommit { .. } => {
            "its history may have been rewritten: name another commit, or lock what there is now: impasto update"
                .to_owned()
        }
        GitError::NoDirectory { .. } => "name a directory that it has in `subdirectory`".to_owned(),
        GitError::Submodule { .. } => {
            "leave it out (`submodules = false`), and fetch what it needs by a stage of its own".to_owned()
        }
        GitError::Offline { .. } => "get it while there is a network: impasto fetch".to_owned(),
        GitError::TimedOut { .. } => "raise the stage's `timeout`".to_owned(),
        GitError::Failed { .. } => {
            "git asks for no password here: a private repository is reached by ssh://, with a key in your agent"
                .to_owned()
        }
        GitError::Io { source, .. } => {
            return Outside::of(source).map(Outside::help).or_else(|| host_help(error));
        }
        GitError::TooLarge { .. } => {
            "if it should be that large, raise the limit: IMPASTO_UNPACK_LIMIT=128GiB".to_owned()
        }
        GitError::Malformed { .. } | GitError::Tree { .. } | GitError::Cancelled => return None,
    })
}

/// The way out of a virtual machine's error.
pub(crate) fn vm_help(error: &VmError) -> Option<String> {
    Some(match error {
        VmError::NoQemu => format!("install it: {}", QEMU_PACKAGES),
        VmError::NoFirmware {
            machine: MachineType::Q35,
            ..
        } => format!(
            "install it: {}; or boot with --firmware bios",
            OVMF_PACKAGES
        ),
        VmError::NoFirmware {
            machine: MachineType::Virt,
            ..
        } => "install it: apt-get install qemu-efi-aarch64".to_owned(),
        VmError::NoBios => {
            "boot it under UEFI: `--firmware uefi`, in a test `firmware = [\"uefi\"]`".to_owned()
        }
        VmError::NoProgram { package, .. } => format!("install it: apt install {package}"),
        VmError::TooSmall { .. } => "make --disk-size larger, or omit it".to_owned(),
        VmError::Gate { .. } => {
            "impasto boots only self-contained qcow2 files: `qemu-img convert -O qcow2` makes one \
                                 from an image that you trust"
                .to_owned()
        }
        VmError::Format { format, .. } => format.help(),
        VmError::Unpack { source, .. } => return source.help(),
        VmError::Failed { words, .. } if words.contains("kvm") || words.contains("KVM") => {
            "boot with --accel tcg, which works everywhere".to_owned()
        }
        VmError::Failed { words, .. } if words.contains("host forwarding") => {
            "another program uses that port: choose another one, or --ssh-port auto".to_owned()
        }
        VmError::Failed { words, .. } if words.contains("shared \"write\" lock") => {
            "another program has the image open for writing".to_owned()
        }
        _ => return None,
    })
}

/// The way out of a selector's error.
pub(crate) fn selector_help(error: &SelectorError) -> Option<String> {
    let (name, known, what) = match error {
        SelectorError::Syntax { .. } => {
            return Some(
                "a selector is STAGE or image.NAME, with an optional [axis=value,…]".to_owned(),
            );
        }
        SelectorError::Stage { name, known } => (name, known, "stages"),
        SelectorError::Image { name, known } => (name, known, "images"),
        SelectorError::Axis { axis, known } => (axis, known, "axes"),
        SelectorError::Combination {
            values: Some((axis, known)),
            ..
        } => {
            return Some(format!("values of `{axis}`: {}", known.join(", ")));
        }
        SelectorError::Combination { values: None, .. } => {
            return Some("`impasto plan` lists what exists".to_owned());
        }
    };
    if known.is_empty() {
        return Some(format!("the recipe has no {what}"));
    }
    Some(
        match suggest::nearest(name, known.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the {what} are: {}", known.join(", ")),
        },
    )
}
