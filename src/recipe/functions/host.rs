//! Functions that look at files and the environment. What they read is an input: it stands in the marks.

use std::collections::BTreeMap;
use std::sync::Arc;

use impasto_stages::{Data, Marks, Origin, Source, Value};

use super::{
    Fail, Function, FunctionBody, HostFunction, between, exactly, function, object_arg, text_arg,
};
use crate::recipe::convert::{list, truth};
use crate::recipe::diagnostic::{Diagnostic, Span};
use crate::recipe::eval::{Evaluator, Failed};
use crate::recipe::expr::{Names, TemplatePart};
use crate::recipe::files::FileProblem;
use crate::recipe::lower::{Allowed, Lowering};
use crate::recipe::syntax;

/// Deepest nesting of templates that call `template`.
const MAX_TEMPLATES: u32 = 8;

const fn host(
    name: &'static str,
    signature: &'static str,
    (min, max): (usize, Option<usize>),
    help: &'static str,
    run: HostFunction,
) -> Function {
    Function {
        name,
        signature,
        help,
        min,
        max,
        structural: false,
        cost: super::no_cost,
        run: FunctionBody::Host(run),
    }
}

pub(super) static FUNCTIONS: &[Function] = &[
    function(
        "basename",
        "basename(path)",
        exactly(1),
        "The last part of a path.",
        |args| {
            let path = text_arg(&args, 0)?;
            let trimmed = path.trim_end_matches('/');
            Ok(Value::string(match (&*path, trimmed) {
                ("", _) => ".",
                (_, "") => "/",
                (_, trimmed) => trimmed.rsplit('/').next().unwrap_or(trimmed),
            }))
        },
    ),
    host(
        "dir",
        "dir(path)",
        exactly(1),
        "The files under a directory, as paths relative to it, sorted.",
        |eval, _, args| {
            Ok(text_arg(&args, 0).and_then(|path| {
                let files = eval.files.list(&path).map_err(problem)?;
                let mut value = list(
                    files
                        .iter()
                        .map(|file| Value::string(file.as_str()))
                        .collect(),
                );
                value.marks = Marks::from_source(Source::Directory(path.to_string()));
                Ok(value)
            }))
        },
    ),
    function(
        "host_architecture",
        "host_architecture()",
        exactly(0),
        "The architecture of this machine, as `uname -m` prints it: \"x86_64\" or \"aarch64\".",
        |_| Ok(Value::string(std::env::consts::ARCH)),
    ),
    function(
        "dirname",
        "dirname(path)",
        exactly(1),
        "A path without its last part.",
        |args| {
            let path = text_arg(&args, 0)?;
            Ok(Value::string(
                match path.trim_end_matches('/').rsplit_once('/') {
                    Some(("", _)) => "/",
                    Some((dir, _)) => dir,
                    None if path.starts_with('/') => "/",
                    None => ".",
                },
            ))
        },
    ),
    host(
        "env",
        "env(name)",
        exactly(1),
        "An environment variable of the impasto process, or an empty string if it is not set. Allowed in the `default` \
         of a variable, and for names listed in `recipe { environment = [...] }`.",
        |eval, _, args| {
            Ok(text_arg(&args, 0).and_then(|name| {
                if !eval.environment.allows(&name) {
                    return Err(Fail::arg(0, format!("a recipe may not read the environment variable {name:?} here"))
                        .help(format!(
                            "read it in the `default` of a variable, or list it in `recipe {{ environment = [{name:?}] \
                             }}`"
                        )));
                }
                let mut value = Value::string(eval.files.env(&name).unwrap_or_default());
                value.marks = Marks::from_source(Source::Environment(name.to_string()));
                Ok(value)
            }))
        },
    ),
    host(
        "file",
        "file(path)",
        exactly(1),
        "The content of a file; the path is relative to the recipe.",
        |eval, _, args| {
            Ok(text_arg(&args, 0).and_then(|path| {
                let (text, is_new) = eval.files.text(&path).map_err(problem)?;
                eval.budget.add_text(if is_new { text.len() } else { 0 });
                Ok(Value {
                    data: Data::String(text),
                    marks: Marks::from_source(Source::File(path.to_string())),
                    origin: Some(Arc::new(Origin {
                        path: plain(&path).to_owned(),
                        line: 1,
                    })),
                })
            }))
        },
    ),
    host(
        "fileexists",
        "fileexists(path)",
        exactly(1),
        "Whether a file exists at a path.",
        |eval, _, args| {
            Ok(text_arg(&args, 0).and_then(|path| {
                let found = eval.files.is(&path);
                if let Err(outside) = &found
                    && outside.outside
                {
                    return Err(problem(outside.clone()));
                }
                let mut value = truth(found.is_ok());
                value.marks = Marks::from_source(Source::File(path.to_string()));
                Ok(value)
            }))
        },
    ),
    host(
        "template",
        "template(path, vars)",
        between(1, 2),
        "The content of a template file, rendered with the values of an object.",
        template,
    ),
    host(
        "templatefile",
        "templatefile(path, vars)",
        between(1, 2),
        "The same as `template`.",
        template,
    ),
];

