//! `netpolc bench flows`: what the records of packets are worth on a node under load (S87).
//!
//! Real datagrams between namespaces and a real agent: how long a denial takes until `netpolc
//! flows` prints it; whether one pod's flood hides another pod's denials, and whether each packet
//! of it is counted; what that costs the agent; and how fast records become flows. Not here: what a
//! record costs a packet ([`super::records`]).

use std::{
    io::{self, BufRead as _, BufReader},
    mem::zeroed,
    net::{IpAddr, UdpSocket},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use netpolc_agent::{Agent, network::Kernel};
use netpolc_flow::{Flow, Verdict, line::Line};
use netpolc_kube_sync::{Input, load};
use netpolc_policy::{Cluster, ObjectKey};
use netpolc_target::{Arrival, Datapath as _, Frame, Hook, Mark, NodeTarget as _, frame::Packet};
use netpolc_target_ebpf::{Config, Ebpf};
use netpolc_testbed::netns::{Net, Site, Spec};

use super::Section;

const NODE: &str = "n1";
/// Denials a second of the pod that floods.
const FLOOD: u32 = 200_000;
/// Denials a second of the pod beside it.
const QUIET: u32 = 10;
/// How long both last.
const LENGTH: Duration = Duration::from_secs(10);
/// How many denials are timed.
const TIMED: u32 = 300;
/// How many records are attributed.
const ATTRIBUTED: usize = 1_000_000;
/// Datagrams that one system call sends.
const BATCH: usize = 64;
/// How long what must come may take.
const PATIENCE: Duration = Duration::from_secs(20);

const OBJECTS: &str = "
kind: Node
apiVersion: v1
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}
---
kind: Pod
apiVersion: v1
metadata: {name: flooded, namespace: shop, uid: a, labels: {app: flooded}}
spec: {nodeName: n1, containers: [{name: c, image: c}]}
status: {phase: Running, podIPs: [{ip: 10.1.0.2}]}
---
kind: Pod
apiVersion: v1
metadata: {name: quiet, namespace: shop, uid: b, labels: {app: quiet}}
spec: {nodeName: n1, containers: [{name: c, image: c}]}
status: {phase: Running, podIPs: [{ip: 10.1.0.3}]}
---
kind: Pod
apiVersion: v1
metadata: {name: flooder, namespace: other, uid: c, labels: {app: flooder}}
spec: {nodeName: n1, containers: [{name: c, image: c}]}
status: {phase: Running, podIPs: [{ip: 10.1.0.4}]}
---
kind: Pod
apiVersion: v1
metadata: {name: visitor, namespace: other, uid: d, labels: {app: visitor}}
spec: {nodeName: n1, containers: [{name: c, image: c}]}
status: {phase: Running, podIPs: [{ip: 10.1.0.5}]}
---
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: {name: nobody, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress]}
";

/// Measures: about half a minute.
///
/// # Errors
/// Namespaces cannot be made, or `netpolc` is not there or does not come up.
pub fn run(progress: impl Fn(String)) -> Result<Section> {
    netpolc::output::needs_root("bench flows (network namespaces and eBPF)")?;
    let cluster = load([Input::bytes("bench", OBJECTS)]).cluster;
    let net = Net::up(&Spec::of(&cluster))?;
    let mut section = Section::new("Flows on a node under load", &["what", "value", "bound"]);
    let row = |section: &mut Section, what: &str, value: f64, bound: Option<f64>| {
        let cell = bound.map(|bound| section.at_most(what, value, bound)).unwrap_or_default();
        section.rows.push(vec![what.into(), format!("{value:.2}"), cell]);
    };
    progress("an agent, and somebody who follows its flows".into());
    let node = net.node(NODE)?;
    let agent = Running::start(node)?;
    let pod = |namespace: &str, name: &str| net.pod(&ObjectKey::new(namespace, name));
    let (visitor, flooder) = (pod("other", "visitor")?, pod("other", "flooder")?);

    progress(format!("{TIMED} denials, one by one"));
    let mut seen = Seen::default();
    visitor.run(|| every(Duration::from_millis(7), TIMED))??;
    seen.until(&agent.lines, |seen| seen.delays.len() >= TIMED as usize)?;
    row(&mut section, "from a denial to the screen, median, ms", seen.delay(50), None);
    row(&mut section, "the same, 99th percentile, ms", seen.delay(99), Some(100.0));

    progress(format!("{FLOOD} denials a second of one pod, {QUIET} of another"));
    let mut seen = Seen::default();
    let wanted = QUIET * LENGTH.as_secs() as u32;
    let (before, began) = (agent.cpu()?, Instant::now());
    let sent = std::thread::scope(|scope| -> Result<u64> {
        let flood = scope.spawn(|| flooder.run(|| flood(LENGTH)));
        visitor.run(|| every(Duration::from_secs(1) / QUIET, wanted))??;
        Ok(flood.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))??)
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let cores = (agent.cpu()? - before).as_secs_f64() / seconds;
    seen.until(&agent.lines, |seen| {
        seen.delays.len() >= wanted as usize && seen.flooded() >= sent
    })?;
    row(&mut section, "datagrams of the flood, a second", sent as f64 / seconds, None);
    row(&mut section, "of them recorded", seen.flows as f64, None);
    let off = sent.abs_diff(seen.flooded()) as f64;
    row(&mut section, "neither recorded nor counted, or twice", off, Some(0.0));
    let hidden = f64::from(wanted) - seen.delays.len() as f64;
    row(&mut section, "denials of the other pod that are hidden", hidden, Some(0.0));
    row(&mut section, "from those to the screen, 99th percentile, ms", seen.delay(99), Some(100.0));
    row(&mut section, "cores that the agent takes", cores, Some(0.5));
    drop(agent);

    progress(format!("{ATTRIBUTED} records become flows"));
    let seconds = node.run(|| attribute(cluster))??;
    row(&mut section, "1,000,000 records become flows, s", seconds, Some(5.0));
    section.notes.push("an agent of this build; figures of a release are better".into());
    Ok(section)
}

