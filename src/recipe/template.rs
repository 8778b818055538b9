//! Templates on their way from the parser's tree: `~` trimming, and the indentation that `<<-` takes away.
//! Knows how literal text is cut; evaluates nothing.

use hcl_edit::Span as _;
use hcl_edit::template::{
    Directive, Element, HeredocTemplate, StringTemplate, Template as HclTemplate,
};

use super::diagnostic::{Diagnostic, Span};
use super::expr::{ExprNode, Template, TemplatePart};
use super::lower::Lowering;

/// How the literals of a template are cut.
#[derive(Clone, Copy)]
struct Cut {
    /// Whether `~` stops at the end of a line, as it does where lines are lines.
    lines: bool,
    /// How much indentation goes away, for `<<-`.
    indent: Option<usize>,
    /// Whether it stands within a directive of a quoted text, where the parser leaves escapes as they are.
    raw: bool,
}

impl Lowering<'_> {
    pub(super) fn quoted_parts(&mut self, template: &StringTemplate) -> Vec<TemplatePart> {
        self.parts(
            template,
            Cut {
                lines: false,
                indent: None,
                raw: false,
            },
            false,
            false,
        )
    }

    /// The parts of a template file.
    pub(super) fn file_parts(&mut self, template: &HclTemplate) -> Vec<TemplatePart> {
        self.templates += 1;
        let parts = self.parts(
            template,
            Cut {
                lines: true,
                indent: None,
                raw: false,
            },
            false,
            false,
        );
        self.templates -= 1;
        parts
    }

    pub(super) fn heredoc(&mut self, heredoc: &HeredocTemplate, span: Span) -> ExprNode {
        let text = self.text.text.clone();
        let indented = text
            .get(span.start as usize..)
            .is_some_and(|text| text.starts_with("<<-"));
        let indent = indented.then(|| {
            let mut least = None;
            least_indent(&heredoc.template, &text, &mut least);
            least.unwrap_or(0)
        });
        let parts = self.parts(
            &heredoc.template,
            Cut {
                lines: true,
                indent,
                raw: false,
            },
            false,
            false,
        );
        // The first line of the text is the one after the line that `<<` stands in.
        let after = text[span.start as usize..]
            .find('\n')
            .map_or(span.start, |at| span.start + at as u32 + 1);
        if parts
            .iter()
            .all(|part| matches!(part, TemplatePart::Text(_)))
        {
            let texts = parts.iter().map(|part| {
                if let TemplatePart::Text(text) = part {
                    text.as_str()
                } else {
                    ""
                }
            });
            return ExprNode::Const(self.text_value(&texts.collect::<String>(), after));
        }
        let origin = self.text_value("", after).origin;
        ExprNode::Template(Box::new(Template { parts, origin }))
    }

    /// The parts, with whitespace taken from the first and last literal where the neighbours outside ask for it.
    fn parts(
        &mut self,
        template: &HclTemplate,
        cut: Cut,
        trim_first: bool,
        trim_last: bool,
    ) -> Vec<TemplatePart> {
        let elements: Vec<&Element> = template.iter().collect();
        let mut parts = Vec::with_capacity(elements.len());
        for (index, element) in elements.iter().enumerate() {
            match element {
                Element::Literal(literal) => {
                    let before = match index.checked_sub(1).map(|before| elements[before]) {
                        None => trim_first,
                        Some(Element::Literal(_)) => false,
                        Some(other) => strip_end(other),
                    };
                    let after = match elements.get(index + 1) {
                        None => trim_last,
                        Some(Element::Literal(_)) => false,
                        Some(other) => strip_start(other),
                    };
                    let text = self.literal(literal.value(), literal.span(), cut);
                    let text = if before {
                        trim_left(&text, cut.lines)
                    } else {
                        &text
                    };
                    let text = if after {
                        trim_right(text, cut.lines)
                    } else {
                        text
                    };
                    if !text.is_empty() {
                        parts.push(TemplatePart::Text(text.to_owned()));
                    }
                }
                Element::Interpolation(interpolation) => {
                    parts.push(TemplatePart::Value(self.expr(&interpolation.expr)))
                }
                Element::Directive(directive) => parts.push(self.directive(directive, cut)),
            }
        }
        parts
    }

    fn directive(&mut self, directive: &Directive, cut: Cut) -> TemplatePart {
        let cut = Cut {
            raw: !cut.lines,
            ..cut
        };
        match directive {
            Directive::If(parts) => {
                let condition = self.expr(&parts.if_expr.cond_expr);
                let end = parts.endif_expr.strip.strip_start();
                let first = parts.if_expr.strip.strip_end();
                let last = parts
                    .else_expr
                    .as_ref()
                    .map_or(end, |other| other.strip.strip_start());
                let then = self.parts(&parts.if_expr.template, cut, first, last);
                let otherwise = match &parts.else_expr {
                    Some(other) => self.parts(&other.template, cut, other.strip.strip_end(), end),
                    None => Vec::new(),
                };
                TemplatePart::If {
                    condition,
                    then,
                    otherwise,
                }
            }
            Directive::For(parts) => {
                let collection = self.expr(&parts.for_expr.collection_expr);
                let depth = self.scope.len();
                let key = parts.for_expr.key_var.as_ref();
                self.scope.extend(key.map(|name| name.as_str().into()));
                self.scope.push(parts.for_expr.value_var.as_str().into());
                let first = parts.for_expr.strip.strip_end();
                let body = self.parts(
                    &parts.for_expr.template,
                    cut,
                    first,
                    parts.endfor_expr.strip.strip_start(),
                );
                self.scope.truncate(depth);
                TemplatePart::For {
                    keyed: key.is_some(),
                    collection,
                    body,
                }
            }
        }
    }

    /// A literal's text. For `<<-` it is taken from the source: the parser's own way to cut indentation loses text.
    fn literal(&mut self, value: &str, range: Option<std::ops::Range<usize>>, cut: Cut) -> String {
        if cut.raw {
            return unescape(value).unwrap_or_else(|problem| {
                let span = self.span(range);
                self.diagnostics.push(
                    Diagnostic::at(span, problem)
                        .help("a directive must end in the string in which it starts"),
                );
                String::new()
            });
        }
        let (Some(indent), Some(range)) = (cut.indent, range) else {
            return value.to_owned();
        };
        let Some(raw) = self.text.text.get(range.clone()) else {
            return value.to_owned();
        };
        let mut out = String::with_capacity(raw.len());
        let mut at_line_start = line_start(&self.text.text, range.start);
        for line in raw.split_inclusive('\n') {
            let blanks = line.len() - line.trim_start_matches([' ', '\t']).len();
            out.push_str(if at_line_start {
                &line[blanks.min(indent)..]
            } else {
                line
            });
            at_line_start = true;
        }
        out.replace("$${", "${").replace("%%{", "%{")
    }
}

