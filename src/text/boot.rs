//! `[boot]`, of a manifest and of a source.

use std::ops::Range;

use super::{Table, ValueExt as _};
use crate::words::Boot;

/// A path that `[boot]` names, and where in the text.
pub(crate) struct Named {
    pub(crate) path: String,
    pub(crate) span: Range<usize>,
}

/// Reads `[boot]`: how an image boots; the paths that it names are added to `named`.
pub(crate) fn read_boot(table: &mut Table<'_, '_>, named: &mut Vec<Named>) -> Boot {
    let is_of_kernel = table.has("kernel") || table.has("initrd");
    let mut path = |table: &mut Table<'_, '_>, key| {
        let span = table.place(key);
        let path: String =
            table.optional(key, |value| value.parsed(Boot::PATH_RULE, Boot::path))?;
        let named_here = path.clone();
        named.extend(span.map(|span| Named {
            path: named_here,
            span,
        }));
        Some(path)
    };
    let kernel = path(table, "kernel");
    let efi = if is_of_kernel && table.has("efi") {
        table.optional("efi", |_| {
            Err("either `efi`, or `kernel` and `initrd`".to_string())
        })
    } else {
        path(table, "efi")
    };
    let initrd = table.optional("initrd", |value| {
        let rule = format!(
            "a list of at most {}, each {}",
            Boot::MAX_INITRDS,
            Boot::PATH_RULE
        );
        let list = value.as_array().ok_or(&rule)?;
        let paths = list.iter().map(|item| {
            let path = item.get_ref().as_str().and_then(Boot::path)?;
            Some(Named {
                path,
                span: item.span(),
            })
        });
        let paths: Option<Vec<_>> = paths.collect();
        let paths = paths.filter(|paths| paths.len() <= Boot::MAX_INITRDS);
        paths.ok_or(rule)
    });
    let initrd = initrd.unwrap_or_default();
    let paths = initrd.iter().map(|it| it.path.clone()).collect();
    named.extend(initrd);
    Boot {
        kernel,
        initrd: paths,
        cmdline: table.optional("cmdline", |it| it.parsed(Boot::CMDLINE_RULE, Boot::cmdline)),
        title: table.optional("title", |it| it.parsed(Boot::TITLE_RULE, Boot::title)),
        efi,
    }
}
