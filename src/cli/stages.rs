//! `impasto stages`: the stage kinds, from the registry.
//! Knows how a kind's description of itself is shown.

use clap::Args;
use impasto_stages::{Kind, Makes, ParamSpec, Params, Registry, Type};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;

use super::error::CliError;
use super::exit;
use super::session::Session;
use crate::base::table;
use crate::recipe::suggest;
use crate::ui;

#[derive(Debug, Args)]
pub(crate) struct Stages {
    /// A kind to explain
    kind: Option<String>,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

/// What `impasto stages --json` prints: the kinds of stages.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Stages")]
struct StagesDocument {
    /// Version of the form; it grows only when a field changes its meaning.
    v: u32,
    /// The kinds, in the order of the reference.
    kinds: Vec<KindRow>,
}

/// A kind of stage.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Kind")]
struct KindRow {
    /// Its name: the first label of a block `stage`.
    kind: &'static str,
    /// Part of the keys of its stages.
    version: u32,
    /// What it does.
    summary: &'static str,
    /// What comes out of it.
    makes: &'static str,
    /// A stage of this kind, in HCL.
    example: &'static str,
    /// The attributes of its stages.
    parameters: Vec<ParamRow>,
}

/// An attribute of a stage.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Parameter")]
struct ParamRow {
    /// Its name.
    name: &'static str,
    /// What it takes, in words.
    #[serde(rename = "type")]
    ty: String,
    /// Whether it must be given.
    required: bool,
    /// What it is for.
    help: &'static str,
}

/// The JSON schema of what `--json` prints.
pub(super) fn schema() -> serde_json::Value {
    SchemaSettings::draft2020_12()
        .for_serialize()
        .into_generator()
        .into_root_schema_for::<StagesDocument>()
        .to_value()
}

impl Stages {
    /// The command that explains a kind.
    pub(crate) fn explaining(kind: &str) -> Stages {
        Stages {
            kind: Some(kind.to_owned()),
            json: false,
        }
    }

