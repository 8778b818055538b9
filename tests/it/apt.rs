//! What people who know apt expect of packages: pins, holds, upgrades, answers, files of their own, archives behind
//! passwords and proxies, other machines.

use crate::mirror::serve;
use crate::project::ran;
use crate::repository::Package;
use crate::server::{Answer, Server};
use crate::site::{Site, done};

/// The versions that a stage's disk has, a line each.
fn installed(site: &Site, stage: &str, names: &str) -> String {
    site.project.in_guest(
        stage,
        &format!("dpkg-query -W -f '${{Package}} ${{Version}}\\n' {names} 2>/dev/null || true"),
    )
}

#[test]
fn pins_choose_between_suites() {
    let mut site = Site::new();
    site.repository.add(
        "testing",
        "main",
        &Package::new("program", "2.0").depends("library (>= 2)"),
    );
    site.repository
        .add("testing", "main", &Package::new("library", "2.0"));
    site.repository.add(
        "testing",
        "extra",
        &Package::new("addition", "3.0").depends("library"),
    );
    site.repository.publish();
    let uri = &site.uri;
    let repositories = format!(
        "repositories = {{\n    own  = {{ uri = \"{uri}\", suite = \"stable\", signed_by = file(\"key.asc\") }}\n    \
         next = {{ uri = \"{uri}\", suite = \"testing\", components = [\"main\", \"extra\"], signed_by = file(\"key.asc\") }}\n  }}"
    );
    let stage = |name: &str, lines: &str| {
        format!(
            "stage \"packages\" \"{name}\" {{\n  from = stage.base\n  {repositories}\n  {lines}\n}}\n"
        )
    };
    let cases = [
        (
            "newest",
            "install = [\"program\"]",
            "library 2.0\nprogram 2.0\n",
        ),
        (
            "version",
            "install = [\"program=1.0\", \"library=1.0\"]",
            "library 1.0\nprogram 1.0\n",
        ),
        (
            "suite",
            "install = [\"program/stable\"]\n  pins = [{ pin = \"release n=testing\", priority = 100 }]",
            "library 1.0\nprogram 1.0\n",
        ),
        (
            "never",
            "install = [\"program\"]\n  pins = [{ pin = \"release n=testing\", priority = -1 }]",
            "library 1.0\nprogram 1.0\n",
        ),
        (
            "one",
            "install = [\"program\", \"addition\"]\n  pins = [{ package = \"program\", pin = \"version 1.*\", priority = 990 }]",
            "addition 3.0\nlibrary 2.0\nprogram 1.0\n",
        ),
    ];
    site.recipe(&cases.map(|(name, lines, _)| stage(name, lines)).concat());
    site.ok(&["update"]);
    let lock = site.lock();
    for (name, _, expected) in cases {
        let entry = lock
            .split("\n[[stage]]")
            .find(|entry| entry.contains(&format!("\nname = \"{name}\"\n")))
            .unwrap();
        let packages = entry.lines().filter(|line| line.contains("sha256 = "));
        let word = |line: &str, field: &str| {
            line.split(&format!("{field} = \""))
                .nth(1)
                .unwrap()
                .split('"')
                .next()
                .unwrap()
                .to_owned()
        };
        let found: String = packages
            .map(|line| format!("{} {}\n", word(line, "name"), word(line, "version")))
            .collect();
        assert_eq!(found, expected, "{name}");
    }
    // Who names a version wants no other.
    let ran = site.run(&["outdated", "version"]);
    assert_eq!(ran.code, 0, "{}", ran.stdout);
    site.build(&["one"]).ok();
    assert_eq!(
        installed(&site, "one", "program library addition"),
        "addition 3.0\nlibrary 2.0\nprogram 1.0\n"
    );
}

