//! The settings by themselves: their names, what they take, and how their values are written.

use std::fmt::Write;

use crate::error::{Error, Result};

/// Every slot holds whole elements, and pieces in it begin at multiples of this.
pub const CHUNK_MULTIPLE: u64 = 64;
const CHUNK_LEAST: u64 = 4 << 10;
const CHUNK_MOST: u64 = 64 << 20;
pub const BYTES_MOST: u64 = 1 << 30;
/// Some ten milliseconds, in which a thread that tries a collective by itself notices nothing else.
const SPINS_MOST: u64 = 1_000_000;

/// Something that can be chosen for a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// Bytes that a rank shows the others of its node at a time.
    ChunkBytes,
    /// Up to so many bytes of inputs and outputs, a collective that is waited for, or a message of one piece, is tried on
    /// the caller's thread.
    InlineBytes,
    /// Up to so many bytes, every rank of a node does the whole of a reduction.
    DivideBytes,
    /// From so many bytes on, an operation within a node that only moves data writes past the caches; at the largest
    /// value nothing ever goes past them.
    StreamBytes,
    /// Up to so many bytes, only the leaders of nodes exchange the data of a group that spans nodes.
    LeaderBytes,
    /// Over MPI: up to so many bytes of all ranks together, a reduction gathers them unreduced.
    GatherBytes,
    /// Over MPI: below so many bytes, a broadcast is a tree.
    TreeBytes,
    /// How often a thread that waits looks before it lets others run.
    Spins,
    /// Whether the ranks of a node share memory.
    Shm,
    /// When ranks of a node copy straight from each other's memory.
    SingleCopy,
}

/// What a setting takes.
enum Takes {
    Bytes {
        least: u64,
        most: u64,
        multiple: u64,
    },
    Count {
        most: u64,
    },
    /// The value is the place in the list.
    OneOf(&'static [&'static str]),
}

impl Setting {
    /// All of them, in the order of their numbers.
    pub const ALL: [Setting; 10] = [
        Setting::ChunkBytes,
        Setting::InlineBytes,
        Setting::DivideBytes,
        Setting::StreamBytes,
        Setting::LeaderBytes,
        Setting::GatherBytes,
        Setting::TreeBytes,
        Setting::Spins,
        Setting::Shm,
        Setting::SingleCopy,
    ];

    /// The name, as options have it.
    pub const fn name(self) -> &'static str {
        match self {
            Setting::ChunkBytes => "chunk_bytes",
            Setting::InlineBytes => "inline_bytes",
            Setting::DivideBytes => "divide_bytes",
            Setting::StreamBytes => "stream_bytes",
            Setting::LeaderBytes => "leader_bytes",
            Setting::GatherBytes => "gather_bytes",
            Setting::TreeBytes => "tree_bytes",
            Setting::Spins => "spins",
            Setting::Shm => "shm",
            Setting::SingleCopy => "single_copy",
        }
    }

    /// The setting of that name.
    pub fn of_name(name: &str) -> Result<Setting> {
        Setting::ALL.into_iter().find(|setting| setting.name() == name).ok_or_else(|| {
            let names: Vec<_> = Setting::ALL.iter().map(|setting| setting.name()).collect();
            Error::Argument(format!("there is no option {name:?}; there are {}", names.join(", ")))
        })
    }

    /// The environment variable.
    pub fn variable(self) -> String {
        format!("TORCH_RMPI_{}", self.name().to_ascii_uppercase())
    }

    /// Whether it has to be the same on all ranks of a group: it decides who waits for whom, and where data lies.
    pub const fn is_shared(self) -> bool {
        !matches!(self, Setting::InlineBytes | Setting::StreamBytes | Setting::Spins)
    }

    const fn takes(self) -> Takes {
        match self {
            Setting::ChunkBytes => Takes::Bytes { least: CHUNK_LEAST, most: CHUNK_MOST, multiple: CHUNK_MULTIPLE },
            Setting::InlineBytes
            | Setting::DivideBytes
            | Setting::StreamBytes
            | Setting::LeaderBytes
            | Setting::GatherBytes
            | Setting::TreeBytes => Takes::Bytes { least: 0, most: BYTES_MOST, multiple: 1 },
            Setting::Spins => Takes::Count { most: SPINS_MOST },
            Setting::Shm => Takes::OneOf(&["0", "1"]),
            Setting::SingleCopy => Takes::OneOf(&["auto", "always", "never"]),
        }
    }

    /// The value that `text` stands for; `None` if it is none.
    pub fn parse(self, text: &str) -> Option<u64> {
        let text = text.trim();
        match self.takes() {
            Takes::Bytes { least, most, multiple } => {
                bytes(text).filter(|value| (least..=most).contains(value) && value.is_multiple_of(multiple))
            }
            Takes::Count { most } => number(text).filter(|&value| value <= most),
            Takes::OneOf(names) => Some(names.iter().position(|&name| name == text)? as u64),
        }
    }

    /// What it takes, in words.
    pub fn allowed(self) -> String {
        match self.takes() {
            Takes::Bytes { least, most, multiple } => {
                let mut text = format!(
                    "a number of bytes from {} to {}, where K stands for 1024 and M for 1024 K",
                    shown(least),
                    shown(most)
                );
                if multiple > 1 {
                    let _ = write!(text, ", and a multiple of {multiple}");
                }
                text
            }
            Takes::Count { most } => format!("a whole number from 0 to {most}"),
            Takes::OneOf(names) => names.join(" or "),
        }
    }

    /// A value as [`Setting::parse`] reads it.
    pub fn show(self, value: u64) -> String {
        match self.takes() {
            Takes::Bytes { .. } => shown(value),
            Takes::Count { .. } => value.to_string(),
            Takes::OneOf(names) => names.get(value as usize).map_or_else(|| value.to_string(), |&name| name.to_owned()),
        }
    }
}

