//! Single packets: a hook's program runs on a packet in memory (`BPF_PROG_TEST_RUN`), and the
//! verdict is what it returns; and the records of packets.
//!
//! Not here: loading programs (`loader`), packets on interfaces (`attach`).

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use netpolc_target::{
    Arrival, Datapath, Error, Frame, Hook, Record, Recorder, Verdict, semantics::DropReason,
};

use super::Ebpf;
use crate::{
    layout::{self, MapId},
    maps::Maps,
    program::Sockets,
    recorder, state,
    sys::{self, refused},
};

impl Ebpf {
    /// Runs a hook's program `repeat` times on one packet. The time is that of one run.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the packet's [`Arrival`] cannot be shown to this instance's
    /// programs, [`Error::System`] where the kernel refuses to run the program on these bytes.
    pub fn run(
        &mut self,
        hook: Hook,
        frame: &Frame,
        repeat: u32,
    ) -> Result<(Verdict, Duration), Error> {
        if frame.arrival == Arrival::Forgotten && self.config.program.sockets == Sockets::Packet {
            return Err(Error::Unsupported {
                what: "the kernel puts a socket on every packet of a test run".into(),
                remedy: "ask an instance that is told of sockets (Config::asked)".into(),
            });
        }
        let ifindex = if self.pins.is_none() {
            self.generation.tables.lend_interface(frame.interface);
            sys::LO
        } else {
            frame.interface
        };
        let program = self.generation.program(hook);
        let done = program.run_frame(frame, ifindex, self.config.program.mark, repeat);
        if self.pins.is_none() {
            self.generation.tables.return_interface();
        }
        done.map_err(|e| {
            refused(format!("run the program of hook {hook:?} on {} bytes", frame.bytes.len()), e)
        })
    }
}

impl Ebpf {
    /// A reader of records, which may run in a thread of its own. There may be one.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] where the instance was opened by [`Ebpf::observe`], [`Error::System`]
    /// where the maps cannot be opened again.
    pub fn recorder(&self) -> Result<Box<dyn Recorder>, Error> {
        self.may_change()?;
        Ok(Box::new(recorder::Reader::new(&self.generation.tables.maps, &self.board)?))
    }
}

impl Datapath for Ebpf {
    /// A private instance judges the packet as seen at `frame.interface`, whether or not such a
    /// device exists. A pinned one runs the program as that device, which must be in the calling
    /// thread's network namespace.
    fn packet(&mut self, hook: Hook, frame: &Frame) -> Result<Verdict, Error> {
        // Drops at the hook `translated` are counted for the sender, not for the frame's interface.
        let [endpoint, sender] = [frame.interface, frame.arrival.ifindex()]
            .map(|i| self.generation.tables.endpoint_of(i));
        let counts = |maps: &Maps| {
            [state::counts(maps, endpoint, hook), state::counts(maps, sender, Hook::Translated)]
        };
        let before = counts(&self.generation.tables.maps);
        let (verdict, _) = self.run(hook, frame, 1)?;
        let after = counts(&self.generation.tables.maps);
        let counted =
            |r: &DropReason| (0..2).any(|i| after[i][*r as usize] != before[i][*r as usize]);
        self.last_drop = DropReason::ALL.into_iter().find(counted);
        Ok(verdict)
    }

    /// Found by the endpoint's counters, which packets on real interfaces increase too.
    fn explain_last(&self) -> Option<DropReason> {
        self.last_drop
    }

    /// The first call says only that there are records from now on.
    fn records(&mut self) -> Result<Option<Vec<Record>>, Error> {
        let reader = match &mut self.records {
            Some(reader) => reader,
            none => {
                let mut reader = recorder::Reader::new(&self.generation.tables.maps, &self.board)?;
                reader.refill(u32::MAX);
                none.insert(reader)
            }
        };
        let mut records = Vec::new();
        reader.read(usize::MAX, &mut |record| records.push(record))?;
        Ok(Some(records))
    }

    fn advance(&mut self, by: Duration) -> Result<(), Error> {
        self.may_change()?;
        let maps = &self.generation.tables.maps;
        let jiffies = by.as_nanos() * u128::from(maps.clock.hz) / 1_000_000_000;
        let words = maps.words::<AtomicU64>(MapId::Config);
        words[layout::config::TIME_OFFSET / 8].fetch_add(jiffies as u64, Relaxed);
        let before = self.advanced.as_secs();
        self.advanced += by;
        let seconds = self.advanced.as_secs() - before;
        words[layout::config::SECONDS / 8].fetch_add(seconds, Relaxed);
        Ok(())
    }
}
