//! Step 7: ICMP errors, which are judged by the packet that they quote (S35). Not here: finding the
//! headers (`parse`).

use std::net::IpAddr;

use netpolc_table::schema::Family;
use netpolc_target::{
    DropReason::{IcmpError, SpoofedSource},
    Hook,
    semantics::quotation,
};

use crate::{
    Mem,
    datapath::{Answer, Context, NEXT},
    judge::tuple,
    parse::{self, Network, Part, Routes, Transport},
};

/// A packet that an error quotes.
struct Inner {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    transport: Transport,
}

impl Mem {
    /// Judges an error. No entry changes, since anyone can forge an error.
    pub(crate) fn icmp_error(
        &self,
        context: &Context,
        frame: &[u8],
        family: Family,
        outer: &Network,
        source: IpAddr,
        destination: IpAddr,
    ) -> Answer {
        if !context.isolated() || context.exempt() {
            return NEXT;
        }
        if self.is_forged(context, source) {
            return Err(SpoofedSource);
        }
        let quoted_bytes = outer.end.saturating_sub(outer.l4 + 8);
        let too_much = context.hook == Hook::FromPod && quoted_bytes > quotation(family.number());
        if too_much || matches!(outer.part, Part::First(_)) {
            return Err(IcmpError);
        }
        let inner = quoted(frame, family, outer.l4 + 8, outer.end).ok_or(IcmpError)?;
        // The quoted packet went the other way, so that its local address is at the other end.
        let (hook, local, inner_local) = match context.hook {
            Hook::ToPod => (Hook::FromPod, destination, inner.source),
            Hook::FromPod | Hook::Translated => (Hook::ToPod, source, inner.destination),
        };
        // A pod may send an error only to the sender of what it quotes.
        let elsewhere = context.hook == Hook::FromPod && destination != inner.source;
        if local != inner_local || elsewhere {
            return Err(IcmpError);
        }
        let tuple = tuple(
            context.endpoint,
            hook,
            inner.source,
            inner.destination,
            inner.protocol,
            &inner.transport,
        );
        let entry = self.state.live(&tuple, self.incarnation(tuple.remote), self.now);
        let question = inner.transport.question(family);
        let permitted = match entry {
            Some(entry) => self.opener_permits(context, &entry, &tuple, question),
            // Without an entry, only a connection counts that needs none: permitted in both
            // directions.
            None => [hook, hook.other()]
                .iter()
                .all(|hook| self.is_open(context.word, *hook, &tuple, question)),
        };
        if permitted { NEXT } else { Err(IcmpError) }
    }
}

/// The quoted packet at `at`. None where too little of it is there, or where it has no tuple, such
/// as another error.
fn quoted(frame: &[u8], family: Family, at: usize, end: usize) -> Option<Inner> {
    let (source, destination) = parse::addresses(frame, family, at, end).ok()?;
    let (protocol, l4) = match family {
        Family::V4 => {
            let offset =
                parse::u16_at(frame, at + 6) & netpolc_target::semantics::ip::FRAGMENT_OFFSET;
            (offset == 0).then_some((frame[at + 9], at + 4 * usize::from(frame[at] & 15)))?
        }
        Family::V6 => {
            let walk =
                parse::extensions(frame, frame[at + 6], at + 40, end, Routes::Quoted).ok()?;
            (!matches!(walk.part, Part::Later(_))).then_some((walk.protocol, walk.at))?
        }
    };
    if l4 + 8 > end {
        return None;
    }
    let transport = parse::upper(&frame[l4..end], family, protocol);
    let has_tuple = transport.icmp.is_none() || transport.event.is_some();
    has_tuple.then_some(Inner { source, destination, protocol, transport })
}
