//! What differs between two texts, as `diff -u` shows it. Texts are short: a table of all pairs of lines is.
//!
//! Not here: which texts are compared (`tests/cases.rs`).

/// Equal lines that are shown around those that differ.
const CONTEXT: usize = 3;

/// A line of both texts, of the old one (`-`), or of the new one (`+`).
type Line<'a> = (char, &'a str);

/// The lines that differ, each with some around it; empty where nothing does.
pub fn unified(old: &str, new: &str) -> String {
    let lines = lines(&old.lines().collect::<Vec<_>>(), &new.lines().collect::<Vec<_>>());
    let shown = |at: usize| {
        let near = at.saturating_sub(CONTEXT)..(at + CONTEXT + 1).min(lines.len());
        lines[near].iter().any(|(mark, _)| *mark != ' ')
    };
    let mut out = String::new();
    // Numbers of the next line of each text, and whether the line before this one was shown.
    let (mut of_old, mut of_new, mut going) = (1, 1, false);
    for (at, (mark, text)) in lines.iter().enumerate() {
        let show = shown(at);
        if show && !going {
            out += &format!("@@ line {of_old} of what is blessed, line {of_new} of what is printed @@\n");
        }
        if show {
            out += &format!("{mark}{text}\n");
        }
        going = show;
        of_old += usize::from(*mark != '+');
        of_new += usize::from(*mark != '-');
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
        assert_eq!(unified("a\nb\n", "a\nb\n"), "");
        let old = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";
        let new = "1\n2\n3\n4\nfive\n6\n7\n8\n9\n10\n";
        let expected =
            "@@ line 2 of what is blessed, line 2 of what is printed @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n 9\n+10\n";
        assert_eq!(unified(old, new), expected);
        assert_eq!(unified("", "x\n"), "@@ line 1 of what is blessed, line 1 of what is printed @@\n+x\n");
    }
}
