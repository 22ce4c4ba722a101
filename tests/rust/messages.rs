//! Messages of several tags and lengths, to everybody and to oneself, in order.

use std::sync::Arc;

use rmpi::{Call, Completion, Group, Invocation, Operation, Outcome, Result, View};

/// Elements of each message from a rank; the last one is longer than a ring.
const LENGTHS: [usize; 5] = [1, 0, 1_000, 3, 100_000];

fn view(values: &mut [u64]) -> View {
    // SAFETY: each test keeps the memory until the operation has ended.
    unsafe { View::new(values.as_mut_ptr().cast(), size_of_val(values)) }
}

struct Ignore;

impl Completion for Ignore {
    fn finish(&mut self, result: &Result<Outcome>) {
        result.as_ref().unwrap();
    }
}

fn send(group: &Group, to: usize, tag: i32, values: &mut [u64]) -> Arc<Operation> {
    let call = Call::Send { to, tag };
    group.issue(&Invocation::new(call, &[view(values)], &[]), None, Box::new(Ignore)).unwrap()
}

fn values(from: usize, to: usize, index: usize) -> Vec<u64> {
    vec![(from * 100 + to * 10 + index) as u64; LENGTHS[index]]
}

pub fn from_everybody_to_everybody(group: &Group) {
    let (rank, size) = (group.rank(), group.size());
    let mut out: Vec<_> = (0..size).flat_map(|to| (0..LENGTHS.len()).map(move |i| values(rank, to, i))).collect();
    let sends: Vec<_> = out
        .iter_mut()
        .enumerate()
        .map(|(i, values)| send(group, i / LENGTHS.len(), (i % LENGTHS.len() % 2) as i32, values))
        .collect();
    for from in 0..size {
        // Those of one tag in their order, those of the other one before them.
        for index in [1, 3, 0, 2, 4] {
            let mut memory = vec![0; LENGTHS[index]];
            let call = Call::Receive { from: Some(from), tag: (index % 2) as i32 };
            let outcome = group.run(&Invocation::new(call, &[], &[view(&mut memory)])).unwrap();
            assert_eq!(outcome.source, Some(from));
            assert!(memory == values(from, rank, index), "message {index} from {from} to {rank}");
        }
    }
    for operation in sends {
        while !group.wait(&operation, None) {}
    }
}

/// Receives from any rank, several under way at once, beside some from one.
pub fn from_anybody(group: &Group) {
    const EACH: usize = 50;
    let (rank, size) = (group.rank(), group.size());
    if rank > 0 {
        let mut out: Vec<_> = (0..EACH).map(|i| vec![(rank * 1000 + i) as u64; 1 + i % 3 * 4_000]).collect();
        let tag = |i: usize| (i % 3) as i32;
        let sends: Vec<_> = out.iter_mut().enumerate().map(|(i, values)| send(group, 0, tag(i), values)).collect();
        for operation in sends {
            while !group.wait(&operation, None) {}
        }
        return;
    }
    for round in 0..EACH {
        let mut memory: Vec<_> = (1..size).map(|_| vec![0; 1 + round % 3 * 4_000]).collect();
        let call = Call::Receive { from: None, tag: (round % 3) as i32 };
        let receives: Vec<_> = memory
            .iter_mut()
            .map(|values| {
                let outputs = [view(values)];
                let invocation = Invocation::new(call, &[], &outputs);
                group.issue(&invocation, None, Box::new(Ignore)).unwrap()
            })
            .collect();
        for (operation, values) in receives.iter().zip(&memory) {
            while !group.wait(operation, None) {}
            let source = operation.result().unwrap().as_ref().unwrap().source.unwrap();
            assert_eq!(values[0] as usize / 1000, source);
            assert!(values.iter().all(|value| *value == values[0]));
        }
    }
}
