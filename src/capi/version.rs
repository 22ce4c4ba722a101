//! What a C program links against.

use std::ffi::{CStr, c_char};

/// Version of the library as text, for example "0.1.0". Never freed.
#[unsafe(no_mangle)]
pub extern "C" fn rmpi_version() -> *const c_char {
    const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(text) => text,
        Err(_) => c"unknown",
    };
    VERSION.as_ptr()
}
