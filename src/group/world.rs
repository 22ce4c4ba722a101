//! The group of all processes that the launcher started, which needs no Store to be created.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{Call, Group, GroupOptions, Invocation, address, start, wishes};
use crate::error::{Error, Result};
use crate::memory::Scratch;
use crate::transport::MpiTransport;

/// Why this process has not met the others.
static GIVEN_UP: Mutex<Option<Error>> = Mutex::new(None);

impl Group {
    /// The group of all processes of MPI_COMM_WORLD, in that order; all of them call it. Starts MPI if nobody has.
    pub fn world(options: GroupOptions) -> Result<Group> {
        let wishes = wishes(&options.overrides)?;
        let (environment, engine) = start()?;
        // MPI's calls that create a communicator block for as long as one process is missing. Meet first.
        // One at a time, so that two threads do not meet each other's peers. A process that has given up does not come
        // again: its report may still be under way, and would stand for it in a later meeting.
        let mut given_up = GIVEN_UP.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = &*given_up {
            return Err(error.clone());
        }
        let meeting = GroupOptions { name: format!("{} (meeting of all processes)", options.name), ..options.clone() };
        let meeting = Group::over(engine, MpiTransport::world(environment), meeting, &wishes);
        if let Err(error) = meeting.run(&Invocation::new(Call::MonitoredBarrier { wait_all_ranks: true }, &[], &[])) {
            *given_up = Some(error.clone());
            return Err(error);
        }
        let everybody: Vec<usize> = (0..environment.world_size()).collect();
        let tag = address::creation_tag(&options.name);
        Group::of_world_ranks(environment, engine, &everybody, tag, options, &wishes)
    }
}

/// MPI rank 0's `payload` on every process of MPI_COMM_WORLD; all of them call it, and fail if one does not come within
/// `timeout`. For what has to be known before a group can be created.
pub fn world_broadcast(payload: &str, timeout: Duration) -> Result<String> {
    let group = Group::world(GroupOptions { name: "rendezvous".to_owned(), timeout, ..GroupOptions::default() })?;
    let text = broadcast_text(&group, payload)?;
    while !group.shutdown(timeout)? {}
    Ok(text)
}

fn broadcast_text(group: &Group, payload: &str) -> Result<String> {
    let call = Call::Broadcast { root: 0 };
    let mut header = Scratch::new(size_of::<u64>());
    header.view().write(&(payload.len() as u64).to_le_bytes());
    let view = header.view();
    let mut header = group.run_with(&Invocation::new(call, &[], &[view]), None, header)?;
    let bytes: [u8; 8] = header.view().to_vec().try_into().map_err(|_| Error::Internal("8 bytes".to_owned()))?;
    let mut text = Scratch::new(u64::from_le_bytes(bytes) as usize);
    if group.rank() == 0 {
        text.view().write(payload.as_bytes());
    }
    let view = text.view();
    let mut text = group.run_with(&Invocation::new(call, &[], &[view]), None, text)?;
    String::from_utf8(text.view().to_vec()).map_err(|error| Error::Internal(error.to_string()))
}
