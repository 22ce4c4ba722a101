//! What users may choose for a group: sizes at which algorithms change, waiting, and whether ranks share memory. Each
//! setting comes from the group's options, else from an environment variable, else it has a default, which may depend on
//! how many ranks there are.

mod agreement;
mod setting;

use std::ffi::OsString;
use std::fmt;

pub use agreement::{Terms, check_agreement};
pub use setting::Setting;
use setting::{BYTES_MOST, CHUNK_MULTIPLE};

use crate::error::{Error, Result};

const COUNT: usize = Setting::ALL.len();

/// A slot where there are few ranks: half of a core's second cache holds the two of a rank.
const LONGEST_CHUNK: u64 = 256 << 10;
/// All slots of a node, about: they stay in the last cache of a machine that has cores for so many ranks.
const ALL_SLOTS: u64 = 32 << 20;
const SHORTEST_CHUNK: u64 = 16 << 10;
const INLINE: u64 = 128 << 10;
const DIVIDE: u64 = 16 << 10;
/// About the share that a core has of the last cache, on machines of many cores.
const STREAM: u64 = 4 << 20;
const LEADER: u64 = 32 << 10;
const GATHER: u64 = 32 << 10;
const TREE: u64 = 128 << 10;
/// Some ten microseconds.
pub(crate) const SPINS: u32 = 1000;

/// When ranks of a node copy straight from each other's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SingleCopy {
    /// Where a trial is faster.
    Auto,
    /// Wherever it is possible.
    Always,
    /// Nowhere.
    Never,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nobody has chosen.
    Default,
    /// The environment variable.
    Variable,
    /// The group's options.
    Options,
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Source::Default => "default",
            Source::Variable => "variable",
            Source::Options => "options",
        })
    }
}

/// What the options of a group say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides([Option<u64>; COUNT]);

impl Overrides {
    /// Settings by name, with their values written as in the variables.
    pub fn new<'a>(given: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self> {
        let mut overrides = Overrides::default();
        for (name, text) in given {
            overrides.set(name, text)?;
        }
        Ok(overrides)
    }

    /// Chooses `text`, written as in the variable, for the setting of this name.
    pub fn set(&mut self, name: &str, text: &str) -> Result<()> {
        let setting = Setting::of_name(name)?;
        self.0[setting as usize] = Some(read(setting, &format!("the option {name}"), text)?);
        Ok(())
    }

    /// As [`Overrides::set`].
    pub fn with(mut self, setting: Setting, text: &str) -> Result<Self> {
        self.set(setting.name(), text)?;
        Ok(self)
    }
}

/// A value of `setting` that was given as `origin`.
fn read(setting: Setting, origin: &str, text: &str) -> Result<u64> {
    setting
        .parse(text)
        .ok_or_else(|| Error::Argument(format!("{origin} is {text:?}, but it takes {}", setting.allowed())))
}

/// What options and variables say, before it is known how many ranks there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wishes([Option<(u64, Source)>; COUNT]);

impl Wishes {
    /// The options, and what the environment says besides; an error if it says something that nobody understands.
    pub fn new(overrides: &Overrides) -> Result<Wishes> {
        Wishes::from_sources(overrides, |name| std::env::var_os(name))
    }

    fn from_sources(overrides: &Overrides, variable: impl Fn(&str) -> Option<OsString>) -> Result<Wishes> {
        let mut wishes = Wishes::default();
        for setting in Setting::ALL {
            let name = setting.variable();
            // A variable that is wrong is an error even where the options say something else: it is so for every group.
            let given = match variable(&name).filter(|text| !text.is_empty()) {
                Some(text) => Some((read(setting, &name, &text.to_string_lossy())?, Source::Variable)),
                None => None,
            };
            wishes.0[setting as usize] = overrides.0[setting as usize].map(|value| (value, Source::Options)).or(given);
        }
        Ok(wishes)
    }

    fn value(&self, setting: Setting) -> Option<u64> {
        self.0[setting as usize].map(|(value, _)| value)
    }

    /// How often to look, if it was said.
    pub fn spins(&self) -> Option<u32> {
        self.value(Setting::Spins).map(|value| value as u32)
    }

    /// Name, variable, value and source of each setting; what depends on the ranks of a group is said in words.
    pub fn settings(&self) -> impl Iterator<Item = (Setting, String, Source)> {
        Setting::ALL.into_iter().map(|setting| match self.0[setting as usize] {
            Some((value, source)) => (setting, setting.show(value), source),
            None if matches!(setting, Setting::ChunkBytes | Setting::Spins) => {
                (setting, "by the number of ranks".to_owned(), Source::Default)
            }
            None => (setting, setting.show(default(setting, 1, false)), Source::Default),
        })
    }

