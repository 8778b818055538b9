//! Several processes and threads at work in one store.

use std::process::Command;

use impasto_store::Store;
use impasto_store::layer::LayerRef;
use impasto_store::seal::Absent;

use crate::support::{MemorySource, claim, large, raw, read_blob, read_disk, text};

const WORKER: &str = "IMPASTO_TEST_WORKER";

fn source() -> MemorySource {
    MemorySource::new(
        40,
        (0..40).map(|index| {
            (
                index,
                Some(if index % 3 == 0 {
                    raw(index)
                } else {
                    text(index)
                }),
            )
        }),
    )
}

fn work(store: &Store) -> LayerRef {
    let sealed = store.seal(None, &source(), Absent::AsParent).unwrap();
    let blob = store.put_blob(&large()[..]).unwrap();
    store
        .put_claim(&claim(1, Some(sealed.disk), &[("large", blob)]))
        .unwrap();
    store.state_write(&["recipe", "last"], b"x").unwrap();
    store.flush().unwrap();
    sealed.disk.layer
}

/// Not a test of its own: what `many_processes_seal_the_same` starts.
#[test]
fn worker() {
    if let Some(dir) = std::env::var_os(WORKER) {
        work(&Store::open(dir).unwrap());
    }
}

fn check(dir: &std::path::Path) {
    let store = Store::open(dir).unwrap();
    assert_eq!(store.verify(false).unwrap().findings, []);
    let found = store.lookup(&crate::support::action(1)).unwrap();
    assert_eq!(found.len(), 1, "equal claims are one");
    let disk = found[0].result.disk.unwrap();
    assert_eq!(read_disk(&store, &disk.layer).unwrap().len(), 40);
    let impasto_store::claim::FileContent::Blob(blob) = &found[0].result.files["large"].content
    else {
        panic!()
    };
    assert!(read_blob(&store, blob).unwrap() == large());
    assert_eq!(
        std::fs::read_dir(dir.join("tmp")).unwrap().count(),
        0,
        "nothing is left"
    );
}

#[test]
fn many_processes_seal_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let start = || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "concurrent::worker", "--test-threads=1"])
            .env(WORKER, dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut workers: Vec<_> = (0..6).map(|_| start()).collect();
    assert!(
        workers
            .iter_mut()
            .all(|worker| worker.wait().unwrap().success())
    );
    check(dir.path());
}

#[test]
fn many_threads_seal_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..6).map(|_| scope.spawn(|| work(&store))).collect();
        let layers: Vec<_> = workers
            .into_iter()
            .map(|worker| worker.join().unwrap())
            .collect();
        assert!(layers.iter().all(|layer| *layer == layers[0]));
    });
    check(dir.path());
}
