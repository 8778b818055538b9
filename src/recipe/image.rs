//! Images: their attributes lowered once, evaluated once for each part of the matrix that they look at.
//! Knows names and values; whether stages fit together is another's matter, and so is where files go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use impasto_stages::{Data, Number, ParamSpec, Type, Value, parse_duration, parse_size};

use super::check::{Check, Need, Reference, way};
use super::collect::Decl;
use super::convert;
use super::diagnostic::{Diagnostic, Span};
use super::eval::{Evaluator, Failed};
use super::expr::{Expr, ExprNode};
use super::lower::{Allowed, Lowering};
use super::model::{Image, ImageBudget, ImageFile, ImageLayout};
use super::stage::{Common, LoweredAttr, STAGE_BYTES, STAGE_STEPS, axes};

/// An image's text, ready to be evaluated.
pub(super) struct ImageText {
    pub(super) label: Arc<str>,
    pub(super) head: Span,
    attrs: Vec<LoweredAttr>,
    broken: bool,
    pub(super) axes: u64,
}

/// An image in some combinations.
pub(super) struct BuiltImage {
    pub(super) label: Arc<str>,
    /// The image; none where something was reported.
    pub(super) image: Option<Arc<Image>>,
    pub(super) references: Vec<Reference>,
    /// Where its name stands.
    pub(super) name_span: Span,
}

/// What `budget` may say.
const BUDGET: [ParamSpec; 6] = [
    ParamSpec::optional("size", Type::Text, "All files together, such as \"2GB\"."),
    ParamSpec::optional("files", Type::Map(&Type::Text), "Single files, by name."),
    ParamSpec::optional("build", Type::Duration, "The whole build."),
    ParamSpec::optional(
        "stages",
        Type::Map(&Type::Duration),
        "Single stages, by name.",
    ),
    ParamSpec::optional("boot", Type::Duration, "Until the tested machine is up."),
    ParamSpec::optional("packages", Type::Int, "How many packages are installed."),
];

/// The file of sums where the layout has one by itself.
const SUMS: &str = "SHA256SUMS";

impl ImageText {
    fn attr(&self, name: &str) -> Option<&LoweredAttr> {
        self.attrs.iter().find(|attr| attr.name == name)
    }
}

impl Common<'_> {
    /// Resolves an image's names, and reports attributes that images do not have.
    pub(super) fn image(&self, decl: &Decl<'_>, lowering: &mut Lowering<'_>) -> ImageText {
        let before = lowering.diagnostics.len();
        super::collect::Collector::known(
            lowering.diagnostics,
            "an image",
            decl,
            &super::blocks::IMAGE,
        );
        let mut text = ImageText {
            label: decl.name.clone(),
            head: decl.head,
            attrs: Vec::new(),
            broken: false,
            axes: 0,
        };
        for attr in &decl.attrs {
            let root = lowering.root(attr.value, Allowed::ALL);
            text.axes |= axes(&root.uses, self.local_axes);
            let known = super::blocks::IMAGE.attributes.iter();
            if let Some(known) = known.clone().find(|known| known.name == attr.name) {
                text.attrs.push(LoweredAttr {
                    name: known.name,
                    key: attr.span,
                    root,
                });
            }
        }
        if text.attr("files").is_none() {
            let diagnostic = Diagnostic::at(
                decl.head,
                format!("the image `{}` has no `files`", decl.name),
            )
            .help("list what it is made of: `files = [stage.NAME, stage.OTHER.files[\"…\"]]`");
            lowering.diagnostics.push(diagnostic);
        }
        text.broken = lowering.diagnostics.len() > before;
        text
    }

    /// Evaluates and checks an image in the evaluator's combination.
    pub(super) fn build_image(
        &self,
        text: &ImageText,
        eval: &mut Evaluator,
    ) -> Option<Arc<BuiltImage>> {
        eval.budget
            .charge(text.head, STAGE_STEPS, STAGE_BYTES)
            .ok()?;
        let name = match text.attr("name") {
            Some(name) => image_name(name, text, eval),
            None => Ok(text.label.to_string()),
        };
        let mut reader = Reader {
            check: Check {
                eval,
                path: String::new(),
                owner: format!("image `{}`", text.label),
                references: Vec::new(),
            },
            text,
            failed: text.broken,
        };
        let files = reader.files(text.attr("files")?);
        let layout = reader.value("layout", &Type::OneOf(ImageLayout::NAMES));
        let layout = layout.map_or(ImageLayout::Standard, |layout| {
            ImageLayout::named(layout.as_str().unwrap_or_default())
        });
        let tags = reader.value("tags", &Type::Map(&Type::Text));
        let checksums = reader.described("checksums", &[]);
        let mut image = Image {
            label: text.label.clone(),
            name: String::new(),
            files,
            layout,
            tags: texts(tags),
            metadata: reader.metadata(),
            requires: reader.requires(),
            manifest: reader.described("manifest", &[".json", ".txt"]),
            checksums: checksums.or((layout == ImageLayout::Directory).then(|| SUMS.to_owned())),
            sbom: reader.sbom(),
            budget: reader.budget(),
        };
        reader.names(&image);
        let failed = reader.failed;
        let references = reader.check.references;
        let name_span = text
            .attr("name")
            .map_or(text.head, |name| name.root.expr.span);
        let image = name.ok().filter(|_| !failed).map(|name| {
            image.name = name;
            Arc::new(image)
        });
        Some(Arc::new(BuiltImage {
            label: text.label.clone(),
            image,
            references,
            name_span,
        }))
    }
}

