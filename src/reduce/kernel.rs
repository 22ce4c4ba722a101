//! The kernels: the loops, compiled for each element type, op and set of instructions.

use super::element::Element;
use super::instructions::{Available, Instructions};
use super::operation::{Operation, Resumed, Unfinished};
use crate::memory::View;

/// Reduces `inputs`, in their order, into `output`; `factor` is PREMUL_SUM's.
///
/// The caller has checked that there is an input, that all views have the same length, a multiple of the element's
/// size, and that `output` is apart from each input or the same memory.
pub(super) type Kernel = fn(factor: f64, output: &View, inputs: &[View]);

/// One of two steps of a reduction; `ranks` is how many inputs there are in both together. The caller has checked as for
/// [`Kernel`], but that inputs and output have as many elements instead of bytes, and that they lie apart.
pub(super) type Step = fn(factor: f64, ranks: usize, output: &View, inputs: &[View]);

/// One for each set of instructions, in the order of [`Instructions::ALL`].
type ForEachSet<T> = [T; Instructions::ALL.len()];

/// A reduction in two steps, with accumulators between them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stages {
    /// Bytes of an accumulator.
    pub size: usize,
    /// From elements to accumulators.
    pub accumulate: Step,
    /// From accumulators to elements.
    pub complete: Step,
}

/// One kernel, compiled for each set of instructions.
#[derive(Clone, Copy)]
pub(super) struct Kernels {
    kernels: ForEachSet<Kernel>,
    /// Where the kernel itself, applied twice, is something else.
    stages: Option<ForEachSet<Stages>>,
}

impl Kernels {
    /// The kernel for elements `E` accumulated as `A` with the op `O`.
    pub fn new<E: Element<A>, A: Copy + Default, O: Operation<A>>() -> Self {
        Kernels {
            kernels: [
                least::reduce::<E, A, O>,
                #[cfg(target_arch = "x86_64")]
                avx2::reduce::<E, A, O>,
                #[cfg(target_arch = "x86_64")]
                avx512::reduce::<E, A, O>,
                // For the other types it is nothing new.
                #[cfg(target_arch = "x86_64")]
                if E::PAIRS { avx512_bf16::reduce::<E, A, O> } else { avx512::reduce::<E, A, O> },
            ],
            stages: None,
        }
    }

    /// The same for an op whose result is more than its accumulator, or takes up more than an element.
    pub fn staged<E: Element<A>, A: Element<A> + Default, O: Operation<A>>() -> Self {
        let stages = |accumulate, complete| Stages { size: size_of::<A>(), accumulate, complete };
        let stages = [
            stages(least::step::<E, A, A, Unfinished<O>>, least::step::<A, E, A, Resumed<O>>),
            #[cfg(target_arch = "x86_64")]
            stages(avx2::step::<E, A, A, Unfinished<O>>, avx2::step::<A, E, A, Resumed<O>>),
            #[cfg(target_arch = "x86_64")]
            stages(avx512::step::<E, A, A, Unfinished<O>>, avx512::step::<A, E, A, Resumed<O>>),
            #[cfg(target_arch = "x86_64")]
            stages(avx512::step::<E, A, A, Unfinished<O>>, avx512::step::<A, E, A, Resumed<O>>),
        ];
        Kernels { stages: Some(stages), ..Kernels::new::<E, A, O>() }
    }

    /// The kernel for `instructions`.
    pub fn with(&self, instructions: Available) -> Kernel {
        self.kernels[instructions.get() as usize]
    }

    /// The two steps for `instructions`; `None`: both are the kernel, with elements as accumulators.
    pub fn stages_with(&self, instructions: Available) -> Option<Stages> {
        self.stages.map(|stages| stages[instructions.get() as usize])
    }
}

/// Compiled with the instructions that every processor of the architecture has.
mod least {
    use super::super::{float16, loops};
    use super::{Element, Operation, View};

    #[cfg(target_arch = "aarch64")]
    const CONVERSION: float16::Neon = float16::Neon;
    #[cfg(not(target_arch = "aarch64"))]
    const CONVERSION: float16::Portable = float16::Portable;

    pub fn reduce<E: Element<A>, A: Copy + Default, O: Operation<A>>(factor: f64, output: &View, inputs: &[View]) {
        loops::reduce::<E, A, O>(CONVERSION, factor, output, inputs);
    }

    pub fn step<I: Element<A>, E: Element<A>, A: Copy + Default, O: Operation<A>>(
        factor: f64,
        ranks: usize,
        output: &View,
        inputs: &[View],
    ) {
        loops::step::<I, E, A, O>(CONVERSION, factor, ranks, output, inputs);
    }
}

/// The same code, with more instructions for the compiler to choose from.
#[cfg(target_arch = "x86_64")]
macro_rules! compiled_with {
    ($module:ident, $conversion:path, $($feature:tt)*) => {
        mod $module {
            use $conversion as Conversion;

            use super::super::loops;
            use super::{Element, Operation, View};

            pub fn reduce<E: Element<A>, A: Copy + Default, O: Operation<A>>(
                factor: f64,
                output: &View,
                inputs: &[View],
            ) {
                $($feature)*
                fn inner<E: Element<A>, A: Copy + Default, O: Operation<A>>(
                    factor: f64,
                    output: &View,
                    inputs: &[View],
                ) {
                    // SAFETY: who may call this function has shown that the processor has the instructions of this
                    // module, and those of its conversion are among them.
                    loops::reduce::<E, A, O>(unsafe { Conversion::new() }, factor, output, inputs);
                }
                // SAFETY: `Kernels` gives this function only to who has shown, by an `Available`, that the processor has
                // the instructions.
                unsafe { inner::<E, A, O>(factor, output, inputs) }
            }

            #[allow(dead_code, reason = "of AVX-512 BF16, which only helps where there are two inputs")]
            pub fn step<I: Element<A>, E: Element<A>, A: Copy + Default, O: Operation<A>>(
                factor: f64,
                ranks: usize,
                output: &View,
                inputs: &[View],
            ) {
                $($feature)*
                fn inner<I: Element<A>, E: Element<A>, A: Copy + Default, O: Operation<A>>(
                    factor: f64,
                    ranks: usize,
                    output: &View,
                    inputs: &[View],
                ) {
                    // SAFETY: as for `reduce`.
                    loops::step::<I, E, A, O>(unsafe { Conversion::new() }, factor, ranks, output, inputs);
                }
                // SAFETY: as for `reduce`.
                unsafe { inner::<I, E, A, O>(factor, ranks, output, inputs) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
compiled_with!(avx2, super::super::float16::F16c, #[target_feature(enable = "avx2,f16c")]);

// AVX2 once more if the compiler is too old for AVX-512.
#[cfg(target_arch = "x86_64")]
compiled_with!(
    avx512,
    super::super::float16::F16c,
    #[rustversion::attr(since(1.89), target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c"))]
    #[rustversion::attr(before(1.89), target_feature(enable = "avx2,f16c"))]
);

#[cfg(target_arch = "x86_64")]
#[rustversion::since(1.89)]
compiled_with!(
    avx512_bf16,
    super::super::bfloat16::Avx512Bf16,
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,f16c")]
);

#[cfg(target_arch = "x86_64")]
#[rustversion::before(1.89)]
use avx512 as avx512_bf16;
