//! The commands that fold and annotate the log of a CI service: GitHub Actions and GitLab CI.
//! Knows their syntax, not what is said with it.

use std::path::{Path, PathBuf};

use crate::base::escape::without_commands;
use crate::base::host::Host;
use crate::base::table::strip;

/// A CI service that shows this process's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Service {
    /// GitHub Actions: "Workflow commands for GitHub Actions" in its documentation.
    GitHub {
        /// The directory that paths of annotations are relative to.
        root: PathBuf,
    },
    /// GitLab CI: "Custom collapsible sections" in its documentation.
    GitLab,
}

/// How bad it is what an annotation says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Error,
    Warning,
}

/// A line of one of the user's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileLine {
    /// The file, absolute.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: u32,
}

/// Lines that are folded away under a title.
#[derive(Debug)]
pub struct Fold<'a> {
    /// What is seen while they are folded.
    pub title: &'a str,
    /// What tells it from others in the job; any text.
    pub name: &'a str,
    pub lines: &'a [String],
    /// When what they tell of began and ended, in seconds since 1970.
    pub time: (u64, u64),
}

impl Service {
    /// The service that says in the environment that it runs this process.
    pub fn of(host: &Host) -> Option<Service> {
        match (host.var("GITHUB_ACTIONS"), host.var("GITLAB_CI")) {
            (Some("true"), _) => {
                let root = host
                    .var("GITHUB_WORKSPACE")
                    .map_or_else(|| host.cwd.clone(), PathBuf::from);
                Some(Service::GitHub { root })
            }
            (_, Some("true")) => Some(Service::GitLab),
            _ => None,
        }
    }

    /// The text of a fold, each line ended.
    pub fn fold(&self, fold: &Fold<'_>) -> String {
        let (began, ended) = fold.time;
        let title = strip(fold.title).replace(['\r', '\n'], " ");
        let name: String = fold
            .name
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || "_.-".contains(c) {
                    c
                } else {
                    '_'
                }
            })
            .collect();
        let (head, tail) = match self {
            Service::GitHub { .. } => (
                format!("::group::{}\n", data(&title)),
                "::endgroup::\n".to_owned(),
            ),
            // Names of sections are one job's, which may build twice.
            Service::GitLab => (
                format!(
                    "\u{1b}[0Ksection_start:{began}:impasto_{name}_{began}[collapsed=true]\r\u{1b}[0K{title}\n"
                ),
                format!("\u{1b}[0Ksection_end:{ended}:impasto_{name}_{began}\r\u{1b}[0K\n"),
            ),
        };
        let mut text = head;
        for line in fold.lines {
            text.push_str(&without_commands(line));
            text.push('\n');
        }
        text + &tail
    }

    /// The line of an annotation, ended; nothing where the service has none.
    pub fn annotation(
        &self,
        level: Level,
        title: &str,
        place: Option<&FileLine>,
        message: &str,
    ) -> Option<String> {
        let Service::GitHub { root } = self else {
            return None;
        };
        let level = match level {
            Level::Error => "error",
            Level::Warning => "warning",
        };
        let mut properties = Vec::new();
        if let Some(FileLine { file, line }) = place {
            let file = file.strip_prefix(root).unwrap_or(file);
            properties.push(format!(
                "file={},line={line}",
                property(&file.to_string_lossy())
            ));
        }
        if !title.is_empty() {
            properties.push(format!("title={}", property(title)));
        }
        let space = if properties.is_empty() { "" } else { " " };
        Some(format!(
            "::{level}{space}{}::{}\n",
            properties.join(","),
            data(&strip(message))
        ))
    }
}

/// A command's data: all that is one line to the runner.
fn data(text: &str) -> String {
    text.replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

/// A place in a text that messages call `name`: none where that is not a file, such as `--var x`.
pub fn place(name: &str, line: u32, cwd: &Path) -> Option<FileLine> {
    let file = cwd.join(name);
    (!name.starts_with('-') && !name.is_empty()).then_some(FileLine { file, line })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn github() -> Service {
        Service::GitHub {
            root: "/home/me/work".into(),
        }
    }

    fn fold(service: &Service, title: &str, lines: &[&str]) -> String {
        let lines: Vec<_> = lines.iter().map(|line| (*line).to_owned()).collect();
        service.fold(&Fold {
            title,
            name: "tools[variant=a b]",
            lines: &lines,
            time: (1_700_000_000, 1_700_000_048),
        })
    }

    #[test]
    fn folds_are_as_the_services_document_them() {
        let lines = ["one", "two"];
        assert_eq!(
            fold(&github(), "100 %", &lines),
            "::group::100 %25\none\ntwo\n::endgroup::\n"
        );
        assert_eq!(
            fold(&Service::GitLab, "built", &lines),
            "\u{1b}[0Ksection_start:1700000000:impasto_tools_variant_a_b__1700000000[collapsed=true]\r\u{1b}[0Kbuilt\n\
             one\ntwo\n\
             \u{1b}[0Ksection_end:1700000048:impasto_tools_variant_a_b__1700000000\r\u{1b}[0K\n"
        );
    }

    #[test]
    fn nothing_in_a_fold_or_an_annotation_is_a_command_of_its_own() {
        let evil = "::endgroup::";
        for service in [github(), Service::GitLab] {
            let text = fold(
                &service,
                "x\n::error::title",
                &[evil, "\u{a0}::set-output name=a::b", "x ##[add-mask]y"],
            );
            let commands = text
                .lines()
                .filter(|line| line.trim_start().starts_with("::") || line.contains("##["));
            assert_eq!(
                commands.count(),
                if service == Service::GitLab { 0 } else { 2 },
                "{text}"
            );
        }
        let place = FileLine {
            file: "/home/me/work/a,b:c.hcl".into(),
            line: 7,
        };
        let text = github()
            .annotation(Level::Error, "t::u", Some(&place), "one\n::error::two 100%")
            .unwrap();
        let wanted =
            "::error file=a%2Cb%3Ac.hcl,line=7,title=t%3A%3Au::one%0A::error::two 100%25\n";
        assert_eq!(text, wanted);
        assert_eq!(
            github().annotation(Level::Warning, "", None, "x").unwrap(),
            "::warning::x\n"
        );
        assert_eq!(
            Service::GitLab.annotation(Level::Error, "", None, "x"),
            None
        );
    }

    #[test]
    fn what_is_no_file_has_no_place() {
        let cwd = Path::new("/home/me/work/sub");
        assert_eq!(place("--var x", 1, cwd), None);
        assert_eq!(place("../web.hcl", 3, cwd).unwrap().line, 3);
    }
}
