//! Arguments are checked before anything moves.

use std::ops::Range;

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
    // To compare all pairs takes longer than a short collective of many ranks; mostly it can be seen without.
    let outputs_ascend = ascend(outputs);
    for (index, output) in outputs.iter().enumerate().filter(|_| !outputs_ascend) {
        if let Some(other) = outputs[..index].iter().position(|other| other.overlaps(output)) {
            return fail(format!("outputs {other} and {index} overlap in memory; give each its own"));
        }
    }
    // What is written must not replace what is still to be read, unless it is read and written in one place.
    let may_overlap = inputs.len().min(outputs.len()) == 1 || spans_meet(inputs, outputs);
    for (index, output) in outputs.iter().enumerate().filter(|_| may_overlap) {
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

/// Whether each view begins where those before it end, or later.
fn ascend(views: &[View]) -> bool {
    let mut end = 0;
    views.iter().map(span).filter(|span| !span.is_empty()).all(|span| {
        let follows = span.start >= end;
        end = span.end;
        follows
    })
}

/// Whether what lies from the first to the last byte of `a` overlaps with that of `b`.
fn spans_meet(a: &[View], b: &[View]) -> bool {
    let all = |views: &[View]| {
        let spans = views.iter().map(span).filter(|span| !span.is_empty());
        spans.reduce(|all, span| all.start.min(span.start)..all.end.max(span.end))
    };
    matches!((all(a), all(b)), (Some(a), Some(b)) if a.start < b.end && b.start < a.end)
}

/// Its addresses.
fn span(view: &View) -> Range<usize> {
    let start = view.as_ptr() as usize;
    start..start + view.len()
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
