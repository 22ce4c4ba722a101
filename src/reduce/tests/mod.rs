//! Every data type with every op, against the plain arithmetic of `reference`.

mod properties;
pub(crate) mod random;
pub(crate) mod reference;
mod rounding;
mod stages;

use super::{Available, DataType, Instructions, LayoutError, ReduceOp, Reduction, Unsupported};
use crate::memory::View;
use random::Random;

/// Nothing, one element, a cut vector, and below, at and above a kernel's block.
const COUNTS: [usize; 9] = [0, 1, 2, 7, 33, 511, 512, 513, 1100];

/// A factor that no half type holds exactly.
const FACTOR: f64 = 1.0 / 3.0;

/// Where the output lies.
#[derive(Clone, Copy, Debug)]
enum Output {
    Apart,
    Input(usize),
}

/// One buffer per input and one for the output, each starting some bytes off the alignment.
struct Buffers {
    memory: Vec<Vec<u128>>,
    offsets: Vec<usize>,
    bytes: usize,
}

impl Buffers {
    /// All at the same offset.
    fn new(contents: &[Vec<u8>], offset: usize, bytes: usize) -> Self {
        Buffers::at(contents, &[offset], bytes)
    }

    /// At `offsets`, in turn.
    fn at(contents: &[Vec<u8>], offsets: &[usize], bytes: usize) -> Self {
        let words = (bytes + offsets.iter().max().unwrap()).div_ceil(size_of::<u128>()) + 1;
        let memory = vec![vec![0xa5a5; words]; contents.len() + 1];
        let offsets = offsets.iter().copied().cycle().take(memory.len()).collect();
        let mut buffers = Buffers { memory, offsets, bytes };
        for (index, content) in contents.iter().enumerate() {
            let mut content = content.clone();
            // SAFETY: `content` outlives the copy, and nobody else uses it.
            let source = unsafe { View::new(content.as_mut_ptr(), bytes) };
            buffers.view(index).copy_from(&source);
        }
        buffers
    }

    fn view(&mut self, index: usize) -> View {
        let start = self.memory[index].as_mut_ptr().cast::<u8>();
        // SAFETY: the vector has room for the largest offset and `bytes`, and lives as long as the buffers.
        unsafe { View::new(start.add(self.offsets[index]), self.bytes) }
    }

    /// All bytes of a buffer, those around the view too.
    fn bytes(&self, index: usize) -> Vec<u8> {
        self.memory[index].iter().flat_map(|word| word.to_ne_bytes()).collect()
    }
}

/// Reduces with all instructions that this processor has, checks every byte of the result and that nothing else was
/// written.
fn check(dtype: DataType, op: ReduceOp, contents: &[Vec<u8>], offsets: &[usize], output: Output) {
    for available in Instructions::ALL.iter().filter_map(|&instructions| Available::new(instructions)) {
        let reduction = Reduction::with(available, dtype, op, FACTOR).unwrap();
        check_one(&reduction, contents, offsets, output);
    }
}

fn check_one(reduction: &Reduction, contents: &[Vec<u8>], offsets: &[usize], output: Output) {
    let (dtype, op) = (reduction.dtype(), reduction.op());
    let bytes = contents[0].len();
    let mut buffers = Buffers::at(contents, offsets, bytes);
    let target = match output {
        Output::Apart => contents.len(),
        Output::Input(index) => index,
    };
    let before: Vec<_> = (0..=contents.len()).map(|index| buffers.bytes(index)).collect();
    let inputs: Vec<_> = (0..contents.len()).map(|index| buffers.view(index)).collect();
    reduction.reduce(&buffers.view(target), &inputs).unwrap();

    for (index, before) in before.iter().enumerate() {
        let after = buffers.bytes(index);
        if index != target {
            assert_eq!(&after, before, "{dtype} {op}: buffer {index} was written");
            continue;
        }
        let offset = buffers.offsets[index];
        assert_eq!(after[..offset], before[..offset], "{dtype} {op}: written before the output");
        assert_eq!(after[offset + bytes..], before[offset + bytes..], "{dtype} {op}: written behind the output");
        let size = dtype.size();
        for (position, actual) in after[offset..offset + bytes].chunks(size).enumerate() {
            let range = position * size..(position + 1) * size;
            let elements: Vec<_> = contents.iter().map(|content| &content[range.clone()]).collect();
            let expected = reference::reduce(dtype, op, FACTOR, &elements);
            assert!(
                reference::equal(dtype, op, actual, &expected),
                "{dtype} {op}, {} inputs, offsets {offsets:?}, {output:?}, element {position} of {elements:x?}: \
                 {actual:x?} instead of {expected:x?}",
                contents.len(),
            );
        }
    }
}

