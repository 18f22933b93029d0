//! A line of a history that is taken is the same after it was written and read again, and one line.

#![no_main]

use libfuzzer_sys::fuzz_target;
use netboot_publisher::Happened;
use netboot_publisher_fuzz::MAX_INPUT;

fuzz_target!(|input: &[u8]| {
    if input.len() > MAX_INPUT {
        return;
    }
    if let Ok(happened) = serde_json::from_slice::<Happened>(input) {
        let written = happened.to_line();
        assert_eq!(written.find('\n'), Some(written.len() - 1), "{written:?}");
        let read: Happened =
            serde_json::from_str(&written).unwrap_or_else(|e| panic!("{e}\n{written}"));
        assert_eq!(read, happened);
        assert_eq!(read.to_line(), written);
    }
});
