//! `build`: files made in a root that is not the image, as somebody, from sources, with caches; and `debs`, packages as files.

use crate::base::tool;
use crate::debian::mirror;
use crate::project::{Project, Ran, ran};

const BASE: &str =
    "recipe {\n  name = \"it\"\n}\n\nstage \"fetch\" \"base\" { path = \"base.qcow2\" }\n";

/// A user for the small base disk, which has none but root.
const USERS: &str = r#"
stage "run" "users" {
  from     = stage.base
  commands = [
    "echo 'maker:x:1234:1235::/home/maker:/bin/sh' >> /etc/passwd",
    "mkdir -p /home/maker && chown 1234:1235 /home/maker",
  ]
}
"#;

fn layers(project: &Project) -> usize {
    project.ok(&["layer", "list"]).lines().count()
}

#[test]
fn steps_run_in_their_own_directory_as_a_user_and_only_files_are_kept() {
    let project = Project::with(&format!(
        r#"{BASE}{USERS}
        stage "build" "made" {{
          from    = stage.users
          source  = "src"
          inputs  = {{ other = "other.txt" }}
          user    = "maker"
          env     = {{ WORD = "given" }}
          secrets = {{ token = "s3cret" }}
          script  = <<-EOT
            pwd; id -u; id -g; echo "$HOME $USER $WORD"
            cat sub/text /run/impasto/inputs/other
            [ "$(cat /run/impasto/secrets/token)" = s3cret ] && echo secret
            ls -ln sub/text | cut -c1-10
            ! touch /root/x 2>/dev/null && echo not root
            echo to standard output > /dev/stdout
            mkdir out && cat sub/text > out/copy
          EOT
          output  = {{ copy = "out/copy", passwd = "/etc/passwd" }}
        }}
        image "made" {{ files = [stage.made] }}
        "#
    ));
    project.write("src/sub/text", "a source\n");
    project.write("other.txt", "another input\n");
    assert_eq!(project.build(&["users"]), (2, 0));
    let before = layers(&project);
    assert_eq!(project.build(&[]), (1, 2));
    assert_eq!(layers(&project), before, "no disk of it is kept");
    let log = project.ok(&["log", "made"]);
    let said = "/build\n1234\n1235\n/home/maker maker given\na source\nanother input\nsecret\n-rw-r--r--\nnot root\nto standard \
                output\n";
    assert!(log.contains(said), "{log}");
    assert_eq!(project.read("out/made/copy"), "a source\n");
    assert!(project.read("out/made/passwd").contains("maker:x:1234"));
    assert_eq!(project.build(&[]), (0, 3));

    let recipe = project.read("impasto.hcl");
    project.write(
        "impasto.hcl",
        &recipe.replace("\"maker\"", "\"nobody-here\""),
    );
    let ran = project.run(&["build"]);
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    let told = "the root has no user \"nobody-here\" to run as";
    assert!(ran.stderr.contains(told), "{}", ran.stderr);
}

