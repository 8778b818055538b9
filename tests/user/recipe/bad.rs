//! Bad recipes: every one is refused with messages that are pinned as snapshots.

use impasto::recipe::{Diagnostics, LoadRequest, load, parse_bytes};
use impasto_stages::Registry;

use super::{Project, fixture};

fn errors(name: &str) -> Diagnostics {
    let request = LoadRequest {
        path: fixture("bad").join(name),
        ..LoadRequest::default()
    };
    match load(&request, &Registry::default()) {
        Ok(_) => panic!("{name} is valid"),
        Err(diagnostics) => diagnostics,
    }
}

macro_rules! refused {
    ($($test:ident: $name:literal,)*) => {
        $(
            #[test]
            fn $test() {
                insta::assert_snapshot!(errors($name).render(false));
            }
        )*
    };
}

refused! {
    names_that_nothing_has: "unknown.hcl",
    values_of_wrong_types: "types.hcl",
    parameters_that_kinds_refuse: "kinds.hcl",
    what_is_missing: "missing.hcl",
    what_is_there_twice: "duplicates.hcl",
    an_attribute_that_is_there_twice: "duplicate-attribute.hcl",
    circles_of_locals: "cycles.hcl",
    circles_of_stages: "stage-cycle.hcl",
    disks_and_files_in_each_others_place: "disk-or-file.hcl",
    an_unclosed_quote: "quote.hcl",
    a_missing_opening_quote: "quote-later.hcl",
    an_unclosed_heredoc: "heredoc.hcl",
    an_unclosed_bracket: "bracket.hcl",
    a_wrong_closing_bracket: "bracket-wrong.hcl",
    a_missing_value: "syntax.hcl",
    a_wrong_operator: "syntax-operator.hcl",
    a_colon_for_an_equals_sign: "syntax-colon.hcl",
    two_attributes_on_one_line: "syntax-two.hcl",
    an_unknown_escape: "escape.hcl",
    a_variable_of_the_shell: "shell.hcl",
    an_expansion_of_the_shell: "shell-default.hcl",
    sensitive_values_outside_of_secrets: "sensitive.hcl",
    messages_about_sensitive_values: "sensitive-text.hcl",
    stages_that_need_dropped_ones: "when.hcl",
    nothing: "empty.hcl",
    variables: "variables.hcl",
    a_matrix: "matrix.hcl",
    the_recipe_block: "recipe.hcl",
    blocks_of_packer: "packer.hcl",
    operators_and_functions: "operators.hcl",
    names_of_images: "image-names.hcl",
    template_files: "template.hcl",
    control_characters: "control.hcl",
    control_characters_in_quotes: "control-text.hcl",
    several_files: "two",
    syntax_errors_of_several_files: "two-syntax",
    kinds_of_later_versions: "later-kinds.hcl",
    a_parameter_by_its_old_and_its_new_name: "old-name.hcl",
    a_path_that_is_not_there: "nowhere.hcl",
    a_directory_without_a_recipe: "templates",
}

#[test]
fn secrets_stand_in_no_message() {
    for name in ["sensitive.hcl", "sensitive-text.hcl"] {
        let diagnostics = errors(name);
        assert!(diagnostics.errors() > 2);
        // Lines of the recipe may be shown, and a secret may stand in one; what is said about them never holds it.
        let said = format!("{:?}", diagnostics.list);
        assert!(!said.contains("hunter"), "{said}");
    }
}

#[test]
fn no_control_character_reaches_the_reader() {
    for name in ["control.hcl", "control-text.hcl"] {
        let text = errors(name).render(false);
        assert!(
            text.chars()
                .all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'),
            "{text:?}"
        );
    }
}

fn refuse_bytes(bytes: &[u8]) -> String {
    match parse_bytes(bytes, &Registry::default()) {
        Ok(_) => panic!("the recipe is valid"),
        Err(diagnostics) => diagnostics.render(false),
    }
}

