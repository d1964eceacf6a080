//! Real interfaces: both ways of attaching, again and again, interfaces that vanish, and no trace
//! left behind.

mod common;

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _},
    time::{Duration, Instant},
};

use common::{PinDir, own_network, sh};
use netpolc_host::netns::Namespace;
use netpolc_table::{
    ActionId, ClassId, EndpointId, IfIndex, Incarnation, PortClassId, RowId, SetId, TableId, Write,
    id::V4,
    schema::{self, Family, Word},
};
use netpolc_target::Target as _;
use netpolc_target_ebpf::{Config, Ebpf, Mode, Role, Way, sys};
use netpolc_testbed::lab;

const NODE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const POD: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// A pod behind a veth pair: this thread becomes the node, the returned thread's namespace the pod.
fn pod() -> Namespace {
    own_network();
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        own_network();
        send.send(Namespace::current().unwrap()).unwrap();
    });
    let pod = receive.recv().unwrap();
    sh(&format!(
        "ip link add pod0 type veth peer name eth0; ip addr add {NODE}/24 dev pod0; ip link set \
         pod0 up"
    ));
    sh(&format!(
        "ip link set eth0 netns /proc/self/fd/{0} 2>/dev/null || ip link set eth0 netns \
         /proc/{1}/fd/{0}",
        pod.as_fd().as_raw_fd(),
        std::process::id()
    ));
    inside(&pod, || {
        sh(&format!("ip addr add {POD}/24 dev eth0; ip link set eth0 up; ip link set lo up"))
    });
    pod
}

/// On this thread, whose namespaces of other kinds are its own as well.
fn inside<T>(namespace: &Namespace, act: impl FnOnce() -> T) -> T {
    let home = Namespace::current().unwrap();
    namespace.enter().unwrap();
    let result = act();
    home.enter().unwrap();
    result
}

/// Does a datagram from the pod to this port of the node arrive, on however busy a machine?
fn arrives(pod: &Namespace, port: u16) -> bool {
    arrives_within(pod, port, Duration::from_secs(5))
}

/// Is it dropped?
fn blocked(pod: &Namespace, port: u16) -> bool {
    !arrives_within(pod, port, Duration::from_millis(300))
}

/// A command that another test starts holds our sockets for a moment, between its fork and its
/// exec: the last one's address may still be taken.
fn bind(to: SocketAddr) -> UdpSocket {
    let patience = Instant::now() + Duration::from_secs(5);
    loop {
        match UdpSocket::bind(to) {
            Err(e) if e.kind() == ErrorKind::AddrInUse && Instant::now() < patience => {
                std::thread::sleep(Duration::from_millis(5));
            }
            bound => return bound.unwrap(),
        }
    }
}

fn arrives_within(pod: &Namespace, port: u16, time: Duration) -> bool {
    let to = SocketAddr::from((NODE, port));
    let server = bind(to);
    server.set_read_timeout(Some(time)).unwrap();
    inside(pod, || UdpSocket::bind((POD, 0)).unwrap().send_to(b"x", to)).unwrap();
    match server.recv(&mut [0; 8]) {
        Ok(_) => true,
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => false,
        Err(e) => panic!("{e}"),
    }
}

/// Isolates the pod; UDP 53 to the node stays open, and only those who answer reach it.
fn isolate(ebpf: &mut Ebpf, ifindex: IfIndex) {
    let node = schema::remote_key(NODE.into(), 32);
    let word = Word {
        ingress_set: SetId::new(0),
        egress_set: SetId::new(1),
        born_set: SetId::new(0),
        flags: Word::INGRESS | Word::EGRESS,
    };
    let policy = [
        Write::put(
            TableId::RemoteV4,
            node,
            schema::set_remote(ClassId::<V4>::new(1), Incarnation::new(0)),
        ),
        Write::put(
            TableId::Port,
            schema::port_key(17, 53, 53),
            schema::set_port_class(PortClassId::new(1)),
        ),
        Write::put(
            TableId::Verdict,
            schema::verdict_key(RowId::new(1), PortClassId::new(1)),
            schema::plain(ActionId::Permit),
        ),
        Write::put(
            TableId::Row,
            schema::row_key(SetId::new(1), ClassId::<V4>::new(1)),
            schema::set_row(RowId::new(1)),
        ),
    ];
    for write in policy.into_iter().chain(common::pod(ifindex, word, &[POD.into()])) {
        ebpf.write(&write).unwrap();
    }
}

