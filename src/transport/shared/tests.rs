//! Messages between simulated ranks that share memory.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::error::Error;
use crate::memory::Scratch;
use crate::shm::{Farewell, Node};

fn ranks(size: usize) -> Vec<SharedTransport> {
    Node::simulated(size, 512).into_iter().map(|node| SharedTransport::new(&Arc::new(node))).collect()
}

fn memory(value: u8, len: usize) -> Scratch {
    let mut scratch = Scratch::new(len);
    scratch.view().write(&(0..len).map(|i| (i as u8).wrapping_mul(value)).collect::<Vec<_>>());
    scratch
}

const P2P: Channel = Channel::PointToPoint;

/// Tests until it has ended.
fn finish(request: &mut Box<dyn Request>) -> Result<Arrival> {
    for _ in 0..1000 {
        if let Some(arrival) = request.test()? {
            return Ok(arrival);
        }
    }
    panic!("the message does not arrive")
}

#[test]
fn a_short_message_leaves_before_it_is_received() {
    let ranks = ranks(2);
    let (mut sent, mut received) = (memory(3, 100), memory(0, 100));
    let mut send = ranks[0].send(P2P, 1, 7, &sent.view()).unwrap();
    assert_eq!(finish(&mut send).unwrap().bytes, 100);
    let mut receive = ranks[1].receive(P2P, Some(0), 7, &received.view()).unwrap();
    let arrival = finish(&mut receive).unwrap();
    assert_eq!((arrival.peer, arrival.bytes), (0, 100));
    assert_eq!(received.view().to_vec(), sent.view().to_vec());
}

#[test]
fn what_can_end_at_once_is_one_whole_message() {
    let ranks = ranks(2);
    let (mut sent, mut received, mut long) = (memory(3, 100), memory(0, 100), memory(5, 3 << 20));
    let receive = |peer, tag, buffer: &View| ranks[1].receive_now(P2P, peer, tag, buffer);
    assert!(matches!(receive(None, 7, &received.view()), Receipt::NotYet));
    assert!(ranks[0].send_now(P2P, 1, 7, &sent.view()));
    for (tag, len) in [(8, 100), (7, 99)] {
        assert!(matches!(receive(Some(0), tag, &received.view().slice(0..len)), Receipt::NotNext));
        // Rank 1 itself may send it.
        assert!(matches!(receive(None, tag, &received.view().slice(0..len)), Receipt::NotYet));
    }
    assert!(matches!(receive(Some(1), 7, &received.view()), Receipt::NotYet));
    let Receipt::Taken(arrival) = receive(None, 7, &received.view()) else { panic!("it is there") };
    assert_eq!((arrival.peer, arrival.bytes), (0, 100));
    assert_eq!(received.view().to_vec(), sent.view().to_vec());
    // One that waits for room goes before it.
    assert!(!ranks[0].send_now(P2P, 1, 7, &long.view()));
    let mut first = ranks[0].send(P2P, 1, 7, &long.view()).unwrap();
    assert!(first.test().unwrap().is_none());
    assert!(!ranks[0].send_now(P2P, 1, 7, &sent.view()));
    assert!(matches!(receive(Some(0), 7, &long.view()), Receipt::NotYet));
    // One that somebody else waits for, too.
    let other = ranks[1].receive(P2P, Some(1), 9, &received.view()).unwrap();
    assert!(matches!(receive(Some(1), 7, &received.view()), Receipt::NotNext));
    drop(other);
}

#[test]
fn a_receive_takes_its_message_past_a_longer_one_of_another_tag() {
    let ranks = ranks(2);
    let (mut first, mut second) = (memory(3, 3 << 20), memory(5, 1000));
    let mut sends =
        [ranks[0].send(P2P, 1, 1, &first.view()).unwrap(), ranks[0].send(P2P, 1, 2, &second.view()).unwrap()];
    let (mut one, mut two) = (memory(0, 3 << 20), memory(0, 1000));
    let mut receive = ranks[1].receive(P2P, Some(0), 2, &two.view()).unwrap();
    let mut ended = false;
    for _ in 0..1000 {
        for send in &mut sends {
            send.test().unwrap();
        }
        ended |= !ended && receive.test().unwrap().is_some();
    }
    assert!(ended && two.view().to_vec() == second.view().to_vec());
    let mut receive = ranks[1].receive(P2P, Some(0), 1, &one.view()).unwrap();
    finish(&mut receive).unwrap();
    assert!(one.view().to_vec() == first.view().to_vec());
}

