//! A story: what importers, admins and the machine do, one after the other.

use proptest::prelude::*;

use crate::lab::failpoints;
use crate::model::page::Image;

pub const IMPORTERS: usize = 3;
pub const TARGETS: usize = 2;
pub const IMAGES: usize = 4;

/// What a daemon is tried with, and what happens.
#[derive(Clone, Debug)]
pub struct Story {
    pub setup: Setup,
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug)]
pub struct Setup {
    /// `watch = "poll"`: no event ever comes.
    pub polls: bool,
    /// Generations kept besides the current one, where none is for its age.
    pub keep: Option<usize>,
    /// The daemon has a wall clock of its own.
    pub has_own_clock: bool,
    /// What isn't whole is waited for no longer than a few seconds.
    pub is_impatient: bool,
    /// The daemon runs from the beginning.
    pub is_up: bool,
}

#[derive(Clone, Debug)]
pub enum Step {
    Bring(Bring),
    /// A rollback, or a withdrawal.
    Order {
        importer: usize,
        target: usize,
        is_rollback: bool,
    },
    /// What was brought last to this target is promoted to the other one.
    Promote {
        importer: usize,
        from: usize,
    },
    /// A rollback to an image, which the order carries.
    Carry {
        importer: usize,
        target: usize,
        image: Image,
    },
    /// A drop is moved into the last one that its importer has brought, as `mv x y` does.
    MoveInto {
        importer: usize,
    },
    /// The importer renames the last drop that it has brought back to a hidden name.
    TakeAway {
        importer: usize,
    },
    /// The importer gives the last drop that it has brought another name.
    Rename {
        importer: usize,
    },
    /// A writer that has stopped goes on to its end.
    GoOn {
        importer: usize,
    },
    Start(Option<Trap>),
    Once(Option<Trap>),
    /// SIGTERM.
    Stop,
    /// SIGKILL, after so many milliseconds.
    Kill(u64),
    /// The wall clock of the daemon is set so many seconds off.
    SetClock(i64),
    /// Until `Drain` there is no room.
    Fill {
        is_tree: bool,
    },
    Drain,
    /// The daemon is stopped, and more events come than its queue can take; it goes on after
    /// `Bring`.
    LoseEvents(Bring),
    /// Everybody waits until nothing is left to do.
    Rest,
}

#[derive(Clone, Debug)]
pub struct Bring {
    pub importer: usize,
    pub target: usize,
    pub image: Image,
    /// The manifest lists the files.
    pub is_listed: bool,
    /// The name of the last drop, whoever has brought that.
    pub takes_last_name: bool,
    pub way: Way,
}

#[derive(Clone, Debug)]
pub enum Way {
    /// Built under a hidden name.
    Renamed,
    BrokenManifest,
    WrongChecksum,
    /// Written where it is looked at.
    InPlace(Writing),
}

#[derive(Clone, Debug)]
pub struct Writing {
    /// The manifest and the files, in this order.
    pub order: Vec<usize>,
    /// Files are written in two pieces.
    pub in_pieces: bool,
    /// Modification times are set back in the end, as rsync and tar do.
    pub restores_times: bool,
    pub stops: Stops,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stops {
    Never,
    /// For longer than `settle`, in the middle of the last file.
    ForLong,
    /// In the middle of the last file, with the file open; it may go on some day.
    WithOpenFile,
    /// Before the last file: of a listed drop nobody takes it for whole.
    BeforeLastFile,
}

impl std::fmt::Display for Story {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{:?}", self.setup)?;
        let mut steps = self.steps.iter().enumerate();
        steps.try_for_each(|(at, step)| writeln!(f, "{at:3} {step:?}"))
    }
}

/// A failpoint.
#[derive(Clone, Debug)]
pub struct Trap {
    pub place: String,
    pub nth: u64,
    /// `kill`, `fail`, or `stop` until somebody wants it to go on.
    pub action: &'static str,
}

