//! Which of the processor's instructions the kernels use.

use std::fmt;

use once_cell::sync::OnceCell;

use crate::error::{Error, Result};

/// The variable that chooses.
const VARIABLE: &str = "TORCH_RMPI_SIMD";
/// What it takes.
const NAMES: [&str; 5] = ["baseline", "avx2", "avx512", "avx512_bf16", "neon"];

/// A set of instructions that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Instructions {
    /// What every processor of this architecture has: SSE2 on x86-64.
    #[cfg(not(target_arch = "aarch64"))]
    Baseline,
    /// NEON. Every processor of this architecture has it, and so there is nothing below it to choose.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// AVX2 and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// The same and AVX-512 BF16.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
}

impl Instructions {
    /// What every processor of this architecture has.
    #[cfg(not(target_arch = "aarch64"))]
    const LEAST: Instructions = Instructions::Baseline;
    /// What every processor of this architecture has.
    #[cfg(target_arch = "aarch64")]
    const LEAST: Instructions = Instructions::Neon;

    /// An error if `TORCH_RMPI_SIMD` names none of any architecture. What this processor lacks is not used, see
    /// [`Available::chosen`]: machines of a job may differ.
    pub fn check_variable() -> Result<()> {
        check(std::env::var_os(VARIABLE).map(|text| text.to_string_lossy().into_owned()).as_deref())
    }

    /// All of this architecture, in the order of their declaration: the most capable last.
    pub const ALL: &[Instructions] = &[
        Instructions::LEAST,
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx2,
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512,
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512Bf16,
    ];

    /// The name that `TORCH_RMPI_SIMD` takes.
    pub const fn name(self) -> &'static str {
        match self {
            #[cfg(not(target_arch = "aarch64"))]
            Instructions::Baseline => "baseline",
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon => "neon",
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512Bf16 => "avx512_bf16",
        }
    }

    fn is_available(self) -> bool {
        match self {
            Instructions::LEAST => true,
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c"),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => {
                Instructions::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512Bf16 => Instructions::Avx512.is_available() && is_x86_feature_detected!("avx512bf16"),
        }
    }
}

impl fmt::Display for Instructions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Instructions that this processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Available(Instructions);

impl Available {
    /// The instructions, if the processor has them.
    pub fn new(instructions: Instructions) -> Option<Available> {
        instructions.is_available().then_some(Available(instructions))
    }

    /// The most capable ones, or those that `TORCH_RMPI_SIMD` names.
    pub fn chosen() -> Available {
        static CHOSEN: OnceCell<Available> = OnceCell::new();
        *CHOSEN.get_or_init(|| choose(std::env::var(VARIABLE).ok().as_deref()))
    }

    /// Which they are.
    pub fn get(self) -> Instructions {
        self.0
    }
}

fn check(wanted: Option<&str>) -> Result<()> {
    match wanted {
        Some(name) if !name.is_empty() && !NAMES.contains(&name) => {
            Err(Error::Argument(format!("{VARIABLE} is {name:?}, but it takes {}", NAMES.join(" or "))))
        }
        _ => Ok(()),
    }
}

fn choose(wanted: Option<&str>) -> Available {
    let best = available().next_back().unwrap_or(Available(Instructions::LEAST));
    let Some(wanted) = wanted.filter(|name| !name.is_empty()) else { return best };
    available().find(|available| available.get().name() == wanted).unwrap_or_else(|| {
        log::warn!("{}", refusal(wanted));
        best
    })
}

fn available() -> impl DoubleEndedIterator<Item = Available> {
    Instructions::ALL.iter().filter_map(|&instructions| Available::new(instructions))
}

fn refusal(wanted: &str) -> String {
    let names: Vec<_> = available().map(|available| available.get().name()).collect();
    format!("TORCH_RMPI_SIMD={wanted} is not available here; this processor has {}", names.join(", "))
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn the_variable_forces_what_there_is() {
        for available in available() {
            assert_eq!(choose(Some(available.get().name())), available);
        }
        assert_eq!(choose(Some("no such thing")), choose(None));
        assert_eq!(choose(Some("")), choose(None));
    }

    #[test]
    fn sets_of_another_architecture_are_refused() {
        let others: &[&str] = if cfg!(target_arch = "x86_64") { &["neon"] } else { &["avx2", "avx512", "avx512_bf16"] };
        for other in others {
            assert_eq!(choose(Some(other)), choose(None));
            let refusal = refusal(other);
            assert!(refusal.contains(other) && refusal.contains(Instructions::LEAST.name()), "{refusal}");
        }
    }

    #[test]
    fn sets_are_numbered_as_they_are_listed() {
        for (index, &instructions) in Instructions::ALL.iter().enumerate() {
            assert_eq!(instructions as usize, index);
        }
    }

    #[test]
    fn a_name_that_nobody_knows_is_an_error() {
        for known in Instructions::ALL.iter().map(|instructions| Some(instructions.name())).chain([None, Some("")]) {
            check(known).unwrap();
        }
        let text = check(Some("fast")).unwrap_err().to_string();
        assert_eq!(text, "TORCH_RMPI_SIMD is \"fast\", but it takes baseline or avx2 or avx512 or avx512_bf16 or neon");
    }
}
