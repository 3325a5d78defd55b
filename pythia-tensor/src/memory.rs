//! Memory that begins at a cache line: a vector that straddles two lines takes two accesses to load or to store. With activations that
//! begin 16 bytes after one, as a large `Vec` does, prompts of 512 tokens take 1.05 times as long in `exact` and 1.06 to 1.15 times in bf16
//! (410m, AMX).

use memmap2::MmapMut;
use std::fmt;
use std::ops::{Deref, DerefMut};

/// The unit of memory: a cache line.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Bytes from which on memory is asked of the system in pages of 2 MB: clearing and finding many small ones takes longer.
const MUCH: usize = 1 << 20;

/// Bytes of such a page.
const PAGE: usize = 2 << 20;

/// Bytes that start at a multiple of 64.
pub(crate) struct Lines(Memory);

enum Memory {
    Little(Vec<Line>),
    Much(MmapMut),
}

impl Default for Lines {
    fn default() -> Self {
        Self(Memory::Little(Vec::new()))
    }
}

impl Lines {
    /// At least `len` zeros.
    pub(crate) fn new(len: usize) -> Self {
        if len >= MUCH
            && let Ok(map) = MmapMut::map_anon(len.next_multiple_of(PAGE))
        {
            // Where the system has no such pages, these are ordinary ones.
            #[cfg(target_os = "linux")]
            let _ = map.advise(memmap2::Advice::HugePage);
            return Self(Memory::Much(map));
        }
        Self(Memory::Little(vec![Line([0; 64]); len.div_ceil(64)]))
    }

    /// The first `len` bytes, which come into being as zeros.
    pub(crate) fn at_least(&mut self, len: usize) -> &mut [u8] {
        let there = self.as_ref().len();
        if there < len {
            let mut more = Self::new(len);
            more.bytes_mut(there).copy_from_slice(self.as_ref());
            *self = more;
        }
        self.bytes_mut(len)
    }

    /// The first `len` words, which come into being as zeros.
    pub(crate) fn floats(&mut self, len: usize) -> &mut [f32] {
        bytemuck::cast_slice_mut(self.at_least(len * size_of::<f32>()))
    }

    /// The first `len` bytes.
    pub(crate) fn bytes_mut(&mut self, len: usize) -> &mut [u8] {
        let bytes: &mut [u8] = match &mut self.0 {
            Memory::Little(lines) => bytemuck::cast_slice_mut(lines),
            Memory::Much(map) => map,
        };
        &mut bytes[..len]
    }
}

impl AsRef<[u8]> for Lines {
    fn as_ref(&self) -> &[u8] {
        match &self.0 {
            Memory::Little(lines) => bytemuck::cast_slice(lines),
            Memory::Much(map) => map,
        }
    }
}

/// `f32` numbers, the first of which starts a cache line: the rows of a matrix do, if they are whole lines long.
///
/// ```
/// let mut x = pythia_tensor::Floats::default();
/// x.resize(100);
/// x[99] = 1.0;
/// assert_eq!(x.len(), 100);
/// ```
#[derive(Default)]
pub struct Floats {
    lines: Lines,
    len: usize,
}

impl Floats {
    /// So many numbers from now on. Those that were never there are 0.
    pub fn resize(&mut self, len: usize) {
        self.lines.floats(len);
        self.len = len;
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &bytemuck::cast_slice(self.lines.as_ref())[..self.len]
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        self.lines.floats(self.len)
    }
}

impl fmt::Debug for Floats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Floats([{}])", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Little and much of it, grown from one to the other.
    #[test]
    fn numbers_begin_a_line_and_stay_when_there_are_more() {
        let mut x = Floats::default();
        assert!(x.is_empty());
        let mut numbers = 0;
        for len in [1, 17, 5000, MUCH / 4, MUCH / 4 + 1, PAGE / 2 + 3] {
            x.resize(len);
            assert!(x.as_ptr().addr().is_multiple_of(64) && x.len() == len, "{len}");
            let (old, new) = x.split_at(numbers);
            assert!(old.iter().all(|&x| x == 1.0) && new.iter().all(|&x| x == 0.0), "{len}");
            x.fill(1.0);
            numbers = len;
        }
        x.resize(2);
        assert_eq!(*x, [1.0, 1.0]);
    }
}
