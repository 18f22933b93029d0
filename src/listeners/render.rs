//! Boot configurations: the admin's templates, rendered with the catalog.
//!
//! An output is replaced atomically, and only when it would be another text. Whatever is wrong with
//! a template or an output leaves the old output in place, and the others are rendered all the same.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use super::template::{Images, explain, render, unknown_attribute};
use crate::fault::Unwritable;
use crate::image::DIR_MODE;
use crate::settings::{BootConfig, Settings};
use crate::sys::{Dir, Failure, Kind, Ownership, map};
use crate::text::InputError;
use crate::tree::{Catalog, Changes, Staging, Tree};

/// In bytes: a longer template is refused; a longer old output is replaced without a comparison.
const MAX_TEMPLATE: u64 = 16 << 20;
const MAX_OUTPUT: u64 = 1 << 30;

/// From this many images on, outputs are rendered on several threads.
const MANY: usize = 256;

/// The catalog and the boot configurations of one tree.
#[derive(Debug)]
pub struct BootConfigs {
    staging: Arc<Staging>,
    root: PathBuf,
    /// The way from the TFTP server's root to the tree: empty, or it ends in `/`.
    prefix: String,
    configs: Vec<BootConfig>,
}

/// What one rendering has done.
#[derive(Debug, Default)]
pub struct Rendered {
    pub images: usize,
    /// Files that were replaced: the catalog and outputs.
    pub replaced: usize,
    /// What was not written, an output or the catalog, and why.
    pub(crate) troubles: Vec<(PathBuf, Why)>,
}

impl Rendered {
    /// Notes of a file whether it was replaced, or why it could not be.
    fn note(&mut self, file: &Path, result: Result<bool, Why>) {
        match result {
            Ok(is_replaced) => self.replaced += usize::from(is_replaced),
            Err(why) => self.troubles.push((file.to_path_buf(), why)),
        }
    }
}

