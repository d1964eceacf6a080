//! What differs between two texts, as `diff -u` shows it. Texts are short: a table of all pairs of
//! lines is.
//!
//! Not here: which texts are compared (`tests/cases.rs`).

/// Equal lines that are shown around those that differ.
const CONTEXT: usize = 3;

/// A line of both texts, of the old one (`-`), or of the new one (`+`).
type Line<'a> = (char, &'a str);

/// The lines that differ, each with some around it, under headers with the texts' names; empty
/// where nothing does.
pub fn unified((old_name, old): (&str, &str), (new_name, new): (&str, &str)) -> String {
    let lines = lines(&old.lines().collect::<Vec<_>>(), &new.lines().collect::<Vec<_>>());
    let shown = |at: &usize| {
        let near = at.saturating_sub(CONTEXT)..(at + CONTEXT + 1).min(lines.len());
        lines[near].iter().any(|(mark, _)| *mark != ' ')
    };
    let places: Vec<usize> = (0..lines.len()).filter(shown).collect();
    let mut out = String::new();
    for hunk in places.chunk_by(|a, b| a + 1 == *b) {
        // How many lines of a text these are: those that the other mark does not stand at.
        let count =
            |lines: &[Line], other: char| lines.iter().filter(|(mark, _)| *mark != other).count();
        let (before, part) = (&lines[..hunk[0]], &lines[hunk[0]..hunk[0] + hunk.len()]);
        let range = |other: char| match (count(before, other), count(part, other)) {
            (at, 0) => format!("{at},0"),
            (at, lines) => format!("{},{lines}", at + 1),
        };
        if out.is_empty() {
            out += &format!("--- {old_name}\n+++ {new_name}\n");
        }
        out += &format!("@@ -{} +{} @@\n", range('+'), range('-'));
        part.iter().for_each(|(mark, text)| out += &format!("{mark}{text}\n"));
    }
    out
}

/// Both texts in one list, with as many common lines as there can be.
fn lines<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<Line<'a>> {
    // common[i][j]: lines that old[i..] and new[j..] have in common.
    let mut common = vec![vec![0u32; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i][j] = match old[i] == new[j] {
                true => common[i + 1][j + 1] + 1,
                false => common[i + 1][j].max(common[i][j + 1]),
            };
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, Vec::new());
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            lines.push((' ', old[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && common[i + 1][j] >= common[i][j + 1]) {
            lines.push(('-', old[i]));
            i += 1;
        } else {
            lines.push(('+', new[j]));
            j += 1;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_stands_in_its_surroundings() {
        let diff = |old, new| unified(("old", old), ("new", new));
        assert_eq!(diff("a\nb\n", "a\nb\n"), "");
        let (old, new) = ("1\n2\n3\n4\n5\n6\n7\n8\n9\n", "1\n2\n3\n4\nfive\n6\n7\n8\n9\n10\n");
        let expected =
            "--- old\n+++ new\n@@ -2,8 +2,9 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n 9\n+10\n";
        assert_eq!(diff(old, new), expected);
        assert_eq!(diff("", "x\n"), "--- old\n+++ new\n@@ -0,0 +1,1 @@\n+x\n");
        let far = "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n";
        assert_eq!(diff(far, &far.replacen("1\n", "", 1)).lines().nth(2), Some("@@ -1,4 +1,3 @@"));
    }
}
