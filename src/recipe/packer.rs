//! What impasto has in the place of Packer's words.
//! Knows words only.

/// What to write instead of a name that Packer's templates use.
pub(super) fn name(name: &str) -> Option<String> {
    let help = match name {
        "path" => {
            "`path.root` and `path.cwd` are Packer's; paths in a recipe are relative to its directory: write \"x.sh\" \
             for \"${path.root}/x.sh\""
        }
        "source" | "build" => {
            "sources and builds are Packer's; a stage names the stage it builds on: `from = stage.NAME`"
        }
        "packer" => "Packer's build values do not exist here; use a variable",
        "data" => "data sources are Packer's; use a variable, `file(…)` or `jsondecode(file(…))`",
        _ => return None,
    };
    Some(help.to_owned())
}

/// What to write instead of a block that Packer's templates use. `label` is the block's first one.
pub(super) fn block(word: &str, label: Option<&str>) -> Option<String> {
    let help = match (word, label) {
        ("source", _) => {
            "Packer's sources are stages here: `stage \"fetch\" \"base\" { path = \"base.qcow2\" }` starts from a disk \
             image, `stage \"bootstrap\" \"root\" { … }` and `stage \"disk\" \"base\" { … }` with Debian's packages"
        }
        ("build", _) => {
            "Packer's builds are not needed here: every step is a `stage \"KIND\" \"NAME\" { from = stage.OTHER }`, \
             and `image \"NAME\" { files = [stage.OTHER] }` defines what is published"
        }
        ("packer", _) => {
            "Packer's settings are not needed here; `recipe { name = \"…\" }` names the recipe"
        }
        ("data", _) => {
            "Packer's data sources do not exist here; use a variable, or `jsondecode(file(…))`"
        }
        ("provisioner", Some("shell")) => {
            "Packer's provisioner \"shell\" is a stage here: `stage \"run\" \"NAME\" { from = stage.OTHER, script = \
             file(\"x.sh\") }`, or `commands = […]` for `inline`"
        }
        ("provisioner", Some("file")) => {
            "Packer's provisioner \"file\" is a stage here: `stage \"copy\" \"NAME\" { from = stage.OTHER, files = { \
             \"/etc/x\" = { source = \"x\" } } }`"
        }
        ("provisioner" | "error-cleanup-provisioner", _) => {
            "Packer's provisioners are stages here: `stage \"run\" \"NAME\" { … }` runs a script or commands in the image"
        }
        ("post-processor" | "post-processors", Some("checksum")) => {
            "Packer's post-processor \"checksum\" is not needed here: every file of an image gets a .sha256 beside it"
        }
        ("post-processor" | "post-processors", _) => {
            "Packer's post-processors are stages here: `stage \"convert\" \"NAME\" { from = stage.OTHER, format = \"qcow2\" }`"
        }
        _ => return None,
    };
    Some(help.to_owned())
}

/// The type that a word of other languages means.
pub(super) fn type_word(word: &str) -> Option<&'static str> {
    Some(match word {
        "int" | "integer" | "uint" | "float" | "float64" | "double" | "num" => "number",
        "str" | "text" => "string",
        "boolean" => "bool",
        "array" | "slice" | "strings" => "list(string)",
        "dict" | "hash" | "struct" => "map(string)",
        _ => return None,
    })
}

/// Whether a file's name says that it is Packer's: a template, or values of variables.
pub(super) fn is_file(name: &str) -> bool {
    name.ends_with(".pkr.hcl") || is_values(name)
}

/// Whether a file's name says that it holds values for Packer's variables.
pub(super) fn is_values(name: &str) -> bool {
    name.ends_with(".pkrvars.hcl")
}
