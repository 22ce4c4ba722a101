//! What is under way, one turn at a time, without an engine.

use super::turns::task;
use super::*;
use crate::engine::progress::Command::{End, EndAll, EndLane, Start};
use crate::engine::progress::Remains;

/// Of a schedule that waits for nothing but its doorbell, or that has to be polled.
struct Rings(bool);

impl Witness for Rings {
    fn absentees(&self) -> Option<String> {
        Some("rank 9 has not come".to_owned())
    }

    fn rings(&self) -> bool {
        self.0
    }
}

/// Of a schedule that a peer's ring wakes, as most are.
struct Plain;

impl Witness for Plain {
    fn absentees(&self) -> Option<String> {
        None
    }
}

fn lasting(lane: &Arc<Lane>, name: &'static str, timeout: Duration) -> Arc<Operation> {
    Operation::new(name, None, lane.clone(), 0, timeout)
}

/// What came of it: the names of those that have ended, and their errors.
fn texts(ended: &mut Vec<Ended>) -> Vec<String> {
    let text = |end: Ended| match end.result {
        Ok(_) => "ended".to_owned(),
        Err(error) => error.to_string(),
    };
    ended.drain(..).map(text).collect()
}

fn other() -> Error {
    Error::Unavailable("another test".to_owned())
}

#[test]
fn who_polls_rests_as_it_likes_and_who_is_rung_until_the_next_deadline() {
    let (lane, gate, mut ended) = (lane("rest"), Arc::default(), Vec::new());
    let mut progress = Progress::default();
    assert_eq!(progress.turn(&mut ended).rest, None, "nothing is under way");
    let witnessed = |operation, rings| Task { witness: Some(Arc::new(Rings(rings))), ..task(operation, gated(&gate)) };
    progress.accept(Start(witnessed(lasting(&lane, "first", LONG), true)), &mut ended);
    assert_eq!(progress.turn(&mut ended).rest, Some(Duration::from_millis(250)), "peers may die without a sound");
    let queued = lasting(&lane, "queued", LONG / 2);
    progress.accept(Start(task(queued.clone(), gated(&gate))), &mut ended);
    let deadline = queued.deadline().unwrap();
    assert_eq!(progress.rest(deadline - SHORT), Some(SHORT), "a queued one has a deadline, too");
    assert_eq!(progress.rest(deadline + SHORT), Some(Duration::ZERO));
    assert!(Plain.rings());
    let free = |task| Task { order: Order::Free, ..task };
    progress.accept(Start(free(witnessed(lasting(&lane, "polled", LONG), false))), &mut ended);
    assert_eq!(progress.turn(&mut ended).rest, None);
    let mut progress = Progress::default();
    progress.accept(Start(task(lasting(&lane, "unknown", LONG), gated(&gate))), &mut ended);
    assert_eq!(progress.turn(&mut ended).rest, None);
    assert!(ended.is_empty());
}

#[test]
fn memory_that_has_not_come_back_is_polled_for() {
    let (lane, gate, mut ended) = (lane("remains"), Arc::default(), Vec::new());
    let mut progress = Progress::default();
    let released = Arc::new(AtomicBool::new(false));
    let (outstanding, schedule) = held(&released);
    let first = operation(&lane);
    progress.accept(Start(Task { outstanding, ..task(first.clone(), schedule) }), &mut ended);
    progress.turn(&mut ended);
    progress.accept(End(first, other()), &mut ended);
    let Ended { operation, completion, leftover, .. } = ended.pop().unwrap();
    let remains = Remains { leftover: leftover.unwrap(), operation, _completion: completion };
    progress.accept(Command::Retain(remains), &mut ended);
    let second = self::lane("other");
    let witness: Option<Arc<dyn Witness>> = Some(Arc::new(Rings(true)));
    progress.accept(Start(Task { witness, ..task(self::operation(&second), gated(&gate)) }), &mut ended);
    assert_eq!(progress.turn(&mut ended).rest, None);
    assert!(progress.released().is_empty());
    released.store(true, Ordering::SeqCst);
    assert_eq!(progress.released().len(), 1);
    assert!(progress.turn(&mut ended).rest.is_some());
}

