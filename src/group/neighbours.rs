//! Finding the ranks that share memory with this one.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::reach::{Reach, Shared, Spanning};
use super::{Call, Group, Invocation, Issued};
use crate::collective::across::{Place, Topology, Verdict};
use crate::collective::node;
use crate::engine::{self, Witness};
use crate::error::{Error, Result};
use crate::memory::{Scratch, View};
use crate::shm::identity::Cores;
use crate::shm::{Card, Farewell, Location, Meeting, Node, Sample};
use crate::transport::{Outstanding, SharedTransport, SpanningTransport};
use crate::tuning::{SingleCopy, Terms, Wishes, check_agreement};

/// More ranks of a node than this do not share memory.
const MOST: usize = 256;
/// More ranks than this, none of which share memory, do not tell each other what they call: each tells all others, and
/// beyond the number of ranks up to which an all-gather does so, that would be more messages than most collectives need.
const MOST_APART: usize = 8;
/// How long the ranks of a node may take to exchange descriptors, once all have said that they are there.
const PATIENCE: Duration = Duration::from_secs(60);

impl Group {
    /// Shares memory with the other ranks of this node, if any node holds several and all ranks of the group can. All of
    /// them call it; they use it all or not at all. An error on all of them if they were told different things.
    pub(super) fn meet_neighbours(&mut self, wishes: &Wishes) -> Result<()> {
        let meeting = match wishes.resolve(1, false).shares_memory() {
            true => Meeting::open().inspect_err(|error| log::warn!("{error}")).ok(),
            false => None,
        };
        let card = meeting.as_ref().map_or(Card::nowhere(), Meeting::card);
        let introduction = Introduction { card, terms: Terms::new(wishes), cores: Cores::of_this_process() };
        let introductions: Vec<_> =
            self.exchange(introduction.to_bytes())?.iter().map(Introduction::from_bytes).collect();
        let cards: Vec<_> = introductions.iter().map(|other| other.card).collect();
        let on_host = introductions.iter().filter(|other| other.card.is_on_host_of(&card));
        let ranks = on_host.clone().count();
        let cores = on_host.clone().fold(introduction.cores, |cores, other| cores.and(&other.cores)).count();
        engine::set_ranks_on_host(ranks, cores);
        if on_host.clone().all(|other| other.cores == introduction.cores) {
            let before = introductions[..self.rank()].iter().filter(|other| other.card.is_on_host_of(&card));
            engine::place(&introduction.cores, before.count(), ranks);
        }
        // All ranks see the same introductions, and so decide alike.
        let topology = Topology::new(cards.len(), self.rank(), |a, b| cards[a].is_on_node_of(&cards[b]));
        let terms: Vec<_> = introductions.iter().map(|other| other.terms).collect();
        let named = |error: Error| error.during(format!("creating group \"{}\"", self.lane.name()));
        check_agreement(&terms, topology.width()).map_err(named)?;
        self.tuning = wishes.resolve(topology.width(), engine::is_crowded());
        if self.tuning.shares_memory() && (2..=MOST).contains(&topology.width()) {
            self.tuning.check_chunk(topology.width()).map_err(named)?;
            // A rank that is alone on its node takes part, too: it shares with itself what others share.
            let node = meeting
                .ok_or_else(|| Error::Internal("a card without a meeting".to_owned()))
                .and_then(|meeting| {
                    meeting.join(&cards, self.rank(), &self.tuning, Instant::now() + PATIENCE.min(self.timeout()))
                })
                .inspect_err(|error| log::warn!("group \"{}\": {error}", self.lane.name()))
                .ok();
            let everybody = self.exchange([u8::from(node.is_some())])?.iter().all(|&[met]| met == 1);
            if everybody && let Some(node) = node {
                // Groups that span nodes have no use for it.
                if topology.nodes() == 1 {
                    self.try_single_copy(&node)?;
                }
                self.share(node, topology);
            }
        }
        if self.reach.node().is_none() && (2..=MOST_APART).contains(&self.size()) {
            self.reach = Reach::Apart(Arc::new(Topology::new(self.size(), self.rank(), |a, b| a == b)));
        }
        // The user's first collective is number 0.
        *self.issued.lock().unwrap_or_else(PoisonError::into_inner) = Issued::default();
        Ok(())
    }

    /// Finds out whether the ranks of this node copy straight from each other's memory.
    fn try_single_copy(&self, node: &Node) -> Result<()> {
        let when = self.tuning.single_copy();
        // All ranks say so.
        if when == SingleCopy::Never {
            return Ok(());
        }
        let here = |rank: usize| node.group_rank(rank);
        let mut sample = Sample::new();
        let locations = self.exchange(sample.location().to_bytes())?;
        let locations: Vec<_> = (0..node.size()).map(|rank| Location::from_bytes(&locations[here(rank)])).collect();
        let wants = self.exchange([u8::from(sample.try_out(node, &locations, when))])?;
        // Nobody reads the sample from here on.
        node.copy_once((0..node.size()).all(|rank| wants[here(rank)] == [1]));
        Ok(())
    }

    fn share(&mut self, node: Arc<Node>, topology: Topology) {
        let teller = node.clone();
        self.lane.tell_of_failure(Box::new(move |kind, cause| {
            teller.bid_farewell(&Farewell::Failed(kind, cause.to_owned()));
        }));
        let transport = SharedTransport::new(&node);
        if topology.nodes() == 1 {
            self.reach = Reach::Node(Shared { node, transport: Arc::new(transport) });
            return;
        }
        let place = |rank| topology.is_here(rank).then(|| topology.place_of(rank));
        let neighbours = (0..topology.size()).map(place).collect();
        let transport = Arc::new(SpanningTransport::new(self.transport.clone(), transport, neighbours));
        self.reach = Reach::Nodes(Spanning { place: Place { node, topology: Arc::new(topology) }, transport });
    }

