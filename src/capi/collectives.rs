//! Operations for C. Each returns when it has ended on this process.

use std::ffi::c_void;

use super::constants::{data_type, reduce_op};
use super::group::{borrow, rmpi_group};
use super::status::guard;
use crate::error::{Error, Result};
use crate::group::{Call, Group, Invocation};
use crate::memory::View;
use crate::reduce::{DataType, Reduction};

/// Returns when every rank has called it.
///
/// # Safety
/// `group` must be null (an error) or a live group.
// SAFETY: callers keep to the section above; a null pointer and a panic become error codes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmpi_barrier(group: *const rmpi_group) -> i32 {
    // SAFETY: promised by the caller.
    guard(|| unsafe { borrow(group) }?.run(&Invocation::new(Call::Barrier, &[], &[])).map(drop))
}

/// Copies `count` elements of the root's `buffer` to every rank's.
///
/// # Safety
/// `buffer` must be valid for `count` elements; see also `rmpi_barrier`.
// SAFETY: callers keep to the section above; a null pointer and a panic become error codes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmpi_broadcast(
    group: *const rmpi_group,
    buffer: *mut c_void,
    count: usize,
    dtype: i32,
    root: i32,
) -> i32 {
    guard(|| {
        let call = Call::Broadcast { root: rank(root)? };
        let dtype = data_type(dtype)?;
        // SAFETY: promised by the caller.
        unsafe { run(borrow(group)?, call, dtype, &[], &[view(buffer, count, dtype)?]) }
    })
}

/// Reduces `count` elements of every rank's `input` into every rank's `output`, which may be `input`.
///
/// # Safety
/// Both must be valid for `count` elements, and be the same or not overlap; see also `rmpi_barrier`.
// SAFETY: callers keep to the section above; a null pointer and a panic become error codes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmpi_all_reduce(
    group: *const rmpi_group,
    input: *const c_void,
    output: *mut c_void,
    count: usize,
    dtype: i32,
    op: i32,
) -> i32 {
    guard(|| {
        let dtype = data_type(dtype)?;
        let call = Call::AllReduce(Reduction::new(dtype, reduce_op(op)?, 1.0)?);
        // SAFETY: promised by the caller; inputs are only read.
        unsafe {
            let (input, output) = (view(input.cast_mut(), count, dtype)?, view(output, count, dtype)?);
            run(borrow(group)?, call, dtype, &[input], &[output])
        }
    })
}

/// Reduces `count` elements of every rank's `input` into the root's `output`, which may be its `input`. Other ranks'
/// `output` is not used.
///
/// # Safety
/// As for `rmpi_all_reduce`.
// SAFETY: callers keep to the section above; a null pointer and a panic become error codes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmpi_reduce(
    group: *const rmpi_group,
    input: *const c_void,
    output: *mut c_void,
    count: usize,
    dtype: i32,
    op: i32,
    root: i32,
) -> i32 {
    guard(|| {
        let dtype = data_type(dtype)?;
        let root = rank(root)?;
        let call = Call::Reduce { root, reduction: Reduction::new(dtype, reduce_op(op)?, 1.0)? };
        // SAFETY: promised by the caller; inputs are only read.
        unsafe {
            let group = borrow(group)?;
            let output = if group.rank() == root { vec![view(output, count, dtype)?] } else { Vec::new() };
            run(group, call, dtype, &[view(input.cast_mut(), count, dtype)?], &output)
        }
    })
}

/// Copies `count` elements of rank r's `input` to the r-th block of `count` elements of every rank's `output`.
///
/// # Safety
/// `input` must be valid for `count` elements, `output` for `count` times the size of the group.
// SAFETY: callers keep to the section above; a null pointer and a panic become error codes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmpi_all_gather(
    group: *const rmpi_group,
    input: *const c_void,
    output: *mut c_void,
    count: usize,
    dtype: i32,
) -> i32 {
    guard(|| {
        let dtype = data_type(dtype)?;
        // SAFETY: promised by the caller; inputs are only read.
        unsafe {
            let group = borrow(group)?;
            let outputs = blocks(output, count, dtype, group.size())?;
            run(group, Call::AllGather, dtype, &[view(input.cast_mut(), count, dtype)?], &outputs)
        }
    })
}

/// Reduces the r-th block of `count` elements of every rank's `input` into rank r's `output`.
///
/// # Safety
/// `input` must be valid for `count` elements times the size of the group, `output` for `count`.
// SAFETY: callers keep to the section above; a null pointer and a panic become error codes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmpi_reduce_scatter(
    group: *const rmpi_group,
    input: *const c_void,
    output: *mut c_void,
    count: usize,
    dtype: i32,
    op: i32,
) -> i32 {
    guard(|| {
        let dtype = data_type(dtype)?;
        let call = Call::ReduceScatter(Reduction::new(dtype, reduce_op(op)?, 1.0)?);
        // SAFETY: promised by the caller; inputs are only read.
        unsafe {
            let group = borrow(group)?;
            let inputs = blocks(input.cast_mut(), count, dtype, group.size())?;
            run(group, call, dtype, &inputs, &[view(output, count, dtype)?])
        }
    })
}

