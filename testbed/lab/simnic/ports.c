// SPDX-License-Identifier: GPL-2.0
/*
 * simnic: port pairs and the way of packets between them, what ethtool, sysfs and devlink say of them, counters, and
 * the module itself.
 * Not here: filters (filters.c, pipeline.c).
 */
#include <linux/debugfs.h>
#include <linux/etherdevice.h>
#include <linux/ethtool.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/rtnetlink.h>
#include <linux/seq_file.h>
#include <net/devlink.h>
#include <net/pkt_cls.h>
#include "simnic.h"

static char *driver = "simnic";
module_param(driver, charp, 0444);
MODULE_PARM_DESC(driver, "whose faults to have: see drivers.c");
static char *eswitch = "switchdev";
module_param(eswitch, charp, 0444);
MODULE_PARM_DESC(eswitch, "switchdev or legacy");
static uint pairs = 2;
module_param(pairs, uint, 0444);
MODULE_PARM_DESC(pairs, "virtual functions with representors, besides the uplink");
static int rules = -1, tables = -1, masks = -1;
module_param(rules, int, 0444);
MODULE_PARM_DESC(rules, "filters in total; 0: no limit; by default the driver's");
module_param(tables, int, 0444);
MODULE_PARM_DESC(tables, "chains times prios of all ports");
module_param(masks, int, 0444);
MODULE_PARM_DESC(masks, "masks of one table");
module_param_named(ct_fail, sim_ct_fail, bool, 0644);
MODULE_PARM_DESC(ct_fail, "refuse connections, as if their table were full");

#define MAX_PAIRS 64

DEFINE_SPINLOCK(sim_lock);
const struct sim_driver *sim_driver;

struct end {
	struct sim_port *port;
	bool host;
};

static struct sim_port *ports[MAX_PAIRS + 1];	/* the uplink first */
static struct platform_device *device;
static struct devlink *devlink;
static struct dentry *folder;
static bool switchdev;

/* ---- packets ---- */

static void deliver(struct sk_buff *skb, struct net_device *to, u32 chain)
{
	unsigned int length = skb->len;
	struct tc_skb_ext *ext;

	if (__dev_forward_skb(to, skb))
		return;
	if (chain) {
		ext = tc_skb_ext_alloc(skb);
		if (!ext) {
			kfree_skb(skb);
			return;
		}
		ext->chain = chain;
	}
	dev_sw_netstats_rx_add(to, length);
	netif_rx(skb);
}

static netdev_tx_t xmit(struct sk_buff *skb, struct net_device *dev)
{
	struct end *end = netdev_priv(dev);
	struct sim_port *port = end->port, *out = NULL;
	enum sim_verdict verdict;
	u32 chain = 0;

	dev_sw_netstats_tx_add(dev, 1, skb->len);
	if (end->host) {
		deliver(skb, port->behind, 0);
		return NETDEV_TX_OK;
	}
	skb_reset_mac_header(skb);
	skb_set_network_header(skb, ETH_HLEN);
	spin_lock_bh(&sim_lock);
	verdict = sim_run(port, skb, &out, &chain);
	if (verdict == SIM_TO_HOST)
		port->to_host++;
	spin_unlock_bh(&sim_lock);
	if (verdict == SIM_DROPPED)
		kfree_skb(skb);
	else
		deliver(skb, verdict == SIM_FORWARDED ? out->behind : port->host, chain);
	return NETDEV_TX_OK;
}

/* ---- network devices ---- */

static int end_init(struct net_device *dev)
{
	dev->tstats = netdev_alloc_pcpu_stats(struct pcpu_sw_netstats);
	return dev->tstats ? 0 : -ENOMEM;
}

static void end_uninit(struct net_device *dev)
{
	free_percpu(dev->tstats);
}

static int end_open(struct net_device *dev)
{
	netif_carrier_on(dev);
	return 0;
}

static int end_stop(struct net_device *dev)
{
	return 0;
}

static int setup_tc(struct net_device *dev, enum tc_setup_type type, void *data)
{
	struct end *end = netdev_priv(dev);

	if (type != TC_SETUP_BLOCK)
		return -EOPNOTSUPP;
	/* Ingress only, like every driver. */
	return flow_block_cb_setup_simple(data, &sim_blocks, sim_block, end->port, end->port, true);
}

