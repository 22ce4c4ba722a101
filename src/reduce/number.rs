//! The arithmetic that accumulators need, each kind a trait, so that a type has exactly the ops that it can have.

/// Sum and product.
pub(super) trait Number: Copy + Default {
    /// Sum; of integers it wraps around.
    fn add(self, other: Self) -> Self;
    /// Product; of integers it wraps around.
    fn multiply(self, other: Self) -> Self;
}

/// Division by the number of ranks.
pub(super) trait Divide: Number {
    /// Quotient; of integers it is truncated toward zero.
    fn divide(self, ranks: usize) -> Self;
}

/// Multiplication by the factor of PREMUL_SUM.
pub(super) trait Scale: Number {
    /// Type of the factor.
    type Factor: Copy;
    /// The factor, rounded to that type.
    fn factor(value: f64) -> Self::Factor;
    /// Product with the factor.
    fn scale(self, factor: Self::Factor) -> Self;
}

/// Minimum and maximum.
pub(super) trait Ordered: Copy + Default {
    /// The smaller one; NaN if one is.
    fn minimum(self, other: Self) -> Self;
    /// The larger one; NaN if one is.
    fn maximum(self, other: Self) -> Self;
}

/// Bitwise ops.
pub(super) trait Bits: Copy + Default {
    /// Bitwise and.
    fn and(self, other: Self) -> Self;
    /// Bitwise or.
    fn or(self, other: Self) -> Self;
    /// Bitwise exclusive or.
    fn xor(self, other: Self) -> Self;
}

macro_rules! float {
    ($($type:ty),*) => {$(
        impl Number for $type {
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                self + other
            }
            #[inline(always)]
            fn multiply(self, other: Self) -> Self {
                self * other
            }
        }

        impl Divide for $type {
            #[inline(always)]
            fn divide(self, ranks: usize) -> Self {
                self / ranks as $type
            }
        }

        impl Scale for $type {
            type Factor = $type;
            #[inline(always)]
            fn factor(value: f64) -> $type {
                // That of the processor: see `Element::narrow_result`.
                if value.is_nan() { <$type>::NAN } else { value as $type }
            }
            #[inline(always)]
            fn scale(self, factor: $type) -> Self {
                self * factor
            }
        }

        // Two comparisons that do not branch become vector instructions; std's min and max drop NaN. A NaN in `self`
        // compares false, so it stays.
        impl Ordered for $type {
            #[inline(always)]
            fn minimum(self, other: Self) -> Self {
                if (other < self) | other.is_nan() { other } else { self }
            }
            #[inline(always)]
            fn maximum(self, other: Self) -> Self {
                if (other > self) | other.is_nan() { other } else { self }
            }
        }
    )*};
}

macro_rules! integer {
    ($($type:ty),*) => {$(
        impl Number for $type {
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            #[inline(always)]
            fn multiply(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }
        }

        impl Ordered for $type {
            #[inline(always)]
            fn minimum(self, other: Self) -> Self {
                self.min(other)
            }
            #[inline(always)]
            fn maximum(self, other: Self) -> Self {
                self.max(other)
            }
        }

        impl Bits for $type {
            #[inline(always)]
            fn and(self, other: Self) -> Self {
                self & other
            }
            #[inline(always)]
            fn or(self, other: Self) -> Self {
                self | other
            }
            #[inline(always)]
            fn xor(self, other: Self) -> Self {
                self ^ other
            }
        }
    )*};
}

macro_rules! wide_integer {
    ($($type:ty),*) => {$(
        impl Divide for $type {
            #[inline(always)]
            fn divide(self, ranks: usize) -> Self {
                // A number of ranks fits every type here.
                self / ranks as $type
            }
        }
    )*};
}

float!(f32, f64);
integer!(u8, i8, u16, i16, u32, i32, u64, i64, u128, i128);
wide_integer!(u64, i64, u128, i128);
