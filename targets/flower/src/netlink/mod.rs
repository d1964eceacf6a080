//! Filters as messages of rtnetlink, without a tc process: [`encode()`] and [`decode()`] turn a
//! [`Filter`] into a message and back, [`check()`] tells which filters have one.
//!
//! Not here: sending them, reading attributes, and why both are written by hand
//! ([`netpolc_host::netlink`]).
//! Sources: include/uapi/linux/{rtnetlink,pkt_cls}.h, linux/tc_act/{tc_gact,tc_ct,tc_mirred}.h,
//! linux/tc_ematch/tc_em_meta.h.

pub mod check;
pub mod decode;
pub mod encode;

pub use check::{Unfit, check};
pub use decode::{Decoded, Found, decode};
pub use encode::{Way, encode};

use netpolc_host::tc;

#[cfg(doc)]
use crate::filter::Filter;
use crate::filter::Side;

/// The numbers of the kernel's headers.
pub(crate) mod numbers {
    pub const TCA_CHAIN: u16 = 11;

    pub const FLOWER_ACT: u16 = 3;
    pub const ETH_DST: u16 = 4;
    pub const ETH_DST_MASK: u16 = 5;
    pub const ETH_TYPE: u16 = 8;
    pub const IP_PROTO: u16 = 9;
    pub const IPV4_SRC: u16 = 10;
    pub const IPV4_DST: u16 = 12;
    pub const IPV6_SRC: u16 = 14;
    pub const IPV6_DST: u16 = 16;
    pub const FLAGS: u16 = 22;
    pub const ICMPV4_TYPE: u16 = 51;
    pub const ICMPV6_TYPE: u16 = 55;
    pub const TCP_FLAGS: u16 = 71;
    pub const IP_TTL: u16 = 75;
    pub const IN_HW_COUNT: u16 = 86;
    pub const PORT_SRC_MIN: u16 = 87;
    pub const PORT_DST_MIN: u16 = 89;
    pub const CT_STATE: u16 = 91;

    /// Attribute, and attribute of the mask, for source and destination ports of a protocol.
    pub const fn port_keys(protocol: u8) -> Option<[(u16, u16); 2]> {
        match protocol {
            6 => Some([(18, 35), (19, 36)]),
            17 => Some([(20, 37), (21, 38)]),
            132 => Some([(41, 39), (42, 40)]),
            _ => None,
        }
    }

    pub const SKIP_HW: u32 = 1;
    pub const SKIP_SW: u32 = 2;
    pub const IN_HW: u32 = 4;
    pub const VERBOSE: u32 = 1 << 4;

    pub const ACT_KIND: u16 = 1;
    pub const ACT_OPTIONS: u16 = 2;
    pub const ACT_COOKIE: u16 = 6;
    /// TCA_GACT_PARMS and TCA_MIRRED_PARMS.
    pub const PARMS: u16 = 2;
    pub const CT_PARMS: u16 = 1;
    pub const CT_ACTION: u16 = 3;
    pub const CT_ZONE: u16 = 4;

    pub const ACT_OK: i32 = 0;
    pub const ACT_SHOT: i32 = 2;
    pub const ACT_UNSPEC: i32 = -1;
    pub const ACT_PIPE: i32 = 3;
    pub const ACT_STOLEN: i32 = 4;
    pub const ACT_GOTO: i32 = 2 << 28;
    pub const CHAIN_MASK: i32 = (1 << 28) - 1;
    pub const EGRESS_REDIR: i32 = 1;

    pub const BASIC_EMATCHES: u16 = 2;
    pub const BASIC_ACT: u16 = 3;

    pub const ETH_ALL: u16 = 3;
    pub const ETH_IPV4: u16 = 0x0800;
    pub const ETH_ARP: u16 = 0x0806;
    pub const ETH_IPV6: u16 = 0x86dd;
}

/// The parent that stands for a hook of clsact.
pub(crate) fn parent(side: Side) -> u32 {
    match side {
        Side::Ingress => tc::INGRESS,
        Side::Egress => tc::EGRESS,
    }
}
