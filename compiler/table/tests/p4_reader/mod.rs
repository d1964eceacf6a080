//! A strict reader of the part of P4_16 that netpolc writes: its grammar, that every name is
//! declared, and that fields and operands have the widths that they need.
//!
//! It is no compiler of P4: it knows no architecture beyond a few names, and does not look into
//! what a back end makes of a program. Not here: what the program should have.

use std::collections::{BTreeMap, BTreeSet};

/// Operators and punctuation, longer ones first.
const SIGNS: [&str; 30] = [
    "&&&", "&&", "||", "==", "!=", "<=", ">=", "<<", "++", "..", "(", ")", "{", "}", "[", "]", "<",
    ">", ";", ":", ",", ".", "=", "!", "&", "-", "+", "@", "_", "#",
];

/// The words that no declaration may have as a name.
const KEYWORDS: [&str; 36] = [
    "abstract",
    "action",
    "bit",
    "bool",
    "const",
    "control",
    "default",
    "else",
    "enum",
    "error",
    "exit",
    "extern",
    "false",
    "header",
    "if",
    "in",
    "inout",
    "int",
    "match_kind",
    "out",
    "package",
    "parser",
    "return",
    "select",
    "state",
    "string",
    "struct",
    "switch",
    "table",
    "this",
    "transition",
    "true",
    "tuple",
    "typedef",
    "varbit",
    "void",
];

fn tokens(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in source.lines() {
        let mut rest = line.split("//").next().unwrap().trim_start();
        if rest.starts_with("#include") {
            assert!(["#include <core.p4>", "#include <v1model.p4>"].contains(&rest), "{rest}");
            continue;
        }
        while !rest.is_empty() {
            let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let length = if let Some(quoted) = rest.strip_prefix('"') {
                quoted.find('"').expect("a string that ends") + 2
            } else if rest.starts_with(is_word) {
                rest.find(|c: char| !is_word(c)).unwrap_or(rest.len())
            } else {
                SIGNS
                    .iter()
                    .find(|s| rest.starts_with(**s))
                    .unwrap_or_else(|| panic!("{rest}"))
                    .len()
            };
            found.push(rest[..length].to_owned());
            rest = rest[length..].trim_start();
        }
    }
    found
}

/// The type of an expression.
#[derive(Clone, Debug, PartialEq)]
enum Type {
    Bits(u32),
    Varbit,
    Bool,
    /// A number without a width, which takes that of the other operand.
    Number,
    /// A header, a struct, or an object of the architecture.
    Named(String),
}

/// A table as the program declares it.
#[derive(Debug, Default)]
pub struct Declared {
    /// Width, kind and name of each key.
    pub keys: Vec<(u32, String, String)>,
    actions: Vec<String>,
    pub id: u32,
    pub entries: usize,
}

/// Reads a program; whatever is wrong panics with the tokens that follow.
pub struct Reader {
    tokens: Vec<String>,
    at: usize,
    /// Fields of headers and structs.
    fields: BTreeMap<String, BTreeMap<String, Type>>,
    constants: BTreeMap<String, Type>,
    locals: BTreeMap<String, Type>,
    /// Widths of each action's parameters, and its id.
    pub actions: BTreeMap<String, (u32, Vec<u32>)>,
    /// The tables by name.
    pub tables: BTreeMap<String, Declared>,
    states: BTreeSet<String>,
    goes_to: BTreeSet<String>,
    /// The tables that are asked, as often as they stand there.
    pub applied: Vec<String>,
}

impl Reader {
    pub fn read(source: &str) -> Self {
        let standard =
            [("ingress_port", 9), ("egress_spec", 9), ("egress_port", 9), ("parser_error", 0)];
        let standard = standard.map(|(name, width)| {
            (
                name.to_owned(),
                match width {
                    0 => Type::Named("error".into()),
                    width => Type::Bits(width),
                },
            )
        });
        let mut reader = Reader {
            tokens: tokens(source),
            at: 0,
            fields: BTreeMap::from([("standard_metadata_t".to_owned(), standard.into())]),
            constants: BTreeMap::new(),
            locals: BTreeMap::new(),
            actions: BTreeMap::new(),
            tables: BTreeMap::new(),
            states: BTreeSet::new(),
            goes_to: BTreeSet::new(),
            applied: Vec::new(),
        };
        let mut parts = Vec::new();
        while reader.at < reader.tokens.len() {
            match reader.next().as_str() {
                "const" => {
                    let kind = reader.kind();
                    let name = reader.name();
                    reader.expect("=");
                    reader.same(&kind);
                    reader.expect(";");
                    assert!(reader.constants.insert(name, kind).is_none());
                }
                "header" | "struct" => reader.fields_of(),
                "parser" => parts.push(reader.parser()),
                "control" => parts.push(reader.control()),
                "V1Switch" => {
                    let order = ["read", "unchecked", "ingress", "egress", "computed", "write"];
                    for (i, part) in order.iter().enumerate() {
                        reader.expect(if i == 0 { "(" } else { "," });
                        [*part, "(", ")"].iter().for_each(|token| reader.expect(token));
                        assert!(parts.contains(&(*part).to_owned()), "{part}");
                    }
                    [")", "main", ";"].iter().for_each(|token| reader.expect(token));
                    assert_eq!(reader.at, reader.tokens.len(), "main is the last");
                    return reader;
                }
                other => panic!("no declaration begins with {other}"),
            }
        }
        panic!("there is no main");
    }