#[test]
fn packages_are_held_upgraded_removed_and_not_left_behind() {
    let mut site = Site::new();
    let first = site.packages("first", "base", "install = [\"program\", \"small\"]");
    site.recipe(&first);
    site.build(&[]).ok();
    site.repository
        .add("stable", "main", &Package::new("library", "2.0"));
    site.publish(&Package::new("small", "2.0"));
    let then = |name: &str, from: &str, lines: &str| {
        format!("stage \"packages\" \"{name}\" {{\n  from = stage.{from}\n  {lines}\n}}\n")
    };
    site.recipe(
        &[
            first,
            then(
                "upgraded",
                "first",
                "upgrade = true\n  hold = [\"library\"]",
            ),
            then("later", "upgraded", "upgrade = true"),
            then("removed", "first", "remove = [\"program\", \"nor-this\"]"),
            then(
                "tidy",
                "first",
                "remove = [\"program\"]\n  autoremove = true",
            ),
        ]
        .concat(),
    );
    // What is not in any archive is a mistake; what is only not installed is none.
    let said = site.said(&["build", "removed"]);
    assert!(
        said.contains("there is no package nor-this in own"),
        "{said}"
    );
    let recipe = site
        .project
        .read("impasto.hcl")
        .replace("\"nor-this\"", "\"unrelated\"");
    site.project.write("impasto.hcl", &recipe);
    let done = site.build(&[]).ok();
    assert_eq!(
        done.cached,
        ["base", "first"],
        "what is newer does not reach what is locked"
    );
    let names = "program library small unrelated";
    assert_eq!(
        installed(&site, "first", names),
        "library 1.0\nprogram 1.0\nsmall 1.0\n"
    );
    assert_eq!(
        installed(&site, "upgraded", names),
        "library 1.0\nprogram 1.0\nsmall 2.0\n"
    );
    assert_eq!(
        site.project.in_guest("upgraded", "apt-mark showhold"),
        "library\n"
    );
    assert_eq!(
        installed(&site, "later", names),
        "library 1.0\nprogram 1.0\nsmall 2.0\n",
        "a hold lasts"
    );
    assert_eq!(
        installed(&site, "removed", names),
        "library 1.0\nsmall 1.0\n"
    );
    assert_eq!(installed(&site, "tidy", names), "small 1.0\n");
    assert_eq!(
        site.project.in_guest(
            "first",
            "apt-mark showauto library; apt-mark showmanual program small"
        ),
        "library\nprogram\nsmall\n"
    );
}

#[test]
fn a_package_takes_the_place_of_one_that_it_conflicts_with() {
    let mut site = Site::new();
    let clock = |name: &str| {
        let package = Package::new(name, "1.0")
            .field("Provides", "clock")
            .field("Conflicts", "clock");
        package
            .field("Replaces", "clock")
            .file("usr/share/clock", &format!("{name}\n"))
    };
    site.repository.add("stable", "main", &clock("clock-1"));
    site.repository.add(
        "stable",
        "main",
        &Package::new("needs-first", "1.0").depends("clock-1"),
    );
    site.repository.add(
        "stable",
        "main",
        &Package::new("against", "1.0").field("Conflicts", "small (<< 2)"),
    );
    site.publish(&clock("clock-2"));
    let first = site.packages(
        "first",
        "base",
        "install = [\"clock-1\", \"needs-first\", \"small\"]",
    );
    site.recipe(&first);
    site.build(&[]).ok();
    // What is installed is in no archive any more as it is.
    site.publish(&Package::new("small", "1.1"));
    let then = "stage \"packages\" \"second\" {\n  from = stage.first\n  install = [\"clock-2\", \"against\"]\n}\n";
    site.recipe(&format!("{first}{then}"));
    site.build(&[]).ok();
    let lock = site.lock();
    let (_, removed) = lock.split_once("removed = [\n").unwrap();
    let line = |name: &str| {
        format!("  {{ name = \"{name}\", version = \"1.0\", architecture = \"all\" }},\n")
    };
    assert_eq!(
        removed,
        ["clock-1", "needs-first", "small"].map(line).concat() + "]\n"
    );
    assert_eq!(
        installed(&site, "second", "clock-1 clock-2 needs-first against"),
        "against 1.0\nclock-2 1.0\n"
    );
    assert_eq!(
        site.project.in_guest(
            "second",
            "cat /usr/share/clock; ls /usr/share/small* || true"
        ),
        "clock-2\n"
    );
    assert_eq!(
        site.ok(&["update", "second"]),
        "nothing is newer: the lock is unchanged\n"
    );
}

#[test]
fn questions_are_answered() {
    let mut site = Site::new();
    let postinst = ". /usr/share/debconf/confmodule\ndb_get asks/colour\necho \"$RET\" >/colour";
    site.publish(
        &Package::new("asks", "1.0")
            .depends("debconf")
            .postinst(postinst),
    );
    site.recipe(&site.packages(
        "tools",
        "base",
        "install = [\"asks\"]\n  debconf = [\"asks asks/colour string it's blue\"]",
    ));
    site.build(&[]).ok();
    assert_eq!(site.project.in_guest("tools", "cat /colour"), "it's blue\n");
}

