//! Starting and ending MPI (MPI 4.1, chapter 11), once per process.

use std::ffi::{CStr, c_char, c_int};
use std::ptr;

use mpi_sys::MPI_Comm;
use once_cell::sync::OnceCell;

use super::check::check;
use crate::error::{Error, Result};
use crate::process::Owner;

/// Kept if it is an error, too: MPI cannot be started twice.
static ENVIRONMENT: OnceCell<Result<Environment>> = OnceCell::new();

/// MPI as this process found or started it.
#[derive(Debug)]
pub struct Environment {
    world: MPI_Comm,
    world_rank: usize,
    world_size: usize,
    /// Whether this library called MPI_Init_thread, and so has to finalize.
    owner: bool,
    process: Owner,
}

// SAFETY: the only handle in it is MPI_COMM_WORLD, which is a constant.
unsafe impl Send for Environment {}
// SAFETY: as above.
unsafe impl Sync for Environment {}

impl Environment {
    /// MPI, initialised by this call if nobody has yet.
    pub fn start() -> Result<&'static Environment> {
        let environment = ENVIRONMENT.get_or_init(initialize).as_ref().map_err(Clone::clone)?;
        if !environment.process.is_here() {
            return Err(Error::Unavailable(
                "this process was forked from one that uses MPI, and a forked child must not use it; start workers with \
                 the \"spawn\" method, or use the group only in the parent"
                    .to_owned(),
            ));
        }
        if is_finalized() {
            return Err(Error::Unavailable(
                "MPI was finalized already, by another library of this process; MPI cannot be started twice".to_owned(),
            ));
        }
        Ok(environment)
    }

    /// The environment, if MPI was started through it in this very process.
    pub(crate) fn started() -> Option<&'static Environment> {
        ENVIRONMENT.get()?.as_ref().ok().filter(|environment| environment.process.is_here())
    }

    /// This process's rank in MPI_COMM_WORLD.
    pub fn world_rank(&self) -> usize {
        self.world_rank
    }

    /// Number of processes that the launcher started together.
    pub fn world_size(&self) -> usize {
        self.world_size
    }

    /// The highest tag of a message (MPI 4.1, section 9.1.2).
    pub fn tag_max(&self) -> i32 {
        let mut value: *mut std::ffi::c_void = ptr::null_mut();
        let mut found = 0;
        // SAFETY: MPI is initialised; for MPI_TAG_UB the value is a pointer to an int that MPI owns.
        let code = unsafe {
            mpi_sys::MPI_Comm_get_attr(
                self.world,
                mpi_sys::MPI_TAG_UB as c_int,
                ptr::from_mut(&mut value).cast(),
                &mut found,
            )
        };
        if code != 0 || found == 0 || value.is_null() {
            return super::PORTABLE_TAG_MAX;
        }
        // SAFETY: as above.
        unsafe { *value.cast::<c_int>() }
    }

    /// Ends MPI if this library started it. Blocks until every process of the job does the same, so that nobody leaves
    /// while a slower peer still needs it.
    pub(crate) fn finalize(&self) -> Result<()> {
        if !self.owner || is_finalized() {
            return Ok(());
        }
        // SAFETY: MPI is initialised and not finalized, and the caller sees to it that no other thread uses it.
        check("MPI_Finalize", unsafe { mpi_sys::MPI_Finalize() })
    }

    pub(super) fn world(&self) -> MPI_Comm {
        self.world
    }
}

/// True while MPI calls are allowed in this process.
pub(crate) fn is_usable() -> bool {
    Environment::started().is_some() && !is_finalized()
}

fn initialize() -> Result<Environment> {
    // SAFETY: constants of the C library.
    let (world, multiple) = unsafe { (mpi_sys::RSMPI_COMM_WORLD, mpi_sys::RSMPI_THREAD_MULTIPLE) };
    let initialized = is_initialized();
    if is_finalized() {
        return Err(Error::Unavailable(
            "MPI was started and finalized already by another library of this process; it cannot be started twice"
                .to_owned(),
        ));
    }
    let mut provided = 0;
    if !initialized {
        // SAFETY: null argc and argv are allowed (MPI 4.1, section 11.2.1).
        check("MPI_Init_thread", unsafe {
            mpi_sys::MPI_Init_thread(ptr::null_mut(), ptr::null_mut(), multiple, &mut provided)
        })?;
    } else {
        // SAFETY: MPI is initialised.
        check("MPI_Query_thread", unsafe { mpi_sys::MPI_Query_thread(&mut provided) })?;
    }
    if provided < multiple {
        return Err(Error::Unavailable(if !initialized {
            // SAFETY: initialised above, and nothing else has used it.
            if let Err(error) = check("MPI_Finalize", unsafe { mpi_sys::MPI_Finalize() }) {
                log::error!("{error}");
            }
            format!("this MPI ({}) does not offer MPI_THREAD_MULTIPLE, which rmpi needs", library_version())
        } else {
            "another library of this process initialised MPI without MPI_THREAD_MULTIPLE, which rmpi needs: with mpi4py \
             leave mpi4py.rc.thread_level at its default \"multiple\"; in C call MPI_Init_thread(.., \
             MPI_THREAD_MULTIPLE, ..)"
                .to_owned()
        }));
    }
    let (mut rank, mut size) = (0, 0);
    // SAFETY: MPI is initialised.
    check("MPI_Comm_rank", unsafe { mpi_sys::MPI_Comm_rank(world, &mut rank) })?;
    // SAFETY: as above.
    check("MPI_Comm_size", unsafe { mpi_sys::MPI_Comm_size(world, &mut size) })?;
    Ok(Environment {
        world,
        world_rank: rank as usize,
        world_size: size as usize,
        owner: !initialized,
        process: Owner::current(),
    })
}

/// True once MPI was started in this process, by whomever.
pub fn is_initialized() -> bool {
    let mut initialized = 0;
    // SAFETY: may be called at any time.
    let code = unsafe { mpi_sys::MPI_Initialized(&mut initialized) };
    code == 0 && initialized != 0
}

/// True once MPI was finalized in this process, by whomever.
pub(crate) fn is_finalized() -> bool {
    let mut finalized = 0;
    // SAFETY: may be called at any time.
    let code = unsafe { mpi_sys::MPI_Finalized(&mut finalized) };
    code != 0 || finalized != 0
}

/// The MPI library's name and version, on one line. Does not start MPI.
pub fn library_version() -> String {
    let mut buffer = [0 as c_char; mpi_sys::MPI_MAX_LIBRARY_VERSION_STRING as usize + 1];
    let mut len = 0;
    // SAFETY: may be called before MPI_Init (MPI 4.1, section 9.1.1); the buffer has the size that MPI asks for.
    let code = unsafe { mpi_sys::MPI_Get_library_version(buffer.as_mut_ptr(), &mut len) };
    if code != 0 {
        return "unknown MPI".to_owned();
    }
    // SAFETY: the last byte of the buffer is zero whatever MPI wrote before it.
    let text = unsafe { CStr::from_ptr(buffer.as_ptr()) }.to_string_lossy().into_owned();
    // "Open MPI v5.0.11, package: ..." on one line; "MPICH Version: 5.0.2" on the first of several.
    let name = text.lines().next().unwrap_or_default().split(',').next().unwrap_or_default();
    name.split_whitespace().collect::<Vec<_>>().join(" ")
}
