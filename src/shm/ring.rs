//! A stream of bytes from one rank to another, through a ring in their segment.
//!
//! The sender counts the bytes that it has written, the receiver those that it has read, both for ever; the difference is
//! in the ring. Each side works ahead with a count of its own, and shows it when a piece is complete.

use std::sync::Arc;

use super::atomic::Ordering;
use super::layout::{LINE, Layout, READ, WRITTEN};
use super::node::Node;
use super::pace::Pace;
use crate::memory::View;

/// Where streams are aligned: what begins there and is no longer lies in one piece.
pub const UNIT: usize = LINE;

/// The writing end.
#[derive(Debug)]
pub struct RingWriter {
    ends: Ends,
    written: u64,
    pace: Pace,
}

/// The reading end.
#[derive(Debug)]
pub struct RingReader {
    ends: Ends,
    read: u64,
}

#[derive(Debug)]
struct Ends {
    node: Arc<Node>,
    peer: usize,
    start: usize,
    len: usize,
}

impl Ends {
    fn new(node: &Arc<Node>, peer: usize, sender: usize, receiver: usize) -> Self {
        let layout = node.layout();
        Ends { node: node.clone(), peer, start: layout.ring(sender, receiver), len: layout.ring_len() }
    }

    /// Calls `copy` with the one or two pieces of the ring that `len` bytes from `position` take, and where in the whole
    /// they begin.
    fn pieces(&self, position: u64, len: usize, mut copy: impl FnMut(View, usize)) {
        let offset = position as usize % self.len;
        let first = len.min(self.len - offset);
        let data = self.start + Layout::ring_data();
        copy(self.node.segment().view(data + offset..data + offset + first), 0);
        if first < len {
            copy(self.node.segment().view(data..data + len - first), first);
        }
    }
}

impl RingWriter {
    /// The ring from this rank to `peer`. There may be one such object.
    pub(super) fn new(node: &Arc<Node>, peer: usize) -> Self {
        RingWriter { ends: Ends::new(node, peer, node.rank(), peer), written: 0, pace: Pace::default() }
    }

    /// How many bytes can be written now.
    pub fn room(&self) -> usize {
        // Acquire pairs with the release in `RingReader::show`: what was there has been read.
        let read = self.ends.node.segment().word(self.ends.start + READ).load(Ordering::Acquire);
        // Padding is counted, too, and may lie where something is still to be read.
        self.ends.len.saturating_sub((self.written - read) as usize)
    }

    /// Copies as much of `data`, a part of a message of `whole` bytes, as there is room for. Returns how much that is.
    /// Nobody sees it yet.
    pub fn write(&mut self, data: &View, whole: usize) -> usize {
        let node = &self.ends.node;
        let len = data.len().min(self.room());
        self.ends.pieces(self.written, len, |piece, at| {
            node.show_with(&self.pace, &piece, &data.slice(at..at + piece.len()), node.is_long(whole));
        });
        self.written += len as u64;
        len
    }

    /// As [`RingWriter::write`], with room for all of them, which the caller has seen.
    pub fn write_bytes(&mut self, bytes: &[u8]) {
        self.ends.pieces(self.written, bytes.len(), |piece, at| piece.write(&bytes[at..at + piece.len()]));
        self.written += bytes.len() as u64;
    }

    /// Goes on at the next multiple of [`UNIT`]. The padding is not written.
    pub fn align(&mut self) {
        self.written = self.written.next_multiple_of(UNIT as u64);
    }

    /// Shows the receiver what has been written.
    pub fn show(&self) {
        let word = self.ends.node.segment().word(self.ends.start + WRITTEN);
        // Release pairs with the acquire in `RingReader::available`: the bytes are there.
        word.store(self.written, Ordering::Release);
        self.ends.node.ring_one(self.ends.peer);
    }
}

impl RingReader {
    /// The ring from `peer` to this rank. There may be one such object.
    pub(super) fn new(node: &Arc<Node>, peer: usize) -> Self {
        RingReader { ends: Ends::new(node, peer, peer, node.rank()), read: 0 }
    }

    /// How many bytes can be read now.
    pub fn available(&self) -> usize {
        // Acquire: see `RingWriter::show`.
        let written = self.ends.node.segment().word(self.ends.start + WRITTEN).load(Ordering::Acquire);
        written.saturating_sub(self.read) as usize
    }

    /// Copies as much into `buffer`, where a message of `whole` bytes has a part, as there is. Returns how much that is.
    pub fn read(&mut self, buffer: &View, whole: usize) -> usize {
        let node = &self.ends.node;
        let len = buffer.len().min(self.available());
        self.ends.pieces(self.read, len, |piece, at| {
            node.take(&buffer.slice(at..at + piece.len()), &piece, node.is_long(whole));
        });
        self.read += len as u64;
        len
    }

    /// As [`RingReader::read`], with all of them there, which the caller has seen.
    pub fn read_bytes(&mut self, bytes: &mut [u8]) {
        self.peek_bytes(bytes);
        self.read += bytes.len() as u64;
    }

    /// The next bytes, which stay; all of them are there, as the caller has seen.
    pub fn peek_bytes(&self, bytes: &mut [u8]) {
        self.ends.pieces(self.read, bytes.len(), |piece, at| piece.read(&mut bytes[at..at + piece.len()]));
    }

    /// Leaves out up to `len` bytes. Returns how many.
    pub fn skip(&mut self, len: usize) -> usize {
        let len = len.min(self.available());
        self.read += len as u64;
        len
    }

    /// Goes on at the next multiple of [`UNIT`].
    pub fn align(&mut self) {
        self.read = self.read.next_multiple_of(UNIT as u64);
    }

    /// Gives the sender the room of what has been read.
    pub fn show(&self) {
        // Release: see `RingWriter::room`.
        self.ends.node.segment().word(self.ends.start + READ).store(self.read, Ordering::Release);
        self.ends.node.ring_one(self.ends.peer);
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::memory::Scratch;

    #[test]
    fn a_stream_much_longer_than_the_ring_arrives_in_order() {
        let nodes: Vec<_> = Node::simulated(2, 512).into_iter().map(Arc::new).collect();
        let (mut writer, mut reader) = (RingWriter::new(&nodes[0], 1), RingReader::new(&nodes[1], 0));
        let (mut sent, mut received) = (Scratch::new(1_000_003), Scratch::new(1_000_003));
        let (sent, received) = (sent.view(), received.view());
        sent.write(&(0..sent.len()).map(|i| (i * i / 7) as u8).collect::<Vec<_>>());
        let (mut written, mut read, mut step) = (0, 0, 1);
        while read < received.len() {
            step = step * 7 % 300_007;
            written += writer.write(&sent.slice(written..(written + step).min(sent.len())), sent.len());
            writer.show();
            read += reader.read(&received.slice(read..(read + step / 2).min(received.len())), received.len());
            reader.show();
        }
        assert!(sent.to_vec() == received.to_vec());
        assert_eq!((reader.available(), writer.room()), (0, nodes[0].layout().ring_len()));
    }
}
