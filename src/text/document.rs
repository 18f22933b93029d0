//! A TOML document, taken key by key: every error is kept, none ends the reading.

use std::borrow::Cow;
#[cfg(feature = "import")]
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Complaint, InputError, quoted};

/// Reads the document `text`; `file` is the name that errors show.
///
/// `read` takes what it knows from the top table, and returns `None` only after a complaint (the
/// methods of [`Table`] complain themselves).
///
/// # Errors
/// Everything that is wrong, at once: syntax, unknown keys, missing keys, values.
pub(crate) fn read_toml<T>(
    file: &str,
    text: &str,
    read: impl FnOnce(&mut Table<'_, '_>) -> Option<T>,
) -> Result<T, InputError> {
    let mut complaints = Vec::new();
    match read_part(text, String::new(), &mut complaints, read) {
        Some(value) if complaints.is_empty() => Ok(value),
        _ => Err(InputError::new(file, text, complaints)),
    }
}

/// Bytes of a long table that are read at a time, about: what is read takes many times its length in
/// memory.
const PART: usize = 64 << 10;

/// What is wrong with the rest of a long table is not looked for after so many complaints.
const MAX_COMPLAINTS: usize = 10_000;

/// A document in which one table may have very many lines, each with a key and a value of its own.
pub(crate) struct LongDocument<'t> {
    text: &'t str,
    name: &'static str,
    /// The document without the lines of the long table.
    pub(crate) head: Cow<'t, str>,
    /// Where those stand.
    lines: Range<usize>,
}

impl<'t> LongDocument<'t> {
    /// Takes apart a document whose table `[name]` may be long.
    pub(crate) fn new(text: &'t str, name: &'static str) -> Self {
        let header = format!("[{name}]");
        let mut ends = text.split_inclusive('\n').scan(0, |end, line| {
            *end += line.len();
            Some((*end, line.trim()))
        });
        let is_header = |line: &str| {
            let rest = line.strip_prefix(&header).map(str::trim_start);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('#'))
        };
        let start = ends.find(|(_, line)| is_header(line));
        let lines = start.map_or(0..0, |(start, _)| {
            let next = ends.find(|(_, line)| line.starts_with('['));
            let end = next.map_or(text.len(), |(end, line)| {
                let before = text[..end].rfind(line).unwrap_or(end);
                text[..before].rfind('\n').map_or(before, |at| at + 1)
            });
            start..end
        });
        let head = if lines.is_empty() {
            text.into()
        } else {
            [&text[..lines.start], &text[lines.end..]].concat().into()
        };
        Self {
            text,
            name,
            head,
            lines,
        }
    }

    /// Reads the document: `read` takes what it knows from all but the lines of the long table, and
    /// returns `None` only after a complaint; `each` takes what it knows from a part of those lines, and
    /// then from the next. Returns what `read` does, and everything that is wrong.
    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(&mut Table<'_, '_>) -> Option<T>,
        mut each: impl FnMut(&mut Table<'_, '_>),
    ) -> (Option<T>, Vec<Complaint>) {
        let mut complaints = Vec::new();
        let value = read_part(&self.head, String::new(), &mut complaints, read);
        for complaint in &mut complaints {
            complaint.span = self.place(complaint.span.clone());
        }
        let mut rest = self.lines.clone();
        while !rest.is_empty() && complaints.len() < MAX_COMPLAINTS {
            let part = rest.start..rest.start + part(&self.text[rest.clone()]);
            let (text, mut wrong) = (&self.text[part.clone()], Vec::new());
            let path = format!("{}.", self.name);
            read_part(text, path, &mut wrong, |table| each(table));
            complaints.extend(wrong.into_iter().map(|complaint| Complaint {
                span: complaint.span.start + part.start..complaint.span.end + part.start,
                ..complaint
            }));
            rest.start = part.end;
        }
        (value, complaints)
    }

    /// Where a piece of the head stands in the whole text.
    pub(crate) fn place(&self, span: Range<usize>) -> Range<usize> {
        if span.start < self.lines.start {
            return span;
        }
        let removed = self.lines.len();
        span.start + removed..span.end + removed
    }
}

/// How much of `text` is a part of its own: it ends with a line at whose end a value ends.
fn part(text: &str) -> usize {
    let mut length = 0;
    for line in text.split_inclusive('\n') {
        length += line.len();
        let is_end = line.trim_end().ends_with(['}', '"']);
        if (length >= PART && is_end) || length >= 2 * PART {
            break;
        }
    }
    length
}

/// Reads a document, or a part of one that stands in the table `path`.
fn read_part<T>(
    text: &str,
    path: String,
    complaints: &mut Vec<Complaint>,
    read: impl FnOnce(&mut Table<'_, '_>) -> T,
) -> T {
    let (document, syntax) = DeTable::parse_recoverable(text);
    complaints.extend(syntax.iter().map(|error| Complaint {
        span: error.span().unwrap_or(0..0),
        problem: error.message().lines().collect::<Vec<_>>().join(", "),
        expected: String::new(),
    }));
    let top = Table {
        span: 0..0,
        path,
        rest: document.into_inner(),
        known: Vec::new(),
        is_whole: syntax.is_empty(),
        complaints,
    };
    top.read(read)
}

