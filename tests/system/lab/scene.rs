//! A spool and a tree in the middle of their life, and one drop of every kind: what crashes and
//! power cuts are tried on.
//!
//! A scene is built once and put in place again for every cut, so a cut costs a copy of a small
//! directory. For every target it is known what machines may see on the way, and what they have to
//! see in the end; for every drop, which outcome it has in a run that nobody disturbs.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::lab::keys::{FOR_US, Keys, sign};
use crate::lab::world::{self, Needs, World, manifest, names, outcomes, walk};
use crate::proofs::digest;
use crate::trust::listing;

/// Files of an image by their path.
type Image = &'static [(&'static str, &'static str)];

const OLDEST: Image = &[("linux", "oldest"), ("initrd.gz", "the same")];
const OLD: Image = &[("linux", "old"), ("initrd.gz", "the same")];
const NEW: Image = &[
    ("linux", "new"),
    ("initrd.gz", "the same"),
    ("boot/menu", "new as well"),
];
const BAD: &str = "format = 0\n";

/// Where promotions come from.
const CANDIDATE: &str = "candidate";
const SIGNED_CANDIDATE: &str = "signed-candidate";

/// The kind of the key that signs.
const KEY: &str = "ed25519";

/// What is put into the spool.
#[derive(Clone, Copy)]
enum Put {
    Image(Image),
    /// As the images before it, with a manifest that was signed.
    Signed(Image),
    /// To the image before the current one.
    Rollback(Image),
    /// Of the image that is current at [`CANDIDATE`].
    Promote(Image),
    /// The same, where image and order are signed.
    PromoteSigned(Image),
    /// To an image that the tree never had, and the order carries.
    Carried(Image),
    /// The same, where order and image are signed.
    CarriedSigned(Image),
    /// Of such an image, signed likewise.
    PromoteCarried(Image),
    /// Of the image that is current.
    Withdraw(Image),
    BadManifest,
    NoManifest,
    File,
}

/// One drop. Its target is called by the same name, except for the two drops of `line`.
struct Case {
    drop: &'static str,
    target: &'static str,
    /// Published one after the other before the drop comes.
    before: &'static [Image],
    put: Put,
    outcome: &'static str,
}

impl Case {
    fn is_signed(&self) -> bool {
        matches!(
            self.put,
            Put::Signed(_) | Put::PromoteSigned(_) | Put::CarriedSigned(_) | Put::PromoteCarried(_)
        )
    }

    /// What proves the generation that comes of it, each part by its ending, with the paper of the drop.
    fn proof(&self) -> &'static [(&'static str, &'static str)] {
        const PAPERS: [(&str, &str); 4] = [
            ("manifest.toml", "image.toml"),
            ("sig", "image.toml.sig"),
            ("order.toml", "manifest.toml"),
            ("order.sig", "manifest.toml.sig"),
        ];
        match self.put {
            Put::PromoteCarried(_) => &PAPERS,
            Put::CarriedSigned(_) => &PAPERS[..2],
            Put::PromoteSigned(_) => &PAPERS[2..],
            _ => &[
                ("manifest.toml", "manifest.toml"),
                ("sig", "manifest.toml.sig"),
            ],
        }
    }

    /// The image of the drop.
    fn image(&self) -> Option<Image> {
        match self.put {
            Put::Image(image) | Put::Signed(image) => Some(image),
            Put::Promote(image) | Put::PromoteSigned(image) => Some(image),
            Put::Carried(image) | Put::CarriedSigned(image) => Some(image),
            Put::Rollback(image) | Put::PromoteCarried(image) => Some(image),
            Put::Withdraw(_) | Put::BadManifest | Put::NoManifest | Put::File => None,
        }
    }

    /// Where the image comes from, of a promotion.
    fn from(&self) -> Option<&'static str> {
        match self.put {
            Put::Promote(_) => Some(CANDIDATE),
            Put::PromoteSigned(_) => Some(SIGNED_CANDIDATE),
            _ => None,
        }
    }
}

/// The order to promote.
fn promotion(case: &Case, from: &str) -> String {
    let from = path_of(from);
    let order = format!("action = \"promote\"\nfrom = {from:?}\n");
    manifest(&path_of(case.target)) + &order
}

