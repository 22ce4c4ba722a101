//! How long whoever waits, waits.

use super::turns::{Silent, task, turn, unattended};
use super::*;

/// How long it took, and what came of it.
fn timed<T>(action: impl FnOnce() -> T) -> (Duration, T) {
    let begun = Instant::now();
    let result = action();
    (begun.elapsed(), result)
}

#[test]
fn a_wait_has_a_limit_of_its_own() {
    let (engine, lane, gate) = (unattended(), lane("limit"), Arc::default());
    let first = operation(&lane);
    engine.submit(task(first.clone(), gated(&gate)));
    let (took, done) = timed(|| engine.wait(&first, Some(SHORT)));
    assert!(!done && took >= SHORT && took < LONG);
    let driving = engine.lock();
    let (took, done) = timed(|| engine.wait(&first, Some(SHORT)));
    assert!(!done && took >= SHORT && took < LONG, "the same while another thread drives");
    drop(driving);
    assert_eq!((engine.waiters.load(Ordering::SeqCst), engine.sidelined.load(Ordering::SeqCst)), (0, 0));
    gate.store(true, Ordering::SeqCst);
    assert!(engine.wait(&first, None));
    assert!(engine.wait(&first, Some(Duration::ZERO)), "it has ended");
}

/// The processor time of this thread.
fn worked() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the time into the variable.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) }, 0);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}

#[test]
fn who_waits_for_long_sleeps() {
    const WAIT: Duration = Duration::from_millis(200);
    let (engine, lane, gate) = (unattended(), lane("sleeps"), Arc::default());
    let first = operation(&lane);
    engine.submit(task(first.clone(), gated(&gate)));
    turn(engine);
    // Alone, and while another thread drives.
    let waits: [&dyn Fn() -> bool; 2] = [&|| engine.wait(&first, Some(WAIT)), &|| engine.quiesce(&lane, WAIT)];
    let asleep = |wait: &dyn Fn() -> bool| {
        let before = worked();
        assert!(!wait());
        let took = worked() - before;
        assert!(took < WAIT / 2, "{took:?} of work");
    };
    waits.iter().for_each(|wait| asleep(wait));
    let driving = engine.lock();
    waits.iter().for_each(|wait| asleep(wait));
    drop(driving);
    gate.store(true, Ordering::SeqCst);
    turn(engine);
}

#[test]
fn a_lane_is_quiet_when_it_has_no_operation_left() {
    let (engine, lane, gate) = (unattended(), lane("quiet"), Arc::default());
    assert!(engine.quiesce(&lane, Duration::ZERO));
    engine.submit(task(operation(&lane), gated(&gate)));
    let (took, quiet) = timed(|| engine.quiesce(&lane, SHORT));
    assert!(!quiet && took >= SHORT && took < LONG);
    assert!(!engine.quiesce(&lane, Duration::ZERO));
    gate.store(true, Ordering::SeqCst);
    assert!(engine.quiesce(&lane, Duration::ZERO), "one turn is enough");
    engine.submit(task(operation(&lane), slow(300)));
    assert!(engine.quiesce(&lane, LONG));
    assert_eq!(engine.waiters.load(Ordering::SeqCst), 0);
}

#[test]
fn a_drain_waits_for_operations_and_for_users() {
    let (engine, lane, gate) = (unattended(), lane("drain"), Arc::default());
    assert!(engine.drain(Duration::ZERO));
    let (took, drained) = timed(|| engine.drain(LONG));
    assert!(drained && took < LONG, "there is nothing to wait for");
    engine.submit(task(operation(&lane), gated(&gate)));
    let (took, drained) = timed(|| engine.drain(SHORT));
    assert!(!drained && took >= SHORT && took < LONG);
    gate.store(true, Ordering::SeqCst);
    assert!(engine.drain(Duration::ZERO), "one turn is enough");
    engine.submit(task(operation(&lane), slow(50)));
    assert!(engine.drain(LONG));
    // What a callback of a user's does, nobody sees.
    engine.unfinished.fetch_add(1, Ordering::SeqCst);
    assert!(!engine.drain(SHORT));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(SHORT);
            engine.unfinished.fetch_sub(1, Ordering::SeqCst);
        });
        assert!(engine.drain(LONG));
    });
    engine.unfinished.fetch_add(1, Ordering::SeqCst);
    engine.leaving.store(true, Ordering::SeqCst);
    assert!(engine.drain(Duration::ZERO), "users hear of nothing any more");
    gate.store(false, Ordering::SeqCst);
    engine.submit(task(operation(&lane), gated(&gate)));
    assert!(!engine.drain(SHORT), "operations go on");
    gate.store(true, Ordering::SeqCst);
    turn(engine);
}

/// Tells when it is dropped.
struct Counted(Arc<AtomicUsize>);

