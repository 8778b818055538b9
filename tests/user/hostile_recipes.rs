//! Recipes that ask for more than any machine has: whether accepted or refused, little time and memory is taken.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use crate::torture::{count, seed};

/// Largest recipe that is made, in bytes.
const LARGEST: usize = 64 << 10;
/// Memory above that of a small recipe, in bytes.
const MEMORY: u64 = 64 << 20;
/// Processor time, in seconds. Without optimisation everything takes several times as long.
const SECONDS: f64 = if cfg!(debug_assertions) { 15.0 } else { 1.0 };

/// Recipes that are tried in the ordinary suite.
const FEW: u64 = 35;

const BASE: &str = "stage \"fetch\" \"base\" {\n  path = \"base.raw\"\n}\n";

/// What `impasto validate` gave and took.
struct Cost {
    code: i32,
    memory: u64,
    seconds: f64,
    stderr: String,
}

fn validate(dir: &Path) -> Cost {
    let mut command = Command::new(env!("CARGO_BIN_EXE_impasto"));
    command
        .arg("validate")
        .arg("--store")
        .arg(dir.join("store"))
        .arg(dir);
    let errors = std::fs::File::create(dir.join("stderr")).unwrap();
    command
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors);
    let mut child = command.spawn().unwrap();
    let pid = Pid::from_child(&child);
    let mut memory = 0;
    // The high-water mark is gone with the process; it is asked for until it ends. What it used of the processor stays
    // until it is waited for.
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    while waitid(WaitId::Pid(pid), options).unwrap().is_none() {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        memory = memory.max(kib.unwrap_or(0) << 10);
    }
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    // proc(5): utime and stime are the fields 14 and 15, in hundredths of a second.
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    let code = child.wait().unwrap().code().unwrap_or(-1);
    let stderr = String::from_utf8_lossy(&std::fs::read(dir.join("stderr")).unwrap()).into_owned();
    Cost {
        code,
        memory,
        seconds: ticks as f64 / 100.0,
        stderr,
    }
}

fn in_directory(text: &str) -> Cost {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("base.raw"), "disk").unwrap();
    std::fs::write(dir.path().join("recipe.hcl"), text).unwrap();
    validate(dir.path())
}

/// Something that uses a value in a way that may need all of it.
const USES: &[&str] = &[
    "jsonencode(@)",
    "flatten(@)",
    "toset(@)",
    "distinct(@)",
    "[for x in @ : x]",
    "@ == @",
    "type(@)",
    "concat(@, @)",
    "convert(@, list(list(any)))",
    "@[*][*][*][*]",
    "join(\",\", flatten(@))",
    "contains(@, @)",
    "reverse(@)",
    "setproduct(@, @, @)",
    "{ for x in range(100) : \"k${x}\" => @ }",
    "length(@)",
    "index(@, [])",
    "chunklist(@, 1)",
    "sha256(jsonencode(@))",
    "jsondecode(jsonencode(@))",
    "[@, @, @]",
    "can(jsonencode(@))",
    "try(flatten(@), @)",
    "merge({ a = @ }, { b = @ })",
    "sort(@)",
    "zipmap([\"a\"], [@])",
    "[for x in range(1000) : @]",
    "compact(@)",
    "values({ a = @ })",
    "element(@, 0)",
    "tolist(@)",
    "coalesce(@)",
];

/// Texts and lists that are large for what is written.
const LARGE: &[&str] = &[
    "join(\"\", [for x in range(100000) : \"0123456789\"])",
    "format(\"%65536s\", \"x\")",
    "formatlist(\"%65536s\", range(1000))",
    "range(100000)",
    "[for x in range(1000) : range(1000)]",
    "setproduct(range(40), range(40), range(40))",
    "replace(format(\"%60000s\", \"\"), \" \", format(\"%9999s\", \"\"))",
    "regexall(\"a*b|a\", replace(format(\"%60000s\", \"\"), \" \", \"a\"))",
    "regex_replace(format(\"%60000s\", \"\"), \" \", \"$0$0$0$0$0$0$0$0\")",
    "regex(\"(?i)(\\\\w{50}){20}\", \"x\")",
    "[for x in range(100000) : regex(\"(\\\\w{9}|${x}){20}\", \"x\")]",
    "jsondecode(\"[${join(\",\", range(100000))}]\")",
    "indent(60000, join(\"\\n\", range(1000)))",
    "split(\"\", format(\"%65536s\", \"x\"))",
    "base64encode(format(\"%65536s\", \"x\"))",
    "[for x in range(1000) : [for y in range(1000) : [for z in range(1000) : x]]]",
    "{ for x in range(100000) : \"key${x}\" => x }",
    "concat(split(\"\", format(\"%65536s\", \"x\"))...)",
    "upper(format(\"%65536s\", \"x\"))",
    "strrev(format(\"%65536s\", \"x\"))",
    "keys({ for x in range(50000) : x => x })",
    "[for x in range(100000) : fileexists(\"f${x}\")]",
    "chunklist(range(100000), 1)",
    "\"%{ for x in range(100000) }${x}%{ endfor }\"",
    "format(\"%q\", format(\"%65536s\", \"\\u0001\"))",
];

