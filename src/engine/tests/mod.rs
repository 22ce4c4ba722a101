//! The engine with schedules that need no network. Each test has one of its own: nobody else drives there.

mod limits;
mod order;
mod turns;
mod waking;

use std::future::{pending, poll_fn, ready};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use super::*;
use crate::transport::{Arrival, Outstanding, Request};

/// Longer than anything takes that comes at all.
const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(20);

/// What happened, in order.
type Story = Arc<Mutex<Vec<String>>>;

struct Teller {
    name: &'static str,
    story: Story,
}

impl Teller {
    fn say(&self, what: &str) {
        self.story.lock().unwrap().push(format!("{} {what}", self.name));
    }
}

impl Completion for Teller {
    fn finish(&mut self, result: &Result<Outcome>) {
        match result {
            Ok(_) => self.say("finished"),
            Err(error) => self.say(&format!("failed: {error}")),
        }
    }

    fn announce(&mut self) {
        self.say("announced");
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.say("dropped");
    }
}

pub(super) fn new_engine() -> &'static Engine {
    Box::leak(Box::new(Engine::new(Bell::private())))
}

fn lane(name: &str) -> Arc<Lane> {
    Arc::new(Lane::new(name.to_owned(), 0))
}

struct Given {
    name: &'static str,
    order: Order,
    timeout: Duration,
    schedule: Schedule,
    outstanding: Arc<Outstanding>,
}

fn given(name: &'static str, schedule: impl Future<Output = Result<Outcome>> + Send + 'static) -> Given {
    Given { name, order: Order::InLane, timeout: LONG, schedule: Box::pin(schedule), outstanding: Arc::default() }
}

/// Ends when the gate is open.
fn gated(gate: &Arc<AtomicBool>) -> Schedule {
    let gate = gate.clone();
    Box::pin(poll_fn(
        move |_| if gate.load(Ordering::SeqCst) { Poll::Ready(Ok(Outcome::default())) } else { Poll::Pending },
    ))
}

/// Ends when it has been polled so often.
fn slow(polls: usize) -> Schedule {
    let polled = AtomicUsize::new(0);
    Box::pin(poll_fn(move |_| {
        if polled.fetch_add(1, Ordering::SeqCst) < polls { Poll::Pending } else { Poll::Ready(Ok(Outcome::default())) }
    }))
}

fn operation(lane: &Arc<Lane>) -> Arc<Operation> {
    Operation::new("test", None, lane.clone(), 0, LONG)
}

fn task(operation: Arc<Operation>, schedule: Schedule, completion: impl Completion + 'static) -> Task {
    Task {
        operation,
        schedule,
        outstanding: Arc::default(),
        completion: Box::new(completion),
        order: Order::InLane,
        witness: None,
        on_failure: OnFailure::FailLane,
    }
}

fn hand_over(engine: &'static Engine, task: Task, waits: bool) {
    let operation = task.operation.clone();
    engine.submit(task);
    if !waits {
        engine.begin(&operation);
    }
}

fn submit(engine: &'static Engine, lane: &Arc<Lane>, story: &Story, given: Given) -> Arc<Operation> {
    let Given { name, order, timeout, schedule, outstanding } = given;
    let operation = Operation::new(name, None, lane.clone(), 0, timeout);
    let completion = Teller { name, story: story.clone() };
    hand_over(engine, Task { outstanding, order, ..task(operation.clone(), schedule, completion) }, true);
    operation
}

fn wait(engine: &'static Engine, operation: &Operation) {
    assert!(engine.wait(operation, Some(LONG)));
}

pub(super) fn until(condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < LONG, "it does not come true");
        std::thread::yield_now();
    }
}

fn story_of(story: &Story, name: &str) -> Vec<String> {
    story.lock().unwrap().iter().filter(|line| line.starts_with(name)).cloned().collect()
}

#[test]
fn ordered_operations_run_one_after_the_other() {
    let engine = new_engine();
    let (lane, story) = (lane("order"), Story::default());
    let open = Arc::new(AtomicBool::new(false));
    let first = submit(engine, &lane, &story, given("first", gated(&open)));
    let second = submit(engine, &lane, &story, given("second", ready(Ok(Outcome::default()))));
    let free =
        submit(engine, &lane, &story, Given { order: Order::Free, ..given("free", ready(Ok(Outcome::default()))) });
    wait(engine, &free);
    assert!(!engine.wait(&second, Some(SHORT)), "the second has overtaken the first");
    open.store(true, Ordering::SeqCst);
    wait(engine, &second);
    assert!(first.is_done());
    assert_eq!(story_of(&story, "first")[0], "first finished");
}