/// What a scene with signed drops can't be made without.
pub const NEEDS: Needs = Needs::Program("ssh-keygen");

const CASES: &[Case] = &[
    Case {
        drop: "first",
        target: "first",
        before: &[],
        put: Put::Image(NEW),
        outcome: "published",
    },
    Case {
        drop: "changed",
        target: "changed",
        before: &[OLDEST, OLD],
        put: Put::Image(NEW),
        outcome: "published",
    },
    Case {
        drop: "signed",
        target: "signed",
        before: &[OLDEST, OLD],
        put: Put::Signed(NEW),
        outcome: "published",
    },
    Case {
        drop: "same",
        target: "same",
        before: &[OLD],
        put: Put::Image(OLD),
        outcome: "unchanged",
    },
    Case {
        drop: "back",
        target: "back",
        before: &[OLD, NEW],
        put: Put::Image(OLD),
        outcome: "published",
    },
    Case {
        drop: "damaged",
        target: "damaged",
        before: &[OLD],
        put: Put::Image(OLD),
        outcome: "published",
    },
    Case {
        drop: "adopted",
        target: "adopted",
        before: &[],
        put: Put::Image(NEW),
        outcome: "published",
    },
    Case {
        drop: "line-1",
        target: "line",
        before: &[OLD],
        put: Put::Image(OLDEST),
        outcome: "published",
    },
    Case {
        drop: "line-2",
        target: "line",
        before: &[],
        put: Put::Image(NEW),
        outcome: "published",
    },
    Case {
        drop: "rolled",
        target: "rolled",
        before: &[OLD, NEW],
        put: Put::Rollback(OLD),
        outcome: "rolled-back",
    },
    Case {
        drop: "promoted",
        target: "promoted",
        before: &[OLDEST, OLD],
        put: Put::Promote(NEW),
        outcome: "promoted",
    },
    Case {
        drop: "promoted-signed",
        target: "promoted-signed",
        before: &[OLD],
        put: Put::PromoteSigned(NEW),
        outcome: "promoted",
    },
    Case {
        drop: "carried",
        target: "carried",
        before: &[OLD],
        put: Put::Carried(NEW),
        outcome: "rolled-back",
    },
    Case {
        drop: "carried-signed",
        target: "carried-signed",
        before: &[OLD],
        put: Put::CarriedSigned(NEW),
        outcome: "rolled-back",
    },
    Case {
        drop: "carried-promoted",
        target: "carried-promoted",
        before: &[OLD],
        put: Put::PromoteCarried(NEW),
        outcome: "promoted",
    },
    Case {
        drop: "gone",
        target: "gone",
        before: &[OLD],
        put: Put::Withdraw(OLD),
        outcome: "withdrawn",
    },
    Case {
        drop: "bad",
        target: "bad",
        before: &[OLD],
        put: Put::BadManifest,
        outcome: "rejected bad-manifest",
    },
    Case {
        drop: "late",
        target: "late",
        before: &[OLD],
        put: Put::NoManifest,
        outcome: "rejected incomplete",
    },
    Case {
        drop: "file",
        target: "file",
        before: &[],
        put: Put::File,
        outcome: "rejected not-a-directory",
    },
];

/// What machines may see at a target: nothing, or one of these images.
struct Seen {
    may_be_missing: bool,
    images: Vec<Image>,
    /// The image that is there in the end.
    last: Option<Image>,
}

pub struct Scene {
    pub world: World,
    /// The drops of this scene.
    cases: Vec<&'static Case>,
    template: PathBuf,
    /// The outcomes that were there before; drops of the same names have come already.
    earlier: BTreeMap<String, Value>,
    settings: String,
    /// Targets that have an alias.
    aliases: &'static [&'static str],
    /// The fingerprint of the key that signs, if one does.
    signer: Option<String>,
    dir: TempDir,
}

impl Scene {
    /// A scene whose retention keeps `keep` generations, of any age. It is in memory: what a killed
    /// process leaves does not depend on the disk.
    pub fn in_memory(keep: usize, drops: &[&str]) -> Self {
        let dir = memory();
        let (spool, tree) = (dir.path().join("spool"), dir.path().join("tree"));
        Self::at(dir, &spool, &tree, keep, drops)
    }

