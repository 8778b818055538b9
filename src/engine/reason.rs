//! Why a node must run: the difference between what its key covers now and what the last claim's covered.
//! Knows fields and their paths, not how they are hashed: both sides come from the code that hashes.

use std::collections::BTreeMap;
use std::fmt;

use impasto_stages::Origin;
use impasto_stages::action::{ActionTemplate, Slot};
use impasto_store::key::Field;

/// Why a node is dirty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// No run of it is known.
    NeverBuilt,
    /// Its last result is not in the store any more.
    Collected,
    /// The store has a result, which is not to be taken: why.
    NotBelieved(String),
    /// Which packages it gets is not resolved.
    NotLocked,
    /// What it fetches is not known.
    SourceNotLocked,
    /// The user asked for it.
    Again,
    /// What it depends on changed: one line each, the most telling first.
    Changed(Vec<String>),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NeverBuilt => f.write_str("never built"),
            Reason::Collected => f.write_str("result was deleted"),
            Reason::NotBelieved(rejection) => {
                write!(f, "the stored result is not accepted: {rejection}")
            }
            Reason::NotLocked => f.write_str("its packages are not locked"),
            Reason::SourceNotLocked => f.write_str("what it fetches is not locked"),
            Reason::Again => f.write_str("requested with --rebuild"),
            Reason::Changed(changes) => match changes.as_slice() {
                [] => f.write_str("something in its key changed"),
                [only] => f.write_str(only),
                [first, rest @ ..] => write!(f, "{first} (and {} more)", rest.len()),
            },
        }
    }
}

/// Where a field's text stands now, and what its inputs are called.
pub struct ReasonNames<'a> {
    template: &'a ActionTemplate,
    /// What changed in directories, by the input's name.
    files: BTreeMap<String, String>,
}

impl<'a> ReasonNames<'a> {
    /// The names that a template knows.
    pub fn new(template: &'a ActionTemplate) -> Self {
        ReasonNames {
            template,
            files: BTreeMap::new(),
        }
    }

    /// The same, with what is known of files in directories: a few words each, by the input's name.
    #[must_use]
    pub fn with_files(self, files: BTreeMap<String, String>) -> Self {
        ReasonNames { files, ..self }
    }

    fn origin(&self, path: &str) -> Option<&Origin> {
        self.template.hints.origins.get(path)
    }

    fn slot(slot: &Slot) -> String {
        match slot {
            Slot::Stage(stage) => format!("stage {stage}"),
            Slot::StageFile { stage, file } => format!("file {file:?} of stage {stage}"),
            Slot::Local(path) | Slot::LocalWithTimes(path) | Slot::LocalPart { path, .. } => {
                path.clone()
            }
            Slot::Toolbox => "the toolbox".to_owned(),
            Slot::Firmware { .. } => "the UEFI firmware of this host".to_owned(),
            Slot::Unit { unit, .. } => format!("step {} of this stage", unit + 1),
        }
    }
}

/// What changed from the fields of an earlier run to those of now.
pub fn changes(before: &[Field], now: &[Field], names: &ReasonNames<'_>) -> Vec<String> {
    let old: BTreeMap<&str, &str> = before
        .iter()
        .map(|field| (&*field.path, &*field.value))
        .collect();
    let new: BTreeMap<&str, &str> = now
        .iter()
        .map(|field| (&*field.path, &*field.value))
        .collect();
    // A step's own field is its type, of which the fields below it tell more.
    let says_less = |path: &str, fields: &[Field]| {
        path.starts_with("steps[")
            && path.ends_with(']')
            && fields.iter().any(|field| {
                field
                    .path
                    .strip_prefix(path)
                    .is_some_and(|rest| rest.starts_with('.'))
            })
    };
    let mut lines = Vec::new();
    // In the order of the description, so that what is told first is what stands first in the stage.
    for field in now {
        match old.get(&*field.path) {
            Some(value) if *value == field.value => {}
            Some(value) => lines.push(changed(&field.path, value, &field.value, names)),
            None if says_less(&field.path, now) => {}
            None => lines.push(added(&field.path, &field.value, names)),
        }
    }
    for field in before {
        if !new.contains_key(&*field.path) && !says_less(&field.path, before) {
            lines.push(match package_name(&field.path) {
                Some(package) => format!("package {package} was removed"),
                None => format!("{} was removed", name(&field.path)),
            });
        }
    }
    // Of one thing with several fields (a file's content and mode) the first line tells enough.
    lines.dedup();
    lines
}

