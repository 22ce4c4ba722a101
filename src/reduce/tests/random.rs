//! Random elements, with the values that go wrong.

use crate::reduce::DataType;

/// SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number about as large as 1: sums and products of a few stay finite.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 50) as f64 - 4.0
    }

    /// Bytes of `count` elements.
    pub(crate) fn elements(&mut self, dtype: DataType, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count * dtype.size());
        for _ in 0..count {
            self.element(dtype, &mut bytes);
        }
        bytes
    }

    fn element(&mut self, dtype: DataType, bytes: &mut Vec<u8>) {
        match dtype {
            DataType::Complex64 => (0..2).for_each(|_| self.element(DataType::Float32, bytes)),
            DataType::Complex128 => (0..2).for_each(|_| self.element(DataType::Float64, bytes)),
            DataType::Float16 => {
                let value = self.float(0x7c00, 0x03ff, |value| half::f16::from_f64(value).to_bits().into());
                bytes.extend((value as u16).to_ne_bytes());
            }
            DataType::BFloat16 => {
                let value = self.float(0x7f80, 0x007f, |value| half::bf16::from_f64(value).to_bits().into());
                bytes.extend((value as u16).to_ne_bytes());
            }
            DataType::Float32 => {
                let value = self.float(0x7f80_0000, 0x007f_ffff, |value| (value as f32).to_bits().into());
                bytes.extend((value as u32).to_ne_bytes());
            }
            DataType::Float64 => {
                let value = self.float(f64::INFINITY.to_bits(), 0x000f_ffff_ffff_ffff, f64::to_bits);
                bytes.extend(value.to_ne_bytes());
            }
            // Half of the bytes zero, so that false occurs.
            DataType::Bool => {
                let value = if self.next().is_multiple_of(2) { 0 } else { self.next() as u8 };
                bytes.push(value);
            }
            _ => {
                let all = self.next();
                // Small, extreme, or anything.
                let value = match self.next() % 8 {
                    0 => all % 5,
                    1 => 0,
                    2 => u64::MAX,
                    3 => 1 << (8 * dtype.size() - 1),
                    4 => (1 << (8 * dtype.size() - 1)) - 1,
                    _ => all,
                };
                bytes.extend(&value.to_le_bytes()[..dtype.size()]);
            }
        }
    }

    /// The bits of a float, given those of infinity, those of the fraction, and its conversion from binary64.
    fn float(&mut self, infinity: u64, fraction: u64, bits: impl Fn(f64) -> u64) -> u64 {
        let sign = (infinity << 1) & !infinity & !fraction & (self.next() & 1).wrapping_neg();
        let anything = self.next();
        match anything % 32 {
            0 => infinity | sign,
            1 => infinity | 1 | sign,
            2 => infinity | ((fraction + 1) >> 1) | sign,
            // The largest finite value.
            3 => (infinity - 1) | sign,
            4 => sign,
            5 | 6 => (self.next() & fraction) | sign,
            7..12 => (self.next() & (infinity | fraction)) | sign,
            _ => bits(self.unit()),
        }
    }
}
