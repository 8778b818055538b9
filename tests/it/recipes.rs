//! The repository's Debian recipes as a user has them: built from the host's mirror, booted, logged into.
//!
//! They need root, the host's mirror of Debian, and QEMU; they take minutes, most of them spent booting under TCG.

use std::path::Path;

use crate::base::tool;
use crate::project::{Project, sha256};
use crate::torture;
use crate::vm::{Firmware, boots, check};

/// A copy of a recipe, with a store of its own.
fn recipe(name: &str) -> Project {
    assert!(
        rustix::process::geteuid().is_root(),
        "these tests need root: they install Debian"
    );
    let project = Project::empty();
    let from = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("recipes")
        .join(name);
    for file in ["recipe.hcl", "release.hcl", "scripts"] {
        tool(
            "cp",
            &[
                "-rL",
                from.join(file).to_str().unwrap(),
                project.path("").to_str().unwrap(),
            ],
        );
    }
    project
}

/// Bytes of the store's files on disk.
fn stored(project: &Project) -> u64 {
    let text = tool("du", &["-s", "-B1", project.store().to_str().unwrap()]);
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// Boots an image under these, checks it, and demands that no two machines made of it have anything secret in common.
fn boots_everywhere(image: &Path, firmwares: &[Firmware]) {
    let before = sha256(image);
    let mut seen: Vec<Vec<String>> = Vec::new();
    for firmware in firmwares {
        let begun = std::time::Instant::now();
        let guest = boots(image, *firmware);
        println!("{firmware:?}: login prompt after {:?}", begun.elapsed());
        seen.push(check(&guest, *firmware));
        guest.end();
    }
    for (index, one) in seen.iter().enumerate() {
        for other in &seen[..index] {
            assert_ne!(one[0], other[0], "two machines have one machine-id");
            assert_ne!(one[1], other[1], "two machines have one host key");
        }
    }
    assert_eq!(sha256(image), before, "the image was written");
}

#[test]
fn debian_12_is_built_booted_and_built_again_after_edits() {
    let project = recipe("debian-12");
    assert_eq!(project.build(&["--only", "variant=minimal"]), (8, 0));
    // What the second variant shares with the first is there.
    assert_eq!(project.build(&[]), (7, 8));
    assert_eq!(project.build(&[]), (0, 15));
    let manifest: serde_json::Value =
        serde_json::from_str(&project.read("out/debian-12-minimal/manifest.json")).unwrap();
    assert_eq!(manifest["tests"][0]["result"], "passed");
    println!("packages: {}", manifest["packages"]);
    let versions = project.read("out/debian-12-minimal/image-version.txt");
    assert!(versions.starts_with("DEBIAN_VERSION=12."), "{versions}");
    for name in ["minimal", "development"] {
        let image = format!("out/debian-12-{name}.qcow2");
        let line = format!(
            "cd {} && sha256sum --check debian-12-{name}.qcow2.sha256",
            project.path("out").display()
        );
        tool("sh", &["-euc", &line]);
        let size = std::fs::metadata(project.path(&image)).unwrap().len();
        println!("{image}: {} MB", size / 1_000_000);
        assert!(name == "development" || size < 250_000_000, "{size}");
        tool(
            "qemu-img",
            &[
                "check",
                "-q",
                "-f",
                "qcow2",
                project.path(&image).to_str().unwrap(),
            ],
        );
    }

    // A small store, also after edits, without the tree that the disk was made of.
    project.ok(&["gc", "--trees", "--packages", "--min-age", "0s"]);
    let cold = stored(&project);
    assert!(cold <= 350_000_000, "{cold}");
    let script = project.read("scripts/configure.sh");
    for edit in 1..=4 {
        let begun = std::time::Instant::now();
        project.write(
            "scripts/configure.sh",
            &format!("{script}\necho {edit} > /etc/edit\n"),
        );
        // Of both variants: the script, the versions, the cleanup, the test and the image.
        assert_eq!(project.build(&[]), (10, 5));
        println!("edit {edit}: {:?}", begun.elapsed());
    }
    // A comment changes what a script is, not what it does: of each variant one stage runs, and nothing after it.
    project.write(
        "scripts/configure.sh",
        &format!("{script}\necho 4 > /etc/edit # a comment\n"),
    );
    assert_eq!(project.build(&[]), (2, 13));
    let edited = stored(&project);
    println!(
        "store: {} MB, after four edits {} MB",
        cold / 1_000_000,
        edited / 1_000_000
    );
    assert!(edited <= 450_000_000, "{edited}");
    assert_eq!(project.run(&["store", "verify"]).code, 0);

    // Built again under other conditions, every stage gives the same: the packages' too.
    let audit = project.run(&["audit", "--json", "--only", "variant=development"]);
    assert_eq!(audit.code, 0, "{}{}", audit.stdout, audit.stderr);
    let audit: serde_json::Value = serde_json::from_str(&audit.stdout).unwrap();
    for stage in audit["stages"].as_array().unwrap() {
        println!("audit: {} {}", stage["stage"], stage["verdict"]);
        assert_ne!(stage["verdict"], "different");
    }

    // One machine, through shim, a signed GRUB and a signed kernel; all three, and what breaks: `make torture`.
    passes_its_tests(&project, &["secure-boot"]);
    a_small_system_asks_a_server(&project);
}

#[test]
fn torture_debian_12_boots_under_every_firmware_and_tells_what_breaks() {
    if torture::count("MACHINES", 1) < 2 {
        println!(
            "left out: a dozen machines take a quarter of an hour without KVM; `make torture` boots them"
        );
        return;
    }
    let project = recipe("debian-12");
    project.build(&["--only", "variant=minimal"]);
    boots_everywhere(
        &project.path("out/debian-12-minimal.qcow2"),
        &[Firmware::Bios, Firmware::SecureBoot],
    );
    passes_its_tests(&project, &["bios", "uefi", "secure-boot"]);
    is_set_up_with_a_read_only_root(&project);
    a_kernel_is_tested_by_the_shell_of_its_console(&project);
    what_breaks_in_a_real_system_is_told(&project);
}

/// Units that fail, a system that takes long, an agent that is none: each is told as what it is.
fn what_breaks_in_a_real_system_is_told(project: &Project) {
    let recipe = project.read("recipe.hcl");
    let broken = r#"
stage "run" "broken" {
  from = stage.clean
  commands = [
    "printf '[Service]\nType=oneshot\nExecStart=/bin/sh -c \"echo no port >&2; exit 3\"\n[Install]\nWantedBy=multi-user.target\n' > /etc/systemd/system/web.service",
    "systemctl enable web.service",
    "systemctl mask qemu-guest-agent.service cloud-final.service",
  ]
}
stage "test" "breaks" {
  image        = stage.broken
  boot_timeout = "15m"
  timeout      = "40m"
  checks = {
    agent      = { guest_agent = true }
    cloud_init = { cloud_init = "done" }
    quick      = { boot_time = "5s", timeout = "10m" }
    web        = { unit = "web.service" }
    wbe        = { unit = "wbe.service" }
  }
}
"#;
    project.write("recipe.hcl", &(recipe.clone() + broken));
    let tested = project.run(&["test", "breaks", "--only", "variant=minimal"]);
    project.write("recipe.hcl", &recipe);
    assert_eq!(tested.code, 4, "{}", tested.stderr);
    let report = project.read("out/breaks/report.json");
    for expected in [
        "the guest agent did not answer in time",
        "cloud-init's status is `masked`, not `done`",
        "cloud-final.service is masked",
        ", at most 5 s are allowed",
        "unit web.service failed",
        "no port",
        "the guest has no unit wbe.service",
        "\"access\": \"SSH\"",
    ] {
        assert!(report.contains(expected), "{expected}: {report}");
    }
    let picture = std::fs::read(project.path("out/breaks/screen-bios.png")).unwrap();
    assert!(picture.starts_with(b"\x89PNG"));
}

/// An initramfs of busybox, with the modules of the image's own, asks a server that stands beside its machine.
fn a_small_system_asks_a_server(project: &Project) {
    let busybox = tool("sh", &["-c", "command -v busybox"]);
    tool(
        "cp",
        &[busybox.trim(), project.path("busybox").to_str().unwrap()],
    );
    project.write(
        "init",
        "#!/tiny/busybox sh\n/tiny/busybox mkdir -p /proc /dev\n/tiny/busybox --install -s /bin\nmount -t proc proc /proc\n\
         mount -t devtmpfs dev /dev\nmodprobe virtio_pci; modprobe virtio_net\nip link set eth0 up; ip address add 10.0.2.15/24 dev eth0\n\
         wget -q -O - --post-data '{}' http://10.0.2.2:6385/v1/heartbeat/7\n\
         wget -T 5 -O - http://10.0.2.1:22/ || echo nothing else answers\n\
         exec setsid sh -c 'exec sh </dev/ttyS0 >/dev/ttyS0 2>&1'\n",
    );
    project.write(
        "api",
        "#!/bin/sh\ntest \"$(id -u)\" != 0 || exit 9\ntest ! -e /root || exit 8\nwhile :; do\n\
         printf 'HTTP/1.1 200 OK\\r\\nContent-Length: 8\\r\\n\\r\\nwelcome\\n' | busybox nc -l -p \"$PORT\"\n\
         done\n",
    );
    let recipe = project.read("recipe.hcl");
    let stages = r#"
stage "copy" "tiny" {
  from = stage.base
  files = {
    "/root/tiny/init"    = { source = "init", mode = "0755" }
    "/root/tiny/busybox" = { source = "busybox", mode = "0755" }
  }
}
stage "run" "kernel" {
  from = stage.tiny
  commands = [
    "cd /root && find tiny | cpio -o -H newc --quiet | cat - /boot/initrd.img-* > /tmp/initramfs",
    "cp /boot/vmlinuz-* /tmp/vmlinuz",
  ]
  output = { vmlinuz = "/tmp/vmlinuz", initramfs = "/tmp/initramfs" }
}
stage "test" "asks" {
  kernel    = stage.kernel.files["vmlinuz"]
  initramfs = stage.kernel.files["initramfs"]
  arguments = ["console=ttyS0", "rdinit=/tiny/init"]
  memory    = "512MiB"
  serve     = { "6385" = "api" }
  checks = {
    asked  = { served = "POST /v1/heartbeat/" }
    answer = { console = "welcome", after = ["asked"] }
    alone  = { console = "nothing else answers", after = ["answer"] }
    quote  = { run = "test $(id -u) = 0 && echo it\\'s fine", after = ["alone"] }
    OTHER
  }
}
"#;
    let test = |other: &str| {
        let text = stages.replace("OTHER", other);
        project.write("recipe.hcl", &(recipe.clone() + &text));
        let tested = project.run(&["test", "asks", "--only", "variant=minimal"]);
        project.write("recipe.hcl", &recipe);
        (tested.code, tested.stderr)
    };
    let (code, text) = test("");
    assert_eq!(code, 0, "{text}");
    let report = project.read("out/asks/report.json");
    assert!(report.contains("\"access\": \"the console\""), "{report}");
    let (code, text) =
        test("other = { served = \"GET /v2\", after = [\"quote\"], timeout = \"3s\" }");
    assert_eq!(code, 4, "{text}");
    for expected in [
        "`other`: no request `GET /v2` came in time",
        "port 6385 was asked: POST /v1/heartbeat/7",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

/// What a stage of kind `system` sets is what a machine finds, which boots with a read-only root and no failed unit; and
/// kernel arguments arrive where GRUB is configured as Debian does it.
fn is_set_up_with_a_read_only_root(project: &Project) {
    let recipe = project.read("recipe.hcl");
    let more = recipe.clone() + include_str!("system/machine.hcl");
    project.write("recipe.hcl", &more);
    let begun = std::time::Instant::now();
    let only = ["--only", "variant=minimal"];
    let tested = project.run(&[&["test", "set_up", "own_arguments"], &only[..]].concat());
    println!("system: {:?}", begun.elapsed());
    assert_eq!(tested.code, 0, "{}", tested.stderr);
    project.write("recipe.hcl", &recipe);
}

/// Boots the image's kernel with an initramfs of busybox, which has neither an agent nor SSH.
fn a_kernel_is_tested_by_the_shell_of_its_console(project: &Project) {
    let init = "#!/bin/busybox sh\n/bin/busybox --install -s /bin\nmount -t proc proc /proc\n\
                mount -t devtmpfs dev /dev\necho tiny system is up\n\
                exec setsid sh -c 'exec sh </dev/ttyS0 >/dev/ttyS0 2>&1'\n";
    project.write("initramfs/init", init);
    let line = "cd initramfs; mkdir bin dev proc; cp \"$(command -v busybox)\" bin/; chmod +x init
                find . | busybox cpio -o -H newc > ../initramfs.cpio";
    let line = format!("cd {}; {line}", project.path("").display());
    tool("sh", &["-euc", &line]);
    let recipe = project.read("recipe.hcl");
    let kernel = r#"
stage "run" "kernel" {
  from     = stage.base
  commands = ["cp /boot/vmlinuz-* /tmp/vmlinuz"]
  output   = { vmlinuz = "/tmp/vmlinuz" }
}
stage "test" "tiny" {
  kernel    = stage.kernel.files["vmlinuz"]
  initramfs = "initramfs.cpio"
  memory    = "256MiB"
  checks = {
    up    = { console = "tiny system is up" }
    quote = { run = "test $(id -u) = 0 && echo it\\'s fine", after = ["up"] }
    long  = { script = join("\n", [for n in range(200) : "echo this is line ${n} of a long script"]), after = ["quote"] }
    CHECK
  }
}
"#;
    let test = |check: &str| {
        project.write(
            "recipe.hcl",
            &(recipe.clone() + &kernel.replace("CHECK", check)),
        );
        let ran = project.run(&["test", "tiny", "--only", "variant=minimal"]);
        (ran.code, ran.stderr)
    };
    let (code, text) = test("");
    assert_eq!(code, 0, "{text}");
    assert!(
        project
            .read("out/tiny/report.json")
            .contains("\"access\": \"the console\"")
    );
    for (check, message) in [
        (
            "bad = { run = \"exit 3\" }",
            "`bad`: it ended with exit code 3",
        ),
        (
            "bad = { unit = \"x.service\" }",
            "it cannot be decided: there is no systemd in the guest",
        ),
        (
            "bad = { run = \"sleep 1000\", timeout = \"3s\" }",
            "`bad`: it did not end in time",
        ),
        (
            "bad = { run = \"echo c > /proc/sysrq-trigger; sleep 1000\", after = [\"long\"] }",
            "the kernel panicked: ",
        ),
    ] {
        let (code, text) = test(check);
        assert_eq!(code, 4, "{check}: {text}");
        assert!(text.contains(message), "{check}: {text}");
        let picture = std::fs::read(project.path("out/tiny/screen-kernel.png")).unwrap();
        assert!(picture.starts_with(b"\x89PNG"), "{check}");
    }
}

/// Runs the recipe's tests, and demands that a second run starts no machine.
fn passes_its_tests(project: &Project, firmware: &[&str]) {
    let begun = std::time::Instant::now();
    let firmwares = format!("firmware={firmware:?}");
    let line = ["test", "--only", "variant=minimal", "--var", &firmwares];
    let tested = project.run(&line);
    println!("impasto test: {:?}", begun.elapsed());
    assert_eq!(tested.code, 0, "{}", tested.stderr);
    let report: serde_json::Value =
        serde_json::from_str(&project.read("out/boots/report.json")).unwrap();
    let suites = report["suites"].as_array().unwrap();
    let names: Vec<_> = suites.iter().map(|suite| &suite["name"]).collect();
    assert_eq!(names, firmware);
    for suite in suites {
        println!(
            "{}: {} s until {}",
            suite["name"], suite["boot_seconds"], suite["access"]
        );
        assert_eq!(suite["access"], "the guest agent");
        let checks = suite["checks"].as_array().unwrap();
        assert!(
            checks.iter().all(|check| check["status"] == "passed"),
            "{report}"
        );
        // It also has to switch itself off.
        assert_eq!(checks.len(), 7, "{report}");
    }
    let mut again = project.command(&line);
    again.env("PATH", "/nonexistent");
    let again = crate::project::ran(again);
    assert_eq!(again.code, 0, "{}", again.stderr);
    assert!(again.stderr.contains("0 built"), "{}", again.stderr);
}

#[test]
fn debian_13_is_built_and_boots_also_after_its_kernel_was_exchanged() {
    let project = recipe("debian-13");
    let text = project.read("recipe.hcl");
    let kernel = r#"
stage "packages" "kernel" {
  from    = stage.clean
  install = ["linux-image-amd64"]
}
stage "run" "old" {
  from = stage.kernel
  commands = [
    # Installing it was enough for GRUB to know it.
    "grep -q \"$(ls /boot/vmlinuz-* | grep -v cloud)\" /boot/grub/grub.cfg",
    "apt-get -qqy purge 'linux-image.*-cloud-amd64'",
    "update-grub",
    "! grep cloud /boot/grub/grub.cfg",
  ]
}
stage "convert" "exchanged" {
  from   = stage.old
  format = "qcow2"
}
image "exchanged" {
  name  = "exchanged"
  files = [stage.exchanged]
}
"#;
    project.write("recipe.hcl", &(text + kernel));
    project.build(&["--only", "variant=minimal"]);
    let versions = project.read("out/debian-13-minimal/image-version.txt");
    assert!(versions.starts_with("DEBIAN_VERSION=13."), "{versions}");
    boots_everywhere(
        &project.path("out/debian-13-minimal.qcow2"),
        &[Firmware::Bios],
    );

    let guest = boots(&project.path("out/exchanged.qcow2"), Firmware::Uefi);
    let kernel = guest.run("uname -r");
    assert!(
        kernel.ends_with("-amd64") && !kernel.contains("cloud"),
        "{kernel}"
    );
    check(&guest, Firmware::Uefi);
    guest.end();
}