    /// Every rank's bytes, while a group is created.
    fn exchange<const LEN: usize>(&self, own: [u8; LEN]) -> Result<Vec<[u8; LEN]>> {
        // A rank that cannot share memory says so at once, while others wait for it.
        self.exchange_within(own, self.timeout().max(2 * PATIENCE))
    }

    /// Every rank's bytes. All of them call it, in the order of collectives.
    pub(super) fn exchange_within<const LEN: usize>(
        &self,
        own: [u8; LEN],
        timeout: Duration,
    ) -> Result<Vec<[u8; LEN]>> {
        let mut scratch = Scratch::new(LEN * (self.size() + 1));
        let memory = scratch.view();
        let views: Vec<_> = (0..=self.size()).map(|index| memory.slice(index * LEN..(index + 1) * LEN)).collect();
        let (input, outputs) = (&views[self.size()..], &views[..self.size()]);
        input[0].write(&own);
        let invocation = Invocation::new(Call::AllGather, input, outputs);
        let _scratch = self.run_with(&invocation, Some(timeout), scratch)?;
        let bytes = |view: &View| {
            let mut bytes = [0; LEN];
            view.read(&mut bytes);
            bytes
        };
        Ok(outputs.iter().map(bytes).collect())
    }

    /// As [`Group::run`], with views of `scratch`, which comes back. After a failure MPI may still use it: it is leaked.
    pub(super) fn run_with(
        &self,
        invocation: &Invocation<'_>,
        timeout: Option<Duration>,
        scratch: Scratch,
    ) -> Result<Scratch> {
        match self.run_for(invocation, timeout) {
            Ok(_) => Ok(scratch),
            Err(error) => {
                std::mem::forget(scratch);
                Err(error)
            }
        }
    }
}

/// What a rank tells all others of a new group.
struct Introduction {
    card: Card,
    terms: Terms,
    cores: Cores,
}

impl Introduction {
    const TERMS: usize = Card::LEN;
    const CORES: usize = Self::TERMS + Terms::LEN;
    const LEN: usize = Self::CORES + Cores::LEN;

    fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..Self::TERMS].copy_from_slice(&self.card.to_bytes());
        bytes[Self::TERMS..Self::CORES].copy_from_slice(&self.terms.to_bytes());
        bytes[Self::CORES..].copy_from_slice(&self.cores.to_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; Self::LEN]) -> Introduction {
        Introduction {
            card: Card::from_bytes(&part(bytes, 0)),
            terms: Terms::from_bytes(&part(bytes, Self::TERMS)),
            cores: Cores::from_bytes(&part(bytes, Self::CORES)),
        }
    }
}

/// The bytes from `start` on.
fn part<const LEN: usize>(bytes: &[u8], start: usize) -> [u8; LEN] {
    let mut part = [0; LEN];
    part.copy_from_slice(&bytes[start..start + LEN]);
    part
}

/// The ranks of this node, as a collective that waits for them sees them.
struct Waiting(Arc<Node>);

impl Witness for Waiting {
    fn absentees(&self) -> Option<String> {
        node::absentees(&self.0)
    }
}

/// The same for a collective of a group that spans nodes.
struct Across {
    node: Arc<Node>,
    verdict: Arc<Verdict>,
    outstanding: Arc<Outstanding>,
}

impl Witness for Across {
    fn absentees(&self) -> Option<String> {
        match self.verdict.has_begun() {
            // Ranks of this node that are late in a later round wait for other nodes themselves.
            true => self.verdict.missing(" (it is on another node)"),
            false => node::absentees(&self.node),
        }
    }

    fn rings(&self) -> bool {
        // With no message under way it waits for ranks of this node.
        !self.outstanding.is_any()
    }
}

/// The same where no ranks share memory.
struct Apart(Arc<Verdict>);

impl Witness for Apart {
    fn absentees(&self) -> Option<String> {
        self.0.missing("")
    }

    fn rings(&self) -> bool {
        false
    }
}

/// The peer that a message waits for.
struct Peer(Arc<Node>, Call);

impl Witness for Peer {
    fn absentees(&self) -> Option<String> {
        node::laggard(&self.0, &self.1)
    }
}

/// Who knows what a message to or from a rank of this node waits for.
pub(super) fn peer(node: &Arc<Node>, call: &Call) -> Arc<dyn Witness> {
    Arc::new(Peer(node.clone(), *call))
}

/// Who knows what a collective on this node waits for.
pub(super) fn waiting(node: &Arc<Node>) -> Arc<dyn Witness> {
    Arc::new(Waiting(node.clone()))
}

/// Who knows what a collective of several nodes waits for.
pub(super) fn across(node: &Arc<Node>, verdict: Arc<Verdict>, outstanding: &Arc<Outstanding>) -> Arc<dyn Witness> {
    Arc::new(Across { node: node.clone(), verdict, outstanding: outstanding.clone() })
}

/// Who knows what a collective of ranks that share no memory waits for.
pub(super) fn apart(verdict: Arc<Verdict>) -> Arc<dyn Witness> {
    Arc::new(Apart(verdict))
}
