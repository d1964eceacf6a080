//! The eBPF target as what the agent enforces with.

use std::collections::BTreeSet;

use netpolc_target::{Error, Hook, semantics::Phase};
use netpolc_target_ebpf::{self as ebpf, Ebpf, Inserted};

use super::{
    adopt::{Origin, Taken},
    host::Enforcer,
};
use crate::net::{Connection, Opener, links};

impl Enforcer for Ebpf {
    fn attached(&self) -> BTreeSet<u32> {
        // What has no name is gone; another device may get its number.
        let pods = self.attachments().into_iter().filter(|a| a.role == ebpf::Role::Pod && a.name.is_some());
        pods.map(|a| a.ifindex).collect()
    }

    fn attach(&mut self, ifindex: u32) -> Result<(), Error> {
        let way = Ebpf::attach(self, ifindex)?;
        tracing::debug!(ifindex, ?way, "attached");
        Ok(())
    }

    fn detach(&mut self, ifindex: u32) -> Result<(), Error> {
        self.sweep()?;
        Ebpf::detach(self, ifindex)
    }

    fn cover(&mut self) -> Result<(), Error> {
        let covered: BTreeSet<u32> = self.attachments().into_iter().map(|a| a.ifindex).collect();
        for ifindex in
            links::others(&covered).map_err(|source| Error::System { call: "list interfaces".into(), source })?
        {
            // What is a pod's becomes that when its address is known; until then it is one more way out.
            match self.attach_uplink(ifindex) {
                Ok(way) => tracing::debug!(ifindex, ?way, "covers what goes to Services"),
                Err(Error::System { source, .. }) if source.raw_os_error() == Some(libc::ENODEV) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn prepare(&mut self) -> Result<(), Error> {
        // Loads the program that reads the clock of connections.
        self.connections(0).map(drop)
    }

    fn adopt(
        &mut self,
        endpoint: u16,
        incarnation: u16,
        connection: &Connection,
        origin: Origin,
    ) -> Result<Taken, Error> {
        let Connection { local, remote, local_port, remote_port, protocol, .. } = *connection;
        if local.is_ipv4() != remote.is_ipv4() {
            return Ok(Taken::NoRoom);
        }
        let opener = match connection.opener {
            Opener::Pod => Hook::FromPod,
            Opener::Remote => Hook::ToPod,
        };
        let phase = if connection.answered { Phase::Established } else { Phase::Opening };
        let born = origin == Origin::Node && opener == Hook::ToPod;
        let entry = ebpf::Connection {
            endpoint,
            remote,
            local,
            remote_port,
            local_port,
            protocol,
            opener,
            born,
            phase,
            incarnation,
        };
        Ok(match self.insert(&entry)? {
            Inserted::New | Inserted::Kept => Taken::Known,
            Inserted::NoRoom => Taken::NoRoom,
        })
    }
}
