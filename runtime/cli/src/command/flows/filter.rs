//! The filters of flows: how they are written, and which flows they find.
//!
//! A flow is shown if, of each kind of filter that is given, one finds it, and none behind `--not`
//! does. Not here: the command line's options ([`crate::cli::flows`]).

use anyhow::{Context, bail, ensure};
use ipnetwork::IpNetwork;
use netpolc_analyze::nearest::closest;
use netpolc_flow::{Flow, Peer, Verdict};
use netpolc_policy::{Selector, oracle::Transport};
use netpolc_target::DropReason;

use crate::{
    ask::{end::selector, port::protocol},
    cli::flows::Filters,
};

/// What a filter looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// What was decided.
    Verdict,
    /// Why a packet was dropped.
    Reason,
    /// An end's pod.
    Pod,
    /// The namespace of an end's pod or Service.
    Namespace,
    /// The labels of an end's pod.
    Label,
    /// An end's address.
    Ip,
    /// An end's port.
    Port,
    /// The protocol.
    Protocol,
    /// An end's Service.
    Service,
    /// An end's workload.
    Workload,
    /// The policies that decided.
    Policy,
}

/// Which ends of a flow a filter looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// One of both will do.
    Either,
    /// The sender.
    From,
    /// The receiver.
    To,
}

/// A kind of filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    side: Side,
    what: What,
}

impl Kind {
    /// A filter that looks at either end, or at the flow as a whole.
    pub const fn any(what: What) -> Self {
        Self::of(Side::Either, what)
    }

    /// A filter that looks at an end.
    pub const fn of(side: Side, what: What) -> Self {
        Self { side, what }
    }

    /// Every kind that there is.
    fn all() -> impl Iterator<Item = Self> {
        let sided = [What::Pod, What::Namespace, What::Label, What::Ip, What::Port];
        let whole = [What::Verdict, What::Reason, What::Protocol];
        let others = [What::Service, What::Workload, What::Policy];
        let ends = sided
            .into_iter()
            .flat_map(|what| [Side::Either, Side::From, Side::To].map(|side| Self::of(side, what)));
        ends.chain(whole.into_iter().chain(others).map(Self::any))
    }

    /// The option's name, without dashes.
    fn name(self) -> String {
        let side = match self.side {
            Side::Either => "",
            Side::From => "from-",
            Side::To => "to-",
        };
        let what = match self.what {
            What::Verdict => "verdict",
            What::Reason => "reason",
            What::Pod => "pod",
            What::Namespace => "namespace",
            What::Label => "label",
            What::Ip => "ip",
            What::Port => "port",
            What::Protocol => "protocol",
            What::Service => "service",
            What::Workload => "workload",
            What::Policy => "policy",
        };
        format!("{side}{what}")
    }
}

/// What a flow must be like.
#[derive(Clone, Debug)]
enum Test {
    Verdict(Verdict),
    Reason(DropReason),
    /// The beginning of a name, in this namespace or in any.
    Name(Option<String>, String),
    Namespace(String),
    Labels(Selector),
    Block(IpNetwork),
    Ports(u16, u16),
    Protocol(Transport),
    Workload {
        kind: Option<String>,
        namespace: Option<String>,
        name: String,
    },
    Policy(String),
}

/// All filters of a command line.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    wanted: Vec<(Kind, Vec<Test>)>,
    unwanted: Vec<(Kind, Test)>,
}

impl Filter {
    /// Reads the filters.
    ///
    /// # Errors
    /// One makes no sense; the message says what to write.
    pub fn read(given: &Filters) -> anyhow::Result<Self> {
        let mut filter = Self::default();
        for (kind, value) in given.given() {
            let test = test(kind.what, value)
                .with_context(|| format!("--{} {value:?} makes no sense", kind.name()))?;
            match filter.wanted.iter_mut().find(|(other, _)| *other == kind) {
                Some((_, tests)) => tests.push(test),
                None => filter.wanted.push((kind, vec![test])),
            }
        }
        for text in &given.not {
            filter
                .unwanted
                .push(negated(text).with_context(|| format!("--not {text:?} makes no sense"))?);
        }
        filter.check()?;
        Ok(filter)
    }

    /// Refuses what can find nothing.
    fn check(&self) -> anyhow::Result<()> {
        let of = |what| self.wanted.iter().find(|(kind, _)| kind.what == what).map(|(_, t)| t);
        if let (Some(verdicts), Some(_)) = (of(What::Verdict), of(What::Reason)) {
            let denied = |test: &Test| matches!(test, Test::Verdict(Verdict::Denied));
            ensure!(
                verdicts.iter().any(denied),
                "only denied packets have a --reason; omit it, or add --verdict denied"
            );
        }
        Ok(())
    }

    /// Does it find every flow?
    pub fn is_empty(&self) -> bool {
        self.wanted.is_empty() && self.unwanted.is_empty()
    }

    /// Is the flow to be shown?
    pub fn finds(&self, flow: &Flow) -> bool {
        let one_of = |(kind, tests): &(Kind, Vec<Test>)| tests.iter().any(|t| t.holds(*kind, flow));
        self.wanted.iter().all(one_of)
            && !self.unwanted.iter().any(|(kind, test)| test.holds(*kind, flow))
    }
}

fn negated(text: &str) -> anyhow::Result<(Kind, Test)> {
    let (name, value) =
        text.split_once('=').context("write FILTER=VALUE, such as namespace=kube-system")?;
    let name = name.trim_start_matches("--");
    let Some(kind) = Kind::all().find(|kind| kind.name() == name) else {
        let names: Vec<String> = Kind::all().map(Kind::name).collect();
        let near = closest(name, names.iter().map(String::as_str));
        let near = near.map(|near| format!(" did you mean {near}?")).unwrap_or_default();
        bail!("there is no filter {name:?};{near} filters are {}", names.join(", "));
    };
    Ok((kind, test(kind.what, value)?))
}

