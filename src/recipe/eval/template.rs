//! Texts with expressions in them.

use impasto_stages::{Data, Marks, Value};

use super::{BoundedWriter, EvalResult, Evaluator, Failed};
use crate::recipe::convert::{self, show};
use crate::recipe::diagnostic::{Diagnostic, Span};
use crate::recipe::expr::{Template, TemplatePart};

impl Evaluator {
    pub(super) fn template(&mut self, span: Span, template: &Template) -> EvalResult {
        if let [TemplatePart::Value(only)] = template.parts.as_slice() {
            // "${x}" is x itself, of whatever type.
            return self.eval(only);
        }
        let mut writer = BoundedWriter {
            text: String::new(),
            marks: Marks::default(),
            verbatim: true,
            paid: 0,
        };
        self.parts(&template.parts, &mut writer)?;
        self.grown(span, &mut writer)?;
        let origin = if writer.verbatim {
            template.origin.clone()
        } else {
            None
        };
        Ok(Value {
            data: Data::String(writer.text.into()),
            marks: writer.marks,
            origin,
        })
    }

    /// A template file's text.
    pub(in crate::recipe) fn template_text(
        &mut self,
        span: Span,
        parts: &[TemplatePart],
    ) -> EvalResult {
        let mut writer = BoundedWriter {
            text: String::new(),
            marks: Marks::default(),
            verbatim: false,
            paid: 0,
        };
        self.parts(parts, &mut writer)?;
        self.grown(span, &mut writer)?;
        Ok(Value {
            data: Data::String(writer.text.into()),
            marks: writer.marks,
            origin: None,
        })
    }

    fn parts(&mut self, parts: &[TemplatePart], out: &mut BoundedWriter) -> Result<(), Failed> {
        let mut failed = false;
        for part in parts {
            failed |= self.part(part, out).is_err();
        }
        if failed { Err(Failed) } else { Ok(()) }
    }

    fn part(&mut self, part: &TemplatePart, out: &mut BoundedWriter) -> Result<(), Failed> {
        match part {
            TemplatePart::Text(text) => out.text.push_str(text),
            TemplatePart::Value(expr) => {
                let value = self.eval(expr)?;
                out.marks.unite(&value.marks);
                let Some(text) = convert::to_text(&value) else {
                    let message = format!("{} cannot be part of a string", show(&value));
                    let help = match value.data {
                        Data::List(_) => "use `join(\", \", …)`, or `jsonencode(…)`",
                        Data::Object(_) => "use `jsonencode(…)`, or one of its attributes",
                        Data::Null => "use `coalesce(…, \"\")` if it may be null",
                        _ => {
                            "a stage is not a string: pass it to a parameter that takes a stage, such as `inputs` of \
                              `run`"
                        }
                    };
                    return self.fail(Diagnostic::at(expr.span, message).help(help));
                };
                out.verbatim &= !text.contains('\n');
                out.text.push_str(&text);
                self.grown(expr.span, out)?;
            }
            TemplatePart::If {
                condition,
                then,
                otherwise,
            } => {
                out.verbatim = false;
                let value = self.eval(condition)?;
                out.marks.unite(&value.marks);
                let chosen = if self.truth(condition.span, &value)? {
                    then
                } else {
                    otherwise
                };
                self.parts(chosen, out)?;
            }
            TemplatePart::For {
                keyed,
                collection,
                body,
            } => {
                out.verbatim = false;
                let value = self.eval(collection)?;
                out.marks.unite(&value.marks);
                let depth = self.scope.len();
                let mut failed = false;
                for (key, value) in self.items(collection.span, &value)? {
                    self.scope.extend(keyed.then_some(key));
                    self.scope.push(value);
                    failed |= self.parts(body, out).is_err();
                    self.scope.truncate(depth);
                    self.grown(collection.span, out)?;
                    if failed && self.budget.is_exhausted() {
                        break;
                    }
                }
                if failed {
                    return Err(Failed);
                }
            }
        }
        Ok(())
    }
}
