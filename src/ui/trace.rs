//! A build as trace events ("Trace Event Format", as Chrome, Perfetto and speedscope read it): what ran when, beside what.
//! Knows what the events said.
//!
//! Stages lie on as many tracks as ran at once, their parts within them; downloads lie on tracks of their own. Every slice is
//! a complete event (`X`), at least a microsecond long, and lies wholly within the one around it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::record::{Ending, Verdict};
use crate::engine::event::{Event, EventKind, How};

/// What a trace will hold.
#[derive(Default)]
pub(super) struct Trace {
    /// What the process itself did, one after the other.
    laps: Vec<Slice>,
    /// Since when there is no lap, in microseconds.
    lapped: u64,
    /// What was resolved since then.
    resolved: Vec<Slice>,
    stages: Vec<Slice>,
    downloads: Vec<Slice>,
    open: HashMap<String, OpenStage>,
}

/// A stage that has begun.
struct OpenStage {
    start: u64,
    args: Value,
    parts: Vec<Slice>,
}

/// Something that took its time. Microseconds since the start of the run.
struct Slice {
    name: String,
    start: u64,
    end: u64,
    args: Value,
    parts: Vec<Slice>,
}

const PROCESS: u32 = 1;

#[derive(Serialize)]
struct TraceEvent<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cat: Option<&'a str>,
    ph: char,
    ts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<u64>,
    pid: u32,
    tid: u32,
    #[serde(skip_serializing_if = "Value::is_null")]
    args: &'a Value,
}

impl Trace {
    pub(super) fn event(&mut self, event: &Event) {
        let now = micros(event.at);
        match &event.kind {
            EventKind::ResolveFinished {
                stage,
                packages,
                bytes,
                wall_ms,
            } => {
                let start = now.saturating_sub(wall_ms * 1000).max(self.lapped);
                let args = json!({ "packages": packages, "bytes": bytes });
                self.resolved.push(Slice::new(stage, start, now, args));
            }
            EventKind::RunStarted { .. } => self.lap("plan", event.at),
            EventKind::StageStarted {
                stage,
                kind,
                reason,
            } => {
                let args = json!({ "kind": kind, "reason": reason });
                self.open.insert(
                    stage.clone(),
                    OpenStage {
                        start: now,
                        args,
                        parts: Vec::new(),
                    },
                );
            }
            EventKind::Phase {
                stage,
                name,
                start,
                wall,
            } => {
                let slice = Slice::new(name, micros(*start), micros(*start + *wall), Value::Null);
                match stage {
                    None => self.downloads.push(slice),
                    Some(stage) => {
                        // A result that is only written out again starts no stage.
                        let open = || OpenStage {
                            start: slice.start,
                            args: json!({}),
                            parts: Vec::new(),
                        };
                        self.open
                            .entry(stage.clone())
                            .or_insert_with(open)
                            .parts
                            .push(slice);
                    }
                }
            }
            EventKind::StageFinished {
                stage,
                how,
                stored_bytes,
                result_bytes,
                ..
            } => {
                let state = if *how == How::Built {
                    "built"
                } else {
                    "cached"
                };
                let bytes = json!({ "state": state, "stored_bytes": stored_bytes, "result_bytes": result_bytes });
                self.close(stage, now, bytes);
            }
            EventKind::StageFailed { stage, error, .. } => {
                self.close(stage, now, json!({ "state": "failed", "error": error }));
            }
            EventKind::StageCancelled { stage } => {
                self.close(stage, now, json!({ "state": "stopped" }))
            }
            EventKind::RunFinished { .. } => self.lap("run", event.at),
            _ => {}
        }
    }

    pub(super) fn lap(&mut self, name: &str, at: Duration) {
        let at = micros(at);
        self.laps.push(Slice {
            parts: std::mem::take(&mut self.resolved),
            ..Slice::new(name, self.lapped, at, Value::Null)
        });
        self.lapped = at;
    }

