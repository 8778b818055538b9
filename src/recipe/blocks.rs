//! The blocks of a recipe and their attributes: what the checks accept, and what help says of them.
//! Knows names and words; evaluates nothing.

/// A block of a recipe.
#[derive(Debug)]
pub struct Block {
    /// Its first word.
    pub name: &'static str,
    /// What its labels stand for.
    pub labels: &'static [&'static str],
    /// What it is for.
    pub help: &'static str,
    /// Its attributes; none where the recipe names them, or a stage's kind.
    pub attributes: &'static [Attribute],
    /// A block as it is written: all of them together are a recipe.
    pub example: &'static str,
}

/// An attribute of a block.
#[derive(Debug)]
pub struct Attribute {
    pub name: &'static str,
    /// What it takes, as help calls it.
    pub ty: &'static str,
    /// What it is for.
    pub help: &'static str,
}

/// All blocks, in the order of the reference.
pub static BLOCKS: [&Block; 6] = [&RECIPE, &VARIABLE, &LOCALS, &MATRIX, &STAGE, &IMAGE];

pub(super) static RECIPE: Block = Block {
    name: "recipe",
    labels: &[],
    help: "What holds for the whole recipe. There is at most one.",
    attributes: &[
        attribute(
            "name",
            "string",
            "The recipe's name. Default: that of its directory, or of its file.",
        ),
        attribute(
            "source_date_epoch",
            "whole number",
            "The time that stands for \"now\" in what is built, in seconds since 1970. `bootstrap` and `disk` require it.",
        ),
        attribute(
            "cutoff",
            "\"tree\" | \"bytes\" | \"off\"",
            "When a stage has run, what builds on it runs again only if its disk differs: \"tree\": in what it contains, \
             \"bytes\": in any byte, \"off\": in any case. A stage may say otherwise. Default: \"tree\".",
        ),
        attribute(
            "environment",
            "list of string",
            "Variables of the environment that `env()` may read anywhere, not only in the `default` of a variable.",
        ),
    ],
    example: r#"recipe {
  name              = "web"
  source_date_epoch = 1700000000
}"#,
};

pub(super) static VARIABLE: Block = Block {
    name: "variable",
    labels: &["NAME"],
    help: "A value from outside, used as `var.NAME`: from the command line, a file, or the environment.",
    attributes: &[
        attribute(
            "type",
            "type",
            "What it takes: `string`, `number`, `bool`, `any`, `list(TYPE)`, `set(TYPE)`, `map(TYPE)`, \
             `object({ NAME = TYPE, NAME = optional(TYPE, DEFAULT) })` or `tuple([TYPE])`. Default: the type of `default`.",
        ),
        attribute(
            "default",
            "any",
            "Its value where none is given. Without a default one must be given.",
        ),
        attribute("description", "string", "What it is for."),
        attribute(
            "sensitive",
            "bool",
            "Whether it is a secret: it may go into `secrets` of stages and nowhere else, and is never shown.",
        ),
    ],
    example: r#"variable "extra" {
  type    = list(string)
  default = []

  validation {
    condition     = length(var.extra) < 100
    error_message = "There are too many packages."
  }
}"#,
};

pub(super) static LOCALS: Block = Block {
    name: "locals",
    labels: &[],
    help: "Values with names of your own, used as `local.NAME`. There may be several such blocks.",
    attributes: &[],
    example: r#"locals {
  debug = matrix.variant == "debug"
}"#,
};

pub(super) static MATRIX: Block = Block {
    name: "matrix",
    labels: &[],
    help: "Axes and the list of values of each, used as `matrix.AXIS`: every stage exists for every combination, and stages \
           that are equal in several run once. There is at most one.",
    attributes: &[],
    example: r#"matrix {
  variant = ["minimal", "debug"]
}"#,
};

pub(super) static STAGE: Block = Block {
    name: "stage",
    labels: &["KIND", "NAME"],
    help: "A step of the build, referred to as `stage.NAME`, its files as `stage.NAME.files[\"FILE\"]`; a reference is a \
           dependency. Its attributes are those of its kind, and `when`, a bool, which drops the stage if false.",
    attributes: &[],
    example: r#"stage "fetch" "base" {
  path = "base.raw"
}

