//! How long operations take, before they are carried out: curves that a group measures once, and that groups of the same
//! kind share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use once_cell::sync::OnceCell;

use super::issue::Nobody;
use super::reach::Reach;
use super::{Call, Group, Invocation, Next, Started, check};
use crate::error::Result;
use crate::memory::{Scratch, View};
use crate::reduce::{DataType, ReduceOp, Reduction};

/// The models of this process, by kind of group.
static KNOWN: Mutex<Option<HashMap<String, Arc<Model>>>> = Mutex::new(None);

/// Sizes in bytes at which operations are measured: on each of a group's ways to carry them out.
const SIZES: [usize; 9] = [1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20];
/// Groups of more ranks on one node leave out the largest size: together they would take too much memory.
const RANKS_FOR_ALL_SIZES: usize = 8;
/// Groups over a network are not measured with more: it may be slow.
const LONGEST_OVER_NETWORK: usize = 4 << 20;
/// How long an operation that is measured may take, at least: longer than a timeout that is meant for small ones.
const TIMEOUT: Duration = Duration::from_secs(60);
const PAGE: usize = 4096;
/// An operation of more bytes takes as long, whoever drives it.
const LONGEST_HANDED_OVER: usize = 1 << 20;
/// How often each operation is measured, of which the median counts: at least and at most, and in between so that about so
/// many bytes are moved.
const MEASUREMENTS: std::ops::RangeInclusive<usize> = 5..=31;
const BYTES: usize = 16 << 20;

/// What takes time of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Broadcast,
    AllReduce,
    Reduce,
    AllGather,
    Gather,
    Scatter,
    ReduceScatter,
    AllToAll,
    Barrier,
    Message,
}

impl Kind {
    const ALL: [Kind; 10] = [
        Kind::Broadcast,
        Kind::AllReduce,
        Kind::Reduce,
        Kind::AllGather,
        Kind::Gather,
        Kind::Scatter,
        Kind::ReduceScatter,
        Kind::AllToAll,
        Kind::Barrier,
        Kind::Message,
    ];

    fn of(call: Call) -> Kind {
        match call {
            Call::Broadcast { .. } => Kind::Broadcast,
            Call::AllReduce(_) => Kind::AllReduce,
            Call::Reduce { .. } => Kind::Reduce,
            Call::AllGather => Kind::AllGather,
            Call::Gather { .. } => Kind::Gather,
            Call::Scatter { .. } => Kind::Scatter,
            Call::ReduceScatter(_) => Kind::ReduceScatter,
            Call::AllToAll => Kind::AllToAll,
            Call::Barrier | Call::MonitoredBarrier { .. } => Kind::Barrier,
            Call::Send { .. } | Call::Receive { .. } => Kind::Message,
        }
    }

    /// The bytes that its time depends on: of one rank's memory, which is that of all blocks where ranks exchange them.
    fn bytes(self, invocation: &Invocation<'_>, size: usize) -> usize {
        let sum = |views: &[View]| views.iter().map(View::len).sum::<usize>();
        let (inputs, outputs) = (sum(invocation.inputs), sum(invocation.outputs));
        match self {
            // Only the root has all blocks.
            Kind::Gather => inputs * size,
            Kind::Scatter => outputs * size,
            _ => inputs.max(outputs),
        }
    }
}

/// Times in microseconds at growing sizes. Between two of them time grows with a latency and a bandwidth (Hockney's model);
/// beyond the last, with that of the last two.
#[derive(Clone, Debug, Default, PartialEq)]
struct Curve(Vec<(f64, f64)>);

impl Curve {
    /// A larger operation never takes less time: what was measured otherwise is noise.
    fn new(points: impl Iterator<Item = (usize, f64)>) -> Curve {
        let mut longest = 0.0_f64;
        Curve(
            points
                .map(|(bytes, time)| {
                    longest = longest.max(time);
                    (bytes as f64, longest)
                })
                .collect(),
        )
    }

