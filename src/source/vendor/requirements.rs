//! Requirements with hashes, as pip-compile and uv write them.
//! Knows the requirements file format as far as locks use it; markers are decided for the interpreter that is asked for.
//!
//! Addresses of indexes in the file are not used: where files come from is the host's business, and they are known by
//! their hashes.

use std::collections::{BTreeMap, BTreeSet};

use impasto_stages::vendor::PythonTarget;
use impasto_store::sha256::Sha256;

use super::marker::{MarkerEnvironment, holds};
use super::{LockedFile, VendorError, VendorItem, is_plain, lock_error, sha256};

/// A project at a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Requirement {
    /// In the form in which indexes have it (PEP 503).
    pub(super) name: String,
    version: String,
    /// The files that may be used.
    pub(super) sha256: BTreeSet<Sha256>,
}

/// Options that say where files are or what pip shall do with them, which does not matter here.
const IGNORED: [&str; 12] = [
    "-i",
    "--index-url",
    "--extra-index-url",
    "--trusted-host",
    "-f",
    "--find-links",
    "--no-index",
    "--pre",
    "--prefer-binary",
    "--require-hashes",
    "--only-binary",
    "--use-feature",
];

const COMPILE: &str = "let a tool write it with hashes: `uv pip compile --generate-hashes`, or `pip-compile \
                       --generate-hashes`";

pub(super) fn read(
    target: &PythonTarget,
    path: &str,
    text: &str,
) -> Result<Vec<VendorItem>, VendorError> {
    let environment = MarkerEnvironment::of(target);
    let mut found: BTreeMap<String, (usize, Requirement)> = BTreeMap::new();
    for (line, text) in logical_lines(text) {
        let wrong =
            |problem: String, help: &str| lock_error(&format!("{path}:{line}"), problem, help);
        if text.starts_with('-') {
            let option = text.split([' ', '=']).next().unwrap_or_default();
            if IGNORED.contains(&option) {
                continue;
            }
            let problem = format!("the option {option} is not supported");
            return Err(wrong(
                problem,
                "write all that is required into one file, each with its hashes",
            ));
        }
        let read = requirement(&text, &environment).map_err(|problem| wrong(problem, COMPILE))?;
        let Some(requirement) = read else { continue };
        match found.get(&requirement.name) {
            Some((first, other)) if *other != requirement => {
                let problem = format!(
                    "{} is required twice, here and in line {first}",
                    requirement.name
                );
                return Err(wrong(problem, "make their markers exclude each other"));
            }
            _ => found.insert(requirement.name.clone(), (line, requirement)),
        };
    }
    let item = |(_, requirement): (usize, Requirement)| {
        let name = format!("{}=={}", requirement.name, requirement.version);
        let mut key = format!(
            "python {name} cp3{} {} glibc 2.{}",
            target.minor, target.machine, target.glibc
        );
        requirement
            .sha256
            .iter()
            .for_each(|sha256| key += &format!(" sha256:{sha256}"));
        let what = LockedFile::Wheel(requirement);
        VendorItem { name, key, what }
    };
    Ok(found.into_values().map(item).collect())
}

/// Lines without comments, those that a backslash joins as one; each with the number of the first, from 1.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut joined = false;
    for (index, line) in text.lines().enumerate() {
        let (content, continues) = match line.strip_suffix('\\') {
            Some(content) => (content, true),
            None => (line, false),
        };
        let comment = if content.trim_start().starts_with('#') {
            Some(0)
        } else {
            content.find(" #")
        };
        let content = comment.map_or(content, |at| &content[..at]).trim();
        match lines.last_mut().filter(|_| joined) {
            Some((_, last)) => {
                last.push(' ');
                last.push_str(content);
            }
            None => lines.push((index + 1, content.to_owned())),
        }
        joined = continues;
    }
    lines.retain_mut(|(_, text)| {
        *text = text.trim().to_owned();
        !text.is_empty()
    });
    lines
}

