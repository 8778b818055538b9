//! Early cutoff: a stage that runs again and gives the same stops there; what must not be taken for the same is not.

use impasto_store::Store;
use impasto_store::claim::{Caveat, Claim, Isolation};
use serde_json::Value;

use crate::project::Project;

/// A fetch, `a`, `b` on it, and an image of that. `a` is what stands in braces.
fn project(a: &str) -> Project {
    let project = Project::with("");
    write(&project, a);
    project
}

fn write(project: &Project, a: &str) {
    let recipe = r#"
        recipe { name = "cutoff" }
        stage "fetch" "base" { path = "base.qcow2" }
        stage "run" "a" {
          from = stage.base
          A
        }
        stage "run" "b" {
          from     = stage.a
          commands = ["cat /root/a > /root/b"]
        }
        stage "convert" "qcow2" {
          from   = stage.b
          format = "qcow2"
        }
        image "it" {
          name  = "it"
          files = [stage.qcow2]
        }
    "#;
    project.write("impasto.hcl", &recipe.replace("  A\n", &format!("  {a}\n")));
}

fn node<'p>(plan: &'p Value, stage: &str) -> &'p Value {
    plan["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .find(|node| node["stage"] == stage)
        .unwrap()
}

fn plan(project: &Project) -> Value {
    serde_json::from_str(&project.ok(&["plan", "--json"])).unwrap()
}

/// All claims of a stage, as they are.
fn claims(project: &Project, stage: &str) -> Vec<Claim> {
    let store = Store::open(project.store()).unwrap();
    let mut found = Vec::new();
    for prefix in std::fs::read_dir(project.store().join("claims")).unwrap() {
        for action in std::fs::read_dir(prefix.unwrap().path()).unwrap() {
            let action = action
                .unwrap()
                .file_name()
                .into_string()
                .unwrap()
                .parse()
                .unwrap();
            let claims = store.claims(&action).unwrap().0;
            found.extend(
                claims
                    .into_iter()
                    .map(|(_, claim)| claim)
                    .filter(|claim| claim.stage == stage),
            );
        }
    }
    found.sort_by_key(|claim| claim.created);
    found
}

/// Puts another claim in the place of a stage's only one.
fn plant(project: &Project, stage: &str, change: impl FnOnce(&mut Claim)) {
    let [claim] = &claims(project, stage)[..] else {
        panic!("{stage} has one claim")
    };
    let store = Store::open(project.store()).unwrap();
    let mut planted = claim.clone();
    change(&mut planted);
    store.remove_claim(&claim.action, &claim.id()).unwrap();
    store.put_claim(&planted).unwrap();
    store.flush().unwrap();
}

