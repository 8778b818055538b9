//! Whether two builds of a recipe gave the same, stage by stage; where they did not, what differs, and probably why.
//!
//! Knows results and trees; builds nothing and prints nothing. What a guest wrote is neutralised where it enters a
//! [`AuditReport`].
//!
//! * [`stage`] compares what a stage gave twice; `tar` reads the trees that stages make as archives.
//! * [`bytes`] counts what differs where content does not.
//! * [`causes`] knows where differences usually come from.

pub mod bytes;
pub mod causes;
mod render;
pub mod stage;
mod tar;

use serde::Serialize;

use bytes::Bytes;
use causes::DifferenceCause;

/// What an audit found. As JSON it is what `impasto audit --json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditReport {
    /// Version of this form: 1.
    pub v: u32,
    /// Whether every stage gave the same.
    pub equal: bool,
    /// The first stage that did not, in the order of the graph.
    pub first: Option<String>,
    /// Under what the second build ran: a name, and the values of both.
    pub varied: Vec<(String, String, String)>,
    /// All stages, in the order of the graph.
    pub stages: Vec<AuditStage>,
}

/// How a stage's two results compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StageVerdict {
    /// The same bytes.
    Identical,
    /// The same files in the same places, though file systems have laid them out otherwise on the disk.
    Equal,
    /// Something differs that can be seen.
    Different,
}

/// A stage of an audit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditStage {
    /// Its name, with the values of the matrix that set it apart.
    pub stage: String,
    pub verdict: StageVerdict,
    /// What differs here first: not what differs because an earlier stage did.
    pub files: Vec<Difference>,
    /// How many differences an earlier stage is answerable for.
    pub inherited: usize,
    /// Of an equal disk that is not identical: the bytes that differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Bytes>,
}

/// One thing that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The path in the image, or what else it is, such as `partition table`.
    pub path: String,
    /// How: `content`, `mode`, `only in the first`, …
    pub change: String,
    /// Where that probably comes from.
    pub cause: Option<DifferenceCause>,
}

impl AuditReport {
    /// The report of these stages, in the order of the graph.
    pub fn new(stages: Vec<AuditStage>, varied: Vec<(String, String, String)>) -> Self {
        let first = stages
            .iter()
            .find(|stage| stage.verdict == StageVerdict::Different);
        let first = first.map(|stage| stage.stage.clone());
        AuditReport {
            v: 1,
            equal: first.is_none(),
            first,
            varied,
            stages,
        }
    }

    /// The report as text.
    pub fn render(&self) -> String {
        render::render(self)
    }
}
