//! `netpolc bench connections`: whether anything is lost where a pod has very many connections
//! (S59, S59a).
//!
//! Real datagrams between namespaces: a DNS server, isolated both ways so that each answer needs an
//! entry, a hundred addresses outside that ask it, and the node. Tables begin with their usual size
//! and grow as they do in the agent. Not here: what a packet costs (`super::packet`).

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use netpolc_agent::{Agent, network::Kernel};
use netpolc_kube_sync::{Input, load};
use netpolc_policy::Cluster;
use netpolc_table::EndpointId;
use netpolc_target_ebpf::{Config, Ebpf, MapFacts, Tender};
use netpolc_testbed::netns::{Net, Site, Spec};

use super::Section;

const NODE: &str = "n1";
const CLIENTS: u8 = 100;
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Live connections of one pod.
const MANY: u32 = 262_144;

const OBJECTS: &str = "
kind: Node
apiVersion: v1
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}
---
kind: Pod
apiVersion: v1
metadata: {name: dns, namespace: shop, uid: dns, labels: {app: dns}}
spec: {nodeName: n1, containers: [{name: c, image: c}]}
status: {phase: Running, podIPs: [{ip: 10.1.0.2}]}
---
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: {name: dns, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{ports: [{port: 53, protocol: \
    UDP}]}]}
";

fn client(number: u32) -> Ipv4Addr {
    Ipv4Addr::new(172, 16, 0, 1 + (number % u32::from(CLIENTS)) as u8)
}

/// Runs everything: about a minute.
///
/// # Errors
/// Namespaces, maps or sockets cannot be made.
pub fn run(progress: impl Fn(String)) -> Result<Section> {
    let cluster = load([Input::bytes("bench", OBJECTS)]).cluster;
    let addresses = (0..u32::from(CLIENTS)).map(|n| IpAddr::from(client(n)));
    let net = Net::up(&Spec::of(&cluster).with_outside("clients", addresses))?;
    let stop = Arc::new(AtomicBool::new(false));
    let key = cluster.pods.keys().next().context("the pod of the bench")?.clone();
    let (node, clients, pod) = (net.node(NODE)?, net.outside("clients")?, net.pod(&key)?);
    let mut agent = node.run(|| enforce(cluster))??;
    let tender = agent.host().tender()?;
    let mut section = Section::new(
        "Connections of one pod that is isolated both ways",
        &[
            "what",
            "sent",
            "answered",
            "lost",
            "dropped by netpolc",
            "entries",
            "room",
            "kernel memory",
        ],
    );
    let served: Result<()> = std::thread::scope(|scope| {
        let (ended, tended) = (stop.clone(), stop.clone());
        scope.spawn(move || pod.run(move || serve(&ended)));
        scope.spawn(move || tend(tender, &tended));
        let done = measure(&mut agent, (node, clients), &mut section, &progress);
        stop.store(true, Relaxed);
        done
    });
    served?;
    section.notes.push(format!(
        "{CLIENTS} clients outside, each query from a port of its own; a stream is two queries and \
         lives for two minutes"
    ));
    Ok(section)
}

fn enforce(cluster: Cluster) -> Result<Agent<Ebpf, Kernel>> {
    let mut agent = Agent::new(NODE.into(), Ebpf::private(Config::default())?, Kernel::new())?;
    agent.update(cluster).context("enforce the policy")?;
    Ok(agent)
}

fn tend(mut tender: Tender, stop: &AtomicBool) {
    while !stop.load(Relaxed) {
        // What fails shows as losses.
        let _ = tender.tend();
        let _ = tender.wait(Duration::from_millis(50));
    }
}

