//! Settings are the same in whatever form of TOML they are written; a configuration that is refused
//! is refused with a message that is fit to be shown.

#![no_main]

use libfuzzer_sys::fuzz_target;
use netboot_publisher::Settings;
use netboot_publisher_fuzz::{assert_shown, text};

fuzz_target!(|input: &[u8]| {
    let Some(source) = text(input) else { return };
    let read = Settings::parse("config.toml", source);
    let table = source.parse::<toml::Table>();
    match &read {
        Ok(_) => assert!(table.is_ok(), "no TOML was taken: {table:?}"),
        Err(error) => assert_shown(&error.to_string()),
    }
    if let Ok(table) = table {
        let written = table.to_string();
        let again = Settings::parse("config.toml", &written);
        assert_eq!(read.ok(), again.ok(), "{written}");
    }
});
