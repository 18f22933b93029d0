//! Boot configurations: the admin's templates, rendered with the catalog; and aliases.
//!
//! An output is replaced atomically, and only when it would be another text. Whatever is wrong with
//! a template or an output leaves the old output in place, and the others are rendered all the same.
//! A file that somebody else has put where an output belongs stays.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use super::template::{Images, explain, is_generated, render, unknown_attribute};
use crate::settings::{Alias, BootConfig, Settings};
use crate::sys::{Dir, Failure, Ownership, map};
use crate::text::InputError;
use crate::tree::{Blocked, Catalog, Changes, Links, Staging, Tree};

/// In bytes: a longer template is refused.
const MAX_TEMPLATE: u64 = 16 << 20;

/// From this many images on, outputs are rendered on several threads.
const MANY: usize = 256;

/// The catalog, the boot configurations and the aliases of one tree.
#[derive(Debug)]
pub struct BootConfigs {
    staging: Arc<Staging>,
    root: PathBuf,
    /// The way from the TFTP server's root to the tree: empty, or it ends in `/`.
    prefix: String,
    configs: Vec<BootConfig>,
    aliases: Vec<Alias>,
}

/// What one rendering has done.
#[derive(Debug, Default)]
pub struct Rendered {
    pub images: usize,
    /// Files that were replaced: the catalog and outputs.
    pub replaced: usize,
    /// What was not written or made, an output, the catalog or an alias, and why.
    pub(crate) troubles: Vec<(PathBuf, Why)>,
    /// Outputs of no boot configuration any more, which stay, and are the admin's.
    pub(crate) given_up: Vec<PathBuf>,
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

/// What keeps the catalog or an output from being written, or an alias from being made.
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
    Output(#[from] Blocked),
    #[error(transparent)]
    Alias(Blocked),
    #[error("{0}, what was known of the image stays")]
    Image(String),
}

impl Why {
    /// Whether another user might be allowed to.
    fn is_of_user(&self) -> bool {
        match self {
            Self::Failure(failure) => failure.errno() == Some(Errno::ACCESS),
            Self::Output(blocked) | Self::Alias(blocked) => blocked.is_of_user(),
            _ => false,
        }
    }

    /// Whether nothing that the daemon does can make it better.
    pub(super) fn is_for_admin(&self) -> bool {
        matches!(
            self,
            Self::Output(Blocked::Unwritable(_)) | Self::Alias(Blocked::Unwritable(_))
        )
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
        Self {
            staging,
            root,
            prefix,
            configs: settings.boot_configs.clone(),
            aliases: settings.aliases.clone(),
        }
    }

    /// What keeps the boot configurations of these settings from being rendered, their outputs from
    /// being written, and aliases from being made: tried without a change of anything. Each comes with
    /// whether another user might be allowed to.
    pub(crate) fn check(settings: &Settings) -> Vec<(String, bool)> {
        let tree = &settings.tree.path;
        let root = settings.tftp_root();
        let catalog = Tree::open(tree).ok().and_then(|tree| Catalog::read(&tree));
        let present = Arc::new(Images::new(catalog.unwrap_or_default()));
        let mut troubles = Vec::new();
        for config in &settings.boot_configs {
            let template = Template::read(&config.template);
            let template = template.and_then(|template| template.check(&present));
            let text = template.as_ref().ok().and_then(|it| it.as_deref());
            let text = text.map(str::as_bytes);
            let output = Links::check_output((tree, root), &config.output, text, is_generated);
            let (template, output) = (template.err(), output.err().map(Why::from));
            for (about, tried) in [(&config.template, template), (&config.output, output)] {
                if let Some(why) = tried {
                    let said = format!("boot_config, {about:?}: {why}");
                    troubles.push((said, why.is_of_user()));
                }
            }
        }
        for alias in &settings.aliases {
            if let Err(blocked) = Links::check_alias(tree, root, alias) {
                let said = format!("alias, {:?}: {blocked}", alias.path);
                troubles.push((said, blocked.is_of_user()));
            }
        }
        troubles
    }

    /// The boot configurations of the same tree after the settings have changed.
    pub(super) fn with(&self, settings: &Settings) -> Self {
        Self::new(Arc::clone(&self.staging), settings)
    }

    /// Keeps every alias, takes `changes` up into the catalog, and renders every output. Blocks.
    pub fn render(&self, changes: &Changes) -> Rendered {
        let mut rendered = Rendered::default();
        let tree = self.staging.tree();
        let outputs = self.configs.iter().map(|it| &*it.output);
        let links = self.staging.links();
        let kept = links.keep(tree, &self.root, &self.aliases, outputs);
        let troubles = kept.troubles.into_iter();
        let troubles = troubles.map(|(about, blocked)| (about, Why::Alias(blocked)));
        rendered.given_up = kept.given_up;
        self.update_catalog(Some(changes), &mut rendered);
        if self.configs.is_empty() {
            rendered.troubles.extend(troubles);
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
        rendered.troubles.extend(troubles);
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
        let (output, text, owner) = (&config.output, text.as_bytes(), self.owner());
        let place = (self.staging.tree(), &*self.root);
        let links = self.staging.links();
        Ok(links.write(place, output, text, owner, is_generated)?)
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

    /// Finds what is wrong with the template though nothing that is `present` shows it. Returns what
    /// becomes of it now, if that can be told.
    fn check(&self, present: &Arc<Images>) -> Result<Option<String>, Why> {
        let rendered = self.render(present);
        // The daemon makes a damaged catalog anew before it renders.
        let text = if present.is_damaged() {
            None
        } else {
            Some(rendered?)
        };
        match render(&self.name, &self.text, &Arc::new(Images::example())) {
            Err(error) if unknown_attribute(&error).is_some() => Err(self.explain(&error)),
            _ => Ok(text),
        }
    }

    fn explain(&self, error: &minijinja::Error) -> Why {
        Why::Template(explain(&self.name, &self.text, error))
    }
}
