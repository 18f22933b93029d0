//! Boot configurations: the admin's templates, rendered with the catalog.
//!
//! An output is replaced atomically, and only when it would be another text. Whatever is wrong with
//! a template or an output leaves the old output in place, and the others are rendered all the same.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::template::{Images, explain, render};
use crate::image::DIR_MODE;
use crate::settings::{BootConfig, Settings};
use crate::sys::{Dir, Failure, Kind, Ownership, map};
use crate::text::InputError;
use crate::tree::{Catalog, Changes, Staging, Updated};

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
    #[error("the output {0:?} is a link or a folder; expected a file that may be replaced")]
    Occupied(PathBuf),
    #[error("{0}, what was known of the image stays")]
    Image(String),
}

impl BootConfigs {
    /// The boot configurations of the settings, for the tree that `staging` belongs to.
    pub fn new(staging: Arc<Staging>, settings: &Settings) -> Self {
        let tree = staging.tree().root().path();
        let root = settings.tftp.root.as_deref().unwrap_or(tree).to_path_buf();
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

    /// The boot configurations of the same tree after the settings have changed.
    pub(super) fn with(&self, settings: &Settings) -> Self {
        Self::new(Arc::clone(&self.staging), settings)
    }

    /// Takes `changes` up into the catalog, and renders every output. Blocks.
    pub fn render(&self, changes: &Changes) -> Rendered {
        let mut rendered = Rendered::default();
        let tree = self.staging.tree();
        let updated = Catalog::update(tree, changes, &self.prefix, self.owner());
        self.take_updated(updated, &mut rendered);
        if self.configs.is_empty() {
            return rendered;
        }
        let whole = || Catalog::read(tree).unwrap_or_default();
        let images = self.render_all(whole(), &mut rendered);
        if images.is_damaged() {
            // Somebody has written into the catalog: it is made anew.
            rendered.troubles.clear();
            let made = Catalog::make(tree, &self.prefix, self.owner());
            self.take_updated(made, &mut rendered);
            self.render_all(whole(), &mut rendered);
        }
        rendered
    }

    fn take_updated(&self, updated: Result<Updated, Failure>, rendered: &mut Rendered) {
        let catalog = self.staging.tree().root().path().join(Catalog::NAME);
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
        let template = String::from_utf8(Dir::read_named(&config.template, MAX_TEMPLATE)?)
            .map_err(|_| Why::Encoding(config.template.clone()))?;
        let name = config.template.display().to_string();
        let text = render(&template, images)
            .map_err(|error| Why::Template(explain(&name, &template, &error)))?;
        self.replace(&config.output, &text)
    }

    /// Puts `text` at `output` beneath the root, in place of the file that was there; returns
    /// whether that was another. Folders are made where they are missing; no link is followed, or
    /// replaced.
    fn replace(&self, output: &Path, text: &str) -> Result<bool, Why> {
        let name = output.file_name().unwrap_or_default();
        let mut folder = Dir::open(&self.root)?;
        for part in output.parent().unwrap_or(Path::new("")) {
            folder = folder.dir_or_make(part, DIR_MODE)?;
        }
        match folder.stat(name)?.map(|stat| stat.kind) {
            None => {}
            Some(Kind::File) => {
                let old = folder.read(name, MAX_OUTPUT).ok().flatten();
                if old.is_some_and(|old| old == text.as_bytes()) {
                    return Ok(false);
                }
            }
            Some(_) => return Err(Why::Occupied(folder.path().join(name))),
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