#[test]
fn a_message_of_another_length_is_an_error_and_its_sender_goes_on() {
    for (sent, expected) in [(2_000_000, 12), (8, 40)] {
        let ranks = ranks(2);
        let (mut out, mut into) = (memory(3, sent), memory(9, expected));
        let mut send = ranks[0].send(P2P, 1, 0, &out.view()).unwrap();
        let mut receive = ranks[1].receive(P2P, Some(0), 0, &into.view()).unwrap();
        let (mut has_sent, mut result) = (false, None);
        for _ in 0..1000 {
            has_sent |= !has_sent && send.test().unwrap().is_some();
            if result.is_none() {
                result = receive.test().map_or_else(Some, |arrival| arrival.map(|_| panic!("it was accepted")));
            }
        }
        assert!(has_sent, "{sent} bytes");
        let error = result.unwrap();
        assert!(
            matches!(error, Error::Length { peer: 0, received, expected: e } if (received, e) == (sent as u64, expected as u64))
        );
        assert_eq!(into.view().to_vec(), memory(9, expected).view().to_vec());
    }
}

#[test]
fn a_receive_that_is_given_up_leaves_its_message_to_nobody() {
    let ranks = ranks(2);
    let (mut out, mut into) = (memory(3, 1 << 20), memory(1, 1 << 20));
    let mut send = ranks[0].send(P2P, 1, 0, &out.view()).unwrap();
    let mut receive = ranks[1].receive(P2P, Some(0), 0, &into.view()).unwrap();
    assert!(send.test().unwrap().is_none());
    assert!(receive.test().unwrap().is_none());
    receive.cancel();
    assert!(receive.test().unwrap().is_some());
    into.view().fill(0);
    let mut other = ranks[1].receive(P2P, Some(0), 5, &Scratch::new(0).view()).unwrap();
    for _ in 0..100 {
        let _ = send.test();
        assert!(other.test().unwrap().is_none());
    }
    assert!(into.view().to_vec().iter().all(|&byte| byte == 0));
}

#[test]
fn nothing_follows_a_message_that_was_given_up() {
    for given_up in 0..3 {
        let ranks = ranks(2);
        let mut out: Vec<_> = (1..4).map(|value| memory(value, 1 << 20)).collect();
        let mut sends: Vec<_> = out.iter_mut().map(|out| ranks[0].send(P2P, 1, 0, &out.view()).unwrap()).collect();
        let mut into: Vec<_> = (1..4).map(|_| memory(0, 1 << 20)).collect();
        let mut receives: Vec<_> =
            into.iter_mut().map(|into| ranks[1].receive(P2P, Some(0), 0, &into.view()).unwrap()).collect();
        assert!(sends[0].test().unwrap().is_none());
        sends[given_up].cancel();
        assert!(sends[given_up].test().unwrap().is_some());
        let mut sent = [false; 3];
        let mut received = [false; 3];
        for _ in 0..100 {
            for index in (0..3).filter(|&index| index != given_up) {
                match (index > given_up, sent[index]) {
                    (true, _) => assert!(matches!(sends[index].test(), Err(Error::Abandoned { rank: 1 }))),
                    (false, false) => sent[index] = sends[index].test().unwrap().is_some(),
                    (false, true) => {}
                }
            }
            for index in 0..3 {
                received[index] = received[index] || receives[index].test().unwrap().is_some();
            }
        }
        for index in 0..3 {
            assert_eq!((index < given_up, index < given_up), (sent[index], received[index]), "message {index}");
            assert!(!received[index] || into[index].view().to_vec() == out[index].view().to_vec());
        }
    }
}

#[test]
fn the_memory_of_a_receive_that_has_failed_is_left_alone() {
    let ranks = ranks(3);
    let (mut out, mut failed, mut other) = (memory(3, 1000), memory(1, 1000), memory(1, 1000));
    let mut first = ranks[0].receive(P2P, None, 0, &failed.view()).unwrap();
    let mut second = ranks[0].receive(P2P, Some(2), 0, &other.view()).unwrap();
    ranks[1].mailbox.node.bid_farewell(&Farewell::Failed(crate::error::Kind::Backend, "aborted".to_owned()));
    assert!(matches!(first.test(), Err(Error::PeerFailed { rank: 1, .. })));
    drop(first);
    finish(&mut ranks[2].send(P2P, 0, 0, &out.view()).unwrap()).unwrap();
    assert_eq!(finish(&mut second).unwrap().peer, 2);
    assert_eq!(other.view().to_vec(), out.view().to_vec());
    assert_eq!(failed.view().to_vec(), memory(1, 1000).view().to_vec());
}

#[test]
fn the_memory_of_a_send_that_has_failed_is_left_alone() {
    let ranks = ranks(2);
    let (mut first, mut second) = (memory(3, 1 << 20), memory(5, 1 << 20));
    let mut sends = [&mut first, &mut second].map(|out| ranks[0].send(P2P, 1, 0, &out.view()).unwrap());
    assert!(sends[0].test().unwrap().is_none());
    ranks[1].mailbox.node.bid_farewell(&Farewell::Left);
    assert!(sends.iter_mut().all(|send| matches!(send.test(), Err(Error::PeerLeft { rank: 1 }))));
    drop(sends);
    assert!(ranks[0].mailbox.lock().outgoing[1].is_empty());
}

