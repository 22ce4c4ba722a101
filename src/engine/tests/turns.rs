//! What an engine has to do, and what one turn does. Nobody drives but the test.

use std::panic::AssertUnwindSafe;

use super::*;

/// An engine without a background thread.
pub(super) fn unattended() -> &'static Engine {
    let engine = new_engine();
    engine.background.stop(engine);
    engine
}

/// Users have attached something to it only if `attached` says so.
pub(super) struct Silent {
    pub attached: bool,
}

impl Completion for Silent {
    fn finish(&mut self, _: &Result<Outcome>) {}

    fn announce_to_nobody(&mut self) -> bool {
        !self.attached
    }
}

/// Users have attached nothing to it.
pub(super) fn task(operation: Arc<Operation>, schedule: Schedule) -> Task {
    super::task(operation, schedule, Silent { attached: false })
}

pub(super) fn turn(engine: &'static Engine) -> bool {
    engine.try_turn(Driver::Waiter).unwrap().moved
}

/// Work, services, and whether the background thread has to drive.
fn left(engine: &Engine) -> (bool, bool, bool) {
    (engine.has_work(), engine.has_services(), engine.is_unattended())
}

const NOTHING: (bool, bool, bool) = (false, false, false);

#[test]
fn commands_are_work() {
    let engine = unattended();
    assert_eq!(left(engine), NOTHING);
    engine.command(Command::EndLane(lane("none").id()));
    assert_eq!(left(engine), (true, false, true));
    assert!(turn(engine), "it has taken a command");
    assert_eq!(left(engine), NOTHING);
    assert!(!turn(engine), "there was nothing");
}

#[test]
fn operations_are_work_until_they_have_ended() {
    let (engine, lane, gate) = (unattended(), lane("work"), Arc::default());
    let first = operation(&lane);
    engine.submit(task(first.clone(), gated(&gate)));
    assert!(turn(engine));
    assert!(!turn(engine), "it waits");
    assert_eq!(left(engine), (true, false, true));
    engine.waiters.fetch_add(1, Ordering::SeqCst);
    assert_eq!(left(engine), (true, false, false), "who waits, drives");
    engine.waiters.fetch_sub(1, Ordering::SeqCst);
    gate.store(true, Ordering::SeqCst);
    assert!(turn(engine));
    assert!(first.is_done());
    assert_eq!(left(engine), NOTHING);
    assert_eq!(lane.pending(), 0);
}

#[test]
fn services_are_driven_and_not_waited_for() {
    let (engine, lane, gate) = (unattended(), lane("service"), Arc::default());
    let service = Operation::service("service", lane.clone());
    engine.submit(task(service.clone(), gated(&gate)));
    assert!(turn(engine));
    assert_eq!(left(engine), (false, true, true));
    assert!(engine.drain(SHORT), "nobody waits for a service");
    assert_eq!(lane.pending(), 0);
    gate.store(true, Ordering::SeqCst);
    assert!(turn(engine));
    assert!(service.is_done());
    assert_eq!(left(engine), NOTHING);
}

#[test]
fn memory_that_the_transport_holds_is_work_that_nobody_hurries_for() {
    let (engine, lane) = (unattended(), lane("retained"));
    let released = Arc::new(AtomicBool::new(false));
    let (outstanding, schedule) = held(&released);
    let first = operation(&lane);
    engine.submit(Task { outstanding, ..task(first.clone(), schedule) });
    turn(engine);
    assert!(!engine.has_retained());
    engine.end_lane(&lane, "a test");
    assert!(first.is_done(), "it has ended at once");
    // What is left of it comes in as a command.
    turn(engine);
    assert!(engine.has_retained());
    assert_eq!(left(engine), (true, false, false));
    assert!(!engine.drain(SHORT), "the memory has not come back");
    assert_eq!(lane.pending(), 1);
    released.store(true, Ordering::SeqCst);
    turn(engine);
    assert!(!engine.has_retained());
    assert_eq!(left(engine), NOTHING);
    assert_eq!(lane.pending(), 0);
}

#[test]
fn what_users_have_not_been_told_is_work() {
    let (engine, lane, gate) = (unattended(), lane("untold"), Arc::new(AtomicBool::new(true)));
    let first = operation(&lane);
    let completion = Box::new(Silent { attached: true });
    engine.submit(Task { completion, ..task(first.clone(), gated(&gate)) });
    turn(engine);
    assert!(first.is_done());
    assert_eq!(left(engine), (true, false, false));
    assert!(!engine.drain(SHORT), "users have not been told");
    engine.tell_nobody();
    assert_eq!(left(engine), NOTHING);
    assert!(engine.drain(SHORT));
}

