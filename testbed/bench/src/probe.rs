//! The eBPF target on no node, which says when each address and each endpoint got a new verdict:
//! what measurements of an agent without packets need.
//!
//! Not here: the network that such an agent sees (whoever measures).

use std::{collections::BTreeSet, net::Ipv4Addr, sync::mpsc::Sender, time::Instant};

use netpolc_host::Connection;
use netpolc_table::{
    EndpointId, IfIndex, Incarnation, Program, TableId, Write,
    schema::{EndpointKey, Prefix, RemoteV4Key},
};
use netpolc_target::{Capabilities, Error, NodeTarget, Origin, Recorder, Taken, Target};
use netpolc_target_ebpf::Ebpf;

/// What a write put into force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Switched {
    /// The leaf of an IPv4 address came.
    Address(Ipv4Addr),
    /// An endpoint's word changed.
    Endpoint(EndpointId),
}

/// An eBPF target that notes when writes switch something.
pub struct Probe {
    ebpf: Ebpf,
    attached: BTreeSet<IfIndex>,
    switched: Sender<(Switched, Instant)>,
}

impl Probe {
    /// Wraps a target. What it notes goes to `switched`, with the time.
    pub fn new(ebpf: Ebpf, switched: Sender<(Switched, Instant)>) -> Self {
        Self { ebpf, attached: BTreeSet::new(), switched }
    }
}

impl Target for Probe {
    fn name(&self) -> &'static str {
        self.ebpf.name()
    }

    fn capabilities(&self) -> &Capabilities {
        self.ebpf.capabilities()
    }

    fn read(&self) -> Result<Program, Error> {
        self.ebpf.read()
    }

    fn write(&mut self, write: &Write) -> Result<(), Error> {
        self.ebpf.write(write)?;
        let now = Instant::now();
        for (key, _) in &write.put {
            let what = match write.table {
                TableId::RemoteV4 => match RemoteV4Key::of(key).address {
                    Prefix { address, length: 32 } => Switched::Address(address),
                    _ => continue,
                },
                TableId::Endpoint => Switched::Endpoint(EndpointKey::of(key).endpoint),
                _ => continue,
            };
            // Whoever measures may have ended.
            let _ = self.switched.send((what, now));
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), Error> {
        self.ebpf.settle()
    }
}

impl NodeTarget for Probe {
    fn attached(&self) -> BTreeSet<IfIndex> {
        self.attached.clone()
    }

    fn attach(&mut self, ifindex: IfIndex) -> Result<(), Error> {
        self.attached.insert(ifindex);
        Ok(())
    }

    fn detach(&mut self, ifindex: IfIndex) -> Result<(), Error> {
        self.attached.remove(&ifindex);
        Ok(())
    }

    fn recorder(&mut self) -> Result<Option<Box<dyn Recorder>>, Error> {
        Ok(None)
    }

    fn make_room(&mut self, program: &Program) -> Result<(), Error> {
        self.ebpf.make_room(program)
    }

    fn adopt(
        &mut self,
        _: EndpointId,
        _: Incarnation,
        _: &Connection,
        _: Origin,
    ) -> Result<Taken, Error> {
        Ok(Taken::Known)
    }
}
