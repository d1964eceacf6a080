//! What NIC drivers do with flower filters, as read in their sources: the table of drivers.
//!
//! A driver may take a filter and do something else: pass over a key that it does not know, or read
//! a key of value 0 as no key. Probing cannot show that, so an ability counts only where this table
//! grants it too. Files are those of Linux 6.1 below `drivers/net/ethernet/` unless a fact says
//! otherwise. Not here: probing ([`crate::detect`]).

use serde::Serialize;

use crate::capability::Capabilities;

/// What is known of one driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quirks {
    /// The driver's name, as `ethtool -i` prints it.
    pub driver: &'static str,
    /// What follows from the facts.
    abilities: Abilities,
    /// What was read, and what was not.
    pub facts: &'static [Fact],
}

/// What becomes [`Capabilities`], as a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Abilities {
    able: &'static [Able],
    chains: u32,
    tables: u32,
    filters: u32,
    masks: u32,
}

/// Something that a driver honours; what is not listed for it, it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Able {
    PortMasks,
    SctpPorts,
    TcpFlags,
    ZeroKeys,
    Priority,
    Ct,
    CtReply,
    Redirect,
    Ipv6,
}

/// One fact about a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// The fact, as a clause.
    pub says: &'static str,
    /// File and function; `read nowhere: assumed` where there is none.
    pub source: &'static str,
}

const ASSUMED: &str = "read nowhere: assumed";

const fn fact(says: &'static str, source: &'static str) -> Fact {
    Fact { says, source }
}

/// No limit that the driver itself sets.
const UNLIMITED: u32 = u32::MAX;
/// Chain numbers that the kernel has (TC_ACT_EXT_VAL_MASK).
const ALL_CHAINS: u32 = (1 << 28) - 1;

