//! Whether all ranks call the same thing, and what they say they call.

use std::fmt::Write;

use super::Call;
use super::blocks::{packed, read_table};
use super::slots::Slots;
use crate::collective::Invocation;
use crate::error::{Error, Result};
use crate::memory::View;
use crate::reduce::{DataType, ReduceOp};
use crate::shm::{Announcement, Node, Round};

/// Up to so many ranks each checks the blocks of every pair, not only its own.
const FEW: usize = 16;

/// The names of the operations; their place here is what travels.
const NAMES: [&str; 9] =
    ["broadcast", "all_reduce", "reduce", "all_gather", "gather", "scatter", "reduce_scatter", "all_to_all", "barrier"];

/// No reduce op.
const NO_OP: u64 = 0xff;

/// Not part of the call: what this rank sends lies in arenas that its peers can map.
const IN_ARENA: u64 = 1 << 63;

/// The same, and that what this rank sends lies in arenas.
pub(super) fn in_arena(announcement: Announcement) -> Announcement {
    Announcement { what: announcement.what | IN_ARENA, ..announcement }
}

/// Whether it says so.
pub(super) fn is_in_arena(announcement: Announcement) -> bool {
    announcement.what & IN_ARENA != 0
}

/// What this rank tells the others about its call.
pub(in crate::collective) fn announcement(invocation: &Invocation<'_>) -> Announcement {
    let Invocation { call, dtype, inputs, outputs } = invocation;
    let length = |views: &[View]| views.first().map_or(0, View::len);
    let (code, root, count, layout) = match call {
        Call::Broadcast { root } => (0, Some(*root), length(outputs), 0),
        Call::AllReduce(_) => (1, None, length(inputs), 0),
        Call::Reduce { root, .. } => (2, Some(*root), length(inputs), 0),
        Call::AllGather => (3, None, length(inputs), digest(outputs)),
        Call::Gather { root } => (4, Some(*root), length(inputs), 0),
        Call::Scatter { root } if inputs.is_empty() => (5, Some(*root), length(outputs), 0),
        Call::Scatter { root } => (5, Some(*root), packed(inputs), 0),
        Call::ReduceScatter(_) => (6, None, packed(inputs), digest(inputs)),
        Call::AllToAll => (7, None, packed(inputs), 0),
        Call::Barrier | Call::MonitoredBarrier { .. } | Call::Send { .. } | Call::Receive { .. } => (8, None, 0, 0),
    };
    let op = call.reduction().map_or(NO_OP, |reduction| reduction.op() as u64);
    let factor = call.reduction().map_or(0, |reduction| reduction.factor().to_bits());
    let root = root.map_or(0, |root| root as u64 + 1);
    Announcement {
        what: code | (*dtype as u64) << 8 | op << 16 | root << 32,
        count: count as u64,
        detail: layout ^ factor,
    }
}

/// A number that differs, most likely, for other lengths (FNV-1a).
fn digest(views: &[View]) -> u64 {
    views
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, view| (hash ^ view.len() as u64).wrapping_mul(0x0000_0100_0000_01b3))
}

/// An error if ranks call different things. All of them have arrived at `slots`, and all of them find the error.
pub(super) fn check(slots: Slots<'_>, invocation: &Invocation<'_>, own: Announcement) -> Result<()> {
    let others = || slots.node.peers().map(|rank| (rank, slots.announcement(rank)));
    if others().any(|(_, other)| (other.what ^ own.what) & !IN_ARENA != 0) {
        return Err(disagreement(slots, "ranks called different operations"));
    }
    match invocation.call {
        Call::Broadcast { .. } | Call::AllReduce(_) | Call::Reduce { .. } | Call::ReduceScatter(_) => {
            if others().any(|(_, other)| (other.count, other.detail) != (own.count, own.detail)) {
                return Err(disagreement(slots, "ranks passed different sizes or factors"));
            }
        }
        Call::AllGather => {
            if others().any(|(_, other)| other.detail != own.detail) {
                return Err(disagreement(slots, "ranks expect different sizes of each other"));
            }
            for (rank, output) in invocation.outputs.iter().enumerate() {
                compare(slots, (rank, slots.count(rank)), (slots.rank(), output.len()))?;
            }
        }
        Call::Gather { root } => {
            for rank in (0..slots.size()).filter(|&rank| rank != root) {
                compare(slots, (rank, slots.count(rank)), (root, read_table(slots, root, 0, rank)))?;
            }
        }
        Call::Scatter { root } => {
            for rank in (0..slots.size()).filter(|&rank| rank != root) {
                compare(slots, (root, read_table(slots, root, 0, rank)), (rank, slots.count(rank)))?;
            }
        }
        Call::AllToAll => {
            let (own, size) = (slots.rank(), slots.size());
            for (from, to) in (0..size).flat_map(|from| (0..size).map(move |to| (from, to))) {
                if from != to && (size <= FEW || from == own || to == own) {
                    compare(slots, (from, read_table(slots, from, 0, to)), (to, read_table(slots, to, 1, from)))?;
                }
            }
        }
        Call::Barrier | Call::MonitoredBarrier { .. } | Call::Send { .. } | Call::Receive { .. } => {}
    }
    Ok(())
}

