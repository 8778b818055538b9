//! Claims, and the index over them.

use impasto_store::claim::{Signature, capped};
use impasto_store::index::ClaimSummary;
use impasto_store::{Error, Store};

use crate::support::{Full, action, claim};

#[test]
fn many_claims_about_one_action_live_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut claims: Vec<_> = (0..5)
        .map(|created| {
            let claim = impasto_store::claim::Claim {
                created,
                ..claim(1, None, &[])
            };
            (store.put_claim(&claim).unwrap(), claim)
        })
        .collect();
    claims.sort_by_key(|(id, _)| *id);
    assert_eq!(
        store.claims(&action(1)).unwrap(),
        (claims.clone(), Vec::new())
    );
    assert_eq!(store.claim_ids(&action(2)).unwrap(), []);
    let ids = |found: Vec<ClaimSummary>| {
        found
            .iter()
            .map(|summary| summary.claim)
            .collect::<Vec<_>>()
    };
    let expected: Vec<_> = claims.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids(store.lookup(&action(1)).unwrap()), expected);
    let fresh = Store::open(dir.path()).unwrap();
    assert_eq!(
        ids(fresh.lookup(&action(1)).unwrap()),
        expected,
        "without an index, out of the claims"
    );
}

#[test]
fn signing_does_not_change_the_name() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let claim = claim(1, None, &[]);
    let signature = Signature {
        scheme: "ed25519".to_owned(),
        key: "k".to_owned(),
        bytes: vec![7; 64],
    };
    let id = store
        .put_signed_claim(&claim, vec![signature.clone()])
        .unwrap();
    assert_eq!(id, claim.id());
    assert_eq!(
        store.signed_claim(&claim.action, &id).unwrap(),
        (claim, vec![signature])
    );
}

#[test]
fn the_index_saves_opening_claims_and_may_be_lost() {
    let full = Full::new();
    let store = full.reopen();
    let found = store.lookup(&full.claim.action).unwrap();
    assert_eq!(found, [ClaimSummary::of(&full.claim, full.claim.id())]);
    assert_eq!(store.io().claim_opens, 0);
    std::fs::remove_file(full.dir.path().join("state/index")).unwrap();
    let store = full.reopen();
    assert_eq!(store.lookup(&full.claim.action).unwrap(), found);
    assert_eq!(store.io().claim_opens, 1);
    store.flush().unwrap();
    let store = full.reopen();
    assert_eq!(store.lookup(&full.claim.action).unwrap(), found);
    assert_eq!(store.io().claim_opens, 0, "it was written again");
}

#[test]
fn two_processes_that_write_the_index_lose_nothing_of_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (
        Store::open(dir.path()).unwrap(),
        Store::open(dir.path()).unwrap(),
    );
    one.put_claim(&claim(1, None, &[])).unwrap();
    two.put_claim(&claim(2, None, &[])).unwrap();
    one.flush().unwrap();
    two.flush().unwrap();
    let third = Store::open(dir.path()).unwrap();
    assert_eq!(third.lookup(&action(1)).unwrap().len(), 1);
    assert_eq!(third.lookup(&action(2)).unwrap().len(), 1);
    assert_eq!(third.io().claim_opens, 0);
}

#[test]
fn a_removed_claim_stays_removed() {
    let full = Full::new();
    let other = full.reopen();
    other.lookup(&full.claim.action).unwrap();
    full.store
        .remove_claim(&full.claim.action, &full.claim.id())
        .unwrap();
    full.store.flush().unwrap();
    assert_eq!(full.reopen().lookup(&full.claim.action).unwrap(), []);
    assert!(matches!(
        full.store.claim(&full.claim.action, &full.claim.id()),
        Err(Error::Miss(_))
    ));
}

#[test]
fn overlong_fields_are_shortened_and_still_tell_of_changes() {
    let field = |value: String| impasto_store::key::Field {
        path: "script".to_owned(),
        value,
    };
    let long = "é".repeat(100_000);
    let fields = capped(vec![
        field(long.clone()),
        field(format!("{long}x")),
        field("short".to_owned()),
    ]);
    assert!(fields.iter().all(|field| field.value.len() < 50_000));
    assert_ne!(fields[0], fields[1]);
    assert_eq!(fields[2].value, "short");
}

#[test]
fn claim_ids_are_pinned() {
    // A change here is a format break: bump the store's format version.
    assert_eq!(claim(1, None, &[]).id().short(), "909109f958a6");
}

#[test]
fn ten_thousand_summaries_are_read_in_milliseconds() {
    // In memory, where making ten thousand claims durable costs little.
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let store = Store::open(dir.path()).unwrap();
    for seed in 0..10_000 {
        store.put_claim(&claim(seed, None, &[])).unwrap();
    }
    store.flush().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let start = std::time::Instant::now();
    for seed in 0..10_000 {
        assert_eq!(store.lookup(&action(seed)).unwrap().len(), 1);
    }
    println!("10,000 look-ups with the index: {:?}", start.elapsed());
    assert_eq!(store.io().state_opens, 2, "`format` and the index");
}
