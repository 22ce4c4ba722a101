//! Conversion between bfloat16 and float32, a vector at a time, by instructions that the compiler does not find.

use half::bf16;

use super::element::{Element, Unaligned};
use super::float16;

/// Words, each of two elements, that are converted at a time.
pub(super) const WORDS: usize = 16;

/// Two elements each.
pub(super) type Words<E> = [[E; 2]; WORDS];

/// What words are widened to: the lower half of each, and the upper half of each.
pub(super) type Halves<A> = [[A; WORDS]; 2];

/// How the kernels of one set of instructions convert bfloat16. By default as every processor can.
pub(super) trait BFloat16Conversion: Copy {
    /// Whether this gives the same as loops that the compiler makes of the conversion of single elements, and is faster.
    #[inline(always)]
    fn is_better(self) -> bool {
        false
    }

    /// The same values as float32.
    #[inline(always)]
    fn widen_words(self, words: &Words<bf16>) -> Halves<f32> {
        widen_words(words)
    }

    /// Rounded as by [`Element::narrow_result`].
    #[inline(always)]
    fn narrow_words(self, halves: &Halves<f32>, words: &mut Unaligned<Words<bf16>>) {
        words.0 = narrow_words(halves);
    }
}

impl BFloat16Conversion for float16::Portable {}

#[cfg(target_arch = "x86_64")]
impl BFloat16Conversion for float16::F16c {}

#[cfg(target_arch = "aarch64")]
impl BFloat16Conversion for float16::Neon {}

/// Element by element.
#[inline(always)]
pub(super) fn widen_words<E: Element<A>, A: Copy>(words: &Words<E>) -> Halves<A> {
    [0, 1].map(|half| words.map(|word| word[half].widen()))
}

/// Element by element.
#[inline(always)]
pub(super) fn narrow_words<E: Element<A>, A: Copy>(halves: &Halves<A>) -> Words<E> {
    std::array::from_fn(|index| [0, 1].map(|half| E::narrow_result(halves[half][index])))
}

#[cfg(target_arch = "x86_64")]
#[rustversion::since(1.89)]
pub(super) use x86::Avx512Bf16;

#[cfg(target_arch = "x86_64")]
#[rustversion::since(1.89)]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::{
        __m512i, _mm512_and_si512, _mm512_castsi512_ps, _mm512_cvtne2ps_pbh, _mm512_fpclass_ps_mask, _mm512_loadu_ps,
        _mm512_loadu_si512, _mm512_permutexvar_epi16, _mm512_set1_epi32, _mm512_slli_epi32, _mm512_storeu_ps,
        _mm512_storeu_si512,
    };
    use std::mem::transmute;
    use std::ptr;

    use half::{bf16, f16};

    use super::{BFloat16Conversion, Halves, Unaligned, WORDS, Words};
    use crate::reduce::float16::{F16c, Float16Conversion, Portable};

    /// With AVX-512 F, BW, DQ, VL and BF16.
    #[derive(Clone, Copy)]
    pub struct Avx512Bf16(F16c);

    impl Avx512Bf16 {
        /// # Safety
        /// The processor must have these instructions, and F16C.
        #[inline(always)]
        pub unsafe fn new() -> Avx512Bf16 {
            // SAFETY: so the caller says.
            Avx512Bf16(unsafe { F16c::new() })
        }
    }

    impl Float16Conversion for Avx512Bf16 {
        #[inline(always)]
        fn widen(self, elements: &[Unaligned<f16>], values: &mut [f32]) {
            self.0.widen(elements, values);
        }

        #[inline(always)]
        fn narrow(self, values: &[f32], elements: &mut [Unaligned<f16>]) {
            self.0.narrow(values, elements);
        }
    }

    impl BFloat16Conversion for Avx512Bf16 {
        /// Not where the thread takes denormal numbers for 0: then none would be found.
        #[inline(always)]
        fn is_better(self) -> bool {
            const DENORMALS_ARE_ZERO: u32 = 1 << 6;
            let mut control = 0_u32;
            // SAFETY: stores the control and status register of floats, which every processor of the architecture has,
            // into the variable.
            unsafe { asm!("stmxcsr [{}]", in(reg) &mut control, options(nostack, preserves_flags)) };
            control & DENORMALS_ARE_ZERO == 0
        }

        #[inline(always)]
        fn widen_words(self, words: &Words<bf16>) -> Halves<f32> {
            // SAFETY: by the promise to `new` the processor has the instructions.
            unsafe { widen(words) }
        }

        #[inline(always)]
        fn narrow_words(self, halves: &Halves<f32>, words: &mut Unaligned<Words<bf16>>) {
            // SAFETY: as above.
            if !unsafe { narrow(halves, words) } {
                narrow_with_denormals(*halves, words);
            }
        }
    }

    /// # Safety
    /// The processor must have the instructions.
    // Not compiled with them: that would only hide it from being inlined where it is used, into what is.
    #[inline(always)]
    unsafe fn widen(words: &Words<bf16>) -> Halves<f32> {
        const UPPER: i32 = 0xffff_0000_u32.cast_signed();
        let mut halves = [[0.0; WORDS]; 2];
        // SAFETY: the arrays have the size of what is loaded and stored; none needs alignment.
        unsafe {
            let words = _mm512_loadu_si512(words.as_ptr().cast());
            let lower = _mm512_slli_epi32::<16>(words);
            let upper = _mm512_and_si512(words, _mm512_set1_epi32(UPPER));
            _mm512_storeu_ps(halves[0].as_mut_ptr(), _mm512_castsi512_ps(lower));
            _mm512_storeu_ps(halves[1].as_mut_ptr(), _mm512_castsi512_ps(upper));
        }
        halves
    }

    /// Takes a copy: if it had the address, all halves would have to be in memory.
    #[cold]
    fn narrow_with_denormals(halves: Halves<f32>, words: &mut Unaligned<Words<bf16>>) {
        Portable.narrow_words(&halves, words);
    }

    /// False, with nothing done, if one is a denormal number, which the instruction takes for 0.
    ///
    /// # Safety
    /// The processor must have the instructions.
    #[inline(always)]
    unsafe fn narrow(halves: &Halves<f32>, words: &mut Unaligned<Words<bf16>>) -> bool {
        const DENORMAL: i32 = 0x20;
        /// The instruction puts all upper halves after all lower ones.
        const PLACES: [u16; 2 * WORDS] = {
            let mut places = [0; 2 * WORDS];
            let mut index = 0;
            while index < places.len() {
                places[index] = (index / 2 + index % 2 * WORDS) as u16;
                index += 1;
            }
            places
        };
        // SAFETY: as above; and all bits are valid for either vector type.
        unsafe {
            let [lower, upper] = [_mm512_loadu_ps(halves[0].as_ptr()), _mm512_loadu_ps(halves[1].as_ptr())];
            if _mm512_fpclass_ps_mask::<DENORMAL>(lower) | _mm512_fpclass_ps_mask::<DENORMAL>(upper) != 0 {
                return false;
            }
            let narrowed: __m512i = transmute(_mm512_cvtne2ps_pbh(upper, lower));
            let places = _mm512_loadu_si512(PLACES.as_ptr().cast());
            _mm512_storeu_si512(ptr::from_mut(words).cast(), _mm512_permutexvar_epi16(places, narrowed));
        }
        true
    }
}
