//! Help pages as pages of the manual, section 7: `impasto-lock(7)`. The commands' pages are clap's.
//! Knows blocks and requests of man(7), not what pages say.

use clap_mangen::roff::{Inline as Part, Roff, bold, italic, roman};

use super::markdown::{Block, Inline, parse, plain};
use super::page::Page;

/// The section: conventions and other things that are no command.
pub(crate) const SECTION: &str = "7";

/// An argument of a request that says nothing.
const NOTHING: &str = "\"\"";

/// A page's name in the manual, without its section.
pub(crate) fn name(page: &Page) -> String {
    format!("impasto-{}", page.name)
}

/// A page as the source of a manual's page.
pub(crate) fn render(page: &Page, version: &str) -> String {
    let name = name(page);
    let mut roff = Roff::new();
    roff.control(
        "TH",
        [
            name.to_uppercase().as_str(),
            SECTION,
            NOTHING,
            &format!("impasto {version}"),
            NOTHING,
        ],
    );
    roff.control("SH", ["NAME"])
        .text([roman(format!("{name} - {}", page.summary))]);
    roff.control("SH", ["DESCRIPTION"]);
    let mut in_entry = false;
    for block in parse(&page.body) {
        match block {
            Block::Heading(level, inlines) => {
                in_entry = level > 2;
                if in_entry {
                    roff.control("TP", []).text([bold(plain(&inlines))]);
                } else {
                    roff.control("SH", [plain(&inlines).to_uppercase().as_str()]);
                }
            }
            Block::Paragraph(inlines) => {
                // In an entry the text stays beside its term.
                roff.control(if in_entry { "br" } else { "PP" }, [])
                    .text(parts(&inlines));
            }
            Block::Item(inlines) => {
                roff.control("IP", ["\\(bu", "2"]).text(parts(&inlines));
            }
            Block::Code(text) => {
                roff.control(if in_entry { "br" } else { "PP" }, []);
                roff.control("RS", ["4"]).control("nf", []);
                text.lines().for_each(|line| {
                    roff.text([roman(line)]);
                });
                roff.control("fi", []).control("RE", []);
            }
        }
    }
    roff.control("SH", ["SEE ALSO"])
        .text([bold("impasto"), roman("(1)")]);
    roff.render()
}

fn parts(inlines: &[Inline]) -> Vec<Part> {
    let part = |inline: &Inline| match inline {
        Inline::Text(text) => roman(text.as_str()),
        Inline::Code(text) => bold(text.as_str()),
        Inline::Emphasis(text) => italic(text.as_str()),
    };
    inlines.iter().map(part).collect()
}
