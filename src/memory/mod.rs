//! Memory that an operation reads and writes: views of the caller's buffers, and scratch of the engine's own.

mod scratch;
mod stream;
#[cfg(loom)]
pub(crate) mod tracked;
mod view;

pub use scratch::Scratch;
pub(crate) use stream::STREAMS;
pub use view::View;
