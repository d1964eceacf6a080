//! Kubernetes objects from any bytes: never a panic, and a broken policy never opens anything.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| netpolc_kube_sync::fuzz_decode(bytes));