/// One requirement; none where its marker does not hold.
fn requirement(text: &str, environment: &MarkerEnvironment) -> Result<Option<Requirement>, String> {
    let hashes_at = text.find("--hash").unwrap_or(text.len());
    let (requirement, hashes) = text.split_at(hashes_at);
    let (project, marker) = match requirement.split_once(';') {
        Some((project, marker)) => (project.trim(), Some(marker.trim())),
        None => (requirement.trim(), None),
    };
    if project.contains('@') || project.contains("://") || project.starts_with(['.', '/']) {
        let shown = project.split(['@', ' ']).next().unwrap_or_default();
        return Err(format!(
            "{shown:?} comes from an address or a directory, not from an index"
        ));
    }
    let Some((name, version)) = project.split_once("==") else {
        return Err(format!(
            "{project:?} does not pin one version, as NAME==VERSION does"
        ));
    };
    // What extras bring stands in lines of its own.
    let name = name.split('[').next().unwrap_or_default().trim();
    let version = version.trim_start_matches('=').trim();
    if !is_plain(name) || !is_plain(version) || version.contains('*') {
        return Err(format!("{project:?} is not a name with a version"));
    }
    if let Some(marker) = marker
        && !holds(marker, environment)?
    {
        return Ok(None);
    }
    let mut known = BTreeSet::new();
    for hash in hashes.split_whitespace() {
        let hash = hash.trim_start_matches("--hash").trim_start_matches('=');
        if let Some(digits) = hash.strip_prefix("sha256:") {
            known.insert(sha256(digits).ok_or_else(|| format!("{hash:?} is not a hash"))?);
        }
    }
    if known.is_empty() {
        return Err(format!("{name}=={version} has no hash by SHA-256"));
    }
    Ok(Some(Requirement {
        name: normalized(name),
        version: version.to_owned(),
        sha256: known,
    }))
}

/// A project's name as indexes have it (PEP 503).
fn normalized(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '-' | '_' | '.' if out.ends_with('-') => {}
            '-' | '_' | '.' => out.push('-'),
            c => out.push(c.to_ascii_lowercase()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn names(text: &str) -> Result<Vec<String>, String> {
        let target = PythonTarget {
            minor: 11,
            machine: "amd64".to_owned(),
            glibc: 36,
        };
        let items = read(&target, "requirements.txt", text).map_err(|error| error.to_string())?;
        Ok(items.into_iter().map(|item| item.name).collect())
    }

    #[test]
    fn what_pip_compile_writes_is_read() {
        let text = format!(
            "# This file is autogenerated\n--index-url https://user:secret@index.example/simple\n\n\
             Zope.Interface==7.2 \\\n    --hash={HASH} \\\n    --hash={HASH}\n    # via -r in\n\
             cryptography[ssh]==45.0.1 ; python_version >= \"3.8\" \\\n    --hash={HASH} # why\n\
             pywin32==310 ; sys_platform == 'win32' --hash={HASH}\n"
        );
        assert_eq!(
            names(&text),
            Ok(vec![
                "cryptography==45.0.1".to_owned(),
                "zope-interface==7.2".to_owned()
            ])
        );
    }

    #[test]
    fn what_is_no_lock_is_told_with_its_line() {
        for (text, problem) in [
            (
                "requests",
                "requirements.txt:1: \"requests\" does not pin one version, as NAME==VERSION does",
            ),
            (
                "\nrequests==2.0",
                "requirements.txt:2: requests==2.0 has no hash by SHA-256",
            ),
            (
                "a==1 --hash=md5:12",
                "requirements.txt:1: a==1 has no hash by SHA-256",
            ),
            (
                "a==1 --hash=sha256:12",
                "requirements.txt:1: \"sha256:12\" is not a hash",
            ),
            (
                "-r other.txt",
                "requirements.txt:1: the option -r is not supported",
            ),
            ("-e .", "requirements.txt:1: the option -e is not supported"),
            (
                "a @ https://me:pw@x.example/a.whl",
                "requirements.txt:1: \"a\" comes from an address or a directory, not from an index",
            ),
            (
                "../a==1",
                "requirements.txt:1: \"../a==1\" comes from an address or a directory, not from an index",
            ),
            (
                "a==1; os_name ~ 'x'",
                "requirements.txt:1: the marker \"os_name ~ 'x'\" cannot be read at \"~ 'x'\"",
            ),
        ] {
            assert_eq!(names(text), Err(problem.to_owned()));
        }
        let twice = format!("a==1 --hash={HASH}\na==2 --hash={HASH}");
        assert_eq!(
            names(&twice),
            Err("requirements.txt:2: a is required twice, here and in line 1".to_owned())
        );
    }
}