#[test]
fn a_file_of_the_users_is_installed_and_locked_like_any_other() {
    let mut site = Site::new();
    let own = |site: &mut Site, text: &str| {
        let package = Package::new("mine", "1.0")
            .depends("library")
            .file("usr/share/mine", text);
        let path = site.repository.add("elsewhere", "main", &package);
        std::fs::copy(
            site.repository.dir().join(path),
            site.project.path("mine.deb"),
        )
        .unwrap();
    };
    own(&mut site, "first\n");
    site.recipe(&site.packages("tools", "base", "files = [\"mine.deb\"]"));
    site.build(&[]).ok();
    assert_eq!(
        site.project
            .in_guest("tools", "cat /usr/share/mine; ls /usr/share/library"),
        "first\n/usr/share/library\n"
    );
    assert!(
        site.lock().contains("path = \"mine.deb\" },"),
        "{}",
        site.lock()
    );
    assert_eq!(site.run(&["outdated"]).code, 0);
    own(&mut site, "second\n");
    let stale = format!(
        "# changed\n{}\n",
        site.said(&["build", "--progress", "plain"])
    );
    assert_eq!(
        site.ok(&["update", "tools"]),
        "tools: mine 1.0: different file\n"
    );
    site.build(&["--locked"]).ok();
    assert_eq!(
        site.project.in_guest("tools", "cat /usr/share/mine"),
        "second\n"
    );
    site.project.write("mine.deb", "no package\n");
    let none = format!("# none\n{}\n", site.said(&["update", "tools"]));
    std::fs::remove_file(site.project.path("mine.deb")).unwrap();
    insta::assert_snapshot!(
        "files",
        format!(
            "{stale}{none}# missing\n{}",
            site.said(&["update", "tools"])
        )
    );
}

#[test]
fn a_password_of_an_archive_is_used_and_nowhere_seen() {
    const PASSWORD: &str = "s3same-0pen-s3same";
    let site = Site::new();
    // In base64, as the header has it.
    let uri = format!(
        "http://127.0.0.1:{}/own",
        serve(site.repository.dir(), Some("bWU6czNzYW1lLTBwZW4tczNzYW1l"))
    );
    site.recipe(&format!(
        "variable \"login\" {{\n  sensitive = true\n}}\n\
         stage \"packages\" \"tools\" {{\n  from = stage.base\n  install = [\"unrelated\"]\n  \
         secrets = {{ login = {{ value = var.login, version = \"1\" }} }}\n  \
         repositories = {{ own = {{ uri = \"{uri}\", suite = \"stable\", signed_by = file(\"key.asc\"), login = \"login\" }} }}\n}}\n"
    ));
    let with = |arguments: &[&str], login: &str| {
        let mut command = site.command(arguments);
        command.env("IMPASTO_VAR_login", login);
        command
    };
    let refused = ran(with(&["update", "tools"], "me:wrong-wrong-wrong"));
    assert_eq!(refused.code, 4, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("the archive own cannot be read: ")
            && refused.stderr.contains("401 Unauthorized"),
        "{}",
        refused.stderr
    );
    assert!(
        !refused.stderr.contains("wrong-wrong"),
        "{}",
        refused.stderr
    );
    let update = ran(with(&["update", "tools"], &format!("me:{PASSWORD}")));
    assert_eq!(update.code, 0, "{}", update.stderr);
    let build = done(with(
        &["build", "--progress", "json"],
        &format!("me:{PASSWORD}"),
    ))
    .ok();
    let outdated = ran(with(&["outdated", "--json"], &format!("me:{PASSWORD}")));
    assert_eq!(outdated.code, 0, "{}", outdated.stderr);
    let guest = ran(with(
        &[
            "shell",
            "tools",
            "-c",
            "cat /etc/apt/sources.list.d/own.sources; grep -rl s3same-0pen /etc /var /usr /root || true",
        ],
        &format!("me:{PASSWORD}"),
    ));
    let expected = format!(
        "Types: deb\nURIs: {uri}\nSuites: stable\nComponents: main\nSigned-By: /etc/apt/keyrings/own.asc\n"
    );
    assert_eq!(guest.stdout, expected, "{}", guest.stderr);
    let log = ran(with(&["log", "tools"], &format!("me:{PASSWORD}")));
    let texts = [
        site.lock(),
        update.stdout,
        update.stderr,
        build.events,
        build.stderr,
        outdated.stdout,
        log.stdout,
    ];
    assert!(!texts.concat().contains(PASSWORD));
    let find = "grep -rlaF -e s3same-0pen -e czNzYW1lLTBwZW4 \"$1\" || true";
    assert_eq!(
        crate::debian::run(find, &[&site.project.path("")]),
        "",
        "nor in the store's bytes"
    );
}

