//! A recipe's text as a flat list of tokens, and the first thing about it that no parser needs to see.
//! Knows quotes, heredocs, comments and brackets; knows no grammar. Never recurses.

/// Deepest nesting of brackets, blocks and interpolations. The parser's own limit is the same.
pub(super) const MAX_DEPTH: usize = 64;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LexKind {
    /// A name, keyword or number.
    Word,
    /// An opening bracket of any sort.
    Open,
    /// A closing bracket of any sort.
    Close,
    /// An operator or separator.
    Punct,
    /// A quoted string, with all that it holds.
    Quoted,
    /// A heredoc from `<<` to the end of its closing word.
    Heredoc,
    /// A comment to the end of the line, without the line's end.
    LineComment,
    /// A comment between `/*` and `*/`.
    BlockComment,
    /// The end of a line.
    Newline,
}

/// A stretch of the text. Blanks between tokens are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: LexKind,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// What makes a text impossible, or explains why the parser stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LexProblem {
    /// A NUL byte.
    Nul(usize),
    /// A quote whose line ends before it is closed.
    OpenQuote { at: usize, line_end: usize },
    /// A heredoc without its closing word.
    OpenHeredoc { at: usize, word: (usize, usize) },
    /// A bracket or interpolation that is never closed.
    OpenBracket { at: usize, len: usize },
    /// A closing bracket that does not fit the one that is open, or fits none.
    WrongClose { at: usize, open: Option<usize> },
    /// A comment without its end.
    OpenComment(usize),
    /// Nested deeper than [`MAX_DEPTH`].
    TooDeep(usize),
}

/// A text's tokens up to its end or its first problem.
#[derive(Debug, Default)]
pub(super) struct Lexed {
    pub(super) tokens: Vec<Token>,
    pub(super) problem: Option<LexProblem>,
    /// The innermost heredoc interpolations' ranges: where shells' `${…}` may have been meant.
    pub(super) interpolations: Vec<(usize, usize)>,
}

#[derive(Clone, Copy)]
enum Mode {
    Bracket {
        close: u8,
        at: usize,
    },
    Interpolation {
        at: usize,
    },
    Quote {
        at: usize,
    },
    /// `open` counts the `%{ if }` and `%{ for }` that have not ended: the parser looks for no closing word in them.
    Heredoc {
        at: usize,
        word: (usize, usize),
        open: usize,
    },
}

struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    modes: Vec<Mode>,
    depth: usize,
    /// Quotes and heredocs among the modes.
    templates: usize,
    /// Whether tokens are wanted.
    keep: bool,
    out: Lexed,
}

/// Splits a text into tokens.
pub(super) fn lex(text: &str) -> Lexed {
    run(text, true)
}

/// Finds problems only.
pub(super) fn scan(text: &str) -> Lexed {
    run(text, false)
}

fn run(text: &str, keep: bool) -> Lexed {
    let mut lexer = Lexer {
        text: text.as_bytes(),
        at: 0,
        modes: Vec::new(),
        depth: 0,
        templates: 0,
        keep,
        out: Lexed::default(),
    };
    if let Err(problem) = lexer.run() {
        lexer.out.problem = Some(problem);
    }
    lexer.out
}

