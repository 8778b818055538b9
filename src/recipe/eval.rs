//! Evaluates expressions: operators, conditionals, `for`, templates, traversals, calls.
//! Knows values and marks; knows no blocks, stages' meaning or files.
//!
//! A part that fails reports itself and gives [`Failed`]; its neighbours are still evaluated, so that one run finds all.

mod comprehension;
mod template;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use impasto_stages::{Data, Marks, Number, NumberError, Value};

use super::budget::Budget;
use super::convert::{self, MAX_TEXT, same, show};
use super::diagnostic::{Diagnostic, Sources, Span};
use super::expr::{BinaryOp, Expr, ExprNode, UnaryOp};
use super::files::Files;
use super::functions::{Fail, Function, FunctionBody};

/// Most reports of one recipe.
const MAX_REPORTS: usize = 1000;

/// Something failed and was reported.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failed;

pub(super) type EvalResult = Result<Value, Failed>;

/// A local's value in the current combination.
#[derive(Debug, Clone, Default)]
pub(super) enum LocalValue {
    /// Not evaluated yet, or part of a cycle, which was reported.
    #[default]
    Unset,
    Ready(Value),
    /// It was reported, outside of every `try`: locals are evaluated before they are used.
    Failed,
}

/// What `env()` may read of the environment: anything in the default of a variable, which the user sees and can set; else
/// what the recipe names at its top.
#[derive(Debug, Default)]
pub(super) struct Environment {
    pub(super) named: BTreeSet<String>,
    pub(super) in_default: bool,
}

impl Environment {
    pub(super) fn allows(&self, name: &str) -> bool {
        self.in_default || self.named.contains(name)
    }
}

/// Walks expressions. One for a recipe, across all combinations.
pub(super) struct Evaluator {
    pub(super) diagnostics: Vec<Diagnostic>,
    /// Variables' values by number; none for one that was reported.
    pub(super) variables: Vec<Option<Value>>,
    /// Locals' values by number.
    pub(super) locals: Vec<LocalValue>,
    /// The matrix' values in the current combination.
    pub(super) axes: Vec<Value>,
    /// Files that functions read.
    pub(super) files: Files,
    /// What `env()` may read.
    pub(super) environment: Environment,
    /// Texts that spans point into.
    pub(super) sources: Sources,
    pub(super) scope: Vec<Value>,
    pub(super) template_depth: u32,
    /// Template files, by path and names of their variables.
    pub(super) templates: HashMap<(String, Vec<Arc<str>>), super::functions::host::Compiled>,
    /// What the recipe may still cost.
    pub(super) budget: Budget,
    /// Regular expressions that were used, by their texts.
    pub(super) patterns: HashMap<Arc<str>, regex::Regex>,
}

impl Evaluator {
    pub(super) fn new(files: Files, sources: Sources) -> Self {
        Evaluator {
            diagnostics: Vec::new(),
            variables: Vec::new(),
            locals: Vec::new(),
            axes: Vec::new(),
            files,
            environment: Environment::default(),
            sources,
            scope: Vec::new(),
            template_depth: 0,
            templates: HashMap::new(),
            budget: Budget::new(),
            patterns: HashMap::new(),
        }
    }

    pub(super) fn fail<T>(&mut self, diagnostic: Diagnostic) -> Result<T, Failed> {
        if self.diagnostics.len() < MAX_REPORTS {
            self.diagnostics.push(diagnostic);
        }
        Err(Failed)
    }

    /// Pays for a value that was made of others, which it shares.
    fn made(&mut self, span: Span, value: Value) -> EvalResult {
        self.budget.charge(span, 0, convert::cost_shared(&value))?;
        if convert::is_too_deep(&value) {
            return self.fail(Diagnostic::at(span, "the value is nested too deeply"));
        }
        Ok(value)
    }