fn printed(command: &str) -> String {
    let out = std::process::Command::new("sh").args(["-c", command]).output();
    String::from_utf8(out.unwrap().stdout).unwrap()
}

fn filters() -> String {
    printed("tc filter show dev pod0 ingress; tc qdisc show dev pod0")
}

fn enforce(mode: Mode, way: Way) {
    let pod = pod();
    assert!(arrives(&pod, 53) && arrives(&pod, 80), "the bare veth works");
    let dir = PinDir::new(if mode == Mode::Best { "tcx" } else { "clsact" });
    let config = Config { mode, ..Config::small() };
    let mut ebpf = Ebpf::open(&dir.0, config.clone()).unwrap();
    let (ifindex, got) = ebpf.attach_name("pod0").unwrap();
    assert_eq!(got, way);
    assert!(arrives(&pod, 80), "an interface without endpoint is not ours");
    isolate(&mut ebpf, ifindex);
    assert!(arrives(&pod, 53) && blocked(&pod, 80));
    assert_eq!(ebpf.attach(ifindex).unwrap(), way, "again is fine");
    assert_eq!(ebpf.attachments().len(), 1);
    assert!(!ebpf.drops(EndpointId::new(1)).unwrap().is_empty());
    assert_eq!(
        ebpf.occupancy(EndpointId::new(1)).unwrap(),
        (1, 0),
        "its conversation is remembered"
    );
    drop(ebpf);
    assert!(arrives(&pod, 53) && blocked(&pod, 80), "enforced without a process");

    let mut ebpf = Ebpf::open(&dir.0, config).unwrap();
    assert_eq!((ebpf.attachments()[0].ifindex, ebpf.attachments()[0].way), (ifindex, way));
    ebpf.detach(ifindex).unwrap();
    assert!(arrives(&pod, 80), "detached");
    ebpf.attach(ifindex).unwrap();
    assert!(blocked(&pod, 80));
    drop(ebpf);
    Ebpf::remove(&dir.0).unwrap();
    assert!(arrives(&pod, 80), "removed");
    assert!(!filters().contains("bpf") && !filters().contains("clsact"), "{}", filters());
}

/// Linux 6.1, by itself.
#[test]
fn clsact_is_the_way_where_the_kernel_has_no_tcx() {
    if lab::outside(clsact_is_the_way_where_the_kernel_has_no_tcx) {
        return;
    }
    std::thread::spawn(|| enforce(Mode::Best, Way::Clsact)).join().unwrap();
}

/// What others' filters pass is judged first; where their kind has the first priority, they stay as
/// they are.
#[test]
fn clsact_filters_come_first_and_leave_those_of_others() {
    if lab::outside(clsact_filters_come_first_and_leave_those_of_others) {
        return;
    }
    for (theirs, judged) in
        [("pref 2 flower", true), ("pref 1 bpf", true), ("pref 1 flower", false)]
    {
        let run = move || {
            let pod = pod();
            let add = "tc qdisc add dev pod0 clsact; tc filter add dev pod0 ingress protocol all";
            let act = "action pass";
            match theirs {
                // A program of somebody else, of the usual handle: passes everything.
                "pref 1 bpf" => {
                    sh(&format!("{add} pref 1 handle 1 bpf bytecode '1,6 0 0 0,' {act}"))
                }
                _ => sh(&format!("{add} {theirs} {act}")),
            }
            let dir = PinDir::new("others");
            let mut ebpf =
                Ebpf::open(&dir.0, Config { mode: Mode::Clsact, ..Config::small() }).unwrap();
            let (ifindex, _) = ebpf.attach_name("pod0").unwrap();
            isolate(&mut ebpf, ifindex);
            assert_eq!(blocked(&pod, 80), judged, "{theirs}: {}", filters());
            ebpf.detach(ifindex).unwrap();
            let left = filters();
            assert!(!left.contains("netpolc") && left.contains(theirs), "{theirs}: {left}");
            assert!(arrives(&pod, 80));
            drop(ebpf);
            Ebpf::remove(&dir.0).unwrap();
        };
        std::thread::spawn(run).join().unwrap();
    }
}

#[test]
fn tcx_links_enforce_without_a_process() {
    std::thread::spawn(|| enforce(Mode::Best, Way::Tcx)).join().unwrap();
}

#[test]
fn clsact_filters_enforce_without_a_process() {
    std::thread::spawn(|| enforce(Mode::Clsact, Way::Clsact)).join().unwrap();
}

