//! The admin's log: entries of the journal's own kind, readable lines, or JSON.
//!
//! An event has the same fields in all three. In lines for people what only programs need is left
//! out, and bytes and durations are written as people do; nothing in a line can move a cursor.
//!
//! The room owns the log's formats and the ids of its events. Any room logs by `tracing`'s macros;
//! this one uses `sys` and `settings`. Start with [`Log::start`].

mod events;
mod journal;

pub use events::MessageId;

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use bytesize::ByteSize;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FormatFields, MakeWriter};
use tracing_subscriber::layer::{Context, Layer, Layered, SubscriberExt as _};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, reload};

use self::journal::{Journal, JournalEntry};
use crate::settings::{LogFormat, LogLevel, LogSettings};

/// The name of this program in the journal.
const IDENTIFIER: &str = "netboot-publisher";

/// Fields that lines for people don't show: a line says the same in words.
const FOR_PROGRAMS: [&str; 3] = ["message_id", "outcome", "digest"];

/// The running log.
pub(crate) struct Log {
    /// What the command line says.
    level: Option<LogLevel>,
    filter: reload::Handle<EnvFilter, Layered<Output, Registry>>,
    is_text: bool,
}

impl Log {
    /// Starts the log on standard error. To be called once. `level` and `format` are what the command
    /// line says, which goes before the settings.
    pub(crate) fn start(
        settings: LogSettings,
        level: Option<LogLevel>,
        format: Option<LogFormat>,
    ) -> Self {
        let format = format.unwrap_or(settings.format);
        let journal = match format {
            LogFormat::Auto => Journal::behind_standard_error(),
            LogFormat::Text | LogFormat::Json => None,
        };
        let is_text = format != LogFormat::Json && journal.is_none();
        let has_colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let output = match journal {
            Some(journal) => Journaled(journal).boxed(),
            None => lines(io::stderr, is_text, has_colours),
        };
        let (layer, filter) = reload::Layer::new(filter(level.unwrap_or(settings.level)));
        let own = filter_fn(is_own);
        Registry::default()
            .with(output)
            .with(layer)
            .with(own)
            .init();
        Self {
            level,
            filter,
            is_text,
        }
    }

    /// What is logged from now on, unless the command line says something else.
    pub(crate) fn set_level(&self, level: LogLevel) {
        // This fails only when the log is gone.
        let _ = self.filter.reload(filter(self.level.unwrap_or(level)));
    }

    /// Whether the log consists of lines for people, on standard error.
    pub(crate) fn is_text(&self) -> bool {
        self.is_text
    }
}

/// `RUST_LOG` goes before all else: it can choose by module.
fn filter(level: LogLevel) -> EnvFilter {
    let level = level.to_string().parse();
    EnvFilter::builder()
        .with_default_directive(level.expect("the words are tracing's own"))
        .from_env_lossy()
}

/// Only this program's own events, at any level: what a library says of itself is no news to an
/// admin, and names paths of the machine where it was built.
fn is_own(event: &Metadata<'_>) -> bool {
    event.target().split("::").next() == Some(env!("CARGO_CRATE_NAME"))
}

/// Where events go: readable lines, JSON, or the journal.
type Output = Box<dyn Layer<Registry> + Send + Sync>;

/// Readable lines, or one JSON object a line.
fn lines<W>(writer: W, is_text: bool, has_colours: bool) -> Output
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        // Of the module; an event's own field `target` is what an image is for.
        .with_target(false)
        // Whoever read the log may have gone. Telling nobody of that would be a panic.
        .log_internal_errors(false);
    if is_text {
        return layer.with_ansi(has_colours).fmt_fields(Readable).boxed();
    }
    let layer = layer.json().flatten_event(true);
    layer.with_current_span(false).with_span_list(false).boxed()
}

/// How lines for people show fields.
struct Readable;

impl<'w> FormatFields<'w> for Readable {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut line = Line::new(writer);
        fields.record(&mut line);
        line.result
    }
}

/// A line for people, as it is written.
struct Line<'w> {
    out: Writer<'w>,
    /// What stands before the next field; `None` at the beginning.
    gap: Option<char>,
    result: fmt::Result,
}

