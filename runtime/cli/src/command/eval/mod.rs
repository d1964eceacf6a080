//! `netpolc eval`: reads probes and prints verdicts, one JSON object per line.
//!
//! Here: lines in and lines out. Not here: what a probe means (`probe`, `service`), and the answers
//! ([`crate::judge`]).

mod probe;
mod service;

use std::{
    io::{BufRead, Write},
    path::Path,
};

use anyhow::Context;
use netpolc_kube_sync::Absent;
use netpolc_policy::{Cluster, Frontends, audit, oracle::Question};
use serde_json::{Map, Value, json};

use self::{
    probe::{Probe, question},
    service::{Routes, routes},
};
use crate::{
    cli::request::Eval,
    input,
    judge::{self, Answer, Judge, JudgeName, oracle::Oracle},
    output::{self, Outcome},
};

/// The longest line that is read as a probe, in bytes.
const MAX_LINE_LEN: usize = 1 << 20;

/// Runs `netpolc eval`.
///
/// # Errors
/// The input or the probes cannot be read, the judge cannot be started, or standard output cannot
/// be written.
pub fn run(eval: &Eval) -> anyhow::Result<Outcome> {
    if eval.judge == JudgeName::Ebpf {
        output::needs_root("--judge ebpf (it loads programs into the kernel)")?;
    }
    let (survey, refused) = input::read(&eval.input, Absent::MadeUp)?;
    let cluster = &survey.loaded.cluster;
    let mut judge = judge::open(eval.judge, cluster)?;
    // Whatever judge is asked about what is enforced, the policies themselves are asked about what
    // is only tried.
    let shadow = audit::shadow(cluster);
    let asked = Asked { cluster, shadow: shadow.as_ref(), frontends: &survey.frontends };
    let mut out = output::stdout();
    let answered = answer_all(asked, judge.as_mut(), open(&eval.probes)?, &mut out)?;
    out.flush()?;
    Ok(refused.and(answered))
}

/// What probes are about.
#[derive(Clone, Copy, Debug)]
struct Asked<'c> {
    /// The cluster as it is enforced.
    cluster: &'c Cluster,
    /// The cluster in which every policy that is only tried is enforced; None where nothing is.
    shadow: Option<&'c Cluster>,
    /// The Services as their clients see them.
    frontends: &'c Frontends,
}

fn open(path: &Path) -> anyhow::Result<Box<dyn BufRead>> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(std::io::stdin().lock()));
    }
    let file = std::fs::File::open(path)
        .with_context(|| format!("--probes {} cannot be read", path.display()))?;
    Ok(Box::new(std::io::BufReader::new(file)))
}

/// Answers each line of `probes`. A line that is not valid gets an object with `error` in place of
/// an answer, and makes the outcome `Problems`. Where the verdict would be another one if what is
/// only tried were enforced, the answer has that one as `audit` (S85).
///
/// # Errors
/// The probes cannot be read, or the answers cannot be written.
fn answer_all(
    asked: Asked,
    judge: &mut dyn Judge,
    mut probes: impl BufRead,
    out: &mut impl Write,
) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::Fine;
    let mut line = Vec::new();
    for number in 1usize.. {
        line.clear();
        if read_line(&mut probes, &mut line).context("the probes could not be read")? == 0 {
            break;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let (mut probe, answer) = answer(asked, judge, &line);
        match answer {
            Ok(answer) => answer.into_iter().for_each(|(key, value)| probe.set(&key, value)),
            Err(error) => {
                outcome = Outcome::Problems;
                probe.set("error", json!(error));
                probe.set("line", json!(number));
            }
        }
        serde_json::to_writer(&mut *out, &probe).map_err(std::io::Error::from)?;
        writeln!(out)?;
        // The sender may wait for each answer before it sends the next probe.
        out.flush()?;
    }
    Ok(outcome)
}

/// Reads a line of any length, and keeps only so much of it that its excessive length can be seen.
/// Returns the number of bytes read.
fn read_line(from: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<usize> {
    let mut total = 0;
    loop {
        let chunk = from.fill_buf()?;
        if chunk.is_empty() {
            return Ok(total);
        }
        let end = chunk.iter().position(|b| *b == b'\n');
        let used = end.map_or(chunk.len(), |at| at + 1);
        let room = (MAX_LINE_LEN + 1).saturating_sub(line.len());
        line.extend_from_slice(&chunk[..end.unwrap_or(used).min(room)]);
        from.consume(used);
        total += used;
        if end.is_some() {
            return Ok(total);
        }
    }
}

/// The keys of an answer, in order.
type Keys = Vec<(String, Value)>;

fn answer(asked: Asked, judge: &mut dyn Judge, line: &[u8]) -> (Probe, Result<Keys, String>) {
    if line.len() > MAX_LINE_LEN {
        return (Probe::default(), Err(format!("the line is longer than {MAX_LINE_LEN} bytes")));
    }
    let probe: Probe = match serde_json::from_slice(line) {
        Ok(probe) => probe,
        Err(error) => {
            return (Probe::default(), Err(format!("this is not a valid probe: {error}")));
        }
    };
    let answer = match routes(asked.cluster, asked.frontends, &probe) {
        Ok(Some(routes)) => each(asked, judge, routes),
        Ok(None) => {
            question(asked.cluster, &probe).and_then(|question| verdict(asked, judge, &question))
        }
        Err(error) => Err(error),
    };
    (probe, answer)
}

/// The verdict about one packet, and what it would be if what is only tried were enforced.
fn verdict(asked: Asked, judge: &mut dyn Judge, question: &Question) -> Result<Keys, String> {
    let keys = |answer: &Answer| -> Result<Keys, String> {
        let value = |part| serde_json::to_value(part).map_err(|error| error.to_string());
        let allowed = ("allowed".to_owned(), json!(answer.allowed));
        let halves = [("egress", &answer.egress), ("ingress", &answer.ingress)];
        let halves = halves.into_iter().map(|(key, half)| Ok((key.to_owned(), value(half)?)));
        std::iter::once(Ok(allowed)).chain(halves).collect()
    };
    let answer = judge.judge(question).map_err(|error| error.to_string())?;
    let mut all = keys(&answer)?;
    let Some(shadow) = asked.shadow else { return Ok(all) };
    // The policies themselves are asked about both, since a judge may be stricter than they are.
    let ask = |cluster| Oracle::new(cluster).judge(question).map_err(|e| e.to_string());
    let (now, then) = (ask(asked.cluster)?, ask(shadow)?);
    if then.allowed != now.allowed {
        all.push(("audit".into(), Value::Object(Map::from_iter(keys(&then)?))));
    }
    Ok(all)
}

/// The verdicts about all backends of a Service. A client does not choose among them, so the
/// Service is permitted where all are.
fn each(asked: Asked, judge: &mut dyn Judge, routes: Routes) -> Result<Keys, String> {
    let mut backends = Vec::new();
    let mut allowed = true;
    for (mut route, question) in routes {
        let keys = verdict(asked, judge, &question)?;
        allowed &= keys.iter().any(|(key, value)| key == "allowed" && *value == json!(true));
        route.extend(keys);
        backends.push(Value::Object(route));
    }
    Ok(vec![("allowed".into(), json!(allowed)), ("backends".into(), Value::Array(backends))])
}

#[cfg(test)]
mod tests;
