//! What C++ says, as the core says it, and the other way round.

use super::ffi;
use crate::error::{Error, Kind, Result};
use crate::group::{Call, Next, Step};
use crate::memory::View;
use crate::reduce::{DataType, ReduceOp, Reduction};

impl From<Kind> for ffi::ErrorKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::None => ffi::ErrorKind::None,
            Kind::Value => ffi::ErrorKind::Value,
            Kind::Type => ffi::ErrorKind::Type,
            Kind::NotImplemented => ffi::ErrorKind::NotImplemented,
            Kind::Timeout => ffi::ErrorKind::Timeout,
            Kind::Backend => ffi::ErrorKind::Backend,
        }
    }
}

/// What the caller does next.
pub(super) fn next(call: &ffi::Call) -> Next {
    match (call.waits, call.batched) {
        (true, _) => Next::Waits,
        (false, true) => Next::IssuesMore,
        (false, false) => Next::GoesOn,
    }
}

fn rank(rank: i64) -> Result<usize> {
    usize::try_from(rank).map_err(|_| Error::Argument(format!("rank {rank} is out of range: ranks begin at 0")))
}

/// What is asked of a window, if it is that.
pub(super) fn to_step(call: &ffi::Call, inputs: &[View]) -> Result<Option<Step>> {
    Ok(Some(match call.operation {
        ffi::Operation::Put => {
            let data = inputs.first().copied().unwrap_or(View::empty());
            Step::Put { to: rank(call.root)?, offset: usize::try_from(call.offset).unwrap_or(usize::MAX), data }
        }
        ffi::Operation::Signal => Step::Signal { to: rank(call.root)? },
        ffi::Operation::WaitSignal => Step::Wait { from: rank(call.root)? },
        _ => return Ok(None),
    }))
}

pub(super) fn to_call(call: &ffi::Call) -> Result<Call> {
    let tag = || {
        i32::try_from(call.tag)
            .map_err(|_| Error::Argument(format!("tag {} is out of range: tags are 32-bit integers from 0", call.tag)))
    };
    let reduction = || Ok::<_, Error>(Reduction::new(data_type(call.dtype)?, reduce_op(call.reduce_op)?, call.factor)?);
    Ok(match call.operation {
        ffi::Operation::Broadcast => Call::Broadcast { root: rank(call.root)? },
        ffi::Operation::AllReduce => Call::AllReduce(reduction()?),
        ffi::Operation::Reduce => Call::Reduce { root: rank(call.root)?, reduction: reduction()? },
        ffi::Operation::AllGather => Call::AllGather,
        ffi::Operation::Gather => Call::Gather { root: rank(call.root)? },
        ffi::Operation::Scatter => Call::Scatter { root: rank(call.root)? },
        ffi::Operation::ReduceScatter => Call::ReduceScatter(reduction()?),
        ffi::Operation::AllToAll => Call::AllToAll,
        ffi::Operation::Barrier => Call::Barrier,
        ffi::Operation::MonitoredBarrier => Call::MonitoredBarrier { wait_all_ranks: call.wait_all_ranks },
        ffi::Operation::Send => Call::Send { to: rank(call.root)?, tag: tag()? },
        ffi::Operation::Recv => {
            Call::Receive { from: if call.root == -1 { None } else { Some(rank(call.root)?) }, tag: tag()? }
        }
        ffi::Operation::Put | ffi::Operation::Signal | ffi::Operation::WaitSignal => {
            return Err(Error::Unavailable("how long steps of a window take is not estimated".to_owned()));
        }
        ffi::Operation { repr } => return Err(Error::Internal(format!("operation {repr}"))),
    })
}

pub(super) fn data_type(dtype: ffi::DataType) -> Result<DataType> {
    Ok(match dtype {
        ffi::DataType::Float16 => DataType::Float16,
        ffi::DataType::BFloat16 => DataType::BFloat16,
        ffi::DataType::Float32 => DataType::Float32,
        ffi::DataType::Float64 => DataType::Float64,
        ffi::DataType::Complex64 => DataType::Complex64,
        ffi::DataType::Complex128 => DataType::Complex128,
        ffi::DataType::UInt8 => DataType::UInt8,
        ffi::DataType::Int8 => DataType::Int8,
        ffi::DataType::UInt16 => DataType::UInt16,
        ffi::DataType::Int16 => DataType::Int16,
        ffi::DataType::UInt32 => DataType::UInt32,
        ffi::DataType::Int32 => DataType::Int32,
        ffi::DataType::UInt64 => DataType::UInt64,
        ffi::DataType::Int64 => DataType::Int64,
        ffi::DataType::Bool => DataType::Bool,
        ffi::DataType::Bytes => DataType::Bytes,
        ffi::DataType { repr } => return Err(Error::Internal(format!("data type {repr}"))),
    })
}

pub(super) fn reduce_op(op: ffi::ReduceOp) -> Result<ReduceOp> {
    Ok(match op {
        ffi::ReduceOp::Sum => ReduceOp::Sum,
        ffi::ReduceOp::Avg => ReduceOp::Avg,
        ffi::ReduceOp::Product => ReduceOp::Product,
        ffi::ReduceOp::Min => ReduceOp::Min,
        ffi::ReduceOp::Max => ReduceOp::Max,
        ffi::ReduceOp::BitAnd => ReduceOp::BitAnd,
        ffi::ReduceOp::BitOr => ReduceOp::BitOr,
        ffi::ReduceOp::BitXor => ReduceOp::BitXor,
        ffi::ReduceOp::PremulSum => ReduceOp::PremulSum,
        ffi::ReduceOp { repr } => return Err(Error::Internal(format!("reduction {repr}"))),
    })
}
