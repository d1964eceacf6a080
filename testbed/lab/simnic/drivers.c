// SPDX-License-Identifier: GPL-2.0
/*
 * simnic: personalities. Each has what one real driver refuses (with its words), what it takes but misreads, and its
 * limits. Where nothing else is said the functions were read in Linux 6.1, paths below drivers/net/ethernet/.
 *
 * A driver that honours no priority may let any filter decide that matches; the simulation takes the one that lets the
 * host see least, so that filters which only look right by their order show.
 * Limits come from device and firmware, which drivers ask; those here are small on purpose unless a constant is named.
 */
#include <linux/etherdevice.h>
#include <linux/in.h>
#include <linux/string.h>
#include <net/pkt_cls.h>
#include "simnic.h"

static const struct sim_driver drivers[] = {
	/* A NIC without faults: what the simulation can do at all. */
	{ .name = "simnic" },
	/*
	 * mellanox/mlx5/core/en_tc.c, __parse_cls_flower: no key PORTS_RANGE; ports of TCP and UDP only.
	 * en/tc_ct.c, mlx5_tc_ct_match_add: no +rel, no +inv; rpl is honoured.
	 * __mlx5e_add_fdb_flow: chains up to mlx5_chains_get_chain_range, prios up to mlx5_chains_get_prio_range.
	 * lib/fs_chains.c, mlx5_chains_create_table: a flow table for each chain and prio.
	 * esw/... fs_core.c: few large groups, so few masks of one table.
	 */
	{
		.name = "mlx5_core",
		.refuses = SIM_RANGES | SIM_SCTP_PORTS,
		.tables = 270,
		.masks = 15,
		.says = {
			{ SIM_RANGES, "mlx5_core: Unsupported key" },
			{ SIM_SCTP_PORTS, "mlx5_core: Only UDP and TCP transports are supported for L4 matching" },
		},
	},
	/*
	 * intel/ice/ice_tc_lib.c, ice_parse_cls_flower: no keys PORTS_RANGE, TCP, CT, ICMP; ports of TCP and UDP only.
	 * ice_tc_set_ipv4, ice_tc_set_port: `if (match->key->dst)`: a key of value 0 is no key.
	 * ice_eswitch_tc_parse_action: drop and redirect only.
	 * ice_eswitch_add_tc_fltr: `rule_info.priority = 7` for every filter.
	 * ice_main.c, ice_setup_tc_cls_flower: no chains. Without switchdev (ice_parse_tc_flower_actions) no drops.
	 */
	{
		.name = "ice",
		.refuses = SIM_RANGES | SIM_TCP_FLAGS | SIM_CT | SIM_CT_REPLY | SIM_ICMP | SIM_SCTP_PORTS | SIM_CHAINS |
			   SIM_PASSES,
		.misreads = SIM_ZERO_KEYS | SIM_PRIORITY,
		.rules = 4096,
		.says = {
			{ SIM_RANGES | SIM_TCP_FLAGS | SIM_CT | SIM_CT_REPLY | SIM_ICMP, "ice: Unsupported key used" },
			{ SIM_SCTP_PORTS, "ice: Only UDP and TCP transport are supported" },
			{ SIM_PASSES | SIM_CHAINS, "ice: Unsupported action in switchdev mode" },
		},
	},
	/*
	 * netronome/nfp/flower/offload.c, nfp_flower_calculate_key_layers: no keys PORTS_RANGE, ICMP; no ARP; an
	 * ethertype is wanted by everything above layer 2.
	 * nfp_flower_add_offload: the prio is never read. offload_pre_check: no chains but those of ct.
	 * flower/conntrack.c, is_post_ct_flow: +est is wanted; nothing reads rpl (nfp_ct_check_meta).
	 * flower/action.c, nfp_flower_loop_action: no action pass.
	 */
	{
		.name = "nfp",
		.refuses = SIM_RANGES | SIM_ICMP | SIM_ARP | SIM_PASSES,
		.misreads = SIM_PRIORITY | SIM_CT_REPLY,
		.rules = 4096,
		.says = {
			{ SIM_RANGES | SIM_ICMP, "nfp: unsupported offload: match not supported" },
			{ SIM_ARP, "nfp: unsupported offload: ARP not supported" },
			{ SIM_PASSES, "nfp: unsupported offload: unsupported action in action list" },
		},
	},
	/*
	 * broadcom/bnxt/bnxt_tc.c, bnxt_tc_parse_flow: keys that it does not know (TCP, PORTS_RANGE, CT) are passed over.
	 * bnxt_tc_parse_actions: so are actions (`default: break`).
	 * bnxt_tc_can_offload: ports of TCP and UDP only; an ethertype is wanted. bnxt_tc_setup_flower: no chains
	 * (tc_cls_can_offload_and_chain0, bnxt_vfr.c bnxt_vf_rep_setup_tc_block_cb). The prio is never read.
	 */
	{
		.name = "bnxt_en",
		.refuses = SIM_SCTP_PORTS | SIM_CHAINS | SIM_ANY_ETHERTYPE,
		.misreads = SIM_TCP_FLAGS | SIM_RANGES | SIM_CT | SIM_CT_REPLY | SIM_PRIORITY,
		.rules = 4096,
		.says = {
			{ SIM_CHAINS, "bnxt_en: Driver supports only offload of chain 0" },
		},
	},
	/*
	 * sfc/tc.c of Linux 6.12, efx_tc_flower_parse_match: no keys PORTS_RANGE, ICMP; ports and flags of TCP and UDP
	 * only; ct_state trk and est only. efx_tc_flower_replace: every filter has EFX_TC_PRIO_TC.
	 */
	{
		.name = "sfc",
		.refuses = SIM_RANGES | SIM_ICMP | SIM_SCTP_PORTS | SIM_CT_REPLY,
		.misreads = SIM_PRIORITY,
		.rules = 4096,
		.says = {
			{ SIM_RANGES | SIM_ICMP, "sfc: Unsupported flower keys" },
			{ SIM_SCTP_PORTS, "sfc: L4 flower keys require ipproto udp or tcp" },
			{ SIM_CT_REPLY, "sfc: Unsupported ct_state match" },
		},
	},
	/*
	 * marvell/octeontx2/nic/otx2_tc.c, otx2_tc_prepare_flow: no keys PORTS_RANGE, TCP, CT, ICMP; no ttl.
	 * otx2_tc_parse_actions: drop and pass; no redirect to another port (REDIRECT_INGRESS only).
	 * otx2_setup_tc_block_ingress_cb: no chains. otx2_tc_add_to_flow_list: entries in order of prio.
	 */
	{
		.name = "rvu_nicpf",
		.refuses = SIM_RANGES | SIM_TCP_FLAGS | SIM_CT | SIM_CT_REPLY | SIM_ICMP | SIM_CHAINS | SIM_REDIRECT |
			   SIM_TTL,
		.rules = 1024,
		.says = {
			{ SIM_CHAINS, "rvu_nicpf: Driver supports only offload of chain 0" },
			{ SIM_TTL, "rvu_nicpf: ttl not supported" },
		},
	},
};

