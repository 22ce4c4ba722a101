//! The one error type of the crate.

use std::time::Duration;

use crate::reduce::{LayoutError, Unsupported};

/// Why a call or an operation failed. Every message names what a person needs to act.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument has a value that the operation cannot take. Nothing was moved.
    #[error("{0}")]
    Argument(String),

    /// The element type does not have the reduction that was asked for. Nothing was moved.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),

    /// This machine, MPI or build lacks what was asked for.
    #[error("{0}")]
    Unavailable(String),

    /// An MPI call failed.
    #[error("{call} failed: {text} (MPI error class {class})")]
    Mpi {
        /// The MPI function.
        call: &'static str,
        /// `MPI_Error_class` of the code that it returned.
        class: i32,
        /// `MPI_Error_string` of the code that it returned.
        text: String,
    },

    /// A message has another length than the memory it was meant for.
    #[error(
        "rank {peer} sent {received} bytes where {expected} bytes were expected; every rank must pass matching sizes and dtypes"
    )]
    Length {
        /// The sender, as a rank of the group.
        peer: usize,
        /// Bytes that came.
        received: u64,
        /// Bytes that there is room for.
        expected: u64,
    },

    /// The deadline of an operation passed.
    #[error("{operation}: Timed out waiting {}ms for its peers (issued {} ms ago); {}", .timeout.as_millis(), .waited.as_millis(), .absentees.as_deref().unwrap_or("a peer is late, dead, or called something else"))]
    Timeout {
        /// The operation, its group, rank and sequence number.
        operation: String,
        /// The limit.
        timeout: Duration,
        /// Time since the operation was issued.
        waited: Duration,
        /// Who has not come, and what they do instead, if it is known.
        absentees: Option<String>,
    },

    /// A rank of this node has destroyed the group while others still use it.
    #[error("rank {rank} has left the group (destroy_process_group)")]
    PeerLeft {
        /// Which, in the group.
        rank: usize,
    },

    /// The process of a rank has ended.
    #[error("rank {rank} (process {pid}) has died")]
    PeerDied {
        /// Which, in the group.
        rank: usize,
        /// Its process id.
        pid: u32,
    },

    /// An operation failed on another rank first.
    #[error("rank {rank} has failed: {cause}")]
    PeerFailed {
        /// Which, in the group.
        rank: usize,
        /// The kind of its error.
        kind: Kind,
        /// What it said.
        cause: String,
    },

    /// An earlier message to the same rank was given up, and this one cannot come after it.
    #[error("an earlier message to rank {rank} was given up")]
    Abandoned {
        /// The receiver, as a rank of the group.
        rank: usize,
    },

    /// Ranks called different operations, or with arguments that do not fit each other.
    #[error("{0}")]
    Mismatch(String),

    /// Some ranks did not arrive at a monitored barrier.
    #[error("{0}")]
    MonitoredBarrier(String),

    /// An operation failed; wraps the cause with what was being done.
    #[error("{operation}: {cause}")]
    Operation {
        /// The operation, its group, rank and sequence number.
        operation: String,
        /// What went wrong.
        cause: Box<Error>,
    },

    /// The group was aborted, or an earlier failure made it unusable.
    #[error("group {group} can no longer be used: {cause}. Destroy it, and create a new one")]
    GroupFailed {
        /// Name of the group.
        group: String,
        /// What went wrong first.
        cause: String,
    },

    /// A defect of this library: please report it.
    #[error("internal error of torch-rmpi, please report it: {0}")]
    Internal(String),
}

impl From<LayoutError> for Error {
    fn from(error: LayoutError) -> Self {
        Error::Internal(error.to_string())
    }
}

/// Result with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kinds of error that callers in other languages tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// No error.
    None = 0,
    /// A bad value.
    Value = 1,
    /// A type that lacks what was asked for.
    Type = 2,
    /// Not available here.
    NotImplemented = 3,
    /// A deadline passed.
    Timeout = 4,
    /// MPI or a peer failed.
    Backend = 5,
}

impl Kind {
    /// The kind that `kind as u64` came from; [`Kind::Backend`] for any other number.
    pub(crate) fn from_number(number: u64) -> Kind {
        let kinds = [Kind::None, Kind::Value, Kind::Type, Kind::NotImplemented, Kind::Timeout, Kind::Backend];
        kinds.into_iter().find(|&kind| kind as u64 == number).unwrap_or(Kind::Backend)
    }
}

impl Error {
    /// Which kind of error this is.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Argument(_) => Kind::Value,
            Error::Unsupported(_) => Kind::Type,
            Error::Unavailable(_) => Kind::NotImplemented,
            Error::Timeout { .. } => Kind::Timeout,
            Error::Operation { cause, .. } => cause.kind(),
            Error::PeerFailed { kind, .. } => *kind,
            Error::Mpi { .. }
            | Error::Length { .. }
            | Error::PeerLeft { .. }
            | Error::PeerDied { .. }
            | Error::Mismatch(_)
            | Error::Abandoned { .. }
            | Error::MonitoredBarrier(_)
            | Error::GroupFailed { .. }
            | Error::Internal(_) => Kind::Backend,
        }
    }

    /// The same error, naming the operation that it ended.
    pub(crate) fn during(self, operation: String) -> Error {
        match self {
            // These name their operation already.
            e @ (Error::Timeout { .. }
            | Error::Operation { .. }
            | Error::GroupFailed { .. }
            | Error::MonitoredBarrier(_)) => e,
            cause => Error::Operation { operation, cause: Box::new(cause) },
        }
    }
}
