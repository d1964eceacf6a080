//! Step 8: policy and state together, the table under *Judgement* in `netpolc_target::semantics`
//! row by row.
//!
//! Not here: what entries are and when they expire (`state`).

use std::net::IpAddr;

use netpolc_table::{
    EndpointId, Incarnation, PortClassId, RowId, SetId,
    eval::{self, Pipeline},
    schema::{Family, Word},
};
use netpolc_target::{
    DropReason::{Policy, SpoofedSource, StateFull},
    Hook, Judged, Mark, Noted,
    semantics::{Event, HAS_PORTS, Phase, ip},
};

use crate::{
    Mem,
    datapath::{Answer, Context, NEXT, isolated},
    parse::Transport,
    state::{Birth, Connection, Opening, Tuple},
};

/// The direction in which the tables judge at a hook.
pub(crate) fn pipeline(hook: Hook) -> Pipeline {
    match hook {
        Hook::ToPod => Pipeline::ToPod,
        Hook::FromPod | Hook::Translated => Pipeline::FromPod,
    }
}

/// The tuple of a packet that goes through `hook`.
pub(crate) fn tuple(
    endpoint: EndpointId,
    hook: Hook,
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    transport: &Transport,
) -> Tuple {
    let ((local, local_port), (remote, remote_port)) = match hook {
        Hook::ToPod => ((destination, transport.destination_port), (source, transport.source_port)),
        Hook::FromPod | Hook::Translated => {
            ((source, transport.source_port), (destination, transport.destination_port))
        }
    };
    Tuple { endpoint, local, remote, protocol, local_port, remote_port }
}

/// What the tables are asked about the tuple's packets in a direction, beside their protocol: the
/// destination port, or the type and code of ICMP.
fn asked(hook: Hook, tuple: &Tuple, message: Option<u16>) -> Option<u16> {
    match HAS_PORTS.contains(&tuple.protocol) {
        true => Some(tuple.destination_port(hook)),
        false => message,
    }
}

impl Mem {
    /// *Permits*: whether the direction, as it is now, permits the tuple's packets, or of ICMP
    /// those with this type and code.
    pub(crate) fn permits(
        &self,
        word: Word,
        hook: Hook,
        tuple: &Tuple,
        message: Option<u16>,
    ) -> bool {
        let own = || hook != Hook::ToPod && self.is_own(tuple.endpoint, tuple.remote);
        self.is_open(word, hook, tuple, message) || own()
    }

    /// Whether the direction is not isolated, or its tables permit the tuple's packets, or of ICMP
    /// those with this type and code.
    pub(crate) fn is_open(
        &self,
        word: Word,
        hook: Hook,
        tuple: &Tuple,
        message: Option<u16>,
    ) -> bool {
        let set = pipeline(hook).set(word);
        set.is_none_or(|set| self.set_permits(set, hook, tuple, message))
    }

    /// Whether a set permits the tuple's packets in the direction of a hook, or of ICMP those with
    /// this type and code.
    fn set_permits(&self, set: SetId, hook: Hook, tuple: &Tuple, message: Option<u16>) -> bool {
        let port = asked(hook, tuple, message);
        eval::permits_in(&self.program, set, tuple.remote, tuple.protocol, port)
    }

    /// *Forged*: whether a packet to the pod claims to come from the pod itself and is not its own
    /// traffic (S47).
    pub(crate) fn is_forged(&self, context: &Context, remote: IpAddr) -> bool {
        context.hook == Hook::ToPod
            && context.isolated()
            && !context.exempt()
            && !context.own_traffic()
            && self.is_own(context.endpoint, remote)
    }