    /// A scene with the spool and the tree at given places, where [`Scene::set`] puts them.
    pub fn at(dir: TempDir, spool: &Path, tree: &Path, keep: usize, drops: &[&str]) -> Self {
        let cases: Vec<_> = CASES
            .iter()
            .filter(|case| drops.contains(&case.drop))
            .collect();
        assert_eq!(cases.len(), drops.len(), "{drops:?}");
        let template = dir.path().join("template");
        fs::create_dir(&template).unwrap();
        let keys = Keys::new();
        let is_signed = cases.iter().any(|case| case.is_signed());
        let rules = if is_signed {
            rules(&keys)
        } else {
            String::new()
        };
        // Drops get their names when they are whole: there is nothing to wait for.
        let settings = format!(
            "#spool settle = \"20ms\"\n#spool incomplete_timeout = \"0s\"\n\
             [limits]\nmin_free_space = \"0B\"\n{rules}"
        );
        let [spool_before, tree_before] = ["spool", "tree"].map(|name| template.join(name));
        let before = World::at(&template, &spool_before, &tree_before, &settings);
        build(&before, &cases, &keys);
        let earlier = earlier(&before.spool);
        let settings = format!("{settings}[retention]\nmin_age = \"0s\"\nkeep = {keep}\n");
        let world = World::at(dir.path(), spool, tree, &settings);
        Self {
            world,
            cases,
            template,
            earlier,
            settings,
            aliases: &[],
            signer: is_signed.then(|| keys.fingerprint(KEY)),
            dir,
        }
    }

