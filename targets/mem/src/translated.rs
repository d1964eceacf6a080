//! Packets to Services, after translation, which are judged by the sender's egress set (S48). Not
//! here: how a packet gets its mark (`judge`).

use netpolc_table::EndpointId;
use netpolc_target::{Arrival, DropReason::Policy, Frame, Hook, Mark};

use crate::{
    Mem,
    datapath::{Answer, Context, NEXT, isolated},
    state::Birth,
};

impl Mem {
    /// Judges a marked frame: what becomes of the mark, or why the packet is dropped. The first
    /// value says for whom a drop is counted.
    pub(crate) fn judge_translated(&mut self, frame: &Frame) -> ((EndpointId, Hook), Answer) {
        let hook = Hook::Translated;
        // What the node itself sends carries somebody else's bit, which stays.
        if frame.arrival == Arrival::Born {
            return ((EndpointId::default(), Hook::FromPod), Ok(Mark::Deferred));
        }
        let endpoint = self.endpoint_of(frame.arrival.ifindex());
        // The sender is not known: the packet cannot be judged.
        if endpoint == EndpointId::default() {
            return ((endpoint, Hook::FromPod), Err(Policy));
        }
        let word = self.word(endpoint);
        let context = Context { hook, endpoint, word, birth: Birth::Elsewhere, sender: endpoint };
        let answer = if isolated(word, hook) { self.steps(&context, &frame.bytes) } else { NEXT };
        ((endpoint, Hook::FromPod), answer)
    }
}
