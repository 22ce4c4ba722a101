//! Communicators (MPI 4.1, chapter 7).

use std::ffi::c_int;
use std::mem::MaybeUninit;

use mpi_sys::MPI_Comm;

use super::check::check;
use super::environment::Environment;
use crate::error::Result;

/// A communicator of this library's own, with errors returned instead of fatal.
#[derive(Debug)]
pub struct Communicator {
    raw: MPI_Comm,
    /// False for MPI_COMM_WORLD, which is everybody's.
    owned: bool,
}

// SAFETY: a communicator handle may be used by any thread with MPI_THREAD_MULTIPLE, which the environment requires.
unsafe impl Send for Communicator {}
// SAFETY: as above.
unsafe impl Sync for Communicator {}

impl Communicator {
    /// A communicator of the processes with these ranks in MPI_COMM_WORLD, in this order (MPI 4.1, section 7.4.2,
    /// `MPI_Comm_create_group`). Blocks until all of them have called it, so they must have met before. `tag` separates
    /// groups that are created at the same time.
    pub fn create(environment: &Environment, world_ranks: &[c_int], tag: i32) -> Result<Communicator> {
        let (mut world, mut members, mut raw) = (null_group(), null_group(), null());
        // SAFETY: MPI is initialised, as the environment proves; outputs are written on success.
        check("MPI_Comm_group", unsafe { mpi_sys::MPI_Comm_group(environment.world(), &mut world) })?;
        // SAFETY: the slice holds as many ranks as its length says.
        let included = check("MPI_Group_incl", unsafe {
            mpi_sys::MPI_Group_incl(world, world_ranks.len() as c_int, world_ranks.as_ptr(), &mut members)
        });
        // SAFETY: created above.
        let freed = check("MPI_Group_free", unsafe { mpi_sys::MPI_Group_free(&mut world) });
        included.and(freed)?;
        let created = returning_errors(environment.world(), || {
            // SAFETY: `members` is valid and has this process in it.
            check("MPI_Comm_create_group", unsafe {
                mpi_sys::MPI_Comm_create_group(environment.world(), members, tag, &mut raw)
            })
        });
        // SAFETY: created above.
        let freed = check("MPI_Group_free", unsafe { mpi_sys::MPI_Group_free(&mut members) });
        created.and(freed)?;
        Self::adopt(raw)
    }

    /// A communicator of the same processes with its own matching space. Collective over this communicator, whose
    /// members must have met.
    pub fn duplicate(&self) -> Result<Communicator> {
        let mut raw = null();
        // SAFETY: a live communicator; blocks only until the members, who are all here, have called it.
        check("MPI_Comm_dup", unsafe { mpi_sys::MPI_Comm_dup(self.raw, &mut raw) })?;
        Self::adopt(raw)
    }

    /// MPI_COMM_WORLD itself, with the error handler that it has.
    pub fn world(environment: &Environment) -> Communicator {
        Communicator { raw: environment.world(), owned: false }
    }

    fn adopt(raw: MPI_Comm) -> Result<Communicator> {
        return_errors(raw)?;
        Ok(Communicator { raw, owned: true })
    }

    /// This process's rank.
    pub fn rank(&self) -> Result<usize> {
        let mut rank = 0;
        // SAFETY: a live communicator.
        check("MPI_Comm_rank", unsafe { mpi_sys::MPI_Comm_rank(self.raw, &mut rank) })?;
        Ok(rank as usize)
    }

    /// Number of processes.
    pub fn size(&self) -> Result<usize> {
        let mut size = 0;
        // SAFETY: a live communicator.
        check("MPI_Comm_size", unsafe { mpi_sys::MPI_Comm_size(self.raw, &mut size) })?;
        Ok(size as usize)
    }

    /// Gives the communicator back to MPI. No request may be pending on it.
    pub fn free(mut self) -> Result<()> {
        if !self.owned {
            return Ok(());
        }
        // SAFETY: a live communicator, and `self` is gone afterwards.
        check("MPI_Comm_free", unsafe { mpi_sys::MPI_Comm_free(&mut self.raw) })
    }

    pub(super) fn raw(&self) -> MPI_Comm {
        self.raw
    }
}

/// Runs `call` with errors on `communicator`, which is not of this library, returned instead of fatal.
fn returning_errors(communicator: MPI_Comm, call: impl FnOnce() -> Result<()>) -> Result<()> {
    let mut theirs = MaybeUninit::<mpi_sys::MPI_Errhandler>::zeroed();
    // SAFETY: a live communicator; the output is written on success.
    check("MPI_Comm_get_errhandler", unsafe { mpi_sys::MPI_Comm_get_errhandler(communicator, theirs.as_mut_ptr()) })?;
    // SAFETY: written, since the call has succeeded.
    let mut theirs = unsafe { theirs.assume_init() };
    return_errors(communicator)?;
    let result = call();
    // SAFETY: a live communicator, and the handler that it had.
    let restored = check("MPI_Comm_set_errhandler", unsafe { mpi_sys::MPI_Comm_set_errhandler(communicator, theirs) });
    // SAFETY: `MPI_Comm_get_errhandler` counts as a new reference (MPI 4.1, section 9.3.4).
    let freed = check("MPI_Errhandler_free", unsafe { mpi_sys::MPI_Errhandler_free(&mut theirs) });
    result.and(restored).and(freed)
}

fn return_errors(communicator: MPI_Comm) -> Result<()> {
    // SAFETY: a live communicator; a constant of the C library.
    check("MPI_Comm_set_errhandler", unsafe {
        mpi_sys::MPI_Comm_set_errhandler(communicator, mpi_sys::RSMPI_ERRORS_RETURN)
    })
}

fn null() -> MPI_Comm {
    // SAFETY: a constant of the C library.
    unsafe { mpi_sys::RSMPI_COMM_NULL }
}

fn null_group() -> mpi_sys::MPI_Group {
    // SAFETY: a constant of the C library.
    unsafe { mpi_sys::RSMPI_GROUP_NULL }
}