/// What the documentation promises, said a second time.
fn has(dtype: DataType, op: ReduceOp) -> bool {
    use DataType::*;
    use ReduceOp::*;
    match dtype {
        Float16 | BFloat16 | Float32 | Float64 => matches!(op, Sum | Avg | Product | Min | Max | PremulSum),
        Complex64 | Complex128 => matches!(op, Sum | Avg | Product | PremulSum),
        Bool => !matches!(op, Avg | PremulSum),
        Bytes => false,
        _ => op != PremulSum,
    }
}

fn for_each_supported(mut body: impl FnMut(DataType, ReduceOp)) {
    for dtype in DataType::ALL {
        for op in ReduceOp::ALL {
            if has(dtype, op) {
                body(dtype, op);
            }
        }
    }
}

#[test]
fn every_type_and_op_equals_the_reference() {
    let mut random = Random::new(1);
    for_each_supported(|dtype, op| {
        for ranks in 1..=5 {
            for count in COUNTS {
                let contents: Vec<_> = (0..ranks).map(|_| random.elements(dtype, count)).collect();
                check(dtype, op, &contents, &[0], Output::Apart);
            }
        }
    });
}

#[test]
fn output_may_be_any_input() {
    let mut random = Random::new(2);
    for_each_supported(|dtype, op| {
        for ranks in 1..=5 {
            for position in 0..ranks {
                let contents: Vec<_> = (0..ranks).map(|_| random.elements(dtype, 700)).collect();
                check(dtype, op, &contents, &[0], Output::Input(position));
            }
        }
    });
}

#[test]
fn addresses_need_no_alignment() {
    let mut random = Random::new(3);
    for_each_supported(|dtype, op| {
        for ranks in [1, 2, 3] {
            for offsets in [&[1][..], &[3], &[7], &[0, 5, 2, 9]] {
                let contents: Vec<_> = (0..ranks).map(|_| random.elements(dtype, 131)).collect();
                check(dtype, op, &contents, offsets, Output::Apart);
                check(dtype, op, &contents, offsets, Output::Input(ranks - 1));
            }
        }
    });
}

#[test]
fn one_view_may_be_every_input_and_the_output() {
    let mut random = Random::new(4);
    for_each_supported(|dtype, op| {
        for ranks in 1..=3 {
            let content = random.elements(dtype, 600);
            let mut buffers = Buffers::new(std::slice::from_ref(&content), 0, content.len());
            let view = buffers.view(0);
            Reduction::new(dtype, op, FACTOR).unwrap().reduce(&view, &vec![view; ranks]).unwrap();
            let after = buffers.bytes(0);
            for (element, actual) in content.chunks(dtype.size()).zip(after.chunks(dtype.size())) {
                let expected = reference::reduce(dtype, op, FACTOR, &vec![element; ranks]);
                assert!(reference::equal(dtype, op, actual, &expected), "{dtype} {op}: {actual:?} {expected:?}");
            }
        }
    });
}

/// Every value of a half type comes back from a reduction of one input, and is rounded once after a sum of two.
#[test]
fn half_types_are_exhaustively_right() {
    let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_ne_bytes).collect();
    let mut random = Random::new(5);
    for dtype in [DataType::Float16, DataType::BFloat16] {
        check(dtype, ReduceOp::Sum, std::slice::from_ref(&all), &[0], Output::Apart);
        for op in [ReduceOp::Sum, ReduceOp::Avg, ReduceOp::Product, ReduceOp::Min] {
            check(dtype, op, &[all.clone(), random.elements(dtype, 1 << 16)], &[0], Output::Input(1));
        }
    }
}

