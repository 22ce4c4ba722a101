//! Errors for C: a number, and a text per thread.

use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::constants::{RMPI_SUCCESS, status};
use crate::engine::panic_text;
use crate::error::{Error, Result};

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::new(CString::default());
}

/// What went wrong in the last call of this thread that failed; an empty string if none did. Valid until the thread's
/// next failing call. Never null, never freed by the caller.
#[unsafe(no_mangle)]
pub extern "C" fn rmpi_last_error() -> *const c_char {
    LAST_ERROR.with_borrow(|text| text.as_ptr())
}

/// Runs `body`; its error, or its panic, becomes a status and the thread's last error.
pub(super) fn guard(body: impl FnOnce() -> Result<()>) -> i32 {
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| Err(Error::Internal(panic_text(&*panic))));
    let Err(error) = result else { return RMPI_SUCCESS };
    let text = CString::new(error.to_string().replace('\0', " ")).unwrap_or_default();
    LAST_ERROR.set(text);
    status(error.kind())
}