pub fn stories() -> impl Strategy<Value = Story> {
    let setup = (
        prop::bool::weighted(0.2),
        prop::option::weighted(0.6, 1..3_usize),
        prop::bool::weighted(0.4),
        prop::bool::weighted(0.15),
        any::<bool>(),
    );
    let setup = setup.prop_map(|(polls, keep, has_own_clock, is_impatient, is_up)| Setup {
        polls,
        keep,
        has_own_clock,
        is_impatient,
        is_up,
    });
    (setup, prop::collection::vec(steps(), 1..24)).prop_map(|(setup, steps)| Story { setup, steps })
}

fn steps() -> impl Strategy<Value = Step> {
    let importer = || 0..IMPORTERS;
    prop_oneof![
        14 => brings().prop_map(Step::Bring),
        4 => (importer(), targets(), any::<bool>()).prop_map(|(importer, target, is_rollback)| {
            Step::Order { importer, target, is_rollback }
        }),
        3 => (importer(), targets()).prop_map(|(importer, from)| Step::Promote { importer, from }),
        3 => (importer(), targets(), 0..IMAGES).prop_map(|(importer, target, image)| {
            Step::Carry { importer, target, image }
        }),
        1 => importer().prop_map(|importer| Step::MoveInto { importer }),
        1 => importer().prop_map(|importer| Step::TakeAway { importer }),
        1 => importer().prop_map(|importer| Step::Rename { importer }),
        2 => importer().prop_map(|importer| Step::GoOn { importer }),
        5 => traps().prop_map(Step::Start),
        1 => traps().prop_map(Step::Once),
        1 => Just(Step::Stop),
        2 => (0..60_u64).prop_map(Step::Kill),
        2 => prop_oneof![Just(0), -100_000..100_000_i64].prop_map(Step::SetClock),
        1 => any::<bool>().prop_map(|is_tree| Step::Fill { is_tree }),
        1 => Just(Step::Drain),
        1 => brings().prop_map(Step::LoseEvents),
        2 => Just(Step::Rest),
    ]
}

/// Mostly one: what comes to different targets disturbs little.
fn targets() -> impl Strategy<Value = usize> {
    prop_oneof![3 => Just(0), 1 => 0..TARGETS]
}

fn traps() -> impl Strategy<Value = Option<Trap>> {
    let places: Vec<_> = failpoints().into_iter().collect();
    let action = prop_oneof![3 => Just("kill"), 2 => Just("stop"), 1 => Just("fail")];
    let trap = (
        prop::sample::select(places),
        prop_oneof![3 => Just(1_u64), 1 => 2..4_u64],
        action,
    )
        .prop_map(|(place, nth, action)| Trap { place, nth, action });
    prop::option::weighted(0.8, trap)
}

fn brings() -> impl Strategy<Value = Bring> {
    let way = prop_oneof![
        5 => Just(Way::Renamed),
        1 => Just(Way::BrokenManifest),
        1 => Just(Way::WrongChecksum),
        5 => writings().prop_map(Way::InPlace),
    ];
    let who = (0..IMPORTERS, targets(), 0..IMAGES);
    (who, any::<bool>(), prop::bool::weighted(0.15), way).prop_map(
        |((importer, target, image), is_listed, takes_last_name, way)| Bring {
            importer,
            target,
            image,
            is_listed,
            takes_last_name,
            way,
        },
    )
}

fn writings() -> impl Strategy<Value = Writing> {
    let stops = prop_oneof![
        5 => Just(Stops::Never),
        1 => Just(Stops::ForLong),
        1 => Just(Stops::WithOpenFile),
        1 => Just(Stops::BeforeLastFile),
    ];
    // The manifest is number 0.
    let order = Just((0..=crate::model::tools::FILES.len()).collect::<Vec<_>>()).prop_shuffle();
    (order, any::<bool>(), any::<bool>(), stops).prop_map(
        |(order, in_pieces, restores_times, stops)| Writing {
            order,
            in_pieces,
            restores_times,
            stops,
        },
    )
}
