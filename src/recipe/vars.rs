//! Variables: their declarations, the four sources of their values, conversion to their types, validation.
//! Knows declared variables; knows no stages.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use hcl_edit::expr::Expression;
use impasto_stages::{Data, Marks, NumberError, Sensitive, Source, Value};

use super::blocks;
use super::collect::{Collector, Decl};
use super::convert::show;
use super::diagnostic::{Diagnostic, Severity, Span, Text};
use super::eval::{Evaluator, Failed};
use super::expr::Names;
use super::functions::encode::from_json;
use super::load::LoadRequest;
use super::lower::{Allowed, Lowering};
use super::suggest::did_you_mean;
use super::syntax;
use super::types::VarType;

use crate::base::bounded;

/// A value that a variable was given.
struct GivenValue {
    value: Value,
    /// Where, if that is a text that may be shown.
    span: Option<Span>,
    from: String,
}

pub(super) struct Variables<'r, 't> {
    pub(super) request: &'r LoadRequest,
    pub(super) decls: &'r [Decl<'t>],
    pub(super) names: &'r Names,
    pub(super) eval: &'r mut Evaluator,
    /// Whether values are missing because a file of them is wrong.
    pub(super) unsure: bool,
}

impl Variables<'_, '_> {
    /// Gives every variable its value; those that fail are reported and stay without one.
    pub(super) fn run(mut self) {
        let mut texts: BTreeMap<&str, (&str, String)> = BTreeMap::new();
        for (name, text) in &self.request.env {
            // Other programs' variables of this prefix are no mistake.
            texts.insert(name, (text, format!("IMPASTO_VAR_{name}")));
        }
        let mut files: BTreeMap<String, GivenValue> = BTreeMap::new();
        let before = self.eval.diagnostics.len();
        for path in &self.request.var_files {
            self.file(path, &mut files);
        }
        // A file that could not be read may have given any of them a value.
        self.unsure = self.eval.diagnostics[before..]
            .iter()
            .any(|found| found.severity == Severity::Error);
        let mut flags: BTreeMap<&str, (&str, String)> = BTreeMap::new();
        for (name, text) in &self.request.vars {
            if !self.names.variables.contains_key(name) {
                let diagnostic =
                    Diagnostic::error(format!("unknown variable `{name}` in `--var {name}=…`"));
                let help = self.similar(name);
                self.eval.diagnostics.push(diagnostic.maybe_help(help));
                continue;
            }
            flags.insert(name, (text, format!("--var {name}")));
        }
        for decl in self.decls {
            let name: &str = &decl.name;
            let text = flags.remove(name).or_else(|| {
                if files.contains_key(name) {
                    None
                } else {
                    texts.remove(name)
                }
            });
            let value = self.variable(decl, text, files.remove(name)).ok();
            self.eval.variables.push(value);
        }
        self.validations();
    }

    fn similar(&self, name: &str) -> Option<String> {
        let names = self.decls.iter().map(|decl| &*decl.name);
        match self.decls.len() {
            0 => Some("the recipe declares no variables".to_owned()),
            _ => did_you_mean("variables", name, names),
        }
    }

    fn source(&self, file: u32) -> Arc<Text> {
        match self.eval.sources.get(file) {
            Some(text) => text.clone(),
            None => unreachable!("BUG: a span without a text"),
        }
    }

    /// Evaluates an expression outside of all others.
    fn constant(
        &mut self,
        expr: &Expression,
        file: u32,
        allowed: Allowed,
    ) -> Result<(Value, Span), Failed> {
        let mut found = Vec::new();
        let mut lowering = Lowering::new(file, self.source(file), self.names, &mut found);
        let root = lowering.root(expr, allowed);
        self.eval.diagnostics.append(&mut found);
        Ok((self.eval.eval(&root.expr)?, root.expr.span))
    }

