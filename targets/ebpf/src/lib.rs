//! The eBPF target: tables in memory-mapped maps, two generated TC programs for each pod.
//!
//! [`layout`] says what the maps hold; both the programs and user space go by it.

pub mod layout;
