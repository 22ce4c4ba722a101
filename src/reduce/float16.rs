//! Conversion between float16 and float32 by the instructions that a kernel is compiled for.
//!
//! The compiler does not find these instructions by itself. `half` asks at run time whether the processor has them, so its
//! conversion cannot become part of a kernel's loop; without them it branches for each element.

use half::f16;

use super::element::Unaligned;

/// How the kernels of one set of instructions convert. Whoever holds a value of the type has shown that the processor has
/// the instructions.
pub(super) trait Float16Conversion: Copy {
    /// The same values as float32.
    fn widen(self, elements: &[Unaligned<f16>], values: &mut [f32]);
    /// The nearest float16, of two equally near ones the even one.
    fn narrow(self, values: &[f32], elements: &mut [Unaligned<f16>]);
}

/// With what every processor has.
#[derive(Clone, Copy)]
#[cfg_attr(target_arch = "aarch64", allow(dead_code, reason = "NEON has the instructions"))]
pub(super) struct Portable;

impl Float16Conversion for Portable {
    #[inline(always)]
    fn widen(self, elements: &[Unaligned<f16>], values: &mut [f32]) {
        for (value, element) in values.iter_mut().zip(elements) {
            *value = widen(element.0);
        }
    }

    #[inline(always)]
    fn narrow(self, values: &[f32], elements: &mut [Unaligned<f16>]) {
        for (element, value) in elements.iter_mut().zip(values) {
            element.0 = narrow(*value);
        }
    }
}

// The two functions have no branches, so that loops over them become vector instructions.

/// What the exponent fields of the two types differ by, for the same value.
const BIAS: u32 = (127 - 15) << 23;

/// The same value as a float32.
#[inline(always)]
pub(super) fn widen(element: f16) -> f32 {
    let bits = u32::from(element.to_bits());
    let magnitude = (bits & 0x7fff) << 13;
    // Infinity and NaN have the largest exponent of either type.
    let special = if magnitude >= 0x0f80_0000 { BIAS } else { 0 };
    let normal = magnitude + BIAS + special;
    // A denormal is its fraction times 2^-24: as the fraction of a number from 2^-14 on it exceeds that by its value.
    const LEAST_NORMAL: u32 = BIAS + (1 << 23);
    let denormal = (f32::from_bits(magnitude | LEAST_NORMAL) - f32::from_bits(LEAST_NORMAL)).to_bits();
    let chosen = if magnitude < (1 << 23) { denormal } else { normal };
    f32::from_bits(chosen | ((bits & 0x8000) << 16))
}

