//! The cluster of a case and its compiler, led from one event to the next as an agent leads them:
//! shares are held against what comes, an event is one update, and the plan is the compiler's own
//! changes in order.
//!
//! Not here: how it prints ([`crate::print`]), what must hold of it ([`crate::proofs`]).

use std::{collections::BTreeMap, fmt::Write, fs, path::Path};

use netpolc_kube_sync::{Input, Object, Problem, Severity, convert, load};
use netpolc_lower::{Compiler, Event, Interface, Limits, Resource, Scope, Shares, Tunnel, Wire};
use netpolc_policy::{Cluster, ObjectKey};
use netpolc_table::{EndpointId, IfIndex, Plan, Program, delta};
use netpolc_target_flower::topology::{Forwarding, Port, Topology};

use crate::case::{Case, Directive, Fault, Step};

/// The interface index of the made-up uplink.
const UPLINK: u32 = 2;

/// The objects and the tables of a case after some of its events.
#[derive(Debug)]
pub(crate) struct State {
    file: String,
    pub scope: Scope,
    pub wire: Wire,
    forwarding: Forwarding,
    limits: Limits,
    pub cluster: Cluster,
    pub shares: Shares,
    pub compiler: Compiler,
    /// The interfaces that pods were given so far.
    pub interfaces: BTreeMap<ObjectKey, Interface>,
    /// The program before the last event, and the way from there.
    pub update: Option<(Program, Plan)>,
    problems: Vec<Problem>,
}

impl State {
    /// The objects at first, compiled.
    pub fn load(case: &Case) -> Result<Self, Fault> {
        let step = &case.steps[0];
        let file = format!("{}.yaml", case.name);
        let mut inputs = Vec::new();
        for directive in case.settings("cluster") {
            inputs.push(cluster(directive)?);
        }
        if !step.put.trim().is_empty() {
            inputs.push(Input::bytes(file.as_str(), step.put.as_bytes()));
        }
        let loaded = load(inputs);
        let (scope, limits, wire) = (scope(case)?, limits(case)?, wire(case)?);
        let mut shares = Shares::new(scope.clone(), limits.clone());
        shares.load(&loaded.cluster);
        let compiled = compile(&mut shares, &loaded.cluster, &scope, &wire);
        let compiler = compiled.map_err(|message| Fault { line: step.line, message })?;
        let forwarding = forwarding(case)?;
        let mut state = Self {
            file,
            scope,
            wire,
            forwarding,
            limits,
            cluster: loaded.cluster,
            shares,
            compiler,
            interfaces: BTreeMap::new(),
            update: None,
            problems: loaded.problems,
        };
        for directive in case.settings("interface") {
            let event = state.interface(directive)?;
            let applied = state.compiler.apply(event);
            applied.map_err(|e| Fault { line: directive.line, message: e.to_string() })?;
        }
        Ok(state)
    }

    /// Applies one event as one update.
    pub fn apply(&mut self, step: &Step) -> Result<(), Fault> {
        let fault = |message: String| Fault { line: step.line, message };
        let mut events = Vec::new();
        for directive in &step.interfaces {
            events.push(self.interface(directive)?);
        }
        let deleted = convert(&self.file, step.deleted.as_bytes()).objects;
        events.extend(deleted.into_iter().filter_map(|object| self.take(object)));
        self.problems.clear();
        if !step.put.trim().is_empty() {
            let put = convert(&self.file, step.put.as_bytes());
            self.problems = put.problems;
            events.extend(put.objects.into_iter().filter_map(|object| self.put(object)));
        }
        if events.is_empty() {
            return Err(fault(
                "nothing happens here: add objects, or `# deleted` above those that go".into(),
            ));
        }
        let before = self.compiler.program().clone();
        let changes = self.compiler.apply_admitted(&mut self.shares, &self.cluster, events);
        let changes = changes.map_err(|e| fault(e.to_string()))?;
        let plan =
            delta::order(self.compiler.program(), &changes).map_err(|e| fault(e.to_string()))?;
        self.update = Some((before, plan));
        Ok(())
    }

    /// What a user is told of the last step, a line each; empty where there is nothing to tell.
    pub fn problems(&self) -> String {
        let mut text = String::new();
        for problem in &self.problems {
            let severity = if problem.severity == Severity::Error { "error" } else { "warning" };
            let _ = writeln!(text, "{severity}: {problem}");
        }
        for aside in self.shares.aside() {
            let _ = writeln!(text, "error: {aside}");
        }
        for diagnostic in self.compiler.diagnostics() {
            let _ = writeln!(text, "warning: {diagnostic}");
        }
        text
    }

