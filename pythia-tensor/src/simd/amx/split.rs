//! Products of rows of weights, as they lie in memory, with columns of activations: while the tiles multiply one step, the vector
//! units turn the next into bf16 numbers.
//!
//! Here weights are the first operand, which needs no transposing, and activations the second. A step is 64 numbers along K, two
//! halves:
//!
//! ```text
//! weights, a step       [2 halves][parts][16 or 8 rows][16 pairs of bf16], a part every 1024 bytes
//! activations, a step   [2 halves][1 to 4 tiles][parts, the smallest first][16 pairs][16 or fewer columns]
//! sums                  [16 or 8 rows of weights][columns]
//! ```
//!
//! Which two numbers make a pair does not matter as long as both operands agree: [`Split::Whole`] pairs number `i` of a half with
//! `16 + i`, [`Split::Nearest`] neighbours.

use super::{LINE, Nobody, Start, TILE, Tiles};
use crate::{DType, Element};
use std::arch::asm;
use std::arch::x86_64::{__m512i, _mm512_set_epi32, _mm512_set1_epi32};
use std::mem::MaybeUninit;

/// Numbers along K of a step.
pub(crate) const STEP: usize = 64;

/// Words of half a step of 16 rows or columns: a tile.
pub(crate) const HALF: usize = TILE * TILE;

/// How numbers become bf16 numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Split {
    /// Sums of bf16 numbers, of 8 bits each from the highest on: exactly, an `f16` of two, an `f32` of three. Of their products those that
    /// may be larger than 2^-22 of the whole are computed.
    Whole,
    /// The nearest bf16 number.
    Nearest,
}

impl Split {
    /// Parts of a number.
    pub(crate) const fn parts(self, dtype: DType) -> usize {
        match (self, dtype) {
            (Self::Nearest, _) | (_, DType::BF16) => 1,
            (Self::Whole, DType::F16) => 2,
            (Self::Whole, DType::F32) => 3,
        }
    }

    /// Rows of weights that are multiplied with so many tiles of activations together.
    pub(crate) const fn height(self, tiles: usize) -> usize {
        match self {
            Self::Nearest if tiles == 1 => TILE / 2,
            _ => TILE,
        }
    }

    /// Parts of an activation.
    pub(crate) const fn activations(self) -> usize {
        self.parts(DType::F32)
    }
}

/// One to four tiles of activations.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'a> {
    pub(crate) words: &'a [f32],
    pub(crate) tiles: usize,
}

/// Sums: those of a row of weights so many after those of the one before, and those of a group of 16 rows after those of the one before.
pub(crate) struct Sums<'a> {
    pub(crate) first: &'a mut [f32],
    pub(crate) from_row: usize,
    pub(crate) from_group: usize,
    pub(crate) start: Start,
}

/// Text of several lines.
macro_rules! lines {
    ($($line:expr),* $(,)?) => { concat!($($line, "\n"),*) };
}

/// Tiles of sums to and from their places, `$at` and so many bytes further.
macro_rules! sums {
    (zero $($tile:literal $at:literal),*) => { lines!($(concat!("tilezero ", $tile)),*) };
    (load $($tile:literal $at:literal),*) => { lines!($(concat!("tileloadd ", $tile, ", [", $at, "]")),*) };
    (store $($tile:literal $at:literal),*) => { lines!($(concat!("tilestored [", $at, "], ", $tile)),*) };
}

/// [`sums!`] of columns of tiles, of 16 (or 8) rows of weights or of twice 16.
macro_rules! all_sums {
    ($to:ident 16 1) => { sums!($to "tmm0" "{c} + {stride}") };
    ($to:ident 16 2) => { lines!(all_sums!($to 16 1), sums!($to "tmm1" "{c} + {stride} + 64")) };
    ($to:ident 16 3) => { lines!(all_sums!($to 16 2), sums!($to "tmm2" "{c} + {stride} + 128")) };
    ($to:ident 16 4) => { lines!(all_sums!($to 16 3), sums!($to "tmm3" "{c} + {stride} + 192")) };
    ($to:ident 32 1) => { sums!($to "tmm0" "{c} + {stride}", "tmm1" "{d} + {stride}") };
    ($to:ident 32 2) => {
        sums!(
            $to "tmm0" "{c} + {stride}", "tmm1" "{d} + {stride}",
            "tmm2" "{c} + {stride} + 64", "tmm3" "{d} + {stride} + 64"
        )
    };
}