    fn variable(
        &mut self,
        decl: &Decl<'_>,
        text: Option<(&str, String)>,
        file: Option<GivenValue>,
    ) -> Result<Value, Failed> {
        Collector::known(
            &mut self.eval.diagnostics,
            "a variable",
            decl,
            &blocks::VARIABLE,
        );
        let name = &decl.name;
        if let Some(attr) = decl.attr("description")
            && let Ok((value, span)) = self.constant(attr.value, decl.file, Allowed::NOTHING)
            && value.as_str().is_none()
        {
            self.eval
                .diagnostics
                .push(Diagnostic::at(span, "a description must be a string"));
        }
        let mut sensitive = false;
        if let Some(attr) = decl.attr("sensitive") {
            let (value, span) = self.constant(attr.value, decl.file, Allowed::NOTHING)?;
            sensitive = self.eval.truth(span, &value)?;
        }
        let default = match decl.attr("default") {
            Some(attr) => {
                self.eval.environment.in_default = true;
                let default = self.constant(attr.value, decl.file, Allowed::DEFAULT);
                self.eval.environment.in_default = false;
                Some(default?)
            }
            None => None,
        };
        let declared = match decl.attr("type") {
            Some(attr) => match VarType::parse(attr.value, &self.source(decl.file).text) {
                Ok(ty) => Some(ty),
                Err(reason) => {
                    let mut found = Vec::new();
                    let lowering =
                        Lowering::new(decl.file, self.source(decl.file), self.names, &mut found);
                    let span = lowering.expr_span(attr.value);
                    return self.eval.fail(Diagnostic::at(span, reason));
                }
            },
            None => None,
        };
        let ty = declared.clone().unwrap_or_else(|| match &default {
            Some((value, _)) => VarType::of_default(value),
            None => VarType::Any,
        });
        let default = match default {
            Some((value, span)) => {
                let value = if sensitive { secret(value) } else { value };
                Some(self.fit(decl, &ty, value, Some(span), "the default")?)
            }
            None => None,
        };
        let mut value = match (text, file, default) {
            (Some((text, from)), _, _) => {
                self.outside(decl, &ty, declared.is_some(), text, &from, sensitive)?
            }
            (None, Some(given), _) => {
                let span = given.span.filter(|_| !sensitive);
                let value = if sensitive {
                    secret(given.value)
                } else {
                    given.value
                };
                self.fit(decl, &ty, value, span, &given.from)?
            }
            (None, None, Some(default)) => default,
            (None, None, None) if self.unsure => return Err(Failed),
            (None, None, None) => {
                let diagnostic =
                    Diagnostic::at(decl.span, format!("the variable `{name}` has no value")).help(format!(
                        "set it with `--var {name}=…`, `--var-file FILE` with `{name} = …`, IMPASTO_VAR_{name} in the \
                         environment, or `default` here"
                    ));
                return self.eval.fail(diagnostic);
            }
        };
        value
            .marks
            .unite(&Marks::from_source(Source::Variable(name.to_string())));
        value.marks.sensitive = sensitive.then(|| {
            let place = self.eval.sources.place(decl.span);
            Arc::new(Sensitive {
                way: vec![format!("variable `{name}` ({place}) is declared sensitive")],
            })
        });
        Ok(value)
    }

    /// Makes a value fit its variable's type.
    fn fit(
        &mut self,
        decl: &Decl<'_>,
        ty: &VarType,
        value: Value,
        span: Option<Span>,
        from: &str,
    ) -> Result<Value, Failed> {
        let sensitive = super::convert::is_sensitive(&value);
        ty.fit(value).or_else(|mismatch| {
            if sensitive {
                let message = format!(
                    "{from} is not valid for the variable `{}`, whose type is {ty}",
                    decl.name
                );
                return self.eval.fail(
                    Diagnostic::at(decl.span, message).note("it is sensitive, so it is not shown"),
                );
            }
            let at = if mismatch.path.is_empty() {
                String::new()
            } else {
                format!("`{}{}`: ", decl.name, mismatch.path)
            };
            let message = format!(
                "{from} is not valid for the variable `{}`: {at}{}",
                decl.name, mismatch.reason
            );
            let here = decl.attr("type").map_or(decl.span, |attr| attr.span);
            let diagnostic = match span {
                Some(span) => Diagnostic::at(span, message).also(here, "its type is declared here"),
                None => Diagnostic::at(decl.span, message),
            };
            self.eval.fail(diagnostic)
        })
    }

