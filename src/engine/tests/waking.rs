//! Who is woken, and by what.

use super::turns::{Silent, task, turn, unattended};
use super::*;

/// Asserts that this wakes a thread that does not drive.
fn wakes(engine: &'static Engine, action: impl FnOnce()) {
    let sleeper = engine.bell.inside();
    action();
    let begun = Instant::now();
    sleeper.sleep(Some(LONG));
    assert!(begun.elapsed() < LONG, "nobody was woken");
}

/// Asserts that it does not.
fn wakes_nobody(engine: &'static Engine, action: impl FnOnce()) {
    let sleeper = engine.bell.inside();
    action();
    let begun = Instant::now();
    sleeper.sleep(Some(SHORT));
    assert!(begun.elapsed() >= SHORT, "somebody was woken");
}

fn drive_as(engine: &'static Engine, driver: Driver) {
    engine.try_turn(driver).unwrap();
}

#[test]
fn who_found_another_driving_is_woken_when_that_one_does_not_go_on() {
    let (engine, lane) = (unattended(), lane("sidelined"));
    for driver in [Driver::Waiter, Driver::Background, Driver::Passing] {
        wakes_nobody(engine, || drive_as(engine, driver));
    }
    engine.sidelined.fetch_add(1, Ordering::SeqCst);
    wakes_nobody(engine, || drive_as(engine, Driver::Waiter));
    for driver in [Driver::Background, Driver::Passing] {
        wakes(engine, || drive_as(engine, driver));
    }
    wakes(engine, || engine.exclusively(|| ()));
    wakes(engine, || engine.fail_lane(&lane, &Error::Unavailable("a test".to_owned())));
}

#[test]
fn waiters_are_woken_by_every_end() {
    let (engine, lane, gate) = (unattended(), lane("end"), Arc::default());
    engine.submit(task(operation(&lane), gated(&gate)));
    wakes_nobody(engine, || assert!(turn(engine)));
    gate.store(true, Ordering::SeqCst);
    wakes(engine, || assert!(turn(engine)));
}

#[test]
fn commands_are_read_at_once_or_by_the_one_that_drives() {
    let (engine, lane) = (new_engine(), lane("commands"));
    let driving = engine.lock();
    wakes(engine, || engine.end_lane(&lane, "a test"));
    wakes(engine, || engine.end(operation(&lane), Error::Unavailable("a test".to_owned())));
    drop(driving);
    until(|| engine.inbox().is_empty());
    engine.background.stop(engine);
    wakes_nobody(engine, || engine.end_lane(&lane, "a test"));
    assert!(engine.inbox().is_empty());
}

#[test]
fn a_thread_is_started_for_what_nobody_waits_for() {
    let (engine, lane, gate) = (new_engine(), lane("background"), Arc::default());
    drive_as(engine, Driver::Passing);
    assert!(engine.background.is_vacant(), "there is nothing to do");
    let first = operation(&lane);
    engine.submit(task(first.clone(), gated(&gate)));
    engine.begin(&first);
    assert!(!engine.background.is_vacant());
    gate.store(true, Ordering::SeqCst);
    until(|| first.is_done());

    let engine = new_engine();
    let first = operation(&lane);
    engine.submit(task(first.clone(), gated(&gate)));
    engine.begin(&first);
    assert!(first.is_done());
    assert!(engine.background.is_vacant(), "it has ended at once");

    // Users have to be told of this one, which the background thread does.
    for (driver, calls) in [(Driver::Background, false), (Driver::Waiter, true), (Driver::Passing, true)] {
        let engine = new_engine();
        engine.submit(super::task(operation(&lane), gated(&gate), Silent { attached: true }));
        drive_as(engine, driver);
        assert_eq!(engine.background.has_been_called(), calls);
    }
}

#[test]
fn who_waits_no_more_leaves_the_rest_to_the_background() {
    let (lane, gate) = (lane("leaves"), Arc::default());
    let waited_for = |others: &[Arc<Operation>]| {
        let engine = new_engine();
        let first = operation(&lane);
        engine.submit(Task { order: Order::Free, ..task(first.clone(), slow(3)) });
        for other in others {
            engine.submit(Task { order: Order::Free, ..task(other.clone(), gated(&gate)) });
        }
        wait(engine, &first);
        assert_eq!(engine.waiters.load(Ordering::SeqCst), 0);
        assert_eq!(engine.sidelined.load(Ordering::SeqCst), 0);
        engine
    };
    assert!(waited_for(&[]).background.is_vacant());
    assert!(!waited_for(&[operation(&lane)]).background.is_vacant());
    assert!(!waited_for(&[Operation::service("service", lane.clone())]).background.is_vacant());
    gate.store(true, Ordering::SeqCst);
    until(|| lane.pending() == 0);
}

/// Sleeps that nothing ends count as so many turns.
#[test]
fn who_rests_looks_once_more_and_sleeps() {
    let (engine, lane, gate) = (unattended(), lane("rest"), Arc::new(AtomicBool::new(true)));
    let slept = |enough: bool, pause: Duration, left: Option<Duration>| {
        let begun = Instant::now();
        assert!(!engine.rest(Driver::Waiter, pause, left, || enough));
        begun.elapsed()
    };
    assert!(slept(false, SHORT, None) >= SHORT);
    assert!(slept(false, LONG, Some(SHORT)) < LONG, "what is left is less");
    assert!(slept(false, SHORT, Some(LONG)) < LONG);
    assert!(slept(true, LONG, None) < LONG, "there is no need to");
    engine.submit(task(operation(&lane), gated(&gate)));
    assert!(engine.rest(Driver::Waiter, LONG, None, || false), "something has moved");
    // Handed over in the turn, by a schedule.
    let late = operation(&lane);
    let schedule = poll_fn({
        let late = Mutex::new(Some(task(late.clone(), gated(&gate))));
        move |_| {
            late.lock().unwrap().take().into_iter().for_each(|task| engine.submit(task));
            Poll::Pending
        }
    });
    let first = operation(&lane);
    engine.submit(Task { order: Order::Free, ..task(first.clone(), Box::pin(schedule)) });
    engine.lock().accept(engine.inbox().pop().unwrap(), &mut Vec::new());
    assert!(slept(false, LONG, None) < LONG, "somebody has handed over another one");
    assert!(turn(engine));
    assert!(late.is_done());
    engine.end_lane(&lane, "end of the test");
}
