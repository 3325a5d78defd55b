//! Tiles (Intel AMX): one instruction adds to a tile of 16 x 16 sums the products of 16 rows of activations with 16 columns of
//! weights, over 32 numbers of K in bf16 or 64 in bytes.
//!
//! The compiler has no stable intrinsics for these registers. So a whole sum over K is one piece of assembly, from memory to memory:
//! nothing of it lies in a tile when Rust's code goes on, but for the tiles' shapes, which [`Tiles`] keeps and gives back.
//!
//! Activations lie row by row; weights as they lie in panels, in groups of 32 bits along K:
//!
//! ```text
//! activations  [16][64 bytes]                   rows, `stride` bytes apart
//! weights      [16][16 columns][4 bytes]        lines of 2 bf16 or 4 bytes of each column, `stride` bytes apart
//! sums         [16][16 columns]                 f32 or i32
//! ```

pub(crate) mod split;

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::cell::Cell;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// Rows and columns of a tile.
pub(crate) const TILE: usize = 16;

/// Bytes of a tile's row: numbers along K of an instruction.
pub(crate) const LINE: usize = 64;

/// Rows of activations that are multiplied together at most: two tiles.
pub(crate) const ROWS: usize = 2 * TILE;

/// Columns that are multiplied together: two tiles.
pub(crate) const COLUMNS: usize = 2 * TILE;

thread_local! {
    /// Whether somebody has this thread's tiles.
    static TAKEN: Cell<bool> = const { Cell::new(false) };
}

/// The proof that AMX with BF16 and INT8 is present, and that the system lets this process use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Amx(());

impl Amx {
    /// # Safety
    /// [`present`] must have said so.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }

    /// Takes the thread's tiles. Shape them first.
    ///
    /// # Panics
    /// If this thread has taken them already: it has no others.
    pub(crate) fn tiles(self) -> Tiles {
        assert!(!TAKEN.replace(true), "a thread's tiles are taken once at a time");
        Tiles { amx: self, rows: 0, columns: 0, height: 0, not_send: PhantomData }
    }
}

/// Whether the machine has AMX with BF16 and INT8 and the system saves its registers. Asks the system's leave to use them, which
/// holds for all threads of the process.
pub(super) fn present() -> bool {
    const INT8_TILE_BF16: u32 = 1 << 25 | 1 << 24 | 1 << 22;
    const STATE: u32 = 3 << 17;
    if !is_x86_feature_detected!("xsave") || __cpuid_count(0, 0).eax < 7 {
        return false;
    }
    let enabled: u32;
    // SAFETY: XSAVE is detected only where the system has enabled this instruction.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") enabled, out("edx") _, options(nomem, nostack, preserves_flags));
    }
    __cpuid_count(7, 0).edx & INT8_TILE_BF16 == INT8_TILE_BF16 && enabled & STATE == STATE && permitted()
}

/// Linux gives a process the room for these registers when it asks (`arch_prctl`, since 5.16).
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XFEATURE_XTILEDATA: i64 = 18;
    let result: i64;
    // SAFETY: the call reads and writes no memory of ours; the kernel changes `rcx` and `r11`.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// Lines of [`LINE`] bytes, `stride` bytes apart.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) stride: usize,
}

impl Matrix<'_> {
    /// Panics unless there are `lines` lines that are `len` bytes long.
    #[inline(always)]
    fn check(self, lines: usize, len: usize) {
        let needed = (lines - 1).checked_mul(self.stride).and_then(|start| start.checked_add(len));
        assert!(needed.is_some_and(|needed| needed <= self.bytes.len()), "{lines} lines of {len}");
    }
}

/// What sums start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// 0.
    Zero,
    /// What stands in their place.
    Sums,
}