fn doubled(random: &mut StdRng, text: &mut String) {
    let depth = random.gen_range(2..400);
    let shape = *[
        "[@, @]",
        "{ a = @, b = @ }",
        "\"${@}${@}\"",
        "[@, [@], { x = @ }]",
        "concat(@, @)",
        "[@]",
        "merge({ a = @ }, { b = @ })",
    ]
    .choose(random)
    .unwrap();
    let first = if shape.starts_with('"') {
        "\"0123456789\""
    } else {
        "[\"x\"]"
    };
    let _ = writeln!(text, "locals {{\n  a0 = {first}");
    for level in 1..depth {
        let _ = writeln!(
            text,
            "  a{level} = {}",
            shape.replace('@', &format!("local.a{}", level - 1))
        );
    }
    for index in 0..random.gen_range(1..6) {
        let used = USES
            .choose(random)
            .unwrap()
            .replace('@', &format!("local.a{}", depth - 1));
        let _ = writeln!(text, "  use{index} = {used}");
    }
    let _ = writeln!(
        text,
        "}}\nstage \"run\" \"x\" {{\n  from = stage.base\n  commands = local.a{}\n}}",
        depth - 1
    );
}

fn sensitive(random: &mut StdRng, text: &mut String) {
    let depth = random.gen_range(2..1500);
    text.push_str("variable \"t\" {\n  sensitive = true\n  default = \"hunter2\"\n}\nlocals {\n  a0 = [var.t]\n");
    for level in 1..depth {
        let _ = writeln!(text, "  a{level} = [local.a{0}, local.a{0}]", level - 1);
    }
    let _ = writeln!(
        text,
        "}}\nstage \"run\" \"x\" {{\n  from = stage.base\n  commands = local.a{}\n}}",
        depth - 1
    );
}

fn large(random: &mut StdRng, text: &mut String) {
    text.push_str("locals {\n");
    for index in 0..random.gen_range(1..40) {
        let _ = writeln!(text, "  x{index} = {}", LARGE.choose(random).unwrap());
        if random.gen_bool(0.5) {
            let _ = writeln!(
                text,
                "  y{index} = {}",
                USES.choose(random)
                    .unwrap()
                    .replace('@', &format!("local.x{index}"))
            );
        }
    }
    text.push_str("}\n");
}

fn wide(random: &mut StdRng, text: &mut String) {
    let (axes, values) = *[(1, 5000), (2, 300), (3, 46), (5, 10), (16, 2)]
        .choose(random)
        .unwrap();
    text.push_str("matrix {\n");
    for axis in 0..axes {
        let _ = writeln!(text, "  m{axis} = [for x in range({values}) : \"v${{x}}\"]");
    }
    text.push_str("}\n");
    for stage in 0..random.gen_range(1..600) {
        let axis = random.gen_range(0..axes);
        let _ = writeln!(
            text,
            "stage \"run\" \"s{stage}\" {{\n  from = stage.base\n  commands = [matrix.m{axis}]\n}}"
        );
    }
}

fn deep(random: &mut StdRng, text: &mut String) {
    let (open, close) = *[
        ("(", ")"),
        ("[", "]"),
        ("{ a = ", " }"),
        ("!", ""),
        ("-", ""),
        ("\"${", "}\""),
        ("true ? 1 : ", ""),
        ("1 + ", ""),
        ("upper(", ")"),
        ("[for x in [1] : ", "]"),
        ("try(", ")"),
        ("x.", "y"),
        ("[*]", ""),
        ("\"%{ if true }", "%{ endif }\""),
    ]
    .choose(random)
    .unwrap();
    let most = (LARGEST - 500) / (open.len() + close.len());
    let depth = random.gen_range(10..most);
    let _ = writeln!(
        text,
        "locals {{\n  x = {}1{}\n}}",
        open.repeat(depth),
        close.repeat(depth)
    );
}

fn flat(random: &mut StdRng, text: &mut String) {
    let item = *[
        "1,",
        "x,",
        "\"\",",
        "[],",
        "{},",
        "null,",
        "1+1,",
        "var.x,",
        "upper(1,2),",
        "\"${1}\",",
        "local.y,",
    ]
    .choose(random)
    .unwrap();
    let _ = writeln!(
        text,
        "locals {{\n  x = [{}]\n}}",
        item.repeat((LARGEST - 500) / item.len())
    );
}

