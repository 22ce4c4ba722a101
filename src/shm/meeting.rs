//! How the ranks of a node get hold of each other's memory.
//!
//! Every rank opens a socket and tells its peers of it, in a [`Card`], by whatever way they have. Then the first rank of
//! each node makes the segment, and the others come to its socket: descriptors can travel in no other way.

use std::collections::HashMap;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use once_cell::sync::OnceCell;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg, sockopt,
};

use super::domains::Domains;
use super::doorbell::Doorbell;
use super::failed;
use super::identity::{self, Process};
use super::layout::Layout;
use super::locality::Locality;
use super::node::{Member, Node};
use super::segment::Segment;
use crate::error::{Error, Result};
use crate::tuning::Tuning;

/// Descriptors in one message; the kernel takes up to 253.
const BATCH: usize = 128;
/// How long a peer that has come may take to say who it is.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a sender waits when too many descriptors are on their way.
const BETWEEN_TRIES: Duration = Duration::from_millis(1);

type Token = [u8; 16];

/// What a rank tells its peers about itself, so that they can share memory. Travels as [`Card::LEN`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Card {
    host: u64,
    node: u64,
    process: Process,
    token: Token,
    locality: Locality,
}

impl Card {
    /// Bytes of a card.
    pub const LEN: usize = 56 + Locality::LEN;

    /// The card of a process that cannot share memory.
    pub fn nowhere() -> Card {
        let process = Process::current();
        // Nobody else has this name, unless by a chance that the meeting would survive.
        let node = identity::node() ^ (u64::from(process.pid) << 32 | process.started);
        Card { host: identity::host(), node, process, token: Token::default(), locality: Locality::default() }
    }

    /// The card as bytes.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let words = [self.host, self.node, self.process.pid.into(), self.process.started, self.process.namespace];
        for (word, bytes) in words.iter().zip(bytes.chunks_exact_mut(8)) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        bytes[40..56].copy_from_slice(&self.token);
        bytes[56..].copy_from_slice(&self.locality.to_bytes());
        bytes
    }

    /// The card that [`Card::to_bytes`] has made, on a machine of the same kind.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Card {
        let word = |index: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[index * 8..(index + 1) * 8]);
            u64::from_ne_bytes(word)
        };
        let mut token = [0; 16];
        token.copy_from_slice(&bytes[40..56]);
        let mut locality = [0; Locality::LEN];
        locality.copy_from_slice(&bytes[56..]);
        let locality = Locality::from_bytes(&locality);
        let process = Process { pid: word(2) as u32, started: word(3), namespace: word(4) };
        Card { host: word(0), node: word(1), process, token, locality }
    }

    /// Whether the two processes share the cores of one machine.
    pub fn is_on_host_of(&self, other: &Card) -> bool {
        self.host == other.host
    }

    /// Whether the two processes are on one node.
    pub fn is_on_node_of(&self, other: &Card) -> bool {
        self.node == other.node
    }
}

/// A rank that is ready to meet the others of its node.
#[derive(Debug)]
pub struct Meeting {
    card: Card,
    listener: UnixListener,
}

impl Meeting {
    /// Opens the socket. Peers may come from now on.
    pub fn open() -> Result<Meeting> {
        // Whoever has none cannot come, and should not make the others wait.
        own_doorbell()?;
        let mut token = Token::default();
        rustix::rand::getrandom(&mut token, rustix::rand::GetRandomFlags::empty()).map_err(failed("getrandom"))?;
        let listener = UnixListener::bind_addr(&address(&token)?).map_err(io_failed("a socket for descriptors"))?;
        let (process, locality) = (Process::current(), Locality::current());
        let card = Card { host: identity::host(), node: identity::node(), process, token, locality };
        Ok(Meeting { card, listener })
    }

    /// What the peers need to know.
    pub fn card(&self) -> Card {
        self.card
    }

