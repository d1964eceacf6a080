//! `netpolc flows`: shows what was decided about packets, and by which rules.
//!
//! [`source`] reads flows, [`filter`] chooses among them, and [`show`] or [`top`] prints them. Not
//! here: how the agent serves them (`netpolc-agent`).

pub mod filter;
pub mod nearest;
pub mod show;
pub mod source;
pub mod time;
pub mod top;

use std::{
    collections::VecDeque,
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use netpolc_flow::line::{Line, Request};
use netpolc_kube_sync::Absent;

use self::{
    filter::Filter,
    nearest::Nearest,
    show::Show,
    source::{Lines, Next},
    time::Nanos,
    top::Top,
};
use crate::{
    cli::{flows::FlowFormat, request::Input},
    input,
    output::{self, Colour, Outcome},
};

/// How long to wait until an agent that has ended is looked for again.
const RETRY: Duration = Duration::from_millis(200);
/// How often `--top --follow` shows the present state.
const REFRESH: Duration = Duration::from_secs(1);

/// The options of `netpolc flows`.
#[derive(Debug)]
pub struct Flows {
    /// Where flows are read.
    pub source: Source,
    /// Of the flows that there are, the last so many; None for all.
    pub last: Option<usize>,
    /// Only flows from this time on.
    pub since: Option<Nanos>,
    /// Which flows are shown.
    pub filter: Filter,
    /// By which cluster the nearest rules are shown, where they are.
    pub nearest: Option<Input>,
    /// How they are shown.
    pub view: View,
}

/// Where flows are read.
#[derive(Debug)]
pub enum Source {
    /// What the agent of this folder of pins has.
    Agent(PathBuf),
    /// The same, and what happens from then on.
    AgentOnwards(PathBuf),
    /// A file; `-` is standard input.
    File(PathBuf),
}

/// What is shown of flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Each of them.
    List(FlowFormat),
    /// Who is denied most.
    Top,
}

/// Runs `netpolc flows`.
///
/// # Errors
/// The user is not root, no agent serves flows, the file has other things than flows, or standard
/// output cannot be written.
pub fn run(options: &Flows) -> anyhow::Result<Outcome> {
    end_on_interrupt();
    let nearest = match &options.nearest {
        Some(named) => Some(Nearest::of(input::read(named, Absent::Absent)?.0)),
        None => None,
    };
    match &options.source {
        Source::File(path) => once(options, Lines::of_file(path)?, nearest)?,
        Source::Agent(pin_dir) => {
            output::needs_root("reading an agent's flows")?;
            once(options, Lines::of_agent(pin_dir, &asked(options), None)?, nearest)?;
        }
        Source::AgentOnwards(pin_dir) => {
            output::needs_root("reading an agent's flows")?;
            follow(options, pin_dir, nearest)?;
        }
    }
    Ok(Outcome::Fine)
}

/// Ends the process with exit code 130 when it is interrupted, whatever it waits for.
fn end_on_interrupt() {
    extern "C" fn end(_signal: i32) {
        // SAFETY: _exit(2) may be called in a signal handler.
        unsafe { libc::_exit(130) }
    }
    let end: extern "C" fn(i32) = end;
    // SAFETY: the handler does nothing but what a handler may do.
    unsafe { libc::signal(libc::SIGINT, end as libc::sighandler_t) };
}

/// What the agent is asked for. It knows no filters, so with filters all there is.
fn asked(options: &Flows) -> Request {
    let last = options.last.filter(|last| options.filter.is_empty() || *last == 0);
    let follow = matches!(options.source, Source::AgentOnwards(_));
    Request { last, since_nanos: options.since, follow }
}

/// Chooses among the lines of a source.
struct Chosen<'a> {
    options: &'a Flows,
    /// The last flows so far, with what was said between them.
    kept: VecDeque<Line>,
    flows: usize,
}

impl<'a> Chosen<'a> {
    fn of(options: &'a Flows) -> Self {
        Self { options, kept: VecDeque::new(), flows: 0 }
    }

    fn is_wanted(&self, line: &Line) -> bool {
        let Line::Flow(flow) = line else { return true };
        self.options.since.is_none_or(|since| flow.time >= since) && self.options.filter.finds(flow)
    }

    /// Keeps a line of those that there are already.
    fn keep(&mut self, line: Line) {
        let is_flow = |line: &Line| matches!(line, Line::Flow(_));
        self.flows += usize::from(is_flow(&line));
        self.kept.push_back(line);
        let most = self.options.last.unwrap_or(usize::MAX);
        while self.flows > most || self.kept.len() > most.saturating_mul(2) {
            let gone = self.kept.pop_front();
            self.flows -= usize::from(gone.as_ref().is_some_and(is_flow));
        }
    }
}

