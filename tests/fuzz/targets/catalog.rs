//! A catalog that is taken is JSON with as many images, sorted by target; and the same after its
//! images were written and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use netboot_publisher::Catalog;
use netboot_publisher_fuzz::text;
use serde_json::Value;

fuzz_target!(|input: &[u8]| {
    let Some(source) = text(input) else { return };
    let Some(catalog) = Catalog::parse(source.to_string()) else {
        return;
    };
    let images: Option<Vec<_>> = (0..catalog.count()).map(|n| catalog.image(n)).collect();
    assert_eq!(catalog.image(catalog.count()), None);
    // A line that is damaged shows when it is read.
    let Some(images) = images else { return };
    let whole: Value = serde_json::from_str(source).unwrap();
    assert_eq!(whole["images"].as_array().map(Vec::len), Some(images.len()));
    let lines: Vec<_> = images
        .iter()
        .map(|it| serde_json::to_string(it).unwrap())
        .collect();
    let begin = "{\"format\":1,\"images\":[\n";
    let end = if lines.is_empty() { "]}\n" } else { "\n]}\n" };
    let written = format!("{begin}{}{end}", lines.join(",\n"));
    let read = Catalog::parse(written).expect("what was written is read");
    assert_eq!(read.count(), images.len());
    for (number, image) in images.iter().enumerate() {
        assert_eq!(read.image(number).as_ref(), Some(image));
    }
});