/// All drivers that are known, by name.
pub const DRIVERS: &[Quirks] = &[
    Quirks {
        driver: "bnxt_en",
        abilities: Abilities {
            able: &[Able::PortMasks, Able::ZeroKeys, Able::Redirect, Able::Ipv6],
            chains: 0,
            tables: UNLIMITED,
            filters: 4096,
            masks: UNLIMITED,
        },
        facts: &[
            fact(
                "keys that it does not know are passed over without an error: tcp_flags, port \
                 ranges, ct_state",
                "broadcom/bnxt/bnxt_tc.c, bnxt_tc_parse_flow (checks only that control and basic \
                 are used)",
            ),
            fact(
                "actions that it does not know are passed over: pass, ct",
                "bnxt_tc.c, bnxt_tc_parse_actions (default: break)",
            ),
            fact(
                "ports of TCP and UDP only; an ethertype is wanted",
                "bnxt_tc.c, bnxt_tc_can_offload",
            ),
            fact("chain 0 only", "bnxt_vfr.c, the call of tc_cls_can_offload_and_chain0"),
            fact("the prio is read nowhere", "bnxt_tc.c, all of it"),
            fact(
                "keys are given to the firmware with their masks",
                "bnxt_tc.c, bnxt_hwrm_cfa_flow_alloc",
            ),
            fact("4096 filters", ASSUMED),
        ],
    },
    Quirks {
        driver: "i40e",
        abilities: Abilities { able: &[], chains: 0, tables: 0, filters: 0, masks: 0 },
        facts: &[fact(
            "filters can only lead to a traffic class (hw_tc): no drop, no redirect",
            "intel/i40e/i40e_main.c, i40e_configure_clsflower (Invalid traffic class), \
             i40e_handle_tclass",
        )],
    },
    Quirks {
        driver: "ice",
        abilities: Abilities {
            able: &[Able::PortMasks, Able::Redirect, Able::Ipv6],
            chains: 0,
            tables: UNLIMITED,
            filters: 4096,
            masks: 15,
        },
        facts: &[
            fact(
                "no port ranges, tcp_flags, ct_state, ICMP type",
                "intel/ice/ice_tc_lib.c, ice_parse_cls_flower (Unsupported key used)",
            ),
            fact(
                "ports of TCP and UDP only",
                "ice_tc_lib.c, ice_parse_cls_flower (Only UDP and TCP transport are supported)",
            ),
            fact(
                "an IPv4 address or port of value 0 is read as no key",
                "ice_tc_lib.c, ice_tc_set_ipv4, ice_tc_set_port (if (match->key->dst))",
            ),
            fact(
                "ip_proto without ports is read as no key",
                "ice_tc_lib.c, ice_tc_fill_rules (the protocol chooses the type of the port lookup \
                 only)",
            ),
            fact(
                "all filters have one priority",
                "ice_tc_lib.c, ice_eswitch_add_tc_fltr (rule_info.priority = 7)",
            ),
            fact("chain 0 only", "intel/ice/ice_main.c, ice_setup_tc_cls_flower"),
            fact(
                "drop and redirect only; drop in switchdev mode only",
                "ice_tc_lib.c, ice_eswitch_tc_parse_action, ice_parse_tc_flower_actions",
            ),
            fact("4096 filters, 15 masks", ASSUMED),
        ],
    },
    Quirks {
        driver: "mlx5_core",
        abilities: Abilities {
            able: &[
                Able::PortMasks,
                Able::TcpFlags,
                Able::ZeroKeys,
                Able::Priority,
                Able::Ct,
                Able::CtReply,
                Able::Redirect,
                Able::Ipv6,
            ],
            chains: ALL_CHAINS,
            tables: 250,
            filters: UNLIMITED,
            masks: 15,
        },
        facts: &[
            fact(
                "no port ranges",
                "mellanox/mlx5/core/en_tc.c, __parse_cls_flower (Unsupported key)",
            ),
            fact(
                "ports of TCP and UDP only",
                "en_tc.c, __parse_cls_flower (Only UDP and TCP transports are supported for L4 \
                 matching)",
            ),
            fact(
                "values and masks of addresses, ports, tcp_flags are given to the device as they \
                 are",
                "en_tc.c, __parse_cls_flower",
            ),
            fact(
                "chains and prios without end where the firmware has ignore_flow_level; else \
                 chains 0 to 3 and prios 1 to 16, and goto leads to higher numbers only",
                "lib/fs_chains.c, mlx5_chains_get_chain_range, mlx5_chains_get_prio_range; \
                 en/tc/act/goto.c, validate_goto_chain",
            ),
            fact(
                "a flow table for each chain and prio, of all ports together, asked for with \
                 POOL_NEXT_SIZE",
                "lib/fs_chains.c, mlx5_chains_create_table",
            ),
            fact(
                "of the pool's large tables there are 4 of 4M, 16 of 1M and 256 of 64K entries; \
                 others use them too",
                "fs_ft_pool.c, FT_POOLS, mlx5_ft_pool_get_avail_sz; that 250 remain is assumed",
            ),
            fact(
                "15 large groups in a table, each for one mask; further masks get groups of one \
                 entry",
                "eswitch.h, ESW_OFFLOADS_DEFAULT_NUM_GROUPS; fs_core.c, alloc_auto_flow_group",
            ),
            fact(
                "ct_state +rel, +inv and +new are refused; trk, est and rpl are honoured",
                "en/tc_ct.c, mlx5_tc_ct_match_add",
            ),
            fact("ct wants a kernel with NET_TC_SKB_EXT", "Kconfig, MLX5_TC_CT"),
            fact(
                "pass is an end: the packet takes the slow path to the representor",
                "en/tc/act/accept.c, tc_act_parse_accept",
            ),
        ],
    },
    Quirks {
        driver: "nfp",
        abilities: Abilities {
            able: &[
                Able::PortMasks,
                Able::SctpPorts,
                Able::ZeroKeys,
                Able::Ct,
                Able::Redirect,
                Able::Ipv6,
            ],
            chains: 0,
            tables: UNLIMITED,
            filters: 4096,
            masks: 255,
        },
        facts: &[
            fact(
                "no port ranges, no ICMP type",
                "netronome/nfp/flower/offload.c, NFP_FLOWER_WHITELIST_DISSECTOR",
            ),
            fact(
                "of tcp_flags only FIN, SYN, RST, PSH and URG are given on; ACK in the mask is \
                 lost, so SYN without ACK also matches SYN with ACK",
                "nfp/flower/match.c, nfp_flower_compile_ip_ext; offload.c, \
                 nfp_flower_calculate_key_layers (looks at the value alone)",
            ),
            fact(
                "SCTP ports",
                "offload.c, nfp_flower_calculate_key_layers (IPPROTO_SCTP: NFP_FLOWER_LAYER_TP)",
            ),
            fact("the prio is read nowhere", "offload.c, nfp_flower_add_offload"),
            fact(
                "chain 0 only, but for what follows a ct action",
                "offload.c, offload_pre_check; conntrack.c, is_pre_ct_flow, is_post_ct_flow",
            ),
            fact(
                "ct_state: +est is looked at, rpl is not",
                "nfp/flower/conntrack.c, is_post_ct_flow, nfp_ct_check_meta",
            ),
            fact("no action pass", "nfp/flower/action.c, nfp_flower_loop_action"),
            fact(
                "256 masks of the device, one kept back",
                "nfp/flower/main.h, NFP_FLOWER_MASK_ENTRY_RS; metadata.c, nfp_mask_alloc",
            ),
            fact(
                "as many filters as the firmware has counters",
                "nfp/flower/main.c, stats_ring_size; that there are 4096 is assumed",
            ),
        ],
    },
    Quirks {
        driver: "rvu_nicpf",
        abilities: Abilities {
            able: &[
                Able::PortMasks,
                Able::SctpPorts,
                Able::TcpFlags,
                Able::ZeroKeys,
                Able::Priority,
                Able::Ipv6,
            ],
            chains: 0,
            tables: UNLIMITED,
            filters: 16,
            masks: UNLIMITED,
        },
        facts: &[
            fact(
                "no port ranges, no ct_state",
                "marvell/octeontx2/nic/otx2_tc.c, otx2_tc_prepare_flow",
            ),
            fact(
                "tcp_flags with their mask; refused by Linux 6.1, where nothing can be dropped",
                "otx2_tc.c, otx2_tc_prepare_flow (NPC_TCP_FLAGS) of the kernel after 6.12",
            ),
            fact("SCTP ports", "otx2_tc.c, otx2_tc_prepare_flow (NPC_DPORT_SCTP)"),
            fact(
                "a port's mask decides whether it is a key",
                "otx2_tc.c, otx2_tc_prepare_flow (if (flow_mask->dport))",
            ),
            fact(
                "entries stand in order of prio",
                "otx2_tc.c, otx2_tc_add_to_flow_list of the kernel after 6.12",
            ),
            fact("chain 0 only", "otx2_tc.c, otx2_setup_tc_block_ingress_cb"),
            fact(
                "drop, pass; redirect to functions of the same physical one only, on ingress",
                "otx2_tc.c, otx2_tc_parse_actions",
            ),
            fact(
                "16 entries, more by devlink mcam_count",
                "otx2_common.h, OTX2_DEFAULT_FLOWCOUNT; otx2_flows.c; otx2_devlink.c",
            ),
        ],
    },
    Quirks {
        driver: "sfc",
        abilities: Abilities {
            able: &[Able::TcpFlags, Able::ZeroKeys, Able::Ct, Able::Redirect, Able::Ipv6],
            chains: ALL_CHAINS,
            tables: UNLIMITED,
            filters: 4096,
            masks: UNLIMITED,
        },
        facts: &[
            fact(
                "no port ranges, no ICMP type",
                "sfc/tc.c of Linux 6.5 and later, efx_tc_flower_parse_match (Unsupported flower \
                 keys)",
            ),
            fact(
                "ports and flags of TCP and UDP only",
                "sfc/tc.c, efx_tc_flower_parse_match (L4 flower keys require ipproto udp or tcp)",
            ),
            fact(
                "values and masks are given to the firmware as they are",
                "sfc/tc.c, efx_tc_flower_parse_match, MAP_KEY_AND_MASK",
            ),
            fact(
                "the firmware says for each field which masks it takes; others are refused",
                "sfc/mae.c, efx_mae_match_check_cap_typ; that ports are exact only is assumed",
            ),
            fact(
                "every filter has one priority",
                "sfc/tc.c, efx_tc_flower_replace (EFX_TC_PRIO_TC)",
            ),
            fact(
                "goto and ct from chain 0 only",
                "sfc/tc.c, efx_tc_flower_replace_lhs (LHS rule only allowed in chain 0)",
            ),
            fact(
                "ct_state trk and est only",
                "sfc/tc.c, efx_tc_flower_parse_match (Unsupported ct_state match)",
            ),
            fact("no action pass", "sfc/tc.c, efx_tc_flower_replace (Unhandled action)"),
            fact(
                "Linux 6.1 knows no key above Ethernet",
                "sfc/tc.c of 6.1, efx_tc_flower_parse_match",
            ),
            fact("4096 filters", ASSUMED),
        ],
    },
    Quirks {
        driver: "simnic",
        abilities: Abilities {
            able: &[
                Able::PortMasks,
                Able::SctpPorts,
                Able::TcpFlags,
                Able::ZeroKeys,
                Able::Priority,
                Able::Ct,
                Able::CtReply,
                Able::Redirect,
                Able::Ipv6,
            ],
            chains: ALL_CHAINS,
            tables: UNLIMITED,
            filters: UNLIMITED,
            masks: UNLIMITED,
        },
        facts: &[fact(
            "a simulation without faults, for tests; its personalities have the names of drivers",
            "testbed/lab/simnic",
        )],
    },
];