/// The sums that a product starts from: zeros if `$flag` is 0.
macro_rules! start {
    ($flag:literal $rows:tt $columns:tt) => {
        lines!(
            concat!("test ", $flag, ", ", $flag),
            "jnz 8f",
            all_sums!(zero $rows $columns),
            "jmp 9f",
            "8:",
            all_sums!(load $rows $columns),
            "9:"
        )
    };
}

/// The next tile of activations, past which `{a}` goes on.
macro_rules! activations {
    ($tile:literal) => {
        lines!(concat!("tileloadd ", $tile, ", [{a} + {across}]"), "add {a}, [{plan} + 32]")
    };
}

/// Part `$q` of `$parts` of half `$h` of weights.
macro_rules! weights {
    ($tile:literal $at:literal $parts:literal $h:literal $q:literal) => {
        concat!("tileloadd ", $tile, ", [", $at, " + {line} + 1024*", $parts, "*", $h, " + 1024*", $q, "]")
    };
}

/// `$sums += $w * $a`.
macro_rules! product {
    ($sums:literal $w:literal $a:literal) => {
        concat!("tdpbf16ps ", $sums, ", ", $w, ", ", $a)
    };
}

/// One column of half a step of 16 (or 8) rows of weights, by the parts of activations and of weights, of which the first two are in tiles 4
/// and 5. Products with fewer parts of weights are a beginning of those with more, and further parts of
/// zero change nothing: weights have the same results in every type that holds them.
macro_rules! column {
    ($sums:literal 1 1 $h:literal $($else:expr),*) => {
        lines!(activations!("tmm7"), product!($sums "tmm4" "tmm7"), $($else),*)
    };
    ($sums:literal 3 1 $h:literal $d:expr, $e:expr, $f:expr, $g:expr) => {
        lines!(
            activations!("tmm7"), product!($sums "tmm4" "tmm7"), $d,
            activations!("tmm6"), product!($sums "tmm4" "tmm6"), $e, $f,
            activations!("tmm7"), product!($sums "tmm4" "tmm7"), $g
        )
    };
    ($sums:literal 3 2 $h:literal $d:expr, $e:expr, $f:expr, $g:expr) => {
        lines!(
            column!($sums 3 1 $h $d, $e, "", $f),
            product!($sums "tmm5" "tmm7"), $g,
            product!($sums "tmm5" "tmm6")
        )
    };
    ($sums:literal 3 3 $h:literal $($else:expr),*) => {
        lines!(
            column!($sums 3 2 $h $($else),*),
            weights!("tmm4" "{i}" 3 $h 2), product!($sums "tmm4" "tmm7"),
            weights!("tmm4" "{i}" 3 $h 0)
        )
    };
}

/// The first parts of half a step of 16 (or 8) rows of weights.
macro_rules! parts {
    (1 $h:literal) => { weights!("tmm4" "{i}" 1 $h 0) };
    ($parts:literal $h:literal) => {
        lines!(weights!("tmm4" "{i}" $parts $h 0), weights!("tmm5" "{i}" $parts $h 1))
    };
}