/// What one rank sends has to be what the other one expects.
fn compare(slots: Slots<'_>, (from, sent): (usize, usize), (to, expected): (usize, usize)) -> Result<()> {
    if sent == expected {
        return Ok(());
    }
    if to == slots.rank() {
        let peer = slots.node.group_rank(from);
        return Err(Error::Length { peer, received: sent as u64, expected: expected as u64 });
    }
    Err(Error::Mismatch(format!(
        "rank {} sent {sent} bytes to rank {}, where {expected} bytes were expected; every rank must pass matching sizes \
         and dtypes",
        slots.node.group_rank(from),
        slots.node.group_rank(to)
    )))
}

pub(in crate::collective) fn disagreement(slots: Slots<'_>, what: &str) -> Error {
    let mut text = format!("{what}: ");
    for rank in 0..slots.size() {
        let separator = if rank == 0 { "" } else { "; " };
        let _ = write!(
            text,
            "{separator}rank {} called {}",
            slots.node.group_rank(rank),
            describe(slots.announcement(rank))
        );
    }
    Error::Mismatch(text)
}

/// The name of the operation that is announced as `what`.
pub(in crate::collective) fn name(what: u64) -> Option<&'static str> {
    NAMES.get((what & 0xff) as usize).copied()
}

/// An announcement in words.
pub(in crate::collective) fn describe(announcement: Announcement) -> String {
    let Announcement { what, count, .. } = announcement;
    let what = what & !IN_ARENA;
    let Some(name) = name(what) else { return format!("something unknown ({what:#x})") };
    let mut text = name.to_owned();
    let dtype = DataType::ALL.iter().find(|&&dtype| dtype as u64 == what >> 8 & 0xff);
    // A scatter's root and all_to_all announce something else.
    if let Some(dtype) = dtype.filter(|_| !matches!(name, "scatter" | "all_to_all" | "barrier")) {
        let elements = count as usize / dtype.size();
        let _ = match dtype {
            DataType::Bytes => write!(text, " of {count} bytes"),
            _ => write!(text, " of {elements} {dtype} ({count} bytes)"),
        };
    } else if let Some(dtype) = dtype.filter(|&&dtype| name != "barrier" && dtype != DataType::Bytes) {
        let _ = write!(text, " of {dtype}");
    }
    if let Some(op) = ReduceOp::ALL.iter().find(|&&op| op as u64 == what >> 16 & 0xff) {
        let _ = write!(text, " with {op}");
    }
    if let Some(root) = (what >> 32).checked_sub(1) {
        let preposition = if matches!(name, "reduce" | "gather") { "to" } else { "from" };
        let _ = write!(text, " {preposition} rank {root}");
    }
    text
}

/// Who has not come to the round begun last, and what they did last; `None` if everybody has.
pub(super) fn absentees(node: &Node, round: Round) -> Option<String> {
    let missing: Vec<_> = node
        .missing(round)
        .into_iter()
        .map(|rank| match node.is_within_collective(round) {
            true => format!("rank {} takes part, but has not gone on", node.group_rank(rank)),
            false => {
                let last = last_call(node.previous(round, rank));
                format!("rank {} has not arrived ({last})", node.group_rank(rank))
            }
        })
        .collect();
    (!missing.is_empty()).then(|| missing.join("; "))
}

/// What a rank did last.
pub(super) fn last_call(announcement: Option<Announcement>) -> String {
    match announcement {
        Some(announcement) => format!("its last collective here was {}", describe(announcement)),
        None => "it has called no collective here".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reduce::Reduction;

    #[test]
    fn an_announcement_reads_as_the_call() {
        let reduction = Reduction::new(DataType::Float32, ReduceOp::Max, 1.0).unwrap();
        let memory = {
            let mut scratch = crate::memory::Scratch::new(12);
            scratch.view()
        };
        let describe =
            |call, inputs: &[View], outputs: &[View]| describe(announcement(&Invocation::new(call, inputs, outputs)));
        assert_eq!(
            describe(Call::Reduce { root: 3, reduction }, &[memory], &[]),
            "reduce of 3 float32 (12 bytes) with MAX to rank 3"
        );
        assert_eq!(describe(Call::Broadcast { root: 0 }, &[], &[memory]), "broadcast of 12 bytes from rank 0");
        assert_eq!(describe(Call::AllToAll, &[memory], &[memory]), "all_to_all");
        assert_eq!(describe(Call::Barrier, &[], &[]), "barrier");
    }
}
