//! The group of all processes that the launcher started, which needs no Store to be created.

use std::time::Duration;

use super::{Address, Call, Group, GroupOptions, start};
use crate::error::{Error, Result};
use crate::memory::Scratch;
use crate::transport::MpiTransport;

impl Group {
    /// The group of all processes of MPI_COMM_WORLD, in that order; all of them call it. Starts MPI if nobody has.
    pub fn world(options: GroupOptions) -> Result<Group> {
        let (environment, engine) = start()?;
        // MPI's calls that create a communicator block for as long as one process is missing. Meet first.
        let meeting = GroupOptions { name: format!("{} (meeting of all processes)", options.name), ..options.clone() };
        let meeting = Group::over(engine, MpiTransport::world(environment), meeting);
        meeting.run(&Call::MonitoredBarrier { wait_all_ranks: true }, &[], &[])?;
        let here = Address::local()?;
        // Only what `create` checks; the members are one job by construction.
        let addresses: Vec<_> =
            (0..environment.world_size()).map(|world_rank| Address { world_rank, ..here.clone() }).collect();
        Group::create(&addresses, environment.world_rank(), options)
    }
}

/// MPI rank 0's `payload` on every process of MPI_COMM_WORLD; all of them call it, and fail if one does not come within
/// `timeout`. For what has to be known before a group can be created.
pub fn world_broadcast(payload: &str, timeout: Duration) -> Result<String> {
    let group = Group::world(GroupOptions { name: "rendezvous".to_owned(), timeout })?;
    let text = broadcast_text(&group, payload)?;
    while !group.shutdown(timeout)? {}
    Ok(text)
}

fn broadcast_text(group: &Group, payload: &str) -> Result<String> {
    let call = Call::Broadcast { root: 0 };
    let mut header = Scratch::new(size_of::<u64>());
    header.view().write(&(payload.len() as u64).to_le_bytes());
    // A failed broadcast may leave MPI with the memory, so it is given up with it.
    if let Err(error) = group.run(&call, &[], &[header.view()]) {
        std::mem::forget(header);
        return Err(error);
    }
    let bytes: [u8; 8] = header.view().to_vec().try_into().map_err(|_| Error::Internal("8 bytes".to_owned()))?;
    let mut text = Scratch::new(u64::from_le_bytes(bytes) as usize);
    if group.rank() == 0 {
        text.view().write(payload.as_bytes());
    }
    if let Err(error) = group.run(&call, &[], &[text.view()]) {
        std::mem::forget(text);
        return Err(error);
    }
    String::from_utf8(text.view().to_vec()).map_err(|error| Error::Internal(error.to_string()))
}