    fn close(&mut self, stage: &str, end: u64, more: Value) {
        let Some(OpenStage {
            start,
            mut args,
            parts,
        }) = self.open.remove(stage)
        else {
            return;
        };
        if let (Value::Object(args), Value::Object(more)) = (&mut args, more) {
            args.extend(more.into_iter().filter(|(_, value)| !value.is_null()));
        }
        self.stages.push(Slice {
            parts,
            ..Slice::new(stage, start, end, args)
        });
    }

    /// Writes all of it.
    pub(super) fn write(mut self, ending: &Ending, file: &File) -> io::Result<()> {
        let open: Vec<_> = self.open.keys().cloned().collect();
        open.iter()
            .for_each(|stage| self.close(stage, micros(ending.at), json!({ "state": "stopped" })));
        if !self.resolved.is_empty() {
            self.lap("lock packages", ending.at);
        }
        let mut out = Events {
            out: BufWriter::new(file),
            is_first: true,
        };
        out.out.write_all(b"{\"traceEvents\":[\n")?;
        out.metadata(0, "process_name", &json!({ "name": "impasto" }))?;
        let mut track = 1;
        out.track(track, "impasto")?;
        for slice in nested(self.laps) {
            out.slice(track, "run", &slice)?;
        }
        for (what, slices) in [("stages", self.stages), ("downloads", self.downloads)] {
            for (index, slices) in tracks(slices).into_iter().enumerate() {
                track += 1;
                out.track(track, &format!("{what} {}", index + 1))?;
                for slice in nested(slices) {
                    out.slice(track, what, &slice)?;
                }
            }
        }
        let verdict = match &ending.verdict {
            Verdict::Done => "done",
            Verdict::Failed | Verdict::Error(_) => "failed",
            Verdict::Interrupted => "interrupted",
        };
        let other = json!({ "program": "impasto", "version": env!("CARGO_PKG_VERSION"), "recipe": ending.recipe, "end": verdict });
        write!(
            out.out,
            "\n],\"displayTimeUnit\":\"ms\",\"otherData\":{other}}}\n"
        )?;
        out.out.flush()
    }
}

/// The list of events that is being written.
struct Events<W> {
    out: W,
    is_first: bool,
}

impl<W: Write> Events<W> {
    /// Names a track, and keeps the tracks in order.
    fn track(&mut self, tid: u32, name: &str) -> io::Result<()> {
        self.metadata(tid, "thread_name", &json!({ "name": name }))?;
        self.metadata(tid, "thread_sort_index", &json!({ "sort_index": tid }))
    }

    fn metadata(&mut self, tid: u32, name: &str, args: &Value) -> io::Result<()> {
        self.write(&TraceEvent {
            name,
            cat: None,
            ph: 'M',
            ts: 0,
            dur: None,
            pid: PROCESS,
            tid,
            args,
        })
    }

    fn slice(&mut self, tid: u32, cat: &str, slice: &Slice) -> io::Result<()> {
        let Slice {
            name,
            start,
            end,
            args,
            ..
        } = slice;
        let (cat, dur) = (Some(cat), Some(end - start));
        self.write(&TraceEvent {
            name,
            cat,
            ph: 'X',
            ts: *start,
            dur,
            pid: PROCESS,
            tid,
            args,
        })
    }

    fn write(&mut self, event: &TraceEvent<'_>) -> io::Result<()> {
        if !std::mem::take(&mut self.is_first) {
            self.out.write_all(b",\n")?;
        }
        Ok(serde_json::to_writer(&mut self.out, event)?)
    }
}

impl Slice {
    fn new(name: &str, start: u64, end: u64, args: Value) -> Slice {
        Slice {
            name: name.to_owned(),
            start,
            end: end.max(start + 1),
            args,
            parts: Vec::new(),
        }
    }
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}

/// Slices on as few tracks as hold them without overlap, in order of time.
fn tracks(mut slices: Vec<Slice>) -> Vec<Vec<Slice>> {
    slices.sort_by_key(|slice| slice.start);
    let mut tracks: Vec<Vec<Slice>> = Vec::new();
    for slice in slices {
        let is_free =
            |track: &&mut Vec<Slice>| track.last().is_none_or(|last| last.end <= slice.start);
        match tracks.iter_mut().find(is_free) {
            Some(track) => track.push(slice),
            None => tracks.push(vec![slice]),
        }
    }
    tracks
}

