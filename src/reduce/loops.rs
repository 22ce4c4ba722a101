//! The loops of the kernels. Each is inlined, so that it is compiled with the instructions of the kernel it is part of.

use std::mem::MaybeUninit;
use std::{ptr, slice};

use super::bfloat16::{BFloat16Conversion, WORDS, Words};
use super::element::{Element, Plain, Unaligned};
use super::float16::Float16Conversion;
use super::operation::Operation;
use crate::memory::View;

/// Elements accumulated at a time: with the widest accumulator a block takes a fraction of the first-level cache, and
/// the loop over the inputs costs little per element.
const BLOCK: usize = 512;

/// The loop of a [`Kernel`](super::kernel::Kernel).
#[inline(always)]
pub(super) fn reduce<E: Element<A>, A: Copy + Default, O: Operation<A>>(
    conversion: impl Float16Conversion + BFloat16Conversion,
    factor: f64,
    output: &View,
    inputs: &[View],
) {
    let operation = O::new(factor, inputs.len());
    match inputs {
        // What most schedules have: no accumulators in memory needed.
        [left, right] if !E::SLICES => {
            let combined = |left: E, right: E| -> E {
                let (left, right) = (operation.load(left.widen()), operation.load(right.widen()));
                E::narrow_result(operation.finish(operation.combine(left, right)))
            };
            let all = [left, right, output].map(|view| *view);
            if !E::PAIRS {
                return combine(&all, combined);
            }
            let all = if conversion.is_better() { combine_words::<E, A, O>(conversion, operation, all) } else { all };
            let pairs = |left: [E; 2], right: [E; 2]| [combined(left[0], right[0]), combined(left[1], right[1])];
            combine(&combine_whole(all, pairs), combined);
        }
        _ => reduce_in_blocks::<E, E, A, O>(conversion, operation, output, inputs),
    }
}

/// The loop of a [`Step`](super::kernel::Step).
#[inline(always)]
pub(super) fn step<I: Element<A>, E: Element<A>, A: Copy + Default, O: Operation<A>>(
    conversion: impl Float16Conversion,
    factor: f64,
    ranks: usize,
    output: &View,
    inputs: &[View],
) {
    reduce_in_blocks::<I, E, A, O>(conversion, O::new(factor, ranks), output, inputs);
}

/// Combines as many whole `P` as there are, and returns the rest.
#[inline(always)]
fn combine_whole<P: Plain>(all: [View; 3], combined: impl Fn(P, P) -> P) -> [View; 3] {
    let len = all[0].len();
    let whole = len - len % size_of::<P>();
    combine(&all.map(|view| view.slice(0..whole)), combined);
    all.map(|view| view.slice(whole..len))
}

/// Combines as many whole [`Words`] as there are, and returns the rest.
// With a function for the words, as in `combine`, it would not become part of the kernel, and so not have its
// instructions.
#[inline(always)]
fn combine_words<E: Element<A>, A: Copy, O: Operation<A>>(
    conversion: impl BFloat16Conversion,
    operation: O,
    all: [View; 3],
) -> [View; 3] {
    let len = all[0].len();
    let whole = len - len % size_of::<Words<E>>();
    let [left, right, output] = all.map(|view| view.as_mut_ptr());
    for start in (0..whole).step_by(size_of::<Words<E>>()) {
        // SAFETY: the words lie in the views, and any content is valid for a `Plain` type. They are read before any is
        // written, so that the output may be the memory of either input.
        unsafe {
            let input = |input: *mut u8| input.add(start).cast::<Words<E>>().read_unaligned();
            let left = E::widen_words(conversion, &input(left));
            let right = E::widen_words(conversion, &input(right));
            let halves = [combined(operation, left[0], right[0]), combined(operation, left[1], right[1])];
            E::narrow_words(conversion, &halves, &mut *output.add(start).cast::<Unaligned<Words<E>>>());
        }
    }
    all.map(|view| view.slice(whole..len))
}

/// Element by element.
#[inline(always)]
fn combined<A: Copy, O: Operation<A>>(operation: O, left: [A; WORDS], right: [A; WORDS]) -> [A; WORDS] {
    let mut result = left;
    for (result, right) in result.iter_mut().zip(right) {
        *result = operation.finish(operation.combine(operation.load(*result), operation.load(right)));
    }
    result
}

/// Two inputs and the output, which may be the memory of either.
#[inline(always)]
fn combine<P: Plain>([left, right, output]: &[View; 3], combined: impl Fn(P, P) -> P) {
    if output.is_empty() {
        return;
    }
    // SAFETY: an input that is not the same memory as `output` does not overlap it, so each unique slice here is over
    // memory that no other slice of its line is over.
    unsafe {
        match (same(left, output), same(right, output)) {
            (false, false) => apart(elements(left), elements(right), elements_mut(output), combined),
            (true, false) => into_left(elements_mut(output), elements(right), combined),
            (false, true) => into_left(elements_mut(output), elements(left), |right, left| combined(left, right)),
            (true, true) => with_itself(elements_mut(output), combined),
        }
    }
}

#[inline(always)]
fn apart<P: Plain>(
    left: &[Unaligned<P>],
    right: &[Unaligned<P>],
    output: &mut [Unaligned<P>],
    combined: impl Fn(P, P) -> P,
) {
    for ((output, left), right) in output.iter_mut().zip(left).zip(right) {
        output.0 = combined(left.0, right.0);
    }
}