    /// The same with an alias, `boot/NAME` in the tree, of each of these targets.
    pub fn with_aliases(mut self, targets: &'static [&'static str]) -> Self {
        for target in targets {
            let (path, target) = (alias_of(target), path_of(target));
            self.settings += &format!("[[alias]]\npath = {path:?}\ntarget = {target:?}\n");
        }
        self.aliases = targets;
        self.world = self.seen_at(&self.world.spool, &self.world.tree);
        self
    }

    /// The world of this scene where its file systems are mounted now.
    pub fn seen_at(&self, spool: &Path, tree: &Path) -> World {
        World::at(self.dir.path(), spool, tree, &self.settings)
    }

    /// Puts spool and tree in place. The drops are hidden still.
    pub fn set(&self) {
        for (from, to) in [("spool", &self.world.spool), ("tree", &self.world.tree)] {
            if to.exists() {
                fs::remove_dir_all(to).unwrap();
            }
            let copied = Command::new("cp")
                .arg("-a")
                .arg(self.template.join(from))
                .arg(to)
                .status();
            assert!(copied.unwrap().success());
        }
    }

    /// Gives every drop its name.
    pub fn hand_over_all(&self) {
        for case in &self.cases {
            self.hand_over(case.drop);
        }
    }

    pub fn hand_over(&self, drop: &str) {
        assert!(self.hand_over_at(&self.world, drop), "{}", self.world);
    }

    /// Gives a drop its name if it is hidden still.
    pub fn hand_over_at(&self, world: &World, drop: &str) -> bool {
        let hidden = world.incoming(&format!(".{drop}"));
        let is_there = hidden.exists();
        if is_there {
            give_name(&hidden, &world.incoming(drop));
        }
        is_there
    }

    /// What has to hold whenever the daemon was ended: each pointer leads to a whole generation,
    /// each target shows an image that it may show.
    pub fn assert_between(&self, world: &World) {
        world.assert_pointers_whole();
        for (target, seen) in self.seen() {
            let found = image(&world.published(&path_of(target)));
            let may_be = match &found {
                None => seen.may_be_missing,
                Some(found) => seen.images.iter().any(|image| *found == files(image)),
            };
            assert!(may_be, "{target} shows {found:?}\n{world}");
        }
        for target in self.aliases {
            self.assert_alias_between(world, target);
        }
    }

    /// An alias is on the list of what is the daemon's own, and leads to what its target shows; where that
    /// is nothing there is none.
    fn assert_alias_between(&self, world: &World, target: &str) {
        let alias = world.tree.join(alias_of(target));
        if fs::symlink_metadata(&alias).is_err() {
            return;
        }
        let led = fs::canonicalize(&alias);
        let led = led.unwrap_or_else(|error| panic!("{alias:?} leads nowhere: {error}\n{world}"));
        let shown = fs::canonicalize(world.published(&path_of(target))).unwrap();
        assert_eq!(led, shown, "{world}");
        let list = fs::read_to_string(world.tree.join(".netboot-publisher/links"));
        let line = format!("path = {:?}\n", alias_of(target));
        assert!(
            list.unwrap_or_default().contains(&line),
            "{alias:?} is nobody's\n{world}"
        );
    }

    /// What has to hold when the daemon had time to do its work.
    pub fn assert_finished(&self, world: &World) {
        world.assert_at_rest();
        self.assert_between(world);
        for (target, seen) in self.seen() {
            let found = image(&world.published(&path_of(target)));
            let expected = seen.last.map(files);
            assert_eq!(found, expected, "{target}\n{world}");
        }
        for target in self.aliases {
            self.assert_alias(world, target);
        }
        assert_eq!(world.names("incoming"), [""; 0], "{world}");
        for case in &self.cases {
            self.assert_settled(world, case);
        }
    }

    fn assert_settled(&self, world: &World, case: &Case) {
        let outcome = world.assert_outcome(case.drop, case.outcome);
        assert_ne!(
            Some(&outcome),
            self.earlier.get(case.drop),
            "{}: an earlier drop's outcome\n{world}",
            case.drop
        );
        let image = match (case.image(), case.put) {
            (Some(image), _) | (None, Put::Withdraw(image)) => image,
            _ => return self.assert_kept(world, case),
        };
        let bytes: usize = image.iter().map(|(_, text)| text.len()).sum();
        assert_eq!(outcome["files"], image.len(), "{outcome:#}\n{world}");
        assert_eq!(outcome["bytes"], bytes, "{outcome:#}\n{world}");
        if matches!(case.put, Put::Withdraw(_)) || case.drop == "line-1" {
            return;
        }
        // The generation that the outcome tells of is the one that is published.
        let pointer = fs::read_link(world.published(&path_of(case.target))).unwrap();
        let told = outcome["generation"].as_str().unwrap();
        assert!(
            pointer.ends_with(told),
            "{pointer:?} and {outcome:#}\n{world}"
        );
        if let Some(from) = case.from() {
            assert_promoted(world, (case, from), told);
        }
        if case.is_signed() {
            let signer = outcome["signer"].as_str();
            assert_eq!(signer, self.signer.as_deref(), "{outcome:#}");
            self.assert_proved(world, case, told);
        }
    }

    /// What proves a generation stands beside it as it was dropped, and what proves another beside that.
    fn assert_proved(&self, world: &World, case: &Case, generation: &str) {
        let folder = world.published(&format!("{}@", path_of(case.target)));
        let dropped = self
            .template
            .join("spool/incoming")
            .join(format!(".{}", case.drop));
        let is_promotion = matches!(case.put, Put::PromoteSigned(_) | Put::PromoteCarried(_));
        let of_order: &[&str] = if is_promotion {
            &[".order.sig", ".order.toml"]
        } else {
            &[]
        };
        for (proof, paper) in case.proof() {
            let kept = fs::read(folder.join(format!("{generation}.{proof}")));
            let kept = kept.unwrap_or_else(|error| panic!("{proof}: {error}\n{world}"));
            assert_eq!(kept, fs::read(dropped.join(paper)).unwrap(), "{world}");
        }
        let names = names(&folder);
        let of_each = |name: &String| {
            let of_order = of_order.iter().filter(|_| name == generation);
            let endings = ["", ".manifest.toml"].iter().chain(of_order);
            let endings = endings.chain(&[".sig", ".toml"]);
            endings.map(|it| format!("{name}{it}")).collect::<Vec<_>>()
        };
        let generations = names.iter().filter(|name| folder.join(name).is_dir());
        let expected: Vec<_> = generations.flat_map(of_each).collect();
        assert_eq!(names, expected, "{world}");
    }

    /// What was rejected is there, whole, beside its outcome; an earlier drop of its name too.
    fn assert_kept(&self, world: &World, case: &Case) {
        let drop = case.drop;
        let of = |name: String| {
            let read = fs::read(world.spool.join("rejected").join(&name));
            read.unwrap_or_else(|error| panic!("rejected/{name}: {error}\n{world}"))
        };
        let json = |name| serde_json::from_slice::<Value>(&of(name)).unwrap();
        assert_eq!(
            Some(json(format!("{drop}.json"))),
            world.outcome(drop),
            "{world}"
        );
        let file = match case.put {
            Put::File => drop.to_string(),
            _ => format!("{drop}/image/linux"),
        };
        assert_eq!(of(file), b"new", "{world}");
        if drop == "bad" {
            assert_eq!(
                json(format!("{drop}~1.json")),
                self.earlier[drop],
                "{world}"
            );
            assert_eq!(
                of(format!("{drop}~1/manifest.toml")),
                BAD.as_bytes(),
                "{world}"
            );
        }
    }

    /// What machines may see at each target.
    fn seen(&self) -> BTreeMap<&'static str, Seen> {
        let mut seen = BTreeMap::<_, Seen>::new();
        for case in &self.cases {
            let last = case.before.last().copied();
            let at = seen.entry(case.target).or_insert_with(|| Seen {
                may_be_missing: last.is_none(),
                images: Vec::new(),
                last,
            });
            at.images.extend(last);
            if let Some(image) = case.image() {
                at.images.push(image);
                at.last = Some(image);
            } else if matches!(case.put, Put::Withdraw(_)) {
                at.may_be_missing = true;
                at.last = None;
            }
            // A folder that somebody made by hand.
            if case.target == "adopted" {
                at.may_be_missing = false;
                at.images.push(OLD);
            }
        }
        seen
    }

    /// Asserts that machines see what a drop was to bring, or what came after it.
    pub fn assert_shown(&self, world: &World, drop: &str) {
        let case = self.cases.iter().find(|case| case.drop == drop).unwrap();
        if self.aliases.contains(&case.target) {
            self.assert_alias(world, case.target);
        }
        let found = image(&world.published(&path_of(case.target)));
        let mut expected = match (case.image(), case.put) {
            (Some(image), _) => image,
            (None, Put::Withdraw(_)) => return assert_eq!(found, None, "{drop}\n{world}"),
            (None, _) => return,
        };
        if drop == "line-1" && found == Some(files(NEW)) {
            expected = NEW;
        }
        assert_eq!(found, Some(files(expected)), "{drop}\n{world}");
    }

    /// Asserts that there is an alias where the target shows something, and none where not.
    fn assert_alias(&self, world: &World, target: &str) {
        let is_shown = world.published(&path_of(target)).exists();
        let alias = world.tree.join(alias_of(target));
        assert_eq!(
            alias.join("linux").is_file(),
            is_shown,
            "{alias:?}\n{world}"
        );
        assert_eq!(alias.is_symlink(), is_shown, "{alias:?}\n{world}");
    }

    /// Whether a drop has an outcome of its own by now. A torn outcome is none.
    pub fn has_outcome(&self, world: &World, drop: &str) -> bool {
        let text = fs::read(world.outcome_file(drop)).unwrap_or_default();
        serde_json::from_slice::<Value>(&text)
            .is_ok_and(|outcome| self.earlier.get(drop) != Some(&outcome))
    }
}

