//! The ranks of a group that are on this node, and the rounds in which they exchange data.
//!
//! In each round every rank may put data into its slot, says what it is doing, and sets its flag; when it has seen
//! everybody's flag of the round it may read everybody's slot. A rank sets its flag of round n + 1 only when it has read
//! what it wants of round n, so whoever has seen all flags of round n + 1 may write into the slots of round n again: two
//! slots per rank are enough. All ranks run the same rounds in the same order, one at a time.

use std::sync::atomic::{AtomicBool, AtomicU64 as LocalU64, Ordering as LocalOrdering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::atomic::{Ordering, fence};
use super::board::{Board, Farewell};
use super::domains::Domains;
use super::doorbell::Doorbell;
use super::heap::Spot;
use super::identity::Process;
use super::layout::{COUNT, DETAIL, FLAG, Layout, WHAT};
use super::mapped::{self, Mapped};
use super::pace::Pace;
use super::ring::{RingReader, RingWriter};
use super::segment::Segment;
use super::single_copy;
use crate::error::{Error, Result};
use crate::memory::View;
use crate::tuning::Tuning;

/// How often a rank that waits looks whether its peers still live.
const LIVENESS: Duration = Duration::from_millis(200);

/// What a rank says about what it does in a round. Its meaning is up to those who write and read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Announcement {
    /// What it does.
    pub what: u64,
    /// With how many bytes.
    pub count: u64,
    /// What else has to agree.
    pub detail: u64,
}

/// The number of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round(u64);

impl Round {
    /// The one that every rank begins with.
    pub fn first() -> Round {
        Round(0)
    }

    /// The round before, which must exist.
    pub fn previous(self) -> Round {
        Round(self.0 - 1)
    }
}

/// A member of a [`Node`].
#[derive(Debug)]
pub(super) struct Member {
    /// Its rank in the group.
    pub group_rank: usize,
    pub process: Process,
    /// `None`: this process.
    pub doorbell: Option<Arc<Doorbell>>,
}

/// See the module. Its ranks are numbered from 0 in the order of their ranks in the group.
#[derive(Debug)]
pub struct Node {
    segment: Arc<Segment>,
    layout: Layout,
    rank: usize,
    members: Vec<Member>,
    /// Which of its ranks are near each other, if that matters.
    domains: Option<Domains>,
    /// Rounds that this rank has begun.
    begun: LocalU64,
    /// The number of the first round of the collective begun last.
    first: LocalU64,
    /// When this rank last looked which peers have died.
    looked: Mutex<Instant>,
    /// The peers that have died, as of then.
    dead: Vec<AtomicBool>,
    /// Rung for messages to oneself.
    own_doorbell: Arc<Doorbell>,
    /// Up to so many bytes every rank does the whole of a reduction.
    divide: usize,
    /// From so many bytes on, what is written goes past the caches; `None`: never.
    stream: Option<usize>,
    /// Of its slots.
    pace: Pace,
    /// Whether all ranks copy straight from each other's memory.
    copies_once: AtomicBool,
    /// Whether they map each other's arenas.
    maps: AtomicBool,
    /// Whose memory this one does not find.
    #[cfg(test)]
    unreadable: Option<usize>,
    /// Orders writers of the farewell.
    farewell: Mutex<()>,
}

/// Memory of another rank, which this one reads.
#[derive(Debug)]
pub enum Remote {
    /// It is mapped here.
    Mapped(Mapped),
    /// It is in that process, at that address.
    Address(u32, u64),
}

impl Remote {
    /// Copies to `output` what begins `offset` bytes from its start; `is_long`: see [`Node::take`]. False if the system does
    /// not allow it.
    pub fn read(&self, node: &Node, offset: usize, output: &View, is_long: bool) -> bool {
        match self {
            Remote::Mapped(mapped) => {
                node.take(output, &mapped.view().slice(offset..offset + output.len()), is_long);
                true
            }
            Remote::Address(pid, address) => single_copy::read(*pid, address + offset as u64, output)
                .inspect_err(|error| log::warn!("process_vm_readv from process {pid}: {error}"))
                .is_ok(),
        }
    }
}