    fn peek(&self) -> &str {
        self.tokens.get(self.at).map_or("", String::as_str)
    }

    fn next(&mut self) -> String {
        self.at += 1;
        self.tokens.get(self.at - 1).cloned().unwrap_or_default()
    }

    fn take(&mut self, token: &str) -> bool {
        let is_next = self.peek() == token;
        self.at += usize::from(is_next);
        is_next
    }

    #[track_caller]
    fn expect(&mut self, token: &str) {
        let is_next = self.take(token);
        let near = &self.tokens[self.at.saturating_sub(8)..self.tokens.len().min(self.at + 8)];
        assert!(is_next, "{token} is missing: {}", near.join(" "));
    }

    fn name(&mut self) -> String {
        let name = self.next();
        let good =
            name.starts_with(|c: char| c.is_ascii_alphabetic()) && !KEYWORDS.contains(&&*name);
        assert!(good, "{name} is no name");
        name
    }

    fn number(&mut self) -> u128 {
        let text = self.next();
        let parsed = match text.strip_prefix("0x") {
            Some(digits) => u128::from_str_radix(digits, 16),
            None => text.parse(),
        };
        parsed.unwrap_or_else(|_| panic!("{text} is no number"))
    }

    fn kind(&mut self) -> Type {
        match self.next().as_str() {
            word @ ("bit" | "varbit") => {
                self.expect("<");
                let width = self.number() as u32;
                self.expect(">");
                if word == "bit" { Type::Bits(width) } else { Type::Varbit }
            }
            name => {
                let known = ["packet_in", "packet_out"].contains(&name);
                assert!(known || self.fields.contains_key(name), "no type {name}");
                Type::Named(name.to_owned())
            }
        }
    }

    fn fields_of(&mut self) {
        let name = self.name();
        let mut fields = BTreeMap::new();
        self.expect("{");
        while !self.take("}") {
            if self.take("@") {
                ["field_list", "(", "1", ")"].iter().for_each(|token| self.expect(token));
            }
            let kind = self.kind();
            assert!(fields.insert(self.name(), kind).is_none(), "twice in {name}");
            self.expect(";");
        }
        assert!(self.fields.insert(name, fields).is_none());
    }

    /// The head of a parser or control. Its parameters are the only local names.
    fn head(&mut self) -> String {
        let name = self.name();
        self.locals = self.constants.clone();
        self.expect("(");
        loop {
            let _ = self.take("in") || self.take("out") || self.take("inout");
            let kind = self.kind();
            let parameter = self.name();
            self.locals.insert(parameter, kind);
            if !self.take(",") {
                break;
            }
        }
        self.expect(")");
        self.expect("{");
        name
    }

    fn parser(&mut self) -> String {
        let name = self.head();
        while !self.take("}") {
            self.expect("state");
            let state = self.name();
            assert!(self.states.insert(state));
            self.expect("{");
            while !self.take("transition") {
                self.statement();
            }
            if self.take("select") {
                self.expect("(");
                let over = self.list();
                self.expect("{");
                while !self.take("}") {
                    if !self.take("default") {
                        let in_list = over.len() > 1;
                        if in_list {
                            self.expect("(")
                        }
                        for (i, kind) in over.iter().enumerate() {
                            if i > 0 {
                                self.expect(",")
                            }
                            if !self.take("_") {
                                self.same(kind)
                            }
                        }
                        if in_list {
                            self.expect(")")
                        }
                    }
                    self.expect(":");
                    let state = self.name();
                    self.goes_to.insert(state);
                    self.expect(";");
                }
            } else {
                let state = self.name();
                self.goes_to.insert(state);
                self.expect(";");
            }
            self.expect("}");
        }
        self.goes_to.remove("accept");
        self.goes_to.insert("start".into());
        assert_eq!(self.goes_to, self.states, "states that are there and that are gone to");
        name
    }

