//! The byte ring: bytes arrive in order, none is overwritten before it was read, and neither a sender that finds the ring
//! full nor a receiver that finds it empty sleeps for ever.

use std::sync::Arc;

use loom::thread;

use super::support::{explore, node, wait_until};
use crate::memory::Scratch;
use crate::memory::tracked::GRAIN;
use crate::shm::doorbell::Doorbell;
use crate::shm::layout::{Layout, READ, WRITTEN};
use crate::shm::ring::{RingReader, RingWriter};
use crate::shm::simulated::Rank;

/// The doorbells of a sender and a receiver, and the ends of their ring of four grains.
fn ends() -> ((Arc<Doorbell>, RingWriter), (Arc<Doorbell>, RingReader)) {
    let layout = Layout::new(2, 0);
    assert_eq!(layout.ring_len(), 4 * GRAIN);
    let ring = layout.ring(0, 1);
    let data = ring + Layout::ring_data()..ring + Layout::ring_data() + layout.ring_len();
    let ranks = node(layout, 2, [ring + WRITTEN, ring + READ], vec![data]).into_iter();
    let mut ranks = ranks.map(|Rank { node, bell }| (Arc::new(node), bell));
    let ((sender, sender_bell), (receiver, receiver_bell)) = (ranks.next().unwrap(), ranks.next().unwrap());
    ((sender_bell, RingWriter::new(&sender, 1)), (receiver_bell, RingReader::new(&receiver, 0)))
}

/// `grains` of them, each with a value of its own.
fn message(grains: usize) -> Vec<u8> {
    (1..=grains as u8).flat_map(|value| [value; GRAIN]).collect()
}

/// Sends `grains`, up to `out` at a time, and receives up to `into` at a time.
fn stream(grains: usize, out: usize, into: usize, preemptions: usize) {
    explore(preemptions, move || {
        let ((sender, mut writer), (receiver, mut reader)) = ends();
        let thread = thread::spawn(move || {
            let mut memory = Scratch::new(grains * GRAIN);
            let sent = memory.view();
            sent.write(&message(grains));
            let mut written = 0;
            while written < sent.len() {
                wait_until(&sender, || writer.room() > 0);
                written += writer.write(&sent.slice(written..(written + out * GRAIN).min(sent.len())), sent.len());
                writer.show();
            }
        });
        let mut memory = Scratch::new(grains * GRAIN);
        let received = memory.view();
        let mut read = 0;
        while read < received.len() {
            wait_until(&receiver, || reader.available() > 0);
            read += reader.read(&received.slice(read..(read + into * GRAIN).min(received.len())), received.len());
            reader.show();
        }
        thread.join().unwrap();
        assert_eq!(received.to_vec(), message(grains));
    });
}

#[test]
fn a_stream_wraps_around() {
    stream(6, 4, 4, 3);
}

#[test]
fn pieces_that_lie_across_the_end() {
    stream(9, 3, 3, 2);
}

/// Headers are written whole, when there is room for all of them, and aligned, as messages are. The padding counts, though
/// the room for it may not be there yet.
#[test]
fn whole_headers_at_aligned_places() {
    explore(2, || {
        const MESSAGES: u8 = 4;
        let ((sender, mut writer), (receiver, mut reader)) = ends();
        let thread = thread::spawn(move || {
            for number in 1..=MESSAGES {
                wait_until(&sender, || writer.room() >= GRAIN);
                writer.write_bytes(&[number; GRAIN]);
                writer.align();
                writer.show();
            }
        });
        for number in 1..=MESSAGES {
            wait_until(&receiver, || reader.available() >= GRAIN);
            let mut header = [0; GRAIN];
            reader.read_bytes(&mut header);
            reader.show();
            reader.align();
            reader.show();
            assert_eq!(header, [number; GRAIN]);
        }
        thread.join().unwrap();
    });
}
