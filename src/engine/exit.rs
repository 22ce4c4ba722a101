//! The end of the process. A healthy rank waits for the others in `MPI_Finalize`; one that failed leaves at once, with
//! its own exit status, so that the launcher can end the job instead of everybody waiting.

use std::ffi::{c_int, c_void};
use std::sync::Once;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::progress::Command;
use crate::mpi::{self, Environment};

/// How long a process that ends in good order goes on with operations that nobody waited for.
const GRACE: Duration = Duration::from_secs(5);

/// How long a process in which an operation has failed waits for the others in `MPI_Finalize`: the peer that it failed
/// for may never come.
const FINALIZE_AFTER_FAILURE: Duration = Duration::from_secs(60);

/// How long the transport may take to give back the memory of operations that were ended then.
const RELEASE: Duration = Duration::from_secs(1);

// SAFETY: the declaration is that of glibc's stdlib.h.
unsafe extern "C" {
    /// glibc: like atexit, but the handler learns the exit status. That status is the only thing that tells a script
    /// that raised from one that has ended.
    fn on_exit(handler: extern "C" fn(c_int, *mut c_void), argument: *mut c_void) -> c_int;
}

/// Has [`leave`] called when the process exits.
pub(super) fn register() {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        // SAFETY: the handler is a plain function that lives as long as the process, and uses no argument.
        if unsafe { on_exit(leave, std::ptr::null_mut()) } != 0 {
            log::error!("cannot register the exit handler: MPI will not be finalized");
        }
    });
}

/// Lets pending operations end, and runs what users attached to them, for at most `limit`. Returns whether nothing is left.
pub fn drain(limit: Duration) -> bool {
    super::existing().is_none_or(|engine| engine.drain(limit))
}

/// For a host with an interpreter, before that ends: from now on nothing that users attached runs, and nothing that they
/// own is destroyed. Operations can still be waited for.
pub fn before_interpreter_ends() {
    let Some(engine) = super::existing() else { return };
    // Relaxed: the background thread is stopped below; other threads drive on their own account.
    engine.leaving.store(true, Ordering::Relaxed);
    engine.background.stop(engine);
    engine.tell_nobody();
}

/// Waits until no code that users attached runs or is due, for at most `limit`. Returns whether that is so.
pub fn await_users(limit: Duration) -> bool {
    let Some(engine) = super::existing() else { return true };
    let until = Instant::now() + limit;
    while engine.has_queued() || engine.is_telling() {
        if Instant::now() >= until {
            return false;
        }
        // Once in a process's life, for what other threads do without telling that they have.
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

extern "C" fn leave(status: c_int, _: *mut c_void) {
    // In a forked child neither exists for us.
    let (Some(engine), Some(environment)) = (super::existing(), Environment::started()) else { return };
    // An interpreter that has ended has given them their time already.
    let grace = if engine.leaving() { RELEASE } else { GRACE };
    before_interpreter_ends();
    if status != 0 || !mpi::is_usable() {
        return;
    }
    if !engine.drain(grace) {
        // A receive that no peer has matched can be taken back; a send that has begun cannot.
        engine.command(Command::EndAll("the process has come to its end, with operations that no peer had matched"));
    }
    if !engine.drain(RELEASE) || engine.lock().has_lost {
        eprintln!(
            "torch-rmpi: this process ends while messages are still under way that no peer has matched; it leaves \
             without MPI_Finalize, and exits with status 1. Wait for every work, and call destroy_process_group"
        );
        // SAFETY: ends the process. Handlers that come later could only wait for peers that never come.
        unsafe { libc::_exit(1) }
    }
    crate::shm::leave_all();
    if let Err(error) = engine.close(|failed| {
        if failed {
            leave_after(FINALIZE_AFTER_FAILURE);
        }
        environment.finalize()
    }) {
        eprintln!("torch-rmpi: {error}");
    }
}

/// Ends the process with status 1 if it still exists after `limit`.
fn leave_after(limit: Duration) {
    let watch = move || {
        std::thread::sleep(limit);
        eprintln!(
            "torch-rmpi: an operation of this process had failed, and not every process of the job has come to its end \
             {} s later; it leaves without them, with status 1",
            limit.as_secs()
        );
        // SAFETY: ends the process, which is at its end.
        unsafe { libc::_exit(1) }
    };
    if let Err(error) = std::thread::Builder::new().name("rmpi-exit".to_owned()).spawn(watch) {
        eprintln!("torch-rmpi: no thread to watch over MPI_Finalize: {error}");
    }
}
