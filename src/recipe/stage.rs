//! Stages: their attributes lowered once, evaluated once for each part of the matrix that they look at.
//! Knows kinds by their declarations; whether stages fit together is another's matter.

use std::collections::HashMap;
use std::sync::Arc;

use impasto_stages::{Data, Kind, Lowered, Params, Registry, StageContext};

use super::check::{Check, Reference, way};
use super::collect::{Attr, Decl};
use super::convert;
use super::diagnostic::{Diagnostic, Span};
use super::eval::{Evaluator, Failed};
use super::expr::{RootExpr, Uses};
use super::lower::{Allowed, Lowering};
use super::model::Stage;
use super::suggest::did_you_mean;

/// What a stage or an image costs beside its parameters, in one combination: a stage with what it is lowered to.
pub(super) const STAGE_STEPS: u64 = 20;
pub(super) const STAGE_BYTES: u64 = 2048;

/// An attribute, ready to be evaluated.
pub(super) struct LoweredAttr {
    pub(super) name: &'static str,
    pub(super) key: Span,
    pub(super) root: RootExpr,
}

/// A stage's text, ready to be evaluated.
pub(super) struct StageText {
    pub(super) name: Arc<str>,
    pub(super) head: Span,
    pub(super) kind: Option<&'static Kind>,
    kind_name: Arc<str>,
    when: Option<LoweredAttr>,
    params: Vec<LoweredAttr>,
    /// Something was reported when names were resolved.
    broken: bool,
    /// The axes that it looks at, locals included.
    pub(super) axes: u64,
}

/// A stage in some combinations.
pub(super) struct Built {
    pub(super) stage: Arc<Stage>,
    pub(super) references: Vec<Reference>,
}

/// What became of a stage.
#[derive(Clone)]
pub(super) enum StageState {
    Ready(Arc<Built>),
    /// `when` does not hold; where it stands.
    Dropped(Span),
    /// It was reported; what it refers to, as far as that is known.
    Failed(Arc<[Reference]>),
}

/// What all stages have in common.
pub(super) struct Common<'r> {
    pub(super) registry: &'r Registry,
    pub(super) source_date_epoch: Option<u64>,
    /// Of each local the axes that it looks at.
    pub(super) local_axes: &'r [u64],
}

fn unknown() -> StageState {
    StageState::Failed(Arc::new([]))
}

pub(super) fn axes(uses: &Uses, local_axes: &[u64]) -> u64 {
    uses.locals.iter().fold(uses.axes, |axes, local| {
        axes | local_axes.get(*local as usize).copied().unwrap_or(0)
    })
}

