//! What the collector deletes, and what it never does.

use std::time::{Duration, UNIX_EPOCH};

use impasto_store::gc::{EXPIRE_SECS, GcOptions};
use impasto_store::refs::{Checkout, Root};
use impasto_store::seal::Absent;

use crate::support::{
    Full, MemorySource, TREE, files, read_blob, read_disk, sharing, text, top_chunks,
};

/// No object is too young.
const NOW: GcOptions = GcOptions {
    dry_run: false,
    min_age_secs: 0,
    keep: 1,
    expire_secs: EXPIRE_SECS,
};

/// What is younger than an hour is kept.
const HOUR: GcOptions = GcOptions {
    min_age_secs: 3600,
    ..NOW
};

impl Full {
    /// Makes everything look as if it were made two hours ago.
    fn age(&self) {
        let long_ago =
            UNIX_EPOCH + Duration::from_secs(self.store.now().unwrap().secs as u64 - 7200);
        for path in files(self.dir.path()) {
            // Opening for reading is enough to set times.
            std::fs::File::open(path)
                .unwrap()
                .set_modified(long_ago)
                .unwrap();
        }
    }

    fn root(&self) -> Root {
        Root::Claim(self.claim.action, self.claim.id())
    }
}

#[test]
fn a_kept_claim_keeps_all_that_it_needs() {
    let full = Full::new();
    full.age();
    let report = full.store.gc(&[full.root()], &[], None, HOUR).unwrap();
    assert_eq!(report.removed, []);
    let store = full.reopen();
    assert_eq!(read_disk(&store, &full.top).unwrap(), top_chunks());
    assert!(read_blob(&store, &full.sharing).unwrap() == sharing());
    assert_eq!(read_blob(&store, &full.tree).unwrap(), TREE);
    assert!(store.claim(&full.claim.action, &full.claim.id()).is_ok());
}

#[test]
fn what_nothing_keeps_is_deleted_and_a_root_is_not() {
    let full = Full::new();
    full.age();
    let dry = full
        .store
        .gc(
            &[],
            &[],
            None,
            GcOptions {
                dry_run: true,
                ..HOUR
            },
        )
        .unwrap();
    let before = files(full.dir.path());
    let report = full.store.gc(&[], &[], None, HOUR).unwrap();
    assert_eq!(
        report.removed, dry.removed,
        "a dry run says what will be deleted"
    );
    assert_eq!(
        before.len() - files(full.dir.path()).len(),
        report.removed.len()
    );
    let store = full.reopen();
    assert!(read_disk(&store, &full.base).is_ok(), "a root names it");
    assert!(store.manifest(&full.top).is_err());
    assert!(
        !store.has_blob(&full.small.digest).unwrap() && !store.has_blob(&full.tree.digest).unwrap()
    );
    assert_eq!(
        store.lookup(&full.claim.action).unwrap(),
        [],
        "the index does not remember it"
    );
    assert_eq!(store.verify(false).unwrap().findings, []);
}

#[test]
fn a_blob_that_shares_pieces_keeps_the_one_that_has_them() {
    let full = Full::new();
    full.age();
    full.store
        .gc(&[Root::Blob(full.sharing)], &[], None, HOUR)
        .unwrap();
    assert!(read_blob(&full.reopen(), &full.sharing).unwrap() == sharing());
    assert!(!full.store.has_blob(&full.small.digest).unwrap());
}

#[test]
fn young_objects_are_kept_with_what_they_need() {
    let full = Full::new();
    full.age();
    let hex = full.sharing.digest.to_string();
    let path = full.dir.path().join("blobs").join(&hex[..2]).join(&hex);
    std::fs::File::open(path)
        .unwrap()
        .set_modified(UNIX_EPOCH + Duration::from_secs(4_000_000_000))
        .unwrap();
    let child = MemorySource::new(10, [(7, Some(text(70)))]);
    let child = full
        .store
        .seal(Some(&full.top), &child, Absent::AsParent)
        .unwrap()
        .disk
        .layer;
    let report = full.store.gc(&[], &[], None, HOUR).unwrap();
    assert!(report.kept_young > 0);
    assert!(read_blob(&full.store, &full.sharing).is_ok());
    assert!(read_disk(&full.store, &child).is_ok());
}

#[test]
fn nothing_is_deleted_while_a_build_runs() {
    let full = Full::new();
    full.age();
    let building = full.reopen();
    let lease = building.lease().unwrap();
    let before = files(full.dir.path());
    let report = full.store.gc(&[], &[], None, NOW).unwrap();
    assert_eq!((report.removed.len(), report.leases.len()), (0, 1));
    assert_eq!(files(full.dir.path()), before);
    let own = full
        .store
        .gc(&[full.root()], &[], Some(&lease), NOW)
        .unwrap();
    assert_eq!(
        own.leases,
        [] as [String; 0],
        "one's own lease does not stop one"
    );
    drop(lease);
    assert!(
        !full
            .store
            .gc(&[], &[], None, NOW)
            .unwrap()
            .removed
            .is_empty()
    );
}

