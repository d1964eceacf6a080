//! The eBPF target: tables in memory-mapped maps, generated TC programs: two for each pod, one for the node's other interfaces.
//!
//! ```text
//! target      Ebpf: Target and Datapath; private or pinned; growth; needs: to what
//! generation  tables with their programs
//! tables      a Write as stores, and everything decoded back
//! state       connections and counters: read, inserted, purged
//! pool        where tables of connections stand; growth: how they get another size
//! maps        the maps, by the layout; memory: one of them as atomics; ledger: what decoding needs beside them
//! program     the instructions of both hooks; asm, disasm, elf, loader: on their way into the kernel
//! attach      TCX links or clsact filters; pins: what outlives a process; private: that it is root's alone
//! ```
//!
//! [`layout`] says what the maps hold; both the programs and user space go by it.

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

/// Modules that only benches and this crate's own tests look into.
macro_rules! inner {
    ($($module:ident)*) => { $(
        #[cfg(feature = "measure")]
        pub mod $module;
        #[cfg(not(feature = "measure"))]
        mod $module;
    )* };
}

inner!(asm elf ledger loader maps memory settle state tables);

pub use attach::{Attachment, Mode, Role, Way};
pub use config::{Config, Connections, Hold};
pub use growth::{Begun, Moved, Tender};
pub use layout::Capacities;
pub use maps::MapFacts;
pub use needs::capacities;
pub use state::{Amendment, Connection, Inserted, Live};
pub use target::Ebpf;
