//! What a NIC and its driver can do with flower filters, as a value. Lowering asks it and nothing
//! else, so that a NIC is a value in tests.
//!
//! Not here: which driver can what ([`crate::quirks`]), how that is found out ([`crate::detect`]).

use serde::Serialize;

/// A driver's abilities. Everything that is not there is expanded, left to software with a reason,
/// or refused: never widened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Capabilities {
    /// The driver's name, as `ethtool -i` prints it; `software` for the kernel itself.
    pub driver: String,
    /// Ports as `low-high`; without: prefixes (value/mask).
    pub port_ranges: bool,
    /// Masks on ports other than 0xffff; without: one filter for each port, within the budget.
    pub port_masks: bool,
    /// Ports can be matched under `ip_proto sctp`; without: SCTP is left to software.
    pub sctp_ports: bool,
    /// `tcp_flags`; without it opening packets cannot be told from others, and nothing may be
    /// dropped by port.
    pub tcp_flags: bool,
    /// A key whose value is 0 under its mask is honoured; without: such a filter would match
    /// everything, so it is split into ones with a bit set, or left to software.
    pub zero_keys: bool,
    /// The filter with the lowest prio decides; without: any filter that matches may, so filters
    /// must not overlap unless they do the same.
    pub priority: bool,
    /// Highest chain number that `goto` reaches; 0: no chains.
    pub chains: u32,
    /// The most pairs of chain and prio: some devices keep a table for each.
    pub tables: u32,
    /// The action `ct` and the key `ct_state` work; without: nothing is forwarded.
    pub ct: bool,
    /// `ct_state` tells the opener's packets from replies (`rpl`).
    pub ct_reply: bool,
    /// `mirred egress redirect` to another port of the same device works.
    pub redirect: bool,
    /// IPv6 addresses can be matched; without: IPv6 is left to software.
    pub ipv6: bool,
    /// The most filters of all ports together.
    pub filters: u32,
    /// The most distinct masks (which keys, and how many bits of each) in one table.
    pub masks: u32,
}

impl Capabilities {
    /// The kernel's own implementation: everything but `skip_sw`.
    pub fn software() -> Self {
        Self {
            driver: "software".into(),
            port_ranges: true,
            port_masks: true,
            sctp_ports: true,
            tcp_flags: true,
            zero_keys: true,
            priority: true,
            chains: (1 << 28) - 1,
            tables: u32::MAX,
            ct: true,
            ct_reply: true,
            redirect: true,
            ipv6: true,
            filters: u32::MAX,
            masks: u32::MAX,
        }
    }
}