impl<'w> Line<'w> {
    fn new(out: Writer<'w>) -> Self {
        Self {
            out,
            gap: None,
            result: Ok(()),
        }
    }

    fn put(&mut self, name: &str, value: &dyn fmt::Display) {
        if self.result.is_ok() {
            self.result = self.try_put(name, value);
        }
    }

    fn try_put(&mut self, name: &str, value: &dyn fmt::Display) -> fmt::Result {
        if let Some(gap) = self.gap.replace(' ') {
            self.out.write_char(gap)?;
        }
        if name == "message" {
            let message = value.to_string();
            // An excerpt of an input file has lines of its own.
            if message.contains('\n') {
                self.gap = Some('\n');
            }
            return write!(Escaping(&mut self.out, &['\n']), "{message}");
        }
        if self.out.has_ansi_escapes() {
            write!(self.out, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m")?;
        } else {
            write!(self.out, "{name}=")?;
        }
        write!(Escaping(&mut self.out, &[]), "{value}")
    }
}

impl Visit for Line<'_> {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "bytes" => self.put("bytes", &ByteSize(value)),
            "duration_usec" => self.put("took", &humantime::format_duration(round(value))),
            name => self.put(name, &value),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.put("message", &value),
            _ => self.record_debug(field, &value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if !FOR_PROGRAMS.contains(&field.name()) {
            self.put(field.name(), &format_args!("{value:?}"));
        }
    }
}

/// What people want to know of a duration: whole milliseconds, from 10 ms on.
fn round(micros: u64) -> Duration {
    let unit = if micros < 10_000 { 1 } else { 1_000 };
    Duration::from_micros(micros / unit * unit)
}

/// A writer that escapes all control characters but the given ones.
struct Escaping<'w>(&'w mut dyn fmt::Write, &'static [char]);

impl fmt::Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let is_bad = |c: char| c.is_control() && !self.1.contains(&c);
        let mut written = 0;
        for (at, bad) in text.match_indices(is_bad) {
            write!(self.0, "{}{}", &text[written..at], bad.escape_default())?;
            written = at + bad.len();
        }
        self.0.write_str(&text[written..])
    }
}

/// Writes events to the journal.
struct Journaled(Journal);

impl<S: Subscriber> Layer<S> for Journaled {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let (entry, message) = entry(event);
        if self.0.send(&entry).is_err() {
            // Standard error leads to the journal too; where that fails as well, nobody listens.
            let _ = io::Write::write_all(&mut io::stderr(), format!("{message}\n").as_bytes());
        }
    }
}

/// An event as the journal keeps it, and its line for people.
fn entry(event: &Event<'_>) -> (JournalEntry, String) {
    // As in syslog(3).
    let priority = match *Event::metadata(event).level() {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        Level::DEBUG | Level::TRACE => "7",
    };
    // `journalctl` shows nothing but the message: it says what the line says.
    let mut message = String::new();
    event.record(&mut Line::new(Writer::new(&mut message)));
    let mut entry = JournalEntry::default();
    entry.put("MESSAGE", &message);
    entry.put("PRIORITY", priority);
    entry.put("SYSLOG_IDENTIFIER", IDENTIFIER);
    event.record(&mut Fields(&mut entry));
    (entry, message)
}

