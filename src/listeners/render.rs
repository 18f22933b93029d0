//! Boot configurations: the admin's templates, rendered with the catalog; and aliases.
//!
//! An output is replaced atomically, and only when it would be another text. Whatever is wrong with
//! a template or an output leaves the old output in place, and the others are rendered all the same.
//! A file that somebody else has put where an output belongs stays.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use super::template::{Images, LeftOut, Rendering, Text, explain, is_generated, unknown_attribute};
use crate::settings::{Alias, BootConfig, Settings};
use crate::sys::{Dir, Failure, Ownership, map};
use crate::text::InputError;
use crate::tree::{Blocked, Catalog, Changes, Links, Staging, Tree};

/// In bytes: a longer template is refused.
const MAX_TEMPLATE: u64 = 16 << 20;

/// From this many images on, outputs are rendered on several threads.
const MANY: usize = 256;

/// Of the images that an output is without so many are named.
const MAX_NAMED: usize = 5;

/// The catalog, the boot configurations and the aliases of one tree.
#[derive(Debug)]
pub struct BootConfigs {
    staging: Arc<Staging>,
    root: PathBuf,
    /// The way from the TFTP server's root to the tree: empty, or it ends in `/`.
    prefix: String,
    /// Where the root is by HTTP.
    url: Option<String>,
    configs: Vec<BootConfig>,
    aliases: Vec<Alias>,
}

/// What keeps an output from being written, or an alias from being made.
pub(crate) struct Obstacle {
    /// What it is, for people.
    pub(crate) said: String,
    /// Whether another user might be allowed to.
    pub(crate) is_of_user: bool,
    /// Whether something stands in the way that is none of the configuration's: the daemon goes on without,
    /// until that has gone.
    pub(crate) may_go: bool,
}

/// One output to be rendered.
struct Job<'b> {
    config: &'b BootConfig,
    /// The architecture that it is for, where it is for one.
    arch: Option<String>,
    output: PathBuf,
    /// Whether the last image of the architecture has gone.
    is_without_images: bool,
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
    /// Outputs that are without some images, and which and why.
    pub(crate) left_out: Vec<(PathBuf, String)>,
}

