//! Frames of any bytes: the generated programs in the kernel answer as the reference datapath does.
//! Needs root.
#![no_main]

use std::cell::RefCell;

use netpolc_target::conformance::{
    differential::fuzz_frame,
    fill,
    world::{Policy, world},
};
use netpolc_target_ebpf::{Config, Ebpf};
use netpolc_target_mem::Mem;

thread_local! {
    static PAIR: RefCell<(Mem, Ebpf)> = RefCell::new(pair());
}

fn pair() -> (Mem, Ebpf) {
    let (mut mem, mut ebpf) = (Mem::default(), Ebpf::private(Config::asked()).expect("needs root \
        and BPF"));
    let program = world(Policy::Some, Policy::Some);
    fill(&mut mem, &program).expect("the reference takes the program");
    fill(&mut ebpf, &program).expect("the kernel takes the program");
    (mem, ebpf)
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| PAIR.with_borrow_mut(|(mem, ebpf)| {
    if let Err(mismatch) = fuzz_frame(mem, ebpf, bytes).expect("both answer") {
        panic!("{mismatch:#?}");
    }
}));
