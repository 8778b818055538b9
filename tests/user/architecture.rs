//! The rooms of `src/` and which of them may use which: read off the sources, held against one table.
//!
//! A room is a directory of `src/`. An *arrow* is a line of one room's code that names another, as `crate::disk` or
//! within `use crate::{disk, recipe}`. The crates beside this one, which `Cargo.toml` keeps apart, are no rooms.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

/// Each room with the rooms that it uses: only such as stand before it, so that there is no cycle. A new arrow is a
/// decision: it is written here, and in the head of `src/lib.rs` where the order changes.
const ROOMS: [(&str, &[&str]); 18] = [
    ("base", &[]),
    ("net", &["base"]),
    ("source", &["base", "net"]),
    ("disk", &["base"]),
    ("media", &["base", "disk"]),
    ("recipe", &["base"]),
    ("deb", &[]),
    ("lock", &["base", "recipe", "deb"]),
    ("sandbox", &["base", "disk"]),
    ("vm", &["base", "disk", "sandbox"]),
    ("assemble", &["base", "disk", "sandbox"]),
    (
        "debian",
        &[
            "base", "net", "source", "disk", "recipe", "deb", "lock", "sandbox", "assemble",
        ],
    ),
    ("inspect", &["base", "disk", "deb"]),
    ("checks", &["base", "disk", "vm", "inspect"]),
    (
        "engine",
        &[
            "base", "net", "source", "disk", "media", "recipe", "deb", "lock", "sandbox", "vm",
            "debian", "checks",
        ],
    ),
    ("image", &["base", "disk", "recipe", "engine", "inspect"]),
    ("ui", &["base", "engine"]),
    (
        "cli",
        &[
            "base", "net", "source", "disk", "recipe", "deb", "lock", "sandbox", "vm", "debian",
            "engine", "inspect", "image", "ui",
        ],
    ),
];

/// What is no room: the crate's root, the program, the script that builds the agent, the agent, which is a crate of its
/// own, and files for distributions' packages.
const NO_ROOMS: [&str; 5] = ["lib.rs", "main.rs", "build.rs", "agent", "package"];

/// Arrows by the room that they begin in and the one that they lead to: file and line of each.
type Arrows = BTreeMap<(String, String), Vec<String>>;

