//! Locks that nobody should have written, and archives that would have us write one: what is locked can be read again, and
//! what is refused says where, and what to do.

use std::fmt::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use impasto::lock::LockFile;
use impasto_stages::package_set::{LockedPackage, PackageName};
use impasto_store::sha256::Sha256;
use proptest::prelude::*;

use crate::project::Ran;
use crate::random::Random;
use crate::repository::{Package, sha256};
use crate::site::Site;
use crate::torture::{count, seed};

/// Two stages with packages, and one in two combinations.
fn site() -> Site {
    let site = Site::new();
    let stages = [
        "matrix { variant = [\"a\", \"b\"] }\n".to_owned(),
        site.packages("one", "base", "install = [\"program\"]"),
        site.packages("two", "base", "install = [\"small\"]"),
        site.packages(
            "each",
            "base",
            "install = matrix.variant == \"a\" ? [\"small\"] : [\"library\"]",
        ),
    ];
    site.recipe(&stages.concat());
    site
}

/// An entry of the lock's text, title included.
fn entry<'t>(lock: &'t str, name: &str) -> &'t str {
    let start = lock
        .find(&format!("[[stage]]\nname = \"{name}\"\n"))
        .unwrap();
    let length = lock[start + 1..]
        .find("\n[[")
        .map_or(lock.len() - start, |end| end + 2);
    &lock[start..start + length]
}

#[test]
fn a_nonsense_lock_is_refused_though_every_result_is_cached() {
    let site = site();
    site.build(&[]).ok();
    let lock = site.lock();
    let done = site.build(&["--locked"]).ok();
    assert_eq!(done.built, Vec::<String>::new());
    // Places in the text must not depend on how many tools there are.
    let (head, rest) = lock.split_once("\n[[toolbox]]").unwrap();
    let (tools, stages) = rest.split_once("\n[[stage]]").unwrap();
    let tools = format!("[[toolbox]]{tools}");
    let lock = format!("{head}\n[[stage]]{stages}\n{tools}");
    let own = entry(&lock, "two");
    let line = own
        .lines()
        .find(|line| line.contains("name = \"small\""))
        .unwrap();
    let word = |from: &str, to: &str| own.split_once(from).unwrap().1.split_once(to).unwrap().0;
    let (size, sha256, release) = (
        format!("size = {},", word("size = ", ",")),
        word("sha256 = \"", "\""),
        word("release = \"", "\""),
    );
    let changes = |changes: &[(&str, &str)]| {
        let mut text = own.to_owned();
        for (from, to) in changes {
            assert!(text.contains(from), "{from}: {own}");
            text = text.replacen(from, to, 1);
        }
        lock.replace(own, &text)
    };
    let changed = |from: &str, to: &str| changes(&[(from, to)]);
    let ghost = own.replace("name = \"two\"", "name = \"ghost\"");
    let cases: Vec<(&str, String)> = vec![
        (
            "an archive that the entry does not list",
            changed("archive = \"own\"", "archive = \"other\""),
        ),
        (
            "an archive that the recipe does not name",
            changes(&[
                ("archive = \"own\"", "archive = \"other\""),
                ("name = \"own\", date", "name = \"other\", date"),
            ]),
        ),
        (
            "a size of 2^63",
            changed(&size, "size = 9223372036854775808,"),
        ),
        (
            "a size of 2^62",
            changed(&size, "size = 4611686018427387904,"),
        ),
        ("a size of nothing", changed(&size, "size = 0,")),
        ("a size below nothing", changed(&size, "size = -1,")),
        ("a stage twice", format!("{lock}\n{own}")),
        (
            "a combination twice",
            format!("{lock}\n{}", entry(&lock, "each")),
        ),
        ("the tools twice", format!("{lock}\n{tools}")),
        (
            "a stage that the recipe does not have",
            format!("{lock}\n{ghost}"),
        ),
        ("a package twice", changed(line, &format!("{line}\n{line}"))),
        (
            "a path that leads out",
            changed("path = \"pool/", "path = \"pool/../../"),
        ),
        ("a digest that is too short", changed(sha256, "0123")),
        ("a digest in upper case", changed(sha256, &"AB".repeat(32))),
        (
            "another architecture",
            changed("architecture = \"all\"", "architecture = \"arm64\""),
        ),
        (
            "no architecture",
            changed("architecture = \"all\"", "architecture = \"../all\""),
        ),
        (
            "no version",
            changed("version = \"1.0\"", "version = \"1.0 beta\""),
        ),
        ("a release that is none", changed(release, "0123")),
        ("a date that is none", changed("date = \"", "date = \"x")),
        (
            "marks of a merge",
            changed("packages = [", "<<<<<<< HEAD\npackages = ["),
        ),
        (
            "a table that nobody knows",
            format!("{lock}\n[[layer]]\nname = \"two\"\n"),
        ),
    ];
    let mut all = String::new();
    for (what, text) in &cases {
        assert_ne!(*text, lock, "{what}");
        site.project.write("impasto.lock", text);
        let said = site.said(&["build", "--locked", "--progress", "plain"]);
        assert!(
            said.starts_with("exit 3\n") && said.contains("\n  help: "),
            "{what}: {said}"
        );
        assert_eq!(site.lock(), *text, "{what}");
        writeln!(all, "# {what}\n{said}").unwrap();
    }
    insta::assert_snapshot!("nonsense", all);
    site.project.write("impasto.lock", &lock);
    assert_eq!(site.build(&["--locked"]).ok().built, Vec::<String>::new());
}