    fn at(&self, bytes: usize) -> f64 {
        let (points, bytes) = (&self.0, bytes as f64);
        let Some(&(first, shortest)) = points.first() else { return 0.0 };
        if bytes <= first || points.len() == 1 {
            return shortest;
        }
        let above = points.iter().position(|&(size, _)| bytes <= size).unwrap_or(points.len() - 1);
        let ((low, early), (high, late)) = (points[above - 1], points[above]);
        let slope = if high > low { (late - early) / (high - low) } else { 0.0 };
        let beyond = if bytes > high { bytes - high } else { 0.0 };
        // What is beyond goes at the bandwidth of the last step, and at least at that of all bytes so far.
        early + (bytes.min(high) - low) * slope + beyond * slope.max(0.5 * late / high)
    }
}

/// `bytes` or some more, as one block for each of `size` ranks: a whole number of the largest element type.
fn in_blocks(bytes: usize, size: usize) -> usize {
    (bytes / size).max(1).next_multiple_of(size_of::<u128>()) * size
}

/// What the issuers of operations do next, as far as their time depends on it: the engine is told of an operation that
/// nobody waits for at once.
const MANNERS: [Next; 2] = [Next::Waits, Next::GoesOn];

/// A curve for each kind of operation and manner of issuing it.
#[derive(Debug)]
struct Model(Vec<[Curve; MANNERS.len()]>);

impl Model {
    fn curve(&self, kind: Kind, next: Next) -> &Curve {
        &self.0[kind as usize][usize::from(next != Next::Waits)]
    }
}

/// What a group knows of it.
#[derive(Default)]
pub(super) struct Estimates(OnceCell<Arc<Model>>);

impl Group {
    /// Makes [`Group::estimate`] possible. Every rank calls it, in the order of collectives; the first time a group of this
    /// kind does it measures, which takes about a second on one node. Later calls return at once.
    pub fn prepare_estimates(&self) -> Result<()> {
        self.estimates.0.get_or_try_init(|| self.agreed_model()).map(drop)
    }

    /// Whether [`Group::estimate`] is possible.
    pub fn has_estimates(&self) -> bool {
        self.estimates.0.get().is_some()
    }

    /// How long an operation would take from its call to its end, in microseconds, if all ranks called it at once, and waited
    /// for it then: in the same call, or, unless it is [`Next::Waits`], in one of its own. Nothing moves. `None` before
    /// [`Group::prepare_estimates`]. The same on all ranks if their memory is of the same length.
    pub fn estimate(&self, invocation: &Invocation<'_>, next: Next) -> Result<Option<f64>> {
        check::check(invocation, self.rank(), self.size(), self.reach.tag_max(self.transport.tag_max()))?;
        let kind = Kind::of(invocation.call);
        let bytes = kind.bytes(invocation, self.size());
        Ok(self.estimates.0.get().map(|model| model.curve(kind, next).at(bytes)))
    }

    /// The same on every rank: measured together, if one of them does not know groups of this kind yet.
    fn agreed_model(&self) -> Result<Arc<Model>> {
        let key = format!("{} ranks over {}; {}", self.size(), self.reach, self.tuning);
        let known =
            KNOWN.lock().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(|known| known.get(&key).cloned());
        let everybody_knows = self.agreed(&[f64::from(u8::from(known.is_some()))], ReduceOp::Min)?[0] > 0.0;
        let mut times = match known {
            Some(model) if everybody_knows => {
                model.0.iter().flatten().flat_map(|curve| curve.0.iter().map(|point| point.1)).collect()
            }
            _ => self.measure_all()?,
        };
        // An operation takes as long as on the rank where it takes longest. Also where all know it: they may have measured it
        // in different groups.
        times = self.agreed(&times, ReduceOp::Max)?;
        let mut times = times.into_iter();
        let curves = Kind::ALL.map(|kind| MANNERS.map(|_| Curve::new(self.sizes(kind).zip(times.by_ref()))));
        let model = Arc::new(Model(curves.into()));
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        known.get_or_insert_default().insert(key, model.clone());
        Ok(model)
    }