impl Common<'_> {
    /// Resolves a stage's names, and reports attributes that its kind does not have.
    pub(super) fn stage(
        &self,
        decl: &Decl<'_>,
        lowering: &mut Lowering<'_>,
        spans: &mut KindErrors,
    ) -> StageText {
        let (kind_name, kind_span) = decl.kind.unwrap_or(("", decl.head));
        let before = lowering.diagnostics.len();
        let kind = self.registry.get(kind_name);
        if kind.is_none() {
            spans.unknown(kind_name, kind_span, self.registry, lowering.diagnostics);
        }
        let mut text = StageText {
            name: decl.name.clone(),
            head: decl.head,
            kind,
            kind_name: kind_name.into(),
            when: None,
            params: Vec::with_capacity(decl.attrs.len()),
            broken: false,
            axes: 0,
        };
        for attr in &decl.attrs {
            let allowed = if attr.name == "when" {
                Allowed::WHEN
            } else {
                Allowed::ALL
            };
            let root = lowering.root(attr.value, allowed);
            text.axes |= axes(&root.uses, self.local_axes);
            if attr.name == "when" {
                text.when = Some(LoweredAttr {
                    name: "when",
                    key: attr.span,
                    root,
                });
                continue;
            }
            let Some(kind) = kind else { continue };
            match kind.param(attr.name) {
                // The words of one attribute differ: of two the one that it is called by now, and what it was called before.
                Some(spec) if text.params.iter().any(|param| param.name == spec.name) => {
                    let message = format!(
                        "`{}` of stage `{}` is given twice: `{}` is what it was called before",
                        spec.name,
                        decl.name,
                        spec.alias.unwrap_or_default()
                    );
                    let help = format!("remove one of them; `{}` is its name", spec.name);
                    lowering
                        .diagnostics
                        .push(Diagnostic::at(attr.span, message).help(help));
                }
                Some(spec) => text.params.push(LoweredAttr {
                    name: spec.name,
                    key: attr.span,
                    root,
                }),
                None => lowering.diagnostics.push(unknown_parameter(kind, attr)),
            }
        }
        if let Some(kind) = kind {
            let missing: Vec<&str> = kind
                .params()
                .filter(|spec| {
                    spec.required && !text.params.iter().any(|param| param.name == spec.name)
                })
                .map(|spec| spec.name)
                .collect();
            for name in missing {
                let message = format!("the stage `{}` has no `{name}`", decl.name);
                let spec = kind.param(name).map_or("", |spec| spec.help);
                lowering.diagnostics.push(
                    Diagnostic::at(decl.head, message)
                        .label(format!("`{kind_name}` needs it"))
                        .help(format!("`{name}`: {spec}")),
                );
            }
        }
        text.broken = lowering.diagnostics.len() > before;
        text
    }

    /// Evaluates and checks a stage in the evaluator's combination.
    pub(super) fn build(&self, text: &StageText, eval: &mut Evaluator) -> StageState {
        if eval
            .budget
            .charge(text.head, STAGE_STEPS, STAGE_BYTES)
            .is_err()
        {
            return unknown();
        }
        if let Some(when) = &text.when {
            let Ok(value) = eval.eval(&when.root.expr) else {
                return unknown();
            };
            if convert::is_sensitive(&value) {
                let note = way(&value, &format!("`when` of stage `{}`", text.name));
                let message = format!(
                    "`when` of the stage `{}` depends on a sensitive value",
                    text.name
                );
                eval.diagnostics.push(
                    Diagnostic::at(when.root.expr.span, message)
                        .note(note)
                        .help("use a separate variable that is not sensitive"),
                );
                return unknown();
            }
            match eval.truth(when.root.expr.span, &value) {
                Ok(true) => {}
                Ok(false) => return StageState::Dropped(when.key.to(when.root.expr.span)),
                Err(Failed) => return unknown(),
            }
        }
        let mut check = Check {
            eval,
            path: String::new(),
            owner: format!("stage `{}`", text.name),
            references: Vec::new(),
        };
        let mut params = Params::default();
        let mut failed = text.broken;
        let Some(kind) = text.kind else {
            for param in &text.params {
                let _ = check.eval.eval(&param.root.expr);
            }
            return unknown();
        };
        for param in &text.params {
            let Some(spec) = kind.param(param.name) else {
                continue;
            };
            let expr = &param.root.expr;
            let Ok(value) = check.eval.eval(expr) else {
                failed = true;
                continue;
            };
            if value.data == Data::Null {
                if spec.required {
                    let message = format!("`{}` of stage `{}` is null", spec.name, text.name);
                    check
                        .eval
                        .diagnostics
                        .push(Diagnostic::at(expr.span, message).help(spec.help));
                    failed = true;
                }
                continue;
            }
            check.path = spec.name.to_owned();
            // The kind takes it is written out, and copies its texts.
            let (parts, cost) = (
                convert::size_of(&value).0,
                convert::cost_written_out(&value),
            );
            if check
                .eval
                .budget
                .charge(expr.span, parts, cost.saturating_mul(2))
                .is_err()
            {
                failed = true;
                continue;
            }
            match check.value(value, &spec.ty, expr.span, Some(expr)) {
                Ok(value) => drop(params.0.insert(spec.name.to_owned(), value)),
                Err(Failed) => failed = true,
            }
        }
        let references = check.references;
        let lowered = match failed {
            true => Err(Failed),
            false => self.lower(text, kind, &params, eval),
        };
        let Ok(lowered) = lowered else {
            return StageState::Failed(references.into());
        };
        let stage = Stage {
            name: text.name.clone(),
            kind: text.kind_name.clone(),
            params,
            lowered,
            span: text.head,
        };
        StageState::Ready(Arc::new(Built {
            stage: Arc::new(stage),
            references,
        }))
    }

    /// Lets the kind say what it makes of the parameters, or what is wrong with them beyond their types.
    fn lower(
        &self,
        text: &StageText,
        kind: &Kind,
        params: &Params,
        eval: &mut Evaluator,
    ) -> Result<Lowered, Failed> {
        let context = StageContext {
            name: text.name.to_string(),
            source_date_epoch: self.source_date_epoch,
            sandboxes: self.registry.sandboxes().to_vec(),
            tags: self.registry.tags().to_vec(),
        };
        let errors = match (kind.lower)(params, &context) {
            Ok(lowered) => return Ok(lowered),
            Err(errors) => errors,
        };
        for error in errors {
            let param = error
                .param
                .and_then(|name| text.params.iter().find(|param| param.name == name));
            let diagnostic = match (param, error.param) {
                (Some(param), _) => {
                    let message = format!(
                        "`{}` of stage `{}`: {}",
                        param.name, text.name, error.message
                    );
                    let whole = &param.root.expr;
                    let entry = error.entry.as_ref();
                    let entry = entry.and_then(|entry| super::check::entry_of(Some(whole), entry));
                    Diagnostic::at(entry.map_or(whole.span, |(key, _)| key.span), message)
                }
                (None, Some(name)) => Diagnostic::at(
                    text.head,
                    format!("`{name}` of stage `{}`: {}", text.name, error.message),
                ),
                (None, None) => Diagnostic::at(
                    text.head,
                    format!("the stage `{}`: {}", text.name, error.message),
                ),
            };
            eval.diagnostics.push(diagnostic.maybe_help(error.help));
        }
        Err(Failed)
    }
}

/// Unknown kinds that were reported: each once, with the list of those that exist.
#[derive(Default)]
pub(super) struct KindErrors {
    seen: HashMap<String, Span>,
}

impl KindErrors {
    fn unknown(&mut self, name: &str, span: Span, registry: &Registry, out: &mut Vec<Diagnostic>) {
        let mut diagnostic = Diagnostic::at(span, format!("unknown stage kind `{name}`"));
        if !self.seen.contains_key(name) {
            let names: Vec<&str> = registry.iter().map(|kind| kind.name).collect();
            diagnostic = diagnostic.maybe_help(did_you_mean("kinds", name, names));
            self.seen.insert(name.to_owned(), span);
        }
        out.push(diagnostic);
    }
}

fn unknown_parameter(kind: &Kind, attr: &Attr<'_>) -> Diagnostic {
    let names: Vec<&str> = kind
        .params()
        .map(|spec| spec.name)
        .chain(["when"])
        .collect();
    let diagnostic = Diagnostic::at(
        attr.span,
        format!("`{}` has no parameter `{}`", kind.name, attr.name),
    );
    match super::suggest::nearest(attr.name, names.iter().copied()) {
        Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
        None => diagnostic.help(format!("valid parameters: {}", names.join(", "))),
    }
}
