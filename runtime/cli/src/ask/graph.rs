//! Connections as a graph in the language of Graphviz, and as comma-separated values.
//!
//! Not here: which connections there are (`netpolc_analyze::list`).

use std::fmt::Write;

/// An edge of a graph: who may send what to whom, and how it is drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Who opens the connection.
    pub source: String,
    /// Who answers it.
    pub destination: String,
    /// What stands beside the edge.
    pub label: String,
    /// What it means.
    pub drawn: Drawn,
}

/// What an edge means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drawn {
    /// The connection may be opened.
    Plain,
    /// It may be opened now, and could not before.
    Gained,
    /// It could be opened before.
    Lost,
}

/// A graph of these edges.
pub fn dot(edges: &[Edge]) -> String {
    let mut out = String::from("digraph connections {\n  rankdir=LR;\n  node [shape=box];\n");
    for Edge { source, destination, label, drawn } in edges {
        let more = match drawn {
            Drawn::Plain => "",
            Drawn::Gained => ", color=green4, fontcolor=green4",
            Drawn::Lost => ", color=red3, fontcolor=red3, style=dashed",
        };
        let _ = writeln!(
            out,
            "  {} -> {} [label={}{more}];",
            quoted(source),
            quoted(destination),
            quoted(label)
        );
    }
    out.push_str("}\n");
    out
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A line of comma-separated values (RFC 4180), with its end.
pub fn csv_line<T: AsRef<str>>(fields: impl IntoIterator<Item = T>) -> String {
    let field = |field: T| {
        let text = field.as_ref();
        // What a spreadsheet would take for a formula is text.
        let text = match text.len() > 1 && text.starts_with(['=', '+', '-', '@']) {
            true => format!("'{text}"),
            false => text.to_owned(),
        };
        match text.contains([',', '"', '\n', '\r']) {
            true => format!("\"{}\"", text.replace('"', "\"\"")),
            false => text,
        }
    };
    let fields: Vec<String> = fields.into_iter().map(field).collect();
    format!("{}\r\n", fields.join(","))
}

/// Text in markdown, where a bar would end a cell, and tags and characters of code would be lost.
pub fn markdown_text(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('|', "\\|").replace(['\n', '\r'], " ");
    text.replace('<', "&lt;").replace('`', "\\`")
}

/// A table in markdown.
pub fn markdown<R, C>(head: &[&str], rows: impl IntoIterator<Item = R>) -> String
where
    R: IntoIterator<Item = C>,
    C: AsRef<str>,
{
    let mut out = format!("| {} |\n|{}\n", head.join(" | "), " --- |".repeat(head.len()));
    for row in rows {
        let cells: Vec<String> = row.into_iter().map(|cell| markdown_text(cell.as_ref())).collect();
        let _ = writeln!(out, "| {} |", cells.join(" | "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_mistaken_is_quoted() {
        assert_eq!(csv_line(["a", "b,c", "d\"e", "=1"]), "a,\"b,c\",\"d\"\"e\",'=1\r\n");
        let edge = Edge {
            source: "a\"b".into(),
            destination: "c".into(),
            label: "TCP 80".into(),
            drawn: Drawn::Plain,
        };
        assert!(dot(&[edge]).contains("\"a\\\"b\" -> \"c\" [label=\"TCP 80\"]"));
        assert_eq!(markdown(&["x"], [["a|b"]]), "| x |\n| --- |\n| a\\|b |\n");
    }
}
