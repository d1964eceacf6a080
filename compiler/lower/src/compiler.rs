//! The incremental compiler: it hands each event to whom it is about, and knows the order of one
//! update.
//!
//! Each part owns its state and its tables, and says in its signatures what else it touches.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use netpolc_policy::{
    ByDefault, Cluster, Direction, Namespace, ObjectKey, Pod, Policy, SecurityGroups, Service,
    Staged, Tier, TierKey, TierPolicy, Unselected,
};
use netpolc_table::{EndpointId, Program, delta::Changes};

use crate::{
    conflicts,
    deciding::{Deciding, Groups, SetKey, Tried},
    endpoints::{Endpoints, Judged, Judging, Sets},
    event::{Event, Scope},
    leaves::{self, Leaf},
    matrix::Matrix,
    membership::Membership,
    nodes::Nodes,
    output::Output,
    overflow::{Diagnostic, Numbered, Overflow},
    policies::{Policies, PolicySlot, World},
    prefix::Prefix,
    security::{Security, Touched},
    services::{Count, Services},
    shares::{Limits, Room, Shares},
    tiers::{TierSlot, Tiers},
    unselected::Defaults,
    usage,
    wire::Wire,
    worklist::Worklist,
};

/// Keeps the program of one node in step with events.
#[derive(Debug)]
pub struct Compiler {
    scope: Scope,
    /// Why there are no more updates.
    overflow: Option<Overflow>,
    // What is known.
    policies: Policies,
    defaults: Defaults,
    tiers: Tiers,
    security: Security,
    nodes: Nodes,
    membership: Membership,
    services: Services,
    wire: Wire,
    // What is made of it.
    endpoints: Endpoints,
    matrix: Matrix,
    out: Output,
    work: Worklist,
}

/// How a compiler is made, and which ids it may use.
impl Compiler {
    /// Knows nothing yet; its program permits everything.
    pub fn new(scope: Scope) -> Self {
        Self {
            scope,
            overflow: None,
            policies: Policies::default(),
            defaults: Defaults::default(),
            tiers: Tiers::default(),
            security: Security::default(),
            nodes: Nodes::default(),
            membership: Membership::default(),
            services: Services::default(),
            wire: Wire::default(),
            endpoints: Endpoints::new(),
            matrix: Matrix::new(),
            out: Output::default(),
            work: Worklist::default(),
        }
    }

    /// The same for a target that has room for so many ids.
    pub fn within(scope: Scope, room: &Room) -> Self {
        let mut this = Self::new(scope);
        this.endpoints.limit(room.endpoints);
        this.matrix.limit(room);
        this
    }

    /// With these devices, before any object: what egress sets grant depends on the tunnels. An
    /// [`Event::Wire`] may change all but these.
    pub fn wired(mut self, wire: Wire) -> Self {
        self.set_wire(wire);
        self
    }

    /// The same with so many verdicts for each namespace; more than that deny, until the namespace
    /// is set aside.
    pub fn bounded(mut self, cells: u64) -> Self {
        self.matrix.bound(cells);
        self
    }

    /// Before anything else: uses none of the ids of an installed program until
    /// [`Compiler::forget_installed`]. Everything will be written anew; nothing can clash.
    pub fn avoid(&mut self, installed: &Program) {
        self.endpoints.avoid(installed);
        self.matrix.avoid(installed);
    }

    /// Before anything else: keeps the ids of an installed program for what they mean there. Ids
    /// that mean nothing here are not used until [`Compiler::forget_installed`].
    pub fn seed(&mut self, installed: &Program) {
        self.avoid(installed);
        self.endpoints.seed(installed);
        self.matrix.seed(installed);
    }

    /// The program that [`Compiler::seed`] spoke of is replaced by this one: all its other ids are
    /// free.
    pub fn forget_installed(&mut self) {
        self.endpoints.forget_installed();
        self.matrix.forget_installed();
    }
}

/// What it is told and asked.
impl Compiler {
    /// Takes in a whole cluster; once, before any event.
    ///
    /// # Errors
    /// Where ids run out.
    pub fn load(&mut self, cluster: &Cluster) -> Result<(), Overflow> {
        self.load_admitted(cluster, &Shares::new(self.scope.clone(), Limits::default()))
    }

