//! Stages and images: their attributes lowered once, evaluated once for each part of the matrix that they look at.
//! Knows kinds by their declarations; whether stages fit together is another's matter.

use std::collections::HashMap;
use std::sync::Arc;

use impasto_stages::{Data, Kind, Params, Registry, StageContext, Value};

use super::check::{Check, Reference, way};
use super::collect::{Attr, Decl};
use super::convert;
use super::diagnostic::{Diagnostic, Span};
use super::eval::{Evaluator, Failed};
use super::expr::{RootExpr, Uses};
use super::lower::{Allowed, Lowering};
use super::model::{Image, Stage};
use super::suggest::did_you_mean;

/// What a stage or an image costs beside its parameters, in one combination.
const STAGE_STEPS: u64 = 20;
const STAGE_BYTES: u64 = 512;

/// An attribute, ready to be evaluated.
pub(super) struct LoweredAttr {
    name: &'static str,
    key: Span,
    root: RootExpr,
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

/// An image's text, ready to be evaluated.
pub(super) struct ImageText {
    pub(super) label: Arc<str>,
    pub(super) head: Span,
    name: Option<LoweredAttr>,
    files: Option<LoweredAttr>,
    broken: bool,
    pub(super) axes: u64,
}

/// An image in some combinations.
pub(super) struct BuiltImage {
    pub(super) label: Arc<str>,
    /// The image; none where something was reported.
    pub(super) image: Option<Arc<Image>>,
    pub(super) references: Vec<Reference>,
    /// Where its name stands.
    pub(super) name_span: Span,
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

fn axes(uses: &Uses, local_axes: &[u64]) -> u64 {
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
                .filter(|spec| spec.required && decl.attr(spec.name).is_none())
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

    pub(super) fn image(&self, decl: &Decl<'_>, lowering: &mut Lowering<'_>) -> ImageText {
        let before = lowering.diagnostics.len();
        super::collect::Collector::known(
            lowering.diagnostics,
            "an image",
            decl,
            &super::blocks::IMAGE,
        );
        let mut text = ImageText {
            label: decl.name.clone(),
            head: decl.head,
            name: None,
            files: None,
            broken: false,
            axes: 0,
        };
        for attr in &decl.attrs {
            let root = lowering.root(attr.value, Allowed::ALL);
            text.axes |= axes(&root.uses, self.local_axes);
            match attr.name {
                "name" => {
                    text.name = Some(LoweredAttr {
                        name: "name",
                        key: attr.span,
                        root,
                    })
                }
                "files" => {
                    text.files = Some(LoweredAttr {
                        name: "files",
                        key: attr.span,
                        root,
                    })
                }
                _ => {}
            }
        }
        if text.files.is_none() {
            let diagnostic = Diagnostic::at(
                decl.head,
                format!("the image `{}` has no `files`", decl.name),
            )
            .help("list what it is made of: `files = [stage.NAME, stage.OTHER.files[\"…\"]]`");
            lowering.diagnostics.push(diagnostic);
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
        if failed || self.lower(text, kind, &params, eval).is_err() {
            return StageState::Failed(references.into());
        }
        let stage = Stage {
            name: text.name.clone(),
            kind: text.kind_name.clone(),
            params,
            span: text.head,
        };
        StageState::Ready(Arc::new(Built {
            stage: Arc::new(stage),
            references,
        }))
    }

    /// Lets the kind say what is wrong with the parameters beyond their types.
    fn lower(
        &self,
        text: &StageText,
        kind: &Kind,
        params: &Params,
        eval: &mut Evaluator,
    ) -> Result<(), Failed> {
        let context = StageContext {
            name: text.name.to_string(),
            source_date_epoch: self.source_date_epoch,
            ..StageContext::default()
        };
        let Err(errors) = (kind.lower)(params, &context) else {
            return Ok(());
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

    /// Evaluates and checks an image in the evaluator's combination.
    pub(super) fn build_image(
        &self,
        text: &ImageText,
        eval: &mut Evaluator,
    ) -> Option<Arc<BuiltImage>> {
        eval.budget
            .charge(text.head, STAGE_STEPS, STAGE_BYTES)
            .ok()?;
        let name = match &text.name {
            Some(name) => image_name(name, text, eval),
            None => Ok(text.label.to_string()),
        };
        let files = text.files.as_ref()?;
        let expr = &files.root.expr;
        let value = eval.eval(expr).ok()?;
        if convert::is_sensitive(&value) {
            let message = format!(
                "`files` of image `{}` would contain a sensitive value",
                text.label
            );
            let note = way(&value, &format!("`files` of image `{}`", text.label));
            eval.diagnostics
                .push(Diagnostic::at(expr.span, message).note(note));
            return None;
        }
        eval.budget
            .charge(
                expr.span,
                convert::size_of(&value).0,
                convert::cost_written_out(&value),
            )
            .ok()?;
        let Data::List(items) = value.data else {
            let message = format!(
                "`files` of image `{}` must be a list of stages and their files",
                text.label
            );
            eval.diagnostics.push(
                Diagnostic::at(expr.span, message).help("write it in brackets: `[stage.NAME]`"),
            );
            return None;
        };
        if items.is_empty() {
            let message = format!("`files` of image `{}` is empty", text.label);
            eval.diagnostics.push(Diagnostic::at(expr.span, message));
        }
        let mut check = Check {
            eval,
            path: String::new(),
            owner: format!("image `{}`", text.label),
            references: Vec::new(),
        };
        let mut all: Vec<Value> = Vec::with_capacity(items.len());
        let mut failed = text.broken || items.is_empty();
        for (index, item) in items.into_inner().into_iter().enumerate() {
            let part = match &expr.node {
                super::expr::ExprNode::List(parts) => parts.get(index),
                _ => None,
            };
            let span = part.map_or(expr.span, |part| part.span);
            check.path = format!("files[{index}]");
            if !matches!(item.data, Data::Stage(_) | Data::StageFile { .. }) {
                let message = format!(
                    "`files[{index}]` of image `{}` is {}, not a stage's file",
                    text.label,
                    convert::show(&item)
                );
                let help =
                    "an image consists of what stages make; add a file of your own with a stage";
                check
                    .eval
                    .diagnostics
                    .push(Diagnostic::at(span, message).help(help));
                failed = true;
                continue;
            }
            match check.value(item, &impasto_stages::Type::File, span, part) {
                Ok(item) => all.push(item),
                Err(Failed) => failed = true,
            }
        }
        let references = check.references;
        let name_span = text
            .name
            .as_ref()
            .map_or(text.head, |name| name.root.expr.span);
        let image = name.ok().filter(|_| !failed).map(|name| {
            Arc::new(Image {
                label: text.label.clone(),
                name,
                files: all,
                span: text.head,
            })
        });
        Some(Arc::new(BuiltImage {
            label: text.label.clone(),
            image,
            references,
            name_span,
        }))
    }
}

fn image_name(
    name: &LoweredAttr,
    text: &ImageText,
    eval: &mut Evaluator,
) -> Result<String, Failed> {
    let span = name.root.expr.span;
    let value = eval.eval(&name.root.expr)?;
    if convert::is_sensitive(&value) {
        let message = format!(
            "the name of the image `{}` would contain a sensitive value",
            text.label
        );
        return eval.fail(
            Diagnostic::at(span, message)
                .note(way(&value, &format!("the name of image `{}`", text.label))),
        );
    }
    let Some(shown) = convert::to_text(&value) else {
        let message = format!(
            "the name of image `{}` is {}, not a string",
            text.label,
            convert::show(&value)
        );
        return eval.fail(Diagnostic::at(span, message));
    };
    let plain = !shown.is_empty()
        && shown.len() <= 200
        && !shown.starts_with(['.', '-'])
        && !shown.chars().any(|c| c == '/' || c.is_control());
    if plain {
        return Ok(shown.to_string());
    }
    let message = format!("{shown:?} is not a valid name for an image");
    let help = "its files get this name: use one without `/` that starts with neither `.` nor `-`";
    eval.fail(Diagnostic::at(span, message).help(help))
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

/// The files that a stage makes beside its disk, by name; nothing for a kind that has no such files.
pub(super) fn outputs(kind: &Kind, params: &Params) -> Option<Vec<String>> {
    if kind.files.is_empty() {
        kind.param("output")?;
    }
    let always = kind.files.iter().map(|name| (*name).to_owned());
    Some(
        always
            .chain(params.pairs("output").map(|(name, _)| name.clone()))
            .collect(),
    )
}
