//! The eBPF target: tables in memory-mapped maps, two generated TC programs for each pod.
//!
//! [`layout`] says what the maps hold; both the programs and user space go by it.

pub mod asm;
pub mod disasm;
pub mod elf;
pub mod layout;
pub mod ledger;
pub mod loader;
pub mod maps;
pub mod memory;
pub mod program;
pub mod settle;
pub mod state;
pub mod sys;
pub mod tables;