impl Completion for Counted {
    fn finish(&mut self, _: &Result<Outcome>) {}
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn what_users_gave_is_dropped_unless_the_process_leaves() {
    for leaving in [false, true] {
        let (engine, lane, dropped) = (unattended(), lane("dropped"), Arc::new(AtomicUsize::new(0)));
        engine.submit(super::task(operation(&lane), slow(0), Counted(dropped.clone())));
        engine.leaving.store(leaving, Ordering::SeqCst);
        turn(engine);
        // Without it nobody is told, and nothing is left to tell.
        assert_eq!(engine.has_queued(), !leaving);
        engine.tell_nobody();
        assert!(!engine.has_queued() && engine.untold().is_empty());
        assert_eq!(dropped.load(Ordering::SeqCst), usize::from(!leaving));
        assert_eq!(engine.unfinished.load(Ordering::SeqCst), 0);
    }
}

/// Looks at the engine while users are told.
struct Looks(&'static Engine, Arc<AtomicBool>);

impl Completion for Looks {
    fn finish(&mut self, _: &Result<Outcome>) {}

    fn announce(&mut self) {
        self.1.store(self.0.is_telling() && !self.0.has_queued(), Ordering::SeqCst);
    }
}

#[test]
fn users_are_told_one_after_the_other() {
    let (engine, lane, seen) = (unattended(), lane("told"), Arc::new(AtomicBool::new(false)));
    engine.submit(super::task(operation(&lane), slow(0), Silent { attached: true }));
    engine.submit(super::task(operation(&lane), slow(0), Looks(engine, seen.clone())));
    turn(engine);
    turn(engine);
    assert_eq!(engine.queued.load(Ordering::SeqCst), 2);
    assert!(!engine.is_telling());
    engine.tell(1);
    assert!(seen.load(Ordering::SeqCst));
    assert!(!engine.is_telling() && !engine.has_queued());
    assert_eq!(engine.unfinished.load(Ordering::SeqCst), 0);
}

/// Looks whether another thread drives while users are told.
struct Attended(&'static Engine, Arc<AtomicBool>);

impl Completion for Attended {
    fn finish(&mut self, _: &Result<Outcome>) {}

    fn announce(&mut self) {
        self.1.store(!self.0.background.is_vacant(), Ordering::SeqCst);
    }
}

#[test]
fn another_thread_drives_while_users_are_told_if_there_is_anything_to_drive() {
    let (lane, gate) = (lane("attended"), Arc::default());
    for other in [None, Some(operation(&lane)), Some(Operation::service("service", lane.clone()))] {
        let (engine, seen) = (new_engine(), Arc::new(AtomicBool::new(false)));
        let expected = other.is_some();
        if let Some(other) = other {
            engine.submit(Task { order: Order::Free, ..task(other, gated(&gate)) });
        }
        engine.submit(super::task(operation(&lane), slow(0), Attended(engine, seen.clone())));
        engine.try_turn(Driver::Background).unwrap();
        engine.tell(1);
        assert_eq!(seen.load(Ordering::SeqCst), expected);
    }
    gate.store(true, Ordering::SeqCst);
}

/// A message that counts how often it is looked for.
struct Looked(Arc<AtomicUsize>);

impl Request for Looked {
    fn test(&mut self) -> Result<Option<Arrival>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(None)
    }

    fn cancel(&mut self) {}
}

#[test]
fn the_background_sleeps_between_looks() {
    const PER_SECOND: f64 = 10_000.0;
    let (engine, lane, polls) = (new_engine(), lane("looks"), Arc::new(AtomicUsize::new(0)));
    let counts = polls.clone();
    let schedule = poll_fn(move |_| {
        counts.fetch_add(1, Ordering::SeqCst);
        Poll::Pending
    });
    let first = operation(&lane);
    engine.submit(task(first.clone(), Box::pin(schedule)));
    engine.begin(&first);
    let rate = |count: &AtomicUsize| {
        let (begun, before) = (Instant::now(), count.load(Ordering::SeqCst));
        std::thread::sleep(SHORT * 5);
        (count.load(Ordering::SeqCst) - before) as f64 / begun.elapsed().as_secs_f64()
    };
    until(|| polls.load(Ordering::SeqCst) > 20);
    let polled = rate(&polls);
    assert!(polled < PER_SECOND, "{polled} looks in a second");

    // Memory that does not come back.
    let looks = Arc::new(AtomicUsize::new(0));
    let outstanding = Arc::new(Outstanding::default());
    let message = outstanding.keep(Box::new(Looked(looks.clone())));
    let schedule = async move { message.await.map(|_| Outcome::default()) };
    let second = operation(&lane);
    engine.submit(Task { outstanding, order: Order::Free, ..task(second.clone(), Box::pin(schedule)) });
    engine.begin(&second);
    until(|| looks.load(Ordering::SeqCst) > 0);
    engine.end_lane(&lane, "a test");
    until(|| engine.has_retained() && !engine.is_unattended());
    engine.wake_background();
    let looked = rate(&looks);
    assert!(looked < PER_SECOND, "{looked} looks in a second");
    engine.background.stop(engine);
}
