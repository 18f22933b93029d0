//! A TOML document, taken key by key: every error is kept, none ends the reading.

use std::cell::RefCell;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Complaint, InputError, quoted};

/// Reads the document `text`; `file` is the name that errors show.
///
/// `read` takes what it knows from the top table. It returns `None` only after it has complained
/// (the methods of [`Table`] do so themselves).
///
/// # Errors
/// Everything that is wrong, at once: syntax, unknown keys, missing keys, values.
pub(crate) fn read_toml<T>(
    file: &str,
    text: &str,
    read: impl FnOnce(&mut Table<'_, '_>) -> Option<T>,
) -> Result<T, InputError> {
    let (document, syntax) = DeTable::parse_recoverable(text);
    let complaints = syntax.iter().map(|error| Complaint {
        span: error.span().unwrap_or(0..0),
        problem: error.message().lines().collect::<Vec<_>>().join(", "),
        expected: String::new(),
    });
    // Half of a document that could not be parsed is missing: what seems absent may be there.
    let is_whole = syntax.is_empty();
    let complaints = RefCell::new(complaints.collect());
    let mut top = Table {
        span: 0..0,
        path: String::new(),
        rest: document.into_inner(),
        known: Vec::new(),
        is_whole,
        complaints: &complaints,
    };
    let value = read(&mut top);
    top.end();
    match (value, complaints.into_inner()) {
        (Some(value), complaints) if complaints.is_empty() => Ok(value),
        (_, complaints) => Err(InputError::new(file, text, complaints)),
    }
}

/// One table of a document; what has been taken out of it is known, the rest is not.
pub(crate) struct Table<'c, 'i> {
    span: Range<usize>,
    /// `"limits."` for the table `limits`.
    path: String,
    rest: DeTable<'i>,
    known: Vec<&'static str>,
    is_whole: bool,
    complaints: &'c RefCell<Vec<Complaint>>,
}

/// What a value was expected to be, as the end of "expected …".
pub(crate) type Expected = String;

