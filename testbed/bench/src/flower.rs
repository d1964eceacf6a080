//! How fast filters get into the kernel: ours against a bare netlink loop that sends messages made
//! beforehand, and against `tc -batch`. In rounds, interleaved, on a dummy interface; needs root
//! and a kernel with flower (the lab has one).

use std::{
    io::Write as _,
    net::{IpAddr, Ipv4Addr},
    os::fd::AsRawFd,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use netpolc_host::netlink::{BATCH, Protocol, Socket};
use netpolc_target_flower::{
    Flower,
    filter::{Action, Cookie, Copies, EtherType, Filter, Match, Pattern, Ports, Side, host},
    lowered::{Lowered, Mode, Placed},
    netlink::{Way, encode},
    topology::Port,
};

use super::Section;

/// How many filters are installed in one go.
const FILTERS: u32 = 4_000;
/// The interface that filters are installed on; nothing else has this name.
const DEVICE: &str = "netpolc-bench";

/// Runs it.
///
/// # Errors
/// The kernel has no flower, tc is missing, or the caller is not root.
pub fn run(rounds: u32) -> anyhow::Result<Section> {
    netpolc::output::needs_root("bench flower")?;
    let device = Device::new()?;
    let filters: Vec<Filter> = (0..FILTERS).map(filter).collect();
    let lines: String = filters.iter().zip(1..).map(|(f, handle)| line(f, handle)).collect();
    let mut best = [Duration::MAX; 4];
    for _ in 0..rounds {
        for (at, way) in [
            ours as fn(&Device, &[Filter], &str) -> anyhow::Result<Duration>,
            bare,
            bare_at_once,
            tc,
        ]
        .into_iter()
        .enumerate()
        {
            device.clean()?;
            best[at] = best[at].min(way(&device, &filters, &lines)?);
            let installed =
                Flower::new()?.installed()?.remove(&device.port.ifindex).map_or(0, |f| f.len());
            // What tc adds has a cookie, too.
            ensure!(
                installed == filters.len(),
                "{installed} of {} filters are there",
                filters.len()
            );
        }
    }
    let rate = |took: Duration| f64::from(FILTERS) / took.as_secs_f64();
    let [netpolc, loops, at_once, batch] = best.map(rate);
    let mut section =
        Section::new("Filters into the kernel", &["how", "filters a second", "netpolc is"]);
    for (name, theirs) in [
        ("netpolc, one sync of all", netpolc),
        ("bare netlink loop", loops),
        ("the same, answers taken at once", at_once),
        ("tc -batch", batch),
    ] {
        section.rows.push(vec![
            name.into(),
            format!("{theirs:.0}"),
            format!("{:.2} times", netpolc / theirs),
        ]);
    }
    section.at_least("against a bare loop", netpolc / loops, 0.8);
    section.at_least("against tc -batch", netpolc / batch, 4.0);
    section.notes.push(format!(
        "{FILTERS} filters, {BATCH} messages a send, best of {rounds} interleaved rounds"
    ));
    section.notes.push(
        "netpolc's time includes the dump of what is there, planning, and reading every answer"
            .into(),
    );
    Ok(section)
}

/// A dummy interface, gone at the end.
struct Device {
    port: Port,
}

impl Device {
    fn new() -> anyhow::Result<Self> {
        shell(&["ip", "link", "add", DEVICE, "type", "dummy"])?;
        let path = format!("/sys/class/net/{DEVICE}/ifindex");
        let ifindex = std::fs::read_to_string(&path).context(path)?.trim().parse()?;
        Ok(Device { port: Port { ifindex, name: DEVICE.into() } })
    }

    fn clean(&self) -> anyhow::Result<()> {
        // There may be none yet.
        let _ = shell(&["tc", "qdisc", "del", "dev", DEVICE, "clsact"]);
        shell(&["tc", "qdisc", "add", "dev", DEVICE, "clsact"])
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = shell(&["ip", "link", "del", DEVICE]);
    }
}

fn shell(words: &[&str]) -> anyhow::Result<()> {
    let output =
        Command::new(words[0]).args(&words[1..]).output().with_context(|| words.join(" "))?;
    ensure!(
        output.status.success(),
        "{}: {}",
        words.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

fn filter(number: u32) -> Filter {
    let pattern = Pattern {
        ethertype: EtherType::Ipv4,
        protocol: Some(6),
        destination_port: Some(Ports::one(80)),
        ..Pattern::default()
    };
    let address = IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 | number));
    Filter {
        side: Side::Ingress,
        chain: 0,
        prio: 10,
        matches: Match::Flower(pattern.to(host(address))),
        action: Action::Drop,
        copies: Copies::Software,
        cookie: Cookie::new(1, 1, number.into()),
    }
}

/// The same filter as a line for `tc -batch`.
fn line(filter: &Filter, handle: u32) -> String {
    let Match::Flower(Pattern { destination: Some(to), .. }) = &filter.matches else {
        return String::new();
    };
    let cookie: String = filter.cookie.0.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "filter add dev {DEVICE} ingress protocol ip pref 10 handle {handle} flower skip_hw \
         ip_proto tcp dst_ip {to} \
         dst_port 80 action drop cookie {cookie}\n"
    )
}

