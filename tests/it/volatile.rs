//! Volatile files: what the end of a job restores, and what it leaves as it is.

use std::time::Duration;

use impasto::sandbox::{Finished, Outcome, SandboxJob};

use crate::base::{Flat, base, flatten};
use crate::project::Project;
use crate::sandbox::{Bench, commands};

/// Runs lines twice: first those that make the disk, then, with volatile paths, those that change it.
fn changed(volatile: &[&str], before: &[&str], lines: &[&str]) -> (Flat, Bench, Finished) {
    let (below, above) = (Bench::new(), Bench::new());
    below.lines(before);
    let job = SandboxJob {
        chain: vec![base().qcow2.clone(), below.overlay()],
        steps: commands(lines),
        // For device files and mounts.
        privileged: true,
        volatile: volatile.iter().map(|path| (*path).to_owned()).collect(),
        ..above.job()
    };
    let finished = above.run(job).unwrap();
    let chain =
        [base().qcow2.as_path(), &below.overlay(), &above.overlay()].map(|path| path.to_path_buf());
    let flat = flatten(
        &chain.each_ref().map(|path| path.as_path()),
        above.dir.path(),
    );
    (flat, above, finished)
}

#[test]
fn what_was_changed_is_empty_and_what_is_new_is_gone() {
    let volatile = [
        "/var/log/*.log",
        "/var/log/tree",
        "/var/*/index",
        "/no/such/thing",
        "/etc/passwd/x",
    ];
    let before = "mkdir -p /var/log/tree/old /var/cache; cd /var/log; echo same >same.log; echo old >changed.log; \
                  chown 1000:1000 changed.log; chmod 640 changed.log; echo old >tree/old/changed; echo kept >other";
    let after = "cd /var/log; echo more >>changed.log; echo x >new.log; echo x >other; echo x >new.logs; \
                 mkdir -p tree/new/deep tree/void tree/link; echo x >tree/new/deep/file; echo x >tree/top; \
                 rm tree/old/changed; echo other >tree/old/changed; ln -s /etc/passwd tree/link/passwd; echo x >tree/link/file; \
                 echo x >/var/cache/index; echo x >/var/index; echo same >/tmp/same; cat same.log >/dev/null";
    let (flat, bench, finished) = changed(&volatile, &[before], &[after]);
    assert_eq!(finished.outcome, Outcome::Ok, "{}", bench.log());
    let flat = flat.check();
    let list = |path: &str| {
        let text = flat.debugfs(&format!("ls -p {path}"));
        let entry = |line: &str| {
            let fields: Vec<_> = line.split('/').collect();
            (fields.len() > 5 && ![".", ".."].contains(&fields[5]))
                .then(|| format!("{}:{}", fields[5], fields[6]))
        };
        text.lines().filter_map(entry).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        list("/var/log"),
        "tree: same.log:5 changed.log:0 other:2 new.logs:2"
    );
    assert_eq!(
        list("/var/log/tree"),
        "old: void: link:",
        "a directory that a step made and did not fill stays"
    );
    assert_eq!(list("/var/log/tree/old"), "changed:0");
    assert_eq!(list("/var/log/tree/link"), "passwd:11");
    assert_eq!(list("/var/cache"), "");
    assert_eq!(list("/var"), "log: cache: index:2");
    let stat = flat.debugfs("stat /var/log/changed.log");
    assert!(
        stat.contains("Mode:  0640") && stat.contains("User:  1000   Group:  1000"),
        "{stat}"
    );
}

#[test]
fn nothing_is_touched_through_links_or_mounts() {
    let volatile = [
        "/var/log",
        "/var/lib/seed",
        "/var/cache/*",
        "/etc/link.log",
        "/a/b",
    ];
    let before = "mkdir -p /var/log /var/lib /var/cache /a /real; echo 1 >/var/log/hard; echo 1 >/var/lib/seed; echo 1 >/real/b; \
                  ln -s passwd /etc/link.log; ln -s /etc /var/log/etc; rmdir /a; ln -s real /a; mkdir /var/cache/mount";
    let after = "echo 2 >/real/b; echo root2:x:0:0::: >>/etc/passwd; rm /var/lib/seed /var/log/hard; ln -s /etc/passwd /var/lib/seed; \
                 ln /etc/passwd /var/log/hard; ln /etc/group /var/log/new; mkfifo /var/log/pipe; mknod /var/log/null c 1 3; \
                 mkdir /real/top; echo x >/real/top/file; mount --bind /real /var/cache/mount";
    let (flat, bench, finished) = changed(&volatile, &[before], &[after]);
    assert_eq!(finished.outcome, Outcome::Ok, "{}", bench.log());
    let flat = flat.check();
    assert!(
        flat.cat("/etc/passwd").ends_with("root2:x:0:0:::\n"),
        "{}",
        flat.cat("/etc/passwd")
    );
    assert_eq!(flat.cat("/etc/group"), "root:x:0:\nbuilder:x:1000:\n");
    assert_eq!(flat.cat("/real/b"), "2\n");
    assert_eq!(flat.cat("/real/top/file"), "x\n");
    assert!(
        !flat.debugfs("ls -p /var/log").contains("/new/"),
        "a new name goes, the file stays"
    );
    assert!(flat.debugfs("stat /var/log/pipe").contains("Type: FIFO"));
}

