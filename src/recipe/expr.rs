//! Expressions with their names resolved: what the evaluator walks.
//! Knows which variable, local, axis or function a name means; knows no values but literals.

use std::collections::HashMap;
use std::sync::Arc;

use impasto_stages::{Origin, Value};

use super::diagnostic::Span;
use super::functions::Function;
use super::types::VarType;

/// An expression and where it stands.
#[derive(Debug)]
pub(super) struct Expr {
    pub(super) span: Span,
    pub(super) node: ExprNode,
}

/// What an expression does.
#[derive(Debug)]
pub(super) enum ExprNode {
    Const(Value),
    /// Text with values in it.
    Template(Box<Template>),
    /// `[a, b]`.
    List(Vec<Expr>),
    /// `{ a = b }`, with keys that are expressions too.
    Object(Vec<(Expr, Expr)>),
    /// What a `for` or a template's caller named: a place on the evaluator's stack.
    Scope(u32),
    /// `var.x`, by number.
    Variable(u32),
    /// `local.x`, by number.
    Local(u32),
    /// `matrix.x`, by number.
    Axis(u32),
    /// `stage.x`.
    Stage(Arc<str>),
    /// A value and the way into it.
    Traverse(Box<Expr>, Vec<PathStep>),
    /// A function's call; whether the last argument is a list of arguments.
    Call(&'static Function, Vec<Expr>, bool),
    /// `a ? b : c`.
    Conditional(Box<[Expr; 3]>),
    /// `!a` or `-a`.
    Unary(UnaryOp, Box<Expr>),
    /// `a + b`.
    Binary(BinaryOp, Box<[Expr; 2]>),
    /// `[for …]` or `{for …}`.
    For(Box<For>),
    /// `convert(value, type)`.
    Convert(Box<Expr>, VarType),
    /// Something that was reported when its names were resolved.
    Broken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UnaryOp {
    Not,
    Neg,
}

pub(super) use hcl_edit::expr::BinaryOperator as BinaryOp;

/// One step into a value.
#[derive(Debug)]
pub(super) enum PathStep {
    /// `.name`.
    Attr(Arc<str>, Span),
    /// `[index]` or `.0`.
    Index(Expr),
    /// `.*`: the attributes that follow, of every element.
    AttrSplat(Span),
    /// `[*]`: all that follows, of every element.
    FullSplat(Span),
}

/// `for key, value in collection : …`.
#[derive(Debug)]
pub(super) struct For {
    /// Whether there is a name for the key beside the value's.
    pub(super) keyed: bool,
    pub(super) collection: Expr,
    /// The result's key, for an object.
    pub(super) key: Option<Expr>,
    pub(super) value: Expr,
    pub(super) condition: Option<Expr>,
    /// Whether values of equal keys are gathered in lists.
    pub(super) grouping: bool,
}

/// A text with parts to fill in.
#[derive(Debug)]
pub(super) struct Template {
    pub(super) parts: Vec<TemplatePart>,
    /// Where the text stands, if every line of the result is that line of the text.
    pub(super) origin: Option<Arc<Origin>>,
}

/// A part of a template.
#[derive(Debug)]
pub(super) enum TemplatePart {
    Text(String),
    Value(Expr),
    If {
        condition: Expr,
        then: Vec<TemplatePart>,
        otherwise: Vec<TemplatePart>,
    },
    For {
        keyed: bool,
        collection: Expr,
        body: Vec<TemplatePart>,
    },
}

/// What a recipe declares, by name: what names are resolved against.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) variables: HashMap<String, u32>,
    pub(super) locals: HashMap<String, u32>,
    pub(super) axes: HashMap<String, u32>,
    pub(super) stages: HashMap<Arc<str>, u32>,
}

/// What an expression looks at.
#[derive(Debug, Clone, Default)]
pub(super) struct Uses {
    /// Locals, by number; each once.
    pub(super) locals: Vec<u32>,
    /// Axes of the matrix, one bit each.
    pub(super) axes: u64,
}

/// An expression together with what it looks at.
#[derive(Debug)]
pub(super) struct RootExpr {
    pub(super) expr: Expr,
    pub(super) uses: Uses,
}
