//! Which of the processor's instructions the kernels use.

use std::fmt;

use once_cell::sync::OnceCell;

use crate::error::{Error, Result};

/// The variable that chooses.
const VARIABLE: &str = "TORCH_RMPI_SIMD";
/// What it takes.
const NAMES: [&str; 3] = ["baseline", "avx2", "avx512"];

/// A set of instructions that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Instructions {
    /// What every processor of this architecture has: SSE2, or NEON.
    Baseline,
    /// AVX2 and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Instructions {
    /// An error if `TORCH_RMPI_SIMD` names none of any architecture. What this processor lacks is not used, see
    /// [`Available::chosen`]: machines of a job may differ.
    pub fn check_variable() -> Result<()> {
        check(std::env::var_os(VARIABLE).map(|text| text.to_string_lossy().into_owned()).as_deref())
    }

    /// All of this architecture, the most capable last.
    pub const ALL: &[Instructions] = &[
        Instructions::Baseline,
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx2,
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512,
    ];

    /// The name that `TORCH_RMPI_SIMD` takes.
    pub const fn name(self) -> &'static str {
        match self {
            Instructions::Baseline => "baseline",
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => "avx512",
        }
    }

    fn is_available(self) -> bool {
        match self {
            Instructions::Baseline => true,
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
    let available = || Instructions::ALL.iter().filter_map(|&instructions| Available::new(instructions));
    let best = available().next_back().unwrap_or(Available(Instructions::Baseline));
    let Some(wanted) = wanted.filter(|name| !name.is_empty()) else { return best };
    available().find(|available| available.get().name() == wanted).unwrap_or_else(|| {
        let names: Vec<_> = available().map(|available| available.get().name()).collect();
        log::warn!("{VARIABLE}={wanted} is not available here; this processor has {}", names.join(", "));
        best
    })
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn the_variable_forces_what_there_is() {
        assert_eq!(choose(Some("baseline")).get(), Instructions::Baseline);
        assert_eq!(choose(Some("no such thing")), choose(None));
        assert_eq!(choose(Some("")), choose(None));
    }

    #[test]
    fn a_name_that_nobody_knows_is_an_error() {
        for known in Instructions::ALL.iter().map(|instructions| Some(instructions.name())).chain([None, Some("")]) {
            check(known).unwrap();
        }
        let text = check(Some("fast")).unwrap_err().to_string();
        assert_eq!(text, "TORCH_RMPI_SIMD is \"fast\", but it takes baseline or avx2 or avx512");
    }
}
