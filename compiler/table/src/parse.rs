//! Parses the text form of a program (see [`crate::text`]).

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use nom::{
    IResult, Parser,
    branch::alt,
    bytes::complete::{tag, take_until, take_while, take_while1},
    character::complete::{char, digit1, multispace1},
    combinator::{recognize, value},
    error::ErrorKind,
    multi::many0,
    sequence::{delimited, pair, preceded},
};

use crate::{
    ActionId, Entry, Key, Match, Origin, Program, TableId, TierAction, TierName, Value,
    schema::Format,
    text::{PROTOCOLS, Tail, WORDS, bare},
};

/// Where a text stops being a program, and what would have been right there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// The line, counted from 1.
    pub line: usize,
    /// The column in characters, counted from 1.
    pub column: usize,
    /// What could have stood there instead.
    pub expected: String,
    /// What stands there: the rest of the line, cut short. Empty at the end.
    pub found: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "line {}, column {}: expected {}, found ",
            self.line, self.column, self.expected
        )?;
        if self.found.is_empty() {
            f.write_str("the end of the line")
        } else {
            write!(f, "`{}`", self.found)
        }
    }
}

impl std::error::Error for ParseError {}

/// Parses a program. Tables may stand in any order and be left out (they are empty then, with their
/// usual size); their headers must be those of the schema.
///
/// # Errors
/// Names the first place that does not fit the grammar. What fits but breaks a table's rules is for
/// [`crate::check`].
pub fn parse(text: &str) -> Result<Program, ParseError> {
    program(text).map(|(_, program)| program).map_err(|error| {
        let (rest, expected) = match error {
            nom::Err::Error(e) | nom::Err::Failure(e) => (e.rest.len(), e.expected),
            nom::Err::Incomplete(_) => (0, "more".into()),
        };
        let before = &text[..text.len() - rest];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        let found =
            text[text.len() - rest..].lines().next().unwrap_or_default().chars().take(24).collect();
        ParseError { line, column, expected, found }
    })
}

#[derive(Debug)]
struct Expected<'a> {
    rest: &'a str,
    expected: String,
}

impl<'a> nom::error::ParseError<&'a str> for Expected<'a> {
    fn from_error_kind(rest: &'a str, kind: ErrorKind) -> Self {
        Expected { rest, expected: kind.description().into() }
    }
    fn append(_: &'a str, _: ErrorKind, other: Self) -> Self {
        other
    }
    // Of two ways that both failed the one that got further says more.
    fn or(self, other: Self) -> Self {
        if other.rest.len() < self.rest.len() { other } else { self }
    }
}

type Parsed<'a, T> = IResult<&'a str, T, Expected<'a>>;

fn fail<T>(rest: &str, expected: impl Into<String>) -> Parsed<'_, T> {
    Err(nom::Err::Error(Expected { rest, expected: expected.into() }))
}

/// The parser, or "expected `what`" at its start.
fn expect<'a, T>(
    what: impl fmt::Display,
    mut parser: impl Parser<&'a str, Output = T, Error = Expected<'a>>,
) -> impl FnMut(&'a str) -> Parsed<'a, T> {
    move |input| parser.parse(input).or_else(|_| fail(input, what.to_string()))
}

/// White space and comments.
fn space(input: &str) -> Parsed<'_, ()> {
    let comment = recognize(pair(tag("//"), take_while(|c| c != '\n')));
    value((), many0(alt((multispace1, comment)))).parse(input)
}

/// A symbol or word with the space after it.
fn token<'a>(symbol: &'static str) -> impl FnMut(&'a str) -> Parsed<'a, ()> {
    move |input| {
        let (rest, _) = expect(format_args!("`{symbol}`"), tag(symbol)).parse(input)?;
        let goes_on = |s: &str| s.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        if goes_on(&symbol[symbol.len() - 1..]) && goes_on(rest) {
            return fail(input, format!("`{symbol}`"));
        }
        value((), space).parse(rest)
    }
}

fn word(input: &str) -> Parsed<'_, &str> {
    take_while1(|c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | ':')).parse(input)
}

