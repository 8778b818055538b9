//! The guest's agent (qemu-guest-agent) behind its socket: asked in step, and made to run lines.
//! Knows the agent's protocol; takes every answer for that of a hostile guest.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::VmError;
use super::access::{GuestError, Ran, WRAPPER};
use super::channel::VmChannel;

/// How long the agent may take to get in step, before that is tried once more.
const TURN: Duration = Duration::from_secs(2);
/// How often it is asked whether a line has ended.
const POLL: Duration = Duration::from_millis(100);
/// How long it may take for an answer once it is in step.
const ANSWER: Duration = Duration::from_secs(20);
/// The most bytes of a line's output that are taken: more than [`WRAPPER`] lets through.
const MAX_OUTPUT: usize = 128 << 10;

/// How messages call it.
const WHO: &str = "the guest's agent";
const NONSENSE: GuestError = GuestError::Nonsense { who: WHO };

/// Tells the answers of this turn from those of older ones, which may come late.
static TURNS: AtomicU64 = AtomicU64::new(1);

/// Asks the agent behind a socket until it answers; the question may be asked more than once.
///
/// # Errors
/// It gave no answer in this time.
pub fn ask_agent(
    dir: &Path,
    socket: &str,
    question: &Value,
    patience: Duration,
) -> Result<Value, VmError> {
    let end = Instant::now() + patience;
    while Instant::now() < end {
        let deadline = end.min(Instant::now() + TURN);
        let answer =
            in_step(dir, socket, deadline).and_then(|mut channel| channel.ask(question, is_answer));
        match answer {
            Ok(answer) => return Ok(answer),
            Err(_) => std::thread::sleep(POLL),
        }
    }
    Err(VmError::Silent {
        who: WHO,
        seconds: patience.as_secs(),
    })
}

/// Connects, and makes sure that the next answer is that to the next question: what was asked before the agent was there
/// can be lost, or answered late.
fn in_step(dir: &Path, socket: &str, deadline: Instant) -> io::Result<VmChannel> {
    let turn = TURNS.fetch_add(1, Ordering::Relaxed);
    let sync = json!({"execute": "guest-sync", "arguments": {"id": turn}});
    let mut channel = VmChannel::connect(dir, socket, deadline)?;
    channel.ask(&sync, |value| value["return"] == turn)?;
    Ok(channel)
}

fn is_answer(value: &Value) -> bool {
    value.get("return").is_some() || value.get("error").is_some()
}

/// Has the agent run a line by a shell, as root. `go_on` is asked between two questions.
pub(super) fn run(
    dir: &Path,
    socket: &str,
    line: &str,
    deadline: Instant,
    go_on: &mut dyn FnMut() -> Result<(), GuestError>,
) -> Result<Ran, GuestError> {
    let start = json!({"execute": "guest-exec", "arguments": {
        "path": "/bin/sh", "arg": ["-c", WRAPPER, "sh", line], "capture-output": true,
    }});
    let mut channel = connect(dir, socket, deadline, go_on)?;
    // It is asked once: to ask again would run the line again.
    let started = ask(&mut channel, &start)?.ok_or(GuestError::TimedOut)?;
    let pid = started["pid"].as_i64().ok_or(NONSENSE)?;
    let status = json!({"execute": "guest-exec-status", "arguments": {"pid": pid}});
    loop {
        go_on()?;
        let Some(answer) = ask(&mut channel, &status)? else {
            channel = connect(dir, socket, deadline, go_on)?;
            continue;
        };
        match answer["exited"].as_bool() {
            Some(true) => return ended(&answer).ok_or(NONSENSE),
            Some(false) if Instant::now() >= deadline => return Err(GuestError::TimedOut),
            Some(false) => std::thread::sleep(POLL),
            None => return Err(NONSENSE),
        }
    }
}

fn connect(
    dir: &Path,
    socket: &str,
    deadline: Instant,
    go_on: &mut dyn FnMut() -> Result<(), GuestError>,
) -> Result<VmChannel, GuestError> {
    loop {
        go_on()?;
        if let Ok(channel) = in_step(dir, socket, deadline.min(Instant::now() + TURN)) {
            return Ok(channel);
        }
        if Instant::now() >= deadline {
            return Err(GuestError::TimedOut);
        }
        std::thread::sleep(POLL);
    }
}

/// An answer; none where it does not come.
fn ask(channel: &mut VmChannel, question: &Value) -> Result<Option<Value>, GuestError> {
    channel.extend(Instant::now() + ANSWER);
    let Ok(answer) = channel.ask(question, is_answer) else {
        return Ok(None);
    };
    match answer.get("error") {
        None => Ok(Some(answer["return"].clone())),
        Some(error) => {
            let reason = error["desc"].as_str().unwrap_or("without a reason");
            Err(GuestError::Refused {
                who: WHO,
                reason: crate::base::escape::neutralise(reason.as_bytes()),
            })
        }
    }
}

