//! Trees of commits: of repositories in a directory, and of a server of files. Git is the host's own.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::project::Project;
use crate::server::{Answer, Server};

/// Runs git in a directory, as somebody with no settings.
fn git(dir: &Path, words: &[&str]) -> String {
    let output = Command::new("git")
        .current_dir(dir)
        .args([
            "-c",
            "user.name=Test",
            "-c",
            "user.email=test@example.org",
            "-c",
            "protocol.file.allow=always",
        ])
        .args(words)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{words:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Makes a repository below a project's directory.
fn repository(project: &Project, name: &str) -> PathBuf {
    let dir = project.path(name);
    std::fs::create_dir_all(&dir).unwrap();
    git(&dir, &["init", "--quiet", "--initial-branch=main", "."]);
    dir
}

/// Commits what lies in a directory.
fn commit(dir: &Path) -> String {
    git(dir, &["add", "--all"]);
    git(dir, &["commit", "--quiet", "--message=x"]);
    git(dir, &["rev-parse", "HEAD"])
}

fn recipe(project: &Project, lines: &str) {
    let stage = format!("stage \"fetch\" \"src\" {{\n{lines}\n}}\n");
    let image = "image \"it\" {\n  name  = \"it\"\n  files = { \"src.tar\" = stage.src }\n}\n";
    project.write("impasto.hcl", &(stage + image));
}

/// Builds the tree: its paths, with permission bits and what is in them.
fn built(project: &Project, arguments: &[&str]) -> Vec<String> {
    project.ok(&[&["build"], arguments].concat());
    let archive = std::fs::read(project.path("out/it/src.tar")).unwrap();
    let mut archive = tar::Archive::new(archive.as_slice());
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut entry, &mut text).unwrap();
        if let Some(target) = entry.link_name().unwrap() {
            text = format!("→ {}", target.display());
        }
        let mode = entry.header().mode().unwrap();
        format!("{} {mode:o} {text}", entry.path().unwrap().display())
    });
    entries.collect()
}

#[test]
fn a_branch_is_locked_to_its_commit() {
    let project = Project::empty();
    let dir = repository(&project, "app");
    project.write("app/bin/run", "#!/bin/sh\n");
    project.write("app/doc/a", "one");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(dir.join("bin/run"), executable).unwrap();
    std::os::unix::fs::symlink("doc/a", dir.join("link")).unwrap();
    // What a checkout would run, replace or leave out.
    project.write(
        "app/.gitattributes",
        "doc/a export-subst filter=evil\ndoc export-ignore\n",
    );
    project.write("app/.git/hooks/post-checkout", "#!/bin/sh\ntouch ran\n");
    let first = commit(&dir);
    recipe(&project, "  git = \"app\"\n  ref = \"main\"");
    let expected = [
        ".gitattributes 644 doc/a export-subst filter=evil\ndoc export-ignore\n",
        "bin 755 ",
        "bin/run 755 #!/bin/sh\n",
        "doc 755 ",
        "doc/a 644 one",
        "link 777 → doc/a",
    ];
    assert_eq!(built(&project, &[]), expected);
    let lock = project.read("impasto.lock");
    assert!(lock.contains(&format!("commit = \"{first}\"")), "{lock}");
    assert!(
        lock.contains("request = [\n  \"git app\",\n  \"ref main\",\n]"),
        "{lock}"
    );
    // The branch goes on, and the old commit is on none any more.
    project.write("app/doc/a", "two");
    git(&dir, &["add", "--all"]);
    git(&dir, &["commit", "--quiet", "--amend", "--message=y"]);
    let second = git(&dir, &["rev-parse", "HEAD"]);
    assert_eq!(built(&project, &["--locked"]), expected);
    let outdated = project.run(&["outdated"]);
    let told = format!(
        "src: another commit: {} → {}  (app)\n",
        &first[..12],
        &second[..12]
    );
    assert!(
        outdated.code == 10 && outdated.stdout.starts_with(&told),
        "{}",
        outdated.stdout
    );
    // From nothing, by the commit's name.
    std::fs::remove_dir_all(project.store()).unwrap();
    assert_eq!(built(&project, &["--locked"]), expected);
    project.ok(&["update", "src"]);
    assert_eq!(built(&project, &[])[4], "doc/a 644 two");
    git(&dir, &["tag", "-a", "v1", "-m", "x", &first]);
    recipe(
        &project,
        "  git = \"app\"\n  ref = \"v1\"\n  subdirectory = \"doc\"",
    );
    project.ok(&["update"]);
    assert_eq!(built(&project, &[]), ["a 644 one"]);
    recipe(
        &project,
        &format!("  git = \"app\"\n  commit = \"{second}\"\n  subdirectory = \"doc\""),
    );
    assert_eq!(built(&project, &["--offline"]), ["a 644 two"]);
}