/// The fields of an event become those of an entry.
struct Fields<'e>(&'e mut JournalEntry);

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() != "message" {
            self.0.put(&field.name().to_ascii_uppercase(), value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// What is logged, taken down.
    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Paper {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn publish() {
        let (drop, files, bytes, duration_usec) = ("a", 2_usize, 3_u64 << 20, 12_345_678_u64);
        tracing::info!(
            message_id = "0123",
            outcome = %"published",
            target = tracing::field::display("amd64/generic/noble/install"),
            digest = %"9f3c",
            reason = None::<String>,
            drop,
            files,
            bytes,
            duration_usec,
            "published"
        );
    }

    /// After the time and the level.
    fn lines_of(has_colours: bool, tell: impl FnOnce()) -> String {
        let paper = Paper::default();
        let writer = paper.clone();
        let layer = lines(move || writer.clone(), true, has_colours);
        let subscriber = Registry::default().with(layer);
        tracing::subscriber::with_default(subscriber, tell);
        let text = paper.text();
        let begin = text.find('Z').expect("a time") + 1;
        text[begin..].to_string()
    }

    #[test]
    fn a_line_shows_bytes_and_durations_as_people_write_them_and_nothing_for_programs() {
        let expected = "  INFO published target=amd64/generic/noble/install drop=\"a\" files=2 \
                        bytes=3.0 MiB took=12s 345ms\n";
        assert_eq!(lines_of(false, publish), expected);
    }

    #[test]
    fn colours_are_for_terminals_only() {
        assert!(lines_of(true, publish).contains("\x1b[3mfiles\x1b[0m"));
        assert!(!lines_of(false, publish).contains('\x1b'));
    }

    #[test]
    fn input_can_move_no_cursor_and_forge_no_line() {
        let evil = "a\x1b[2J\u{9b}1m\r\n2026 INFO ready";
        let text = lines_of(false, || {
            tracing::warn!(drop = evil, path = %evil, "not\x1b[2J\u{9b}\r this");
        });
        assert!(!text.trim_end().contains(char::is_control), "{text:?}");
        assert!(text.contains("not\\u{1b}[2J\\u{9b}\\r this"), "{text:?}");
        assert_eq!(text.matches("\\u{1b}[2J\\u{9b}").count(), 3, "{text:?}");
    }

    #[test]
    fn json_has_every_field_as_it_is() {
        let paper = Paper::default();
        let writer = paper.clone();
        let layer = lines(move || writer.clone(), false, false);
        let subscriber = Registry::default().with(layer);
        tracing::subscriber::with_default(subscriber, publish);
        let mut event: serde_json::Value = serde_json::from_str(&paper.text()).unwrap();
        assert!(event.as_object_mut().unwrap().remove("timestamp").is_some());
        let expected = serde_json::json!({
            "level": "INFO",
            "message": "published",
            "message_id": "0123",
            "outcome": "published",
            "target": "amd64/generic/noble/install",
            "digest": "9f3c",
            "drop": "a",
            "files": 2,
            "bytes": 3 << 20,
            "duration_usec": 12_345_678,
        });
        assert_eq!(event, expected);
    }

    /// Events as entries of the journal.
    struct Taken(Arc<Mutex<String>>);

    impl<S: Subscriber> Layer<S> for Taken {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            write!(self.0.lock().unwrap(), "{}", entry(event).0).unwrap();
        }
    }

    /// As in syslog(3): `journalctl --priority warning` goes by it.
    #[test]
    fn an_entry_has_the_priority_of_its_level() {
        let taken = Arc::default();
        let subscriber = tracing_subscriber::registry().with(Taken(Arc::clone(&taken)));
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!("");
            tracing::warn!("");
            tracing::info!("");
            tracing::debug!("");
        });
        let taken: String = taken.lock().unwrap().clone();
        let priorities: Vec<_> = taken
            .lines()
            .filter_map(|line| line.strip_prefix("PRIORITY="))
            .collect();
        assert_eq!(priorities, ["3", "4", "6", "7"]);
    }

    #[test]
    fn an_entry_has_the_fields_and_a_message_that_says_what_the_line_says() {
        let taken = Arc::default();
        let subscriber = tracing_subscriber::registry().with(Taken(Arc::clone(&taken)));
        tracing::subscriber::with_default(subscriber, publish);
        let expected = "MESSAGE=published target=amd64/generic/noble/install drop=\"a\" files=2 \
                        bytes=3.0 MiB took=12s 345ms\nPRIORITY=6\n\
                        SYSLOG_IDENTIFIER=netboot-publisher\nMESSAGE_ID=0123\nOUTCOME=published\n\
                        TARGET=amd64/generic/noble/install\nDIGEST=9f3c\nDROP=a\nFILES=2\n\
                        BYTES=3145728\nDURATION_USEC=12345678\n";
        assert_eq!(*taken.lock().unwrap(), expected);
    }
}
