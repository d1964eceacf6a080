// SPDX-License-Identifier: GPL-2.0
/*
 * simnic: connections in hardware. act_ct gives a driver its nf_flow_table; the table calls back with a filter for
 * each direction of an established connection (net/netfilter/nf_flow_table_offload.c). As in mlx5's en/tc_ct.c a
 * packet with FIN or RST finds no connection, so that the host's conntrack sees the end.
 * Not here: the action `ct` (flower.c).
 */
#include <linux/slab.h>
#include <linux/tcp.h>
#include <net/ipv6.h>
#include <net/netfilter/nf_flow_table.h>
#include <uapi/linux/pkt_cls.h>
#include "simnic.h"

struct entry {
	struct hlist_node in_zone;
	unsigned long cookie;
	struct sim_key key;	/* family, protocol, addresses, ports */
	bool reply;
	u64 packets, bytes, packets_told, bytes_told;
	unsigned long used;
};

#define BUCKETS 256

struct sim_zone {
	struct list_head in_zones;
	struct nf_flowtable *table;
	u16 id;
	u32 users, entries;
	struct hlist_head buckets[BUCKETS];
};

static LIST_HEAD(zones);
bool sim_ct_fail;

static struct hlist_head *bucket(struct sim_zone *zone, const struct sim_key *key)
{
	u32 sum = (__force u32)key->src.s6_addr32[3] ^ (__force u32)key->dst.s6_addr32[3];

	sum ^= (__force u16)key->sport * 31 + (__force u16)key->dport * 17 + key->protocol;
	return &zone->buckets[(sum ^ sum >> 8 ^ sum >> 16 ^ sum >> 24) % BUCKETS];
}

static bool same(const struct sim_key *a, const struct sim_key *b)
{
	return a->ethertype == b->ethertype && a->protocol == b->protocol && a->sport == b->sport &&
	       a->dport == b->dport && ipv6_addr_equal(&a->src, &b->src) && ipv6_addr_equal(&a->dst, &b->dst);
}

u16 sim_zone_find(struct sim_zone *zone, const struct sim_packet *packet)
{
	struct entry *e;

	if (!packet->ported || packet->fin_or_rst)
		return 0;
	hlist_for_each_entry(e, bucket(zone, &packet->key), in_zone) {
		if (!same(&e->key, &packet->key))
			continue;
		e->packets++;
		e->bytes += packet->length;
		e->used = jiffies;
		return TCA_FLOWER_KEY_CT_FLAGS_TRACKED | TCA_FLOWER_KEY_CT_FLAGS_ESTABLISHED |
		       (e->reply ? TCA_FLOWER_KEY_CT_FLAGS_REPLY : 0);
	}
	return 0;
}

static struct entry *by_cookie(struct sim_zone *zone, unsigned long cookie)
{
	struct entry *e;
	int i;

	for (i = 0; i < BUCKETS; i++)
		hlist_for_each_entry(e, &zone->buckets[i], in_zone)
			if (e->cookie == cookie)
				return e;
	return NULL;
}

static int add(struct sim_zone *zone, struct flow_cls_offload *f)
{
	struct flow_rule *rule = flow_cls_offload_flow_rule(f);
	const struct flow_action_entry *action;
	struct flow_match_ports ports;
	struct flow_match_basic basic;
	struct entry *e, *old;
	int i;

	if (sim_ct_fail)
		return -ENOSPC;
	e = kzalloc(sizeof(*e), GFP_KERNEL);
	if (!e)
		return -ENOMEM;
	e->cookie = f->cookie;
	e->used = jiffies;
	flow_rule_match_basic(rule, &basic);
	e->key.ethertype = basic.key->n_proto;
	e->key.protocol = basic.key->ip_proto;
	if (basic.key->n_proto == htons(ETH_P_IP)) {
		struct flow_match_ipv4_addrs m;

		flow_rule_match_ipv4_addrs(rule, &m);
		e->key.src.s6_addr32[3] = m.key->src;
		e->key.dst.s6_addr32[3] = m.key->dst;
	} else {
		struct flow_match_ipv6_addrs m;

		flow_rule_match_ipv6_addrs(rule, &m);
		e->key.src = m.key->src;
		e->key.dst = m.key->dst;
	}
	flow_rule_match_ports(rule, &ports);
	e->key.sport = ports.key->src;
	e->key.dport = ports.key->dst;
	flow_action_for_each(i, action, &rule->action) {
		/* Address translation (FLOW_ACTION_MANGLE) is for `ct nat`, which is not simulated. A plain `ct` finds
		 * translated connections too, as in mlx5 (en/tc_ct.c, mlx5_tc_ct_entry_add_rules: with and without).
		 */
		if (action->id == FLOW_ACTION_CT_METADATA)
			e->reply = !action->ct_metadata.orig_dir;
	}
	spin_lock_bh(&sim_lock);
	old = by_cookie(zone, f->cookie);
	if (old)
		hlist_del(&old->in_zone);
	else
		zone->entries++;
	hlist_add_head(&e->in_zone, bucket(zone, &e->key));
	spin_unlock_bh(&sim_lock);
	kfree(old);
	return 0;
}

static int called(enum tc_setup_type type, void *data, void *priv)
{
	struct flow_cls_offload *f = data;
	struct sim_zone *zone = priv;
	struct entry *e;
	int err = 0;

	if (type != TC_SETUP_CLSFLOWER)
		return -EOPNOTSUPP;
	if (f->command == FLOW_CLS_REPLACE)
		return add(zone, f);
	spin_lock_bh(&sim_lock);
	e = by_cookie(zone, f->cookie);
	if (!e) {
		err = -ENOENT;
	} else if (f->command == FLOW_CLS_DESTROY) {
		hlist_del(&e->in_zone);
		zone->entries--;
		kfree(e);
	} else if (f->command == FLOW_CLS_STATS) {
		flow_stats_update(&f->stats, e->bytes - e->bytes_told, e->packets - e->packets_told, 0, e->used,
				  FLOW_ACTION_HW_STATS_DELAYED);
		e->bytes_told = e->bytes;
		e->packets_told = e->packets;
	} else {
		err = -EOPNOTSUPP;
	}
	spin_unlock_bh(&sim_lock);
	return err;
}

struct sim_zone *sim_zone_get(struct nf_flowtable *table, u16 id)
{
	struct sim_zone *zone;

	list_for_each_entry(zone, &zones, in_zones)
		if (zone->table == table) {
			zone->users++;
			return zone;
		}
	zone = kzalloc(sizeof(*zone), GFP_KERNEL);
	if (!zone)
		return NULL;
	zone->table = table;
	zone->id = id;
	zone->users = 1;
	if (nf_flow_table_offload_add_cb(table, called, zone)) {
		kfree(zone);
		return NULL;
	}
	list_add(&zone->in_zones, &zones);
	return zone;
}

void sim_zone_put(struct sim_zone *zone)
{
	struct hlist_node *next;
	struct entry *e;
	int i;

	if (--zone->users)
		return;
	nf_flow_table_offload_del_cb(zone->table, called, zone);
	list_del(&zone->in_zones);
	for (i = 0; i < BUCKETS; i++)
		hlist_for_each_entry_safe(e, next, &zone->buckets[i], in_zone)
			kfree(e);
	kfree(zone);
}

u32 sim_zone_entries(void)
{
	struct sim_zone *zone;
	u32 sum = 0;

	list_for_each_entry(zone, &zones, in_zones)
		sum += zone->entries;
	return sum;
}