#[test]
fn a_deadline_ends_the_operation_and_its_lane() {
    let engine = new_engine();
    let (lane, story) = (lane("deadline"), Story::default());
    let stuck = submit(engine, &lane, &story, Given { timeout: SHORT, ..given("stuck", pending()) });
    let next = submit(engine, &lane, &story, given("next", ready(Ok(Outcome::default()))));
    wait(engine, &next);
    assert!(stuck.result().unwrap().as_ref().unwrap_err().to_string().contains("Timed out waiting 20ms"));
    assert!(next.result().unwrap().as_ref().unwrap_err().to_string().contains("can no longer be used"));
    assert!(lane.check().is_err());
}

#[test]
fn a_deadline_counts_in_the_queue_too() {
    let engine = new_engine();
    let (lane, story) = (lane("queue"), Story::default());
    let running = submit(engine, &lane, &story, given("running", pending()));
    let queued =
        submit(engine, &lane, &story, Given { timeout: SHORT, ..given("queued", ready(Ok(Outcome::default()))) });
    wait(engine, &queued);
    assert!(queued.result().unwrap().as_ref().unwrap_err().to_string().contains("Timed out"));
    assert!(!running.is_done());
    engine.end_lane(&lane, "end of the test");
    wait(engine, &running);
}

#[test]
fn a_panic_in_a_schedule_is_an_error_of_that_operation() {
    let engine = new_engine();
    let (lane, story) = (lane("panic"), Story::default());
    let operation = submit(engine, &lane, &story, given("panicking", poll_fn(|_| panic!("a defect"))));
    wait(engine, &operation);
    assert!(operation.result().unwrap().as_ref().unwrap_err().to_string().contains("a defect"));
    let other = submit(engine, &self::lane("other"), &story, given("other", ready(Ok(Outcome::default()))));
    wait(engine, &other);
}

#[test]
fn an_operation_that_nobody_waits_for_completes() {
    let engine = new_engine();
    let (lane, story) = (lane("background"), Story::default());
    let completion = Teller { name: "alone", story: story.clone() };
    let task = task(operation(&lane), slow(100), completion);
    hand_over(engine, Task { order: Order::Free, ..task }, false);
    until(|| story_of(&story, "alone").len() == 3);
    assert_eq!(lane.pending(), 0);
    assert_eq!(story_of(&story, "alone"), ["alone finished", "alone announced", "alone dropped"]);
}

/// A message that ends when the test says so, and cannot be cancelled.
struct Held(Arc<AtomicBool>);

impl Request for Held {
    fn test(&mut self) -> Result<Option<Arrival>> {
        Ok(self.0.load(Ordering::SeqCst).then_some(Arrival { peer: 0, bytes: 0 }))
    }

    fn cancel(&mut self) {}
}

/// A schedule that waits for such a message.
fn held(released: &Arc<AtomicBool>) -> (Arc<Outstanding>, Schedule) {
    let outstanding = Arc::new(Outstanding::default());
    let message = outstanding.keep(Box::new(Held(released.clone())));
    let schedule = async move {
        message.await?;
        Ok(Outcome::default())
    };
    (outstanding, Box::pin(schedule))
}

#[test]
fn memory_is_kept_until_the_transport_gives_it_back() {
    let engine = new_engine();
    let (lane, story) = (lane("memory"), Story::default());
    let released = Arc::new(AtomicBool::new(false));
    let (outstanding, schedule) = held(&released);
    let given = given("held", schedule);
    let operation = submit(engine, &lane, &story, Given { timeout: SHORT, outstanding, ..given });
    wait(engine, &operation);
    // Waiters go on before callbacks have run.
    until(|| story_of(&story, "held").len() == 2);
    let told = story_of(&story, "held");
    assert!(told[0].starts_with("held failed: held"), "{told:?}");
    assert_eq!(told[1..], ["held announced"], "the completion owns memory that a message still uses");
    assert_eq!(lane.pending(), 1);
    released.store(true, Ordering::SeqCst);
    assert!(engine.quiesce(&lane, LONG));
    assert_eq!(story_of(&story, "held").last().unwrap(), "held dropped");
}

/// A callback that waits for another operation.
struct WaitsFor {
    engine: &'static Engine,
    other: Arc<Mutex<Option<Arc<Operation>>>>,
    waited: Arc<AtomicBool>,
}

impl Completion for WaitsFor {
    fn finish(&mut self, _: &Result<Outcome>) {}

    fn announce(&mut self) {
        let other = self.other.lock().unwrap().take().unwrap();
        self.waited.store(self.engine.wait(&other, Some(LONG)), Ordering::SeqCst);
    }
}

