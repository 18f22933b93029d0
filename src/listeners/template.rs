//! Templates: the engine, what a template sees, and what is wrong with one.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Enumerator, Object, ObjectRepr};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value, context};

use crate::text::{Complaint, InputError};
use crate::tree::{Catalog, CatalogFile, CatalogImage};

/// What templates see of an image, and of a file.
#[rustfmt::skip] // One name a line would take a page.
const IMAGE: &[&str] = &[
    "target", "arch", "subarch", "release", "purpose", "version", "generation", "digest",
    "path", "pinned_path", "published_at", "files",
];
const FILE: &[&str] = &["path", "size", "sha256"];

/// What `template` makes of `images`.
pub(super) fn render(template: &str, images: &Arc<Images>) -> Result<String, Error> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    // A line that holds nothing but a tag leaves nothing behind.
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .keep_trailing_newline(true)
        .build()?;
    environment.set_syntax(syntax);
    // An error says where in the template it is.
    environment.set_debug(true);
    environment.add_test("plain", is_plain);
    environment.add_filter("first_named", first_named);
    let images = Value::from_dyn_object(Arc::clone(images));
    let template = environment.template_from_str(template)?;
    template.render(context! { images })
}

/// Whether a text may stand in a boot loader's configuration as it is. The names of an image's files
/// and its version are the importer's: some would be commands there.
fn is_plain(value: &Value) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"._+-/@".contains(&b);
    // What is no text, as a missing version, isn't plain.
    value
        .as_str()
        .is_some_and(|text| !text.is_empty() && text.bytes().all(is_plain))
}

/// The path of the first of these files that is plain and whose name is among `names`; empty where
/// there is none. A template could look for it by itself, many times slower.
fn first_named(files: &Value, names: &Value) -> Result<Value, Error> {
    for file in files.try_iter()? {
        let path = file.get_attr("path")?;
        let name = path.as_str().and_then(|path| path.rsplit('/').next());
        if names.try_iter()?.any(|wanted| wanted.as_str() == name) && is_plain(&path) {
            return Ok(path);
        }
    }
    Ok(Value::from(""))
}

/// The error with the place in the template that it is about.
pub(super) fn explain(name: &str, template: &str, error: &Error) -> InputError {
    let before = error.line().unwrap_or(1).saturating_sub(1);
    let lines = template.split_inclusive('\n').take(before);
    let begin = lines.map(str::len).sum();
    let span = error.range().unwrap_or(begin..begin);
    let problem = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    let expected = match error.kind() {
        ErrorKind::UndefinedError => format!(
            "expected `images`; an image has `{}`, and one of its files `{}`",
            IMAGE.join("`, `"),
            FILE.join("`, `")
        ),
        _ => String::new(),
    };
    let complaint = Complaint {
        span,
        problem,
        expected,
    };
    InputError::new(name, template, vec![complaint])
}

/// The list `images`: an image is read from the catalog when a template asks for it.
pub(super) struct Images {
    catalog: Catalog,
    is_damaged: AtomicBool,
}

impl Images {
    pub(super) fn new(catalog: Catalog) -> Self {
        Self {
            catalog,
            is_damaged: AtomicBool::new(false),
        }
    }

    /// Whether an image was asked for that the catalog can't show: somebody has written into it.
    pub(super) fn is_damaged(&self) -> bool {
        self.is_damaged.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Images {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} images", self.catalog.count())
    }
}

impl Object for Images {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let number = key.as_usize().filter(|n| *n < self.catalog.count())?;
        let image = self.catalog.image(number);
        if image.is_none() {
            self.is_damaged.store(true, Ordering::Relaxed);
        }
        image.map(to_value)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.catalog.count())
    }
}

/// A value whose parts have names.
#[derive(Debug)]
struct Named(&'static [&'static str], Vec<Value>);

impl Object for Named {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        let number = self.0.iter().position(|name| *name == key)?;
        self.1.get(number).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Str(self.0)
    }
}

