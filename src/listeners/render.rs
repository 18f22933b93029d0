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

/// A longer template is refused, and a longer output written anyway, in bytes.
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
    pub(crate) troubles: Vec<Trouble>,
}

/// What kept the catalog or an output from being written.
#[derive(Debug)]
pub(crate) struct Trouble {
    /// The output, or the catalog.
    pub about: PathBuf,
    pub why: Why,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Why {
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
    /// Those of the settings, for the tree that `staging` belongs to.
    pub fn new(staging: Arc<Staging>, settings: &Settings) -> Self {
        let tree = staging.tree().root().path();
        let root = settings.tftp.root.as_deref().unwrap_or(tree).to_path_buf();
        let below = tree.strip_prefix(&root).unwrap_or(Path::new(""));
        let parts = below.iter().map(|part| part.to_string_lossy() + "/");
        let prefix = parts.collect();
        Self {
            staging,
            prefix,
            root,
            configs: settings.boot_configs.clone(),
        }
    }

    /// The same tree's, after the settings have changed.
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
            // Somebody has written into the catalog.
            rendered.troubles.clear();
            let made = Catalog::make(tree, &self.prefix, self.owner());
            self.take_updated(made, &mut rendered);
            self.render_all(whole(), &mut rendered);
        }
        rendered
    }

    fn take_updated(&self, updated: Result<Updated, Failure>, rendered: &mut Rendered) {
        let about = self.staging.tree().root().path().join(Catalog::NAME);
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
        let few = if catalog.count() > MANY {
            1
        } else {
            usize::MAX
        };
        let images = Arc::new(Images::new(catalog));
        let configs = self.configs.iter().collect();
        let done = map(configs, few, |config: &BootConfig| {
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
        let template = Dir::read_named(&config.template, MAX_TEMPLATE)?;
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
    folder.replace_durably(&temporary, owner, text.as_bytes(), &folder, name)?;
    Ok(true)
}