    /// A compiler that has taken in the present cluster at once.
    pub fn anew(&self) -> Result<Compiler, String> {
        let mut shares = Shares::new(self.scope.clone(), self.limits.clone());
        shares.load(&self.cluster);
        let mut compiler = compile(&mut shares, &self.cluster, &self.scope, &self.wire)?;
        let interfaces = self.interfaces.iter();
        let interfaces = interfaces.map(|(pod, interface)| Event::Interface {
            pod: pod.clone(),
            interface: Some(*interface),
        });
        compiler.apply_all(interfaces).map_err(|e| e.to_string())?;
        Ok(compiler)
    }

    /// The endpoint of the pod `namespace/name`.
    pub fn endpoint(&self, pod: &str) -> Result<EndpointId, String> {
        let key = key(pod)?;
        self.compiler.endpoint(&key).ok_or_else(|| format!("{pod} is not an endpoint of this node"))
    }

    /// The node as filters are made for it: every pod's port has the pod's name, the uplink is
    /// `uplink`.
    pub fn topology(&self) -> Topology {
        let pods = self.compiler.endpoints().map(|(pod, endpoint)| (endpoint, pod.to_string()));
        let mut topology =
            Topology::made_up(pods, Port { ifindex: IfIndex::new(UPLINK), name: "uplink".into() });
        topology.forwarding = self.forwarding;
        if let Scope::Node(name) = &self.scope {
            topology.node_addresses =
                self.cluster.nodes.get(name).map(|n| n.addresses.clone()).unwrap_or_default();
        }
        topology
    }

    fn interface(&mut self, directive: &Directive) -> Result<Event, Fault> {
        let fault = || {
            directive
                .fault("a pod, its interface's number, and its hardware address if that is known")
        };
        let (pod, rest) = directive.words.split_first().ok_or_else(fault)?;
        let (number, mac) = match rest {
            [number] => (number, None),
            [number, mac] => (number, Some(hardware(mac).ok_or_else(fault)?)),
            _ => return Err(fault()),
        };
        let interface = Interface { ifindex: number.parse().map_err(|_| fault())?, mac };
        let pod = key(pod).map_err(|_| fault())?;
        self.interfaces.insert(pod.clone(), interface);
        Ok(Event::Interface { pod, interface: Some(interface) })
    }

    fn put(&mut self, object: Object) -> Option<Event> {
        object.clone().put_into(&mut self.cluster);
        Some(match object {
            Object::Namespace(name, namespace) => {
                Event::Namespace { name, namespace: Some(namespace) }
            }
            Object::Node(name, node) => Event::Node { name, node: Some(node) },
            Object::Pod(pod) => Event::Pod { key: pod.key.clone(), pod: Some(pod) },
            Object::Policy(policy) => {
                Event::Policy { key: policy.key.clone(), policy: Some(policy) }
            }
            Object::Service(key, service) => Event::Service { key, service: Some(service) },
            Object::Tier(policy) => Event::Tier { key: policy.key.clone(), policy: Some(policy) },
            Object::GroupPolicy(policy) => {
                Event::SecurityGroupPolicy { key: policy.key.clone(), policy: Some(policy) }
            }
            Object::Account(key, labels) => Event::Account { key, labels: Some(labels) },
            // Rules of a group may come one by one; the event has all that there are.
            Object::Group(id, _) | Object::GroupRule { group: id, .. } => {
                let group = self.cluster.security.groups.get(&id).cloned();
                Event::SecurityGroup { id, group }
            }
            Object::PrefixList(id, entries) => Event::PrefixList { id, entries: Some(entries) },
            Object::Interface(id, interface) => {
                Event::CloudInterface { id, interface: Some(interface) }
            }
            Object::Staged(key, staged) => Event::Staged { key, staged: Some(staged) },
        })
    }

    fn take(&mut self, object: Object) -> Option<Event> {
        object.remove_from(&mut self.cluster);
        Some(match object {
            Object::Namespace(name, _) => Event::Namespace { name, namespace: None },
            Object::Node(name, _) => Event::Node { name, node: None },
            Object::Pod(pod) => Event::Pod { key: pod.key, pod: None },
            Object::Policy(policy) => Event::Policy { key: policy.key, policy: None },
            Object::Service(key, _) => Event::Service { key, service: None },
            Object::Tier(policy) => Event::Tier { key: policy.key, policy: None },
            Object::GroupPolicy(policy) => {
                Event::SecurityGroupPolicy { key: policy.key, policy: None }
            }
            Object::Account(key, _) => Event::Account { key, labels: None },
            Object::Group(id, _) | Object::GroupRule { group: id, .. } => {
                let group = self.cluster.security.groups.get(&id).cloned();
                Event::SecurityGroup { id, group }
            }
            Object::PrefixList(id, _) => Event::PrefixList { id, entries: None },
            Object::Interface(id, _) => Event::CloudInterface { id, interface: None },
            Object::Staged(key, _) => Event::Staged { key, staged: None },
        })
    }
}

