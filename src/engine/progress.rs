//! What is under way, and one turn of it. Everything here happens under the progress lock.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use super::operation::{Operation, Outcome};
use super::task::{Completion, OnFailure, Order, Schedule, Task};
use crate::error::{Error, Result};
use crate::transport::Outstanding;

/// How long a driver sleeps at most, though somebody would wake it: so often it looks whether its peers still live.
const LONGEST_REST: Duration = Duration::from_millis(250);

/// What came of one turn.
#[derive(Clone, Copy)]
pub(super) struct Turn {
    /// Something has ended, or can go on at once.
    pub moved: bool,
    /// How long nobody has to look unless the bell rings; `None`: what is under way has to be polled.
    pub rest: Option<Duration>,
}

/// What other threads ask of the one that drives.
pub(super) enum Command {
    Start(Task),
    /// Ends every operation of the lane, which has been marked as failed.
    EndLane(u64),
    /// Ends every operation, for this reason.
    EndAll(&'static str),
    /// Ends one operation with this error, if it has not ended.
    End(Arc<Operation>, Error),
    /// Keep until the transport has given the memory back.
    Retain(Remains),
}

/// An operation that has ended, to be told about when the lock is free.
pub(super) struct Ended {
    pub operation: Arc<Operation>,
    pub completion: Box<dyn Completion>,
    pub result: Result<Outcome>,
    /// The rest of a failed operation whose memory the transport still holds.
    pub leftover: Option<Leftover>,
}

/// A schedule that will not be polled again, with the messages that still use memory.
pub(super) struct Leftover {
    _schedule: Schedule,
    outstanding: Arc<Outstanding>,
}

/// A [`Leftover`] with what keeps the caller's memory alive.
pub(super) struct Remains {
    pub leftover: Leftover,
    pub operation: Arc<Operation>,
    pub _completion: Box<dyn Completion>,
}

/// Whether a schedule has stopped only to let others go first.
#[derive(Default)]
struct Eager(AtomicBool);

impl Eager {
    fn take(&self) -> bool {
        // Relaxed: set by the same thread, in the same turn.
        self.0.swap(false, Ordering::Relaxed)
    }
}

impl Wake for Eager {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[derive(Default)]
pub(super) struct Progress {
    /// In the order in which they were issued: a schedule starts its first messages at its first poll, and messages with
    /// the same peer and tag must be started in issue order.
    running: Vec<Task>,
    /// Ordered operations that wait for their turn; a lane is here while one of its operations runs.
    waiting: HashMap<u64, VecDeque<Task>>,
    remains: Vec<Remains>,
    eager: Arc<Eager>,
    /// An operation has failed by itself, and its group with it.
    pub has_failed: bool,
    /// An operation that peers may count on was given up at the process's end.
    pub has_lost: bool,
}

impl Progress {
    /// Takes a command; ended operations go to `ended`.
    pub fn accept(&mut self, command: Command, ended: &mut Vec<Ended>) {
        match command {
            Command::Start(task) => self.start(task, ended),
            Command::EndLane(id) => {
                let (out, kept) = std::mem::take(&mut self.running)
                    .into_iter()
                    .partition(|task: &Task| task.operation.lane().id() == id);
                self.running = kept;
                let queued = self.waiting.remove(&id).unwrap_or_default();
                for task in Vec::into_iter(out).chain(queued) {
                    let error = task.operation.lane().check().err();
                    let error = error.unwrap_or_else(|| task.operation.timed_out(None));
                    self.end(task, Err(error), ended);
                }
            }
            Command::EndAll(cause) => {
                // Queued operations end with the one before them, whose lane fails.
                for task in std::mem::take(&mut self.running) {
                    self.has_lost |= !task.operation.is_receive();
                    let group = task.operation.lane().name().to_owned();
                    self.end(task, Err(Error::GroupFailed { group, cause: cause.to_owned() }), ended);
                }
            }
            Command::End(operation, error) => {
                let queue = self.waiting.get_mut(&operation.lane().id());
                if let Some(index) = self.running.iter().position(|task| Arc::ptr_eq(&task.operation, &operation)) {
                    let task = self.running.remove(index);
                    self.end(task, Err(error), ended);
                } else if let Some((queue, index)) = queue.and_then(|queue| {
                    let index = queue.iter().position(|task| Arc::ptr_eq(&task.operation, &operation))?;
                    Some((queue, index))
                }) && let Some(task) = queue.remove(index)
                {
                    self.end(task, Err(error), ended);
                }
            }
            Command::Retain(remains) => self.remains.push(remains),
        }
    }