#[test]
fn an_entry_that_cannot_be_used_is_replaced_by_an_update_of_its_stage() {
    let site = site();
    site.build(&[]).ok();
    let lock = site.lock();
    let broken = |lock: &str, name: &str, from: &str, to: &str| {
        let own = entry(lock, name);
        assert!(own.contains(from));
        lock.replace(own, &own.replacen(from, to, 1))
    };
    // One cannot be read at all, the other breaks off.
    let text = broken(&lock, "one", "sha256 = \"", "sha256 = \"x");
    let text = broken(&text, "two", "packages = [", "packages = [[[ {");
    site.project.write("impasto.lock", &text);
    // Others go on, and what is broken stays for its stage to be locked again.
    let done = site.build(&["each"]).ok();
    assert_eq!(done.cached, ["base", "each[variant=a]", "each[variant=b]"]);
    assert_eq!(site.lock(), text);
    let said = site.said(&["build", "--progress", "plain"]);
    assert!(
        said.contains("impasto.lock cannot be used for stage one: line ")
            && said.contains("\", which is not a SHA-256: 64 digits of 0-9 and a-f")
            && said.contains("\n  stage two: line ")
            && said.contains("\n  help: lock them again: impasto update one two"),
        "{said}"
    );
    assert!(
        site.ok(&["plan", "one"])
            .contains("its packages are not locked")
    );
    let said = site.ok(&["update", "one"]);
    assert!(
        said.starts_with("one[variant=a] (and 1 more): 2 packages, "),
        "{said}"
    );
    assert_eq!(entry(&site.lock(), "one"), entry(&lock, "one"));
    assert!(
        site.lock().contains("packages = [[[ {"),
        "the other stays as it is"
    );
    // A package is not a stage, and locks nothing else either.
    let ran = site.run(&["update", "library"]);
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (0, "nothing is newer: the lock is unchanged\n"),
        "{}",
        ran.stderr
    );
    assert!(
        site.ok(&["update", "two"])
            .starts_with("two[variant=a] (and 1 more): 1 packages, ")
    );
    assert_eq!(site.lock(), lock);
    assert_eq!(site.build(&["--locked"]).ok().built, Vec::<String>::new());

    // The tools are an entry like any other.
    site.project.write(
        "impasto.lock",
        &lock.replacen(
            "name = \"toolbox\"\n",
            "name = \"toolbox\"\ncolour = 1\n",
            1,
        ),
    );
    let said = site.said(&["build", "one", "--locked", "--progress", "plain"]);
    assert!(
        said.contains("for the toolbox: line 7: unknown field `colour`"),
        "{said}"
    );
    assert!(said.contains("impasto update toolbox"), "{said}");
    site.ok(&["update", "toolbox"]);
    assert_eq!(site.lock(), lock);

    // What the recipe does not have any more can be removed, usable or not.
    let ghost = entry(&lock, "two").replace("name = \"two\"", "name = \"ghost\"");
    for ghost in [ghost.clone(), ghost.replace("size = ", "size = x")] {
        site.project
            .write("impasto.lock", &format!("{lock}\n{ghost}"));
        assert_eq!(
            site.build(&[]).ok().built,
            Vec::<String>::new(),
            "nobody needs it"
        );
        let said = site.ok(&["update", "ghost"]);
        assert!(
            said.starts_with("ghost") && said.ends_with(": no longer in the recipe\n"),
            "{said}"
        );
        assert_eq!(site.lock(), lock);
    }
}

