//! Memory that begins at a cache line, and much of it in pages of 2 MB.
//!
//! A vector that straddles two lines takes two accesses to load or to store: where activations begin 16 bytes after a line, like a large `Vec`,
//! each of AVX-512 does, and every second one of AVX2. And pages of 4 KB are cleared and found one by one. Both together make prompts of 512 tokens
//! take 1.05 times as long in `exact` and 1.06 to 1.15 times in bf16, the pages alone 1.03 and 1.04 times (410m, AMX).

#[cfg(target_os = "linux")]
use memmap2::MmapMut;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The unit of memory: a cache line.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Bytes from which on room to work in is asked of Linux in pages of 2 MB. Where it has none, or begins a mapping elsewhere than at such a page
/// (before 6.7), some or all of them are ordinary ones.
#[cfg(target_os = "linux")]
const MUCH: usize = 1 << 20;

#[cfg(target_os = "linux")]
const PAGE: usize = 2 << 20;

static MAPPED: AtomicUsize = AtomicUsize::new(0);

/// Bytes that this process has mapped for activations and room to work in since its start, which an allocator that counts does not see.
pub fn mapped_bytes() -> usize {
    MAPPED.load(Relaxed)
}

/// Bytes that start at a multiple of 64.
pub(crate) struct Lines(Memory);

enum Memory {
    Allocated(Vec<Line>),
    #[cfg(target_os = "linux")]
    Mapped(MmapMut),
}

impl Default for Lines {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Lines {
    /// At least `len` zeros, of the allocator.
    pub(crate) fn new(len: usize) -> Self {
        Self(Memory::Allocated(vec![Line([0; 64]); len.div_ceil(64)]))
    }

    /// At least `len` zeros to work in.
    fn room(len: usize) -> Self {
        #[cfg(target_os = "linux")]
        if len >= MUCH
            && let Some(len) = len.checked_next_multiple_of(PAGE)
            && let Ok(map) = MmapMut::map_anon(len)
        {
            // Advice: who does not take it is only slower.
            let _ = map.advise(memmap2::Advice::HugePage);
            MAPPED.fetch_add(len, Relaxed);
            return Self(Memory::Mapped(map));
        }
        Self::new(len)
    }

    /// The first `len` bytes, which come into being as zeros.
    pub(crate) fn at_least(&mut self, len: usize) -> &mut [u8] {
        let there = self.as_ref().len();
        if there < len {
            let mut more = Self::room(len);
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
            Memory::Allocated(lines) => bytemuck::cast_slice_mut(lines),
            #[cfg(target_os = "linux")]
            Memory::Mapped(map) => map,
        };
        &mut bytes[..len]
    }
}

impl AsRef<[u8]> for Lines {
    fn as_ref(&self) -> &[u8] {
        match &self.0 {
            Memory::Allocated(lines) => bytemuck::cast_slice(lines),
            #[cfg(target_os = "linux")]
            Memory::Mapped(map) => map,
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
    /// So many numbers from now on: zeros if that takes more memory, and whatever there was otherwise.
    pub fn resize(&mut self, len: usize) {
        if self.lines.as_ref().len() < len * size_of::<f32>() {
            // First without the old memory, so that there are never both.
            self.lines = Lines::default();
            self.lines.floats(len);
        }
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

    #[test]
    fn numbers_begin_a_line_and_are_zeros_when_there_are_more() {
        let mut x = Floats::default();
        assert!(x.is_empty());
        for len in [1, 17, 5000, 1 << 18, (1 << 18) + 1, (1 << 20) + 3] {
            x.resize(len);
            assert!(x.as_ptr().addr().is_multiple_of(64) && x.len() == len, "{len}");
            x[len - 1] = 1.0;
            x.resize(1);
            x.resize(len);
            assert_eq!(x[len - 1], 1.0, "memory that is there is kept");
        }
        x.resize(1 << 21);
        assert!(x.iter().all(|&x| x == 0.0));
    }

    /// From the allocator's memory to mapped memory, and from there to more of it.
    #[test]
    fn bytes_stay_when_there_are_more() {
        let mut lines = Lines::default();
        let mut there = 0;
        for len in [1, 100, 1 << 20, 5 << 20] {
            let (old, new) = lines.at_least(len).split_at_mut(there);
            assert!(old.iter().all(|&x| x == 7) && new.iter().all(|&x| x == 0), "{len}");
            new.fill(7);
            there = len;
        }
        let other = Lines::room(3 << 20);
        assert!(cfg!(not(target_os = "linux")) || mapped_bytes() >= (2 + 6 + 4) << 20);
        assert!(other.as_ref().iter().all(|&x| x == 0));
    }
}
