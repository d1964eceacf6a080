//! Readers of a hub: what they get, and what becomes of those who do not read. Needs root.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{fs::MetadataExt as _, net::UnixStream},
    path::PathBuf,
};

use super::{
    follow::{FULL_FOR, QUEUE_LEN},
    *,
};
use netpolc_flow::{Flow, Verdict};

/// A hub on a socket of its own.
struct Served {
    path: PathBuf,
    batches: mpsc::Sender<Batch>,
    hub: Hub,
}

impl Served {
    fn up(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("netpolc-hub-{name}-{}", std::process::id()));
        let path = folder.join("flows");
        let (batches, hub) = start(&path).unwrap();
        Self { path, batches, hub }
    }

    fn send(&self, times: std::ops::Range<u64>) {
        let batch: Batch = times.map(|time| Arc::new(flow(time))).collect();
        for some in batch.chunks(256) {
            self.batches.blocking_send(some.to_vec()).unwrap();
        }
    }

    fn ask(&self, request: &str) -> BufReader<UnixStream> {
        let mut stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        // A hub that refuses may have hung up by now; its answer is there all the same.
        let _ = stream.write_all(format!("{request}\n").as_bytes());
        BufReader::new(stream)
    }

    /// The answer to a request that does not follow.
    fn answer(&self, request: &str) -> Vec<Line> {
        let lines = self.ask(request).lines();
        lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect()
    }

    /// Waits until the hub has this flow.
    fn until(&self, time: u64) {
        let asked = format!("{{\"last\":1,\"sinceNanos\":{time}}}");
        let began = Instant::now();
        while self.answer(&asked).is_empty() {
            assert!(began.elapsed() < Duration::from_secs(30), "{time} never comes");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.path.parent().unwrap());
    }
}

fn flow(time: u64) -> Line {
    Line::Flow(Box::new(Flow {
        time,
        node: "n1".into(),
        verdict: Verdict::Denied,
        reason: Some("policy".into()),
        direction: netpolc_policy::Direction::Ingress,
        pod: Some("default/db".into()),
        source: Default::default(),
        destination: Default::default(),
        protocol: "TCP".into(),
        tcp_flags: None,
        icmp: None,
        by: vec![],
        bytes: 60,
    }))
}

fn times(lines: &[Line]) -> Vec<u64> {
    let time = |line: &Line| if let Line::Flow(flow) = line { Some(flow.time) } else { None };
    lines.iter().filter_map(time).collect()
}

fn next(reader: &mut BufReader<UnixStream>) -> Option<Line> {
    let mut line = String::new();
    // A reset is an end, too.
    matches!(reader.read_line(&mut line), Ok(1..)).then(|| serde_json::from_str(&line).unwrap())
}

