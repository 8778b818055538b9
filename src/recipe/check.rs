//! Parameters against the types that a kind declares: conversion, sensitivity, references, missing files.
//! Knows `Type`; knows no kind's meaning. Every problem stands at the innermost place that the text has for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use impasto_stages::{Data, Number, ParamSpec, Type, Value, parse_duration, parse_mode};

use super::convert::{is_sensitive, show, to_bool, to_number, to_text};
use super::diagnostic::{Diagnostic, Span};
use super::eval::{Evaluator, Failed};
use super::expr::{Expr, ExprNode};
use super::files::Is;
use super::suggest::did_you_mean;

/// What a parameter needs of the stage that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Need {
    Disk,
    /// The one file that it is.
    File,
    /// A file of this name.
    Named(Arc<str>),
    /// That it succeeds.
    Success,
}

/// A use of one stage by another, or by an image.
#[derive(Debug, Clone)]
pub(super) struct Reference {
    pub(super) stage: Arc<str>,
    pub(super) need: Need,
    pub(super) span: Span,
}

/// Checks one parameter, or an image's files.
pub(super) struct Check<'e> {
    pub(super) eval: &'e mut Evaluator,
    /// The way to the value, such as `files["/etc/x"].mode`.
    pub(super) path: String,
    /// Who has the parameter: `stage `x``.
    pub(super) owner: String,
    pub(super) references: Vec<Reference>,
}

