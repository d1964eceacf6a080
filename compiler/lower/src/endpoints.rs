//! Endpoints: the local pods, their words, own addresses and interfaces.
//!
//! Not here: which sets an endpoint gets (the compiler).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem::{replace, take},
    net::IpAddr,
    sync::Arc,
};

use netpolc_policy::{ObjectKey, Pod};
use netpolc_table::{
    ActionId, EndpointId, IfIndex, Origin, Program, SetId, TableId,
    schema::{
        self, EndpointKey, Family, Named, Word, directory_key, endpoint_key, fingerprint,
        interface_key, own_key, own_mac_key, set_endpoint, set_mac, set_policy,
    },
};

use crate::{
    content,
    event::Interface,
    ids::Ids,
    installed::directory,
    output::Output,
    overflow::{Diagnostic, Numbered},
    wire::Wire,
    worklist::Worklist,
};

/// How an endpoint is judged in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Judged {
    pub(crate) set: SetId,
    pub(crate) by: Judging,
}

/// What a set does for an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judging {
    /// It decides.
    Decides,
    /// It decides, and its rows say what something that is only tried would change (S85).
    DecidesAndTries,
    /// It only says that: nothing that is enforced is about the endpoint.
    Tries,
}

/// The sets of an endpoint; None: nothing is about it in that respect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sets {
    pub(crate) ingress: Option<Judged>,
    pub(crate) egress: Option<Judged>,
    /// Of what is born on the node.
    pub(crate) born: Option<SetId>,
}

impl Sets {
    fn all(self) -> impl Iterator<Item = SetId> {
        let judged = [self.ingress, self.egress].into_iter().flatten().map(|judged| judged.set);
        judged.chain(self.born)
    }
}

#[derive(Debug)]
struct Endpoint {
    id: EndpointId,
    uid: Option<Arc<str>>,
    label: Arc<str>,
    node: Option<Arc<str>>,
    addresses: BTreeSet<IpAddr>,
    sets: Sets,
}

/// The owner of the tables `endpoint`, `interface`, `own_v4`, `own_v6` and `own_mac`.
#[derive(Debug)]
pub(crate) struct Endpoints {
    ids: Ids<EndpointId>,
    endpoints: BTreeMap<ObjectKey, Endpoint>,
    /// Of pods, whether they are endpoints yet or not.
    interfaces: HashMap<ObjectKey, Interface>,
    /// Local pods for which there was no id.
    unplaced: BTreeSet<ObjectKey>,
    /// How many endpoints there may be.
    capacity: u32,
}

fn pod_origin(label: &Arc<str>) -> [Origin; 1] {
    [Origin::Pod { pod: label.clone() }]
}

impl Endpoints {
    pub(crate) fn new() -> Self {
        Self {
            ids: Ids::new(Numbered::Endpoints),
            endpoints: BTreeMap::new(),
            interfaces: HashMap::new(),
            unplaced: BTreeSet::new(),
            capacity: u32::from(u16::MAX) - 1,
        }
    }

    /// Gives out no id from `limit` on.
    pub(crate) fn limit(&mut self, limit: u32) {
        self.ids.limit(limit);
        self.capacity = limit.saturating_sub(1);
    }

