//! What a shell completes, asked as bash asks.

use std::path::Path;
use std::process::Command;

use crate::project::{Project, ran};

const RECIPE: &str = "stage \"fetch\" \"base\" {\n  path = \"base.qcow2\"\n}\n\nstage \"run\" \"banner\" {\n  from = stage.base\n  \
     commands = [\"true\"]\n}\n\nimage \"web\" {\n  files = [stage.banner]\n}\n";

/// What bash offers for a line whose last word is being typed.
fn offered(project: &Project, words: &[&str]) -> Vec<String> {
    // What bash does when the key is pressed: it sets these and calls the function.
    let line = "source <(impasto completions bash); COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); COMP_TYPE=9
        _clap_complete_impasto impasto \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD - 1]}\"
        printf '%s\\n' \"${COMPREPLY[@]}\"";
    let program = Path::new(env!("CARGO_BIN_EXE_impasto"));
    let path = format!(
        "{}:{}",
        program.parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    let mut command = Command::new("bash");
    command
        .args(["--norc", "-c", line, "bash"])
        .args(words)
        .current_dir(project.path(""))
        .env("PATH", path);
    let ran = ran(command);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    ran.stdout.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn stages_and_images_of_the_recipe_are_offered() {
    let project = Project::empty();
    project.write("impasto.hcl", RECIPE);
    assert_eq!(
        offered(&project, &["impasto", "build", "ba"]),
        ["base", "banner"]
    );
    assert_eq!(offered(&project, &["impasto", "boot", "im"]), ["image.web"]);
    assert_eq!(
        offered(&project, &["impasto", "build", "--rebuild", "ban"]),
        ["banner"]
    );
    // Of another recipe, named as a path or by its option.
    project.write("other/impasto.hcl", &RECIPE.replace("banner", "other"));
    assert_eq!(
        offered(&project, &["impasto", "why", "other/", "o"]),
        ["other"]
    );
    assert_eq!(
        offered(&project, &["impasto", "log", "--recipe", "other", "ot"]),
        ["other"]
    );
    assert_eq!(
        offered(&project, &["impasto", "plan", "./ot"]),
        ["./other/"]
    );
    // What is clap's: commands and options, without a recipe too.
    assert_eq!(offered(&project, &["impasto", "doc"]), ["doctor"]);
    assert_eq!(
        offered(&Project::empty(), &["impasto", "build", "--keep"]),
        ["--keep-going"]
    );
}