/// The rooms that a source file names, each with its line, from 1.
fn named(text: &str) -> Vec<(usize, String)> {
    let code = |line: &str| match line.trim_start().starts_with("//") {
        true => String::new(),
        false => line.split(" // ").next().unwrap_or_default().to_owned(),
    };
    let text = text.lines().map(code).collect::<Vec<_>>().join("\n");
    let word = |text: &str| {
        text.chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect::<String>()
    };
    let mut found = Vec::new();
    for (at, path) in text.match_indices("crate::") {
        let rest = &text[at + path.len()..];
        let mut push = |before: usize, word: String| {
            found.push((
                text[..at + path.len() + before].matches('\n').count() + 1,
                word,
            ));
        };
        let Some(list) = rest.strip_prefix('{') else {
            push(0, word(rest));
            continue;
        };
        let (mut depth, mut begins) = (1, true);
        for (place, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                // What stands within a room's own braces is its business.
                ',' if depth == 1 => begins = true,
                c if begins && c.is_alphanumeric() => {
                    push(place + 1, word(&list[place..]));
                    begins = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    found
}

/// The Rust sources of the rooms, below `src`: room, path and text.
fn sources(src: &Path) -> Vec<(String, PathBuf, String)> {
    let files = WalkDir::new(src)
        .sort_by_file_name()
        .into_iter()
        .map(|entry| entry.unwrap().into_path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let read = |path: PathBuf| {
        let below = path.strip_prefix(src).unwrap().to_owned();
        let room = below.iter().next().unwrap().to_str().unwrap().to_owned();
        (!NO_ROOMS.contains(&&*room))
            .then(|| (room, below, std::fs::read_to_string(&path).unwrap()))
    };
    files.filter_map(read).collect()
}

/// All arrows between rooms of `src`.
fn arrows(src: &Path) -> Arrows {
    let mut arrows = Arrows::new();
    for (room, path, text) in sources(src) {
        for (line, other) in named(&text).into_iter().filter(|(_, other)| *other != room) {
            arrows
                .entry((room.clone(), other))
                .or_default()
                .push(format!("src/{}:{line}", path.display()));
        }
    }
    arrows
}

/// The arrows that the table does not have, and what of the table is no arrow.
fn wrong(arrows: &Arrows) -> Vec<String> {
    let allowed = |from: &str, to: &str| {
        ROOMS
            .iter()
            .any(|(room, uses)| *room == from && uses.contains(&to))
    };
    let of = |((from, to), places): (&(String, String), &Vec<String>)| {
        let places = places
            .iter()
            .map(|place| format!("{from} → {to} at {place}"))
            .collect::<Vec<_>>();
        if allowed(from, to) {
            Vec::new()
        } else {
            places
        }
    };
    let unused = ROOMS
        .iter()
        .flat_map(|(room, uses)| uses.iter().map(move |other| (*room, *other)))
        .filter_map(|(from, to)| {
            let used = arrows.contains_key(&(from.to_owned(), to.to_owned()));
            (!used).then(|| format!("{from} → {to} is in the table, and nothing needs it"))
        });
    arrows.iter().flat_map(of).chain(unused).collect()
}

/// The rooms with how often each names which other ones.
fn map(arrows: &Arrows) -> String {
    let place = |room: &str| ROOMS.iter().position(|(name, _)| *name == room);
    let mut text = String::new();
    for (room, _) in ROOMS {
        let uses = arrows.iter().filter(|((from, _), _)| from == room);
        let uses: Vec<_> = uses
            .map(|((_, to), places)| format!("{to} {}", places.len()))
            .collect();
        writeln!(text, "{room:9} → {}", uses.join(", ")).unwrap();
    }
    let upward = arrows
        .keys()
        .filter(|(from, to)| place(from) <= place(to))
        .count();
    writeln!(
        text,
        "{} rooms, {} arrows, {upward} of them upward",
        ROOMS.len(),
        arrows.len()
    )
    .unwrap();
    text
}

/// `cargo nextest run -p impasto --no-capture -E 'test(architecture)'` shows the map.
#[test]
fn rooms_use_only_those_that_the_table_allows() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let dirs = std::fs::read_dir(&src)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_dir());
    for name in dirs.map(|dir| dir.file_name().into_string().unwrap()) {
        let known = NO_ROOMS.contains(&&*name) || ROOMS.iter().any(|(room, _)| *room == name);
        assert!(known, "src/{name} is no room of the table");
    }
    let arrows = arrows(&src);
    println!("{}", map(&arrows));
    let wrong = wrong(&arrows);
    assert!(
        wrong.is_empty(),
        "arrows that the table of rooms does not have:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn the_table_of_rooms_has_an_order() {
    for (at, (room, uses)) in ROOMS.iter().enumerate() {
        for other in *uses {
            let before = ROOMS[..at].iter().any(|(name, _)| name == other);
            assert!(
                before,
                "{room} may use only rooms before it, and {other} is none"
            );
        }
    }
}

#[test]
fn arrows_are_found_wherever_a_line_names_a_room() {
    let find = |text: &str| {
        named(text)
            .into_iter()
            .map(|(line, room)| format!("{line} {room}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        find("use crate::disk::guest;\n    crate::ui::show(crate::base::now());"),
        ["1 disk", "2 ui", "2 base"]
    );
    assert_eq!(
        find("use crate::{disk::{guest, image}, recipe};"),
        ["1 disk", "1 recipe"]
    );
    assert_eq!(
        find("use crate::{\n    disk::{\n        guest,\n    },\n    recipe,\n};\nlet x = y;"),
        ["2 disk", "5 recipe"]
    );
    assert_eq!(
        find("//! See [`crate::ui`].\nlet text = 1; // as crate::ui does"),
        Vec::<String>::new()
    );
}

/// What a command is called is the command line's business: what is below it tells what is wrong, and hints of the
/// command line what to do.
#[test]
fn nothing_below_the_command_line_names_its_commands() {
    // The text of a lock is a format; what `audit` advises is written for a recipe's author.
    const KNOWN: [&str; 2] = ["lock/file.rs", "inspect/audit/causes/remedy.rs"];
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    for (room, path, text) in sources(&src) {
        if matches!(&*room, "cli" | "ui") || KNOWN.iter().any(|known| path == Path::new(known)) {
            continue;
        }
        for (number, line) in text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
        {
            if ["`impasto ", ": impasto ", "(impasto "]
                .iter()
                .any(|words| line.contains(words))
            {
                found.push(format!(
                    "src/{}:{}: {}",
                    path.display(),
                    number + 1,
                    line.trim()
                ));
            }
        }
    }
    assert!(
        found.is_empty(),
        "commands are named below the command line:\n{}",
        found.join("\n")
    );
}
