//! What measurements need of generated programs, behind the feature `measure`: programs of which
//! only a part is generated, and programs that see another packet in each run.
//!
//! Not here: the measurements (`testbed/bench`).

use netpolc_table::schema::Family;

use super::{Generator, NEXT, stack};
use crate::asm::{Alu, AsmError, Code, Reg::*, Size};

/// What a measurement leaves out or varies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measure {
    /// How much is generated.
    pub stage: Stage,
    /// How packets vary from run to run; None where they stay as they are.
    pub vary: Option<Vary>,
    /// Whether packets are recorded.
    pub records: Records,
}

/// Whether a program records packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Records {
    /// The program counts only.
    Without,
    /// The program records, as always.
    #[default]
    Kept,
}

/// How much of a program is generated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The program answers Next at once.
    Empty,
    /// The program parses the packet and answers Next.
    ParseOnly,
    /// Everything.
    #[default]
    Full,
}

/// Makes every run of a program see another packet. A word in the map walks through all values
/// under `mask` in a mixed order, and the packet's remote address and one port are xored with
/// functions of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vary {
    /// A one-element array that holds the counter (u32).
    pub counter: crate::asm::MapRef,
    /// One less than the number of (remote, port) pairs, which must be a power of two.
    pub mask: u32,
    /// The bits of the remote address (of its last 32) that vary.
    pub remotes: u32,
    /// The bits of the port that vary.
    pub ports: u16,
    /// Which of the packet's two ports varies.
    pub port: Port,
}

/// One of a packet's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// The pod's port.
    Local,
    /// The other side's port.
    Remote,
}

impl Generator<'_> {
    /// A program that does nothing.
    pub(super) fn nothing(mut self) -> Result<Code, AsmError> {
        self.a.note("nothing");
        self.a.mov(R0, NEXT);
        self.a.exit();
        self.a.finish()
    }

    /// Changes remote and port after the last step of the parser. `family` says where the remote
    /// is.
    pub(super) fn vary(&mut self, family: Family) {
        let Some(v) = self.options.measure.vary else { return };
        let a = &mut self.a;
        a.note("measurement: another remote and port");
        a.map_value(R1, v.counter, 0);
        a.load(Size::W, R2, R1, 0);
        a.mov(R3, R2);
        a.alu32(Alu::Add, R3, 1);
        a.store(Size::W, R1, 0, R3);
        a.alu32(Alu::Mul, R2, 0x9e37_79b1_u32 as i32); // Odd, and so a permutation of the low bits.
        a.alu32(Alu::And, R2, v.mask as i32);
        a.mov(R3, R2);
        a.alu32(Alu::Mul, R3, 0x85eb_ca6b_u32 as i32);
        a.alu32(Alu::Rsh, R3, 8);
        a.alu32(Alu::And, R3, i32::from(v.ports));
        a.swap(R3, 16);
        if v.port == Port::Remote {
            a.alu(Alu::Lsh, R3, 16);
        }
        a.alu(Alu::Xor, R8, R3);
        a.alu32(Alu::And, R2, v.remotes as i32);
        a.swap(R2, 32);
        match family {
            Family::V4 => a.alu(Alu::Xor, R9, R2),
            Family::V6 => {
                a.load(Size::W, R3, Fp, stack::REMOTE + 12);
                a.alu32(Alu::Xor, R3, R2);
                a.store(Size::W, Fp, stack::REMOTE + 12, R3);
            }
        }
    }
}