pub(super) fn is_word_start(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

pub(super) fn is_word(byte: u8) -> bool {
    is_word_start(byte) || byte == b'-'
}

impl Lexer<'_> {
    fn run(&mut self) -> Result<(), LexProblem> {
        while self.at < self.text.len() {
            match self.modes.last().copied() {
                Some(Mode::Quote { at }) => self.quoted(at)?,
                Some(Mode::Heredoc { at, word, open }) => self.heredoc(at, word, open)?,
                _ => self.code()?,
            }
        }
        match self.modes.last().copied() {
            None => Ok(()),
            Some(Mode::Quote { at }) => Err(LexProblem::OpenQuote {
                at,
                line_end: self.text.len(),
            }),
            Some(Mode::Heredoc { at, word, .. }) => Err(LexProblem::OpenHeredoc { at, word }),
            Some(Mode::Bracket { at, .. }) => Err(LexProblem::OpenBracket { at, len: 1 }),
            Some(Mode::Interpolation { at }) => Err(LexProblem::OpenBracket { at, len: 2 }),
        }
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.text.get(self.at + ahead).copied().unwrap_or(b' ')
    }

    fn emit(&mut self, kind: LexKind, start: usize) {
        if self.keep && self.templates == 0 {
            self.out.tokens.push(Token {
                kind,
                start,
                end: self.at,
            });
        }
    }

    fn push(&mut self, mode: Mode) -> Result<(), LexProblem> {
        if let Mode::Bracket { at, .. } | Mode::Interpolation { at } = mode {
            self.depth += 1;
            if self.depth > MAX_DEPTH {
                return Err(LexProblem::TooDeep(at));
            }
        } else {
            self.templates += 1;
        }
        self.modes.push(mode);
        Ok(())
    }

    fn code(&mut self) -> Result<(), LexProblem> {
        let start = self.at;
        let byte = self.peek(0);
        self.at += 1;
        match byte {
            0 => return Err(LexProblem::Nul(start)),
            b' ' | b'\t' | b'\r' => {}
            b'\n' => self.emit(LexKind::Newline, start),
            b'#' => self.line_comment(start),
            b'/' if self.peek(0) == b'/' => self.line_comment(start),
            b'/' if self.peek(0) == b'*' => {
                let rest = &self.text[self.at + 1..];
                let Some(end) = rest.windows(2).position(|pair| pair == b"*/") else {
                    return Err(LexProblem::OpenComment(start));
                };
                self.at += end + 3;
                self.emit(LexKind::BlockComment, start);
            }
            b'"' => self.push(Mode::Quote { at: start })?,
            b'<' if self.peek(0) == b'<' && self.begins_heredoc() => self.open_heredoc(start)?,
            b'(' => self.open(b')', start)?,
            b'[' => self.open(b']', start)?,
            b'{' => self.open(b'}', start)?,
            b')' | b']' | b'}' => self.close(byte, start)?,
            byte if is_word_start(byte) => {
                // A number may go on with a dot; a name's dot is an operator.
                let number = byte.is_ascii_digit();
                while self.at < self.text.len()
                    && (is_word(self.peek(0)) && !(number && self.peek(0) == b'-')
                        || number && self.peek(0) == b'.' && self.peek(1).is_ascii_digit())
                {
                    self.at += 1;
                }
                self.emit(LexKind::Word, start);
            }
            byte => {
                let two = [byte, self.peek(0)];
                if byte == b'.' && two[1] == b'.' && self.peek(1) == b'.' {
                    self.at += 2;
                } else if matches!(
                    &two,
                    b"==" | b"!=" | b"<=" | b">=" | b"&&" | b"||" | b"=>" | b"::"
                ) {
                    self.at += 1;
                }
                self.emit(LexKind::Punct, start);
            }
        }
        Ok(())
    }

    fn line_comment(&mut self, start: usize) {
        while self.at < self.text.len() && self.peek(0) != b'\n' {
            self.at += 1;
        }
        let end = self.at;
        while self.at > start && matches!(self.text[self.at - 1], b'\r' | b' ' | b'\t') {
            self.at -= 1;
        }
        self.emit(LexKind::LineComment, start);
        self.at = end;
    }

    fn open(&mut self, close: u8, at: usize) -> Result<(), LexProblem> {
        self.emit(LexKind::Open, at);
        self.push(Mode::Bracket { close, at })
    }

    fn close(&mut self, byte: u8, at: usize) -> Result<(), LexProblem> {
        match self.modes.last().copied() {
            Some(Mode::Bracket { close, .. }) if close == byte => {
                self.modes.pop();
                self.depth -= 1;
                self.emit(LexKind::Close, at);
                Ok(())
            }
            Some(Mode::Interpolation { at: from }) if byte == b'}' => {
                self.modes.pop();
                self.depth -= 1;
                if matches!(self.modes.last(), Some(Mode::Heredoc { .. })) {
                    self.out.interpolations.push((from, self.at));
                }
                Ok(())
            }
            Some(Mode::Bracket { at: open, .. } | Mode::Interpolation { at: open }) => {
                Err(LexProblem::WrongClose {
                    at,
                    open: Some(open),
                })
            }
            _ => Err(LexProblem::WrongClose { at, open: None }),
        }
    }

    fn begins_heredoc(&self) -> bool {
        let word = self.peek(1);
        let word = if word == b'-' { self.peek(2) } else { word };
        word.is_ascii_alphabetic() || word == b'_' || word >= 0x80
    }

    /// `<<EOT` and the rest of its line.
    fn open_heredoc(&mut self, start: usize) -> Result<(), LexProblem> {
        self.at += 1;
        if self.peek(0) == b'-' {
            self.at += 1;
        }
        let from = self.at;
        while self.at < self.text.len() && is_word(self.peek(0)) {
            self.at += 1;
        }
        let word = (from, self.at);
        if self.peek(0) == b'\r' {
            self.at += 1;
        }
        if self.at >= self.text.len() {
            return Err(LexProblem::OpenHeredoc { at: start, word });
        }
        if self.peek(0) != b'\n' {
            // The parser says what is wrong with it; the rest is read as code.
            return Ok(());
        }
        self.push(Mode::Heredoc {
            at: start,
            word,
            open: 0,
        })
    }

    /// Text of a quoted string up to its end or the next interpolation.
    fn quoted(&mut self, at: usize) -> Result<(), LexProblem> {
        match self.peek(0) {
            0 => return Err(LexProblem::Nul(self.at)),
            b'\n' => {
                return Err(LexProblem::OpenQuote {
                    at,
                    line_end: self.at,
                });
            }
            b'\\' => self.at += if self.peek(1) == b'\n' { 1 } else { 2 },
            b'"' => {
                self.at += 1;
                self.leave_template(LexKind::Quoted, at);
            }
            _ if !self.interpolation()? => self.at += 1,
            _ => {}
        }
        Ok(())
    }

    /// One line of a heredoc, up to its end or the next interpolation.
    fn heredoc(&mut self, at: usize, word: (usize, usize), open: usize) -> Result<(), LexProblem> {
        match self.peek(0) {
            0 => return Err(LexProblem::Nul(self.at)),
            b'\n' => {
                self.at += 1;
                let mut end = self.at;
                while end < self.text.len() && matches!(self.text[end], b' ' | b'\t') {
                    end += 1;
                }
                let word = &self.text[word.0..word.1];
                if open == 0
                    && self.text[end..].starts_with(word)
                    && !self
                        .text
                        .get(end + word.len())
                        .is_some_and(|byte| is_word(*byte))
                {
                    self.at = end + word.len();
                    self.leave_template(LexKind::Heredoc, at);
                }
            }
            _ if !self.interpolation()? => self.at += 1,
            _ => {}
        }
        Ok(())
    }

    fn leave_template(&mut self, kind: LexKind, at: usize) {
        self.modes.pop();
        self.templates -= 1;
        self.emit(kind, at);
    }

    /// Counts the directive that begins here, if a heredoc holds it.
    fn directive(&mut self) {
        let rest = &self.text[self.at..];
        let rest = rest.strip_prefix(b"~").unwrap_or(rest).trim_ascii_start();
        let length = rest.iter().take_while(|byte| is_word(**byte)).count();
        if let Some(Mode::Heredoc { open, .. }) = self.modes.last_mut() {
            match &rest[..length] {
                b"if" | b"for" => *open += 1,
                b"endif" | b"endfor" => *open = open.saturating_sub(1),
                _ => {}
            }
        }
    }

    /// Enters `${` or `%{`, or steps over their escaped forms.
    fn interpolation(&mut self) -> Result<bool, LexProblem> {
        let (one, two, three) = (self.peek(0), self.peek(1), self.peek(2));
        if !matches!(one, b'$' | b'%') {
            return Ok(false);
        }
        if two == one && three == b'{' {
            self.at += 3;
            return Ok(true);
        }
        if two == b'{' {
            let at = self.at;
            self.at += 2;
            if one == b'%' {
                self.directive();
            }
            self.push(Mode::Interpolation { at })?;
            return Ok(true);
        }
        Ok(false)
    }
}
