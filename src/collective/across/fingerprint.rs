//! What ranks of several nodes compare about a call: a few words, however many ranks there are.
//!
//! Ranks that send blocks of any lengths to each other cannot compare every pair. Each adds a number for every block that it
//! sends, and subtracts the same number for every block of that length that it expects; if all agree, the sum over all
//! ranks is 0.

use super::super::node::agreement::{announcement, describe, disagreement, name};
use super::super::node::slots::Slots;
use super::topology::Topology;
use crate::collective::{Call, Invocation};
use crate::error::{Error, Kind, Result};
use crate::memory::View;
use crate::shm::Announcement;

/// What has to agree, apart from the operation itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// Count and detail.
    Same,
    /// The detail; counts may differ.
    SameDetail,
    /// The details of all ranks have to add up to 0.
    Balance,
}

impl Rule {
    /// The rule for calls that announce `what`.
    fn of(what: u64) -> Rule {
        match name(what) {
            Some("all_gather") => Rule::SameDetail,
            Some("gather" | "scatter" | "all_to_all") => Rule::Balance,
            _ => Rule::Same,
        }
    }
}

/// What this rank tells the others about its call.
pub fn fingerprint(invocation: &Invocation<'_>, topology: &Topology) -> Announcement {
    let rank = topology.rank();
    let common = announcement(invocation);
    let Invocation { call, inputs, outputs, .. } = invocation;
    let sent = |to: usize, view: &View| block(rank, to, view.len());
    let expected = |from: usize, view: &View| block(from, rank, view.len()).wrapping_neg();
    let sum = |numbers: &mut dyn Iterator<Item = u64>| numbers.fold(0, u64::wrapping_add);
    let sent_to_all = || sum(&mut inputs.iter().enumerate().map(|(to, view)| sent(to, view)));
    let expected_of_all = || sum(&mut outputs.iter().enumerate().map(|(from, view)| expected(from, view)));
    match *call {
        Call::Gather { root } if root == rank => Announcement { detail: expected_of_all(), ..common },
        Call::Gather { root } => Announcement { detail: sent(root, &inputs[0]), ..common },
        Call::Scatter { root } if root == rank => Announcement { detail: sent_to_all(), ..common },
        Call::Scatter { root } => Announcement { detail: expected(root, &outputs[0]), ..common },
        Call::AllToAll => {
            let here = topology.neighbours().iter().flat_map(|&other| [inputs[other].len(), outputs[other].len()]);
            let longest = here.max().unwrap_or(0);
            Announcement { detail: sent_to_all().wrapping_add(expected_of_all()), count: longest as u64, ..common }
        }
        _ => common,
    }
}

/// A number for a block of `len` bytes (the mixing step of splitmix64); none for a rank's block for itself, which was
/// checked.
fn block(from: usize, to: usize, len: usize) -> u64 {
    if from == to {
        return 0;
    }
    let mix = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    mix(mix((from as u64) << 32 | to as u64).wrapping_add(len as u64).wrapping_add(0x9e37_79b9_7f4a_7c15))
}

/// An error if ranks of this node, all of which have arrived, call different things. All of them find it.
pub(super) fn check_node(slots: Slots<'_>) -> Result<()> {
    let own = slots.announcement(slots.rank());
    let all = || (0..slots.size()).map(|rank| slots.announcement(rank));
    if all().any(|other| other.what != own.what) {
        return Err(disagreement(slots, DIFFERENT_CALLS));
    }
    if all().any(|other| !fit(own, other)) {
        return Err(disagreement(slots, different_sizes(own.what)));
    }
    Ok(())
}

const DIFFERENT_CALLS: &str = "ranks called different operations";

fn different_sizes(what: u64) -> &'static str {
    match Rule::of(what) {
        Rule::Same => "ranks passed different sizes or factors",
        Rule::SameDetail => "ranks expect different sizes of each other",
        Rule::Balance => "what ranks send is not what others expect; every rank must pass matching sizes and dtypes",
    }
}

/// Whether two calls of one operation fit each other, as far as that depends on the two alone.
fn fit(a: Announcement, b: Announcement) -> bool {
    match Rule::of(a.what) {
        Rule::Same => (a.count, a.detail) == (b.count, b.detail),
        Rule::SameDetail => a.detail == b.detail,
        Rule::Balance => true,
    }
}

/// What a node says to the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Statement {
    /// What its ranks call; the detail is the sum of theirs where it has to balance.
    pub call: Announcement,
    /// Why it takes no further part, if so: its ranks call different things, or one of them has failed or died.
    pub failure: Option<(Kind, String)>,
}

impl Statement {
    /// Bytes of a statement on its way.
    pub const LEN: usize = 512;
    const TEXT: usize = 40;

