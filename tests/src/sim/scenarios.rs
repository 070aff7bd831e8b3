//! Worlds with a plot: each is a test of its own.

use super::clock::NodeClock;
use super::setup::Setup;
use super::world::{Posting, World};
use edge_agent::core::RecorderOptions;
use hub::core::DELAY_MS_MAX;
use shared::model::LinkBudget;

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// A node that has no battery for its clock comes up at the beginning of 1970.
const LOST_CLOCK_MS: i64 = -1_767_225_600_000;

/// 400 days without a link, in which everything expires that does: tickets and sessions (the hub is
/// started forty times meanwhile), each node's idea of the time (one comes up in 1970 after each of
/// its reboots, one drifts), calls, and whatever the quota can't hold. Pods run on through every
/// reboot. Then the link comes back.
///
/// Certificates hold for ten years and are judged outside the cores, so they are not part of it.
///
/// What happened, in words.
///
/// # Errors
/// What did not hold.
pub fn offline_for_400_days() -> Result<String, String> {
    let setup = two_agents(15 * MINUTE_MS, 12);
    let mut world = World::quiet(400, &setup);
    world.want("detect", "plant");
    world.want("ocr", "default");
    world.run_for(10 * MINUTE_MS)?;
    world.run_until_rest(HOUR_MS)?;
    let before: Vec<_> = (0..2).map(|index| world.running(index)).collect();
    if before.iter().any(|running| running.len() != 2) {
        return Err(format!("the pods do not run: {before:?}"));
    }
    world.post(Some(Posting { every_ms: 30 * 60_000, bytes_max: 300 }));
    (0..2).for_each(|index| world.set_cut(index, true));
    for period in 0..40 {
        stay_offline(&mut world, period, &before)?;
    }
    world.post(None);
    (0..2).for_each(|index| world.set_cut(index, false));
    let took = world.run_until_rest(20 * MINUTE_MS)?;
    world.check_books()?;
    let mut told = vec![format!("at rest {took} ms after the link was back")];
    for index in 0..2 {
        told.push(even_books(&world, index)?);
    }
    Ok(told.join("; "))
}

/// Two nodes without a budget, whose hub acknowledges at once.
fn two_agents(sample_interval_ms: u64, samples_per_batch: usize) -> Setup {
    Setup {
        agents: 2,
        quota_bytes: 64 << 10,
        recorder: RecorderOptions { sample_interval_ms, samples_per_batch },
        budgets: vec![],
        acknowledge_within_ms: 0,
        posting: None,
        series: 1,
    }
}

/// Ten days: the hub starts again, the fleet changes its mind, one node reboots.
fn stay_offline(
    world: &mut World,
    period: usize,
    before: &[Vec<(String, u64)>],
) -> Result<(), String> {
    world.restart_hub();
    if period.is_multiple_of(4) {
        world.want("ocr", "default");
    }
    let index = period % 2;
    let now = world.now();
    let clock = match index {
        0 => NodeClock::wrong_by(LOST_CLOCK_MS, 0, now),
        _ => NodeClock::wrong_by(1_000, 200, now),
    };
    world.reboot(index, clock);
    world.run_for(2 * MINUTE_MS)?;
    for hours in [1, 24, 10 * 24 - 26] {
        world.run_for(hours * HOUR_MS)?;
        for (index, before) in before.iter().enumerate() {
            let running = world.running(index);
            if running != *before {
                return Err(format!("node {index} should run {before:?} and runs {running:?}"));
            }
        }
    }
    Ok(())
}

/// What the hub counts as lost is what left the node unheard, record by record.
fn even_books(world: &World, index: usize) -> Result<String, String> {
    let view = world.view(index).ok_or("the hub does not run")?;
    let (lost, dropped) = (view.records_lost, world.dropped(index));
    let taken = (view.samples_received, view.events_received, view.results_received);
    let told = format!(
        "node {index}: {} samples, {} events and {} results were taken, {lost} records lost",
        taken.0, taken.1, taken.2
    );
    if lost != dropped || lost == 0 {
        return Err(format!("{told}, and {dropped} left it unheard"));
    }
    Ok(told)
}

