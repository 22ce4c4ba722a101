//! The engine and what it stands on, in one process: no MPI and no torch. Where there are two ranks, each has a thread.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run shall say so")]

mod pair;

use std::future::{Future, ready};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use criterion::{Bencher, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rmpi::bench::{memory, node, task};
use rmpi::collective::node as over_node;
use rmpi::engine::{Lane, engine};
use rmpi::shm::{Doorbell, Node};
use rmpi::{Call, DataType, Invocation, Outcome, ReduceOp, Reduction, View};

/// Bytes of a slot, as in a group.
const CAPACITY: usize = 256 << 10;

/// An operation that ends at its first poll: what the engine itself costs.
fn operation(criterion: &mut Criterion) {
    let lane = Arc::new(Lane::new("bench".to_owned(), 0));
    let engine = engine().unwrap();
    let mut group = criterion.benchmark_group("operation");
    for (name, waits) in [("synchronous", true), ("asynchronous", false)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let task = task(&lane, Box::pin(ready(Ok(Outcome::default()))));
                let operation = task.operation.clone();
                engine.submit(task);
                if !waits {
                    engine.begin(&operation);
                }
                assert!(engine.wait(&operation, None));
            });
        });
    }
    group.finish();
}

/// One side of a game in which each waits for the other's count to be its own.
struct Side<'a> {
    own: &'a AtomicU64,
    peer: &'a AtomicU64,
    own_bell: &'a Doorbell,
    peer_bell: &'a Doorbell,
}

impl Side<'_> {
    fn count_and_ring(&self) {
        // Release pairs with the acquire in `sleep_until`, as with every flag.
        self.own.fetch_add(1, Ordering::Release);
        self.peer_bell.ring();
    }

    fn sleep_until(&self, count: u64) {
        loop {
            let sleeper = self.own_bell.announce();
            if self.peer.load(Ordering::Acquire) >= count {
                return;
            }
            sleeper.sleep(None);
        }
    }
}

fn doorbell(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("doorbell");
    let bell = Doorbell::private();
    group.bench_function("ring, nobody sleeps", |bencher| bencher.iter(|| bell.ring()));
    group.bench_function("wake and be woken", |bencher| {
        bencher.iter_custom(|iterations| {
            let (counts, bells) = ([AtomicU64::new(0), AtomicU64::new(0)], [Doorbell::shared(), Doorbell::shared()]);
            let bells = bells.map(|bell| bell.unwrap().0);
            let [this, other] = [0, 1].map(|own| Side {
                own: &counts[own],
                peer: &counts[1 - own],
                own_bell: &bells[own],
                peer_bell: &bells[1 - own],
            });
            let (mut sent, mut received) = (0, 0);
            pair::measure(
                iterations,
                || {
                    this.count_and_ring();
                    sent += 1;
                    this.sleep_until(sent);
                },
                || {
                    received += 1;
                    other.sleep_until(received);
                    other.count_and_ring();
                },
            )
        });
    });
    group.finish();
}

/// A collective as a caller's own thread runs it.
fn run_inline(node: &Node, invocation: &Invocation<'_>) {
    let mut begun = over_node::begin(node, invocation);
    pair::until(|| begun.is_ready(node));
    assert!(begun.go_on(node, invocation).unwrap(), "it takes one round");
}

/// A collective as the engine runs it, with a thread that does nothing else.
fn run_schedule(node: &Arc<Node>, call: Call, dtype: DataType, input: View, output: View) {
    let mut schedule = pin!(over_node::run(node.clone(), call, dtype, vec![input], vec![output], None));
    pair::until(|| match schedule.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Pending => false,
        Poll::Ready(result) => {
            result.unwrap();
            true
        }
    });
}

/// Two ranks, each of which has an input and an output of `bytes` and calls `run` with them.
fn two_ranks(bencher: &mut Bencher<'_>, bytes: usize, run: impl Fn(&Arc<Node>, View, View) + Sync) {
    let buffers = [0; 2].map(|_| (memory(bytes, 0x3f), memory(bytes, 0)));
    bencher.iter_custom(|iterations| {
        let ranks = node(2, CAPACITY).unwrap();
        let [this, other] = [0, 1].map(|rank| {
            let ((_, input), (_, output)) = &buffers[rank];
            let (node, run) = (&ranks[rank].0, &run);
            move || run(node, *input, *output)
        });
        pair::measure(iterations, this, other)
    });
}

fn collective(criterion: &mut Criterion) {
    let sum = Call::AllReduce(Reduction::new(DataType::Float32, ReduceOp::Sum, 1.0).unwrap());
    let mut group = criterion.benchmark_group("all_reduce");
    for bytes in [4, 1 << 10, 16 << 10, 64 << 10] {
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::new("inline", bytes), |bencher| {
            two_ranks(bencher, bytes, |node, input, output| {
                run_inline(node, &Invocation::new(sum, &[input], &[output]));
            });
        });
    }
    for bytes in [1 << 20, 16 << 20] {
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::new("schedule", bytes), |bencher| {
            two_ranks(bencher, bytes, |node, input, output| {
                run_schedule(node, sum, DataType::Float32, input, output);
            });
        });
    }
    group.finish();
    criterion.bench_function("barrier/inline", |bencher| {
        two_ranks(bencher, 0, |node, _, _| run_inline(node, &Invocation::new(Call::Barrier, &[], &[])));
    });
}

/// A stream through the ring of two ranks, as fast as it goes.
fn ring(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring");
    for bytes in [64, 4 << 10, 1 << 20] {
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::new("stream", bytes), |bencher| {
            let ((_sent, sent), (_received, received)) = (memory(bytes, 1), memory(bytes, 0));
            bencher.iter_custom(|iterations| {
                let ranks = node(2, CAPACITY).unwrap();
                let (mut writer, mut reader) = (ranks[0].0.streams(1).0, ranks[1].0.streams(0).1);
                pair::measure(
                    iterations,
                    || {
                        let mut read = 0;
                        while read < bytes {
                            pair::until(|| reader.available() > 0);
                            read += reader.read(&received.slice(read..bytes), bytes);
                            reader.show();
                        }
                    },
                    || {
                        let mut written = 0;
                        while written < bytes {
                            pair::until(|| writer.room() > 0);
                            written += writer.write(&sent.slice(written..bytes), bytes);
                            writer.show();
                        }
                    },
                )
            });
        });
    }
    group.finish();
}

fn short() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20)
}

criterion_group! { name = benches; config = short(); targets = operation, doorbell, collective, ring }
criterion_main!(benches);
