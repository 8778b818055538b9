//! TEMP
#![allow(missing_docs)]
mod model;
pub mod diagnostic {
    #[derive(Debug, Clone, Copy)]
    pub struct Span;
}
pub mod suggest {
    pub fn nearest<'a>(_w: &str, _n: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
        None
    }
}
pub use model::*;
#[derive(Debug)]
pub struct Diagnostics;
impl Diagnostics {
    pub fn render(&self, _: bool) -> String {
        String::new()
    }
}
pub struct LoadRequest {
    pub path: std::path::PathBuf,
    pub vars: Vec<(String, String)>,
    pub var_files: Vec<std::path::PathBuf>,
    pub env: Vec<(String, String)>,
    pub host_env: std::collections::BTreeMap<String, String>,
    pub only: Vec<String>,
}
pub fn load(_: &LoadRequest, _: &impasto_stages::Registry) -> Result<Recipe, Diagnostics> {
    Err(Diagnostics)
}
pub fn format(_: &str, _: &str) -> Result<String, Diagnostics> {
    Err(Diagnostics)
}
