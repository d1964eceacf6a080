//! Packets to Services, after translation: judged by the sender's egress set (S48).

use netpolc_table::EndpointId;
use netpolc_target::{Arrival, DropReason::Policy, Frame, Hook, Mark};

use crate::{
    Mem,
    datapath::{Answer, Context, NEXT, isolated},
    state::Birth,
};

impl Mem {
    /// Judges a marked frame: what becomes of the mark, or why it is dropped; and for whom drops
    /// are counted.
    pub(crate) fn judge_translated(&mut self, frame: &Frame) -> ((EndpointId, Hook), Answer) {
        let hook = Hook::Translated;
        if frame.arrival == Arrival::Born {
            return ((EndpointId::default(), Hook::FromPod), Ok(Mark::Deferred));
        }
        let endpoint = self.endpoint_of(frame.arrival.ifindex());
        if endpoint == EndpointId::default() {
            return ((endpoint, Hook::FromPod), Err(Policy));
        }
        let word = self.word(endpoint);
        let context = Context { hook, endpoint, word, birth: Birth::Elsewhere, sender: endpoint };
        let answer = if isolated(word, hook) { self.steps(&context, &frame.bytes) } else { NEXT };
        ((endpoint, Hook::FromPod), answer)
    }
}