fn measure(
    agent: &mut Agent<Ebpf, Kernel>,
    (node, clients): (&Site, &Site),
    section: &mut Section,
    progress: &impl Fn(String),
) -> Result<()> {
    let everybody = |n: u32| SocketAddr::from((client(n), 0));
    // The server may not listen yet, and its pod asks for routers when it starts.
    let began = Instant::now();
    while clients.run(|| ask(1, Duration::from_secs(1), everybody))??.answered == 0 {
        ensure!(began.elapsed() < Duration::from_secs(20), "the server does not answer");
    }
    let mut before =
        agent.host().drops(EndpointId::new(1))?.iter().map(|(_, _, count)| count).sum();
    let mut row = |agent: &mut Agent<Ebpf, Kernel>, what: &str, asked: Asked| -> Result<()> {
        let host = agent.host_mut();
        let bytes: u64 = host.maps().iter().map(MapFacts::bytes).sum();
        let (entries, room) =
            (host.occupancy(EndpointId::new(1))?.0, host.room(EndpointId::new(1))?.0);
        let Asked { sent, answered } = asked;
        section.at_most(what, f64::from(sent - answered), 0.0);
        let memory = format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20));
        let all: u64 = host.drops(EndpointId::new(1))?.iter().map(|(_, _, count)| count).sum();
        let dropped = (all - std::mem::replace(&mut before, all)) as u32;
        let numbers =
            [sent, answered, sent - answered, dropped, entries, room].map(|n| n.to_string());
        section
            .rows
            .push(std::iter::once(what.to_owned()).chain(numbers).chain([memory]).collect());
        Ok(())
    };
    progress("5,000 queries a second for 20 s".into());
    let asked = clients.run(|| ask(5_000, Duration::from_secs(20), everybody))??;
    row(agent, "5,000 queries a second", asked)?;

    progress("one client opens all it can".into());
    let greedy = AtomicBool::new(true);
    let (others, own) = std::thread::scope(|scope| -> Result<(Asked, Asked)> {
        let flood = scope.spawn(|| {
            clients.run(|| {
                let mut ports = (1024..=u16::MAX).cycle();
                while greedy.load(Relaxed) {
                    let port = ports.next().unwrap_or(1024);
                    stream(SocketAddr::from((client(0), port)))?;
                }
                io::Result::Ok(())
            })
        });
        let probes = scope.spawn(|| {
            node.run(|| ask(100, Duration::from_secs(5), |_| ([192, 168, 0, 1], 0).into()))
        });
        let others = clients.run(|| {
            ask(100, Duration::from_secs(5), |n| ([172, 16, 0, 2 + (n % 98) as u8], 0).into())
        });
        greedy.store(false, Relaxed);
        flood.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))??;
        let own = probes.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))??;
        Ok((others??, own))
    })?;
    row(agent, "others, while one client opens all it can", others)?;
    row(agent, "the node meanwhile", own)?;

    progress(format!("{MANY} streams"));
    let port = |n: u32| (1024 + n / u32::from(CLIENTS)) as u16;
    let from = |n: u32| SocketAddr::from((client(n), port(n)));
    clients.run(|| (0..MANY).try_for_each(|n| stream(from(n))))??;
    progress("1,000 new ones a second on top".into());
    let asked = clients.run(|| {
        ask(1_000, Duration::from_secs(10), |n| (client(n), 40_000 + (n / 100) as u16).into())
    })??;
    row(agent, &format!("1,000 new a second beside {MANY} streams"), asked)?;
    let sample = MANY / 2_000;
    let asked = clients.run(|| ask(1_000, Duration::from_secs(2), |n| from(n * sample)))??;
    row(agent, "one in so many of the streams once more", asked)?;
    Ok(())
}

/// Queries that were sent, and answers that came.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    sent: u32,
    answered: u32,
}

/// Asks `rate` times a second, each time from an address and port (0: any) of its own.
fn ask(rate: u32, length: Duration, from: impl Fn(u32) -> SocketAddr) -> io::Result<Asked> {
    let (began, mut asked) = (Instant::now(), Asked::default());
    let mut waiting: VecDeque<(UdpSocket, Instant)> = VecDeque::new();
    let total = rate * length.as_secs() as u32;
    while asked.sent < total || !waiting.is_empty() {
        while asked.sent < total
            && f64::from(asked.sent) <= began.elapsed().as_secs_f64() * f64::from(rate)
        {
            let socket = connected(from(asked.sent))?;
            // A full queue is a loss like any other.
            let _ = socket.send(b"?");
            waiting.push_back((socket, Instant::now()));
            asked.sent += 1;
        }
        waiting.retain(|(socket, since)| {
            let came = socket.recv(&mut [0; 16]).is_ok();
            asked.answered += u32::from(came);
            !came && since.elapsed() < TIMEOUT
        });
        std::thread::sleep(Duration::from_micros(100));
    }
    Ok(asked)
}

fn connected(from: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(from)?;
    socket.set_nonblocking(true)?;
    socket.connect((SERVER, 53))?;
    Ok(socket)
}

/// A question, its answer, and a second question: what is kept for two minutes.
fn stream(from: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind(from)?;
    socket.connect((SERVER, 53))?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    for _ in 0..2 {
        let _ = socket.send(b"?");
        let _ = socket.recv(&mut [0; 16]);
    }
    Ok(())
}

/// Answers each datagram until `stop` is set.
fn serve(stop: &AtomicBool) -> io::Result<()> {
    let socket = UdpSocket::bind((SERVER, 53))?;
    let bytes: libc::c_int = 16 << 20;
    // SAFETY: the socket is open, and `bytes` lives across the call and has the size that is given;
    // the kernel only reads it.
    unsafe {
        let value = (&raw const bytes).cast();
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            value,
            size_of_val(&bytes) as u32,
        );
    }
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut bytes = [0; 64];
    while !stop.load(Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut bytes) {
            let _ = socket.send_to(&bytes[..length], from);
        }
    }
    Ok(())
}
