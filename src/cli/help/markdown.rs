//! The Markdown of help pages as a list of blocks: headings, paragraphs, lists, code.
//! Knows the few forms that pages use, not how they are shown.

use pulldown_cmark::{Event, Parser, Tag, TagEnd};

/// A block of a page.
pub(super) enum Block {
    /// A heading: 2 divides a page, 3 begins an entry of a reference.
    Heading(u8, Vec<Inline>),
    Paragraph(Vec<Inline>),
    /// An item of a list.
    Item(Vec<Inline>),
    /// Lines that are shown as they are.
    Code(String),
}

/// A part of a line.
pub(super) enum Inline {
    Text(String),
    Code(String),
    Emphasis(String),
}

/// The blocks of a page. Lists in lists, tables and HTML are not used.
pub(super) fn parse(text: &str) -> Vec<Block> {
    let (mut blocks, mut inlines) = (Vec::new(), Vec::new());
    let (mut code, mut emphasis, mut in_item) = (None, false, false);
    for event in Parser::new(text) {
        match event {
            Event::Start(Tag::Item) => in_item = true,
            Event::End(TagEnd::Item) => {
                blocks.push(Block::Item(std::mem::take(&mut inlines)));
                in_item = false;
            }
            Event::End(TagEnd::Paragraph) if !in_item => {
                blocks.push(Block::Paragraph(std::mem::take(&mut inlines)))
            }
            Event::End(TagEnd::Heading(level)) => {
                blocks.push(Block::Heading(level as u8, std::mem::take(&mut inlines)));
            }
            Event::Start(Tag::CodeBlock(_)) => code = Some(String::new()),
            Event::End(TagEnd::CodeBlock) => blocks.extend(code.take().map(Block::Code)),
            Event::Start(Tag::Emphasis) => emphasis = true,
            Event::End(TagEnd::Emphasis) => emphasis = false,
            Event::Code(text) => inlines.push(Inline::Code(text.into_string())),
            Event::Text(text) => match &mut code {
                Some(code) => code.push_str(&text),
                None if emphasis => inlines.push(Inline::Emphasis(text.into_string())),
                None => inlines.push(Inline::Text(text.into_string())),
            },
            Event::SoftBreak | Event::HardBreak => inlines.push(Inline::Text(" ".to_owned())),
            _ => {}
        }
    }
    blocks
}

/// A heading's text, in which code needs no marks.
pub(super) fn plain(inlines: &[Inline]) -> String {
    let parts = inlines.iter().map(|inline| match inline {
        Inline::Text(text) | Inline::Emphasis(text) | Inline::Code(text) => text.as_str(),
    });
    parts.collect()
}

/// A sentence of a description as Markdown: what stands in backquotes stays code, and nothing else is taken for a form.
pub(crate) fn sentence(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (index, part) in text.split('`').enumerate() {
        if index > 0 {
            out.push('`');
        }
        for c in part.chars() {
            if index % 2 == 0 && matches!(c, '\\' | '*' | '_' | '[' | ']' | '<' | '>' | '#' | '&') {
                out.push('\\');
            }
            out.push(c);
        }
    }
    out
}

/// A description of several lines: a paragraph, then a list of the further lines.
pub(crate) fn description(text: &str) -> String {
    let mut lines = text.lines().map(sentence);
    let first = lines.next().unwrap_or_default();
    let rest: Vec<String> = lines.map(|line| format!("- {line}\n")).collect();
    if rest.is_empty() {
        format!("{first}\n\n")
    } else {
        format!("{first}\n\n{}\n", rest.concat())
    }
}

/// Lines that are shown as they are.
pub(crate) fn code(language: &str, text: &str) -> String {
    format!("````{language}\n{}\n````\n\n", text.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_comes_through_as_it_is() {
        let odd = r#"Paths such as ["/var/*_log/<x>#1"] \ & more: `a*b_c` is code"#;
        let [Block::Paragraph(inlines)] = &parse(&sentence(odd))[..] else {
            panic!("one paragraph")
        };
        let shown: String = inlines
            .iter()
            .map(|inline| match inline {
                Inline::Text(text) => text.clone(),
                Inline::Code(text) => format!("`{text}`"),
                Inline::Emphasis(text) => format!("*{text}*"),
            })
            .collect();
        assert_eq!(shown, odd);
    }
}
