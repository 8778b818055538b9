//! `for` expressions.

use impasto_stages::{Data, Marks, Value};

use super::{BuiltText, EvalResult, Evaluator, Failed, Items, MAX_REPORTS, quoted};
use crate::recipe::convert::{self, show};
use crate::recipe::diagnostic::{Diagnostic, Span};
use crate::recipe::expr::For;

impl Evaluator {
    pub(super) fn for_expr(&mut self, parts: &For) -> EvalResult {
        let collection = self.eval(&parts.collection)?;
        let mut marks = collection.marks.clone();
        let items = self.items(parts.collection.span, &collection)?;
        let depth = self.scope.len();
        let mut failed = false;
        let mut values = Vec::new();
        let mut object = BuiltText::default();
        for (key, value) in items {
            self.scope.extend(parts.keyed.then_some(key));
            self.scope.push(value);
            let before = self.diagnostics.len();
            if self
                .for_item(parts, &mut marks, &mut values, &mut object)
                .is_err()
            {
                failed = true;
                if self.budget.is_exhausted()
                    || self.diagnostics.len() >= MAX_REPORTS && self.diagnostics.len() >= before
                {
                    self.scope.truncate(depth);
                    break;
                }
            }
            self.scope.truncate(depth);
        }
        if failed {
            return Err(Failed);
        }
        let data = match parts.key.is_some() {
            true => Data::Object(object.into_attributes().into()),
            false => Data::List(values.into()),
        };
        Ok(Value {
            data,
            marks,
            origin: None,
        })
    }

    fn for_item(
        &mut self,
        parts: &For,
        marks: &mut Marks,
        values: &mut Vec<Value>,
        object: &mut BuiltText,
    ) -> Result<(), Failed> {
        if let Some(condition) = &parts.condition {
            let value = self.eval(condition)?;
            marks.unite(&value.marks);
            if !self.truth(condition.span, &value)? {
                return Ok(());
            }
        }
        let Some(key_expr) = &parts.key else {
            values.push(self.eval(&parts.value)?);
            return Ok(());
        };
        let key = self.eval(key_expr);
        let value = self.eval(&parts.value)?;
        let key = self.key(key_expr.span, &key?, marks)?;
        if parts.grouping {
            object.groups.entry(key).or_default().push(value);
            return Ok(());
        }
        if object.values.contains_key(&key) {
            let message = format!("two elements have the same key, {}", quoted(&key, marks));
            let help = "write `...` after the value to group the values of equal keys into lists";
            return self.fail(Diagnostic::at(key_expr.span, message).help(help));
        }
        object.values.insert(key, value);
        Ok(())
    }

    /// A collection's keys and values.
    pub(super) fn items<'v>(
        &mut self,
        span: Span,
        collection: &'v Value,
    ) -> Result<Items<'v>, Failed> {
        match &collection.data {
            Data::List(items) => Ok(Box::new(
                items
                    .iter()
                    .enumerate()
                    .map(|(index, item)| (convert::int(index), item.clone())),
            )),
            Data::Object(items) => {
                Ok(Box::new(items.iter().map(|(key, item)| {
                    (Value::string(key.as_str()), item.clone())
                })))
            }
            _ => self.fail(Diagnostic::at(
                span,
                format!(
                    "`for` needs a list or an object, found {}",
                    show(collection)
                ),
            )),
        }
    }
}
