//! Complex numbers, laid out as in C, C++ and torch.

use super::number::{Divide, Number, Scale};

/// Real and imaginary part.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub(super) struct Complex<T> {
    /// Real part.
    pub re: T,
    /// Imaginary part.
    pub im: T,
}

macro_rules! complex {
    ($($part:ty),*) => {$(
        impl Number for Complex<$part> {
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                Complex { re: self.re + other.re, im: self.im + other.im }
            }
            // The plain formula, as in torch; C's recovery of infinities from NaN is not applied.
            #[inline(always)]
            fn multiply(self, other: Self) -> Self {
                Complex {
                    re: self.re * other.re - self.im * other.im,
                    im: self.re * other.im + self.im * other.re,
                }
            }
        }

        impl Divide for Complex<$part> {
            #[inline(always)]
            fn divide(self, ranks: usize) -> Self {
                Complex { re: self.re.divide(ranks), im: self.im.divide(ranks) }
            }
        }

        impl Scale for Complex<$part> {
            type Factor = $part;
            #[inline(always)]
            fn factor(value: f64) -> $part {
                <$part as Scale>::factor(value)
            }
            #[inline(always)]
            fn scale(self, factor: $part) -> Self {
                Complex { re: self.re * factor, im: self.im * factor }
            }
        }
    )*};
}

complex!(f32, f64);
