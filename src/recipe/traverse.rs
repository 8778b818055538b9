//! The way into values: attributes, indices, splats, and the files of stages.
//! Knows values' shapes; whether a stage makes a file is checked elsewhere.

use std::sync::Arc;

use impasto_stages::{Data, Marks, Number, Value};

use super::convert::{self, show};
use super::diagnostic::{Diagnostic, Span};
use super::eval::{EvalResult, Evaluator};
use super::expr::{Expr, ExprNode, PathStep};
use super::suggest::did_you_mean;

/// A step whose index is known.
enum KnownStep {
    Attr(Arc<str>, Span),
    Index(Value, Span),
    AttrSplat(Span),
    FullSplat(Span),
}

impl Evaluator {
    pub(super) fn traverse(&mut self, base: &Expr, steps: &[PathStep]) -> EvalResult {
        let mut known = Vec::with_capacity(steps.len());
        for step in steps {
            known.push(match step {
                PathStep::Attr(name, span) => KnownStep::Attr(name.clone(), *span),
                PathStep::Index(expr) => KnownStep::Index(self.eval(expr)?, expr.span),
                PathStep::AttrSplat(span) => KnownStep::AttrSplat(*span),
                PathStep::FullSplat(span) => KnownStep::FullSplat(*span),
            });
        }
        let owned;
        let before = self.budget.values_left(convert::VALUE);
        let mut left = before;
        let found = match &base.node {
            ExprNode::Scope(_) | ExprNode::Variable(_) | ExprNode::Local(_) | ExprNode::Axis(_) => {
                walk(self.place(base)?, &known, &mut left)
            }
            _ => {
                owned = self.eval(base)?;
                walk(&owned, &known, &mut left)
            }
        };
        // Where none are left there were too few.
        let made = if left == 0 {
            u64::MAX / convert::VALUE
        } else {
            before - left
        };
        self.budget.charge(base.span, made, made * convert::VALUE)?;
        found.or_else(|diagnostic| self.fail(*diagnostic))
    }
}

type TraverseResult = Result<Value, Box<Diagnostic>>;

/// Goes into a value. `left` is how many elements splats may still make; at none
/// what is given is nothing that may be used.
fn walk(base: &Value, steps: &[KnownStep], left: &mut u64) -> TraverseResult {
    let mut marks = Marks::default();
    let mut at = base;
    let mut rest = steps;
    while let Some((step, after)) = rest.split_first() {
        if let Data::Stage(stage) = &at.data {
            marks.unite(&at.marks);
            return stage_file(stage, marks, rest);
        }
        match step {
            KnownStep::Attr(name, span) => {
                marks.unite(&at.marks);
                at = attribute(at, name, *span)?;
                rest = after;
            }
            KnownStep::Index(index, span) => {
                marks.unite(&at.marks);
                marks.unite(&index.marks);
                at = element(at, index, *span)?;
                rest = after;
            }
            KnownStep::AttrSplat(_) => {
                let attrs = after
                    .iter()
                    .take_while(|step| matches!(step, KnownStep::Attr(..)))
                    .count();
                let (each, then) = after.split_at(attrs);
                let mut list = splat(at, each, left)?;
                list.marks.unite(&marks);
                return walk(&list, then, left);
            }
            KnownStep::FullSplat(_) => {
                let mut list = splat(at, after, left)?;
                list.marks.unite(&marks);
                return Ok(list);
            }
        }
    }
    let mut value = at.clone();
    value.marks.unite(&marks);
    Ok(value)
}

fn splat(at: &Value, each: &[KnownStep], left: &mut u64) -> TraverseResult {
    let count = match &at.data {
        Data::List(items) => items.len() as u64,
        _ => 1,
    };
    if *left < count {
        *left = 0;
        return Ok(Value::new(Data::Null));
    }
    *left -= count;
    let mut one = |item: &Value| walk(item, each, left);
    let items = match &at.data {
        Data::Null => Vec::new(),
        Data::List(items) => items.iter().map(&mut one).collect::<Result<_, _>>()?,
        _ => vec![one(at)?],
    };
    Ok(Value {
        data: Data::List(items.into()),
        marks: at.marks.clone(),
        origin: None,
    })
}

