//! Arguments are checked before anything moves.

use super::{Call, Invocation};
use crate::error::{Error, Result};
use crate::memory::View;

/// An error that says what is wrong with the call, or nothing.
pub(super) fn check(invocation: &Invocation<'_>, rank: usize, size: usize, tag_max: i32) -> Result<()> {
    let Invocation { call, inputs, outputs, .. } = invocation;
    let name = call.name();
    let fail = |what: String| Err(Error::Argument(format!("{name}: {what}")));
    let (wanted_inputs, wanted_outputs) = counts(call, rank, size);
    if inputs.len() != wanted_inputs {
        return fail(format!(
            "{} inputs were given, {wanted_inputs} are needed on rank {rank} of {size}",
            inputs.len()
        ));
    }
    if outputs.len() != wanted_outputs {
        return fail(format!(
            "{} outputs were given, {wanted_outputs} are needed on rank {rank} of {size}",
            outputs.len()
        ));
    }
    let length = |what: &str, a: &View, b: &View| {
        if a.len() == b.len() {
            return Ok(());
        }
        fail(format!("{what} must have the same length, not {} and {} bytes", a.len(), b.len()))
    };
    match call {
        Call::AllReduce(_) => length("input and output", &inputs[0], &outputs[0])?,
        Call::Reduce { .. } if !outputs.is_empty() => length("input and output", &inputs[0], &outputs[0])?,
        Call::AllGather => length("the input and this rank's output", &inputs[0], &outputs[rank])?,
        Call::Gather { .. } if !outputs.is_empty() => {
            length("the input and this rank's output", &inputs[0], &outputs[rank])?;
        }
        Call::Scatter { .. } if !inputs.is_empty() => {
            length("the output and this rank's input", &outputs[0], &inputs[rank])?;
        }
        Call::ReduceScatter(_) => length("the output and this rank's input", &outputs[0], &inputs[rank])?,
        Call::AllToAll => length("this rank's input and output for itself", &inputs[rank], &outputs[rank])?,
        _ => {}
    }
    if let Some(reduction) = call.reduction()
        && let Some(view) = inputs.iter().chain(*outputs).find(|view| view.len() % reduction.dtype().size() != 0)
    {
        return fail(format!("{} bytes are not a whole number of {} elements", view.len(), reduction.dtype().name()));
    }
    for (index, output) in outputs.iter().enumerate() {
        if let Some(other) = outputs[..index].iter().position(|other| other.overlaps(output)) {
            return fail(format!("outputs {other} and {index} overlap in memory; give each its own"));
        }
    }
    // What is written must not replace what is still to be read, unless it is read and written in one place.
    for (index, output) in outputs.iter().enumerate() {
        let overlaps = |(other, input): (usize, &View)| {
            output.overlaps(input) && !(is_in_place(call, rank, other, index) && input.as_ptr() == output.as_ptr())
        };
        if let Some(other) = inputs.iter().enumerate().position(overlaps) {
            return fail(format!("output {index} and input {other} overlap in memory; give each its own"));
        }
    }
    match *call {
        Call::Broadcast { root } | Call::Reduce { root, .. } | Call::Gather { root } | Call::Scatter { root }
            if root >= size =>
        {
            fail(format!("root {root} is out of range for a group of {size} ranks"))
        }
        Call::Send { to: peer, .. } | Call::Receive { from: Some(peer), .. } if peer >= size => {
            fail(format!("rank {peer} is out of range for a group of {size} ranks"))
        }
        Call::Send { tag, .. } | Call::Receive { tag, .. } if !(0..=tag_max).contains(&tag) => {
            fail(format!("tag {tag} is out of range: this MPI takes 0 to {tag_max}"))
        }
        _ => Ok(()),
    }
}

/// Whether this input and this output may be the same memory.
fn is_in_place(call: &Call, rank: usize, input: usize, output: usize) -> bool {
    match call {
        Call::AllReduce(_) | Call::Reduce { .. } => true,
        Call::AllGather | Call::Gather { .. } => output == rank,
        Call::Scatter { .. } | Call::ReduceScatter(_) => input == rank,
        Call::AllToAll => input == rank && output == rank,
        _ => false,
    }
}

/// How many inputs and outputs the call needs.
fn counts(call: &Call, rank: usize, size: usize) -> (usize, usize) {
    match *call {
        Call::Broadcast { .. } => (0, 1),
        Call::AllReduce(_) => (1, 1),
        Call::Reduce { root, .. } => (1, usize::from(root == rank)),
        Call::AllGather => (1, size),
        Call::Gather { root } => (1, if root == rank { size } else { 0 }),
        Call::Scatter { root } => (if root == rank { size } else { 0 }, 1),
        Call::ReduceScatter(_) => (size, 1),
        Call::AllToAll => (size, size),
        Call::Barrier | Call::MonitoredBarrier { .. } => (0, 0),
        Call::Send { .. } => (1, 0),
        Call::Receive { .. } => (0, 1),
    }
}