/// The files of the promoted image are those of where it came from, and the history there tells of it once.
fn assert_promoted(world: &World, (case, from): (&Case, &str), generation: &str) {
    let inode = |target: &str| {
        let linux = world.published(&path_of(target)).join("linux");
        fs::metadata(linux).unwrap().ino()
    };
    assert_eq!(inode(case.target), inode(from), "{world}");
    let history = format!(".history/{}.jsonl", path_of(from));
    let lines = fs::read_to_string(world.tree.join(history)).unwrap();
    let lines = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let told: Vec<_> = lines.filter(|line| line["event"] == "promoted").collect();
    assert_eq!(told.len(), 1, "{told:#?}\n{world}");
    assert_eq!(told[0]["image"]["promoted"]["to"]["generation"], generation);
}

/// A temporary directory in memory, where there is one.
pub fn memory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    dir.expect("a temporary directory")
}

/// All drops that a scene can have.
pub fn drops() -> Vec<&'static str> {
    CASES.iter().map(|case| case.drop).collect()
}

/// The drops that need nothing old.
pub fn drops_without_rollback() -> Vec<&'static str> {
    let others = CASES
        .iter()
        .filter(|case| !matches!(case.put, Put::Rollback(_)));
    others.map(|case| case.drop).collect()
}

/// The drops that nobody has signed. Where there is one that somebody has, there are importer rules, and
/// who an importer is takes a thread to find out.
pub fn drops_unsigned() -> Vec<&'static str> {
    let others = CASES.iter().filter(|case| !case.is_signed());
    others.map(|case| case.drop).collect()
}

