/* SPDX-License-Identifier: GPL-2.0 */
/*
 * simnic: a simulated SmartNIC, for tests of flower offload on machines without one.
 *
 *   ports.c      network devices, the way of packets between them, devlink, counters; the module
 *   filters.c    filters: from the kernel's flow_offload to rules in tables
 *   pipeline.c   packets through the tables
 *   conntrack.c  connections that nf_flow_table hands to hardware
 *   drivers.c    personalities: what real drivers refuse or misread, with the functions they copy
 *
 * Ports come in pairs: a representor on the host's side and the port behind it. What leaves the port behind goes
 * through the representor's filters before the host's stack sees it, and may never get there; what the host sends
 * into a representor comes out of the port behind it unfiltered.
 *
 *   simr0 <-> simv0, simr1 <-> simv1, ...   virtual functions: simvN moves into a pod
 *   simp0 <-> simw0                         the uplink (or, without switchdev, the physical function) and the wire
 *
 * One lock guards everything that packets read. It is taken with bottom halves off.
 */
#ifndef SIMNIC_H
#define SIMNIC_H

#include <linux/list.h>
#include <linux/netdevice.h>
#include <linux/in6.h>
#include <net/flow_offload.h>

struct nf_flowtable;

extern spinlock_t sim_lock;

/* What filters can match, as a flat value: compared byte by byte under a mask of the same shape. IPv4 addresses stand
 * in the last four bytes; the ethertype keeps the families apart. */
struct sim_key {
	struct in6_addr src;
	struct in6_addr dst;
	u8 dmac[ETH_ALEN];
	u8 smac[ETH_ALEN];
	__be16 ethertype;
	__be16 sport;
	__be16 dport;
	__be16 tcp_flags;
	u16 ct_state;	/* TCA_FLOWER_KEY_CT_FLAGS_* */
	u8 protocol;
	u8 ttl;
	u8 icmp_type;
	u8 icmp_code;
};

/* A packet on its way through the tables. */
struct sim_packet {
	struct sim_key key;
	bool ported;	/* the layer-4 header is there: no later fragment, not cut */
	bool fin_or_rst;
	u32 length;
};

/* Ports from..to in host order; to 0: no key. */
struct sim_range {
	u16 from, to;
};

struct sim_zone;
struct sim_port;

struct sim_action {
	enum { SIM_DROP, SIM_PASS, SIM_FORWARD, SIM_GOTO, SIM_TRACK, SIM_UNTRACK } kind;
	u32 chain;		/* SIM_GOTO */
	struct sim_port *port;	/* SIM_FORWARD */
	struct sim_zone *zone;	/* SIM_TRACK */
};

#define SIM_ACTIONS 4

/* One filter. */
struct sim_rule {
	struct hlist_node by_cookie;
	struct list_head in_table;
	struct sim_table *table;
	struct sim_mask *mask_use;
	unsigned long cookie;
	u32 chain;
	u32 prio;
	u64 order;	/* in which filters came */
	struct sim_key key, mask;
	struct sim_range sport, dport;
	int n_actions;
	struct sim_action actions[SIM_ACTIONS];
	u64 packets, bytes, packets_told, bytes_told;
	unsigned long used;
};

/* Filters of one chain and prio on one port. */
struct sim_table {
	struct list_head in_port;	/* by (chain, prio) */
	u32 chain, prio;
	struct list_head rules;
	struct list_head masks;
	u32 n_masks;
};

/* A port pair. */
struct sim_port {
	char name[IFNAMSIZ];
	struct net_device *host, *behind;
	struct list_head tables;
	u64 rules, hw_drop, hw_pass, hw_fwd, to_host, ct_hit, ct_miss;
};

enum sim_verdict { SIM_TO_HOST, SIM_DROPPED, SIM_FORWARDED };

/* What a driver cannot do. In `refuses` it says so; in `misreads` it takes the filter and does something else. */
enum {
	SIM_RANGES = 1 << 0,		/* port ranges */
	SIM_PORT_MASKS = 1 << 1,	/* port masks other than exact */
	SIM_SCTP_PORTS = 1 << 2,	/* ports of SCTP */
	SIM_TCP_FLAGS = 1 << 3,		/* tcp_flags */
	SIM_ZERO_KEYS = 1 << 4,		/* IPv4 addresses, ports of value 0 under their mask */
	SIM_PRIORITY = 1 << 5,		/* the lowest prio decides */
	SIM_CHAINS = 1 << 6,		/* chains above 0, goto */
	SIM_CT = 1 << 7,		/* ct, ct_state */
	SIM_CT_REPLY = 1 << 8,		/* ct_state rpl */
	SIM_REDIRECT = 1 << 9,
	SIM_IPV6 = 1 << 10,
	SIM_ICMP = 1 << 11,		/* ICMP type and code */
	SIM_ARP = 1 << 12,		/* ethertype ARP */
	SIM_MAC = 1 << 13,		/* Ethernet addresses */
	SIM_TTL = 1 << 14,
	SIM_DROPS = 1 << 15,		/* action drop */
	SIM_PASSES = 1 << 16,		/* action pass */
	SIM_ANY_ETHERTYPE = 1 << 17,	/* no ethertype */
	SIM_CT_ODD = 1 << 18,		/* ct_state +new, +rel, +inv */
	SIM_PLAIN_CHAINS = 1 << 19,	/* chains that have nothing to do with ct */
	SIM_TCP_ACK = 1 << 20,		/* the bit ACK and those above it in tcp_flags */
	SIM_BARE_PROTOCOL = 1 << 21,	/* ip_proto without ports */
};

/* A driver as lowering sees it. Limits of 0: none. */
struct sim_driver {
	const char *name;
	u32 refuses, misreads;
	u32 rules, tables, masks;	/* of the device; masks of one table */
	struct {
		u32 what;
		const char *words;	/* in the extended acknowledgement */
	} says[8];
};

extern const struct sim_driver *sim_driver;

/* drivers.c */
const struct sim_driver *sim_driver_find(const char *name);
/* What a filter needs: bits as above. */

int sim_driver_check(const struct sim_rule *rule, struct netlink_ext_ack *extack);
void sim_driver_misread(struct sim_rule *rule);

/* filters.c */
extern struct list_head sim_blocks;
extern u32 sim_limit_rules, sim_limit_tables, sim_limit_masks;
extern u32 sim_rules, sim_tables;
int sim_block(enum tc_setup_type type, void *data, void *port);

/* pipeline.c */
enum sim_verdict sim_run(struct sim_port *port, struct sk_buff *skb, struct sim_port **out, u32 *chain);

/* conntrack.c */
extern bool sim_ct_fail;
struct sim_zone *sim_zone_get(struct nf_flowtable *table, u16 id);
void sim_zone_put(struct sim_zone *zone);
/* The ct_state of a packet that belongs to a connection in hardware; 0: to none. */
u16 sim_zone_find(struct sim_zone *zone, const struct sim_packet *packet);
u32 sim_zone_entries(void);

/* ports.c */
struct sim_port *sim_port_of(const struct net_device *host);

#endif
