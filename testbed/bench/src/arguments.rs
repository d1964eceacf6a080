//! The command line of `netpolc-bench`.

use std::collections::BTreeSet;

use clap::{Parser, ValueEnum};
use netpolc::cli::raw::Report;

/// Measures netpolc: cost per packet, compile time, the real path against nftables and ipset.
#[derive(Debug, Parser)]
#[command(name = "netpolc-bench", version, max_term_width = 100)]
#[command(after_help = "Ratios and differences within one run are what counts; machines differ.

Examples:
  netpolc bench                 packet cost and compile time
  netpolc bench packet -o json
  netpolc bench path            real packets between two namespaces")]
pub struct Arguments {
    /// What to measure
    #[arg(value_enum)]
    pub what: Vec<BenchPart>,
    /// How to show it
    #[arg(short, long, value_enum, default_value_t = Report::Table)]
    pub output: Report,
    /// Interleaved rounds; more find the minimum better
    #[arg(long, value_name = "COUNT", default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
}

/// What is asked for, with defaults applied.
#[derive(Debug)]
pub struct Bench {
    /// What to measure; at least one part.
    pub parts: BTreeSet<BenchPart>,
    /// How to show the results.
    pub report: Report,
    /// How many interleaved rounds there are, at least 1.
    pub rounds: u32,
}

impl Arguments {
    /// What the arguments ask for, with defaults applied.
    pub fn request(self) -> Bench {
        let parts = if self.what.is_empty() {
            vec![BenchPart::Packet, BenchPart::Compile]
        } else {
            self.what
        };
        Bench { parts: parts.into_iter().collect(), report: self.output, rounds: self.rounds }
    }
}

/// A part that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum BenchPart {
    /// Cost per packet by BPF_PROG_TEST_RUN (needs root)
    Packet,
    /// What a record of a packet costs, by BPF_PROG_TEST_RUN (needs root)
    Records,
    /// Flows of a node under load, with a real agent (needs root)
    Flows,
    /// Decoding, compiling and pod events of a big cluster
    Compile,
    /// Lists, differences, explanations and proofs of big clusters
    Ask,
    /// Real packets between two namespaces, against nftables and ipset (needs root, nft, ipset)
    Path,
    /// From a real API server's events to the kernel (needs root; builds Kubernetes from Debian's
    /// packages once)
    Kube,
    /// Filters into the kernel, against a bare netlink loop and tc (needs root, tc, a kernel with
    /// flower)
    Flower,
    /// Others' updates while one tenant does its worst (needs root)
    Tenants,
    /// Very many connections of one pod, between namespaces (needs root)
    Connections,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_parts_it_measures_what_needs_no_other_tools() {
        let request = Arguments::parse_from(["netpolc-bench"]).request();
        assert_eq!(request.parts, BTreeSet::from([BenchPart::Packet, BenchPart::Compile]));
    }
}
