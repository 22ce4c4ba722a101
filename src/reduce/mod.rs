//! Reduction of elements that several ranks contributed: every data type with every op that it has.
//!
//! `output[i] = finish(input[0][i] ∘ input[1][i] ∘ …)`, the inputs being the ranks' contributions in rank order. That
//! order is fixed, so the result is deterministic, and ranks that compute the same elements get the same bits (the
//! payload of a NaN apart).
//!
//! | Types | Accumulated in | Ops |
//! |---|---|---|
//! | float16, bfloat16 | float32, over all inputs, rounded once, to nearest even | SUM AVG PRODUCT MIN MAX PREMUL_SUM |
//! | float32, float64 | their own type | SUM AVG PRODUCT MIN MAX PREMUL_SUM |
//! | complex64, complex128 | their own type | SUM AVG PRODUCT PREMUL_SUM |
//! | integers | their own type; AVG in a wider one | SUM AVG PRODUCT MIN MAX BAND BOR BXOR |
//! | bool | - | SUM PRODUCT MIN MAX BAND BOR BXOR |
//! | bytes (every other type) | - | none: it can be moved but not reduced |
//!
//! - AVG divides the sum by the number of ranks, once, at the end. Of integers it is the exact sum (it cannot overflow)
//!   divided with truncation toward zero: the average of -3 and 0 is -1.
//! - PREMUL_SUM multiplies each input by the factor, in the accumulator's type, before it is added. The factor is real,
//!   for complex types too.
//! - SUM and PRODUCT of integers wrap around (two's complement), as they do in torch.
//! - MIN and MAX of floats give NaN if any input is NaN, as `torch.amin` and `torch.amax` do. Of 0.0 and -0.0 either may
//!   be the result.
//! - PRODUCT of complex numbers is the complex product.
//! - bool is one byte; every nonzero byte counts as true, and the result is 0 or 1. SUM, MAX and BOR are the logical or;
//!   PRODUCT, MIN and BAND the logical and; BXOR is true where an odd number of inputs is.

mod bfloat16;
mod complex;
mod dispatch;
mod dtype;
mod element;
mod float16;
mod instructions;
mod kernel;
mod loops;
mod number;
mod op;
mod operation;
mod reduction;
#[cfg(test)]
#[cfg(not(loom))]
pub(crate) mod tests;

pub use dtype::DataType;
pub use instructions::{Available, Instructions};
pub use op::ReduceOp;
pub use reduction::{LayoutError, Reduction, Unsupported};
