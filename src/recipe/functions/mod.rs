//! The functions of the recipe language: one table, from which calls, messages and the reference are made.
//! Knows values; knows no stage. Names and meanings are Packer's where it has the function.

mod collection;
mod convert;
pub(super) mod encode;
mod examples;
mod format;
pub(super) mod host;
mod number;
mod text;

use std::collections::BTreeMap;
use std::sync::Arc;

use impasto_stages::{Data, Number, Value};

use super::convert::{cost_shared, cost_written_out, show, to_bool, to_number, to_text};
use super::diagnostic::Span;
use super::eval::{Evaluator, Failed};

/// A function and its description.
pub struct Function {
    pub name: &'static str,
    /// How it is called.
    pub signature: &'static str,
    /// What it gives: one sentence.
    pub help: &'static str,
    pub(super) min: usize,
    pub(super) max: Option<usize>,
    /// Whether elements keep their own marks on the way through; else the result has those of all that went in.
    pub(super) structural: bool,
    /// How many bytes it may take beside what it is given, where that can be much more than it gives.
    pub(super) cost: fn(&[Value]) -> u64,
    pub(super) run: FunctionBody,
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.signature)
    }
}

/// A function that reads; it fails by a reason for the call, or by what it has reported itself.
type HostFunction = fn(&mut Evaluator, Span, Vec<Value>) -> Result<Result<Value, Fail>, Failed>;

#[derive(Clone, Copy)]
pub(super) enum FunctionBody {
    /// Of the arguments alone.
    Pure(fn(Vec<Value>) -> Result<Value, Fail>),
    /// With files or the environment.
    Host(HostFunction),
    /// The first argument that can be evaluated.
    Try,
    /// Whether the argument can be evaluated.
    Can,
}

/// Why a call failed.
pub(super) struct Fail {
    /// The argument that it is about.
    pub(super) arg: Option<usize>,
    pub(super) message: String,
    pub(super) help: Option<String>,
}

impl Fail {
    fn new(message: impl Into<String>) -> Self {
        Fail {
            arg: None,
            message: message.into(),
            help: None,
        }
    }

    fn arg(arg: usize, message: impl Into<String>) -> Self {
        Fail {
            arg: Some(arg),
            message: message.into(),
            help: None,
        }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

const fn function(
    name: &'static str,
    signature: &'static str,
    (min, max): (usize, Option<usize>),
    help: &'static str,
    run: fn(Vec<Value>) -> Result<Value, Fail>,
) -> Function {
    Function {
        name,
        signature,
        help,
        min,
        max,
        structural: false,
        cost: no_cost,
        run: FunctionBody::Pure(run),
    }
}

fn no_cost(_: &[Value]) -> u64 {
    0
}

/// What an argument takes when nothing of it is shared, and a copy as large.
fn cost_of_all(args: &[Value]) -> u64 {
    args.iter()
        .map(|arg| 2 * cost_written_out(arg).min(u64::MAX / 8))
        .fold(0, u64::saturating_add)
}

/// What the lists or objects among the arguments take as one.
fn cost_of_elements(args: &[Value]) -> u64 {
    args.iter().map(cost_shared).fold(0, u64::saturating_add)
}

const fn exactly(count: usize) -> (usize, Option<usize>) {
    (count, Some(count))
}

const fn between(min: usize, max: usize) -> (usize, Option<usize>) {
    (min, Some(max))
}

const fn at_least(min: usize) -> (usize, Option<usize>) {
    (min, None)
}

impl Function {
    /// A call and what it gives, as they are written in a recipe.
    pub fn example(&self) -> Option<(&'static str, &'static str)> {
        let found = examples::EXAMPLES
            .iter()
            .find(|(name, ..)| *name == self.name);
        found.map(|(_, call, value)| (*call, *value))
    }

    const fn structural(mut self) -> Self {
        self.structural = true;
        self
    }

    const fn costs(mut self, cost: fn(&[Value]) -> u64) -> Self {
        self.cost = cost;
        self
    }
}

/// All functions, in groups.
pub(super) static ALL: &[&[Function]] = &[
    number::FUNCTIONS,
    text::FUNCTIONS,
    collection::FUNCTIONS,
    encode::FUNCTIONS,
    convert::FUNCTIONS,
    host::FUNCTIONS,
];

/// Functions that people will look for and not find, and why.
const MISSING: &[(&[&str], &str)] = &[
    (
        &[
            "timestamp",
            "legacy_isotime",
            "isotime",
            "plantimestamp",
            "uuidv4",
            "uuid",
            "uuidv5",
            "bcrypt",
            "rand",
        ],
        "its value would differ in every run, so no stage could be cached; for a time use \
         `recipe { source_date_epoch = … }`, for anything else a variable",
    ),
    (
        &["nonsensitive", "issensitive", "sensitive"],
        "sensitive values go to `secrets` and nowhere else; declare a variable with `sensitive = true`",
    ),
    (
        &["abspath", "pathexpand", "path"],
        "a path of this machine would make the recipe's result differ on another machine; paths are relative to the \
         recipe",
    ),
    (
        &["yamlencode", "yamldecode"],
        "YAML is not built in; JSON is valid YAML: use `jsonencode`",
    ),
    (
        &["templatestring"],
        "write a template: \"…${x}…\", or `template(path, vars)`",
    ),
    (
        &["fileset"],
        "use `dir(path)`, filtered with `[for f in dir(path) : f if endswith(f, \".sh\")]`",
    ),
    (
        &["vault", "consul_key", "aws_secretsmanager"],
        "pass secrets as variables: set `IMPASTO_VAR_name` in the environment",
    ),
];

/// A name that no function has.
pub(super) struct Unknown {
    /// Why there is none.
    pub(super) reason: Option<&'static str>,
}

/// The function of this name.
pub(super) fn find(name: &str) -> Result<&'static Function, Unknown> {
    let found = ALL
        .iter()
        .flat_map(|group| group.iter())
        .find(|function| function.name == name);
    found.ok_or_else(|| {
        let missing = MISSING.iter().find(|(names, _)| names.contains(&name));
        Unknown {
            reason: missing.map(|(_, reason)| *reason),
        }
    })
}

/// The reference: one entry per function, by name.
pub fn reference() -> Vec<&'static Function> {
    let mut all: Vec<_> = ALL.iter().flat_map(|group| group.iter()).collect();
    all.sort_by_key(|function| function.name);
    all
}

