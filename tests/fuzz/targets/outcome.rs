//! An outcome that is taken is the same after it was written and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use netboot_publisher::Outcome;
use netboot_publisher_fuzz::MAX_INPUT;

fuzz_target!(|input: &[u8]| {
    if input.len() > MAX_INPUT {
        return;
    }
    if let Ok(outcome) = serde_json::from_slice::<Outcome>(input) {
        let written = outcome.to_json();
        let read: Outcome =
            serde_json::from_str(&written).unwrap_or_else(|e| panic!("{e}\n{written}"));
        assert_eq!(read, outcome);
        assert_eq!(read.to_json(), written);
    }
});