impl Check<'_> {
    /// Makes a value fit a type. All that does not is reported.
    pub(super) fn value(
        &mut self,
        value: Value,
        ty: &Type,
        span: Span,
        expr: Option<&Expr>,
    ) -> Result<Value, Failed> {
        if value.data == Data::Null {
            return Ok(value);
        }
        if value.marks.sensitive.is_some() && !matches!(ty, Type::Secrets) {
            return self.leak(&value, span);
        }
        let converted = match ty {
            Type::Bool => to_bool(&value).map(Data::Bool),
            Type::Int => match to_number(&value) {
                Some(Number::Int(whole)) => Some(Data::Number(Number::Int(whole))),
                _ => None,
            },
            Type::Text => return self.text(value, span),
            Type::Duration => return self.duration(value, span),
            Type::Mode => return self.mode(value, span),
            Type::OneOf(words) => return self.one_of(value, words, span),
            Type::Disk | Type::File | Type::Path | Type::FileOrDirectory => {
                return self.reference(value, ty, span);
            }
            Type::Secrets => return self.secrets(value, span, expr),
            Type::Either(types) => {
                let chosen = types.iter().find(|ty| has_shape(ty, &value.data, false));
                let chosen =
                    chosen.or_else(|| types.iter().find(|ty| has_shape(ty, &value.data, true)));
                return match chosen {
                    Some(chosen) => self.value(value, chosen, span, expr),
                    None => self.mismatch(&value, ty, span),
                };
            }
            Type::List(inner) => {
                let Data::List(items) = value.data else {
                    return self.mismatch(&value, ty, span);
                };
                let mut all = Vec::with_capacity(items.len());
                let mut failed = false;
                for (index, item) in items.into_inner().into_iter().enumerate() {
                    let part = item_of(expr, index);
                    let span = part.map_or(span, |part| part.span);
                    let length = self.enter(&format!("[{index}]"));
                    if item.data == Data::Null {
                        failed |= self.null(inner, span).is_err();
                    } else {
                        match self.value(item, inner, span, part) {
                            Ok(item) => all.push(item),
                            Err(Failed) => failed = true,
                        }
                    }
                    self.path.truncate(length);
                }
                return finish(
                    failed,
                    Value {
                        data: Data::List(all.into()),
                        marks: value.marks,
                        origin: None,
                    },
                );
            }
            Type::Map(inner) => {
                let Data::Object(items) = value.data else {
                    return self.mismatch(&value, ty, span);
                };
                let mut all = BTreeMap::new();
                let mut failed = false;
                for (key, item) in items.into_inner() {
                    let part = entry_of(expr, &key);
                    let span = part.map_or(span, |(_, part)| part.span);
                    let length = self.enter(&format!("[{key:?}]"));
                    if item.data == Data::Null {
                        failed |= self.null(inner, span).is_err();
                    } else {
                        match self.value(item, inner, span, part.map(|(_, part)| part)) {
                            Ok(item) => drop(all.insert(key, item)),
                            Err(Failed) => failed = true,
                        }
                    }
                    self.path.truncate(length);
                }
                return finish(
                    failed,
                    Value {
                        data: Data::Object(all.into()),
                        marks: value.marks,
                        origin: None,
                    },
                );
            }
            Type::Object(specs) => return self.object(value, ty, specs, span, expr),
        };
        match converted {
            Some(data) => Ok(Value { data, ..value }),
            None => self.mismatch(&value, ty, span),
        }
    }

    fn enter(&mut self, step: &str) -> usize {
        let length = self.path.len();
        self.path.push_str(step);
        length
    }

    fn mismatch(&mut self, value: &Value, ty: &Type, span: Span) -> Result<Value, Failed> {
        let message = format!(
            "`{}` takes {}, not {}",
            self.path,
            describe(ty),
            value.type_name()
        );
        let diagnostic = Diagnostic::at(span, message);
        let diagnostic = match value.data {
            Data::List(_) | Data::Object(_) => diagnostic,
            _ => diagnostic.label(format!("this is {}", show(value))),
        };
        let help = match (ty, &value.data) {
            (Type::List(_), Data::String(_)) => Some("put it in brackets: `[…]`".to_owned()),
            (Type::List(_), Data::Object(_)) => {
                Some("`values(…)` returns an object's values as a list".to_owned())
            }
            (Type::Text, Data::List(_)) => {
                Some("`join(\" \", …)` joins a list into one string".to_owned())
            }
            (_, Data::Stage(stage)) if matches!(ty, Type::Text) => Some(format!(
                "a stage is not a string; to use a file that `{stage}` makes, pass it to a parameter such \
                              as `inputs`"
            )),
            _ => None,
        };
        self.eval.fail(diagnostic.maybe_help(help))
    }

    fn null(&mut self, ty: &Type, span: Span) -> Result<(), Failed> {
        let message = format!("`{}` takes {}, not null", self.path, describe(ty));
        self.eval
            .fail(Diagnostic::at(span, message).help("`compact(list)` removes nulls from a list"))
    }

    /// A sensitive value where it must not be.
    fn leak(&mut self, value: &Value, span: Span) -> Result<Value, Failed> {
        let message = format!(
            "`{}` of {} would contain a sensitive value",
            self.path, self.owner
        );
        let mut diagnostic =
            Diagnostic::at(span, message).label("this is, or contains, a sensitive value");
        diagnostic = diagnostic.note(way(value, &format!("`{}` of {}", self.path, self.owner)));
        self.eval.fail(diagnostic.help(
            "pass it in `secrets = { NAME = … }`; the steps read it from /run/impasto/secrets/NAME, and it is in no key, \
             layer or log",
        ))
    }

    fn text(&mut self, value: Value, span: Span) -> Result<Value, Failed> {
        match to_text(&value) {
            Some(text) if text.contains('\0') => {
                let message = format!("`{}` contains a NUL character", self.path);
                self.eval.fail(Diagnostic::at(span, message))
            }
            Some(text) => Ok(Value {
                data: Data::String(text),
                ..value
            }),
            None => self.mismatch(&value, &Type::Text, span),
        }
    }

    fn duration(&mut self, value: Value, span: Span) -> Result<Value, Failed> {
        match value.as_str() {
            Some(text) if parse_duration(text).is_some() => Ok(value),
            _ => {
                let message = format!("`{}` takes a duration, not {}", self.path, show(&value));
                self.eval.fail(
                    Diagnostic::at(span, message)
                        .help("write \"90s\", \"15m\", \"2h\" or \"1h30m\""),
                )
            }
        }
    }

    fn mode(&mut self, value: Value, span: Span) -> Result<Value, Failed> {
        match value.as_str() {
            Some(text) if parse_mode(text).is_some() => Ok(value),
            _ => {
                let message = format!(
                    "`{}` takes permission bits, not {}",
                    self.path,
                    show(&value)
                );
                let help = match &value.data {
                    Data::Number(number) => {
                        format!(
                            "quote it, so that it is not read as a decimal number: \"{number:0>4}\""
                        )
                    }
                    _ => "write octal digits in quotes, such as \"0644\"".to_owned(),
                };
                self.eval.fail(Diagnostic::at(span, message).help(help))
            }
        }
    }

    fn one_of(
        &mut self,
        value: Value,
        words: &[&'static str],
        span: Span,
    ) -> Result<Value, Failed> {
        let Some(text) = to_text(&value) else {
            return self.mismatch(&value, &Type::Text, span);
        };
        if words.contains(&&*text) {
            return Ok(Value {
                data: Data::String(text),
                ..value
            });
        }
        let message = format!("`{}` cannot be {}", self.path, show(&value));
        let diagnostic =
            Diagnostic::at(span, message).note(format!("valid values: {}", quoted(words)));
        let near = super::suggest::nearest(&text, words.iter().copied());
        self.eval
            .fail(diagnostic.maybe_help(near.map(|near| format!("did you mean \"{near}\"?"))))
    }

    fn reference(&mut self, value: Value, ty: &Type, span: Span) -> Result<Value, Failed> {
        match (&value.data, ty) {
            (Data::Stage(stage), Type::Disk) => self.refer(stage.clone(), Need::Disk, span),
            (Data::Stage(stage), Type::File) => self.refer(stage.clone(), Need::File, span),
            (Data::StageFile { stage, file }, Type::File) => {
                self.refer(stage.clone(), Need::Named(file.clone()), span);
            }
            (Data::StageFile { stage, .. }, Type::Disk) => {
                let message = format!(
                    "`{}` takes a stage that makes a disk, not one of its files",
                    self.path
                );
                return self
                    .eval
                    .fail(Diagnostic::at(span, message).help(format!("write `stage.{stage}`")));
            }
            (Data::String(path), Type::File | Type::Path | Type::FileOrDirectory) => {
                let found = self.eval.files.is(path);
                let problem = match found {
                    Ok(Is::Directory) if *ty == Type::Path => {
                        format!("{path:?} is a directory, not a file")
                    }
                    Ok(Is::Other) => format!("{path:?} is neither a file nor a directory"),
                    Ok(_) => return Ok(value),
                    Err(problem) => {
                        let message = format!("`{}`: {}", self.path, problem.message);
                        return self
                            .eval
                            .fail(Diagnostic::at(span, message).maybe_help(problem.help));
                    }
                };
                let message = format!("`{}`: {problem}", self.path);
                return self.eval.fail(Diagnostic::at(span, message));
            }
            (Data::String(name), Type::Disk) => {
                let message = format!(
                    "`{}` takes a stage that makes a disk, not a string",
                    self.path
                );
                let help = format!("write `stage.{name}` without quotes");
                let known = super::lower::is_name(name);
                return self
                    .eval
                    .fail(Diagnostic::at(span, message).maybe_help(known.then_some(help)));
            }
            _ => return self.mismatch(&value, ty, span),
        }
        Ok(value)
    }

    fn refer(&mut self, stage: Arc<str>, need: Need, span: Span) {
        self.references.push(Reference { stage, need, span });
    }

    fn object(
        &mut self,
        value: Value,
        ty: &Type,
        specs: &'static [ParamSpec],
        span: Span,
        expr: Option<&Expr>,
    ) -> Result<Value, Failed> {
        let Data::Object(items) = value.data else {
            return self.mismatch(&value, ty, span);
        };
        let mut all = BTreeMap::new();
        let mut failed = false;
        for spec in specs {
            if spec.required
                && items
                    .get(spec.name)
                    .is_none_or(|item| item.data == Data::Null)
            {
                let message = format!("`{}` needs `{}`", self.path, spec.name);
                self.eval
                    .diagnostics
                    .push(Diagnostic::at(span, message).help(spec.help));
                failed = true;
            }
        }
        for (key, item) in items.into_inner() {
            let part = entry_of(expr, &key);
            let Some(spec) = specs.iter().find(|spec| spec.name == key) else {
                let place = part.map_or(span, |(key, _)| key.span);
                let message = format!("unknown attribute `{key}` of `{}`", self.path);
                let help =
                    did_you_mean("valid attributes", &key, specs.iter().map(|spec| spec.name));
                self.eval
                    .diagnostics
                    .push(Diagnostic::at(place, message).maybe_help(help));
                failed = true;
                continue;
            };
            let length = self.enter(&format!(".{key}"));
            let span = part.map_or(span, |(_, part)| part.span);
            match self.value(item, &spec.ty, span, part.map(|(_, part)| part)) {
                Ok(item) => drop(all.insert(key, item)),
                Err(Failed) => failed = true,
            }
            self.path.truncate(length);
        }
        finish(
            failed,
            Value {
                data: Data::Object(all.into()),
                marks: value.marks,
                origin: None,
            },
        )
    }

    /// Secrets by name: the one place that takes sensitive values; names and versions stand in keys all the same.
    fn secrets(&mut self, value: Value, span: Span, expr: Option<&Expr>) -> Result<Value, Failed> {
        let Data::Object(items) = value.data else {
            return self.mismatch(&value, &Type::Secrets, span);
        };
        let mut all = BTreeMap::new();
        let mut failed = false;
        for (key, item) in items.into_inner() {
            let part = entry_of(expr, &key);
            let span = part.map_or(span, |(_, part)| part.span);
            let length = self.enter(&format!("[{key:?}]"));
            match self.secret(item, span, part.map(|(_, part)| part)) {
                Ok(item) => drop(all.insert(key, item)),
                Err(Failed) => failed = true,
            }
            self.path.truncate(length);
        }
        finish(
            failed,
            Value {
                data: Data::Object(all.into()),
                marks: value.marks,
                origin: None,
            },
        )
    }

    fn secret(&mut self, value: Value, span: Span, expr: Option<&Expr>) -> Result<Value, Failed> {
        let wanted = "a string, or { value = …, version = … }";
        if let Some(text) = to_text(&value) {
            return Ok(Value {
                data: Data::String(text),
                ..value
            });
        }
        let Data::Object(items) = &value.data else {
            let message = format!("`{}` takes {wanted}, not {}", self.path, show(&value));
            return self.eval.fail(Diagnostic::at(span, message));
        };
        for (key, item) in items {
            let part = entry_of(expr, key);
            let place = part.map_or(span, |(_, part)| part.span);
            match (key.as_str(), to_text(item)) {
                ("value", Some(_)) => {}
                ("version", Some(_)) if is_sensitive(item) => {
                    let length = self.enter(".version");
                    let result = self.leak(item, place);
                    self.path.truncate(length);
                    return result;
                }
                ("version", _) if item.data == Data::Null => {}
                ("version", Some(_)) => {}
                ("value" | "version", None) => {
                    let message =
                        format!("`{}.{key}` takes a string, not {}", self.path, show(item));
                    return self.eval.fail(Diagnostic::at(place, message));
                }
                _ => {
                    let place = part.map_or(span, |(key, _)| key.span);
                    let message = format!("unknown attribute `{key}` of `{}`", self.path);
                    return self.eval.fail(
                        Diagnostic::at(place, message).help("valid attributes: value, version"),
                    );
                }
            }
        }
        if !items.contains_key("value") {
            let message = format!("`{}` needs `value`", self.path);
            return self.eval.fail(Diagnostic::at(span, message));
        }
        Ok(value)
    }
}