/// What people call drivers, beside the names that `ethtool -i` prints.
const ALSO_CALLED: [(&str, &str); 7] = [
    ("bnxt", "bnxt_en"),
    ("mlx5", "mlx5_core"),
    ("connectx", "mlx5_core"),
    ("octeontx2", "rvu_nicpf"),
    ("otx2", "rvu_nicpf"),
    ("e810", "ice"),
    ("netronome", "nfp"),
];

/// The driver that is meant by this name: one that it is called, or else its own.
pub fn driver_named(name: &str) -> &str {
    let called = ALSO_CALLED.iter().find(|(called, _)| called.eq_ignore_ascii_case(name));
    called.map_or(name, |(_, driver)| driver)
}

/// A driver's quirks; none where it is not known.
pub fn quirks(driver: &str) -> Option<&'static Quirks> {
    DRIVERS.iter().find(|q| q.driver == driver)
}

/// What a driver can do; `software` is the kernel itself. Of a driver that is not known nothing is
/// believed.
pub fn capabilities(driver: &str) -> Capabilities {
    if driver == "software" {
        return Capabilities::software();
    }
    let none = Abilities { able: &[], chains: 0, tables: 0, filters: 0, masks: 0 };
    let of = quirks(driver).map_or(none, |q| q.abilities);
    let can = |able: Able| of.able.contains(&able);
    Capabilities {
        driver: driver.to_owned(),
        // No driver has the dissector's key PORTS_RANGE.
        port_ranges: false,
        port_masks: can(Able::PortMasks),
        sctp_ports: can(Able::SctpPorts),
        tcp_flags: can(Able::TcpFlags),
        zero_keys: can(Able::ZeroKeys),
        priority: can(Able::Priority),
        chains: of.chains,
        tables: of.tables,
        ct: can(Able::Ct),
        ct_reply: can(Able::CtReply),
        redirect: can(Able::Redirect),
        ipv6: can(Able::Ipv6),
        filters: of.filters,
        masks: of.masks,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_stand_in_order_and_every_fact_has_a_source() {
        assert!(DRIVERS.is_sorted_by(|a, b| a.driver < b.driver));
        assert!(
            DRIVERS
                .iter()
                .flat_map(|q| q.facts)
                .all(|f| !f.says.is_empty() && !f.source.is_empty())
        );
    }

    #[test]
    fn what_is_not_known_is_not_believed() {
        let can = capabilities("e1000");
        assert_eq!((can.filters, can.tcp_flags, can.priority), (0, false, false));
        assert!(DRIVERS.iter().all(|q| !capabilities(q.driver).port_ranges));
        assert_eq!(capabilities("software"), Capabilities::software());
    }
}
