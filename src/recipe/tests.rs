//! The evaluator against a table of expressions and values; heredocs, marks and origins.

use std::collections::BTreeMap;
use std::path::Path;

use impasto_stages::Value;

use super::diagnostic::{Diagnostic, Sources};
use super::eval::Evaluator;
use super::expr::Names;
use super::files::Files;
use super::lower::{Allowed, Lowering};
use super::syntax;
use crate::recipe::scope::Scope;

fn eval(text: &str) -> Result<Value, Vec<Diagnostic>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/recipes");
    let mut sources = Sources::default();
    let file = sources.add("test.hcl", "test.hcl", text);
    let expr = syntax::parse_expr(text.trim_end(), file).map_err(|diagnostic| vec![diagnostic])?;
    let source = sources.get(file).cloned().expect("it was added");
    let env = BTreeMap::from([("HOME_OF_TESTS".to_owned(), "here".to_owned())]);
    let scope = Scope::new(&dir, None, &[]).expect("the fixtures");
    let mut eval = Evaluator::new(Files::new(dir.clone(), dir, scope.into(), env), sources);
    eval.environment.in_default = true;
    let names = Names::default();
    let mut found = Vec::new();
    let root = Lowering::new(file, source, &names, &mut found).root(&expr, Allowed::ALL);
    let result = eval.eval(&root.expr);
    found.append(&mut eval.diagnostics);
    match result {
        Ok(value) if found.is_empty() => Ok(value),
        _ => Err(found),
    }
}

fn shown(text: &str) -> String {
    match eval(text) {
        Ok(value) => format!("{value:?}"),
        Err(diagnostics) => {
            let all: Vec<_> = diagnostics
                .iter()
                .map(|one| format!("{} {}", one.message, one.help.join(" ")))
                .collect();
            format!("error: {}", all.join(" / "))
        }
    }
}

#[test]
fn every_expression_has_its_value() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/recipes/expressions.txt");
    let table = std::fs::read_to_string(path).expect("the table is there");
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in table
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let (text, wanted) = line.rsplit_once(" => ").expect("a line has ` => `");
        let found = shown(text);
        let right = match wanted.strip_prefix("error: ") {
            Some(part) => found.starts_with("error: ") && found.contains(part),
            None => found == wanted,
        };
        if !right {
            wrong.push(format!("{text}\n  wanted: {wanted}\n  found:  {found}"));
        }
        count += 1;
    }
    assert!(
        wrong.is_empty(),
        "{} of {count} are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(count >= 200);
}

fn text_of(text: &str) -> String {
    match eval(text) {
        Ok(value) => value.as_str().unwrap_or("no text").to_owned(),
        Err(diagnostics) => panic!("{diagnostics:?}"),
    }
}

#[test]
fn heredocs_keep_their_lines() {
    assert_eq!(text_of("<<EOT\n  a\nb\nEOT\n"), "  a\nb\n");
    assert_eq!(text_of("<<EOT\nEOT\n"), "");
    assert_eq!(
        text_of("<<EOT\n$${HOME} %%{x} \"q\" \\n\nEOT\n"),
        "${HOME} %{x} \"q\" \\n\n"
    );
    assert_eq!(text_of("<<EOT\na ${1 + 1} b\nEOT\n"), "a 2 b\n");
}

#[test]
fn indented_heredocs_lose_what_all_lines_have() {
    assert_eq!(
        text_of("<<-EOT\n    a\n      b\n\n    c\n  EOT\n"),
        "a\n  b\n\nc\n"
    );
    // The line with the least indentation counts, wherever interpolations stand.
    assert_eq!(text_of("<<-EOT\n    a ${1}\n  b\n  EOT\n"), "  a 1\nb\n");
    assert_eq!(text_of("<<-EOT\n    a ${1}\nb\n  EOT\n"), "    a 1\nb\n");
    assert_eq!(text_of("<<-EOT\n    ${1}\n      b\n  EOT\n"), "1\n  b\n");
    assert_eq!(text_of("<<-EOT\n    $${x}\n    b\n  EOT\n"), "${x}\nb\n");
    assert_eq!(text_of("<<-EOT\n\ta\n\t\tb\n\tEOT\n"), "a\n\tb\n");
}

#[test]
fn directives_in_heredocs_are_cut_at_lines() {
    let text =
        "<<-EOT\n    %{ for x in [1, 2] ~}\n    - ${x}\n    %{ endfor ~}\n    end\n    EOT\n";
    assert_eq!(text_of(text), "- 1\n- 2\nend\n");
    let text = "<<-EOT\n    a\n    %{ if true ~}\n      b\n    %{ else ~}\n      c\n    %{ endif ~}\n    d\n    EOT\n";
    assert_eq!(text_of(text), "a\n  b\nd\n");
}

#[test]
fn origins_name_the_line_where_a_text_stands() {
    let origin = |text: &str| {
        let value = eval(text).expect("it is valid");
        value
            .origin
            .map(|origin| (origin.path.clone(), origin.line))
    };
    assert_eq!(origin("\"a\""), Some(("test.hcl".to_owned(), 1)));
    assert_eq!(origin("<<EOT\na\nEOT\n"), Some(("test.hcl".to_owned(), 2)));
    assert_eq!(
        origin("<<-EOT\n  a ${1}\n  EOT\n"),
        Some(("test.hcl".to_owned(), 2))
    );
    assert_eq!(
        origin("file(\"./files/hello.txt\")"),
        Some(("files/hello.txt".to_owned(), 1))
    );
    assert_eq!(
        origin("true ? file(\"files/hello.txt\") : 1"),
        Some(("files/hello.txt".to_owned(), 1))
    );
}

#[test]
fn lines_that_move_have_no_origin() {
    let moved = "<<EOT\n${file(\"files/hello.txt\")}\nb\nEOT\n";
    assert_eq!(eval(moved).expect("it is valid").origin, None);
    assert_eq!(eval("upper(\"a\")").expect("it is valid").origin, None);
}