    /// Meets the ranks whose cards are those of this node; `cards[r]` is that of rank r of the group, in which this
    /// process is `rank`. All of them call it, with the same settings. Blocks until they have, or `deadline` has passed.
    pub fn join(self, cards: &[Card], rank: usize, tuning: &Tuning, deadline: Instant) -> Result<Arc<Node>> {
        let on_node: Vec<usize> = (0..cards.len()).filter(|&other| cards[other].is_on_node_of(&self.card)).collect();
        let Some(own) = on_node.iter().position(|&other| other == rank) else {
            return Err(Error::Internal(format!("the card of rank {rank} is of another node")));
        };
        let layout = Layout::new(on_node.len(), tuning.chunk());
        let (_, doorbell) = own_doorbell_to_share()?;
        let first = &cards[on_node[0]];
        let (segment, descriptors) = if own == 0 {
            let (segment, descriptor) = Segment::create(layout.len())?;
            let doorbells = self.host(on_node.len(), [descriptor.as_fd(), doorbell.as_fd()], deadline)?;
            (segment, doorbells)
        } else {
            let mut descriptors = self.visit(first, own, doorbell.as_fd(), on_node.len(), deadline)?;
            let segment = Segment::map(descriptors.remove(0).as_fd(), layout.len())?;
            (segment, descriptors)
        };
        let mut members = Vec::with_capacity(on_node.len());
        for (index, (&group_rank, descriptor)) in on_node.iter().zip(&descriptors).enumerate() {
            let process = cards[group_rank].process;
            let doorbell = if index == own { None } else { Some(peer_doorbell(process, descriptor.as_fd())?) };
            members.push(Member { group_rank, process, doorbell });
        }
        // All ranks of the node see the same cards, and so divide alike.
        let domains = Domains::of(&on_node.iter().map(|&other| cards[other].locality).collect::<Vec<_>>());
        if let Some(domains) = &domains {
            log::debug!("rank {rank} is on a node with {domains}");
        }
        let node = Node::new(Arc::new(segment), layout, own, members, own_doorbell()?);
        Ok(Arc::new(node.divided(domains).dividing_above(tuning.divide()).streaming_from(tuning.stream())).register())
    }