    pub(super) fn eval(&mut self, expr: &Expr) -> EvalResult {
        self.budget.charge(expr.span, 1, 0)?;
        match &expr.node {
            ExprNode::Const(value) => Ok(value.clone()),
            ExprNode::Template(template) => self.template(expr.span, template),
            ExprNode::List(items) => {
                let value = self.all(items).map(convert::list)?;
                self.made(expr.span, value)
            }
            ExprNode::Object(items) => {
                let value = self.object(items)?;
                self.made(expr.span, value)
            }
            ExprNode::Scope(_) | ExprNode::Variable(_) | ExprNode::Local(_) | ExprNode::Axis(_) => {
                self.place(expr).cloned()
            }
            ExprNode::Stage(stage) => Ok(Value::new(Data::Stage(stage.clone()))),
            ExprNode::Traverse(base, steps) => self.traverse(base, steps),
            ExprNode::Call(function, args, expand) => self.call(expr.span, function, args, *expand),
            ExprNode::Conditional(parts) => self.conditional(parts),
            ExprNode::Unary(op, operand) => self.unary(*op, operand),
            ExprNode::Binary(op, operands) => self.binary(expr.span, *op, operands),
            ExprNode::For(parts) => {
                let value = self.for_expr(parts)?;
                self.made(expr.span, value)
            }
            ExprNode::Convert(operand, ty) => {
                let value = self.eval(operand)?;
                self.budget.charge(
                    expr.span,
                    convert::size_of(&value).0,
                    convert::cost_written_out(&value),
                )?;
                let sensitive = convert::is_sensitive(&value);
                match ty.fit(value) {
                    Err(_) if sensitive => self.fail(Diagnostic::at(
                        operand.span,
                        format!("convert: a sensitive value is not a valid {ty}"),
                    )),
                    Ok(value) => Ok(value),
                    Err(mismatch) => {
                        let at = if mismatch.path.is_empty() {
                            String::new()
                        } else {
                            format!(" at {}", mismatch.path)
                        };
                        self.fail(Diagnostic::at(
                            operand.span,
                            format!("convert: {}{at}", mismatch.reason),
                        ))
                    }
                }
            }
            ExprNode::Broken => Err(Failed),
        }
    }

    /// A value that lies ready, without a copy.
    pub(super) fn place(&mut self, expr: &Expr) -> Result<&Value, Failed> {
        match &expr.node {
            ExprNode::Const(_) => Err(Failed),
            ExprNode::Scope(slot) => self.scope.get(*slot as usize).ok_or(Failed),
            ExprNode::Variable(id) => self
                .variables
                .get(*id as usize)
                .and_then(Option::as_ref)
                .ok_or(Failed),
            ExprNode::Axis(id) => self.axes.get(*id as usize).ok_or(Failed),
            ExprNode::Local(id) => match self.locals.get(*id as usize) {
                Some(LocalValue::Ready(value)) => Ok(value),
                _ => Err(Failed),
            },
            _ => Err(Failed),
        }
    }

    /// Evaluates all, also after one that fails.
    fn all(&mut self, exprs: &[Expr]) -> Result<Vec<Value>, Failed> {
        let mut values = Vec::with_capacity(exprs.len());
        let mut failed = false;
        for expr in exprs {
            match self.eval(expr) {
                Ok(value) => values.push(value),
                Err(Failed) => failed = true,
            }
        }
        if failed { Err(Failed) } else { Ok(values) }
    }

    fn object(&mut self, items: &[(Expr, Expr)]) -> EvalResult {
        let mut result = BTreeMap::new();
        let mut marks = Marks::default();
        let mut failed = false;
        for (key_expr, value_expr) in items {
            let key = self
                .eval(key_expr)
                .and_then(|key| self.key(key_expr.span, &key, &mut marks));
            match (key, self.eval(value_expr)) {
                (Ok(key), Ok(value)) => {
                    if result.contains_key(&key) {
                        let message = format!("duplicate key {}", quoted(&key, &marks));
                        self.diagnostics.push(
                            Diagnostic::at(key_expr.span, message).help("remove one of them"),
                        );
                        failed = true;
                    }
                    result.insert(key, value);
                }
                _ => failed = true,
            }
        }
        if failed {
            Err(Failed)
        } else {
            Ok(Value {
                data: Data::Object(result.into()),
                marks,
                origin: None,
            })
        }
    }

    /// An object's key; its marks go to the object.
    fn key(&mut self, span: Span, key: &Value, marks: &mut Marks) -> Result<String, Failed> {
        marks.unite(&key.marks);
        match convert::to_text(key) {
            Some(text) => Ok(text.as_ref().to_owned()),
            None => self.fail(
                Diagnostic::at(span, format!("{} cannot be a key", show(key)))
                    .label("a string is needed"),
            ),
        }
    }

    fn conditional(&mut self, [condition, then, otherwise]: &[Expr; 3]) -> EvalResult {
        let value = self.eval(condition)?;
        let chosen = if self.truth(condition.span, &value)? {
            then
        } else {
            otherwise
        };
        let mut result = self.eval(chosen)?;
        result.marks.unite(&value.marks);
        Ok(result)
    }

    pub(super) fn truth(&mut self, span: Span, value: &Value) -> Result<bool, Failed> {
        match convert::to_bool(value) {
            Some(truth) => Ok(truth),
            None => self.fail(Diagnostic::at(
                span,
                format!("expected true or false, found {}", show(value)),
            )),
        }
    }

    fn number(&mut self, span: Span, value: &Value) -> Result<Number, Failed> {
        match convert::to_number(value) {
            Some(number) => Ok(number),
            None => {
                let diagnostic =
                    Diagnostic::at(span, format!("expected a number, found {}", show(value)));
                self.fail(diagnostic.maybe_help(convert::too_long(value)))
            }
        }
    }