#[test]
fn outputs_are_taken_before_and_failed_states_keep_their_logs() {
    let bench = Bench::new();
    let job = |lines: &[&str]| SandboxJob {
        steps: commands(lines),
        outputs: vec![("log".to_owned(), "/var/log".to_owned())],
        volatile: vec!["/var/log".to_owned()],
        ..bench.job()
    };
    let finished = bench.run(job(&["echo line >/var/log"])).unwrap();
    assert_eq!(
        (finished.outcome, finished.outputs[0].size),
        (Outcome::Ok, 5)
    );
    let names: Vec<_> = finished
        .timings
        .iter()
        .filter(|(phase, _)| phase.starts_with("volatile"))
        .collect();
    assert!(
        names.len() == 2
            && names
                .iter()
                .all(|(_, took)| *took < Duration::from_millis(50)),
        "{names:?}"
    );

    let bench = Bench::new();
    let volatile = vec!["/var/log".to_owned()];
    let job = SandboxJob {
        steps: commands(&["echo line >/var/log; false"]),
        volatile,
        ..bench.job()
    };
    assert!(matches!(
        bench.run(job).unwrap().outcome,
        Outcome::StepFailed { .. }
    ));
    assert_eq!(
        flatten(&[&base().qcow2, &bench.overlay()], bench.dir.path()).cat("/var/log"),
        "line\n"
    );
}

#[test]
fn a_recipe_adds_its_own_paths_to_those_that_are_known() {
    let project = Project::with(
        r#"
        stage "fetch" "base" { path = "base.qcow2" }
        stage "run" "a" {
          from     = stage.base
          commands = ["mkdir -p /var/log/apt /var/log/own; cd /var/log; echo x | tee dpkg.log apt/term.log own/a.log own/b; date +%s.%N >own/a.log"]
          volatile = ["/var/log/own/*.log"]
        }
        "#,
    );
    assert_eq!(project.build(&[]), (2, 0));
    assert_eq!(
        project.in_guest("a", "cd /var/log; find . -type f"),
        "./own/b\n"
    );
    let recipe = project.read("impasto.hcl");
    project.write("impasto.hcl", &recipe.replace("own/*.log", "own/*.lo*"));
    let why = project.ok(&["why", "a"]);
    assert!(why.contains("volatile"), "{why}");
    project.write("impasto.hcl", &recipe.replace("/var/log/own/*.log", "//./"));
    let ran = project.run(&["validate"]);
    assert!(
        ran.code == 3
            && ran
                .stderr
                .contains("\"//./\" matches every file of the image"),
        "{}",
        ran.stderr
    );
    project.write("impasto.hcl", &recipe.replace("/var/log/own/*.log", "../x"));
    let ran = project.run(&["validate"]);
    assert!(
        ran.code == 3 && ran.stderr.contains("is not absolute"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_recipe_without_time_is_of_1980() {
    let recipe = r#"
        stage "fetch" "base" { path = "base.qcow2" }
        stage "copy" "file" {
          from  = stage.base
          files = { "/etc/motd" = { content = "hello\n" } }
        }
        stage "run" "a" {
          from     = stage.file
          commands = ["echo $SOURCE_DATE_EPOCH >/epoch; stat -c %Y /etc/motd >>/epoch"]
        }
        "#;
    let project = Project::with(recipe);
    assert_eq!(project.build(&[]), (3, 0));
    assert_eq!(
        project.in_guest("a", "cat /epoch"),
        "315532800\n315532800\n"
    );
    project.write(
        "impasto.hcl",
        &format!("recipe {{ source_date_epoch = 1700000000 }}\n{recipe}"),
    );
    assert!(project.ok(&["why", "a"]).contains("pending"));
    assert_eq!(project.build(&[]), (2, 1));
    assert_eq!(
        project.in_guest("a", "cat /epoch"),
        "1700000000\n1700000000\n"
    );
}
