#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| metal_candle::fuzzing::read_gguf(bytes));