/// The way that a sensitive value took, and where it ends.
pub(super) fn way(value: &Value, end: &str) -> String {
    let mut steps = first_sensitive(value).unwrap_or_default();
    steps.push(end.to_owned());
    format!("how it gets here: {}", steps.join(" -> "))
}

fn first_sensitive(value: &Value) -> Option<Vec<String>> {
    if let Some(sensitive) = &value.marks.sensitive {
        return Some(sensitive.way.clone());
    }
    if !is_sensitive(value) {
        return None;
    }
    match &value.data {
        Data::List(items) => items.iter().find_map(first_sensitive),
        Data::Object(items) => items.values().find_map(first_sensitive),
        _ => None,
    }
}

fn finish(failed: bool, value: Value) -> Result<Value, Failed> {
    if failed { Err(Failed) } else { Ok(value) }
}

/// The part of a list's text that made an element.
fn item_of(expr: Option<&Expr>, index: usize) -> Option<&Expr> {
    match &expr?.node {
        ExprNode::List(items) => items.get(index),
        _ => None,
    }
}

/// The parts of an object's text that made a key and its value.
pub(super) fn entry_of<'x>(expr: Option<&'x Expr>, key: &str) -> Option<(&'x Expr, &'x Expr)> {
    match &expr?.node {
        ExprNode::Object(items) => items.iter().find_map(|(name, value)| match &name.node {
            ExprNode::Const(name) if name.as_str() == Some(key) => {
                Some((name_expr(items, key)?, value))
            }
            _ => None,
        }),
        _ => None,
    }
}

