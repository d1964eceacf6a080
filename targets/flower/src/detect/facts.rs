//! What an interface says of itself, before anything is tried on it.
//!
//! Not here: the requests ([`links`], [`super::ethtool`], [`super::devlink`]), what follows
//! ([`super::verdict`]).

use netpolc_host::links::{self, Device};
use netpolc_table::IfIndex;
use serde::{Serialize, Serializer};

use super::{Error, devlink, ethtool::Ethtool};
pub use super::{devlink::Eswitch, ethtool::HwTc};

/// What one interface says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Facts {
    /// The interface's name.
    pub interface: String,
    /// The kernel's index of it.
    pub ifindex: IfIndex,
    /// Its driver, as `ethtool -i` names it; none for interfaces without one.
    pub driver: Option<String>,
    /// `ethtool -k`: may filters be in hardware?
    pub hw_tc_offload: HwTc,
    /// phys_switch_id in hexadecimal: ports with the same one belong to one switch.
    pub switch_id: Option<String>,
    /// phys_port_name: `p0`, `pf0vf3`.
    pub port_name: Option<String>,
    /// The device it belongs to.
    #[serde(serialize_with = "shown")]
    pub device: Option<Device>,
    /// The mode of that device's embedded switch.
    pub eswitch: Eswitch,
    /// Another port of the same switch, for redirects.
    #[serde(skip)]
    pub sibling: Option<IfIndex>,
}

/// Serializes a device as devlink writes it: `pci/0000:03:00.0`.
fn shown<S: Serializer>(device: &Option<Device>, serializer: S) -> Result<S::Ok, S::Error> {
    match device {
        Some(device) => serializer.collect_str(device),
        None => serializer.serialize_none(),
    }
}

impl Facts {
    /// Is it a port of a switch whose filters see what the function behind it sends? A switch id
    /// alone does not say so: ports of ordinary switch chips have one too.
    pub fn is_switchdev_port(&self) -> bool {
        let named = self.port_name.as_deref().is_some_and(is_representor_name);
        self.switch_id.is_some() && (self.eswitch == Eswitch::Switchdev || named)
    }
}

/// `pfNvfN` or `pfNsfN`, with a controller `cN` before it where it is not this host's
/// (net/core/devlink.c, __devlink_port_phys_port_name_get).
fn is_representor_name(name: &str) -> bool {
    fn number(text: &str) -> Option<&str> {
        let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
        (rest.len() < text.len()).then_some(rest)
    }
    let rest = name.strip_prefix('c').and_then(number).unwrap_or(name);
    let rest = rest.strip_prefix("pf").and_then(number);
    let rest =
        rest.and_then(|r| r.strip_prefix("vf").or_else(|| r.strip_prefix("sf"))).and_then(number);
    rest == Some("")
}

/// Facts of those interfaces of the calling thread's network namespace whose name is `wanted`, in
/// order of index.
///
/// # Errors
/// The interfaces cannot be listed, or no socket for ethtool can be opened. What one interface does
/// not tell is a fact of its own.
pub fn gather(wanted: impl Fn(&str) -> bool) -> Result<Vec<Facts>, Error> {
    let links =
        links::all().map_err(|source| Error::Socket { what: "listing the interfaces", source })?;
    let ethtool = Ethtool::open()
        .map_err(|source| Error::Socket { what: "opening a socket for ethtool", source })?;
    let mut found = Vec::new();
    for link in links.iter().filter(|l| wanted(&l.name)) {
        let sibling = links.iter().find(|l| {
            l.switch_id.is_some() && l.switch_id == link.switch_id && l.index != link.index
        });
        let eswitch = match &link.device {
            None => Eswitch::Absent("it belongs to no device".into()),
            Some(device) => devlink::eswitch(device),
        };
        found.push(Facts {
            interface: link.name.clone(),
            ifindex: IfIndex::new(link.index),
            // Interfaces without one are common, and one that is gone meanwhile has none.
            driver: ethtool.driver(&link.name).unwrap_or_default(),
            hw_tc_offload: ethtool
                .hw_tc_offload(&link.name)
                .unwrap_or_else(|e| HwTc::Unknown(e.to_string())),
            switch_id: link.switch_id.clone(),
            port_name: link.port_name.clone(),
            device: link.device.clone(),
            eswitch,
            sibling: sibling.map(|l| IfIndex::new(l.index)),
        });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_representors_are_told_from_those_of_other_ports() {
        for name in ["pf0vf0", "pf1vf127", "pf0sf88", "c1pf0vf3"] {
            assert!(is_representor_name(name), "{name}");
        }
        for name in ["p0", "pf0", "pf0vf", "vf0", "pf0vf0x", "", "cpf0vf0", "1"] {
            assert!(!is_representor_name(name), "{name}");
        }
    }

    #[test]
    fn this_machine_has_a_loopback_interface_of_no_device() {
        let all = gather(|_| true).unwrap();
        let lo = all.iter().find(|f| f.interface == "lo").unwrap();
        assert_eq!((lo.ifindex.get(), &lo.device, lo.is_switchdev_port()), (1, &None, false));
        assert_eq!(gather(|name| name == "lo").unwrap(), std::slice::from_ref(lo));
    }

    #[test]
    fn a_wrong_name_lists_the_right_ones() {
        let error = crate::detect::interface("lo9").unwrap_err().to_string();
        assert!(error.starts_with("no interface lo9; there are: lo"), "{error}");
    }
}
