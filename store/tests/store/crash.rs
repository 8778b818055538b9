//! A process that dies at any point leaves a store that works: the test starts itself again, to be aborted.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use impasto_store::crash::{POINTS, arm};
use impasto_store::gc::GcOptions;
use impasto_store::refs::Checkout;
use impasto_store::seal::Absent;
use impasto_store::{Error, Store};

use crate::support::{MemorySource, claim, large, raw, read_blob, read_disk, text};

const VICTIM: &str = "IMPASTO_TEST_CRASH";

/// What a small build does, ending with the collector.
fn build(dir: &Path) -> impasto_store::Result<()> {
    let store = Store::open(dir)?;
    let lease = store.lease()?;
    let base = MemorySource::new(8, [(0, Some(text(1))), (1, Some(raw(2)))]);
    let base = store.seal(None, &base, Absent::AsParent)?;
    let overlay = MemorySource::new(8, [(1, None), (5, Some(raw(3)))]);
    let top = store.seal(Some(&base.disk.layer), &overlay, Absent::AsParent)?;
    // The second run of a stage: a delta to the first one's disk.
    let second = MemorySource::new(8, [(1, None), (5, Some(raw(3))), (6, Some(text(4)))]);
    let again = store.seal_like(
        Some(&base.disk.layer),
        Some(&top.disk.layer),
        &second,
        Absent::AsParent,
    )?;
    assert_eq!(
        store.manifest(&again.disk.layer)?.parent,
        Some(top.disk.layer)
    );
    let small = store.put_blob(&b"small"[..])?;
    let large = store.put_blob(&large()[..])?;
    let garbage = store.put_blob(&b"garbage"[..])?;
    store.put_claim(&claim(1, Some(base.disk), &[]))?;
    let last = claim(2, Some(again.disk), &[("small", small), ("large", large)]);
    let last_id = store.put_claim(&last)?;
    store.state_write(&["recipe", "last"], b"2")?;
    store.flush()?;
    let enter = |checkout: &mut Checkout| {
        checkout
            .results
            .insert("last".to_owned(), vec![(last.action, last_id)])
            .is_none()
    };
    store.update_checkout("recipe", || Ok(Checkout::default()), enter)?;
    drop(lease);
    // Everything is old enough a second later.
    for entry in crate::support::files(dir) {
        let _ =
            std::fs::File::open(entry).and_then(|file| file.set_modified(std::time::UNIX_EPOCH));
    }
    let now = std::fs::File::open(dir.join("roots/recipe"))
        .and_then(|file| file.set_modified(std::time::SystemTime::now()));
    assert!(now.is_ok());
    store.gc(&[], &[], None, GcOptions::default())?;
    assert!(store.claim(&last.action, &last_id).is_ok());
    assert!(!store.has_blob(&garbage.digest)?);
    Ok(())
}

/// Not a test of its own: what `any_moment_is_survived` kills.
#[test]
fn victim() {
    let Ok(order) = std::env::var(VICTIM) else {
        return;
    };
    let (point, rest) = order.split_once('|').unwrap();
    let (nth, dir) = rest.split_once('|').unwrap();
    arm(point, nth.parse().unwrap());
    build(Path::new(dir)).unwrap();
}

/// A hit must be whole: every claim that is there names only what is there and right.
fn check(dir: &Path, moment: &str) {
    let store = Store::open(dir).unwrap_or_else(|error| panic!("{moment}: {error}"));
    let findings = store.verify(false).unwrap().findings;
    assert!(
        findings.iter().all(|finding| !finding.code.is_damage()),
        "{moment}: {findings:?}"
    );
    for seed in [1, 2] {
        for summary in store.lookup(&crate::support::action(seed)).unwrap() {
            read_disk(&store, &summary.result.disk.unwrap().layer)
                .unwrap_or_else(|error| panic!("{moment}: {error}"));
            for file in summary.result.files.values() {
                let impasto_store::claim::FileContent::Blob(blob) = &file.content else {
                    panic!("{moment}")
                };
                read_blob(&store, blob).unwrap_or_else(|error: Error| panic!("{moment}: {error}"));
            }
        }
    }
}

#[test]
fn any_moment_is_survived() {
    let this = std::env::current_exe().unwrap();
    let mut deaths = 0;
    for point in POINTS {
        let mut deaths_here = 0;
        for nth in 1.. {
            let dir = tempfile::tempdir().unwrap();
            let order = format!("{point}|{nth}|{}", dir.path().display());
            let status = Command::new(&this)
                .args([
                    "--exact",
                    "crash::victim",
                    "--nocapture",
                    "--test-threads=1",
                ])
                .env(VICTIM, order)
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .status()
                .unwrap();
            if status.success() {
                break;
            }
            assert_eq!(
                status.signal(),
                Some(6),
                "{point} {nth}: it failed instead of being aborted"
            );
            deaths_here += 1;
            let moment = format!("{point}, the {nth}. time");
            check(dir.path(), &moment);
            build(dir.path()).unwrap_or_else(|error| panic!("{moment}, next build: {error}"));
            check(dir.path(), &moment);
        }
        assert!(deaths_here > 0, "no build comes to {point}");
        deaths += deaths_here;
    }
    println!("{deaths} deaths survived");
}