/// A step of 16 (or 8) rows of weights, by the numbers of columns and of parts, and something else in its course.
macro_rules! step {
    (1 $a:tt $w:tt $d:expr, $e:expr, $f:expr, $g:expr, $p:expr, $q:expr, $r:expr, $s:expr) => {
        lines!(
            parts!($w 0), column!("tmm0" $a $w 0 $d, $e, $f, $g),
            parts!($w 1), column!("tmm0" $a $w 1 $p, $q, $r, $s)
        )
    };
    (2 $a:tt $w:tt $d:expr, $e:expr, $f:expr, $g:expr, $p:expr, $q:expr, $r:expr, $s:expr) => {
        lines!(
            parts!($w 0), column!("tmm0" $a $w 0 $d, "", $e, ""), column!("tmm1" $a $w 0 $f, "", $g, ""),
            parts!($w 1), column!("tmm0" $a $w 1 $p, "", $q, ""), column!("tmm1" $a $w 1 $r, "", $s, "")
        )
    };
    (3 $a:tt $w:tt $d:expr, $e:expr, $f:expr, $g:expr, $p:expr, $q:expr, $r:expr, $s:expr) => {
        lines!(
            parts!($w 0), column!("tmm0" $a $w 0 $d, "", "", ""), column!("tmm1" $a $w 0 $e, "", "", ""),
            column!("tmm2" $a $w 0 $f, "", $g, ""),
            parts!($w 1), column!("tmm0" $a $w 1 $p, "", "", ""), column!("tmm1" $a $w 1 $q, "", "", ""),
            column!("tmm2" $a $w 1 $r, "", $s, "")
        )
    };
    (4 $a:tt $w:tt $d:expr, $e:expr, $f:expr, $g:expr, $p:expr, $q:expr, $r:expr, $s:expr) => {
        lines!(
            parts!($w 0), column!("tmm0" $a $w 0 $d, "", "", ""), column!("tmm1" $a $w 0 $e, "", "", ""),
            column!("tmm2" $a $w 0 $f, "", "", ""), column!("tmm3" $a $w 0 $g, "", "", ""),
            parts!($w 1), column!("tmm0" $a $w 1 $p, "", "", ""), column!("tmm1" $a $w 1 $q, "", "", ""),
            column!("tmm2" $a $w 1 $r, "", "", ""), column!("tmm3" $a $w 1 $s, "", "", "")
        )
    };
}

/// The upper halves of `zmm16` and `zmm17` become part `$q` of a row; what is left takes their place.
macro_rules! cut {
    ($($to:tt)*) => {
        lines!(
            "vpandd zmm18, zmm16, zmm31",
            "vpandd zmm19, zmm17, zmm31",
            "vpsrld zmm20, zmm16, 16",
            "vpord zmm20, zmm20, zmm19",
            keep!($($to)*),
            "vsubps zmm16, zmm16, zmm18",
            "vsubps zmm17, zmm17, zmm19",
        )
    };
}

/// What is left in `zmm16` and `zmm17` is the last part, of 8 bits; but of the smallest numbers less than its upper half holds.
macro_rules! rest {
    ($($to:tt)*) => {
        lines!("vpsrld zmm20, zmm16, 16", "vpternlogd zmm20, zmm17, zmm31, 0xF8", keep!($($to)*))
    };
}

/// `zmm20` is part `$q` of `$parts` of half `$h` of row `$r`.
macro_rules! keep {
    ($parts:literal $r:literal $h:literal $q:literal) => {
        concat!("vmovdqa64 [{o} + 64*", $r, " + 1024*", $parts, "*", $h, " + 1024*", $q, "], zmm20")
    };
}

/// Half a step of a row of weights becomes bf16 numbers.
macro_rules! convert {
    (Whole F16 $at:literal $r:literal $h:literal) => {
        lines!(convert!(load F16 $at $h), cut!(2 $r $h 0), rest!(2 $r $h 1))
    };
    (Whole F32 $at:literal $r:literal $h:literal) => {
        lines!(convert!(load F32 $at $h), cut!(3 $r $h 0), cut!(3 $r $h 1), rest!(3 $r $h 2))
    };
    (Whole BF16 $at:literal $r:literal $h:literal) => {
        lines!(convert!(load BF16 $at $h), "vpermw zmm20, zmm30, zmm20", keep!(1 $r $h 0))
    };
    (Nearest BF16 $at:literal $r:literal $h:literal) => { lines!(convert!(load BF16 $at $h), keep!(1 $r $h 0)) };
    (Nearest $dtype:ident $at:literal $r:literal $h:literal) => {
        lines!(convert!(load $dtype $at $h), "vcvtne2ps2bf16 zmm20, zmm17, zmm16", keep!(1 $r $h 0))
    };
    (load BF16 $at:literal $h:literal) => {
        lines!(
            concat!("vmovdqu64 zmm20, [", $at, " + 64*", $h, "]"),
        )
    };
    (load F16 $at:literal $h:literal) => {
        lines!(
            concat!("vcvtph2ps zmm16, [", $at, " + 64*", $h, "]"),
            concat!("vcvtph2ps zmm17, [", $at, " + 64*", $h, " + 32]"),
        )
    };
    (load F32 $at:literal $h:literal) => {
        lines!(
            concat!("vmovups zmm16, [", $at, " + 128*", $h, "]"),
            concat!("vmovups zmm17, [", $at, " + 128*", $h, " + 64]"),
        )
    };
}

