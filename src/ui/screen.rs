//! A few lines at the end of a terminal that are drawn again and again, below others that stay.
//! Knows control sequences and widths, not what the lines say.
//!
//! The cursor rests at the first of the lines. A terminal that changes its size moves the cursor with the text it stands on,
//! whether it wraps long lines again (VTE, kitty) or cuts them (xterm): wherever that ends up, everything from the cursor on
//! is ours to draw over. Lines are cut to the terminal's width as it is when they are drawn, and drawn without its wrapping.

use std::sync::atomic::{AtomicBool, Ordering};

use unicode_width::UnicodeWidthChar;

use crate::base::table::width;

/// What is drawn on.
pub(super) trait Terminal {
    /// Columns and rows, as they are now.
    fn size(&self) -> (usize, usize);
    /// Writes; what cannot be written is lost.
    fn write(&mut self, text: &str);
}

#[derive(Debug)]
pub(super) struct Stderr;

/// Where a terminal does not tell its size.
const COMMON: (usize, usize) = (80, 24);

/// Whether lines stand below the cursor of standard error.
static DRAWN: AtomicBool = AtomicBool::new(false);

impl Terminal for Stderr {
    fn size(&self) -> (usize, usize) {
        size(std::io::stderr())
    }

    fn write(&mut self, text: &str) {
        use std::io::Write;
        // A terminal that is gone shows nothing; the run goes on.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }
}

/// Columns and rows of a terminal.
fn size(terminal: impl std::os::fd::AsFd) -> (usize, usize) {
    match rustix::termios::tcgetwinsize(terminal) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => COMMON,
    }
}

/// Takes the lines away that stand below the cursor of standard error, without waiting for anybody who draws there: for a
/// process that ends at once.
pub fn clear_at_exit() {
    if DRAWN.load(Ordering::SeqCst) {
        let _ = rustix::io::write(std::io::stderr(), b"\r\x1b[J");
    }
}

/// Lines that are drawn again and again.
#[derive(Debug)]
pub(super) struct Screen<T> {
    terminal: T,
    colour: bool,
    /// How many lines stand from the cursor on.
    lines: usize,
}

impl<T: Terminal> Screen<T> {
    /// Nothing is drawn yet.
    pub(super) fn new(terminal: T, colour: bool) -> Self {
        Screen {
            terminal,
            colour,
            lines: 0,
        }
    }

    #[cfg(test)]
    pub(super) fn terminal(&mut self) -> &mut T {
        &mut self.terminal
    }

    /// Columns that a line may have, and how many lines may be drawn: one row and one column stay free, so that nothing
    /// scrolls and no cursor waits behind the last column.
    pub(super) fn size(&self) -> (usize, usize) {
        let (columns, rows) = self.terminal.size();
        (
            columns.saturating_sub(1).max(1),
            rows.saturating_sub(1).max(1),
        )
    }

    /// Writes lines that stay, above those that are drawn; these come back with the next drawing.
    pub(super) fn say(&mut self, lines: &str) {
        let erase = if self.lines > 0 { "\r\x1b[J" } else { "" };
        self.lines = 0;
        self.write(&format!("{erase}{lines}\n"));
    }

    /// Draws lines over those that were drawn before; none takes them away. No more than fit are drawn.
    pub(super) fn draw(&mut self, lines: &[String]) {
        let (columns, rows) = self.size();
        let lines = &lines[..lines.len().min(rows)];
        if lines.is_empty() && self.lines == 0 {
            return;
        }
        let mut text = String::from("\r\x1b[?7l");
        for (place, line) in lines.iter().enumerate() {
            if place > 0 {
                text.push_str("\x1b[K\r\n");
            }
            text.push_str(&clip(line, columns));
        }
        text.push_str("\x1b[J\r");
        if lines.len() > 1 {
            text.push_str(&format!("\x1b[{}A", lines.len() - 1));
        }
        text.push_str("\x1b[?7h");
        self.lines = lines.len();
        self.write(&text);
    }

    fn write(&mut self, text: &str) {
        DRAWN.store(self.lines > 0, Ordering::SeqCst);
        match self.colour {
            true => self.terminal.write(text),
            false => self.terminal.write(&without_colour(text)),
        }
    }
}

/// A text, which may be coloured, cut to some columns; `…` is its end then.
pub(super) fn clip(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut clipped = String::new();
    let (mut used, mut in_colour, mut coloured) = (0, false, false);
    for c in text.chars() {
        if in_colour || c == '\x1b' {
            in_colour = c != 'm';
            coloured = true;
            clipped.push(c);
            continue;
        }
        let more = c.width().unwrap_or(0);
        if used + more >= columns {
            break;
        }
        used += more;
        clipped.push(c);
    }
    clipped.push('…');
    if coloured {
        clipped.push_str("\x1b[0m");
    }
    clipped
}

/// A text without colours; what moves the cursor stays.
fn without_colour(text: &str) -> String {
    let mut rest = text;
    let mut plain = String::with_capacity(text.len());
    while let Some(start) = rest.find("\x1b[") {
        let parameters =
            rest[start + 2..].find(|c: char| !(c.is_ascii_digit() || c == ';' || c == '?'));
        let end = parameters.map_or(rest.len(), |length| start + 2 + length + 1);
        let sequence = rest.get(start..end).unwrap_or(&rest[start..]);
        plain.push_str(&rest[..start]);
        if !sequence.ends_with('m') {
            plain.push_str(sequence);
        }
        rest = &rest[start + sequence.len()..];
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_by_columns_and_keep_their_colours() {
        assert_eq!(clip("short", 5), "short");
        assert_eq!(clip("longer", 5), "long…");
        assert_eq!(clip("漢字漢字", 6), "漢字…");
        assert_eq!(width("漢字\x1b[1mx\x1b[0m"), 5);
        assert_eq!(
            clip("\x1b[36mrun\x1b[0m a line", 6),
            "\x1b[36mrun\x1b[0m a…\x1b[0m"
        );
        assert_eq!(
            without_colour("\x1b[36mrun\x1b[0m\x1b[K\x1b[2A\x1b[?7h"),
            "run\x1b[K\x1b[2A\x1b[?7h"
        );
    }
}
