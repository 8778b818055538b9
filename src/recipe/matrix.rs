//! The matrix: its axes and values, the chosen combinations, and which of them look alike to an expression.
//! Knows axes and values; evaluates no stage.

use std::collections::HashSet;

use impasto_stages::Value;

use super::check::way;
use super::collect::Decl;
use super::convert;
use super::diagnostic::{Diagnostic, Span};
use super::eval::{Evaluator, Failed};
use super::expr::Names;
use super::lower::{Allowed, Lowering};
use super::model::Axis;
use super::suggest::did_you_mean;

/// Most combinations of a matrix.
const MAX_COMBINATIONS: usize = 100_000;

/// An axis with its values.
struct Values {
    name: String,
    texts: Vec<String>,
    values: Vec<Value>,
}

/// A combination: of each axis the number of a value.
pub(super) type Chosen = Vec<u32>;

pub(super) struct Matrix {
    axes: Vec<Values>,
}

impl Matrix {
    /// Evaluates the block; without one there are no axes and one combination.
    pub(super) fn evaluate(
        decl: Option<&Decl<'_>>,
        names: &Names,
        local_axes: &[u64],
        eval: &mut Evaluator,
    ) -> Result<Matrix, Failed> {
        let Some(decl) = decl else {
            return Ok(Matrix::none());
        };
        let mut axes = Vec::new();
        let mut failed = false;
        for attr in &decl.attrs {
            let found = early(
                decl.file,
                attr.value,
                Allowed::MATRIX,
                names,
                local_axes,
                eval,
            )
            .and_then(|(value, span)| axis(attr.name, value, span, eval));
            match found {
                Ok(axis) => axes.push(axis),
                Err(Failed) => failed = true,
            }
        }
        let count = axes.iter().try_fold(1usize, |count, axis: &Values| {
            count.checked_mul(axis.values.len())
        });
        if count.is_none_or(|count| count > MAX_COMBINATIONS) {
            let message = format!("the matrix has more than {MAX_COMBINATIONS} combinations");
            return eval.fail(Diagnostic::at(decl.head, message));
        }
        if failed {
            Err(Failed)
        } else {
            Ok(Matrix { axes })
        }
    }

    /// A matrix without axes: one combination.
    pub(super) fn none() -> Matrix {
        Matrix { axes: Vec::new() }
    }

    /// The combinations that `--only` leaves, in declared order: the first axis changes last. `declared` tells whether
    /// the recipe has a matrix; one that is wrong has no axes.
    pub(super) fn choose(
        &self,
        only: &[String],
        declared: bool,
        out: &mut Vec<Diagnostic>,
    ) -> Vec<Chosen> {
        let mut keep: Vec<Option<Vec<u32>>> = vec![None; self.axes.len()];
        let only = if declared && self.axes.is_empty() {
            &[]
        } else {
            only
        };
        for flag in only {
            let Some((name, values)) = flag.split_once('=') else {
                let diagnostic = Diagnostic::error(format!("`--only {flag}` has no values"));
                out.push(diagnostic.help("write `--only AXIS=VALUE` or `--only AXIS=VALUE,VALUE`"));
                continue;
            };
            let Some(index) = self.axes.iter().position(|axis| axis.name == name) else {
                let names: Vec<&str> = self.axes.iter().map(|axis| axis.name.as_str()).collect();
                let diagnostic =
                    Diagnostic::error(format!("unknown axis `{name}` in `--only {flag}`"));
                out.push(match names.is_empty() {
                    true => diagnostic.note("the recipe has no matrix"),
                    false => diagnostic.maybe_help(did_you_mean("axes", name, names)),
                });
                continue;
            };
            for text in values.split(',') {
                let axis = &self.axes[index];
                match axis.texts.iter().position(|known| known == text) {
                    Some(value) => keep[index].get_or_insert_default().push(value as u32),
                    None => {
                        let diagnostic =
                            Diagnostic::error(format!("the axis `{name}` has no value {text:?}"));
                        let diagnostic =
                            diagnostic.note(format!("valid values: {}", axis.texts.join(", ")));
                        let near =
                            super::suggest::nearest(text, axis.texts.iter().map(String::as_str));
                        out.push(
                            diagnostic
                                .maybe_help(near.map(|near| format!("did you mean `{near}`?"))),
                        );
                    }
                }
            }
        }
        let mut all: Vec<Chosen> = vec![Vec::new()];
        for (axis, keep) in self.axes.iter().zip(&keep) {
            let numbers: Vec<u32> = (0..axis.values.len() as u32)
                .filter(|number| keep.as_ref().is_none_or(|keep| keep.contains(number)))
                .collect();
            all = all
                .into_iter()
                .flat_map(|chosen| {
                    numbers.iter().map(move |number| {
                        chosen.iter().copied().chain([*number]).collect::<Chosen>()
                    })
                })
                .collect();
        }
        all
    }