/// All nodes of this process, for [`leave_all`].
static NODES: Mutex<Vec<Weak<Node>>> = Mutex::new(Vec::new());

/// Tells the peers of every group that this process takes no further part: it comes to its end.
pub fn leave_all() {
    let nodes = std::mem::take(&mut *NODES.lock().unwrap_or_else(PoisonError::into_inner));
    for node in nodes.iter().filter_map(Weak::upgrade) {
        node.bid_farewell(&Farewell::Left);
    }
}

impl Node {
    /// Has [`leave_all`] find it.
    pub(super) fn register(self: Arc<Self>) -> Arc<Self> {
        let mut nodes = NODES.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.retain(|node| node.strong_count() > 0);
        nodes.push(Arc::downgrade(&self));
        self
    }

    pub(super) fn new(
        segment: Arc<Segment>,
        layout: Layout,
        rank: usize,
        members: Vec<Member>,
        own_doorbell: Arc<Doorbell>,
    ) -> Self {
        Node {
            segment,
            layout,
            rank,
            begun: LocalU64::new(0),
            first: LocalU64::new(0),
            looked: Mutex::new(Instant::now()),
            dead: members.iter().map(|_| AtomicBool::new(false)).collect(),
            members,
            domains: None,
            own_doorbell,
            divide: Tuning::default().divide(),
            stream: Tuning::default().stream(),
            pace: Pace::default(),
            copies_once: AtomicBool::new(false),
            maps: AtomicBool::new(true),
            #[cfg(test)]
            unreadable: None,
            farewell: Mutex::default(),
        }
    }

    /// The same with its ranks in these domains.
    pub(super) fn divided(self, domains: Option<Domains>) -> Self {
        Node { domains, ..self }
    }

    /// The domains of its ranks, if long reductions shall work in two levels.
    pub fn domains(&self) -> Option<&Domains> {
        self.domains.as_ref()
    }

    /// The same, with ranks dividing the work of reductions of more than `bytes` bytes. All ranks say the same.
    pub(super) fn dividing_above(self, bytes: usize) -> Self {
        Node { divide: bytes, ..self }
    }

    /// The same, going past the caches with what has so many bytes or more. Each rank for itself.
    pub(crate) fn streaming_from(self, bytes: Option<usize>) -> Self {
        Node { stream: bytes, ..self }
    }

    /// Whether an operation that writes so many bytes goes past the caches, since not all of it would stay there.
    pub fn is_long(&self, len: usize) -> bool {
        self.stream.is_some_and(|stream| len >= stream)
    }

    /// Copies to one's slot; `is_long`: past the caches in any case, else as is faster.
    pub fn show(&self, place: &View, data: &View, is_long: bool) {
        self.show_with(&self.pace, place, data, is_long);
    }

    /// The same for another place where others read, which has a pace of its own.
    pub(super) fn show_with(&self, pace: &Pace, place: &View, data: &View, is_long: bool) {
        match self.stream {
            None => place.copy_from(data),
            Some(_) => pace.show(place, data, is_long),
        }
    }

    /// Whether [`Node::show`] goes past the caches with so many bytes.
    pub fn shows_past_caches(&self, len: usize) -> bool {
        self.stream.is_some() && self.pace.is_past(len)
    }

    /// Copies to an output; `is_long`: past the caches.
    pub fn take(&self, output: &View, data: &View, is_long: bool) {
        if is_long { output.stream_from(data) } else { output.copy_from(data) }
    }

    /// Up to so many bytes every rank does the whole of a reduction.
    pub fn divide(&self) -> usize {
        self.divide
    }

    /// This process's rank on the node.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of ranks on the node.
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// The rank in the group of a rank of the node.
    pub fn group_rank(&self, rank: usize) -> usize {
        self.members[rank].group_rank
    }

    /// The process id of a rank.
    pub(super) fn pid(&self, rank: usize) -> u32 {
        self.members[rank].process.pid
    }

    /// Whether ranks copy straight from each other's memory, as far as that pays.
    pub fn copies_once(&self) -> bool {
        // Relaxed: the operations of a group run one after the other, which orders them.
        self.copies_once.load(LocalOrdering::Relaxed)
    }