    fn unary(&mut self, op: UnaryOp, operand: &Expr) -> EvalResult {
        let value = self.eval(operand)?;
        let data = match op {
            UnaryOp::Not => Data::Bool(!self.truth(operand.span, &value)?),
            UnaryOp::Neg => Data::Number(self.number(operand.span, &value)?.negated()),
        };
        Ok(Value {
            data,
            marks: value.marks,
            origin: None,
        })
    }

    fn binary(&mut self, span: Span, op: BinaryOp, [left, right]: &[Expr; 2]) -> EvalResult {
        if matches!(op, BinaryOp::And | BinaryOp::Or) {
            let value = self.eval(left)?;
            let first = self.truth(left.span, &value)?;
            if first == (op == BinaryOp::Or) {
                return Ok(Value {
                    data: Data::Bool(first),
                    marks: value.marks,
                    origin: None,
                });
            }
            let second = self.eval(right)?;
            let data = Data::Bool(self.truth(right.span, &second)?);
            let mut marks = value.marks;
            marks.unite(&second.marks);
            return Ok(Value {
                data,
                marks,
                origin: None,
            });
        }
        let (a, b) = (self.eval(left), self.eval(right));
        let (a, b) = (a?, b?);
        let mut marks = Marks::default();
        let data = if matches!(op, BinaryOp::Eq | BinaryOp::NotEq) {
            convert::deep_marks(&a, &mut marks);
            convert::deep_marks(&b, &mut marks);
            self.budget
                .charge(span, convert::size_of(&a).0.min(convert::size_of(&b).0), 0)?;
            Data::Bool(same(&a, &b) == (op == BinaryOp::Eq))
        } else {
            marks.unite(&a.marks);
            marks.unite(&b.marks);
            let x = self.number(left.span, &a);
            let (x, y) = match x.and_then(|x| Ok((x, self.number(right.span, &b)?))) {
                Ok(both) => both,
                Err(Failed) => return self.explain_plus(op, &a, &b),
            };
            match op {
                BinaryOp::Less => Data::Bool(x < y),
                BinaryOp::LessEq => Data::Bool(x <= y),
                BinaryOp::Greater => Data::Bool(x > y),
                BinaryOp::GreaterEq => Data::Bool(x >= y),
                _ => match arithmetic(op, x, y) {
                    Ok(number) => Data::Number(number),
                    Err(problem) => return self.fail(Diagnostic::at(span, problem)),
                },
            }
        };
        Ok(Value {
            data,
            marks,
            origin: None,
        })
    }

    /// Adds to the report of a failed operator what `+` does not do.
    fn explain_plus(&mut self, op: BinaryOp, a: &Value, b: &Value) -> EvalResult {
        let help = match (op, &a.data, &b.data) {
            (BinaryOp::Plus, Data::List(_), _) | (BinaryOp::Plus, _, Data::List(_)) => {
                "`+` adds numbers; use `concat(a, b)` to join lists"
            }
            (BinaryOp::Plus, Data::String(_), _) | (BinaryOp::Plus, _, Data::String(_)) => {
                "`+` adds numbers; use a template to join strings: \"${a}${b}\""
            }
            _ => return Err(Failed),
        };
        if let Some(last) = self.diagnostics.last_mut() {
            last.help.push(help.to_owned());
        }
        Err(Failed)
    }

    /// Pays for what a text has grown.
    fn grown(&mut self, span: Span, out: &mut BoundedWriter) -> Result<(), Failed> {
        let grown = (out.text.len() - out.paid) as u64;
        out.paid = out.text.len();
        self.budget.charge(span, grown / 64, grown * 2)?;
        if out.text.len() > MAX_TEXT {
            return self.fail(Diagnostic::at(
                span,
                format!("the string would be larger than {} MiB", MAX_TEXT >> 20),
            ));
        }
        Ok(())
    }