#[test]
fn the_entry_of_a_stage_that_is_only_sometimes_built_stays() {
    let site = Site::new();
    let sometimes = site.packages(
        "sometimes",
        "base",
        "when = var.all\n  install = [\"small\"]",
    );
    site.recipe(&format!(
        "variable \"all\" {{ default = true }}\n{sometimes}{}",
        site.packages("always", "base", "install = [\"library\"]")
    ));
    site.ok(&["update"]);
    let lock = site.lock();
    assert_eq!(
        site.ok(&["update", "--var", "all=false"]),
        "nothing is newer: the lock is unchanged\n"
    );
    assert_eq!(site.lock(), lock);
    assert_eq!(
        site.run(&["fetch", "--locked", "--var", "all=false"]).code,
        0,
        "it is a stage of the recipe"
    );
}

#[test]
fn a_lock_keeps_its_permissions_and_owner_and_is_not_written_through_a_link() {
    let mut site = Site::new();
    site.recipe(&site.packages("one", "base", "install = [\"small\"]"));
    let path = site.project.path("impasto.lock");
    site.ok(&["update", "one"]);
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660)).unwrap();
    std::os::unix::fs::chown(&path, Some(1234), Some(4321)).unwrap();
    site.publish(&Package::new("small", "2.0"));
    assert_eq!(site.ok(&["update", "one"]), "one: small 1.0 → 2.0\n");
    let found = std::fs::metadata(&path).unwrap();
    assert_eq!(
        (found.mode() & 0o777, found.uid(), found.gid()),
        (0o660, 1234, 4321)
    );

    site.publish(&Package::new("small", "3.0"));
    let elsewhere = site.project.path("elsewhere");
    std::fs::rename(&path, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    let before = std::fs::read(&elsewhere).unwrap();
    let said = site.said(&["update", "one"]);
    let expected = "error: cannot write the lock DIR/impasto.lock: it is a symbolic link\n  help: the lock must be a \
                    regular file beside its recipe: ";
    assert!(said.contains(expected), "{said}");
    assert_eq!(std::fs::read(&elsewhere).unwrap(), before);
    let left: Vec<_> = std::fs::read_dir(site.project.path(""))
        .unwrap()
        .map(|file| file.unwrap().file_name())
        .collect();
    assert!(
        !left
            .iter()
            .any(|name| name.to_string_lossy().starts_with(".impasto.lock")),
        "{left:?}"
    );
}

/// A paragraph of an index of a package that is there, with one field changed.
fn edited(site: &mut Site, name: &str, edit: impl Fn(&str) -> String) {
    let path = site.repository.add(
        "stable",
        "main",
        &Package::new(name, "1.0").file("usr/share/odd", "odd\n"),
    );
    let bytes = std::fs::read(site.repository.dir().join(&path)).unwrap();
    let (size, hash) = (bytes.len(), sha256(&bytes));
    let paragraph = format!(
        "Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: x <x@example.org>\nFilename: {path}\nSize: {size}\n\
         SHA256: {hash}\nDescription: x\n"
    );
    site.repository.add_paragraph(
        "stable",
        "main",
        name,
        paragraph.lines().map(|line| edit(line) + "\n").collect(),
    );
    site.repository.publish();
}