    fn control(&mut self) -> String {
        let name = self.head();
        while !self.take("apply") {
            ["@", "id", "("].iter().for_each(|token| self.expect(token));
            let id = self.number() as u32;
            self.expect(")");
            match self.next().as_str() {
                "action" => self.action(id),
                "table" => self.table(id),
                other => panic!("{other} has an id"),
            }
        }
        self.block();
        self.expect("}");
        name
    }

    fn action(&mut self, id: u32) {
        let (name, outer) = (self.name(), self.locals.clone());
        let mut widths = Vec::new();
        self.expect("(");
        while !self.take(")") {
            if !widths.is_empty() {
                self.expect(",")
            }
            let kind = self.kind();
            let Type::Bits(width) = kind else { panic!("{kind:?}") };
            widths.push(width);
            let parameter = self.name();
            self.locals.insert(parameter, kind);
        }
        self.block();
        self.locals = outer;
        assert!(self.actions.insert(name, (id, widths)).is_none());
    }

    fn table(&mut self, id: u32) {
        let name = self.name();
        let mut table = Declared { id, ..Declared::default() };
        ["{", "key", "=", "{"].iter().for_each(|token| self.expect(token));
        while !self.take("}") {
            let Type::Bits(width) = self.expression() else { panic!("a key that is no number") };
            self.expect(":");
            let kind = self.next();
            ["@", "name", "("].iter().for_each(|token| self.expect(token));
            table.keys.push((width, kind, self.next().trim_matches('"').to_owned()));
            self.expect(")");
            self.expect(";");
        }
        ["actions", "=", "{"].iter().for_each(|token| self.expect(token));
        while !self.take("}") {
            if self.take("@") {
                assert!(self.take("tableonly") || self.take("defaultonly"));
            }
            table.actions.push(self.name());
            self.expect(";");
        }
        ["const", "default_action", "="].iter().for_each(|token| self.expect(token));
        self.call(&table);
        ["size", "="].iter().for_each(|token| self.expect(token));
        assert!(self.number() > 0);
        self.expect(";");
        if self.take("const") {
            ["entries", "=", "{"].iter().for_each(|token| self.expect(token));
            while !self.take("}") {
                self.entry(&table);
                table.entries += 1;
            }
        }
        self.expect("}");
        assert!(!self.actions.contains_key(&name) && !self.locals.contains_key(&name), "{name}");
        assert!(self.tables.insert(name, table).is_none());
    }

    fn entry(&mut self, table: &Declared) {
        self.expect("(");
        for (i, (width, kind, _)) in table.keys.iter().enumerate() {
            if i > 0 {
                self.expect(",")
            }
            let value = self.number();
            let mut also = 0;
            match kind.as_str() {
                "exact" => {}
                "lpm" => {
                    self.expect("&&&");
                    also = self.number();
                    let all = if *width == 128 { u128::MAX } else { (1 << width) - 1 };
                    let host = also ^ all;
                    assert_eq!(host.wrapping_add(1) & host, 0, "a mask with holes");
                    assert_eq!(value & !also, 0, "bits behind a prefix");
                }
                "range" => {
                    self.expect("..");
                    also = self.number();
                    assert!(value <= also);
                }
                other => panic!("{other}"),
            }
            let most = value.max(also);
            assert!(*width == 128 || most >> width == 0, "{most:#x} in {width} bits");
        }
        self.expect(")");
        self.expect(":");
        self.call(table);
    }

    fn call(&mut self, table: &Declared) {
        let name = self.name();
        assert!(table.actions.contains(&name), "{name} is no action of the table");
        let widths = self.actions[&name].1.clone();
        self.expect("(");
        for (i, width) in widths.iter().enumerate() {
            if i > 0 {
                self.expect(",")
            }
            assert_eq!(self.number() >> width, 0, "an argument of {name}");
        }
        self.expect(")");
        self.expect(";");
    }

    fn block(&mut self) {
        self.expect("{");
        let outer = self.locals.clone();
        while !self.take("}") {
            self.statement();
        }
        self.locals = outer;
    }

    fn statement(&mut self) {
        if self.take("if") {
            self.expect("(");
            self.same(&Type::Bool);
            self.expect(")");
            self.block();
            if self.take("else") {
                if self.peek() == "if" { self.statement() } else { self.block() }
            }
        } else if self.peek() == "bit" {
            let kind = self.kind();
            let name = self.name();
            self.expect("=");
            self.same(&kind);
            self.locals.insert(name, kind);
            self.expect(";");
        } else if ["mark_to_drop", "recirculate_preserving_field_list", "verify"]
            .contains(&self.peek())
        {
            self.next();
            self.expect("(");
            self.list();
            self.expect(";");
        } else {
            if let Some(kind) = self.operand() {
                self.expect("=");
                self.same(&kind);
            }
            self.expect(";");
        }
    }

