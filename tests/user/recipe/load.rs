//! Valid recipes: what they evaluate to.

use impasto::recipe::{LoadRequest, load};
use impasto_stages::{Data, Registry, Source, Value};

use super::Project;

const BASE: &str = "stage \"fetch\" \"base\" { path = \"base.raw\" }\n";

/// A recipe whose stage `x` shows a value as `env.V`.
fn showing(declarations: &str, value: &str) -> Project {
    Project::new(&format!(
        "{declarations}\n{BASE}\nstage \"run\" \"x\" {{\n  from = stage.base\n  commands = [\"x\"]\n  env = {{ V = {value} }}\n}}\n"
    ))
}

fn shown(project: &Project) -> String {
    let recipe = project.load();
    let stage = recipe.combinations[0]
        .stages
        .iter()
        .find(|stage| &*stage.name == "x")
        .expect("the stage is there");
    stage.params.text_map("env")["V"].clone()
}

#[test]
fn the_last_source_of_a_variable_wins() {
    let declared = "variable \"v\" {\n  type = string\n  default = \"default\"\n}";
    let all = |project: Project| shown(&project);
    assert_eq!(all(showing(declared, "var.v")), "default");
    assert_eq!(all(showing(declared, "var.v").env("v", "env")), "env");
    assert_eq!(
        all(showing(declared, "var.v")
            .env("v", "env")
            .var_file("a.vars.hcl", "v = \"file\"")),
        "file"
    );
    let two = showing(declared, "var.v")
        .var_file("a.vars.hcl", "v = \"a\"")
        .var_file("b.json", "{\"v\": \"b\"}");
    assert_eq!(all(two), "b");
    let flag = showing(declared, "var.v")
        .env("v", "env")
        .var_file("a.vars.hcl", "v = \"file\"")
        .var("v", "1")
        .var("v", "flag");
    assert_eq!(all(flag), "flag");
}

#[test]
fn text_from_outside_becomes_the_declared_type() {
    let typed = |ty: &str, value: &str, text: &str| {
        let declared = format!("variable \"v\" {{\n  type = {ty}\n}}");
        shown(&showing(&declared, value).var("v", text))
    };
    assert_eq!(typed("string", "var.v", "[1]"), "[1]");
    assert_eq!(typed("string", "var.v", ""), "");
    assert_eq!(typed("number", "var.v + 1", "2"), "3");
    assert_eq!(typed("bool", "var.v ? \"y\" : \"n\"", "true"), "y");
    assert_eq!(
        typed("list(string)", "join(\"-\", var.v)", "[\"a\", 1]"),
        "a-1"
    );
    assert_eq!(typed("map(number)", "var.v.a", "{ a = \"5\" }"), "5");
    assert_eq!(typed("map(number)", "var.v.a", "{\"a\": 5}"), "5");
    assert_eq!(
        typed(
            "object({ a = string, b = optional(string, \"d\") })",
            "var.v.b",
            "{ a = 1 }"
        ),
        "d"
    );
    assert_eq!(typed("any", "jsonencode(var.v)", "[1]"), "[1]");
    assert_eq!(typed("any", "var.v", "just text"), "just text");
}

#[test]
fn a_default_tells_the_type_of_other_values() {
    let untyped = |default: &str, value: &str, text: &str| {
        shown(&showing(&format!("variable \"v\" {{ default = {default} }}"), value).var("v", text))
    };
    assert_eq!(untyped("[]", "join(\",\", var.v)", "[\"a\", \"b\"]"), "a,b");
    assert_eq!(untyped("\"x\"", "var.v", "5"), "5");
    assert_eq!(untyped("1", "var.v * 2", "5"), "10");
    assert_eq!(untyped("false", "tostring(!var.v)", "true"), "false");
    assert_eq!(untyped("{}", "var.v.k", "{ k = \"z\" }"), "z");
}

#[test]
fn undeclared_variables_in_a_file_are_warnings() {
    let project = showing("variable \"count\" { default = 1 }", "var.count")
        .var_file("x.vars.hcl", "cuont = 2\ncount = 3");
    assert_eq!(shown(&project), "3");
    let warnings = project.load().warnings.render(false);
    assert!(
        warnings.contains("no variable `cuont`") && warnings.contains("did you mean `count`?"),
        "{warnings}"
    );
}

