//! Multi-rank tests of the core, with no torch. Without a launcher this program starts itself under mpirun with 1 to 4
//! ranks, on one node and as if on several, and as if in several domains of a node, each run under a time limit; and
//! with 2 ranks for each way in which a process may end. Under one it is a rank, and runs every test.

#![allow(clippy::unwrap_used)]

mod cases;
mod collectives;
mod disagreement;
mod endings;
mod launch;
mod messages;
mod tuning;

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::var_os(launch::RANK_MARK).is_some() {
        let node = (rmpi::shm::identity::NODE_VARIABLE, launch::node_of_this_rank());
        let domain = (rmpi::shm::locality::DOMAIN_VARIABLE, launch::domain_of_this_rank());
        for (variable, value) in [node, domain] {
            if let Some(value) = value {
                // SAFETY: no other thread has been started.
                unsafe { std::env::set_var(variable, value) };
            }
        }
        return match std::env::var(launch::ENDING_MARK) {
            Ok(name) => endings::act(&name),
            Err(_) => cases::run(),
        };
    }
    launch::all()
}
