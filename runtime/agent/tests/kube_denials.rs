//! What the agent's loop makes of denied traffic, with a target in memory and a fake API server:
//! Events, on which pod they are, what they say, and that many packets make few of them; series of
//! rules; and that a collector of OpenTelemetry is sent the same flows. What a collector gets in
//! detail: netpolc-export's `otlp.rs`.

mod common;

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, TcpListener},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use common::{Host, Net, interface};
use netpolc_agent::serve::{
    Options, cluster_loop, flows::denials::Limits, metrics::Metrics, record::Record,
};
use netpolc_export::otlp;
use netpolc_kube_sync::{
    Families,
    watch::{self, Lists},
};
use netpolc_target::{Arrival, Frame, Hook, Mark, Verdict, frame::Packet};
use netpolc_testbed::kube::fake::Fake;
use serde_json::{Value, json};

fn pod(name: &str, address: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": name},
            "uid": format!("uid-of-{name}")},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "c"}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}})
}

fn policy() -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "db", "namespace": "shop"},
        "spec": {"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress"],
            "ingress": [{"ports": [{"port": 5432}]}]}})
}

fn opening(from: &str, to: &str, port: u16) -> Frame {
    let [from, to]: [IpAddr; 2] = [from, to].map(|address| address.parse().unwrap());
    let bytes = Packet::new(from, to).tcp(4000, port, 0x02).build();
    let (interface, arrival) = (interface(to), Arrival::At(interface(from)));
    Frame { interface, arrival, mark: Mark::Clear, bytes }
}

/// A collector that takes everything: its URL, and what it was sent.
fn collector() -> (String, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let got = Arc::new(Mutex::new(Vec::new()));
    let into = got.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, into) = (stream.unwrap(), into.clone());
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let (mut line, mut length) = (String::new(), 0);
                while reader.read_line(&mut line).is_ok_and(|read| read > 0) {
                    if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    if line == "\r\n" {
                        let mut body = vec![0; length];
                        reader.read_exact(&mut body).unwrap();
                        into.lock().unwrap().extend(body);
                        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
                    }
                    line.clear();
                }
            });
        }
    });
    (url, got)
}

#[tokio::test]
async fn denied_traffic_is_told_of_on_its_pod_and_seldom() {
    let fake = Fake::new();
    fake.put(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.1"}]}}));
    fake.put(&pod("db", "10.9.0.1"));
    fake.put(&pod("ui", "10.9.0.2"));
    fake.put(&policy());
    let pin_dir = PathBuf::from(format!("/sys/fs/bpf/netpolc-test-denials-{}", std::process::id()));
    let mut options = Options::new("n1", pin_dir.clone());
    options.denial_events = Some(Limits::default());
    let (url, sent) = collector();
    options.otlp = Some(otlp::Config::read(&url, "").unwrap());
    let source = watch::Options {
        access: fake.access(),
        node: Some("n1".into()),
        lists: Lists::Automatic,
        families: Families::default(),
    };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (metrics, host) = (Metrics::new(pin_dir.clone()), Host::new());
    let (wire, text) = (host.wire(), metrics.clone());
    let agent =
        cluster_loop::serve(&options, source, metrics, host, Net, async { drop(stopped.await) });
    let has = |line: &str| text.text().lines().any(|one| one == line);
    let rule = |rule: &str, verdict: &str, count: u64| {
        format!(
            "netpolc_rule_flows_total{{policy=\"shop/db\",rule=\"{rule}\",verdict=\"{verdict}\"}} \
            {count}"
        )
    };
    let began = Instant::now();
    let wait = async |what: &str, holds: &dyn Fn() -> bool| {
        while !holds() {
            assert!(began.elapsed() < Duration::from_secs(60), "{what}: {}", text.text());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let story = async {
        // A rule shows before it is used.
        wait("the policy's rules", &|| has(&rule("ingress[0]", "allowed", 0))).await;
        assert!(has(&rule("", "denied", 0)));
        let packet = |from, port| wire.packet(Hook::ToPod, &opening(from, "10.9.0.1", port));
        // The loop may not observe yet.
        wait("a denial is noticed", &|| {
            assert_eq!(packet("10.9.0.2", 6379), Verdict::Drop);
            !has(&rule("", "denied", 0))
        })
        .await;
        for _ in 0..20 {
            assert_eq!(packet("10.9.0.2", 6379), Verdict::Drop);
        }
        for port in 1000..1100 {
            assert_eq!(packet("203.0.113.9", port), Verdict::Drop);
        }
        assert_eq!(packet("10.9.0.2", 5432), Verdict::Next);
        let events = || {
            let events = fake.written("/events").into_iter();
            events.filter(|event| event["reason"] == "TrafficDenied").collect::<Vec<Value>>()
        };
        wait("the Events", &|| events().len() >= 4).await;
        wait("the permitted connection", &|| has(&rule("ingress[0]", "allowed", 1))).await;
        // Whatever else happens now is told of much later.
        tokio::time::sleep(Duration::from_secs(6)).await;
        let events = events();
        assert_eq!(events.len(), 4, "as many as a pod may have: {events:#?}");
        assert!(has("netpolc_denial_events_total{result=\"reported\"} 4"), "{}", text.text());
        let of_ui = events.iter().find(|event| event["note"].to_string().contains("shop/ui"));
        let of_ui = of_ui.unwrap_or_else(|| panic!("{events:#?}"));
        let note = of_ui["note"].as_str().unwrap();
        let beginning = "ingress from shop/ui to TCP 6379 denied: isolated by shop/db (";
        assert!(note.starts_with(beginning) && note.contains(" packets in "), "{note}");
        let about = &of_ui["regarding"];
        assert_eq!(
            (&about["kind"], &about["name"], &about["uid"]),
            (&json!("Pod"), &json!("db"), &json!("uid-of-db"))
        );
        assert_eq!(of_ui["type"], "Warning");
        assert_eq!(of_ui["metadata"]["namespace"], "shop");
        assert!(of_ui["series"]["count"].as_u64().unwrap() >= 20, "{of_ui:#}");
        assert!(of_ui["series"]["lastObservedTime"].is_string(), "{of_ui:#}");

        let is_sent = |text: &str| {
            let sent = sent.lock().unwrap();
            sent.windows(text.len()).any(|part| part == text.as_bytes())
        };
        wait("flows are sent", &|| is_sent("shop/ui:4000 -> shop/db:6379 TCP SYN (policy: ")).await;
        assert!(is_sent("netpolc_in_step"), "the metrics are sent, too");
        wait("they are counted", &|| {
            let text = text.text();
            let mut lines = text.lines();
            let count = lines.find_map(|line| line.strip_prefix("netpolc_otlp_sent_flows_total "));
            // A pod has no more records than this for each moment; the rest is counted in one line.
            count.is_some_and(|count| count.parse::<u64>().unwrap() > 60)
        })
        .await;
        assert!(has("netpolc_otlp_dropped_flows_total 0"));

        // A policy that goes takes its series along.
        fake.delete(&policy());
        wait("the series end", &|| !text.text().contains("policy=\"shop/db\"")).await;
        stop.send(()).unwrap();
    };
    let (outcome, ()) = tokio::join!(agent, story);
    outcome.unwrap();
    Record::remove(&pin_dir).unwrap();
}