/// Slices with their parts after them, each within the one around it: what does not fit is cut.
fn nested(slices: Vec<Slice>) -> Vec<Slice> {
    let mut flat: Vec<Slice> = Vec::new();
    for mut slice in slices {
        let mut parts = std::mem::take(&mut slice.parts);
        // The longer one is around the shorter one.
        parts.sort_by_key(|part| (part.start, std::cmp::Reverse(part.end)));
        let mut around = vec![(slice.start, slice.end)];
        flat.push(slice);
        for mut part in parts {
            while around.len() > 1 && around.last().is_some_and(|(_, end)| *end <= part.start) {
                around.pop();
            }
            let (start, end) = *around
                .last()
                .expect("BUG: the stage is around all of its parts");
            part.start = part.start.max(start);
            part.end = part.end.min(end);
            if part.start < part.end {
                around.push((part.start, part.end));
                flat.push(part);
            }
        }
    }
    flat
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64, kind: EventKind) -> Event {
        Event {
            at: Duration::from_millis(ms),
            kind,
        }
    }

    fn started(ms: u64, stage: &str) -> Event {
        at(
            ms,
            EventKind::StageStarted {
                stage: stage.to_owned(),
                kind: "run",
                reason: "never built".to_owned(),
            },
        )
    }

    fn finished(ms: u64, stage: &str) -> Event {
        let (stage, how, result_bytes) = (stage.to_owned(), How::Built, Some(7));
        let caveats = Vec::new();
        at(
            ms,
            EventKind::StageFinished {
                stage,
                how,
                wall_ms: 1,
                stored_bytes: 7,
                result_bytes,
                caveats,
            },
        )
    }

    fn phase(stage: Option<&str>, name: &str, start: u64, end: u64) -> Event {
        let (stage, name) = (stage.map(str::to_owned), name.to_owned());
        let (start, wall) = (
            Duration::from_millis(start),
            Duration::from_millis(end - start),
        );
        at(
            end,
            EventKind::Phase {
                stage,
                name,
                start,
                wall,
            },
        )
    }

    fn written(trace: Trace, verdict: Verdict) -> Value {
        let mut file = tempfile::tempfile().unwrap();
        let ending = Ending {
            recipe: Some("web".to_owned()),
            verdict,
            at: Duration::from_millis(9000),
        };
        trace.write(&ending, &file).unwrap();
        io::Seek::rewind(&mut file).unwrap();
        serde_json::from_reader(file).unwrap()
    }

    /// What the format demands of every event (its sections "Complete Events" and "Metadata Events"), and of those of one
    /// track that they lie in or beside each other; the tracks' names with their slices as `name start+length`.
    fn checked(trace: &Value) -> Vec<(String, Vec<String>)> {
        let mut tracks: Vec<(String, Vec<String>)> = Vec::new();
        // Of each track the slices that are open, as start and end.
        let mut open: Vec<Vec<(u64, u64)>> = Vec::new();
        for event in trace["traceEvents"].as_array().unwrap() {
            let field = |name: &str| {
                event[name]
                    .as_u64()
                    .unwrap_or_else(|| panic!("{name} of {event}"))
            };
            let (tid, ts, name) = (
                field("tid") as usize,
                field("ts"),
                event["name"].as_str().unwrap(),
            );
            assert_eq!(field("pid"), 1);
            match event["ph"].as_str().unwrap() {
                "M" if name == "thread_name" => {
                    assert_eq!(tid, tracks.len() + 1, "{event}");
                    tracks.push((
                        event["args"]["name"].as_str().unwrap().to_owned(),
                        Vec::new(),
                    ));
                    open.push(Vec::new());
                }
                "M" => assert!(
                    ["process_name", "thread_sort_index"].contains(&name),
                    "{event}"
                ),
                "X" => {
                    let end = ts + field("dur");
                    assert!(end > ts, "{event}");
                    let open = &mut open[tid - 1];
                    while open.last().is_some_and(|(_, outer)| *outer <= ts) {
                        open.pop();
                    }
                    if let Some((start, outer)) = open.last() {
                        assert!(
                            *start <= ts && end <= *outer,
                            "{event} leaves {start}..{outer}"
                        );
                    }
                    open.push((ts, end));
                    tracks[tid - 1]
                        .1
                        .push(format!("{name} {}+{}", ts / 1000, (end - ts) / 1000));
                }
                other => panic!("{other}"),
            }
        }
        tracks
    }

    #[test]
    fn a_trace_is_what_its_format_demands() {
        let mut trace = Trace::default();
        trace.lap("read the recipe", Duration::from_millis(3));
        for event in [
            at(
                10,
                EventKind::RunStarted {
                    nodes: 4,
                    cached: 0,
                },
            ),
            started(10, "a"),
            started(11, "b"),
            phase(Some("a"), "steps", 20, 90),
            phase(Some("a"), "command 1", 20, 50),
            phase(Some("a"), "command 2", 50, 90),
            // Beyond the stage's own end, as times of two clocks may be.
            phase(Some("a"), "seal the layer", 90, 120),
            phase(None, "251 packages, 150 MB", 10, 70),
            phase(None, "zlib1g", 60, 80),
            finished(100, "a"),
            started(100, "c"),
            finished(200, "b"),
            // Only its files were missing.
            phase(Some("d"), "write files", 210, 220),
            at(
                300,
                EventKind::RunFinished {
                    built: 2,
                    cached: 1,
                    failed: 0,
                    cancelled: 1,
                    wall_ms: 300,
                },
            ),
        ] {
            trace.event(&event);
        }
        let trace = written(trace, Verdict::Interrupted);
        assert_eq!(trace["otherData"]["end"], "interrupted");
        let slices = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| (*text).to_owned())
                .collect::<Vec<_>>()
        };
        let wanted = [
            (
                "impasto",
                slices(&["read the recipe 0+3", "plan 3+7", "run 10+290"]),
            ),
            (
                "stages 1",
                slices(&[
                    "a 10+90",
                    "steps 20+70",
                    "command 1 20+30",
                    "command 2 50+40",
                    "seal the layer 90+10",
                    "c 100+8900",
                ]),
            ),
            (
                "stages 2",
                slices(&["b 11+189", "d 210+8790", "write files 210+10"]),
            ),
            ("downloads 1", slices(&["251 packages, 150 MB 10+60"])),
            ("downloads 2", slices(&["zlib1g 60+20"])),
        ];
        let wanted: Vec<_> = wanted
            .into_iter()
            .map(|(name, slices)| (name.to_owned(), slices))
            .collect();
        assert_eq!(checked(&trace), wanted);
    }

    #[test]
    fn what_was_resolved_lies_within_the_time_of_locking() {
        let resolved = |ms: u64, stage: &str, wall_ms: u64| {
            let (packages, bytes) = (2, 7);
            at(
                ms,
                EventKind::ResolveFinished {
                    stage: stage.to_owned(),
                    packages,
                    bytes,
                    wall_ms,
                },
            )
        };
        let mut trace = Trace::default();
        trace.lap("read the recipe", Duration::from_millis(10));
        trace.event(&resolved(1010, "toolbox", 1000));
        trace.event(&resolved(1500, "web", 400));
        trace.lap("lock packages", Duration::from_millis(1600));
        // Interrupted: nothing ends what was begun.
        trace.event(&resolved(2000, "other", 300));
        let tracks = checked(&written(trace, Verdict::Interrupted));
        let expected = [
            "read the recipe 0+10",
            "lock packages 10+1590",
            "toolbox 10+1000",
            "web 1100+400",
            "lock packages 1600+7400",
            "other 1700+300",
        ];
        assert_eq!(
            tracks,
            [("impasto".to_owned(), expected.map(str::to_owned).into())]
        );
    }
}
