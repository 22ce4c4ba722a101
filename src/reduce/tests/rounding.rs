//! Half types at every place where rounding changes its mind.

use super::reference::Half;
use super::*;

/// Half way between each two neighbours, and the float32 next to that on both sides; and the values that are special.
fn decisive(dtype: DataType) -> Vec<f32> {
    let half = Half::of(dtype);
    let mut values: Vec<f32> = vec![0.0, f32::from_bits(1), f32::from_bits(0x007f_ffff), f32::MAX, f32::INFINITY];
    // The first of these has nothing but zeros in the bits that a half type keeps of a fraction.
    values.extend([0x7f80_0001, 0x7fc0_0000, 0x7fff_ffff].map(f32::from_bits));
    for bits in 0..half.infinity() {
        // What follows the largest finite value, if exponents went on.
        let (value, below) = (half.value(bits), half.value(bits.saturating_sub(1)));
        let next = if bits + 1 == half.infinity() { value + (value - below) } else { half.value(bits + 1) };
        let middle = value.midpoint(next) as f32;
        values.extend([value as f32, middle.next_down(), middle, middle.next_up()]);
    }
    values.extend(values.clone().into_iter().map(|value| -value));
    values
}

#[test]
fn sums_are_rounded_to_the_nearest_and_ties_to_even() {
    for dtype in [DataType::Float16, DataType::BFloat16] {
        let (half, values) = (Half::of(dtype), decisive(dtype));
        let contents: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
        let mut sums = Buffers::new(std::slice::from_ref(&contents), 0, contents.len());
        let mut results = Buffers::new(&[vec![0; values.len() * 2]], 1, values.len() * 2);
        let (sum, result) = (sums.view(0), results.view(0));
        for available in Instructions::ALL.iter().filter_map(|&instructions| Available::new(instructions)) {
            let reduction = Reduction::with(available, dtype, ReduceOp::Sum, 1.0).unwrap();
            reduction.complete(&result, &[sum], 1).unwrap();
            for (value, actual) in values.iter().zip(result.to_vec().chunks(2)) {
                let expected = half.nearest(f64::from(*value)).to_ne_bytes();
                assert!(
                    reference::equal(dtype, ReduceOp::Sum, actual, &expected),
                    "{dtype} {available:?}: {value:e} ({:x}) became {actual:x?} instead of {expected:x?}",
                    value.to_bits()
                );
            }
        }
    }
}

#[test]
fn a_sum_of_two_is_right_for_every_value_beside_some_others() {
    for dtype in [DataType::Float16, DataType::BFloat16] {
        let half = Half::of(dtype);
        let every: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_ne_bytes).collect();
        // Zero; the least and a larger denormal number, whose sums with others like it are denormal; 1; the largest.
        for other in [0, 1, 0x15, half.nearest(1.0), half.infinity() - 1].map(|bits| [bits, bits | 0x8000]).concat() {
            let contents = [every.clone(), other.to_ne_bytes().repeat(1 << 16)];
            check(dtype, ReduceOp::Sum, &contents, &[0, 1, 2], Output::Apart);
            check(dtype, ReduceOp::Sum, &contents, &[6], Output::Input(0));
        }
    }
}

#[test]
fn a_nan_in_any_place_makes_the_minimum_and_the_maximum_nan() {
    for dtype in [DataType::Float16, DataType::BFloat16, DataType::Float32, DataType::Float64] {
        let (nan, other) = match dtype {
            DataType::Float16 => (half::f16::NAN.to_ne_bytes().to_vec(), half::f16::INFINITY.to_ne_bytes().to_vec()),
            DataType::BFloat16 => (half::bf16::NAN.to_ne_bytes().to_vec(), half::bf16::INFINITY.to_ne_bytes().to_vec()),
            DataType::Float32 => (f32::NAN.to_ne_bytes().to_vec(), f32::INFINITY.to_ne_bytes().to_vec()),
            _ => (f64::NAN.to_ne_bytes().to_vec(), f64::INFINITY.to_ne_bytes().to_vec()),
        };
        for (op, ranks) in [ReduceOp::Min, ReduceOp::Max].iter().flat_map(|&op| (1..=4).map(move |ranks| (op, ranks))) {
            for place in 0..ranks {
                let contents: Vec<_> =
                    (0..ranks).map(|rank| if rank == place { &nan } else { &other }.repeat(37)).collect();
                check(dtype, op, &contents, &[0], Output::Apart);
                check(dtype, op, &contents, &[0], Output::Input(place));
            }
        }
    }
}

/// As `torch.set_flush_denormal` has it, and a sum of two normal numbers that is none.
#[test]
#[cfg(target_arch = "x86_64")]
fn a_sum_is_denormal_where_the_thread_takes_denormal_inputs_for_zero() {
    use std::arch::asm;

    const DENORMALS_ARE_ZERO: u32 = 1 << 6;
    let of_word = |word: u16| word.to_ne_bytes().repeat(133);
    // 1.5 and -1 times the least normal number.
    let contents = [of_word(0x00c0), of_word(0x8080)];
    for available in Instructions::ALL.iter().filter_map(|&instructions| Available::new(instructions)) {
        let reduction = Reduction::with(available, DataType::BFloat16, ReduceOp::Sum, 1.0).unwrap();
        let mut buffers = Buffers::new(&contents, 0, contents[0].len());
        let (output, inputs) = (buffers.view(2), [buffers.view(0), buffers.view(1)]);
        let mut control = 0_u32;
        // SAFETY: stores the control register into the variable, and loads it with one bit more; set back below.
        unsafe {
            asm!("stmxcsr [{}]", in(reg) &mut control, options(nostack));
            asm!("ldmxcsr [{}]", in(reg) &(control | DENORMALS_ARE_ZERO), options(nostack));
        }
        let reduced = reduction.reduce(&output, &inputs);
        // SAFETY: as above.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &control, options(nostack)) };
        reduced.unwrap();
        assert!(output.to_vec() == of_word(0x0040), "{available:?}");
    }
}
