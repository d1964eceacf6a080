//! Which filters find which flows, and what is said of filters that make no sense.

use clap::Parser;

use super::{super::example, *};

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    filters: Filters,
}

fn read(arguments: &str) -> anyhow::Result<Filter> {
    let words = std::iter::once("flows").chain(arguments.split_whitespace());
    Filter::read(&Line::try_parse_from(words)?.filters)
}

#[test]
fn filters_find_what_they_say() {
    let flow = example::denied();
    for (arguments, found) in [
        ("", true),
        ("--verdict denied", true),
        ("--verdict allowed", false),
        ("--verdict allowed --verdict denied", true),
        ("--reason policy", true),
        ("--reason spoofed_source", false),
        ("--pod shop/ui", true),
        ("--pod ui", true),
        ("--pod shop/", true),
        ("--pod data/ui", false),
        ("--from-pod shop/ui-6d5f", true),
        ("--to-pod shop/ui", false),
        ("--to-pod data/db", true),
        ("--namespace shop", true),
        ("--namespace sho", false),
        ("--from-namespace data", false),
        ("--to-namespace data", true),
        ("--label role=db", true),
        ("--from-label role=db", false),
        ("--to-label role=db,!canary", true),
        ("--to-label role!=db", false),
        ("--ip 10.7.0.0/24", true),
        ("--from-ip 10.7.0.2", true),
        ("--to-ip 10.7.0.2", false),
        ("--ip fd00::/8", false),
        ("--port 5432", true),
        ("--port 40000-41000", true),
        ("--from-port 5432", false),
        ("--to-port 5432", true),
        ("--to-port 40312", false),
        ("--protocol tcp", true),
        ("--protocol udp", false),
        ("--protocol protocol-6", true),
        ("--service data/db", false),
        ("--workload ui", true),
        ("--workload shop/ui", true),
        ("--workload deployment/shop/ui", true),
        ("--workload statefulset/shop/ui", false),
        ("--workload u", false),
        ("--policy data/db", true),
        ("--policy db", true),
        ("--policy data", false),
        ("--not policy=db", false),
        ("--not namespace=kube-system", true),
        ("--not from-pod=shop/ui", false),
        ("--verdict denied --port 80", false),
        ("--port 80 --port 5432 --verdict denied --not protocol=udp", true),
    ] {
        assert_eq!(read(arguments).unwrap().finds(&flow), found, "{arguments}");
    }
}

#[test]
fn filters_that_make_no_sense_are_refused_with_what_to_write() {
    for (arguments, why) in [
        ("--verdict maybe", "write allowed, denied or audit"),
        ("--reason bored", "write one of policy, fragment"),
        ("--pod a/b/c", "write NAMESPACE/NAME"),
        ("--pod /b", "write NAMESPACE/NAME"),
        ("--namespace shop/*", "whole name of one namespace"),
        ("--label =x", "write key=value"),
        ("--ip 10.7.0", "write an address, or a CIDR"),
        ("--port 70000", "write a number up to 65535"),
        ("--port 9-8", "ends before it begins"),
        ("--protocol smtp", "write tcp, udp"),
        ("--workload a/b/c/d", "write NAME, NAMESPACE/NAME"),
        ("--not kube-system", "write FILTER=VALUE"),
        ("--not namespase=x", "did you mean namespace?"),
        ("--not port=x", "write a number"),
        ("--verdict allowed --reason policy", "only denied packets have a --reason"),
    ] {
        let error = format!("{:#}", read(arguments).unwrap_err());
        assert!(error.contains(why), "{arguments}: {error}");
    }
}
