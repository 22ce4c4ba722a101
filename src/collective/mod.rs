//! The schedule of each collective, one per file: an `async fn` whose awaits are the messages of [`Context`]. The engine
//! polls it; between two awaits it copies and reduces. Messages and scratch memory belong to the
//! operation, not to the schedule, which may fail while they are in use.

pub mod across;
mod all_gather;
mod all_reduce;
mod all_to_all;
mod barrier;
mod broadcast;
#[cfg(test)]
mod buffers;
mod call;
mod context;
mod gather;
mod monitored_barrier;
pub mod node;
mod reduce;
mod reduce_scatter;
mod scatter;
mod slices;
#[cfg(test)]
mod tests;

pub use all_gather::all_gather;
pub use all_reduce::all_reduce;
pub use all_to_all::all_to_all;
pub use barrier::barrier;
pub use broadcast::broadcast;
pub use call::{Call, Invocation};
pub use context::Context;
pub use gather::gather;
pub use monitored_barrier::monitored_barrier;
pub use reduce::reduce;
pub use reduce_scatter::reduce_scatter;
pub use scatter::scatter;
