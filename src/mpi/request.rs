//! Non-blocking point-to-point messages (MPI 4.1, section 3.7).

use std::ffi::c_int;
use std::mem::MaybeUninit;

use mpi_sys::MPI_Request;

use super::check::{check, class};
use super::communicator::Communicator;
use super::datatype::{ByteCount, received_bytes};
use crate::error::{Error, Result};
use crate::memory::View;

/// What a completed request reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// For a receive, the sender's rank; for a send, the destination.
    pub peer: usize,
    /// Bytes moved.
    pub bytes: u64,
}

/// A message that MPI is working on. The memory that it names belongs to MPI until `test` returned something other than
/// `Ok(None)`; the engine keeps every request until then.
#[derive(Debug)]
pub struct Request {
    raw: MPI_Request,
    /// `None`: any.
    peer: Option<usize>,
    len: usize,
    receive: bool,
    cancelled: bool,
}

// SAFETY: an MPI request handle may be used by any thread, one at a time (MPI 4.1, section 11.6).
unsafe impl Send for Request {}

impl Request {
    /// Starts to send `data` to rank `peer` of `communicator`.
    pub fn send(communicator: &Communicator, peer: usize, tag: i32, data: &View) -> Result<Request> {
        let kind = ByteCount::new(data.len())?;
        let mut raw = null();
        // SAFETY: the view promises that the memory stays until the engine has seen the request complete.
        check("MPI_Isend", unsafe {
            mpi_sys::MPI_Isend(
                data.as_ptr().cast(),
                kind.count,
                kind.datatype,
                peer as c_int,
                tag,
                communicator.raw(),
                &mut raw,
            )
        })?;
        Ok(Request { raw, peer: Some(peer), len: data.len(), receive: false, cancelled: false })
    }

    /// Starts to receive into `buffer`, from rank `peer` of `communicator`, or from any rank.
    pub fn receive(communicator: &Communicator, peer: Option<usize>, tag: i32, buffer: &View) -> Result<Request> {
        let kind = ByteCount::new(buffer.len())?;
        let mut raw = null();
        // SAFETY: a constant of the C library.
        let source = peer.map_or(unsafe { mpi_sys::RSMPI_ANY_SOURCE }, |peer| peer as c_int);
        // SAFETY: the view promises that the memory stays, and is not used, until the request has completed.
        check("MPI_Irecv", unsafe {
            mpi_sys::MPI_Irecv(
                buffer.as_mut_ptr().cast(),
                kind.count,
                kind.datatype,
                source,
                tag,
                communicator.raw(),
                &mut raw,
            )
        })?;
        Ok(Request { raw, peer, len: buffer.len(), receive: true, cancelled: false })
    }

    /// `None` while the message is under way. A receive must have exactly the length of its buffer.
    pub fn test(&mut self) -> Result<Option<Arrival>> {
        let mut done = 0;
        let mut status = MaybeUninit::<mpi_sys::MPI_Status>::zeroed();
        // SAFETY: `raw` is a live request or MPI_REQUEST_NULL; the status is only read when MPI filled it.
        let code = unsafe { mpi_sys::MPI_Test(&mut self.raw, &mut done, status.as_mut_ptr()) };
        if code != 0 {
            self.raw = null();
            return Err(self.failure(code));
        }
        if done == 0 {
            return Ok(None);
        }
        // SAFETY: zeroed, and filled by MPI when `done` is set.
        let status = unsafe { status.assume_init() };
        if !self.receive || self.cancelled {
            return Ok(Some(Arrival { peer: self.peer.unwrap_or_default(), bytes: self.len as u64 }));
        }
        let arrival = Arrival { peer: status.MPI_SOURCE.max(0) as usize, bytes: received_bytes(&status, self.len)? };
        if arrival.bytes != self.len as u64 {
            return Err(Error::Length { peer: arrival.peer, received: arrival.bytes, expected: self.len as u64 });
        }
        Ok(Some(arrival))
    }

    /// Asks MPI to give the memory back. `test` tells when it has; some MPIs cannot cancel a send that has begun.
    pub fn cancel(&mut self) {
        // SAFETY: a constant of the C library.
        if self.cancelled || self.raw == unsafe { mpi_sys::RSMPI_REQUEST_NULL } {
            return;
        }
        self.cancelled = true;
        // SAFETY: a live request.
        if let Err(error) = check("MPI_Cancel", unsafe { mpi_sys::MPI_Cancel(&mut self.raw) }) {
            log::debug!("{error}");
        }
    }

    fn failure(&self, code: c_int) -> Error {
        if self.receive && class(code) == mpi_sys::MPI_ERR_TRUNCATE as c_int {
            let peer = self.peer.map_or_else(|| "a rank".to_owned(), |peer| format!("rank {peer}"));
            return Error::Truncated { peer, expected: self.len as u64 };
        }
        match check("MPI_Test", code) {
            Err(error) => error,
            Ok(()) => Error::Internal("MPI_Test failed without an error code".to_owned()),
        }
    }
}

fn null() -> MPI_Request {
    // SAFETY: a constant of the C library.
    unsafe { mpi_sys::RSMPI_REQUEST_NULL }
}