fn number<'a, T: std::str::FromStr>(what: &'static str) -> impl FnMut(&'a str) -> Parsed<'a, T> {
    move |input| {
        let (rest, digits) = expect(what, digit1).parse(input)?;
        match digits.parse() {
            Ok(number) => Ok((rest, number)),
            Err(_) => fail(input, what),
        }
    }
}

fn program(input: &str) -> Parsed<'_, Program> {
    let mut program = Program::default();
    let mut seen = Vec::new();
    let (mut input, ()) = space(input)?;
    while !input.is_empty() {
        let (rest, ()) = token("table")(input)?;
        let (after, name) = expect("a table's name", word).parse(rest)?;
        let Some(&id) = TableId::ALL.iter().find(|t| t.spec().name == name) else {
            let names: Vec<_> = TableId::ALL.iter().map(|t| t.spec().name).collect();
            return fail(rest, format!("a table's name ({})", names.join(", ")));
        };
        if seen.contains(&id) {
            return fail(rest, format!("another table than {name}, which is there already"));
        }
        seen.push(id);
        input = table(after, id, &mut program)?.0;
    }
    Ok((input, program))
}

fn table<'a>(input: &'a str, id: TableId, program: &mut Program) -> Parsed<'a, ()> {
    let (input, ()) = preceded(space, token("size")).parse(input)?;
    let (input, size) = number("a size in entries")(input)?;
    let (input, ()) = space(input)?;
    let header = Tail(id.spec()).to_string();
    let (input, _) = expect(format_args!("`{header}`"), tag(header.as_str())).parse(input)?;
    let (mut input, ()) = preceded(space, token("{")).parse(input)?;
    let table = program.table_mut(id);
    table.size = size;
    while token("}")(input).is_err() {
        let start = input;
        let (rest, key) = key(input, id)?;
        let (rest, ()) = preceded(space, token("->")).parse(rest)?;
        let (rest, mut entry) = action(rest)?;
        let (rest, origins) = origins(rest)?;
        entry.origins = origins.into_iter().collect();
        if table.entries.insert(key, entry).is_some() {
            return fail(start, "another key: this one is there already");
        }
        input = rest;
    }
    token("}")(input)
}

fn key(input: &str, id: TableId) -> Parsed<'_, Key> {
    if let Ok((rest, _)) = tag::<_, _, Expected<'_>>("()").parse(input) {
        return Ok((rest, Key::new([])));
    }
    let (mut fields, mut rest) = (Vec::new(), input);
    loop {
        let spec = id.spec().fields.get(fields.len());
        let format = spec.map_or(Format::Decimal, |f| f.format);
        let name = spec.map_or("another field", |f| f.name);
        let what = if fields.is_empty() {
            format!("an entry ({name} first) or `}}`")
        } else {
            format!("{name}'s value")
        };
        let (after, field) = field(rest, format, &what)?;
        fields.push(field);
        match preceded(space, token(",")).parse(after) {
            Ok((next, ())) => rest = next,
            Err(_) => return Ok((after, Key::new(fields))),
        }
    }
}

fn field<'a>(input: &'a str, format: Format, what: &str) -> Parsed<'a, Match> {
    let (rest, value) = shown(input, format, what)?;
    if let Some(after) = rest.strip_prefix('/').filter(|r| !r.starts_with('/')) {
        let (rest, length) = number("a prefix length")(after)?;
        return Ok((rest, Match::Lpm { value, length }));
    }
    if let Some(after) = rest.strip_prefix('-').filter(|r| !r.starts_with('>')) {
        let Ok(low) = u32::try_from(value.get()) else {
            return fail(input, "the first number of a range, of 32 bits");
        };
        let (rest, high) = number("the last number of a range, of 32 bits")(after)?;
        return Ok((rest, Match::Range { low, high }));
    }
    Ok((rest, Match::Exact(value)))
}