    /// The same as far as `shares` admits it, which has looked at this cluster.
    ///
    /// # Errors
    /// As [`Compiler::load`].
    pub fn load_admitted(&mut self, cluster: &Cluster, shares: &Shares) -> Result<(), Overflow> {
        self.out.begin_load();
        self.matrix.cover_ports(&mut self.out)?;
        self.set_default(cluster.by_default.clone());
        for (name, namespace) in &cluster.namespaces {
            self.set_namespace(name, namespace.clone());
        }
        for (name, node) in &cluster.nodes {
            self.nodes.set(name, Some(node), &mut self.work);
        }
        // Before the pods, so that each is asked once which groups it has.
        self.load_security(&cluster.security);
        for (key, pod) in &cluster.pods {
            self.set_pod(key, Some(pod.clone()));
        }
        for (key, policy) in &cluster.policies {
            self.set_policy(key, Some(shares.policy(policy.clone())));
        }
        for (key, staged) in &cluster.staged {
            self.set_staged(key, shares.staged(key, staged.clone()));
        }
        for (key, policy) in &cluster.tiers {
            self.set_tier(key, shares.tier(policy.clone()));
        }
        for (key, service) in &cluster.services {
            self.set_service(key, Some(shares.service(key, service.clone())));
        }
        let done = self.finish();
        self.out.begin_update();
        self.overflow = done.clone().err();
        done
    }

    /// Takes in one event and returns the entries that changed.
    ///
    /// # Errors
    /// Where ids run out: the program is of no use any more, see [`Overflow`].
    pub fn apply(&mut self, event: Event) -> Result<Changes, Overflow> {
        self.apply_all([event])
    }

    /// Takes in several events as one update.
    ///
    /// # Errors
    /// As [`Compiler::apply`].
    pub fn apply_all(
        &mut self,
        events: impl IntoIterator<Item = Event>,
    ) -> Result<Changes, Overflow> {
        self.end_quarantine();
        self.apply_further(events)
    }

    /// Takes in more events as part of the last update: ids that it gave back stay unused, so the
    /// changes of both, added up, are those of one update.
    ///
    /// # Errors
    /// As [`Compiler::apply`].
    pub fn apply_further(
        &mut self,
        events: impl IntoIterator<Item = Event>,
    ) -> Result<Changes, Overflow> {
        if let Some(overflow) = &self.overflow {
            return Err(overflow.clone());
        }
        if self.out.is_loading() {
            // Nothing was loaded before the first event.
            self.matrix.cover_ports(&mut self.out)?;
        }
        self.out.begin_update();
        events.into_iter().for_each(|event| self.take_in(event));
        let done = self.finish();
        self.overflow = done.clone().err();
        done.map(|()| self.out.end_update())
    }

    /// Takes in events as one update, as far as `shares` admits them, which knows what was admitted
    /// before; `cluster` is the one after these events. A namespace whose rows turn out to take too
    /// much is set aside within the same update.
    ///
    /// # Errors
    /// As [`Compiler::apply`].
    pub fn apply_admitted(
        &mut self,
        shares: &mut Shares,
        cluster: &Cluster,
        events: Vec<Event>,
    ) -> Result<Changes, Overflow> {
        let mut changes = self.apply_all(shares.admit(cluster, events))?;
        while shares.blame_excess(cluster, self.take_excess()) {
            changes.add(self.apply_further(shares.admit(cluster, vec![]))?);
        }
        Ok(changes)
    }

    /// The program as of the last update.
    pub fn program(&self) -> &Program {
        self.out.program()
    }

    /// Whose pods are endpoints.
    pub(crate) fn scope(&self) -> &Scope {
        &self.scope
    }