/// Half a step of a row is asked for, some steps ahead: into the first level with a single tile of activations, which leaves room there.
macro_rules! ask {
    ($columns:tt F32 $at:literal $h:literal) => {
        lines!(ask!(line $columns "256" $at "128" $h "0"), ask!(line $columns "256" $at "128" $h "64"))
    };
    ($columns:tt $half:ident $at:literal $h:literal) => { ask!(line $columns "128" $at "64" $h "0") };
    (line 1 $($place:literal)*) => { ask!("prefetcht0" "3" $($place)*) };
    (line $columns:literal $($place:literal)*) => { ask!("prefetcht1" "4" $($place)*) };
    ($into:literal $steps:literal $step:literal $at:literal $half:literal $h:literal $line:literal) => {
        concat!($into, " [", $at, " + ", $steps, "*", $step, " + ", $half, "*", $h, " + ", $line, "]")
    };
}

/// A step of two rows.
macro_rules! rows {
    ($columns:tt $split:ident $dtype:ident $r:literal $next:literal) => {
        lines!(
            ask!($columns $dtype "{p}" 0),
            convert!($split $dtype "{p}" $r 0),
            ask!($columns $dtype "{p}" 1),
            convert!($split $dtype "{p}" $r 1),
            ask!($columns $dtype "{p} + {s}" 0),
            convert!($split $dtype "{p} + {s}" $next 0),
            ask!($columns $dtype "{p} + {s}" 1),
            convert!($split $dtype "{p} + {s}" $next 1),
            "lea {p}, [{p} + 2*{s}]"
        )
    };
}

/// All rows of a step, 16 or 8, in eight pieces, through the macro `$then`.
macro_rules! pieces {
    (16 $columns:tt $then:ident $split:ident $dtype:ident $($how:tt)*) => {
        $then!(
            $($how)*
            rows!($columns $split $dtype 0 1),
            rows!($columns $split $dtype 2 3),
            rows!($columns $split $dtype 4 5),
            rows!($columns $split $dtype 6 7),
            rows!($columns $split $dtype 8 9),
            rows!($columns $split $dtype 10 11),
            rows!($columns $split $dtype 12 13),
            rows!($columns $split $dtype 14 15)
        )
    };
    (8 $columns:tt $then:ident $split:ident $dtype:ident $($how:tt)*) => {
        $then!(
            $($how)*
            rows!($columns $split $dtype 0 1), "",
            rows!($columns $split $dtype 2 3), "",
            rows!($columns $split $dtype 4 5), "",
            rows!($columns $split $dtype 6 7), ""
        )
    };
}

/// After the rows of a step: back to the first, a step further. What was written will be read.
macro_rules! turn {
    (16 $bytes:literal) => { turn!(by "4" $bytes) };
    (8 $bytes:literal) => { turn!(by "3" $bytes) };
    (by $shift:literal $bytes:literal) => {
        lines!(
            concat!("shl {s}, ", $shift),
            "sub {p}, {s}",
            concat!("shr {s}, ", $shift),
            concat!("add {p}, 64*", $bytes),
            "xchg {i}, {o}",
            "add {o}, {advance}",
        )
    };
}

