//! From the parser's tree to [`Expr`]: names are resolved, literals become values, templates are trimmed.
//! Knows names; evaluates nothing. Reports every unknown name.

use std::sync::Arc;

use hcl_edit::Formatted;
use hcl_edit::Span as _;
use hcl_edit::expr::{self as hcl, Expression, ObjectKey, TraversalOperator};
use impasto_stages::{Data, Number, NumberError, Origin, Value};

use super::diagnostic::{Diagnostic, Span, Text};
use super::expr::{Expr, ExprNode, For, Names, PathStep, RootExpr, Template, UnaryOp, Uses};
use super::functions;
use super::packer;
use super::suggest::did_you_mean;
use super::types::VarType;

/// Most splats in one traversal: each is a level of the evaluator's recursion.
const MAX_SPLATS: usize = 16;

/// Which roots an expression may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allowed {
    /// What it is, for messages: `the default of a variable`.
    pub(super) what: &'static str,
    pub(super) variables: bool,
    pub(super) locals: bool,
    pub(super) matrix: bool,
    pub(super) stages: bool,
}

impl Allowed {
    pub(super) const ALL: Self = Allowed {
        what: "an expression",
        variables: true,
        locals: true,
        matrix: true,
        stages: true,
    };
    pub(super) const NOTHING: Self = Allowed {
        what: "this value",
        variables: false,
        locals: false,
        matrix: false,
        stages: false,
    };
    pub(super) const DEFAULT: Self = Allowed {
        what: "the default of a variable",
        ..Self::NOTHING
    };
    pub(super) const VALIDATION: Self = Allowed {
        what: "a validation",
        variables: true,
        ..Self::NOTHING
    };
    pub(super) const MATRIX: Self = Allowed {
        what: "the matrix",
        variables: true,
        locals: true,
        ..Self::NOTHING
    };
    pub(super) const RECIPE: Self = Allowed {
        what: "the recipe block",
        ..Self::MATRIX
    };
    pub(super) const ENVIRONMENT: Self = Allowed {
        what: "`environment`",
        variables: true,
        ..Self::NOTHING
    };
    pub(super) const WHEN: Self = Allowed {
        what: "`when`",
        stages: false,
        ..Self::ALL
    };
}

/// Resolves the names of one text's expressions.
pub(super) struct Lowering<'a> {
    pub(super) file: u32,
    pub(super) text: Arc<Text>,
    pub(super) names: &'a Names,
    pub(super) diagnostics: &'a mut Vec<Diagnostic>,
    pub(super) allowed: Allowed,
    /// Names of `for` and of a template's variables, outermost first.
    pub(super) scope: Vec<Arc<str>>,
    pub(super) uses: Uses,
    /// How many templates are around.
    pub(super) templates: u32,
}

impl<'a> Lowering<'a> {
    pub(super) fn new(
        file: u32,
        text: Arc<Text>,
        names: &'a Names,
        diagnostics: &'a mut Vec<Diagnostic>,
    ) -> Self {
        Lowering {
            file,
            text,
            names,
            diagnostics,
            allowed: Allowed::ALL,
            scope: Vec::new(),
            uses: Uses::default(),
            templates: 0,
        }
    }

    /// Lowers one whole expression.
    pub(super) fn root(&mut self, expr: &Expression, allowed: Allowed) -> RootExpr {
        self.allowed = allowed;
        self.uses = Uses::default();
        let expr = self.expr(expr);
        self.uses.locals.sort_unstable();
        self.uses.locals.dedup();
        RootExpr {
            expr,
            uses: std::mem::take(&mut self.uses),
        }
    }

    pub(super) fn span(&self, range: Option<std::ops::Range<usize>>) -> Span {
        let range = range.unwrap_or_default();
        Span {
            file: self.file,
            start: range.start as u32,
            end: range.end as u32,
        }
    }