#[test]
fn what_the_next_run_would_refuse_is_not_locked() {
    let mut site = Site::new();
    let two = site.packages("two", "base", "install = [\"small\"]");
    site.recipe(&two);
    site.ok(&["update"]);
    let lock = site.lock();
    site.recipe(&format!(
        "{}{two}",
        site.packages("one", "base", "install = [\"odd\"]")
    ));
    let mut all = String::new();
    for (field, value) in [
        ("Version", "1.0_2"),
        ("Version", "4294967296:1.0"),
        ("Size", "9223372036854775808"),
        ("Size", "0"),
        ("SHA256", "0123"),
        ("Filename", "../../pool/odd.deb"),
        ("Filename", "/pool/odd.deb"),
        ("Package", "odd/../odd"),
    ] {
        edited(&mut site, "odd", |line| match line.split_once(": ") {
            Some((name, _)) if name == field => format!("{name}: {value}"),
            _ => line.to_owned(),
        });
        let said = site.said(&["update", "one"]);
        assert!(
            !said.starts_with("exit 0") && said.contains("\n  help: "),
            "{field}: {value}\n{said}"
        );
        assert_eq!(site.lock(), lock, "{field}: {value}");
        writeln!(all, "# {field}: {value}\n{said}").unwrap();
    }
    insta::assert_snapshot!("unlocked", all);
    // What can be brought into form is: case means nothing in a digest.
    edited(&mut site, "odd", |line| {
        match line.strip_prefix("SHA256: ") {
            Some(digest) => format!("SHA256: {}", digest.to_uppercase()),
            None => line.to_owned(),
        }
    });
    let done = site.build(&["one"]).ok();
    assert_eq!(done.built, ["one"]);
    assert_eq!(
        site.build(&["one", "--locked"]).ok().built,
        Vec::<String>::new()
    );
}

/// One of some texts.
fn pick<'t>(random: &mut Random, texts: &[&'t str]) -> &'t str {
    texts[random.below(texts.len() as u64) as usize]
}

/// A paragraph of an index whose fields are mostly as they should be, and seldom anything.
fn paragraph(random: &mut Random) -> String {
    let digits = "0123456789abcdef".repeat(4);
    let (upper, long) = (digits.to_uppercase(), "9".repeat(300));
    let mut field = |good: &str, others: &[&str]| {
        let text = if random.below(3) > 0 {
            good
        } else {
            pick(random, others)
        };
        text.to_owned()
    };
    let name = field(
        "odd",
        &[
            "Odd",
            "o",
            "o_d",
            "ödd",
            "odd:amd64",
            "-odd",
            "odd/../x",
            "odd%2f",
            "odd odd",
        ],
    );
    let version = field(
        "1.0",
        &[
            "0:1.0",
            "4294967296:1",
            "-1:2",
            "1.0~~",
            "1.0^git",
            "1_0",
            "1.0 beta",
            "",
            "ü1.0",
            "1.0-",
            "1:2:3",
            "01.0",
            &long,
            "1.0/..",
            "$(id)",
            "v1.0",
            "1.0-1-",
            "1,0",
            "1.0\u{7f}",
        ],
    );
    let architecture = field(
        "all",
        &[
            "amd64",
            "AMD64",
            "any",
            "arm64",
            "all amd64",
            "",
            "../all",
            "i386",
        ],
    );
    let size = field(
        "1000",
        &[
            "0",
            "18446744073709551615",
            "9223372036854775808",
            "9223372036854775807",
            "-1",
            "1e3",
            "",
            "34359738369",
            "18446744073709551616",
            "0x10",
            "34359738368",
        ],
    );
    let sha256 = field(
        &digits,
        &[
            &upper,
            &upper,
            &upper,
            "0123",
            "",
            "zz",
            &digits[1..],
            "sha256",
        ],
    );
    let path = field(
        "pool/odd.deb",
        &[
            "./pool/odd.deb",
            "/etc/x",
            "../../x",
            "pool/ü .deb",
            "pool/a%20b.deb",
            "pool/\"q\".deb",
            "",
            "pool//x.deb",
            "pool/x.deb?y#z",
            "pool/\u{202e}x.deb",
            "pool\\x",
            "pool/x\u{1}.deb",
            "pool/%2e%2e/x",
            "pool/'x'.deb",
        ],
    );
    format!(
        "Package: {name}\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: x <x@example.org>\n\
         Filename: {path}\nSize: {size}\nSHA256: {sha256}\nDescription: x\n"
    )
}

