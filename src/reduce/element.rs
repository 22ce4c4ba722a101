//! Elements as they lie in memory, and the accumulators that they widen to.

use half::{bf16, f16};

use super::bfloat16::{self, BFloat16Conversion, Halves, Words};
use super::complex::Complex;
use super::float16::{self, Float16Conversion};

/// A type that memory of any content can be read as.
///
/// # Safety
/// Every bit pattern must be a valid value, and the type must have no padding.
pub(super) unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($type:ty),*) => {$(
        // SAFETY: a number, or two of the same type side by side: no padding, and any bits are a value.
        unsafe impl Plain for $type {}
    )*};
}

plain!(f16, bf16, f32, f64, Complex<f32>, Complex<f64>, u8, i8, u16, i16, u32, i32, u64, i64, u128, i128);

// SAFETY: an array has no padding of its own.
unsafe impl<E: Plain, const N: usize> Plain for [E; N] {}

// SAFETY: a `u8` in a transparent struct.
unsafe impl Plain for Boolean {}

/// An element at any address.
#[derive(Clone, Copy)]
#[repr(C, packed)]
pub(super) struct Unaligned<E>(pub E);

/// An element that is accumulated as an `A`.
pub(super) trait Element<A: Copy>: Plain {
    /// Whether conversion is much faster for slices than for single elements.
    const SLICES: bool = false;
    /// Whether loops over pairs are faster. Two halves of a word widen in place: vector instructions need not move them.
    const PAIRS: bool = false;
    /// The same value as an accumulator.
    fn widen(self) -> A;
    /// The accumulator as an element, rounded if need be.
    fn narrow(accumulator: A) -> Self;
    /// The same for what an op has made of widened elements, and of nothing else: a NaN has no bits that elements lack.
    #[inline(always)]
    fn narrow_result(accumulator: A) -> Self {
        Self::narrow(accumulator)
    }
    /// Widens words of two. `conversion` is for bfloat16, the only one that has [pairs](Element::PAIRS).
    #[inline(always)]
    fn widen_words<C: BFloat16Conversion>(_conversion: C, words: &Words<Self>) -> Halves<A> {
        bfloat16::widen_words(words)
    }
    /// Narrows what an op has made of widened words.
    #[inline(always)]
    fn narrow_words<C: BFloat16Conversion>(_conversion: C, halves: &Halves<A>, words: &mut Unaligned<Words<Self>>) {
        words.0 = bfloat16::narrow_words(halves);
    }
    /// Widens elements into as many accumulators. `conversion` is for float16.
    #[inline(always)]
    fn widen_slice<C: Float16Conversion>(_conversion: C, elements: &[Unaligned<Self>], accumulators: &mut [A]) {
        for (accumulator, element) in accumulators.iter_mut().zip(elements) {
            *accumulator = element.0.widen();
        }
    }
    /// Narrows accumulators to as many elements. `conversion` is for float16.
    #[inline(always)]
    fn narrow_slice<C: Float16Conversion>(_conversion: C, accumulators: &[A], elements: &mut [Unaligned<Self>]) {
        for (element, accumulator) in elements.iter_mut().zip(accumulators) {
            element.0 = Self::narrow(*accumulator);
        }
    }
}

/// An element is its own accumulator unless its type or the op needs a wider one.
impl<T: Plain> Element<T> for T {
    #[inline(always)]
    fn widen(self) -> T {
        self
    }
    #[inline(always)]
    fn narrow(accumulator: T) -> T {
        accumulator
    }
}

macro_rules! widened_integer {
    ($($wide:ty: $($type:ty),*;)*) => {$($(
        /// For AVG: the sum needs the wide type, the average fits the narrow one again.
        impl Element<$wide> for $type {
            #[inline(always)]
            fn widen(self) -> $wide {
                <$wide>::from(self)
            }
            #[inline(always)]
            fn narrow(accumulator: $wide) -> $type {
                accumulator as $type
            }
        }
    )*)*};
}

widened_integer! {
    u64: u8, u16, u32;
    i64: i8, i16, i32;
    u128: u64;
    i128: i64;
}

/// One byte, true unless zero; accumulated as 0 or 1.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Boolean(u8);

impl Element<u8> for Boolean {
    #[inline(always)]
    fn widen(self) -> u8 {
        u8::from(self.0 != 0)
    }
    #[inline(always)]
    fn narrow(accumulator: u8) -> Boolean {
        Boolean(accumulator)
    }
}

impl Element<f32> for f16 {
    const SLICES: bool = true;

    #[inline(always)]
    fn widen(self) -> f32 {
        float16::widen(self)
    }

    #[inline(always)]
    fn narrow(accumulator: f32) -> f16 {
        float16::narrow(accumulator)
    }

    #[inline(always)]
    fn widen_slice<C: Float16Conversion>(conversion: C, elements: &[Unaligned<f16>], accumulators: &mut [f32]) {
        conversion.widen(elements, accumulators);
    }

    #[inline(always)]
    fn narrow_slice<C: Float16Conversion>(conversion: C, accumulators: &[f32], elements: &mut [Unaligned<f16>]) {
        conversion.narrow(accumulators, elements);
    }
}

// Written without branches, so that loops over it become vector instructions; `half`'s conversion branches.
impl Element<f32> for bf16 {
    const PAIRS: bool = true;

    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn narrow(accumulator: f32) -> bf16 {
        let bits = accumulator.to_bits();
        // Rounding could turn a NaN into something else, so a NaN keeps its upper bits and becomes quiet.
        let chosen = if accumulator.is_nan() { bits | 0x0040_0000 } else { rounded(bits) };
        upper_half(chosen)
    }

    #[inline(always)]
    fn narrow_result(accumulator: f32) -> bf16 {
        // The lower half of a NaN is 0, whether it comes from an element or from the processor (std::primitive.f32, "NaN
        // bit patterns"): it is not rounded.
        upper_half(rounded(accumulator.to_bits()))
    }

    #[inline(always)]
    fn widen_words<C: BFloat16Conversion>(conversion: C, words: &Words<bf16>) -> Halves<f32> {
        conversion.widen_words(words)
    }

    #[inline(always)]
    fn narrow_words<C: BFloat16Conversion>(conversion: C, halves: &Halves<f32>, words: &mut Unaligned<Words<bf16>>) {
        conversion.narrow_words(halves, words);
    }
}

/// Adding just under a half of the last place, and one more if that place is odd, rounds to nearest even; the carry moves up
/// to the next power of two, or to infinity.
#[inline(always)]
fn rounded(bits: u32) -> u32 {
    bits.wrapping_add(0x7fff + ((bits >> 16) & 1))
}

/// Shifted as a signed number it fits 16 signed bits, which SSE2 can pack; it cannot pack unsigned ones.
#[inline(always)]
fn upper_half(bits: u32) -> bf16 {
    bf16::from_bits((bits.cast_signed() >> 16) as u16)
}