#[test]
fn an_issuer_takes_the_first_step() {
    let (engine, lane) = (unattended(), lane("first step"));
    let begun = Arc::new(AtomicBool::new(false));
    let first = operation(&lane);
    let sees = begun.clone();
    let schedule = poll_fn(move |_| {
        sees.store(true, Ordering::SeqCst);
        Poll::Pending
    });
    engine.submit(task(first.clone(), Box::pin(schedule)));
    assert!(!begun.load(Ordering::SeqCst), "nothing runs at once");
    engine.begin(&first);
    assert!(begun.load(Ordering::SeqCst));
    engine.end_lane(&lane, "end of the test");
}

#[test]
fn one_operation_ends_with_an_error_and_the_others_go_on() {
    let (engine, lane, gate) = (unattended(), lane("one of three"), Arc::default());
    let [running, queued, last] = [(); 3].map(|()| {
        let operation = operation(&lane);
        engine.submit(Task { on_failure: OnFailure::KeepLane, ..task(operation.clone(), gated(&gate)) });
        operation
    });
    turn(engine);
    let error = || Error::Unavailable("a test".to_owned());
    engine.end(queued.clone(), error());
    assert!(queued.is_done() && !running.is_done() && !last.is_done());
    assert!(queued.result().unwrap().as_ref().unwrap_err().to_string().contains("a test"));
    engine.end(running.clone(), error());
    assert!(running.is_done() && !last.is_done());
    // It has ended already: its result stays.
    engine.end(queued.clone(), Error::Unavailable("another".to_owned()));
    assert!(queued.result().unwrap().as_ref().unwrap_err().to_string().contains("a test"));
    gate.store(true, Ordering::SeqCst);
    wait(engine, &last);
    assert!(last.result().unwrap().is_ok());
    assert!(!lane.has_failed());
    assert!(!engine.close(|failed| failed), "nothing has failed by itself");
}

#[test]
fn an_engine_that_is_closed_drives_nothing() {
    let (engine, lane, gate) = (unattended(), lane("closed"), Arc::new(AtomicBool::new(true)));
    let late = operation(&lane);
    assert!(!engine.is_closed());
    engine.close(|failed| assert!(!failed));
    assert!(engine.is_closed());
    engine.submit(task(late.clone(), gated(&gate)));
    assert!(!turn(engine));
    assert!(!late.is_done());
}

#[test]
fn failures_are_known_at_the_end() {
    let (engine, lane) = (unattended(), lane("failed inline"));
    engine.fail_lane(&lane, &Error::Unavailable("a test".to_owned()));
    assert!(lane.check().unwrap_err().to_string().contains("a test"));
    assert!(engine.close(|failed| failed));

    let (engine, lane) = (unattended(), self::lane("failed in a schedule"));
    engine.submit(task(operation(&lane), Box::pin(ready(Err(Error::Unavailable("a test".to_owned()))))));
    turn(engine);
    assert!(engine.close(|failed| failed));
}

#[test]
fn a_forked_child_is_told_that_it_cannot_use_the_engine() {
    let (engine, lane) = (unattended(), lane("forked"));
    let operation = operation(&lane);
    // SAFETY: the child takes no lock that a thread of this process may hold: the engine is the test's own.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        let right = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let waited = engine.wait(&operation, Some(SHORT));
            let told = operation.result().is_some_and(|result| result.is_err());
            engine.end(operation.clone(), Error::Unavailable(String::new()));
            engine.end_lane(&lane, "");
            engine.is_foreign() && waited && told && !lane.has_failed() && engine.quiesce(&lane, SHORT)
        }));
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(i32::from(!right.unwrap_or(false))) }
    }
    let mut status = -1;
    // SAFETY: a child of this process that nobody else waits for.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0);
    assert!(!engine.is_foreign() && !operation.is_done());
}

/// The last to use it: it tells nobody of anything any more.
#[test]
fn the_engine_of_this_process() {
    let made = engine().unwrap();
    assert!(std::ptr::eq(existing().unwrap(), made));
    assert!(!made.is_foreign());

    let (lane, gate) = (lane("of this process"), Arc::default());
    made.submit(task(operation(&lane), gated(&gate)));
    assert!(!drain(SHORT));
    gate.store(true, Ordering::SeqCst);
    assert!(drain(LONG));

    assert!(await_users(Duration::ZERO));
    for count in [&made.queued, &made.telling] {
        count.fetch_add(1, Ordering::SeqCst);
        assert!(!await_users(SHORT));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(SHORT);
                count.fetch_sub(1, Ordering::SeqCst);
            });
            assert!(await_users(LONG));
        });
    }

    assert!(!made.leaving() && !made.background.is_closed());
    before_interpreter_ends();
    assert!(made.leaving() && made.background.is_closed());
}