/// A value in its format, or as a number.
fn shown<'a>(input: &'a str, format: Format, what: &str) -> Parsed<'a, Value> {
    let (rest, text) = expect(what, word).parse(input)?;
    let special = match format {
        Format::Ipv4 => text.parse::<Ipv4Addr>().ok().map(Value::from),
        Format::Ipv6 => text.parse::<Ipv6Addr>().ok().map(Value::from),
        Format::Protocol => {
            PROTOCOLS.iter().find(|(name, _)| *name == text).map(|(_, n)| Value::from(*n))
        }
        Format::Decimal | Format::Hex => None,
    };
    let plain = |digits: &str, radix| {
        let signed = digits.starts_with(['+', '-']);
        u128::from_str_radix(digits, radix).ok().filter(|_| !signed).map(Value::from)
    };
    let number = || match text.strip_prefix("0x") {
        Some(digits) => plain(digits, 16),
        None => plain(text, 10),
    };
    match special.or_else(number) {
        Some(value) => Ok((rest, value)),
        None => {
            let kind = match format {
                Format::Ipv4 => "an IPv4 address",
                Format::Ipv6 => "an IPv6 address",
                Format::Protocol => "a protocol: tcp, udp, sctp or a number",
                Format::Decimal | Format::Hex => "a number of at most 128 bits",
            };
            fail(input, format!("{what}: {kind}"))
        }
    }
}

fn action(input: &str) -> Parsed<'_, Entry> {
    let (mut rest, name) = expect("an action", word).parse(input)?;
    let Some(&id) = ActionId::ALL.iter().find(|a| a.spec().name == name) else {
        let names: Vec<_> = ActionId::ALL.iter().map(|a| a.spec().name).collect();
        return fail(input, format!("an action ({})", names.join(", ")));
    };
    let mut entry = Entry::new(id, [0; 4]);
    let spec = id.spec().params;
    let mut next = 0;
    let mut open = "(";
    loop {
        let wanted = spec.get(next).map(|(name, _, format)| (*name, *format));
        let (after, ()) =
            match preceded(space, token(if open == "(" { "(" } else { "," })).parse(rest) {
                Ok(more) => more,
                Err(_) if wanted.is_none() => break,
                Err(error) => return Err(error),
            };
        open = ",";
        let (after, index, format) = match wanted {
            Some((name, format)) => (token(name)(after)?.0, next, format),
            None => {
                let (more, _) = expect("`)`", tag("param")).parse(after)?;
                let (more, index) = number::<usize>("the number of a parameter")(more)?;
                if !(next..3).contains(&index) {
                    return fail(after, format!("a parameter from param{next} to param2"));
                }
                (space(more)?.0, index, Format::Decimal)
            }
        };
        let (more, value) = shown(after, format, "the parameter's value")?;
        let Ok(value) = u64::try_from(value.get()) else {
            return fail(after, "a value of at most 64 bits");
        };
        (entry.params[index], next, rest) = (value, index + 1, more);
    }
    if open == "," {
        rest = preceded(space, token(")")).parse(rest)?.0;
    }
    let (rest, ()) = space(rest)?;
    Ok((rest, entry))
}

fn name(input: &str) -> Parsed<'_, Arc<str>> {
    if let Some(quoted) = input.strip_prefix('"') {
        return quoted_name(quoted);
    }
    let end = input.find(|c| !bare(c)).unwrap_or(input.len());
    let end = input[..end].find("//").unwrap_or(end);
    let text = &input[..end];
    if text.is_empty() || WORDS.contains(&text) {
        return fail(input, "a name, in quotes unless it is a plain word");
    }
    Ok((space(&input[end..])?.0, text.into()))
}

fn quoted_name(mut input: &str) -> Parsed<'_, Arc<str>> {
    let mut text = String::new();
    loop {
        let mut chars = input.chars();
        match chars.next() {
            Some('"') => return Ok((space(chars.as_str())?.0, text.into())),
            Some('\\') => match chars.next() {
                Some(c @ ('"' | '\\')) => text.push(c),
                Some('u') => {
                    let hex = delimited(char('{'), take_until("}"), char('}'));
                    let (rest, digits) = expect("`{` and `}` around a character's number", hex)
                        .parse(chars.as_str())?;
                    let code = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32);
                    let Some(c) = code else {
                        return fail(input, "a character's number in hexadecimal");
                    };
                    text.push(c);
                    chars = rest.chars();
                }
                _ => return fail(input, "`\\\"`, `\\\\` or `\\u{...}`"),
            },
            Some(c) => text.push(c),
            None => return fail(input, "the end of a quoted name"),
        }
        input = chars.as_str();
    }
}