    fn call(
        &mut self,
        span: Span,
        function: &'static Function,
        args: &[Expr],
        expand: bool,
    ) -> EvalResult {
        match function.run {
            FunctionBody::Try => return self.try_each(span, args),
            FunctionBody::Can => {
                let before = self.diagnostics.len();
                let result = args.first().map_or(Err(Failed), |arg| self.eval(arg));
                self.diagnostics.truncate(before);
                let marks = result
                    .as_ref()
                    .map(|value| value.marks.clone())
                    .unwrap_or_default();
                return Ok(Value {
                    data: Data::Bool(result.is_ok()),
                    marks,
                    origin: None,
                });
            }
            _ => {}
        }
        let mut values = self.all(args)?;
        let mut marks = Marks::default();
        if expand && let (Some(last), Some(expr)) = (values.pop(), args.last()) {
            marks.unite(&last.marks);
            match last.data {
                Data::List(items) => {
                    self.budget.charge(
                        span,
                        items.len() as u64,
                        items.len() as u64 * convert::VALUE,
                    )?;
                    values.extend(items.into_inner());
                }
                _ => {
                    let message = format!("`...` needs a list, found {}", show(&last));
                    return self.fail(Diagnostic::at(expr.span, message));
                }
            }
            if values.len() < function.min || function.max.is_some_and(|max| values.len() > max) {
                let message = format!(
                    "`{}` does not take {} arguments",
                    function.name,
                    values.len()
                );
                return self.fail(
                    Diagnostic::at(span, message).help(format!("usage: `{}`", function.signature)),
                );
            }
        }
        for value in &values {
            if function.structural {
                marks.unite(&value.marks);
            } else {
                convert::deep_marks(value, &mut marks);
            }
        }
        let sensitive = values.iter().any(convert::is_sensitive);
        if !function.structural {
            // It looks at all of it.
            let sizes = values.iter().map(convert::size_of);
            let steps = sizes.fold(0u64, |all, (parts, bytes)| {
                all.saturating_add(parts).saturating_add(bytes / 64)
            });
            self.budget.charge(span, steps, 0)?;
        }
        self.budget.charge(span, 0, (function.cost)(&values))?;
        let result = match function.run {
            FunctionBody::Pure(run) => run(values),
            FunctionBody::Host(run) => run(self, span, values)?,
            FunctionBody::Try | FunctionBody::Can => return Err(Failed),
        };
        match result {
            Ok(mut value) => {
                let (parts, made) = match function.structural {
                    true => (convert::cost_shared(&value) / convert::VALUE, 0),
                    false => (
                        convert::size_of(&value).0,
                        convert::cost_written_out(&value),
                    ),
                };
                self.budget.charge(span, parts, made)?;
                value.marks.unite(&marks);
                self.made(span, value)
            }
            Err(Fail { arg, message, help }) => {
                // The reason may hold a part of the value.
                let (message, help) = match marks.sensitive.is_some() || sensitive {
                    true => (
                        "an argument is not valid; it is sensitive, so it is not shown".to_owned(),
                        None,
                    ),
                    false => (message, help),
                };
                let place = arg
                    .and_then(|arg| args.get(arg).or(args.last()))
                    .map_or(span, |arg| arg.span);
                let diagnostic =
                    Diagnostic::at(place, format!("{}: {message}", function.name)).maybe_help(help);
                self.fail(diagnostic)
            }
        }
    }

    fn try_each(&mut self, span: Span, args: &[Expr]) -> EvalResult {
        let before = self.diagnostics.len();
        for (index, arg) in args.iter().enumerate() {
            let tried = self.diagnostics.len();
            if let Ok(value) = self.eval(arg) {
                self.diagnostics.truncate(before);
                return Ok(value);
            }
            if index + 1 < args.len() {
                self.diagnostics.truncate(tried);
            }
        }
        if args.len() > 1
            && self.diagnostics.len() > before
            && let Some(last) = self.diagnostics.last_mut()
        {
            last.secondary.push(super::diagnostic::Label {
                span,
                text: "none of the alternatives can be evaluated".into(),
            });
        }
        Err(Failed)
    }
}

/// A template's text as it grows.
struct BoundedWriter {
    text: String,
    marks: Marks,
    /// Whether each line so far is that line of the template.
    verbatim: bool,
    /// How many bytes of it were paid for.
    paid: usize,
}

/// The elements of a collection with their keys.
type Items<'v> = Box<dyn Iterator<Item = (Value, Value)> + 'v>;

/// What a `for` with keys has made so far.
#[derive(Default)]
struct BuiltText {
    values: BTreeMap<String, Value>,
    /// Values of equal keys, where they are gathered.
    groups: BTreeMap<String, Vec<Value>>,
}

impl BuiltText {
    fn into_attributes(self) -> BTreeMap<String, Value> {
        let groups = self
            .groups
            .into_iter()
            .map(|(key, items)| (key, convert::list(items)));
        self.values.into_iter().chain(groups).collect()
    }
}

/// A key for a message.
fn quoted(key: &str, marks: &Marks) -> String {
    if marks.sensitive.is_some() {
        "(sensitive)".to_owned()
    } else {
        format!("{key:?}")
    }
}

fn arithmetic(op: BinaryOp, x: Number, y: Number) -> Result<Number, String> {
    let result = match op {
        BinaryOp::Plus => x.plus(y),
        BinaryOp::Minus => x.minus(y),
        BinaryOp::Mul => x.times(y),
        BinaryOp::Div => x.over(y),
        _ => x.rest(y),
    };
    result.map_err(|error| match error {
        NumberError::Zero => "division by zero".to_owned(),
        error => format!("the result {error}"),
    })
}