impl<'i> Table<'_, 'i> {
    /// The value of `key`, if there is one and `parse` accepts it; where it doesn't, its word on
    /// what was expected becomes a complaint.
    pub(crate) fn optional<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&DeValue<'i>) -> Result<T, Expected>,
    ) -> Option<T> {
        let (_, value) = self.take(key)?;
        match parse(value.get_ref()) {
            Ok(parsed) => Some(parsed),
            Err(expected) => {
                let problem = format!("invalid {}", self.named(key));
                self.complain(value.span(), problem, format!("expected {expected}"));
                None
            }
        }
    }

    /// As [`Table::optional`]; a key that is not there is a complaint.
    pub(crate) fn required<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&DeValue<'i>) -> Result<T, Expected>,
    ) -> Option<T> {
        if !self.rest.contains_key(key) && self.is_whole {
            self.known.push(key);
            let problem = format!("missing key {}", self.named(key));
            self.complain(self.span.clone(), problem, String::new());
            return None;
        }
        self.optional(key, parse)
    }

    /// Puts the value of `key`, if there is a good one, into its `place`.
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

    /// Every table of the array of tables `key` (`[[key]]`): `read` takes what it knows from each.
    pub(crate) fn tables<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Table<'_, 'i>) -> T,
    ) -> Vec<T> {
        let Some((key_span, value)) = self.take(key) else {
            return Vec::new();
        };
        let span = value.span();
        let DeValue::Array(tables) = value.into_inner() else {
            let problem = format!("invalid {}", self.named(key));
            self.complain(span, problem, format!("expected tables, each `[[{key}]]`"));
            return Vec::new();
        };
        let tables = tables.into_iter().filter_map(|table| {
            // The header of this very table, where it has one.
            let span = if table.span().is_empty() {
                key_span.clone()
            } else {
                table.span()
            };
            self.sub_table(span, key, table, &mut read)
        });
        tables.collect()
    }

    /// Every remaining key with the sub-table it names.
    pub(crate) fn each_table<T>(
        &mut self,
        mut read: impl FnMut(&str, &mut Table<'_, 'i>) -> T,
    ) -> Vec<T> {
        let rest = std::mem::take(&mut self.rest);
        let sub_tables = rest.into_iter().filter_map(|(key, value)| {
            let name = key.get_ref().to_string();
            self.sub_table(key.span(), &name, value, |table| read(&name, table))
        });
        sub_tables.collect()
    }

    /// Complains about the table as a whole, at its name.
    pub(crate) fn complain_here(&self, problem: String, expected: &str) {
        self.complain(self.span.clone(), problem, format!("expected {expected}"));
    }

    fn take(&mut self, key: &'static str) -> Option<(Range<usize>, Spanned<DeValue<'i>>)> {
        self.known.push(key);
        let (key, value) = self.rest.remove_entry(key)?;
        Some((key.span(), value))
    }

    fn sub_table<T>(
        &self,
        key_span: Range<usize>,
        key: &str,
        value: Spanned<DeValue<'i>>,
        read: impl FnOnce(&mut Table<'_, 'i>) -> T,
    ) -> Option<T> {
        let span = value.span();
        let DeValue::Table(rest) = value.into_inner() else {
            let problem = format!("invalid {}", self.named(key));
            self.complain(span, problem, "expected a table".to_string());
            return None;
        };
        let mut table = Table {
            span: key_span,
            path: format!("{}{key}.", self.path),
            rest,
            known: Vec::new(),
            is_whole: self.is_whole,
            complaints: self.complaints,
        };
        let value = read(&mut table);
        table.end();
        Some(value)
    }

    /// A key of this table with the tables it stands in, for a message.
    fn named(&self, key: &str) -> String {
        quoted(&format!("{}{key}", self.path))
    }

    fn complain(&self, span: Range<usize>, problem: String, expected: String) {
        self.complaints.borrow_mut().push(Complaint {
            span,
            problem,
            expected,
        });
    }

    /// What nobody took is unknown.
    fn end(self) {
        let known: Vec<_> = self.known.iter().map(|key| format!("`{key}`")).collect();
        for key in self.rest.keys() {
            let problem = format!("unknown key {}", self.named(key.get_ref()));
            self.complain(
                key.span(),
                problem,
                format!("expected one of {}", known.join(", ")),
            );
        }
    }
}

/// What a value is, or what it was expected to be.
pub(crate) trait ValueExt {
    /// A text; `what` says what it should have been.
    fn text(&self, what: &str) -> Result<&str, Expected>;

    /// A list of texts; `what` says what it should have been.
    fn texts(&self, what: &str) -> Result<Vec<String>, Expected>;

    /// A whole number that is not negative and at most `max`.
    fn number(&self, max: u64) -> Result<u64, Expected>;
}

impl ValueExt for DeValue<'_> {
    fn text(&self, what: &str) -> Result<&str, Expected> {
        self.as_str().ok_or_else(|| what.to_string())
    }

    fn texts(&self, what: &str) -> Result<Vec<String>, Expected> {
        let list = self.as_array().ok_or_else(|| what.to_string())?;
        let texts = list.iter().map(|value| value.get_ref().text(what));
        texts.map(|text| text.map(String::from)).collect()
    }

    fn number(&self, max: u64) -> Result<u64, Expected> {
        let parsed = self
            .as_integer()
            .and_then(|integer| u64::from_str_radix(integer.as_str(), integer.radix()).ok());
        let bound = if max == u64::MAX {
            String::new()
        } else {
            format!(", at most {max}")
        };
        parsed
            .filter(|&n| n <= max)
            .ok_or_else(|| format!("a whole number{bound}"))
    }
}

/// A text as a key of a TOML document: always quoted, always on one line.
pub(crate) fn toml_key(text: &str) -> impl std::fmt::Display {
    toml_writer::ToTomlKey::to_toml_key(&toml_writer::TomlKeyBuilder::new(text).as_basic())
}