/// What a template sees of an image; the order is that of [`IMAGE`].
fn to_value(image: CatalogImage<'_>) -> Value {
    let file = |file: &CatalogFile<'_>| {
        let values = vec![(*file.path).into(), file.size.into(), file.sha256.into()];
        Value::from_object(Named(FILE, values))
    };
    let values = vec![
        image.target.into(),
        image.arch.into(),
        image.subarch.into(),
        image.release.into(),
        image.purpose.into(),
        image.version.map_or(().into(), Value::from),
        image.generation.into(),
        image.digest.into(),
        (*image.path).into(),
        (*image.pinned_path).into(),
        image.published_at.into(),
        image.files.iter().map(file).collect(),
    ];
    Value::from_object(Named(IMAGE, values))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images() -> Arc<Images> {
        let line = |arch: &str, version: &str| {
            format!(
                r#"{{"target":"{arch}/g/r/p","arch":"{arch}","subarch":"g","release":"r","purpose":"p","version":{version},"generation":"G","digest":"D","path":"t/{arch}/g/r/p","pinned_path":"t/{arch}/g/r/p@/G","published_at":"T","files":[{{"path":"a b","size":7,"sha256":"S"}},{{"path":"c","size":1,"sha256":"S"}}]}}"#
            )
        };
        let lines = [line("amd64", "\"1\""), line("arm64", "null")];
        let text = format!("{{\"format\":1,\"images\":[\n{}\n]}}\n", lines.join(",\n"));
        Arc::new(Images::new(Catalog::parse(text).unwrap()))
    }

    fn rendered(template: &str) -> String {
        render(template, &images()).unwrap_or_else(|error| panic!("{error}"))
    }

    fn complaint(template: &str) -> String {
        let error = render(template, &images()).unwrap_err();
        explain("x.j2", template, &error).to_string()
    }

    #[test]
    fn a_template_sees_every_field_of_every_image() {
        for (number, name) in IMAGE.iter().enumerate() {
            let values = to_value(images().catalog.image(0).unwrap());
            assert!(!values.get_attr(name).unwrap().is_undefined(), "{name}");
            let all = rendered("{{ images[0] | list | join(' ') }}");
            assert_eq!(all.split(' ').nth(number), Some(*name));
        }
        let template = "\
{% for image in images if image.version %}
{{ image.target }} {{ image.arch }} {{ image.version }} {{ image.pinned_path }} {{ image.digest }}
  {% for file in image.files %}
{{ file.path }} {{ file.size + 1 }} {{ file.sha256 }}
  {% endfor %}
{% endfor %}
{{ images | length }} {{ images | map(attribute=\"arch\") | join(\",\") }} {{ images[1].version }}
";
        let expected = "\
amd64/g/r/p amd64 1 t/amd64/g/r/p@/G D
a b 8 S
c 2 S
2 amd64,arm64 None
";
        assert_eq!(rendered(template), expected);
    }

    #[test]
    fn only_what_no_boot_loader_takes_for_a_command_is_plain() {
        let plain = rendered(
            "{% for file in images[0].files %}{{ file.path is plain }} {% endfor %}\
             {{ images[0].version is plain }} {{ images[1].version is plain }} {{ '' is plain }}",
        );
        assert_eq!(plain, "False True True False False");
        for bad in [
            " ", "\\n", "'", "$", "{", ";", "&", "|", "#", "\\\\", "`", "^", "%", ":", "=", "ü",
        ] {
            let template = format!("{{{{ \"x{bad}y\" is plain }}}}");
            assert_eq!(rendered(&template), "False", "{bad:?}");
        }
        assert_eq!(rendered("{{ 'd-i/a_b@/x.y+z~' is plain }}"), "False");
        assert_eq!(rendered("{{ 'd-i/a_b@/x.y+z' is plain }}"), "True");
    }

    #[test]
    fn the_first_file_of_a_name_is_found_and_none_that_is_not_plain() {
        let find =
            |names: &str| rendered(&format!("{{{{ images[0].files | first_named({names}) }}}}"));
        assert_eq!(find("['x', 'c']"), "c");
        assert_eq!(find("['a b']"), "", "not plain");
        assert_eq!(find("[]"), "");
    }

    #[test]
    fn a_complaint_shows_where_in_the_template_it_is() {
        let expected = "\
error: unknown filter: filter basename is unknown
 --> x.j2:2:21
  |
2 | {{ images[0].arch | basename }}
  |                     ^^^^^^^^";
        let template = "one\n{{ images[0].arch | basename }}\n";
        assert_eq!(complaint(template), expected);
        let undefined = complaint("{{ images[0].generaton }}");
        let expected = "expected `images`; an image has `target`, `arch`, ";
        assert!(undefined.contains(" --> x.j2:1:"), "{undefined}");
        assert!(undefined.contains(expected), "{undefined}");
        // Nothing of other files is read.
        assert!(complaint("{% include '/etc/passwd' %}").contains("x.j2:1:"));
    }
}
