//! Reports of tests: JSON, and JUnit's XML as CI services read it.
//! Knows results, not how they came about.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{CheckResult, CheckStatus, SuiteReport};

/// What tests of an image came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TestReport {
    /// The stage's name.
    pub name: String,
    pub suites: Vec<SuiteReport>,
}

impl TestReport {
    /// As JSON. Names do not change, new ones may come.
    pub fn json(&self) -> String {
        let text = serde_json::to_string_pretty(self).expect("BUG: a report is JSON");
        text + "\n"
    }

    /// As JUnit's XML: a suite for each machine, a case for each check.
    pub fn junit(&self) -> String {
        let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned();
        let total = |status| -> usize { self.suites.iter().map(|suite| suite.count(status)).sum() };
        let tests: usize = self.suites.iter().map(|suite| suite.checks.len()).sum();
        let _ = writeln!(
            text,
            "<testsuites name={} tests=\"{tests}\" failures=\"{}\" skipped=\"{}\">",
            quoted(&self.name),
            total(CheckStatus::Failed),
            total(CheckStatus::Skipped),
        );
        for suite in &self.suites {
            let seconds: f64 = suite.checks.iter().map(|check| check.seconds).sum();
            let _ = writeln!(
                text,
                "  <testsuite name={} tests=\"{}\" failures=\"{}\" skipped=\"{}\" time=\"{seconds:.3}\">",
                quoted(&format!("{}.{}", self.name, suite.name)),
                suite.checks.len(),
                suite.count(CheckStatus::Failed),
                suite.count(CheckStatus::Skipped),
            );
            for check in &suite.checks {
                self.case(&mut text, suite, check);
            }
            text += "  </testsuite>\n";
        }
        text + "</testsuites>\n"
    }

    fn case(&self, text: &mut String, suite: &SuiteReport, check: &CheckResult) {
        let _ = write!(
            text,
            "    <testcase classname={} name={} time=\"{:.3}\"",
            quoted(&format!("{}.{}", self.name, suite.name)),
            quoted(&check.name),
            check.seconds,
        );
        let message = quoted(&check.message);
        let output = escaped(&check.output.join("\n"));
        let _ = match check.status {
            CheckStatus::Passed => writeln!(text, "/>"),
            CheckStatus::Failed => writeln!(
                text,
                ">\n      <failure message={message}>{output}</failure>\n    </testcase>"
            ),
            CheckStatus::Skipped => writeln!(
                text,
                ">\n      <skipped message={message}/>\n    </testcase>"
            ),
        };
    }
}

/// A text in XML; characters that XML cannot hold become `?`.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '&' => out += "&amp;",
            '"' => out += "&quot;",
            '\n' | '\t' => out.push(c),
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => out.push('?'),
            c => out.push(c),
        }
    }
    out
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text).replace('\n', "&#10;"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_as_json_and_as_junit() {
        let check = |name: &str, status, message: &str, output: &[&str]| CheckResult {
            name: name.to_owned(),
            status,
            question: "run `true`".to_owned(),
            message: message.to_owned(),
            output: output.iter().map(|line| (*line).to_owned()).collect(),
            seconds: 1.5,
        };
        let report = TestReport {
            name: "smoke".to_owned(),
            suites: vec![SuiteReport {
                name: "bios".to_owned(),
                machine: Some("QEMU 7.2, tcg".to_owned()),
                access: Some("the guest agent".to_owned()),
                boot_seconds: Some(31.25),
                checks: vec![
                    check("boots", CheckStatus::Passed, "", &[]),
                    check(
                        "web",
                        CheckStatus::Failed,
                        "it ended with exit code 3",
                        &["<b>\"x\" & y</b>", "\u{1}"],
                    ),
                    check("later", CheckStatus::Skipped, "`web` did not pass", &[]),
                ],
            }],
        };
        insta::assert_snapshot!("junit", report.junit());
        insta::assert_snapshot!("json", report.json());
        assert_eq!(
            serde_json::from_str::<TestReport>(&report.json()).unwrap(),
            report
        );
        assert_eq!(
            report.suites[0].failure(),
            "1 of 3 checks under bios failed: `web`: it ended with exit code 3"
        );
    }
}
