//! Tests of images: what a test asks is answered by reading the disk, or by a machine that boots it.
//! Knows disks and machines; knows no recipe, stage or store, and never writes what is tested.
//!
//! [`image`] decides what needs no machine; [`secrets`] is its largest part. [`machine`] boots and asks. [`report`] writes
//! what came of it, for people and for CI services.

pub mod image;
pub mod machine;
pub mod report;
pub mod secrets;

use serde::{Deserialize, Serialize};

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    Passed,
    Failed,
    /// It was not made: one before it failed, or the machine was gone.
    Skipped,
}

/// A check and what came of it. Texts are safe to show.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckResult {
    pub name: String,
    pub status: CheckStatus,
    /// What was asked, in a few words.
    pub question: String,
    /// Why it did not pass; empty where it did.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What the guest wrote, or what is different.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<String>,
    pub seconds: f64,
}

/// The checks of one machine, or those that needed none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SuiteReport {
    /// `image` where no machine was needed, else the firmware.
    pub name: String,
    /// What ran the machine, such as `QEMU emulator version 7.2, tcg`; none without a machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// How lines got into the guest; none where none had to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<String>,
    /// Seconds until they did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_seconds: Option<f64>,
    pub checks: Vec<CheckResult>,
}

impl SuiteReport {
    /// Whether every check passed.
    pub fn passed(&self) -> bool {
        self.count(CheckStatus::Passed) == self.checks.len()
    }

    /// How many checks came out so.
    pub fn count(&self, status: CheckStatus) -> usize {
        self.checks
            .iter()
            .filter(|check| check.status == status)
            .count()
    }

    /// What failed, on one line.
    pub fn failure(&self) -> String {
        let failed = self.count(CheckStatus::Failed);
        let all = self.checks.len();
        let first = self
            .checks
            .iter()
            .find(|check| check.status == CheckStatus::Failed);
        let first = first.map_or(String::new(), |check| {
            format!(": `{}`: {}", check.name, check.message)
        });
        let whole = match self.name.as_str() {
            "image" => "of the image".to_owned(),
            firmware => format!("under {firmware}"),
        };
        let checks = if all == 1 { "check" } else { "checks" };
        format!("{failed} of {all} {checks} {whole} failed{first}")
    }
}