// What functions take from their arguments.

fn wrong(args: &[Value], index: usize, wanted: &str) -> Fail {
    let found = args.get(index).map_or("nothing".to_owned(), show);
    Fail::arg(index, format!("expected {wanted}, found {found}"))
}

fn text_arg(args: &[Value], index: usize) -> Result<Arc<str>, Fail> {
    args.get(index)
        .and_then(to_text)
        .ok_or_else(|| wrong(args, index, "a string"))
}

fn number_arg(args: &[Value], index: usize) -> Result<Number, Fail> {
    args.get(index)
        .and_then(to_number)
        .ok_or_else(|| wrong(args, index, "a number"))
}

fn int_arg(args: &[Value], index: usize) -> Result<i64, Fail> {
    match args.get(index).and_then(to_number) {
        Some(Number::Int(whole)) => Ok(whole),
        _ => Err(wrong(args, index, "a whole number")),
    }
}

fn size_arg(args: &[Value], index: usize) -> Result<usize, Fail> {
    usize::try_from(int_arg(args, index)?)
        .map_err(|_| wrong(args, index, "a whole number that is not negative"))
}

fn bool_arg(args: &[Value], index: usize) -> Result<bool, Fail> {
    args.get(index)
        .and_then(to_bool)
        .ok_or_else(|| wrong(args, index, "true or false"))
}

fn list_arg(args: &[Value], index: usize) -> Result<&[Value], Fail> {
    match args.get(index).map(|value| &value.data) {
        Some(Data::List(items)) => Ok(items.as_slice()),
        _ => Err(wrong(args, index, "a list")),
    }
}

fn object_arg(args: &[Value], index: usize) -> Result<&BTreeMap<String, Value>, Fail> {
    match args.get(index).map(|value| &value.data) {
        Some(Data::Object(items)) => Ok(items),
        _ => Err(wrong(args, index, "an object")),
    }
}

fn texts_arg(args: &[Value], index: usize) -> Result<Vec<Arc<str>>, Fail> {
    let items = list_arg(args, index)?;
    let texts = items.iter().map(|item| to_text(item).ok_or(item));
    texts
        .collect::<Result<_, _>>()
        .map_err(|item| Fail::arg(index, format!("{} is not a string", show(item))))
}