    /// A value of the command line or the environment.
    fn outside(
        &mut self,
        decl: &Decl<'_>,
        ty: &VarType,
        declared: bool,
        text: &str,
        from: &str,
        sensitive: bool,
    ) -> Result<Value, Failed> {
        if ty.is_text() || (*ty == VarType::Any && !declared) {
            let value = Value::string(text);
            let value = if sensitive { secret(value) } else { value };
            return self.fit(decl, ty, value, None, from);
        }
        let file = self.eval.sources.add(from, from, text);
        let parsed = syntax::parse_expr(text.trim_end(), file);
        let result = match parsed {
            Ok(expr) => self.constant(
                &expr,
                file,
                Allowed {
                    what: "a value from outside the recipe",
                    ..Allowed::NOTHING
                },
            ),
            // `any` takes what is no expression as the text that it is.
            Err(_) if *ty == VarType::Any => return Ok(Value::string(text)),
            Err(_) if sensitive => {
                return self.eval.fail(Diagnostic::at(
                    decl.span,
                    format!("the value of {from} cannot be read as {ty}"),
                ));
            }
            Err(diagnostic) => {
                let help = format!(
                    "the variable `{}` has the type {ty}: write its value as in a recipe",
                    decl.name
                );
                return self.eval.fail(diagnostic.help(help));
            }
        };
        let (value, span) = match result {
            Ok(found) => found,
            Err(Failed) if sensitive => {
                // What was said may hold a part of the value.
                self.eval.diagnostics.retain(|diagnostic| {
                    diagnostic
                        .primary
                        .as_ref()
                        .is_none_or(|primary| primary.span.file != file)
                });
                let message = format!("the value of {from} cannot be read as {ty}");
                return self.eval.fail(Diagnostic::at(decl.span, message));
            }
            Err(Failed) => return Err(Failed),
        };
        let value = if sensitive { secret(value) } else { value };
        self.fit(decl, ty, value, (!sensitive).then_some(span), from)
    }