    /// One number for all combinations that differ only in axes beside these.
    pub(super) fn projection(&self, chosen: &Chosen, axes: u64) -> u64 {
        let mut number = 0u64;
        for (index, axis) in self.axes.iter().enumerate() {
            if axes >> index & 1 == 1 {
                number = number * axis.values.len() as u64 + u64::from(chosen[index]);
            }
        }
        number
    }

    pub(super) fn values(&self, chosen: &Chosen) -> Vec<Value> {
        self.axes
            .iter()
            .zip(chosen)
            .map(|(axis, number)| axis.values[*number as usize].clone())
            .collect()
    }

    pub(super) fn texts(&self, chosen: &Chosen) -> Vec<String> {
        self.axes
            .iter()
            .zip(chosen)
            .map(|(axis, number)| axis.texts[*number as usize].clone())
            .collect()
    }

    /// Says of reports in which combination they came up, as far as these axes have to do with it.
    pub(super) fn note(&self, chosen: &Chosen, axes: u64, reports: &mut [Diagnostic]) {
        if reports.is_empty() {
            return;
        }
        let pairs = self.axes.iter().zip(self.texts(chosen)).enumerate();
        let pairs = pairs.filter(|(index, _)| axes >> index & 1 == 1);
        let pairs: Vec<String> = pairs
            .map(|(_, (axis, text))| format!("{}={text}", axis.name))
            .collect();
        if pairs.is_empty() {
            return;
        }
        for report in reports {
            report
                .notes
                .push(format!("in the combination {}", pairs.join(",")));
        }
    }

    pub(super) fn axes(&self) -> Vec<Axis> {
        self.axes
            .iter()
            .map(|axis| Axis {
                name: axis.name.clone(),
                values: axis.texts.clone(),
            })
            .collect()
    }
}

fn axis(name: &str, value: Value, span: Span, eval: &mut Evaluator) -> Result<Values, Failed> {
    let impasto_stages::Data::List(values) = value.data else {
        let message = format!("the axis `{name}` is {}, not a list", convert::show(&value));
        return eval
            .fail(Diagnostic::at(span, message).help(format!("write `{name} = [\"…\", \"…\"]`")));
    };
    if values.is_empty() {
        let message = format!("the axis `{name}` has no values");
        return eval.fail(
            Diagnostic::at(span, message)
                .note("with it the matrix has no combinations, so nothing would be built"),
        );
    }
    let mut texts: Vec<String> = Vec::with_capacity(values.len());
    let mut seen = HashSet::new();
    for value in &values {
        let Some(text) = convert::to_text(value) else {
            let message = format!(
                "a value of the axis `{name}` is {}, not a string",
                convert::show(value)
            );
            return eval.fail(Diagnostic::at(span, message));
        };
        if text.is_empty()
            || text.contains([',', '=', '[', ']'])
            || text.chars().any(char::is_control)
        {
            let message = format!("{:?} cannot be a value of the axis `{name}`", &*text);
            let help = "selectors are written `STAGE[axis=value,…]`: use a string without `,`, `=`, `[` and `]`";
            return eval.fail(Diagnostic::at(span, message).help(help));
        }
        if !seen.insert(text.clone()) {
            return eval.fail(Diagnostic::at(
                span,
                format!("the axis `{name}` has the value {:?} twice", &*text),
            ));
        }
        texts.push(text.to_string());
    }
    Ok(Values {
        name: name.to_owned(),
        texts,
        values: values.into_inner(),
    })
}

/// Evaluates what comes before the matrix. Nothing there may be sensitive, or depend on a combination.
pub(super) fn early(
    file: u32,
    value: &hcl_edit::expr::Expression,
    allowed: Allowed,
    names: &Names,
    local_axes: &[u64],
    eval: &mut Evaluator,
) -> Result<(Value, Span), Failed> {
    let Some(text) = eval.sources.get(file).cloned() else {
        return Err(Failed);
    };
    let mut found = Vec::new();
    let root = Lowering::new(file, text, names, &mut found).root(value, allowed);
    eval.diagnostics.append(&mut found);
    let span = root.expr.span;
    if root.uses.locals.iter().any(|local| {
        local_axes
            .get(*local as usize)
            .is_some_and(|axes| *axes != 0)
    }) {
        let message = format!(
            "{} cannot use a local that depends on the matrix",
            allowed.what
        );
        return eval.fail(Diagnostic::at(span, message));
    }
    let value = eval.eval(&root.expr)?;
    if convert::is_sensitive(&value) {
        let message = format!("{} would contain a sensitive value", allowed.what);
        return eval.fail(Diagnostic::at(span, message).note(way(&value, allowed.what)));
    }
    Ok((value, span))
}