#[test]
fn what_was_sent_before_a_rank_left_arrives() {
    let ranks = ranks(3);
    let mut out = memory(3, 10);
    // More of another tag before it than one look takes in.
    for tag in std::iter::repeat_n(7, 200).chain([0]) {
        finish(&mut ranks[1].send(P2P, 0, tag, &out.view()).unwrap()).unwrap();
    }
    ranks[1].mailbox.node.bid_farewell(&Farewell::Left);
    let mut into = memory(0, 10);
    for peer in [Some(1), None] {
        let mut receive = ranks[0].receive(P2P, peer, 0, &into.view()).unwrap();
        match peer {
            Some(_) => assert_eq!(finish(&mut receive).unwrap().peer, 1),
            // Another rank may still send.
            None => assert!(receive.test().unwrap().is_none()),
        }
    }
    let mut receive = ranks[0].receive(P2P, Some(1), 0, &into.view()).unwrap();
    assert!(matches!(finish(&mut receive), Err(Error::PeerLeft { rank: 1 })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Messages of any lengths and tags, received in the order of each (sender, tag), some from anybody.
    #[test]
    fn order_is_kept(
        messages in prop::collection::vec((1..3_usize, 0..3_i32, 0..200_000_usize), 1..30),
        order in any::<u64>(),
        from_anybody in any::<bool>(),
    ) {
        let ranks = ranks(3);
        let mut out: Vec<_> = messages.iter().enumerate().map(|(i, &(.., len))| memory(i as u8 | 1, len)).collect();
        let mut into: Vec<_> = messages.iter().map(|&(.., len)| memory(0, len)).collect();
        let mut requests: Vec<Option<Box<dyn Request>>> = Vec::new();
        for (index, &(peer, tag, _)) in messages.iter().enumerate() {
            // From anybody only where each sender has tags of its own.
            let (tag, source) = if from_anybody { (tag * 2 + peer as i32, None) } else { (tag, Some(peer)) };
            requests.push(Some(ranks[0].receive(P2P, source, tag, &into[index].view()).unwrap()));
            requests.push(Some(ranks[peer].send(P2P, 0, tag, &out[index].view()).unwrap()));
        }
        let mut random = order | 1;
        for _ in 0..100_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let index = (random >> 33) as usize % requests.len();
            if let Some(request) = &mut requests[index] && request.test().unwrap().is_some() {
                requests[index] = None;
            }
            if requests.iter().all(Option::is_none) {
                break;
            }
        }
        prop_assert!(requests.iter().all(Option::is_none), "they do not end");
        for (out, into) in out.iter_mut().zip(&mut into) {
            prop_assert!(out.view().to_vec() == into.view().to_vec());
        }
    }

    /// The same where what can be done at once is done at once.
    #[test]
    fn order_is_kept_if_some_end_at_once(
        messages in prop::collection::vec((1..3_usize, 0..2_i32, 0..400_usize), 1..60),
        order in any::<u64>(),
    ) {
        let ranks = ranks(3);
        let mut out: Vec<_> = messages.iter().enumerate().map(|(i, &(.., len))| memory(i as u8 | 1, len)).collect();
        let mut into: Vec<_> = messages.iter().map(|&(.., len)| memory(0, len)).collect();
        let (mut sent, mut received, mut requests) = (0, 0, Vec::<Box<dyn Request>>::new());
        let mut random = order | 1;
        for _ in 0..100_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            match (random >> 33) % 5 {
                choice @ 0..2 if sent < messages.len() => {
                    let ((peer, tag, _), out) = (messages[sent], out[sent].view());
                    if choice == 1 || !ranks[peer].send_now(P2P, 0, tag, &out) {
                        requests.push(ranks[peer].send(P2P, 0, tag, &out).unwrap());
                    }
                    sent += 1;
                }
                choice @ 2..4 if received < messages.len() => {
                    let ((peer, tag, len), into) = (messages[received], into[received].view());
                    match ranks[0].receive_now(P2P, Some(peer), tag, &into) {
                        Receipt::Taken(arrival) => prop_assert_eq!((arrival.peer, arrival.bytes), (peer, len as u64)),
                        // Now and then it is looked for again, as a caller would that has some patience.
                        Receipt::NotYet if choice == 2 => continue,
                        _ => requests.push(ranks[0].receive(P2P, Some(peer), tag, &into).unwrap()),
                    }
                    received += 1;
                }
                _ if !requests.is_empty() => {
                    let index = (random >> 40) as usize % requests.len();
                    if requests[index].test().unwrap().is_some() {
                        requests.swap_remove(index);
                    }
                }
                _ => {}
            }
            if sent + received == 2 * messages.len() && requests.is_empty() {
                break;
            }
        }
        prop_assert!(sent + received == 2 * messages.len() && requests.is_empty(), "they do not end");
        for (out, into) in out.iter_mut().zip(&mut into) {
            prop_assert!(out.view().to_vec() == into.view().to_vec());
        }
    }
}