    /// What users should know, in order.
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        let conflicts = self.membership.conflicts().into_iter();
        let conflicts =
            conflicts.map(|(address, pods)| Diagnostic::AddressConflict { address, pods });
        let mut all: Vec<Diagnostic> = conflicts.chain(self.endpoints.diagnostics()).collect();
        let pods = self.endpoints.iter().filter_map(|(pod, _)| self.membership.pod(pod));
        let of_groups: BTreeSet<Diagnostic> =
            pods.flat_map(|pod| self.security.diagnostics(pod)).collect();
        all.extend(of_groups);
        let (matrix, program) = (&self.matrix, self.out.program());
        all.extend(conflicts::diagnostics(&self.endpoints, &self.membership, matrix, program));
        let sets = self.endpoints.iter().flat_map(|(pod, _)| self.endpoints.sets(pod));
        let left_out: BTreeSet<&Arc<str>> = sets.flat_map(|s| self.matrix.left_out(s)).collect();
        all.extend(left_out.into_iter().map(|p| Diagnostic::NotCompared { policy: p.clone() }));
        all
    }

    /// The endpoint id of a local pod.
    pub fn endpoint(&self, pod: &ObjectKey) -> Option<EndpointId> {
        self.endpoints.id(pod)
    }

    /// The local pods that are endpoints, in order.
    pub fn endpoints(&self) -> impl Iterator<Item = (&ObjectKey, EndpointId)> {
        self.endpoints.iter()
    }

    /// Does some policy, or the default, decide about this pod's traffic? Also for pods that are no
    /// endpoints, having no address yet.
    pub fn isolates(&self, pod: &Pod) -> bool {
        let of_groups = self.security.of(pod).is_some();
        let world = World::Enforced;
        let by_default = self.defaults.of(&pod.key.namespace) == Unselected::Isolated;
        let decided = |direction| {
            self.policies.isolating(pod, direction, world).next().is_some()
                || !self.tiers_about(pod, direction, world).is_empty()
        };
        of_groups || by_default || Direction::BOTH.into_iter().any(decided)
    }

    fn tiers_about(&self, pod: &Pod, direction: Direction, world: World) -> Vec<Arc<TierSlot>> {
        if self.tiers.is_empty() {
            return Vec::new();
        }
        let namespace = self.membership.labels(&pod.key.namespace);
        self.tiers.about(pod, &namespace, direction, world)
    }

    /// The policies that decide about a pod in one direction, beside its groups.
    fn deciding(&self, pod: &Pod, direction: Direction, groups: &Option<Groups>) -> Deciding {
        let mut deciding = self.deciding_in(World::Enforced, pod, direction, groups);
        if self.policies.has_tried() || self.tiers.has_tried() {
            let shadow = self.deciding_in(World::Shadow, pod, direction, groups);
            if !shadow.is_like(&deciding) {
                let replacing = self.policies.replacing(pod, direction).collect();
                deciding.tried = Some(Box::new(Tried { deciding: shadow, replacing }));
            }
        }
        deciding
    }

    fn deciding_in(
        &self,
        world: World,
        pod: &Pod,
        direction: Direction,
        groups: &Option<Groups>,
    ) -> Deciding {
        let policies: Vec<_> = self.policies.isolating(pod, direction, world).cloned().collect();
        let unselected = match policies.is_empty() {
            true => self.defaults.of(&pod.key.namespace),
            false => Unselected::Open,
        };
        let tiers = self.tiers_about(pod, direction, world);
        let groups = groups.clone();
        let mut deciding = Deciding { tiers, policies, unselected, groups, tried: None };
        // Behind what isolates, nobody is asked (S65), and nothing has to follow.
        if deciding.isolates() {
            deciding.tiers.retain(|slot| slot.policy.tier == Tier::Admin);
        }
        deciding
    }

    /// The namespaces whose rows take more verdicts than they may, with what they take: after an
    /// update, each until their policies are set aside.
    pub fn take_excess(&mut self) -> BTreeMap<Arc<str>, u64> {
        self.matrix.take_excess()
    }

    /// How many ids of this kind the policies of each namespace need, as if there were no others.
    /// Also after an overflow, for what has been made until then.
    pub fn usage(&self, what: Numbered) -> BTreeMap<Arc<str>, u64> {
        match what {
            Numbered::Endpoints => {
                usage::count(self.endpoints.iter().map(|(pod, _)| pod.namespace.clone()))
            }
            _ => self.matrix.usage(what),
        }
    }
}