    /// An expression's place. The parser gives none to the inner ones of `a + b + c`.
    pub(super) fn expr_span(&self, expr: &Expression) -> Span {
        match (expr.span(), expr) {
            (Some(range), _) => self.span(Some(range)),
            (None, Expression::BinaryOp(op)) => self
                .expr_span(&op.lhs_expr)
                .to(self.expr_span(&op.rhs_expr)),
            (None, _) => self.span(None),
        }
    }

    fn origin(&self, at: u32) -> Option<Arc<Origin>> {
        Some(Arc::new(Origin {
            path: self.text.short.clone(),
            line: self.text.line(at),
        }))
    }

    pub(super) fn text_value(&self, text: &str, at: u32) -> Value {
        Value {
            data: Data::String(text.into()),
            marks: Default::default(),
            origin: self.origin(at),
        }
    }

    pub(super) fn expr(&mut self, expr: &Expression) -> Expr {
        let span = self.expr_span(expr);
        let node = match expr {
            Expression::Null(_) => ExprNode::Const(Value::new(Data::Null)),
            Expression::Bool(truth) => ExprNode::Const(Value::new(Data::Bool(*truth.value()))),
            Expression::Number(number) => match number_of(number, &self.text.text) {
                Ok(number) => ExprNode::Const(Value::new(Data::Number(number))),
                Err(message) => {
                    let help = "put it in quotes if it is only printed";
                    self.diagnostics
                        .push(Diagnostic::at(span, message).help(help));
                    ExprNode::Broken
                }
            },
            Expression::String(text) => ExprNode::Const(self.text_value(text.value(), span.start)),
            Expression::Array(items) => {
                ExprNode::List(items.iter().map(|item| self.expr(item)).collect())
            }
            Expression::Object(items) => ExprNode::Object(
                items
                    .iter()
                    .map(|(key, value)| (self.key(key), self.expr(value.expr())))
                    .collect(),
            ),
            Expression::StringTemplate(template) => {
                self.templates += 1;
                let parts = self.quoted_parts(template);
                self.templates -= 1;
                ExprNode::Template(Box::new(Template {
                    parts,
                    origin: self.origin(span.start),
                }))
            }
            Expression::HeredocTemplate(heredoc) => {
                self.templates += 1;
                let node = self.heredoc(heredoc, span);
                self.templates -= 1;
                node
            }
            Expression::Parenthesis(inner) => {
                return Expr {
                    span,
                    ..self.expr(inner.inner())
                };
            }
            Expression::Variable(name) => self.name(name.as_str(), span),
            Expression::Conditional(parts) => ExprNode::Conditional(Box::new([
                self.expr(&parts.cond_expr),
                self.expr(&parts.true_expr),
                self.expr(&parts.false_expr),
            ])),
            Expression::FuncCall(call) => self.call(call, span),
            Expression::Traversal(traversal) => self.traversal(traversal, span),
            Expression::UnaryOp(op) => {
                let operator = match op.operator.value() {
                    hcl::UnaryOperator::Not => UnaryOp::Not,
                    hcl::UnaryOperator::Neg => UnaryOp::Neg,
                };
                ExprNode::Unary(operator, Box::new(self.expr(&op.expr)))
            }
            Expression::BinaryOp(op) => ExprNode::Binary(
                *op.operator.value(),
                Box::new([self.expr(&op.lhs_expr), self.expr(&op.rhs_expr)]),
            ),
            Expression::ForExpr(parts) => self.for_expr(parts),
        };
        Expr { span, node }
    }

    fn key(&mut self, key: &ObjectKey) -> Expr {
        match key {
            ObjectKey::Ident(name) => {
                let span = self.span(key.span().or_else(|| name.span()));
                Expr {
                    span,
                    node: ExprNode::Const(Value::string(name.as_str())),
                }
            }
            ObjectKey::Expression(expr) => self.expr(expr),
        }
    }