    /// *Opener permits*: whether the packet that opened the connection would be let through now, or
    /// on to its backend.
    pub(crate) fn opener_permits(
        &self,
        context: &Context,
        entry: &Connection,
        tuple: &Tuple,
        question: Option<u16>,
    ) -> bool {
        let deferred = || {
            let goes_on = entry.mark == Mark::Deferred || self.is_service(tuple);
            context.hook == Hook::ToPod && entry.opener == Hook::FromPod && goes_on
        };
        match entry.birth {
            Birth::OwnTraffic => true,
            Birth::OnNode => {
                let set = Pipeline::Born.set(context.word);
                set.is_none_or(|set| self.set_permits(set, entry.opener, tuple, question))
            }
            Birth::Elsewhere => {
                self.permits(context.word, entry.opener, tuple, question) || deferred()
            }
        }
    }

    /// Whether the remote's address and port belong to a Service.
    fn is_service(&self, tuple: &Tuple) -> bool {
        let port = HAS_PORTS.contains(&tuple.protocol).then_some(tuple.remote_port);
        eval::is_service(&self.program, tuple.remote, tuple.protocol, port)
    }

    /// The incarnation that the remote has now.
    pub(crate) fn incarnation(&self, remote: IpAddr) -> Incarnation {
        eval::remote(&self.program, remote).incarnation
    }

    /// Judges a packet that has passed all earlier steps.
    pub(crate) fn judge(
        &mut self,
        context: &Context,
        source: IpAddr,
        destination: IpAddr,
        protocol: u8,
        transport: &Transport,
    ) -> Answer {
        let tuple = tuple(context.endpoint, context.hook, source, destination, protocol, transport);
        let remote = eval::remote(&self.program, tuple.remote);
        self.recording.judge(Judged { word: context.word, remote });
        if self.is_forged(context, tuple.remote) {
            return Err(SpoofedSource);
        }
        let allowed = context.exempt()
            || self.permits(context.word, context.hook, &tuple, transport.message());
        let event = match transport.event {
            Some(event) if context.keeps() && context.hook != Hook::Translated => event,
            _ => return if allowed { NEXT } else { Err(Policy) },
        };
        let incarnation = self.incarnation(tuple.remote);
        let entry = self.state.live(&tuple, incarnation, self.now);
        let question = transport.question(Family::of(tuple.remote));
        let answer =
            self.by_state(context, tuple, (event, question), (allowed, entry, incarnation));
        self.compare(context, &tuple, (event, transport.message()), entry, answer);
        answer
    }

    /// *Difference*: the entry of `tried` that the tuple's packets meet in a direction, or of ICMP
    /// those with this type and code.
    fn difference(
        &self,
        hook: Hook,
        tuple: &Tuple,
        message: Option<u16>,
    ) -> Option<(RowId, PortClassId)> {
        let port = asked(hook, tuple, message);
        let Tuple { endpoint, remote, protocol, .. } = *tuple;
        eval::difference(&self.program, pipeline(hook), endpoint, remote, protocol, port)
    }

    /// The comparison with what is only tried: counts an opening whose shadow verdict is the other
    /// one.
    fn compare(
        &mut self,
        context: &Context,
        tuple: &Tuple,
        (event, message): (Event, Option<u16>),
        entry: Option<Connection>,
        answer: Answer,
    ) {
        let opens = matches!(event, Event::Open | Event::Datagram);
        if !opens || context.birth == Birth::OnNode {
            return;
        }
        if context.hook == Hook::ToPod && self.is_own(tuple.endpoint, tuple.remote) {
            return;
        }
        let Some(key) = self.difference(context.hook, tuple, message) else { return };
        let differs = if event == Event::Open {
            true
        } else if self.is_open(context.word, context.hook, tuple, message) {
            entry.is_none_or(|entry| entry.opener == context.hook)
        } else {
            answer == Err(Policy)
        };
        if differs {
            *self.compared.entry(key).or_default() += 1;
            self.recording.note(Noted::Differs);
        }
    }

