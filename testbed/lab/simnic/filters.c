// SPDX-License-Identifier: GPL-2.0
/*
 * simnic: filters, from flow_offload to rules in tables (one table for each chain and prio of a port).
 * Everything here runs under the RTNL, which the kernel holds for drivers that do not say that they need it not
 * (unlocked_driver_cb); packets see changes under the lock.
 * Not here: packets (pipeline.c), what drivers cannot do (drivers.c).
 */
#include <linux/etherdevice.h>
#include <linux/hashtable.h>
#include <linux/slab.h>
#include <net/netfilter/nf_flow_table.h>
#include <net/pkt_cls.h>
#include <uapi/linux/tc_act/tc_ct.h>
#include "simnic.h"

/* A set of keys and bits that rules of one table share. */
struct sim_mask {
	struct list_head in_table;
	struct sim_key mask;
	u8 ranges;
	u32 users;
};

LIST_HEAD(sim_blocks);
u32 sim_limit_rules, sim_limit_tables, sim_limit_masks;
u32 sim_rules, sim_tables;

static DEFINE_HASHTABLE(rules, 14);
static u64 next_order;

static void read_matches(struct sim_rule *r, struct flow_cls_offload *f)
{
	struct flow_rule *rule = flow_cls_offload_flow_rule(f);
	struct sim_key *k = &r->key, *m = &r->mask;
	u16 family = 0;

	k->ethertype = f->common.protocol;
	m->ethertype = k->ethertype == htons(ETH_P_ALL) ? 0 : htons(0xffff);
#define MATCH(KEY, name) \
	struct flow_match_##name name = {}; \
	if (flow_rule_match_key(rule, FLOW_DISSECTOR_KEY_##KEY)) \
		flow_rule_match_##name(rule, &name); \
	if (name.key)
	{
		MATCH(BASIC, basic) {
			k->protocol = basic.key->ip_proto;
			m->protocol = basic.mask->ip_proto;
		}
		MATCH(ETH_ADDRS, eth_addrs) {
			ether_addr_copy(k->dmac, eth_addrs.key->dst);
			ether_addr_copy(m->dmac, eth_addrs.mask->dst);
			ether_addr_copy(k->smac, eth_addrs.key->src);
			ether_addr_copy(m->smac, eth_addrs.mask->src);
		}
		/* Both families' addresses are one union, so that both keys count as used. */
		MATCH(CONTROL, control)
			family = control.key->addr_type;
		MATCH(IPV4_ADDRS, ipv4_addrs)
		if (family == FLOW_DISSECTOR_KEY_IPV4_ADDRS) {
			k->src.s6_addr32[3] = ipv4_addrs.key->src;
			m->src.s6_addr32[3] = ipv4_addrs.mask->src;
			k->dst.s6_addr32[3] = ipv4_addrs.key->dst;
			m->dst.s6_addr32[3] = ipv4_addrs.mask->dst;
		}
		MATCH(IPV6_ADDRS, ipv6_addrs)
		if (family == FLOW_DISSECTOR_KEY_IPV6_ADDRS) {
			k->src = ipv6_addrs.key->src;
			m->src = ipv6_addrs.mask->src;
			k->dst = ipv6_addrs.key->dst;
			m->dst = ipv6_addrs.mask->dst;
		}
		MATCH(IP, ip) {
			k->ttl = ip.key->ttl;
			m->ttl = ip.mask->ttl;
		}
		MATCH(PORTS, ports) {
			k->sport = ports.key->src;
			m->sport = ports.mask->src;
			k->dport = ports.key->dst;
			m->dport = ports.mask->dst;
		}
		MATCH(PORTS_RANGE, ports_range) {
			r->sport = (struct sim_range){ ntohs(ports_range.key->tp_min.src),
						       ntohs(ports_range.key->tp_max.src) };
			r->dport = (struct sim_range){ ntohs(ports_range.key->tp_min.dst),
						       ntohs(ports_range.key->tp_max.dst) };
		}
		MATCH(TCP, tcp) {
			k->tcp_flags = tcp.key->flags;
			m->tcp_flags = tcp.mask->flags;
		}
		MATCH(ICMP, icmp) {
			k->icmp_type = icmp.key->type;
			m->icmp_type = icmp.mask->type;
			k->icmp_code = icmp.key->code;
			m->icmp_code = icmp.mask->code;
		}
		MATCH(CT, ct) {
			k->ct_state = ct.key->ct_state;
			m->ct_state = ct.mask->ct_state;
		}
	}
#undef MATCH
}

static int read_actions(struct sim_rule *r, struct flow_cls_offload *f, struct netlink_ext_ack *extack)
{
	struct flow_rule *rule = flow_cls_offload_flow_rule(f);
	const struct flow_action_entry *a;
	struct sim_action *to;
	int i;

	flow_action_for_each(i, a, &rule->action) {
		if (r->n_actions == SIM_ACTIONS) {
			NL_SET_ERR_MSG_MOD(extack, "too many actions");
			return -EOPNOTSUPP;
		}
		to = &r->actions[r->n_actions++];
		switch (a->id) {
		case FLOW_ACTION_DROP:
			to->kind = SIM_DROP;
			break;
		case FLOW_ACTION_ACCEPT:
			to->kind = SIM_PASS;
			break;
		case FLOW_ACTION_GOTO:
			to->kind = SIM_GOTO;
			to->chain = a->chain_index;
			break;
		case FLOW_ACTION_REDIRECT:
			to->kind = SIM_FORWARD;
			to->port = sim_port_of(a->dev);
			if (!to->port) {
				/* mlx5 en/tc/act/mirred.c, tc_act_can_offload_mirred */
				NL_SET_ERR_MSG_MOD(extack, "devices are not on same switch HW, can't offload forwarding");
				return -EOPNOTSUPP;
			}
			break;
		case FLOW_ACTION_CT:
			to->kind = a->ct.action & TCA_CT_ACT_CLEAR ? SIM_UNTRACK : SIM_TRACK;
			if (a->ct.action & (TCA_CT_ACT_COMMIT | TCA_CT_ACT_NAT)) {
				NL_SET_ERR_MSG_MOD(extack, "only ct without commit and nat is simulated");
				return -EOPNOTSUPP;
			}
			break;
		default:
			NL_SET_ERR_MSG_MOD(extack, "Unsupported action");
			return -EOPNOTSUPP;
		}
	}
	return 0;
}

static int take_zones(struct sim_rule *r, struct flow_cls_offload *f)
{
	struct flow_rule *rule = flow_cls_offload_flow_rule(f);
	const struct flow_action_entry *a;
	int i;

	flow_action_for_each(i, a, &rule->action) {
		/* A driver that misread the action away has none to take. */
		if (i >= r->n_actions || r->actions[i].kind != SIM_TRACK || a->id != FLOW_ACTION_CT)
			continue;
		r->actions[i].zone = sim_zone_get(a->ct.flow_table, a->ct.zone);
		if (!r->actions[i].zone)
			return -ENOMEM;
	}
	return 0;
}

static void rule_free(struct sim_rule *r)
{
	int i;

	for (i = 0; i < r->n_actions; i++)
		if (r->actions[i].zone)
			sim_zone_put(r->actions[i].zone);
	kfree(r);
}

/* ---- tables ---- */

static struct sim_table *table_get(struct sim_port *port, struct sim_rule *r)
{
	struct list_head *before = &port->tables;
	struct sim_table *t;

	list_for_each_entry(t, &port->tables, in_port) {
		if (t->chain == r->chain && t->prio == r->prio)
			return t;
		if (t->chain > r->chain || (t->chain == r->chain && t->prio > r->prio)) {
			before = &t->in_port;
			break;
		}
	}
	if (sim_limit_tables && sim_tables >= sim_limit_tables)
		return ERR_PTR(-ENOSPC);
	t = kzalloc(sizeof(*t), GFP_KERNEL);
	if (!t)
		return ERR_PTR(-ENOMEM);
	t->chain = r->chain;
	t->prio = r->prio;
	INIT_LIST_HEAD(&t->rules);
	INIT_LIST_HEAD(&t->masks);
	spin_lock_bh(&sim_lock);
	list_add_tail(&t->in_port, before);
	spin_unlock_bh(&sim_lock);
	sim_tables++;
	return t;
}

static void table_put(struct sim_table *t)
{
	if (!list_empty(&t->rules) || !list_empty(&t->masks))
		return;
	spin_lock_bh(&sim_lock);
	list_del(&t->in_port);
	spin_unlock_bh(&sim_lock);
	kfree(t);
	sim_tables--;
}

static struct sim_mask *mask_get(struct sim_table *t, struct sim_rule *r)
{
	u8 ranges = (r->sport.to ? 1 : 0) | (r->dport.to ? 2 : 0);
	struct sim_mask *m;

	list_for_each_entry(m, &t->masks, in_table)
		if (m->ranges == ranges && !memcmp(&m->mask, &r->mask, sizeof(m->mask))) {
			m->users++;
			return m;
		}
	if (sim_limit_masks && t->n_masks >= sim_limit_masks)
		return ERR_PTR(-ENOSPC);
	m = kzalloc(sizeof(*m), GFP_KERNEL);
	if (!m)
		return ERR_PTR(-ENOMEM);
	m->mask = r->mask;
	m->ranges = ranges;
	m->users = 1;
	list_add_tail(&m->in_table, &t->masks);
	t->n_masks++;
	return m;
}

static void mask_put(struct sim_table *t, struct sim_mask *m)
{
	if (--m->users)
		return;
	list_del(&m->in_table);
	t->n_masks--;
	kfree(m);
}

static struct sim_rule *find(unsigned long cookie)
{
	struct sim_rule *r;

	hash_for_each_possible(rules, r, by_cookie, cookie)
		if (r->cookie == cookie)
			return r;
	return NULL;
}

static void unlink_rule(struct sim_port *port, struct sim_rule *r)
{
	struct sim_table *t = r->table;

	spin_lock_bh(&sim_lock);
	list_del(&r->in_table);
	port->rules--;
	spin_unlock_bh(&sim_lock);
	hash_del(&r->by_cookie);
	sim_rules--;
	mask_put(t, r->mask_use);
	table_put(t);
	rule_free(r);
}

static int add(struct sim_port *port, struct flow_cls_offload *f)
{
	struct netlink_ext_ack *extack = f->common.extack;
	struct sim_rule *r, *old = find(f->cookie);
	int err = -ENOSPC;

	r = kzalloc(sizeof(*r), GFP_KERNEL);
	if (!r)
		return -ENOMEM;
	r->cookie = f->cookie;
	r->chain = f->common.chain_index;
	r->prio = f->common.prio;
	r->order = next_order++;
	read_matches(r, f);
	err = read_actions(r, f, extack);
	if (!err)
		err = sim_driver_check(r, extack);
	if (err)
		goto free;
	sim_driver_misread(r);
	err = take_zones(r, f);
	if (err)
		goto free;
	err = -ENOSPC;
	if (sim_limit_rules && sim_rules >= sim_limit_rules)
		goto full;
	r->table = table_get(port, r);
	if (IS_ERR(r->table)) {
		err = PTR_ERR(r->table);
		goto full;
	}
	r->mask_use = mask_get(r->table, r);
	if (IS_ERR(r->mask_use)) {
		err = PTR_ERR(r->mask_use);
		table_put(r->table);
		goto full;
	}
	spin_lock_bh(&sim_lock);
	list_add_tail(&r->in_table, &r->table->rules);
	port->rules++;
	spin_unlock_bh(&sim_lock);
	hash_add(rules, &r->by_cookie, r->cookie);
	sim_rules++;
	if (old)
		unlink_rule(port, old);
	return 0;
full:
	NL_SET_ERR_MSG_MOD(extack, "no place in the flow tables");
free:
	rule_free(r);
	return err;
}

int sim_block(enum tc_setup_type type, void *data, void *priv)
{
	struct flow_cls_offload *f = data;
	struct sim_port *port = priv;
	struct sim_rule *r;

	if (type != TC_SETUP_CLSFLOWER || !tc_can_offload_extack(port->host, f->common.extack))
		return -EOPNOTSUPP;
	if (f->command == FLOW_CLS_REPLACE)
		return add(port, f);
	r = find(f->cookie);
	if (!r)
		return -ENOENT;
	switch (f->command) {
	case FLOW_CLS_DESTROY:
		unlink_rule(port, r);
		return 0;
	case FLOW_CLS_STATS:
		spin_lock_bh(&sim_lock);
		flow_stats_update(&f->stats, r->bytes - r->bytes_told, r->packets - r->packets_told, 0, r->used,
				  FLOW_ACTION_HW_STATS_IMMEDIATE);
		r->bytes_told = r->bytes;
		r->packets_told = r->packets;
		spin_unlock_bh(&sim_lock);
		return 0;
	default:
		return -EOPNOTSUPP;
	}
}