/// The tiles of this thread, shaped for a number of rows of activations, or of their columns. Dropped, they are the system's again, which then need not
/// save them when it turns to another thread.
pub(crate) struct Tiles {
    /// The proof that there are such.
    amx: Amx,
    /// Rows of activations, if these are the first operand.
    rows: usize,
    /// Columns of a tile of activations, if these are the second.
    columns: usize,
    /// Rows of a tile of weights then.
    height: usize,
    not_send: PhantomData<*const ()>,
}

impl Drop for Tiles {
    fn drop(&mut self) {
        TAKEN.set(false);
        // SAFETY: `Amx` proves that the instruction exists; no tile holds anything between products.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) }
    }
}

/// Where tiles are stored that nobody needs, all rows in one place.
#[repr(align(64))]
struct Nobody(MaybeUninit<[u8; LINE]>);

/// A method of [`Tiles`] for products of one type.
macro_rules! multiply {
    ($(#[$meta:meta])* $name:ident, $sum:ty, $instruction:literal) => {
        $(#[$meta])*
        #[inline(always)]
        pub(crate) fn $name(&self, a: Matrix<'_>, (w, next): ([Matrix<'_>; 2], usize), steps: usize, start: Start, sums: &mut [$sum], stride: usize) {
            if self.rows == 0 {
                return;
            }
            self.check(a, (w, next), steps, (sums.len(), stride));
            let sums = sums.as_mut_ptr();
            let (a_stride, w_stride, stride) = (a.stride, w[0].stride, stride * size_of::<$sum>());
            let start = usize::from(start == Start::Sums);
            if self.rows > TILE {
                // SAFETY: the tiles have the shapes of `rows` rows; they stay within the lengths checked.
                unsafe {
                    asm!(
                        "test {start}, {start}",
                        "jnz 2f",
                        "tilezero tmm0",
                        "tilezero tmm1",
                        "tilezero tmm2",
                        "tilezero tmm3",
                        "jmp 3f",
                        "2:",
                        "tileloadd tmm0, [{top} + {stride}]",
                        "tileloadd tmm1, [{top} + {stride} + 64]",
                        "tileloadd tmm2, [{bottom} + {stride}]",
                        "tileloadd tmm3, [{bottom} + {stride} + 64]",
                        "3:",
                        "tileloadd tmm4, [{a} + {a_stride}]",
                        "tileloadd tmm6, [{w} + {w_stride}]",
                        concat!($instruction, " tmm0, tmm4, tmm6"),
                        "tileloadd tmm7, [{v} + {w_stride}]",
                        concat!($instruction, " tmm1, tmm4, tmm7"),
                        "tileloadd tmm5, [{b} + {a_stride}]",
                        concat!($instruction, " tmm2, tmm5, tmm6"),
                        concat!($instruction, " tmm3, tmm5, tmm7"),
                        "add {a}, 64",
                        "add {b}, 64",
                        "add {w}, {next}",
                        "add {v}, {next}",
                        "dec {steps}",
                        "jnz 3b",
                        "tilestored [{top} + {stride}], tmm0",
                        "tilestored [{top} + {stride} + 64], tmm1",
                        "tilestored [{bottom} + {stride}], tmm2",
                        "tilestored [{bottom} + {stride} + 64], tmm3",
                        start = in(reg) start,
                        top = in(reg) sums,
                        bottom = in(reg) sums.wrapping_byte_add(TILE * stride),
                        stride = in(reg) stride,
                        a = inout(reg) a.bytes.as_ptr() => _,
                        b = inout(reg) a.bytes.as_ptr().wrapping_add(TILE * a_stride) => _,
                        a_stride = in(reg) a_stride,
                        w = inout(reg) w[0].bytes.as_ptr() => _,
                        v = inout(reg) w[1].bytes.as_ptr() => _,
                        w_stride = in(reg) w_stride,
                        next = in(reg) next,
                        steps = inout(reg) steps => _,
                        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                        options(nostack),
                    );
                }
            } else {
                // SAFETY: as above.
                unsafe {
                    asm!(
                        "test {start}, {start}",
                        "jnz 2f",
                        "tilezero tmm0",
                        "tilezero tmm1",
                        "jmp 3f",
                        "2:",
                        "tileloadd tmm0, [{top} + {stride}]",
                        "tileloadd tmm1, [{top} + {stride} + 64]",
                        "3:",
                        "tileloadd tmm4, [{a} + {a_stride}]",
                        "tileloadd tmm6, [{w} + {w_stride}]",
                        concat!($instruction, " tmm0, tmm4, tmm6"),
                        "tileloadd tmm7, [{v} + {w_stride}]",
                        concat!($instruction, " tmm1, tmm4, tmm7"),
                        "add {a}, 64",
                        "add {w}, {next}",
                        "add {v}, {next}",
                        "dec {steps}",
                        "jnz 3b",
                        "tilestored [{top} + {stride}], tmm0",
                        "tilestored [{top} + {stride} + 64], tmm1",
                        start = in(reg) start,
                        top = in(reg) sums,
                        stride = in(reg) stride,
                        a = inout(reg) a.bytes.as_ptr() => _,
                        a_stride = in(reg) a_stride,
                        w = inout(reg) w[0].bytes.as_ptr() => _,
                        v = inout(reg) w[1].bytes.as_ptr() => _,
                        w_stride = in(reg) w_stride,
                        next = in(reg) next,
                        steps = inout(reg) steps => _,
                        out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                        options(nostack),
                    );
                }
            }
        }
    };
}