    /// The rows of the judgement for a packet with a tuple, of an endpoint that keeps state.
    fn by_state(
        &mut self,
        context: &Context,
        tuple: Tuple,
        (event, question): (Event, Option<u16>),
        (allowed, entry, incarnation): (bool, Option<Connection>, Incarnation),
    ) -> Answer {
        let opening =
            Opening { opener: context.hook, birth: context.birth, mark: Mark::Clear, incarnation };
        if allowed {
            return self.allowed(context, tuple, event, entry, opening);
        }
        // Rows for packets that are not allowed. A reply goes back to whoever opened the
        // connection; two SYNs of TCP may cross each other.
        let reply = entry.is_some_and(|entry| {
            let crossing = tuple.protocol == ip::TCP && entry.phase == Phase::Opening;
            entry.opener != context.hook
                && (event != Event::Open || crossing)
                && self.opener_permits(context, &entry, &tuple, question)
        });
        // A connection that was deferred to the judgement after translation goes on there, even
        // where its Service is gone.
        let going_on = entry.is_some_and(|entry| {
            let own = context.hook == Hook::FromPod && entry.opener == Hook::FromPod;
            own && event != Event::Open && entry.mark == Mark::Deferred
        });
        if reply || going_on {
            self.state.touch(&tuple, event, context.hook, self.now);
            return Ok(if reply { Mark::Clear } else { Mark::Deferred });
        }
        match context.hook {
            Hook::ToPod if context.own_traffic() => self.allowed(
                context,
                tuple,
                event,
                entry,
                Opening { birth: Birth::OwnTraffic, ..opening },
            ),
            Hook::FromPod if self.is_service(&tuple) => self.allowed(
                context,
                tuple,
                event,
                entry,
                Opening { mark: Mark::Deferred, ..opening },
            ),
            _ => Err(Policy),
        }
    }

    /// *Needed*: whether some later judgement will need to know who opened the connection.
    fn is_needed(&self, context: &Context, tuple: &Tuple, event: Event, mark: Mark) -> bool {
        let other = context.hook.other();
        let answered_by_entry = || {
            let judged = isolated(context.word, other)
                && (event == Event::Open || !self.is_open(context.word, other, tuple, None));
            // So that the answer is known as one (S85).
            let compared =
                event == Event::Datagram && self.difference(other, tuple, None).is_some();
            judged || compared
        };
        context.word.flags & Word::RECORD != 0 || mark == Mark::Deferred || answered_by_entry()
    }

    /// Rows for packets that are allowed, or treated as if they were: what they mean for state.
    fn allowed(
        &mut self,
        context: &Context,
        tuple: Tuple,
        event: Event,
        entry: Option<Connection>,
        opening: Opening,
    ) -> Answer {
        let opens = matches!(event, Event::Open | Event::Datagram);
        if opens && !self.is_needed(context, &tuple, event, opening.mark) {
            match event {
                Event::Open => self.recording.note(Noted::Opened),
                _ => self.recording.datagram(tuple, self.now),
            }
            return Ok(opening.mark);
        }
        // An opening of a connection that is over begins a new one.
        let over = |e: &Connection| {
            event == Event::Open && matches!(e.phase, Phase::Closing | Phase::Reset)
        };
        match entry {
            Some(entry) if !over(&entry) => {
                // TCP data in a permitted direction and ICMP replies change nothing, so that
                // generated programs need not search for an entry at all.
                let silent = event == Event::Data && tuple.protocol != ip::SCTP;
                if !silent {
                    self.state.touch(&tuple, event, context.hook, self.now);
                }
                Ok(opening.mark)
            }
            _ if opens => {
                self.recording.note(Noted::Opened);
                let created = self.state.create(tuple, opening, self.now);
                let isolated = context.word.flags & (Word::INGRESS | Word::EGRESS) != 0;
                let refused = isolated && !context.exempt();
                if created.is_err() && refused { Err(StateFull) } else { Ok(opening.mark) }
            }
            _ => Ok(opening.mark),
        }
    }
}
