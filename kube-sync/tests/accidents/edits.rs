//! Everyday edits that damage a file, drawn at random.

/// A generator of everyday edits, seeded, so that it is the same every time.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % bound.max(1)
    }

    pub fn of<'t, T: ?Sized>(&mut self, list: &[&'t T]) -> &'t T {
        list[self.below(list.len())]
    }
}

/// One accident that happens to files. Those that leave a sound file with less in it are none:
/// nobody can tell.
pub fn accident(dice: &mut Dice, text: &str) -> String {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    if lines.is_empty() {
        return String::new();
    }
    let at = dice.below(lines.len());
    let line_where = |dice: &mut Dice, wanted: &dyn Fn(&str) -> bool| -> usize {
        let found: Vec<usize> = (0..lines.len()).filter(|i| wanted(lines[*i])).collect();
        if found.is_empty() { 0 } else { found[dice.below(found.len())] }
    };
    let with = |index: usize, line: &str| {
        let mut lines = lines.clone();
        lines[index] = line;
        lines.concat()
    };
    let separator = |line: &str| line.starts_with("---");
    match dice.below(14) {
        // The separator is lost, glued, commented, doubled, indented.
        0 => {
            let index = line_where(dice, &separator);
            let to = [
                "",
                "---",
                "---# x\n",
                "---\n---\n",
                "---\n# x\n---\n",
                " ---\n",
                "---x\n",
                "--- # x\n",
                "...\n",
            ];
            with(index, dice.of(&to))
        }
        1 => {
            let index = line_where(dice, &separator);
            let before = index.saturating_sub(1);
            with(before, lines[before].trim_end())
        }
        // A key is given twice.
        2 => with(at, &lines[at].repeat(2)),
        3 => {
            let index = line_where(dice, &|line| line.contains(": "));
            let key = lines[index].split(": ").next().unwrap_or_default();
            with(index, &format!("{}{key}: other\n", lines[index]))
        }
        // Something of the header is misspelt.
        4 => {
            let names = [
                "apiVersion",
                "kind",
                "metadata",
                "namespace",
                "name",
                "Pod",
                "NetworkPolicy",
                "v1",
                "items",
                "List",
            ];
            let name = dice.of(&names);
            let index = line_where(dice, &|line| line.contains(name));
            let letter = dice.below(name.len());
            let mut wrong = name.to_owned();
            match dice.below(4) {
                0 => drop(wrong.remove(letter)),
                1 => wrong.insert(letter, 'x'),
                2 => wrong = wrong.to_uppercase(),
                _ => wrong.push('s'),
            }
            with(index, &lines[index].replacen(name, &wrong, 1))
        }
        // A line of the header goes.
        5 => {
            let names = ["apiVersion: ", "kind: ", "metadata: "];
            let name = dice.of(&names);
            with(
                line_where(dice, &|line| line.trim_start_matches([' ', '-']).starts_with(name)),
                "",
            )
        }
        6 => {
            let values = [
                "v1",
                "apps/v1",
                "networking.k8s.io/v2",
                "networking.k8s.io",
                "''",
                "1",
                "[]",
                "NetworkPolicies",
                "Status",
            ];
            let index = line_where(dice, &|line| {
                line.starts_with("kind: ") || line.starts_with("apiVersion: ")
            });
            let key = lines[index].split(": ").next().unwrap_or_default().to_owned();
            let value = dice.of(&values);
            // v1 is right for a pod.
            if lines[index].trim_end().ends_with(&format!(": {value}")) {
                String::new()
            } else {
                with(index, &format!("{key}: {value}\n"))
            }
        }
        // Something else stands in the file.
        7 => dice
            .of(&[
                "",
                "\n",
                "# nothing\n",
                "---\n",
                "{}\n",
                "null\n",
                "<html></html>\n",
                "Error from server\n",
                "- a\n",
                "x",
            ])
            .to_owned(),
        8 => format!(
            "{text}{}",
            dice.of(&[
                "foo: [\n",
                "<html>\n",
                "{{- end }}\n",
                "{}\n",
                "error: lost connection\n",
                "\u{0}"
            ])
        ),
        9 => format!(
            "{}{text}",
            dice.of(&[
                "foo: [\n",
                "<<<<<<< HEAD\n",
                "{{- if x }}\n",
                "\u{feff}",
                "warning: x\n",
                "{}\n"
            ])
        ),
        10 => text.replace('\n', "\r\n"),
        // Files are joined.
        11 => format!("{}{text}", text.trim_end()),
        12 => format!("{text}{}", lines[at..].concat()),
        // Something is indented.
        _ => with(at, &format!("{}{}", dice.of(&[" ", "  ", "\t"]), lines[at])),
    }
}