#[test]
fn a_callback_may_wait_for_an_operation_that_ended_in_the_same_turn() {
    let engine = new_engine();
    let lane = lane("together");
    let (other, waited) = (Arc::new(Mutex::new(None)), Arc::new(AtomicBool::new(false)));
    let completion = WaitsFor { engine, other: other.clone(), waited: waited.clone() };
    let gate = Arc::new(AtomicBool::new(false));
    let first = task(operation(&lane), gated(&gate), completion);
    hand_over(engine, Task { order: Order::Free, ..first }, true);
    let second = given("second", gated(&gate));
    let second = submit(engine, &lane, &Story::default(), Given { order: Order::Free, ..second });
    *other.lock().unwrap() = Some(second);
    gate.store(true, Ordering::SeqCst);
    engine.try_turn(Driver::Passing);
    until(|| waited.load(Ordering::SeqCst));
}

#[test]
fn an_operation_of_a_lane_that_has_failed_meanwhile_never_starts() {
    let engine = new_engine();
    let (lane, story) = (lane("failed"), Story::default());
    lane.fail(Kind::Backend, "a test");
    let operation = submit(engine, &lane, &story, given("late", poll_fn(|_| panic!("it was started"))));
    wait(engine, &operation);
    let text = operation.result().unwrap().as_ref().unwrap_err().to_string();
    assert!(text.contains("a test"), "{text}");
}

#[test]
fn a_waiter_takes_over_from_a_thread_that_was_driving() {
    let engine = new_engine();
    let (lane, story) = (lane("takes over"), Story::default());
    let started = Arc::new(AtomicBool::new(false));
    let operation = submit(
        engine,
        &lane,
        &story,
        given(
            "slow",
            poll_fn({
                let (polls, started) = (AtomicUsize::new(0), started.clone());
                move |_| match polls.fetch_add(1, Ordering::SeqCst) {
                    // One long turn, by the other thread, in which the waiter arrives.
                    0 => {
                        started.store(true, Ordering::SeqCst);
                        until(|| engine.sidelined.load(Ordering::SeqCst) > 0);
                        Poll::Pending
                    }
                    _ => Poll::Ready(Ok(Outcome::default())),
                }
            }),
        ),
    );
    let other = std::thread::spawn({
        let started = started.clone();
        move || {
            until(|| {
                engine.try_turn(Driver::Passing);
                started.load(Ordering::SeqCst)
            });
        }
    });
    until(|| started.load(Ordering::SeqCst));
    assert!(engine.wait(&operation, Some(Duration::from_secs(10))), "nobody has woken it");
    other.join().unwrap();
}

/// A callback that blocks until somebody else has driven another operation to its end.
struct BlocksFor(Arc<Operation>);

impl Completion for BlocksFor {
    fn finish(&mut self, _: &Result<Outcome>) {}

    fn announce(&mut self) {
        until(|| self.0.is_done());
    }
}

#[test]
fn a_callback_that_blocks_does_not_stop_the_engine() {
    let engine = new_engine();
    let lane = lane("blocking");
    let nobody = || Teller { name: "next", story: Story::default() };
    // In the background, and on a thread that waits; the callbacks of one wait for the next, which waits for its turn.
    for waits in [false, true] {
        let operations = [operation(&lane), operation(&lane), operation(&lane)];
        let [first, second, last] = operations.each_ref();
        hand_over(engine, task(first.clone(), slow(50), BlocksFor(last.clone())), waits);
        hand_over(engine, task(second.clone(), slow(50), BlocksFor(last.clone())), false);
        hand_over(engine, task(last.clone(), slow(50), nobody()), false);
        for operation in &operations {
            wait(engine, operation);
        }
        assert!(engine.quiesce(&lane, LONG));
    }
}

/// A callback that takes a lock.
struct Locks(Arc<Mutex<u32>>);

impl Completion for Locks {
    fn finish(&mut self, _: &Result<Outcome>) {}

    fn announce(&mut self) {
        *self.0.lock().unwrap() += 1;
    }
}

#[test]
fn no_callback_runs_on_a_thread_that_issues_or_waits() {
    let engine = new_engine();
    let (lane, lock) = (lane("locks"), Arc::new(Mutex::new(0)));
    let issue = |waits| {
        let operation = operation(&lane);
        let task = task(operation.clone(), Box::pin(ready(Ok(Outcome::default()))), Locks(lock.clone()));
        hand_over(engine, Task { order: Order::Free, ..task }, waits);
        operation
    };
    for _ in 0..100 {
        let held = lock.lock().unwrap();
        let operations = [issue(false), issue(true), issue(false)];
        operations.iter().for_each(|operation| wait(engine, operation));
        drop(held);
    }
    until(|| *lock.lock().unwrap() == 300);
}
