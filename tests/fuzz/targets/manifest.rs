//! A manifest that is taken is the same after it was written and read again; one that is refused is
//! refused with a message that is fit to be shown.

#![no_main]

use libfuzzer_sys::fuzz_target;
use netboot_publisher::Manifest;
use netboot_publisher_fuzz::{assert_shown, text};

fuzz_target!(|input: &[u8]| {
    let Some(source) = text(input) else { return };
    match Manifest::parse(source) {
        Ok(manifest) => {
            let written = manifest.to_toml();
            let read = Manifest::parse(&written).unwrap_or_else(|e| panic!("{e}\n{written}"));
            assert_eq!(read, manifest);
            assert_eq!(read.to_toml(), written);
        }
        Err(error) => assert_shown(&error.to_string()),
    }
});