#[test]
fn defaults_may_read_the_environment() {
    let mut project = showing("variable \"v\" { default = env(\"WHO\") }", "var.v");
    project.request.host_env.insert("WHO".into(), "me".into());
    assert_eq!(shown(&project), "me");
}

#[test]
fn elsewhere_the_environment_is_read_only_by_the_names_that_the_recipe_declares() {
    let names = |names: &str| format!("recipe {{ environment = {names} }}\n");
    let with = |head: &str, expression: &str| {
        let mut project = showing(head, expression);
        project.request.host_env.extend([
            ("WHO".into(), "me".into()),
            ("TOKEN".into(), "secret".into()),
        ]);
        project
    };
    assert_eq!(shown(&with(&names("[\"WHO\"]"), "env(\"WHO\")")), "me");
    for head in [String::new(), names("[\"WHO\"]")] {
        let errors = with(&head, "env(\"TOKEN\")").errors();
        assert!(
            errors.contains("a recipe may not read the environment variable \"TOKEN\" here"),
            "{errors}"
        );
        assert!(errors.contains("`default` of a variable"), "{errors}");
        assert!(
            errors.contains("recipe { environment = [\"TOKEN\"] }"),
            "{errors}"
        );
        assert!(!errors.contains("secret"), "{errors}");
    }
    // Locals are evaluated before the rest of the block `recipe`.
    let head = names("[\"WHO\"]") + "locals { x = env(\"WHO\") }\n";
    assert_eq!(shown(&with(&head, "local.x")), "me");
    let errors = with(&names("\"WHO\""), "1").errors();
    assert!(errors.contains("not a list of names"), "{errors}");
}

fn param<'r>(
    recipe: &'r impasto::recipe::Recipe,
    combination: usize,
    stage: &str,
    param: &str,
) -> &'r Value {
    let stages = &recipe.combinations[combination].stages;
    let stage = stages
        .iter()
        .find(|other| &*other.name == stage)
        .expect("the stage is there");
    stage.params.get(param).expect("the parameter is there")
}

#[test]
fn values_know_what_they_were_made_from() {
    let project = Project::new(&format!(
        "recipe {{ environment = [\"E\"] }}\nvariable \"name\" {{ default = \"n\" }}\nlocals {{ text = template(\"t.tpl\", {{ name = var.name }}) }}\n{BASE}\n\
         stage \"run\" \"a\" {{\n  from = stage.base\n  script = local.text\n}}\n\
         stage \"run\" \"b\" {{\n  from = stage.base\n  script = var.name == \"n\" ? file(\"s.sh\") : \"\"\n  \
         commands = null\n  env = {{ FILES = join(\" \", dir(\"d\")), E = \"x${{env(\"E\")}}\" }}\n}}\n"
    ))
    .file("t.tpl", "hi ${name}\n")
    .file("s.sh", "echo\n")
    .file("d/one", "")
    .file("d/sub/two", "");
    let recipe = project.load();
    let sources = |value: &Value| value.marks.sources().cloned().collect::<Vec<_>>();
    let a = param(&recipe, 0, "a", "script");
    assert_eq!(a.as_str(), Some("hi n\n"));
    assert_eq!(
        sources(a),
        [
            Source::File("t.tpl".into()),
            Source::Variable("name".into())
        ]
    );
    let b = param(&recipe, 0, "b", "script");
    assert_eq!(
        sources(b),
        [Source::File("s.sh".into()), Source::Variable("name".into())]
    );
    assert_eq!(
        b.origin
            .as_deref()
            .map(|origin| (origin.path.as_str(), origin.line)),
        Some(("s.sh", 1))
    );
    let Data::Object(env) = &param(&recipe, 0, "b", "env").data else {
        panic!("an object")
    };
    assert_eq!(env["FILES"].as_str(), Some("one sub/two"));
    assert_eq!(sources(&env["FILES"]), [Source::Directory("d".into())]);
    assert_eq!(sources(&env["E"]), [Source::Environment("E".into())]);
}

