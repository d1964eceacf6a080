//! A complete target, to begin another one from: it implements [`Target`](crate::Target) and
//! [`NodeTarget`](crate::NodeTarget), is filled, updated, and read back. There is no code here,
//! only this example, which runs as a test.
//!
//! The enforcement is made up: a firewall appliance that takes a whole configuration file and
//! changes over to it between two packets. Its configuration is the text form of a program, so that
//! there is little to encode. A real target encodes each entry for its device in `write`, and
//! decodes them in `read`. What no real target may leave out is here:
//!
//! - `write` checks the write first, with [`Capabilities::check`](crate::Capabilities::check), and
//!   an error changes nothing.
//! - `read` decodes what the device holds, not what the agent remembers, so that a restarted agent
//!   finds out what is enforced.
//! - `settle` returns only when no packet is judged by the old tables any more.
//!
//! ```
//! use std::collections::BTreeSet;
//!
//! use netpolc_host::Connection;
//! use netpolc_table::{
//!     EndpointId, IfIndex, Incarnation, Program, TableId, Write, delta, schema, text,
//! };
//! use netpolc_target::{
//!     Capabilities, Error, NodeTarget, Origin, Recorder, Taken, Target, execute, fill,
//! };
//!
//! /// The appliance and what it holds.
//! struct Appliance {
//!     limits: Capabilities,
//!     /// The configuration that judges packets, as the appliance gives it out.
//!     configuration: String,
//!     ports: BTreeSet<IfIndex>,
//! }
//!
//! impl Target for Appliance {
//!     fn name(&self) -> &'static str {
//!         "appliance"
//!     }
//!
//!     fn capabilities(&self) -> &Capabilities {
//!         &self.limits
//!     }
//!
//!     fn read(&self) -> Result<Program, Error> {
//!         text::parse(&self.configuration).map_err(|e| Error::Installed(e.to_string()))
//!     }
//!
//!     fn write(&mut self, write: &Write) -> Result<(), Error> {
//!         self.limits.check(write)?;
//!         let mut program = self.read()?;
//!         // Origins are for people; targets keep none.
//!         let put = write.put.iter().map(|(key, entry)| (key.clone(), entry.bare())).collect();
//!         program.apply(&Write { put, ..write.clone() });
//!         let table = program.table(write.table);
//!         if table.entries.len() as u64 > table.size {
//!             let what = "entries; split the node's pods or policies".into();
//!             return Err(Error::Full { table: write.table, capacity: table.size, what });
//!         }
//!         // The change is one assignment: each packet sees the tables before it or after it.
//!         self.configuration = text::print(&program);
//!         Ok(())
//!     }
//!
//!     fn settle(&mut self) -> Result<(), Error> {
//!         // The appliance changes over between two packets, so that none is under way.
//!         Ok(())
//!     }
//! }
//!
//! impl NodeTarget for Appliance {
//!     fn attached(&self) -> BTreeSet<IfIndex> {
//!         self.ports.clone()
//!     }
//!
//!     fn attach(&mut self, ifindex: IfIndex) -> Result<(), Error> {
//!         self.ports.insert(ifindex);
//!         Ok(())
//!     }
//!
//!     fn detach(&mut self, ifindex: IfIndex) -> Result<(), Error> {
//!         self.ports.remove(&ifindex);
//!         Ok(())
//!     }
//!
//!     fn recorder(&mut self) -> Result<Option<Box<dyn Recorder>>, Error> {
//!         // The appliance keeps its logs to itself.
//!         Ok(None)
//!     }
//!
//!     fn adopt(
//!         &mut self,
//!         _endpoint: EndpointId,
//!         _incarnation: Incarnation,
//!         _connection: &Connection,
//!         _origin: Origin,
//!     ) -> Result<Taken, Error> {
//!         // The appliance tracks its connections by itself and takes none over.
//!         Ok(Taken::NoRoom)
//!     }
//! }
//!
//! // A new appliance holds the empty program.
//! let limits = Capabilities {
//!     endpoints: 256,
//!     sets: 256,
//!     classes_v4: 256,
//!     classes_v6: 256,
//!     rows: 256,
//!     port_classes: 64,
//!     connections: 4096,
//! };
//! let configuration = text::print(&Program::default());
//! let mut appliance = Appliance { limits, configuration, ports: BTreeSet::new() };
//! assert!(!appliance.holds()?, "no agent before this one left anything behind");
//!
//! // The pod behind interface 7 is endpoint 1, and nothing isolates it.
//! let (pod, interface) = (EndpointId::new(1), IfIndex::new(7));
//! let mut wanted = Program::default();
//! let open = schema::Word::flagged(0);
//! let word = schema::set_policy(open);
//! wanted.apply(&Write::put(TableId::Endpoint, schema::endpoint_key(pod), word));
//! let entry = schema::set_endpoint(pod);
//! wanted.apply(&Write::put(TableId::Interface, schema::interface_key(interface), entry));
//!
//! // A first program needs no plan: the entries by which packets find all others come last.
//! appliance.attach(interface)?;
//! fill(&mut appliance, &wanted)?;
//! assert_eq!(appliance.read()?, wanted, "what is read back is what was written");
//!
//! // An update is the plan from what is held to what is wanted. Here the pod goes.
//! let (wanted, plan) = delta::plan(&appliance.read()?, &Program::default())?;
//! execute(&mut appliance, &plan)?;
//! appliance.detach(interface)?;
//! assert_eq!(appliance.read()?, wanted);
//!
//! // What exceeds the appliance is refused, and changes nothing.
//! let entry = schema::set_endpoint(EndpointId::new(256));
//! let write = Write::put(TableId::Interface, schema::interface_key(interface), entry);
//! assert!(matches!(appliance.write(&write), Err(Error::Full { capacity: 256, .. })));
//! assert_eq!(appliance.read()?, wanted);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A target whose packets can be asked about also implements [`Datapath`](crate::Datapath), and
//! then has one more test, a single line: [`conformance::run`](crate::conformance::run). Its crate
//! goes under `targets/`, and one line in the list of `runtime/cli` lets users choose it.
