//! Where a rank tells its peers that it takes no further part, and why.

use super::atomic::Ordering;
use super::layout::{FAREWELL, FAREWELL_LEN};
use super::segment::Segment;
use crate::error::Kind;

/// The state word, then the kind of the error, the length of the text, and the text.
const STATE: usize = 0;
const KIND: usize = 8;
const LENGTH: usize = 16;
const TEXT: usize = 64;
const TEXT_MAX: usize = FAREWELL_LEN - TEXT;

const PRESENT: u64 = 0;
const LEFT: u64 = 1;
const FAILED: u64 = 2;

/// Why a rank takes no further part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// It has destroyed the group.
    Left,
    /// An operation failed there.
    Failed(Kind, String),
}

/// One rank's page of the segment.
pub(super) struct Board<'a> {
    segment: &'a Segment,
    start: usize,
}

impl<'a> Board<'a> {
    pub fn new(segment: &'a Segment, area: usize) -> Self {
        Board { segment, start: area + FAREWELL }
    }

    /// Writes this rank's farewell. The first one stays, but a failure may follow a good end.
    pub fn write(&self, farewell: &Farewell) {
        // Relaxed: only this rank writes here, one thread at a time (see `Node::bid_farewell`).
        let state = self.segment.word(self.start + STATE).load(Ordering::Relaxed);
        let next = match farewell {
            Farewell::Left if state == PRESENT => LEFT,
            Farewell::Failed(kind, text) if state != FAILED => {
                let mut len = text.len().min(TEXT_MAX);
                while !text.is_char_boundary(len) {
                    len -= 1;
                }
                let at = self.start + TEXT;
                self.segment.view(at..at + len).write(&text.as_bytes()[..len]);
                self.segment.word(self.start + LENGTH).store(len as u64, Ordering::Relaxed);
                self.segment.word(self.start + KIND).store(*kind as u64, Ordering::Relaxed);
                FAILED
            }
            _ => return,
        };
        // Release pairs with the acquire in `read`: the text is there.
        self.segment.word(self.start + STATE).store(next, Ordering::Release);
    }

    /// The farewell; `None` while the rank takes part.
    pub fn read(&self) -> Option<Farewell> {
        // Acquire: see `write`.
        match self.segment.word(self.start + STATE).load(Ordering::Acquire) {
            PRESENT => None,
            LEFT => Some(Farewell::Left),
            _ => {
                let len = self.segment.word(self.start + LENGTH).load(Ordering::Relaxed).min(TEXT_MAX as u64) as usize;
                let kind = self.segment.word(self.start + KIND).load(Ordering::Relaxed);
                let at = self.start + TEXT;
                let text = String::from_utf8_lossy(&self.segment.view(at..at + len).to_vec()).into_owned();
                Some(Farewell::Failed(Kind::from_number(kind), text))
            }
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn a_farewell_arrives_whole() {
        let (segment, _) = Segment::create(FAREWELL_LEN).unwrap();
        let board = Board::new(&segment, 0);
        assert_eq!(board.read(), None);
        board.write(&Farewell::Left);
        assert_eq!(board.read(), Some(Farewell::Left));
        let failed = Farewell::Failed(Kind::Timeout, "ä".repeat(10));
        board.write(&failed);
        assert_eq!(board.read(), Some(failed.clone()));
        board.write(&Farewell::Left);
        board.write(&Farewell::Failed(Kind::Value, "later".to_owned()));
        assert_eq!(board.read(), Some(failed));
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let (segment, _) = Segment::create(FAREWELL_LEN).unwrap();
        let board = Board::new(&segment, 0);
        board.write(&Farewell::Failed(Kind::Backend, format!("a{}", "ä".repeat(FAREWELL_LEN))));
        let Some(Farewell::Failed(Kind::Backend, text)) = board.read() else { panic!() };
        assert!(text.len() <= TEXT_MAX && text.len() > TEXT_MAX - 3 && text.ends_with('ä'));
    }
}