/// Copies the r-th block of `count` elements of `input` to rank r, which puts what rank s sends into its s-th block.
///
/// # Safety
/// Both must be valid for `count` elements times the size of the group, and not overlap.
// SAFETY: callers keep to the section above; a null pointer and a panic become error codes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmpi_all_to_all(
    group: *const rmpi_group,
    input: *const c_void,
    output: *mut c_void,
    count: usize,
    dtype: i32,
) -> i32 {
    guard(|| {
        let dtype = data_type(dtype)?;
        // SAFETY: promised by the caller; inputs are only read.
        unsafe {
            let group = borrow(group)?;
            let inputs = blocks(input.cast_mut(), count, dtype, group.size())?;
            run(group, Call::AllToAll, dtype, &inputs, &blocks(output, count, dtype, group.size())?)
        }
    })
}

/// Sends `count` elements to rank `destination`, which receives them with the same `tag` (0 to 32767 on every MPI).
///
/// # Safety
/// `buffer` must be valid for `count` elements.
// SAFETY: callers keep to the section above; a null pointer and a panic become error codes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmpi_send(
    group: *const rmpi_group,
    buffer: *const c_void,
    count: usize,
    dtype: i32,
    destination: i32,
    tag: i32,
) -> i32 {
    guard(|| {
        let call = Call::Send { to: rank(destination)?, tag };
        let dtype = data_type(dtype)?;
        // SAFETY: promised by the caller; inputs are only read.
        unsafe { run(borrow(group)?, call, dtype, &[view(buffer.cast_mut(), count, dtype)?], &[]) }
    })
}

/// Receives `count` elements from rank `source`, or from any rank if it is -1, in which case `*sender`, unless null,
/// gets the sender's rank.
///
/// # Safety
/// `buffer` must be valid for `count` elements, `sender` null or valid for writing.
// SAFETY: callers keep to the section above; a null pointer and a panic become error codes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmpi_recv(
    group: *const rmpi_group,
    buffer: *mut c_void,
    count: usize,
    dtype: i32,
    source: i32,
    tag: i32,
    sender: *mut i32,
) -> i32 {
    guard(|| {
        let from = if source == -1 { None } else { Some(rank(source)?) };
        // SAFETY: promised by the caller.
        let outcome = unsafe {
            let outputs = [view(buffer, count, data_type(dtype)?)?];
            borrow(group)?.run(&Invocation::new(Call::Receive { from, tag }, &[], &outputs))?
        };
        if let (Some(source), false) = (outcome.source, sender.is_null()) {
            // SAFETY: not null, and promised by the caller.
            unsafe { sender.write(source as i32) };
        }
        Ok(())
    })
}

fn run(group: &Group, call: Call, dtype: DataType, inputs: &[View], outputs: &[View]) -> Result<()> {
    group.run(&Invocation::new(call, inputs, outputs).of(dtype)).map(drop)
}

fn rank(rank: i32) -> Result<usize> {
    usize::try_from(rank).map_err(|_| Error::Argument(format!("rank {rank} is out of range: ranks begin at 0")))
}

/// # Safety
/// `buffer` must be valid for `count` elements until the operation has ended.
unsafe fn view(buffer: *mut c_void, count: usize, dtype: DataType) -> Result<View> {
    let bytes = count.checked_mul(dtype.size()).filter(|&bytes| isize::try_from(bytes).is_ok());
    let bytes = bytes.ok_or_else(|| Error::Argument(format!("{count} elements do not fit into memory")))?;
    if buffer.is_null() && bytes > 0 {
        return Err(Error::Argument(format!("the buffer for {count} elements is null")));
    }
    // SAFETY: promised by the caller.
    Ok(unsafe { View::new(buffer.cast(), bytes) })
}

/// One view per rank of `count` elements each.
///
/// # Safety
/// `buffer` must be valid for `count` elements times `size` until the operation has ended.
unsafe fn blocks(buffer: *mut c_void, count: usize, dtype: DataType, size: usize) -> Result<Vec<View>> {
    let total =
        count.checked_mul(size).ok_or_else(|| Error::Argument(format!("{count} elements per rank are too many")))?;
    // SAFETY: promised by the caller.
    let whole = unsafe { view(buffer, total, dtype) }?;
    let bytes = count * dtype.size();
    Ok((0..size).map(|rank| whole.slice(rank * bytes..(rank + 1) * bytes)).collect())
}