#[test]
fn sensitive_values_go_into_secrets() {
    let project = Project::new(&format!(
        "variable \"t\" {{\n  sensitive = true\n  default = \"hunter2\"\n}}\n\
         variable \"all\" {{\n  sensitive = true\n  type = map(string)\n  default = {{ k = \"v\" }}\n}}\n{BASE}\n\
         stage \"run\" \"x\" {{\n  from = stage.base\n  commands = [\"x\"]\n  \
         secrets = {{ a = \"Bearer ${{var.t}}\", b = {{ value = var.t, version = 3 }}, c = var.all.k }}\n}}\n\
         stage \"run\" \"y\" {{\n  from = stage.base\n  commands = [\"x\"]\n  secrets = var.all\n}}\n"
    ));
    let recipe = project.load();
    let secrets = param(&recipe, 0, "x", "secrets");
    let Data::Object(items) = &secrets.data else {
        panic!("an object")
    };
    assert_eq!(items["a"].as_str(), Some("Bearer hunter2"));
    let shown = format!("{:?}", recipe.combinations);
    assert!(
        shown.contains("secrets") && !shown.contains("hunter2"),
        "debug output hides secrets: {shown}"
    );
}

#[test]
fn a_condition_makes_its_result_sensitive() {
    let declared = "variable \"t\" {\n  sensitive = true\n  default = true\n}";
    for value in [
        "var.t ? \"a\" : \"b\"",
        "var.t == true ? \"a\" : \"b\"",
        "tostring(!var.t)",
        "tostring(var.t && true)",
        "[\"a\", \"b\"][var.t ? 0 : 1]",
        "join(\"\", [for x in [\"a\"] : x if var.t])",
        "\"%{ if var.t }a%{ endif }\"",
        "keys({ (tostring(var.t)) = 1 })[0]",
        "try(var.t, \"x\")",
        "tostring(can(var.t))",
        "format(\"%t\", var.t)",
        "length([for x in [1] : x if var.t])",
        "{ a = var.t }[\"a\"]",
        "values({ a = var.t })[0]",
        "element([var.t], 0)",
        "merge({ a = var.t }, {}).a",
        "lookup({ a = var.t }, \"a\")",
        "sha256(tostring(var.t))",
        "jsonencode({ a = [var.t] })",
        "flatten([[var.t]])[0]",
        "zipmap([\"a\"], [var.t]).a",
        "coalesce(null, var.t)",
        "contains([var.t], true)",
        "template(\"t.tpl\", { x = var.t })",
    ] {
        let project = showing(declared, value).file("t.tpl", "${x}");
        let said = project.errors();
        assert!(
            said.contains("would contain a sensitive value"),
            "{value}: {said}"
        );
        assert!(
            said.contains("how it gets here: variable `t`"),
            "{value}: {said}"
        );
    }
    // What does not look at the value is not sensitive.
    for value in [
        "length([var.t])",
        "keys({ a = var.t })[0]",
        "{ a = var.t, b = 1 }.b",
        "[1, var.t][0]",
    ] {
        shown(&showing(declared, value));
    }
}

#[test]
fn the_matrix_gives_combinations_in_order() {
    let project = Project::new(&format!(
        "matrix {{\n  suite = [\"a\", \"b\"]\n  size = [1, 2]\n}}\n{BASE}\n\
         stage \"run\" \"x\" {{\n  from = stage.base\n  commands = [\"${{matrix.suite}}${{matrix.size * 10}}\"]\n}}\n\
         stage \"run\" \"shared\" {{\n  from = stage.base\n  commands = [\"x\"]\n}}\n\
         stage \"run\" \"half\" {{\n  from = stage.base\n  when = matrix.suite == \"b\"\n  commands = [\"x\"]\n}}\n"
    ));
    let recipe = project.load();
    let values: Vec<_> = recipe
        .combinations
        .iter()
        .map(|one| one.values.join(","))
        .collect();
    assert_eq!(values, ["a,1", "a,2", "b,1", "b,2"]);
    let stage = |combination: usize, name: &str| {
        recipe.combinations[combination]
            .stages
            .iter()
            .find(|stage| &*stage.name == name)
            .cloned()
    };
    assert_eq!(
        stage(3, "x").expect("it is there").params.texts("commands"),
        ["b20"]
    );
    let (first, last) = (
        stage(0, "shared").expect("it is there"),
        stage(3, "shared").expect("it is there"),
    );
    assert!(
        std::sync::Arc::ptr_eq(&first, &last),
        "what does not look at the matrix is shared"
    );
    assert!(stage(1, "half").is_none());
    assert!(std::sync::Arc::ptr_eq(
        &stage(2, "half").expect("it is there"),
        &stage(3, "half").expect("it is there")
    ));
}