fn ours(device: &Device, filters: &[Filter], _: &str) -> anyhow::Result<Duration> {
    let placed =
        filters.iter().map(|f| Placed { filter: f.clone(), origins: Default::default() }).collect();
    let lowered = Lowered {
        mode: Mode::Software,
        ports: [(device.port.clone(), placed)].into(),
        spilled: vec![],
    };
    let began = Instant::now();
    let report = Flower::new()?.sync(&lowered)?;
    let took = began.elapsed();
    ensure!(report.refused.is_empty(), "refused: {}", report.refused[0].why);
    Ok(took)
}

/// Messages made beforehand, one send and one count of answers for each batch.
/// One `recv` for each answer, as most programs do.
fn bare(device: &Device, filters: &[Filter], _: &str) -> anyhow::Result<Duration> {
    bare_loop(device, filters, |fd, buffer| {
        // SAFETY: `fd` is open, and the kernel writes at most `buffer.len()` bytes into `buffer`,
        // which is borrowed mutably across the call.
        let got = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        ensure!(got > 0, std::io::Error::last_os_error());
        refusal(buffer, 0)?;
        Ok(1)
    })
}

/// The bare loop with one `recvmmsg` for all answers of a send.
fn bare_at_once(device: &Device, filters: &[Filter], _: &str) -> anyhow::Result<Duration> {
    bare_loop(device, filters, |fd, buffer| {
        let mut shares = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: ANSWER }; BATCH];
        // SAFETY: mmsghdr consists of integers and raw pointers, for which all zeros are valid: no
        // name, no control data and no vectors.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
        for ((share, header), bytes) in
            shares.iter_mut().zip(&mut headers).zip(buffer.chunks_mut(ANSWER))
        {
            share.iov_base = bytes.as_mut_ptr().cast();
            (header.msg_hdr.msg_iov, header.msg_hdr.msg_iovlen) = (share, 1);
        }
        let flags = libc::MSG_WAITFORONE as _;
        // SAFETY: `fd` is open. Each header points to one of `shares`, which points to a part of
        // `buffer` of its own; all of them live across the call, and the kernel writes no more into
        // a part than its length. The timeout may be null.
        let got = unsafe {
            libc::recvmmsg(fd, headers.as_mut_ptr(), BATCH as u32, flags, std::ptr::null_mut())
        };
        ensure!(got > 0, std::io::Error::last_os_error());
        (0..got as usize).try_for_each(|at| refusal(buffer, at * ANSWER))?;
        Ok(got as usize)
    })
}

/// An answer without a refusal is 36 bytes.
const ANSWER: usize = 4096;

fn refusal(buffer: &[u8], at: usize) -> anyhow::Result<()> {
    let code = i32::from_ne_bytes(buffer[at + 16..at + 20].try_into().expect("4 bytes"));
    ensure!(code == 0, std::io::Error::from_raw_os_error(-code));
    Ok(())
}

/// Messages made beforehand, [`BATCH`] in a send; `receive` takes one or more answers. The socket
/// is netpolc's as it is opened; what is measured are bare system calls on its descriptor.
fn bare_loop(
    device: &Device,
    filters: &[Filter],
    receive: impl Fn(i32, &mut [u8]) -> anyhow::Result<usize>,
) -> anyhow::Result<Duration> {
    let mut batches = Vec::new();
    for (chunk, first) in filters.chunks(BATCH).zip((1..).step_by(BATCH)) {
        let mut bytes = Vec::new();
        for (filter, handle) in chunk.iter().zip(first..) {
            encode(&mut bytes, Way::Add, device.port.ifindex, filter, handle, handle);
        }
        batches.push((bytes, chunk.len()));
    }
    let socket = Socket::open(Protocol::Route)?;
    let fd = socket.as_raw_fd();
    let mut buffer = vec![0u8; BATCH * ANSWER];
    let began = Instant::now();
    for (bytes, count) in &batches {
        // SAFETY: `fd` is open, and the kernel only reads `bytes.len()` bytes of `bytes`, which is
        // borrowed across the call.
        let sent = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), 0) };
        ensure!(sent == bytes.len() as isize, std::io::Error::last_os_error());
        let mut answers = 0;
        while answers < *count {
            answers += receive(fd, &mut buffer)?;
        }
    }
    Ok(began.elapsed())
}

fn tc(_: &Device, _: &[Filter], lines: &str) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let mut child =
        Command::new("tc").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().context("tc")?;
    child.stdin.take().context("tc's standard input")?.write_all(lines.as_bytes())?;
    if !child.wait()?.success() {
        bail!("tc -batch failed");
    }
    Ok(began.elapsed())
}
