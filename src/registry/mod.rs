//! An OCI registry, between a centre and its sites: the last order for each target, in its own signed
//! bytes, and the images that orders name.
//!
//! ```text
//! catalog          an OCI index: the last order for each target of the centre's, by time
//! image-<digest>   an image: its manifest as the config, the manifest's signature, a layer for each of
//!                  its large files, and a tar of the rest
//! order-<digest>   a rollback, promotion or withdrawal: its own manifest as the config, the signature of
//!                  that; it names the image that it means
//! ```
//! All of these are in one repository, which is what a [`Channel`] is. What stands in the registry is a
//! function of the centre's tree: the same tree makes the same bytes. A centre does [`push`]; a site has a
//! [`Follower`], which asks for the index, and fetches what the site's own tree doesn't have. Nothing that
//! a registry says is believed because it says so: all bytes have to be those of their digests, and
//! whether an order counts is judged by the site's own daemon.
//!
//! The room speaks to registries by `oci-client` only. It uses every room but `commands`. Start with
//! `index.rs` and `artifact.rs`: what stands in a registry.

mod address;
mod archive;
mod artifact;
mod bring;
mod channel;
mod contents;
mod follow;
mod holdings;
mod index;
mod order;
mod pull;
mod push;
mod repository;
mod seen;
mod store;
mod upload;

pub(crate) use bring::Brought;
pub(crate) use channel::Channel;
pub(crate) use follow::{Accept, Follower, News};
pub(crate) use holdings::Holdings;
pub(crate) use push::{How, Pushed, push};

#[cfg(test)]
mod tests {
    //! What the tests of this room stand on: Debian's registry, the wire to it, and trees.

    use std::collections::BTreeMap;
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
    use std::path::{Path, PathBuf};
    use std::process::{Child, Command, Stdio};
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;
    use std::{fs, thread};

    use super::channel::Channel;
    use super::follow::{Accept, Follower, News};
    use super::push::{How, Pushed, push};
    use crate::fetch::{Fetched, Options};
    use crate::image::{FileMark, Listing};
    use crate::settings::Settings;
    use crate::sources::Site;
    use crate::spool::{Action, Manifest};
    use crate::sys::{Dir, Importer, Progress};
    use crate::tree::{Change, Origin, Pointers, Record, Staged, Tree};
    use crate::words::{ClaimId, Digest, Moment, Target, Vouched};

    const PROGRAM: &str = "docker-registry";

    /// `docker-registry` on a port of its own. Ends with this.
    pub(super) struct Registry {
        pub(super) folder: tempfile::TempDir,
        child: Child,
        at: SocketAddr,
    }

    impl Registry {
        /// `None`, and a word of it, where the program isn't installed.
        pub(super) fn start() -> Option<Self> {
            Self::with("")
        }

        /// As [`Registry::start`], where only `centre` with the password `secret` may do anything.
        pub(super) fn with_login() -> Option<Self> {
            Self::with("auth:\n  htpasswd:\n    realm: x\n    path: users\n")
        }

        fn with(more: &str) -> Option<Self> {
            if Command::new(PROGRAM).arg("--version").output().is_err() {
                eprintln!("not run, {PROGRAM} missing");
                return None;
            }
            let folder = tempfile::tempdir().unwrap();
            let config = format!(
                "version: 0.1\nlog:\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    \
                 rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n{more}",
                folder.path().join("data").display()
            );
            fs::write(folder.path().join("config.yml"), config).unwrap();
            let users = "centre:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";
            fs::write(folder.path().join("users"), users).unwrap();
            let (child, at) = serve(folder.path());
            Some(Self { folder, child, at })
        }

        fn stop(&mut self) {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }

        /// As after a restart, before which `change` was made to what it holds.
        pub(super) fn again(&mut self, change: impl FnOnce(&Path)) {
            self.stop();
            change(self.folder.path());
            (self.child, self.at) = serve(self.folder.path());
        }

