//! A reduction: a data type and an op that fit each other.

use super::dispatch;
use super::kernel::{Kernel, Stages};
use super::{Available, DataType, ReduceOp};
use crate::memory::View;

/// Combines the elements of several ranks into one result.
#[derive(Clone, Copy, Debug)]
pub struct Reduction {
    dtype: DataType,
    op: ReduceOp,
    factor: f64,
    kernel: Kernel,
    stages: Option<Stages>,
}

/// A data type does not have an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{op} is not defined for {dtype}: {}", remedy(*.dtype))]
pub struct Unsupported {
    /// The data type.
    pub dtype: DataType,
    /// The op that it does not have.
    pub op: ReduceOp,
}

/// Views that do not fit each other. The schedule that passes them is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// There is nothing to reduce.
    #[error("a reduction needs at least one input")]
    NoInput,
    /// An input is longer or shorter than the output.
    #[error("input {index} of a reduction has {input} bytes, its output {output}")]
    Length {
        /// Which input.
        index: usize,
        /// Its length in bytes.
        input: usize,
        /// Length of the output in bytes.
        output: usize,
    },
    /// The last element is cut off.
    #[error("{bytes} bytes are not a whole number of {dtype} elements of {} bytes", .dtype.size())]
    PartialElement {
        /// Length of the views in bytes.
        bytes: usize,
        /// The data type.
        dtype: DataType,
    },
    /// An input shares some bytes with the output, but starts elsewhere.
    #[error("input {index} of a reduction overlaps its output without being the same memory")]
    PartialOverlap {
        /// Which input.
        index: usize,
    },
}

impl Reduction {
    /// The reduction of `dtype` with `op`. `factor` is what PREMUL_SUM multiplies by; the other ops ignore it.
    ///
    /// # Errors
    /// If the data type does not have the op.
    pub fn new(dtype: DataType, op: ReduceOp, factor: f64) -> Result<Reduction, Unsupported> {
        Reduction::with(Available::chosen(), dtype, op, factor)
    }

    /// As [`Reduction::new`], with these instructions of the processor.
    pub fn with(instructions: Available, dtype: DataType, op: ReduceOp, factor: f64) -> Result<Reduction, Unsupported> {
        let kernels = dispatch::kernel(dtype, op).ok_or(Unsupported { dtype, op })?;
        let (kernel, stages) = (kernels.with(instructions), kernels.stages_with(instructions));
        Ok(Reduction { dtype, op, factor, kernel, stages })
    }

    /// Data type of the elements.
    pub fn dtype(&self) -> DataType {
        self.dtype
    }

    /// What combines them.
    pub fn op(&self) -> ReduceOp {
        self.op
    }

    /// What PREMUL_SUM multiplies by.
    pub fn factor(&self) -> f64 {
        self.factor
    }

    /// Reduces `inputs`, one from each rank, in rank order, into `output`. AVG divides by the number of inputs.
    ///
    /// All views have the same length, a multiple of the element's size, and need no alignment. `output` may be the
    /// same memory as any of the inputs. Inputs may overlap each other.
    ///
    /// # Errors
    /// If the views do not fit each other; nothing has been written then.
    pub fn reduce(&self, output: &View, inputs: &[View]) -> Result<(), LayoutError> {
        self.check(output, inputs)?;
        if !output.is_empty() {
            (self.kernel)(self.factor, output, inputs);
        }
        Ok(())
    }

    /// Bytes of an accumulator: what one element becomes between [`Reduction::accumulate`] and [`Reduction::complete`].
    pub fn accumulator(&self) -> usize {
        self.stages.map_or(self.dtype.size(), |stages| stages.size)
    }

    /// The first of two steps: combines `inputs`, of some of the ranks, into `output`, which has an accumulator for each
    /// element. Nothing is rounded that [`Reduction::reduce`] would not round.
    ///
    /// # Errors
    /// If the views do not fit each other, or overlap; nothing has been written then.
    pub fn accumulate(&self, output: &View, inputs: &[View]) -> Result<(), LayoutError> {
        let Some(stages) = self.stages else { return self.reduce(output, inputs) };
        check_step(output, self.accumulator(), inputs, self.dtype)?;
        if !output.is_empty() {
            (stages.accumulate)(self.factor, inputs.len(), output, inputs);
        }
        Ok(())
    }

    /// The second of two steps: combines what [`Reduction::accumulate`] has made of the inputs of all `ranks` ranks into
    /// `output`.
    ///
    /// # Errors
    /// As [`Reduction::accumulate`].
    pub fn complete(&self, output: &View, accumulated: &[View], ranks: usize) -> Result<(), LayoutError> {
        let Some(stages) = self.stages else { return self.reduce(output, accumulated) };
        for view in accumulated {
            check_step(view, self.accumulator(), &[*output], self.dtype)?;
        }
        if accumulated.is_empty() {
            return Err(LayoutError::NoInput);
        }
        if !output.is_empty() {
            (stages.complete)(self.factor, ranks, output, accumulated);
        }
        Ok(())
    }

    fn check(&self, output: &View, inputs: &[View]) -> Result<(), LayoutError> {
        let bytes = output.len();
        if inputs.is_empty() {
            return Err(LayoutError::NoInput);
        }
        if !bytes.is_multiple_of(self.dtype.size()) {
            return Err(LayoutError::PartialElement { bytes, dtype: self.dtype });
        }
        for (index, input) in inputs.iter().enumerate() {
            if input.len() != bytes {
                return Err(LayoutError::Length { index, input: input.len(), output: bytes });
            }
            if input.as_ptr() != output.as_ptr() && input.overlaps(output) {
                return Err(LayoutError::PartialOverlap { index });
            }
        }
        Ok(())
    }
}

/// Whether there is one accumulator, of `size` bytes, in `accumulators` for each element of each of `views`.
fn check_step(accumulators: &View, size: usize, views: &[View], dtype: DataType) -> Result<(), LayoutError> {
    if views.is_empty() {
        return Err(LayoutError::NoInput);
    }
    for (index, view) in views.iter().enumerate() {
        if !view.len().is_multiple_of(dtype.size()) {
            return Err(LayoutError::PartialElement { bytes: view.len(), dtype });
        }
        if view.len() / dtype.size() * size != accumulators.len() {
            return Err(LayoutError::Length { index, input: view.len(), output: accumulators.len() });
        }
        if view.overlaps(accumulators) {
            return Err(LayoutError::PartialOverlap { index });
        }
    }
    Ok(())
}

/// What a user can do instead.
fn remedy(dtype: DataType) -> String {
    let ops = ReduceOp::ALL.iter().filter(|&&op| dispatch::kernel(dtype, op).is_some());
    let names: Vec<_> = ops.map(|op| op.name()).collect();
    if names.is_empty() {
        format!("elements of type {dtype} can be moved but not reduced")
    } else {
        format!("it reduces with {}", names.join(", "))
    }
}