    /// A bare name: of a `for`, or a mistake.
    fn name(&mut self, name: &str, span: Span) -> ExprNode {
        if let Some(slot) = self.scope.iter().rposition(|known| &**known == name) {
            return ExprNode::Scope(slot as u32);
        }
        let (message, help) = match name {
            "var" | "local" | "matrix" | "stage" => (
                format!("`{name}` alone is not a value"),
                Some(format!("write `{name}.NAME`")),
            ),
            _ => (
                format!("unknown name `{name}`"),
                packer::name(name).or_else(|| self.meant(name)),
            ),
        };
        let mut diagnostic = Diagnostic::at(span, message).maybe_help(help);
        let known =
            matches!(name, "var" | "local" | "matrix" | "stage") || packer::name(name).is_some();
        if self.templates > 0 && !known {
            let shell = format!("if `{name}` is a shell variable, write `$${{{name}}}`");
            let capitals = name
                .bytes()
                .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
            if capitals {
                // Then nothing else was meant.
                diagnostic.help.clear();
            }
            diagnostic = diagnostic.help(shell);
        }
        self.diagnostics.push(diagnostic);
        ExprNode::Broken
    }

    fn meant(&self, name: &str) -> Option<String> {
        let roots = [
            ("var", self.names.variables.contains_key(name)),
            ("local", self.names.locals.contains_key(name)),
            ("matrix", self.names.axes.contains_key(name)),
            ("stage", self.names.stages.contains_key(name)),
        ];
        if let Some((root, _)) = roots.iter().find(|(_, known)| *known) {
            return Some(format!("did you mean `{root}.{name}`?"));
        }
        let known = self
            .scope
            .iter()
            .map(|name| &**name)
            .chain(roots.map(|(root, _)| root));
        let nearest = super::suggest::nearest(name, known)?;
        Some(format!("did you mean `{nearest}`?"))
    }

    fn call(&mut self, call: &hcl::FuncCall, span: Span) -> ExprNode {
        let name = call.name.name.as_str();
        let place = self.span(call.name.name.span());
        let given: Vec<&Expression> = call.args.iter().collect();
        if let ("convert", [value, ty]) = (name, given.as_slice()) {
            let value = self.expr(value);
            return match VarType::parse(ty, &self.text.text) {
                Ok(ty) => ExprNode::Convert(Box::new(value), ty),
                Err(reason) => {
                    let span = self.expr_span(ty);
                    self.diagnostics.push(Diagnostic::at(span, reason));
                    ExprNode::Broken
                }
            };
        }
        let args: Vec<Expr> = given.into_iter().map(|arg| self.expr(arg)).collect();
        let mut fail = |diagnostic| {
            self.diagnostics.push(diagnostic);
            ExprNode::Broken
        };
        if call.name.is_namespaced() {
            return fail(
                Diagnostic::at(span, "functions have no namespaces")
                    .help(format!("write `{name}(…)`")),
            );
        }
        let function = match functions::find(name) {
            Ok(function) => function,
            Err(functions::Unknown {
                reason: Some(reason),
            }) => {
                return fail(
                    Diagnostic::at(place, format!("the function `{name}` is not available"))
                        .note(reason),
                );
            }
            Err(functions::Unknown { reason: None }) => {
                let names = functions::ALL
                    .iter()
                    .flat_map(|group| group.iter())
                    .map(|function| function.name);
                let help = did_you_mean("functions", name, names);
                return fail(
                    Diagnostic::at(place, format!("unknown function `{name}`")).maybe_help(help),
                );
            }
        };
        let expand = call.args.expand_final();
        let count = args.len();
        let few = count < function.min && !expand;
        if few
            || function
                .max
                .is_some_and(|max| count > max + usize::from(expand))
        {
            let wanted = match (function.min, function.max) {
                (min, Some(max)) if min == max => format!("{min}"),
                (min, Some(max)) => format!("{min} to {max}"),
                (min, None) => format!("at least {min}"),
            };
            let message = format!(
                "`{name}` takes {wanted} argument{}, not {count}",
                if wanted == "1" { "" } else { "s" }
            );
            return fail(
                Diagnostic::at(span, message).help(format!("usage: `{}`", function.signature)),
            );
        }
        ExprNode::Call(function, args, expand)
    }