    /// Says whether they do. All ranks say the same, between the same two collectives.
    pub fn copy_once(&self, copies: bool) {
        // Relaxed: see `copies_once`.
        self.copies_once.store(copies, LocalOrdering::Relaxed);
    }

    /// Whether they map each other's arenas, as far as their data lies there.
    pub fn maps(&self) -> bool {
        // Relaxed: see `copies_once`.
        self.maps.load(LocalOrdering::Relaxed)
    }

    /// They do no longer. All ranks say so, between the same two collectives.
    pub fn stop_mapping(&self) {
        // Relaxed: see `copies_once`.
        self.maps.store(false, LocalOrdering::Relaxed);
    }

    /// `len` bytes at a spot of `rank`, mapped here. `None` if it is ordinary memory, or the system does not allow it.
    pub fn map(&self, rank: usize, spot: &Spot, len: usize) -> Option<Mapped> {
        if !spot.is_in_arena() {
            return None;
        }
        let failed = |error: &Error| log::warn!("memory of rank {}: {error}", self.group_rank(rank));
        Mapped::new(self.members[rank].process, spot, len).inspect_err(failed).ok()
    }

    /// `len` bytes at a spot of `rank`, to be read from here. `None` if the system does not allow it.
    pub fn remote(&self, rank: usize, spot: &Spot, len: usize) -> Option<Remote> {
        #[cfg(test)]
        if self.unreadable == Some(rank) {
            return None;
        }
        if self.maps()
            && let Some(mapped) = self.map(rank, spot, len)
        {
            return Some(Remote::Mapped(mapped));
        }
        self.copies_once().then_some(Remote::Address(self.pid(rank), spot.address))
    }

    /// The rank on the node of a rank of the group, if it is here.
    pub fn rank_of(&self, group_rank: usize) -> Option<usize> {
        self.members.iter().position(|member| member.group_rank == group_rank)
    }

    /// An error if `rank`, whose memory has been read, may have used it for something else by then.
    pub fn check_after_reading(&self, rank: usize) -> Result<()> {
        // Acquire: what `check_peer` finds is not older than what has been read. A rank says that it has failed before its
        // memory is its own again.
        fence(Ordering::Acquire);
        self.check_peer(rank)
    }

    /// Bytes of a payload, at most.
    pub fn capacity(&self) -> usize {
        self.layout.capacity()
    }

    /// The other ranks, beginning with the next one, so that not all read from the same one at once.
    pub fn peers(&self) -> impl Iterator<Item = usize> + use<> {
        let (rank, size) = (self.rank, self.size());
        (1..size).map(move |distance| (rank + distance) % size)
    }

    /// The next round. The rank must have read what it wants of the one before.
    pub fn begin(&self) -> Round {
        // Relaxed: the operations of a group run one after the other, which orders them.
        Round(self.begun.fetch_add(1, LocalOrdering::Relaxed))
    }

    /// The first round of a collective; see [`Node::begin`].
    pub fn begin_collective(&self) -> Round {
        let round = self.begin();
        // Relaxed: see `begin`.
        self.first.store(round.0, LocalOrdering::Relaxed);
        round
    }

    /// Whether everybody has arrived at a round of the same collective before this one, the round begun last.
    pub fn is_within_collective(&self, round: Round) -> bool {
        // Relaxed: see `begin`.
        round.0 > self.first.load(LocalOrdering::Relaxed)
    }

    /// The round begun last.
    pub fn current(&self) -> Option<Round> {
        // Relaxed: see `begin`.
        Some(Round(self.begun.load(LocalOrdering::Relaxed).checked_sub(1)?))
    }

    /// The payload that `rank` has in a round, of `len` bytes as it was written. One's own may be written between
    /// [`Node::begin`] and [`Node::publish`]; others' may be read from the arrival on, until this rank publishes the next
    /// round.
    pub fn payload(&self, round: Round, rank: usize, len: usize) -> View {
        assert!(len <= self.layout.capacity(), "a payload of {len} bytes");
        let start = self.layout.slot(rank, round.0) + Layout::payload(len);
        self.segment.view(start..start + len)
    }