/// By which anybody may do everything, and signatures are known.
fn rules(keys: &Keys) -> String {
    format!(
        "[[importer]]\nname = \"signed\"\nkeys = [{:?}]\npublish = [\"*/*/*/*\"]\n\
         [[importer]]\nname = \"others\"\npublish = [\"*/*/*/*\"]\nwithdraw = [\"*/*/*/*\"]\n",
        keys.public(KEY)
    )
}

/// Where a target is in the tree.
fn path_of(target: &str) -> String {
    format!("amd64/generic/noble/{target}")
}

/// Where the alias of a target is in the tree.
fn alias_of(target: &str) -> String {
    format!("boot/{target}")
}

/// The time before the scene: generations are published, folders made, files damaged, drops built.
fn build(world: &World, cases: &[&Case], keys: &Keys) {
    let rounds = cases.iter().map(|case| case.before.len()).max().unwrap();
    for round in 0..rounds {
        for case in cases.iter().filter(|case| case.before.len() > round) {
            let hidden = world.incoming(&format!(".{}", case.drop));
            make(&hidden, case, case.before[round], keys);
            give_name(&hidden, &world.incoming(case.drop));
        }
        world.run_once();
    }
    for case in cases {
        if let (Some(from), Put::Promote(image) | Put::PromoteSigned(image)) =
            (case.from(), case.put)
        {
            let hidden = world.incoming(&format!(".{}", case.drop));
            let candidate = Case {
                target: from,
                ..**case
            };
            make(&hidden, &candidate, image, keys);
            give_name(&hidden, &world.incoming(case.drop));
            world.run_once();
        }
    }
    // An earlier drop of this name was rejected.
    world.drop_with("bad", BAD, |_| {});
    world.run_once();

    write(&world.published(&path_of("adopted")), OLD);
    // What machines can't read is damaged.
    if cases.iter().any(|case| case.drop == "damaged") {
        let victim = world.published(&path_of("damaged")).join("linux");
        fs::set_permissions(victim, fs::Permissions::from_mode(0o600)).unwrap();
    }

    for case in cases {
        let hidden = world.spool.join("incoming").join(format!(".{}", case.drop));
        let text = match case.put {
            Put::Image(image) | Put::Signed(image) => {
                make(&hidden, case, image, keys);
                continue;
            }
            Put::Carried(image) | Put::CarriedSigned(image) | Put::PromoteCarried(image) => {
                carry(&hidden, case, image, keys);
                continue;
            }
            Put::Rollback(_) => {
                fs::create_dir_all(&hidden).unwrap();
                Some(manifest(&path_of(case.target)) + "action = \"rollback\"\n")
            }
            Put::Promote(_) => {
                fs::create_dir_all(&hidden).unwrap();
                Some(promotion(case, CANDIDATE))
            }
            Put::PromoteSigned(_) => {
                fs::create_dir_all(&hidden).unwrap();
                let image = world.published(&path_of(SIGNED_CANDIDATE));
                let digest = digest(&world::listing(&image.canonicalize().unwrap()));
                let order = promotion(case, SIGNED_CANDIDATE);
                let order = format!("{order}digest = \"{digest}\"\n");
                fs::write(hidden.join("manifest.toml"), order).unwrap();
                sign(&hidden, &keys.path(KEY), FOR_US);
                continue;
            }
            Put::Withdraw(_) => {
                fs::create_dir_all(&hidden).unwrap();
                Some(manifest(&path_of(case.target)) + "action = \"withdraw\"\n")
            }
            Put::BadManifest => {
                write(&hidden.join("image"), NEW);
                Some(BAD.to_string())
            }
            Put::NoManifest => {
                write(&hidden.join("image"), NEW);
                None
            }
            Put::File => {
                fs::write(&hidden, "new").unwrap();
                continue;
            }
        };
        if let Some(text) = text {
            fs::write(hidden.join("manifest.toml"), text).unwrap();
        }
    }
}