        /// The file that holds a blob.
        pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
            let (digest, data) = (digest.to_string(), "data/docker/registry/v2/blobs/sha256");
            let folder = self.folder.path().join(data).join(&digest[..2]);
            folder.join(digest).join("data")
        }
    }

    impl Drop for Registry {
        fn drop(&mut self) {
            self.stop();
        }
    }

    fn serve(folder: &Path) -> (Child, SocketAddr) {
        let mut child = Command::new(PROGRAM)
            .args(["serve", "config.yml"])
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let at = lines.find_map(|line| {
            let line = line.unwrap();
            let (_, at) = line.split_once("listening on ")?;
            at.split('"').next()?.parse().ok()
        });
        // Nobody may be kept from writing there.
        thread::spawn(move || lines.for_each(drop));
        (child, at.expect("it listens"))
    }

    /// The wire to a registry: what passes by is counted, and may be cut off.
    pub(super) struct Wire {
        pub(super) port: u16,
        state: Arc<State>,
    }

    #[derive(Default)]
    struct State {
        to: Mutex<Option<SocketAddr>>,
        requests: AtomicU64,
        /// Bytes from the registry.
        bytes: AtomicU64,
        /// Connections end once so many more bytes came from the registry.
        cut: Mutex<Option<u64>>,
        asked: Mutex<Vec<String>>,
        /// Whether no request says any more which bytes it wants.
        is_for_all: AtomicBool,
    }

    impl Wire {
        pub(super) fn to(registry: &Registry) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            let state = Arc::new(State::default());
            let wire = Self {
                port,
                state: Arc::clone(&state),
            };
            wire.lead_to(registry);
            thread::spawn(move || {
                for near in listener.incoming() {
                    let (near, state) = (near.unwrap(), Arc::clone(&state));
                    let to = state.to.lock().unwrap().unwrap();
                    let Ok(far) = TcpStream::connect(to) else {
                        continue;
                    };
                    let both = (near.try_clone().unwrap(), far.try_clone().unwrap());
                    let of_requests = Arc::clone(&state);
                    thread::spawn(move || of_requests.pass_requests(near, far));
                    thread::spawn(move || state.pass_answers(both.1, both.0));
                }
            });
            wire
        }

        /// From now on connections lead there.
        pub(super) fn lead_to(&self, registry: &Registry) {
            *self.state.to.lock().unwrap() = Some(registry.at);
        }

        pub(super) fn url(&self) -> String {
            format!("http://127.0.0.1:{}/netboot/stable", self.port)
        }

        pub(super) fn cut_after(&self, bytes: Option<u64>) {
            *self.state.cut.lock().unwrap() = bytes;
        }

        /// From now on the registry sends the whole of what a part is asked of.
        pub(super) fn ask_for_all(&self) {
            self.state.is_for_all.store(true, Ordering::SeqCst);
        }

        /// The requests since the last time, and the bytes that came.
        pub(super) fn count(&self) -> (u64, u64) {
            let taken = |count: &AtomicU64| count.swap(0, Ordering::SeqCst);
            (taken(&self.state.requests), taken(&self.state.bytes))
        }

        /// The first lines of the requests since the last time.
        pub(super) fn asked(&self) -> Vec<String> {
            std::mem::take(&mut self.state.asked.lock().unwrap())
        }
    }

    impl State {
        fn pass_requests(&self, mut from: TcpStream, mut to: TcpStream) {
            let mut block = vec![0; 64 << 10];
            while let Ok(count @ 1..) = from.read(&mut block) {
                // Each comes in a piece of its own: nobody sends the next one before the answer.
                let text = String::from_utf8_lossy(&block[..count.min(500)]).into_owned();
                if let Some((first, _)) = text.split_once(" HTTP/1.1\r\n") {
                    self.requests.fetch_add(1, Ordering::SeqCst);
                    self.asked.lock().unwrap().push(first.to_string());
                }
                let range = text.find("\r\nrange: ");
                let passed = match range.filter(|_| self.is_for_all.load(Ordering::SeqCst)) {
                    Some(at) => {
                        let end = at + 2 + text[at + 2..].find("\r\n").unwrap();
                        [&block[..at], &block[end..count]].concat()
                    }
                    None => block[..count].to_vec(),
                };
                if to.write_all(&passed).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Both);
        }

        fn pass_answers(&self, mut from: TcpStream, mut to: TcpStream) {
            let mut block = vec![0; 64 << 10];
            while let Ok(count @ 1..) = from.read(&mut block) {
                let mut rest = count as u64;
                if let Some(cut) = self.cut.lock().unwrap().as_mut() {
                    rest = rest.min(*cut);
                    *cut -= rest;
                }
                self.bytes.fetch_add(rest, Ordering::SeqCst);
                let rest = usize::try_from(rest).unwrap();
                if to.write_all(&block[..rest]).is_err() || rest < count {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Both);
            let _ = from.shutdown(Shutdown::Both);
        }
    }

    /// A tree in which the test publishes by itself.
    pub(super) struct World {
        pub(super) folder: tempfile::TempDir,
        pub(super) pointers: Pointers,
    }

    pub(super) const TARGET: &str = "amd64/generic/noble/install";

    pub(super) fn target(text: &str) -> Target {
        text.parse().unwrap()
    }

    pub(super) fn origin() -> Origin {
        Origin {
            drop: "drop".into(),
            importer: Importer::of(0),
            received_at: Moment::now(),
            claim: ClaimId::new(1, 2),
            notes: Vec::new(),
            vouched: Vouched::default(),
            promoted: None,
        }
    }

    /// Bytes that are another image's for another number.
    pub(super) fn bytes(number: u8, size: usize) -> Vec<u8> {
        let block: Vec<_> = (0..=250)
            .map(|it: u8| it.wrapping_mul(31) ^ number)
            .collect();
        block.into_iter().cycle().take(size).collect()
    }

    /// The files of an image by their paths.
    pub(super) type Files = BTreeMap<String, Vec<u8>>;

    pub(super) fn files(number: u8) -> Files {
        let file = |path: &str, size| (path.to_string(), bytes(number, size));
        [
            file("linux", 300 << 10),
            file("boot/menu", 70),
            file("initrd.gz", 100 << 10),
        ]
        .into()
    }

    impl World {
        pub(super) fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let mut settings = Settings::default();
            settings.tree.path = folder.path().join("tree");
            let pointers = Pointers::open(&settings).unwrap();
            Self { folder, pointers }
        }

        pub(super) fn tree(&self) -> &Tree {
            self.pointers.tree()
        }

        fn change(&self, target: &Target) -> Change {
            let pointed = self.tree().pointed(target).unwrap();
            pointed.map_or(Change::Make, Change::Replace)
        }

        fn swap(&mut self, staged: &Staged) {
            let placed = self.pointers.staging().place(staged, false).unwrap();
            self.pointers.swap(&placed).unwrap();
        }

        /// Publishes an image with these files, a link and an empty folder; `change` the manifest that is
        /// signed for it, if one is.
        pub(super) fn publish(
            &mut self,
            to: &str,
            files: &Files,
            change: Option<&dyn Fn(&mut Manifest)>,
        ) -> Digest {
            let (target, staging) = (target(to), self.pointers.staging());
            let draft = staging.begin().unwrap();
            let mut listing = Listing {
                links: [("link".to_string(), "linux".to_string())].into(),
                folders: ["empty".to_string()].into(),
                ..Listing::default()
            };
            let image = draft.dir.path().to_path_buf();
            for (path, bytes) in files {
                let mark = FileMark {
                    sha256: Digest::of(bytes),
                    size: bytes.len() as u64,
                };
                listing.files.insert(path.clone(), mark);
                let folders = path
                    .match_indices('/')
                    .map(|(at, _)| path[..at].to_string());
                listing.folders.extend(folders);
                let path = image.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            }
            std::os::unix::fs::symlink("linux", image.join("link")).unwrap();
            fs::create_dir(image.join("empty")).unwrap();
            let signed = change.map(|change| {
                let mut manifest = Manifest::new(target.clone(), Action::Publish);
                manifest.list(listing.clone());
                change(&mut manifest);
                [manifest.to_toml().into_bytes(), b"signature".to_vec()]
            });
            let kept = self.tree().names(&target).unwrap().unwrap_or_default();
            let version = Some("1".to_string());
            let record = Record::new(&target, listing, &kept, version, Some(&origin()));
            let staged = draft.finish(&record, self.change(&target), signed).unwrap();
            self.swap(&staged);
            record.head.digest
        }

        /// Makes the kept image of this digest current again.
        pub(super) fn roll_back(&mut self, to: &str, digest: &Digest) {
            let target = target(to);
            let name = self.tree().kept(&target, digest).unwrap().remove(0);
            let kept = self.tree().generation(&target, name).unwrap().unwrap();
            let (record, change) = (kept.record.unwrap(), self.change(&target));
            let staging = self.pointers.staging();
            let staged = staging.stage_rollback(&record, origin(), change).unwrap();
            self.swap(&staged);
        }

        pub(super) fn withdraw(&mut self, to: &str) {
            let target = target(to);
            let name = self.tree().pointed(&target).unwrap().unwrap();
            let head = self.tree().head(&target, &name).unwrap().unwrap();
            let staging = self.pointers.staging();
            let staged = staging.stage_withdrawal(head, None, origin()).unwrap();
            self.swap(&staged);
        }

        pub(super) fn state(&self) -> PathBuf {
            self.folder.path().join("state")
        }

        /// Pushes, and returns what was said.
        pub(super) async fn push(
            &self,
            wire: &Wire,
            is_thorough: bool,
        ) -> (anyhow::Result<Pushed>, Vec<String>) {
            self.push_of(wire, "", is_thorough).await
        }

        /// As [`World::push`], to a channel with more keys.
        pub(super) async fn push_of(
            &self,
            wire: &Wire,
            more: &str,
            is_thorough: bool,
        ) -> (anyhow::Result<Pushed>, Vec<String>) {
            let text = format!("url = \"{}\"\ncentre = \"fra1\"\n{more}\n", wire.url());
            let channel = Channel::parse("stable", "stable.toml", &text).unwrap();
            let said = Mutex::new(Vec::new());
            let how = How {
                state: &self.state(),
                is_thorough,
                progress: &Arc::new(Progress::default()),
                say: &|text| said.lock().unwrap().push(text.to_string()),
            };
            let pushed = push(&channel, self.tree(), &how).await;
            (pushed, said.into_inner().unwrap())
        }

        /// As [`World::push`], where all is well.
        pub(super) async fn push_well(&self, wire: &Wire) -> Pushed {
            let (pushed, said) = self.push(wire, false).await;
            assert_eq!(said, [""; 0]);
            pushed.unwrap()
        }
    }

    /// What a site follows that takes everything.
    pub(super) fn site() -> Site {
        Site {
            targets: vec!["*/*/*/*".parse().unwrap()],
            centre: None,
            is_insecure: true,
        }
    }

    /// A site that keeps what it has seen in the folder `state`.
    pub(super) async fn follow(wire: &Wire, state: &Path, site: &Site) -> Follower {
        let (url, options) = (wire.url().parse().unwrap(), Options::default());
        let limits = Settings::default().limits;
        let open = Follower::open((&url, &options), site, state, &limits).await;
        let mut follower = open.unwrap();
        follower.remote.store.wait = Duration::ZERO;
        follower
    }

    impl Follower {
        /// Asks, where all is well and nothing has gone; returns what is wanted.
        pub(super) async fn wants(&mut self, tree: &Tree) -> Vec<News> {
            let asked = self.ask(tree, Accept::default()).await.unwrap();
            assert_eq!(asked.gone, []);
            asked.wanted
        }

        /// Fetches the image of an order into a folder of its own.
        pub(super) async fn image(
            &self,
            news: &News,
            tree: &Tree,
        ) -> (tempfile::TempDir, anyhow::Result<Fetched>) {
            let brought = self.bring(news).await.unwrap();
            let folder = tempfile::tempdir().unwrap();
            let into = Dir::open(folder.path()).unwrap();
            let progress = Arc::new(Progress::default());
            let takes = self.fetch(&brought, tree, &into, &progress).await;
            (folder, takes)
        }
    }

    /// All that is in a folder: of a link what it holds, of an empty folder nothing.
    pub(super) fn found(folder: &Path) -> Files {
        let (mut found, mut folders) = (Files::new(), vec![folder.to_path_buf()]);
        while let Some(inside) = folders.pop() {
            let entries: Vec<_> = fs::read_dir(&inside).unwrap().collect();
            let path = |path: &Path| path.strip_prefix(folder).unwrap().display().to_string();
            if entries.is_empty() {
                found.insert(path(&inside), Vec::new());
            }
            for entry in entries {
                let entry = entry.unwrap();
                let kind = entry.file_type().unwrap();
                if kind.is_dir() {
                    folders.push(entry.path());
                    continue;
                }
                let bytes = if kind.is_symlink() {
                    fs::read_link(entry.path())
                        .unwrap()
                        .into_os_string()
                        .into_encoded_bytes()
                } else {
                    fs::read(entry.path()).unwrap()
                };
                found.insert(path(&entry.path()), bytes);
            }
        }
        found
    }

    /// What is in an image that [`World::publish`] has made of these files.
    pub(super) fn whole(files: &Files) -> Files {
        let more = [("link", b"linux".to_vec()), ("empty", Vec::new())];
        let more = more.map(|(path, bytes)| (path.to_string(), bytes));
        files.clone().into_iter().chain(more).collect()
    }
}
