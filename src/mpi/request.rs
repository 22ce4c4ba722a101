//! Non-blocking point-to-point messages (MPI 4.1, sections 3.7 and 3.8).

use std::ffi::c_int;
use std::mem::MaybeUninit;

use mpi_sys::{MPI_Message, MPI_Request};

use super::check::check;
use super::communicator::Communicator;
use super::datatype::{ByteCount, message_bytes};
use crate::error::Result;
use crate::memory::View;

/// What a completed request reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// For a receive, the sender's rank; for a send, the destination.
    pub peer: usize,
    /// Bytes moved.
    pub bytes: u64,
}

/// A message that has come, and that only this handle can receive.
#[derive(Debug)]
pub struct Message {
    raw: MPI_Message,
    source: usize,
    bytes: usize,
}

// SAFETY: a message handle may be used by any thread, one at a time (MPI 4.1, section 11.6).
unsafe impl Send for Message {}

impl Message {
    /// The next message from rank `peer` of `communicator`, or from any rank, if one has come (`MPI_Improbe`).
    ///
    /// Its length is known before any of it is written. To post a receive and have MPI cut off what is too long is not
    /// safe: OpenMPI's single-copy path writes the whole message before it reports MPI_ERR_TRUNCATE.
    pub fn probe(communicator: &Communicator, peer: Option<usize>, tag: i32) -> Result<Option<Message>> {
        // SAFETY: constants of the C library.
        let (any, mut raw) = unsafe { (mpi_sys::RSMPI_ANY_SOURCE, mpi_sys::RSMPI_MESSAGE_NULL) };
        let source = peer.map_or(any, |peer| peer as c_int);
        let mut found = 0;
        let mut status = MaybeUninit::<mpi_sys::MPI_Status>::zeroed();
        // SAFETY: a live communicator; the outputs are only read when MPI filled them.
        check("MPI_Improbe", unsafe {
            mpi_sys::MPI_Improbe(source, tag, communicator.raw(), &mut found, &mut raw, status.as_mut_ptr())
        })?;
        if found == 0 {
            return Ok(None);
        }
        // SAFETY: zeroed, and filled by MPI when `found` is set.
        let status = unsafe { status.assume_init() };
        Ok(Some(Message { raw, source: status.MPI_SOURCE.max(0) as usize, bytes: message_bytes(&status)? }))
    }

    /// The sender's rank.
    pub fn source(&self) -> usize {
        self.source
    }

    /// Its length.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Starts to receive it into `buffer`, which must have its length.
    pub fn receive(mut self, buffer: &View) -> Result<Request> {
        let kind = ByteCount::new(buffer.len())?;
        let mut raw = null();
        // SAFETY: the view promises that the memory stays, and is not used, until the request has completed.
        check("MPI_Imrecv", unsafe {
            mpi_sys::MPI_Imrecv(buffer.as_mut_ptr().cast(), kind.count, kind.datatype, &mut self.raw, &mut raw)
        })?;
        Ok(Request { raw, peer: self.source, len: buffer.len() })
    }
}

/// A message that MPI is working on. The memory that it names belongs to MPI until `test` returned something other than
/// `Ok(None)`; the engine keeps every request until then.
#[derive(Debug)]
pub struct Request {
    raw: MPI_Request,
    peer: usize,
    len: usize,
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
        Ok(Request { raw, peer, len: data.len() })
    }

    /// `None` while the message is under way.
    pub fn test(&mut self) -> Result<Option<Arrival>> {
        let mut done = 0;
        // SAFETY: `raw` is a live request or MPI_REQUEST_NULL; no status is asked for.
        let code = unsafe { mpi_sys::MPI_Test(&mut self.raw, &mut done, mpi_sys::RSMPI_STATUS_IGNORE) };
        if code != 0 {
            self.raw = null();
        }
        check("MPI_Test", code)?;
        Ok((done != 0).then_some(Arrival { peer: self.peer, bytes: self.len as u64 }))
    }

    /// Asks MPI to give the memory back. `test` tells when it has; some MPIs cannot cancel a message that has begun.
    pub fn cancel(&mut self) {
        // SAFETY: a constant of the C library.
        if self.raw == unsafe { mpi_sys::RSMPI_REQUEST_NULL } {
            return;
        }
        // SAFETY: a live request.
        if let Err(error) = check("MPI_Cancel", unsafe { mpi_sys::MPI_Cancel(&mut self.raw) }) {
            log::debug!("{error}");
        }
    }
}

fn null() -> MPI_Request {
    // SAFETY: a constant of the C library.
    unsafe { mpi_sys::RSMPI_REQUEST_NULL }
}
