//! What each rank runs. A rank that fails ends with a nonzero status, and mpirun ends the others.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rmpi::{
    Call, Completion, DataType, Error, Group, GroupOptions, Invocation, Outcome, ReduceOp, Reduction, Result, View,
};

use crate::{collectives, disagreement, messages, tuning};

type Case = fn(&Group);

const CASES: &[(&str, Case)] = &[
    ("all_reduce", all_reduce),
    ("reductions", collectives::reductions),
    ("movements", collectives::movements),
    ("messages from everybody", messages::from_everybody_to_everybody),
    ("messages from anybody", messages::from_anybody),
    ("disagreement", disagreement::is_an_error_everywhere),
    ("settings", tuning::results_are_the_same),
    ("different settings", tuning::a_difference_is_an_error_everywhere),
    ("a failure is told to neighbours", failure_is_told),
    ("issue order across groups", issue_order),
    ("send and recv", send_and_recv),
    ("recv from any source", recv_from_any_source),
    ("async operations complete by themselves", completes_by_itself),
    ("bad arguments move nothing", bad_arguments),
    ("a timeout fails the group, not the process", timeout),
    ("monitored barrier names the missing", monitored_barrier),
    ("groups come and go", groups_come_and_go),
];

pub fn run() -> ExitCode {
    let ranks = std::env::var(crate::launch::RANK_MARK).unwrap();
    for (name, case) in CASES {
        let group = world(name);
        // Under the mpirun of another MPI each would be alone.
        assert_eq!(group.size().to_string(), ranks, "is this the mpirun of {}?", rmpi::mpi::library_version());
        if group.rank() == 0 && std::env::var_os("RMPI_RUST_TEST_VERBOSE").is_some() {
            eprintln!("{name} ...");
        }
        case(&group);
        while !group.shutdown(Duration::from_secs(1)).unwrap() {}
    }
    ExitCode::SUCCESS
}

fn world(name: &str) -> Group {
    Group::world(GroupOptions { name: name.to_owned(), timeout: Duration::from_secs(60), ..GroupOptions::default() })
        .unwrap()
}

/// A view of a vector that outlives every operation on it.
fn view<T>(values: &mut [T]) -> View {
    // SAFETY: each test keeps the vector until the operation has ended.
    unsafe { View::new(values.as_mut_ptr().cast(), size_of_val(values)) }
}

fn sum_of(dtype: DataType) -> Reduction {
    Reduction::new(dtype, ReduceOp::Sum, 1.0).unwrap()
}

fn all_reduce(group: &Group) {
    let (rank, size) = (group.rank() as i64, group.size() as i64);
    for len in [0, 1, 1000, 3_000_001] {
        let mut values: Vec<i64> = (0..len).map(|i| i * (rank + 1)).collect();
        let memory = view(&mut values);
        group.run(&Invocation::new(Call::AllReduce(sum_of(DataType::Int64)), &[memory], &[memory])).unwrap();
        let factor = size * (size + 1) / 2;
        assert!(values.iter().enumerate().all(|(i, &value)| value == i as i64 * factor), "{len} elements");
    }
}

/// Counts ends.
struct Count(Arc<AtomicUsize>);

