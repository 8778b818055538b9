//! `fetch`: a disk image or a file, from a local path or by URL and checksum.
//! Knows parameters and steps; does no I/O itself.

use impasto_store::sha256::Sha256;

use crate::action::{ActionTemplate, Executor, ImportAs, Slot, Step};
use crate::error::ParamError;
use crate::kinds::common;
use crate::params::Params;
use crate::registry::{Kind, Lowered, Makes, ParamSpec, StageContext, Type};

pub(crate) const KIND: Kind = Kind {
    name: "fetch",
    version: 2,
    summary: "fetches a disk image or a file into the store, from a path or a URL",
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

const PARAMS: &[ParamSpec] = &[
    ParamSpec::optional(
        "path",
        Type::Path,
        "A file beside the recipe. Its content is part of the key, its name and time are not.",
    ),
    ParamSpec::optional(
        "url",
        Type::Text,
        "The file's http or https URL. Needs `checksum`, which is part of the key; the URL is not.",
    ),
    ParamSpec::optional(
        "checksum",
        Type::Text,
        "SHA-256 of the file: `sha256:` and 64 hexadecimal digits.",
    ),
    ParamSpec::optional(
        "as",
        Type::OneOf(&["disk", "file"]),
        "What the file is. Default: a disk if it is a disk image (qcow2, VMDK, VHD, VHDX, VDI) or contains a partition table \
         or a file system, else a file. A compressed file (gzip, xz, zstd) is a disk only where this says so: what it holds, \
         or the `disk.raw` of a tar archive in it.",
    ),
    ParamSpec::optional(
        "root",
        Type::Either(&[Type::Int, Type::Text]),
        "Which partition is `/` for the stages built on this disk: its number, \"LABEL=…\" or \"UUID=…\". Default: \
         found by partition type, else the only one with /bin/sh.",
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
        Some("file") => ImportAs::File,
        _ => ImportAs::Auto,
    };
    let version = match as_a {
        ImportAs::Auto => KIND.version,
        ImportAs::Disk | ImportAs::File => TOLD,
    };
    let mut action = ActionTemplate::new(KIND.name, version, Executor::Host);
    let checksum = match params.text("checksum").map(|text| (text, sha256(text))) {
        Some((text, None)) => {
            let error = ParamError::new("checksum", format!("{text:?} is not a SHA-256 checksum"));
            errors
                .push(error.help("write `sha256:` followed by the 64 hexadecimal digits that `sha256sum FILE` prints"));
            None
        }
        Some((_, digest)) => digest,
        None => None,
    };
    action.hints.timeout = params.duration("timeout");
    match (params.text("path"), params.text("url")) {
        (Some(path), None) => {
            if params.text("checksum").is_some() {
                let error = ParamError::new("checksum", "a local file needs no checksum");
                errors.push(error.help("remove `checksum`: the key contains the file's digest"));
            }
            action
                .inputs
                .insert("source".to_owned(), Slot::Local(path.to_owned()));
            action.steps.push(Step::Import {
                input: "source".to_owned(),
                as_a,
            });
        }
        (None, Some(url)) => {
            if !(url.starts_with("http://") || url.starts_with("https://")) {
                let error = ParamError::new("url", format!("{url:?} is not an http or https URL"));
                errors.push(error.help("for a local file use `path`"));
            }
            if params.text("checksum").is_none() {
                let error = ParamError::new(
                    "url",
                    "a URL needs a `checksum`, because what it serves may change",
                );
                errors.push(error.help("add `checksum = \"sha256:…\"`"));
            }
            action.hints.urls.push(url.to_owned());
            action
                .steps
                .extend(checksum.map(|sha256| Step::Fetch { sha256, as_a }));
        }
        (None, None) => errors.push(
            ParamError::stage("there is nothing to fetch: neither `path` nor `url` is set")
                .help("set `path = \"base.qcow2\"`, or `url` and `checksum`"),
        ),
        (Some(_), Some(_)) => {
            errors.push(
                ParamError::new("url", "both `path` and `url` are set").help("remove one of them"),
            );
        }
    }
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

/// A checksum parameter, with or without its prefix.
fn sha256(text: &str) -> Option<Sha256> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    digits.to_ascii_lowercase().parse().ok()
}
