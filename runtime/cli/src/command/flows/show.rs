//! How flows are printed: a line for each, a table, or JSON.
//!
//! Names come from others, so whatever is printed is safe for a terminal. Not here: which flows are
//! printed ([`super`]), and who is denied most ([`super::top`]).

use std::io::{self, Write};

use netpolc_export::ocsf;
use netpolc_flow::{
    Flow, Verdict,
    line::{Line, Unrecorded},
};
use netpolc_kube_sync::{plain, plain_json};

use super::{nearest::Nearest, time};
use crate::{
    cli::flows::FlowFormat,
    output::{self, Colour},
};

/// Prints flows in one of the formats.
pub struct Show<W> {
    out: W,
    format: FlowFormat,
    colour: Colour,
    rows: Vec<[String; 7]>,
    /// What is shown under denied flows, on lines for people.
    pub nearest: Option<Nearest>,
}

impl<W: Write> Show<W> {
    /// Prints to `out`.
    pub fn new(out: W, format: FlowFormat, colour: Colour) -> Self {
        Self { out, format, colour, rows: Vec::new(), nearest: None }
    }

    /// Prints a line of the agent's. What is no flow is a note, but in JSON and OCSF.
    ///
    /// # Errors
    /// `out` cannot be written.
    pub fn line(&mut self, line: &Line) -> io::Result<()> {
        match (self.format, line) {
            (_, Line::Live(_) | Line::Error(_)) => {}
            (FlowFormat::Json, line) => self.out.write_all(json(line).as_bytes())?,
            (FlowFormat::Ocsf, line) => {
                let text = ocsf::text(line, time::now());
                self.out.write_all(text.unwrap_or_default().as_bytes())?;
            }
            (_, Line::Lost(_) | Line::Unrecorded(_)) => {
                // The order of the two streams is the order of what has happened.
                self.out.flush()?;
                notes(line).iter().for_each(output::complain);
            }
            (FlowFormat::Compact, Line::Flow(flow)) => {
                writeln!(self.out, "{}", compact(flow, self.colour))?;
                if let Some(nearest) = &mut self.nearest {
                    self.out.write_all(nearest.under(flow).as_bytes())?;
                }
            }
            (FlowFormat::Table, Line::Flow(flow)) => self.rows.push(row(flow)),
        }
        Ok(())
    }

    /// Prints text that is safe, and hands it on.
    ///
    /// # Errors
    /// `out` cannot be written.
    pub fn text(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    /// Hands on what was printed.
    ///
    /// # Errors
    /// `out` cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Prints what could not be printed before the end.
    ///
    /// # Errors
    /// `out` cannot be written.
    pub fn finish(&mut self) -> io::Result<()> {
        if self.format == FlowFormat::Table {
            let head = ["time", "verdict", "direction", "source", "destination", "protocol", "why"];
            writeln!(self.out, "{}", output::table(&head, std::mem::take(&mut self.rows)))?;
        }
        self.out.flush()
    }
}

/// What is said about flows that are missing.
pub fn notes(line: &Line) -> Vec<String> {
    match line {
        Line::Lost(count) => vec![format!(
            "note: {count} flows are missing here, since they were not read fast enough"
        )],
        Line::Unrecorded(all) => all.iter().map(unrecorded).collect(),
        Line::Flow(_) | Line::Live(_) | Line::Error(_) => vec![],
    }
}

fn unrecorded(Unrecorded { pod, direction, reason, packets }: &Unrecorded) -> String {
    let pod = pod.as_deref().map_or("an unknown pod".into(), |pod| format!("pod {pod}"));

    plain(&format!(
        "note: {packets} more packets of {pod} ({direction}, {reason}) were counted and not \
        recorded, since there were so many"
    ))
    .into_owned()
}

/// The line as JSON.
fn json(line: &Line) -> String {
    plain_json(line.text().trim_end_matches('\n')).into_owned() + "\n"
}

/// The flow on one line.
fn compact(flow: &Flow, colour: Colour) -> String {
    let (time, verdict) = (time::text(flow.time), verdict(flow.verdict, colour));
    format!("{time} {verdict} {}", plain(&flow.rest()))
}

fn row(flow: &Flow) -> [String; 7] {
    [
        time::text(flow.time),
        flow.verdict.to_string(),
        flow.direction.to_string(),
        flow.source.end(),
        flow.destination.end(),
        flow.traffic(),
        flow.why(),
    ]
    .map(|cell| plain(&cell).into_owned())
}

fn verdict(verdict: Verdict, colour: Colour) -> String {
    let text = format!("{:<7}", verdict.name());
    match verdict {
        Verdict::Allowed => colour.good(&text),
        Verdict::Denied => colour.bad(&text),
        Verdict::Audit => colour.strong(&text),
    }
}

#[cfg(test)]
mod tests {
    use netpolc_flow::{Decider, Kind};
    use netpolc_kube_sync::controls;
    use netpolc_policy::Direction;

    use super::{super::example, *};

    fn shown(flow: Flow, format: FlowFormat) -> String {
        let mut show = Show::new(Vec::new(), format, Colour::Off);
        show.line(&Line::Flow(Box::new(flow))).unwrap();
        show.finish().unwrap();
        String::from_utf8(show.out).unwrap()
    }

    #[test]
    fn a_flow_is_one_line() {
        assert_eq!(
            shown(example::denied(), FlowFormat::Compact),
            "2026-12-01T02:00:00.123Z denied  ingress shop/ui-6d5f:40312 -> data/db-0:5432 TCP SYN \
             (policy: isolated by data/db)\n"
        );
        let mut flow = example::denied();
        (flow.source.pod, flow.icmp, flow.tcp_flags) = (None, Some([8, 0]), None);
        (flow.verdict, flow.reason, flow.by) = (Verdict::Allowed, None, vec![]);
        flow.source.address = Some("fd00::1".parse().unwrap());
        flow.destination.pod = None;
        flow.destination.service = Some("data/db".into());
        let text = shown(flow, FlowFormat::Compact);
        let expected = "ingress [fd00::1]:40312 -> service/data/db:5432 TCP type 8 code 0\n";
        assert!(text.ends_with(expected), "{text}");
    }

    /// Whatever a name consists of, it forges no line and moves no cursor, in any format.
    #[test]
    fn names_are_safe_for_a_terminal() {
        let evil = "shop/ui\u{1b}[2J\n\u{202e}x\u{9b}\u{7f}";
        let mut flow = example::denied();
        flow.source.pod = Some(evil.into());
        flow.by = vec![Decider::whole(Kind::NetworkPolicy, evil)];
        flow.reason = Some(evil.into());
        flow.protocol = evil.into();
        for format in [FlowFormat::Compact, FlowFormat::Table, FlowFormat::Json] {
            let text = shown(flow.clone(), format);
            let bad = |c: &char| controls(*c) && *c != '\n';
            assert_eq!(text.chars().find(bad), None, "{format:?} {text:?}");
            let lines = if format == FlowFormat::Table { 3 } else { 1 };
            assert_eq!(text.lines().count(), lines, "{text}");
        }
        // JSON says the same as before.
        let read = serde_json::from_str(&shown(flow.clone(), FlowFormat::Json)).unwrap();
        assert_eq!(Line::Flow(Box::new(flow)), read);
        let unrecorded = Line::Unrecorded(vec![Unrecorded {
            pod: Some(evil.into()),
            direction: Direction::Egress,
            reason: "policy".into(),
            packets: 3,
        }]);
        let note = notes(&unrecorded).concat();
        assert!(note.contains("3 more packets") && !note.contains(controls), "{note}");
    }
}