#[inline(always)]
fn into_left<P: Plain>(left: &mut [Unaligned<P>], right: &[Unaligned<P>], combined: impl Fn(P, P) -> P) {
    for (left, right) in left.iter_mut().zip(right) {
        left.0 = combined(left.0, right.0);
    }
}

#[inline(always)]
fn with_itself<P: Plain>(elements: &mut [Unaligned<P>], combined: impl Fn(P, P) -> P) {
    for element in elements {
        element.0 = combined(element.0, element.0);
    }
}

/// Any number of inputs, of elements `I`, to as many elements `E`. The accumulators are local, so where the two are the same
/// type `output` may be any of the inputs: a block of it is written after that block of every input has been read.
#[inline(always)]
fn reduce_in_blocks<I: Element<A>, E: Element<A>, A: Copy + Default, O: Operation<A>>(
    conversion: impl Float16Conversion,
    operation: O,
    output: &View,
    inputs: &[View],
) {
    let [first, others @ ..] = inputs else { return };
    let count = output.len() / size_of::<E>();
    let mut storage = [const { MaybeUninit::uninit() }; BLOCK];
    let accumulators: &mut [A] = initialized(&mut storage, count);
    let mut storage = [const { MaybeUninit::uninit() }; BLOCK];
    let widened: &mut [A] = initialized(&mut storage, if I::SLICES { count } else { 0 });

    for start in (0..count).step_by(BLOCK) {
        let end = count.min(start + BLOCK);
        let accumulators = &mut accumulators[..end - start];
        let block = |input: &View| -> &[Unaligned<I>] {
            // SAFETY: while inputs are read there is no unique slice of them.
            unsafe { elements(&input.slice(start * size_of::<I>()..end * size_of::<I>())) }
        };
        load(conversion, operation, block(first), accumulators);
        for other in others {
            accumulate(conversion, operation, block(other), accumulators, widened);
        }
        let result = output.slice(start * size_of::<E>()..end * size_of::<E>());
        // SAFETY: the inputs' slices are no longer used.
        finish::<E, A, O>(conversion, operation, accumulators, unsafe { elements_mut(&result) });
    }
}

/// Starts the accumulation with the elements of the first input.
#[inline(always)]
fn load<E: Element<A>, A: Copy, O: Operation<A>>(
    conversion: impl Float16Conversion,
    operation: O,
    elements: &[Unaligned<E>],
    accumulators: &mut [A],
) {
    E::widen_slice(conversion, elements, accumulators);
    for accumulator in accumulators {
        *accumulator = operation.load(*accumulator);
    }
}

/// Combines the accumulators with the elements of one more input. `widened` is scratch for types that need it.
#[inline(always)]
fn accumulate<E: Element<A>, A: Copy, O: Operation<A>>(
    conversion: impl Float16Conversion,
    operation: O,
    elements: &[Unaligned<E>],
    accumulators: &mut [A],
    widened: &mut [A],
) {
    if E::SLICES {
        let widened = &mut widened[..elements.len()];
        E::widen_slice(conversion, elements, widened);
        for (accumulator, widened) in accumulators.iter_mut().zip(widened) {
            *accumulator = operation.combine(*accumulator, operation.load(*widened));
        }
    } else {
        for (accumulator, element) in accumulators.iter_mut().zip(elements) {
            *accumulator = operation.combine(*accumulator, operation.load(element.0.widen()));
        }
    }
}

/// Turns the accumulators into elements of the output.
#[inline(always)]
fn finish<E: Element<A>, A: Copy, O: Operation<A>>(
    conversion: impl Float16Conversion,
    operation: O,
    accumulators: &mut [A],
    output: &mut [Unaligned<E>],
) {
    for accumulator in accumulators.iter_mut() {
        *accumulator = operation.finish(*accumulator);
    }
    E::narrow_slice(conversion, accumulators, output);
}

/// The first `count` values of `storage`, or all if it has fewer. Leaving the rest as it is makes a reduction of a few
/// elements cheap.
fn initialized<A: Copy + Default>(storage: &mut [MaybeUninit<A>; BLOCK], count: usize) -> &mut [A] {
    let used = &mut storage[..count.min(BLOCK)];
    for value in used.iter_mut() {
        value.write(A::default());
    }
    // SAFETY: the loop has written every one of them.
    unsafe { &mut *(ptr::from_mut(used) as *mut [A]) }
}

/// Whether two views of the same length are the same memory.
fn same(a: &View, b: &View) -> bool {
    a.as_ptr() == b.as_ptr()
}

/// The elements of a view that is not empty.
///
/// # Safety
/// While the slice is used, nothing may write to the view's memory.
unsafe fn elements<'a, E: Plain>(view: &View) -> &'a [Unaligned<E>] {
    // SAFETY: valid for reads by the promise to `View::new`; any address is aligned for `Unaligned`, and any content is
    // valid for a `Plain` type.
    unsafe { slice::from_raw_parts(view.as_ptr().cast(), view.len() / size_of::<E>()) }
}

/// The elements of a view that is not empty, for writing.
///
/// # Safety
/// While the slice is used, nothing else may read or write the view's memory.
unsafe fn elements_mut<'a, E: Plain>(view: &View) -> &'a mut [Unaligned<E>] {
    // SAFETY: valid for writes by the promise to `View::new`; for the rest see `elements`.
    unsafe { slice::from_raw_parts_mut(view.as_mut_ptr().cast(), view.len() / size_of::<E>()) }
}