    /// Collects everybody's doorbell, and gives everybody all of them, after the segment. Returns the doorbells.
    fn host(&self, size: usize, [segment, doorbell]: [BorrowedFd<'_>; 2], deadline: Instant) -> Result<Vec<OwnedFd>> {
        let mut visitors: Vec<Option<(UnixStream, OwnedFd)>> = (0..size).map(|_| None).collect();
        let mut present = 1;
        while present < size {
            await_readable(self.listener.as_fd(), deadline)?;
            let (stream, _) = self.listener.accept().map_err(io_failed("accept"))?;
            match self.greet(&stream, deadline) {
                Ok((index, descriptor)) if 0 < index && index < size && visitors[index].is_none() => {
                    visitors[index] = Some((stream, descriptor));
                    present += 1;
                }
                Ok((index, _)) => log::warn!("a process came as rank {index} of a node of {size}, and was sent away"),
                Err(Greeting::Stranger(error)) => log::warn!("a process was sent away: {error}"),
                // It will not come again: nobody shall wait for it.
                Err(Greeting::Failed(error)) => return Err(error),
            }
        }
        let mut doorbells = vec![doorbell.try_clone_to_owned().map_err(io_failed("dup"))?];
        let (streams, others): (Vec<_>, Vec<_>) = visitors.into_iter().flatten().unzip();
        doorbells.extend(others);
        let all: Vec<_> = std::iter::once(segment).chain(doorbells.iter().map(AsFd::as_fd)).collect();
        for stream in &streams {
            stream.set_write_timeout(Some(remaining(deadline)?)).map_err(io_failed("setsockopt"))?;
            for batch in all.chunks(BATCH) {
                send(stream, &self.card.token, batch, deadline)?;
            }
        }
        Ok(doorbells)
    }

    /// Who has come.
    fn greet(&self, stream: &UnixStream, deadline: Instant) -> Result<(usize, OwnedFd), Greeting> {
        let stranger = Greeting::Stranger;
        let peer = sockopt::socket_peercred(stream).map_err(failed("getsockopt(SO_PEERCRED)")).map_err(stranger)?;
        if peer.uid != rustix::process::geteuid() {
            return Err(stranger(Error::Unavailable("it belongs to another user".to_owned())));
        }
        let limit = remaining(deadline).map_err(Greeting::Failed)?.min(PATIENCE);
        stream.set_read_timeout(Some(limit)).map_err(io_failed("setsockopt")).map_err(stranger)?;
        let mut hello = [0; 24];
        let mut descriptors = receive(stream, &mut hello).map_err(stranger)?;
        if hello[..16] != self.card.token {
            return Err(stranger(Error::Unavailable("it does not belong to this group".to_owned())));
        }
        if descriptors.len() != 1 {
            return Err(Greeting::Failed(Error::Unavailable(
                "shared memory is not available: a descriptor of a rank did not arrive; is the limit of open files \
                 (ulimit -n) reached?"
                    .to_owned(),
            )));
        }
        let mut index = [0; 8];
        index.copy_from_slice(&hello[16..]);
        Ok((u64::from_ne_bytes(index) as usize, descriptors.remove(0)))
    }

    /// Goes to the first rank; returns the segment, and everybody's doorbell.
    fn visit(
        &self,
        first: &Card,
        index: usize,
        doorbell: BorrowedFd<'_>,
        size: usize,
        deadline: Instant,
    ) -> Result<Vec<OwnedFd>> {
        let stream = UnixStream::connect_addr(&address(&first.token)?).map_err(io_failed("connect"))?;
        let mut hello = [0; 24];
        hello[..16].copy_from_slice(&first.token);
        hello[16..].copy_from_slice(&(index as u64).to_ne_bytes());
        send(&stream, &hello, &[doorbell], deadline)?;
        let mut descriptors = Vec::with_capacity(size + 1);
        while descriptors.len() <= size {
            stream.set_read_timeout(Some(remaining(deadline)?)).map_err(io_failed("setsockopt"))?;
            let mut token = Token::default();
            let batch = receive(&stream, &mut token)?;
            if batch.is_empty() || token != first.token {
                return Err(Error::Unavailable("the first rank of the node has sent something else".to_owned()));
            }
            descriptors.extend(batch);
        }
        Ok(descriptors)
    }
}

/// Why somebody who has come is not taken in.
enum Greeting {
    /// It does not belong here.
    Stranger(Error),
    /// It does, but the ranks of this node cannot share memory.
    Failed(Error),
}

/// The doorbell of this process.
pub fn own_doorbell() -> Result<Arc<Doorbell>> {
    Ok(own_doorbell_to_share()?.0.clone())
}

/// The doorbell of this process, and its descriptor.
fn own_doorbell_to_share() -> Result<&'static (Arc<Doorbell>, OwnedFd)> {
    // A failure stays, too: the engine's threads sleep at the doorbell that they have found at the start.
    static DOORBELL: OnceCell<Result<(Arc<Doorbell>, OwnedFd)>> = OnceCell::new();
    DOORBELL.get_or_init(Doorbell::shared).as_ref().map_err(Clone::clone)
}

/// The doorbell of a peer. Groups with the same peer share it.
fn peer_doorbell(process: Process, descriptor: BorrowedFd<'_>) -> Result<Arc<Doorbell>> {
    static KNOWN: Mutex<Option<HashMap<Process, Weak<Doorbell>>>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_with(HashMap::new);
    if let Some(doorbell) = known.get(&process).and_then(Weak::upgrade) {
        return Ok(doorbell);
    }
    known.retain(|_, doorbell| doorbell.strong_count() > 0);
    let doorbell = Doorbell::map(descriptor)?;
    known.insert(process, Arc::downgrade(&doorbell));
    Ok(doorbell)
}

/// A name that exists only while the socket does.
fn address(token: &Token) -> Result<SocketAddr> {
    let name: String = token.iter().map(|byte| format!("{byte:02x}")).collect();
    SocketAddr::from_abstract_name(format!("torch-rmpi-{name}")).map_err(io_failed("the name of a socket"))
}

fn remaining(deadline: Instant) -> Result<Duration> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(Error::Unavailable("the ranks of this node did not meet in time".to_owned())),
        left => Ok(left),
    }
}

fn await_readable(descriptor: BorrowedFd<'_>, deadline: Instant) -> Result<()> {
    loop {
        let left = remaining(deadline)?;
        let limit =
            Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)], Some(&limit)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(failed("poll")(error)),
        }
    }
}

