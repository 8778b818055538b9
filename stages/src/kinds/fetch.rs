//! `fetch`: a disk image, a file or a tree of files: from a local path, by URL, or of a git repository.
//! Knows parameters and steps; does no I/O itself.

mod git;

use impasto_store::sha256::{Sha256, Sha512};

use crate::action::{ActionTemplate, Executor, ImportAs, Slot, Step};
use crate::error::ParamError;
use crate::kinds::common;
use crate::params::Params;
use crate::registry::{Kind, Lowered, Makes, ParamSpec, StageContext, Type};
use crate::source::{FileRequest, SourceChecksum, SourceRequest, SumsPlace};

pub(crate) const KIND: Kind = Kind {
    name: "fetch",
    version: 2,
    summary: "fetches a disk image, a file or a tree of files into the store: from a path, a URL or git",
    example: r#"stage "fetch" "base" {
  url      = "https://example.org/base.qcow2"
  checksum = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
}"#,
    makes: Makes::DiskOrFile,
    files: &[],
    params: &[PARAMS, common::CUTOFF],
    lower,
    expand: None,
};

/// The version of stages that say what the file is, which never changed. Version 2 takes VMDK, VHD, VHDX and VDI for disks
/// where nobody says: version 1 made files of them.
const TOLD: u32 = 1;

/// What stands in a step for a checksum that the lock is to say.
const UNKNOWN: Sha256 = Sha256([0; 32]);

const PARAMS: &[ParamSpec] = &[
    ParamSpec::optional(
        "path",
        Type::FileOrDirectory,
        "A file beside the recipe, or for a tree also a directory. Its content is part of the key, its name and time are \
         not.",
    ),
    common::IGNORE,
    ParamSpec::optional(
        "url",
        Type::Text,
        "The file's http or https URL. What it serves is found out once and written into the lock, unless `checksum` is a \
         SHA-256. The URL is not part of the key.",
    ),
    ParamSpec::optional(
        "mirrors",
        Type::List(&Type::Text),
        "Further URLs of the same file, tried in order where the first does not give it.",
    ),
    ParamSpec::optional(
        "checksum",
        Type::Text,
        "What the file must be: `sha256:` or `sha512:` and hexadecimal digits, or `file:` and a list of checksums: a name \
         beside the file's URL (`file:SHA512SUMS`), a URL, or a path beside the recipe (`file:./SHA256SUMS`).",
    ),
    ParamSpec::optional(
        "signed_by",
        Type::Either(&[Type::Text, Type::List(&Type::Text)]),
        "The armored keys of which one must have signed the list of checksums, such as file(\"keys/vendor.asc\"). The \
         signature is in the list, or beside it as NAME.sign, .gpg, .asc or .sig.",
    ),
    ParamSpec::optional(
        "redirects",
        Type::List(&Type::Text),
        "Hosts beside that of the URL that its server may redirect to, such as \"cdn.example.org\", or \
         \"*.example.org\" for all below it. From https to http is never followed.",
    ),
    ParamSpec::optional(
        "git",
        Type::Text,
        "A git repository, of which a commit's files are the tree: an https, http or ssh URL, or the path of a directory. The \
         host's git gets it; nothing of the repository is run.",
    ),
    ParamSpec::optional(
        "ref",
        Type::Text,
        "The branch or tag of `git`. The commit that it stands for is written into the lock. Default: the repository's HEAD.",
    ),
    ParamSpec::optional(
        "commit",
        Type::Text,
        "The commit of `git`, in place of `ref`: all of its 40 or 64 hexadecimal digits.",
    ),
    ParamSpec::optional(
        "submodules",
        Type::Bool,
        "Whether the files of the submodules of `git` are in the tree. Default: false, and their directories are empty.",
    ),
    ParamSpec::optional(
        "as",
        Type::OneOf(&["disk", "file", "tree"]),
        "What the file is. Default: a disk if it is a disk image (qcow2, VMDK, VHD, VHDX, VDI) or contains a partition table \
         or a file system, else a file. A compressed file (gzip, xz, zstd) is a disk only where this says so: what it holds, \
         or the `disk.raw` of a tar archive in it. A tree is what a tar archive holds, plain or compressed with gzip, xz or \
         zstd, for `inputs`, `copy` and whatever else takes a directory; of a container image (an OCI layout, or what \
         `docker save` writes) the files that its layers come to, with their owners, also for `disk`.",
    ),
    ParamSpec::optional(
        "strip",
        Type::Int,
        "Of a tree: how many directories at the beginning of each name are left out. Default: 0.",
    ),
    ParamSpec::optional(
        "subdirectory",
        Type::Text,
        "Of a tree: the directory that is taken (after `strip`). Default: all of it.",
    ),
    ParamSpec::optional(
        "root",
        Type::Either(&[Type::Int, Type::Text]),
        "Which partition is `/` for the stages built on this disk: its number, \"LABEL=…\" or \"UUID=…\". Default: \
         found by partition type, else the only one with /bin/sh.",
    ),
    ParamSpec::optional(
        "architecture",
        Type::OneOf(&["amd64", "arm64"]),
        "The machine that a disk or the root of a container image is for: programs of another one run in an emulator in the \
         stages built on it. Default: the host's. Not part of the key.",
    ),
    ParamSpec::optional(
        "timeout",
        Type::Duration,
        "Stops the stage after this time, such as \"15m\". Not part of the key.",
    ),
];

