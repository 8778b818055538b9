//! A root file system out of packages by the host's mmdebstrap, for as long as no toolbox is given.
//! Knows the archive's suites and apt's messages.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use impasto_stages::bootstrap::BootstrapSpec;

use super::program::{Ended, Program};
use super::{TREE, ToolFailure};
use crate::mirror;

/// What the packages of Debian's archives are signed with.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Takes out of the new root what mmdebstrap copied from the host or generated, and gives it its own sources.
const FINISH: &str = include_str!("finish-tree.sh");

pub(super) fn mmdebstrap(
    spec: &BootstrapSpec,
    epoch: u64,
    work: &Path,
    log: &mut dyn FnMut(&[u8]),
) -> Result<(), ToolFailure> {
    let finish = work.join("finish-tree.sh");
    let io = |error: std::io::Error| ToolFailure { message: format!("cannot write the hook: {error}"), help: None };
    fs::write(&finish, FINISH).map_err(io)?;
    fs::set_permissions(&finish, fs::Permissions::from_mode(0o755)).map_err(io)?;
    let sources = work.join("sources.list");
    if let Some(lines) = &spec.sources {
        fs::write(&sources, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).map_err(io)?;
    }
    let temporary = work.join("tmp");
    fs::create_dir(&temporary).map_err(io)?;
    // apt downloads as a user of its own, which must get through to the new root.
    for dir in [work, &temporary] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).map_err(io)?;
    }
    let mut program = Program::new("mmdebstrap")
        .args(["--mode=root", "--format=tar", "--skip=output/mknod"])
        .args([
            format!("--variant={}", spec.variant),
            format!("--architectures={}", spec.architecture),
            format!("--components={}", spec.components.join(",")),
            format!("--include={}", spec.packages.join(",")),
            "--aptopt=Acquire::Languages \"none\"".to_owned(),
            format!("--aptopt=APT::Install-Recommends \"{}\"", spec.recommends),
            "--aptopt=Acquire::Retries \"3\"".to_owned(),
            format!("--customize-hook={} \"$1\" '{}'", finish.display(), spec.components.join(" ")),
            spec.suite.clone(),
            work.join(TREE).display().to_string(),
        ])
        .env("SOURCE_DATE_EPOCH", epoch.to_string())
        .env("TMPDIR", &temporary)
        .dir(work);
    let policy = Path::new(mirror::DIR);
    let proxies = fs::read_to_string(policy.join("proxy.conf")).map_err(io)?;
    program = program.args(proxies.lines().map(|line| format!("--aptopt={line}")));
    program = program.args([format!("--aptopt=Dir::Etc::netrc \"{}\"", policy.join("auth.conf").display())]);
    let mirrors = fs::read_to_string(policy.join("mirrors")).map_err(io)?;
    let ended = program.args(source_lines(spec, &mirrors)?).run(log)?;
    if ended.status.success() { Ok(()) } else { Err(explain(spec, &ended)) }
}

/// Releases that get no updates of their own, and no security archive.
const ROLLING: [&str; 4] = ["sid", "unstable", "experimental", "rc-buggy"];

/// The lines of apt's sources for the host's mirrors, from the text of its file `mirrors`.
fn source_lines(spec: &BootstrapSpec, mirrors: &str) -> Result<Vec<String>, ToolFailure> {
    let named = |name: &str| mirrors.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    // mmdebstrap copies files as its user; mounting them is for those who have no other way.
    let copied = |url: &str| url.strip_prefix("file:").map_or(url.to_owned(), |path| format!("copy:{path}"));
    let Some(archive) = named("archive").map(copied) else {
        return Err(ToolFailure {
            message: "this host's apt knows no mirror of Debian".to_owned(),
            help: Some("name one: --mirror URL, or IMPASTO_MIRROR".to_owned()),
        });
    };
    let (suite, components) = (&spec.suite, spec.components.join(" "));
    let line = |url: &str, suite: &str| format!("deb [signed-by={KEYRING}] {url} {suite} {components}");
    let mut lines = vec![line(&archive, suite)];
    // A mirror without a security archive is a frozen copy: it has the release and nothing else.
    if let Some(security) = named("security").map(copied).filter(|_| !ROLLING.contains(&suite.as_str())) {
        lines.push(line(&archive, &format!("{suite}-updates")));
        lines.push(line(&security, &format!("{suite}-security")));
    }
    Ok(lines)
}

/// What apt's and mmdebstrap's messages mean.
fn explain(spec: &BootstrapSpec, ended: &Ended) -> ToolFailure {
    let suite = &spec.suite;
    let mut missing = Vec::new();
    for line in &ended.lines {
        let line = line.trim();
        let quoted =
            |prefix: &str| line.strip_prefix(prefix).map(|rest| rest.trim_matches(['\'', '"', '.', ' ']).to_owned());
        let package = quoted("E: Unable to locate package ")
            .or_else(|| Some(line.strip_prefix("E: Package '")?.split('\'').next()?.to_owned()))
            .or_else(|| {
                Some(line.strip_prefix("E: Version '")?.split(" for '").nth(1)?.split('\'').next()?.to_owned())
            });
        missing.extend(package.filter(|package| !missing.contains(package)));
    }
    if !missing.is_empty() {
        return ToolFailure {
            message: format!("{suite} has no package {}", missing.join(", ")),
            help: Some("correct `packages`, or add the section that has them to `components`".to_owned()),
        };
    }
    let any = |texts: &[&str]| ended.lines.iter().any(|line| texts.iter().any(|text| line.contains(text)));
    if any(&[
        "Temporary failure resolving",
        "Could not resolve",
        "Could not connect",
        "Connection refused",
        "Connection timed out",
        "No route to host",
        "Network is unreachable",
    ]) {
        return ToolFailure {
            message: "the mirror cannot be reached".to_owned(),
            help: Some("check the network, or name another mirror: --mirror URL, or IMPASTO_MIRROR".to_owned()),
        };
    }
    if any(&["does not have a Release file", "404  Not Found", "File not found", "Failed to stat"]) {
        return ToolFailure {
            message: format!("the mirror has no release {suite}"),
            help: Some("correct `suite`, or name a mirror that has it: --mirror URL, or IMPASTO_MIRROR".to_owned()),
        };
    }
    if any(&["NO_PUBKEY", "is not signed", "EXPKEYSIG"]) {
        return ToolFailure {
            message: format!("{suite} is not signed with a key that this host knows"),
            help: Some("update the host's keys: apt-get install debian-archive-keyring".to_owned()),
        };
    }
    let why = ended.lines.iter().rev().find(|line| line.starts_with("E: ")).map(|line| format!(": {}", &line[3..]));
    ToolFailure { message: format!("mmdebstrap failed{}", why.unwrap_or_default()), help: None }
}