/// Shows what a source has.
fn once(options: &Flows, mut lines: Lines, nearest: Option<Nearest>) -> anyhow::Result<()> {
    let (mut chosen, mut top) = (Chosen::of(options), Top::default());
    // Everything is read before anything is printed: the agent waits for no pager.
    while let Next::Line(line) = lines.read()? {
        if chosen.is_wanted(&line) {
            chosen.keep(line);
        }
    }
    match options.view {
        View::List(format) => {
            let mut show = Show::new(output::stdout(), format, Colour::of_stdout());
            show.nearest = nearest;
            chosen.kept.iter().try_for_each(|line| show.line(line))?;
            show.finish()?;
        }
        View::Top => {
            chosen.kept.iter().for_each(|line| top.take(line));
            let mut out = output::stdout();
            out.write_all(top.text().as_bytes())?;
            out.flush()?;
        }
    }
    Ok(())
}

/// Prints lines as they come.
struct Live {
    show: Show<std::io::BufWriter<std::io::StdoutLock<'static>>>,
    top: Option<(Top, Instant)>,
}

impl Live {
    fn line(&mut self, line: &Line) -> anyhow::Result<()> {
        match &mut self.top {
            Some((top, _)) => top.take(line),
            None => {
                self.show.line(line)?;
                self.show.flush()?;
            }
        }
        Ok(())
    }

    /// Shows the present state of `--top` once in a while.
    fn refresh(&mut self) -> anyhow::Result<()> {
        let Some((top, due)) = &mut self.top else { return Ok(()) };
        if Instant::now() < *due {
            return Ok(());
        }
        *due = Instant::now() + REFRESH;
        let clear = if std::io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
        self.show.text(&format!("{clear}{}\n", top.text()))?;
        Ok(())
    }
}

/// Shows flows until the process is stopped. An agent that ends is waited for: another one will
/// take its place.
fn follow(options: &Flows, pin_dir: &Path, nearest: Option<Nearest>) -> anyhow::Result<()> {
    let (mut request, is_top) = (asked(options), options.view == View::Top);
    let format = if let View::List(format) = options.view { format } else { FlowFormat::Compact };
    let mut live = Live {
        show: Show::new(output::stdout(), format, Colour::of_stdout()),
        top: is_top.then(|| (Top::default(), Instant::now())),
    };
    live.show.nearest = nearest;
    let patience = is_top.then_some(REFRESH / 4);
    // Where the agent has to be asked again: what comes behind the last flow that it has sent.
    let mut after = time::now();
    let mut lines = Lines::of_agent(pin_dir, &request, patience)?;
    let mut chosen = Chosen::of(options);
    let mut is_live = false;
    loop {
        match lines.read()? {
            Next::Line(Line::Live(_)) => {
                is_live = true;
                chosen.kept.drain(..).try_for_each(|line| live.line(&line))?;
                live.refresh()?;
            }
            Next::Line(line) => {
                if let Line::Flow(flow) = &line {
                    after = after.max(flow.time + 1);
                }
                if chosen.is_wanted(&line) {
                    if is_live { live.line(&line)? } else { chosen.keep(line) }
                }
            }
            Next::Nothing => {}
            Next::End => {
                output::complain("note: the agent has hung up; waiting for it or its successor");
                request = Request { last: None, since_nanos: Some(after), follow: true };
                chosen = Chosen::of(options);
                (lines, is_live) = (again(pin_dir, &request, patience), true);
            }
        }
        if is_live {
            live.refresh()?;
        }
    }
}

/// Waits until an agent serves flows again.
fn again(pin_dir: &Path, request: &Request, patience: Option<Duration>) -> Lines {
    loop {
        std::thread::sleep(RETRY);
        if let Ok(lines) = Lines::of_agent(pin_dir, request, patience) {
            return lines;
        }
    }
}

#[cfg(test)]
mod example {
    //! A flow for tests.

    use netpolc_flow::{Decider, Flow, Kind, Peer, Verdict};
    use netpolc_policy::{Direction, Labels};

    /// shop/ui to data/db, which data/db isolates.
    pub fn denied() -> Flow {
        let labels = |role: &str| Labels::from_iter([("role", role)]);
        let source = Peer {
            address: Some("10.7.0.2".parse().unwrap()),
            port: Some(40312),
            pod: Some("shop/ui-6d5f".into()),
            workload: Some("Deployment ui".into()),
            labels: labels("ui"),
            ..Peer::default()
        };
        let destination = Peer {
            address: Some("10.7.0.1".parse().unwrap()),
            port: Some(5432),
            pod: Some("data/db-0".into()),
            workload: Some("StatefulSet db".into()),
            labels: labels("db"),
            ..Peer::default()
        };
        Flow {
            time: 1_796_090_400_123_000_000,
            node: "n1".into(),
            verdict: Verdict::Denied,
            reason: Some("policy".into()),
            direction: Direction::Ingress,
            pod: Some("data/db-0".into()),
            source,
            destination,
            protocol: "TCP".into(),
            tcp_flags: Some("SYN".into()),
            icmp: None,
            by: vec![Decider::whole(Kind::NetworkPolicy, "data/db")],
            bytes: 74,
        }
    }
}