fn send(stream: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>], deadline: Instant) -> Result<()> {
    let message = SendAncillaryMessage::ScmRights(descriptors);
    let mut space = vec![MaybeUninit::uninit(); message.size()];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(message) {
        return Err(Error::Internal("no room for descriptors".to_owned()));
    }
    let sent = loop {
        match sendmsg(stream, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            // A user may have so many descriptors on their way; those that are will be received.
            Err(Errno::TOOMANYREFS) => {
                remaining(deadline)?;
                std::thread::sleep(BETWEEN_TRIES);
            }
            result => break result.map_err(failed("sendmsg"))?,
        }
    };
    if sent != bytes.len() {
        return Err(Error::Unavailable(format!("a socket took {sent} bytes of {}", bytes.len())));
    }
    Ok(())
}

fn receive(stream: &UnixStream, bytes: &mut [u8]) -> Result<Vec<OwnedFd>> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(stream, &mut [IoSliceMut::new(bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            result => break result.map_err(failed("recvmsg"))?.bytes,
        }
    };
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(batch) = message {
            descriptors.extend(batch);
        }
    }
    if received != bytes.len() {
        return Err(Error::Unavailable("a rank of this node went away before it had been met".to_owned()));
    }
    Ok(descriptors)
}

/// As [`failed`], for errors of the standard library.
fn io_failed(call: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |error| Error::Unavailable(format!("shared memory is not available: {call} failed: {error}"))
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::thread;

    use super::*;
    use crate::shm::Announcement;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    #[test]
    fn a_card_survives_the_journey() {
        let card = Meeting::open().unwrap().card();
        assert_eq!(Card::from_bytes(&card.to_bytes()), card);
    }

    #[test]
    fn threads_meet_as_ranks_and_see_each_others_rounds() {
        let meetings: Vec<_> = (0..5).map(|_| Meeting::open().unwrap()).collect();
        let cards: Vec<_> = meetings.iter().map(Meeting::card).collect();
        thread::scope(|scope| {
            for (rank, meeting) in meetings.into_iter().enumerate() {
                let cards = &cards;
                scope.spawn(move || {
                    let node = meeting.join(cards, rank, &Tuning::default(), soon()).unwrap();
                    assert_eq!((node.rank(), node.size()), (rank, 5));
                    for count in 0..100 {
                        let round = node.begin();
                        node.payload(round, rank, 8).write(&(rank as u64 + count).to_ne_bytes());
                        node.publish(round, Announcement { what: 1, count, detail: 0 });
                        while !node.have_all_arrived(round) {
                            node.check_missing(round).unwrap();
                            thread::yield_now();
                        }
                        for peer in node.peers() {
                            assert_eq!(node.announcement(round, peer).unwrap().count, count);
                            let value = node.payload(round, peer, 8).to_vec();
                            assert_eq!(value, (peer as u64 + count).to_ne_bytes());
                        }
                    }
                });
            }
        });
    }

    #[test]
    fn a_rank_that_does_not_come_is_not_waited_for_for_ever() {
        let meetings: Vec<_> = (0..2).map(|_| Meeting::open().unwrap()).collect();
        let cards: Vec<_> = meetings.iter().map(Meeting::card).collect();
        for (rank, meeting) in meetings.into_iter().enumerate() {
            let deadline = Instant::now() + Duration::from_millis(50);
            assert!(meeting.join(&cards, rank, &Tuning::default(), deadline).is_err());
        }
    }

    #[test]
    fn a_stranger_is_sent_away() {
        let meetings: Vec<_> = (0..2).map(|_| Meeting::open().unwrap()).collect();
        let cards: Vec<_> = meetings.iter().map(Meeting::card).collect();
        let stranger = UnixStream::connect_addr(&address(&cards[0].token).unwrap()).unwrap();
        let (_, doorbell) = own_doorbell_to_share().unwrap();
        send(&stranger, &[7; 24], &[doorbell.as_fd()], soon()).unwrap();
        thread::scope(|scope| {
            for (rank, meeting) in meetings.into_iter().enumerate() {
                let cards = &cards;
                scope.spawn(move || meeting.join(cards, rank, &Tuning::default(), soon()).unwrap());
            }
        });
    }
}
