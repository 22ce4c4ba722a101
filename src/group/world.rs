//! The group of all processes that the launcher started, which needs no Store to be created.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{Call, Group, GroupOptions, Issued, address, start};
use crate::engine;
use crate::error::{Error, Result};
use crate::memory::{Scratch, View};
use crate::transport::MpiTransport;

/// Why this process has not met the others.
static GIVEN_UP: Mutex<Option<Error>> = Mutex::new(None);

impl Group {
    /// The group of all processes of MPI_COMM_WORLD, in that order; all of them call it. Starts MPI if nobody has.
    pub fn world(options: GroupOptions) -> Result<Group> {
        let (environment, engine) = start()?;
        // MPI's calls that create a communicator block for as long as one process is missing. Meet first.
        // One at a time, so that two threads do not meet each other's peers. A process that has given up does not come
        // again: its report may still be under way, and would stand for it in a later meeting.
        let mut given_up = GIVEN_UP.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = &*given_up {
            return Err(error.clone());
        }
        let meeting = GroupOptions { name: format!("{} (meeting of all processes)", options.name), ..options.clone() };
        let meeting = Group::over(engine, MpiTransport::world(environment), meeting);
        if let Err(error) = meeting.run(&Call::MonitoredBarrier { wait_all_ranks: true }, &[], &[]) {
            *given_up = Some(error.clone());
            return Err(error);
        }
        let everybody: Vec<usize> = (0..environment.world_size()).collect();
        let group = Group::of_world_ranks(environment, engine, &everybody, options)?;
        engine::set_ranks_on_host(group.ranks_on_host()?);
        // The user's first collective is number 0, as in any other group.
        *group.issued.lock().unwrap_or_else(PoisonError::into_inner) = Issued::default();
        Ok(group)
    }

    /// How many members share this process's machine. All of them call it.
    fn ranks_on_host(&self) -> Result<usize> {
        let mut hasher = DefaultHasher::new();
        address::boot_id().hash(&mut hasher);
        let own = hasher.finish().to_ne_bytes();
        let len = own.len();
        let mut scratch = Scratch::new(len * (self.size() + 1));
        let memory = scratch.view();
        let views: Vec<_> = (0..=self.size()).map(|index| memory.slice(index * len..(index + 1) * len)).collect();
        views[self.size()].write(&own);
        let _scratch = self.run_with(&Call::AllGather, &views[self.size()..], &views[..self.size()], scratch)?;
        Ok(views[..self.size()].iter().filter(|view| view.to_vec() == own).count())
    }

    /// As [`Group::run`], with views of `scratch`, which comes back. After a failure MPI may still use it: it is leaked.
    fn run_with(&self, call: &Call, inputs: &[View], outputs: &[View], scratch: Scratch) -> Result<Scratch> {
        match self.run(call, inputs, outputs) {
            Ok(_) => Ok(scratch),
            Err(error) => {
                std::mem::forget(scratch);
                Err(error)
            }
        }
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
    let view = header.view();
    let mut header = group.run_with(&call, &[], &[view], header)?;
    let bytes: [u8; 8] = header.view().to_vec().try_into().map_err(|_| Error::Internal("8 bytes".to_owned()))?;
    let mut text = Scratch::new(u64::from_le_bytes(bytes) as usize);
    if group.rank() == 0 {
        text.view().write(payload.as_bytes());
    }
    let view = text.view();
    let mut text = group.run_with(&call, &[], &[view], text)?;
    String::from_utf8(text.view().to_vec()).map_err(|error| Error::Internal(error.to_string()))
}