    /// The sizes at which it is measured, in bytes: whole blocks for all ranks.
    fn sizes(&self, kind: Kind) -> impl Iterator<Item = usize> + use<> {
        let size = self.size();
        let count = match (kind, &self.reach) {
            (Kind::Barrier, _) => 1,
            (_, Reach::Node(_)) if size <= RANKS_FOR_ALL_SIZES => SIZES.len(),
            (_, Reach::Node(_)) => SIZES.len() - 1,
            _ => SIZES.iter().filter(|&&bytes| bytes <= LONGEST_OVER_NETWORK).count(),
        };
        SIZES.into_iter().take(count).map(move |bytes| in_blocks(bytes, size))
    }

    fn measure_all(&self) -> Result<Vec<f64>> {
        let mut times = Vec::new();
        for kind in Kind::ALL {
            let begin = times.len();
            for next in MANNERS {
                for (number, bytes) in self.sizes(kind).enumerate() {
                    let time = match next {
                        Next::GoesOn if SIZES[number] > LONGEST_HANDED_OVER => times[begin + number],
                        _ => self.measure(kind, next, bytes)?,
                    };
                    times.push(time);
                }
            }
        }
        Ok(times)
    }

    /// Microseconds of one operation.
    fn measure(&self, kind: Kind, next: Next, bytes: usize) -> Result<f64> {
        let block = bytes / self.size();
        let mut scratch = Scratch::new(2 * bytes);
        // Pages that were never written are all the same memory, and faster to read.
        for page in (0..2 * bytes).step_by(PAGE) {
            scratch.view().slice(page..page + 1).write(&[0]);
        }
        let (input, output) = (scratch.view().slice(0..bytes), scratch.view().slice(bytes..2 * bytes));
        let blocks =
            |view: View| (0..self.size()).map(|rank| view.slice(rank * block..(rank + 1) * block)).collect::<Vec<_>>();
        let (sent, received) = (blocks(input), blocks(output));
        let (own_sent, own_received) = (&sent[self.rank()..][..1], &received[self.rank()..][..1]);
        let (input, output) = (&[input][..], &[output][..]);
        let at_root = |views| if self.rank() == 0 { views } else { &[][..] };

        let sum = Reduction::new(DataType::Float32, ReduceOp::Sum, 1.0)?;
        let (call, inputs, outputs) = match kind {
            Kind::Broadcast => (Call::Broadcast { root: 0 }, &[][..], output),
            Kind::AllReduce => (Call::AllReduce(sum), output, output),
            Kind::Reduce => (Call::Reduce { root: 0, reduction: sum }, output, at_root(output)),
            Kind::AllGather => (Call::AllGather, own_sent, &received[..]),
            Kind::Gather => (Call::Gather { root: 0 }, own_sent, at_root(&received)),
            Kind::Scatter => (Call::Scatter { root: 0 }, at_root(&sent), own_received),
            Kind::ReduceScatter => (Call::ReduceScatter(sum), &sent[..], own_received),
            Kind::AllToAll => (Call::AllToAll, &sent[..], &received[..]),
            Kind::Barrier => (Call::Barrier, &[][..], &[][..]),
            Kind::Message => match self.message(input, output) {
                Some((call, inputs, outputs)) => (call, inputs, outputs),
                None => return self.kept(scratch, self.median_time(bytes, || Ok(()))),
            },
        };
        let invocation = Invocation::new(call, inputs, outputs);
        let result = self.median_time(bytes, || self.carry_out(&invocation, next));
        self.kept(scratch, result)
    }

    /// Frees the memory, unless an operation has failed that may use it still.
    fn kept<T>(&self, scratch: Scratch, result: Result<T>) -> Result<T> {
        if result.is_err() {
            std::mem::forget(scratch);
        }
        result
    }

    /// Issues an operation and waits for its end, in a manner of its own.
    fn carry_out(&self, invocation: &Invocation<'_>, next: Next) -> Result<()> {
        match self.start(invocation, Some(self.timeout().max(TIMEOUT)), next, |_| Ok(Box::new(Nobody)))? {
            Started::Ended { .. } => Ok(()),
            Started::Pending(operation) => self.end_of(&operation).map(drop),
        }
    }