/// Makes a drop of an image for the target of `case`; signed where that one is.
fn make(hidden: &Path, case: &Case, image: Image, keys: &Keys) {
    write(&hidden.join("image"), image);
    let target = path_of(case.target);
    let text = if case.is_signed() {
        // All that is in the image has to be in a manifest that is signed.
        listing(&target, "", image) + "\"vmlinuz\" = { link = \"linux\" }\n"
    } else {
        manifest(&target)
    };
    fs::write(hidden.join("manifest.toml"), text).unwrap();
    if case.is_signed() {
        sign(hidden, &keys.path(KEY), FOR_US);
    }
}

/// Makes an order that carries this image, which was for a target that the tree doesn't have where it is a
/// promotion.
fn carry(hidden: &Path, case: &Case, image: Image, keys: &Keys) {
    let mut of_image = Case { ..*case };
    if matches!(case.put, Put::PromoteCarried(_)) {
        of_image.target = "elsewhere";
    }
    make(hidden, &of_image, image, keys);
    for ending in ["", ".sig"] {
        let [from, to] = ["manifest", "image"].map(|it| hidden.join(format!("{it}.toml{ending}")));
        if from.exists() {
            fs::rename(from, to).unwrap();
        }
    }
    let order = match case.put {
        Put::PromoteCarried(_) => promotion(case, of_image.target),
        _ => manifest(&path_of(case.target)) + "action = \"rollback\"\n",
    };
    let digest = digest(&world::listing(&hidden.join("image")));
    let order = format!("{order}digest = \"{digest}\"\n");
    fs::write(hidden.join("manifest.toml"), order).unwrap();
    if case.is_signed() {
        sign(hidden, &keys.path(KEY), FOR_US);
    }
}

/// Renames a drop to its name, as the last step of its importer. Where the clock of the file system
/// has not moved on since the manifest was written, the daemon could not tell that the drop was
/// renamed, and would wait; so it is renamed again then.
fn give_name(hidden: &Path, name: &Path) {
    loop {
        fs::rename(hidden, name).unwrap();
        let Ok(manifest) = fs::metadata(name.join("manifest.toml")) else {
            return;
        };
        let changed = |stat: &fs::Metadata| (stat.ctime(), stat.ctime_nsec());
        if changed(&fs::metadata(name).unwrap()) > changed(&manifest) {
            return;
        }
        fs::rename(name, hidden).unwrap();
    }
}

fn write(directory: &Path, image: Image) {
    for (path, text) in image {
        let path = directory.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    symlink("linux", directory.join("vmlinuz")).unwrap();
}

fn files(image: Image) -> BTreeMap<String, String> {
    image
        .iter()
        .map(|(path, text)| ((*path).to_string(), (*text).to_string()))
        .collect()
}

/// The regular files of what stands at a path, if anything does.
fn image(path: &Path) -> Option<BTreeMap<String, String>> {
    fs::symlink_metadata(path).ok()?;
    let is_file = |path: &PathBuf| fs::symlink_metadata(path).unwrap().is_file();
    let read = |file: PathBuf| {
        let name = file.strip_prefix(path).unwrap().display().to_string();
        let text = String::from_utf8_lossy(&fs::read(&file).unwrap()).to_string();
        (name, text)
    };
    Some(walk(path).into_iter().filter(is_file).map(read).collect())
}

fn earlier(spool: &Path) -> BTreeMap<String, Value> {
    let read = |path: PathBuf| {
        let value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        (
            path.file_stem().unwrap().to_string_lossy().to_string(),
            value,
        )
    };
    outcomes(spool).into_iter().map(read).collect()
}
