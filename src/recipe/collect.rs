//! The blocks of a recipe's files: which there are, what they are called, which attributes they have.
//! Knows blocks and labels; evaluates nothing.

use std::collections::HashMap;
use std::sync::Arc;

use hcl_edit::Span as _;
use hcl_edit::expr::Expression;
use hcl_edit::structure::{Attribute, Block, Body, Structure};

use super::blocks::{BLOCKS, Block as Known};
use super::diagnostic::{Diagnostic, Span};
use super::expr::Names;
use super::packer;
use super::suggest::{did_you_mean, nearest};

/// Most axes of a matrix.
const MAX_AXES: usize = 32;

/// `name = value`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attr<'t> {
    pub(super) name: &'t str,
    pub(super) span: Span,
    pub(super) value: &'t Expression,
}

/// A block with attributes.
#[derive(Debug)]
pub(super) struct Decl<'t> {
    pub(super) file: u32,
    pub(super) name: Arc<str>,
    /// Where its name stands.
    pub(super) span: Span,
    /// From its first word to its last label.
    pub(super) head: Span,
    pub(super) kind: Option<(&'t str, Span)>,
    pub(super) attrs: Vec<Attr<'t>>,
    /// A variable's `validation` blocks.
    pub(super) blocks: Vec<Decl<'t>>,
}

impl<'t> Decl<'t> {
    pub(super) fn attr(&self, name: &str) -> Option<&Attr<'t>> {
        self.attrs.iter().find(|attr| attr.name == name)
    }
}

/// All blocks of all files.
#[derive(Debug, Default)]
pub(super) struct Declarations<'t> {
    pub(super) recipe: Option<Decl<'t>>,
    pub(super) variables: Vec<Decl<'t>>,
    pub(super) locals: Vec<(u32, Attr<'t>)>,
    pub(super) matrix: Option<Decl<'t>>,
    pub(super) stages: Vec<Decl<'t>>,
    pub(super) images: Vec<Decl<'t>>,
}

/// Collects blocks, and what is wrong with them as such.
pub(super) struct Collector<'t> {
    pub(super) found: Declarations<'t>,
    pub(super) names: Names,
    pub(super) diagnostics: Vec<Diagnostic>,
    first: HashMap<(&'static str, &'t str), Span>,
}

impl<'t> Collector<'t> {
    pub(super) fn new() -> Self {
        Collector {
            found: Declarations::default(),
            names: Names::default(),
            diagnostics: Vec::new(),
            first: HashMap::new(),
        }
    }

    pub(super) fn file(&mut self, file: u32, body: &'t Body) {
        for structure in body.iter() {
            match structure {
                Structure::Attribute(attr) => {
                    let name = attr.key.as_str();
                    let diagnostic = Diagnostic::at(
                        place(file, attr.key.span()),
                        format!("`{name}` is outside any block"),
                    )
                    .help("named values go into `locals { … }`");
                    self.diagnostics.push(diagnostic);
                }
                Structure::Block(block) => self.block(file, block),
            }
        }
    }

