//! Boot configurations: the admin's templates, rendered with the catalog.
//!
//! An output is replaced atomically, and only when it would be another text. Whatever is wrong with
//! a template or an output leaves the old output in place, and the others are rendered all the same.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Enumerator, Object, ObjectRepr};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value, context};

use crate::image::{DIR_MODE, Ownership};
use crate::settings::{BootConfig, Settings};
use crate::sys::{Dir, Failure, Kind, dir, parallel};
use crate::text::{Complaint, InputError};
use crate::tree::{Catalog, Changes, Entry, EntryFile, Paths, Staging, Updated, catalog};

/// A longer template is refused, and a longer output written anyway, in bytes.
const MAX_TEMPLATE: u64 = 16 << 20;
const MAX_OUTPUT: u64 = 1 << 30;

/// From this many images on, outputs are rendered on several threads.
const MANY: usize = 256;

/// What templates see.
const IMAGE: &[&str] = &[
    "target",
    "arch",
    "subarch",
    "release",
    "purpose",
    "version",
    "generation",
    "digest",
    "path",
    "pinned_path",
    "published_at",
    "files",
];
const FILE: &[&str] = &["path", "size", "sha256"];

/// The catalog and the boot configurations of one tree.
#[derive(Debug)]
pub struct BootConfigs {
    staging: Arc<Staging>,
    root: PathBuf,
    paths: Paths,
    configs: Vec<BootConfig>,
}

/// What one rendering has done.
#[derive(Debug, Default)]
pub struct Rendered {
    pub images: usize,
    /// Files that were replaced: the catalog and outputs.
    pub replaced: usize,
    pub troubles: Vec<Trouble>,
}

/// What kept the catalog or an output from being written.
#[derive(Debug)]
pub struct Trouble {
    /// The output, or the catalog.
    pub about: PathBuf,
    pub why: Why,
}

#[derive(Debug, thiserror::Error)]
pub enum Why {
    #[error(transparent)]
    Failure(#[from] Failure),
    /// What it says begins a line of its own: an excerpt has several.
    #[error("the template has an error\n{0}")]
    Template(InputError),
    #[error("the template {0:?} is no UTF-8")]
    Encoding(PathBuf),
    #[error("the output {0:?} is a link or a folder; expected a file that may be replaced")]
    Occupied(PathBuf),
    #[error("{0}, what was known of the image stays")]
    Image(String),
}

impl BootConfigs {
    /// `root` is what the TFTP server calls `/`; `None`: the tree.
    pub fn new(staging: Arc<Staging>, root: Option<PathBuf>, configs: Vec<BootConfig>) -> Self {
        let tree = staging.tree().root().path();
        let root = root.unwrap_or_else(|| tree.to_path_buf());
        let below = tree.strip_prefix(&root).unwrap_or(Path::new(""));
        let parts = below.iter().map(|part| part.to_string_lossy() + "/");
        let paths = Paths {
            prefix: parts.collect(),
        };
        Self {
            staging,
            root,
            paths,
            configs,
        }
    }

    /// The same tree's, after the settings have changed.
    pub fn with(&self, settings: &Settings) -> Self {
        let (root, configs) = (settings.tftp.root.clone(), settings.boot_configs.clone());
        Self::new(Arc::clone(&self.staging), root, configs)
    }

    /// Takes `changes` up into the catalog, and renders every output. Blocks.
    pub fn render(&self, changes: &Changes) -> Rendered {
        let mut rendered = Rendered::default();
        let tree = self.staging.tree();
        let updated = catalog::update(tree, changes, &self.paths, self.owner());
        self.take_updated(updated, &mut rendered);
        if self.configs.is_empty() {
            return rendered;
        }
        let whole = || Catalog::read(tree).unwrap_or_default();
        let images = self.render_all(whole(), &mut rendered);
        if images.is_damaged.load(Ordering::Relaxed) {
            // Somebody has written into the catalog.
            rendered.troubles.clear();
            let made = catalog::make(tree, &self.paths, self.owner());
            self.take_updated(made, &mut rendered);
            self.render_all(whole(), &mut rendered);
        }
        rendered
    }

    fn take_updated(&self, updated: Result<Updated, Failure>, rendered: &mut Rendered) {
        let about = self.staging.tree().root().path().join(catalog::NAME);
        let mut meet = |why| {
            let about = about.clone();
            rendered.troubles.push(Trouble { about, why });
        };
        match updated {
            Ok(updated) => {
                updated
                    .troubles
                    .into_iter()
                    .map(Why::Image)
                    .for_each(&mut meet);
                rendered.images = updated.images;
                rendered.replaced += usize::from(updated.is_replaced);
            }
            Err(failure) => meet(failure.into()),
        }
    }

