//! What an image was made of, as JSON or as lines of text: no times, so that equal builds give equal manifests.
//! Knows results and their names; decides nothing.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use impasto_store::digest::BlobDigest;
use serde_json::{Map, Value, json};

use super::{Candidate, layout};
use crate::engine::graph::NodeId;
use crate::engine::run::ImageRefusal;
use crate::recipe::Recipe;

/// Version of the form. Names do not change within one.
const VERSION: u32 = 1;

/// Names the recipe's text: its files and what is in them.
pub(super) fn recipe_digest(recipe: &Recipe) -> String {
    let mut all = String::new();
    for text in (0..).map_while(|file| recipe.sources.get(file)) {
        write!(all, "{} {}\n{}", text.short, text.text.len(), text.text)
            .expect("BUG: a text is written to a text");
    }
    BlobDigest::of(all.as_bytes()).to_string()
}

/// The manifest that is written to a path, with what files of metadata say: JSON, or lines where that ends in `.txt`.
pub(super) fn write(
    subject: &Candidate<'_, '_>,
    metadata: &Map<String, Value>,
    path: &Path,
) -> Result<String, ImageRefusal> {
    let manifest = document(subject, metadata, path.parent().unwrap_or(Path::new("/")))?;
    if path.extension().is_some_and(|end| end == "txt") {
        let mut text = String::new();
        lines(&mut text, "", &manifest);
        return Ok(text);
    }
    Ok(serde_json::to_string_pretty(&manifest).expect("BUG: a manifest is not JSON") + "\n")
}

/// The manifest; files are called from `dir`.
fn document(
    subject: &Candidate<'_, '_>,
    metadata: &Map<String, Value>,
    dir: &Path,
) -> Result<Value, ImageRefusal> {
    let (gate, node) = (subject.gate, subject.node);
    let graph = gate.graph;
    let (recipe, lock) = gate.sources();
    let nodes = subject.nodes();
    let axes: Map<String, Value> = graph
        .values(node.combination)
        .map(|(axis, value)| (axis.to_owned(), value.into()))
        .collect();
    let files: Vec<Value> = (subject.facts.files.iter())
        .map(|file| {
            let name = layout::relative(&file.path, dir).display().to_string();
            json!({ "name": name, "bytes": file.size, "sha256": file.sha256 })
        })
        .collect();
    let caveats: BTreeSet<String> = (nodes.iter())
        .flat_map(|id| &subject.hit(*id).caveats)
        .map(ToString::to_string)
        .collect();
    let tests: Vec<Value> = (node.requires.iter())
        .map(|id| {
            let result = if gate.skip_tests { "skipped" } else { "passed" };
            json!({ "stage": graph.node(*id).label, "result": result })
        })
        .collect();
    let packages = subject.bill()?.map(|bill| bill.packages.len());
    let image = &node.text;
    Ok(json!({
        "manifest": VERSION,
        "image": image.label,
        "name": node.name,
        "matrix": axes,
        "tags": image.tags,
        "metadata": metadata,
        "recipe": { "name": gate.recipe.name, "digest": recipe },
        "lock": lock,
        "source_date_epoch": gate.recipe.source_date_epoch,
        "impasto": env!("CARGO_PKG_VERSION"),
        "files": files,
        "packages": packages,
        "stages": nodes.iter().map(|id| stage(subject, *id)).collect::<Vec<_>>(),
        "tests": tests,
        "caveats": caveats,
    }))
}

fn stage(subject: &Candidate<'_, '_>, id: NodeId) -> Value {
    let (node, hit) = (subject.gate.graph.node(id), subject.hit(id));
    let files: Map<String, Value> = (hit.result.files.iter())
        .map(|(name, file)| (name.clone(), file.content.digest().to_string().into()))
        .collect();
    let mut stage = json!({
        "stage": node.label,
        "kind": node.kind.name,
        "key": hit.action.to_string(),
    });
    if let Some(disk) = &hit.result.disk {
        stage["disk"] = disk.layer.disk.to_string().into();
    }
    if let Some(tree) = &hit.result.tree {
        stage["tree"] = tree.digest.to_string().into();
    }
    if !files.is_empty() {
        stage["files"] = files.into();
    }
    stage
}

/// A value as lines `path = value`; what has neither is left out.
fn lines(text: &mut String, path: &str, value: &Value) {
    let at = |name: &str| match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    };
    match value {
        Value::Object(items) => items
            .iter()
            .for_each(|(name, value)| lines(text, &at(name), value)),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(number, value)| lines(text, &at(&number.to_string()), value)),
        Value::Null => {}
        Value::String(value) => *text += &format!("{path} = {value}\n"),
        value => *text += &format!("{path} = {value}\n"),
    }
}
