#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| impasto_fuzz::packed::run(data));