fn name_expr<'x>(items: &'x [(Expr, Expr)], key: &str) -> Option<&'x Expr> {
    items
        .iter()
        .map(|(name, _)| name)
        .find(|name| matches!(&name.node, ExprNode::Const(name) if name.as_str() == Some(key)))
}

/// Whether a value looks like one of a type; `loose` where conversion may make it one.
fn has_shape(ty: &Type, data: &Data, loose: bool) -> bool {
    match (ty, data) {
        (Type::Either(types), data) => types.iter().any(|ty| has_shape(ty, data, loose)),
        (Type::Bool, Data::Bool(_)) | (Type::Int, Data::Number(_)) => true,
        (
            Type::Text
            | Type::Duration
            | Type::Mode
            | Type::OneOf(_)
            | Type::Path
            | Type::FileOrDirectory
            | Type::File,
            Data::String(_),
        ) => true,
        (Type::Disk | Type::File, Data::Stage(_)) | (Type::File, Data::StageFile { .. }) => true,
        (Type::List(_), Data::List(_)) => true,
        (Type::Map(_) | Type::Object(_) | Type::Secrets, Data::Object(_)) => true,
        (Type::Text, Data::Number(_) | Data::Bool(_)) => loose,
        _ => false,
    }
}

fn quoted(words: &[&str]) -> String {
    words
        .iter()
        .map(|word| format!("\"{word}\""))
        .collect::<Vec<_>>()
        .join(", ")
}

