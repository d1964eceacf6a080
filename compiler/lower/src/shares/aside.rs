//! What is set aside, and how users are told.

use std::fmt;

use netpolc_policy::ObjectKey;

use super::limits::Resource;

/// A policy or a Service that is set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aside {
    /// Its namespace and name.
    pub object: ObjectKey,
    /// Whether it is a policy or a Service.
    pub kind: Kind,
    /// What there is too much of.
    pub resource: Resource,
    /// How much of it the object takes by itself.
    pub takes: u64,
    /// How much of it its namespace takes with everything that it has.
    pub namespace: u64,
    /// How much the namespace may take while the others take what they do.
    pub limit: u64,
}

/// What is set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// It isolates, and allows nothing.
    Policy,
    /// Its addresses are closed to pods whose egress is isolated.
    Service,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Policy => "NetworkPolicy",
            Kind::Service => "Service",
        })
    }
}

impl fmt::Display for Aside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, kind, resource, takes, namespace, limit } = self;
        let (what, advice) = (resource.what(), resource.advice());
        let meanwhile = match kind {
            Kind::Policy => "the pods that it selects stay isolated and it allows nothing",
            Kind::Service => "pods whose egress is isolated do not reach its addresses",
        };
        write!(
            f,
            "{kind} {object} is set aside, {meanwhile}: it takes {takes} {what}, namespace {} \
             takes {namespace} and may take {limit} on this node; {advice}",
            object.namespace
        )
    }
}