fn problem(problem: FileProblem) -> Fail {
    Fail {
        arg: Some(0),
        message: problem.message,
        help: problem.help,
    }
}

/// A path without what does not change it.
fn plain(path: &str) -> &str {
    path.trim_start_matches("./")
}

fn template(
    eval: &mut Evaluator,
    span: Span,
    args: Vec<Value>,
) -> Result<Result<Value, Fail>, Failed> {
    let path = match text_arg(&args, 0) {
        Ok(path) => path,
        Err(fail) => return Ok(Err(fail)),
    };
    let text = match eval.files.text(&path) {
        Ok((text, is_new)) => {
            eval.budget.add_text(if is_new { text.len() } else { 0 });
            text
        }
        Err(found) => return Ok(Err(problem(found))),
    };
    let empty: BTreeMap<String, Value> = BTreeMap::new();
    let vars = match args.len() {
        1 => &empty,
        _ => match object_arg(&args, 1) {
            Ok(vars) => vars,
            Err(fail) => return Ok(Err(fail)),
        },
    };
    if eval.template_depth >= MAX_TEMPLATES {
        return Ok(Err(Fail::arg(
            0,
            format!("templates are nested more than {MAX_TEMPLATES} levels deep"),
        )));
    }
    let names: Vec<Arc<str>> = vars.keys().map(|name| name.as_str().into()).collect();
    let parts = match compiled(eval, &path, &text, names)? {
        Ok(parts) => parts,
        Err(found) => {
            let found = found
                .into_iter()
                .map(|diagnostic| diagnostic.also(span, "the template is used here"));
            eval.diagnostics.extend(found);
            return Err(Failed);
        }
    };
    let scope = std::mem::replace(&mut eval.scope, vars.values().cloned().collect());
    let before = eval.diagnostics.len();
    eval.template_depth += 1;
    let result = eval.template_text(span, &parts);
    eval.template_depth -= 1;
    eval.scope = scope;
    for diagnostic in &mut eval.diagnostics[before..] {
        if diagnostic.secondary.is_empty() {
            *diagnostic = diagnostic.clone().also(span, "the template is used here");
        }
    }
    let mut value = result?;
    value
        .marks
        .unite(&Marks::from_source(Source::File(path.to_string())));
    Ok(Ok(value))
}

/// A template's parts, or what is wrong with it. Said once for each set of names.
pub(in crate::recipe) type Compiled = Result<Arc<Vec<TemplatePart>>, Vec<Diagnostic>>;

fn compiled(
    eval: &mut Evaluator,
    path: &str,
    text: &Arc<str>,
    names: Vec<Arc<str>>,
) -> Result<Compiled, Failed> {
    let key = (path.to_owned(), names);
    if let Some(known) = eval.templates.get(&key) {
        return Ok(known.clone());
    }
    let file = eval
        .sources
        .add(eval.files.shown(path), plain(path), text.clone());
    let found = match syntax::parse_template(text, file) {
        Err(diagnostic) => Err(vec![diagnostic]),
        Ok(tree) => {
            let Some(source) = eval.sources.get(file).cloned() else {
                return Err(Failed);
            };
            let mut diagnostics = Vec::new();
            let nothing = Names::default();
            let mut lowering = Lowering::new(file, source, &nothing, &mut diagnostics);
            lowering.allowed = Allowed {
                what: "a template file",
                ..Allowed::NOTHING
            };
            lowering.scope = key.1.clone();
            let parts = lowering.file_parts(&tree);
            if diagnostics.is_empty() {
                Ok(Arc::new(parts))
            } else {
                Err(diagnostics)
            }
        }
    };
    eval.templates.insert(key, found.clone());
    Ok(found)
}
