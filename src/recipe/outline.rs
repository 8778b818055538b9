//! The names that a recipe declares, without evaluating it: for who types a command.
//! Knows blocks and their labels; a file that cannot be read or parsed declares nothing.

use std::path::Path;

use hcl_edit::structure::Block;

use super::load::RecipePaths;
use super::syntax;
use crate::base::bounded;

/// What a recipe declares, in the order in which its files say it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outline {
    /// Kinds and names of stages.
    pub stages: Vec<(String, String)>,
    pub images: Vec<String>,
}

/// What the recipe at a path declares; `None` where there is none. The path is the user's own: nothing that the recipe
/// names is read.
pub fn outline(path: &Path) -> Option<Outline> {
    let mut outline = Outline::default();
    for (_, full) in RecipePaths::new(path).ok()?.files {
        let Ok(text) = bounded::read_text(&full, bounded::TEXT) else {
            continue;
        };
        let Ok(body) = syntax::parse_body(&text, 0) else {
            continue;
        };
        body.blocks().for_each(|block| outline.add(block));
    }
    Some(outline)
}

impl Outline {
    fn add(&mut self, block: &Block) {
        let labels: Vec<&str> = block.labels.iter().map(|label| label.as_str()).collect();
        match (block.ident.as_str(), labels.as_slice()) {
            ("stage", [kind, name]) => self.stages.push(((*kind).to_owned(), (*name).to_owned())),
            ("image", [name]) => self.images.push((*name).to_owned()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_parses_counts() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("a.hcl"),
            "stage \"run\" \"one\" {\n  from = stage.nowhere\n}\nimage \"x\" {\n}\n",
        )
        .unwrap();
        std::fs::write(dir.path().join("b.hcl"), "stage \"run\" \"half").unwrap();
        let expected = Outline {
            stages: vec![("run".to_owned(), "one".to_owned())],
            images: vec!["x".to_owned()],
        };
        assert_eq!(outline(dir.path()), Some(expected));
        assert_eq!(outline(&dir.path().join("nowhere")), None);
    }
}