fn lower(params: &Params, _: &StageContext) -> Result<Lowered, Vec<ParamError>> {
    let mut errors = Vec::new();
    let as_a = match params.text("as") {
        Some("disk") => ImportAs::Disk,
        Some("file" | "tree") => ImportAs::File,
        _ => ImportAs::Auto,
    };
    let version = match as_a {
        ImportAs::Auto => KIND.version,
        ImportAs::Disk | ImportAs::File => TOLD,
    };
    let mut action = ActionTemplate::new(KIND.name, version, Executor::Host);
    action.hints.timeout = params.duration("timeout");
    let given = |names: &[&'static str]| {
        let mut names = names.iter().filter(|name| params.get(name).is_some());
        (names.next().copied(), names.next().copied())
    };
    if let (Some(one), Some(other)) = given(&["path", "url", "git"]) {
        let error = ParamError::new(other, format!("both `{one}` and `{other}` are set"));
        return Err(vec![error.help("remove one of them")]);
    }
    if let Some(url) = params.text("git") {
        return git::repository(url, params, action, errors);
    }
    if let (Some(name), _) = given(&["ref", "commit", "submodules"]) {
        let error = ParamError::new(name, format!("`{name}` is for repositories"));
        errors.push(error.help(format!("remove `{name}`, or name a repository with `git`")));
    }
    let unpack = unpack(params, &mut errors);
    match (params.text("path"), params.text("url")) {
        (Some(path), None) => {
            local(path, as_a, params, &mut action, &mut errors);
        }
        (None, Some(url)) => {
            remote(url, as_a, params, &mut action, &mut errors);
        }
        _ => errors.push(
            ParamError::stage("there is nothing to fetch: neither `path`, `url` nor `git` is set")
                .help("set `path = \"base.qcow2\"`, or `url`, or `git`"),
        ),
    }
    action.steps.extend(unpack);
    errors.extend(common::root(params).err());
    if errors.is_empty() {
        Ok(Lowered {
            actions: vec![action],
            ..Lowered::default()
        })
    } else {
        Err(errors)
    }
}

fn not_below(path: &str) -> ParamError {
    let problem = format!("{path:?} is not the path of a directory within");
    ParamError::new("subdirectory", problem)
        .help("write it without a `/` at its beginning, `.` and `..`")
}

/// What makes a tree of the archive, where one is wanted.
fn unpack(params: &Params, errors: &mut Vec<ParamError>) -> Option<Step> {
    let strip = params.int("strip").unwrap_or(0);
    let subdirectory = params.text("subdirectory").unwrap_or_default();
    if params.text("as") != Some("tree") {
        for name in ["strip", "subdirectory"] {
            if params.get(name).is_some() {
                let error = ParamError::new(name, format!("`{name}` is for trees"));
                errors.push(error.help("add `as = \"tree\"`"));
            }
        }
        return None;
    }
    let strip = u32::try_from(strip).ok().filter(|strip| *strip <= 100);
    if strip.is_none() {
        let error = ParamError::new("strip", "it is not a number of directories");
        errors.push(error.help("use 1 where the archive has everything in one directory"));
    }
    if !is_below(subdirectory) {
        let error = ParamError::new(
            "subdirectory",
            format!("{subdirectory:?} is not the path of a directory within"),
        );
        errors.push(error.help("write it without a `/` at its beginning, `.` and `..`"));
    }
    Some(Step::Unpack {
        strip: strip.unwrap_or(0),
        subdirectory: subdirectory.trim_end_matches('/').to_owned(),
    })
}