impl Directive {
    fn fault(&self, wants: &str) -> Fault {
        Fault { line: self.line, message: format!("`{}` wants {wants}", self.name) }
    }

    fn word(&self, wants: &str) -> Result<&str, Fault> {
        match &self.words[..] {
            [word] => Ok(word),
            _ => Err(self.fault(wants)),
        }
    }
}

fn compile(
    shares: &mut Shares,
    cluster: &Cluster,
    scope: &Scope,
    wire: &Wire,
) -> Result<Compiler, String> {
    let new = || Compiler::new(scope.clone()).wired(wire.clone());
    shares.compile(cluster, new).map_err(|e| e.to_string())
}

/// Reads a pod's `namespace/name`.
fn key(pod: &str) -> Result<ObjectKey, String> {
    let (namespace, name) =
        pod.split_once('/').ok_or_else(|| format!("{pod} is not namespace/name"))?;
    Ok(ObjectKey::new(namespace, name))
}

fn hardware(text: &str) -> Option<[u8; 6]> {
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok());
    bytes.collect::<Option<Vec<u8>>>()?.try_into().ok()
}

fn cluster(directive: &Directive) -> Result<Input, Fault> {
    let name = directive.word("the name of a file in `clusters`, without .yaml")?;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("clusters/{name}.yaml"));
    let text = fs::read_to_string(&path)
        .map_err(|e| directive.fault(&format!("a file in `clusters`: {e}")))?;
    Ok(Input::bytes(format!("clusters/{name}.yaml"), text))
}

fn scope(case: &Case) -> Result<Scope, Fault> {
    match case.settings("node").next() {
        None => Ok(Scope::Everywhere),
        Some(directive) => Ok(Scope::Node(directive.word("the name of a node")?.into())),
    }
}

/// What a namespace may take; the node has room for all.
fn limits(case: &Case) -> Result<Limits, Fault> {
    let mut limits = Limits::default();
    for directive in case.settings("limit") {
        let fault = || {
            directive.fault("a resource (selectors, rules, ports, services, verdicts) and a number")
        };
        let [resource, number] = &directive.words[..] else { return Err(fault()) };
        let number = number.parse().map_err(|_| fault())?;
        let resource = match resource.as_str() {
            "selectors" => Resource::Selectors,
            "rules" => Resource::Rows,
            "ports" => Resource::Ports,
            "services" => {
                limits.service = number;
                continue;
            }
            "verdicts" => {
                limits.cells = number;
                continue;
            }
            _ => return Err(fault()),
        };
        limits.namespace[resource as usize] = number;
    }
    Ok(limits)
}

fn wire(case: &Case) -> Result<Wire, Fault> {
    let mut wire = Wire::default();
    for directive in case.settings("tunnel") {
        let fault = || directive.fault("`udp` and a port, or `protocol` and a number");
        let tunnel = match &directive.words[..] {
            [kind, number] if kind == "udp" => Tunnel::Udp(number.parse().map_err(|_| fault())?),
            [kind, number] if kind == "protocol" => {
                Tunnel::Protocol(number.parse().map_err(|_| fault())?)
            }
            _ => return Err(fault()),
        };
        wire.tunnels.insert(tunnel);
    }
    for directive in case.settings("link") {
        let wants = "the IPv6 prefix of a bridge";
        wire.on_link.insert(directive.word(wants)?.parse().map_err(|_| directive.fault(wants))?);
    }
    for directive in case.settings("bridged") {
        let wants = "the number of an interface that hangs on a bridge";
        wire.bridged.insert(directive.word(wants)?.parse().map_err(|_| directive.fault(wants))?);
    }
    Ok(wire)
}

fn forwarding(case: &Case) -> Result<Forwarding, Fault> {
    let Some(directive) = case.settings("forwarding").next() else {
        return Ok(Forwarding::Translating);
    };
    let wants = "`routed`, `translating` or `switched`";
    match directive.word(wants)? {
        "routed" => Ok(Forwarding::Routed),
        "translating" => Ok(Forwarding::Translating),
        "switched" => Ok(Forwarding::Switched),
        _ => Err(directive.fault(wants)),
    }
}
