//! Events as one JSON object a line, on standard output.
//! Knows the events' fields, not their meaning.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;

use super::{OutputError, Reporter, output};
use crate::engine::event::{Event, EventKind};

/// Version of the lines' form; it grows only when a field changes its meaning.
const VERSION: u32 = 1;

/// Writes every event as a line of JSON.
#[derive(Debug, Default)]
pub struct Json {
    /// Why no line is written any more.
    broken: Option<OutputError>,
}

/// A line of `impasto build --progress json`: something that happened.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Event")]
struct EventLine<'a> {
    /// Version of the form; it grows only when a field changes its meaning.
    v: u32,
    /// Milliseconds since the start of the run.
    at_ms: u64,
    #[serde(flatten)]
    kind: &'a EventKind,
}

/// The JSON schema of a line.
pub fn schema() -> serde_json::Value {
    SchemaSettings::draft2020_12()
        .for_serialize()
        .into_generator()
        .into_root_schema_for::<EventLine<'static>>()
        .to_value()
}

/// An event as its line.
pub(super) fn line(event: &Event) -> String {
    let line = EventLine {
        v: VERSION,
        at_ms: event.at.as_millis() as u64,
        kind: &event.kind,
    };
    serde_json::to_string(&line).expect("BUG: an event is not JSON")
}

impl Reporter for Json {
    fn event(&mut self, event: &Event) {
        if self.broken.is_none() {
            self.broken = output(&(line(event) + "\n")).err();
        }
    }

    /// A run goes on without a reader: what it makes is worth having.
    fn finish(self: Box<Self>) -> Result<(), OutputError> {
        self.broken.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_last_line_of_a_run_has_the_promised_fields() {
        let kind = EventKind::RunFinished {
            built: 1,
            cached: 2,
            failed: 0,
            cancelled: 0,
            wall_ms: 5,
        };
        let value: serde_json::Value = serde_json::from_str(&line(&Event {
            at: Duration::from_millis(5),
            kind,
        }))
        .expect("JSON");
        for (name, expected) in [
            ("v", 1),
            ("built", 1),
            ("cached", 2),
            ("failed", 0),
            ("cancelled", 0),
            ("wall_ms", 5),
        ] {
            assert_eq!(value[name], expected, "{name}");
        }
        assert_eq!(value["event"], "run_finished");
    }
}