/// Reads the attributes of one image; what is wrong is reported and left out.
struct Reader<'t, 'e> {
    check: Check<'e>,
    text: &'t ImageText,
    failed: bool,
}

impl Reader<'_, '_> {
    fn report(&mut self, diagnostic: Diagnostic) {
        self.check.eval.diagnostics.push(diagnostic);
        self.failed = true;
    }

    /// An attribute's value, which may be shown and written.
    fn eval(&mut self, attr: &LoweredAttr) -> Result<Value, Failed> {
        let expr = &attr.root.expr;
        let value = self.check.eval.eval(expr)?;
        let owner = format!("`{}` of image `{}`", attr.name, self.text.label);
        if convert::is_sensitive(&value) {
            let message = format!("{owner} would contain a sensitive value");
            let diagnostic = Diagnostic::at(expr.span, message).note(way(&value, &owner));
            return self.check.eval.fail(diagnostic);
        }
        let (parts, cost) = (
            convert::size_of(&value).0,
            convert::cost_written_out(&value),
        );
        self.check.eval.budget.charge(expr.span, parts, cost)?;
        Ok(value)
    }

    /// An attribute of a type; none where it is not given, is null, or was reported.
    fn value(&mut self, name: &'static str, ty: &Type) -> Option<Value> {
        let attr = self.text.attr(name)?;
        let expr = &attr.root.expr;
        let value = self.eval(attr).and_then(|value| {
            self.check.path = name.to_owned();
            self.check.value(value, ty, expr.span, Some(expr))
        });
        self.failed |= value.is_err();
        value.ok().filter(|value| value.data != Data::Null)
    }

    fn span(&self, name: &str) -> Span {
        let attr = self.text.attr(name);
        attr.map_or(self.text.head, |attr| attr.root.expr.span)
    }

    /// The files: a list, or a map by name.
    fn files(&mut self, attr: &LoweredAttr) -> Vec<ImageFile> {
        let expr = &attr.root.expr;
        let Ok(value) = self.eval(attr) else {
            self.failed = true;
            return Vec::new();
        };
        let items: Vec<(Option<String>, String, Option<&Expr>, Value)> = match value.data {
            Data::List(items) => (items.into_inner().into_iter().enumerate())
                .map(|(index, item)| {
                    let part = match &expr.node {
                        ExprNode::List(parts) => parts.get(index),
                        _ => None,
                    };
                    (None, format!("files[{index}]"), part, item)
                })
                .collect(),
            Data::Object(items) => (items.into_inner().into_iter())
                .map(|(name, item)| {
                    let part = super::check::entry_of(Some(expr), &name).map(|(_, part)| part);
                    let path = format!("files[{name:?}]");
                    (Some(name), path, part, item)
                })
                .collect(),
            _ => {
                let message = format!(
                    "`files` of image `{}` must be a list of stages and their files",
                    self.text.label
                );
                self.report(
                    Diagnostic::at(expr.span, message).help("write it in brackets: `[stage.NAME]`"),
                );
                return Vec::new();
            }
        };
        if items.is_empty() {
            let message = format!("`files` of image `{}` is empty", self.text.label);
            self.report(Diagnostic::at(expr.span, message));
        }
        let mut all = Vec::with_capacity(items.len());
        for (name, path, part, item) in items {
            let span = part.map_or(expr.span, |part| part.span);
            if let Some(value) = self.stage_file(path, item, span, part) {
                all.push(ImageFile { name, value });
            }
        }
        all
    }

