//! MPI error codes as Rust errors (MPI 4.1, section 9.3 to 9.5).

use std::ffi::{CStr, c_char, c_int};

use crate::error::{Error, Result};

/// `Ok` for `MPI_SUCCESS`, else an error with the text of MPI.
pub(super) fn check(call: &'static str, code: c_int) -> Result<()> {
    if code == mpi_sys::MPI_SUCCESS as c_int {
        return Ok(());
    }
    Err(Error::Mpi { call, class: class(code), text: text(code) })
}

/// The class of an error code.
pub(super) fn class(code: c_int) -> c_int {
    let mut class = 0;
    // SAFETY: MPI_Error_class may be called at any time and only writes its output.
    match unsafe { mpi_sys::MPI_Error_class(code, &mut class) } {
        0 => class,
        _ => code,
    }
}

fn text(code: c_int) -> String {
    let mut buffer = [0 as c_char; mpi_sys::MPI_MAX_ERROR_STRING as usize + 1];
    let mut len = 0;
    // SAFETY: the buffer holds MPI_MAX_ERROR_STRING characters, which is all that MPI may write.
    let status = unsafe { mpi_sys::MPI_Error_string(code, buffer.as_mut_ptr(), &mut len) };
    if status != 0 {
        return format!("MPI error code {code}");
    }
    // SAFETY: the last byte of the buffer is zero whatever MPI wrote before it.
    unsafe { CStr::from_ptr(buffer.as_ptr()) }.to_string_lossy().into_owned()
}