/// How a line ended; none where the answer is none.
fn ended(status: &Value) -> Option<Ran> {
    let output = match status.get("out-data") {
        None => Vec::new(),
        Some(text) => decode(text.as_str()?)?,
    };
    let code = match (status["exitcode"].as_i64(), status["signal"].as_i64()) {
        (Some(code), _) => code,
        // As a shell tells it.
        (None, signal) => signal?.checked_add(128)?,
    };
    Some(Ran::new(i32::try_from(code).ok()?, &output))
}

/// Base64 (RFC 4648) of no more bytes than are taken; none where it is not that.
fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    if text.len() / 4 * 3 > MAX_OUTPUT {
        return None;
    }
    let (mut bytes, mut bits, mut count) = (Vec::with_capacity(text.len() / 4 * 3), 0u32, 0);
    for byte in text.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0xffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;

    /// An agent that answers each question by what `answer` makes of it, line by line.
    fn agent(answer: impl Fn(&Value) -> String + Send + 'static) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("agent")).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let reader = BufReader::new(stream.try_clone().unwrap());
                for line in reader.lines().map_while(Result::ok) {
                    let question: Value = serde_json::from_str(&line).unwrap();
                    let text = match question["execute"].as_str() {
                        Some("guest-sync") => {
                            json!({"return": question["arguments"]["id"]}).to_string()
                        }
                        _ => answer(&question),
                    };
                    if stream.write_all(format!("{text}\n").as_bytes()).is_err() {
                        break;
                    }
                }
            }
        });
        dir
    }

    fn run_by(dir: &Path, patience: Duration) -> Result<Ran, GuestError> {
        run(dir, "agent", "true", Instant::now() + patience, &mut || {
            Ok(())
        })
    }

    #[test]
    fn a_line_is_run_and_its_output_and_exit_code_come_back() {
        let dir = agent(|question| match question["execute"].as_str().unwrap() {
            "guest-exec" => {
                assert_eq!(question["arguments"]["arg"][3], "true");
                json!({"return": {"pid": 7}}).to_string()
            }
            _ => json!({"return": {"exited": true, "exitcode": 3, "out-data": "aGVsbG8K"}})
                .to_string(),
        });
        let ran = run_by(dir.path(), Duration::from_secs(60)).unwrap();
        assert_eq!((ran.code, ran.output), (3, vec!["hello".to_owned()]));
    }

    #[test]
    fn an_agent_that_answers_nonsense_is_told_from_one_that_refuses() {
        for nonsense in [
            json!({"return": {"pid": "seven"}}),
            json!({"return": []}),
            json!({"return": {"pid": 1, "exited": "yes"}}),
            json!({"return": {"pid": 1, "exited": true}}),
            json!({"return": {"pid": 1, "exited": true, "exitcode": 0, "out-data": 7}}),
            json!({"return": {"pid": 1, "exited": true, "exitcode": 99_999_999_999u64}}),
        ] {
            let dir = agent(move |_| format!("not json\n{nonsense}"));
            let error = run_by(dir.path(), Duration::from_secs(60)).unwrap_err();
            assert!(matches!(error, GuestError::Nonsense { .. }), "{error}");
        }
        let dir =
            agent(|_| json!({"error": {"desc": "guest-exec is disabled\u{1b}[2J"}}).to_string());
        let error = run_by(dir.path(), Duration::from_secs(60)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the guest's agent refused: guest-exec is disabled"
        );
    }

    #[test]
    fn a_line_that_does_not_end_and_a_wait_that_makes_no_sense_are_given_up() {
        let dir = agent(|_| json!({"return": {"pid": 1, "exited": false}}).to_string());
        let error = run_by(dir.path(), Duration::from_millis(300)).unwrap_err();
        assert!(matches!(error, GuestError::TimedOut), "{error}");
        let mut turns = 0;
        let stopped = run(
            dir.path(),
            "agent",
            "true",
            Instant::now() + Duration::from_secs(60),
            &mut || {
                turns += 1;
                if turns > 3 {
                    Err(GuestError::Ended)
                } else {
                    Ok(())
                }
            },
        );
        assert!(matches!(stopped, Err(GuestError::Ended)));
    }

    #[test]
    fn base64_is_decoded() {
        assert_eq!(decode("aGVsbG8="), Some(b"hello".to_vec()));
        assert_eq!(decode("aGVsbG8K"), Some(b"hello\n".to_vec()));
        assert_eq!(decode("/+8="), Some(vec![0xff, 0xef]));
        assert_eq!(decode(""), Some(Vec::new()));
        assert_eq!(decode("a b"), None);
        assert_eq!(decode(&"A".repeat(MAX_OUTPUT * 2)), None);
    }
}
