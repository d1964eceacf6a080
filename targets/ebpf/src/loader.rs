//! Loading a generated program through aya, and running it on single packets.
//!
//! Where the kernel refuses a program's BTF, aya warns and loads the program without it. Here that
//! is an error, because a verifier log without BTF names no table and helps nobody. aya raises
//! RLIMIT_MEMLOCK by itself where an old kernel needs it; where it cannot, the kernel's own answer
//! counts.
//!
//! Not here: generating the instructions (`program`), and attaching (`attach`).

use netpolc_table::IfIndex;
use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
    time::Duration,
};

use aya::{
    EbpfLoader,
    programs::{ProgramError, SchedClassifier},
};
use netpolc_target::{Arrival, Error, Frame, Mark, Verdict};

use crate::{
    asm::{Code, MapRef},
    elf,
    sys::{self, refused},
};

/// How many lines of the verifier's log an error carries, counted from its end.
const LOG_LINES: usize = 12;
/// The return value of a program that lets a packet go on: `TCX_NEXT`, which equals
/// `TC_ACT_UNSPEC`.
const NEXT: i32 = -1;
/// The return value of a program that drops a packet: `TC_ACT_SHOT`.
const SHOT: i32 = 2;

/// A program in the kernel. It lives as long as this descriptor, its pin or one of its links.
#[derive(Debug)]
pub struct Loaded {
    fd: OwnedFd,
    /// The kernel's id of the program.
    pub id: u32,
}

impl Loaded {
    /// Loads generated code. `descriptor` says which map each reference means.
    ///
    /// # Errors
    /// [`Error::Verifier`] where the verifier refuses the program, with the log's last lines and
    /// the table that they belong to; [`Error::System`] where the kernel refuses to load anything.
    pub fn load(
        name: &str,
        code: &Code,
        descriptor: impl Fn(MapRef) -> i32,
    ) -> Result<Self, Error> {
        let generator = |e: String| Error::Verifier {
            program: name.into(),
            at: "the generator".into(),
            log: e,
        };
        let object = elf::object(name, &code.bytes(descriptor), &code.notes)
            .map_err(|e| generator(e.to_string()))?;
        let mut ebpf = EbpfLoader::new().load(&object).map_err(|e| match e {
            aya::EbpfError::FileError { error, .. } => {
                refused(format!("load program {name}"), error)
            }
            other => generator(other.to_string()),
        })?;
        let program = ebpf
            .program_mut(name)
            .ok_or_else(|| generator("the object has no such program".into()))?;
        let program: &mut SchedClassifier = program
            .try_into()
            .map_err(|e: ProgramError| generator(format!("not a classifier: {e}")))?;
        program.load().map_err(|e| verifier(name, e))?;
        let info = program.info().map_err(|e| program_error(name, e))?;
        if info.btf_id().is_none() {
            return Err(generator("the kernel refuses the program's BTF".into()));
        }
        let fd = program.fd().map_err(|e| program_error(name, e))?;
        let fd =
            fd.as_fd().try_clone_to_owned().map_err(|e| refused(format!("program {name}"), e))?;
        Ok(Self { fd, id: info.id() })
    }

    /// Opens a pinned program.
    ///
    /// # Errors
    /// [`Error::System`] where there is no such pin, or it is not a program.
    pub fn pinned(path: &Path) -> Result<Self, Error> {
        let call = || format!("open {}", path.display());
        let fd = sys::pinned(path).map_err(|e| refused(call(), e))?;
        let id = sys::program_id(fd.as_fd()).map_err(|e| refused(call(), e))?;
        Ok(Self { fd, id })
    }

    /// The program's descriptor, for links and pins.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Runs the program on one unmarked packet, `repeat` times. The time is that of one run, as the
    /// kernel measures it.
    ///
    /// # Errors
    /// The kernel refuses to run it (`BPF_PROG_TEST_RUN`), or the program returns an unknown value.
    #[cfg(feature = "measure")]
    pub fn run(
        &self,
        packet: &[u8],
        ifindex: IfIndex,
        ingress_ifindex: IfIndex,
        repeat: u32,
    ) -> io::Result<(Verdict, Duration)> {
        self.run_marked(
            packet,
            sys::Context { ifindex, ingress_ifindex, mark: 0, cb: 0 },
            0,
            repeat,
        )
    }

