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
//! recorder    reads the records of packets, and the counters beside them
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

mod asm;
mod attach;
mod clsact;
mod config;
pub mod disasm;
mod elf;
mod generation;
mod growth;
pub mod layout;
mod ledger;
mod loader;
mod maps;
mod memory;
mod needs;
mod node;
mod pins;
mod pool;
pub mod program;
mod recorder;
mod settle;
mod state;
pub mod sys;
mod tables;
mod target;

pub use attach::{Attachment, Mode, Role, Way};
pub use config::{Config, Connections, Hold};
pub use growth::{Begun, Moved, Tender};
pub use layout::Capacities;
pub use maps::MapFacts;
pub use needs::capacities;
pub use state::{Amendment, Connection, Inserted, Live};
pub use target::Ebpf;

/// The parts of this crate that only benches and its own tests look into, each under the name that
/// it has in here.
#[cfg(feature = "measure")]
#[expect(missing_docs, reason = "each module's own header says what is in it")]
pub mod measure {
    pub mod asm {
        pub use crate::asm::*;
    }
    pub mod loader {
        pub use crate::loader::*;
    }
    pub mod maps {
        pub use crate::maps::*;
    }
    pub mod memory {
        pub use crate::memory::*;
    }
    pub mod settle {
        pub use crate::settle::*;
    }
    pub mod state {
        pub use crate::state::*;
    }
    pub mod tables {
        pub use crate::tables::*;
    }
}
