//! Objects for inputs of tests, in a line each.

use std::fmt::Write;

/// Objects that are put together; prints as a YAML stream.
#[derive(Default)]
pub struct Objects {
    yaml: String,
    pods: usize,
}

impl Objects {
    /// The namespaces with these names, each with the label that the API server gives it.
    pub fn of(namespaces: &[&str]) -> Self {
        let mut objects = Self::default();
        for name in namespaces {
            let label = format!("kubernetes.io/metadata.name: {name}, team: {name}");
            objects =
                objects.add("v1", "Namespace", &format!("name: {name}, labels: {{{label}}}"), "");
        }
        objects
    }

    pub fn add(mut self, version: &str, kind: &str, metadata: &str, rest: &str) -> Self {
        let head = format!("---\napiVersion: {version}\nkind: {kind}\nmetadata: {{{metadata}}}");
        writeln!(self.yaml, "{head}\n{rest}").unwrap();
        self
    }

    /// A pod with an address, by `namespace/name`, its labels in braces, and its ports.
    pub fn pod_with(mut self, name: &str, labels: &str, ports: &str) -> Self {
        let (namespace, name) = name.split_once('/').unwrap();
        self.pods += 1;
        let n = self.pods;
        let metadata = format!("name: {name}, namespace: {namespace}, labels: {{{labels}}}");
        let addresses = format!("[{{ip: 10.9.0.{n}}}, {{ip: \"fd09::{n}\"}}]");
        let rest = format!(
            "spec: {{nodeName: n1, containers: [{{name: c, image: i, ports: [{ports}]}}]}}\nstatus: \
             {{phase: Running, podIPs: {addresses}}}"
        );
        self.add("v1", "Pod", &metadata, &rest)
    }

    pub fn pod(self, name: &str, labels: &str) -> Self {
        self.pod_with(name, labels, "")
    }

    /// A NetworkPolicy, by `namespace/name`, with the fields of its spec.
    pub fn policy(self, name: &str, spec: &str) -> Self {
        let (namespace, name) = name.split_once('/').unwrap();
        let metadata = format!("name: {name}, namespace: {namespace}");
        let spec = format!("spec: {{{spec}}}");
        self.add("networking.k8s.io/v1", "NetworkPolicy", &metadata, &spec)
    }

    /// A ClusterNetworkPolicy with the fields of its spec.
    pub fn tier(self, name: &str, spec: &str) -> Self {
        let spec = format!("spec: {{{spec}}}");
        let version = "policy.networking.k8s.io/v1alpha2";
        self.add(version, "ClusterNetworkPolicy", &format!("name: {name}"), &spec)
    }

    /// A document as it is.
    pub fn raw(mut self, document: &str) -> Self {
        writeln!(self.yaml, "{document}").unwrap();
        self
    }

    /// The YAML.
    pub fn yaml(&self) -> &str {
        &self.yaml
    }
}