    /// Reads a file of values.
    fn file(&mut self, path: &Path, out: &mut BTreeMap<String, GivenValue>) {
        let shown = path.display().to_string();
        let bytes = match bounded::read(path, bounded::TEXT) {
            Ok(bytes) => bytes,
            Err(error) => {
                let message = format!("cannot read the variables file {shown}: {error}");
                self.eval.diagnostics.push(Diagnostic::error(message));
                return;
            }
        };
        let (file, checked) = syntax::add(&mut self.eval.sources, &shown, &shown, bytes);
        if let Err(diagnostic) = checked {
            self.eval.diagnostics.push(diagnostic);
            return;
        }
        let text = self.source(file).text.clone();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            return self.json(&text, file, &shown, out);
        }
        let body = match syntax::parse_body(&text, file) {
            Ok(body) => body,
            Err(diagnostic) => return self.eval.diagnostics.push(diagnostic),
        };
        for structure in body.iter() {
            let Some(attr) = structure.as_attribute() else {
                let span = Span {
                    file,
                    start: 0,
                    end: 0,
                };
                let message = "a variables file contains `name = value` lines and no blocks";
                self.eval.diagnostics.push(Diagnostic::at(span, message));
                continue;
            };
            let range = hcl_edit::Span::span(&attr.key).unwrap_or_default();
            let key = Span {
                file,
                start: range.start as u32,
                end: range.end as u32,
            };
            let name = attr.key.as_str();
            if !self.names.variables.contains_key(name) {
                self.undeclared(name, Some(key), &shown);
                continue;
            }
            let allowed = Allowed {
                what: "a variables file",
                ..Allowed::NOTHING
            };
            let from = format!("the value in {}", self.eval.sources.place(key));
            let before = self.eval.diagnostics.len();
            match self.constant(&attr.value, file, allowed) {
                Ok((value, span)) => drop(out.insert(
                    name.to_owned(),
                    GivenValue {
                        value,
                        span: Some(span),
                        from,
                    },
                )),
                Err(Failed) if self.may_be_sensitive(name) => {
                    // What was said may hold a part of the value.
                    self.eval.diagnostics.truncate(before);
                    self.eval.diagnostics.push(Diagnostic::error(format!(
                        "{from} of `{name}` cannot be evaluated"
                    )));
                }
                Err(Failed) => {}
            }
        }
    }

    fn json(&mut self, text: &str, file: u32, shown: &str, out: &mut BTreeMap<String, GivenValue>) {
        let object = match serde_json::from_str(text) {
            Ok(serde_json::Value::Object(object)) => object,
            Ok(_) => {
                let span = Span {
                    file,
                    start: 0,
                    end: 0,
                };
                return self.eval.diagnostics.push(Diagnostic::at(
                    span,
                    "a JSON variables file must contain one object",
                ));
            }
            Err(error) => {
                let before: usize = text
                    .split_inclusive('\n')
                    .take(error.line().saturating_sub(1))
                    .map(str::len)
                    .sum();
                let at = (before + error.column().saturating_sub(1)).min(text.len()) as u32;
                let span = Span {
                    file,
                    start: at,
                    end: at,
                };
                return self.eval.diagnostics.push(Diagnostic::at(
                    span,
                    format!("this is not valid JSON: {error}"),
                ));
            }
        };
        for (name, json) in object {
            if !self.names.variables.contains_key(&name) {
                self.undeclared(&name, None, shown);
                continue;
            }
            match from_json(json) {
                Ok(value) => {
                    out.insert(
                        name,
                        GivenValue {
                            value,
                            span: None,
                            from: format!("the value in {shown}"),
                        },
                    );
                }
                Err(_) if self.may_be_sensitive(&name) => {
                    let message =
                        format!("a number of `{name}` in {shown} {}", NumberError::TooLong);
                    self.eval.diagnostics.push(Diagnostic::error(message));
                }
                Err(number) => {
                    let start = text.find(&number).unwrap_or_default() as u32;
                    let span = Span {
                        file,
                        start,
                        end: start + number.len() as u32,
                    };
                    let message =
                        format!("the number {number} in `{name}` {}", NumberError::TooLong);
                    let help = "put it in quotes if it is only printed";
                    self.eval
                        .diagnostics
                        .push(Diagnostic::at(span, message).help(help));
                }
            }
        }
    }

    /// Whether nothing of a variable's value may be shown, as far as that is known before it is evaluated.
    fn may_be_sensitive(&self, name: &str) -> bool {
        self.decls
            .iter()
            .any(|decl| &*decl.name == name && decl.attr("sensitive").is_some())
    }

    /// A file may serve several recipes, so that a name that this one lacks is a warning only.
    fn undeclared(&mut self, name: &str, span: Option<Span>, shown: &str) {
        let diagnostic = match span {
            Some(span) => Diagnostic::at(span, format!("the recipe declares no variable `{name}`")),
            None => Diagnostic::error(format!("{shown}: the recipe declares no variable `{name}`")),
        };
        let help = self.similar(name);
        self.eval
            .diagnostics
            .push(diagnostic.warning().maybe_help(help));
    }

    fn validations(&mut self) {
        for (index, decl) in self.decls.iter().enumerate() {
            let Some(value) = self.eval.variables.get(index).cloned().flatten() else {
                continue;
            };
            for block in &decl.blocks {
                Collector::known(
                    &mut self.eval.diagnostics,
                    "a validation",
                    block,
                    &blocks::VALIDATION,
                );
                let Some(condition) = block.attr("condition") else {
                    self.eval.diagnostics.push(Diagnostic::at(
                        block.span,
                        "the validation has no `condition`",
                    ));
                    continue;
                };
                let Ok((held, span)) =
                    self.constant(condition.value, block.file, Allowed::VALIDATION)
                else {
                    continue;
                };
                let Ok(held) = self.eval.truth(span, &held) else {
                    continue;
                };
                if held {
                    continue;
                }
                let message = match block.attr("error_message") {
                    Some(attr) => self
                        .constant(attr.value, block.file, Allowed::VALIDATION)
                        .ok()
                        .map(|(value, _)| value),
                    None => None,
                };
                let reason = match message {
                    Some(message) if !super::convert::is_sensitive(&message) => message
                        .as_str()
                        .map(|text| text.trim_end_matches('.').to_owned()),
                    _ => None,
                };
                let found = if value.data == Data::Null {
                    "null".to_owned()
                } else {
                    show(&value)
                };
                let reason = reason.unwrap_or_else(|| format!("{found} is not valid"));
                let diagnostic =
                    Diagnostic::at(span, format!("the variable `{}`: {reason}", decl.name))
                        .label("this condition is false")
                        .note(format!("its value is {found}"));
                self.eval.diagnostics.push(diagnostic);
            }
        }
    }
}

/// Marks a value as sensitive before anything can go wrong with it.
fn secret(mut value: Value) -> Value {
    value.marks.sensitive = Some(Arc::new(Sensitive { way: Vec::new() }));
    value
}
