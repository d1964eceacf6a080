//! What all who work with the kernel's classifier (TC) say in the same way: the fixed part of its
//! messages, and the numbers of the qdisc clsact.
//!
//! Not here: filters and their options (the targets). Sources: include/uapi/linux/{rtnetlink,
//! pkt_sched}.h.

/// The parent under which clsact is installed (TC_H_CLSACT).
pub const CLSACT: u32 = 0xffff_fff1;
/// The handle that the clsact qdisc of every interface has.
pub const CLSACT_HANDLE: u32 = 0xffff_0000;
/// The parent of filters at clsact's ingress (TC_H_MIN_INGRESS).
pub const INGRESS: u32 = 0xffff_fff2;
/// The parent of filters at clsact's egress (TC_H_MIN_EGRESS).
pub const EGRESS: u32 = 0xffff_fff3;
/// The attribute with the name of a qdisc or classifier.
pub const TCA_KIND: u16 = 1;
/// The attribute with what the kind defines.
pub const TCA_OPTIONS: u16 = 2;
/// The length of [`header`] in bytes: attributes begin there.
pub const HEADER: usize = 20;

/// The fixed part of a message about a qdisc or filter (struct tcmsg: family u8, three bytes of
/// padding, ifindex, handle, parent, info).
pub fn header(ifindex: u32, handle: u32, parent: u32, info: u32) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    for (to, word) in bytes.chunks_exact_mut(4).zip([0, ifindex, handle, parent, info]) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}
