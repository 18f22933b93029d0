//! A pattern that is taken prints as it was written, and means the targets that a plainer matcher finds;
//! one that is refused could stand for no target, and the message is fit to be shown. The first line is
//! the pattern, the others are targets.

#![no_main]

use libfuzzer_sys::fuzz_target;
use netboot_publisher::{Target, TargetPattern};
use netboot_publisher_fuzz::{assert_shown, text};

fuzz_target!(|input: &[u8]| {
    let Some(source) = text(input) else { return };
    let (first, names) = source.split_once('\n').unwrap_or((source, ""));
    let filled = first.replace('*', "0").parse::<Target>();
    let pattern = match first.parse::<TargetPattern>() {
        Ok(pattern) => pattern,
        Err(error) => {
            assert_shown(&error.to_string());
            assert!(filled.is_err(), "{first:?} stands for {filled:?}");
            return;
        }
    };
    assert_eq!(pattern.to_string(), first);
    match &filled {
        Ok(target) => assert!(pattern.fits(target), "{first} is not for {target}"),
        // Of the daemon's own names it means none.
        Err(_) => assert!(first.starts_with("catalog.json/"), "{first}: {filled:?}"),
    }
    assert_eq!(pattern.single(), first.parse::<Target>().ok());
    for name in names.split('\n') {
        let Ok(target) = name.parse::<Target>() else {
            continue;
        };
        let mut parts = first.split('/').zip(name.split('/'));
        let expected = parts.all(|(pattern, name)| fits(pattern, name));
        assert_eq!(pattern.fits(&target), expected, "{first} and {name}");
        let own: TargetPattern = name.parse().expect("a target is a pattern");
        assert!(own.fits(&target));
        assert_eq!(own.single().as_ref(), Some(&target));
    }
});

/// Whether `name` is what `pattern` says: after each sign of the pattern, which beginnings of the name
/// are.
fn fits(pattern: &str, name: &str) -> bool {
    let name = name.as_bytes();
    let mut is = vec![false; name.len() + 1];
    is[0] = true;
    for sign in pattern.bytes() {
        if sign == b'*' {
            for end in 1..=name.len() {
                is[end] |= is[end - 1];
            }
        } else {
            for end in (1..=name.len()).rev() {
                is[end] = is[end - 1] && name[end - 1] == sign;
            }
            is[0] = false;
        }
    }
    is[name.len()]
}