/// Seeds that failed once, and what they had shown. Which events a seed has changes with the world, so a
/// seed alone may no longer show it; what it had shown has a test of its own where it was mended.
pub const SEEDS_THAT_FAILED: &[(u64, &str)] = &[
    (34, "results of a post that the disk refused had an older position than records"),
    (53, "the same at another node"),
    (135, "an acknowledgement that was lost after one that held records left them at their node"),
    (221, "the books took an event that was lost for its twin of the same moment"),
    (240, "what the quota had taken was not announced"),
    (635, "a hub whose store was put back to an older copy signed one generation twice"),
    (645, "what connecting had cost was forgotten by a kill"),
    (905, "the same as 135 at another node"),
    (
        5825,
        "what was counted of a log that was forgotten already was not durable, and the books kept it",
    ),
    (8244, "the same as 5825"),
    (10663, "the same as 5825"),
    (11293, "the same as 5825"),
    (15115, "the same as 5825"),
    (16034, "the same as 5825"),
    (9080, "the books forgot a log before they counted what its node's disk had lost at its end"),
    (12187, "the same at another node"),
    (13031, "another replica's disk brought back what the leader's had refused"),
    (2396, "the books guessed from totals which records of a forgotten log were lost"),
    (9456, "the same as 2396"),
    (14304, "the same as 2396"),
    (12131, "the books guessed from totals which records could not be read and which were lost"),
    (12545, "the same as 12131"),
    (13755, "the same as 12131"),
    (19891, "the same as 12131"),
    (4557, "a node that pays and had lost on disk that it does was never sent a lost chunk again"),
    (14357, "the same as 4557"),
    (15405, "the same as 4557"),
    (13326, "cores that a pod in its grace period still had were given to another"),
    (20358, "a pod whose record an older store did not have took no cores"),
    (21445, "what the link had spent while the disk was full was forgotten by a kill"),
    (28344, "a watermark of the greeting's start was taken for one of the agent's next start"),
    (28492, "the same as 28344"),
    (28703, "the same as 28344"),
    (
        91_557,
        "a pod was started and preempted in turn, for ever at one moment: what waited was placed anew each time",
    ),
];

/// Whoever has stolen the hub's key for sessions and not the one for signatures can hear, and ask, and claim
/// to have taken what nodes send; he can't make any of them run, stop or accept anything.
///
/// # Errors
/// What did not hold.
pub fn impostors() -> Result<String, String> {
    let setup = two_agents(10_000, 3);
    let mut world = World::quiet(7, &setup);
    world.want("detect", "plant");
    world.want("ocr", "default");
    world.run_for(5 * MINUTE_MS)?;
    let look = |world: &World| -> Vec<_> {
        let version = |index| world.status(index).and_then(|status| status.sync.desired_version);
        (0..2).map(|index| (world.running(index), version(index))).collect()
    };
    let before = look(&world);
    world.steal_session_key();
    world.run_for(HOUR_MS)?;
    for index in 0..2 {
        if !world.impostor_calls(index)? {
            return Err(format!("node {index} did not hear his call"));
        }
    }
    let after = look(&world);
    if before != after {
        return Err(format!("before him it was {before:?}, and after him {after:?}"));
    }
    let refused = |index| world.status(index).map_or(0, |status| status.sync.refused_updates);
    let refused: Vec<u64> = (0..2).map(refused).collect();
    if refused.contains(&0) {
        return Err(format!("he was not even heard: {refused:?} updates were refused"));
    }
    Ok(format!("{refused:?} updates were refused"))
}

/// Whoever has stolen the hub's key for sessions and what the hub signed for one node hands it to
/// another. It is newer than what that node has, and worth nothing there.
///
/// # Errors
/// What did not hold.
pub fn what_was_signed_for_another() -> Result<String, String> {
    let mut world = World::quiet(8, &two_agents(10_000, 3));
    world.want("detect", "plant");
    world.run_for(5 * MINUTE_MS)?;
    world.set_cut(1, true);
    world.want("detect", "plant");
    world.run_for(5 * MINUTE_MS)?;
    let (before, newer) = (world.running(1), world.running(0));
    if before.is_empty() || before == newer {
        return Err(format!("no plot: one runs {newer:?} and the other {before:?}"));
    }
    world.rob(0, 1).ok_or("nothing to rob")?;
    world.set_cut(1, false);
    world.run_for(HOUR_MS)?;
    let refused = world.status(1).map_or(0, |status| status.sync.refused_updates);
    let after = world.running(1);
    if refused == 0 || after != before {
        return Err(format!("before {before:?}, after {after:?}, {refused} updates refused"));
    }
    world.catch_thief();
    world.run_until_rest(20 * MINUTE_MS)?;
    world.check_books()?;
    if world.running(1) != newer {
        return Err(format!("it runs {:?} and not {newer:?}", world.running(1)));
    }
    Ok(format!("{refused} updates were refused, and then the hub's own taken"))
}

/// The budgets that a week is lived with.
pub const BUDGETS_BYTES_PER_DAY: [u64; 4] = [60_000, 250_000, 1_000_000, 10_000_000];

/// What a week within a budget was like.
#[derive(Debug, Clone, Default)]
pub struct Week {
    /// The limit of any 24 hours.
    pub bytes_per_day: u64,
    /// The most that any 24 hours had.
    pub day_max_bytes: u64,
    /// Per cent of the budget that was used while the link was there and a backlog waited.
    pub used_percent: u64,
    /// Changes of desired state that arrived, and the longest that one took with the link up, in
    /// minutes.
    pub changes: (u64, u64),
    /// Alarms, and the longest that any waited with the link up, in minutes.
    pub alarms: (u64, u64),
    /// Records that the quota took, as the hub counts them.
    pub records_lost: u64,
    /// Steps below what the configuration says, at the end.
    pub steps_down: u64,
    /// Whether the status says that series are left out.
    pub sheds_series: bool,
}