/// What keeps the catalog or an output from being written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Why {
    #[error(transparent)]
    Failure(#[from] Failure),
    /// The error begins a line of its own: an excerpt has several.
    #[error("the template has an error\n{0}")]
    Template(InputError),
    #[error("the template {0:?} is no UTF-8")]
    Encoding(PathBuf),
    #[error(transparent)]
    Unwritable(#[from] Unwritable),
    #[error("{0:?} is {1}; expected {2}, or nothing yet")]
    InTheWay(PathBuf, &'static str, &'static str),
    #[error("{0}, what was known of the image stays")]
    Image(String),
}

impl Why {
    /// Whether another user might be allowed to.
    fn is_of_user(&self) -> bool {
        match self {
            Self::Failure(failure) => failure.errno() == Some(Errno::ACCESS),
            Self::Unwritable(trouble) => trouble.is_of_user(),
            _ => false,
        }
    }
}

impl BootConfigs {
    /// The boot configurations of the settings, for the tree that `staging` belongs to.
    pub fn new(staging: Arc<Staging>, settings: &Settings) -> Self {
        let tree = staging.tree().root().path();
        let root = settings.tftp_root().to_path_buf();
        let below = tree.strip_prefix(&root).unwrap_or(Path::new(""));
        let prefix = below
            .iter()
            .map(|part| part.to_string_lossy() + "/")
            .collect();
        let configs = settings.boot_configs.clone();
        Self {
            staging,
            root,
            prefix,
            configs,
        }
    }

    /// What keeps the boot configurations of these settings from being rendered, and their outputs from
    /// being written: tried without a change of anything. Each comes with whether another user might be
    /// allowed to.
    pub(crate) fn check(settings: &Settings) -> Vec<(String, bool)> {
        let tree = &settings.tree.path;
        let root = settings.tftp_root();
        let catalog = Tree::open(tree).ok().and_then(|tree| Catalog::read(&tree));
        let present = Arc::new(Images::new(catalog.unwrap_or_default()));
        let mut troubles = Vec::new();
        for config in &settings.boot_configs {
            let template = Template::read(&config.template);
            let template = template.and_then(|template| template.check(&present));
            let output = check_output(root, &config.output);
            for (about, tried) in [(&config.template, template), (&config.output, output)] {
                if let Err(why) = tried {
                    let said = format!("boot_config, {about:?}: {why}");
                    troubles.push((said, why.is_of_user()));
                }
            }
        }
        troubles
    }

    /// The boot configurations of the same tree after the settings have changed.
    pub(super) fn with(&self, settings: &Settings) -> Self {
        Self::new(Arc::clone(&self.staging), settings)
    }

    /// Takes `changes` up into the catalog, and renders every output. Blocks.
    pub fn render(&self, changes: &Changes) -> Rendered {
        let mut rendered = Rendered::default();
        let tree = self.staging.tree();
        self.update_catalog(Some(changes), &mut rendered);
        if self.configs.is_empty() {
            return rendered;
        }
        let whole = || Catalog::read(tree).unwrap_or_default();
        let images = self.render_all(whole(), &mut rendered);
        if images.is_damaged() {
            // Somebody has written into the catalog: it is made anew.
            rendered.troubles.clear();
            self.update_catalog(None, &mut rendered);
            self.render_all(whole(), &mut rendered);
        }
        rendered
    }

    /// Takes changes up into the catalog, or makes it anew.
    fn update_catalog(&self, changes: Option<&Changes>, rendered: &mut Rendered) {
        let (tree, prefix, owner) = (self.staging.tree(), &*self.prefix, self.owner());
        let catalog = tree.root().path().join(Catalog::NAME);
        let updated = match changes {
            Some(changes) => Catalog::update(tree, changes, prefix, owner),
            None => Catalog::make(tree, prefix, owner),
        };
        match updated {
            Ok(updated) => {
                rendered.images = updated.images;
                rendered.note(&catalog, Ok(updated.is_replaced));
                for trouble in updated.troubles {
                    rendered.note(&catalog, Err(Why::Image(trouble)));
                }
            }
            Err(failure) => rendered.note(&catalog, Err(failure.into())),
        }
    }

    /// Renders every output from `catalog`; returns what the templates saw.
    fn render_all(&self, catalog: Catalog, rendered: &mut Rendered) -> Arc<Images> {
        // How many outputs one thread renders.
        let few = if catalog.count() > MANY {
            1
        } else {
            usize::MAX
        };
        let images = Arc::new(Images::new(catalog));
        let configs = self.configs.iter().collect();
        for (config, result) in map(configs, few, |it| (it, self.render_one(it, &images))) {
            rendered.note(&config.output, result);
        }
        images
    }

    /// Renders one output; returns whether it is another text now.
    fn render_one(&self, config: &BootConfig, images: &Arc<Images>) -> Result<bool, Why> {
        let text = Template::read(&config.template)?.render(images)?;
        self.replace(&config.output, &text)
    }

    /// Puts `text` at `output` beneath the root, in place of the file that was there; returns
    /// whether that was another. Folders are made where they are missing; no link is followed, or
    /// replaced.
    fn replace(&self, output: &Path, text: &str) -> Result<bool, Why> {
        let (mut folder, missing) = find(&self.root, output)?;
        let name = output.file_name().unwrap_or_default();
        let old = folder.read(name, MAX_OUTPUT).ok().flatten();
        if old.is_some_and(|old| missing == Path::new(name) && old == text.as_bytes()) {
            return Ok(false);
        }
        folder.check_writable().map_err(Unwritable::from)?;
        for part in missing.parent().unwrap_or(Path::new("")) {
            folder = folder.dir_or_make(part, DIR_MODE)?;
        }
        // The new text is written in the same folder: the tree may be on another file system.
        let temporary = format!(".{}.new", name.to_string_lossy());
        folder.replace_durably(name, &temporary, text.as_bytes(), self.owner())?;
        Ok(true)
    }

    fn owner(&self) -> Option<Ownership> {
        self.staging.gives_away_to()
    }
}

/// The text of a template.
struct Template {
    /// What complaints call it.
    name: String,
    text: String,
}

impl Template {
    fn read(path: &Path) -> Result<Self, Why> {
        let text = String::from_utf8(Dir::read_named(path, MAX_TEMPLATE)?)
            .map_err(|_| Why::Encoding(path.to_path_buf()))?;
        let name = path.display().to_string();
        Ok(Self { name, text })
    }

    fn render(&self, images: &Arc<Images>) -> Result<String, Why> {
        render(&self.name, &self.text, images).map_err(|error| self.explain(&error))
    }

    /// Finds what is wrong with the template though nothing that is `present` shows it.
    fn check(&self, present: &Arc<Images>) -> Result<(), Why> {
        let rendered = self.render(present);
        // The daemon makes a damaged catalog anew before it renders.
        if !present.is_damaged() {
            rendered?;
        }
        match render(&self.name, &self.text, &Arc::new(Images::example())) {
            Err(error) if unknown_attribute(&error).is_some() => Err(self.explain(&error)),
            _ => Ok(()),
        }
    }

    fn explain(&self, error: &minijinja::Error) -> Why {
        Why::Template(explain(&self.name, &self.text, error))
    }
}

/// The way to `output` beneath `root`: the last folder on it that is there, and what is missing below
/// that, at least the name of the output. The output itself may be there.
fn find<'o>(root: &Path, output: &'o Path) -> Result<(Dir, &'o Path), Why> {
    let (mut folder, mut parts) = (Dir::open(root)?, output.iter());
    loop {
        let missing = parts.as_path();
        let part = parts.next().unwrap_or_default();
        let is_last = parts.as_path() == Path::new("");
        let kind = folder.stat(part)?.map(|stat| stat.kind);
        let what = match kind {
            None => return Ok((folder, missing)),
            Some(Kind::File) if is_last => return Ok((folder, missing)),
            Some(Kind::Dir) if !is_last => {
                folder = folder.existing_dir(part)?;
                continue;
            }
            Some(Kind::Dir) => "a folder",
            Some(Kind::Link) => "a link",
            Some(Kind::File) => "a file",
            Some(Kind::Other) => "a device or a pipe",
        };
        let expected = if is_last {
            "a file that may be replaced"
        } else {
            "a folder"
        };
        return Err(Why::InTheWay(folder.path().join(part), what, expected));
    }
}

fn check_output(root: &Path, output: &Path) -> Result<(), Why> {
    // The daemon makes the tree, and with it the root.
    Dir::try_writing(root).map_err(Unwritable::from)?;
    match find(root, output) {
        Err(Why::Failure(failure)) if failure.is(ErrorKind::NotFound) => Ok(()),
        found => Ok(found?.0.check_writable().map_err(Unwritable::from)?),
    }
}