    /// A file that a stage makes.
    fn stage_file(
        &mut self,
        path: String,
        item: Value,
        span: Span,
        part: Option<&Expr>,
    ) -> Option<Value> {
        if !matches!(item.data, Data::Stage(_) | Data::StageFile { .. }) {
            let message = format!(
                "`{path}` of image `{}` is {}, not a stage's file",
                self.text.label,
                convert::show(&item)
            );
            self.report(Diagnostic::at(span, message).help(
                "an image consists of what stages make; add a file of your own with a stage",
            ));
            return None;
        }
        self.check.path = path;
        let value = self.check.value(item, &Type::File, span, part);
        self.failed |= value.is_err();
        value.ok()
    }

    /// Files of stages by name, for the manifest.
    fn metadata(&mut self) -> Vec<(String, Value)> {
        let Some(attr) = self.text.attr("metadata") else {
            return Vec::new();
        };
        let expr = &attr.root.expr;
        let Ok(value) = self.eval(attr) else {
            self.failed = true;
            return Vec::new();
        };
        let Data::Object(items) = value.data else {
            let message = format!(
                "`metadata` of image `{}` takes an object, not {}",
                self.text.label,
                value.type_name()
            );
            let help = "give each file a name: `{ versions = stage.NAME.files[\"…\"] }`";
            self.report(Diagnostic::at(expr.span, message).help(help));
            return Vec::new();
        };
        let mut all = Vec::new();
        for (name, item) in items.into_inner() {
            let part = super::check::entry_of(Some(expr), &name).map(|(_, part)| part);
            let span = part.map_or(expr.span, |part| part.span);
            if let Some(value) = self.stage_file(format!("metadata[{name:?}]"), item, span, part) {
                all.push((name, value));
            }
        }
        all
    }