/// Resolves the escapes of a quoted text.
fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if matches!(c, '"' | '\n') {
            return Err("the string ends within an unclosed `%{ … }`".to_owned());
        }
        if c != '\\' {
            out.push(c);
            continue;
        }
        let letter = chars.next().unwrap_or('\\');
        let plain = match letter {
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            '"' | '\\' => letter,
            'u' | 'U' => {
                let digits = if letter == 'u' { 4 } else { 8 };
                let code: String = chars.by_ref().take(digits).collect();
                let number = (code.len() == digits)
                    .then(|| u32::from_str_radix(&code, 16).ok())
                    .flatten();
                let found = number.and_then(char::from_u32);
                found.ok_or_else(|| format!("`\\{letter}{code}` is not a valid character"))?
            }
            _ => return Err(format!("unknown escape `\\{letter}`")),
        };
        out.push(plain);
    }
    Ok(out)
}

fn strip_start(element: &Element) -> bool {
    match element {
        Element::Literal(_) => false,
        Element::Interpolation(interpolation) => interpolation.strip.strip_start(),
        Element::Directive(directive) => match &**directive {
            Directive::If(parts) => parts.if_expr.strip.strip_start(),
            Directive::For(parts) => parts.for_expr.strip.strip_start(),
        },
    }
}

fn strip_end(element: &Element) -> bool {
    match element {
        Element::Literal(_) => false,
        Element::Interpolation(interpolation) => interpolation.strip.strip_end(),
        Element::Directive(directive) => match &**directive {
            Directive::If(parts) => parts.endif_expr.strip.strip_end(),
            Directive::For(parts) => parts.endfor_expr.strip.strip_end(),
        },
    }
}

/// Takes whitespace off the beginning; in a text of lines at most to the end of the first one.
fn trim_left(text: &str, lines: bool) -> &str {
    if !lines {
        return text.trim_start();
    }
    let (first, rest) = text.split_at(text.find('\n').map_or(text.len(), |at| at + 1));
    if first.trim().is_empty() {
        rest
    } else {
        text.trim_start()
    }
}

/// Takes whitespace off the end; in a text of lines at most to the beginning of the last one.
fn trim_right(text: &str, lines: bool) -> &str {
    if !lines {
        return text.trim_end();
    }
    let body = text.strip_suffix('\n').unwrap_or(text);
    let start = body.rfind('\n').map_or(0, |at| at + 1);
    &text[..start + text[start..].trim_end().len()]
}

fn line_start(text: &str, at: usize) -> bool {
    at == 0 || text.as_bytes().get(at - 1) == Some(&b'\n')
}

/// The indentation that all lines of a heredoc have in common. Blank lines do not count.
fn least_indent(template: &HclTemplate, text: &str, least: &mut Option<usize>) {
    let mut take =
        |width: usize| *least = Some(least.map_or(width, |least: usize| least.min(width)));
    let mut inner = Vec::new();
    for element in template.iter() {
        let Some(range) = element.span() else {
            continue;
        };
        match element {
            Element::Literal(_) => {
                let raw = text.get(range.clone()).unwrap_or_default();
                let mut at_line_start = line_start(text, range.start);
                for line in raw.split_inclusive('\n') {
                    let blanks = line.len() - line.trim_start_matches([' ', '\t']).len();
                    // A line that ends here without its end goes on with an interpolation.
                    if at_line_start && (!line.trim().is_empty() || !line.ends_with('\n')) {
                        take(blanks);
                    }
                    at_line_start = true;
                }
                let next = text.as_bytes().get(range.end);
                if raw.ends_with('\n') && matches!(next, Some(b'$' | b'%')) {
                    take(0);
                }
            }
            Element::Interpolation(_) if line_start(text, range.start) => take(0),
            Element::Interpolation(_) => {}
            Element::Directive(directive) => {
                if line_start(text, range.start) {
                    take(0);
                }
                match &**directive {
                    Directive::If(parts) => {
                        inner.push(&parts.if_expr.template);
                        inner.extend(parts.else_expr.as_ref().map(|other| &other.template));
                    }
                    Directive::For(parts) => inner.push(&parts.for_expr.template),
                }
            }
        }
    }
    for template in inner {
        least_indent(template, text, least);
    }
}
