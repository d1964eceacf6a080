//! Cuts a stream of documents into pieces, as kubectl's reader does: a line that begins with `---`
//! separates, and only blanks or a comment may follow on it (k8s.io/apimachinery util/yaml,
//! `YAMLReader`). The stream is cut before anything is parsed, so that a broken document does not
//! take the others with it.
//!
//! Where kubectl would reject the file or read less of it, more is read here, because every policy
//! must isolate: text after a separator is the beginning of its document, and `...` ends one. Not
//! here: what is in a document.

use std::ops::Range;

/// What separates a document from the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Separator {
    /// The start of the input, or a line of nothing but `---`, blanks and a comment.
    Clean,
    /// `--- text`, which YAML allows and kubectl rejects.
    WithText,
    /// `---text`, which is not a separator in YAML either.
    Glued,
    /// `...`, at which kubectl stops reading.
    End,
}

/// A document: a piece with more than comments and directives in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The document's bytes, without the separator.
    pub range: Range<usize>,
    pub separator: Separator,
}

/// The documents in `text`. A separator cannot occur inside a scalar (YAML 1.2.2, 9.1.2), and JSON
/// has no such line.
pub(crate) fn split(text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut begun = Piece { range: 0..0, separator: Separator::Clean };
    let mut at = 0;
    for line in text.split_inclusive(['\n', '\r']) {
        let (start, end) = (at, at + line.len());
        at = end;
        let bare = line.trim_start_matches(BOM);
        let marks = start + (line.len() - bare.len());
        let next = match (bare.strip_prefix("---"), bare.strip_prefix("...")) {
            (Some(rest), _) if is_blank(rest) => {
                Piece { range: end..end, separator: Separator::Clean }
            }
            (Some(rest), _) => {
                let separator = if rest.starts_with([' ', '\t']) {
                    Separator::WithText
                } else {
                    Separator::Glued
                };
                Piece { range: marks + 3..end, separator }
            }
            (None, Some(rest)) if is_blank(rest) => {
                Piece { range: end..end, separator: Separator::End }
            }
            _ => continue,
        };
        begun.range.end = start;
        pieces.push(std::mem::replace(&mut begun, next));
    }
    begun.range.end = text.len();
    pieces.push(begun);
    pieces.retain(|piece| has_content(&text[piece.range.clone()]));
    for piece in &mut pieces {
        // Lines were cut at every \r and \n, so the separator's own \r\n may have been cut in two.
        if text[..piece.range.start].ends_with('\r') && text[piece.range.start..].starts_with('\n')
        {
            piece.range.start += 1;
        }
        let held = &text[piece.range.clone()];
        piece.range.start += held.len() - held.trim_start_matches(BOM).len();
    }
    pieces
}

const BOM: char = '\u{feff}';

/// Whether the text is blank or a comment.
fn is_blank(rest: &str) -> bool {
    let rest = rest.trim();
    rest.is_empty() || rest.starts_with('#')
}

/// Whether there is more than comments and directives.
fn has_content(text: &str) -> bool {
    let directive = |line: &str| line.starts_with("%YAML ") || line.starts_with("%TAG ");
    let lines = text.split(['\n', '\r']).map(|line| line.trim_start_matches(BOM));
    lines.into_iter().any(|line| !is_blank(line) && !directive(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &str) -> Vec<(&str, Separator)> {
        split(text).into_iter().map(|piece| (&text[piece.range], piece.separator)).collect()
    }

    #[test]
    fn documents_are_cut_at_separators_only() {
        let text =
            "# only a comment\n---\na: 1\n---\nb: |\n  ---\n  text\n--- \nc: 3\n---\n# empty\n";
        let expected = [("a: 1\n", Separator::Clean), ("b: |\n  ---\n  text\n", Separator::Clean)];
        assert_eq!(pieces(text), [&expected[..], &[("c: 3\n", Separator::Clean)]].concat());
        for empty in
            ["", "---\n# x\n---\n", "---\n---\n", "%YAML 1.2\n---\n...\n", "\u{feff}---\r\n# x\r\n"]
        {
            assert_eq!(pieces(empty), [], "{empty:?}");
        }
        assert_eq!(pieces("%YAML 1.2\n---\na: 1\n"), [("a: 1\n", Separator::Clean)]);
    }

    #[test]
    fn an_empty_document_takes_no_other_with_it() {
        for before in [
            "---\n---\n",
            "# x\n---\n# y\n---\n",
            "---\r\n# x\r\n---\r\n",
            "---\n...\n---\n",
            "\u{feff}---\n--- # x\n",
            "%YAML 1.2\n---\n# x\n---\n",
            "---#x\n---\t# y\n",
            "---\r# x\r---\r",
        ] {
            assert_eq!(
                pieces(&format!("{before}a: 1\n")),
                [("a: 1\n", Separator::Clean)],
                "{before:?}"
            );
        }
    }

    #[test]
    fn text_behind_a_separator_begins_a_document_that_kubectl_refuses() {
        assert_eq!(
            pieces("a: 1\n---b: 2\n"),
            [("a: 1\n", Separator::Clean), ("b: 2\n", Separator::Glued)]
        );
        assert_eq!(pieces("--- {a: 1}\n"), [(" {a: 1}\n", Separator::WithText)]);
        assert_eq!(
            pieces("a: 1\n...\nb: 2"),
            [("a: 1\n", Separator::Clean), ("b: 2", Separator::End)]
        );
        assert_eq!(
            pieces("a: 1\n...\n---\nb: 2"),
            [("a: 1\n", Separator::Clean), ("b: 2", Separator::Clean)]
        );
        assert_eq!(pieces("a: x---\n")[0].0, "a: x---\n");
    }
}
