//! Whether the nodes call the same thing. In every collective their leaders tell each other what is called. The data does
//! not wait for that, but no collective ends well before it is known.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use super::fingerprint::{Statement, check_nodes};
use super::topology::Topology;
use crate::collective::Context;
use crate::error::{Error, Result};
use crate::memory::View;
use crate::transport::{Lease, Posted};

/// How long a rank that fails waits for others to take its statement. Some MPIs end the send of a few hundred bytes only when
/// it was received, and who has failed for another rank's statement receives nothing any more.
const TELLING: Duration = Duration::from_secs(1);

/// See the module. One for each collective.
#[derive(Default)]
pub struct Verdict {
    state: Mutex<State>,
}

#[derive(Default)]
enum State {
    /// Ranks of this node are still to come.
    #[default]
    Before,
    /// The leader of this node asks for it.
    Elsewhere,
    Asking(Box<Asking>),
    Passed,
}

/// What the leader has heard.
struct Asking {
    statements: Vec<Option<Statement>>,
    topology: Arc<Topology>,
    /// Statements under way to this rank, by node.
    receiving: Vec<(usize, View, Posted)>,
    sending: Vec<Posted>,
    /// Since when this rank only waits for others to take its statement.
    telling: Option<Instant>,
    _memory: Lease,
}

impl Verdict {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all ranks of this node have come.
    pub fn has_begun(&self) -> bool {
        !matches!(*self.state(), State::Before)
    }

    /// Begins where another rank leads.
    pub(super) fn leave_to_leader(&self) {
        *self.state() = State::Elsewhere;
    }

    /// Begins where this rank leads: tells the other leaders what its node says.
    pub(super) fn ask(&self, context: &Context, topology: &Arc<Topology>, statement: Statement) -> Result<()> {
        let len = Statement::LEN;
        let scratch = context.scratch(len * topology.nodes());
        let memory = |node: usize| scratch.view().slice(node * len..(node + 1) * len);
        let own = memory(topology.node());
        own.write(&statement.to_bytes());
        let (mut receiving, mut sending) = (Vec::new(), Vec::new());
        for node in topology.other_nodes() {
            receiving.push((node, memory(node), context.receive(topology.members(node)[0], &memory(node))?));
        }
        for node in topology.other_nodes() {
            sending.push(context.send(topology.members(node)[0], &own)?);
        }
        let mut statements = vec![None; topology.nodes()];
        statements[topology.node()] = Some(statement);
        *self.state() = State::Asking(Box::new(Asking {
            statements,
            topology: topology.clone(),
            receiving,
            sending,
            telling: None,
            _memory: scratch,
        }));
        Ok(())
    }

    /// Takes in what has come. There is a failure as soon as it is known that nodes do not agree, unless this rank has one;
    /// if that is a message of another length, it gives way: a peer that calls something else sends other lengths, too, and
    /// what it calls says more.
    pub(super) fn progress(&self, task: &mut TaskContext<'_>, failure: &mut Option<Error>) {
        let mut state = self.state();
        let State::Asking(asking) = &mut *state else { return };
        match asking.progress(task) {
            Ok(true) => *state = State::Passed,
            Ok(false) => {}
            Err(error) => {
                if matches!(failure, None | Some(Error::Length { .. })) {
                    *failure = Some(error);
                }
            }
        }
    }

    /// Whether nothing speaks against ending well.
    pub(super) fn has_passed(&self) -> bool {
        matches!(*self.state(), State::Elsewhere | State::Passed)
    }

    /// Whether a rank that has failed, and asks until it is so, may say it: the other leaders have been told what this node
    /// says, if it is for this rank to tell them, and nothing better is to be expected (see [`Verdict::progress`]).
    pub(super) fn may_fail(&self, error: &Error) -> bool {
        let mut state = self.state();
        let State::Asking(asking) = &mut *state else { return true };
        let since = asking.telling.get_or_insert_with(Instant::now);
        let has_heard = match error {
            Error::Length { peer, .. } => asking.statements[asking.topology.node_of(*peer)].is_some(),
            _ => true,
        };
        asking.sending.is_empty() && has_heard || since.elapsed() >= TELLING
    }

    /// Of which nodes nothing has been heard, or that all have come; `None` if this rank does not know. `whereabouts`: what
    /// to say of a single rank.
    pub fn missing(&self, whereabouts: &str) -> Option<String> {
        let all_here = || Some("all ranks take part; one has not gone on".to_owned());
        let state = self.state();
        let asking = match &*state {
            State::Before | State::Elsewhere => return None,
            State::Passed => return all_here(),
            State::Asking(asking) => asking,
        };
        let nodes: Vec<_> = asking
            .receiving
            .iter()
            .map(|(node, ..)| {
                let ranks: Vec<_> = asking.topology.members(*node).iter().map(ToString::to_string).collect();
                match &ranks[..] {
                    [rank] => format!("rank {rank} has not arrived{whereabouts}"),
                    _ => format!("some of ranks {} have not arrived (they are on another node)", ranks.join(", ")),
                }
            })
            .collect();
        if nodes.is_empty() { all_here() } else { Some(nodes.join("; ")) }
    }
}

impl Asking {
    /// True when everything has come and gone.
    fn progress(&mut self, task: &mut TaskContext<'_>) -> Result<bool> {
        let mut failure = None;
        self.sending.retain_mut(|posted| match Pin::new(posted).poll(task) {
            Poll::Pending => true,
            Poll::Ready(result) => {
                failure = failure.take().or(result.err());
                false
            }
        });
        let (statements, before) = (&mut self.statements, self.receiving.len());
        self.receiving.retain_mut(|(node, view, posted)| match Pin::new(posted).poll(task) {
            Poll::Pending => true,
            Poll::Ready(result) => {
                let mut bytes = [0; Statement::LEN];
                view.read(&mut bytes);
                statements[*node] = Some(Statement::from_bytes(&bytes));
                failure = failure.take().or(result.err());
                false
            }
        });
        if let Some(error) = failure {
            return Err(error);
        }
        if self.receiving.len() < before || self.receiving.is_empty() {
            check_nodes(&self.statements, &self.topology)?;
        }
        Ok(self.receiving.is_empty() && self.sending.is_empty())
    }
}