#[test]
fn debris_is_swept_and_unknown_files_are_not() {
    let full = Full::new();
    let root = full.dir.path();
    std::fs::create_dir_all(root.join("tmp/dead/sub")).unwrap();
    std::fs::write(root.join("tmp/dead/sub/overlay"), vec![1; 5000]).unwrap();
    std::fs::write(root.join("tmp/young"), "x").unwrap();
    let working = full.store.scratch().unwrap();
    std::fs::write(working.path().join("overlay"), "x").unwrap();
    std::fs::create_dir_all(root.join("trash/dead")).unwrap();
    std::fs::write(root.join("trash/bad"), "x").unwrap();
    std::fs::write(root.join("blobs/readme"), "not ours").unwrap();
    std::fs::write(root.join("claims/readme"), "not ours").unwrap();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("precious"), "x").unwrap();
    std::os::unix::fs::symlink(outside.path(), root.join("trash/dead/link")).unwrap();
    let long_ago = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for old in ["tmp/dead/sub/overlay", "tmp/dead/sub", "tmp/dead"] {
        std::fs::File::open(root.join(old))
            .unwrap()
            .set_modified(long_ago)
            .unwrap();
    }
    let report = full.store.gc(&[full.root()], &[], None, NOW).unwrap();
    assert!(working.path().join("overlay").exists(), "its process lives");
    assert!(!root.join("tmp/dead").exists() && !root.join("trash/bad").exists());
    assert!(!root.join("trash/dead").exists());
    assert!(root.join("tmp/young").exists() && root.join("blobs/readme").exists());
    assert!(outside.path().join("precious").exists());
    assert_eq!(report.kept_unknown, 2);
    assert!(report.freed_bytes >= 5000);
}

#[test]
fn a_checkout_keeps_its_last_results_until_it_is_not_used_any_more() {
    let full = Full::new();
    let (action, claim) = (full.claim.action, full.claim.id());
    let newer = crate::support::claim(9, None, &[("small", full.small)]);
    let newer = (newer.action, full.store.put_claim(&newer).unwrap());
    let mut checkout = Checkout::default();
    checkout
        .results
        .insert("node".to_owned(), vec![newer, (action, claim)]);
    full.store.put_checkout("recipe-0123", &checkout).unwrap();
    assert_eq!(
        full.store.checkout("recipe-0123").unwrap().as_ref(),
        Some(&checkout)
    );
    assert_eq!(full.store.verify(false).unwrap().findings, []);
    assert_eq!(
        full.store
            .gc(&[], &[], None, GcOptions { keep: 2, ..NOW })
            .unwrap()
            .removed,
        []
    );
    let bare = [(action, claim)];
    let dry = full
        .store
        .gc(
            &[],
            &bare,
            None,
            GcOptions {
                keep: 2,
                dry_run: true,
                ..NOW
            },
        )
        .unwrap();
    assert!(
        !dry.removed.is_empty()
            && dry
                .removed
                .iter()
                .all(|(kind, ..)| *kind != impasto_store::error::ObjectKind::Claim)
    );
    assert!(
        !full
            .store
            .gc(&[], &[], None, NOW)
            .unwrap()
            .removed
            .is_empty(),
        "the one before is not the last"
    );
    assert!(
        full.store.claim(&action, &claim).is_err() && full.store.claim(&newer.0, &newer.1).is_ok()
    );
    assert_eq!(
        read_blob(&full.store, &full.small).unwrap(),
        crate::support::SMALL
    );

    let path = full.dir.path().join("roots/recipe-0123");
    let used = |ago: u64| {
        let at = UNIX_EPOCH + Duration::from_secs(full.store.now().unwrap().secs as u64 - ago);
        std::fs::File::open(&path)
            .unwrap()
            .set_modified(at)
            .unwrap();
    };
    used(EXPIRE_SECS - 60);
    assert_eq!(full.store.gc(&[], &[], None, NOW).unwrap().removed, []);
    used(EXPIRE_SECS + 60);
    let dry = full
        .store
        .gc(
            &[],
            &[],
            None,
            GcOptions {
                dry_run: true,
                ..NOW
            },
        )
        .unwrap();
    assert_eq!(
        (dry.expired.as_slice(), path.exists()),
        (["recipe-0123".to_owned()].as_slice(), true)
    );
    full.store
        .freshen_checkout("recipe-0123", full.store.now().unwrap().secs - 3600)
        .unwrap();
    assert_eq!(
        full.store.gc(&[], &[], None, NOW).unwrap().removed,
        [],
        "it was used again"
    );
    used(EXPIRE_SECS + 60);
    assert!(
        !full
            .store
            .gc(&[], &[], None, NOW)
            .unwrap()
            .removed
            .is_empty()
    );
    assert!(!path.exists() && full.store.claim(&newer.0, &newer.1).is_err());
    assert!(
        full.dir.path().join("roots/kept").exists(),
        "what has a name is kept until the name is removed"
    );
}

#[test]
fn builds_of_one_checkout_lose_nothing_of_each_other() {
    let full = Full::new();
    std::thread::scope(|scope| {
        for worker in 0..4u64 {
            let store = full.reopen();
            scope.spawn(move || {
                for number in 0..25 {
                    let action = crate::support::action(worker * 25 + number);
                    let run = (action, impasto_store::digest::ClaimId(action.0));
                    let enter = |checkout: &mut Checkout| {
                        checkout
                            .results
                            .insert(format!("{worker}-{number}"), vec![run])
                            .is_none()
                    };
                    store
                        .update_checkout("recipe", || Ok(Checkout::default()), enter)
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(
        full.store
            .checkout("recipe")
            .unwrap()
            .unwrap()
            .results
            .len(),
        100
    );
}

#[test]
fn a_damaged_root_stops_the_collector() {
    let full = Full::new();
    full.age();
    crate::support::overwrite(&full.dir.path().join("roots/kept"), b"garbage");
    let before = files(full.dir.path());
    assert!(matches!(
        full.store.gc(&[], &[], None, NOW),
        Err(impasto_store::Error::RootDamaged { .. })
    ));
    assert_eq!(files(full.dir.path()), before);
}
