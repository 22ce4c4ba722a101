//! Rounds: what a rank reads in a round is what was published for that round, and nothing is overwritten before everybody
//! has read it. Every rank sleeps at its doorbell when it has to wait.

use std::ops::Range;

use loom::thread;

use super::support::{explore, node, wait_until};
use crate::memory::tracked::GRAIN;
use crate::shm::layout::{COUNT, DETAIL, FLAG, Layout, WHAT};
use crate::shm::node::Announcement;
use crate::shm::simulated::Rank;

/// One grain, on the line of the header, or two beyond it.
const SHORT: usize = GRAIN;
const LONG: usize = 2 * GRAIN;

fn value(rank: usize, round: u64) -> u8 {
    (10 * round as usize + rank + 1) as u8
}

fn announcement(rank: usize, round: u64, len: usize) -> Announcement {
    Announcement { what: round, count: len as u64, detail: rank as u64 }
}

fn take_part(rank: &Rank, rounds: u64, len: usize) {
    let Rank { node, bell } = rank;
    for number in 0..rounds {
        let round = node.begin();
        node.payload(round, node.rank(), len).fill(value(node.rank(), number));
        node.publish(round, announcement(node.rank(), number, len));
        wait_until(bell, || node.have_all_arrived(round));
        for peer in node.peers() {
            assert_eq!(node.payload(round, peer, len).to_vec(), vec![value(peer, number); len]);
            assert_eq!(node.announcement(round, peer), Some(announcement(peer, number, len)));
        }
    }
}

fn rounds(size: usize, rounds: u64, len: usize, preemptions: usize) {
    explore(preemptions, move || {
        let layout = Layout::new(size, LONG);
        let slots = || (0..size).flat_map(|rank| (0..2).map(move |round| layout.slot(rank, round)));
        let words = slots().flat_map(|slot| [FLAG, WHAT, COUNT, DETAIL].map(|word| slot + word));
        let payload = |slot: usize| -> Range<usize> {
            let start = slot + Layout::payload(len);
            start..start + len
        };
        let mut ranks = node(layout, size, words, slots().map(payload).collect()).into_iter();
        let first = ranks.next().unwrap();
        let others: Vec<_> = ranks.map(|rank| thread::spawn(move || take_part(&rank, rounds, len))).collect();
        take_part(&first, rounds, len);
        others.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn two_ranks_use_each_slot_twice() {
    rounds(2, 4, SHORT, 2);
}

#[test]
fn two_ranks_with_long_payloads() {
    rounds(2, 3, LONG, 2);
}

#[test]
fn three_ranks() {
    rounds(3, 3, SHORT, 1);
}