#[test]
fn readers_get_what_there_is_and_what_comes() {
    let hub = Served::up("read");
    assert_eq!(std::fs::metadata(&hub.path).unwrap().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(hub.path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
    hub.send(10..20);
    hub.until(19);
    assert_eq!(times(&hub.answer("{\"last\":3}")), [17, 18, 19]);
    assert_eq!(times(&hub.answer("{\"sinceNanos\":18}")), [18, 19]);
    assert_eq!(times(&hub.answer("{\"last\":1,\"sinceNanos\":15}")), [19]);
    assert_eq!(hub.answer("{\"last\":0}"), []);
    let mut reader = hub.ask("{\"last\":2,\"follow\":true}");
    let first: Vec<Line> = (0..3).filter_map(|_| next(&mut reader)).collect();
    assert_eq!(first, [flow(18), flow(19), Line::Live(true)]);
    hub.send(20..22);
    assert_eq!([next(&mut reader), next(&mut reader)], [Some(flow(20)), Some(flow(21))]);
    // No more than a certain number is kept.
    hub.send(22..22 + KEPT as u64);
    hub.until(21 + KEPT as u64);
    assert_eq!(hub.answer("{}").len(), KEPT);
    assert_eq!(times(&hub.answer("{}"))[0], 22);
}

#[test]
fn a_request_that_makes_no_sense_is_answered_with_the_reason() {
    let hub = Served::up("refuse");
    for (asked, why) in [
        ("{\"verdict\":\"denied\"}", "unknown field `verdict`"),
        ("nonsense", "cannot be understood"),
        ("{\"last\":-1}", "cannot be understood"),
        (&" ".repeat(MAX_REQUEST_LEN + 1), "longer than 4096 bytes"),
    ] {
        let mut text = String::new();
        // Whether there is an end of the file or a reset behind it makes no difference.
        let _ = hub.ask(asked).read_to_string(&mut text);
        let Ok(Line::Error(said)) = serde_json::from_str(&text) else { panic!("{asked}: {text}") };
        assert!(said.contains(why), "{said}");
    }
    let silent = UnixStream::connect(&hub.path).unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let said = next(&mut BufReader::new(silent));
    assert_eq!(said, Some(Line::Error("no request came within 5 s".into())));
}

/// One reader reads nothing, and another one gets every flow meanwhile.
#[test]
fn a_reader_who_does_not_read_is_cut_off_and_holds_up_nobody() {
    let hub = Served::up("slow");
    let mut slow = hub.ask("{\"last\":0,\"follow\":true}");
    assert_eq!(next(&mut slow), Some(Line::Live(true)));
    let mut quick = hub.ask("{\"last\":0,\"follow\":true}");
    assert_eq!(next(&mut quick), Some(Line::Live(true)));
    let (began, mut sent) = (Instant::now(), 0);
    while began.elapsed() < FULL_FOR + Duration::from_secs(2) {
        hub.send(sent..sent + 1024);
        for time in sent..sent + 1024 {
            assert_eq!(next(&mut quick), Some(flow(time)));
        }
        sent += 1024;
        std::thread::sleep(Duration::from_millis(20));
    }
    // What was on its way is still there, and then the end.
    let mut rest = String::new();
    let _ = slow.read_to_string(&mut rest);
    let got = rest.lines().count() as u64;
    assert!(got < sent, "the reader was not cut off: {got} of {sent}");
}

/// A reader who is slow for a moment is told how much it has missed.
#[test]
fn a_reader_who_was_slow_is_told_what_it_has_lost() {
    let hub = Served::up("lost");
    let mut reader = hub.ask("{\"last\":0,\"follow\":true}");
    assert_eq!(next(&mut reader), Some(Line::Live(true)));
    let (sent, mut got) = (4 * QUEUE_LEN as u64, 0);
    hub.send(0..sent);
    hub.until(sent - 1);
    // What is lost is said in front of the next flow for which there is room.
    let mut late = sent..;
    loop {
        hub.send(late.next().map(|time| time..time + 1).unwrap());
        match next(&mut reader).expect("it is not cut off so soon") {
            Line::Flow(flow) => assert_eq!(flow.time, got),
            Line::Lost(lost) => {
                assert_eq!(times(&next(&mut reader).into_iter().collect::<Vec<_>>()), [got + lost]);
                return;
            }
            other => panic!("{other:?}"),
        }
        got += 1;
    }
}

/// Those who read within this process are told the same, and are cut off as others are.
#[test]
fn readers_within_the_process_have_queues_of_their_own() {
    use netpolc_hubble::source::Flows as _;
    let hub = Served::up("within");
    hub.send(0..10);
    hub.until(9);
    let figures = hub.hub.figures();
    assert_eq!((figures.kept, figures.most, figures.seen), (10, KEPT, 10));
    let (kept, mut followed) = hub.hub.follow();
    assert_eq!(kept.len(), 10);
    hub.send(10..12);
    for time in 10..12 {
        match followed.lines.blocking_recv().unwrap() {
            Told::All(line) => assert_eq!(*line, flow(time)),
            other => panic!("{other:?}"),
        }
    }
    // What finds no place is told of as missed, once there is a place again.
    let sent = 12 + 2 * QUEUE_LEN as u64;
    hub.send(12..sent);
    hub.until(sent - 1);
    for time in 12..12 + QUEUE_LEN as u64 {
        assert!(
            matches!(followed.lines.blocking_recv(), Some(Told::All(line)) if *line == flow(time))
        );
    }
    hub.send(sent..sent + 1);
    match followed.lines.blocking_recv().unwrap() {
        Told::Missed(line) => assert_eq!(line, Line::Lost(QUEUE_LEN as u64)),
        other => panic!("{other:?}"),
    }
    assert!(matches!(followed.lines.blocking_recv(), Some(Told::All(line)) if *line == flow(sent)));
    // One who reads no more is cut off, and one who goes leaves nothing behind.
    let began = Instant::now();
    let mut next = sent + 1;
    while followed.cut.try_recv() == Err(tokio::sync::oneshot::error::TryRecvError::Empty) {
        assert!(began.elapsed() < Duration::from_secs(60), "it is never cut off");
        hub.send(next..next + 1024);
        next += 1024;
        std::thread::sleep(Duration::from_millis(50));
    }
    drop((followed, hub.hub.follow()));
    assert!(hub.hub.lock().lines.is_empty());
    hub.send(next..next + KEPT as u64 + 5);
    hub.until(next + KEPT as u64 + 4);
    assert_eq!(hub.hub.figures().kept, KEPT);
}

#[test]
fn there_is_room_for_so_many_readers_and_no_more() {
    let hub = Served::up("many");
    let follow = || {
        let mut reader = hub.ask("{\"last\":0,\"follow\":true}");
        let first = next(&mut reader);
        (reader, first)
    };
    let readers: Vec<_> = (0..MAX_READERS).map(|_| follow()).collect();
    assert!(readers.iter().all(|(_, first)| *first == Some(Line::Live(true))));
    let mut text = String::new();
    let _ = BufReader::new(UnixStream::connect(&hub.path).unwrap()).read_line(&mut text);
    assert!(text.contains("32 readers are served already"), "{text}");
    drop(readers);
    let began = Instant::now();
    while follow().1 != Some(Line::Live(true)) {
        assert!(began.elapsed() < Duration::from_secs(30), "nobody leaves");
        std::thread::sleep(Duration::from_millis(5));
    }
}
