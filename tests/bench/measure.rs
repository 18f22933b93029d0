//! What a piece of work costs, and two of them side by side.

use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

/// The unit of the times in `/proc/<pid>/stat` (`sysconf(_SC_CLK_TCK)`, 100 on Linux).
const TICK: Duration = Duration::from_millis(10);

/// What one run of something cost.
#[derive(Clone, Copy)]
pub struct Cost {
    pub wall: Duration,
    /// User and system time on all processors: what a busy machine distorts least.
    pub cpu: Duration,
}

impl Cost {
    /// Of this process and of those that `work` starts and waits for. What others left to be
    /// written to the disk is written before: it would count as ours.
    pub fn of(work: impl FnOnce()) -> Self {
        settle();
        let (started, cpu) = (Instant::now(), cpu_time("self"));
        work();
        Self {
            wall: started.elapsed(),
            cpu: cpu_time("self").checked_sub(cpu).unwrap(),
        }
    }

    /// What is left of it without `part`.
    pub fn beyond(&self, part: &Self) -> Self {
        Self {
            wall: self.wall.saturating_sub(part.wall),
            cpu: self.cpu.saturating_sub(part.cpu),
        }
    }
}

/// Leaves nothing to be written to the disk.
pub fn settle() {
    rustix::fs::sync();
}

/// Processor time of a process, and of its children that have ended.
pub fn cpu_time(pid: &str) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process that runs");
    // The name, in brackets, may hold anything.
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(4);
    ticks.map(|n| TICK * n.parse().unwrap_or(0)).sum()
}

/// A number from `/proc/<pid>/status`, in its own unit; 0 when the process has ended.
pub fn process_status(pid: &str, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let number = line.and_then(|value| value.split_whitespace().next());
    number.and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// How often all threads of a process were put on a processor.
pub fn context_switches(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a process that runs");
    let of_task = |task: fs::DirEntry| {
        let id = format!("{pid}/task/{}", task.file_name().to_string_lossy());
        process_status(&id, "voluntary_ctxt_switches")
            + process_status(&id, "nonvoluntary_ctxt_switches")
    };
    tasks.flatten().map(of_task).sum()
}

/// The same work of ours and of a control, round by round.
#[derive(Default)]
pub struct Sides {
    pub ours: Vec<Cost>,
    pub control: Vec<Cost>,
}

impl Sides {
    /// One round; who begins takes turns.
    pub fn round(&mut self, ours: impl FnOnce() -> Cost, control: impl FnOnce() -> Cost) {
        if self.ours.len().is_multiple_of(2) {
            self.control.push(control());
            self.ours.push(ours());
        } else {
            self.ours.push(ours());
            self.control.push(control());
        }
    }

    /// Prints a row: both sides, and ours in proportion to the control of the same round.
    pub fn print(&self, case: &str, control: &str, unit: Unit, goal: &str) {
        let pairs = self.ours.iter().zip(&self.control);
        let ratios = pairs.map(|(ours, control)| ours.wall.div_duration_f64(control.wall));
        let ratio = Spread::of(ratios.collect());
        let cpu = total(&self.ours).div_duration_f64(total(&self.control));
        println!(
            "{case:54} | {} | {control}: {} | {ratio:.2} (cpu {cpu:.2}) | {goal}",
            unit.show(&self.ours),
            unit.show(&self.control),
        );
    }
}

fn total(costs: &[Cost]) -> Duration {
    costs.iter().map(|cost| cost.cpu).sum()
}

/// How times are shown.
#[derive(Clone, Copy)]
pub enum Unit {
    Seconds,
    /// So many were done in that time.
    Rate(usize),
}

impl Unit {
    #[expect(clippy::cast_precision_loss, reason = "nobody does 2^52 drops")]
    pub fn show(self, costs: &[Cost]) -> String {
        let wall = |cost: &Cost| cost.wall.as_secs_f64();
        let cpu = Spread::of(costs.iter().map(|cost| cost.cpu.as_secs_f64()).collect());
        match self {
            Self::Seconds => {
                let wall = Spread::of(costs.iter().map(wall).collect());
                format!("{wall:.3} s, cpu {:.2}", cpu.median)
            }
            Self::Rate(done) => {
                let rate = |cost: &Cost| done as f64 / wall(cost);
                let rate = Spread::of(costs.iter().map(rate).collect());
                format!("{rate:.0} a second, cpu {:.2}", cpu.median)
            }
        }
    }
}

/// Median and extremes.
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self {
            median: values[values.len() / 2],
            min: values[0],
            max: values[values.len() - 1],
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let precision = f.precision().unwrap_or(2);
        let Self { median, min, max } = self;
        write!(
            f,
            "{median:.precision$} [{min:.precision$}..{max:.precision$}]"
        )
    }
}
