//! A target and a network for tests of the agent.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    net::IpAddr,
    rc::Rc,
    sync::{Arc, Mutex},
};

use netpolc_agent::{
    discovery::{Discovery, PodFacts},
    network::Network,
};
use netpolc_host::Connection;
use netpolc_kube_sync::{Input, load};
use netpolc_policy::Cluster;
use netpolc_table::{
    EndpointId, IfIndex, Incarnation, Program, TableId, Write,
    schema::{Word, word_of},
};
use netpolc_target::{
    Capabilities, Compared, Datapath, Error, Frame, Hook, NodeTarget, Noted, Origin, Reader,
    Record, Recorder, Taken, Target, Verdict, record::Noticed,
};
use netpolc_target_mem::Mem;

/// Two pods of the node n1, db and ui.
#[allow(dead_code, reason = "each test file uses its own part")]
pub const PODS: &str = "
kind: Pod
metadata: {name: db, namespace: default, labels: {role: db}}
spec: {nodeName: n1, containers: [{name: c}]}
status: {phase: Running, podIPs: [{ip: 10.0.0.1}]}
---
kind: Pod
metadata: {name: ui, namespace: default, labels: {role: ui}}
spec: {nodeName: n1, containers: [{name: c}]}
status: {phase: Running, podIPs: [{ip: 10.0.0.2}]}
";

/// Lets ui, and nobody else, open connections to db; to follow [`PODS`].
#[allow(dead_code, reason = "each test file uses its own part")]
pub const POLICY: &str = "
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: default}
spec:
  podSelector: {matchLabels: {role: db}}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {matchLabels: {role: ui}}}], ports: [{port: 6379}]}]
";

/// What the agent would be given for these objects.
#[allow(dead_code, reason = "each test file uses its own part")]
pub fn cluster(text: &str) -> Cluster {
    let loaded = load([Input::bytes("test", text)]);
    assert_eq!(loaded.problems, []);
    loaded.cluster
}

/// A network in which every address has an interface of its own.
#[allow(dead_code, reason = "each test file uses its own part")]
pub struct Net;

#[allow(dead_code, reason = "each test file uses its own part")]
pub fn interface(address: IpAddr) -> IfIndex {
    match address {
        IpAddr::V4(address) => IfIndex::new(1_000 + (address.to_bits() & 0xffff)),
        IpAddr::V6(_) => IfIndex::new(999),
    }
}

impl Network for Net {
    fn find_interfaces(&mut self, pods: &[PodFacts]) -> io::Result<Vec<Discovery>> {
        Ok(Discovery::by_address(pods, |address| Some(interface(address))))
    }
}

/// What happened, in order.
pub type Log = Rc<RefCell<Vec<String>>>;

/// A target in memory that says what is done to it, with the phases of an update left out. Clones
/// share the tables, the budget and the log.
#[derive(Clone)]
pub struct Host {
    wire: Wire,
    capabilities: Capabilities,
    attached: BTreeSet<IfIndex>,
    /// Writes until one fails.
    pub budget: Rc<RefCell<Option<usize>>>,
    pub log: Log,
}

impl Host {
    pub fn new() -> Self {
        let mem = Mem::default();
        let capabilities = mem.capabilities().clone();
        let wire = Wire { mem: Arc::new(Mutex::new(mem)), notes: Arc::default() };
        Self {
            wire,
            capabilities,
            attached: BTreeSet::new(),
            budget: Rc::default(),
            log: Log::default(),
        }
    }

    pub fn program(&self) -> Program {
        self.wire.mem.lock().unwrap().read().unwrap()
    }

    /// How many endpoints are isolated.
    #[allow(dead_code, reason = "each test file uses its own part")]
    pub fn isolated(&self) -> usize {
        let isolated = |word: &Word| word.flags & (Word::INGRESS | Word::EGRESS) != 0;
        self.words().into_iter().filter(isolated).count()
    }

    /// Lets a packet through the tables.
    #[allow(dead_code, reason = "each test file uses its own part")]
    pub fn packet(&self, hook: Hook, frame: &Frame) -> Verdict {
        self.wire.packet(hook, frame)
    }

    /// Where packets come from, also in another thread.
    #[allow(dead_code, reason = "each test file uses its own part")]
    pub fn wire(&self) -> Wire {
        self.wire.clone()
    }

    pub fn words(&self) -> Vec<Word> {
        self.program().table(TableId::Endpoint).entries.values().map(word_of).collect()
    }
}