    /// Expressions up to a closing parenthesis.
    fn list(&mut self) -> Vec<Type> {
        let mut found = vec![self.expression()];
        while self.take(",") {
            found.push(self.expression());
        }
        self.expect(")");
        found
    }

    #[track_caller]
    fn same(&mut self, wanted: &Type) {
        let found = self.expression();
        let fits = found == *wanted || matches!((&found, wanted), (Type::Number, Type::Bits(_)));
        let near = &self.tokens[self.at.saturating_sub(12)..self.at];
        assert!(fits, "{found:?} where {wanted:?} is wanted: {}", near.join(" "));
    }

    /// By falling precedence: all operators of one expression that binds no other are of one rank
    /// here, and parentheses tell the rest.
    fn expression(&mut self) -> Type {
        let mut left = self.comparison();
        let joins = ["&&", "||"].iter().find(|sign| self.peek() == **sign).copied();
        while let Some(sign) = joins.filter(|sign| self.peek() == *sign) {
            self.expect(sign);
            assert_eq!((&left, self.comparison()), (&Type::Bool, Type::Bool), "{sign}");
            left = Type::Bool;
        }
        assert!(!["&&", "||"].contains(&self.peek()), "&& and || side by side need parentheses");
        left
    }

    fn comparison(&mut self) -> Type {
        let left = self.sum();
        if !["==", "!=", "<", ">", "<=", ">="].contains(&self.peek()) {
            return left;
        }
        self.next();
        let right = self.sum();
        let fits = left == right || matches!((&left, &right), (Type::Bits(_), Type::Number));
        assert!(fits, "{left:?} is compared with {right:?}");
        Type::Bool
    }

    fn sum(&mut self) -> Type {
        let left = self.unary();
        match self.peek() {
            "++" => {
                self.next();
                let (Type::Bits(a), Type::Bits(b)) = (left, self.unary()) else { panic!("++") };
                Type::Bits(a + b)
            }
            "&" | "-" | "<<" => {
                let sign = self.next();
                let right = self.unary();
                assert!(right == left || right == Type::Number, "{left:?} {sign} {right:?}");
                left
            }
            _ => left,
        }
    }

    fn unary(&mut self) -> Type {
        if self.take("!") {
            assert_eq!(self.unary(), Type::Bool);
            return Type::Bool;
        }
        if self.peek() == "(" && self.tokens[self.at + 1] == "bit" {
            self.expect("(");
            let kind = self.kind();
            self.expect(")");
            let from = self.unary();
            let fits =
                matches!(from, Type::Bits(_)) || (from, &kind) == (Type::Bool, &Type::Bits(1));
            assert!(fits, "a cast to {kind:?}");
            return kind;
        }
        if self.take("(") {
            let kind = self.expression();
            self.expect(")");
            return kind;
        }
        if self.peek().starts_with(|c: char| c.is_ascii_digit()) {
            self.number();
            return Type::Number;
        }
        self.operand().expect("a value")
    }

    /// A field, a local name, or what a call gives; None: nothing.
    fn operand(&mut self) -> Option<Type> {
        let name = self.next();
        if name == "error" {
            self.expect(".");
            let known = ["NoError", "HeaderTooShort"].contains(&self.next().as_str());
            assert!(known, "no such error");
            return Some(Type::Named("error".into()));
        }
        if self.tables.contains_key(&name) {
            [".", "apply", "(", ")"].iter().for_each(|token| self.expect(token));
            self.applied.push(name);
            if self.take(".") {
                self.expect("hit");
                return Some(Type::Bool);
            }
            return None;
        }
        let mut kind =
            self.locals.get(&name).cloned().unwrap_or_else(|| panic!("{name} is not declared"));
        while self.take(".") {
            let Type::Named(of) = &kind else { panic!("{kind:?} has no fields") };
            let (of, field) = (of.clone(), self.next());
            match (of.as_str(), field.as_str()) {
                ("packet_in", "extract") | ("packet_out", "emit") => {
                    self.expect("(");
                    self.list();
                    return None;
                }
                (_, "isValid") => {
                    self.expect("(");
                    self.expect(")");
                    return Some(Type::Bool);
                }
                _ => {
                    kind = self.fields[&of]
                        .get(&field)
                        .cloned()
                        .unwrap_or_else(|| panic!("{of}.{field}"))
                }
            }
        }
        if self.take("[") {
            let high = self.number() as u32;
            self.expect(":");
            let low = self.number() as u32;
            self.expect("]");
            let Type::Bits(width) = kind else { panic!("a slice of {kind:?}") };
            assert!(low <= high && high < width, "a slice of {width} bits");
            kind = Type::Bits(high - low + 1);
        }
        Some(kind)
    }
}