stage "run" "versions" {
  from     = stage.base
  commands = concat(["uname -a > /root/versions"], var.extra)
  when     = local.debug
}

stage "convert" "qcow2" {
  from   = stage.base
  format = "qcow2"
}"#,
};

pub(super) static IMAGE: Block = Block {
    name: "image",
    labels: &["NAME"],
    help: "What is published, for every combination of the matrix, and what must hold before it is.",
    attributes: &[
        attribute(
            "name",
            "string",
            "How its files are called: `out/NAME.EXT`, and `out/NAME/FILE` for what is not a disk image. Default: the block's label.",
        ),
        attribute(
            "files",
            "list or map of stages or their files",
            "What is published, such as `[stage.qcow2, stage.versions.files[\"version.txt\"]]`, or by the names that the \
             files get: `{ \"web.img\" = stage.raw, \"doc/version\" = stage.versions.files[\"version.txt\"] }`.",
        ),
        attribute(
            "layout",
            "\"standard\" | \"flat\" | \"directory\"",
            "Where files go: \"standard\": disk images to `out/NAME.EXT`, others into `out/NAME/`; \"flat\": all to `out/`; \
             \"directory\": all into `out/NAME/`, with `SHA256SUMS`. Files with names of their own are in `out/NAME/`, with \
             \"flat\" in `out/`. Default: \"standard\".",
        ),
        attribute(
            "tags",
            "map of string",
            "What the image is, for the manifest: `{ os = \"debian-12\", type = \"minimal\" }`.",
        ),
        attribute(
            "metadata",
            "map of stages' files",
            "Files that are read when the image is built, for the manifest: lines `KEY=VALUE`, or JSON.",
        ),
        attribute(
            "requires",
            "list of stages",
            "Tests that must pass before any file is written; until then the files of an earlier build stay.",
        ),
        attribute(
            "manifest",
            "string",
            "Name of a file that says what the image was made of: `manifest.json`, or `.txt` for lines of text. It holds no \
             times, so that equal builds give equal manifests.",
        ),
        attribute(
            "checksums",
            "string",
            "Name of one file with the SHA-256 sums of all files, for `sha256sum -c`. Default: `SHA256SUMS` with \
             `layout = \"directory\"`, else none. Each file has a `.sha256` beside it in any case.",
        ),
        attribute(
            "sbom",
            "list of string",
            "Names of bills of materials of the image's disk: `NAME.spdx.json` is SPDX 2.3, `NAME.cdx.json` CycloneDX 1.5.",
        ),
        attribute(
            "budget",
            "object of size, files, build, stages, boot, packages",
            "What the image may cost at most: `{ size = \"2GB\", files = { \"web.qcow2\" = \"1.5GB\" }, build = \"7m\", \
             stages = { packages = \"5m\" }, boot = \"20s\", packages = 300 }`. An image that costs more is not written.",
        ),
    ],
    example: r#"image "web" {
  name     = "web-${matrix.variant}"
  files    = [stage.qcow2]
  manifest = "manifest.json"
  budget   = { size = "2GB" }
}"#,
};

/// The block `validation` of a variable.
pub static VALIDATION: Block = Block {
    name: "validation",
    labels: &[],
    help: "Within `variable`, any number of times: what its value must fulfil.",
    attributes: &[
        attribute(
            "condition",
            "bool",
            "What must be true; it looks at `var.NAME` of this variable only.",
        ),
        attribute("error_message", "string", "What is wrong where it is not."),
    ],
    example: "",
};

const fn attribute(name: &'static str, ty: &'static str, help: &'static str) -> Attribute {
    Attribute { name, ty, help }
}

impl Block {
    /// The block of this name.
    pub fn named(name: &str) -> Option<&'static Block> {
        BLOCKS.into_iter().find(|block| block.name == name)
    }

    /// How it is written: its name and labels.
    pub fn head(&self) -> String {
        let labels: String = self
            .labels
            .iter()
            .map(|label| format!(" \"{label}\""))
            .collect();
        format!("{}{labels}", self.name)
    }
}