/// The whole of [`Tiles::stream`], by the numbers of rows of weights, of columns, parts of activations and of weights, and bytes of a number. The last step
/// of all has no rows after it to turn into bf16 numbers.
macro_rules! stream {
    ($height:tt $columns:tt $split:ident $dtype:ident $a:tt $w:tt $bytes:literal) => {
        concat!(
            start!("{steps}" 16 $columns),
            pieces!($height $columns lines $split $dtype),
            turn!($height $bytes),
            "mov {steps}, [{plan}]\n",
            "4:\n",
            "cmp qword ptr [{plan} + 8], 1\njne 2f\n",
            "dec {steps}\njz 3f\n",
            "2:\n",
            pieces!($height $columns step $split $dtype $columns $a $w),
            turn!($height $bytes),
            "dec {steps}\njnz 2b\n",
            "dec qword ptr [{plan} + 8]\njz 3f\n",
            all_sums!(store 16 $columns),
            all_sums!(zero 16 $columns),
            "add {c}, [{plan} + 16]\n",
            "sub {a}, [{plan} + 24]\n",
            "mov {steps}, [{plan}]\n",
            "jmp 4b\n",
            "3:\n",
            step!($columns $a $w "", "", "", "", "", "", "", ""),
            all_sums!(store 16 $columns),
        )
    };
}

/// What [`Tiles::stream`] counts by, in memory for want of registers.
#[repr(C)]
struct Plan {
    /// Of a group.
    steps: usize,
    /// Those that are left.
    groups: usize,
    /// Bytes from a group's sums to the next one's.
    sums: usize,
    /// Bytes of a group's activations.
    activations: usize,
    /// Of one tile of them.
    tile: usize,
}

/// One part of weights of twice 16 rows, in tiles 4 and 5, times what is in tiles 6 and, of a second column, 7.
macro_rules! products {
    (1) => { lines!(product!("tmm0" "tmm4" "tmm6"), product!("tmm1" "tmm5" "tmm6")) };
    (2) => { lines!(products!(1), product!("tmm2" "tmm4" "tmm7"), product!("tmm3" "tmm5" "tmm7")) };
}

/// A part of activations, that many after the smallest, of one or two columns, of two in all, in tiles 6 and 7.
macro_rules! both {
    (1 $parts:literal $after:literal) => { both!(load "tmm6" $after) };
    (2 $parts:literal $after:literal) => {
        lines!(both!(1 $parts $after), both!(load "tmm7" $after " + 1024*" $parts))
    };
    (load $tile:literal $after:literal $($column:literal)*) => {
        concat!("tileloadd ", $tile, ", [{a} + {across} + 1024*", $after $(, $column)*, "]")
    };
}

/// A part of weights of twice 16 rows.
macro_rules! pair {
    ($parts:literal $q:literal) => { lines!(weights!("tmm4" "{i}" $parts 0 $q), weights!("tmm5" "{j}" $parts 0 $q)) };
}

/// Half a step of twice 16 rows of weights, in the order of [`column!`].
macro_rules! half {
    ($columns:tt 1 1) => { lines!(pair!(1 0), both!($columns 1 0), products!($columns)) };
    ($columns:tt 3 1 of $w:literal) => {
        lines!(
            pair!($w 0),
            both!($columns 3 0), products!($columns),
            both!($columns 3 1), products!($columns),
            both!($columns 3 2), products!($columns)
        )
    };
    ($columns:tt 3 2 of $w:literal) => {
        lines!(
            half!($columns 3 1 of $w),
            pair!($w 1), products!($columns),
            both!($columns 3 1), products!($columns)
        )
    };
    ($columns:tt 3 3) => {
        lines!(half!($columns 3 2 of 3), pair!(3 2), both!($columns 3 2), products!($columns))
    };
    ($columns:tt 3 $w:tt) => { half!($columns 3 $w of $w) };
}

/// [`Tiles::stay_awake`] before some of the halves of steps of [`Tiles::again`], by the parts of activations.
macro_rules! stay_awake {
    (1) => { stay_awake!(every "8") };
    (3) => { stay_awake!(every "2") };
    (every $halves:literal) => {
        concat!("test {steps}, ", $halves, " - 1\njnz 4f\ntilestored [{nobody}], tmm4\n4:\n")
    };
}

/// The whole of [`Tiles::again`].
macro_rules! again {
    ($columns:tt $a:tt $w:tt) => {
        concat!(
            start!("{sums}" 32 $columns),
            "2:\n",
            stay_awake!($a),
            half!($columns $a $w),
            "add {a}, 2048*", $a, "\n",
            "add {i}, 1024*", $w, "\n",
            "add {j}, 1024*", $w, "\n",
            "dec {steps}\njnz 2b\n",
            all_sums!(store 32 $columns),
        )
    };
}