fn index<'a>(of: &'static str) -> impl FnMut(&'a str) -> Parsed<'a, u32> {
    move |input| {
        let (rest, _) = expect(format_args!("`{of}[`"), pair(tag(of), char('['))).parse(input)?;
        let (rest, i) = number("an index")(rest)?;
        let (rest, ()) = token("]")(rest)?;
        Ok((rest, i))
    }
}

/// What follows `#`, if it is there.
fn origins(input: &str) -> Parsed<'_, Vec<Origin>> {
    let mut origins = Vec::new();
    let mut symbol = "#";
    let mut input = input;
    while let Ok((rest, ())) = token(symbol)(input) {
        let (rest, next) = origin(rest)?;
        origins.push(next);
        (input, symbol) = (rest, ";");
    }
    Ok((input, origins))
}

fn origin(input: &str) -> Parsed<'_, Origin> {
    let start = &input[..input.find(|c| !bare(c)).unwrap_or(input.len())];
    if start == "tier" {
        return tier(input);
    }
    if start == "isolated" {
        let (rest, ()) = token("isolated")(input)?;
        let (rest, ()) = token("by")(rest)?;
        let (rest, ()) = token("default")(rest)?;
        return Ok((rest, Origin::ByDefault));
    }
    if start == "group" {
        let (rest, ()) = token("group")(input)?;
        let (rest, group) = name(rest)?;
        return Ok(match name(rest) {
            Ok((rest, rule)) => (rest, Origin::Group { group, rule: Some(rule) }),
            Err(_) => (rest, Origin::Group { group, rule: None }),
        });
    }
    if WORDS.contains(&start) {
        let (rest, ()) = space(&input[start.len()..])?;
        let (rest, name) = name(rest)?;
        let origin = match start {
            "isolates" => Origin::Isolates { policy: name },
            "tried" => Origin::Tried { policy: name },
            "pod" => Origin::Pod { pod: name },
            "node" => Origin::Node { node: name },
            "implied" => Origin::Implied { reason: name },
            _ => return fail(input, "where an entry comes from"),
        };
        return Ok((rest, origin));
    }
    let (rest, policy) = name(input)?;
    let (rest, rule) = index("rule")(rest)?;
    let (rest, peer) = optional(rest, "peer")?;
    let (rest, port) = optional(rest, "port")?;
    Ok((rest, Origin::Rule { policy, rule, peer, port }))
}

/// `tier Admin NAME rule[2] Accept`
fn tier(input: &str) -> Parsed<'_, Origin> {
    let (rest, ()) = token("tier")(input)?;
    let (rest, tier) = one_of(rest, &TierName::ALL, "Admin or Baseline")?;
    let (rest, policy) = name(rest)?;
    let (rest, rule) = index("rule")(rest)?;
    let (rest, action) = one_of(rest, &TierAction::ALL, "Accept, Deny or Pass")?;
    Ok((rest, Origin::Tier { tier, policy, rule, action }))
}

/// One of these words.
fn one_of<'a, T: Copy + fmt::Display>(
    input: &'a str,
    words: &[T],
    expected: &'static str,
) -> Parsed<'a, T> {
    let word = &input[..input.find(|c| !bare(c)).unwrap_or(input.len())];
    match words.iter().find(|w| w.to_string() == word) {
        Some(found) => Ok((space(&input[word.len()..])?.0, *found)),
        None => fail(input, expected),
    }
}

fn optional<'a>(input: &'a str, of: &'static str) -> Parsed<'a, Option<u32>> {
    match input.strip_prefix(of) {
        Some(rest) if rest.starts_with('[') => index(of)(input).map(|(rest, i)| (rest, Some(i))),
        _ => Ok((input, None)),
    }
}
