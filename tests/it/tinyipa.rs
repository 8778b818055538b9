//! The repository's recipe of the Ironic Python Agent's ramdisk, built from Debian's packages and Python's index, and booted.

use crate::base::tool;
use crate::project::Project;
use crate::torture;

/// Bytes of a file that this recipe makes.
fn size(project: &Project, name: &str) -> u64 {
    std::fs::metadata(project.path(name)).unwrap().len()
}

/// The stages that a build ran.
fn ran(project: &Project, arguments: &[&str]) -> Vec<String> {
    let (code, events) = project.events(arguments);
    assert_eq!(code, 0, "{events:?}");
    let mut stages: Vec<String> = events
        .iter()
        .filter(|event| event["event"] == "stage_finished" && event["how"] == "built")
        .map(|event| event["stage"].as_str().unwrap().to_owned())
        .collect();
    stages.sort_unstable();
    stages
}

#[test]
fn torture_the_agents_ramdisk_is_built_booted_and_built_again_after_an_edit() {
    if torture::count("MACHINES", 1) < 2 {
        println!(
            "left out: three machines take half an hour without KVM; `make torture` boots them"
        );
        return;
    }
    let project = Project::tinyipa();
    let arch = ["--var", "arch=x86_64"];
    assert_eq!(project.build(&arch), (16, 0));
    assert_eq!(project.build(&arch), (0, 16));
    for name in [
        "tinyipa-x86_64.gz",
        "tinyipa-x86_64.vmlinuz",
        "tinyipa-x86_64.tar.gz",
        "tinyipa-x86_64.iso",
        "tiny-instance-part-x86_64.img",
        "tiny-instance-uec-x86_64.tar.gz",
    ] {
        let line = format!(
            "cd {} && sha256sum --quiet --check {name}.sha256",
            project.path("out").display()
        );
        tool("sh", &["-euc", &line]);
        println!(
            "{name}: {} kB",
            size(&project, &format!("out/{name}")) / 1000
        );
    }
    assert_eq!(
        size(&project, "out/tiny-instance-part-x86_64.img"),
        150 << 20
    );
    let manifest = project.read("out/build-manifest.txt");
    assert!(manifest.contains("tinyipa-x86_64.iso"), "{manifest}");

    let name = "overlay/etc/ironic-python-agent.d/10-agent.conf";
    project.write(name, &project.read(name).replace("1024", "1000"));
    let begun = std::time::Instant::now();
    let stages = ran(&project, &arch);
    println!("an edit of the overlay: {:?}", begun.elapsed());
    assert_eq!(stages, ["bundle", "cd", "overlay", "ramdisk"]);

    let tested = project.run(&["test", "--var", "arch=x86_64"]);
    println!("{}", tested.stdout);
    assert_eq!(tested.code, 0, "{}", tested.stderr);
    assert_eq!(project.run(&["store", "verify"]).code, 0);
}
