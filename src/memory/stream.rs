//! Copies past the caches.

use super::View;

/// Whether [`View::stream_from`] differs from [`View::copy_from`] here: x86-64 has stores that go past the caches.
pub(crate) const STREAMS: bool = cfg!(all(target_arch = "x86_64", not(any(loom, miri))));

impl View {
    /// As [`View::copy_from`], but what is written does not stay in the caches, nor is it fetched to be overwritten: for
    /// memory that this core does not read soon. Whoever learns from a later release store that it is there, sees it.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn stream_from(&self, source: &View) {
        #[cfg(all(target_arch = "x86_64", not(any(loom, miri))))]
        if !self.is_empty() && !self.overlaps(source) {
            assert_eq!(self.len(), source.len(), "views of different lengths");
            // SAFETY: both are valid for so many bytes by the promise to `View::new`, and apart.
            return unsafe { copy(source.as_ptr(), self.as_mut_ptr(), self.len()) };
        }
        self.copy_from(source);
    }
}

/// As `ptr::copy_nonoverlapping`, a line at a time with non-temporal stores.
///
/// # Safety
/// That of `ptr::copy_nonoverlapping`.
#[cfg(all(target_arch = "x86_64", not(any(loom, miri))))]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
    use std::ptr::copy_nonoverlapping;

    /// Bytes of a line. A line of which only a part is streamed costs more than a copied one.
    const LINE: usize = 64;
    const VECTORS: usize = LINE / size_of::<__m128i>();
    let head = to.align_offset(LINE).min(len);
    let lines = (len - head) / LINE;
    let tail = head + lines * LINE;
    // SAFETY: all of it lies in the `len` bytes of which the caller says that they are valid and apart; a store is to an
    // aligned address, since lines are.
    unsafe {
        copy_nonoverlapping(from, to, head);
        for line in 0..lines {
            let start = head + line * LINE;
            let (from, to) = (from.add(start).cast::<__m128i>(), to.add(start).cast::<__m128i>());
            let vectors: [__m128i; VECTORS] = std::array::from_fn(|index| _mm_loadu_si128(from.add(index)));
            for (index, vector) in vectors.into_iter().enumerate() {
                _mm_stream_si128(to.add(index), vector);
            }
        }
        copy_nonoverlapping(from.add(tail), to.add(tail), len - tail);
        // Only this orders such stores with later ones.
        _mm_sfence();
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use crate::memory::Scratch;

    #[test]
    fn streams_all_bytes_and_no_others_wherever_they_lie() {
        const LEN: usize = 400;
        let source: Vec<u8> = (0..LEN).map(|index| index as u8 ^ 0x5a).collect();
        let mut memory = [Scratch::new(LEN), Scratch::new(LEN)];
        let [from, to] = memory.each_mut().map(Scratch::view);
        from.write(&source);
        for start in [0, 1, 15, 16, 63, 64, 65] {
            for offset in [0, 3, 16, 64] {
                for len in [0, 1, 47, 63, 64, 65, 128, 200, 271] {
                    to.fill(0xee);
                    to.slice(start..start + len).stream_from(&from.slice(offset..offset + len));
                    let mut expected = vec![0xee; LEN];
                    expected[start..start + len].copy_from_slice(&source[offset..offset + len]);
                    assert_eq!(to.to_vec(), expected, "{len} bytes from {offset} to {start}");
                }
            }
        }
    }

    #[test]
    fn what_overlaps_is_copied_rightly() {
        let mut memory = Scratch::new(300);
        let whole = memory.view();
        whole.write(&(0..300).map(|index| index as u8).collect::<Vec<_>>());
        whole.slice(10..210).stream_from(&whole.slice(0..200));
        assert_eq!(whole.slice(10..210).to_vec(), (0..200).map(|index| index as u8).collect::<Vec<_>>());
    }

    #[test]
    #[should_panic(expected = "different lengths")]
    fn lengths_must_be_the_same() {
        let mut memory = [Scratch::new(8), Scratch::new(9)];
        let [a, b] = memory.each_mut().map(Scratch::view);
        a.stream_from(&b);
    }
}