/// A command neither panicked nor was killed, and what went wrong has a remedy.
fn is_orderly(ran: &Ran, what: &str) {
    assert!(
        [0, 3, 4].contains(&ran.code),
        "{what}\nexit {}\n{}{}",
        ran.code,
        ran.stdout,
        ran.stderr
    );
    assert!(
        !ran.stderr.contains("panicked") && !ran.stderr.contains("BUG"),
        "{what}\n{}",
        ran.stderr
    );
}

#[test]
fn torture_hostile_indexes_lock_nothing_or_what_the_next_run_takes() {
    let mut random = Random::new(seed());
    let (rounds, mut locked) = (count("indexes", 8), 0);
    let mut site = Site::new();
    let stage = |name: &str, install: &str| {
        site.packages(name, "base", &format!("install = [\"{install}\"]"))
    };
    site.recipe(&stage("two", "small"));
    site.ok(&["update"]);
    let before = site.lock();
    site.recipe(&format!("{}{}", stage("one", "odd"), stage("two", "small")));
    for round in 0..rounds {
        let mut text = String::new();
        for at in 0..=random.below(3) {
            let paragraph = paragraph(&mut random);
            text += &paragraph;
            site.repository
                .add_paragraph("stable", "main", &format!("odd-{at}"), paragraph);
        }
        site.repository.publish();
        let what = format!("round {round}:\n{text}");
        let ran = site.run(&["update", "one"]);
        is_orderly(&ran, &what);
        if ran.code == 0 {
            locked += 1;
            let lock = site.lock();
            let read = LockFile::parse(&lock).expect(&what);
            assert_eq!(
                (read.refused.as_slice(), read.to_string()),
                (&[][..], lock.clone()),
                "{what}"
            );
            assert_eq!(
                site.run(&["fetch", "two", "--locked"]).code,
                0,
                "{what}\n{lock}"
            );
            assert_eq!(site.run(&["update", "one"]).code, 0, "{what}");
            assert_eq!(site.lock(), lock, "{what}");
        } else {
            assert_eq!(site.lock(), before, "{what}");
        }
        site.project.write("impasto.lock", &before);
        (0..3).for_each(|at| {
            site.repository
                .remove("stable", "main", &format!("odd-{at}"))
        });
    }
    println!("{rounds} indexes, {locked} locked");
}

/// Changes a text somewhere.
fn mutate(random: &mut Random, text: &str) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let place = |random: &mut Random, lines: &[String]| random.below(lines.len() as u64) as usize;
    for _ in 0..=random.below(3) {
        let at = place(random, &lines);
        let line = lines[at].clone();
        let word = |random: &mut Random| {
            pick(
                random,
                &[
                    "../",
                    "\"",
                    "9223372036854775808",
                    "-1",
                    "\u{0}",
                    "[[stage]]",
                    "ü",
                    "=",
                    "{",
                    "[",
                    "]",
                    "#",
                    "\\u0007",
                ],
            )
        };
        match random.below(10) {
            0 => drop(lines.remove(at)),
            1 => lines.insert(at, line),
            2 => {
                let other = place(random, &lines);
                lines.swap(at, other);
            }
            3 => lines[at] = line.to_uppercase(),
            4 => lines[at] = line.chars().rev().collect(),
            5 => lines[at] = line.chars().filter(|c| !c.is_ascii_digit()).collect(),
            6 => lines.truncate(at.max(1)),
            7 => {
                let (from, to) = (place(random, &lines), place(random, &lines));
                let copy: Vec<_> = lines[from.min(to)..from.max(to)].to_vec();
                lines.splice(at..at, copy);
            }
            _ => {
                let cut = random.below(line.chars().count() as u64 + 1) as usize;
                let (head, tail): (String, String) = (
                    line.chars().take(cut).collect(),
                    line.chars().skip(cut).collect(),
                );
                let skipped: String = tail.chars().skip(random.below(3) as usize).collect();
                lines[at] = format!("{head}{}{skipped}", word(random));
            }
        }
        if lines.is_empty() {
            lines.push(String::new());
        }
    }
    lines.join("\n") + "\n"
}

