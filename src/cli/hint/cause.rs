//! What to do about a cause that a stage or the host failed of.
//! Knows what recipes and commands can change; how a cause is found is the engine's business.

use crate::engine::cause::{About, Cause, DiskMaker, Refusal};

/// What to do about a cause, a line each. `about` is the stage that failed, `args` what commands need beside their name
/// and a selector, with a blank before each.
pub(crate) fn cause_help(cause: &Cause, about: &About, args: &str) -> Vec<String> {
    match cause {
        Cause::Offline { .. } => vec![
            "for packages, use a `packages` stage, which is locked and cached; for a file, use a `fetch` stage and \
             pass it in `inputs`"
                .to_owned(),
            format!("for anything else, set network = true in the stage{}", at(about)),
        ],
        Cause::UnknownHost { .. } => {
            vec!["check the name, and whether this host can resolve it: getent hosts NAME".to_owned()]
        }
        Cause::UnknownPackage { package, network: false } => vec![format!(
            "install it in a `packages` stage before this one: install = [\"{package}\"]; that needs no network here"
        )],
        Cause::UnknownPackage { package, network: true } => vec![format!(
            "check the name, and run `apt-get update` first in the same stage; or install it in a `packages` stage: \
             install = [\"{package}\"]"
        )],
        Cause::LineEnds => {
            let file = about.script.as_ref().map_or("FILE", |place| place.file.as_str());
            vec![format!("convert it to Unix line endings: sed -i 's/\\r$//' {file}")]
        }
        Cause::NoInterpreter { interpreter, .. } if interpreter.ends_with('\r') => {
            vec!["convert the file to Unix line endings (sed -i 's/\\r$//' FILE)".to_owned()]
        }
        Cause::NoInterpreter { interpreter, .. } if interpreter.contains("/ld-") => vec![
            "the program was built for another C library or architecture: use one that was built for this image"
                .to_owned(),
        ],
        Cause::NoInterpreter { interpreter, .. } => {
            vec![install(interpreter), "or use another interpreter".to_owned()]
        }
        Cause::NoProgram { program } if program.contains('/') => {
            vec!["check the path; to add a missing file, use a `copy` or `packages` stage, or `inputs`".to_owned()]
        }
        Cause::NoProgram { program } => vec![install(program)],
        Cause::ForeignPrograms { machine } => vec![format!(
            "set architecture = {machine:?} in the stage that the disk comes from"
        )],
        Cause::NotExecutable { file, noexec: true, .. } => {
            vec![format!("copy it elsewhere in the step and run it there, or call its interpreter: sh {file}")]
        }
        Cause::NotExecutable { file, .. } => {
            let how = match file.strip_prefix("/run/impasto/inputs/") {
                Some(_) => "make the file beside the recipe executable (chmod +x)",
                None => "set mode = \"0755\" in the `copy` stage that adds it, or run chmod +x first",
            };
            vec![format!("{how}; or call its interpreter: sh {file}")]
        }
        Cause::IsDirectory { .. } => vec!["use the program inside it".to_owned()],
        Cause::NotPrivileged => vec![format!(
            "set privileged = true in the stage{}, if you trust the recipe: it could then change the host",
            at(about)
        )],
        Cause::DiskFull { .. } | Cause::NoInodes { .. } => vec![larger(about)],
        Cause::Quota => vec!["raise the quota in the image, or write less".to_owned()],
        Cause::Limit(reached) => vec![reached.help()],
        Cause::NoMemory => {
            vec!["run fewer stages at once (--jobs 1), or give this machine or container more memory".to_owned()]
        }
        Cause::FileSize { .. } => vec!["raise it before starting impasto: ulimit -f unlimited".to_owned()],
        Cause::Host { refusal, .. } => self::refusal(*refusal, args),
    }
}

/// The package that a program is most likely in has its name.
fn install(program: &str) -> String {
    let name = program.rsplit('/').next().unwrap_or(program);
    format!(
        "install its package in a `packages` stage before this one, such as install = [\"{name}\"]"
    )
}

fn at(about: &About) -> String {
    about
        .stage
        .as_ref()
        .map_or(String::new(), |place| format!(" ({place})"))
}

/// How the disk can be made larger.
fn larger(about: &About) -> String {
    let Some(DiskMaker {
        label,
        has_size,
        place,
    }) = &about.disk
    else {
        return "make the disk larger, or write less to it".to_owned();
    };
    let at = place
        .as_ref()
        .map_or(String::new(), |place| format!(" ({place})"));
    if *has_size {
        return format!(
            "make the disk larger, with `size` of stage {label}{at}; or write less to it"
        );
    }
    format!(
        "make the disk larger, by a stage of kind resize after stage {label}{at}; or write less to it"
    )
}

/// What to do about a disk of the host. `args` are those of the command that failed.
fn refusal(refusal: Refusal, args: &str) -> Vec<String> {
    // The one option of all commands, and the last.
    let store = args.find(" --store ").map_or("", |at| &args[at..]);
    let line = match refusal {
        Refusal::Full | Refusal::NoInodes => {
            return vec![
                format!(
                    "free some space there: impasto gc{store} deletes what no recent build uses"
                ),
                "or choose another location: --store DIR for the store, --out DIR for the files"
                    .to_owned(),
            ];
        }
        Refusal::Quota => "raise the quota, or choose a store elsewhere with --store",
        Refusal::ReadOnly => "choose another location with --store or --out",
        Refusal::Failing => {
            "the disk may be failing: see the kernel's messages (dmesg), and check the store: impasto store verify"
        }
        Refusal::Stale => "run it again",
        Refusal::OpenFiles => "allow more open files (ulimit -n), or run fewer --jobs",
    };
    vec![line.to_owned()]
}