/// Minutes after which the world is looked at.
const STEP_MINUTES: usize = 5;

/// A week with outages and more results than the link can carry.
///
/// # Errors
/// What did not hold.
pub fn week_within(bytes_per_day: u64) -> Result<Week, String> {
    let limit = LinkBudget { bytes_per_day: Some(bytes_per_day), bytes_per_second: None };
    // Bodies of so many bytes, two a post: together twice the budget.
    let bytes_max = if bytes_per_day < 500_000 { 1_000 } else { 6_000 };
    let every_ms = DAY_MS * u64::from(bytes_max) / (2 * bytes_per_day);
    let posting = Posting { every_ms: u32::try_from(every_ms).unwrap_or(1), bytes_max };
    let setup = Setup {
        agents: 1,
        quota_bytes: 16 << 20,
        recorder: RecorderOptions { sample_interval_ms: 30_000, samples_per_batch: 10 },
        budgets: vec![limit],
        acknowledge_within_ms: DELAY_MS_MAX,
        posting: None,
        series: 60,
    };
    let mut world = World::quiet(bytes_per_day, &setup);
    world.want("detect", "default");
    world.run_for(10 * MINUTE_MS)?;
    world.post(Some(posting));
    world.run_for(DAY_MS)?;
    let mut week = WeekUnderWay::begin(&world, bytes_per_day);
    for minute in (0..7 * 24 * 60).step_by(STEP_MINUTES) {
        week.step(&mut world, minute)?;
    }
    week.end(&world)
}

struct WeekUnderWay {
    week: Week,
    carried: u64,
    used: u64,
    minutes_up: u64,
    change_waits: Option<u64>,
    alarm_waits: u64,
}

impl WeekUnderWay {
    fn begin(world: &World, bytes_per_day: u64) -> Self {
        let (carried, _) = world.carried(0);
        Self {
            week: Week { bytes_per_day, ..Week::default() },
            carried,
            used: 0,
            minutes_up: 0,
            change_waits: None,
            alarm_waits: 0,
        }
    }

    fn step(&mut self, world: &mut World, minute: u64) -> Result<(), String> {
        let cut = is_outage(minute);
        world.set_cut(0, cut);
        if minute % (6 * 60) == 20 && self.change_waits.is_none() {
            world.want("ocr", "plant");
            (self.change_waits, self.week.changes.0) = (Some(0), self.week.changes.0 + 1);
        }
        if minute % (5 * 60) == 40 {
            world.set_gpu_lost(0, true);
            self.week.alarms.0 += 1;
        } else if minute % (5 * 60) == 140 {
            world.set_gpu_lost(0, false);
        }
        world.run_for(STEP_MINUTES as u64 * MINUTE_MS)?;
        if world.results_waiting(0) == 0 && minute > 60 && !cut {
            return Err(format!("no backlog in minute {minute}: the plot has a hole"));
        }
        self.measure(world, cut);
        Ok(())
    }

    fn measure(&mut self, world: &World, cut: bool) {
        let (carried, day_max) = world.carried(0);
        let spent = carried - std::mem::replace(&mut self.carried, carried);
        self.week.day_max_bytes = day_max;
        if cut {
            return;
        }
        self.used += spent;
        let minutes = STEP_MINUTES as u64;
        self.minutes_up += minutes;
        if let Some(waited) = self.change_waits {
            let arrived = world.view(0).is_some_and(|view| view.in_sync);
            self.change_waits = (!arrived).then_some(waited + minutes);
            self.week.changes.1 = self.week.changes.1.max(waited + minutes);
        }
        self.alarm_waits = if world.alarms_waiting(0) > 0 { self.alarm_waits + minutes } else { 0 };
        self.week.alarms.1 = self.week.alarms.1.max(self.alarm_waits);
    }

    fn end(mut self, world: &World) -> Result<Week, String> {
        let status = world.status(0).ok_or("the agent does not run")?;
        let allowed = self.week.bytes_per_day * self.minutes_up / (24 * 60);
        self.week.used_percent = self.used * 100 / allowed.max(1);
        self.week.records_lost = world.view(0).map_or(0, |view| view.records_lost);
        self.week.steps_down = status.budget.steps_down;
        let told = status.node_status.conditions.iter().any(|c| c.kind == "TelemetryComplete");
        if status.budget.sheds_series != told {
            return Err("series are left out, and the status does not say so".to_owned());
        }
        self.week.sheds_series = told;
        Ok(self.week)
    }
}

/// A short outage each eight hours, a long one each day.
fn is_outage(minute: u64) -> bool {
    let of_day = minute % (24 * 60);
    minute % (8 * 60) < 15 || (600..780).contains(&of_day)
}
