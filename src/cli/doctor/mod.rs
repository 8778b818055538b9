//! `impasto doctor`: tries what impasto needs of this host, and says what repairs what does not work.
//! Knows how findings are shown; the checks are in [`checks`].

mod checks;

use clap::Args;
use serde::Serialize;

use super::error::CliError;
use super::exit;
use super::session::Session;
use crate::sandbox::SandboxKind;
use crate::ui;

#[derive(Debug, Args)]
#[command(after_help = "\
Each check tries the real thing: a disk is served and attached, namespaces are created, small machines are booted,
and the mirror is contacted. It takes a few seconds and leaves nothing behind. Without root it skips what only
root can check.

Exit codes: 0 if stages can run here (there may be warnings), 1 if something that they need does not work.

--json prints one object. While `v` is 1, names are not changed or removed; new ones may be added:
  v         1
  ok        whether there is no error
  checks    a list of { check, status, found, needed_for, help }
            check: root, disk-server, name-spaces, fuse, loop, user-name-spaces, emulators, limits, mirror, store,
            out, qemu, ports, kvm, ovmf, qemu-img, kernel; status: ok, warning, error, skipped; help: a list of lines
  sandboxes a list of { sandbox, works, why, good_for, not_for }; works: true, false, or null where it was not tried")]
pub(crate) struct Doctor {
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    /// It works.
    Ok,
    /// Something works less well, or only some commands do not.
    Warning,
    /// Stages cannot run.
    Error,
    /// It could not be tried.
    Skipped,
}

impl Status {
    fn word(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Error => "error",
            Status::Skipped => "skipped",
        }
    }
}

/// One thing that was tried.
#[derive(Debug, Serialize)]
struct DoctorCheck {
    /// Its stable name.
    check: &'static str,
    status: Status,
    /// What was found, or why it does not work.
    found: String,
    /// Who needs it.
    needed_for: &'static str,
    /// What repairs it, a line each.
    help: Vec<String>,
}

/// A sandbox of this version.
#[derive(Debug, Serialize)]
struct SandboxRow {
    sandbox: &'static str,
    /// `None` where it was not tried.
    works: Option<bool>,
    /// Why it does not, or was not tried.
    why: Option<String>,
    good_for: &'static str,
    not_for: &'static str,
}

#[derive(Serialize)]
struct DoctorDocument {
    v: u32,
    ok: bool,
    checks: Vec<DoctorCheck>,
    sandboxes: Vec<SandboxRow>,
}

/// What a user has to know to choose a sandbox.
struct SandboxGuide {
    /// The checks that must be well.
    needs: &'static [&'static str],
    good_for: &'static str,
    not_for: &'static str,
}

fn guide(sandbox: SandboxKind) -> SandboxGuide {
    match sandbox {
        SandboxKind::Namespace => SandboxGuide {
            needs: &["root", "disk-server", "name-spaces", "fuse", "loop"],
            good_for: "recipes and images that you trust: it protects the host from mistakes and careless scripts",
            not_for: "recipes or images from strangers: steps use the host's own kernel, which also mounts the image",
        },
    }
}

impl Doctor {
    pub(crate) fn run(self, session: &Session) -> Result<u8, CliError> {
        let mut checks = Vec::new();
        let interrupt = session.interrupt.listen();
        let cancel = interrupt.token();
        let mut shown = Ok(());
        checks::all(session, &cancel, &mut |check| {
            // Some take seconds, so each is shown when it is known.
            if !self.json && shown.is_ok() {
                shown = ui::output(&text(&check));
            }
            checks.push(check);
        });
        shown?;
        if cancel.is_cancelled() {
            return Ok(exit::INTERRUPTED);
        }
        let sandboxes: Vec<_> = SandboxKind::ALL
            .into_iter()
            .map(|kind| sandbox(kind, &checks))
            .collect();
        let count = |status| checks.iter().filter(|check| check.status == status).count();
        let (errors, warnings, skipped) = (
            count(Status::Error),
            count(Status::Warning),
            count(Status::Skipped),
        );
        if self.json {
            let document = DoctorDocument {
                v: 1,
                ok: errors == 0,
                checks,
                sandboxes,
            };
            ui::output(
                &(serde_json::to_string(&document).expect("BUG: a list is not JSON") + "\n"),
            )?;
        } else {
            ui::output(&summary(&sandboxes, errors, warnings, skipped))?;
        }
        Ok(if errors == 0 {
            exit::OK
        } else {
            exit::INTERNAL
        })
    }
}

/// Whether a sandbox works: if all that it needs does.
fn sandbox(kind: SandboxKind, checks: &[DoctorCheck]) -> SandboxRow {
    let SandboxGuide {
        needs,
        good_for,
        not_for,
    } = guide(kind);
    let needs = || checks.iter().filter(|check| needs.contains(&check.check));
    let of = |status| needs().find(|check| check.status == status);
    let (works, why) = match (of(Status::Error), of(Status::Skipped)) {
        // Without root the others were not tried.
        (Some(check), Some(_)) if check.check == "root" => (None, Some(check.found.clone())),
        (Some(check), _) => (
            Some(false),
            Some(format!("{}: {}", check.check, check.found)),
        ),
        (None, Some(check)) => (None, Some(check.found.clone())),
        (None, None) => (Some(true), None),
    };
    SandboxRow {
        sandbox: kind.name(),
        works,
        why,
        good_for,
        not_for,
    }
}

fn text(check: &DoctorCheck) -> String {
    let mut text = format!(
        "{:<8} {:<17} {}\n",
        check.status.word(),
        check.check,
        check.found
    );
    for line in &check.help {
        text += &format!("{:<26} help: {line}\n", "");
    }
    text
}

fn summary(sandboxes: &[SandboxRow], errors: usize, warnings: usize, skipped: usize) -> String {
    let mut text = String::new();
    for sandbox in sandboxes {
        let works = match (sandbox.works, &sandbox.why) {
            (Some(true), _) => "works here".to_owned(),
            (Some(false), why) => {
                format!("does not work here: {}", why.as_deref().unwrap_or_default())
            }
            (None, why) => format!("was not tried: {}", why.as_deref().unwrap_or_default()),
        };
        text += &format!(
            "\nsandbox {}: {works}\n  good for: {}\n  not for:  {}\n",
            sandbox.sandbox, sandbox.good_for, sandbox.not_for
        );
    }
    let plural =
        |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    text + &format!(
        "\n{}, {}, {skipped} skipped\n",
        plural(errors, "error"),
        plural(warnings, "warning"),
    )
}