#[test]
fn a_shell_enters_a_build_as_it_began_and_as_it_failed() {
    let recipe = |command: &str| {
        format!(
            r#"{BASE}
            stage "build" "made" {{
              from     = stage.base
              source   = "src"
              commands = ["echo first > first", "{command}", "cp text made"]
              output   = {{ made = "made" }}
            }}"#
        )
    };
    let project = Project::with(&recipe("true"));
    project.write("src/text", "a source\n");
    assert_eq!(project.build(&["made"]), (2, 0));
    let refused = project.run(&["shell", "made"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(
        refused
            .stderr
            .contains("made is built, and only its files are kept")
            && refused.stderr.contains("impasto shell 'made'")
            && refused.stderr.contains("--fresh\n"),
        "{}",
        refused.stderr
    );
    let fresh = project.ok(&["shell", "made", "--fresh", "-c", "cd /build; ls; cat text"]);
    assert_eq!(fresh, "text\na source\n");

    project.write("impasto.hcl", &recipe("false"));
    assert_eq!(project.run(&["build", "made"]).code, 4);
    let failed = project.ok(&["shell", "made", "-c", "cd /build; cat first text"]);
    assert_eq!(failed, "first\na source\n");
}

#[test]
fn a_cache_outlives_a_build_and_sources_are_never_older_than_it() {
    let project = Project::with(&format!(
        r#"{BASE}{USERS}
        stage "build" "made" {{
          from     = stage.users
          source   = "src"
          user     = "maker"
          caches   = {{ objects = "it-objects" }}
          commands = [<<-EOT
            cache=/run/impasto/caches/objects
            # As make does: only what is newer than what was made of it.
            if ! [ -e $cache/object ] || [ text -nt $cache/object ]; then cp text $cache/object; sleep 1; fi
            echo x >> $cache/builds
            wc -l < $cache/builds
            cp $cache/object made
          EOT
          ]
          output   = {{ made = "made" }}
        }}
        image "made" {{ files = [stage.made] }}
        "#
    ));
    project.write("src/text", "one\n");
    assert_eq!(project.build(&[]), (3, 0));
    project.write("src/text", "two\n");
    assert_eq!(project.build(&[]), (1, 2));
    assert_eq!(project.read("out/made/made"), "two\n");
    assert!(
        project.ok(&["log", "made"]).contains("2\n"),
        "the cache was there"
    );
    let recipe = project.read("impasto.hcl");
    project.write("impasto.hcl", &recipe.replace("it-objects", "it-others"));
    assert_eq!(project.build(&[]), (0, 3), "its name is in no key");
}

fn build(project: &Project, arguments: &[&str]) -> Ran {
    let mut command = project.command(&[&["build"], arguments].concat());
    command.env("IMPASTO_MIRROR", format!("file:{}", mirror().display()));
    ran(command)
}

#[test]
fn roots_of_the_same_packages_are_one_and_debs_are_a_mirror() {
    let project = Project::empty();
    project.write(
        "impasto.hcl",
        r#"
        recipe {
          name              = "it"
          source_date_epoch = 1700000000
        }
        stage "build" "greeting" {
          suite    = "bookworm"
          packages = ["hello"]
          source   = "src"
          user     = "builder"
          commands = ["id -un", "hello > made; cat name >> made"]
          output   = { made = "made" }
        }
        stage "debs" "files" {
          suite    = "bookworm"
          packages = ["hello", "apt"]
        }
        stage "build" "installed" {
          suite    = "bookworm"
          packages = ["apt"]
          inputs   = { debs = stage.files }
          commands = [
            "echo 'deb [trusted=yes] file:/run/impasto/inputs/debs ./' > /etc/apt/sources.list",
            "apt-get -q update && apt-get -qy install hello",
            "hello | tee made",
          ]
          output = { made = "made" }
        }
        image "all" { files = { greeting = stage.greeting, installed = stage.installed } }
        "#,
    );
    project.write("src/name", "impasto\n");
    let first = build(&project, &[]);
    assert_eq!(first.code, 0, "{}", first.stderr);
    assert_eq!(project.read("out/all/greeting"), "Hello, world!\nimpasto\n");
    assert_eq!(project.read("out/all/installed"), "Hello, world!\n");
    assert!(first.stderr.contains("3 built"), "{}", first.stderr);
    let listed = layers(&project);

    // What is edited runs alone, and a third stage of the same packages finds their root.
    project.write("src/name", "edited\n");
    let recipe = project.read("impasto.hcl");
    let third = "stage \"build\" \"third\" {\n  suite = \"bookworm\"\n  packages = [\"hello\"]\n  commands = [\"hello > made\"]\n  \
                 output = { made = \"made\" }\n}\nimage \"third\" { files = [stage.third] }\n";
    project.write("impasto.hcl", &format!("{recipe}{third}"));
    let second = build(&project, &[]);
    assert_eq!(second.code, 0, "{}", second.stderr);
    assert_eq!(project.read("out/all/greeting"), "Hello, world!\nedited\n");
    assert_eq!(layers(&project), listed, "{}", second.stderr);

    let ran = build(&project, &["files"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let members = tool(
        "tar",
        &["-tf", project.path("out/files.tar").to_str().unwrap()],
    );
    assert!(members.lines().any(|name| name == "Packages"), "{members}");
    assert!(
        members.lines().any(|name| name.starts_with("hello_")),
        "{members}"
    );
}