#[test]
fn a_comment_in_a_script_runs_one_stage() {
    let project = project(r#"commands = ["mkdir -p /root/d; echo one > /root/a"]"#);
    assert_eq!(project.build(&[]), (4, 0));
    let image = crate::project::sha256(&project.path("out/it.qcow2"));
    let before = Store::open(project.store())
        .unwrap()
        .du()
        .unwrap()
        .by_layer
        .len();
    write(
        &project,
        r#"commands = ["mkdir -p /root/d; echo one > /root/a # a comment"]"#,
    );
    assert_eq!(
        project.build(&[]),
        (1, 3),
        "b and the image are what they were"
    );
    assert_eq!(project.build(&[]), (0, 4));
    assert_eq!(crate::project::sha256(&project.path("out/it.qcow2")), image);
    let store = Store::open(project.store()).unwrap();
    assert_eq!(
        store.du().unwrap().by_layer.len(),
        before,
        "no layer was added"
    );
    let claims = claims(&project, "a");
    assert_eq!(claims.len(), 2);
    assert_eq!(claims[0].result.disk, claims[1].result.disk);
    let other = claims
        .iter()
        .find_map(|claim| claim.extra.get("disk_of_claim"))
        .expect("which claim's disk it is");
    assert!(claims.iter().any(|claim| claim.id().to_string() == *other));
    // Run again on request, it stops there too.
    assert_eq!(project.build(&["--rebuild", "a"]), (1, 3));
    assert_eq!(
        project.ok(&["store", "verify"]).lines().count(),
        1,
        "no findings"
    );
}

#[test]
fn what_counts_as_the_same_is_the_recipes_choice() {
    for (cutoff, then) in [("tree", (1, 3)), ("off", (2, 2))] {
        let a = |comment| {
            format!(
                "cutoff = \"{cutoff}\"\n commands = [\"date > /dev/null; echo one > /root/a # {comment}\"]"
            )
        };
        let project = project(&a("one"));
        assert_eq!(project.build(&[]), (4, 0));
        write(&project, &a("two"));
        assert_eq!(project.build(&[]), then, "cutoff = {cutoff}");
        assert_eq!(project.build(&[]), (0, 4), "cutoff = {cutoff}");
    }
    // Files that are made one after the other lie in other places than those made the other way round.
    let a = |cutoff: &str, order: &str| {
        format!(
            "cutoff = \"{cutoff}\"\n commands = [\"for i in {order}; do head -c 9000 /dev/zero | tr '\\\\0' $i > /root/$i; sync; done; echo one > /root/a; touch -d @9 /root\"]"
        )
    };
    for (cutoff, then) in [("tree", (1, 3)), ("bytes", (2, 2))] {
        let project = project(&a(cutoff, "x y z"));
        assert_eq!(project.build(&[]), (4, 0));
        write(&project, &a(cutoff, "z y x"));
        assert_eq!(project.build(&[]), then, "cutoff = {cutoff}");
    }
}

#[test]
fn weaker_claims_are_not_taken() {
    type Change = fn(&mut Claim);
    let weaker: [(Change, &str); 3] = [
        (
            |claim| claim.isolation = Isolation::Weak,
            "it was made with weaker isolation (emulated machine)",
        ),
        (
            |claim| claim.caveats = [Caveat::Unlocked].into(),
            "it is marked `unlocked`, which this run would not be",
        ),
        (
            |claim| claim.writer = "mallory".to_owned(),
            "it is from mallory, who is not trusted",
        ),
    ];
    for (change, objection) in weaker {
        let project = project(r#"commands = ["echo one > /root/a"]"#);
        assert_eq!(project.build(&[]), (4, 0));
        plant(&project, "b", change);
        let plan = plan(&project);
        assert_eq!(node(&plan, "b")["state"], "dirty");
        assert_eq!(
            node(&plan, "b")["reason"],
            format!("the stored result is not accepted: {objection}")
        );
        // What was there before is gone, so that its disk cannot stand in: the image may be made again too.
        assert!(project.build(&[]).0 > 0, "{objection}");
        assert_eq!(project.build(&[]), (0, 4), "its own claim is taken");
    }
}

#[test]
fn an_unlocked_result_with_an_equal_tree_stands_in_for_nothing() {
    let command = r#"commands = ["echo one > /root/a"]"#;
    let project = project(&format!("network = true\n {command}"));
    assert_eq!(project.build(&[]), (4, 0));
    assert!(claims(&project, "b")[0].caveats.contains(&Caveat::Unlocked));
    // Now without the network: the same files, of which nobody may say that they are unlocked.
    write(&project, command);
    assert_eq!(
        project.build(&[]),
        (3, 1),
        "neither the disk nor what was built on it is taken"
    );
    for stage in ["a", "b", "qcow2"] {
        let clean = claims(&project, stage)
            .into_iter()
            .find(|claim| claim.caveats.is_empty());
        let clean = clean.unwrap_or_else(|| panic!("{stage} has a claim without caveats"));
        assert!(!clean.extra.contains_key("disk_of_claim"), "{stage}");
    }
    // And with it again: what was found before is taken, and says so all the way.
    write(&project, &format!("network = true\n {command}"));
    assert_eq!(project.build(&[]), (0, 4));
    let plan = plan(&project);
    for stage in ["a", "b", "qcow2"] {
        assert_eq!(
            node(&plan, stage)["caveats"],
            serde_json::json!(["unlocked"]),
            "{stage}"
        );
    }
}

#[test]
fn a_clean_result_may_stand_in_for_an_unlocked_one_and_the_caveat_stays() {
    let command = r#"commands = ["echo one > /root/a"]"#;
    let project = project(command);
    assert_eq!(project.build(&[]), (4, 0));
    write(&project, &format!("network = true\n {command}"));
    assert_eq!(project.build(&[]), (1, 3), "b's key is what it was");
    let plan = plan(&project);
    for stage in ["a", "b", "qcow2"] {
        assert_eq!(
            node(&plan, stage)["caveats"],
            serde_json::json!(["unlocked"]),
            "{stage}: united along the way"
        );
    }
}