fn changed(path: &str, before: &str, now: &str, names: &ReasonNames<'_>) -> String {
    if path == "engine_epoch" || path == "kind_version" {
        return format!(
            "this version of impasto works differently ({} {before} → {now})",
            name(path)
        );
    }
    if path == "toolbox" {
        return "the tools that impasto uses changed".to_owned();
    }
    if path == "from" {
        let parent = names
            .template
            .parent
            .as_ref()
            .map(ReasonNames::slot)
            .unwrap_or_default();
        return format!("the disk of {parent} changed");
    }
    if last(path) == "made_by" {
        let slot = match input_name(path) {
            Some(input) => names.template.inputs.get(input),
            None => names.template.parent.as_ref(),
        };
        let what = slot.map(ReasonNames::slot).unwrap_or_default();
        return format!("{what} was made again, which counts because of `cutoff = \"off\"`");
    }
    if let Some(package) = package_name(path) {
        let version = |value: &str| value.split(' ').next().unwrap_or_default().to_owned();
        let (before, now) = (version(before), version(now));
        return match before == now {
            true => format!("package {package} {now}: different file"),
            false => format!("package {package} {before} → {now}"),
        };
    }
    if let Some(input) = input_name(path) {
        let what = names
            .template
            .inputs
            .get(input)
            .map(ReasonNames::slot)
            .unwrap_or_else(|| input.to_owned());
        if let Some(files) = names.files.get(input) {
            return format!("{what}: {files}");
        }
        return if path.ends_with(".mode") {
            format!("mode of {what}: {} → {}", octal(before), octal(now))
        } else {
            format!("{what} changed")
        };
    }
    if path.ends_with(".mode") {
        return format!("{}: {} → {}", name(path), octal(before), octal(now));
    }
    let several_lines = before.contains('\n') || now.contains('\n');
    if several_lines || matches!(last(path), "script" | "content") {
        let line = first_difference(before, now);
        let place = match names.origin(path) {
            Some(origin) => format!(" ({}:{})", origin.path, origin.line as usize + line - 1),
            None => String::new(),
        };
        return format!("{}: line {line} changed{place}", name(path));
    }
    let (before, now) = shown_pair(before, now);
    format!("{}: {before} → {now}{}", name(path), place(path, names))
}

fn added(path: &str, now: &str, names: &ReasonNames<'_>) -> String {
    if let Some(package) = package_name(path) {
        return format!("package {package} was added");
    }
    if let Some(input) = input_name(path) {
        let what = names
            .template
            .inputs
            .get(input)
            .map(ReasonNames::slot)
            .unwrap_or_else(|| input.to_owned());
        return format!("{what} was added");
    }
    if now.contains('\n') {
        return format!("{} was added{}", name(path), place(path, names));
    }
    format!(
        "{}: {} was added{}",
        name(path),
        shown(now),
        place(path, names)
    )
}

fn place(path: &str, names: &ReasonNames<'_>) -> String {
    names
        .origin(path)
        .map(|origin| format!(" ({}:{})", origin.path, origin.line))
        .unwrap_or_default()
}

/// The name in `inputs["NAME"]` and what is below it.
fn input_name(path: &str) -> Option<&str> {
    path.strip_prefix("inputs[\"")?
        .split_once("\"]")
        .map(|(name, _)| name)
}

/// The name in `packages["NAME:ARCH"]`.
fn package_name(path: &str) -> Option<&str> {
    let (name, _) = path.strip_prefix("packages[\"")?.split_once("\"]")?;
    Some(name.split(':').next().unwrap_or(name))
}

fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// A field's path as people call it: `steps[0].script` is `script`, `steps[2].command` is `command 3`.
fn name(path: &str) -> String {
    let Some(rest) = path.strip_prefix("steps[") else {
        return words(path);
    };
    match rest.split_once(']') {
        Some((index, "")) => format!(
            "step {}",
            index.parse::<usize>().map_or(0, |index| index + 1)
        ),
        Some((index, field)) => {
            let field = field.trim_start_matches('.');
            match index.parse::<usize>() {
                Ok(0) if field == "script" => field.to_owned(),
                Ok(index) if field == "command" => format!("command {}", index + 1),
                Ok(index) => format!("step {}: {}", index + 1, words(field)),
                Err(_) => path.to_owned(),
            }
        }
        None => path.to_owned(),
    }
}

/// Our own names as words; those of users, in quotes, as they are.
fn words(path: &str) -> String {
    let parts = path.split('"').enumerate().map(|(place, part)| {
        if place % 2 == 0 {
            part.replace('_', " ")
        } else {
            part.to_owned()
        }
    });
    parts.collect::<Vec<_>>().join("\"")
}

/// Two values that differ, each short enough for one line; of long ones that begin alike, what surrounds the difference.
fn shown_pair(before: &str, now: &str) -> (String, String) {
    let (old, new) = (shown(before), shown(now));
    if old != new {
        return (old, new);
    }
    let same = before
        .chars()
        .zip(now.chars())
        .take_while(|(a, b)| a == b)
        .count();
    let from = same.saturating_sub(20);
    let part = |value: &str| {
        let part: String = value.chars().skip(from).take(57).collect();
        let end = if value.chars().count() > from + 57 {
            "…"
        } else {
            ""
        };
        format!("…{part:?}{end}")
    };
    (part(before), part(now))
}

fn octal(mode: &str) -> String {
    mode.parse::<u32>()
        .map_or_else(|_| mode.to_owned(), |mode| format!("{mode:04o}"))
}

/// A value, short enough for one line.
fn shown(value: &str) -> String {
    // Digests say nothing beyond their beginning.
    if value.len() >= 64
        && value
            .bytes()
            .rev()
            .take(64)
            .all(|byte| byte.is_ascii_hexdigit())
    {
        return value[..value.len() - 52].to_owned();
    }
    if value.chars().count() > 60 {
        let beginning: String = value.chars().take(57).collect();
        return format!("{beginning:?}…");
    }
    if value.is_empty() || value.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return format!("{value:?}");
    }
    value.to_owned()
}

/// The number of the first line that differs, from 1.
fn first_difference(before: &str, now: &str) -> usize {
    let same = before
        .split('\n')
        .zip(now.split('\n'))
        .take_while(|(a, b)| a == b)
        .count();
    // Where one text is the beginning of the other, the first line that only one has.
    same.min(now.split('\n').count().saturating_sub(1)) + 1
}

#[cfg(test)]
mod tests {
    use impasto_stages::action::{Executor, SandboxRoot};

    use super::*;

    fn field(path: &str, value: &str) -> Field {
        Field {
            path: path.into(),
            value: value.into(),
        }
    }

    fn template() -> ActionTemplate {
        let mut template = ActionTemplate::new("run", 1, Executor::Sandbox(SandboxRoot::Guest));
        template.parent = Some(Slot::Stage("base".into()));
        template
            .inputs
            .insert("conf".into(), Slot::Local("files/app.conf".into()));
        let origin = |line| Origin {
            path: "scripts/a.sh".into(),
            line,
        };
        template
            .hints
            .origins
            .insert("steps[0].script".into(), origin(1));
        template
            .hints
            .origins
            .insert("steps[1].command".into(), origin(30));
        template
    }