/// A type in words.
fn describe(ty: &Type) -> String {
    match ty {
        Type::Bool => "true or false".to_owned(),
        Type::Int => "a whole number".to_owned(),
        Type::Text => "a string".to_owned(),
        Type::Duration => "a duration such as \"90s\"".to_owned(),
        Type::Mode => "permission bits such as \"0644\"".to_owned(),
        Type::Disk => "a stage that makes a disk (`stage.NAME`)".to_owned(),
        Type::File => "a path, or a file of a stage (`stage.NAME.files[\"…\"]`)".to_owned(),
        Type::Path => "the path of a file".to_owned(),
        Type::FileOrDirectory => "the path of a file or directory".to_owned(),
        Type::OneOf(words) => format!("one of {}", quoted(words)),
        Type::List(inner) => format!("a list of {}", plural(inner)),
        Type::Map(inner) => format!("an object whose values are {}", plural(inner)),
        Type::Object(specs) => {
            format!(
                "an object of {}",
                specs
                    .iter()
                    .map(|spec| spec.name)
                    .collect::<Vec<_>>()
                    .join(", ")
            )
        }
        Type::Secrets => "an object of secrets by name".to_owned(),
        Type::Either(types) => types.iter().map(describe).collect::<Vec<_>>().join(", or "),
    }
}

fn plural(ty: &Type) -> String {
    match ty {
        Type::Text => "strings".to_owned(),
        Type::Int => "whole numbers".to_owned(),
        Type::Bool => "booleans".to_owned(),
        Type::File | Type::Path | Type::FileOrDirectory => "files".to_owned(),
        Type::Disk => "stages".to_owned(),
        other => format!("each {}", describe(other)),
    }
}
