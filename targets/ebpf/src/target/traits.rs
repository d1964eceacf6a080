//! What [`Ebpf`] is to others: a target, and a datapath that can be asked about single packets.

use super::*;

impl Target for Ebpf {
    fn name(&self) -> &'static str {
        "ebpf"
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn read(&self) -> Result<Program, Error> {
        if self.access == Access::Write {
            return self.generation.tables.read();
        }
        let mut last = None;
        for _ in 0..READ_ATTEMPTS {
            match self.generation.tables.read_afresh() {
                Ok(program) => return Ok(program),
                Err(error) => last = Some(error),
            }
            std::thread::sleep(RETRY_PAUSE);
        }
        Err(last.expect("tried at least once"))
    }

    fn write(&mut self, write: &Write) -> Result<(), Error> {
        self.may_change()?;
        self.capabilities.check(write)?;
        loop {
            match self.generation.tables.write(write, &self.grace) {
                Ok(()) => return Ok(()),
                Err(Stop::Room { table, room, capacity, need }) => {
                    if !self.grow(room, need)? {
                        return Err(Stop::Room { table, room, capacity, need }.into());
                    }
                }
                Err(Stop::Other(error)) => return Err(error),
            }
        }
    }

    fn settle(&mut self) -> Result<(), Error> {
        self.may_change()?;
        self.grace.wait()?;
        self.generation.tables.release()
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

    fn advance(&mut self, by: Duration) -> Result<(), Error> {
        self.may_change()?;
        let maps = &self.generation.tables.maps;
        let jiffies = by.as_nanos() * u128::from(maps.clock.hz) / 1_000_000_000;
        maps.words::<AtomicU64>(MapId::Config)[layout::config::TIME_OFFSET / 8]
            .fetch_add(jiffies as u64, Relaxed);
        Ok(())
    }
}

impl Drop for Ebpf {
    fn drop(&mut self) {
        if self.pins.is_none() {
            // TCX links go with their descriptors, but filters would stay.
            let _ = self.attachments.detach_all(None);
        }
    }
}