/// The nearest float16, of two equally near ones the even one.
#[inline(always)]
pub(super) fn narrow(value: f32) -> f16 {
    let bits = value.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    // The last place of a float32 from 0.5 on is that of a denormal float16: the addition rounds, and counts them.
    let denormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    // Adding just under a half of the last place, and one more if that place is odd, rounds to nearest even; the carry
    // moves up to the next power of two, or to infinity.
    let normal = magnitude.wrapping_sub(BIAS).wrapping_add(0xfff + ((magnitude >> 13) & 1)) >> 13;
    let finite = if magnitude < BIAS + (1 << 23) { denormal } else { normal };
    // From 2^16 on.
    let bounded = if magnitude >= (127 + 16) << 23 { 0x7c00 } else { finite };
    // NaN stays NaN, and becomes quiet.
    let chosen = if value.is_nan() { 0x7e00 } else { bounded } | ((bits >> 16) & 0x8000);
    // As a signed number it fits 16 signed bits, which SSE2 can pack; it cannot pack unsigned ones.
    f16::from_bits(((chosen << 16).cast_signed() >> 16) as u16)
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::F16c;

#[cfg(target_arch = "aarch64")]
pub(super) use neon::Neon;

/// Elements that one step of [`in_vectors`] converts.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const LANES: usize = 8;

/// Converts with a function for whole vectors; the last one is filled up with zeros.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
fn in_vectors<T: Copy, U: Copy>(
    from: &[T],
    to: &mut [U],
    zero: (T, U),
    convert: impl Fn(&[T; LANES], &mut [U; LANES]),
) {
    let (from, last_from) = from.as_chunks();
    let (to, last_to) = to.as_chunks_mut();
    for (from, to) in from.iter().zip(to) {
        convert(from, to);
    }
    if !last_from.is_empty() {
        let (mut padded, mut converted) = ([zero.0; LANES], [zero.1; LANES]);
        padded[..last_from.len()].copy_from_slice(last_from);
        convert(&padded, &mut converted);
        last_to.copy_from_slice(&converted[..last_to.len()]);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        _MM_FROUND_TO_NEAREST_INT, _mm_loadu_si128, _mm_storeu_si128, _mm256_cvtph_ps, _mm256_cvtps_ph,
        _mm256_loadu_ps, _mm256_storeu_ps,
    };

    use half::f16;

    use super::{Float16Conversion, LANES, Unaligned, in_vectors};

    /// With F16C.
    #[derive(Clone, Copy)]
    pub struct F16c(());

    impl F16c {
        /// # Safety
        /// The processor must have F16C.
        #[inline(always)]
        pub unsafe fn new() -> F16c {
            F16c(())
        }
    }

    impl Float16Conversion for F16c {
        #[inline(always)]
        fn widen(self, elements: &[Unaligned<f16>], values: &mut [f32]) {
            // SAFETY: by the promise to `new` the processor has F16C.
            in_vectors(elements, values, (Unaligned(f16::ZERO), 0.0), |from, to| unsafe { widen(from, to) });
        }

        #[inline(always)]
        fn narrow(self, values: &[f32], elements: &mut [Unaligned<f16>]) {
            // SAFETY: as above.
            in_vectors(values, elements, (0.0, Unaligned(f16::ZERO)), |from, to| unsafe { narrow(from, to) });
        }
    }

    #[target_feature(enable = "avx,f16c")]
    #[inline]
    fn widen(elements: &[Unaligned<f16>; LANES], values: &mut [f32; LANES]) {
        // SAFETY: the arrays have the size of what is loaded and stored; neither needs alignment.
        unsafe {
            let elements = _mm_loadu_si128(elements.as_ptr().cast());
            _mm256_storeu_ps(values.as_mut_ptr(), _mm256_cvtph_ps(elements));
        }
    }

    #[target_feature(enable = "avx,f16c")]
    #[inline]
    fn narrow(values: &[f32; LANES], elements: &mut [Unaligned<f16>; LANES]) {
        // SAFETY: as above.
        unsafe {
            let values = _mm256_loadu_ps(values.as_ptr());
            _mm_storeu_si128(elements.as_mut_ptr().cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(values));
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use std::arch::aarch64::{float32x4_t, uint16x8_t, vld1q_f32, vld1q_u16, vst1q_f32, vst1q_u16};
    use std::arch::asm;

    use half::f16;

    use super::{Float16Conversion, LANES, Unaligned, in_vectors};

    /// With NEON. Its conversions do not need the FP16 extension, which is about arithmetic.
    #[derive(Clone, Copy)]
    pub struct Neon;

    impl Float16Conversion for Neon {
        #[inline(always)]
        fn widen(self, elements: &[Unaligned<f16>], values: &mut [f32]) {
            in_vectors(elements, values, (Unaligned(f16::ZERO), 0.0), widen);
        }

        #[inline(always)]
        fn narrow(self, values: &[f32], elements: &mut [Unaligned<f16>]) {
            in_vectors(values, elements, (0.0, Unaligned(f16::ZERO)), narrow);
        }
    }

    // The intrinsics for these instructions are younger than the oldest compiler that this crate supports.

    #[inline(always)]
    fn widen(elements: &[Unaligned<f16>; LANES], values: &mut [f32; LANES]) {
        // SAFETY: every processor of this architecture has NEON. The arrays have the size of what is loaded and stored;
        // neither needs alignment.
        unsafe {
            let elements: uint16x8_t = vld1q_u16(elements.as_ptr().cast());
            let (low, high): (float32x4_t, float32x4_t);
            asm!(
                "fcvtl {low:v}.4s, {elements:v}.4h",
                "fcvtl2 {high:v}.4s, {elements:v}.8h",
                elements = in(vreg) elements,
                low = out(vreg) low,
                high = lateout(vreg) high,
                options(pure, nomem, nostack),
            );
            vst1q_f32(values.as_mut_ptr(), low);
            vst1q_f32(values.as_mut_ptr().add(LANES / 2), high);
        }
    }

    #[inline(always)]
    fn narrow(values: &[f32; LANES], elements: &mut [Unaligned<f16>; LANES]) {
        // SAFETY: as above.
        unsafe {
            let low: float32x4_t = vld1q_f32(values.as_ptr());
            let high: float32x4_t = vld1q_f32(values.as_ptr().add(LANES / 2));
            let narrowed: uint16x8_t;
            asm!(
                "fcvtn {narrowed:v}.4h, {low:v}.4s",
                "fcvtn2 {narrowed:v}.8h, {high:v}.4s",
                low = in(vreg) low,
                high = in(vreg) high,
                narrowed = out(vreg) narrowed,
                options(pure, nomem, nostack),
            );
            vst1q_u16(elements.as_mut_ptr().cast(), narrowed);
        }
    }
}