/// One table of a document, from which a reader takes the keys that it knows.
pub(crate) struct Table<'c, 'i> {
    /// Where the table's name stands.
    span: Range<usize>,
    /// `"limits."` for the table `limits`.
    path: String,
    /// What nobody has taken yet.
    rest: DeTable<'i>,
    /// The keys that were asked for, whether they are there or not.
    known: Vec<&'static str>,
    /// Whether all of the document could be parsed: of half a document, what seems absent may be
    /// there.
    is_whole: bool,
    complaints: &'c mut Vec<Complaint>,
}

/// What a value was expected to be, as the end of "expected …".
pub(crate) type Expected = String;

impl<'i> Table<'_, 'i> {
    /// The value of `key`, if there is one and `parse` accepts it. Where `parse` doesn't, what it says
    /// was expected becomes a complaint.
    pub(crate) fn optional<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&DeValue<'i>) -> Result<T, Expected>,
    ) -> Option<T> {
        let (_, value) = self.take(key)?;
        let parsed = parse(value.get_ref());
        let parsed = parsed.inspect_err(|expected| self.invalid(key, value.span(), expected));
        parsed.ok()
    }

    /// The list at `key`, if there is one and `parse` accepts every text of it; of each that it doesn't,
    /// what it says was expected becomes a complaint at the text's own place. `if_empty` says what was
    /// expected where a list without any text is none.
    pub(crate) fn list<T>(
        &mut self,
        key: &'static str,
        if_empty: Option<&str>,
        parse: impl Fn(&str) -> Result<T, Expected>,
    ) -> Option<Vec<T>> {
        let (_, value) = self.take(key)?;
        let span = value.span();
        let DeValue::Array(texts) = value.into_inner() else {
            self.invalid(key, span, "a list of texts");
            return None;
        };
        if let Some(expected) = if_empty.filter(|_| texts.is_empty()) {
            self.invalid(key, span, expected);
            return None;
        }
        let count = texts.len();
        let mut parsed = Vec::new();
        for text in texts {
            let it = text.get_ref().as_str().ok_or_else(|| "a text".to_string());
            match it.and_then(&parse) {
                Ok(value) => parsed.push(value),
                Err(expected) => self.invalid(key, text.span(), &expected),
            }
        }
        (parsed.len() == count).then_some(parsed)
    }

    /// Whether there is a key of this name.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.rest.contains_key(key)
    }

    /// Where the value of a key stands that nobody has taken yet.
    pub(crate) fn place(&self, key: &str) -> Option<Range<usize>> {
        self.rest.get(key).map(Spanned::span)
    }

    /// As [`Table::optional`]; a key that is not there is a complaint.
    pub(crate) fn required<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&DeValue<'i>) -> Result<T, Expected>,
    ) -> Option<T> {
        if !self.rest.contains_key(key) && self.is_whole {
            self.complain("missing key", key, self.span.clone(), String::new());
        }
        self.optional(key, parse)
    }

    /// As [`Table::optional`]; the value is put into its `place`.
    pub(crate) fn set<T>(
        &mut self,
        key: &'static str,
        place: &mut T,
        parse: impl FnOnce(&DeValue<'i>) -> Result<T, Expected>,
    ) {
        if let Some(value) = self.optional(key, parse) {
            *place = value;
        }
    }

    /// The sub-table `key`: `read` takes what it knows from it. `None` when it is not there.
    pub(crate) fn table<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Table<'_, 'i>) -> T,
    ) -> Option<T> {
        let (key_span, value) = self.take(key)?;
        self.sub_table(key_span, key, value, read)
    }

    /// Every table of the array of tables `key` (`[[key]]`): `read` takes what it knows from each,
    /// and returns `None` only after a complaint.
    pub(crate) fn tables<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Table<'_, 'i>) -> Option<T>,
    ) -> Vec<T> {
        let Some((key_span, value)) = self.take(key) else {
            return Vec::new();
        };
        let span = value.span();
        let DeValue::Array(tables) = value.into_inner() else {
            self.invalid(key, span, &format!("tables, each `[[{key}]]`"));
            return Vec::new();
        };
        let tables = tables.into_iter().filter_map(|table| {
            // The header of this very table, where it has one.
            let header = Some(table.span()).filter(|span| !span.is_empty());
            let span = header.unwrap_or_else(|| key_span.clone());
            self.sub_table(span, key, table, &mut read)?
        });
        tables.collect()
    }

    /// As [`Table::tables`], for the sub-tables of all keys that are left.
    pub(crate) fn each_table<T>(
        &mut self,
        mut read: impl FnMut(&str, &mut Table<'_, 'i>) -> Option<T>,
    ) -> Vec<T> {
        let rest = std::mem::take(&mut self.rest);
        let sub_tables = rest.into_iter().filter_map(|(key, value)| {
            let name = key.get_ref().to_string();
            self.sub_table(key.span(), &name, value, |table| read(&name, table))?
        });
        sub_tables.collect()
    }

    /// What `parse` makes of every value that is left, each by its key. `None` after a complaint.
    #[cfg(feature = "import")]
    pub(crate) fn each<T>(
        &mut self,
        parse: impl Fn(&str, &DeValue<'i>) -> Result<T, Expected>,
    ) -> Option<BTreeMap<String, T>> {
        let rest = std::mem::take(&mut self.rest);
        let (count, mut parsed) = (rest.len(), BTreeMap::new());
        for (key, value) in rest {
            let name = key.get_ref().to_string();
            match parse(&name, value.get_ref()) {
                Ok(value) => drop(parsed.insert(name, value)),
                Err(expected) => self.invalid(&name, value.span(), &expected),
            }
        }
        (parsed.len() == count).then_some(parsed)
    }

    /// Complains about the table as a whole, at its name.
    pub(crate) fn complain_here(&mut self, problem: String, expected: &str) {
        self.complaints.push(Complaint {
            span: self.span.clone(),
            problem,
            expected: format!("expected {expected}"),
        });
    }

    /// The value of `key`, and where the key stands. From here on the key is known.
    fn take(&mut self, key: &'static str) -> Option<(Range<usize>, Spanned<DeValue<'i>>)> {
        self.known.push(key);
        let (key, value) = self.rest.remove_entry(key)?;
        Some((key.span(), value))
    }

    fn sub_table<T>(
        &mut self,
        key_span: Range<usize>,
        key: &str,
        value: Spanned<DeValue<'i>>,
        read: impl FnOnce(&mut Table<'_, 'i>) -> T,
    ) -> Option<T> {
        let span = value.span();
        let DeValue::Table(rest) = value.into_inner() else {
            self.invalid(key, span, "a table");
            return None;
        };
        let table = Table {
            span: key_span,
            path: format!("{}{key}.", self.path),
            rest,
            known: Vec::new(),
            is_whole: self.is_whole,
            complaints: self.complaints,
        };
        Some(table.read(read))
    }

    /// Lets `read` take what it knows. Every key that is left then is unknown.
    fn read<T>(mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        let value = read(&mut self);
        for key in std::mem::take(&mut self.rest).keys() {
            let known: Vec<_> = self.known.iter().map(|key| format!("`{key}`")).collect();
            let expected = format!("expected one of {}", known.join(", "));
            self.complain("unknown key", key.get_ref(), key.span(), expected);
        }
        value
    }

    fn invalid(&mut self, key: &str, span: Range<usize>, expected: &str) {
        self.complain("invalid", key, span, format!("expected {expected}"));
    }

    /// Says at `span` what is wrong with `key`, which is named with the tables that it stands in.
    fn complain(&mut self, what: &str, key: &str, span: Range<usize>, expected: String) {
        self.complaints.push(Complaint {
            span,
            problem: format!("{what} {}", quoted(&format!("{}{key}", self.path))),
            expected,
        });
    }
}

