//! The kernel's own flower as what the agent enforces with: for hosts without eBPF.
//!
//! The tables are kept here, in memory; after each update they are lowered to filters and the
//! difference to what is installed is brought in. A start finds the filters of the agent before it
//! and changes only what differs. Replies are found by the host's connection tracking, so it must
//! be on ([`tracks`]). Not here: lowering ([`crate::lower`]), netlink ([`crate::netlink`]).

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
};

use netpolc_host::{Connection, conntrack};
use netpolc_table::{EndpointId, IfIndex, Incarnation, Program, Write};
use netpolc_target::{
    Capabilities, Error, NodeTarget, OffloadRecord, Origin, Recorder, Taken, Target,
};

use crate::{Flower, capability, lower::lower, lowered::Mode, node_links::NodeLinks};

/// The target that enforces by filters alone.
pub struct Software {
    program: Program,
    flower: Flower,
    attached: BTreeSet<IfIndex>,
    inherited: Inherited,
    records: Vec<OffloadRecord>,
    capabilities: Capabilities,
}

/// What an earlier agent left installed when this one started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inherited {
    /// No filter: nothing is enforced before the first update.
    Nothing,
    /// Filters, which go on enforcing what that agent knew.
    Filters,
}

impl Software {
    /// Opens netlink and looks at what is installed.
    ///
    /// # Errors
    /// The kernel has no flower, connection tracking is off in this network namespace, or a socket
    /// is refused.
    pub fn open() -> Result<Self, Error> {
        let refused = |call: &str, source| Error::System { call: call.into(), source };
        if !tracks().map_err(|e| refused("ask for tracked connections", e))? {
            let what = "connection tracking is off in this network namespace, and without it \
                replies cannot be told from \
                        openings; add a rule that uses it, such as: nft add table inet netpolc-ct; \
                nft add chain inet netpolc-ct c \
                        '{ type filter hook prerouting priority 0; }'; nft add rule inet \
                netpolc-ct c ct state new";
            return Err(Error::Installed(what.into()));
        }
        let mut flower =
            Flower::new().map_err(|e| Error::Installed(format!("software flower: {e}")))?;
        let installed =
            flower.installed().map_err(|e| Error::Installed(format!("software flower: {e}")))?;
        Ok(Software {
            program: Program::default(),
            inherited: if installed.is_empty() { Inherited::Nothing } else { Inherited::Filters },
            flower,
            attached: BTreeSet::new(),
            records: vec![],
            // Ids are those of the tables in memory; filters have none.
            capabilities: Capabilities {
                endpoints: u16::MAX.into(),
                sets: u16::MAX.into(),
                classes_v4: u16::MAX.into(),
                classes_v6: u16::MAX.into(),
                rows: u16::MAX.into(),
                port_classes: u16::MAX.into(),
                connections: u32::MAX,
            },
        })
    }
}

/// Does the host track connections here? Finds out by one datagram to itself, which nobody gets.
///
/// # Errors
/// No UDP socket can be bound to a loopback address, or the datagram cannot be sent.
pub fn tracks() -> io::Result<bool> {
    let (from, to) =
        (UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?, UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?);
    from.send_to(b"netpolc", to.local_addr()?)?;
    let SocketAddr::V4(address) = from.local_addr()? else { return Ok(false) };
    // A kernel without conntrack refuses the question.
    let tracked = conntrack::dump().unwrap_or_default();
    let ours = |t: &conntrack::Tracked| {
        t.original.protocol == 17
            && t.original.source == *address.ip()
            && t.original.source_port == address.port()
    };
    Ok(tracked.iter().any(ours))
}

impl Target for Software {
    fn name(&self) -> &'static str {
        "flower"
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn read(&self) -> Result<Program, Error> {
        Ok(self.program.clone())
    }

    fn write(&mut self, write: &Write) -> Result<(), Error> {
        self.capabilities.check(write)?;
        self.program.apply(write);
        Ok(())
    }

    /// Packets see the filters, which follow when the tables are complete.
    fn settle(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

impl NodeTarget for Software {
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

    /// Filters of flower count packets, and say nothing of single ones.
    fn recorder(&mut self) -> Result<Option<Box<dyn Recorder>>, Error> {
        Ok(None)
    }

    fn follow(&mut self, program: &Program) -> Result<(), Error> {
        let links = NodeLinks::read()
            .map_err(|source| Error::System { call: "read the node's links".into(), source })?;
        let topology = links.topology(program, &self.attached);
        let lowered =
            lower(program, &topology, Mode::Software, &capability::Capabilities::software())
                .map_err(|e| Error::Installed(e.to_string()))?;
        let records = lowered.record("software");
        let report = self
            .flower
            .sync(&lowered)
            .map_err(|e| Error::Installed(format!("software flower: {e}")))?;
        self.records = records;
        match report.refusals().first() {
            None => Ok(()),
            Some((interface, message, count)) => {
                let what = format!(
                    "{count} filters on {interface} were refused: {message}; what was enforced \
                     there stays"
                );
                Err(Error::Installed(what))
            }
        }
    }

    fn holds(&self) -> Result<bool, Error> {
        Ok(self.inherited == Inherited::Filters)
    }

    fn offload(&self) -> Vec<OffloadRecord> {
        self.records.clone()
    }

    /// The host's connection tracking knows it already.
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