/// What `netpolc flows` has printed.
#[derive(Debug, Default)]
struct Seen {
    /// From the packets of the quiet pod to their lines, in milliseconds.
    delays: Vec<f64>,
    /// Flows of the flood.
    flows: u64,
    /// Packets of the flood that have none.
    unrecorded: u64,
}

impl Seen {
    fn take(&mut self, line: &Line, at: SystemTime) {
        match line {
            Line::Flow(flow) if flow.verdict == Verdict::Denied => match flow.pod.as_deref() {
                Some("shop/quiet") => {
                    let delay = Flow::nanos(at).saturating_sub(flow.time);
                    self.delays.push(delay as f64 / 1e6);
                }
                Some("shop/flooded") => self.flows += 1,
                _ => {}
            },
            Line::Unrecorded(all) => {
                let flooded = all.iter().filter(|one| one.pod.as_deref() == Some("shop/flooded"));
                self.unrecorded += flooded.map(|one| one.packets).sum::<u64>();
            }
            _ => {}
        }
    }

    fn flooded(&self) -> u64 {
        self.flows + self.unrecorded
    }

    fn until(
        &mut self,
        lines: &Receiver<(Line, SystemTime)>,
        enough: impl Fn(&Self) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !enough(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            // What does not come shows in the figures.
            let Ok((line, at)) = lines.recv_timeout(left) else { return Ok(()) };
            self.take(&line, at);
        }
        Ok(())
    }

    /// A percentile of the delays; no number where there are none.
    fn delay(&mut self, percent: usize) -> f64 {
        self.delays.sort_by(f64::total_cmp);
        let last = self.delays.len().saturating_sub(1);
        self.delays.get(last * percent / 100).copied().unwrap_or(f64::NAN)
    }
}

/// An agent with somebody who follows its flows; both, and the tables, are gone when this is
/// dropped.
struct Running {
    agent: Child,
    follower: Child,
    program: PathBuf,
    folder: PathBuf,
    pins: PathBuf,
    lines: Receiver<(Line, SystemTime)>,
}