    /// What the ranks of this node, all of which have arrived, say; `result` is that of [`check_node`].
    pub fn of_node(slots: Slots<'_>, result: &Result<()>) -> Statement {
        let mut call = slots.announcement(slots.rank());
        if Rule::of(call.what) == Rule::Balance {
            call.detail = (0..slots.size()).map(|rank| slots.announcement(rank).detail).fold(0, u64::wrapping_add);
        }
        Statement { call, failure: result.as_ref().err().map(|error| (error.kind(), error.to_string())) }
    }

    /// What a rank says that has failed before all ranks of its node have arrived.
    pub fn of_failure(call: Announcement, error: &Error) -> Statement {
        Statement { call, failure: Some((error.kind(), error.to_string())) }
    }

    /// The statement as it travels.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let (kind, text) = self.failure.as_ref().map_or((Kind::None, ""), |(kind, text)| (*kind, text.as_str()));
        let mut len = text.len().min(Self::LEN - Self::TEXT);
        while !text.is_char_boundary(len) {
            len -= 1;
        }
        let words = [self.call.what, self.call.count, self.call.detail, len as u64, kind as u64];
        for (word, bytes) in words.iter().zip(bytes.chunks_exact_mut(8)) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        bytes[Self::TEXT..Self::TEXT + len].copy_from_slice(&text.as_bytes()[..len]);
        bytes
    }

    /// The statement that [`Statement::to_bytes`] has made.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Statement {
        let word = |index: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[index * 8..(index + 1) * 8]);
            u64::from_le_bytes(word)
        };
        let call = Announcement { what: word(0), count: word(1), detail: word(2) };
        let len = (word(3) as usize).min(Self::LEN - Self::TEXT);
        let text = || String::from_utf8_lossy(&bytes[Self::TEXT..Self::TEXT + len]).into_owned();
        Statement { call, failure: (word(4) != Kind::None as u64).then(|| (Kind::from_number(word(4)), text())) }
    }
}

/// An error if what nodes have said so far does not fit; `None` where a node has not said anything.
pub(super) fn check_nodes(statements: &[Option<Statement>], topology: &Topology) -> Result<()> {
    let said = || statements.iter().flatten();
    for (node, statement) in statements.iter().enumerate() {
        if let Some((kind, cause)) = statement.as_ref().and_then(|statement| statement.failure.as_ref()) {
            return Err(Error::PeerFailed { rank: topology.members(node)[0], kind: *kind, cause: cause.clone() });
        }
    }
    let Some(first) = said().next().map(|statement| statement.call) else { return Ok(()) };
    let list = |what: &str| {
        let calls = statements.iter().enumerate().filter_map(|(node, statement)| {
            let ranks: Vec<_> = topology.members(node).iter().map(ToString::to_string).collect();
            let plural = if ranks.len() == 1 { "" } else { "s" };
            Some(format!("rank{plural} {} called {}", ranks.join(", "), describe(statement.as_ref()?.call)))
        });
        Error::Mismatch(format!("{what}: {}", calls.collect::<Vec<_>>().join("; ")))
    };
    if said().any(|other| other.call.what != first.what) {
        return Err(list(DIFFERENT_CALLS));
    }
    let is_balanced = || said().fold(0_u64, |sum, statement| sum.wrapping_add(statement.call.detail)) == 0;
    let fits = match Rule::of(first.what) {
        Rule::Balance => statements.iter().any(Option::is_none) || is_balanced(),
        _ => said().all(|other| fit(first, other.call)),
    };
    if fits { Ok(()) } else { Err(list(different_sizes(first.what))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Scratch;

    #[test]
    fn a_statement_survives_the_journey() {
        let call = Announcement { what: 3, count: 1 << 40, detail: u64::MAX };
        for failure in [None, Some((Kind::Timeout, "ä".repeat(100)))] {
            let statement = Statement { call, failure };
            assert_eq!(Statement::from_bytes(&statement.to_bytes()), statement);
        }
        let long = Statement { call, failure: Some((Kind::Backend, format!("a{}", "ä".repeat(1000)))) };
        let (_, text) = Statement::from_bytes(&long.to_bytes()).failure.unwrap();
        assert!(text.len() > 470 && text.ends_with('ä'));
    }

    #[test]
    fn blocks_balance_only_if_all_agree() {
        let mut scratch = Scratch::new(100);
        let memory = scratch.view();
        let length = |from: usize, to: usize| (from * 7 + to * 3) % 11;
        for wrong in [false, true] {
            let sum = (0..4).map(|rank| {
                let inputs: Vec<_> = (0..4).map(|to| memory.slice(0..length(rank, to))).collect();
                let expected = |from| length(from, rank) + usize::from(wrong && (from, rank) == (2, 1));
                let outputs: Vec<_> = (0..4).map(|from| memory.slice(0..expected(from))).collect();
                let topology = Topology::new(4, rank, |a, b| a / 2 == b / 2);
                fingerprint(&Invocation::new(Call::AllToAll, &inputs, &outputs), &topology).detail
            });
            assert_eq!(sum.fold(0, u64::wrapping_add) == 0, !wrong);
        }
    }
}
