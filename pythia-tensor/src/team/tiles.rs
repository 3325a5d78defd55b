//! Matrices of activations, and their division into disjoint tiles for the threads of a region.

#[cfg(target_arch = "x86_64")]
use crate::simd::amx::Matrix;
use half::bf16;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

/// A read-only row-major matrix, of `f32` unless said otherwise, whose rows may lie further apart than they are long.
#[derive(Clone, Copy)]
pub struct Mat<'a, T = f32> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    stride: usize,
}

impl<'a, T> Mat<'a, T> {
    /// All of `data` as rows of `cols` elements.
    ///
    /// # Panics
    /// If `data` is not a whole number of rows.
    pub fn new(data: &'a [T], cols: usize) -> Self {
        assert!(cols > 0 && data.len().is_multiple_of(cols), "{} elements in rows of {cols}", data.len());
        Self { data, rows: data.len() / cols, cols, stride: cols }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Row `r`.
    #[inline]
    pub fn row(&self, r: usize) -> &'a [T] {
        &self.data[r * self.stride..][..self.cols]
    }

    /// What tells this matrix from every other that is borrowed at the same time.
    pub(crate) fn key(&self) -> [usize; 4] {
        [self.data.as_ptr().addr(), self.rows, self.cols, self.stride]
    }

    /// The rows in `rows`, without copying.
    ///
    /// # Panics
    /// If the matrix does not have them.
    pub fn slice_rows(&self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        let data = if rows.is_empty() { &[] } else { &self.data[rows.start * self.stride..] };
        Self { data, rows: rows.len(), ..*self }
    }

    /// The columns in `cols`, without copying.
    ///
    /// # Panics
    /// If the matrix does not have them, or there are none.
    pub fn slice_cols(&self, cols: Range<usize>) -> Self {
        assert!(cols.start < cols.end && cols.end <= self.cols, "columns {cols:?} of {}", self.cols);
        let data = if self.rows == 0 { &[] } else { &self.data[cols.start..] };
        Self { data, cols: cols.len(), ..*self }
    }
}

impl<'a> Mat<'a> {
    /// Each element as the two bf16 numbers that its bits are.
    pub(crate) fn halves(&self) -> Mat<'a, bf16> {
        Mat {
            data: bytemuck::cast_slice(self.data),
            rows: self.rows,
            cols: 2 * self.cols,
            stride: 2 * self.stride,
        }
    }

    /// The bytes of its rows.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn lines(&self) -> Matrix<'a> {
        Matrix { bytes: bytemuck::cast_slice(self.data), stride: self.stride * size_of::<f32>() }
    }
}

impl<T> fmt::Debug for Mat<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mat([{}, {}])", self.rows, self.cols)
    }
}

/// A row-major `f32` matrix to write to.
#[derive(Debug)]
pub struct MatMut<'a> {
    data: *mut f32,
    rows: usize,
    cols: usize,
    owner: PhantomData<&'a mut [f32]>,
}

impl<'a> MatMut<'a> {
    /// All of `data` as rows of `cols` elements.
    ///
    /// # Panics
    /// If `data` is not a whole number of rows.
    pub fn new(data: &'a mut [f32], cols: usize) -> Self {
        assert!(cols > 0 && data.len().is_multiple_of(cols), "{} elements in rows of {cols}", data.len());
        Self { rows: data.len() / cols, cols, data: data.as_mut_ptr(), owner: PhantomData }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }
}

/// The part of a matrix that one task may write: some rows of some columns.
#[derive(Debug)]
pub struct Tile<'a> {
    data: *mut f32,
    stride: usize,
    rows: Range<usize>,
    cols: Range<usize>,
    block: usize,
    owner: PhantomData<&'a mut [f32]>,
}

impl Tile<'_> {
    /// Which rows of the whole matrix these are.
    pub fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    /// Which columns of the whole matrix these are.
    pub fn cols(&self) -> Range<usize> {
        self.cols.clone()
    }

    /// The number of this tile's block of rows, counted from the top of the matrix.
    pub fn row_block(&self) -> usize {
        self.block
    }

    /// All of a matrix with rows of `cols` elements.
    #[cfg(test)]
    pub(crate) fn whole(out: &mut [f32], cols: usize) -> Tile<'_> {
        assert!(out.len().is_multiple_of(cols), "{} elements in rows of {cols}", out.len());
        let rows = 0..out.len() / cols;
        Tile { data: out.as_mut_ptr(), stride: cols, rows, cols: 0..cols, block: 0, owner: PhantomData }
    }

    /// Some of its columns, by their numbers in the whole matrix.
    ///
    /// # Panics
    /// If the tile does not have them.
    pub(crate) fn slice_cols(&mut self, cols: Range<usize>) -> Tile<'_> {
        assert!(
            self.cols.start <= cols.start && cols.start <= cols.end && cols.end <= self.cols.end,
            "columns {cols:?} of a tile of {:?}",
            self.cols
        );
        Tile { cols, rows: self.rows.clone(), ..*self }
    }

    /// This tile's columns of row `row` of the whole matrix.
    ///
    /// # Panics
    /// If the tile does not have that row.
    #[inline]
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        assert!(self.rows.contains(&row), "row {row} of a tile of rows {:?}", self.rows);
        // SAFETY: the tile owns these columns of this row (`Tiles::tile`; `slice_cols` borrows the tile that does), and `self` is borrowed.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.data.add(row * self.stride + self.cols.start),
                self.cols.len(),
            )
        }
    }
}