static int set_features(struct net_device *dev, netdev_features_t features)
{
	struct end *end = netdev_priv(dev);

	/* mlx5 en_main.c, set_feature_hw_tc */
	if (!(features & NETIF_F_HW_TC) && end->port->rules) {
		netdev_err(dev, "Active offloaded tc filters, can't turn hw_tc_offload off\n");
		return -EINVAL;
	}
	return 0;
}

static int phys_port_name(struct net_device *dev, char *name, size_t length)
{
	struct end *end = netdev_priv(dev);
	int n;

	/* net/core/devlink, __devlink_port_phys_port_name_get */
	if (end->port == ports[0])
		n = snprintf(name, length, "p0");
	else
		n = snprintf(name, length, "pf0vf%s", end->port->name + strlen("simr"));
	return n >= length ? -EINVAL : 0;
}

static int port_parent_id(struct net_device *dev, struct netdev_phys_item_id *id)
{
	static const u8 nic[] = { 0x02, 0x73, 0x69, 0x6d, 0x6e, 0x69, 0x63, 0x00 };

	if (!switchdev)
		return -EOPNOTSUPP;
	id->id_len = sizeof(nic);
	memcpy(id->id, nic, sizeof(nic));
	return 0;
}

static const struct net_device_ops host_ops = {
	.ndo_init = end_init,
	.ndo_uninit = end_uninit,
	.ndo_open = end_open,
	.ndo_stop = end_stop,
	.ndo_start_xmit = xmit,
	.ndo_get_stats64 = dev_get_tstats64,
	.ndo_set_mac_address = eth_mac_addr,
	.ndo_setup_tc = setup_tc,
	.ndo_set_features = set_features,
	.ndo_get_phys_port_name = phys_port_name,
	.ndo_get_port_parent_id = port_parent_id,
};

static const struct net_device_ops behind_ops = {
	.ndo_init = end_init,
	.ndo_uninit = end_uninit,
	.ndo_open = end_open,
	.ndo_stop = end_stop,
	.ndo_start_xmit = xmit,
	.ndo_get_stats64 = dev_get_tstats64,
	.ndo_set_mac_address = eth_mac_addr,
};

static void drvinfo(struct net_device *dev, struct ethtool_drvinfo *info)
{
	strscpy(info->driver, sim_driver->name, sizeof(info->driver));
	strscpy(info->version, "simulated", sizeof(info->version));
	strscpy(info->bus_info, dev_name(&device->dev), sizeof(info->bus_info));
}

static const struct ethtool_ops host_ethtool = {
	.get_drvinfo = drvinfo,
	.get_link = ethtool_op_get_link,
};

struct sim_port *sim_port_of(const struct net_device *host)
{
	return host->netdev_ops == &host_ops ? ((struct end *)netdev_priv(host))->port : NULL;
}

static struct net_device *make_end(const char *name, struct sim_port *port, bool host)
{
	struct net_device *dev = alloc_netdev(sizeof(struct end), name, NET_NAME_USER, ether_setup);
	struct end *end;

	if (!dev)
		return NULL;
	end = netdev_priv(dev);
	end->port = port;
	end->host = host;
	dev->netdev_ops = host ? &host_ops : &behind_ops;
	dev->priv_flags |= IFF_NO_QUEUE;
	dev->priv_flags &= ~IFF_TX_SKB_SHARING;
	dev->features |= NETIF_F_LLTX;
	dev->needs_free_netdev = true;
	if (host) {
		dev->ethtool_ops = &host_ethtool;
		dev->features |= NETIF_F_HW_TC;
		dev->hw_features |= NETIF_F_HW_TC;
		SET_NETDEV_DEV(dev, &device->dev);
	}
	eth_hw_addr_random(dev);
	if (register_netdev(dev)) {
		free_netdev(dev);
		return NULL;
	}
	return dev;
}

