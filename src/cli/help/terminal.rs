//! Help pages on a terminal: wrapped, with clap's style of headings.
//! Knows blocks and columns, not what pages say.

use anstyle::Style;

use super::markdown::{Block, Inline, parse, plain};
use crate::base::table::{output_width, wrap};

/// As clap's headings are.
const HEADING: Style = Style::new().bold().underline();
const TERM: Style = Style::new().bold();
/// Columns of a page where standard output is no terminal, and most of them where it is: as clap's help.
const WIDTH: usize = 100;
/// Columns by which code is set off, and the text of an entry.
const INDENT: usize = 4;
/// Stands for a blank at which a line is not cut.
const NO_BREAK: char = '\u{a0}';

/// A page as it is shown.
pub(super) fn render(body: &str) -> String {
    within(body, output_width().unwrap_or(WIDTH).min(WIDTH))
}

fn within(body: &str, width: usize) -> String {
    let mut out = String::new();
    let (mut in_entry, mut after_item) = (false, false);
    for block in parse(body) {
        let is_item = matches!(block, Block::Item(_));
        let is_heading = matches!(block, Block::Heading(..));
        // What belongs to an entry stands close together, as do the items of a list.
        let close = !is_heading && in_entry || is_item && after_item;
        if !out.is_empty() && !close {
            out.push('\n');
        }
        after_item = is_item;
        match block {
            Block::Heading(level, inlines) => {
                in_entry = level > 2;
                let (style, text) = (if in_entry { TERM } else { HEADING }, plain(&inlines));
                out.push_str(&format!(
                    "{style}{text}{style:#}{}\n",
                    if in_entry { "" } else { ":" }
                ));
            }
            Block::Paragraph(inlines) => {
                let indent = if in_entry { INDENT } else { 0 };
                lines(
                    &mut out,
                    &shown(&inlines),
                    &" ".repeat(indent),
                    &" ".repeat(indent),
                    width,
                );
            }
            Block::Item(inlines) => {
                let indent = " ".repeat(if in_entry { INDENT } else { 0 });
                lines(
                    &mut out,
                    &shown(&inlines),
                    &format!("{indent}- "),
                    &format!("{indent}  "),
                    width,
                );
            }
            Block::Code(text) => {
                for line in text.lines() {
                    out.push_str(format!("{:INDENT$}{line}", "").trim_end());
                    out.push('\n');
                }
            }
        }
    }
    out
}

fn lines(out: &mut String, text: &str, first: &str, others: &str, width: usize) {
    for (index, line) in wrap(text, width.checked_sub(others.len()))
        .into_iter()
        .enumerate()
    {
        out.push_str(if index == 0 { first } else { others });
        out.push_str(&line.replace(NO_BREAK, " "));
        out.push('\n');
    }
}

/// A line's parts: code in backquotes, as in other messages, and whole.
fn shown(inlines: &[Inline]) -> String {
    let parts = inlines.iter().map(|inline| match inline {
        Inline::Text(text) | Inline::Emphasis(text) => text.clone(),
        Inline::Code(code) => format!("`{}`", code.replace(' ', &NO_BREAK.to_string())),
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_fits_the_terminal() {
        let body = "\
One *two* three `four five` six seven eight nine ten.

- an item that is longer than one line is
- another

## More

```sh
code that is longer than the terminal is wide
```

### `entry(x)`

What it is, in words.

```text
entry(1)  →  2
```
";
        let text = anstream::adapter::strip_str(&within(body, 24)).to_string();
        assert_eq!(
            text,
            "\
One two three
`four five` six seven
eight nine ten.

- an item that is longer
  than one line is
- another

More:

    code that is longer than the terminal is wide

entry(x)
    What it is, in
    words.
    entry(1)  →  2
"
        );
    }
}
