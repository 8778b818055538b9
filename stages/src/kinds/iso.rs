//! `iso`: a kernel with its ramdisk and files as an image for CDs, DVDs and USB sticks.
//! Knows parameters and what they may be, and which packages have the boot loaders.

use crate::action::{ActionTemplate, Executor, Step};
use crate::error::ParamError;
use crate::kinds::{archive, common, machine};
use crate::media::IsoSpec;
use crate::package_set::{ARCHITECTURE, PackageRequest, PackageSet, RequestRoot};
use crate::params::Params;
use crate::registry::{Kind, Lowered, Makes, ParamSpec, StageContext, Type};

pub(crate) const KIND: Kind = Kind {
    name: "iso",
    version: 1,
    summary: "makes a bootable ISO image of a kernel, its ramdisk and further files",
    example: r#"stage "iso" "cd" {
  kernel    = stage.ramdisk.files["kernel"]
  initramfs = stage.ramdisk
  arguments = ["console=tty0", "console=ttyS0,115200"]
  label     = "RESCUE"
}"#,
    makes: Makes::File,
    files: &[],
    params: &[PARAMS],
    lower,
    expand: None,
};

const PARAMS: &[ParamSpec] = &[
    ParamSpec::required(
        "kernel",
        Type::File,
        "The kernel: /boot/vmlinuz of the image.",
    ),
    ParamSpec::required(
        "initramfs",
        Type::File,
        "Its ramdisk: /boot/initrd.img of the image.",
    ),
    ParamSpec::optional(
        "arguments",
        Type::List(&Type::Text),
        "The kernel's arguments, one per element. Default: none.",
    ),
    ParamSpec::optional(
        "files",
        Type::Map(&Type::File),
        "Further files and directories, by path: your own, and those of stages.",
    ),
    ParamSpec::optional(
        "bootloader",
        Type::List(&Type::OneOf(&["bios", "efi"])),
        "The firmware that can boot it: by ISOLINUX, and by Debian's signed GRUB, which Secure Boot takes too. Default: \
         [\"bios\", \"efi\"]; [\"efi\"] on ARM.",
    ),
    ParamSpec::optional(
        "label",
        Type::Text,
        "The volume's label: up to 32 capital letters, digits and `_`. Default: \"IMPASTO\".",
    ),
    ParamSpec::optional(
        "hybrid",
        Type::Bool,
        "Whether the image, written to a USB stick as it is, boots from there too. Default: true.",
    ),
    ParamSpec::optional(
        "architecture",
        Type::OneOf(&["amd64", "arm64"]),
        "The machine that the kernel is for, whose boot loaders are taken. Default: the host's.",
    ),
    ParamSpec::optional(
        "suite",
        Type::Text,
        "The Debian release that the boot loaders come from, by its code name. impasto.lock pins their versions. Default: \
         \"trixie\".",
    ),
];

/// Packages with what BIOS starts, and with what UEFI does.
const BIOS: &[&str] = &["isolinux", "syslinux-common"];
const EFI: &[&str] = &["grub-efi-amd64-signed", "shim-signed"];
const EFI_ON_ARM: &[&str] = &["grub-efi-arm64-signed", "shim-signed"];

