//! Texts in columns, for a terminal or for a file.
//! Knows widths, not what is in them.

use unicode_width::UnicodeWidthStr;

/// Texts in columns, two spaces apart; the last column is not padded. On a terminal that is narrower than a line, the last
/// column goes on below itself, and what has no room at all goes onto a line of its own.
pub fn columns(rows: &[Vec<String>]) -> String {
    columns_within(rows, output_width())
}

/// The same on a terminal of so many columns; none where it goes elsewhere, whose lines are as long as they are.
fn columns_within(rows: &[Vec<String>], terminal: Option<usize>) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widest = |column: usize| {
        // What is last in its row pushes nothing aside.
        let cells = rows
            .iter()
            .filter(|row| column + 1 < row.len())
            .map(|row| width(&row[column]));
        cells.max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..count).map(widest).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        let mut below = false;
        for (column, text) in row.iter().enumerate() {
            let is_last = column + 1 == row.len();
            let (used, needed) = (width(&line), width(text));
            let room = terminal.map(|terminal| terminal.saturating_sub(used));
            let wraps = is_last && room.is_some_and(|room| room >= LEAST);
            if room.is_some_and(|room| room < needed) && !wraps && !line.trim().is_empty() {
                // What does not fit beside the others goes below them.
                out.push_str(line.trim_end());
                out.push('\n');
                line = "    ".to_owned();
                below = true;
            }
            if !is_last {
                line.push_str(text);
                let width = if below { needed } else { widths[column] };
                line.extend(std::iter::repeat_n(' ', width - needed + 2));
                continue;
            }
            let indent = width(&line);
            let room = terminal.map(|terminal| terminal.saturating_sub(indent));
            for (place, part) in wrap(text, room).into_iter().enumerate() {
                if place > 0 {
                    out.push_str(line.trim_end());
                    out.push('\n');
                    line = " ".repeat(indent);
                }
                line.push_str(part);
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Columns below which a column of a table would be one word a line.
const LEAST: usize = 16;

/// A text as lines of so many columns, cut at blanks; as it is where there is no room worth using, or no bound.
pub fn wrap(text: &str, room: Option<usize>) -> Vec<&str> {
    let Some(room) = room.filter(|room| *room >= LEAST) else {
        return vec![text];
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while width(rest) > room {
        let fits = |at: &usize| width(&rest[..*at]) <= room;
        let blanks = || {
            rest.match_indices(' ')
                .map(|(at, _)| at)
                .filter(|at| *at > 0)
        };
        // A word that is longer than a line stays whole, so that it can be copied.
        let Some(at) = blanks().take_while(fits).last().or_else(|| blanks().next()) else {
            break;
        };
        lines.push(&rest[..at]);
        rest = &rest[at + 1..];
    }
    lines.push(rest);
    lines
}

/// The columns of standard output, where that is a terminal.
pub fn output_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0).then_some(size.ws_col.into())
}

/// Columns of a text, which may be coloured.
pub fn width(text: &str) -> usize {
    if text.contains('\x1b') {
        strip(text).width()
    } else {
        text.width()
    }
}

/// A text without its colours.
pub fn strip(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let row = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| (*text).to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            columns(&[row(&["a", "bb", "c"]), row(&["aaa", "b", ""])]),
            "a    bb  c\naaa  b\n"
        );
        assert_eq!(
            columns(&[row(&["漢字", "b"]), row(&["a", "b"])]),
            "漢字  b\na     b\n"
        );
        let rows = [
            row(&["dirty", "run", "line 14 of the script changed, and more"]),
            row(&["cached", "x", ""]),
        ];
        assert_eq!(
            columns_within(&rows, Some(32)),
            "dirty   run  line 14 of the\n             script changed, and\n             more\ncached  x\n"
        );
        let word = "a-word-that-is-longer-than-the-terminal-is-wide";
        assert_eq!(
            columns_within(&[row(&["a", word])], Some(30)),
            format!("a  {word}\n")
        );
        // Where there is no room beside it, it goes below.
        let row = row(&[
            "openssl",
            "3.0.15-1~deb12u1 → 3.0.17-1~deb12u2",
            "tools",
            "debian-security/bookworm-security",
            "security",
        ]);
        assert_eq!(
            columns_within(&[row], Some(80)),
            "openssl  3.0.15-1~deb12u1 → 3.0.17-1~deb12u2  tools\n    debian-security/bookworm-security  security\n"
        );
    }
}