    fn block(&mut self, file: u32, block: &'t Block) {
        let word = block.ident.as_str();
        let span = place(file, block.ident.span());
        let Some(known) = Known::named(word) else {
            let label = block.labels.first().map(|label| label.as_str());
            let help = match word {
                _ if packer::block(word, label).is_some() => packer::block(word, label),
                "local" => Some("write `locals { … }`".to_owned()),
                "variables" => Some(
                    "declare each variable in a block of its own: `variable \"NAME\" { … }`"
                        .to_owned(),
                ),
                _ => did_you_mean("blocks", word, BLOCKS.iter().map(|block| block.name)),
            };
            self.diagnostics
                .push(Diagnostic::at(span, format!("unknown block `{word}`")).maybe_help(help));
            // Of a build's steps each has something in its place.
            for inner in block.body.blocks().filter(|_| word == "build") {
                self.nested(file, word, inner);
            }
            return;
        };
        let labels = known.labels.len();
        let texts: Vec<(&str, Span)> = block
            .labels
            .iter()
            .map(|label| (label.as_str(), place(file, label.span())))
            .collect();
        let head = texts.last().map_or(span, |(_, last)| span.to(*last));
        if texts.len() != labels {
            let found = match texts.len() {
                0 => "no label".to_owned(),
                1 => "1 label".to_owned(),
                many => format!("{many} labels"),
            };
            let message = format!(
                "`{word}` takes {labels} label{}, not {found}",
                if labels == 1 { "" } else { "s" }
            );
            self.diagnostics.push(
                Diagnostic::at(head, message).help(format!("write `{} {{ … }}`", known.head())),
            );
            return;
        }
        let (name, name_span) = texts.last().copied().unwrap_or((word, span));
        let kind = (word == "stage").then(|| texts[0]);
        let mut decl = Decl {
            file,
            name: name.into(),
            span: name_span,
            head,
            kind,
            attrs: Vec::with_capacity(block.body.len()),
            blocks: Vec::new(),
        };
        for structure in block.body.iter() {
            match structure {
                Structure::Attribute(attr) => decl.attrs.push(attribute(file, attr)),
                Structure::Block(inner)
                    if word == "variable" && inner.ident.as_str() == "validation" =>
                {
                    decl.blocks.push(validation(file, inner));
                }
                Structure::Block(inner) => self.nested(file, word, inner),
            }
        }
        self.declare(word, decl);
    }

    fn nested(&mut self, file: u32, outer: &str, inner: &Block) {
        let word = inner.ident.as_str();
        let diagnostic = Diagnostic::at(
            place(file, inner.ident.span()),
            format!("a block is not allowed in `{outer}`"),
        );
        let label = inner.labels.first().map(|label| label.as_str());
        let help = match outer {
            _ if packer::block(word, label).is_some() => packer::block(word, label),
            "variable" => did_you_mean("blocks of a variable", word, ["validation"]),
            _ => Some(format!("write it as an attribute: `{word} = {{ … }}`")),
        };
        self.diagnostics.push(diagnostic.maybe_help(help));
    }

    fn declare(&mut self, word: &str, decl: Decl<'t>) {
        match word {
            "recipe" => match &self.found.recipe {
                Some(first) => self.twice("the block `recipe` appears", decl.head, first.head),
                None => self.found.recipe = Some(decl),
            },
            "matrix" => match &self.found.matrix {
                Some(first) => self.twice("the block `matrix` appears", decl.head, first.head),
                None => self.matrix(decl),
            },
            "locals" => {
                for attr in decl.attrs {
                    if self.unique("local", attr.name, attr.span) {
                        let id = self.found.locals.len() as u32;
                        self.names.locals.insert(attr.name.to_owned(), id);
                        self.found.locals.push((decl.file, attr));
                    }
                }
            }
            "variable" => {
                if self.good_name("variable", &decl) && self.unique_decl("variable", &decl) {
                    self.names
                        .variables
                        .insert(decl.name.to_string(), self.found.variables.len() as u32);
                    self.found.variables.push(decl);
                }
            }
            "stage" => {
                if self.good_name("stage", &decl) && self.unique_decl("stage", &decl) {
                    self.names
                        .stages
                        .insert(decl.name.clone(), self.found.stages.len() as u32);
                    self.found.stages.push(decl);
                }
            }
            _ => {
                if self.good_name("image", &decl) && self.unique_decl("image", &decl) {
                    self.found.images.push(decl);
                }
            }
        }
    }

    fn matrix(&mut self, decl: Decl<'t>) {
        for (id, attr) in decl.attrs.iter().enumerate() {
            if id == MAX_AXES {
                let message = format!("the matrix has more than {MAX_AXES} axes");
                self.diagnostics.push(Diagnostic::at(attr.span, message));
                return;
            }
            self.names.axes.insert(attr.name.to_owned(), id as u32);
        }
        self.found.matrix = Some(decl);
    }