    /// Shows the payload and the announcement to the others.
    pub fn publish(&self, round: Round, announcement: Announcement) {
        let slot = self.layout.slot(self.rank, round.0);
        // Relaxed: the flag orders them.
        self.segment.word(slot + WHAT).store(announcement.what, Ordering::Relaxed);
        self.segment.word(slot + COUNT).store(announcement.count, Ordering::Relaxed);
        self.segment.word(slot + DETAIL).store(announcement.detail, Ordering::Relaxed);
        // Release pairs with the acquire in `has_arrived`: payload and announcement are visible with the flag, and what
        // this rank has read of the round before was read before.
        self.segment.word(slot + FLAG).store(round.0 + 1, Ordering::Release);
        self.ring();
    }

    /// Whether `rank` has published the round.
    fn has_arrived(&self, round: Round, rank: usize) -> bool {
        // Acquire: see `publish`. A flag is ahead only by the round after the next, which needs this rank's arrival.
        self.segment.word(self.layout.slot(rank, round.0) + FLAG).load(Ordering::Acquire) == round.0 + 1
    }

    /// Whether everybody has published the round.
    pub fn have_all_arrived(&self, round: Round) -> bool {
        (0..self.size()).all(|rank| self.has_arrived(round, rank))
    }

    /// What `rank` does in a round; `None` if it has not arrived.
    pub fn announcement(&self, round: Round, rank: usize) -> Option<Announcement> {
        self.has_arrived(round, rank).then(|| self.words(self.layout.slot(rank, round.0)))
    }

    /// What `rank`, which has not arrived at `round`, did last, if it has done anything.
    pub fn previous(&self, round: Round, rank: usize) -> Option<Announcement> {
        self.announcement(Round(round.0.checked_sub(1)?), rank)
    }

    /// What `rank` says that it does, or did last, if it has done anything. It may say something else at any time.
    pub fn last(&self, rank: usize) -> Option<Announcement> {
        // Acquire: as in `has_arrived`.
        let flag = |slot: usize| self.segment.word(slot + FLAG).load(Ordering::Acquire);
        let slot = [0, 1].map(|round| self.layout.slot(rank, round)).into_iter().max_by_key(|&slot| flag(slot))?;
        (flag(slot) > 0).then(|| self.words(slot))
    }

    fn words(&self, slot: usize) -> Announcement {
        // Relaxed: after the flag.
        Announcement {
            what: self.segment.word(slot + WHAT).load(Ordering::Relaxed),
            count: self.segment.word(slot + COUNT).load(Ordering::Relaxed),
            detail: self.segment.word(slot + DETAIL).load(Ordering::Relaxed),
        }
    }

    /// The ranks that have not published the round.
    pub fn missing(&self, round: Round) -> Vec<usize> {
        (0..self.size()).filter(|&rank| !self.has_arrived(round, rank)).collect()
    }

    /// An error if a rank that has not arrived will never do so. Cheap enough for every look.
    pub fn check_missing(&self, round: Round) -> Result<()> {
        for rank in 0..self.size() {
            if self.has_arrived(round, rank) {
                continue;
            }
            if let Some(farewell) = Board::new(&self.segment, self.layout.rank(rank)).read()
                // It may have arrived before it left.
                && !self.has_arrived(round, rank)
            {
                return Err(self.absent(rank, farewell));
            }
        }
        self.check_alive(round)
    }

    fn absent(&self, rank: usize, farewell: Farewell) -> Error {
        let rank = self.members[rank].group_rank;
        match farewell {
            Farewell::Left => Error::PeerLeft { rank },
            Farewell::Failed(kind, cause) => Error::PeerFailed { rank, kind, cause },
        }
    }

    fn check_alive(&self, round: Round) -> Result<()> {
        match self.check_lives((0..self.size()).filter(|&rank| !self.has_arrived(round, rank))) {
            // It may have arrived before it died.
            Err(_) if self.have_all_arrived(round) => Ok(()),
            result => result,
        }
    }

