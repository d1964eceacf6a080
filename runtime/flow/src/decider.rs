//! What decided about a packet: a policy, a security group or a rule of one of them.
//!
//! Not here: how it is found (`netpolc-agent`), and what it means.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// A rule that decided about a packet, or the policy as a whole where it is what isolates.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Decider {
    /// Of which kind the object is.
    pub kind: Kind,
    /// The object's namespace, where it has one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub namespace: Option<Arc<str>>,
    /// The object's name; of what is implied, the reason.
    pub name: Arc<str>,
    /// The rule, as `ingress[0]`, or by the id of a security group's rule; None: the object as a
    /// whole, which isolates or is only tried.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rule: Option<Arc<str>>,
    /// The rule's peer by its index, where it has peers.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub peer: Option<u32>,
    /// The rule's port by its index, where it has ports.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub port: Option<u32>,
    /// The tier of a ClusterNetworkPolicy.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tier: Option<Arc<str>>,
    /// What the rule of a ClusterNetworkPolicy does: `Accept`, `Deny` or `Pass`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub action: Option<Arc<str>>,
}

/// A kind of object that decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs)] // The kinds have these names.
pub enum Kind {
    NetworkPolicy,
    StagedKubernetesNetworkPolicy,
    ClusterNetworkPolicy,
    SecurityGroup,
    /// A namespace, or the node, that isolates by default (S90).
    IsolatedByDefault,
    /// The API itself, or netpolc's semantics.
    Implied,
}

impl Kind {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Kind::NetworkPolicy => "NetworkPolicy",
            Kind::StagedKubernetesNetworkPolicy => "StagedKubernetesNetworkPolicy",
            Kind::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Kind::SecurityGroup => "SecurityGroup",
            Kind::IsolatedByDefault => "IsolatedByDefault",
            Kind::Implied => "Implied",
        }
    }
}

impl Decider {
    /// The object of this kind with this name, `namespace/name` where it has a namespace.
    pub fn whole(kind: Kind, name: &str) -> Self {
        let namespaced = matches!(kind, Kind::NetworkPolicy | Kind::StagedKubernetesNetworkPolicy);
        let (namespace, name) = match name.split_once('/') {
            Some((namespace, name)) if namespaced => (Some(namespace.into()), name.into()),
            _ => (None, name.into()),
        };
        let (rule, peer, port, tier, action) = (None, None, None, None, None);
        Self { kind, namespace, name, rule, peer, port, tier, action }
    }

    /// Whether it is something that somebody has written, and may change.
    pub fn is_policy(&self) -> bool {
        !matches!(self.kind, Kind::IsolatedByDefault | Kind::Implied)
    }

    /// The same rule, whichever of its peers and ports it was.
    pub fn rule(&self) -> Self {
        Self { peer: None, port: None, tier: None, action: None, ..self.clone() }
    }

    /// The object as users write its name: a NetworkPolicy as `namespace/name`, others with their
    /// kind in front.
    pub fn policy(&self) -> String {
        let kind = match self.kind {
            Kind::NetworkPolicy => None,
            kind => Some(kind.name()),
        };
        let parts =
            [kind.map(|kind| format!("{kind} ")), self.namespace.as_ref().map(|n| format!("{n}/"))];
        parts.into_iter().flatten().chain([self.name.to_string()]).collect()
    }
}

/// As in `data/db ingress[0] from[1]`.
impl fmt::Display for Decider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::IsolatedByDefault => return f.write_str("isolated by default"),
            Kind::Implied => return write!(f, "implied {}", self.name),
            _ => {}
        }
        if let Some(tier) = &self.tier {
            write!(f, "{tier} ")?;
        }
        write!(f, "{}", self.policy())?;
        let Some(rule) = &self.rule else { return Ok(()) };
        write!(f, " {rule}")?;
        let peers = if rule.starts_with("egress") { "to" } else { "from" };
        if let Some(peer) = self.peer {
            write!(f, " {peers}[{peer}]")?;
        }
        if let Some(port) = self.port {
            write!(f, " ports[{port}]")?;
        }
        match &self.action {
            Some(action) => write!(f, " {action}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deciders_are_written_as_people_find_them() {
        let rule = Decider {
            rule: Some("egress[1]".into()),
            peer: Some(0),
            port: Some(2),
            ..Decider::whole(Kind::NetworkPolicy, "data/db")
        };
        assert_eq!(rule.to_string(), "data/db egress[1] to[0] ports[2]");
        assert_eq!(rule.policy(), "data/db");
        let tier = Decider {
            rule: Some("ingress[0]".into()),
            tier: Some("Admin".into()),
            action: Some("Deny".into()),
            ..Decider::whole(Kind::ClusterNetworkPolicy, "no-metadata")
        };
        assert_eq!(tier.to_string(), "Admin ClusterNetworkPolicy no-metadata ingress[0] Deny");
        let group = Decider::whole(Kind::SecurityGroup, "sg-0a1");
        assert_eq!(group.to_string(), "SecurityGroup sg-0a1");
        let default = Decider::whole(Kind::IsolatedByDefault, "");
        assert_eq!(
            (default.to_string().as_str(), default.is_policy()),
            ("isolated by default", false)
        );
        let json = r#"{"kind":"NetworkPolicy","namespace":"data","name":"db","rule":"egress[1]","peer":0,"port":2}"#;
        assert_eq!(serde_json::to_string(&rule).unwrap(), json);
        assert_eq!(serde_json::from_str::<Decider>(json).unwrap(), rule);
    }
}
