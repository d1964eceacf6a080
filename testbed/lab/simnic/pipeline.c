// SPDX-License-Identifier: GPL-2.0
/*
 * simnic: the way of a packet through a port's tables. A packet that no rule matches goes to the host; from a chain
 * above 0, or where `ct` knows no connection, with a note of the chain that software has to go on with (tc_skb_ext),
 * as mlx5 does (en/rep/tc.c, mlx5e_restore_skb_chain).
 * Not here: how rules get into tables (filters.c), connections (conntrack.c).
 */
#include <linux/etherdevice.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <net/ip.h>
#include "simnic.h"

static bool parse(struct sk_buff *skb, struct sim_packet *p)
{
	int offset = skb_network_offset(skb);
	struct sim_key *k = &p->key;
	bool later = false;

	memset(p, 0, sizeof(*p));
	p->length = skb->len;
	ether_addr_copy(k->dmac, eth_hdr(skb)->h_dest);
	ether_addr_copy(k->smac, eth_hdr(skb)->h_source);
	k->ethertype = eth_hdr(skb)->h_proto;
	if (k->ethertype == htons(ETH_P_IP)) {
		struct iphdr _h, *h = skb_header_pointer(skb, offset, sizeof(_h), &_h);

		if (!h || h->ihl < 5 || h->version != 4)
			return false;
		k->src.s6_addr32[3] = h->saddr;
		k->dst.s6_addr32[3] = h->daddr;
		k->protocol = h->protocol;
		k->ttl = h->ttl;
		later = h->frag_off & htons(IP_OFFSET);
		offset += h->ihl * 4;
	} else if (k->ethertype == htons(ETH_P_IPV6)) {
		struct ipv6hdr _h, *h = skb_header_pointer(skb, offset, sizeof(_h), &_h);

		if (!h || h->version != 6)
			return false;
		k->src = h->saddr;
		k->dst = h->daddr;
		/* Behind extension headers, the fragment header too, everything is left to software. */
		k->protocol = h->nexthdr;
		k->ttl = h->hop_limit;
		offset += sizeof(*h);
	} else {
		return true;
	}
	if (later)
		return true;
	if (k->protocol == IPPROTO_TCP) {
		struct tcphdr _t, *t = skb_header_pointer(skb, offset, sizeof(_t), &_t);

		if (!t)
			return true;
		k->tcp_flags = ((__be16 *)t)[6] & htons(0xfff);
		p->fin_or_rst = t->fin || t->rst;
	}
	if (k->protocol == IPPROTO_TCP || k->protocol == IPPROTO_UDP || k->protocol == IPPROTO_SCTP) {
		__be16 _ports[2], *ports = skb_header_pointer(skb, offset, sizeof(_ports), _ports);

		if (!ports)
			return true;
		k->sport = ports[0];
		k->dport = ports[1];
		p->ported = true;
	} else if (k->protocol == IPPROTO_ICMP || k->protocol == IPPROTO_ICMPV6) {
		u8 _type[2], *type = skb_header_pointer(skb, offset, sizeof(_type), _type);

		if (!type)
			return true;
		k->icmp_type = type[0];
		k->icmp_code = type[1];
		p->ported = true;
	}
	return true;
}

static bool port_in(struct sim_range range, __be16 port)
{
	return !range.to || (ntohs(port) >= range.from && ntohs(port) <= range.to);
}

static bool behind_layer_3(const struct sim_rule *r)
{
	const struct sim_key *m = &r->mask;

	return m->sport || m->dport || m->tcp_flags || m->icmp_type || m->icmp_code || r->sport.to || r->dport.to;
}

static bool matches(const struct sim_rule *r, const struct sim_packet *p)
{
	const u8 *mask = (const u8 *)&r->mask, *want = (const u8 *)&r->key, *have = (const u8 *)&p->key;
	size_t i;

	for (i = 0; i < sizeof(struct sim_key); i++)
		if ((want[i] ^ have[i]) & mask[i])
			return false;
	if (!p->ported && behind_layer_3(r))
		return false;
	return port_in(r->sport, p->key.sport) && port_in(r->dport, p->key.dport);
}

/* How little of a packet reaches the host. */
static int severity(const struct sim_rule *r)
{
	int i;

	for (i = 0; i < r->n_actions; i++) {
		if (r->actions[i].kind == SIM_DROP)
			return 3;
		if (r->actions[i].kind == SIM_FORWARD)
			return 2;
		if (r->actions[i].kind == SIM_GOTO || r->actions[i].kind == SIM_TRACK)
			return 1;
	}
	return 0;
}

/* The rule of a chain that decides. Where the driver honours no priority any that matches may: the one that lets the
 * host see least, and of those the last that came. */
static struct sim_rule *decide(struct sim_port *port, u32 chain, const struct sim_packet *p)
{
	bool any = sim_driver->misreads & SIM_PRIORITY;
	struct sim_rule *r, *best = NULL;
	struct sim_table *t;

	list_for_each_entry(t, &port->tables, in_port) {
		if (t->chain != chain)
			continue;
		list_for_each_entry(r, &t->rules, in_table) {
			if (!matches(r, p))
				continue;
			if (!any)
				return r;
			if (!best || severity(r) > severity(best) ||
			    (severity(r) == severity(best) && r->order > best->order))
				best = r;
		}
	}
	return best;
}

/* Runs a packet through a port's tables; under the lock. */
enum sim_verdict sim_run(struct sim_port *port, struct sk_buff *skb, struct sim_port **out, u32 *chain)
{
	struct sim_packet packet;
	struct sim_rule *r;
	int hops, i;

	*chain = 0;
	if (!parse(skb, &packet))
		return SIM_TO_HOST;
	for (hops = 0; hops < 32; hops++) {
		u32 here = *chain;

		r = decide(port, here, &packet);
		if (!r)
			return SIM_TO_HOST;
		r->packets++;
		r->bytes += packet.length;
		r->used = jiffies;
		for (i = 0; i < r->n_actions; i++) {
			struct sim_action *a = &r->actions[i];

			switch (a->kind) {
			case SIM_DROP:
				port->hw_drop++;
				return SIM_DROPPED;
			case SIM_PASS:
				port->hw_pass++;
				*chain = 0;
				return SIM_TO_HOST;
			case SIM_FORWARD:
				port->hw_fwd++;
				*out = a->port;
				return SIM_FORWARDED;
			case SIM_GOTO:
				*chain = a->chain;
				break;
			case SIM_UNTRACK:
				packet.key.ct_state = 0;
				break;
			case SIM_TRACK:
				packet.key.ct_state = sim_zone_find(a->zone, &packet);
				if (!packet.key.ct_state) {
					port->ct_miss++;
					return SIM_TO_HOST;
				}
				port->ct_hit++;
				break;
			}
		}
		if (*chain == here)
			return SIM_TO_HOST;
	}
	return SIM_TO_HOST;
}
