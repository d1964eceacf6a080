//! Tells a story in text, for a terminal or as markdown. Not here: the story ([`super::story`], and
//! [`super::installed`]).

use std::fmt::Write;

use netpolc_kube_sync::plain;

use super::{
    graph::markdown_text,
    installed::{InstalledSide, InstalledStory},
    story::{Near, Quote, SideStory, Story},
};
use crate::output::Colour;

/// How a story is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// For a terminal.
    Text(Colour),
    /// For a pull request or a page.
    Markdown,
}

impl Style {
    fn verdict(self, allowed: bool) -> String {
        let word = if allowed { "allowed" } else { "denied" };
        match self {
            Style::Text(colour) if allowed => colour.good(word),
            Style::Text(colour) => colour.bad(word),
            Style::Markdown => format!("**{word}**"),
        }
    }

    /// The answer of all stories together.
    fn heading(self, allowed: impl Iterator<Item = bool>) -> String {
        let (yes, no): (Vec<bool>, Vec<bool>) = allowed.partition(|allowed| *allowed);
        match (yes.is_empty(), no.is_empty()) {
            (_, true) => self.verdict(true),
            (true, false) => self.verdict(false),
            (false, false) => format!("partly {}", self.verdict(true)),
        }
    }

    /// Text that somebody else has written.
    fn text(self, text: &str) -> String {
        match self {
            Style::Text(_) => plain(text).into_owned(),
            Style::Markdown => markdown_text(&plain(text)),
        }
    }

    fn faint(self, text: &str) -> String {
        match self {
            Style::Text(colour) => colour.faint(text),
            Style::Markdown => format!("`{}`", text.replace('`', "'")),
        }
    }
}

/// Tells all stories. Where they agree, the answer stands in the first line once.
pub fn tell(stories: &[Story], question: &str, style: Style) -> String {
    let mut out = String::new();
    let heading = style.heading(stories.iter().map(|story| story.allowed));
    let hash = if style == Style::Markdown { "## " } else { "" };
    let question = style.text(question);
    let _ = writeln!(out, "{hash}{question}: {heading}");
    for story in stories {
        out.push('\n');
        one(&mut out, story, style);
    }
    out
}

/// Tells what the tables of a node say, in its words if it is known.
pub fn tell_installed(
    stories: &[InstalledStory],
    (question, node): (&str, Option<&str>),
    style: Style,
) -> String {
    let mut out = String::new();
    let node = node.map_or("this machine".to_owned(), |node| format!("node {node}"));
    let hash = if style == Style::Markdown { "## " } else { "" };
    let mut here = stories.iter().filter(|story| !story.sides.is_empty()).peekable();
    let verdict = match here.peek() {
        Some(_) => style.heading(here.map(|story| story.allowed)),
        None => "not judged".to_owned(),
    };
    let question = style.text(question);
    let _ = writeln!(out, "{hash}{question}: {verdict}, by the tables in the kernel of {node}");
    for story in stories {
        let InstalledStory { source, destination, traffic, .. } = story;
        let verdict = match story.sides.is_empty() {
            true => "judged by other nodes, since neither end is a pod of this one".to_owned(),
            false => style.verdict(story.allowed),
        };
        let _ = writeln!(out, "\n{source} -> {destination} {traffic}: {verdict}");
        for side in &story.sides {
            let InstalledSide { direction, end, allowed, reason, entries } = side;
            let verdict = style.verdict(*allowed);
            let indent = bullet(style, 1);
            let _ = writeln!(out, "{indent}{direction} of {end}: {verdict}, {reason}");
            for entry in entries {
                let _ = writeln!(out, "{}{}", bullet(style, 2), style.faint(entry));
            }
        }
        let agreement = match story.policies_allow {
            Some(policies) if policies == story.allowed => {
                "The policies of the input say the same."
            }
            Some(_) => {
                "The policies of the input say something else. `netpolc verify --installed` shows \
                 what is wrong, unless the agent is only behind by a moment."
            }
            None => continue,
        };
        let _ = writeln!(out, "{}{agreement}", bullet(style, 1));
    }
    out
}

fn one(out: &mut String, story: &Story, style: Style) {
    let via = story.via.as_ref().map(|via| format!(" by way of {via}")).unwrap_or_default();
    let pairs = match story.pairs {
        1 => String::new(),
        n => format!(" (for {n} pairs)"),
    };
    let _ = writeln!(
        out,
        "{} -> {} {}{via}: {}{pairs}",
        story.source,
        story.destination,
        story.traffic,
        style.verdict(story.allowed)
    );
    for side in &story.sides {
        tell_side(out, side, style);
    }
    if !story.nearest.is_empty() {
        let _ = writeln!(out, "{}What comes nearest to allowing it:", bullet(style, 1));
        for (number, near) in story.nearest.iter().enumerate() {
            let [rule, change] = self::near(near);
            let _ = writeln!(out, "{}{}. {rule}", bullet(style, 2), number + 1);
            let _ = writeln!(out, "       {change}");
        }
    }
    if let Some(tried) = &story.if_tried_were_enforced {
        let _ = writeln!(
            out,
            "{}If every policy that is only tried were enforced, {tried}.",
            bullet(style, 1)
        );
    }
    let _ = writeln!(out, "{}{}", bullet(style, 1), story.replies);
}

fn tell_side(out: &mut String, side: &SideStory, style: Style) {
    let _ = writeln!(
        out,
        "{}{} of {}: {}, {}",
        bullet(style, 1),
        side.direction,
        side.end,
        style.verdict(side.allowed),
        side.reason
    );
    for stage in &side.way {
        let _ = writeln!(out, "{}{stage}", bullet(style, 2));
    }
    for Quote { what, at, text } in &side.rules {
        let at = at.as_ref().map(|at| format!("{at}: ")).unwrap_or_default();
        let text = text.as_ref().map(|text| format!("  {}", style.faint(text))).unwrap_or_default();
        let place = style.text(&format!("{at}{what}"));
        let _ = writeln!(out, "{}{place}{text}", bullet(style, 2));
    }
}

fn bullet(style: Style, depth: usize) -> String {
    match style {
        Style::Text(_) => "  ".repeat(depth),
        Style::Markdown => format!("{}- ", "  ".repeat(depth - 1)),
    }
}

/// A rule that nearly allows a packet, with what keeps it from doing so; and what to change.
pub fn near(near: &Near) -> [String; 2] {
    let at = near.rule_at.at.as_ref().map(|at| format!(" ({at})")).unwrap_or_default();
    let failures: Vec<String> = near.miss.failures.iter().map(ToString::to_string).collect();
    let changes: Vec<String> = near.miss.failures.iter().map(|f| f.change()).collect();
    [
        format!("{}{at}: {}.", near.miss.rule, failures.join("; and ")),
        format!("To allow it: {}.", changes.join("; and ")),
    ]
}