impl Tiles {
    /// The sums of `groups` times 16 (or 8) rows of weights, `stride` apart, with columns of activations, over `steps` of K: what there was (of a
    /// single group), or zeros, and their products. Each further group begins where the rows of the one before end. The
    /// weights as bf16 numbers are left in `room`, all steps of a single group if it is so large, or else, in turns, the last two. Asks for
    /// the weights that follow in each row.
    ///
    /// # Panics
    /// If an operand is too short, or the tiles have not the shape of the columns ([`Tiles::shape_columns`]).
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,f16c")]
    pub(crate) fn stream<W: Element>(
        &self,
        split: Split,
        a: Columns<'_>,
        (w, stride): (&[W], usize),
        (groups, steps): (usize, usize),
        room: &mut [f32],
        Sums { first, from_row, from_group, start }: Sums<'_>,
    ) {
        let slot = 2 * split.parts(W::DTYPE) * HALF;
        let (width, height) = (self.check_width(a.tiles), split.height(a.tiles));
        assert!(self.height == height, "tiles of {} rows of weights instead of {height}", self.height);
        assert!(groups > 0 && steps > 0, "{groups} groups of {steps} steps");
        assert!(groups == 1 || start == Start::Zero, "sums of one group only");
        assert!(room.as_ptr().addr().is_multiple_of(LINE), "room in whole lines");
        let needed =
            stride.checked_mul(height - 1).and_then(|start| start.checked_add(groups * steps * STEP));
        assert!(needed.is_some_and(|needed| needed <= w.len()), "{groups} groups of weights");
        let keep = groups == 1 && room.len() >= steps * slot;
        assert!(keep || room.len() >= 2 * slot, "room for two steps");
        let len = steps * 2 * split.activations() * TILE * width;
        assert!(len <= a.words.len(), "{steps} steps of activations");
        check_sums(first, [(from_row, height), (from_group, groups)], width);
        let mut plan =
            Plan { steps, groups, sums: 4 * from_group, activations: 4 * len, tile: TILE * self.across() };
        // Each step's place is read a step after it was written. `advance` is from one such place to the one after the next.
        let (slot, o) = (4 * slot, room.as_mut_ptr().cast::<u8>());
        let (i, advance) = if keep { (o.wrapping_sub(slot), 2 * slot) } else { (o.wrapping_add(slot), 0) };
        let (w, stride) = (w.as_ptr(), stride * size_of::<W>());
        let ((halves, upper), c) = (constants(), first.as_mut_ptr());
        macro_rules! run {
            ($($text:tt)*) => {
                // SAFETY: the lengths were checked; nothing stays in a tile.
                unsafe {
                    asm!(
                        stream!($($text)*),
                        a = inout(reg) a.words.as_ptr() => _,
                        across = in(reg) self.across(),
                        p = inout(reg) w => _,
                        s = inout(reg) stride => _,
                        i = inout(reg) i => _,
                        o = inout(reg) o => _,
                        advance = in(reg) advance,
                        line = in(reg) LINE,
                        // What sums start from, and then a counter.
                        steps = inout(reg) usize::from(start == Start::Sums) => _,
                        plan = in(reg) &raw mut plan,
                        c = inout(reg) c => _,
                        stride = in(reg) 4 * from_row,
                        in("zmm30") halves,
                        in("zmm31") upper,
                        out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _, out("zmm20") _,
                        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                        options(nostack),
                    );
                }
            };
        }
        macro_rules! columns {
            ($height:tt $($how:tt)*) => {
                match a.tiles {
                    1 => run!($height 1 $($how)*),
                    2 => run!(16 2 $($how)*),
                    3 => run!(16 3 $($how)*),
                    _ => run!(16 4 $($how)*),
                }
            };
        }
        match (split, W::DTYPE) {
            (Split::Whole, DType::F16) => columns!(16 Whole F16 3 2 2),
            (Split::Whole, DType::BF16) => columns!(16 Whole BF16 3 1 2),
            (Split::Whole, DType::F32) => columns!(16 Whole F32 3 3 4),
            (Split::Nearest, DType::F16) => columns!(8 Nearest F16 1 1 2),
            (Split::Nearest, DType::BF16) => columns!(8 Nearest BF16 1 1 2),
            (Split::Nearest, DType::F32) => columns!(8 Nearest F32 1 1 4),
        }
    }

