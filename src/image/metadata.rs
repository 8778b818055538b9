//! Files that stages made for the manifest: lines `KEY=VALUE`, or JSON.
//! Knows the two forms; what they say is the recipe's business.

use std::io::Read;

use impasto_store::claim::FileContent;
use serde_json::{Map, Value};

use super::Candidate;
use crate::base::human;
use crate::engine::graph::NodeId;
use crate::engine::run::ImageRefusal;

/// Longest file that is read, in bytes.
const LIMIT: u64 = 1 << 20;

impl Candidate<'_, '_> {
    /// What the image's files of metadata say, by their names.
    pub(super) fn metadata(&self) -> Result<Map<String, Value>, ImageRefusal> {
        let mut all = Map::new();
        for part in &self.node.metadata {
            let name = part.name.clone().unwrap_or_default();
            let stage = &self.gate.graph.node(part.node).label;
            let refuse = |why: String| Self::refuse(format!("`metadata.{name}` of {stage}: {why}"));
            let file = part.file.as_ref().map(ToString::to_string);
            let bytes = self.read(part.node, file.as_ref()).map_err(refuse)?;
            let value = parse(&bytes).map_err(refuse)?;
            all.insert(name, value);
        }
        Ok(all)
    }

    /// A small file that a node made; or why it cannot be had.
    pub(super) fn read(&self, id: NodeId, file: Option<&String>) -> Result<Vec<u8>, String> {
        let found = self.hit(id).file(file);
        let Some(FileContent::Blob(blob)) = found.map(|file| &file.content) else {
            return Err("it is a disk image, not a text".to_owned());
        };
        if blob.size > LIMIT {
            let (size, limit) = (human::bytes(blob.size), human::bytes(LIMIT));
            return Err(format!("it has {size}, at most {limit} are read"));
        }
        let mut bytes = Vec::new();
        let reader = self.gate.store.open_blob(&blob.digest);
        let mut reader = reader.map_err(|error| human::with_causes(&error))?;
        let read = reader.read_to_end(&mut bytes);
        read.map_err(|error| human::with_causes(&error))?;
        Ok(bytes)
    }
}

/// Reads JSON where the text begins like it, else lines `KEY=VALUE`; `#` begins a comment, quotes around a value go.
fn parse(bytes: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    if text.trim_start().starts_with(['{', '[']) {
        return serde_json::from_str(text)
            .map_err(|error| format!("it is not valid JSON: {error}"));
    }
    let mut all = Map::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            return Err(format!("line {} is not KEY=VALUE", number + 1));
        };
        let value = value.trim();
        let bare = ['"', '\'']
            .iter()
            .find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote))
            .unwrap_or(value);
        let key = key.trim().to_owned();
        if all.insert(key.clone(), bare.into()).is_some() {
            return Err(format!("line {} sets {key:?} a second time", number + 1));
        }
    }
    Ok(Value::Object(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_json_are_read() {
        let lines = b"# made by a script\nVERSION=8.2.2\n\nNAME = \"Proxmox VE\"\n";
        let expected = serde_json::json!({ "VERSION": "8.2.2", "NAME": "Proxmox VE" });
        assert_eq!(parse(lines), Ok(expected));
        assert_eq!(parse(b" {\"a\": [1]}"), Ok(serde_json::json!({ "a": [1] })));
        assert_eq!(parse(b""), Ok(serde_json::json!({})));
        assert_eq!(
            parse(b"A=1\nhello\n"),
            Err("line 2 is not KEY=VALUE".to_owned())
        );
        assert_eq!(
            parse(b"A=1\nA=2\n"),
            Err("line 2 sets \"A\" a second time".to_owned())
        );
        assert!(
            parse(b"{")
                .unwrap_err()
                .starts_with("it is not valid JSON: ")
        );
        assert!(parse(&[0xff]).is_err());
    }
}
