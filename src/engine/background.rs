//! The thread that drives what nobody waits for.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::backoff::Backoff;
use super::{Driver, Engine};

/// How long an idle thread sleeps at most: memory that a failed operation left with the transport is looked for then.
const IDLE: Duration = Duration::from_millis(200);

#[derive(Default)]
pub(super) struct Thread {
    started: AtomicBool,
    stop: AtomicBool,
    handle: Mutex<Option<JoinHandle<()>>>,
}

impl Thread {
    /// Starts the thread if it does not run.
    pub fn start(&self, engine: &'static Engine) {
        // Relaxed: the lock below decides.
        if self.started.load(Ordering::Relaxed) {
            return;
        }
        let mut handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        if self.started.swap(true, Ordering::Relaxed) {
            return;
        }
        match std::thread::Builder::new().name("rmpi-engine".to_owned()).spawn(move || run(engine)) {
            Ok(started) => *handle = Some(started),
            // Operations go on whenever somebody waits for one; the next call tries again.
            Err(error) => {
                log::error!("cannot start the background thread: {error}");
                self.started.store(false, Ordering::Relaxed);
            }
        }
    }

    /// Ends the thread; it never starts again.
    pub fn stop(&self, engine: &'static Engine) {
        let mut handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        self.started.store(true, Ordering::Relaxed);
        self.stop.store(true, Ordering::Relaxed);
        engine.bell.ring();
        if let Some(handle) = handle.take()
            && handle.thread().id() != std::thread::current().id()
            && handle.join().is_err()
        {
            log::error!("the background thread had panicked");
        }
    }
}

fn run(engine: &'static Engine) {
    let mut backoff = Backoff::background();
    // Relaxed: the bell orders it.
    while !engine.background.stop.load(Ordering::Relaxed) {
        let seen = engine.bell.listen();
        if !engine.is_unattended() {
            backoff.reset();
            let idle = engine.has_retained().then_some(IDLE);
            if idle.is_some() {
                engine.try_turn(Driver::Passing);
            }
            engine.bell.sleep(seen, idle);
            continue;
        }
        match engine.try_turn(Driver::Passing) {
            Some(true) => backoff.reset(),
            _ => backoff.pause(&engine.bell, seen, None),
        }
    }
}