impl Running {
    fn start(node: &Site) -> Result<Self> {
        let program = netpolc::command::program::find("netpolc")?;
        let name = format!("netpolc-bench-{}", std::process::id());
        let (folder, pins) =
            (std::env::temp_dir().join(&name), Path::new("/sys/fs/bpf").join(&name));
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("objects.yaml"), OBJECTS)?;
        let text = program.to_str().context("netpolc's path is not UTF-8")?;
        let command = |arguments: &[&str]| {
            let mut command = node.command(text);
            command.args(arguments).arg("--pin-dir").arg(&pins);
            command
        };
        let from = folder.to_str().context("the folder's path is not UTF-8")?;
        let agent = command(&["agent", "--node", NODE, "--from", from]).spawn()?;
        let deadline = Instant::now() + PATIENCE;
        while !command(&["flows"]).stderr(Stdio::null()).status()?.success() {
            ensure!(Instant::now() < deadline, "the agent does not come up");
            std::thread::sleep(Duration::from_millis(100));
        }
        let arguments = ["flows", "--follow", "--output", "json"];
        let mut follower =
            command(&arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let printed = BufReader::new(follower.stdout.take().context("its output")?);
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for text in printed.lines().map_while(io::Result::ok) {
                let at = SystemTime::now();
                let Ok(line) = serde_json::from_str(&text) else { return };
                if sender.send((line, at)).is_err() {
                    return;
                }
            }
        });
        // Until it follows.
        std::thread::sleep(Duration::from_secs(1));
        Ok(Self { agent, follower, program, folder, pins, lines })
    }

    /// The processor time that the agent has taken.
    fn cpu(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.agent.id()))?;
        // The name may have spaces; it ends with the last bracket.
        let (_, rest) = stat.rsplit_once(')').context("no name in /proc/PID/stat")?;
        let ticks: u64 = rest
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(str::parse::<u64>)
            .sum::<Result<u64, _>>()?;
        // SAFETY: it only asks for a constant.
        let hz = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
        Ok(Duration::from_secs_f64(ticks as f64 / hz as f64))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for child in [&mut self.agent, &mut self.follower] {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = Command::new(&self.program)
            .args(["detach", "--pin-dir"])
            .arg(&self.pins)
            .stdout(Stdio::null())
            .status();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Sends a datagram to the quiet pod so often.
fn every(pause: Duration, count: u32) -> io::Result<()> {
    let socket = UdpSocket::bind("10.1.0.5:0")?;
    socket.connect("10.1.0.3:4000")?;
    for _ in 0..count {
        // An error that an earlier datagram has caused says nothing about this one.
        let _ = socket.send(b"?");
        std::thread::sleep(pause);
    }
    Ok(())
}

/// Sends [`FLOOD`] datagrams a second to the flooded pod, as far as this machine can, and returns
/// how many that were.
fn flood(length: Duration) -> io::Result<u64> {
    let socket = UdpSocket::bind("10.1.0.4:0")?;
    socket.connect("10.1.0.2:4000")?;
    let mut payload = *b"?";
    let mut part = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
    // SAFETY: all zeroes is a message without parts and addresses.
    let mut messages: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
    for message in &mut messages {
        message.msg_hdr.msg_iov = &raw mut part;
        message.msg_hdr.msg_iovlen = 1;
    }
    let (began, mut sent) = (Instant::now(), 0);
    while began.elapsed() < length {
        if sent as f64 > began.elapsed().as_secs_f64() * f64::from(FLOOD) {
            std::thread::sleep(Duration::from_micros(50));
            continue;
        }
        // SAFETY: the messages and what they point to live across the call.
        let done =
            unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), BATCH as u32, 0) };
        sent += u64::try_from(done).unwrap_or_default();
    }
    Ok(sent)
}

/// How many seconds it takes to make flows of [`ATTRIBUTED`] records.
fn attribute(cluster: Cluster) -> Result<f64> {
    let mut agent = Agent::new(NODE.into(), Ebpf::private(Config::default())?, Kernel::new())?;
    agent.update(cluster)?;
    ensure!(agent.observe()?, "the target does not record");
    let mut records = vec![];
    // The first call says only that there are records from now on.
    agent.host_mut().records()?;
    let interfaces = agent.host().attached();
    for &interface in &interfaces {
        // From elsewhere: what comes from the pod's own interface is its own traffic.
        let other = interfaces.iter().find(|other| **other != interface);
        let arrival = Arrival::At(*other.context("one pod alone")?);
        for (port, from) in (1..).zip(["10.1.0.4", "10.1.0.5", "192.0.2.1"].repeat(16)) {
            let [from, to] = [from.parse::<IpAddr>()?, "10.1.0.2".parse()?];
            let bytes = Packet::new(from, to).udp(4000, port).build();
            let frame = Frame { interface, arrival, mark: Mark::Clear, bytes };
            agent.host_mut().packet(Hook::ToPod, &frame)?;
            records.extend(agent.host_mut().records()?.unwrap_or_default());
        }
    }
    let is_named = |flow: &Flow| flow.policies() == ["shop/nobody"];
    let flows = agent.attribute(&records);
    ensure!(flows.iter().any(is_named), "no flow names the policy, but {:?}", flows.first());
    let (began, mut made) = (Instant::now(), 0);
    while made < ATTRIBUTED {
        made += agent.attribute(&records).len();
    }
    Ok(began.elapsed().as_secs_f64())
}
