//! What steps see of the mirrors that the host chose.

use crate::project::Project;

const RECIPE: &str = r#"
recipe { name = "mirrors" }
stage "fetch" "base" { path = "base.qcow2" }
stage "run" "see" {
  from     = stage.base
  network  = true
  commands = [
    "cat /run/impasto/apt/mirrors",
    "cd /run/impasto/apt && stat -c %a%n *.conf mirrors",
    "cat /run/impasto/apt/archive/dists/note && ! touch /run/impasto/apt/archive/x",
  ]
}
"#;

#[test]
fn a_mirror_in_a_directory_is_seen_at_a_fixed_path_and_read_only() {
    let project = Project::with(RECIPE);
    project.write("frozen/dists/note", "a frozen mirror\n");
    let mut command = project.command(&["build"]);
    command.env(
        "IMPASTO_MIRROR",
        format!("file:{}", project.path("frozen").display()),
    );
    let ran = crate::project::ran(command);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let log = project.ok(&["log", "see"]);
    let expected = "archive file:/run/impasto/apt/archive\n600auth.conf\n600proxy.conf\n644mirrors\n\
                    a frozen mirror\n";
    assert!(log.starts_with(expected), "{log}");
    // The choice is recorded, and in no key: another mirror changes nothing.
    let claims = project.claims();
    assert!(
        claims.contains(&format!("file:{}", project.path("frozen").display())),
        "{claims}"
    );
    let again = project.run(&[
        "build",
        "--mirror",
        "https://me:geheim@mirror.example.org/debian",
    ]);
    assert!(again.stderr.contains("cached"), "{}", again.stderr);
}

#[test]
fn a_mirrors_password_is_not_shown() {
    let project = Project::with(&RECIPE.replace(
        "cat /run/impasto/apt/archive/dists/note && ! touch /run/impasto/apt/archive/x",
        "cat /run/impasto/apt/auth.conf",
    ));
    let ran = project.run(&[
        "build",
        "--mirror",
        "https://me:geheim@mirror.example.org/debian",
    ]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let log = project.ok(&["log", "see"]);
    assert!(
        log.contains("archive https://mirror.example.org/debian\n"),
        "{log}"
    );
    assert!(
        log.contains("machine https://mirror.example.org/debian login me password [secret]"),
        "{log}"
    );
    let shown = format!("{log}{}{}", ran.stderr, project.claims());
    assert!(!shown.contains("geheim"), "{shown}");
}

#[test]
fn a_mirror_that_is_none_is_an_error_with_the_way_out() {
    let project = Project::with(RECIPE);
    let ran = project.run(&[
        "build",
        "--mirror",
        "ftp://me:geheim@mirror.example.org/debian",
    ]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(
        ran.stderr
            .contains("--mirror is not a valid mirror: a mirror needs http:"),
        "{}",
        ran.stderr
    );
    assert!(!ran.stderr.contains("geheim"), "{}", ran.stderr);
    let ran = project.run(&["build", "--mirror", "file:/no/such/mirror"]);
    assert_ne!(ran.code, 0);
    assert!(
        ran.stderr
            .contains("the mirror /no/such/mirror is not a readable directory"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("--mirror URL or IMPASTO_MIRROR"),
        "{}",
        ran.stderr
    );
}
