//! S59: a pod that has used up its connections is refused new ones, and nobody else notices.

use super::{
    Report, Subject, fill,
    world::{A, ACK, B, FIN, Hosts, Policy, SYN, SYN_ACK, Talk, UPLINK, Unit, switch, world},
};
use crate::{Arrival, Error, Frame, Hook, Mark, Verdict};

use netpolc_table::{IfIndex, schema::Family};

/// A sequence of packets that may end early with an error.
struct Player<'a> {
    subject: &'a mut dyn Subject,
    packets: usize,
}

impl Player<'_> {
    fn judge(&mut self, interface: IfIndex, hook: Hook, bytes: Vec<u8>) -> Result<Verdict, Error> {
        self.packets += 1;
        let arrival = Arrival::At(if hook == Hook::ToPod { UPLINK } else { interface });
        self.subject.packet(hook, &Frame { interface, arrival, mark: Mark::Clear, bytes })
    }

    /// Opens TCP connections from A and answers them until one is refused; returns those that are
    /// established.
    fn fill(&mut self, hosts: &Hosts) -> Result<Vec<Talk>, Error> {
        let most = 4 * self.subject.capabilities().connections as usize + 4096;
        let mut open = vec![];
        for i in 0..most {
            let talk = Talk::new(
                hosts.a,
                (i % 50_000) as u16 + 1024,
                hosts.friend,
                80 + (i / 50_000) as u16,
            );
            if self.judge(A.interface, Hook::FromPod, talk.out(SYN))? == Verdict::Drop {
                break;
            }
            self.judge(A.interface, Hook::ToPod, talk.back(SYN_ACK))?;
            self.judge(A.interface, Hook::FromPod, talk.out(ACK))?;
            self.judge(A.interface, Hook::ToPod, talk.back(ACK))?;
            open.push(talk);
        }
        Ok(open)
    }
}

pub(super) fn run<T: Subject>(make: &mut impl FnMut() -> T, report: &mut Report) {
    for hosts in Hosts::both() {
        report.cases += 1;
        let case = format!("S59 quota of a pod, {:?}", hosts.family);
        let mut subject = make();
        let mut player = Player { subject: &mut subject, packets: 0 };
        let mut failures = vec![];
        if let Err(error) = play(&mut player, &hosts, &mut failures) {
            report.fail_error(&case, failures.len(), "the sequence of packets", &error);
        }
        report.packets += player.packets;
        for (step, what, expected, got) in failures {
            report.fail(&case, step, what, expected, got);
        }
    }
}

