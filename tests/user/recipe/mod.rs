//! The recipe language from outside: what loads, what is wrong and how it is said, what is formatted how.

mod bad;
mod fmt;
mod help;
mod load;
mod random;

use std::path::{Path, PathBuf};

use impasto::recipe::{Diagnostics, LoadRequest, Recipe, load};
use impasto_stages::Registry;

/// A directory below the fixtures, as a relative path: it stands in messages.
fn fixture(path: &str) -> PathBuf {
    Path::new("tests/fixtures/recipes").join(path)
}

/// A recipe in a directory of its own, with a file `base.raw` beside it.
struct Project {
    dir: tempfile::TempDir,
    request: LoadRequest,
}

impl Project {
    fn new(text: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let project = Project {
            request: LoadRequest {
                path: dir.path().to_owned(),
                ..LoadRequest::default()
            },
            dir,
        };
        project.file("recipe.hcl", text).file("base.raw", "disk")
    }

    fn file(self, name: &str, text: &str) -> Self {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("it has a parent")).expect("a directory");
        std::fs::write(path, text).expect("a file");
        self
    }

    fn var(mut self, name: &str, value: &str) -> Self {
        self.request.vars.push((name.to_owned(), value.to_owned()));
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.request.env.push((name.to_owned(), value.to_owned()));
        self
    }

    fn var_file(mut self, name: &str, text: &str) -> Self {
        self.request.var_files.push(self.dir.path().join(name));
        self.file(name, text)
    }

    fn only(mut self, only: &str) -> Self {
        self.request.only.push(only.to_owned());
        self
    }

    fn try_load(&self) -> Result<Recipe, Diagnostics> {
        load(&self.request, &Registry::default())
    }

    fn load(&self) -> Recipe {
        self.try_load()
            .unwrap_or_else(|diagnostics| panic!("{diagnostics}"))
    }

    /// What is wrong, without this machine's paths.
    fn errors(&self) -> String {
        let text = match self.try_load() {
            Ok(_) => panic!("the recipe is valid"),
            Err(diagnostics) => diagnostics.render(false),
        };
        text.replace(&format!("{}/", self.dir.path().display()), "")
    }
}