    /// The stages that must succeed first.
    fn requires(&mut self) -> Vec<Value> {
        let Some(attr) = self.text.attr("requires") else {
            return Vec::new();
        };
        let expr = &attr.root.expr;
        let value = self.eval(attr);
        let items = match value.map(|value| value.data) {
            Ok(Data::List(items)) => items.into_inner(),
            Ok(_) => {
                let message = format!(
                    "`requires` of image `{}` must be a list of stages",
                    self.text.label
                );
                self.report(
                    Diagnostic::at(expr.span, message).help("write it in brackets: `[stage.NAME]`"),
                );
                return Vec::new();
            }
            Err(Failed) => {
                self.failed = true;
                return Vec::new();
            }
        };
        let mut all = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let part = match &expr.node {
                ExprNode::List(parts) => parts.get(index),
                _ => None,
            };
            let span = part.map_or(expr.span, |part| part.span);
            let Data::Stage(stage) = &item.data else {
                let message = format!(
                    "`requires[{index}]` of image `{}` is {}, not a stage",
                    self.text.label,
                    convert::show(&item)
                );
                self.report(Diagnostic::at(span, message).help("write `stage.NAME`"));
                continue;
            };
            self.check.references.push(Reference {
                stage: stage.clone(),
                need: Need::Success,
                span,
            });
            all.push(item);
        }
        all
    }

    /// The name of a file that describes the image, with one of these ends where there are any.
    fn described(&mut self, name: &'static str, ends: &[&str]) -> Option<String> {
        let value = self.value(name, &Type::Text)?;
        let text = value.as_str()?.to_owned();
        if !ends.is_empty() && !ends.iter().any(|end| text.ends_with(end)) {
            let message = format!("`{name}` must end in {}, not {text:?}", ends.join(" or "));
            self.report(Diagnostic::at(self.span(name), message));
            return None;
        }
        Some(text)
    }

    fn sbom(&mut self) -> Vec<String> {
        let Some(value) = self.value("sbom", &Type::List(&Type::Text)) else {
            return Vec::new();
        };
        let Data::List(items) = value.data else {
            return Vec::new();
        };
        let mut all = Vec::new();
        for item in items.into_inner() {
            let name = item.as_str().unwrap_or_default().to_owned();
            if !name.ends_with(".spdx.json") && !name.ends_with(".cdx.json") {
                let message = format!(
                    "`sbom` of image `{}`: {name:?} ends in neither .spdx.json nor .cdx.json",
                    self.text.label
                );
                let help = "the end says which form it gets: SPDX or CycloneDX";
                self.report(Diagnostic::at(self.span("sbom"), message).help(help));
                continue;
            }
            all.push(name);
        }
        all
    }

    fn budget(&mut self) -> ImageBudget {
        let Some(value) = self.value("budget", &Type::Object(&BUDGET)) else {
            return ImageBudget::default();
        };
        let Data::Object(limits) = value.data else {
            return ImageBudget::default();
        };
        let mut budget = ImageBudget::default();
        for (name, limit) in limits.into_inner() {
            let time = |value: &Value| parse_duration(value.as_str().unwrap_or_default());
            match (name.as_str(), &limit.data) {
                ("size", _) => budget.size = self.size("size", &limit),
                ("files", Data::Object(files)) => {
                    for (file, limit) in files {
                        let size = self.size(&format!("files[{file:?}]"), limit);
                        budget.files.extend(size.map(|size| (file.clone(), size)));
                    }
                }
                ("stages", Data::Object(stages)) => {
                    let times: BTreeMap<String, Duration> = stages
                        .into_iter()
                        .filter_map(|(stage, limit)| Some((stage.clone(), time(limit)?)))
                        .collect();
                    budget.stages = times;
                }
                ("build", _) => budget.build = time(&limit),
                ("boot", _) => budget.boot = time(&limit),
                ("packages", data) => match count(data) {
                    Some(count) => budget.packages = Some(count),
                    None => {
                        let message = "`budget.packages` takes a number of packages";
                        self.report(Diagnostic::at(self.span("budget"), message));
                    }
                },
                _ => {}
            }
        }
        budget
    }

    /// A size in bytes.
    fn size(&mut self, name: &str, value: &Value) -> Option<u64> {
        let text = value.as_str().unwrap_or_default();
        let size = read_size(text);
        if size.is_none() {
            let message = format!("`budget.{name}` takes a size such as \"2GB\", not {text:?}");
            let help = "kB, MB, GB and TB are powers of 1000, KiB, MiB, GiB and TiB of 1024";
            self.report(Diagnostic::at(self.span("budget"), message).help(help));
        }
        size
    }

    /// Checks the names that files are given: each is a path below a directory of the image's, and no two need the same.
    fn names(&mut self, image: &Image) {
        let own = (image.files.iter())
            .filter_map(|file| Some(("files", file.name.as_deref()?)))
            .chain(
                image
                    .manifest
                    .iter()
                    .map(|name| ("manifest", name.as_str())),
            )
            .chain(image.sbom.iter().map(|name| ("sbom", name.as_str())))
            .chain(
                image
                    .checksums
                    .iter()
                    .map(|name| ("checksums", name.as_str())),
            );
        let mut taken: BTreeMap<&str, &str> = BTreeMap::new();
        let mut problems = Vec::new();
        for (attr, name) in own {
            let problem = match wrong_name(name) {
                Some(problem) => Some(problem),
                None => match taken.insert(name, attr) {
                    Some("files") => Some("is the name of another file".to_owned()),
                    Some(other) => Some(format!("is the name of `{other}`, too")),
                    None => None,
                },
            };
            problems.extend(problem.map(|problem| (attr, format!("{name:?} {problem}"))));
        }
        let names: Vec<&str> = taken.keys().copied().collect();
        for name in &names {
            let dir = format!("{name}/");
            let below = names.iter().find(|other| other.starts_with(&dir));
            problems.extend(below.map(|other| {
                let message = format!("{name:?} cannot be a file and the directory of {other:?}");
                (taken[name], message)
            }));
        }
        for (attr, problem) in problems {
            let message = format!("`{attr}` of image `{}`: {problem}", self.text.label);
            self.report(Diagnostic::at(self.span(attr), message));
        }
    }
}

