//! Who is denied most, and by which policy.

use std::collections::BTreeMap;

use netpolc_flow::{
    Flow, Verdict,
    line::{Line, Owed},
};
use netpolc_kube_sync::plain;

use super::{show, time};
use crate::output;

/// How many rows are shown.
const SHOWN: usize = 20;
/// How many pairs of ends and policies are told apart; there is no end of addresses.
const MOST: usize = 10_000;

/// Denied packets, added up.
#[derive(Debug, Default)]
pub struct Top {
    rows: BTreeMap<Row, Count>,
    /// Denied packets for which there was no row left.
    others: u64,
    /// What is missing among the flows.
    missing: Owed,
}

/// What is counted together.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    source: String,
    destination: String,
    by: String,
}

#[derive(Debug, Default)]
struct Count {
    packets: u64,
    last: u64,
}

impl Top {
    /// Counts a line; of flows those that were denied.
    pub fn take(&mut self, line: &Line) {
        match line {
            Line::Flow(flow) if flow.verdict == Verdict::Denied => self.flow(flow),
            Line::Flow(_) => {}
            other => self.missing.line(other),
        }
    }

    fn flow(&mut self, flow: &Flow) {
        let policies = flow.policies().join(", ");
        let reason = || flow.reason.as_deref().unwrap_or("unknown").to_owned();
        let by = if policies.is_empty() { reason() } else { policies };
        let (source, destination) = (flow.source.told(), flow.destination.told());
        let row = Row { source, destination, by };
        if self.rows.len() >= MOST && !self.rows.contains_key(&row) {
            self.others += 1;
            return;
        }
        let count = self.rows.entry(row).or_default();
        count.packets += 1;
        count.last = count.last.max(flow.time);
    }

    /// The table, with what is not in it below, and a line break at the end.
    pub fn text(&self) -> String {
        let mut rows: Vec<(&Row, &Count)> = self.rows.iter().collect();
        rows.sort_by_key(|(_, count)| std::cmp::Reverse(count.packets));
        let more: u64 = rows.iter().skip(SHOWN).map(|(_, count)| count.packets).sum();
        let cells = rows.iter().take(SHOWN).map(|(row, count)| {
            let [source, destination, by] =
                [&row.source, &row.destination, &row.by].map(|name| plain(name).into_owned());
            [count.packets.to_string(), source, destination, by, time::text(count.last)]
        });
        let head = ["denied", "source", "destination", "by", "last"];
        let mut text = match rows.is_empty() {
            true => "No packet was denied.\n".to_owned(),
            false => format!("{}\n", output::table(&head, cells)),
        };
        if more + self.others > 0 {
            text += &format!("{} denied packets of others\n", more + self.others);
        }
        for note in self.missing.clone().settle().iter().flat_map(show::notes) {
            text += &format!("{note}\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::{super::example, *};

    #[test]
    fn the_most_denied_come_first_and_nothing_is_forgotten() {
        let mut top = Top::default();
        assert_eq!(top.text(), "No packet was denied.\n");
        let take = |top: &mut Top, source: &str, times: usize| {
            let mut flow = example::denied();
            flow.source.pod = Some(source.into());
            (0..times).for_each(|_| top.take(&Line::Flow(Box::new(flow.clone()))));
        };
        for n in 0..SHOWN {
            take(&mut top, &format!("shop/p{n}"), 3);
        }
        take(&mut top, "shop/often", 7);
        let mut allowed = example::denied();
        allowed.verdict = Verdict::Allowed;
        top.take(&Line::Flow(Box::new(allowed)));
        top.take(&Line::Lost(5));
        let text = top.text();
        let first = text.lines().nth(2).unwrap();
        assert!(first.contains("7") && first.contains("shop/often"), "{text}");
        assert!(first.contains("data/db-0") && first.contains("data/db "), "{text}");
        assert!(text.contains("\n3 denied packets of others\nnote: 5 flows are missing"), "{text}");
    }
}