/// 256 + 1 is not a bfloat16; 256 + 1 + 1 is, and is lost if each step rounds.
#[test]
fn half_types_round_once() {
    let values = [256.0, 1.0, 1.0].map(|value| half::bf16::from_f32(value).to_ne_bytes().to_vec());
    let mut buffers = Buffers::new(&values, 0, 2);
    let inputs = [buffers.view(0), buffers.view(1), buffers.view(2)];
    Reduction::new(DataType::BFloat16, ReduceOp::Sum, 1.0).unwrap().reduce(&buffers.view(3), &inputs).unwrap();
    assert_eq!(buffers.bytes(3)[..2], half::bf16::from_f32(258.0).to_ne_bytes());
}

#[test]
fn averages_of_integers_are_exact_and_truncate() {
    let average = |values: &[i64]| {
        let contents: Vec<_> = values.iter().map(|value| value.to_ne_bytes().to_vec()).collect();
        let mut buffers = Buffers::new(&contents, 0, 8);
        let inputs: Vec<_> = (0..values.len()).map(|index| buffers.view(index)).collect();
        Reduction::new(DataType::Int64, ReduceOp::Avg, 1.0).unwrap().reduce(&buffers.view(0), &inputs).unwrap();
        i64::from_ne_bytes(buffers.bytes(0)[..8].try_into().unwrap())
    };
    assert_eq!(average(&[i64::MAX, i64::MAX, i64::MAX]), i64::MAX);
    assert_eq!(average(&[i64::MIN, i64::MIN]), i64::MIN);
    assert_eq!(average(&[-3, 0]), -1);
    assert_eq!(average(&[3, 0]), 1);
}

#[test]
fn refused_combinations_name_type_and_op() {
    for dtype in DataType::ALL {
        for op in ReduceOp::ALL {
            match Reduction::new(dtype, op, FACTOR) {
                Ok(reduction) => {
                    assert!(has(dtype, op), "{dtype} {op} was accepted");
                    assert_eq!((reduction.dtype(), reduction.op()), (dtype, op));
                }
                Err(error) => {
                    assert!(!has(dtype, op), "{error}");
                    assert_eq!(error, Unsupported { dtype, op });
                    let message = error.to_string();
                    assert!(message.contains(dtype.name()) && message.contains(op.name()), "{message}");
                }
            }
        }
    }
    let message = |dtype, op| Reduction::new(dtype, op, 1.0).unwrap_err().to_string();
    assert_eq!(
        message(DataType::Complex64, ReduceOp::Min),
        "MIN is not defined for complex64: it reduces with SUM, AVG, PRODUCT, PREMUL_SUM"
    );
    assert_eq!(
        message(DataType::Bytes, ReduceOp::Sum),
        "SUM is not defined for bytes: elements of type bytes can be moved but not reduced"
    );
}

#[test]
fn views_that_do_not_fit_are_refused() {
    let mut buffers = Buffers::new(&[vec![0; 16], vec![0; 16]], 0, 16);
    let (output, input) = (buffers.view(0), buffers.view(1));
    let reduction = Reduction::new(DataType::Float32, ReduceOp::Sum, 1.0).unwrap();
    assert_eq!(reduction.reduce(&output, &[]), Err(LayoutError::NoInput));
    assert_eq!(
        reduction.reduce(&output, &[input, input.slice(0..12)]),
        Err(LayoutError::Length { index: 1, input: 12, output: 16 })
    );
    assert_eq!(
        reduction.reduce(&output.slice(0..6), &[input.slice(0..6)]),
        Err(LayoutError::PartialElement { bytes: 6, dtype: DataType::Float32 })
    );
    assert_eq!(
        reduction.reduce(&output.slice(0..8), &[input.slice(0..8), output.slice(4..12)]),
        Err(LayoutError::PartialOverlap { index: 1 })
    );
    // SAFETY: a view of no bytes may be null.
    let nothing = unsafe { View::new(std::ptr::null_mut(), 0) };
    assert_eq!(reduction.reduce(&nothing, &[nothing, nothing]), Ok(()));
}