impl Rendered {
    /// Notes of an output which images it is without.
    fn leave_out(&mut self, output: &Path, images: &[LeftOut]) {
        let named = images.iter().take(MAX_NAMED);
        let named = named.map(|LeftOut { target, why }| format!("{target} ({why})"));
        let mut said: Vec<_> = named.collect();
        if said.is_empty() {
            return;
        }
        let more = images.len() - said.len();
        said.extend((more > 0).then(|| format!("{more} more")));
        let said = format!("left out: {}", said.join(", "));
        self.left_out.push((output.to_path_buf(), said));
    }

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
    #[error("it can't be read")]
    Catalog,
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
            url: settings.tftp.url.clone(),
            configs: settings.boot_configs.clone(),
            aliases: settings.aliases.clone(),
        }
    }

    /// What keeps the boot configurations of these settings from being rendered, their outputs from
    /// being written, and aliases from being made: tried without a change of anything.
    pub(crate) fn check(settings: &Settings) -> Vec<Obstacle> {
        let tree = &settings.tree.path;
        let root = settings.tftp_root();
        let catalog = Tree::open(tree).ok().and_then(|tree| Catalog::read(&tree));
        let url = settings.tftp.url.clone();
        let present = Arc::new(Images::new(catalog.unwrap_or_default(), url));
        let example = Arc::new(present.example());
        let mut troubles = Vec::new();
        let mut take = |about: &Path, why: Why| {
            troubles.push(Obstacle {
                said: format!("boot_config, {about:?}: {why}"),
                is_of_user: why.is_of_user(),
                may_go: matches!(why, Why::Output(Blocked::InTheWay(..))),
            });
        };
        for config in &settings.boot_configs {
            let template = Template::read(&config.template);
            let made = template.and_then(|it| it.check(config, &present, &example));
            let texts = made.unwrap_or_else(|why| {
                take(&config.template, why);
                BTreeMap::new()
            });
            let nothing = BTreeSet::new();
            let mut jobs = jobs(config, &present, &nothing);
            if jobs.is_empty() {
                jobs = self::jobs(config, &example, &nothing);
            }
            for Job { output, .. } in jobs {
                let text = texts.get(&output).map(String::as_bytes);
                let tried = Links::check_output((tree, root), &output, text, is_generated);
                if let Err(blocked) = tried {
                    take(&output, blocked.into());
                }
            }
        }
        for alias in &settings.aliases {
            if let Err(blocked) = Links::check_alias(tree, root, alias) {
                troubles.push(Obstacle {
                    said: format!("alias, {:?}: {blocked}", alias.path),
                    is_of_user: blocked.is_of_user(),
                    may_go: matches!(blocked, Blocked::InTheWay(..)),
                });
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
        let is_output = |path: &str| self.configs.iter().any(|it| it.has(path));
        let links = self.staging.links();
        let kept = links.keep(self.place(), &self.aliases, is_output);
        let troubles = kept.troubles.into_iter();
        let troubles = troubles.map(|(about, blocked)| (about, Why::Alias(blocked)));
        rendered.given_up = kept.given_up;
        self.update_catalog(Some(changes), &mut rendered);
        if self.configs.is_empty() {
            rendered.troubles.extend(troubles);
            return rendered;
        }
        // Without the catalog the outputs stay: nobody knows what they would have to name.
        if let Some(catalog) = self.read_catalog(&mut rendered)
            && self.render_all(catalog, &mut rendered).is_damaged()
        {
            // Somebody has written into the catalog: it is made anew.
            rendered.troubles.clear();
            rendered.left_out.clear();
            self.update_catalog(None, &mut rendered);
            if let Some(catalog) = self.read_catalog(&mut rendered) {
                self.render_all(catalog, &mut rendered);
            }
        }
        rendered.troubles.extend(troubles);
        rendered
    }

    fn read_catalog(&self, rendered: &mut Rendered) -> Option<Catalog> {
        let tree = self.staging.tree();
        let catalog = Catalog::read(tree);
        if catalog.is_none() && rendered.troubles.is_empty() {
            let path = tree.root().path().join(Catalog::NAME);
            rendered.note(&path, Err(Why::Catalog));
        }
        catalog
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
        let images = Arc::new(Images::new(catalog, self.url.clone()));
        let links = self.staging.links();
        let listed = links.outputs(self.place());
        let configs = self.configs.iter();
        let jobs = configs.flat_map(|config| jobs(config, &images, &listed));
        let mut empty = Vec::new();
        for (job, made) in map(jobs.collect(), few, |job| {
            let made = self.render_one(&job, &images);
            (job, made)
        }) {
            let is_replaced = made.map(|(is_replaced, left_out)| {
                rendered.leave_out(&job.output, &left_out);
                is_replaced
            });
            if job.is_without_images && is_replaced.is_ok() {
                empty.push(job.output.clone());
            }
            rendered.note(&job.output, is_replaced);
        }
        if let Err(failure) = links.note_empty(self.place(), &empty) {
            let list = failure.path.clone();
            rendered.note(&list, Err(failure.into()));
        }
        images
    }

    /// Renders one output; returns whether it is another text now, and the images that it is without.
    fn render_one(&self, job: &Job<'_>, images: &Arc<Images>) -> Result<(bool, Vec<LeftOut>), Why> {
        let template = Template::read(&job.config.template)?;
        let made = template.render(images, job.arch.as_deref())?;
        let (text, owner) = (made.text.as_bytes(), self.owner());
        let links = self.staging.links();
        let is_replaced = links.write(self.place(), &job.output, text, owner, is_generated)?;
        Ok((is_replaced, made.left_out))
    }

    /// The tree, and the TFTP server's root.
    fn place(&self) -> (&Tree, &Path) {
        (self.staging.tree(), &self.root)
    }

    fn owner(&self) -> Option<Ownership> {
        self.staging.gives_away_to()
    }
}

/// The outputs of a boot configuration: where there is one for each architecture, of all that have images,
/// and of those that had some when one of the outputs that are `listed` was made.
fn jobs<'b>(config: &'b BootConfig, images: &Images, listed: &BTreeSet<String>) -> Vec<Job<'b>> {
    if !config.is_for_each_arch {
        return vec![Job {
            config,
            arch: None,
            output: config.output.clone(),
            is_without_images: false,
        }];
    }
    let present = images.architectures().into_iter();
    let present: BTreeSet<_> = present.map(str::to_string).collect();
    let of_outputs = listed.iter().filter_map(|output| config.arch_of(output));
    let all: BTreeSet<_> = of_outputs.chain(present.iter().cloned()).collect();
    let jobs = all.into_iter().map(|arch| Job {
        config,
        output: config.output_of(&arch),
        is_without_images: !present.contains(&arch),
        arch: Some(arch),
    });
    jobs.collect()
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

    fn render(&self, images: &Arc<Images>, arch: Option<&str>) -> Result<Text, Why> {
        self.make(images, arch)
            .map_err(|error| self.explain(&error))
    }

    fn make(&self, images: &Arc<Images>, arch: Option<&str>) -> Result<Text, minijinja::Error> {
        let rendering = Rendering {
            name: &self.name,
            template: &self.text,
            images,
            arch,
        };
        rendering.make()
    }

    /// Finds what is wrong with the template though nothing that is `present` shows it. Returns what
    /// becomes of the outputs now, as far as that can be told.
    fn check(
        &self,
        config: &BootConfig,
        present: &Arc<Images>,
        example: &Arc<Images>,
    ) -> Result<BTreeMap<PathBuf, String>, Why> {
        let (nothing, mut texts) = (BTreeSet::new(), BTreeMap::new());
        for job in jobs(config, present, &nothing) {
            let rendered = self.render(present, job.arch.as_deref());
            // The daemon makes a damaged catalog anew before it renders.
            if !present.is_damaged() {
                texts.insert(job.output, rendered?.text);
            }
        }
        for job in jobs(config, example, &nothing) {
            if let Err(error) = self.make(example, job.arch.as_deref())
                && unknown_attribute(&error).is_some()
            {
                return Err(self.explain(&error));
            }
        }
        if config.is_for_each_arch {
            // What becomes of the output when the last image of an architecture has gone.
            let nothing = Arc::new(Images::new(Catalog::default(), None));
            self.render(&nothing, Some("amd64"))?;
        }
        Ok(texts)
    }

    fn explain(&self, error: &minijinja::Error) -> Why {
        Why::Template(explain(&self.name, &self.text, error))
    }
}
