//! Packets to Services, after translation: judged by the sender's egress set (S48).

use netpolc_table::schema::Family;
use netpolc_target::{
    DropReason::{Fragment, Policy},
    Frame, Hook, Mark,
};

use crate::{
    Mem,
    datapath::{Answer, Context, NEXT, isolated},
    parse::{self, Layer3, Part},
    state::Birth,
};

impl Mem {
    /// Judges a marked frame: what becomes of the mark, or why it is dropped; and for whom drops are counted.
    pub(crate) fn judge_translated(&mut self, frame: &Frame) -> ((u16, Hook), Answer) {
        let hook = Hook::Translated;
        if frame.ingress_ifindex == 0 {
            let cut_anew = is_v6_fragment(&frame.bytes);
            return ((0, Hook::FromPod), if cut_anew { Err(Fragment) } else { Ok(Mark::Deferred) });
        }
        let endpoint = self.endpoint_of(frame.ingress_ifindex);
        if endpoint == 0 {
            return ((0, Hook::FromPod), Err(Policy));
        }
        let word = self.word(endpoint);
        let context = Context { hook, endpoint, word, birth: Birth::Elsewhere, sender: endpoint };
        let answer = if isolated(word, hook) { self.steps(&context, &frame.bytes) } else { NEXT };
        ((endpoint, Hook::FromPod), answer)
    }
}

/// Is this a part of an IPv6 packet? What cannot be read is none.
fn is_v6_fragment(frame: &[u8]) -> bool {
    let Ok(Layer3::Ip(Family::V6, l3)) = parse::ethernet(frame) else { return false };
    let addresses = parse::addresses(frame, Family::V6, l3, frame.len());
    let network = addresses.and_then(|_| parse::network(frame, Family::V6, l3));
    network.is_ok_and(|n| n.part != Part::Whole)
}
