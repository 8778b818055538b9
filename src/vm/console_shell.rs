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
    ends_with_prompt(&machine.console_lines())
}

/// The kernel writes to the console whenever it likes: behind a prompt, too.
fn ends_with_prompt(lines: &[String]) -> bool {
    let written = lines
        .iter()
        .rev()
        .map(|line| without_kernel_message(line).trim_end());
    let last = written.into_iter().find(|line| !line.is_empty());
    last.is_some_and(|line| line.len() < 120 && (line.ends_with('#') || line.ends_with('$')))
}

/// A line up to where the kernel goes on, with `[SECONDS] `.
fn without_kernel_message(line: &str) -> &str {
    let is_stamp = |text: &str| {
        let stamp = text.split_once("] ").map(|(stamp, _)| stamp.trim_start());
        let parts = stamp.and_then(|stamp| stamp.split_once('.'));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        parts.is_some_and(|(seconds, rest)| digits(seconds) && digits(rest))
    };
    let begin = line
        .match_indices('[')
        .find(|(at, _)| is_stamp(&line[at + 1..]));
    begin.map_or(line, |(at, _)| &line[..at])
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_seen_though_the_kernel_goes_on_behind_it() {
        let ends = |text: &str| {
            let lines: Vec<_> = text.lines().map(str::to_owned).collect();
            ends_with_prompt(&lines)
        };
        assert!(ends("Enter 'help'\n/ # "));
        assert!(ends("/ # [    5.180353] IPv6: eth0: link becomes ready\n"));
        assert!(ends(
            "$ \n[   60.000001] random: crng init done\n[61.1] x y"
        ));
        assert!(!ends("debian login: [    5.180353] IPv6: eth0 # "));
        assert!(!ends("[    5.180353] Comments begin with #"));
        assert!(!ends("array[1] # is not a stamp\nlast line"));
        assert!(!ends(""));
    }
}