fn test(what: What, value: &str) -> anyhow::Result<Test> {
    ensure!(!value.trim().is_empty(), "it is empty; give a value or omit the filter");
    Ok(match what {
        What::Verdict => Test::Verdict(match value.to_ascii_lowercase().as_str() {
            "allowed" | "forwarded" => Verdict::Allowed,
            "denied" | "dropped" => Verdict::Denied,
            "audit" => Verdict::Audit,
            _ => bail!("write allowed, denied or audit"),
        }),
        What::Reason => {
            let names = DropReason::ALL.map(DropReason::name);
            let found = DropReason::ALL.into_iter().find(|reason| reason.name() == value);
            Test::Reason(found.with_context(|| format!("write one of {}", names.join(", ")))?)
        }
        What::Pod | What::Service => match value.split_once('/') {
            None => Test::Name(None, value.into()),
            Some((namespace, name)) if !namespace.is_empty() && !name.contains('/') => {
                Test::Name(Some(namespace.into()), name.into())
            }
            Some(_) => bail!("write NAMESPACE/NAME, NAMESPACE/ for all of a namespace, or NAME"),
        },
        What::Namespace => {
            ensure!(!value.contains(['/', '*']), "write the whole name of one namespace");
            Test::Namespace(value.into())
        }
        What::Label => Test::Labels(selector(value)?),
        What::Ip => {
            Test::Block(value.parse().context("write an address, or a CIDR such as 10.0.0.0/8")?)
        }
        What::Port => ports(value)?,
        What::Protocol => Test::Protocol(
            protocol(value).context("write tcp, udp, sctp, icmp, icmpv6 or protocol-N")?,
        ),
        What::Workload => {
            let (kind, namespace, name) = workload_name(value)?;
            Test::Workload { kind, namespace, name }
        }
        What::Policy => Test::Policy(value.into()),
    })
}

fn ports(value: &str) -> anyhow::Result<Test> {
    let ways = "write a number up to 65535, or a range such as 8000-8999";
    let number = |text: &str| text.parse::<u16>().context(ways);
    let (first, last) = match value.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(value)?, number(value)?),
    };
    ensure!(first <= last, "the range ends before it begins; {ways}");
    Ok(Test::Ports(first, last))
}

/// The kind, in lower case, the namespace and the name of `web`, `shop/web` or
/// `deployment/shop/web`.
///
/// # Errors
/// It has another form.
pub fn workload_name(value: &str) -> anyhow::Result<(Option<String>, Option<String>, String)> {
    let (parts, own) = (value.split('/').collect::<Vec<_>>(), |text: &str| Some(text.to_owned()));
    ensure!(
        (1..=3).contains(&parts.len()) && parts.iter().all(|part| !part.is_empty()),
        "write NAME, NAMESPACE/NAME or KIND/NAMESPACE/NAME"
    );
    let kind = |text: &str| own(&text.to_ascii_lowercase());
    Ok(match parts[..] {
        [namespace, name] => (None, own(namespace), name.into()),
        [of, namespace, name] => (kind(of), own(namespace), name.into()),
        _ => (None, None, value.into()),
    })
}

impl Test {
    fn holds(&self, kind: Kind, flow: &Flow) -> bool {
        let ends = match kind.side {
            Side::Either => vec![&flow.source, &flow.destination],
            Side::From => vec![&flow.source],
            Side::To => vec![&flow.destination],
        };
        let an_end = |test: &dyn Fn(&Peer) -> bool| ends.iter().any(|end| test(end));
        match self {
            Test::Verdict(verdict) => flow.verdict == *verdict,
            Test::Reason(reason) => flow.reason.as_deref() == Some(reason.name()),
            Test::Name(namespace, name) => an_end(&|end| {
                let named = if kind.what == What::Service { &end.service } else { &end.pod };
                let parts = named.as_deref().and_then(|named| named.split_once('/'));
                parts.is_some_and(|(n, rest)| {
                    namespace.as_ref().is_none_or(|namespace| namespace == n)
                        && rest.starts_with(name.as_str())
                })
            }),
            Test::Namespace(name) => an_end(&|end| end.namespace() == Some(name)),
            Test::Labels(selector) => {
                an_end(&|end| end.pod.is_some() && selector.matches(&end.labels))
            }
            Test::Block(block) => an_end(&|end| end.address.is_some_and(|a| block.contains(a))),
            Test::Ports(first, last) => {
                an_end(&|end| end.port.is_some_and(|port| (*first..=*last).contains(&port)))
            }
            Test::Protocol(wanted) => protocol(&flow.protocol).as_ref() == Some(wanted),
            Test::Workload { kind, namespace, name } => an_end(&|end| {
                let parts = end.workload.as_deref().and_then(|w| w.split_once(' '));
                parts.is_some_and(|(of, rest)| {
                    rest == name
                        && kind.as_ref().is_none_or(|kind| *kind == of.to_ascii_lowercase())
                        && namespace.as_deref().is_none_or(|n| end.namespace() == Some(n))
                })
            }),
            Test::Policy(wanted) => flow.policies().iter().any(|policy| {
                **policy == **wanted
                    || policy.split_once('/').is_some_and(|(_, name)| name == wanted)
            }),
        }
    }
}

#[cfg(test)]
mod tests;