    fn told(before: &[(&str, &str)], now: &[(&str, &str)]) -> Vec<String> {
        let fields = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(path, value)| field(path, value))
                .collect::<Vec<_>>()
        };
        changes(
            &fields(before),
            &fields(now),
            &ReasonNames::new(&template()),
        )
    }

    #[test]
    fn a_script_names_the_line_and_where_it_stands() {
        let path = "steps[0].script";
        assert_eq!(
            told(&[(path, "a\nb\nc\n")], &[(path, "a\nB\nc\n")]),
            ["script: line 2 changed (scripts/a.sh:2)"]
        );
        assert_eq!(
            told(&[(path, "a\n")], &[(path, "a\nb\n")]),
            ["script: line 2 changed (scripts/a.sh:2)"]
        );
        assert_eq!(
            told(&[(path, "a\nb\n")], &[(path, "a\n")]),
            ["script: line 2 changed (scripts/a.sh:2)"]
        );
    }

    #[test]
    fn each_kind_of_field_is_told_in_its_own_words() {
        let digest = |c: &str| format!("blob:{}", c.repeat(64));
        assert_eq!(
            told(&[("from", "disk:a")], &[("from", "disk:b")]),
            ["the disk of stage base changed"]
        );
        assert_eq!(
            told(
                &[(r#"inputs["conf"]"#, &digest("a"))],
                &[(r#"inputs["conf"]"#, &digest("b"))]
            ),
            ["files/app.conf changed"]
        );
        assert_eq!(
            told(
                &[(r#"inputs["conf"].mode"#, "420")],
                &[(r#"inputs["conf"].mode"#, "493")]
            ),
            ["mode of files/app.conf: 0644 → 0755"]
        );
        assert_eq!(
            told(&[(r#"env["A"]"#, "1")], &[(r#"env["A"]"#, "2 3")]),
            [r#"env["A"]: 1 → "2 3""#]
        );
        assert_eq!(
            told(&[("steps[1].command", "a")], &[("steps[1].command", "b")]),
            ["command 2: a → b (scripts/a.sh:30)"]
        );
        assert_eq!(
            told(&[], &[(r#"env["A"]"#, "1")]),
            [r#"env["A"]: 1 was added"#]
        );
        assert_eq!(
            told(&[(r#"env["A"]"#, "1")], &[]),
            [r#"env["A"] was removed"#]
        );
        assert_eq!(
            told(&[("engine_epoch", "1")], &[("engine_epoch", "2")]),
            ["this version of impasto works differently (engine epoch 1 → 2)"]
        );
        assert!(told(&[("network", "false")], &[("network", "false")]).is_empty());
    }

    #[test]
    fn names_of_users_are_left_as_they_are() {
        assert_eq!(
            told(&[(r#"env["MY_VAR"]"#, "1")], &[(r#"env["MY_VAR"]"#, "2")]),
            [r#"env["MY_VAR"]: 1 → 2"#]
        );
        assert_eq!(
            told(&[("source_date_epoch", "1")], &[("source_date_epoch", "2")]),
            ["source date epoch: 1 → 2"]
        );
    }

    #[test]
    fn long_values_show_where_they_differ() {
        let long = |end: &str| format!("echo {} {end}", "a".repeat(80));
        let path = "steps[1].command";
        assert_eq!(
            told(&[(path, &long("one"))], &[(path, &long("two"))]),
            [
                r#"command 2: …"aaaaaaaaaaaaaaaaaaa one" → …"aaaaaaaaaaaaaaaaaaa two" (scripts/a.sh:30)"#
            ]
        );
    }

    #[test]
    fn a_step_that_came_or_went_is_told_once_by_what_it_does() {
        let with = [
            ("steps[0]", "command"),
            ("steps[0].command", "true"),
            ("steps[1]", "command"),
            ("steps[1].command", "echo b"),
        ];
        assert_eq!(
            told(&with[..2], &with),
            [r#"command 2: "echo b" was added (scripts/a.sh:30)"#]
        );
        assert_eq!(told(&with, &with[..2]), ["command 2 was removed"]);
    }

    #[test]
    fn without_cutoff_a_stage_that_ran_again_is_named() {
        assert_eq!(
            told(&[("from.made_by", "a")], &[("from.made_by", "b")]),
            [r#"stage base was made again, which counts because of `cutoff = "off"`"#]
        );
    }
}