/// What a value is, or what it was expected to be.
pub(crate) trait ValueExt {
    /// What `parse` makes of a text; `what` says what the text should have been.
    fn parsed<T>(&self, what: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, Expected>;

    fn path(&self) -> Result<PathBuf, Expected>;

    /// A list of texts; `what` says what the value should have been.
    fn texts(&self, what: &str) -> Result<Vec<String>, Expected>;

    /// A whole number that is not negative and at most `max`.
    fn number(&self, max: u64) -> Result<u64, Expected>;
}

impl ValueExt for DeValue<'_> {
    fn parsed<T>(&self, what: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, Expected> {
        let parsed = self.as_str().and_then(parse);
        parsed.ok_or_else(|| what.to_string())
    }

    fn path(&self) -> Result<PathBuf, Expected> {
        let is_path = |text: &str| !text.is_empty() && !text.contains('\0');
        self.parsed("a path", |text| is_path(text).then(|| text.into()))
    }

    fn texts(&self, what: &str) -> Result<Vec<String>, Expected> {
        let list = self.as_array().ok_or_else(|| what.to_string())?;
        let texts = list.iter().map(|value| value.get_ref().as_str());
        let texts: Option<_> = texts.map(|text| text.map(String::from)).collect();
        texts.ok_or_else(|| what.to_string())
    }

    fn number(&self, max: u64) -> Result<u64, Expected> {
        let number = self.as_integer().and_then(|integer| {
            let number = u64::from_str_radix(integer.as_str(), integer.radix());
            number.ok().filter(|number| *number <= max)
        });
        number.ok_or_else(|| format!("a whole number, at most {max}"))
    }
}

/// A text as a key of a TOML document: always quoted, always on one line.
pub(crate) fn toml_key(text: &str) -> impl std::fmt::Display {
    toml_writer::ToTomlKey::to_toml_key(&toml_writer::TomlKeyBuilder::new(text).as_basic())
}
