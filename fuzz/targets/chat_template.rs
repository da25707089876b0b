#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| metal_candle::fuzzing::render_chat_template(bytes));