/// Pods that are attached quickly carry filters until links take their place, and are enforced at
/// every moment, whoever is killed. Their qdisc stays as long as the links: the kernel loses
/// packets where one comes or goes. An uplink never gets one.
#[test]
fn s58_quick_filters_become_links() {
    let quick = || {
        let pod = pod();
        let dir = PinDir::new("quick");
        let config = Config { mode: Mode::Quick, ..Config::small() };
        let mut ebpf = Ebpf::open(&dir.0, config.clone()).unwrap();
        let (ifindex, way) = ebpf.attach_name("pod0").unwrap();
        assert_eq!(way, Way::Clsact);
        isolate(&mut ebpf, ifindex);
        assert_eq!(ebpf.attach_uplink(IfIndex::new(1)).unwrap(), Way::Tcx);
        assert!(arrives(&pod, 53) && blocked(&pod, 80));
        let qdiscs = || printed("tc qdisc show").matches("clsact").count();
        assert_eq!(qdiscs(), 1);
        // Tables grow while links are in the making: nothing is left that judges by the earlier
        // ones.
        assert_eq!(ebpf.upgrade().unwrap(), 0);
        std::thread::sleep(Duration::from_millis(60));
        let (generation, last) = (ebpf.generation(), ebpf.capacities().sets as u16);
        let permit = Write::put(
            TableId::Base,
            schema::base_key(SetId::new(last), Family::V4),
            schema::plain(ActionId::Permit),
        );
        ebpf.write(&permit).unwrap();
        assert!(ebpf.generation() > generation);
        let word = Word {
            ingress_set: SetId::new(0),
            egress_set: SetId::new(last),
            born_set: SetId::new(0),
            flags: Word::INGRESS | Word::EGRESS,
        };
        ebpf.write(&Write::put(
            TableId::Endpoint,
            schema::endpoint_key(EndpointId::new(1)),
            schema::set_policy(word),
        ))
        .unwrap();
        std::thread::sleep(Duration::from_millis(100));
        assert!(arrives(&pod, 80), "the new tables permit it, and nobody else is asked");
        isolate(&mut ebpf, ifindex);
        assert!(arrives(&pod, 53) && blocked(&pod, 80));
        // Links in the making go with the process, and the next one makes them.
        assert_eq!(ebpf.upgrade().unwrap(), 0);
        drop(ebpf);
        assert!(arrives(&pod, 53) && blocked(&pod, 80));
        let mut ebpf = Ebpf::open(&dir.0, config.clone()).unwrap();
        let ways =
            |ebpf: &Ebpf| ebpf.attachments().iter().map(|a| (a.role, a.way)).collect::<Vec<_>>();
        assert_eq!(ways(&ebpf), [(Role::Uplink, Way::Tcx), (Role::Pod, Way::Clsact)]);
        let began = std::time::Instant::now();
        let mut moved = 0;
        while moved < 1 {
            moved += ebpf.upgrade().unwrap();
            assert!(arrives(&pod, 53) && blocked(&pod, 80));
            assert!(began.elapsed() < Duration::from_secs(30), "{:?}", ebpf.attachments());
        }
        assert!(ebpf.attachments().iter().all(|a| a.way == Way::Tcx), "{:?}", ebpf.attachments());
        let left = printed("tc filter show dev pod0 ingress; tc filter show dev pod0 egress");
        assert!(!left.contains("bpf"), "{left}");
        assert_eq!(qdiscs(), 1);
        assert_eq!(ebpf.check().unwrap(), Vec::<String>::new());
        drop(ebpf);
        assert!(arrives(&pod, 53) && blocked(&pod, 80), "outlives the process");
        // Killed after a link was pinned and before the filter went: the filter counts, and a link
        // comes again.
        std::fs::create_dir(dir.0.join(format!("links/{ifindex}_clsact_q"))).unwrap();
        let mut ebpf = Ebpf::open(&dir.0, config).unwrap();
        assert!(arrives(&pod, 53));
        ebpf.attach(ifindex).unwrap();
        while ebpf.attachments().iter().any(|a| a.way == Way::Clsact) {
            ebpf.upgrade().unwrap();
            assert!(blocked(&pod, 80));
        }
        drop(ebpf);
        assert!(arrives(&pod, 53) && blocked(&pod, 80));
        assert!(dir.0.join(format!("links/{ifindex}_qdisc")).exists() && qdiscs() == 1);
        Ebpf::remove(&dir.0).unwrap();
        assert!(arrives(&pod, 80), "removed");
        assert_eq!(qdiscs(), 0);
    };
    std::thread::spawn(quick).join().unwrap();
}