    fn twice(&mut self, what: &str, second: Span, first: Span) {
        let diagnostic =
            Diagnostic::at(second, format!("{what} twice")).also(first, "first declared here");
        self.diagnostics.push(diagnostic.help("remove one of them"));
    }

    fn unique_decl(&mut self, what: &'static str, decl: &Decl<'t>) -> bool {
        let key = match what {
            "variable" => self
                .names
                .variables
                .get(&*decl.name)
                .map(|id| self.found.variables[*id as usize].span),
            "stage" => self
                .names
                .stages
                .get(&*decl.name)
                .map(|id| self.found.stages[*id as usize].span),
            _ => self
                .found
                .images
                .iter()
                .find(|other| other.name == decl.name)
                .map(|other| other.span),
        };
        let Some(first) = key else { return true };
        let message = format!("the {what} `{}` is declared twice", decl.name);
        let diagnostic = Diagnostic::at(decl.span, message).also(first, "first declared here");
        self.diagnostics.push(diagnostic.help("rename one of them"));
        false
    }

    fn unique(&mut self, what: &'static str, name: &'t str, span: Span) -> bool {
        match self.first.get(&(what, name)) {
            Some(first) => {
                let message = format!("the {what} `{name}` is declared twice");
                let diagnostic = Diagnostic::at(span, message).also(*first, "first declared here");
                self.diagnostics.push(diagnostic.help("remove one of them"));
                false
            }
            None => {
                self.first.insert((what, name), span);
                true
            }
        }
    }

    /// Whether a name can be written in references, selectors and file names.
    fn good_name(&mut self, what: &str, decl: &Decl<'t>) -> bool {
        let mut chars = decl.name.chars();
        let first = chars
            .next()
            .is_some_and(|c| c.is_alphanumeric() || c == '_');
        let first =
            first && (what == "image" || !decl.name.starts_with(|c: char| c.is_ascii_digit()));
        let rest = chars
            .all(|c| c.is_alphanumeric() || matches!(c, '_' | '-') || what == "image" && c == '.');
        if first && rest && decl.name.len() <= 128 {
            return true;
        }
        let message = format!(
            "{:?} is not a valid name for a{} {what}",
            &*decl.name,
            if what == "image" { "n" } else { "" }
        );
        let help = "use letters, digits, `_` and `-`, starting with a letter";
        self.diagnostics
            .push(Diagnostic::at(decl.span, message).help(help));
        false
    }

    /// Reports attributes that a block does not have.
    pub(super) fn known(
        diagnostics: &mut Vec<Diagnostic>,
        what: &str,
        decl: &Decl<'_>,
        block: &Known,
    ) {
        let known: Vec<&str> = block
            .attributes
            .iter()
            .map(|attribute| attribute.name)
            .collect();
        for attr in &decl.attrs {
            if !known.contains(&attr.name) {
                let message = format!("unknown attribute `{}` of {what}", attr.name);
                let help = match nearest(attr.name, known.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("valid attributes: {}", known.join(", ")),
                };
                diagnostics.push(Diagnostic::at(attr.span, message).help(help));
            }
        }
    }
}

fn attribute(file: u32, attr: &Attribute) -> Attr<'_> {
    Attr {
        name: attr.key.as_str(),
        span: place(file, attr.key.span()),
        value: &attr.value,
    }
}

fn validation(file: u32, block: &Block) -> Decl<'_> {
    let span = place(file, block.ident.span());
    let attrs = block
        .body
        .attributes()
        .map(|attr| attribute(file, attr))
        .collect();
    Decl {
        file,
        name: "validation".into(),
        span,
        head: span,
        kind: None,
        attrs,
        blocks: Vec::new(),
    }
}

fn place(file: u32, range: Option<std::ops::Range<usize>>) -> Span {
    let range = range.unwrap_or_default();
    Span {
        file,
        start: range.start as u32,
        end: range.end as u32,
    }
}