    /// This rank's part in a message from each rank of the first half to one of the second, which is on another node if there
    /// are several, with the last of the user's tags. The last of an odd number of ranks has nobody.
    fn message<'a>(&self, sent: &'a [View], received: &'a [View]) -> Option<(Call, &'a [View], &'a [View])> {
        let (rank, half) = (self.rank(), self.size() / 2);
        let tag = self.reach.tag_max(self.transport.tag_max());
        if rank < half {
            Some((Call::Send { to: rank + half, tag }, sent, &[]))
        } else if rank < 2 * half {
            Some((Call::Receive { from: Some(rank - half), tag }, &[], received))
        } else {
            None
        }
    }

    /// Microseconds. Each time after a barrier: of operations back to back one begins while the one before still ends.
    fn median_time(&self, bytes: usize, once: impl Fn() -> Result<()>) -> Result<f64> {
        let count = (BYTES / bytes).clamp(*MEASUREMENTS.start(), *MEASUREMENTS.end());
        let mut times = Vec::new();
        once()?;
        for _ in 0..count {
            self.carry_out(&Invocation::new(Call::Barrier, &[], &[]), Next::Waits)?;
            let start = Instant::now();
            once()?;
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
        times.sort_by(f64::total_cmp);
        Ok(times[count / 2])
    }

    /// The reduction of all ranks' numbers.
    fn agreed(&self, numbers: &[f64], op: ReduceOp) -> Result<Vec<f64>> {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
        let mut scratch = Scratch::new(bytes.len());
        scratch.view().write(&bytes);
        let view = scratch.view();
        let call = Call::AllReduce(Reduction::new(DataType::Float64, op, 1.0)?);
        let mut scratch = self.run_with(&Invocation::new(call, &[view], &[view]), None, scratch)?;
        let number = |bytes: &[u8]| bytes.try_into().map(f64::from_ne_bytes).unwrap_or_default();
        Ok(scratch.view().to_vec().chunks_exact(size_of::<f64>()).map(number).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_goes_through_its_points_and_straight_between_them() {
        let curve = Curve::new([(1000, 2.0), (2000, 4.0), (10_000, 12.0)].into_iter());
        assert_eq!(curve.at(0), 2.0);
        assert_eq!(curve.at(1000), 2.0);
        assert_eq!(curve.at(1500), 3.0);
        assert_eq!(curve.at(2000), 4.0);
        assert_eq!(curve.at(6000), 8.0);
        assert_eq!(curve.at(10_000), 12.0);
        assert_eq!(curve.at(20_000), 22.0);
    }

    #[test]
    fn a_curve_never_falls() {
        let curve = Curve::new([(1000, 5.0), (2000, 3.0), (4000, 3.5)].into_iter());
        let times: Vec<_> = (0..100).map(|step| curve.at(step * 100)).collect();
        assert!(times.is_sorted(), "{times:?}");
        // Noise at the end does not make long operations free.
        assert!(curve.at(4 << 20) > 1000.0);
        assert_eq!(Curve::default().at(1000), 0.0);
        assert_eq!(Curve::new([(1000, 5.0)].into_iter()).at(1 << 20), 5.0);
    }

    #[test]
    fn sizes_are_whole_blocks_for_any_number_of_ranks() {
        for size in [1, 3, 17, 1024, 2000, 100_000] {
            for bytes in SIZES {
                let whole = in_blocks(bytes, size);
                assert!(
                    whole >= bytes.min(16 * size) && whole.is_multiple_of(16 * size),
                    "{bytes} for {size}: {whole}"
                );
            }
        }
        assert!(Curve::new([(16_000, 1.0), (16_000, 2.0)].into_iter()).at(32_000).is_finite());
    }

    #[test]
    fn kinds_are_numbered_as_listed() {
        assert!(Kind::ALL.iter().enumerate().all(|(number, &kind)| kind as usize == number));
    }
}