fn vanish(mode: Mode) {
    own_network();
    sh("ip link add pod0 type veth peer name eth0");
    let dir = PinDir::new(if mode == Mode::Best { "gone_tcx" } else { "gone_clsact" });
    let config = Config { mode, ..Config::small() };
    let mut ebpf = Ebpf::open(&dir.0, config.clone()).unwrap();
    let (first, _) = ebpf.attach_name("pod0").unwrap();
    sh("ip link del pod0; ip link add pod0 type veth peer name eth0");
    let (second, _) = ebpf.attach_name("pod0").unwrap();
    assert_ne!(first, second);
    assert_eq!(ebpf.sweep().unwrap(), [first]);
    assert_eq!(ebpf.attachments().iter().map(|a| a.ifindex).collect::<Vec<_>>(), [second]);
    sh("ip link del pod0");
    drop(ebpf);
    let mut ebpf = Ebpf::open(&dir.0, config).unwrap();
    assert_eq!(ebpf.attachments(), [], "swept when opening");
    assert!(ebpf.attach(second).is_err(), "no such interface");
    assert!(ebpf.attach_name("pod0").is_err());
    assert_eq!(ebpf.attachments(), []);
    // an interface may come back under the same index
    sh(&format!("ip link add pod0 index {second} type veth peer name eth0"));
    ebpf.attach(second).unwrap();
    sh(&format!("ip link del pod0; ip link add pod0 index {second} type veth peer name eth0"));
    ebpf.attach(second).unwrap();
    assert_eq!(ebpf.attachments().len(), 1);
    if mode == Mode::Clsact {
        assert!(filters().contains("netpolc"), "{}", filters());
    }
}

#[test]
fn s43_an_interface_that_vanished_is_forgotten() {
    for mode in [Mode::Best, Mode::Clsact] {
        std::thread::spawn(move || vanish(mode)).join().unwrap();
    }
}

fn uplink(mode: Mode, way: Way) {
    own_network();
    sh("ip link add up0 type veth peer name far0; ip link add up1 type veth peer name far1");
    let dir = PinDir::new(if mode == Mode::Best { "up_tcx" } else { "up_clsact" });
    let config = Config { mode, ..Config::small() };
    let mut ebpf = Ebpf::open(&dir.0, config.clone()).unwrap();
    let [up0, up1] = ["up0", "up1"].map(|name| sys::ifindex(name).unwrap());
    assert_eq!(ebpf.attach_uplink(up0).unwrap(), way);
    assert_eq!(ebpf.attach_uplink(up0).unwrap(), way, "again is fine");
    ebpf.attach(up1).unwrap();
    let roles = |ebpf: &Ebpf| {
        ebpf.attachments().iter().map(|a| (a.ifindex, a.role, a.way)).collect::<Vec<_>>()
    };
    let expected = [(up0, Role::Uplink, way), (up1, Role::Pod, way)];
    assert_eq!(roles(&ebpf), expected);
    drop(ebpf);
    let mut ebpf = Ebpf::open(&dir.0, config).unwrap();
    assert_eq!(roles(&ebpf), expected, "found again");
    // What was taken for a way out turns out to be a pod's, and back.
    ebpf.attach(up0).unwrap();
    assert_eq!(roles(&ebpf), [(up0, Role::Pod, way), expected[1]]);
    ebpf.attach_uplink(up1).unwrap();
    assert_eq!(roles(&ebpf), [(up0, Role::Pod, way), (up1, Role::Uplink, way)]);
    ebpf.detach(up1).unwrap();
    assert_eq!(roles(&ebpf), [(up0, Role::Pod, way)]);
}

#[test]
fn s48_uplinks_carry_their_program_and_are_found_again() {
    for (mode, way) in [(Mode::Best, Way::Tcx), (Mode::Clsact, Way::Clsact)] {
        std::thread::spawn(move || uplink(mode, way)).join().unwrap();
    }
}