/// Events: each is taken in by the part that knows its kind of object, and marked for the end of
/// the update where others have to follow.
impl Compiler {
    fn take_in(&mut self, event: Event) {
        match event {
            Event::Namespace { name, namespace } => {
                self.set_namespace(&name, namespace.unwrap_or_default());
            }
            Event::Staged { key, staged } => self.set_staged(&key, staged),
            Event::ByDefault(by_default) => self.set_default(by_default),
            Event::Tier { key, policy } => self.set_tier(&key, policy),
            Event::SecurityGroup { id, group } => self.secure(|known| known.set_group(id, group)),
            Event::PrefixList { id, entries } => self.secure(|known| known.set_list(id, entries)),
            Event::CloudInterface { id, interface } => {
                self.secure(|known| known.set_interface(id, interface))
            }
            Event::SecurityGroupPolicy { key, policy } => {
                self.secure(|known| known.set_policy(key, policy))
            }
            Event::Account { key, labels } => self.secure(|known| known.set_account(key, labels)),
            Event::Resolvers(resolvers) => self.secure(|known| known.set_resolvers(resolvers)),
            Event::Enforcement(enforcement) => {
                self.secure(|known| known.set_enforcement(enforcement))
            }
            Event::Pod { key, pod } => self.set_pod(&key, pod),
            Event::Policy { key, policy } => self.set_policy(&key, policy),
            Event::Node { name, node } => self.nodes.set(&name, node.as_ref(), &mut self.work),
            Event::Service { key, service } => self.set_service(&key, service),
            Event::Interface { pod, interface } => {
                self.endpoints.set_interface(pod, interface, &mut self.out, &mut self.work);
            }
            Event::Wire(wire) => self.set_wire(wire),
        }
    }

    fn set_namespace(&mut self, name: &Arc<str>, namespace: Namespace) {
        let Namespace { labels, unselected } = namespace;
        self.membership.set_labels(name, labels, &mut self.work);
        let default_changed = self.defaults.set_namespace(name, unselected);
        // Tiers select pods by the labels of their namespace too (S67).
        if default_changed || !self.tiers.is_empty() {
            let here = self.endpoints.in_namespace(name);
            here.for_each(|pod| self.work.choose_sets(pod.clone()));
        }
    }

    /// All endpoints choose their sets anew where another default holds.
    fn set_default(&mut self, by_default: ByDefault) {
        if self.defaults.set(by_default) {
            self.endpoints.iter().for_each(|(pod, _)| self.work.choose_sets(pod.clone()));
        }
    }

    fn set_pod(&mut self, key: &ObjectKey, pod: Option<Pod>) {
        let pod = pod.filter(Pod::is_policed);
        let (before, was) = self.membership.find(key).unzip();
        let security = pod.as_ref().and_then(|pod| self.security.of(pod));
        if was.is_some() && was == pod.as_ref() && self.membership.security(key) == Some(&security)
        {
            return;
        }
        if let Some(was) = was {
            self.services.count_host_ports(was, Count::Down, &mut self.work);
        }
        if let Some(pod) = &pod {
            self.services.count_host_ports(pod, Count::Up, &mut self.work);
        }
        // A node knows pods by their addresses: without one there is nothing to enforce yet.
        let is_seen = |pod: &&Pod| !pod.addresses.is_empty() || self.scope == Scope::Everywhere;
        match pod.as_ref().filter(|pod| self.scope.holds(pod)).filter(is_seen) {
            Some(pod) => self.endpoints.put(pod, &mut self.out, &mut self.work),
            None => self.endpoints.drop(key, &mut self.out, &mut self.work),
        }
        self.membership.set_pod(before, pod.map(|pod| (pod, security)), &mut self.work);
    }

    /// Takes in all that is known of groups at once, before there are pods.
    fn load_security(&mut self, known: &SecurityGroups) {
        self.security.load(known.clone());
        let members = self.security.of_interfaces();
        self.follow(Touched { members, pods: true, rules: true });
    }

