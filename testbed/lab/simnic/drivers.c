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
	{ .name = "simnic", .refuses = SIM_RANGES },
	/*
	 * mellanox/mlx5/core/en_tc.c, __parse_cls_flower: no key PORTS_RANGE; ports of TCP and UDP only.
	 * en/tc_ct.c, mlx5_tc_ct_match_add: no +rel, +inv, +new; rpl is honoured.
	 * lib/fs_chains.c, mlx5_chains_create_table: a flow table for each chain and prio, of all ports together.
	 * eswitch.h, ESW_OFFLOADS_DEFAULT_NUM_GROUPS: 15 large groups of a table, each for one mask.
	 */
	{
		.name = "mlx5_core",
		.refuses = SIM_RANGES | SIM_SCTP_PORTS | SIM_CT_ODD,
		.tables = 250,
		.masks = 15,
		.says = {
			{ SIM_RANGES, "mlx5_core: Unsupported key" },
			{ SIM_SCTP_PORTS, "mlx5_core: Only UDP and TCP transports are supported for L4 matching" },
			{ SIM_CT_ODD, "mlx5_core: matching on ct_state +new isn't supported" },
		},
	},
	/*
	 * intel/ice/ice_tc_lib.c, ice_parse_cls_flower: no keys PORTS_RANGE, TCP, CT, ICMP; ports of TCP and UDP only.
	 * ice_tc_set_ipv4, ice_tc_set_port: `if (match->key->dst)`: a key of value 0 is no key.
	 * ice_tc_fill_rules: ip_proto chooses the type of the port lookup; without ports it is no key.
	 * ice_eswitch_tc_parse_action: drop and redirect only.
	 * ice_eswitch_add_tc_fltr: `rule_info.priority = 7` for every filter.
	 * ice_main.c, ice_setup_tc_cls_flower: no chains.
	 */
	{
		.name = "ice",
		.refuses = SIM_RANGES | SIM_TCP_FLAGS | SIM_CT | SIM_CT_REPLY | SIM_ICMP | SIM_SCTP_PORTS | SIM_CHAINS |
			   SIM_PASSES,
		.misreads = SIM_ZERO_KEYS | SIM_PRIORITY | SIM_BARE_PROTOCOL,
		.rules = 4096,
		.masks = 15,
		.says = {
			{ SIM_RANGES | SIM_TCP_FLAGS | SIM_CT | SIM_CT_REPLY | SIM_ICMP, "ice: Unsupported key used" },
			{ SIM_SCTP_PORTS, "ice: Only UDP and TCP transport are supported" },
			{ SIM_PASSES | SIM_CHAINS, "ice: Unsupported action in switchdev mode" },
		},
	},
	/*
	 * intel/i40e/i40e_main.c, i40e_configure_clsflower: a filter leads to a traffic class or it is refused.
	 */
	{
		.name = "i40e",
		.refuses = SIM_DROPS | SIM_PASSES | SIM_REDIRECT | SIM_CHAINS | SIM_CT,
	},
	/*
	 * netronome/nfp/flower/offload.c, nfp_flower_calculate_key_layers: no keys PORTS_RANGE, ICMP; no ARP; an
	 * ethertype is wanted by everything above layer 2; tcp_flags are checked by their value alone.
	 * match.c, nfp_flower_compile_ip_ext: of tcp_flags FIN, SYN, RST, PSH, URG are handed on; ACK is lost.
	 * nfp_flower_add_offload: the prio is never read. offload_pre_check: no chains but behind ct.
	 * conntrack.c, is_post_ct_flow: +est is looked at; nothing reads rpl (nfp_ct_check_meta).
	 * action.c, nfp_flower_loop_action: no action pass.
	 */
	{
		.name = "nfp",
		.refuses = SIM_RANGES | SIM_ICMP | SIM_ARP | SIM_PASSES | SIM_PLAIN_CHAINS,
		.misreads = SIM_PRIORITY | SIM_CT_REPLY | SIM_TCP_ACK,
		.rules = 4096,
		.masks = 255,
		.says = {
			{ SIM_RANGES | SIM_ICMP, "nfp: unsupported offload: match not supported" },
			{ SIM_ARP, "nfp: unsupported offload: ARP not supported" },
			{ SIM_PASSES, "nfp: unsupported offload: unsupported action in action list" },
		},
	},
	/*
	 * broadcom/bnxt/bnxt_tc.c, bnxt_tc_parse_flow: keys that it does not know (TCP, PORTS_RANGE, CT) are passed over.
	 * bnxt_tc_parse_actions: so are actions (`default: break`).
	 * bnxt_tc_can_offload: ports of TCP and UDP only; an ethertype is wanted. bnxt_vfr.c,
	 * bnxt_vf_rep_setup_tc_block_cb: no chains. The prio is never read.
	 */
	{
		.name = "bnxt_en",
		.refuses = SIM_SCTP_PORTS | SIM_CHAINS | SIM_ANY_ETHERTYPE,
		.misreads = SIM_TCP_FLAGS | SIM_RANGES | SIM_CT | SIM_CT_REPLY | SIM_PRIORITY,
		.rules = 4096,
		.says = {
			{ SIM_CHAINS, "Driver supports only offload of chain 0" },
		},
	},
	/*
	 * sfc/tc.c of Linux 6.5 and later, efx_tc_flower_parse_match: no keys PORTS_RANGE, ICMP; ports and flags of TCP
	 * and UDP only; ct_state trk and est only. mae.c, efx_mae_match_check_cap_typ: masks that the firmware takes.
	 * efx_tc_flower_replace: every filter has EFX_TC_PRIO_TC; no action pass (Unhandled action).
	 */
	{
		.name = "sfc",
		.refuses = SIM_RANGES | SIM_PORT_MASKS | SIM_ICMP | SIM_SCTP_PORTS | SIM_CT_REPLY | SIM_CT_ODD | SIM_PASSES,
		.misreads = SIM_PRIORITY,
		.rules = 4096,
		.says = {
			{ SIM_RANGES | SIM_ICMP, "sfc: Unsupported flower keys" },
			{ SIM_PORT_MASKS, "sfc: No support for field L4_DPORT" },
			{ SIM_SCTP_PORTS, "sfc: L4 flower keys require ipproto udp or tcp" },
			{ SIM_CT_REPLY | SIM_CT_ODD, "sfc: Unsupported ct_state match" },
			{ SIM_PASSES, "sfc: Unsupported action" },
		},
	},
	/*
	 * marvell/octeontx2/nic/otx2_tc.c, otx2_tc_prepare_flow: no keys PORTS_RANGE, CT, ICMP; no ttl. Kernels after
	 * 6.12 have TCP flags, as this personality; 6.1 has not. otx2_tc_parse_actions: drop and pass; no redirect to
	 * another port (REDIRECT_INGRESS only). otx2_setup_tc_block_ingress_cb: no chains.
	 * otx2_tc_add_to_flow_list: entries in order of prio. otx2_common.h, OTX2_DEFAULT_FLOWCOUNT: 16 entries.
	 */
	{
		.name = "rvu_nicpf",
		.refuses = SIM_RANGES | SIM_CT | SIM_CT_REPLY | SIM_ICMP | SIM_CHAINS | SIM_REDIRECT | SIM_TTL,
		.rules = 16,
		.says = {
			{ SIM_CHAINS, "Driver supports only offload of chain 0" },
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
	bool tracks = false, jumps = false;
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
	if (m->ct_state & r->key.ct_state &
	    (TCA_FLOWER_KEY_CT_FLAGS_RELATED | TCA_FLOWER_KEY_CT_FLAGS_INVALID | TCA_FLOWER_KEY_CT_FLAGS_NEW))
		bits |= SIM_CT_ODD;
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
			jumps = true;
			break;
		case SIM_TRACK:
			tracks = true;
			fallthrough;
		case SIM_UNTRACK:
			bits |= SIM_CT;
			break;
		}
	if ((jumps && !tracks) || (r->chain && !(m->ct_state & r->key.ct_state & TCA_FLOWER_KEY_CT_FLAGS_ESTABLISHED)))
		bits |= SIM_PLAIN_CHAINS;
	return bits;
}

int sim_driver_check(const struct sim_rule *rule, struct netlink_ext_ack *extack)
{
	u32 refused = needs(rule) & sim_driver->refuses;
	int i;

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
	if (misreads & SIM_TCP_ACK)
		m->tcp_flags &= htons(0x2f);
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
	if (misreads & SIM_BARE_PROTOCOL && !m->sport && !m->dport)
		m->protocol = 0;
}