#[test]
fn only_picks_combinations() {
    let text = format!("matrix {{\n  suite = [\"a\", \"b\", \"c\"]\n  size = [1, 2]\n}}\n{BASE}");
    let picked = |project: Project| {
        project
            .load()
            .combinations
            .iter()
            .map(|one| one.values.join(""))
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(
        picked(Project::new(&text).only("suite=c,a").only("size=2")),
        "a2 c2"
    );
    assert_eq!(
        picked(
            Project::new(&text)
                .only("suite=c")
                .only("suite=a")
                .only("size=1")
        ),
        "a1 c1"
    );
}

#[test]
fn a_directory_is_one_recipe() {
    let project = Project::new("variable \"v\" { default = \"x\" }\n")
        .file(
            "b.hcl",
            "stage \"run\" \"x\" {\n  from = stage.base\n  commands = [var.v]\n}\n",
        )
        .file("a.hcl", BASE)
        .file("other.vars.hcl", "v = 5\n")
        .file(".hidden.hcl", "nonsense")
        .file("notes.txt", "nonsense");
    let recipe = project.load();
    let names: Vec<_> = recipe.combinations[0]
        .stages
        .iter()
        .map(|stage| &*stage.name)
        .collect();
    assert_eq!(names, ["base", "x"]);
    assert_eq!(
        recipe.combinations[0].stages[1].params.texts("commands"),
        ["x"],
        "values beside the recipe are not read"
    );
}

#[test]
fn numbers_are_exact_or_refused() {
    for (value, expected) in [
        ("18446744073709551616", "18446744073709551616"),
        ("-18446744073709551616", "-18446744073709551616"),
        ("0.1 + 0.2", "0.3"),
        ("tostring(0.1 + 0.2 == 0.3)", "true"),
        ("9007199254740993 + 0", "9007199254740993"),
        ("tostring(9007199254740993 == 9007199254740992.0)", "false"),
        ("tostring(9007199254740993.5 > 9007199254740993)", "true"),
        ("9223372036854775807 + 1", "9223372036854775808"),
        ("pow(2, 64)", "18446744073709551616"),
        ("pow(2, -1)", "0.5"),
        ("pow(2, 0.5)", "1.4142135623730951"),
        ("\"${18446744073709551616}\"", "18446744073709551616"),
        ("\"${ 1.10 }\"", "1.1"),
        ("1e3", "1000"),
        ("1.5E-3", "0.0015"),
        ("10 / 4", "2.5"),
        ("7 % 2.5", "2"),
        (
            "sum([0.1, 0.2, 18446744073709551616])",
            "18446744073709551616.3",
        ),
        (
            "max(9007199254740992, 9007199254740993)",
            "9007199254740993",
        ),
        ("join(\",\", range(0, 0.5, 0.1))", "0,0.1,0.2,0.3,0.4"),
        ("parseint(\"ffffffffffffffff\", 16)", "18446744073709551615"),
        (
            "format(\"%d %x %.2f\", 18446744073709551616, 18446744073709551616, 0.1)",
            "18446744073709551616 10000000000000000 0.10",
        ),
        (
            "jsonencode(jsondecode(\"[18446744073709551616,0.10]\"))",
            "[18446744073709551616,0.1]",
        ),
        ("tostring(floor(-2.5) + ceil(2.1) + abs(-0.5))", "0.5"),
        (
            "convert({}, object({ a = optional(number, 18446744073709551616) })).a",
            "18446744073709551616",
        ),
    ] {
        assert_eq!(shown(&showing("", value)), expected, "{value}");
    }
    let typed =
        |text: &str| showing("variable \"v\" { type = number }", "var.v + 0").var("v", text);
    assert_eq!(
        shown(&typed("18446744073709551616")),
        "18446744073709551616"
    );
    let json = showing("variable \"v\" {}", "var.v.a")
        .var_file("x.json", "{\"v\": {\"a\": 18446744073709551616}}");
    assert_eq!(shown(&json), "18446744073709551616");

    let long = "123456789012345678901234567890";
    for (project, places) in [
        (
            showing("", long),
            &[
                "recipe.hcl:7:15",
                "the number 123456789012345678901234567890 has more than 28 digits",
            ][..],
        ),
        (
            showing("", "\"a ${0.1234567890123456789012345678901}\""),
            &[
                "recipe.hcl:7:20",
                "the number 0.1234567890123456789012345678901",
            ],
        ),
        (
            showing("", "79228162514264337593543950335 + 1"),
            &["recipe.hcl:7:15", "the result has more than 28 digits"],
        ),
        (
            showing("", "0.00000000000000000001 * 0.00000000000000000001"),
            &["the result has more than 28 digits"],
        ),
        (showing("", "1 / 0"), &["division by zero"]),
        (
            showing("", &format!("jsondecode(\"[{long}]\")[0]")),
            &["jsondecode: the number 123456789012345678901234567890"],
        ),
        (
            showing(
                "",
                &format!("convert({{}}, object({{ a = optional(number, {long}) }})).a"),
            ),
            &["the number 123456789012345678901234567890"],
        ),
        (
            showing("", &format!("\"{long}\" + 1")),
            &["as a number it has more than 28 digits"],
        ),
        (
            typed(long),
            &["expected number", "as a number it has more than 28 digits"],
        ),
        (
            showing("variable \"v\" {}", "var.v.a")
                .var_file("x.json", &format!("{{\n  \"v\": {{\"a\": {long}}}\n}}")),
            &["x.json:2:14", long],
        ),
        (
            showing("variable \"v\" {}", "var.v").var_file("x.vars.hcl", &format!("v = {long}\n")),
            &["x.vars.hcl:1:5", long],
        ),
    ] {
        let errors = project.errors();
        for place in places {
            assert!(errors.contains(place), "`{place}` is not in:\n{errors}");
        }
    }
    // What is secret is not shown.
    let secret = "variable \"v\" {\n  sensitive = true\n}";
    for (name, text) in [
        ("x.json", format!("{{\"v\": {long}}}")),
        ("x.vars.hcl", format!("v = {long}\n")),
    ] {
        let errors = showing(secret, "1").var_file(name, &text).errors();
        assert!(
            !errors.contains("1234567890") && errors.contains("`v`"),
            "{errors}"
        );
    }
}

#[test]
fn files_of_packer_are_no_recipe() {
    let project = Project::new(BASE)
        .file("x.pkr.hcl", "source \"qemu\" \"x\" {}\nbuild {}\n")
        .file("x.pkrvars.hcl", "size = 5\n")
        .file("y.auto.pkrvars.hcl", "size = 6\n");
    let warnings = project.load().warnings.render(false);
    assert_eq!(warnings.matches("warning:").count(), 1, "{warnings}");
    assert!(
        warnings.contains("x.pkrvars.hcl` is not read automatically"),
        "{warnings}"
    );
    assert!(
        warnings.contains("--var-file") && warnings.contains("x.pkrvars.hcl"),
        "{warnings}"
    );
    let given = showing("variable \"size\" { type = number }", "var.size")
        .var_file("x.pkrvars.hcl", "size = 5\n");
    assert_eq!(shown(&given), "5");
    assert!(given.load().warnings.is_empty(), "who gives one knows how");

    let only_packer = Project::new("").file("x.pkr.hcl", "build {}\n");
    std::fs::remove_file(only_packer.request.path.join("recipe.hcl")).expect("it is there");
    let errors = only_packer.errors();
    assert!(
        errors.contains("there is no recipe")
            && errors.contains("`x.pkr.hcl` is a Packer template"),
        "{errors}"
    );
}

#[test]
fn references_are_values() {
    let project = Project::new(&format!(
        "locals {{\n  from = true ? stage.base : stage.x\n  all = [stage.made, stage.x.files[\"v\"]]\n}}\n{BASE}\n\
         stage \"run\" \"x\" {{\n  from = local.from\n  commands = [\"x\"]\n  output = {{ v = \"/v\" }}\n}}\n\
         stage \"convert\" \"made\" {{\n  from = stage.x\n  format = \"raw\"\n}}\n\
         image \"i\" {{ files = local.all }}\n"
    ));
    let recipe = project.load();
    assert_eq!(
        format!("{:?}", param(&recipe, 0, "x", "from")),
        "stage.base"
    );
    let image = &recipe.combinations[0].images[0];
    assert_eq!(
        (
            image.name.as_str(),
            format!(
                "{:?}",
                image
                    .files
                    .iter()
                    .map(|file| &file.value)
                    .collect::<Vec<_>>()
            )
        ),
        ("i", "[stage.made, stage.x.files[\"v\"]]".into())
    );
}

#[test]
fn a_file_serves_all_combinations() {
    let project = Project::new(&format!(
        "matrix {{ n = range(50) }}\n{BASE}\nstage \"run\" \"x\" {{\n  from = stage.base\n  \
         script = \"${{file(\"s.sh\")}}${{matrix.n}}\"\n}}\n"
    ))
    .file("s.sh", "echo ");
    let recipe = project.load();
    assert_eq!(recipe.combinations.len(), 50);
    let origin = param(&recipe, 7, "x", "script");
    assert_eq!(origin.as_str(), Some("echo 7"));
    let text = format!(
        "{BASE}\nstage \"run\" \"x\" {{\n  from = stage.base\n  script = file(\"s.sh\")\n}}\n"
    );
    let recipe = Project::new(&text).file("s.sh", "a\nb\n").load();
    let script = param(&recipe, 0, "x", "script").clone();
    assert_eq!(script.origin.as_deref().map(|origin| origin.line), Some(1));
}

#[test]
fn recipe_names_come_from_the_block_or_the_path() {
    let named = Project::new(&format!(
        "recipe {{\n  name = \"n\"\n  source_date_epoch = 17\n}}\n{BASE}"
    ))
    .load();
    assert_eq!(
        (named.name.as_str(), named.source_date_epoch),
        ("n", Some(17))
    );
    let project = Project::new(BASE).file("debian.hcl", BASE);
    let request = LoadRequest {
        path: project.dir.path().join("debian.hcl"),
        ..LoadRequest::default()
    };
    let recipe = load(&request, &Registry::default()).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(recipe.name, "debian");
}

#[test]
fn the_functions_are_documented() {
    let list = impasto::recipe::reference();
    assert!(list.len() > 70);
    for function in &list {
        assert!(
            function
                .signature
                .starts_with(&format!("{}(", function.name)),
            "{}",
            function.name
        );
        assert!(function.help.ends_with('.'), "{}", function.name);
    }
    let text: Vec<_> = list
        .iter()
        .map(|function| format!("{}\n    {}", function.signature, function.help))
        .collect();
    insta::assert_snapshot!(text.join("\n"));
}

#[test]
fn a_parameter_is_known_by_the_name_that_it_had_before() {
    let actions = |name: &str| {
        let text = format!(
            "recipe {{ source_date_epoch = 1 }}\nstage \"disk\" \"x\" {{\n  tree = \"base.raw\"\n  size = \"1GiB\"\n  {name} = \"web\"\n}}\n"
        );
        let recipe = Project::new(&text).load();
        recipe.combinations[0].stages[0].lowered.actions.clone()
    };
    assert_eq!(actions("hostname"), actions("host_name"));
    assert!(format!("{:?}", actions("host_name")).contains("host_name: \"web\""));
}