const struct sim_driver *sim_driver_find(const char *name)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(drivers); i++)
		if (!strcmp(drivers[i].name, name))
			return &drivers[i];
	return NULL;
}

static bool partial(__be16 mask)
{
	return mask && mask != htons(0xffff);
}

/* What a filter asks of a driver. */
static u32 needs(const struct sim_rule *r)
{
	const struct sim_key *m = &r->mask;
	u32 bits = 0;
	int i;

	if (r->sport.to || r->dport.to)
		bits |= SIM_RANGES;
	if (partial(m->sport) || partial(m->dport))
		bits |= SIM_PORT_MASKS;
	if (m->protocol && r->key.protocol == IPPROTO_SCTP && (m->sport || m->dport || r->sport.to || r->dport.to))
		bits |= SIM_SCTP_PORTS;
	if (m->tcp_flags)
		bits |= SIM_TCP_FLAGS;
	if (r->chain)
		bits |= SIM_CHAINS;
	if (m->ct_state)
		bits |= SIM_CT;
	if (m->ct_state & TCA_FLOWER_KEY_CT_FLAGS_REPLY)
		bits |= SIM_CT_REPLY;
	if (m->icmp_type || m->icmp_code)
		bits |= SIM_ICMP;
	if (m->ttl)
		bits |= SIM_TTL;
	if (!is_zero_ether_addr(m->dmac) || !is_zero_ether_addr(m->smac))
		bits |= SIM_MAC;
	if (!m->ethertype)
		bits |= SIM_ANY_ETHERTYPE;
	else if (r->key.ethertype == htons(ETH_P_IPV6))
		bits |= SIM_IPV6;
	else if (r->key.ethertype == htons(ETH_P_ARP))
		bits |= SIM_ARP;
	for (i = 0; i < r->n_actions; i++)
		switch (r->actions[i].kind) {
		case SIM_DROP:
			bits |= SIM_DROPS;
			break;
		case SIM_PASS:
			bits |= SIM_PASSES;
			break;
		case SIM_FORWARD:
			bits |= SIM_REDIRECT;
			break;
		case SIM_GOTO:
			bits |= SIM_CHAINS;
			break;
		case SIM_TRACK:
		case SIM_UNTRACK:
			bits |= SIM_CT;
			break;
		}
	return bits;
}

int sim_driver_check(const struct sim_rule *rule, struct netlink_ext_ack *extack)
{
	u32 refused = needs(rule) & sim_driver->refuses;
	int i;

	if (sim_driver->chain_max && rule->chain > sim_driver->chain_max)
		refused |= SIM_CHAINS;
	if (sim_driver->prio_max && rule->prio > sim_driver->prio_max)
		refused |= SIM_PRIORITY;
	if (!refused)
		return 0;
	for (i = 0; i < ARRAY_SIZE(sim_driver->says); i++)
		if (sim_driver->says[i].what & refused) {
			if (extack)
				extack->_msg = sim_driver->says[i].words;
			break;
		}
	return -EOPNOTSUPP;
}

void sim_driver_misread(struct sim_rule *r)
{
	struct sim_key *k = &r->key, *m = &r->mask;
	u32 misreads = sim_driver->misreads;
	int i, kept = 0;

	if (misreads & SIM_TCP_FLAGS)
		m->tcp_flags = 0;
	if (misreads & SIM_RANGES)
		r->sport.to = r->dport.to = 0;
	if (misreads & SIM_CT_REPLY)
		m->ct_state &= ~TCA_FLOWER_KEY_CT_FLAGS_REPLY;
	if (misreads & SIM_CT) {
		m->ct_state = 0;
		for (i = 0; i < r->n_actions; i++)
			if (r->actions[i].kind != SIM_TRACK && r->actions[i].kind != SIM_UNTRACK)
				r->actions[kept++] = r->actions[i];
		r->n_actions = kept;
	}
	if (misreads & SIM_ZERO_KEYS) {
		if (!(k->sport & m->sport))
			m->sport = 0;
		if (!(k->dport & m->dport))
			m->dport = 0;
		if (r->key.ethertype == htons(ETH_P_IP)) {
			if (!(k->src.s6_addr32[3] & m->src.s6_addr32[3]))
				m->src.s6_addr32[3] = 0;
			if (!(k->dst.s6_addr32[3] & m->dst.s6_addr32[3]))
				m->dst.s6_addr32[3] = 0;
		}
	}
}
