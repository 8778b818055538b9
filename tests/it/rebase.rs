//! A new result that is rebased onto the node's previous disk: the same files, a small layer, a clean file system; and chains
//! of such layers that end.

use impasto_store::Store;
use impasto_store::claim::Claim;
use impasto_store::layer::LayerRef;

use crate::base::flat;
use crate::project::Project;

/// A stage that makes many megabytes of files, in the order that a variable gives, and what `more` adds to it.
fn recipe(order: &str, more: &str) -> String {
    let lines = [
        "mkdir -p /many/a /many/b".to_owned(),
        // Bytes that do not compress, the same for each name.
        format!(
            "sums() {{ n=$1; while [ $n -lt $2 ]; do echo $n | sha256sum; n=$((n+1)); done; }}; \
             for i in {order}; do for d in a b; do sums ${{i}}000 ${{i}}100 > /many/$d/$i; \
             cat /many/$d/$i /many/$d/$i /bin/busybox > /many/$d/big$i; done; sync; done"
        ),
        more.to_owned(),
    ];
    let lines: Vec<_> = lines.iter().map(|line| line.replace("${", "$${")).collect();
    format!(
        r#"
        recipe {{ source_date_epoch = 1700000000 }}
        stage "fetch" "base" {{ path = "base.qcow2" }}
        stage "run" "many" {{
          from       = stage.base
          privileged = true # for device files
          commands   = {lines:?}
        }}
        stage "convert" "raw" {{
          from   = stage.many
          format = "raw"
        }}
        image "many" {{ files = [stage.raw] }}
        "#
    )
}

/// The claim that the stage has now.
fn claim(project: &Project) -> Claim {
    let plan: serde_json::Value = serde_json::from_str(&project.ok(&["plan", "--json"])).unwrap();
    assert!(
        plan["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .all(|node| node["state"] == "cached")
    );
    let why = project.ok(&["why", "many"]);
    let key = why
        .lines()
        .find_map(|line| line.trim().strip_prefix("key:"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let store = Store::open(project.store()).unwrap();
    store.claims(&key).unwrap().0.pop().unwrap().1
}

fn layer(project: &Project) -> LayerRef {
    claim(project).result.disk.unwrap().layer
}

fn bytes(project: &Project, layer: &LayerRef) -> u64 {
    Store::open(project.store())
        .unwrap()
        .layer_length(layer)
        .unwrap()
        .unwrap()
}

/// All that can be seen of the stage's files.
fn seen(project: &Project) -> String {
    let line = "find / -xdev | grep -v -e ^/dev -e ^/proc -e ^/run -e ^/sys -e ^/tmp | sort | while read -r path; do stat -c '%n %F %a %u %g %s %h %Y %t %T' \"$path\"; done; \
                find / -xdev -type f | sort | xargs sha256sum; find / -xdev -type l | sort | xargs -n 1 readlink";
    project.in_guest("many", line)
}

const ORDER: &str = "1 2 3 4 5 6 7 8";

#[test]
fn one_change_of_many_files_costs_a_small_layer() {
    let before = "mkdir -p /gone/deep/er /kept; echo x > /gone/deep/er/file; echo one > /kept/hard; ln /kept/hard /kept/other; ln /kept/hard /third; \
                  ln -s /kept/hard /kept/link; mkfifo /kept/pipe; mknod /kept/node c 1 3; echo a > /kept/turns; chown 5:6 /kept/turns; chmod 4711 /kept/turns; \
                  dd if=/dev/zero of=/kept/holes bs=1 count=1 seek=3000000; touch -d @1000000000 /kept /kept/turns";
    let after = "mkdir -p /kept /new/er; ln -s elsewhere /kept/link; echo two > /kept/hard; ln /kept/hard /kept/other; echo one > /third; mkdir /kept/turns; echo in > /kept/turns/side; \
                 mknod /kept/pipe b 7 0; echo node > /kept/node; chmod 600 /kept/node; dd if=/dev/zero of=/kept/holes bs=1 count=1 seek=3000000; dd if=/dev/zero of=/kept/zeros bs=1k count=40; mv /many/a/big1 /new/er/moved; \
                 touch -d @900000000 /kept /new/er/moved; chown 7:8 /many/b/2; chmod 640 /many/b/2; echo more >> /many/b/big3";
    let project = Project::with(&recipe(ORDER, before));
    assert_eq!(project.build(&[]), (3, 0));
    let first = layer(&project);
    // Made in another order, so that the file system places nearly everything elsewhere.
    project.write("impasto.hcl", &recipe("8 7 6 5 4 3 2 1", after));
    assert_eq!(project.build(&[]), (2, 1));
    let second = layer(&project);
    let manifest = Store::open(project.store())
        .unwrap()
        .manifest(&second)
        .unwrap();
    assert_eq!(
        manifest.parent,
        Some(first),
        "a delta to the stage's own previous disk"
    );
    let (whole, delta) = (bytes(&project, &first), bytes(&project, &second));
    assert!(
        delta < whole / 2 && delta < 4 << 20,
        "{delta} bytes after {whole}"
    );
    // What is in it is what a build from nothing gives.
    let fresh = Project::with(&recipe("8 7 6 5 4 3 2 1", after));
    assert_eq!(fresh.build(&[]), (3, 0));
    assert_eq!(seen(&project), seen(&fresh));
    let trees = [&project, &fresh].map(|project| claim(project).result.tree.unwrap());
    assert_eq!(trees[0], trees[1]);
    // Zeros that were written are no hole: a swap file is made so.
    assert_eq!(project.in_guest("many", "stat -c %b /kept/zeros"), "80\n");
    flat(&project.path("out/many.raw")).check();
    assert_eq!(
        project.ok(&["store", "verify"]).lines().count(),
        1,
        "no findings"
    );
}

#[test]
fn chains_of_previous_disks_end() {
    let project = Project::with(&recipe("1 2 3", "echo 0 > /number"));
    assert_eq!(project.build(&[]), (3, 0));
    let mut depths = Vec::new();
    for number in 1..=20 {
        project.write(
            "impasto.hcl",
            &recipe("1 2 3", &format!("echo {number} > /number")),
        );
        assert_eq!(project.build(&[]), (2, 1));
        let layer = layer(&project);
        depths.push(
            Store::open(project.store())
                .unwrap()
                .manifest(&layer)
                .unwrap()
                .depth,
        );
    }
    assert!(depths.iter().all(|depth| *depth <= 16), "{depths:?}");
    assert!(
        depths.windows(2).any(|pair| pair[1] < pair[0]),
        "one was squashed: {depths:?}"
    );
    assert_eq!(project.in_guest("many", "cat /number"), "20\n");
    // What is collected takes nothing with it that a kept layer stands on.
    project.ok(&["gc", "--keep", "1", "--min-age", "0s"]);
    assert_eq!(
        project.in_guest(
            "many",
            "cat /number; sha256sum /many/a/big3 /bin/busybox | wc -l"
        ),
        "20\n2\n"
    );
    assert_eq!(project.build(&[]), (0, 3));
    assert_eq!(
        project.ok(&["store", "verify"]).lines().count(),
        1,
        "no findings"
    );
}
