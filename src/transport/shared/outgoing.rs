//! Messages to one peer.

use std::collections::VecDeque;

use super::header::{Header, Key};
use super::{BURST, PIECE};
use crate::memory::View;
use crate::shm::RingWriter;

/// Messages to one peer, in the order in which they were sent.
pub(super) struct Outgoing {
    ring: RingWriter,
    posted: u64,
    waiting: VecDeque<Sending>,
    /// The last message that may be sent: the one after it was given up, and what follows would be taken for that.
    last: u64,
}

struct Sending {
    id: u64,
    key: Key,
    data: View,
    /// Bytes that have been copied; `None`: not even the header.
    copied: Option<usize>,
}

impl Outgoing {
    pub fn new(ring: RingWriter) -> Self {
        Outgoing { ring, posted: 0, waiting: VecDeque::new(), last: u64::MAX }
    }

    /// Takes a message; [`Outgoing::write`] sends it.
    pub fn post(&mut self, key: Key, data: &View) -> u64 {
        self.posted += 1;
        self.waiting.push_back(Sending { id: self.posted, key, data: *data, copied: None });
        self.posted
    }

    /// Sends a message if it can leave now, as a whole. False: nothing has been done.
    pub fn send_now(&mut self, key: Key, data: &View) -> bool {
        let is_free = self.waiting.is_empty() && self.last == u64::MAX;
        if !is_free || self.ring.room() < Header::LEN + data.len() {
            return false;
        }
        self.ring.write_bytes(&Header { key, len: data.len() }.to_bytes());
        self.ring.write(data, data.len());
        self.ring.align();
        self.ring.show();
        true
    }

    /// `Some(true)` if message `id` has left its memory, `None` if it never will.
    pub fn has_left(&self, id: u64) -> Option<bool> {
        match self.waiting.iter().any(|sending| sending.id == id) {
            true if id > self.last => None,
            waits => Some(!waits),
        }
    }

    /// Copies what there is room for, up to a limit. Returns whether that is anything.
    pub fn write(&mut self) -> bool {
        let mut moved = 0;
        while moved < BURST
            && let Some(first) = self.waiting.front_mut().filter(|first| first.id <= self.last)
        {
            let copied = match first.copied {
                Some(copied) => copied,
                None if self.ring.room() < Header::LEN => break,
                None => {
                    let header = Header { key: first.key, len: first.data.len() };
                    self.ring.write_bytes(&header.to_bytes());
                    moved += Header::LEN;
                    0
                }
            };
            let len = first.data.len();
            let count = self.ring.write(&first.data.slice(copied..len.min(copied + PIECE)), len);
            moved += count;
            first.copied = Some(copied + count);
            if copied + count == len {
                self.ring.align();
                self.waiting.pop_front();
            } else if count == 0 {
                break;
            } else {
                self.ring.show();
            }
        }
        if moved > 0 {
            self.ring.show();
        }
        moved > 0
    }

    /// Gives the memory of a message back, if it has not left it. Its group fails, and no later message is sent.
    pub fn forget(&mut self, id: u64) {
        if let Some(index) = self.waiting.iter().position(|sending| sending.id == id) {
            self.last = self.last.min(id - 1);
            self.waiting.remove(index);
        }
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}