    /// The same for two groups of rows of weights which are bf16 numbers already, in so many parts, and `columns` of the tiles.
    ///
    /// # Panics
    /// As [`Tiles::stream`].
    pub(crate) fn again(
        &self,
        split: Split,
        (a, columns): (Columns<'_>, usize),
        (w, parts): ([&[f32]; 2], usize),
        steps: usize,
        Sums { first, from_row, from_group, start }: Sums<'_>,
    ) {
        let needed = 2 * steps * HALF;
        assert!(steps > 0 && w.iter().all(|w| needed * parts <= w.len()), "{steps} steps of weights");
        assert!(needed * split.activations() * a.tiles <= a.words.len(), "{steps} steps of activations");
        assert!(
            (1..=3).contains(&parts) && columns <= a.tiles && a.tiles == 2 && self.height == TILE,
            "{columns} columns of {}, {parts} parts",
            a.tiles
        );
        self.check_width(a.tiles);
        check_sums(first, [(from_row, TILE), (from_group, 2)], self.check_width(columns));
        let c = first.as_mut_ptr();
        let mut nobody = Nobody(MaybeUninit::uninit());
        macro_rules! run {
            ($($text:tt)*) => {
                // SAFETY: as above.
                unsafe {
                    asm!(
                        again!($($text)*),
                        a = inout(reg) a.words.as_ptr() => _,
                        across = in(reg) self.across(),
                        i = inout(reg) w[0].as_ptr() => _,
                        j = inout(reg) w[1].as_ptr() => _,
                        line = in(reg) LINE,
                        steps = inout(reg) 2 * steps => _,
                        nobody = in(reg) nobody.0.as_mut_ptr(),
                        sums = in(reg) usize::from(start == Start::Sums),
                        c = in(reg) c,
                        d = in(reg) c.wrapping_add(from_group),
                        stride = in(reg) 4 * from_row,
                        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                        options(nostack),
                    );
                }
            };
        }
        match (columns, split, parts) {
            (1, Split::Whole, 1) => run!(1 3 1),
            (1, Split::Whole, 2) => run!(1 3 2),
            (1, Split::Whole, _) => run!(1 3 3),
            (1, Split::Nearest, _) => run!(1 1 1),
            (_, Split::Whole, 1) => run!(2 3 1),
            (_, Split::Whole, 2) => run!(2 3 2),
            (_, Split::Whole, _) => run!(2 3 3),
            (_, Split::Nearest, _) => run!(2 1 1),
        }
    }

    /// How many columns so many tiles have.
    ///
    /// # Panics
    /// If these are not the tiles' shape.
    #[inline(always)]
    fn check_width(&self, tiles: usize) -> usize {
        let width = self.across() / 4;
        assert!(
            tiles == 1 && width > 0 || (2..=4).contains(&tiles) && width == TILE,
            "{tiles} tiles of {width}"
        );
        tiles * width
    }
}

/// Panics unless there are sums so many apart, in both directions, of so many columns each.
#[inline(always)]
fn check_sums(sums: &[f32], apart: [(usize, usize); 2], columns: usize) {
    let needed =
        apart.iter().try_fold(columns, |needed, (apart, n)| needed.checked_add(apart.checked_mul(n - 1)?));
    assert!(needed.is_some_and(|needed| needed <= sums.len()), "{apart:?} sums of {columns} columns");
}

/// Which words go where for pairs `(i, 16 + i)`; and the upper halves of lanes.
#[target_feature(enable = "avx512f")]
fn constants() -> (__m512i, __m512i) {
    let pair = |i: i32| (16 + i) << 16 | i;
    #[rustfmt::skip]
    let halves = _mm512_set_epi32(
        pair(15), pair(14), pair(13), pair(12), pair(11), pair(10), pair(9), pair(8),
        pair(7), pair(6), pair(5), pair(4), pair(3), pair(2), pair(1), pair(0),
    );
    (halves, _mm512_set1_epi32(crate::simd::UPPER))
}