#[test]
fn bytes_that_are_no_text() {
    let all: Vec<String> = [
        b"\xef\xbb\xbflocals {}\n".as_slice(),
        b"\xff\xfel\0o\0c\0",
        b"locals { a = \"caf\xe9\" }\n",
        b"locals {\n  a = \"x\0y\"\n}\n",
        b"",
    ]
    .map(refuse_bytes)
    .to_vec();
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn deep_nesting_is_refused_and_does_not_overflow() {
    let brackets = |depth: usize| {
        format!(
            "locals {{ a = {}{} }}\n",
            "[".repeat(depth),
            "]".repeat(depth)
        )
    };
    let parentheses = |depth: usize| {
        format!(
            "locals {{ a = {}1{} }}\n",
            "(".repeat(depth),
            ")".repeat(depth)
        )
    };
    let templates = |depth: usize| {
        format!(
            "locals {{ a = {}1{} }}\n",
            "\"${".repeat(depth),
            "}\"".repeat(depth)
        )
    };
    let blocks = |depth: usize| format!("{}{}", "locals {\n".repeat(depth), "}\n".repeat(depth));
    let signs = |depth: usize| format!("locals {{ a = {}true }}\n", "!".repeat(depth));
    let sums = |depth: usize| format!("locals {{ a = {}1 }}\n", "1 + ".repeat(depth));
    let choices = |depth: usize| format!("locals {{ a = {}1 }}\n", "true ? 1 : ".repeat(depth));
    let steps = |depth: usize| format!("locals {{ a = {{}}{} }}\n", "[*]".repeat(depth));
    let calls = |depth: usize| {
        format!(
            "locals {{ a = {}1{} }}\n",
            "abs(".repeat(depth),
            ")".repeat(depth)
        )
    };
    let unclosed = |depth: usize| format!("locals {{ a = {}", "[{(\"${".repeat(depth));
    let heredocs = |depth: usize| format!("locals {{ a = {}", "<<A\n${".repeat(depth));
    let directives =
        |depth: usize| format!("locals {{ a = \"{}\" }}", "%{ if true }".repeat(depth));
    let shapes: [&dyn Fn(usize) -> String; 12] = [
        &brackets,
        &parentheses,
        &templates,
        &blocks,
        &signs,
        &sums,
        &choices,
        &steps,
        &calls,
        &unclosed,
        &heredocs,
        &directives,
    ];
    for shape in shapes {
        for depth in [500, 20_000] {
            let text = shape(depth);
            let said = refuse_bytes(text.as_bytes());
            assert!(
                said.contains("error") && said.len() < 20_000,
                "{} bytes: {said:.300}",
                said.len()
            );
        }
    }
    insta::assert_snapshot!(refuse_bytes(brackets(500).as_bytes()));
    insta::assert_snapshot!(refuse_bytes(sums(500).as_bytes()));
}

#[test]
fn sixty_levels_are_fine() {
    let text = format!("locals {{ a = {}{} }}\n", "[".repeat(60), "]".repeat(60));
    let said = refuse_bytes(text.as_bytes());
    assert!(
        said.contains("no stages") && said.contains("1 error"),
        "{said}"
    );
}

#[test]
fn long_chains_of_locals_and_stages_do_not_overflow() {
    let mut text = String::from("locals {\n  l0 = []\n");
    for index in 1..20_000 {
        text.push_str(&format!("  l{index} = [local.l{}]\n", index - 1));
    }
    text.push_str("}\n");
    let said = refuse_bytes(text.as_bytes());
    assert!(said.contains("is nested too deep"), "{said:.500}");
    let mut text =
        String::from("stage \"fetch\" \"s0\" {\n  url = \"https://x.y/z\"\n  checksum = \"");
    text.push_str(&"0".repeat(64));
    text.push_str("\"\n}\n");
    for index in 1..20_000 {
        text.push_str(&format!(
            "stage \"run\" \"s{index}\" {{\n  from = stage.s{}\n  commands = [\"x\"]\n}}\n",
            index - 1
        ));
    }
    let recipe = parse_bytes(text.as_bytes(), &Registry::default())
        .unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(recipe.combinations[0].stages.len(), 20_000);
}

#[test]
fn values_that_grow_without_end_are_refused() {
    let mut text = String::from("locals {\n  a0 = \"0123456789\"\n");
    for index in 1..60 {
        text.push_str(&format!(
            "  a{index} = \"${{local.a{0}}}${{local.a{0}}}\"\n",
            index - 1
        ));
    }
    text.push_str("}\n");
    assert!(refuse_bytes(text.as_bytes()).contains("too expensive"));
    let text = "locals { a = [for x in range(100000) : [for y in range(100000) : x]] }";
    assert!(refuse_bytes(text.as_bytes()).contains("too expensive"));
}

#[test]
fn values_from_outside() {
    let recipe = "variable \"count\" {\n  type = number\n}\nvariable \"names\" {\n  type = list(string)\n}\n\
                  stage \"fetch\" \"base\" { path = \"base.raw\" }\n";
    let project = Project::new(recipe)
        .var("count", "many")
        .var("names", "[\"a\"")
        .var("nmaes", "x");
    insta::assert_snapshot!(project.errors());
    let project =
        Project::new(recipe).var_file("x.vars.hcl", "count = \"x\"\nnames = [[1]]\nblock {}\n");
    insta::assert_snapshot!(project.errors());
    let project = Project::new(recipe).var_file("x.json", "{\"count\": [1],\n \"names\" []}");
    insta::assert_snapshot!(project.errors());
    let project = Project::new(recipe)
        .var("count", "1")
        .var("names", "[nope, upper(1, 2)]");
    insta::assert_snapshot!(project.errors());
}

#[test]
fn combinations_that_are_not_there() {
    let recipe = "matrix { variant = [\"minimal\", \"full\"] }\nstage \"fetch\" \"base\" { path = \"base.raw\" }\n";
    let project = Project::new(recipe)
        .only("varaint=full")
        .only("variant=ful,minimal")
        .only("variant");
    insta::assert_snapshot!(project.errors());
}
