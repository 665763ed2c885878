//! The power is cut: what was not synced is gone, all of it or whatever a seed chooses, and nothing accepted is lost.

use sendlake_tests::power_cut::{Lost, PowerCut};
use sendlake_tests::random::Random;

use super::{Node, Ordeal, check, setting, sink, torn};

/// Kills the node's server and throws away what was not durable.
fn cut(node: &mut Node, power: &PowerCut, lost: Lost) {
    node.kill();
    let undone = power.undo(lost);
    eprintln!(
        "power cut: {} of {} unsynced changes to entries and {} of {} unsynced octets lost ({:?})",
        undone.entries, undone.entries_open, undone.bytes, undone.bytes_open, undone.files
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn torture_by_power_cuts_loses_nothing_and_records_nothing_twice() {
    let messages = setting("SENDLAKE_POWER_MESSAGES", 800);
    let cuts = setting("SENDLAKE_POWER_CUTS", 5);
    let seed = setting("SENDLAKE_TORTURE_SEED", 1);
    let sink = sink(seed);
    let home = torn(&sink);
    let Some(power) = PowerCut::over(home.data()) else { return };
    let mut ordeal = Ordeal::start(vec![home.serve_with(power.environment())], sink, messages).await;

    let mut random = Random::new(seed);
    let mut points: Vec<_> = (0..cuts).map(|_| random.below(messages * 17 / 10)).collect();
    points.sort_unstable();
    for (number, point) in points.into_iter().enumerate() {
        ordeal.reach(point).await;
        // every other time all is lost, else any part of it
        let lost = if number % 2 == 0 { Lost::All } else { Lost::Some(random.u64()) };
        cut(&mut ordeal.nodes[0], &power, lost);
        ordeal.nodes[0].start().await;
    }
    let settled = ordeal.settle().await;
    let (in_doubt, repeats) = settled.check();
    assert_eq!(power.unknown(), [""; 0], "calls whose undoing is not simulated");
    eprintln!(
        "torture: seed {seed}, {cuts} power cuts in {messages} messages: {in_doubt} attempts in doubt, {repeats} of \
         them repeated on the wire; checked after {:.1} s",
        settled.started.elapsed().as_secs_f64(),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn torture_by_power_cuts_finds_the_loss_when_a_disk_lies() {
    let mut lost = Vec::new();
    for lies in [false, true] {
        let sink = sink(1);
        let home = torn(&sink);
        let Some(power) = PowerCut::over(home.data()) else { return };
        let power = if lies { power.with_a_disk_that_lies() } else { power };
        let mut ordeal = Ordeal::start(vec![home.serve_with(power.environment())], sink, 40).await;
        // every one is accepted, and some are delivered
        ordeal.reach(60).await;
        cut(&mut ordeal.nodes[0], &power, Lost::All);
        ordeal.nodes[0].start().await;
        let settled = ordeal.settle().await;
        lost.push(check::lost(&settled.homes[0], &settled.taken));
    }
    assert_eq!(lost[0], 0, "an honest disk keeps what it synced");
    assert!(lost[1] > 0, "a disk that lies loses mail, and the check sees it");
}
