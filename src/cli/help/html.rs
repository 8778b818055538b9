//! The reference as static HTML: a file for each page, and one that lists them. No scripts, no other files.
//! Knows pages and links between them, not what they say.

use std::io;
use std::path::Path;

use pulldown_cmark::{CowStr, Event, HeadingLevel, Parser, Tag, TagEnd, html};

use super::page::{Page, Subject};

const STYLE: &str = include_str!("style.css");
/// The page that lists the others.
const INDEX: &str = "index.html";

/// Writes all pages into a directory, which is made where it is missing.
pub(super) fn write(pages: &[Page], version: &str, dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    std::fs::write(dir.join(INDEX), index(pages, version))?;
    pages
        .iter()
        .try_for_each(|page| std::fs::write(dir.join(file(page)), document(page, pages, version)))
}

/// The file of a page.
fn file(page: &Page) -> String {
    let subject = match page.subject {
        Subject::Topic => "",
        Subject::Kind => "stage-",
        Subject::Command => "impasto-",
    };
    format!("{subject}{}.html", page.name.replace(' ', "-"))
}

/// A page's name as readers type it.
fn title(page: &Page) -> String {
    match page.subject {
        Subject::Topic => page.name.clone(),
        Subject::Kind => format!("stage \"{}\"", page.name),
        Subject::Command => format!("impasto {}", page.name),
    }
}

/// The file to which code such as `impasto help lock` or `impasto gc --trees` leads.
fn target(code: &str, pages: &[Page]) -> Option<String> {
    let mut words = code
        .strip_prefix("impasto ")?
        .split_whitespace()
        .map(|word| word.trim_end_matches(['.', ',']));
    let (first, second) = (words.next()?, words.next().unwrap_or_default());
    let named = |subject, name: &str| {
        pages
            .iter()
            .find(|page| page.subject == subject && page.name == name)
    };
    let page = match first {
        "help" => named(Subject::Topic, second),
        "stages" => named(Subject::Kind, second),
        _ => named(Subject::Command, &format!("{first} {second}")),
    };
    page.or_else(|| named(Subject::Command, first)).map(file)
}

fn document(page: &Page, pages: &[Page], version: &str) -> String {
    let heading = format!(
        "<h1>{}</h1>\n<p class=\"summary\">{}</p>\n",
        escaped(&title(page)),
        escaped(&page.summary)
    );
    frame(
        &title(page),
        &format!("{heading}{}", body(page, pages)),
        version,
    )
}

fn index(pages: &[Page], version: &str) -> String {
    let about = "Builds disk images in layers: every stage is cached, only dirty stages run again";
    let mut text = format!("<h1>impasto</h1>\n<p class=\"summary\">{about}</p>\n");
    for (subject, heading) in [
        (Subject::Topic, "Topics"),
        (Subject::Kind, "Kinds of stages"),
        (Subject::Command, "Commands"),
    ] {
        text += &format!("<h2>{heading}</h2>\n<dl class=\"index\">\n");
        for page in pages.iter().filter(|page| page.subject == subject) {
            let (name, summary) = (escaped(&page.name), escaped(&page.summary));
            text += &format!(
                "<dt><a href=\"{}\">{name}</a></dt><dd>{summary}</dd>\n",
                file(page)
            );
        }
        text += "</dl>\n";
    }
    frame("Reference", &text, version)
}

fn frame(title: &str, body: &str, version: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{} - impasto</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <nav><a href=\"{INDEX}\">impasto {}</a></nav>\n<main>\n{body}</main>\n</body>\n</html>\n",
        escaped(title),
        escaped(version)
    )
}

/// Markdown as HTML: headings can be linked to, and code that names another page leads there.
fn body(page: &Page, pages: &[Page]) -> String {
    let own = file(page);
    let events: Vec<Event<'_>> = Parser::new(&page.body).collect();
    let mut out = Vec::with_capacity(events.len());
    let mut in_heading = false;
    for (index, event) in events.iter().enumerate() {
        out.push(match event {
            Event::Start(Tag::Heading { level, .. }) => {
                in_heading = true;
                let id = slug(*level, &events[index + 1..]);
                Event::Html(CowStr::from(format!("<{level} id=\"{id}\">")))
            }
            Event::End(TagEnd::Heading(level)) => {
                in_heading = false;
                Event::Html(CowStr::from(format!("</{level}>\n")))
            }
            Event::Code(code) if !in_heading => {
                match target(code, pages).filter(|file| *file != own) {
                    Some(file) => Event::InlineHtml(CowStr::from(format!(
                        "<a href=\"{file}\"><code>{}</code></a>",
                        escaped(code)
                    ))),
                    None => event.clone(),
                }
            }
            _ => event.clone(),
        });
    }
    let mut text = String::new();
    html::push_html(&mut text, out.into_iter());
    text
}

/// What a heading is linked to by: its words; of an entry its name alone, such as `concat`.
fn slug(level: HeadingLevel, events: &[Event<'_>]) -> String {
    let texts = events
        .iter()
        .take_while(|event| !matches!(event, Event::End(_)))
        .filter_map(|event| match event {
            Event::Text(text) | Event::Code(text) => Some(&**text),
            _ => None,
        });
    let text: String = texts.collect();
    let text = if level == HeadingLevel::H3 {
        text.split(['(', ' ']).next().unwrap_or_default()
    } else {
        &text
    };
    let mut slug = String::new();
    for c in text.to_lowercase().chars() {
        match c {
            'a'..='z' | '0'..='9' | '_' => slug.push(c),
            _ if !slug.is_empty() && !slug.ends_with('-') => slug.push('-'),
            _ => {}
        }
    }
    slug.trim_end_matches('-').to_owned()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
