//! The scripts of a `kernel_module` stage, with what they are told before them.
//! Knows shell quoting and names, not the units.

use crate::error::ParamError;
use crate::kinds::common::quoted;
use crate::params::Params;

/// Where the scripts work, in memory, and leave what is taken out.
pub(super) const WORK: &str = "/tmp/impasto";

/// The script that compiles; `key` is the secret that it signs with.
pub(super) fn compile(params: &Params, key: Option<&str>, errors: &mut Vec<ParamError>) -> String {
    let modules = params.texts("modules");
    check_modules("modules", &modules, errors);
    for pattern in params.texts("kernels") {
        // Without what stands for other characters it is a word, and may be none.
        let fixed: String = pattern.chars().filter(|c| !"*?".contains(*c)).collect();
        if pattern.is_empty() || fixed.contains('/') || !is_word(&format!("x{fixed}")) {
            let error = ParamError::new(
                "kernels",
                format!("{pattern:?} is not a valid kernel release"),
            );
            errors.push(error.help(
                "write a release such as \"6.1.0-37-amd64\", or a pattern such as \"6.1.*\"",
            ));
        }
    }
    let directory = params
        .text("directory")
        .map_or("", |directory| directory.trim_end_matches('/'));
    let inside = directory.is_empty()
        || directory
            .split('/')
            .all(|part| !part.is_empty() && part != "..");
    if !inside || directory.contains(char::is_control) {
        let error = ParamError::new(
            "directory",
            format!("{directory:?} is not a directory inside the source"),
        );
        errors
            .push(error.help("write it relative to the top of the source, such as \"src/module\""));
    }
    let variables = params.text_map("make");
    for name in variables.keys().filter(|name| !is_variable(name)) {
        let error = ParamError::new(
            "make",
            format!("{name:?} is not a valid name for a make variable"),
        );
        errors.push(error.help("use letters, digits and `_`"));
    }
    let mut text = format!("work={WORK}\ndirectory={}\n", quoted(directory));
    text += &format!("wanted={}\n", quoted(&modules.join(" ")));
    text += &format!("kernels={}\n", quoted(&params.texts("kernels").join(" ")));
    text += &format!(
        "compress={}\n",
        quoted(params.text("compress").unwrap_or_default())
    );
    text += &format!("key={}\n", quoted(key.unwrap_or_default()));
    text += "kbuild() {\n    make \"$@\"";
    for (name, value) in &variables {
        text += &format!(" {}", quoted(&format!("{name}={value}")));
    }
    text + "\n}\n\n" + include_str!("common.sh") + include_str!("compile.sh")
}

/// The script that puts what was compiled into the image.
pub(super) fn install(params: &Params) -> String {
    let mut text = format!("work={WORK}\n");
    text += &format!("kernels={}\n", quoted(&params.texts("kernels").join(" ")));
    text += &format!(
        "initramfs={}\n\n",
        if params.flag("initramfs") {
            "yes"
        } else {
            "''"
        }
    );
    text + include_str!("common.sh") + include_str!("install.sh")
}

/// Checks names of modules, as modprobe takes them.
pub(super) fn check_modules(param: &'static str, names: &[String], errors: &mut Vec<ParamError>) {
    let plain = |name: &str| {
        !name.is_empty()
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
    };
    for name in names.iter().filter(|name| !plain(name)) {
        let error = ParamError::new(param, format!("{name:?} is not a valid module name"));
        errors.push(
            error.help("write the name that modprobe takes, without .ko, such as \"impastofs\""),
        );
    }
}

/// Whether it can stand in a list of words.
pub(super) fn is_word(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./+~".contains(c);
    !text.is_empty() && !text.starts_with('-') && text.chars().all(plain)
}

fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