fn lower(params: &Params, context: &StageContext) -> Result<Lowered, Vec<ParamError>> {
    let mut errors = Vec::new();
    let mut action = ActionTemplate::new(KIND.name, KIND.version, Executor::Host);
    action.source_date_epoch = common::demand_epoch(context, &mut errors);
    for name in ["kernel", "initramfs"] {
        let slot = params.get(name).and_then(common::file_slot);
        action
            .inputs
            .extend(slot.map(|slot| (name.to_owned(), slot)));
    }
    for (path, value) in params.pairs("files") {
        errors.extend(archive::check_path(path).err());
        let slot = common::file_slot(value);
        let slot = slot.map(|slot| (format!("files/{path}"), slot));
        action.inputs.extend(slot);
    }
    let architecture = params.text("architecture").unwrap_or(ARCHITECTURE);
    let is_pc = architecture == "amd64";
    let given = params.get("bootloader").map(|_| params.texts("bootloader"));
    let boots = |name: &str, usual: bool| match &given {
        Some(given) => given.iter().any(|loader| loader == name),
        None => usual,
    };
    let (bios, efi) = (boots("bios", is_pc), boots("efi", true));
    if bios && !is_pc {
        let error = ParamError::new("bootloader", "ARM machines have no BIOS");
        errors.push(error.help("use `bootloader = [\"efi\"]`"));
    }
    if !bios && !efi {
        let error = ParamError::new("bootloader", "nothing could boot the image");
        errors.push(error.help("use [\"bios\", \"efi\"], or a stage of kind `archive`"));
    }
    let arguments = params.texts("arguments");
    for argument in &arguments {
        errors.extend(machine::single_argument("arguments", argument).err());
    }
    let label = params.text("label").unwrap_or("IMPASTO").to_owned();
    let letter = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    if label.is_empty() || label.len() > 32 || !label.chars().all(letter) {
        let error = ParamError::new(
            "label",
            format!("{label:?} is not a valid label for an ISO image"),
        );
        errors.push(error.help("use up to 32 capital letters, digits and `_`"));
    }
    let suite = params.text("suite").unwrap_or("trixie").to_owned();
    let word = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if suite.is_empty() || suite.starts_with('-') || !suite.chars().all(word) {
        let error = ParamError::new("suite", format!("{suite:?} is not a valid release name"));
        errors.push(error.help("write the release's code name, such as \"trixie\""));
    }
    let packages = [(bios, BIOS), (efi, if is_pc { EFI } else { EFI_ON_ARM })];
    let packages = packages.iter().filter(|(wanted, _)| *wanted);
    let mut packages: Vec<String> = packages
        .flat_map(|(_, names)| names.iter().map(|name| (*name).to_owned()))
        .collect();
    packages.sort_unstable();
    let request = PackageRequest {
        root: RequestRoot::Own {
            distribution: "debian".to_owned(),
            architecture: architecture.to_owned(),
            variant: "essential".to_owned(),
        },
        install: packages,
        suite: Some(suite),
        components: vec!["main".to_owned()],
        named_only: true,
        ..PackageRequest::default()
    };
    action.packages = Some(PackageSet::default());
    let hybrid = params.get("hybrid").is_none() || params.flag("hybrid");
    let spec = IsoSpec {
        bios,
        efi,
        arguments,
        label,
        hybrid,
        architecture: architecture.to_owned(),
    };
    action.steps.push(Step::Iso {
        spec: Box::new(spec),
    });
    match errors.is_empty() {
        true => Ok(Lowered {
            actions: vec![action],
            request: Some(request),
            ..Lowered::default()
        }),
        false => Err(errors),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Value;

    fn lowered(more: &[(&str, Value)]) -> Result<Lowered, Vec<ParamError>> {
        let base = [
            ("kernel", Value::string("vmlinuz")),
            ("initramfs", Value::string("initrd.img")),
        ];
        let pairs = base.iter().chain(more).cloned();
        let params = pairs.map(|(name, value)| (name.to_owned(), value));
        let context = StageContext {
            source_date_epoch: Some(1),
            ..StageContext::default()
        };
        lower(&Params(params.collect()), &context)
    }

    #[test]
    fn only_the_loaders_that_are_wanted_are_asked_for() {
        let packages = |lowered: Lowered| lowered.request.unwrap().install;
        let loaders = |names: &[&str]| {
            let names = names.iter().map(|name| Value::string(*name));
            lowered(&[("bootloader", Value::list(names.collect()))])
        };
        let machine = |name| lowered(&[("architecture", Value::string(name))]);
        let all = [
            "grub-efi-amd64-signed",
            "isolinux",
            "shim-signed",
            "syslinux-common",
        ];
        assert_eq!(packages(machine("amd64").unwrap()), all);
        assert_eq!(packages(machine("arm64").unwrap()), EFI_ON_ARM);
        if ARCHITECTURE == "amd64" {
            assert_eq!(packages(lowered(&[]).unwrap()), all);
            assert_eq!(packages(loaders(&["bios"]).unwrap()), BIOS);
        }
        let errors = loaders(&[]).map(drop).unwrap_err();
        assert_eq!(errors[0].to_string(), "nothing could boot the image");
    }

    #[test]
    fn labels_and_arguments_are_checked() {
        for label in ["lower", "", "A-B", &"A".repeat(33)] {
            let errors = lowered(&[("label", Value::string(label))])
                .map(drop)
                .unwrap_err();
            assert!(
                errors[0].to_string().contains("is not a valid label"),
                "{errors:?}"
            );
        }
        let arguments = Value::list(vec![Value::string("quiet splash")]);
        let errors = lowered(&[("arguments", arguments)]).map(drop).unwrap_err();
        assert!(
            errors[0]
                .to_string()
                .contains("is not a single kernel argument"),
            "{errors:?}"
        );
    }
}
