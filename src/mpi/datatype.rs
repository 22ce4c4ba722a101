//! Counts of bytes above `INT_MAX`, on every MPI: a derived datatype (MPI 4.1, section 5.1) for what a C int cannot
//! count. One message stays one MPI message whatever its length.

use std::ffi::c_int;

use mpi_sys::{MPI_Aint, MPI_Datatype};

use super::check::check;
use crate::error::{Error, Result};

/// Bytes of one block of the derived datatype.
const BLOCK: usize = 1 << 30;

/// How to name a number of bytes to MPI; frees what it created when dropped.
pub(super) struct ByteCount {
    /// How many of `datatype`.
    pub count: c_int,
    /// `MPI_BYTE`, or a derived datatype of that many bytes.
    pub datatype: MPI_Datatype,
    derived: bool,
}

impl ByteCount {
    /// `len` bytes in a row.
    pub fn new(len: usize) -> Result<Self> {
        // RSMPI_UINT8_T moves the same bytes as MPI_BYTE, and mpi-sys has it for every MPI.
        // SAFETY: an immutable constant of the C library, valid once MPI is initialised.
        let byte = unsafe { mpi_sys::RSMPI_UINT8_T };
        if let Ok(count) = c_int::try_from(len) {
            return Ok(ByteCount { count, datatype: byte, derived: false });
        }
        let mut block = byte;
        // SAFETY: builds a datatype from a valid one; `block` is written on success only.
        check("MPI_Type_contiguous", unsafe { mpi_sys::MPI_Type_contiguous(BLOCK as c_int, byte, &mut block) })?;
        let lengths = [(len / BLOCK) as c_int, (len % BLOCK) as c_int];
        let offsets = [0 as MPI_Aint, (len / BLOCK * BLOCK) as MPI_Aint];
        let mut whole = byte;
        // SAFETY: the three arrays have two entries each; MPI copies them.
        let made = check("MPI_Type_create_struct", unsafe {
            mpi_sys::MPI_Type_create_struct(2, lengths.as_ptr(), offsets.as_ptr(), [block, byte].as_ptr(), &mut whole)
        });
        // SAFETY: `block` was created above; MPI keeps what `whole` needs of it.
        check("MPI_Type_free", unsafe { mpi_sys::MPI_Type_free(&mut block) })?;
        made?;
        // SAFETY: `whole` was created above.
        check("MPI_Type_commit", unsafe { mpi_sys::MPI_Type_commit(&mut whole) })?;
        Ok(ByteCount { count: 1, datatype: whole, derived: true })
    }
}

impl Drop for ByteCount {
    fn drop(&mut self) {
        if self.derived {
            // SAFETY: created in `new`; a pending request keeps its own reference (MPI 4.1, section 5.1.9).
            let code = unsafe { mpi_sys::MPI_Type_free(&mut self.datatype) };
            if let Err(error) = check("MPI_Type_free", code) {
                log::warn!("{error}");
            }
        }
    }
}

/// The number of bytes of the message that a probe has found (MPI 4.1, section 5.1.11).
pub(super) fn message_bytes(status: &mpi_sys::MPI_Status) -> Result<usize> {
    let mut bytes = 0;
    // SAFETY: the status was filled by a successful probe; the datatype is a constant.
    check("MPI_Get_elements_x", unsafe { mpi_sys::MPI_Get_elements_x(status, mpi_sys::RSMPI_UINT8_T, &mut bytes) })?;
    usize::try_from(bytes).map_err(|_| Error::Internal(format!("MPI says that a message has {bytes} bytes")))
}