    /// Something about groups changes, and what depends on it follows.
    fn secure(&mut self, change: impl FnOnce(&mut Security) -> Touched) {
        let touched = change(&mut self.security);
        self.follow(touched);
    }

    /// Does what a change about groups leaves to be done.
    fn follow(&mut self, touched: Touched) {
        for group in &touched.members {
            self.membership.set_networks(group, self.security.networks(group), &mut self.work);
        }
        if touched.pods {
            let differ =
                |pod: &&Pod| self.membership.security(&pod.key) != Some(&self.security.of(pod));
            let mut pods: Vec<Pod> = self.membership.pods().filter(differ).cloned().collect();
            // In order, so that ids come in the same order in every process.
            pods.sort_by(|a, b| a.key.cmp(&b.key));
            for pod in pods {
                self.set_pod(&pod.key.clone(), Some(pod));
            }
        }
        if touched.rules {
            let has_groups = |pod: &&ObjectKey| {
                self.membership.security(pod).is_some_and(|security| security.is_some())
            };
            let pods = self.endpoints.iter().map(|(pod, _)| pod).filter(has_groups);
            pods.for_each(|pod| self.work.choose_sets(pod.clone()));
        }
    }

    /// Endpoints choose their sets anew which the policy selects, or selected until now.
    fn set_policy(&mut self, key: &ObjectKey, policy: Option<Policy>) {
        let versions = self.policies.set(key, policy);
        self.reconsider(&key.namespace, &versions);
    }

    /// The same for a staged policy.
    fn set_staged(&mut self, key: &ObjectKey, staged: Option<Staged>) {
        let touched = self.policies.stage(key, staged);
        self.reconsider(&key.namespace, &touched);
    }

    /// Endpoints of a namespace choose their sets anew which one of these policies selects.
    fn reconsider(&mut self, namespace: &Arc<str>, versions: &[Arc<PolicySlot>]) {
        for pod in self.endpoints.in_namespace(namespace) {
            let Some(labels) = self.membership.pod(pod).map(|pod| &pod.labels) else { continue };
            if versions.iter().any(|slot| slot.selects(labels)) {
                self.work.choose_sets(pod.clone());
            }
        }
    }

    /// Endpoints choose their sets anew which the policy is about, or was about until now.
    fn set_tier(&mut self, key: &TierKey, policy: Option<TierPolicy>) {
        let versions = self.tiers.set(key, policy);
        for (key, _) in self.endpoints.iter() {
            let Some(pod) = self.membership.pod(key) else { continue };
            let namespace = self.membership.labels(&key.namespace);
            if versions.iter().any(|slot| slot.is_about(&namespace, &pod.labels)) {
                self.work.choose_sets(key.clone());
            }
        }
    }

    fn set_service(&mut self, key: &ObjectKey, service: Option<Service>) {
        let health_checks_changed = self.services.set(key, service, &mut self.work);
        // They are left out of what every egress set says of its node.
        if health_checks_changed {
            self.endpoints.iter().for_each(|(pod, _)| self.work.choose_sets(pod.clone()));
        }
    }

    fn set_wire(&mut self, wire: Wire) {
        let moved = self.wire.replace(wire, &mut self.out);
        self.endpoints.touch_interfaces(&moved, &mut self.work);
    }
}

/// The order of one update.
impl Compiler {
    /// A new update begins, so the target has finished the last one: ids that came free in it may
    /// get another meaning.
    fn end_quarantine(&mut self) {
        self.matrix.end_quarantine(self.membership.atoms().retired());
        self.membership.end_quarantine();
        self.endpoints.end_quarantine();
    }