static int make_port(int i)
{
	struct sim_port *port = kzalloc(sizeof(*port), GFP_KERNEL);
	char behind[IFNAMSIZ];

	if (!port)
		return -ENOMEM;
	INIT_LIST_HEAD(&port->tables);
	if (i == 0) {
		strscpy(port->name, "simp0", sizeof(port->name));
		strscpy(behind, "simw0", sizeof(behind));
	} else {
		snprintf(port->name, sizeof(port->name), "simr%d", i - 1);
		snprintf(behind, sizeof(behind), "simv%d", i - 1);
	}
	ports[i] = port;
	port->host = make_end(port->name, port, true);
	port->behind = make_end(behind, port, false);
	return port->host && port->behind ? 0 : -ENOMEM;
}

/* ---- devlink and counters ---- */

static int eswitch_mode(struct devlink *devlink, u16 *mode)
{
	*mode = switchdev ? DEVLINK_ESWITCH_MODE_SWITCHDEV : DEVLINK_ESWITCH_MODE_LEGACY;
	return 0;
}

static const struct devlink_ops devlink_calls = {
	.eswitch_mode_get = eswitch_mode,
};

static int counters_show(struct seq_file *s, void *v)
{
	int i;

	rtnl_lock();
	spin_lock_bh(&sim_lock);
	seq_printf(s, "nic.rules %u\nnic.tables %u\nnic.connections %u\n", sim_rules, sim_tables, sim_zone_entries());
	for (i = 0; i <= pairs; i++) {
		struct sim_port *p = ports[i];

		seq_printf(s, "%s.rules %llu\n%s.hw_drop %llu\n%s.hw_pass %llu\n%s.hw_fwd %llu\n", p->name, p->rules,
			   p->name, p->hw_drop, p->name, p->hw_pass, p->name, p->hw_fwd);
		seq_printf(s, "%s.to_host %llu\n%s.ct_hit %llu\n%s.ct_miss %llu\n", p->name, p->to_host, p->name,
			   p->ct_hit, p->name, p->ct_miss);
	}
	spin_unlock_bh(&sim_lock);
	rtnl_unlock();
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(counters);

/* ---- the module ---- */

static void take_down(void)
{
	int i;

	debugfs_remove_recursive(folder);
	for (i = MAX_PAIRS; i >= 0; i--) {
		if (!ports[i])
			continue;
		if (ports[i]->host)
			unregister_netdev(ports[i]->host);
		if (ports[i]->behind)
			unregister_netdev(ports[i]->behind);
	}
	for (i = 0; i <= MAX_PAIRS; i++)
		kfree(ports[i]);
	if (devlink) {
		devlink_unregister(devlink);
		devlink_free(devlink);
	}
	if (device)
		platform_device_unregister(device);
	tc_skb_ext_tc_disable();
}

static u32 limit(int given, u32 drivers)
{
	return given < 0 ? drivers : given;
}

static int __init simnic_init(void)
{
	int i, err;

	sim_driver = sim_driver_find(driver);
	if (!sim_driver) {
		pr_err("simnic: no personality named %s\n", driver);
		return -EINVAL;
	}
	switchdev = !strcmp(eswitch, "switchdev");
	if ((!switchdev && strcmp(eswitch, "legacy")) || pairs > MAX_PAIRS)
		return -EINVAL;
	sim_limit_rules = limit(rules, sim_driver->rules);
	sim_limit_tables = limit(tables, sim_driver->tables);
	sim_limit_masks = limit(masks, sim_driver->masks);
	tc_skb_ext_tc_enable();
	device = platform_device_register_simple("simnic", PLATFORM_DEVID_NONE, NULL, 0);
	if (IS_ERR(device)) {
		err = PTR_ERR(device);
		device = NULL;
		goto fail;
	}
	err = -ENOMEM;
	devlink = devlink_alloc(&devlink_calls, 0, &device->dev);
	if (!devlink)
		goto fail;
	devlink_register(devlink);
	for (i = 0; i <= pairs; i++) {
		err = make_port(i);
		if (err)
			goto fail;
	}
	folder = debugfs_create_dir("simnic", NULL);
	debugfs_create_file("counters", 0444, folder, NULL, &counters_fops);
	return 0;
fail:
	take_down();
	return err;
}

static void __exit simnic_exit(void)
{
	take_down();
}

module_init(simnic_init);
module_exit(simnic_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("A simulated SmartNIC with flower and connection tracking offload");