    /// Takes every operation as far as it can go.
    pub fn turn(&mut self, ended: &mut Vec<Ended>) -> Turn {
        let before = ended.len();
        let now = Instant::now();
        let waker = Waker::from(self.eager.clone());
        let mut index = 0;
        while index < self.running.len() {
            match self.running[index].poll(now, &waker) {
                None => index += 1,
                Some(result) => {
                    let task = self.running.remove(index);
                    self.has_failed |= result.is_err() && task.on_failure == OnFailure::FailLane;
                    self.end(task, result, ended);
                }
            }
        }
        self.expire(now, ended);
        let eager = self.eager.take();
        Turn { moved: ended.len() > before || eager, rest: self.rest(now) }
    }

    /// How long nobody has to look, if everything that is waited for rings the doorbell.
    pub fn rest(&self, now: Instant) -> Option<Duration> {
        let rings = self.remains.is_empty()
            && !self.running.is_empty()
            && self.running.iter().all(|task| task.witness.as_ref().is_some_and(|witness| witness.rings()));
        rings.then(|| {
            let queued = self.waiting.values().flatten();
            let deadlines = self.running.iter().chain(queued).filter_map(|task| task.operation.deadline());
            deadlines.min().map_or(LONGEST_REST, |next| next.saturating_duration_since(now).min(LONGEST_REST))
        })
    }

    /// Ends ordered operations whose time is up before their turn has come.
    fn expire(&mut self, now: Instant, ended: &mut Vec<Ended>) {
        let late = |task: &Task| task.is_late(now);
        let lanes = self.waiting.iter().filter(|(_, queue)| queue.iter().any(late)).map(|(&id, _)| id);
        for id in lanes.collect::<Vec<_>>() {
            self.has_failed = true;
            // Its failure is the lane's, so the whole queue ends, the late one with its own error.
            let queue = self.waiting.get_mut(&id).map(std::mem::take).unwrap_or_default();
            let (late, other): (Vec<_>, Vec<_>) = queue.into_iter().partition(late);
            for task in late.into_iter().chain(other) {
                let error = match task.operation.lane().check() {
                    Ok(()) => task.operation.timed_out(None),
                    Err(_) if task.is_late(now) => task.operation.timed_out(None),
                    Err(error) => error,
                };
                self.end_queued(task, error, ended);
            }
        }
    }

    /// The remains whose memory has come back; to be dropped when the lock is free.
    pub fn released(&mut self) -> Vec<Remains> {
        if self.remains.is_empty() {
            return Vec::new();
        }
        let (released, kept) =
            std::mem::take(&mut self.remains).into_iter().partition(|remains| remains.leftover.outstanding.drain());
        self.remains = kept;
        released
    }

    fn start(&mut self, task: Task, ended: &mut Vec<Ended>) {
        // It may have failed since the operation was issued.
        if let Err(error) = task.operation.lane().check() {
            return self.end_queued(task, error, ended);
        }
        if task.order == Order::InLane {
            match self.waiting.get_mut(&task.operation.lane().id()) {
                Some(queue) => return queue.push_back(task),
                None => drop(self.waiting.insert(task.operation.lane().id(), VecDeque::new())),
            }
        }
        self.running.push(task);
    }

    /// Ends an operation that has not begun, and its lane with it.
    fn end_queued(&self, task: Task, error: Error, ended: &mut Vec<Ended>) {
        let Task { operation, completion, .. } = task;
        operation.lane().fail(error.kind(), error.to_string());
        ended.push(Ended { operation, completion, result: Err(error), leftover: None });
    }

    fn end(&mut self, task: Task, result: Result<Outcome>, ended: &mut Vec<Ended>) {
        let Task { operation, schedule, outstanding, completion, order, on_failure, .. } = task;
        let lane = operation.lane().clone();
        if let Err(error) = &result
            && on_failure == OnFailure::FailLane
        {
            lane.fail(error.kind(), error.to_string());
        }
        outstanding.cancel();
        let leftover = if outstanding.drain() { None } else { Some(Leftover { _schedule: schedule, outstanding }) };
        ended.push(Ended { operation, completion, result, leftover });
        if order == Order::Free {
            return;
        }
        if lane.has_failed() {
            for task in self.waiting.remove(&lane.id()).unwrap_or_default() {
                let error = lane.check().err().unwrap_or_else(|| task.operation.timed_out(None));
                self.end_queued(task, error, ended);
            }
        } else if let Some(queue) = self.waiting.get_mut(&lane.id()) {
            match queue.pop_front() {
                Some(next) => self.running.push(next),
                None => drop(self.waiting.remove(&lane.id())),
            }
        }
    }
}