    /// Does what the events of an update have left to do.
    ///
    /// Sets come before leaves because a set's peers say what the leaves are members of: only when
    /// all sets of this update are there, and those that nobody uses are gone, are the atoms known,
    /// and each leaf is made once. New sets come before old ones go, so that an atom or a set that
    /// both versions of a policy need is not taken away and made again, with other ids in every
    /// table. Words come last because they name the sets. (In which order a target is changed is
    /// another matter: `netpolc_table::delta` finds it from the result.)
    fn finish(&mut self) -> Result<(), Overflow> {
        let (out, work) = (&mut self.out, &mut self.work);
        self.services.refresh(&self.scope, &self.nodes, &mut self.membership, out, work);
        // Ids may have come free in the last update; those of this one are in quarantine.
        for pod in self.endpoints.take_unplaced() {
            if let Some(pod) = self.membership.pod(&pod) {
                self.endpoints.put(pod, out, work);
            }
        }
        for pod in self.work.take_endpoints() {
            self.choose_sets(&pod)?;
        }
        for set in self.work.take_released() {
            self.matrix.release_set(set, &mut self.membership, &mut self.out, &mut self.work);
        }
        let touched = self.work.take_leaves();
        for prefix in leaves::touched(touched, &self.membership, &self.nodes, &self.out) {
            self.refresh_leaf(prefix)?;
        }
        for pod in self.work.take_words() {
            self.endpoints.write_word(&pod, &self.wire, &mut self.out);
        }
        self.matrix.end_update();
        Ok(())
    }

    /// Finds the policies that decide about an endpoint and gives it their sets.
    fn choose_sets(&mut self, key: &ObjectKey) -> Result<(), Overflow> {
        let Some(pod) = self.membership.pod(key) else { return Ok(()) };
        let security = self.membership.security(key).and_then(|security| security.as_deref());
        let groups = security.map(|ids| Groups {
            slots: self.security.slots(ids),
            resolvers: self.security.resolvers(),
            exempt: self.security.exempt_node(pod),
        });
        let by_direction = Direction::BOTH.map(|direction| {
            let deciding = self.deciding(pod, direction, &groups);
            if deciding.is_empty() && deciding.tried.is_none() {
                return None;
            }
            let set = match direction {
                Direction::Ingress => SetKey::ingress(pod, &deciding),
                Direction::Egress => {
                    SetKey::egress(pod, &deciding, self.services.health_checks(), &self.wire)
                }
            };
            Some((set, deciding))
        });
        // What the node itself sends is judged by nobody else than groups, and not by these where
        // it stays on the node (S82).
        let born = groups.filter(|_| self.security.judges_node()).map(|groups| {
            let deciding = Deciding { groups: Some(groups), ..Deciding::default() };
            (SetKey::ingress(pod, &deciding), deciding)
        });
        let [ingress, egress] = by_direction;
        let sets = Sets {
            ingress: self.acquire(ingress)?,
            egress: self.acquire(egress)?,
            born: self.acquire(born)?.map(|judged| judged.set),
        };
        self.endpoints.set_sets(key, sets, &mut self.work);
        Ok(())
    }

    /// Counts a set once more.
    fn acquire(&mut self, wanted: Option<(SetKey, Deciding)>) -> Result<Option<Judged>, Overflow> {
        let Some((key, deciding)) = wanted else { return Ok(None) };
        let (membership, out, work) = (&mut self.membership, &mut self.out, &mut self.work);
        let set = self.matrix.acquire_set(key, &deciding, membership, out, work)?;
        let by = match &deciding.tried {
            None => Judging::Decides,
            Some(_) if deciding.is_empty() => Judging::Tries,
            Some(_) => Judging::DecidesAndTries,
        };
        Ok(Some(Judged { set, by }))
    }

    /// Makes the leaf of a prefix anew. The new class is counted before the old one is released: it
    /// is mostly the same one.
    fn refresh_leaf(&mut self, prefix: Prefix) -> Result<(), Overflow> {
        let before = leaves::class_of(prefix, self.out.program());
        match Leaf::of(prefix, &self.membership, &self.nodes, &self.services) {
            Some(leaf) => {
                let atoms = self.membership.atoms();
                let class = self.matrix.acquire_class(
                    prefix.family,
                    &leaf.members,
                    atoms,
                    &mut self.out,
                )?;
                leaf.put(prefix, class, &mut self.out);
            }
            None => leaves::take(prefix, &mut self.out),
        }
        if let Some(class) = before {
            self.matrix.release_class(class, &mut self.out);
        }
        Ok(())
    }
}