/// Whether it is the path of something within a tree, or nothing.
fn is_below(path: &str) -> bool {
    let path = path.trim_end_matches('/');
    path.is_empty() || path.split('/').all(|name| !matches!(name, "" | "." | ".."))
}

/// A file beside the recipe.
fn local(
    path: &str,
    as_a: ImportAs,
    params: &Params,
    action: &mut ActionTemplate,
    errors: &mut Vec<ParamError>,
) {
    if params.text("checksum").is_some() {
        let error = ParamError::new("checksum", "a local file needs no checksum");
        errors.push(error.help("remove `checksum`: the key contains the file's digest"));
    }
    for name in ["mirrors", "signed_by", "redirects"] {
        if params.get(name).is_some() {
            let error = ParamError::new(name, format!("`{name}` is for files with a `url`"));
            errors.push(error.help(format!("remove `{name}`, or set `url` instead of `path`")));
        }
    }
    let slot = Slot::Local(path.to_owned());
    action.inputs.insert(
        "source".to_owned(),
        common::without(slot, &params.texts("ignore")),
    );
    let input = "source".to_owned();
    action.steps.push(Step::Import { input, as_a });
}

/// A file by its URL.
fn remote(
    url: &str,
    as_a: ImportAs,
    params: &Params,
    action: &mut ActionTemplate,
    errors: &mut Vec<ParamError>,
) {
    let mirrors = params.texts("mirrors");
    let named = std::iter::once(("url", url)).chain(mirrors.iter().map(|url| ("mirrors", &**url)));
    for (name, url) in named {
        if !(url.starts_with("http://") || url.starts_with("https://")) {
            let error = ParamError::new(name, format!("{url:?} is not an http or https URL"));
            errors.push(error.help("for a local file use `path`"));
        }
        action.hints.urls.push(url.to_owned());
    }
    let hosts = params.texts("redirects");
    for host in hosts.iter().filter(|host| !is_host(host)) {
        let error = ParamError::new("redirects", format!("{host:?} is not the name of a host"));
        errors.push(
            error.help("write \"cdn.example.org\", or \"*.example.org\" for all hosts below it"),
        );
    }
    action.hints.redirects = Some(hosts);
    let checksum = match params.text("checksum").map(checksum).transpose() {
        Ok(checksum) => checksum,
        Err(error) => {
            errors.push(error);
            None
        }
    };
    let signed_by = match params.text("signed_by") {
        Some(key) => vec![key.to_owned()],
        None => params.texts("signed_by"),
    };
    if !signed_by.iter().all(|key| is_armored(key)) {
        let error = ParamError::new("signed_by", "it is not an armored public key");
        errors.push(error.help("use an armored public key, such as file(\"keys/vendor.asc\")"));
    }
    let listed = matches!(
        checksum,
        Some(FileChecksum::Source(SourceChecksum::Listed(_)))
    );
    if !signed_by.is_empty() && !listed {
        let error = ParamError::new(
            "signed_by",
            "there is no list of checksums that could be signed",
        );
        errors.push(error.help("name the list: `checksum = \"file:SHA256SUMS\"`"));
    }
    let sha256 = match checksum {
        Some(FileChecksum::Sha256(sha256)) => sha256,
        other => {
            let checksum = match other {
                Some(FileChecksum::Source(checksum)) => Some(checksum),
                _ => None,
            };
            action.hints.source = Some(SourceRequest::File(FileRequest {
                checksum,
                signed_by,
            }));
            UNKNOWN
        }
    };
    action.steps.push(Step::Fetch { sha256, as_a });
}

/// How a recipe knows a file.
enum FileChecksum {
    Sha256(Sha256),
    /// By something else, which the lock makes a SHA-256 of.
    Source(SourceChecksum),
}

/// A checksum parameter: a SHA-256 with or without its prefix, a SHA-512, or a list that has it.
fn checksum(text: &str) -> Result<FileChecksum, ParamError> {
    let lower = text.to_ascii_lowercase();
    if let Some(place) = text.strip_prefix("file:") {
        return sums(place)
            .map(SourceChecksum::Listed)
            .map(FileChecksum::Source);
    }
    if let Some(digits) = lower.strip_prefix("sha512:") {
        return match Sha512::parse(digits) {
            Some(digest) => Ok(FileChecksum::Source(SourceChecksum::Sha512(digest))),
            None => Err(
                ParamError::new("checksum", format!("{text:?} is not a SHA-512 checksum"))
                    .help("write `sha512:` followed by the 128 hexadecimal digits that `sha512sum FILE` prints"),
            ),
        };
    }
    let digits = lower.strip_prefix("sha256:").unwrap_or(&lower);
    digits.parse().map(FileChecksum::Sha256).map_err(|_| {
        ParamError::new("checksum", format!("{text:?} is not a SHA-256 checksum")).help(
            "write `sha256:` followed by the 64 hexadecimal digits that `sha256sum FILE` prints, `sha512:` and 128, or \
             `file:` and a list of checksums, such as `file:SHA256SUMS`",
        )
    })
}

