//! Which instruction sets there are, which of them this machine has, and how one is chosen.

#[cfg(target_arch = "x86_64")]
use super::{Amx, Avx2, Avx512, amx};
use super::{Arithmetic, Portable};
use crate::Error;
use std::fmt;
use std::sync::OnceLock;

/// An instruction set that this machine has. The only ways to get one check that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Isa(Which);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Which {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// With VNNI and BF16.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// That, and tiles of bf16 and bytes.
    #[cfg(target_arch = "x86_64")]
    Amx,
}

impl Isa {
    /// The environment variable that forces an instruction set by name.
    pub const VARIABLE: &str = "PYTHIA_ISA";

    /// Every instruction set that this machine has, best last. On a machine with AMX this asks the system's leave to use it, which
    /// makes room for its registers wherever the process handles signals.
    pub fn available() -> &'static [Isa] {
        static FOUND: OnceLock<Vec<Isa>> = OnceLock::new();
        FOUND.get_or_init(|| {
            let mut found = vec![Isa(Which::Portable)];
            #[cfg(target_arch = "x86_64")]
            {
                let avx2 = is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c");
                if avx2 {
                    found.push(Isa(Which::Avx2));
                }
                let avx512 = is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl");
                if avx2 && avx512 {
                    found.push(Isa(Which::Avx512));
                    if is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512bf16") {
                        found.push(Isa(Which::Avx512Bf16));
                        if amx::present() {
                            found.push(Isa(Which::Amx));
                        }
                    }
                }
            }
            found
        })
    }

    /// The best instruction set of this machine.
    pub fn best() -> Isa {
        Self::available()[Self::available().len() - 1]
    }

    /// The instruction set called `portable`, `avx2`, `avx512`, `avx512bf16` or `amx`.
    ///
    /// # Errors
    /// If this machine or build does not have it.
    pub fn named(name: &str) -> Result<Isa, Error> {
        Self::available().iter().copied().find(|isa| isa.name() == name).ok_or_else(|| Error::Isa {
            name: name.to_owned(),
            available: Self::available().iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", "),
        })
    }

    /// What `PYTHIA_ISA` names, or the best there is where it is not set.
    ///
    /// # Errors
    /// If the variable names an instruction set that is not available.
    pub fn from_env() -> Result<Isa, Error> {
        match std::env::var(Self::VARIABLE) {
            Ok(name) if !name.is_empty() => Self::named(&name),
            _ => Ok(Self::best()),
        }
    }

    /// `portable`, `avx2`, `avx512`, `avx512bf16` (AVX-512 with VNNI and BF16: Zen 4, Sapphire Rapids and later), or `amx` (that,
    /// and AMX with BF16 and INT8: Sapphire Rapids and later).
    pub fn name(self) -> &'static str {
        match self.0 {
            Which::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Which::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Which::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Which::Avx512Bf16 => "avx512bf16",
            #[cfg(target_arch = "x86_64")]
            Which::Amx => "amx",
        }
    }

    /// Whether it can multiply bf16 numbers ([`Weight::Bf16`](crate::ops::Weight::Bf16)).
    pub fn has_bf16(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return matches!(self.0, Which::Avx512Bf16 | Which::Amx);
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Whether it has tiles of bf16 and bytes (AMX).
    pub(crate) fn has_tiles(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self.0 == Which::Amx;
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// The proof that it has tiles.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn amx(self) -> Option<Amx> {
        // SAFETY: an `Isa` exists only for instruction sets that were detected on this machine.
        self.has_tiles().then(|| unsafe { Amx::new() })
    }

    /// Numbers in a vector.
    pub(crate) fn lanes(self) -> usize {
        match self.0 {
            Which::Portable => Portable::LANES,
            #[cfg(target_arch = "x86_64")]
            Which::Avx2 => Avx2::LANES,
            #[cfg(target_arch = "x86_64")]
            Which::Avx512 | Which::Avx512Bf16 | Which::Amx => Avx512::LANES,
        }
    }

    /// Whether this is AVX-512 on a Zen 5, for which some kernels are laid out otherwise.
    pub(crate) fn zen5(self) -> bool {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Which::Avx512 | Which::Avx512Bf16 => Avx512::zen5(),
            _ => false,
        }
    }

    pub(crate) fn which(self) -> Which {
        self.0
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Stamps a generic kernel body out for every instruction set.
///
/// `stamp! { pub fn name[W: Element](arguments) -> Type = body; }` makes `name::<W>(isa, arguments)`, which calls
/// `body::<S, W>(simd, arguments)` compiled for the instruction set `isa`. The body must be `#[inline(always)]`:
/// that is how it comes to be compiled with the instruction set's features.
macro_rules! stamp {
    ($(
        $(#[$meta:meta])*
        $vis:vis fn $name:ident $([$($g:ident : $bound:path),*])? ($($arg:ident : $ty:ty),* $(,)?) $(-> $out:ty)? = $body:path;
    )*) => { $(
        $(#[$meta])*
        $vis fn $name $(<$($g: $bound),*>)? (isa: $crate::Isa, $($arg: $ty),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2 $(<$($g: $bound),*>)? (simd: $crate::simd::Avx2, $($arg: $ty),*) $(-> $out)? {
                $body(simd, $($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512 $(<$($g: $bound),*>)? (simd: $crate::simd::Avx512, $($arg: $ty),*) $(-> $out)? {
                $body(simd, $($arg),*)
            }
            match isa.which() {
                $crate::simd::Which::Portable => $body($crate::simd::Portable, $($arg),*),
                #[cfg(target_arch = "x86_64")]
                // SAFETY: an `Isa` exists only for instruction sets that were detected on this machine.
                $crate::simd::Which::Avx2 => unsafe { avx2 $(::<$($g),*>)? ($crate::simd::Avx2::new(), $($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                $crate::simd::Which::Avx512 | $crate::simd::Which::Avx512Bf16 | $crate::simd::Which::Amx => unsafe { avx512 $(::<$($g),*>)? ($crate::simd::Avx512::new(), $($arg),*) },
            }
        }
    )* };
}
pub(crate) use stamp;

/// [`stamp!`] for what multiplies pairs of bf16: `name(isa, arguments)` calls `body(simd, pairs, arguments)`, and panics
/// unless `isa` has such products.
macro_rules! stamp_pairs {
    ($(
        $(#[$meta:meta])*
        $vis:vis fn $name:ident ($($arg:ident : $ty:ty),* $(,)?) = $body:path;
    )*) => { $(
        $(#[$meta])*
        $vis fn $name(isa: $crate::Isa, $($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
                fn pairs(simd: $crate::simd::Avx512, pairs: $crate::simd::Pairs, $($arg: $ty),*) {
                    $body(simd, pairs, $($arg),*);
                }
                if isa.has_bf16() {
                    // SAFETY: an `Isa` exists only for instruction sets that were detected on this machine.
                    return unsafe { pairs($crate::simd::Avx512::new(), $crate::simd::Pairs::new(), $($arg),*) };
                }
            }
            $(let _ = $arg;)*
            panic!("{isa} does not multiply bf16");
        }
    )* };
}
pub(crate) use stamp_pairs;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_the_instruction_set() {
        for &isa in Isa::available() {
            assert_eq!(Isa::named(isa.name()), Ok(isa));
        }
    }

    #[test]
    fn an_absent_instruction_set_is_an_error_that_names_what_there_is() {
        let message = Isa::named("sse9").unwrap_err().to_string();
        assert!(message.contains("`sse9`") && message.contains("portable"), "{message}");
    }
}
