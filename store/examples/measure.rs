//! Seals a raw image twice and converts it: `measure STORE IMAGE [once]`, to be compared with `zstd -1 -T0`. Or hashes the files
//! of a directory: `measure STORE DIR`, to be compared with `b3sum`. Prints seconds.
#![allow(clippy::disallowed_methods, reason = "a tool for developers")]
#![allow(clippy::print_stdout, reason = "a tool for people")]

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use impasto_store::Store;
use impasto_store::convert::{ConvertOptions, ConvertTarget, Format};
use impasto_store::qcow2::RawFile;
use impasto_store::seal::Absent;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    let (Some(dir), Some(image)) = (args.next(), args.next()) else {
        return Err("measure STORE IMAGE|DIR".into());
    };
    let store = Store::open(&dir)?;
    let time =
        |what: &str, start: Instant| println!("{what}: {:.3} s", start.elapsed().as_secs_f64());
    if Path::new(&image).is_dir() {
        let entries = std::fs::read_dir(&image)?.map(|entry| Ok(entry?.path()));
        let paths = entries.collect::<std::io::Result<Vec<_>>>()?;
        for what in ["hash inputs, cold", "hash inputs, warm"] {
            let start = Instant::now();
            let hashed = store
                .hash_inputs(&paths, &impasto_store::inputs::open_any)
                .into_iter()
                .collect::<Result<Vec<_>, _>>()?;
            time(what, start);
            println!(
                "{} files, {} read so far",
                hashed.len(),
                store.io().input_opens
            );
        }
        return Ok(store.flush()?);
    }
    for _ in 0..2 {
        let start = Instant::now();
        let sealed = store.seal(None, &RawFile::new(File::open(&image)?)?, Absent::AsParent)?;
        time("seal", start);
        println!("{sealed:?} {:?}", store.io());
        if args.len() > 0 {
            return Ok(());
        }
        let start = Instant::now();
        store.chain(&sealed.disk.layer)?;
        time("chain", start);
        let out = Path::new(&dir).join("tmp/out.qcow2");
        for options in [
            ConvertOptions::default(),
            ConvertOptions {
                digest: true,
                ..Default::default()
            },
            ConvertOptions {
                digest: true,
                sha256: true,
                fsync: true,
            },
        ] {
            let file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(&out)?;
            let start = Instant::now();
            let target = ConvertTarget {
                format: Format::Qcow2,
                level: None,
                file: &file,
                path: &out,
            };
            let converted = store.convert(&sealed.disk.layer, &[target], options)?;
            time("convert", start);
            println!("{converted:?}");
        }
    }
    Ok(())
}