    fn for_expr(&mut self, parts: &hcl::ForExpr) -> ExprNode {
        let collection = self.expr(&parts.intro.collection_expr);
        let depth = self.scope.len();
        let key_var = parts.intro.key_var.as_ref();
        self.scope
            .extend(key_var.map(|name| Arc::from(name.as_str())));
        self.scope.push(parts.intro.value_var.as_str().into());
        let key = parts.key_expr.as_ref().map(|key| self.expr(key));
        let value = self.expr(&parts.value_expr);
        let condition = parts
            .cond
            .as_ref()
            .map(|condition| self.expr(&condition.expr));
        self.scope.truncate(depth);
        let (keyed, grouping) = (key_var.is_some(), parts.grouping);
        ExprNode::For(Box::new(For {
            keyed,
            collection,
            key,
            value,
            condition,
            grouping,
        }))
    }

    fn traversal(&mut self, traversal: &hcl::Traversal, span: Span) -> ExprNode {
        let mut operators = traversal.operators.as_slice();
        let splats = |op: &&hcl_edit::Decorated<TraversalOperator>| {
            matches!(
                op.value(),
                TraversalOperator::AttrSplat(_) | TraversalOperator::FullSplat(_)
            )
        };
        if operators.iter().filter(splats).count() > MAX_SPLATS {
            self.diagnostics.push(Diagnostic::at(
                span,
                format!("an expression has more than {MAX_SPLATS} splats"),
            ));
            return ExprNode::Broken;
        }
        let root_span = self.expr_span(&traversal.expr);
        let base = match &traversal.expr {
            Expression::Variable(root)
                if matches!(root.as_str(), "var" | "local" | "matrix" | "stage")
                    && !self.scope.iter().any(|name| &**name == root.as_str()) =>
            {
                let Some((node, rest, end)) = self.rooted(root.as_str(), root_span, operators)
                else {
                    return ExprNode::Broken;
                };
                operators = rest;
                Expr {
                    span: root_span.to(end),
                    node,
                }
            }
            other => self.expr(other),
        };
        if operators.is_empty() {
            return base.node;
        }
        let steps = operators
            .iter()
            .map(|operator| self.step(operator))
            .collect();
        ExprNode::Traverse(Box::new(base), steps)
    }

    fn step(&mut self, operator: &hcl_edit::Decorated<TraversalOperator>) -> PathStep {
        let span = self.span(operator.span());
        match operator.value() {
            TraversalOperator::AttrSplat(_) => PathStep::AttrSplat(span),
            TraversalOperator::FullSplat(_) => PathStep::FullSplat(span),
            TraversalOperator::GetAttr(name) => PathStep::Attr(
                name.as_str().into(),
                self.span(name.span().or_else(|| operator.span())),
            ),
            TraversalOperator::Index(index) => PathStep::Index(self.expr(index)),
            TraversalOperator::LegacyIndex(index) => {
                let number = Number::Int(i64::try_from(*index.value()).unwrap_or(i64::MAX));
                PathStep::Index(Expr {
                    span,
                    node: ExprNode::Const(Value::new(Data::Number(number))),
                })
            }
        }
    }