/// S59: what somebody takes away is missed, comes back, and is said.
fn take_away(mode: Mode) {
    let pod = pod();
    let dir = PinDir::new(if mode == Mode::Best { "away_tcx" } else { "away_clsact" });
    let mut ebpf = Ebpf::open(&dir.0, Config { mode, ..Config::small() }).unwrap();
    let (ifindex, _) = ebpf.attach_name("pod0").unwrap();
    isolate(&mut ebpf, ifindex);
    assert!(arrives(&pod, 53) && blocked(&pod, 80));
    assert_eq!(ebpf.check().unwrap(), Vec::<String>::new());
    let back = |ebpf: &mut Ebpf, what: &str| {
        let said = ebpf.check().unwrap();
        assert!(said.len() == 1 && said[0].contains(what), "{said:?}");
        assert!(blocked(&pod, 80) && arrives(&pod, 53), "{what}");
        assert_eq!(ebpf.check().unwrap(), Vec::<String>::new());
    };
    match mode {
        Mode::Best | Mode::Quick => {
            std::fs::remove_file(dir.0.join(format!("links/{ifindex}_from_pod"))).unwrap();
            assert!(blocked(&pod, 80), "a pod's link needs no pin while the process lives");
            back(&mut ebpf, "pod0");
            ebpf.attach_uplink(sys::ifindex("lo").unwrap()).unwrap();
            std::fs::remove_file(dir.0.join("links/1_translated")).unwrap();
            back(&mut ebpf, "interface lo");
        }
        Mode::Clsact => {
            for away in ["tc filter del dev pod0 ingress", "tc qdisc del dev pod0 clsact"] {
                sh(away);
                assert!(arrives(&pod, 80));
                back(&mut ebpf, "pod0");
            }
        }
    }
    std::fs::remove_dir_all(dir.0.join("gen_1")).unwrap();
    back(&mut ebpf, "gen_1");
    std::fs::remove_file(dir.0.join("shared/config")).unwrap();
    back(&mut ebpf, "config");
    std::fs::remove_dir_all(&dir.0).unwrap();
    back(&mut ebpf, "everything is pinned there again");
    drop(ebpf);
    assert!(arrives(&pod, 53) && blocked(&pod, 80), "and outlives the process");
}

#[test]
fn s59_what_is_taken_away_comes_back() {
    for mode in [Mode::Best, Mode::Clsact] {
        std::thread::spawn(move || take_away(mode)).join().unwrap();
    }
}

/// S58: the BPF file system is unmounted while somebody still has something open there.
#[test]
fn s58_pins_come_back_where_their_file_system_went() {
    let away = || {
        let pod = pod();
        // SAFETY: no pointers; from here on this thread has mounts of its own.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
        // One that is mounted here alone, so that nothing of it is left where it is unmounted.
        sh("mount --make-rprivate /; umount -l /sys/fs/bpf; mount -t bpf bpf /sys/fs/bpf");
        let dir = PinDir::new("unmounted");
        let mut ebpf = Ebpf::open(&dir.0, Config::small()).unwrap();
        let (ifindex, _) = ebpf.attach_name("pod0").unwrap();
        isolate(&mut ebpf, ifindex);
        ebpf.attach_uplink(IfIndex::new(1)).unwrap();
        sh("umount -l /sys/fs/bpf");
        assert!(!dir.0.exists());
        let said = ebpf.check().unwrap();
        assert!(said.len() == 1 && said[0].contains("pinned there again"), "{said:?}");
        assert!(dir.0.join("links/1_translated").exists());
        drop(ebpf);
        assert!(arrives(&pod, 53) && blocked(&pod, 80), "outlives the process");
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata("/sys/fs/bpf").unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o700, "a file system of ours is root's alone");
        Ebpf::remove(&dir.0).unwrap();
        assert!(arrives(&pod, 80));
    };
    std::thread::spawn(away).join().unwrap();
}

/// Many interfaces need few descriptors, and time in proportion to their number.
#[test]
fn many_interfaces_take_few_descriptors() {
    let many = || {
        own_network();
        const MANY: usize = 300;
        let lines: String =
            (0..MANY).map(|i| format!("link add x{i} type veth peer name y{i}\n")).collect();
        sh(&format!("ip -batch - <<'END'\n{lines}END"));
        let dir = PinDir::new("many");
        let mut ebpf = Ebpf::open(&dir.0, Config::small()).unwrap();
        let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let before = descriptors();
        for i in 0..MANY {
            ebpf.attach_uplink(sys::ifindex(&format!("x{i}")).unwrap()).unwrap();
        }
        // Other tests of this process may open some meanwhile.
        assert!(descriptors() < before + MANY / 2, "{} before, {} now", before, descriptors());
        assert_eq!(ebpf.attachments().len(), MANY);
        drop(ebpf);
        let mut ebpf = Ebpf::open(&dir.0, Config::small()).unwrap();
        assert_eq!(ebpf.attachments().len(), MANY, "found again");
        sh("ip link del x0");
        assert_eq!(ebpf.sweep().unwrap().len(), 1);
    };
    std::thread::spawn(many).join().unwrap();
}
