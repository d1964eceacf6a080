//! For which workloads policies are wanted. Not here: how that is written on a command line.

use crate::Workload;

/// For which workloads policies are wanted: those of any of the namespaces, and of any of the
/// names; where none is given, all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Names of namespaces.
    pub namespaces: Vec<String>,
    /// Names of workloads.
    pub workloads: Vec<Name>,
}

/// The name of a workload, as far as it is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// Its kind, in lower case.
    pub kind: Option<String>,
    /// Its namespace.
    pub namespace: Option<String>,
    /// Its own name.
    pub name: String,
}

impl Scope {
    /// Is this workload among them?
    pub fn wants(&self, workload: &Workload) -> bool {
        let is_it = |name: &Name| {
            *name.name == *workload.name
                && name.namespace.as_deref().is_none_or(|n| n == &*workload.namespace)
                && name.kind.as_ref().is_none_or(|k| *k == workload.kind.to_ascii_lowercase())
        };
        (self.namespaces.is_empty() || self.namespaces.iter().any(|n| **n == *workload.namespace))
            && (self.workloads.is_empty() || self.workloads.iter().any(is_it))
    }
}