    /// `var.x`, `local.x`, `matrix.x`, `stage.x`, or the same with `["x"]`.
    fn rooted<'t>(
        &mut self,
        root: &str,
        root_span: Span,
        operators: &'t [hcl_edit::Decorated<TraversalOperator>],
    ) -> Option<(ExprNode, &'t [hcl_edit::Decorated<TraversalOperator>], Span)> {
        let (first, rest) = operators.split_first()?;
        let (name, place) = match first.value() {
            TraversalOperator::GetAttr(name) => (
                name.as_str(),
                self.span(name.span().or_else(|| first.span())),
            ),
            TraversalOperator::Index(Expression::String(name)) => {
                let inner = self.span(name.span().or_else(|| first.span()));
                (name.as_str(), inner)
            }
            _ => {
                let diagnostic = Diagnostic::at(root_span, format!("`{root}` needs a literal name"))
                    .help(format!("write `{root}.NAME`; to select by a value, use a conditional or a map in `locals`"));
                self.diagnostics.push(diagnostic);
                return None;
            }
        };
        let allowed = match root {
            "var" => self.allowed.variables,
            "local" => self.allowed.locals,
            "matrix" => self.allowed.matrix,
            _ => self.allowed.stages,
        };
        if !allowed {
            let what = self.allowed.what;
            let message = format!("{what} cannot use `{root}.{name}`");
            let help = match root {
                "stage" => {
                    "stages are only known after everything else: use a variable, a local or the matrix instead"
                }
                "matrix" => "it is evaluated before a combination of the matrix is chosen",
                _ => "write the value itself, or compute it in `locals`",
            };
            self.diagnostics
                .push(Diagnostic::at(root_span.to(place), message).help(help));
            return None;
        }
        let names = self.names;
        let node = match root {
            "var" => names.variables.get(name).map(|id| ExprNode::Variable(*id)),
            "local" => names.locals.get(name).map(|id| {
                self.uses.locals.push(*id);
                ExprNode::Local(*id)
            }),
            "matrix" => names.axes.get(name).map(|id| {
                self.uses.axes |= 1 << id;
                ExprNode::Axis(*id)
            }),
            _ => names
                .stages
                .get_key_value(name)
                .map(|(name, _)| ExprNode::Stage(name.clone())),
        };
        if node.is_none() {
            self.unknown(root, name, place);
        }
        Some((node.unwrap_or(ExprNode::Broken), rest, place))
    }

    fn unknown(&mut self, root: &str, name: &str, place: Span) {
        let names = self.names;
        let (what, plural, mut all): (_, _, Vec<&str>) = match root {
            "var" => (
                "variable",
                "variables",
                names.variables.keys().map(String::as_str).collect(),
            ),
            "local" => (
                "local",
                "locals",
                names.locals.keys().map(String::as_str).collect(),
            ),
            "matrix" => (
                "axis",
                "axes of the matrix",
                names.axes.keys().map(String::as_str).collect(),
            ),
            _ => (
                "stage",
                "stages",
                names.stages.keys().map(|name| &**name).collect(),
            ),
        };
        all.sort_unstable();
        let elsewhere = [
            ("var", names.variables.contains_key(name)),
            ("local", names.locals.contains_key(name)),
            ("matrix", names.axes.contains_key(name)),
            ("stage", names.stages.contains_key(name)),
        ];
        let mut diagnostic = Diagnostic::at(place, format!("unknown {what} `{name}`"));
        if let Some((other, _)) = elsewhere.iter().find(|(_, known)| *known) {
            diagnostic = diagnostic.help(format!("there is `{other}.{name}`"));
        } else if all.is_empty() {
            diagnostic = diagnostic.note(format!("the recipe declares no {plural}"));
        } else {
            diagnostic = diagnostic.maybe_help(did_you_mean(plural, name, all));
        }
        self.diagnostics.push(diagnostic);
    }
}

/// A number as it is written in `text`: the parser has rounded its value already. The error is a message.
pub(super) fn number_of(
    number: &Formatted<hcl_edit::Number>,
    text: &str,
) -> Result<Number, String> {
    let written = number
        .span()
        .and_then(|range| text.get(range))
        .unwrap_or_default()
        .trim();
    let written = match Number::parse(written) {
        Err(NumberError::Text) => number.value().to_string(),
        _ => written.to_owned(),
    };
    Number::parse(&written).map_err(|error| format!("the number {written} {error}"))
}

/// Whether a text can be written as a name in a reference.
pub(super) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
        && text
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '_' | '-'))
}