/// What the machine can do at best: `$name(steps)` runs so many products of four tiles.
macro_rules! peak {
    ($name:ident, $instruction:literal) => {
        pub(crate) fn $name(self, steps: usize) {
            let mut tiles = self.tiles();
            tiles.shape(ROWS);
            // SAFETY: the tiles have shapes; what they hold, and lose, does not matter.
            unsafe {
                asm!(
                    "tilezero tmm4",
                    "tilezero tmm5",
                    "tilezero tmm6",
                    "tilezero tmm7",
                    "2:",
                    concat!($instruction, " tmm0, tmm4, tmm6"),
                    concat!($instruction, " tmm1, tmm4, tmm7"),
                    concat!($instruction, " tmm2, tmm5, tmm6"),
                    concat!($instruction, " tmm3, tmm5, tmm7"),
                    "dec {steps}",
                    "jnz 2b",
                    steps = inout(reg) steps.max(1) => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nomem, nostack),
                );
            }
        }
    };
}

impl Amx {
    peak!(multiply_bf16, "tdpbf16ps");
    peak!(multiply_bytes, "tdpbsud");
}

/// Multiplications of one step of [`Amx::multiply_bf16`].
pub(crate) const BF16_STEP: usize = ROWS * COLUMNS * LINE / 2;

/// Multiplications of one step of [`Amx::multiply_bytes`].
pub(crate) const BYTES_STEP: usize = ROWS * COLUMNS * LINE;