fn attribute<'v>(at: &'v Value, name: &str, span: Span) -> Result<&'v Value, Box<Diagnostic>> {
    let Data::Object(items) = &at.data else {
        let message = format!("{} has no attribute `{name}`", show(at));
        let mut diagnostic = Diagnostic::at(span, message);
        if matches!(at.data, Data::List(_)) {
            diagnostic = diagnostic.help(format!(
                "`[*].{name}` takes it from every element, `[0].{name}` from the first"
            ));
        }
        return Err(diagnostic.into());
    };
    items.get(name).ok_or_else(|| {
        let diagnostic = Diagnostic::at(span, format!("the object has no attribute `{name}`"));
        let diagnostic = if convert::is_sensitive(at) {
            diagnostic
        } else {
            diagnostic.maybe_help(did_you_mean(
                "its attributes",
                name,
                items.keys().map(String::as_str),
            ))
        };
        diagnostic.into()
    })
}

fn element<'v>(at: &'v Value, index: &Value, span: Span) -> Result<&'v Value, Box<Diagnostic>> {
    let wrong = |message: String| Err(Box::new(Diagnostic::at(span, message)));
    match &at.data {
        Data::List(items) => match convert::to_number(index) {
            Some(Number::Int(number)) => {
                let found = usize::try_from(number)
                    .ok()
                    .and_then(|number| items.get(number));
                found.map_or_else(
                    || match items.len() {
                        0 => wrong(format!("there is no element {number}: the list is empty")),
                        1 => wrong(format!("there is no element {number}: the list has one element, [0]")),
                        many => wrong(format!(
                            "there is no element {number}: the list has {many} elements, [0] to [{}]",
                            many - 1
                        )),
                    },
                    Ok,
                )
            }
            _ => wrong(format!("{} is not a valid index of a list", show(index))),
        },
        Data::Object(items) => match convert::to_text(index) {
            Some(key) => items.get(&*key).ok_or_else(|| {
                let diagnostic =
                    Diagnostic::at(span, format!("the object has no key {}", show(index)));
                let diagnostic = if convert::is_sensitive(at) || convert::is_sensitive(index) {
                    diagnostic
                } else {
                    diagnostic.maybe_help(did_you_mean(
                        "its keys",
                        &key,
                        items.keys().map(String::as_str),
                    ))
                };
                diagnostic.into()
            }),
            None => wrong(format!("{} is not a valid key of an object", show(index))),
        },
        Data::String(_) => {
            let help = "use `substr(text, offset, length)` to take a part of a string";
            Err(Diagnostic::at(span, "a string has no elements")
                .help(help)
                .into())
        }
        _ => wrong(format!("{} has no elements", show(at))),
    }
}

/// `stage.x.files["f"]`, the one thing that a stage gives away.
fn stage_file(stage: &Arc<str>, marks: Marks, steps: &[KnownStep]) -> TraverseResult {
    let (file, span) = match steps {
        [KnownStep::Attr(files, _), KnownStep::Index(name, span)] if &**files == "files" => {
            let mut name = name.clone();
            name.marks.unite(&marks);
            (name, *span)
        }
        [KnownStep::Attr(files, _), KnownStep::Attr(name, span)] if &**files == "files" => (
            Value {
                marks,
                ..Value::string(name.clone())
            },
            *span,
        ),
        [KnownStep::Attr(_, span), ..] | [KnownStep::Index(_, span), ..] => {
            let help = format!(
                "`stage.{stage}` is its disk or file, `stage.{stage}.files[\"NAME\"]` a file it made"
            );
            return Err(Diagnostic::at(
                *span,
                "`files[\"NAME\"]` is the only attribute of a stage",
            )
            .help(help)
            .into());
        }
        [KnownStep::AttrSplat(span) | KnownStep::FullSplat(span), ..] => {
            return Err(Diagnostic::at(
                *span,
                "a stage is not a list: a splat cannot be used on it",
            )
            .into());
        }
        [] => {
            return Ok(Value {
                data: Data::Stage(stage.clone()),
                marks,
                origin: None,
            });
        }
    };
    let Some(name) = file.as_str() else {
        return Err(
            Diagnostic::at(span, format!("{} is not a valid file name", show(&file))).into(),
        );
    };
    let data = Data::StageFile {
        stage: stage.clone(),
        file: name.into(),
    };
    Ok(Value {
        data,
        marks: file.marks,
        origin: None,
    })
}