#[test]
fn a_schedule_that_lets_others_go_first_has_moved() {
    let (lane, mut ended) = (lane("eager"), Vec::new());
    let mut progress = Progress::default();
    let eager = Arc::new(AtomicBool::new(true));
    let goes_on = eager.clone();
    let schedule = poll_fn(move |context| {
        if goes_on.load(Ordering::SeqCst) {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    });
    progress.accept(Start(task(operation(&lane), Box::pin(schedule))), &mut ended);
    assert!(progress.turn(&mut ended).moved && progress.turn(&mut ended).moved);
    eager.store(false, Ordering::SeqCst);
    assert!(!progress.turn(&mut ended).moved);
}

#[test]
fn ends_of_one_turn_count_alone() {
    let (lane, mut ended) = (lane("counted"), Vec::new());
    let mut progress = Progress::default();
    progress.accept(Start(task(operation(&lane), slow(0))), &mut ended);
    assert!(progress.turn(&mut ended).moved);
    assert_eq!(ended.len(), 1);
    assert!(!progress.turn(&mut ended).moved, "that was in the last one");
}

#[test]
fn a_lane_ends_with_all_that_it_has_and_no_other() {
    let (ending, other, gate, mut ended) = (lane("ending"), lane("other"), Arc::default(), Vec::new());
    let mut progress = Progress::default();
    for lane in [&ending, &other] {
        for order in [Order::InLane, Order::InLane, Order::Free] {
            progress.accept(Start(Task { order, ..task(operation(lane), gated(&gate)) }), &mut ended);
        }
    }
    ending.fail(Kind::Backend, "a test");
    progress.accept(EndLane(ending.id()), &mut ended);
    let told = texts(&mut ended);
    assert_eq!(told.len(), 3);
    assert!(told.iter().all(|text| text.contains("a test")), "{told:?}");
    gate.store(true, Ordering::SeqCst);
    progress.turn(&mut ended);
    progress.turn(&mut ended);
    assert_eq!(texts(&mut ended), ["ended"; 3]);
    assert!(!progress.has_failed && !progress.has_lost);
}

#[test]
fn what_is_given_up_at_the_end_is_lost_unless_it_only_waits_for_a_message() {
    for (name, is_lost) in [("recv", false), ("send", true)] {
        let (lane, gate, mut ended) = (lane("given up"), Arc::default(), Vec::new());
        let mut progress = Progress::default();
        progress.accept(Start(task(lasting(&lane, name, LONG), gated(&gate))), &mut ended);
        progress.accept(Start(task(lasting(&lane, "recv", LONG), gated(&gate))), &mut ended);
        progress.accept(EndAll("the end"), &mut ended);
        let told = texts(&mut ended);
        assert_eq!(told.len(), 2, "the queued one, too");
        assert!(told.iter().all(|text| text.contains("the end")), "{told:?}");
        assert_eq!(progress.has_lost, is_lost);
        assert!(!progress.turn(&mut ended).moved && ended.is_empty());
    }
}

#[test]
fn time_is_up_for_one_that_runs_and_the_absent_are_named() {
    let (lane, mut ended) = (lane("late"), Vec::new());
    let mut progress = Progress::default();
    let witness: Option<Arc<dyn Witness>> = Some(Arc::new(Rings(true)));
    progress.accept(
        Start(Task { witness, ..task(lasting(&lane, "late", Duration::ZERO), Box::pin(pending())) }),
        &mut ended,
    );
    progress.accept(Start(task(lasting(&lane, "queued", LONG), Box::pin(pending()))), &mut ended);
    assert!(progress.turn(&mut ended).moved);
    let told = texts(&mut ended);
    assert!(told[0].contains("late") && told[0].contains("rank 9 has not come"), "{told:?}");
    assert!(told[1].contains("can no longer be used"), "{told:?}");
    assert!(progress.has_failed && lane.has_failed());
}

#[test]
fn time_is_up_for_those_that_are_queued_and_the_rest_of_the_lane_ends_with_them() {
    let (lane, other, mut ended) = (lane("late queue"), self::lane("other"), Vec::new());
    let mut progress = Progress::default();
    for (lane, name, timeout) in [
        (&lane, "running", LONG),
        (&lane, "in time", LONG),
        (&lane, "late", Duration::ZERO),
        (&lane, "late, too", Duration::ZERO),
        (&other, "running", LONG),
        (&other, "in time", LONG),
    ] {
        progress.accept(Start(task(lasting(lane, name, timeout), Box::pin(pending()))), &mut ended);
    }
    assert!(!progress.has_failed);
    assert!(progress.turn(&mut ended).moved);
    assert!(progress.has_failed);
    let told = texts(&mut ended);
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told[0].contains("late (seq") && told[0].contains("Timed out"), "{told:?}");
    assert!(told[1].contains("late, too") && told[1].contains("Timed out"), "{told:?}");
    assert!(told[2].contains("can no longer be used"), "{told:?}");
    assert!(lane.has_failed() && !other.has_failed());
    assert!(!progress.turn(&mut ended).moved, "what runs has time");
}

