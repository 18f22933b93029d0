//! The log: entries of the journal's own kind, readable lines, or JSON.
//!
//! An event has the same fields in all three. In lines for people what only programs need is left
//! out, and bytes and durations are written as people do; nothing in a line can move a cursor.

mod events;
mod journal;

pub use events::MessageId;

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use bytesize::ByteSize;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt as lines, reload};

use self::journal::{Journal, JournalEntry};
use crate::settings::{LogFormat, LogLevel, LogSettings};

/// As the journal calls this program.
const IDENTIFIER: &str = "netboot-publisher";

/// Fields that lines for people don't show: a line says the same in words.
const FOR_PROGRAMS: [&str; 3] = ["message_id", "outcome", "digest"];

/// The running log.
#[derive(Debug)]
pub(crate) struct Log {
    level: Option<LogLevel>,
    filter: reload::Handle<EnvFilter, Registry>,
    is_text: bool,
}

impl Log {
    /// Starts the log on standard error. What the command line says about level and format goes
    /// before the settings. To be called once.
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
        let (filtered, filter) = reload::Layer::new(filter(level.unwrap_or(settings.level)));
        let output: Box<dyn Layer<_> + Send + Sync> = match journal {
            Some(journal) => Box::new(Journaled(journal)),
            None if is_text => {
                let has_colours =
                    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
                Box::new(text(io::stderr, has_colours))
            }
            None => Box::new(json(io::stderr)),
        };
        tracing_subscriber::registry()
            .with(filtered)
            .with(output)
            .init();
        Self {
            level,
            filter,
            is_text,
        }
    }

    /// What is logged from now on, unless the command line says something else.
    pub(crate) fn set_level(&self, level: LogLevel) {
        // It fails only when the log is gone.
        let _ = self.filter.reload(filter(self.level.unwrap_or(level)));
    }

    /// Whether it consists of lines for people, on standard error.
    pub(crate) fn is_text(&self) -> bool {
        self.is_text
    }
}

/// `RUST_LOG` goes before all else: it can choose by module.
fn filter(level: LogLevel) -> EnvFilter {
    let level: LevelFilter = level
        .to_string()
        .parse()
        .expect("the words are tracing's own");
    EnvFilter::builder()
        .with_default_directive(level.into())
        .from_env_lossy()
}

/// Readable lines.
fn text<S, W>(writer: W, has_colours: bool) -> impl Layer<S> + Send + Sync
where
    S: Subscriber + for<'s> tracing_subscriber::registry::LookupSpan<'s>,
    W: for<'w> lines::MakeWriter<'w> + Send + Sync + 'static,
{
    lines::layer()
        .with_target(false)
        .with_ansi(has_colours)
        .with_writer(writer)
        .fmt_fields(Readable)
        // Whoever read the log may have gone. Telling nobody of that would be a panic.
        .log_internal_errors(false)
}

/// One JSON object a line.
fn json<S, W>(writer: W) -> impl Layer<S> + Send + Sync
where
    S: Subscriber + for<'s> tracing_subscriber::registry::LookupSpan<'s>,
    W: for<'w> lines::MakeWriter<'w> + Send + Sync + 'static,
{
    lines::layer()
        .json()
        .flatten_event(true)
        // Of the module; an event's own field `target` is what an image is for.
        .with_target(false)
        .with_current_span(false)
        .with_span_list(false)
        .with_writer(writer)
        .log_internal_errors(false)
}

/// How lines for people show fields.
struct Readable;

impl<'w> FormatFields<'w> for Readable {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let has_colours = writer.has_ansi_escapes();
        let mut line = Line::new(&mut writer, has_colours);
        fields.record(&mut line);
        line.result
    }
}

/// A line for people, as it is written.
struct Line<'w> {
    out: &'w mut dyn fmt::Write,
    has_colours: bool,
    /// What stands before the next field; `None` at the beginning.
    gap: Option<char>,
    result: fmt::Result,
}

impl<'w> Line<'w> {
    fn new(out: &'w mut dyn fmt::Write, has_colours: bool) -> Self {
        Self {
            out,
            has_colours,
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
            return write!(Escaping(self.out, &['\n']), "{message}");
        }
        if self.has_colours {
            write!(self.out, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m")?
        } else {
            write!(self.out, "{name}=")?
        }
        write!(Escaping(self.out, &[]), "{value}")
    }
}

impl Visit for Line<'_> {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "bytes" => self.put("bytes", &ByteSize(value)),
            "duration_usec" => {
                let took = humantime::format_duration(round(value));
                self.put("took", &took);
            }
            name => self.put(name, &value),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if !FOR_PROGRAMS.contains(&field.name()) {
            match field.name() {
                "message" => self.put("message", &value),
                name => self.put(name, &format_args!("{value:?}")),
            }
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if !FOR_PROGRAMS.contains(&field.name()) {
            self.put(field.name(), &format_args!("{value:?}"));
        }
    }
}

/// Three digits are enough for people.
fn round(micros: u64) -> Duration {
    let unit = if micros < 10_000 { 1 } else { 1_000 };
    Duration::from_micros(micros / unit * unit)
}

/// Escapes all control characters but these.
struct Escaping<'w>(&'w mut dyn fmt::Write, &'static [char]);

impl fmt::Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        let is_bad = |c: char| c.is_control() && !self.1.contains(&c);
        while let Some(at) = rest.find(is_bad) {
            let (plain, bad) = rest.split_at(at);
            self.0.write_str(plain)?;
            let mut chars = bad.chars();
            if let Some(bad) = chars.next() {
                write!(self.0, "{}", bad.escape_default())?;
            }
            rest = chars.as_str();
        }
        self.0.write_str(rest)
    }
}

/// Writes events to the journal.
struct Journaled(Journal);

impl<S: Subscriber> Layer<S> for Journaled {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let (entry, message) = entry(event);
        if self.0.send(&entry).is_err() {
            // It leads to the journal too, by another way; where that fails as well, nobody listens.
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
    event.record(&mut Line::new(&mut message, false));
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
        let layer = text(move || writer.clone(), has_colours);
        let subscriber = tracing_subscriber::registry().with(layer);
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
        let layer = json(move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(layer);
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
