//! A flow in words: one line that says everything, and its parts.
//!
//! Names come from others and stand here as they are: whoever prints them makes them safe. Not
//! here: colours and tables (`netpolc flows`).

use crate::{Flow, Peer};

impl Flow {
    /// The flow on one line, without its time: verdict, direction, ends, protocol, and why.
    pub fn words(&self) -> String {
        format!("{} {}", self.verdict, self.rest())
    }

    /// The same without the verdict.
    pub fn rest(&self) -> String {
        let (from, to) = (self.source.end(), self.destination.end());
        let why = match self.why() {
            why if why.is_empty() => why,
            why => format!(" ({why})"),
        };
        format!("{:<7} {from} -> {to} {}{why}", self.direction.to_string(), self.traffic())
    }

    /// The protocol, with the flags of TCP, or type and code of ICMP.
    pub fn traffic(&self) -> String {
        let mut text = self.protocol.to_string();
        if let Some(flags) = &self.tcp_flags {
            text.extend([" ", flags]);
        }
        if let Some([kind, code]) = self.icmp {
            text.push_str(&format!(" type {kind} code {code}"));
        }
        text
    }

    /// The reason and the rules.
    pub fn why(&self) -> String {
        let by = self.decided().join(", ");
        match (self.reason.as_deref(), by.is_empty()) {
            (Some(reason), true) => reason.to_owned(),
            (Some(reason), false) => format!("{reason}: {by}"),
            (None, _) => by,
        }
    }
}

impl Peer {
    /// The name by which an end is known, which tells a Service from a pod.
    pub fn told(&self) -> String {
        match (&self.pod, &self.service) {
            (None, Some(service)) => format!("service/{service}"),
            _ => self.name(),
        }
    }

    /// The name of an end with its port.
    pub fn end(&self) -> String {
        let name = self.told();
        match self.port {
            Some(port) if name.contains(':') => format!("[{name}]:{port}"),
            Some(port) => format!("{name}:{port}"),
            None => name,
        }
    }
}