/// Where a list of checksums is.
fn sums(place: &str) -> Result<SumsPlace, ParamError> {
    if place.starts_with("http://") || place.starts_with("https://") {
        return Ok(SumsPlace::Url(place.to_owned()));
    }
    if let Some(path) = place.strip_prefix("./") {
        return Ok(SumsPlace::Local(path.to_owned()));
    }
    let name = place.trim_start_matches("../");
    let is_odd = name.starts_with('/') || name.contains("://") || name.contains(['?', '#']);
    if name.is_empty() || name.split('/').any(|part| part == "..") || is_odd {
        let error = ParamError::new("checksum", format!("{place:?} is not a list of checksums"));
        return Err(error.help(
            "write `file:SHA256SUMS` for a list beside the URL, `file:./SHA256SUMS` for one beside the recipe, or `file:https://…`",
        ));
    }
    Ok(SumsPlace::Beside(place.to_owned()))
}

fn is_armored(key: &str) -> bool {
    key.trim_start()
        .starts_with("-----BEGIN PGP PUBLIC KEY BLOCK-----")
}

/// Whether it is a host's name, or a pattern for all below one.
fn is_host(name: &str) -> bool {
    let name = name.strip_prefix("*.").unwrap_or(name);
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    !name.is_empty() && !name.starts_with('.') && name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Value;

    fn lowered(params: &[(&str, &str)]) -> Result<Lowered, Vec<ParamError>> {
        let pair = |(name, text): &(&str, &str)| ((*name).to_owned(), Value::string(*text));
        let params = Params(params.iter().map(pair).collect());
        lower(&params, &StageContext::default())
    }

    #[test]
    fn what_is_no_sha256_is_left_to_the_lock() {
        let sha512 = format!("sha512:{}", Sha512::of(b"a"));
        let sha256 = Sha256::of(b"a").to_string();
        let url = ("url", "https://h/a.img");
        let step = |lowered: &Lowered| match lowered.actions[0].steps[0] {
            Step::Fetch { sha256, .. } => sha256,
            _ => panic!("another step"),
        };
        let known = lowered(&[url, ("checksum", &sha256)]).unwrap();
        assert_eq!(
            (step(&known), &known.actions[0].hints.source),
            (Sha256::of(b"a"), &None)
        );
        for (checksum, line) in [
            (Some(&*sha512), Some(format!("checksum {sha512}"))),
            (
                Some("file:SHA512SUMS"),
                Some("checksum file:SHA512SUMS".to_owned()),
            ),
            (Some("file:./sums"), Some("checksum file:./sums".to_owned())),
            (None, None),
        ] {
            let params: Vec<_> = std::iter::once(url)
                .chain(checksum.map(|text| ("checksum", text)))
                .collect();
            let open = lowered(&params).unwrap();
            let hints = &open.actions[0].hints;
            assert_eq!(step(&open), UNKNOWN);
            let lines = hints.source.as_ref().unwrap().lines(&hints.urls[0]);
            assert_eq!(lines[0], "url https://h/a.img");
            assert_eq!(lines.get(1), line.as_ref());
        }
    }

    #[test]
    fn checksums_and_hosts_that_are_none_are_refused() {
        let url = ("url", "https://h/a.img");
        for checksum in [
            "sha512:12",
            "md5:0",
            "file:",
            "file:/etc/sums",
            "file:a/../b",
            "file:ftp://h/s",
        ] {
            let errors = lowered(&[url, ("checksum", checksum)]).unwrap_err();
            assert_eq!(errors[0].param, Some("checksum"), "{checksum}");
        }
        assert!(lowered(&[url, ("signed_by", "key")]).unwrap_err().len() == 2);
        for host in ["cdn.example.org", "*.example.org", "127.0.0.1"] {
            assert!(is_host(host), "{host}");
        }
        for host in ["", "*", "*.", "https://h", "h:80", "a/b", "*.*.org"] {
            assert!(!is_host(host), "{host}");
        }
    }
}
