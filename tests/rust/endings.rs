//! How a rank's process ends, and with which status.

use std::process::ExitCode;
use std::time::Duration;

use rmpi::{Call, Completion, DataType, Group, GroupOptions, Invocation, Outcome, ReduceOp, Reduction, Result, View};

/// What the ranks do before they come to their end.
pub struct Ending {
    pub name: &'static str,
    /// A letter for each rank, the same for ranks of one node.
    pub nodes: &'static str,
    act: fn(&Group) -> ExitCode,
    /// Whether mpirun has to end well.
    pub well: bool,
    /// How long it may take.
    pub limit: Duration,
}

const SOON: Duration = Duration::from_secs(40);
/// Longer than any rank takes to notice that it need not wait.
const LATE: Duration = Duration::from_secs(60);

pub const ENDINGS: &[Ending] = &[
    Ending { name: "in good order", nodes: "aa", act: in_good_order, well: true, limit: SOON },
    Ending { name: "before an operation has ended", nodes: "aa", act: before_the_end, well: true, limit: SOON },
    Ending { name: "with a receive that nothing matches", nodes: "ab", act: with_a_receive, well: true, limit: SOON },
    Ending { name: "with a send that nothing matches", nodes: "ab", act: with_a_send, well: false, limit: SOON },
    Ending { name: "with a barrier that one misses", nodes: "aa", act: with_a_barrier, well: false, limit: SOON },
    Ending { name: "with an error, and others go on", nodes: "aa", act: with_an_error, well: false, limit: SOON },
    Ending { name: "after an operation has failed", nodes: "aa", act: after_a_failure, well: true, limit: SOON },
];

/// The rank's part.
pub fn act(name: &str) -> ExitCode {
    let ending = ENDINGS.iter().find(|ending| ending.name == name).unwrap();
    let options = GroupOptions { name: name.to_owned(), timeout: LATE, ..GroupOptions::default() };
    // It stays, as a group does that nobody destroys.
    let group = Box::leak(Box::new(Group::world(options).unwrap()));
    (ending.act)(group)
}

/// A completion that tells nobody.
struct Silent;

impl Completion for Silent {
    fn finish(&mut self, _: &Result<Outcome>) {}
}

/// Memory for good.
fn memory(len: usize) -> View {
    let memory: &'static mut [i64] = vec![1; len].leak();
    // SAFETY: it is never given back, and nobody else uses it.
    unsafe { View::new(memory.as_mut_ptr().cast(), size_of_val(memory)) }
}

fn issue(group: &Group, call: Call, inputs: &[View], outputs: &[View]) {
    group.issue(&Invocation::new(call, inputs, outputs), None, Box::new(Silent)).unwrap();
}

fn sum() -> Call {
    Call::AllReduce(Reduction::new(DataType::Int64, ReduceOp::Sum, 1.0).unwrap())
}

fn in_good_order(group: &Group) -> ExitCode {
    let memory = memory(10);
    group.run(&Invocation::new(sum(), &[memory], &[memory])).unwrap();
    ExitCode::SUCCESS
}

fn before_the_end(group: &Group) -> ExitCode {
    let memory = memory(1 << 20);
    // The other needs this one, after its program has come to its end.
    std::thread::sleep(Duration::from_secs(group.rank() as u64));
    issue(group, sum(), &[memory], &[memory]);
    ExitCode::SUCCESS
}

fn with_a_receive(group: &Group) -> ExitCode {
    if group.rank() == 0 {
        issue(group, Call::Receive { from: Some(1), tag: 3 }, &[], &[memory(10)]);
    }
    ExitCode::SUCCESS
}

fn with_a_send(group: &Group) -> ExitCode {
    if group.rank() == 0 {
        issue(group, Call::Send { to: 1, tag: 3 }, &[memory(1 << 20)], &[]);
    }
    ExitCode::SUCCESS
}

fn with_a_barrier(group: &Group) -> ExitCode {
    match group.rank() {
        0 => issue(group, Call::Barrier, &[], &[]),
        // It would hear that this one leaves.
        _ => std::thread::sleep(LATE),
    }
    ExitCode::SUCCESS
}

fn with_an_error(group: &Group) -> ExitCode {
    if group.rank() == 0 {
        return ExitCode::from(3);
    }
    std::thread::sleep(LATE);
    ExitCode::SUCCESS
}

fn after_a_failure(group: &Group) -> ExitCode {
    let barrier = Invocation::new(Call::Barrier, &[], &[]);
    if group.rank() == 0 {
        group.set_timeout(Duration::from_millis(100));
        group.run(&barrier).unwrap_err();
    }
    ExitCode::SUCCESS
}
