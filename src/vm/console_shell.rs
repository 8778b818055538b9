//! A shell at the serial console: lines typed, answers read between marks.
//! Knows prompts and marks; a console that asks for a login is none.

use std::time::{Duration, Instant};

use super::access::{GuestError, Ran, WRAPPER};
use super::machine::{ConsoleMatch, Machine};
use super::ssh::quoted;
use crate::base::cancel::CancelToken;

/// The longest piece that is typed at once: a terminal in canonical mode takes lines of 4095 bytes.
const PIECE: usize = 1000;
/// How long a wait is before it looks whether there is sense in it.
const TURN: Duration = Duration::from_millis(500);

/// Whether the console ends with a shell's prompt.
pub(super) fn has_prompt(machine: &Machine) -> bool {
    let lines = machine.console_lines();
    let last = lines.last().map_or("", |line| line.trim_end());
    last.len() < 120 && (last.ends_with('#') || last.ends_with('$'))
}

/// Types a line, and waits for its end.
pub(super) fn run(
    machine: &mut Machine,
    line: &str,
    deadline: Instant,
    cancel: &CancelToken,
) -> Result<Ran, GuestError> {
    let mark = format!("{:x}", machine.uptime().as_nanos());
    // The marks are not on the console as they are typed: the shell puts them together.
    let (begin, end) = (format!("begin-{mark}"), format!("end-{mark}:"));
    machine.send(b"\nL=\n")?;
    for piece in pieces(line) {
        machine.send(format!("L=\"$L\"{}\n", quoted(piece)).as_bytes())?;
    }
    let typed = format!(
        "echo \"begin\"-{mark}; /bin/sh -c {} sh \"$L\"; echo \"end\"-{mark}:$?:\n",
        quoted(WRAPPER)
    );
    machine.send(typed.as_bytes())?;
    wait(machine, &begin, deadline, cancel)?;
    let from = machine.console_position();
    wait(machine, &end, deadline, cancel)?;
    let until = machine.console_position() - end.len();
    let output = machine.console_between(from, until);
    wait(machine, ":", deadline, cancel)?;
    let code = machine.console_between(until + end.len(), machine.console_position() - 1);
    let code = std::str::from_utf8(&code)
        .ok()
        .and_then(|code| code.parse().ok());
    let code = code.ok_or(GuestError::Nonsense {
        who: "the guest's console",
    })?;
    Ok(Ran::new(code, output.trim_ascii()))
}

fn wait(
    machine: &mut Machine,
    text: &str,
    deadline: Instant,
    cancel: &CancelToken,
) -> Result<(), GuestError> {
    loop {
        let turn = deadline.min(Instant::now() + TURN);
        match machine.wait_for(text, Some(turn), cancel)? {
            ConsoleMatch::Text => return Ok(()),
            ConsoleMatch::TimedOut if Instant::now() >= deadline => {
                return Err(GuestError::TimedOut);
            }
            _ => machine.go_on(cancel)?,
        }
    }
}

/// A line in pieces that fit into a terminal's line.
fn pieces(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = line;
    std::iter::from_fn(move || {
        let mut end = rest.len().min(PIECE);
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        let (piece, after) = rest.split_at(end);
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}