    /// Runs the program on one packet, `repeat` times, as seen on `ifindex`. `bit` is the bit of
    /// the mark that says that a judgement is deferred. Whether it is set in the end tells Defer
    /// from Next. The time is that of one run, as the kernel measures it.
    ///
    /// # Errors
    /// The kernel refuses to run it (`BPF_PROG_TEST_RUN`), or the program returns an unknown value.
    pub fn run_frame(
        &self,
        frame: &Frame,
        ifindex: IfIndex,
        bit: u32,
        repeat: u32,
    ) -> io::Result<(Verdict, Duration)> {
        let mark = if frame.mark == Mark::Deferred { bit } else { 0 };
        let cb = u32::from(frame.arrival == Arrival::Born);
        let context = sys::Context { ifindex, ingress_ifindex: frame.arrival.ifindex(), mark, cb };
        self.run_marked(&frame.bytes, context, bit, repeat)
    }

    fn run_marked(
        &self,
        packet: &[u8],
        context: sys::Context,
        bit: u32,
        repeat: u32,
    ) -> io::Result<(Verdict, Duration)> {
        let run = sys::test_run(self.fd(), packet, context, repeat)?;
        let time = run.time;
        match run.answer as i32 {
            NEXT if run.mark & bit != 0 => Ok((Verdict::Defer, time)),
            NEXT => Ok((Verdict::Next, time)),
            SHOT => Ok((Verdict::Drop, time)),
            other => Err(io::Error::other(format!(
                "the program returns {other}, which is not a valid verdict"
            ))),
        }
    }
}

fn program_error(name: &str, error: ProgramError) -> Error {
    match error {
        ProgramError::SyscallError(e) => refused(format!("program {name}: {}", e.call), e.io_error),
        ProgramError::IOError(e) => refused(format!("program {name}"), e),
        other => refused(format!("program {name}"), io::Error::other(other.to_string())),
    }
}

/// The verifier's refusal, with the end of its log and the last note before it: notes are the
/// program's BTF source lines and name the table that instructions come from.
fn verifier(name: &str, error: ProgramError) -> Error {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return program_error(name, error);
    };
    let log = verifier_log.to_string();
    if log.trim().is_empty() {
        return refused(format!("load program {name}"), io_error);
    }
    let lines: Vec<&str> = log
        .lines()
        .filter(|l| !l.starts_with("verification time") && !l.starts_with("processed "))
        .collect();
    let suffix = format!(" @ {}:", elf::SOURCE);
    let at = lines
        .iter()
        .rev()
        .find_map(|l| l.strip_prefix("; ")?.split_once(&suffix).map(|(text, _)| text));
    let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
    Error::Verifier { program: name.into(), at: at.unwrap_or("an unnamed step").into(), log: tail }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asm::{Alu, Asm, Reg::*, Size};

    #[test]
    fn a_program_runs_and_sees_its_context() {
        let mut a = Asm::new();
        a.note("all");
        a.load(Size::W, R0, R1, 36); // ingress_ifindex
        let next = a.label();
        a.jump_if(crate::asm::Cond::Eq, R0, 7, next);
        a.mov(R0, SHOT);
        a.exit();
        a.bind(next);
        a.mov(R0, NEXT);
        a.exit();
        let program =
            Loaded::load("np_test", &a.finish().unwrap(), |_| 0).expect("needs root and BPF");
        let frame = |ifindex| Frame {
            interface: sys::LO,
            arrival: IfIndex::new(ifindex).into(),
            mark: Mark::Clear,
            bytes: vec![0; 64],
        };
        assert_eq!(program.run_frame(&frame(7), sys::LO, 1, 1).unwrap().0, Verdict::Next);
        assert_eq!(program.run_frame(&frame(8), sys::LO, 1, 1).unwrap().0, Verdict::Drop);
        let marked = Frame { mark: Mark::Deferred, ..frame(7) };
        assert_eq!(program.run_frame(&marked, sys::LO, 1 << 31, 1).unwrap().0, Verdict::Defer);
    }

    #[test]
    fn a_refusal_names_the_table() {
        let mut a = Asm::new();
        a.note("parse");
        a.load(Size::W, R3, R1, 8);
        a.note("table port: class");
        a.mov(R2, Fp);
        a.alu(Alu::Add, R2, R3);
        a.load(Size::Dw, R0, R2, 0);
        a.exit();
        let refused = Loaded::load("np_test", &a.finish().unwrap(), |_| 0)
            .expect_err("reads beyond the stack");
        let Error::Verifier { program, at, log } = refused else { panic!("{refused}") };
        assert_eq!((program.as_str(), at.as_str()), ("np_test", "table port: class"));
        assert!(!log.is_empty());
    }
}
