//! What help says of the language, tried out.

use impasto::recipe::blocks::BLOCKS;
use impasto::recipe::reference;

use super::Project;

#[test]
fn every_function_has_an_example_that_evaluates_to_what_is_said() {
    let mut text =
        "recipe {\n  environment = [\"CI_COMMIT\"]\n}\nstage \"fetch\" \"base\" { path = \"base.raw\" }\n".to_owned();
    for function in reference() {
        let (call, value) = function
            .example()
            .unwrap_or_else(|| panic!("{} has no example", function.name));
        let name = function.name;
        assert!(call.starts_with(&format!("{name}(")), "{call}");
        assert!(
            function.signature.starts_with(&format!("{name}(")),
            "{}",
            function.signature
        );
        assert!(function.help.ends_with('.'), "{name}: {}", function.help);
        text += &format!(
            "stage \"run\" \"{name}\" {{\n  from = stage.base\n  commands = [jsonencode({call}), jsonencode({value})]\n}}\n"
        );
    }
    let mut project = Project::new(&text)
        .file("motd.txt", "Welcome.\n")
        .file("hello.tpl", "Hello, ${name}!\n")
        .file("files/app.conf", "")
        .file("files/conf.d/log.conf", "");
    project
        .request
        .host_env
        .insert("CI_COMMIT".to_owned(), "4e67c0d".to_owned());
    let recipe = project.load();
    for stage in recipe.combinations[0]
        .stages
        .iter()
        .filter(|stage| &*stage.kind == "run")
    {
        let commands = stage.params.texts("commands");
        assert_eq!(commands[0], commands[1], "{}", stage.name);
    }
}

#[test]
fn the_examples_of_blocks_are_a_recipe() {
    let text: Vec<_> = BLOCKS.iter().map(|block| block.example).collect();
    let recipe = Project::new(&text.join("\n\n")).load();
    assert_eq!(recipe.combinations.len(), 2);
    assert_eq!(recipe.combinations[0].images.len(), 1);
}