impl Tiles {
    /// Panics unless `steps` of a product have their operands, and sums of so many numbers in rows `stride` apart their places.
    #[inline(always)]
    fn check(
        &self,
        a: Matrix<'_>,
        (w, next): ([Matrix<'_>; 2], usize),
        steps: usize,
        (sums, stride): (usize, usize),
    ) {
        assert!(steps > 0 && w[0].stride == w[1].stride, "{steps} steps of columns of one kind");
        a.check(self.rows, steps * LINE);
        let last = (steps - 1).saturating_mul(next);
        for w in w {
            Matrix { bytes: w.bytes.get(last..).unwrap_or_default(), ..w }.check(TILE, LINE);
        }
        assert!((self.rows - 1) * stride + COLUMNS <= sums, "sums of {} rows", self.rows);
    }

    /// Shapes the tiles for `rows` rows of activations.
    ///
    /// # Panics
    /// If there are more than [`ROWS`].
    #[inline(always)]
    pub(crate) fn shape(&mut self, rows: usize) {
        if self.rows != rows {
            assert!(rows <= ROWS, "{rows} rows in tiles for {ROWS}");
            let (top, bottom) = (rows.clamp(1, TILE) as u8, rows.saturating_sub(TILE).max(1) as u8);
            // Sums 0 to 3, activations 4 and 5, weights 6 and 7.
            Self::configure(
                self.amx,
                [top, top, bottom, bottom, top, bottom, TILE as u8, TILE as u8],
                [LINE as u16; 8],
            );
            (self.rows, self.columns) = (rows, 0);
        }
    }

    /// Shapes the tiles for activations as the second operand, in tiles of `columns`, and for `height` rows of weights.
    ///
    /// # Panics
    /// If there are more columns than [`TILE`], or the rows are not so many or half as many.
    #[inline(always)]
    pub(crate) fn shape_columns(&mut self, columns: usize, height: usize) {
        if (self.columns, self.height) != (columns, height) {
            assert!(0 < columns && columns <= TILE, "{columns} columns in a tile for {TILE}");
            assert!(height == TILE || height == TILE / 2, "{height} rows of weights in a tile for {TILE}");
            let across = (4 * columns) as u16;
            let line = LINE as u16;
            // Sums 0 to 3, weights 4 and 5, activations 6 and 7.
            Self::configure(
                self.amx,
                std::array::from_fn(|tile| if tile < 6 { height as u8 } else { TILE as u8 }),
                [across, across, across, across, line, line, across, across],
            );
            (self.rows, self.columns, self.height) = (0, columns, height);
        }
    }

    /// Stores a tile for nobody: the way out of the tiles falls asleep after half a microsecond without a store, and the next one then waits
    /// 0.3 microseconds for it.
    ///
    /// # Panics
    /// If the tiles have no shape.
    #[inline(always)]
    pub(crate) fn stay_awake(&self) {
        assert!(self.rows > 0 || self.columns > 0, "tiles of no shape");
        let mut nobody = Nobody(MaybeUninit::uninit());
        // SAFETY: a row has up to 64 bytes, and all rows go to one place.
        unsafe {
            asm!("tilestored [{} + {}], tmm0", in(reg) nobody.0.as_mut_ptr(), in(reg) 0_usize, options(nostack, preserves_flags));
        }
    }

    /// Bytes of a row of a tile of activations as the second operand.
    fn across(&self) -> usize {
        4 * self.columns
    }

    /// Gives tiles 0 to 7 so many rows, of so many bytes.
    #[inline(never)]
    fn configure(_: Amx, rows: [u8; 8], bytes: [u16; 8]) {
        /// What `ldtilecfg` reads.
        #[repr(C, align(64))]
        struct Shapes {
            palette: u8,
            start_row: u8,
            reserved: [u8; 14],
            bytes: [u16; 16],
            rows: [u8; 16],
        }
        let mut shapes =
            Shapes { palette: 1, start_row: 0, reserved: [0; 14], bytes: [0; 16], rows: [0; 16] };
        shapes.bytes[..8].copy_from_slice(&bytes);
        shapes.rows[..8].copy_from_slice(&rows);
        // SAFETY: `Amx` proves that the instruction exists; the callers' shapes are valid ones.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const shapes, options(readonly, nostack, preserves_flags));
        }
    }

    multiply! {
        /// `sums[m][n] = start + sum over k of a[m][k] * w[k][n]` for the rows shaped for and two tiles of columns: bf16 numbers,
        /// over `steps` of 32, whose weights are `next` bytes apart. Subnormal numbers are taken for zeros.
        bf16, f32, "tdpbf16ps"
    }
    multiply! {
        /// The same for bytes, over `steps` of 64: activations from -128 to 127, weights from 0 to 255.
        bytes, i32, "tdpbsud"
    }
}
