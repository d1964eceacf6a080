//! The little of YAML that headers and probes use: `key: value` lines, folded blocks,
//! and rows of flow mappings. The objects themselves are decoded by kube-sync.

/// One document of a file.
pub(super) struct Document<'a> {
    /// Line of its first line, from 1.
    pub line: usize,
    /// The lines of the document, without the separator.
    pub lines: Vec<&'a str>,
}

/// What follows a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// A scalar, without its quotes.
    One(String),
    /// A list in brackets: `[a, b]`.
    List(Vec<String>),
    /// Rows follow: see [`rows`].
    Rows,
}

/// Keys and values of a flow mapping, in order.
pub(super) type Fields = Vec<(String, Value)>;

/// What is wrong: the line, counted from 1, and a message.
pub(super) type Fault = (usize, String);

/// The documents of a file, which lines `---` separate.
pub(super) fn documents(text: &str) -> Vec<Document<'_>> {
    let mut documents = vec![Document { line: 1, lines: Vec::new() }];
    for (at, line) in text.lines().enumerate() {
        if line.trim_end() == "---" {
            documents.push(Document { line: at + 2, lines: Vec::new() });
        } else {
            documents.last_mut().expect("never empty").lines.push(line);
        }
    }
    documents
}

/// The document's own fields with their lines.
pub(super) fn fields(document: &Document<'_>) -> Result<Vec<(usize, String, Value)>, Fault> {
    let mut fields = Vec::new();
    let mut lines = (document.line..).zip(&document.lines).peekable();
    while let Some((number, line)) = lines.next() {
        if line.is_empty() || line.starts_with(['#', ' ', '-']) {
            continue;
        }
        let (key, rest) =
            line.split_once(':').ok_or((number, format!("`{line}` is not `key: value`")))?;
        let mut block = Vec::new();
        if rest.trim() == ">-" {
            while let Some((_, text)) = lines.next_if(|(_, l)| l.starts_with("  ") || l.is_empty())
            {
                block.push(text.get(2..).unwrap_or(""));
            }
        }
        let value = match rest.trim() {
            "" => Value::Rows,
            ">-" => Value::One(block.join(" ").trim().to_owned()),
            flow if flow.starts_with(['[', '{', '"']) => {
                let mut reader = Reader { rest: flow };
                let value = reader.value().map_err(|m| (number, m))?;
                reader.end().map_err(|m| (number, m))?;
                value
            }
            // A plain scalar to the end of the line, commas and colons included.
            plain => Value::One(plain.split(" #").next().unwrap_or(plain).trim().to_owned()),
        };
        fields.push((number, key.to_owned(), value));
    }
    Ok(fields)
}

/// The rows `- {...}` under `key:`; one may go on over indented lines.
pub(super) fn rows(document: &Document<'_>, key: &str) -> Result<Vec<(usize, Fields)>, Fault> {
    let header = format!("{key}:");
    let lines =
        (document.line..).zip(&document.lines).skip_while(|(_, l)| l.trim_end() != header).skip(1);
    let mut rows: Vec<(usize, String)> = Vec::new();
    for (number, line) in lines {
        match line.strip_prefix("- ") {
            Some(start) => rows.push((number, start.to_owned())),
            None if line.is_empty() || line.starts_with('#') => {}
            None if line.starts_with(' ') && !rows.is_empty() => {
                rows.last_mut().expect("checked").1.push_str(line);
            }
            None => break,
        }
    }
    let read = rows.into_iter().map(|(number, text)| {
        let mut reader = Reader { rest: &text };
        let fields = reader.mapping().and_then(|f| reader.end().map(|()| f));
        fields.map(|f| (number, f)).map_err(|message| (number, message))
    });
    read.collect()
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn skip(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, wanted: char) -> Result<(), String> {
        self.skip();
        self.rest = self
            .rest
            .strip_prefix(wanted)
            .ok_or_else(|| format!("`{wanted}` expected before `{}`", self.rest))?;
        Ok(())
    }

    /// The separator or the end of a list or mapping: true where it goes on.
    fn more(&mut self, end: char) -> Result<bool, String> {
        self.skip();
        if self.rest.starts_with(',') {
            self.take(',')?;
            return Ok(true);
        }
        self.take(end)?;
        Ok(false)
    }

    fn end(&mut self) -> Result<(), String> {
        self.skip();
        if self.rest.is_empty() || self.rest.starts_with('#') {
            Ok(())
        } else {
            Err(format!("`{}` is too much", self.rest))
        }
    }

    fn scalar(&mut self) -> Result<String, String> {
        self.skip();
        if let Some(quoted) = self.rest.strip_prefix('"') {
            let (text, rest) = quoted.split_once('"').ok_or("a quote is not closed")?;
            self.rest = rest;
            return Ok(text.to_owned());
        }
        let end = self.rest.find([',', ']', '}']).unwrap_or(self.rest.len());
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        let text = text.trim();
        if text.is_empty() { Err("a value is missing".into()) } else { Ok(text.to_owned()) }
    }

    fn value(&mut self) -> Result<Value, String> {
        self.skip();
        if !self.rest.starts_with('[') {
            return self.scalar().map(Value::One);
        }
        self.take('[')?;
        let mut list = vec![self.scalar()?];
        while self.more(']')? {
            list.push(self.scalar()?);
        }
        Ok(Value::List(list))
    }

    fn mapping(&mut self) -> Result<Fields, String> {
        self.take('{')?;
        let mut fields = Fields::new();
        loop {
            self.skip();
            let (key, rest) = self.rest.split_once(':').ok_or("`key: value` expected")?;
            let key = key.trim().to_owned();
            if fields.iter().any(|(k, _)| *k == key) {
                return Err(format!("{key} is given twice"));
            }
            self.rest = rest;
            fields.push((key, self.value()?));
            if !self.more('}')? {
                return Ok(fields);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_may_span_lines_and_quote_colons() {
        let text = "kind: Probes\nprobes:\n# why\n- {src: \"fd00::1\", port: [1,\n  2], ok: \
            true}\n- {src: a/b}\n";
        let documents = documents(text);
        let rows = rows(&documents[0], "probes").expect("rows");
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].0, 4);
        let one = |s: &str| Value::One(s.to_owned());
        let list = Value::List(vec!["1".into(), "2".into()]);
        assert_eq!(
            rows[0].1,
            [("src".into(), one("fd00::1")), ("port".into(), list), ("ok".into(), one("true"))]
        );
    }

    #[test]
    fn faults_name_their_line() {
        let fault = |text: &str| rows(&documents(text)[0], "probes").expect_err("a fault");
        assert_eq!(fault("probes:\n- {a: 1}\n- {a 2}").0, 3);
        assert_eq!(fault("probes:\n- {a: 1, a: 2}"), (2, "a is given twice".into()));
        assert_eq!(fault("probes:\n- {a: [1, 2}").0, 2);
    }
}
