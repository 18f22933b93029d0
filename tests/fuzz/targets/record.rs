//! A record that is taken is the same after it was written and read again; its head is the same
//! whether it is read alone or with the rest.

#![no_main]

use libfuzzer_sys::fuzz_target;
use netboot_publisher::{Head, Record};
use netboot_publisher_fuzz::text;

fuzz_target!(|input: &[u8]| {
    let Some(source) = text(input) else { return };
    let head = Head::parse(source);
    if let Ok(record) = Record::parse(source) {
        assert_eq!(head.unwrap(), record.head);
        let written = record.to_toml();
        let read = Record::parse(&written).unwrap_or_else(|e| panic!("{e}\n{written}"));
        assert_eq!(read, record);
        assert_eq!(read.to_toml(), written);
        assert_eq!(Head::parse(&written).unwrap(), record.head);
    }
});