    /// With their ids, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ObjectKey, EndpointId)> {
        self.endpoints.iter().map(|(pod, endpoint)| (pod, endpoint.id))
    }

    pub(crate) fn id(&self, pod: &ObjectKey) -> Option<EndpointId> {
        self.endpoints.get(pod).map(|endpoint| endpoint.id)
    }

    /// The sets of a pod, ingress first.
    pub(crate) fn sets(&self, pod: &ObjectKey) -> impl Iterator<Item = SetId> {
        self.endpoints.get(pod).into_iter().flat_map(|endpoint| endpoint.sets.all())
    }

    /// Those of one namespace, in order.
    pub(crate) fn in_namespace(&self, namespace: &Arc<str>) -> impl Iterator<Item = &ObjectKey> {
        let from = ObjectKey { namespace: namespace.clone(), name: "".into() };
        let list = self.endpoints.range(from..).map(|(pod, _)| pod);
        list.take_while(move |pod| pod.namespace == *namespace)
    }

    /// The local pods that had to wait for an id. They are not waiting any more, and whoever takes
    /// them puts them again.
    pub(crate) fn take_unplaced(&mut self) -> BTreeSet<ObjectKey> {
        take(&mut self.unplaced)
    }

    /// The local pods that are not enforced.
    pub(crate) fn diagnostics(&self) -> impl Iterator<Item = Diagnostic> {
        let capacity = self.capacity;
        let pods = self.unplaced.iter().map(|pod| pod.to_string().into());
        pods.map(move |pod| Diagnostic::NoEndpoint { pod, capacity })
    }

    /// A local pod is there, or changed. Its sets and its word follow at the end of the update.
    /// Where no id is left the others go on, and this pod has to wait.
    pub(crate) fn put(&mut self, pod: &Pod, out: &mut Output, work: &mut Worklist) {
        let key = &pod.key;
        // Another pod of the same name gets another id: what a target remembers of connections is
        // the pod's, and not the name's.
        let is_other = |e: &Endpoint| e.uid != pod.uid || e.node != pod.node;
        if self.endpoints.get(key).is_some_and(is_other) {
            self.drop(key, out, work);
        }
        if !self.endpoints.contains_key(key) && !self.make(pod, out) {
            self.unplaced.insert(key.clone());
            return;
        }
        let endpoint = self.endpoints.get_mut(key).expect("just made");
        let now: BTreeSet<IpAddr> = pod.addresses.iter().copied().collect();
        let before = replace(&mut endpoint.addresses, now);
        for address in before.difference(&endpoint.addresses) {
            out.take(TableId::own(Family::of(*address)), own_key(endpoint.id, *address));
        }
        for address in endpoint.addresses.difference(&before) {
            let own = schema::plain(ActionId::Own).from(pod_origin(&endpoint.label));
            out.put(TableId::own(Family::of(*address)), own_key(endpoint.id, *address), own);
        }
        work.choose_sets(key.clone());
    }

    /// An endpoint without addresses and sets. False: there is no id for it.
    fn make(&mut self, pod: &Pod, out: &mut Output) -> bool {
        let key = &pod.key;
        let meaning = content::fingerprint(&(key, &pod.uid));
        let Ok(id) = self.ids.take(Some(meaning)) else { return false };
        let endpoint = Endpoint {
            id,
            uid: pod.uid.clone(),
            label: key.to_string().into(),
            node: pod.node.clone(),
            addresses: BTreeSet::new(),
            sets: Sets::default(),
        };
        let line = fingerprint(meaning).from(pod_origin(&endpoint.label));
        out.put(TableId::Directory, directory_key(Named::Endpoint(id)), line);
        self.endpoints.insert(key.clone(), endpoint);
        if let Some(interface) = self.interfaces.get(key).copied() {
            self.put_interface(key, interface, out);
        }
        true
    }

    /// A pod is not local any more, or gone.
    pub(crate) fn drop(&mut self, key: &ObjectKey, out: &mut Output, work: &mut Worklist) {
        self.unplaced.remove(key);
        let Some(endpoint) = self.endpoints.remove(key) else { return };
        work.forget_endpoint(key);
        if let Some(interface) = self.interfaces.get(key).copied() {
            take_interface(Some(endpoint.id), interface, out);
        }
        for address in &endpoint.addresses {
            out.take(TableId::own(Family::of(*address)), own_key(endpoint.id, *address));
        }
        out.take(TableId::Endpoint, endpoint_key(endpoint.id));
        out.take(TableId::Directory, directory_key(Named::Endpoint(endpoint.id)));
        work.release_sets(endpoint.sets.all());
        self.ids.free(endpoint.id);
    }

    /// An endpoint uses these sets. Those that it had are released at the end of the update.
    pub(crate) fn set_sets(&mut self, key: &ObjectKey, sets: Sets, work: &mut Worklist) {
        let endpoint = self.endpoints.get_mut(key).expect("only endpoints choose sets");
        let before = replace(&mut endpoint.sets, sets);
        work.release_sets(before.all());
        work.put_word(key.clone());
    }

    /// Where a pod's host-side interface is; the newest word on an interface counts, since the
    /// kernel gives a number again when the interface is gone.
    pub(crate) fn set_interface(
        &mut self,
        pod: ObjectKey,
        interface: Option<Interface>,
        out: &mut Output,
        work: &mut Worklist,
    ) {
        work.put_word(pod.clone());
        self.leave_interface(&pod, out);
        let Some(interface) = interface else { return };
        let mut others = self.interfaces.iter();
        let holder = others.find(|(_, i)| i.ifindex == interface.ifindex).map(|(k, _)| k.clone());
        if let Some(holder) = holder {
            self.leave_interface(&holder, out);
        }
        self.put_interface(&pod, interface, out);
        self.interfaces.insert(pod, interface);
    }

    /// The words of pods at these interfaces change: whether one hangs on a bridge is in them.
    pub(crate) fn touch_interfaces(&self, interfaces: &BTreeSet<IfIndex>, work: &mut Worklist) {
        let here = self.interfaces.iter().filter(|(_, i)| interfaces.contains(&i.ifindex));
        here.for_each(|(pod, _)| work.put_word(pod.clone()));
    }

    fn leave_interface(&mut self, pod: &ObjectKey, out: &mut Output) {
        let Some(before) = self.interfaces.remove(pod) else { return };
        take_interface(self.id(pod), before, out);
    }

    fn put_interface(&self, pod: &ObjectKey, interface: Interface, out: &mut Output) {
        let key = interface_key(interface.ifindex);
        let Some(endpoint) = self.endpoints.get(pod) else {
            out.take(TableId::Interface, key);
            return;
        };
        let origin = || pod_origin(&endpoint.label);
        out.put(TableId::Interface, key, set_endpoint(endpoint.id).from(origin()));
        if let Some(mac) = interface.mac {
            out.put(TableId::OwnMac, own_mac_key(endpoint.id), set_mac(mac).from(origin()));
        }
    }

    /// Writes an endpoint's word, where it still is one: what it is isolated by, in one entry, so
    /// that both directions and all its policies change at once.
    pub(crate) fn write_word(&self, key: &ObjectKey, wire: &Wire, out: &mut Output) {
        let Some(endpoint) = self.endpoints.get(key) else { return };
        let Sets { ingress, egress, born } = endpoint.sets;
        let interface = self.interfaces.get(key);
        let bridged = interface.is_some_and(|i| wire.bridged.contains(&i.ifindex));
        let flag = |set, bit| if set { bit } else { 0 };
        let set = |judged: Option<Judged>| judged.map(|judged| judged.set).unwrap_or_default();
        let isolated = |j: Option<Judged>| j.is_some_and(|judged| judged.by != Judging::Tries);
        let tried = |j: Option<Judged>| j.is_some_and(|judged| judged.by != Judging::Decides);
        let word = Word {
            ingress_set: set(ingress),
            egress_set: set(egress),
            born_set: born.unwrap_or_default(),
            // Policies of other nodes trust a pod's source, whether it is isolated itself or not
            // (S55).
            flags: flag(isolated(ingress), Word::INGRESS)
                | flag(isolated(egress), Word::EGRESS)
                | flag(tried(ingress), Word::TRIED_INGRESS)
                | flag(tried(egress), Word::TRIED_EGRESS)
                | flag(bridged, Word::BRIDGED)
                | Word::GUARD,
        };
        let entry = set_policy(word).from(pod_origin(&endpoint.label));
        out.put(TableId::Endpoint, endpoint_key(endpoint.id), entry);
    }

    pub(crate) fn end_quarantine(&mut self) {
        self.ids.end_quarantine();
    }

    /// Uses none of the installed program's ids.
    pub(crate) fn avoid(&mut self, installed: &Program) {
        for key in installed.table(TableId::Endpoint).entries.keys() {
            self.ids.reserve(EndpointKey::of(key).endpoint);
        }
        for (named, _) in directory(installed) {
            if let Named::Endpoint(id) = named {
                self.ids.reserve(id);
            }
        }
    }

    /// Keeps its ids for the pods that they are there.
    pub(crate) fn seed(&mut self, installed: &Program) {
        for (named, meaning) in directory(installed) {
            if let Named::Endpoint(id) = named {
                self.ids.seed(meaning, id);
            }
        }
    }

    pub(crate) fn forget_installed(&mut self) {
        self.ids.forget_seed();
    }
}

fn take_interface(endpoint: Option<EndpointId>, interface: Interface, out: &mut Output) {
    out.take(TableId::Interface, interface_key(interface.ifindex));
    if let (Some(id), Some(_)) = (endpoint, interface.mac) {
        out.take(TableId::OwnMac, own_mac_key(id));
    }
}
