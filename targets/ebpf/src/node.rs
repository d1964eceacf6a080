//! [`NodeTarget`] for [`Ebpf`]: what an agent enforces with.
//!
//! Not here: the operations themselves (`target`), and which interface belongs to which pod (the
//! agent).

use std::collections::BTreeSet;

use netpolc_host::{Connection, Opener, links};
use netpolc_table::{EndpointId, IfIndex, Incarnation, Program, schema::Family};
use netpolc_target::{
    Amendment, Damage, Error, Hook, NodeTarget, Origin, Reader, Recorder, Taken, semantics::Phase,
};

use crate::{self as ebpf, Ebpf, Hold, Inserted};

impl NodeTarget for Ebpf {
    fn attached(&self) -> BTreeSet<IfIndex> {
        // An interface without a name is gone, and another device may get its number.
        let pods = self
            .attachments()
            .into_iter()
            .filter(|a| a.role == ebpf::Role::Pod && a.name.is_some());
        pods.map(|a| a.ifindex).collect()
    }

    fn attach(&mut self, ifindex: IfIndex) -> Result<(), Error> {
        let way = Ebpf::attach(self, ifindex)?;
        tracing::debug!(
            ifindex = ifindex.get(),
            ?way,
            "attached the programs to a pod's interface"
        );
        Ok(())
    }

    fn detach(&mut self, ifindex: IfIndex) -> Result<(), Error> {
        Ebpf::detach(self, ifindex)
    }

    fn hold(&mut self) -> Result<(), Error> {
        Ebpf::hold(self, Hold::Held)
    }

    fn cover(&mut self) -> Result<(), Error> {
        self.sweep()?;
        let covered: BTreeSet<u32> =
            self.attachments().into_iter().map(|a| a.ifindex.get()).collect();
        let missing = links::others(&covered)
            .map_err(|source| Error::System { call: "list interfaces".into(), source })?;
        if !missing.is_empty() {
            Ebpf::hold(self, Hold::Held)?;
        }
        for ifindex in missing.into_iter().map(IfIndex::new) {
            // A pod's interface becomes one when its address is known. Until then packets may leave
            // by it.
            match self.attach_uplink(ifindex) {
                Ok(way) => tracing::debug!(
                    ifindex = ifindex.get(),
                    ?way,
                    "attached the program that judges packets to Services"
                ),
                Err(Error::System { source, .. })
                    if source.raw_os_error() == Some(libc::ENODEV) => {}
                // New connections to Services stay held.
                Err(error) => return Err(error),
            }
        }
        Ebpf::hold(self, Hold::Free)
    }

    fn check(&mut self) -> Result<Vec<String>, Error> {
        let found = Ebpf::check(self)?;
        match self.upgrade() {
            Ok(0) => {}
            Ok(moved) => tracing::debug!(moved, "moved interfaces from filters to TCX links"),
            Err(error) => {
                tracing::warn!(%error, "no TCX link for an interface; it keeps its filters, which \
                    judge the same way")
            }
        }
        Ok(found)
    }

    fn under_way(&self) -> bool {
        self.upgrading()
    }

    fn recorder(&mut self) -> Result<Option<Box<dyn Recorder>>, Error> {
        Ebpf::recorder(self).map(Some)
    }

    fn reader(&self) -> Option<Reader> {
        let dir = self.pin_dir()?.to_owned();
        Some(Box::new(move || {
            let seen = Ebpf::observe(&dir)?.ok_or_else(|| {
                Error::Installed(format!("nothing is pinned in {} any more", dir.display()))
            })?;
            netpolc_target::Target::read(&seen)
        }))
    }

    fn mend(&mut self, damage: Damage, program: &Program) -> Result<(), Error> {
        Ebpf::mend(self, damage, program)
    }

    fn make_room(&mut self, program: &Program) -> Result<(), Error> {
        Ebpf::make_room(self, program)
    }

    fn look_ahead(&mut self, program: &Program) -> Result<(), Error> {
        Ebpf::look_ahead(self, program)
    }

    fn prepare(&mut self) -> Result<(), Error> {
        // Any query loads the program that reads the clock of connections, which takes the verifier
        // a while.
        self.connections(EndpointId::default()).map(drop)
    }

    fn amend(
        &mut self,
        endpoint: EndpointId,
        amend: &dyn Fn(&Connection) -> Amendment,
    ) -> Result<(), Error> {
        let amended = Ebpf::amend(self, endpoint, |c| {
            let opener = if c.opener == Hook::FromPod { Opener::Pod } else { Opener::Remote };
            let recorded = Connection {
                opener,
                protocol: c.protocol,
                local: c.local,
                local_port: c.local_port,
                remote: c.remote,
                remote_port: c.remote_port,
                answered: c.phase != Phase::Opening,
                origin: if opener == Opener::Pod { c.local } else { c.remote },
            };
            match amend(&recorded) {
                Amendment::Keep => ebpf::Amendment::Keep,
                Amendment::Opener(Opener::Pod) => ebpf::Amendment::Opener(Hook::FromPod),
                Amendment::Opener(Opener::Remote) => ebpf::Amendment::Opener(Hook::ToPod),
                Amendment::Forget => ebpf::Amendment::Forget,
            }
        })?;
        if amended > 0 {
            tracing::debug!(
                endpoint = endpoint.get(),
                amended,
                "amended entries that were recorded before isolation"
            );
        }
        Ok(())
    }

    fn reserve(&mut self, endpoint: EndpointId, connections: [u32; 2]) -> Result<[u32; 2], Error> {
        for (family, wanted) in Family::BOTH.into_iter().zip(connections) {
            Ebpf::reserve(self, endpoint, family, wanted)?;
        }
        let (v4, v6) = self.room(endpoint)?;
        Ok([v4, v6])
    }

    fn adopt(
        &mut self,
        endpoint: EndpointId,
        incarnation: Incarnation,
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
            Inserted::New | Inserted::Kept | Inserted::Corrected => Taken::Known,
            Inserted::NoRoom => Taken::NoRoom,
        })
    }
}