#[test]
fn an_archive_without_a_signature_is_believed_only_where_the_recipe_says_so() {
    let site = Site::new();
    for name in ["InRelease", "Release.gpg"] {
        site.repository.delete(&format!("dists/stable/{name}"));
    }
    let stage = |lines: &str| {
        format!(
            "stage \"packages\" \"tools\" {{\n  from = stage.base\n  install = [\"small\"]\n  \
             repositories = {{ own = {{ uri = \"{}\", suite = \"stable\"{lines} }} }}\n}}\n",
            site.uri
        )
    };
    site.recipe(&stage(""));
    let ran = site.run(&["update", "tools"]);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("it has no `signed_by` with its keys"),
        "{}",
        ran.stderr
    );
    site.recipe(&stage(", signed_by = file(\"key.asc\")"));
    let ran = site.run(&["update", "tools"]);
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    site.recipe(&stage(", trusted = true"));
    site.build(&[]).ok();
    let lock = site.lock();
    let line = lock
        .lines()
        .find(|line| line.starts_with("  { name = \"own\", date = "))
        .unwrap();
    assert!(line.ends_with(", trusted = true },"), "{line}");
    assert!(
        lock.contains(" stable main trusted\","),
        "the request says so too: {lock}"
    );
    assert!(
        site.project
            .in_guest("tools", "cat /etc/apt/sources.list.d/own.sources")
            .contains("Trusted: yes\n")
    );
}

#[test]
fn packages_of_another_machine_are_installed_beside_its_own() {
    let mut site = Site::new();
    site.repository.architectures = vec!["amd64", "i386"];
    let foreign = |version: &str| {
        Package::new("foreign", version)
            .architecture("i386")
            .depends("library")
            .field("Multi-Arch", "same")
    };
    site.repository.add(
        "stable",
        "main",
        &Package::new("library", "1.0").field("Multi-Arch", "foreign"),
    );
    site.publish(&foreign("1.0"));
    site.recipe(&site.packages(
        "tools",
        "base",
        "install = [\"foreign:i386\", \"small\"]\n  architectures = [\"i386\"]",
    ));
    site.build(&[]).ok();
    let shown = site.project.in_guest(
        "tools",
        "dpkg --print-foreign-architectures; dpkg-query -W -f '${Package}:${Architecture}\\n' foreign library",
    );
    assert_eq!(shown, "i386\nforeign:i386\nlibrary:all\n");
    site.publish(&foreign("1.1"));
    let ran = site.run(&["outdated"]);
    assert_eq!(ran.code, 10);
    assert!(
        ran.stdout.starts_with("foreign  1.0 → 1.1  tools  own\n"),
        "{}",
        ran.stdout
    );
}

#[test]
fn a_proxy_of_the_environment_is_used() {
    let mut site = Site::new();
    site.uri = "http://archive.example.org/own".to_owned();
    site.recipe(&site.packages("tools", "base", "install = [\"program\"]"));
    let dir = site.repository.dir().to_owned();
    let proxy = Server::new(move |_, request| {
        let path = request
            .path
            .strip_prefix("http://archive.example.org/own/")
            .map(|path| dir.join(path));
        path.and_then(|path| std::fs::read(path).ok())
            .map_or(Answer::status("404 Not Found"), |body| Answer::ok(&body))
    });
    let mut command = site.command(&["build", "--progress", "json"]);
    command
        .env("http_proxy", proxy.url(""))
        .env_remove("no_proxy");
    done(command).ok();
    let asked: Vec<_> = proxy
        .requests()
        .into_iter()
        .map(|request| request.path)
        .collect();
    assert!(
        asked.contains(
            &"http://archive.example.org/own/pool/main/program/program_1.0_all.deb".to_owned()
        ),
        "{asked:?}"
    );
    assert!(
        !site.project.claims().contains(&format!(":{}", proxy.port)),
        "it is nobody's business"
    );
}
