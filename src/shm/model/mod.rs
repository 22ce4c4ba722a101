//! Models of this folder's protocols: loom runs the code itself through every order of its atomic accesses that loom
//! knows, a limited number of preemptions apart, and fails if a thread sleeps for ever, plain memory is read while it is
//! written, or an assertion does not hold.
//!
//! What loom cannot run has a counterpart here: [`segment`] for the mapping and [`futex`] for the system calls.
//! `CONTRIBUTING.md` says how to run the models.

pub(super) mod futex;
pub(super) mod segment;

#[cfg(test)]
mod doorbell;
#[cfg(test)]
mod ring;
#[cfg(test)]
mod rounds;
#[cfg(test)]
mod support;
