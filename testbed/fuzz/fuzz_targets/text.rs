//! The text form of table programs: what parses prints and parses again to the same.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| netpolc_table::text::fuzz_parse(text));
