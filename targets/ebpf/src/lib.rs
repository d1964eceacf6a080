//! The eBPF target: tables in memory-mapped maps, and generated TC programs that read them. Each
//! pod's interface carries two programs, each of the node's other interfaces one.
//!
//! ```text
//! target      Ebpf: Target and Datapath, private or pinned; target/sizes: growing and shrinking;
//!             needs: how large; node: NodeTarget
//! generation  one set of tables with its programs
//! tables      a Write as stores, and everything decoded back
//! state       connections and counters: read, inserted, purged
//! pool        where tables of connections stand; growth: how they get another size
//! maps        the maps, by the layout; memory: one of them as atomics;
//!             ledger: what decoding needs beside them
//! program     the instructions of all hooks; asm, elf, loader: their way into the kernel;
//!             disasm: the same as text
//! attach      TCX links or clsact filters; pins: what outlives a process
//! settle      waiting for a grace period; sys: system calls that aya does not offer
//! ```
//!
//! [`layout`] says what the maps hold. The programs and user space share no other knowledge.
//!
//! # Examples
//!
//! A program's text shows the table that each part was generated from. No kernel is needed for it:
//!
//! ```
//! use netpolc_target::Hook;
//! use netpolc_target_ebpf::{Capacities, disasm, layout::Clock, program};
//!
//! let parameters =
//!     program::Parameters { capacities: Capacities::small(), seed: 1, clock: Clock { hz: 250 } };
//! let code = program::generate(Hook::ToPod, &parameters, &program::Options::default())?;
//! assert!(disasm::listing(&code).contains("table endpoint"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod attach;
mod clsact;
mod config;
pub mod disasm;
mod generation;
mod growth;
pub mod layout;
mod needs;
mod node;
mod pins;
mod pool;
pub mod program;
pub mod sys;
mod target;

// Benches and this crate's own tests look into these, too. One pair each, since rustfmt finds no
// module that a macro declares.
#[cfg(not(feature = "measure"))]
mod asm;
#[cfg(feature = "measure")]
pub mod asm;
#[cfg(not(feature = "measure"))]
mod elf;
#[cfg(feature = "measure")]
pub mod elf;
#[cfg(not(feature = "measure"))]
mod ledger;
#[cfg(feature = "measure")]
pub mod ledger;
#[cfg(not(feature = "measure"))]
mod loader;
#[cfg(feature = "measure")]
pub mod loader;
#[cfg(not(feature = "measure"))]
mod maps;
#[cfg(feature = "measure")]
pub mod maps;
#[cfg(not(feature = "measure"))]
mod memory;
#[cfg(feature = "measure")]
pub mod memory;
#[cfg(not(feature = "measure"))]
mod settle;
#[cfg(feature = "measure")]
pub mod settle;
#[cfg(not(feature = "measure"))]
mod state;
#[cfg(feature = "measure")]
pub mod state;
#[cfg(not(feature = "measure"))]
mod tables;
#[cfg(feature = "measure")]
pub mod tables;

pub use attach::{Attachment, Mode, Role, Way};
pub use config::{Config, Connections, Hold};
pub use growth::{Begun, Moved, Tender};
pub use layout::Capacities;
pub use maps::MapFacts;
pub use needs::capacities;
pub use state::{Amendment, Connection, Inserted, Live};
pub use target::Ebpf;