type Failures = Vec<(usize, &'static str, String, String)>;

fn play(player: &mut Player<'_>, hosts: &Hosts, failures: &mut Failures) -> Result<(), Error> {
    let mut step = 0;
    let mut expect = |what: &'static str, expected: Verdict, got: Verdict| {
        if expected != got {
            failures.push((step, what, format!("{expected:?}"), format!("{got:?}")));
        }
        step += 1;
    };
    let friends = world(Policy::Nothing, Policy::Friends);
    fill(player.subject, &friends)?;
    player.subject.write(&switch(B, Policy::Nothing, Policy::Friends))?;

    let open = player.fill(hosts)?;
    let quota = player.subject.capabilities().connections as usize;
    // A target whose entries find their places by a hash says what it holds in practice, a little
    // more or less.
    let most = if open.len() <= 2 * quota { Verdict::Drop } else { Verdict::Next };
    expect("not much more than the quota is let through", Verdict::Drop, most);
    let least = if open.len() >= quota / 2 { Verdict::Next } else { Verdict::Drop };
    expect("a good part of the quota is let through", Verdict::Next, least);

    for talk in [open.first(), open.last()].into_iter().flatten() {
        let got = player.judge(A.interface, Hook::ToPod, talk.back(ACK))?;
        expect("replies of old connections", Verdict::Next, got);
    }
    let next = open.len();
    let refused = Talk::new(
        hosts.a,
        1024 + (next % 50_000) as u16,
        hosts.friend,
        80 + (next / 50_000) as u16,
    );
    let got = player.judge(A.interface, Hook::FromPod, refused.out(SYN))?;
    expect("the refused one is refused again", Verdict::Drop, got);
    let got = player.judge(A.interface, Hook::ToPod, refused.back(SYN_ACK))?;
    expect("an answer to the refused one", Verdict::Drop, got);
    let mut probes = 0;
    for port in 0..64 {
        let probe = Talk::new(hosts.a, 8080, hosts.stranger, 30_000 + port).back(SYN);
        let frame = Frame {
            interface: A.interface,
            arrival: Arrival::Born,
            mark: Mark::Clear,
            bytes: probe,
        };
        player.packets += 1;
        probes += usize::from(player.subject.packet(Hook::ToPod, &frame)? == Verdict::Next);
    }
    let got = if probes == 64 { Verdict::Next } else { Verdict::Drop };
    expect("what the node opens finds room or needs none (S44)", Verdict::Next, got);

    // Half of what one remote leaves to others.
    let (mut others, some) = (0, (quota / 8).min(64));
    for port in 0..some as u16 {
        let talk = Talk::new(hosts.a, 8080, hosts.network, 30_000 + port);
        others +=
            usize::from(player.judge(A.interface, Hook::FromPod, talk.out(SYN))? == Verdict::Next);
        others += usize::from(
            player.judge(A.interface, Hook::ToPod, talk.back(SYN_ACK))? == Verdict::Next,
        );
    }
    let got = if others == 2 * some { Verdict::Next } else { Verdict::Drop };
    expect("another remote finds room", Verdict::Next, got);

    let other = Talk::new(hosts.b, 2000, hosts.friend, 53);
    expect(
        "another pod opens",
        Verdict::Next,
        player.judge(B.interface, Hook::FromPod, other.out(Unit::Udp))?,
    );
    expect(
        "and is answered",
        Verdict::Next,
        player.judge(B.interface, Hook::ToPod, other.back(Unit::Udp))?,
    );
    let family = if hosts.family == Family::V4 { Family::V6 } else { Family::V4 };
    let (else_a, else_friend) = (Hosts::of(family).a, Hosts::of(family).friend);
    let talk = Talk::new(else_a, 2000, else_friend, 53);
    expect(
        "the other family opens",
        Verdict::Next,
        player.judge(A.interface, Hook::FromPod, talk.out(Unit::Udp))?,
    );

    // Everything has expired: places are used again without anyone's help.
    player.subject.advance(std::time::Duration::from_secs(500_000))?;
    expect(
        "room after expiry",
        Verdict::Next,
        player.judge(A.interface, Hook::FromPod, refused.out(SYN))?,
    );
    expect(
        "and an answer",
        Verdict::Next,
        player.judge(A.interface, Hook::ToPod, refused.back(SYN_ACK))?,
    );
    player.judge(A.interface, Hook::FromPod, refused.out(ACK))?;
    player.judge(A.interface, Hook::ToPod, refused.back(ACK))?;

    // One that is open and silent: the opener's packets need no entry, so the handshake is all that
    // was seen.
    let silent = Talk::new(hosts.a, 900, hosts.network, 31_000);
    for (hook, bytes) in [
        (Hook::FromPod, silent.out(SYN)),
        (Hook::ToPod, silent.back(SYN_ACK)),
        (Hook::FromPod, silent.out(ACK)),
    ] {
        player.judge(A.interface, hook, bytes)?;
    }

    // Questions, answered or not, give way to new ones, and never what is established.
    let mut lost = 0;
    for i in 0..4 * quota as u32 {
        let talk =
            Talk::new(hosts.a, (i % 50_000) as u16 + 1024, hosts.friend, 53 + (i / 50_000) as u16);
        lost += usize::from(
            player.judge(A.interface, Hook::FromPod, talk.out(Unit::Udp))? == Verdict::Drop,
        );
        if i % 2 == 0 {
            lost += usize::from(
                player.judge(A.interface, Hook::ToPod, talk.back(Unit::Udp))? == Verdict::Drop,
            );
        }
    }
    let got = if lost == 0 { Verdict::Next } else { Verdict::Drop };
    expect("questions give way to new ones", Verdict::Next, got);
    let got = player.judge(A.interface, Hook::ToPod, refused.back(ACK))?;
    expect("and what is established stays", Verdict::Next, got);
    let got = player.judge(A.interface, Hook::ToPod, silent.back(ACK))?;
    expect("and what has just been opened", Verdict::Next, got);

    // Closed connections give way: many more of them than the quota, each opened, answered and
    // closed.
    player.subject.advance(std::time::Duration::from_secs(600))?;
    let mut refused = 0;
    for i in 0..2 * quota as u32 {
        let talk =
            Talk::new(hosts.a, (i % 50_000) as u16 + 1024, hosts.friend, 100 + (i / 50_000) as u16);
        for (hook, bytes) in [
            (Hook::FromPod, talk.out(SYN)),
            (Hook::ToPod, talk.back(SYN_ACK)),
            (Hook::FromPod, talk.out(ACK)),
            (Hook::ToPod, talk.back(FIN)),
            (Hook::FromPod, talk.out(FIN)),
        ] {
            refused += usize::from(player.judge(A.interface, hook, bytes)? == Verdict::Drop);
        }
    }
    let got = if refused == 0 { Verdict::Next } else { Verdict::Drop };
    expect("closed connections give way to new ones", Verdict::Next, got);
    Ok(())
}