/// The tables and what they record.
#[derive(Clone)]
pub struct Wire {
    mem: Arc<Mutex<Mem>>,
    notes: Arc<Mutex<Notes>>,
}

impl Wire {
    /// Lets a packet through the tables.
    pub fn packet(&self, hook: Hook, frame: &Frame) -> Verdict {
        let mut mem = self.mem.lock().unwrap();
        let verdict = mem.packet(hook, frame).unwrap();
        for record in mem.records().unwrap().unwrap() {
            self.notes.lock().unwrap().note(record);
        }
        verdict
    }
}

/// Counts, budgets and records, as a kernel keeps them.
#[derive(Default)]
struct Notes {
    records: VecDeque<Record>,
    noticed: BTreeMap<(EndpointId, Hook, Noted), (u64, u32)>,
    budget: u32,
    epoch: u32,
}

impl Notes {
    fn note(&mut self, record: Record) {
        let key = (record.endpoint, record.hook, record.noted);
        let (count, left) = self.noticed.entry(key).or_insert((0, self.budget));
        *count += 1;
        if *left > 0 {
            *left -= 1;
            self.records.push_back(Record { epoch: self.epoch, ..record });
        }
    }
}

struct Reads(Arc<Mutex<Notes>>);

impl Recorder for Reads {
    fn read(&mut self, limit: usize, each: &mut dyn FnMut(Record)) -> Result<usize, Error> {
        let mut notes = self.0.lock().unwrap();
        let count = notes.records.len().min(limit);
        notes.records.drain(..count).for_each(each);
        Ok(count)
    }
    fn refill(&mut self, budget: u32) {
        let mut notes = self.0.lock().unwrap();
        notes.budget = budget;
        notes.noticed.values_mut().for_each(|(_, left)| *left = budget);
    }
    fn noticed(&self) -> Noticed {
        let notes = self.0.lock().unwrap();
        notes.noticed.iter().map(|((e, h, n), (count, _))| (*e, *h, *n, *count)).collect()
    }
    fn set_epoch(&mut self, epoch: u32) {
        self.0.lock().unwrap().epoch = epoch;
    }
}

impl Target for Host {
    fn name(&self) -> &'static str {
        "host"
    }
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
    fn read(&self) -> Result<Program, Error> {
        self.wire.mem.lock().unwrap().read()
    }
    fn write(&mut self, write: &Write) -> Result<(), Error> {
        if let Some(budget) = self.budget.borrow_mut().as_mut() {
            if *budget == 0 {
                let source = io::Error::other("told to fail");
                return Err(Error::System { call: "write".into(), source });
            }
            *budget -= 1;
        }
        for (_, entry) in write.put.iter().filter(|_| write.table == TableId::Endpoint) {
            self.log.borrow_mut().push(format!("word {:#x}", word_of(entry).flags));
        }
        for _ in write.put.iter().filter(|_| write.table == TableId::Interface) {
            self.log.borrow_mut().push("interface".into());
        }
        self.wire.mem.lock().unwrap().write(write)
    }
    fn compared(&self) -> Result<Option<Compared>, Error> {
        self.wire.mem.lock().unwrap().compared()
    }
    fn settle(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

impl NodeTarget for Host {
    fn recorder(&mut self) -> Result<Option<Box<dyn Recorder>>, Error> {
        Ok(Some(Box::new(Reads(self.wire.notes.clone()))))
    }
    fn reader(&self) -> Option<Reader> {
        // Read now, as a thread may have begun to before an update, and handed over later.
        let held = self.read();
        Some(Box::new(move || held))
    }
    fn attached(&self) -> BTreeSet<IfIndex> {
        self.attached.clone()
    }
    fn attach(&mut self, ifindex: IfIndex) -> Result<(), Error> {
        self.log.borrow_mut().push(format!("attach {ifindex}"));
        self.attached.insert(ifindex);
        Ok(())
    }
    fn detach(&mut self, ifindex: IfIndex) -> Result<(), Error> {
        self.log.borrow_mut().push(format!("detach {ifindex}"));
        self.attached.remove(&ifindex);
        Ok(())
    }
    fn adopt(
        &mut self,
        _: EndpointId,
        _: Incarnation,
        connection: &Connection,
        origin: Origin,
    ) -> Result<Taken, Error> {
        let Connection { opener, remote_port, .. } = connection;
        self.log.borrow_mut().push(format!("adopt {opener:?} {remote_port} {origin:?}"));
        Ok(Taken::Known)
    }
}