/// A real recipe with pieces of itself and of others moved, repeated and broken.
fn mutated(random: &mut StdRng, text: &mut String) {
    let sources = [
        include_str!("../../recipes/debian-12/recipe.hcl"),
        include_str!("../../recipes/kernel-module/recipe.hcl"),
        include_str!("../fixtures/recipes/expressions.txt"),
    ];
    let mut bytes = sources.choose(random).unwrap().as_bytes().to_vec();
    for _ in 0..random.gen_range(1..20) {
        let from = random.gen_range(0..bytes.len());
        let to = random
            .gen_range(from..bytes.len().min(from + 400))
            .max(from + 1)
            .min(bytes.len());
        let at = random.gen_range(0..bytes.len());
        match random.gen_range(0..4) {
            0 => drop(bytes.drain(from..to)),
            1 => {
                let piece = bytes[from..to].repeat(random.gen_range(1..40));
                bytes.splice(at..at, piece);
            }
            2 => bytes[at] = random.gen_range(0..128),
            _ => {
                let piece = USES.choose(random).unwrap().replace('@', "range(1000)");
                bytes.splice(at..at, piece.into_bytes());
            }
        }
        if bytes.is_empty() {
            break;
        }
    }
    text.push_str(&String::from_utf8_lossy(&bytes));
}

#[test]
fn torture_of_recipes_takes_little_time_and_memory() {
    let cases = count("RECIPES", FEW);
    // The ordinary suite tries the same ones every time.
    let seed = if cases == FEW { 6 } else { seed() };
    let baseline = in_directory(BASE);
    assert_eq!(baseline.code, 0, "{}", baseline.stderr);
    let (mut most_memory, mut most_seconds, mut accepted) = (0, 0.0f64, 0);
    let mut wrong = Vec::new();
    for case in 0..cases {
        let mut random = StdRng::seed_from_u64(seed.wrapping_mul(1_000_003) ^ case);
        let mut text = BASE.to_owned();
        let kinds = [doubled, sensitive, large, wide, deep, flat, mutated];
        kinds[case as usize % kinds.len()](&mut random, &mut text);
        while text.len() > LARGEST {
            text.pop();
        }
        let cost = in_directory(&text);
        let memory = cost.memory.saturating_sub(baseline.memory);
        most_memory = most_memory.max(memory);
        most_seconds = most_seconds.max(cost.seconds);
        accepted += u64::from(cost.code == 0);
        if !matches!(cost.code, 0 | 3) || memory > MEMORY || cost.seconds > SECONDS {
            let head: String = text.chars().skip(BASE.len()).take(400).collect();
            let stderr: String = cost.stderr.chars().take(300).collect();
            let (kib, code, seconds) = (memory >> 10, cost.code, cost.seconds);
            wrong.push(format!(
                "case {case}: exit code {code}, {kib} KiB, {seconds:.2} s\n{head}\n{stderr}\n"
            ));
        }
    }
    println!(
        "{cases} recipes of seed {seed}: {accepted} accepted; at most {} KiB above {} KiB, and {most_seconds:.2} s",
        most_memory >> 10,
        baseline.memory >> 10
    );
    assert!(
        wrong.is_empty(),
        "{} of {cases} (seed {seed}):\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn a_small_graph_of_values_that_is_a_huge_tree_costs_nothing_until_it_is_written_out() {
    let mut locals = "locals {\n  a0 = [\"x\"]\n".to_owned();
    for level in 1..200 {
        let _ = writeln!(locals, "  a{level} = [local.a{0}, local.a{0}]", level - 1);
    }
    let accepted = in_directory(&format!("{locals}}}\n{BASE}"));
    assert_eq!(accepted.code, 0, "{}", accepted.stderr);
    for used in [
        "jsonencode(@)",
        "flatten(@)",
        "toset(@)",
        "type(@)",
        "can(jsonencode(@))",
        "try(flatten(@), 1)",
    ] {
        let text = format!(
            "{locals}  used = {}\n}}\n{BASE}",
            used.replace('@', "local.a199")
        );
        let refused = in_directory(&text);
        assert_eq!(refused.code, 3, "{used}: {}", refused.stderr);
        assert!(
            refused
                .stderr
                .contains("the recipe is too expensive to evaluate"),
            "{used}: {}",
            refused.stderr
        );
        assert!(
            refused.stderr.contains("recipe.hcl:202"),
            "{used}: {}",
            refused.stderr
        );
        assert!(
            refused.memory < accepted.memory + MEMORY,
            "{used}: {}",
            refused.memory
        );
    }
}