#[test]
fn a_failure_ends_the_lane_unless_it_keeps_it() {
    for (on_failure, order, fails) in [
        (OnFailure::FailLane, Order::InLane, true),
        (OnFailure::FailLane, Order::Free, true),
        (OnFailure::KeepLane, Order::InLane, false),
        (OnFailure::KeepLane, Order::Free, false),
    ] {
        let (lane, mut ended) = (lane("failing"), Vec::new());
        let mut progress = Progress::default();
        let first = task(operation(&lane), Box::pin(ready(Err(other()))));
        progress.accept(Start(Task { on_failure, order, ..first }), &mut ended);
        progress.accept(Start(Task { on_failure, ..task(operation(&lane), slow(1)) }), &mut ended);
        for _ in 0..3 {
            progress.turn(&mut ended);
        }
        assert_eq!((progress.has_failed, lane.has_failed()), (fails, fails));
        let told = texts(&mut ended);
        assert!(told[0].contains("another test"), "{told:?}");
        // A free one has nothing to do with what runs already.
        let goes_on = !fails || order == Order::Free;
        assert_eq!(told[1] == "ended", goes_on, "{told:?}");
        // The lane is free, or refuses.
        progress.accept(Start(task(operation(&lane), slow(0))), &mut ended);
        progress.turn(&mut ended);
        assert_eq!(texts(&mut ended)[0] == "ended", !fails);
    }
}

#[test]
fn what_ends_one_finds_it_wherever_it_is() {
    let (lane, gate, mut ended) = (lane("one"), Arc::default(), Vec::new());
    let mut progress = Progress::default();
    let operations = [(); 4].map(|()| operation(&lane));
    for operation in &operations {
        let kept = Task { on_failure: OnFailure::KeepLane, ..task(operation.clone(), gated(&gate)) };
        progress.accept(Start(kept), &mut ended);
    }
    for index in [2, 0] {
        progress.accept(End(operations[index].clone(), other()), &mut ended);
        assert!(Arc::ptr_eq(&ended[0].operation, &operations[index]));
        assert!(texts(&mut ended)[0].contains("another test"));
    }
    progress.accept(End(operation(&lane), other()), &mut ended);
    progress.accept(End(operation(&self::lane("unknown")), other()), &mut ended);
    assert!(ended.is_empty(), "it has ended, or never begun");
    gate.store(true, Ordering::SeqCst);
    progress.turn(&mut ended);
    progress.turn(&mut ended);
    assert!(Arc::ptr_eq(&ended[0].operation, &operations[1]) && Arc::ptr_eq(&ended[1].operation, &operations[3]));
    assert_eq!(texts(&mut ended), ["ended"; 2]);
}
