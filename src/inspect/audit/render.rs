//! An audit's report as text.
//! Knows lines; what is in them was neutralised before.

use super::{AuditReport, AuditStage, StageVerdict};
use crate::base::human;
use crate::base::table::columns;

/// Differences of a stage that are shown; JSON has all.
const SHOWN: usize = 40;

pub(super) fn render(report: &AuditReport) -> String {
    let mut rows = Vec::new();
    for stage in &report.stages {
        let (word, note) = match stage.verdict {
            StageVerdict::Identical => ("identical", String::new()),
            StageVerdict::Equal => ("equal", elsewhere(stage)),
            StageVerdict::Different => ("DIFFERENT", note(stage)),
        };
        rows.push(vec![format!("  {}", stage.stage), word.to_owned(), note]);
    }
    let mut text = columns(&rows);
    for stage in report.stages.iter().filter(|stage| !stage.files.is_empty()) {
        let first = if report.first.as_ref() == Some(&stage.stage) {
            ", the first that differs"
        } else {
            ""
        };
        text += &format!("\n{}{first}:\n", stage.stage);
        for file in stage.files.iter().take(SHOWN) {
            text += &format!("  {}  ({})\n", file.path, file.change);
            match &file.cause {
                Some(cause) => {
                    text += &format!("    cause:  {}\n    remedy: {}\n", cause.what, cause.remedy)
                }
                None => text += "    cause:  unknown; compare the two\n",
            }
        }
        if stage.files.len() > SHOWN {
            text += &format!(
                "  … and {} more: --json shows all\n",
                stage.files.len() - SHOWN
            );
        }
    }
    let row = |(name, first, second): &(String, String, String)| {
        vec![format!("  {name}"), format!("{first} → {second}")]
    };
    let rows: Vec<_> = report.varied.iter().map(row).collect();
    text += &format!(
        "\nbuilt twice, the second time in a varied environment:\n{}",
        columns(&rows)
    );
    text
}

/// What differs between disks of the same content, the most first.
fn elsewhere(stage: &AuditStage) -> String {
    let text = "same content, placed differently on the disk";
    let Some(found) = &stage.bytes else {
        return text.to_owned();
    };
    let mut purposes: Vec<_> = found.purposes.iter().collect();
    purposes.sort_by_key(|(_, bytes)| std::cmp::Reverse(**bytes));
    let purposes: Vec<_> = purposes
        .iter()
        .map(|(purpose, bytes)| format!("{} {}", purpose.word(), human::bytes(**bytes)))
        .collect();
    format!(
        "{text}: {} in {} chunks ({})",
        human::bytes(found.bytes),
        found.chunks,
        purposes.join(", ")
    )
}

fn note(stage: &AuditStage) -> String {
    let own = stage.files.len();
    let inherited = stage.inherited;
    match (own, inherited) {
        (0, _) => format!("only inherited differences ({inherited})"),
        (_, 0) => format!("{own} here"),
        _ => format!("{own} here, {inherited} inherited"),
    }
}
