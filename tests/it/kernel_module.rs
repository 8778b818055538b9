//! A file system of our own as a kernel module, for the two kernels of an image: compiled, installed, booted and used.
//!
//! Needs root, the host's mirror of Debian, and QEMU; the boots take a minute under TCG.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::base::tool;
use crate::project::Project;

/// What shows the kernels of the recipe's image to QEMU.
const KERNELS: &str = r#"
stage "run" "kernels" {
  from     = stage.module
  commands = ["cd /boot && tar -cf /tmp/boot.tar vmlinuz-* initrd.img-*"]
  output   = { "boot.tar" = "/tmp/boot.tar" }
}
image "boot" { files = [stage.kernels.files["boot.tar"]] }
"#;

/// Files only, signed, of one kernel, compressed in another way.
const SIGNED: &str = r#"
stage "kernel_module" "signed" {
  from     = stage.initramfs
  source   = "impastofs.tar.gz"
  kernels  = ["6.12.*"]
  compress = "zstd"
  install  = false
  secrets  = { signing = file("key.pem") }
  sign     = { key = "signing", certificate = "certificate.pem" }
}
image "signed" { files = [stage.signed.files["modules.tar"], stage.signed.files["report.txt"]] }
"#;

/// A kernel of an image with its own initramfs, told to use the module and to power off: what the serial console shows.
fn boots(image: &Path, kernel: &Path, initrd: &Path) -> String {
    let mut command = Command::new("timeout");
    command.args([
        "600",
        "qemu-system-x86_64",
        "-nodefaults",
        "-no-user-config",
        "-machine",
        "q35,accel=tcg",
        "-cpu",
        "max",
    ]);
    command.args([
        "-smp",
        "2",
        "-m",
        "512M",
        "-display",
        "none",
        "-no-reboot",
        "-serial",
        "stdio",
    ]);
    command
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initrd);
    command.args([
        "-append",
        "root=LABEL=root ro console=ttyS0 quiet systemd.unit=check-impastofs.service",
    ]);
    command.arg("-drive").arg(format!(
        "file={},format=qcow2,if=virtio,snapshot=on",
        image.display()
    ));
    let output = command.stdin(Stdio::null()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_module_of_our_own_works_in_every_kernel_of_the_image() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test needs root: it installs Debian"
    );
    let project = Project::empty();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/kernel-module");
    for name in ["recipe.hcl", "impastofs", "files"] {
        tool(
            "cp",
            &[
                "-r",
                from.join(name).to_str().unwrap(),
                project.path("").to_str().unwrap(),
            ],
        );
    }
    let path = |name: &str| project.path(name).to_str().unwrap().to_owned();
    let recipe = project.read("recipe.hcl");
    project.write("recipe.hcl", &format!("{recipe}{KERNELS}"));
    assert_eq!(project.build(&[]), (8, 0));
    assert_eq!(project.build(&[]), (0, 8));
    let report = project.read("out/kernel-module/report.txt");
    let releases: Vec<_> = report
        .lines()
        .skip(1)
        .map(|line| line.split('\t').next().unwrap().to_owned())
        .collect();
    assert!(
        releases.len() == 2 && releases[0].starts_with("6.1.") && releases[1].starts_with("6.12."),
        "{report}"
    );
    // As the kernels' own: the older one's are not compressed.
    let listed = project.in_guest(
        "module",
        "cd /lib/modules && ls */updates/* && cat /etc/modules-load.d/module.conf",
    );
    let [old, new] = [&releases[0], &releases[1]];
    assert_eq!(
        listed,
        format!("{old}/updates/impastofs.ko\n{new}/updates/impastofs.ko.xz\nimpastofs\n")
    );

    tool("tar", &["-C", &path(""), "-xf", &path("out/boot/boot.tar")]);
    for release in &releases {
        let (kernel, initrd) = (
            format!("vmlinuz-{release}"),
            format!("initrd.img-{release}"),
        );
        let shown = boots(
            &project.path("out/kernel-module.qcow2"),
            &project.path(&kernel),
            &project.path(&initrd),
        );
        assert!(
            shown.contains(&format!("IMPASTOFS OK {release}")),
            "{shown}"
        );
    }

    // An edit compiles one file for each kernel, and what builds on it runs.
    let source = project.read("impastofs/super.c");
    project.write(
        "impastofs/super.c",
        &source.replace("A file system in memory\"", "Kept until it is unmounted\""),
    );
    assert_eq!(project.build(&[]), (4, 4));
    let log = project.ok(&["log", "module"]);
    assert!(
        log.contains("impasto: ccache: 2 files known, 4 new"),
        "{log}"
    );
    assert_eq!(
        project.run(&["store", "verify"]).code,
        0,
        "caches have no checksums"
    );

    // What does not compile is told with the compiler's words, and the kernel.
    let broken = project
        .read("impastofs/inode.c")
        .replace("struct mnt_idmap *ids", "struct mnt_idmaps *ids");
    project.write("impastofs/inode.c", &broken);
    let ran = project.run(&["build"]);
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    assert!(
        ran.stderr
            .contains("impasto: it does not compile for linux 6.12."),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("inode.c:") && ran.stderr.contains("error: "),
        "{}",
        ran.stderr
    );
    assert!(
        !ran.stderr.contains("does not compile for linux 6.1."),
        "{}",
        ran.stderr
    );

    let subject = [
        "req",
        "-new",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "36500",
        "-subj",
        "/CN=impasto test/",
    ];
    tool(
        "openssl",
        &[
            &subject[..],
            &[
                "-keyout",
                &path("key.pem"),
                "-out",
                &path("certificate.pem"),
            ],
        ]
        .concat(),
    );
    tool(
        "tar",
        &[
            "-C",
            from.to_str().unwrap(),
            "-czf",
            &path("impastofs.tar.gz"),
            "impastofs",
        ],
    );
    project.write("recipe.hcl", &format!("{recipe}{SIGNED}"));
    let ran = project.run(&["build", "image.signed"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let report = project.read("out/signed/report.txt");
    assert!(
        report.contains(&format!("{new}\timpastofs\t1.0\timpasto test\t")) && !report.contains(old),
        "{report}"
    );
    let listed = tool("tar", &["-tf", &path("out/signed/modules.tar")]);
    assert!(listed.trim_end().ends_with("/impastofs.ko.zst"), "{listed}");
    let key = project.read("key.pem");
    assert!(!project.claims().contains(key.lines().nth(1).unwrap()));
}