    /// What is in force for a group with up to `ranks` ranks on a node; `crowded`: the machine has fewer cores than ranks.
    pub fn resolve(&self, ranks: usize, crowded: bool) -> Tuning {
        Tuning(Setting::ALL.map(|setting| {
            self.0[setting as usize].unwrap_or_else(|| (default(setting, ranks, crowded), Source::Default))
        }))
    }
}

fn default(setting: Setting, ranks: usize, crowded: bool) -> u64 {
    match setting {
        Setting::ChunkBytes => {
            // Two slots for each.
            let share = ALL_SLOTS / (2 * ranks.max(1) as u64);
            let power = 1 << share.max(1).ilog2();
            power.clamp(SHORTEST_CHUNK, LONGEST_CHUNK)
        }
        Setting::InlineBytes => INLINE,
        Setting::DivideBytes => DIVIDE,
        Setting::StreamBytes => STREAM,
        Setting::LeaderBytes => LEADER,
        Setting::GatherBytes => GATHER,
        Setting::TreeBytes => TREE,
        Setting::Spins if crowded => 0,
        Setting::Spins => SPINS.into(),
        Setting::Shm => 1,
        Setting::SingleCopy => SingleCopy::Auto as u64,
    }
}

/// The settings of a group that are in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning([(u64, Source); COUNT]);

impl Default for Tuning {
    /// Of a few ranks, with nothing chosen.
    fn default() -> Self {
        Wishes::default().resolve(1, false)
    }
}

impl Tuning {
    fn value(&self, setting: Setting) -> u64 {
        self.0[setting as usize].0
    }

    fn bytes(&self, setting: Setting) -> usize {
        self.value(setting) as usize
    }

    /// See [`Setting::ChunkBytes`].
    pub fn chunk(&self) -> usize {
        self.bytes(Setting::ChunkBytes)
    }

    /// See [`Setting::InlineBytes`].
    pub fn inline(&self) -> usize {
        self.bytes(Setting::InlineBytes)
    }

    /// See [`Setting::DivideBytes`].
    pub fn divide(&self) -> usize {
        self.bytes(Setting::DivideBytes)
    }

    /// See [`Setting::StreamBytes`].
    pub fn stream(&self) -> Option<usize> {
        Some(self.bytes(Setting::StreamBytes)).filter(|&bytes| bytes < BYTES_MOST as usize)
    }

    /// The sizes that decide about algorithms over MPI.
    pub fn thresholds(&self) -> Thresholds {
        Thresholds {
            leader: self.bytes(Setting::LeaderBytes),
            gather: self.bytes(Setting::GatherBytes),
            tree: self.bytes(Setting::TreeBytes),
        }
    }

    /// See [`Setting::Spins`].
    pub fn spins(&self) -> u32 {
        self.value(Setting::Spins) as u32
    }

    /// See [`Setting::Shm`].
    pub fn shares_memory(&self) -> bool {
        self.value(Setting::Shm) == 1
    }

    /// See [`Setting::SingleCopy`].
    pub fn single_copy(&self) -> SingleCopy {
        let all = [SingleCopy::Auto, SingleCopy::Always, SingleCopy::Never];
        all.into_iter().find(|&when| when as u64 == self.value(Setting::SingleCopy)).unwrap_or(SingleCopy::Auto)
    }

    /// An error if slots are too short for so many ranks on a node: each block that a rank shows takes a part of it.
    pub fn check_chunk(&self, ranks: usize) -> Result<()> {
        let least = CHUNK_MULTIPLE as usize * ranks;
        if self.chunk() >= least {
            return Ok(());
        }
        let setting = Setting::ChunkBytes;
        Err(Error::Argument(format!(
            "{} ({}) is {}, but {ranks} ranks on a node need {least} at least",
            setting.name(),
            setting.variable(),
            setting.show(self.value(setting))
        )))
    }

    /// Each setting, its value, and where that comes from.
    pub fn settings(&self) -> impl Iterator<Item = (Setting, String, Source)> {
        let values = self.0;
        Setting::ALL.into_iter().map(move |setting| {
            let (value, source) = values[setting as usize];
            (setting, setting.show(value), source)
        })
    }
}

impl fmt::Display for Tuning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (setting, value, source)) in self.settings().enumerate() {
            let separator = if index == 0 { "" } else { " " };
            write!(formatter, "{separator}{}={value}", setting.name())?;
            if source != Source::Default {
                write!(formatter, " ({source})")?;
            }
        }
        Ok(())
    }
}

/// Name, variable, value and source of each setting, for other languages.
pub fn in_words(settings: impl Iterator<Item = (Setting, String, Source)>) -> impl Iterator<Item = [String; 4]> {
    settings.map(|(setting, value, source)| [setting.name().to_owned(), setting.variable(), value, source.to_string()])
}

/// Sizes, in bytes, at which algorithms over MPI change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// See [`Setting::LeaderBytes`].
    pub leader: usize,
    /// See [`Setting::GatherBytes`].
    pub gather: usize,
    /// See [`Setting::TreeBytes`].
    pub tree: usize,
}