/// Why a file of an image cannot be called so; none where it can.
fn wrong_name(name: &str) -> Option<String> {
    let part_is_wrong =
        |part: &str| part.is_empty() || part == "." || part == ".." || part.len() > 200;
    if name.starts_with('/') || name.split('/').any(part_is_wrong) {
        return Some("is not a relative path without `.` and `..`".to_owned());
    }
    if name.chars().any(char::is_control) {
        return Some("contains a control character".to_owned());
    }
    if name.ends_with(".sha256") {
        return Some("would be in the place of a file's own sum: use another name".to_owned());
    }
    if name
        .rsplit('/')
        .next()
        .is_some_and(|last| last.starts_with(".impasto-"))
    {
        return Some("is a name that impasto uses itself".to_owned());
    }
    None
}

/// Reads `2GB`, `1.5GiB`, `300kB`, in bytes.
fn read_size(text: &str) -> Option<u64> {
    if let Some(size) = parse_size(text) {
        return Some(size);
    }
    let units = [("kB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12)];
    let binary = [
        ("KiB", 1024.0),
        ("MiB", 1024.0 * 1024.0),
        ("GiB", 1024.0 * 1024.0 * 1024.0),
        ("TiB", 1024.0 * 1024.0 * 1024.0 * 1024.0),
    ];
    let (number, factor) = units
        .iter()
        .chain(&binary)
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_number = match number.split_once('.') {
        Some((whole, rest)) => plain(whole) && plain(rest),
        None => plain(number),
    };
    let size = number.parse::<f64>().ok().filter(|_| is_number)? * factor;
    (size < 1e18).then_some(size as u64)
}

fn count(data: &Data) -> Option<u64> {
    match data {
        Data::Number(Number::Int(count)) => u64::try_from(*count).ok(),
        _ => None,
    }
}

/// A map's texts.
fn texts(value: Option<Value>) -> BTreeMap<String, String> {
    let Some(Data::Object(items)) = value.map(|value| value.data) else {
        return BTreeMap::new();
    };
    items
        .into_inner()
        .into_iter()
        .map(|(name, value)| {
            let text = value.as_str().unwrap_or_default().to_owned();
            (name, text)
        })
        .collect()
}

fn image_name(
    name: &LoweredAttr,
    text: &ImageText,
    eval: &mut Evaluator,
) -> Result<String, Failed> {
    let span = name.root.expr.span;
    let value = eval.eval(&name.root.expr)?;
    if convert::is_sensitive(&value) {
        let message = format!(
            "the name of the image `{}` would contain a sensitive value",
            text.label
        );
        return eval.fail(
            Diagnostic::at(span, message)
                .note(way(&value, &format!("the name of image `{}`", text.label))),
        );
    }
    let Some(shown) = convert::to_text(&value) else {
        let message = format!(
            "the name of image `{}` is {}, not a string",
            text.label,
            convert::show(&value)
        );
        return eval.fail(Diagnostic::at(span, message));
    };
    let plain = !shown.is_empty()
        && shown.len() <= 200
        && !shown.starts_with(['.', '-'])
        && !shown.chars().any(|c| c == '/' || c.is_control());
    if plain {
        return Ok(shown.to_string());
    }
    let message = format!("{shown:?} is not a valid name for an image");
    let help = "its files get this name: use one without `/` that starts with neither `.` nor `-`";
    eval.fail(Diagnostic::at(span, message).help(help))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_budgets_are_read() {
        for (text, bytes) in [
            ("2GB", 2_000_000_000),
            ("1.5GiB", 3 << 29),
            ("160MB", 160_000_000),
            ("8GiB", 8 << 30),
            ("300kB", 300_000),
        ] {
            assert_eq!(read_size(text), Some(bytes), "{text}");
        }
        for wrong in [
            "",
            "GB",
            "-1GB",
            "1e3GB",
            ".5GB",
            "1.GB",
            "nanGB",
            "infGB",
            "1 GB",
            "9999999999TB",
        ] {
            assert_eq!(read_size(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for wrong in [
            "",
            "/a",
            "a/../b",
            "..",
            "./a",
            "a//b",
            "a/",
            "a\nb",
            "x.sha256",
            "d/.impasto-1.part",
        ] {
            assert!(wrong_name(wrong).is_some(), "{wrong:?}");
        }
        for right in ["a", "a/b.img", ".hidden", "SHA256SUMS.txt"] {
            assert_eq!(wrong_name(right), None, "{right:?}");
        }
    }
}
