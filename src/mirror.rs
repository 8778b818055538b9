//! Temporary.
use serde::{Deserialize, Serialize};
/// Mirrors.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Mirrors {
    /// archive
    pub archive: Option<String>,
    /// security
    pub security: Option<String>,
}
impl Mirrors {
    /// proxies
    pub fn proxies(&self) -> Vec<String> {
        Vec::new()
    }
    /// lines
    pub fn source_lines(&self, suite: &str, components: &[String], keyring: &str) -> Vec<String> {
        let components = components.join(" ");
        let mut lines = Vec::new();
        if let Some(a) = &self.archive {
            lines.push(format!("deb [signed-by={keyring}] {a} {suite} {components}"));
            if self.security.is_some() {
                lines.push(format!("deb [signed-by={keyring}] {a} {suite}-updates {components}"));
            }
        }
        if let Some(s) = &self.security {
            lines.push(format!("deb [signed-by={keyring}] {s} {suite}-security {components}"));
        }
        lines
    }
}