impl Completion for Count {
    fn finish(&mut self, result: &Result<Outcome>) {
        result.as_ref().unwrap();
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn issue_order(group: &Group) {
    let other = world("second group");
    let (rank, size) = (group.rank() as i32, group.size() as i32);
    let ended = Arc::new(AtomicUsize::new(0));
    let mut values: Vec<Vec<i32>> = (0..48).map(|i| vec![rank + i; 100]).collect();
    let mut operations = Vec::new();
    // Odd ranks issue to the second group first: only the order within a group has to agree.
    let order = |i: usize| if rank % 2 == 0 { i } else { i ^ 1 };
    for i in 0..values.len() {
        let memory = view(&mut values[order(i)]);
        let call = Call::AllReduce(sum_of(DataType::Int32));
        let target = if order(i).is_multiple_of(2) { group } else { &other };
        let completion = Box::new(Count(ended.clone()));
        operations.push(target.issue(&Invocation::new(call, &[memory], &[memory]), None, completion).unwrap());
    }
    for operation in operations.iter().rev() {
        while !group.wait(operation, None) {}
    }
    assert_eq!(ended.load(Ordering::SeqCst), 48);
    for (i, values) in values.iter().enumerate() {
        assert!(values.iter().all(|&value| value == size * (size - 1) / 2 + size * i as i32));
    }
    while !other.shutdown(Duration::from_secs(1)).unwrap() {}
}

fn send_and_recv(group: &Group) {
    let (rank, size) = (group.rank(), group.size());
    let (next, previous) = ((rank + 1) % size, (rank + size - 1) % size);
    for len in [0, 1, 100_000] {
        let mut out = vec![rank as f64; len];
        let mut inp = vec![-1.0; len];
        let send = group
            .issue(&Invocation::new(Call::Send { to: next, tag: 5 }, &[view(&mut out)], &[]), None, Box::new(Ignore))
            .unwrap();
        let outcome = group
            .run(&Invocation::new(Call::Receive { from: Some(previous), tag: 5 }, &[], &[view(&mut inp)]))
            .unwrap();
        while !group.wait(&send, None) {}
        assert_eq!(outcome.source, Some(previous));
        assert!(inp.iter().all(|&value| value == previous as f64));
    }
}

struct Ignore;

impl Completion for Ignore {
    fn finish(&mut self, result: &Result<Outcome>) {
        result.as_ref().unwrap();
    }
}

fn recv_from_any_source(group: &Group) {
    let mut value = vec![group.rank() as i32];
    if group.rank() > 0 {
        group.run(&Invocation::new(Call::Send { to: 0, tag: 9 }, &[view(&mut value)], &[])).unwrap();
        return;
    }
    let mut seen = vec![false; group.size()];
    for _ in 1..group.size() {
        let outcome =
            group.run(&Invocation::new(Call::Receive { from: None, tag: 9 }, &[], &[view(&mut value)])).unwrap();
        let source = outcome.source.unwrap();
        assert_eq!(value[0] as usize, source);
        assert!(!std::mem::replace(&mut seen[source], true));
    }
}

fn completes_by_itself(group: &Group) {
    let ended = Arc::new(AtomicUsize::new(0));
    let mut values = vec![1_i32; 200_000];
    let memory = view(&mut values);
    let call = Call::AllReduce(sum_of(DataType::Int32));
    let operation =
        group.issue(&Invocation::new(call, &[memory], &[memory]), None, Box::new(Count(ended.clone()))).unwrap();
    // Nobody waits: the background thread has to do it.
    while !operation.is_done() {
        std::thread::yield_now();
    }
    assert_eq!(ended.load(Ordering::SeqCst), 1);
    assert!(values.iter().all(|&value| value == group.size() as i32));
}

fn bad_arguments(group: &Group) {
    let mut values = vec![1_i32, 2];
    let memory = view(&mut values);
    let before = group.sequence_number();
    let wrong_root = group.run(&Invocation::new(Call::Broadcast { root: group.size() }, &[], &[memory])).unwrap_err();
    assert!(wrong_root.to_string().contains("out of range"), "{wrong_root}");
    let wrong_count = group.run(&Invocation::new(Call::AllGather, &[memory], &[])).unwrap_err();
    assert!(matches!(wrong_count, Error::Argument(_)), "{wrong_count}");
    assert!(Reduction::new(DataType::Float32, ReduceOp::BitAnd, 1.0).unwrap_err().to_string().contains("float32"));
    assert_eq!(group.sequence_number(), before);
    assert_eq!(values, [1, 2]);
}

fn timeout(group: &Group) {
    let hurried = world("hurried");
    if group.rank() == 0 {
        let other = Call::Receive { from: None, tag: 1 };
        let mut values = vec![0_i32; 4];
        let limit = Some(Duration::from_millis(50));
        let operation = hurried
            .issue(&Invocation::new(other, &[], &[view(&mut values)]), limit, Box::new(Expect("Timed out")))
            .unwrap();
        while !hurried.wait(&operation, None) {}
        let error = hurried.run(&Invocation::new(Call::Barrier, &[], &[])).unwrap_err();
        assert!(error.to_string().contains("can no longer be used"), "{error}");
    }
    // Until then nobody leaves the group. The other one is as good as before.
    group.run(&Invocation::new(Call::Barrier, &[], &[])).unwrap();
}

struct Expect(&'static str);

impl Completion for Expect {
    fn finish(&mut self, result: &Result<Outcome>) {
        let error = result.as_ref().unwrap_err().to_string();
        assert!(error.contains(self.0), "{error}");
    }
}

/// A rank that gives up tells those that wait for it on its node, and they it: no timeout is needed.
fn failure_is_told(group: &Group) {
    let other = Group::world(GroupOptions {
        name: "given up".to_owned(),
        timeout: Duration::from_secs(1000),
        ..GroupOptions::default()
    })
    .unwrap();
    let node = std::env::var(rmpi::shm::identity::NODE_VARIABLE).unwrap_or_default();
    let mut own = [0_u8; 8];
    own[0] = node.bytes().next().unwrap_or(0);
    let mut nodes = vec![[0_u8; 8]; group.size()];
    let outputs: Vec<_> = nodes.iter_mut().map(|bytes| view(bytes)).collect();
    group.run(&Invocation::new(Call::AllGather, &[view(&mut own)], &outputs)).unwrap();
    if group.rank() == 0 {
        other.abort("enough");
    } else if nodes[group.rank()] == nodes[0] {
        let error = other.run(&Invocation::new(Call::Barrier, &[], &[])).unwrap_err().to_string();
        assert!(error.contains("enough"), "{error}");
    }
    group.run(&Invocation::new(Call::Barrier, &[], &[])).unwrap();
    while !other.shutdown(Duration::from_secs(1)).unwrap() {}
}

fn monitored_barrier(group: &Group) {
    let limit = Some(Duration::from_millis(300));
    let call = Call::MonitoredBarrier { wait_all_ranks: true };
    let last = group.size() - 1;
    if last == 0 {
        return;
    }
    if group.rank() != last {
        let expected = if group.rank() == 0 { "failed to pass monitoredBarrier" } else { "successfully reached" };
        let operation = group.issue(&Invocation::new(call, &[], &[]), limit, Box::new(Expect(expected))).unwrap();
        while !group.wait(&operation, None) {}
    }
    // The group is as good as before.
    group.run(&Invocation::new(Call::Barrier, &[], &[])).unwrap();
}

fn groups_come_and_go(_: &Group) {
    for _ in 0..20 {
        let group = world("short-lived");
        group.run(&Invocation::new(Call::Barrier, &[], &[])).unwrap();
        while !group.shutdown(Duration::from_secs(1)).unwrap() {}
    }
}
