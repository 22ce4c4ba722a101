//! Groups for C.

use std::time::Duration;

use super::status::guard;
use crate::error::{Error, Result};
use crate::group::{Group, GroupOptions};

/// A group of processes. Opaque.
#[allow(non_camel_case_types)]
pub struct rmpi_group(pub(super) Group);

/// Creates the group of all processes that the launcher started, in MPI's order; all of them call it. Starts MPI if
/// nobody has. An operation may take `timeout_ms` milliseconds (0: 30 minutes). `*group` is written on success; free it
/// with `rmpi_group_free`.
///
/// # Safety
/// `group` must be null (an error) or valid for writing a pointer.
// SAFETY: callers keep to the section above; a null pointer and a panic become error codes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmpi_group_world(timeout_ms: i64, group: *mut *mut rmpi_group) -> i32 {
    guard(|| {
        if group.is_null() {
            return Err(Error::Argument("rmpi_group_world: group is null".to_owned()));
        }
        let mut options = GroupOptions::default();
        match u64::try_from(timeout_ms) {
            Ok(0) => {}
            Ok(ms) => options.timeout = Duration::from_millis(ms),
            Err(_) => return Err(Error::Argument(format!("rmpi_group_world: a timeout of {timeout_ms} ms"))),
        }
        let made = Box::into_raw(Box::new(rmpi_group(Group::world(options)?)));
        // SAFETY: not null, and the caller promises that it may be written.
        unsafe { group.write(made) };
        Ok(())
    })
}

/// This process's rank in the group, from 0.
///
/// # Safety
/// `group` must be null (an error) or come from `rmpi_group_world` and not be freed; `rank` null or valid for writing.
// SAFETY: callers keep to the section above; a null pointer and a panic become error codes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmpi_group_rank(group: *const rmpi_group, rank: *mut i32) -> i32 {
    guard(|| {
        // SAFETY: promised by the caller.
        let value = unsafe { borrow(group) }?.rank() as i32;
        // SAFETY: promised by the caller.
        unsafe { write(rank, value) }
    })
}

/// Number of processes in the group.
///
/// # Safety
/// `group` must be null (an error) or come from `rmpi_group_world` and not be freed; `size` null or valid for writing.
// SAFETY: callers keep to the section above; a null pointer and a panic become error codes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmpi_group_size(group: *const rmpi_group, size: *mut i32) -> i32 {
    guard(|| {
        // SAFETY: promised by the caller.
        let value = unsafe { borrow(group) }?.size() as i32;
        // SAFETY: promised by the caller.
        unsafe { write(size, value) }
    })
}

/// Ends the group: waits for its operations, each of which has a timeout. Null is allowed. After a failed operation its
/// memory may be reused once this has returned RMPI_SUCCESS; otherwise some of it is in MPI's hands until the process
/// ends.
///
/// # Safety
/// `group` must be null or come from `rmpi_group_world`, not be freed, and not be in use by another thread.
// SAFETY: callers keep to the section above; a null pointer and a panic become error codes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmpi_group_free(group: *mut rmpi_group) -> i32 {
    guard(|| {
        if group.is_null() {
            return Ok(());
        }
        // SAFETY: made by Box::into_raw in `rmpi_group_world`, and given up by the caller.
        let group = unsafe { Box::from_raw(group) };
        while !group.0.shutdown(Duration::from_secs(1))? {}
        match group.0.pending() {
            0 => Ok(()),
            left => Err(Error::Unavailable(format!("MPI still uses the memory of {left} failed operations"))),
        }
    })
}

/// # Safety
/// `group` must be null or point to a live group.
pub(super) unsafe fn borrow<'a>(group: *const rmpi_group) -> Result<&'a Group> {
    // SAFETY: promised by the caller.
    let group = unsafe { group.as_ref() };
    group.map(|group| &group.0).ok_or_else(|| Error::Argument("the group is null".to_owned()))
}

/// # Safety
/// `target` must be null or valid for writing.
unsafe fn write(target: *mut i32, value: i32) -> Result<()> {
    if target.is_null() {
        return Err(Error::Argument("the pointer for the result is null".to_owned()));
    }
    // SAFETY: promised by the caller.
    unsafe { target.write(value) };
    Ok(())
}