    fn render_all(&self, catalog: Catalog, rendered: &mut Rendered) -> Arc<Images> {
        let is_worth_it = catalog.count() > MANY;
        let images = Arc::new(Images {
            catalog,
            is_damaged: AtomicBool::new(false),
        });
        let configs = self.configs.iter().collect();
        let done = parallel::map(configs, is_worth_it, |config: &BootConfig| {
            (config, self.render_one(config, &images))
        });
        for (config, result) in done {
            match result {
                Ok(is_replaced) => rendered.replaced += usize::from(is_replaced),
                Err(why) => rendered.troubles.push(Trouble {
                    about: config.output.clone(),
                    why,
                }),
            }
        }
        images
    }

    /// Returns whether the output is another now.
    fn render_one(&self, config: &BootConfig, images: &Arc<Images>) -> Result<bool, Why> {
        let template = dir::read_named(&config.template, MAX_TEMPLATE)?;
        let template =
            String::from_utf8(template).map_err(|_| Why::Encoding(config.template.clone()))?;
        let name = config.template.display().to_string();
        let text = render(&template, images)
            .map_err(|error| Why::Template(explain(&name, &template, &error)))?;
        replace(&self.root, &config.output, &text, self.owner())
    }

    fn owner(&self) -> Option<Ownership> {
        self.staging.gives_away_to()
    }
}

fn render(template: &str, images: &Arc<Images>) -> Result<String, Error> {
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
    // Where in the template an error is.
    environment.set_debug(true);
    environment.add_test("plain", is_plain);
    environment.add_filter("first_named", first_named);
    let images = Value::from_dyn_object(Arc::clone(images));
    environment
        .template_from_str(template)?
        .render(context! { images })
}

/// Whether a text may stand in a boot loader's configuration as it is. The names of an image's files
/// and its version are the importer's: some would be commands there.
fn is_plain(value: &Value) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"._+-/@".contains(&b);
    // An image without a version has none that is plain.
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

/// Shows what is wrong with a template where it is wrong.
fn explain(name: &str, template: &str, error: &Error) -> InputError {
    let begin_of_line = |line: usize| {
        let lines = template.split_inclusive('\n').take(line.saturating_sub(1));
        lines.map(str::len).sum::<usize>()
    };
    let begin = begin_of_line(error.line().unwrap_or(1));
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

/// Puts `text` at `output` beneath `root`, in place of the file that was there; returns whether
/// that was another. Folders are made where they are missing; no link is followed, or replaced.
fn replace(root: &Path, output: &Path, text: &str, owner: Option<Ownership>) -> Result<bool, Why> {
    let name = output.file_name().unwrap_or_default();
    let mut folder = Dir::open(root)?;
    for part in output.parent().unwrap_or(Path::new("")) {
        folder = folder.dir_or_make(part, DIR_MODE)?;
    }
    match folder.stat(name)?.map(|stat| stat.kind) {
        None => {}
        Some(Kind::File) => {
            let old = folder.read(name, MAX_OUTPUT);
            if old.is_ok_and(|old| old.as_deref() == Some(text.as_bytes())) {
                return Ok(false);
            }
        }
        Some(_) => return Err(Why::Occupied(folder.path().join(name))),
    }
    // In the same folder, because the tree may be on another file system.
    let temporary = format!(".{}.new", name.to_string_lossy());
    let owner = owner.map(|owner| (owner.uid, owner.gid));
    folder.replace_durably(&temporary, owner, text.as_bytes(), &folder, name)?;
    Ok(true)
}

/// The list `images`: an image is read from the catalog when a template asks for it.
struct Images {
    catalog: Catalog,
    is_damaged: AtomicBool,
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
        let Some(entry) = self.catalog.image(number) else {
            self.is_damaged.store(true, Ordering::Relaxed);
            return None;
        };
        Some(image(entry))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.catalog.count())
    }
}

/// A value with these names.
#[derive(Debug)]
struct Named {
    names: &'static [&'static str],
    values: Vec<Value>,
}

impl Object for Named {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        let number = self.names.iter().position(|name| *name == key)?;
        Some(self.values[number].clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Str(self.names)
    }
}

fn image(entry: Entry<'_>) -> Value {
    let values = vec![
        entry.target.into(),
        entry.arch.into(),
        entry.subarch.into(),
        entry.release.into(),
        entry.purpose.into(),
        entry.version.map_or_else(|| ().into(), Value::from),
        entry.generation.into(),
        entry.digest.into(),
        Value::from(&*entry.path),
        Value::from(&*entry.pinned_path),
        entry.published_at.into(),
        entry.files.iter().map(file).collect::<Vec<_>>().into(),
    ];
    Value::from_object(Named {
        names: IMAGE,
        values,
    })
}

fn file(file: &EntryFile<'_>) -> Value {
    let values = vec![
        Value::from(&*file.path),
        file.size.into(),
        file.sha256.into(),
    ];
    Value::from_object(Named {
        names: FILE,
        values,
    })
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
        Arc::new(Images {
            catalog: Catalog::parse(text).unwrap(),
            is_damaged: AtomicBool::new(false),
        })
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
            let values = image(images().catalog.image(0).unwrap());
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