#[test]
fn submodules_come_by_choice_and_never_from_where_they_may_not() {
    let project = Project::empty();
    let (app, lib) = (repository(&project, "app"), repository(&project, "lib"));
    project.write("lib/lib.c", "lib");
    commit(&lib);
    project.write("app/a.c", "app");
    git(
        &app,
        &[
            "submodule",
            "--quiet",
            "add",
            "--name",
            "lib",
            "../lib",
            "third/lib",
        ],
    );
    commit(&app);
    let without = |names: Vec<String>| -> Vec<String> {
        names
            .into_iter()
            .filter(|name| !name.starts_with(".gitmodules"))
            .collect()
    };
    recipe(&project, "  git = \"app\"");
    assert_eq!(
        without(built(&project, &[])),
        ["a.c 644 app", "third 755 ", "third/lib 755 "]
    );
    recipe(&project, "  git = \"app\"\n  submodules = true");
    let whole = [
        "a.c 644 app",
        "third 755 ",
        "third/lib 755 ",
        "third/lib/lib.c 644 lib",
    ];
    assert_eq!(without(built(&project, &[])), whole);
    // A repository from elsewhere says that its submodule is a directory of this machine, or a command.
    let served = project.path("served.git");
    for (url, why) in [
        (
            lib.display().to_string(),
            "which only a repository of this machine may name, or nobody",
        ),
        (
            format!("file://{}", lib.display()),
            "which only a repository of this machine may name, or nobody",
        ),
        (
            "ext::sh -c touch% ran".to_owned(),
            "which only a repository of this machine may name, or nobody",
        ),
    ] {
        git(
            &app,
            &["config", "--file", ".gitmodules", "submodule.lib.url", &url],
        );
        commit(&app);
        let server = serve(&app, &served);
        recipe(
            &project,
            &format!("  git = \"{}\"\n  submodules = true", server.url("app.git")),
        );
        project.run(&["update"]);
        let ran = project.run(&["build"]);
        assert_eq!(ran.code, 4, "{}", ran.stderr);
        assert!(
            ran.stderr.contains(&format!(
                "the submodule \"third/lib\" of {}",
                server.url("app.git")
            )),
            "{}",
            ran.stderr
        );
        assert!(ran.stderr.contains(why), "{}", ran.stderr);
        assert!(!project.path("ran").exists());
    }
}

/// A copy of a repository as files of a server, which knows nothing of git.
fn serve(repository: &Path, copy: &Path) -> Server {
    let _ = std::fs::remove_dir_all(copy);
    let names = [repository, copy].map(|path| path.display().to_string());
    git(
        repository,
        &["clone", "--quiet", "--bare", &names[0], &names[1]],
    );
    git(copy, &["update-server-info"]);
    let root = copy.to_owned();
    Server::new(move |_, request| {
        let path = request.path.split('?').next().unwrap();
        match path
            .strip_prefix("app.git/")
            .map(|path| std::fs::read(root.join(path)))
        {
            Some(Ok(bytes)) => Answer::ok(&bytes),
            _ => Answer::status("404 Not Found"),
        }
    })
}

#[test]
fn a_repository_comes_from_a_server_of_files_too() {
    let project = Project::empty();
    let app = repository(&project, "app");
    project.write("app/a.c", "app");
    commit(&app);
    git(&app, &["branch", "other"]);
    let server = serve(&app, &project.path("served.git"));
    let url = server.url("app.git");
    recipe(&project, &format!("  git = \"{url}\"\n  ref = \"mian\""));
    let ran = project.run(&["build"]);
    assert!(
        ran.code == 4
            && ran
                .stderr
                .contains(&format!("{url} has no branch or tag \"mian\"")),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("help: did you mean `main`?"),
        "{}",
        ran.stderr
    );
    recipe(&project, &format!("  git = \"{url}\"\n  ref = \"main\""));
    assert_eq!(built(&project, &[]), ["a.c 644 app"]);
    let asked = server.requests().len();
    assert_eq!(built(&project, &["--offline"]), ["a.c 644 app"]);
    std::fs::remove_dir_all(project.store()).unwrap();
    let ran = project.run(&["build", "--offline"]);
    assert!(
        ran.code == 4 && ran.stderr.contains("which --offline forbids"),
        "{}",
        ran.stderr
    );
    assert_eq!(server.requests().len(), asked, "nobody was asked");
    let lost = "0".repeat(39) + "1";
    recipe(
        &project,
        &format!("  git = \"{url}\"\n  commit = \"{lost}\""),
    );
    let ran = project.run(&["build"]);
    assert!(
        ran.code == 4
            && ran
                .stderr
                .contains(&format!("does not have the commit {lost}")),
        "{}",
        ran.stderr
    );
    recipe(&project, "  git = \"/srv/not-mine\"");
    let ran = project.run(&["update"]);
    assert!(
        ran.code == 4 && ran.stderr.contains("outside of the repository"),
        "{}",
        ran.stderr
    );
}