    pub(crate) fn run(self, _: &Session) -> Result<u8, CliError> {
        let registry = Registry::default();
        let kinds: Vec<&Kind> = match &self.kind {
            None => registry.iter().collect(),
            Some(name) => match registry.get(name) {
                Some(kind) => vec![kind],
                None => {
                    let near = suggest::nearest(name, registry.iter().map(|kind| kind.name));
                    let known: Vec<_> = registry.iter().map(|kind| kind.name).collect();
                    let help = near.map_or_else(
                        || format!("the kinds are: {}", known.join(", ")),
                        |near| format!("did you mean `{near}`?"),
                    );
                    return Err(CliError::usage(
                        format!("there is no stage kind `{name}`"),
                        help,
                    ));
                }
            },
        };
        let text = if self.json {
            let document = StagesDocument {
                v: 1,
                kinds: kinds.into_iter().map(row).collect(),
            };
            serde_json::to_string(&document).expect("BUG: kinds are not JSON") + "\n"
        } else if self.kind.is_some() {
            kinds.into_iter().map(page).collect()
        } else {
            let rows: Vec<_> = kinds
                .iter()
                .map(|kind| vec![kind.name.to_owned(), kind.summary.to_owned()])
                .collect();
            format!(
                "{}\n`impasto stages KIND` explains one.\n",
                table::columns(&rows)
            )
        };
        ui::output(&text)?;
        Ok(exit::OK)
    }
}

fn row(kind: &'static Kind) -> KindRow {
    let parameters = kind.params().map(|param| ParamRow {
        name: param.name,
        ty: type_text(&param.ty),
        required: param.required,
        help: param.help,
    });
    KindRow {
        kind: kind.name,
        version: kind.version,
        summary: kind.summary,
        makes: makes(kind.made(&Params::default())),
        example: kind.example,
        parameters: parameters.collect(),
    }
}

fn page(kind: &'static Kind) -> String {
    let files: String = kind.files.iter().map(|name| format!(", {name}")).collect();
    let made = makes(kind.made(&Params::default()));
    let mut text = format!("{}: {}\nMakes {made}{files}.\n\n", kind.name, kind.summary);
    for line in kind.example.lines() {
        text += &format!("    {line}\n");
    }
    text.push('\n');
    for param in kind.params() {
        let required = if param.required { ", required" } else { "" };
        text += &format!("{} ({}{required})\n", param.name, short_type(&param.ty));
        text += &format!("    {}\n", param.help.replace('\n', "\n    "));
        for field in fields(&param.ty) {
            text += &format!(
                "    {} ({}): {}\n",
                field.name,
                type_text(&field.ty),
                field.help
            );
        }
    }
    text += "when (bool)\n    Drops the stage if false.\n";
    text
}

/// The same as Markdown, for the manual and for HTML.
pub(super) fn markdown(kind: &'static Kind) -> String {
    use super::help::markdown::{code, description, sentence};
    let files: String = kind
        .files
        .iter()
        .map(|name| format!(", `{name}`"))
        .collect();
    let mut text = format!("Makes {}{files}.\n\n", makes(kind.made(&Params::default())));
    text += &code("hcl", kind.example);
    text += "## Parameters\n\n";
    for param in kind.params() {
        let required = if param.required { ", required" } else { "" };
        let ty = sentence(&short_type(&param.ty));
        text += &format!(
            "### `{}` ({ty}{required})\n\n{}",
            param.name,
            description(param.help)
        );
        for field in fields(&param.ty) {
            let ty = sentence(&type_text(&field.ty));
            text += &format!("- `{}` ({ty}): {}\n", field.name, sentence(field.help));
        }
        text.push('\n');
    }
    text + "### `when` (bool)\n\nDrops the stage if false.\n"
}

/// The attributes of the objects that a type is made of.
fn fields(ty: &Type) -> &'static [ParamSpec] {
    match ty {
        Type::Object(fields) => fields,
        Type::List(inner) | Type::Map(inner) => fields(inner),
        Type::Either(types) => types
            .iter()
            .map(fields)
            .find(|fields| !fields.is_empty())
            .unwrap_or(&[]),
        _ => &[],
    }
}

/// More words than this are listed one to a line.
const MANY: usize = 12;

fn makes(makes: Makes) -> &'static str {
    match makes {
        Makes::Disk => "a disk",
        Makes::File => "a file",
        Makes::Tree => "a tree of files",
        Makes::DiskOrFile => "a disk or a file, like its input",
    }
}

/// A type on a page where the parameter's help lists the words that it takes, if they are many.
fn short_type(ty: &Type) -> String {
    match ty {
        Type::List(Type::OneOf(words)) if words.len() > MANY => "list of names".to_owned(),
        ty => type_text(ty),
    }
}

/// A type as people say it.
fn type_text(ty: &Type) -> String {
    match ty {
        Type::Bool => "bool".to_owned(),
        Type::Int => "whole number".to_owned(),
        Type::Text => "string".to_owned(),
        Type::Duration => "duration".to_owned(),
        Type::Mode => "mode".to_owned(),
        Type::Disk => "stage with a disk".to_owned(),
        Type::File => "path, or a stage's file".to_owned(),
        Type::Path | Type::FileOrDirectory => "path".to_owned(),
        Type::OneOf(words) => words
            .iter()
            .map(|word| format!("{word:?}"))
            .collect::<Vec<_>>()
            .join(" | "),
        Type::List(item) => format!("list of {}", type_text(item)),
        Type::Map(value) => format!("map of {}", type_text(value)),
        Type::Object(_) => "object".to_owned(),
        Type::Secrets => "map of secrets".to_owned(),
        Type::Either(types) => types.iter().map(type_text).collect::<Vec<_>>().join(" or "),
    }
}