/// Digits alone: the standard library's parser would take a sign, too.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn bytes(text: &str) -> Option<u64> {
    let (digits, unit) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 1 << 10),
        b'm' | b'M' => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    number(digits)?.checked_mul(unit)
}

fn shown(bytes: u64) -> String {
    match bytes {
        0 => "0".to_owned(),
        _ if bytes.is_multiple_of(1 << 20) => format!("{}M", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{}K", bytes >> 10),
        _ => bytes.to_string(),
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_bytes_have_units() {
        let parse = |text| Setting::InlineBytes.parse(text);
        assert_eq!(["0", "17", "4k", "4K", "3M", " 8 "].map(parse), [0, 17, 4096, 4096, 3 << 20, 8].map(Some));
        for text in ["", " ", "K", "-1", "+1", "1.5K", "4KB", "0x10", "1 K", "1e3", "99999999999999999999", "2000000M"]
        {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn chunks_hold_whole_elements_and_have_bounds() {
        let parse = |text| Setting::ChunkBytes.parse(text);
        assert_eq!(["4K", "4160", "64M"].map(parse), [4096, 4160, 64 << 20].map(Some));
        assert_eq!(["4032", "4100", "65M", "0"].map(parse), [None; 4]);
    }

    #[test]
    fn choices_are_taken_by_their_names_alone() {
        assert_eq!(["auto", "always", "never"].map(|text| Setting::SingleCopy.parse(text)), [0, 1, 2].map(Some));
        assert_eq!(["Auto", "", "yes"].map(|text| Setting::SingleCopy.parse(text)), [None; 3]);
        assert_eq!(["0", "1", "2"].map(|text| Setting::Shm.parse(text)), [Some(0), Some(1), None]);
        assert_eq!(["0", "1000", "-1", "1K"].map(|text| Setting::Spins.parse(text)), [Some(0), Some(1000), None, None]);
    }

    #[test]
    fn what_is_shown_is_read_again() {
        for (index, setting) in Setting::ALL.into_iter().enumerate() {
            assert_eq!(setting as usize, index);
            assert_eq!(Setting::of_name(setting.name()).unwrap(), setting);
            for value in [0, 1, 4096, 4160, 1 << 20] {
                let text = setting.show(value);
                assert!(setting.parse(&text).is_none_or(|read| read == value), "{text}");
            }
        }
        assert_eq!(Setting::ChunkBytes.variable(), "TORCH_RMPI_CHUNK_BYTES");
        assert!(Setting::of_name("chunk").unwrap_err().to_string().contains("tree_bytes"));
    }
}