/// One job of a parallel region: an output matrix, how to cut it into tiles, and what to do for each.
pub struct Tiles<'a> {
    out: MatMut<'a>,
    rows: Cuts<'a>,
    cols: Cuts<'a>,
    /// Whether the last rows are handed out first.
    last_first: bool,
    work: &'a (dyn Fn(Tile<'_>) + Sync),
}

/// Where rows or columns are cut.
#[derive(Clone, Copy)]
enum Cuts<'a> {
    /// So many together; the last may be fewer.
    Every(usize),
    /// From each of these to the next.
    At(&'a [usize]),
    #[cfg(target_arch = "x86_64")]
    Uneven(Uneven),
}

/// `count` parts: the first `longer` of `len` and `more`, the others of `len`, and the last of what is left.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Uneven {
    pub(crate) count: usize,
    pub(crate) len: usize,
    pub(crate) longer: usize,
    pub(crate) more: usize,
}

#[cfg(target_arch = "x86_64")]
impl Uneven {
    /// Part `i` of `all`.
    pub(crate) fn part(self, i: usize, all: usize) -> Range<usize> {
        let start = |i: usize| (i * self.len + i.min(self.longer) * self.more).min(all);
        start(i)..if i + 1 < self.count { start(i + 1) } else { all }
    }
}

impl Cuts<'_> {
    /// How many parts `len` has.
    fn count(self, len: usize) -> usize {
        match self {
            Self::Every(n) => len.div_ceil(n),
            Self::At(bounds) => bounds.len() - 1,
            #[cfg(target_arch = "x86_64")]
            Self::Uneven(parts) => parts.count,
        }
    }

    /// Part `i` of `len`.
    fn part(self, i: usize, len: usize) -> Range<usize> {
        match self {
            Self::Every(n) => i * n..(i * n + n).min(len),
            Self::At(bounds) => bounds[i]..bounds[i + 1],
            #[cfg(target_arch = "x86_64")]
            Self::Uneven(parts) => parts.part(i, len),
        }
    }
}

impl<'a> Tiles<'a> {
    /// Tiles of `rows` rows and `cols` columns, smaller at the lower and right edges.
    ///
    /// # Panics
    /// If `rows` or `cols` is zero.
    pub fn new(out: MatMut<'a>, rows: usize, cols: usize, work: &'a (dyn Fn(Tile<'_>) + Sync)) -> Self {
        assert!(rows > 0 && cols > 0, "tiles of {rows} x {cols}");
        Self { out, rows: Cuts::Every(rows), cols: Cuts::Every(cols), last_first: false, work }
    }

    /// Tiles of `cols` columns whose blocks of rows end where the next begins: `bounds[i]..bounds[i + 1]`. The last are
    /// handed out first: a prompt's last queries see the most keys, and a region should end with short tasks.
    ///
    /// # Panics
    /// If `cols` is zero, or `bounds` does not rise from 0 to the number of rows.
    pub fn ragged(
        out: MatMut<'a>,
        bounds: &'a [usize],
        cols: usize,
        work: &'a (dyn Fn(Tile<'_>) + Sync),
    ) -> Self {
        assert!(cols > 0, "tiles of no columns");
        assert!(
            bounds.first() == Some(&0) && bounds.last() == Some(&out.rows) && bounds.is_sorted(),
            "row bounds {bounds:?} of a matrix of {} rows",
            out.rows
        );
        Self { out, rows: Cuts::At(bounds), cols: Cuts::Every(cols), last_first: true, work }
    }

    /// Tiles of all rows and parts of the columns.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn columns(out: MatMut<'a>, parts: Uneven, work: &'a (dyn Fn(Tile<'_>) + Sync)) -> Self {
        let rows = Cuts::Every(out.rows.max(1));
        Self { out, rows, cols: Cuts::Uneven(parts), last_first: false, work }
    }

    pub(super) fn count(&self) -> usize {
        self.rows.count(self.out.rows) * self.cols.count(self.out.cols)
    }

    pub(super) fn work(&self) -> &(dyn Fn(Tile<'_>) + Sync) {
        self.work
    }

    /// Tile number `index`; the blocks of rows vary fastest, so that neighbours share columns (a weight's rows).
    ///
    /// # Safety
    /// Each index below `count` may be asked for once.
    pub(super) unsafe fn tile(&self, index: usize) -> Tile<'_> {
        let blocks = self.rows.count(self.out.rows);
        let block = if self.last_first { blocks - 1 - index % blocks } else { index % blocks };
        let rows = self.rows.part(block, self.out.rows);
        let cols = self.cols.part(index / blocks, self.out.cols);
        Tile { data: self.out.data, stride: self.out.cols, rows, cols, block, owner: PhantomData }
    }
}

// SAFETY: the threads of a region share `Tiles` to take disjoint tiles of `f32` from it; `work` is `Sync`.
unsafe impl Sync for Tiles<'_> {}