impl Default for Thresholds {
    fn default() -> Self {
        Tuning::default().thresholds()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    fn wishes(variables: &[(&str, &str)], overrides: Overrides) -> Result<Wishes> {
        let find = |name: &str| variables.iter().find(|(other, _)| *other == name).map(|(_, text)| text.into());
        Wishes::from_sources(&overrides, find)
    }

    #[test]
    fn slots_shrink_where_many_ranks_share_a_node() {
        let chunk = |ranks| Wishes::default().resolve(ranks, false).chunk();
        assert_eq!(
            [1, 2, 16, 64, 65, 128, 256].map(chunk),
            [256 << 10, 256 << 10, 256 << 10, 256 << 10, 128 << 10, 128 << 10, 64 << 10]
        );
        for ranks in 1..=256 {
            let tuning = Wishes::default().resolve(ranks, false);
            tuning.check_chunk(ranks).unwrap();
            assert!(Setting::ChunkBytes.parse(&tuning.chunk().to_string()).is_some());
            assert!(2 * ranks * tuning.chunk() <= ALL_SLOTS as usize);
        }
    }

    #[test]
    fn nobody_spins_where_there_are_more_ranks_than_cores_unless_told_to() {
        for ranks in [2, 16, 128, 256] {
            assert_eq!(Wishes::default().resolve(ranks, false).spins(), 1000);
            assert_eq!(Wishes::default().resolve(ranks, true).spins(), 0);
        }
        let told = wishes(&[("TORCH_RMPI_SPINS", "7")], Overrides::default()).unwrap();
        assert_eq!((told.spins(), told.resolve(2, true).spins()), (Some(7), 7));
    }

    #[test]
    fn other_defaults_do_not_depend_on_ranks() {
        for (ranks, crowded) in [(2, false), (16, true), (128, false), (256, true)] {
            let tuning = Wishes::default().resolve(ranks, crowded);
            assert_eq!((tuning.inline(), tuning.divide()), (128 << 10, 16 << 10));
            assert_eq!(tuning.stream(), Some(4 << 20));
            assert_eq!(tuning.thresholds(), Thresholds { leader: 32 << 10, gather: 32 << 10, tree: 128 << 10 });
            assert!(tuning.shares_memory() && tuning.single_copy() == SingleCopy::Auto);
        }
    }

    #[test]
    fn options_come_before_variables_and_these_before_defaults() {
        let variables = [("TORCH_RMPI_CHUNK_BYTES", "8K"), ("TORCH_RMPI_SHM", "0"), ("TORCH_RMPI_TREE_BYTES", "")];
        let overrides = Overrides::default().with(Setting::ChunkBytes, "4160").unwrap();
        let tuning = wishes(&variables, overrides).unwrap().resolve(2, false);
        assert_eq!((tuning.chunk(), tuning.shares_memory(), tuning.thresholds().tree), (4160, false, 128 << 10));
        assert_eq!(
            tuning.to_string(),
            "chunk_bytes=4160 (options) inline_bytes=128K divide_bytes=16K stream_bytes=4M leader_bytes=32K gather_bytes=32K \
             tree_bytes=128K spins=1000 shm=0 (variable) single_copy=auto"
        );
    }

    #[test]
    fn what_is_not_understood_is_an_error_that_says_what_is() {
        let error = |result: Result<_>| -> String { result.map(|_: Wishes| ()).unwrap_err().to_string() };
        assert_eq!(
            error(wishes(&[("TORCH_RMPI_CHUNK_BYTES", "big")], Overrides::default())),
            "TORCH_RMPI_CHUNK_BYTES is \"big\", but it takes a number of bytes from 4K to 64M, where K stands for 1024 \
             and M for 1024 K, and a multiple of 64"
        );
        assert_eq!(
            error(wishes(&[("TORCH_RMPI_SINGLE_COPY", "yes")], Overrides::default())),
            "TORCH_RMPI_SINGLE_COPY is \"yes\", but it takes auto or always or never"
        );
        // Even where the options override it.
        let overrides = Overrides::default().with(Setting::Spins, "1").unwrap();
        assert!(error(wishes(&[("TORCH_RMPI_SPINS", "-1")], overrides)).contains("from 0 to"));
        let text = Overrides::default().with(Setting::Shm, "2").unwrap_err().to_string();
        assert_eq!(text, "the option shm is \"2\", but it takes 0 or 1");
    }

    #[test]
    fn many_ranks_need_longer_slots() {
        let tuning = wishes(&[("TORCH_RMPI_CHUNK_BYTES", "4K")], Overrides::default()).unwrap().resolve(64, false);
        tuning.check_chunk(64).unwrap();
        let text = tuning.check_chunk(65).unwrap_err().to_string();
        assert_eq!(text, "chunk_bytes (TORCH_RMPI_CHUNK_BYTES) is 4K, but 65 ranks on a node need 4160 at least");
    }
}