    /// An error if one of these has died. Looks at most every [`LIVENESS`], and then at all of them: those that others
    /// ask for must not be forgotten.
    fn check_lives(&self, mut ranks: impl Iterator<Item = usize>) -> Result<()> {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.elapsed() >= LIVENESS {
            let own = &self.members[self.rank].process;
            for (member, dead) in self.members.iter().zip(&self.dead) {
                // Relaxed: under the lock, as the loads below.
                if !dead.load(LocalOrdering::Relaxed) && member.process.is_dead(own) {
                    dead.store(true, LocalOrdering::Relaxed);
                    mapped::forget(member.process);
                }
            }
            *looked = Instant::now();
        }
        match ranks.find(|&rank| self.dead[rank].load(LocalOrdering::Relaxed)) {
            Some(rank) => {
                Err(Error::PeerDied { rank: self.members[rank].group_rank, pid: self.members[rank].process.pid })
            }
            None => Ok(()),
        }
    }

    /// Tells the others that this rank takes no further part.
    pub fn bid_farewell(&self, farewell: &Farewell) {
        let _one = self.farewell.lock().unwrap_or_else(PoisonError::into_inner);
        Board::new(&self.segment, self.layout.rank(self.rank)).write(farewell);
        self.ring();
    }

    /// The ends of the streams to and from `peer`. Whoever has them is the only one.
    pub fn streams(self: &Arc<Self>, peer: usize) -> (RingWriter, RingReader) {
        (RingWriter::new(self, peer), RingReader::new(self, peer))
    }

    /// An error if `peer` takes no further part. What it has sent before may still be there.
    pub fn check_peer(&self, peer: usize) -> Result<()> {
        match Board::new(&self.segment, self.layout.rank(peer)).read() {
            Some(farewell) => Err(self.absent(peer, farewell)),
            None => self.check_lives([peer].into_iter()),
        }
    }

    /// An error if a peer has failed or died, or all have left, so that one that waits for any of them waits in vain.
    pub fn check_any_peer(&self) -> Result<()> {
        let mut present = 0;
        let mut left = None;
        for peer in self.peers() {
            match Board::new(&self.segment, self.layout.rank(peer)).read() {
                Some(Farewell::Left) => left = Some(self.absent(peer, Farewell::Left)),
                Some(farewell) => return Err(self.absent(peer, farewell)),
                None => present += 1,
            }
        }
        match left {
            Some(error) if present == 0 => Err(error),
            _ => self.check_lives(self.peers()),
        }
    }

    /// An error if a peer has failed or died, whether or not anything is waited for.
    pub fn check_no_failure(&self) -> Result<()> {
        for peer in self.peers() {
            if let Some(farewell @ Farewell::Failed(..)) = Board::new(&self.segment, self.layout.rank(peer)).read() {
                return Err(self.absent(peer, farewell));
            }
        }
        self.check_lives(self.peers())
    }

    /// Bytes of memory that the group's ranks on this node share. Pages take memory when they are first written.
    pub fn segment_len(&self) -> usize {
        self.layout.len()
    }

    /// Bytes of this rank's two slots, and of the rings to its peers: as much of the segment as it writes at most.
    pub fn own_len(&self) -> usize {
        self.layout.own_len()
    }

    pub(super) fn segment(&self) -> &Segment {
        &self.segment
    }

    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    pub(super) fn ring_one(&self, peer: usize) {
        self.members[peer].doorbell.as_ref().unwrap_or(&self.own_doorbell).ring();
    }

    fn ring(&self) {
        // One for all: see `Doorbell::ring`.
        fence(Ordering::SeqCst);
        for member in &self.members {
            if let Some(doorbell) = &member.doorbell {
                doorbell.ring_after_fence();
            }
        }
    }
}

#[cfg(test)]
impl Node {
    /// The same with ranks of the same name in one domain.
    pub(crate) fn divided_by(self, names: &[u64]) -> Self {
        self.divided(Domains::by(names))
    }

    /// From now on the memory of `rank` cannot be read.
    pub(crate) fn make_unreadable(&mut self, rank: usize) {
        self.unreadable = Some(rank);
    }
}
