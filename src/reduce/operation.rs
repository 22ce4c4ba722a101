//! The ops as types, so that a kernel is compiled for each.

use super::number::{Bits, Divide, Number, Ordered, Scale};

/// A reduce op on accumulators of type `A`: `finish(combine(combine(load(x0), load(x1)), load(x2)))`.
pub(super) trait Operation<A: Copy>: Copy {
    /// The op for `ranks` inputs; `factor` is PREMUL_SUM's.
    fn new(factor: f64, ranks: usize) -> Self;
    /// Takes up one input.
    #[inline(always)]
    fn load(self, input: A) -> A {
        input
    }
    /// Combines what has been accumulated with one more loaded input.
    fn combine(self, accumulated: A, loaded: A) -> A;
    /// The result, given all inputs combined.
    #[inline(always)]
    fn finish(self, accumulated: A) -> A {
        accumulated
    }
}

macro_rules! stateless {
    ($(#[$doc:meta])* $name:ident, $bound:ident, $method:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(super) struct $name;

        impl<A: $bound> Operation<A> for $name {
            #[inline(always)]
            fn new(_factor: f64, _ranks: usize) -> Self {
                $name
            }
            #[inline(always)]
            fn combine(self, accumulated: A, loaded: A) -> A {
                accumulated.$method(loaded)
            }
        }
    };
}

stateless!(
    /// SUM.
    Sum, Number, add
);
stateless!(
    /// PRODUCT.
    Product, Number, multiply
);
stateless!(
    /// MIN.
    Minimum, Ordered, minimum
);
stateless!(
    /// MAX.
    Maximum, Ordered, maximum
);
stateless!(
    /// BAND.
    And, Bits, and
);
stateless!(
    /// BOR.
    Or, Bits, or
);
stateless!(
    /// BXOR.
    Xor, Bits, xor
);

/// AVG.
#[derive(Clone, Copy)]
pub(super) struct Average {
    ranks: usize,
}

impl<A: Divide> Operation<A> for Average {
    #[inline(always)]
    fn new(_factor: f64, ranks: usize) -> Self {
        Average { ranks }
    }
    #[inline(always)]
    fn combine(self, accumulated: A, loaded: A) -> A {
        accumulated.add(loaded)
    }
    #[inline(always)]
    fn finish(self, accumulated: A) -> A {
        accumulated.divide(self.ranks)
    }
}

/// PREMUL_SUM.
#[derive(Clone, Copy)]
pub(super) struct PremultipliedSum<F> {
    factor: F,
}

impl<A: Scale> Operation<A> for PremultipliedSum<A::Factor> {
    #[inline(always)]
    fn new(factor: f64, _ranks: usize) -> Self {
        PremultipliedSum { factor: A::factor(factor) }
    }
    #[inline(always)]
    fn load(self, input: A) -> A {
        input.scale(self.factor)
    }
    #[inline(always)]
    fn combine(self, accumulated: A, loaded: A) -> A {
        accumulated.add(loaded)
    }
}

/// The first of two steps: what has been combined stays an accumulator.
#[derive(Clone, Copy)]
pub(super) struct Unfinished<O>(O);

impl<A: Copy, O: Operation<A>> Operation<A> for Unfinished<O> {
    #[inline(always)]
    fn new(factor: f64, ranks: usize) -> Self {
        Unfinished(O::new(factor, ranks))
    }
    #[inline(always)]
    fn load(self, input: A) -> A {
        self.0.load(input)
    }
    #[inline(always)]
    fn combine(self, accumulated: A, loaded: A) -> A {
        self.0.combine(accumulated, loaded)
    }
}

/// The second of two steps: the inputs have been taken up already.
#[derive(Clone, Copy)]
pub(super) struct Resumed<O>(O);

impl<A: Copy, O: Operation<A>> Operation<A> for Resumed<O> {
    #[inline(always)]
    fn new(factor: f64, ranks: usize) -> Self {
        Resumed(O::new(factor, ranks))
    }
    #[inline(always)]
    fn combine(self, accumulated: A, loaded: A) -> A {
        self.0.combine(accumulated, loaded)
    }
    #[inline(always)]
    fn finish(self, accumulated: A) -> A {
        self.0.finish(accumulated)
    }
}