#[test]
fn torture_mutated_locks_are_refused_with_place_and_remedy() {
    let mut random = Random::new(seed());
    let rounds = count("locks", 40);
    let site = site();
    site.run(&["fetch"]);
    let lock = site.lock();
    let (mut accepted, mut refused) = (0, 0);
    for round in 0..rounds {
        let text = mutate(&mut random, &lock);
        if text == lock {
            continue;
        }
        site.project.write("impasto.lock", &text);
        let ran = site.run(&["fetch", "--locked"]);
        let what = format!("round {round}:\n{text}");
        is_orderly(&ran, &what);
        assert_eq!(site.lock(), text, "{what}");
        if ran.code == 0 {
            accepted += 1;
        } else {
            refused += 1;
            let place = ["impasto.lock", "cannot get package"]
                .iter()
                .any(|place| ran.stderr.contains(place));
            assert!(
                place && ran.stderr.contains("help: "),
                "{what}\n{}",
                ran.stderr
            );
        }
        // Whatever is read is written so that it is read in the same way. This costs nothing, so it is done more often.
        for _ in 0..50 {
            let text = mutate(&mut random, &text);
            let Ok(first) = LockFile::parse(&text) else {
                continue;
            };
            let written = first.to_string();
            let second = LockFile::parse(&written)
                .unwrap_or_else(|error| panic!("{error}\n{text}\n{written}"));
            assert_eq!(second.to_string(), written, "{text}");
            assert_eq!(
                (&second.toolbox, &second.stages),
                (&first.toolbox, &first.stages),
                "{text}"
            );
            let names = |lock: &LockFile| {
                lock.refused
                    .iter()
                    .map(|entry| entry.name.clone())
                    .collect::<Vec<_>>()
            };
            assert_eq!(names(&second), names(&first), "{text}");
        }
    }
    println!("{rounds} locks, {accepted} accepted, {refused} refused");
    assert!(refused > 0);
}

/// Texts that an index may hold in a field, good and bad.
fn words() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z][a-z0-9+.-]{1,10}",
        "[0-9]{1,2}:[0-9]\\.[0-9a-z~+.-]{0,6}",
        "pool/[a-z0-9%\"'\\\\ü~ ]{1,8}/[ -~]{1,8}",
        "[0-9a-fA-F]{64}",
        "\\PC{0,12}",
        any::<String>(),
    ]
}

proptest! {
    /// Whatever an archive says, what is found fit to be locked is read back, and written the same again.
    #[test]
    fn what_is_fit_to_be_locked_is_read_as_it_was_written(
        texts in prop::array::uniform9(words()),
        digest in any::<[u8; 32]>(),
        size in prop_oneof![any::<u64>(), 0..5000u64],
        sound in any::<[bool; 9]>(),
    ) {
        let good = ["name", "1:2.0~rc1-3", "amd64", &"ab".repeat(32), "own", "pool/x.deb", "one", "install x", "variant=a"];
        let text = |at: usize| if sound[at] { good[at].to_owned() } else { texts[at].clone() };
        let entry = impasto::lock::LockEntry {
            name: text(6),
            combinations: vec![text(8)],
            architecture: "amd64".to_owned(),
            request: vec![text(7), "upgrade".to_owned()],
            against: String::new(),
            archives: vec![impasto::lock::LockArchive {
                name: text(4),
                date: "2026-11-14T10:00:00Z".to_owned(),
                release: "cd".repeat(32).parse().unwrap(),
                trusted: true,
            }],
            packages: vec![impasto::lock::LockPackage {
                file: LockedPackage { name: text(0), architecture: text(2), version: text(1), sha256: Sha256(digest), size },
                installed: Some(size % (1 << 33)), archive: Some(text(4)), path: text(5),
            }],
            removed: vec![PackageName { name: text(0), architecture: text(2), version: text(1) }],
        };
        if entry.check_written().is_ok() {
            let lock = LockFile { stages: vec![entry], ..LockFile::default() };
            let written = lock.to_string();
            let read = LockFile::parse(&written).unwrap();
            prop_assert_eq!(&read, &lock);
            prop_assert_eq!(read.to_string(), written);
        }
    }
}
