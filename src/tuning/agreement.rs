//! Whether the ranks of a group have been told the same.

use std::fmt::Write;

use super::{Setting, Wishes, default};
use crate::error::{Error, Result};

/// Nothing was chosen; no setting has such a value.
const NOTHING: u64 = u64::MAX;

/// What a rank has been told about settings that all ranks must share. Travels as [`Terms::LEN`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms([u64; Setting::ALL.len()]);

impl Terms {
    /// Bytes of terms.
    pub const LEN: usize = 8 * Setting::ALL.len();

    /// Those of a rank with these wishes.
    pub fn new(wishes: &Wishes) -> Terms {
        Terms(Setting::ALL.map(|setting| match setting.is_shared() {
            true => wishes.value(setting).unwrap_or(NOTHING),
            false => NOTHING,
        }))
    }

    /// The terms as bytes.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        for (word, bytes) in self.0.iter().zip(bytes.chunks_exact_mut(8)) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// The terms that [`Terms::to_bytes`] has made, on a machine of the same kind.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Terms {
        let mut terms = Terms([NOTHING; Setting::ALL.len()]);
        for (word, bytes) in terms.0.iter_mut().zip(bytes.chunks_exact(8)) {
            let mut array = [0; 8];
            array.copy_from_slice(bytes);
            *word = u64::from_ne_bytes(array);
        }
        terms
    }

    /// The value in force, and whether it is the default.
    fn value(&self, setting: Setting, ranks: usize) -> (u64, bool) {
        match self.0[setting as usize] {
            NOTHING => (default(setting, ranks, false), true),
            value => (value, false),
        }
    }
}

/// An error if the ranks of a group, `terms[r]` being those of rank r, differ in a setting that they must share. All ranks
/// see the same terms, and so find the same error. Up to `ranks` of them are on one node.
pub fn check_agreement(terms: &[Terms], ranks: usize) -> Result<()> {
    let mut text = String::new();
    for setting in Setting::ALL.into_iter().filter(|setting| setting.is_shared()) {
        // By value, in the order of the first rank that has it.
        let mut holders: Vec<((u64, bool), Vec<usize>)> = Vec::new();
        for (rank, terms) in terms.iter().enumerate() {
            let value = terms.value(setting, ranks);
            match holders.iter_mut().find(|(other, _)| *other == value) {
                Some((_, holders)) => holders.push(rank),
                None => holders.push((value, vec![rank])),
            }
        }
        let first = holders.first().map(|((value, _), _)| *value);
        if holders.iter().all(|((value, _), _)| Some(*value) == first) {
            continue;
        }
        let separator = if text.is_empty() { "" } else { "; " };
        let _ = write!(text, "{separator}{} ({}) is ", setting.name(), setting.variable());
        for (index, ((value, is_default), holders)) in holders.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            let note = if *is_default { " (the default)" } else { "" };
            let _ = write!(text, "{separator}{}{note} on {}", setting.show(*value), listed(holders));
        }
    }
    match text.is_empty() {
        true => Ok(()),
        false => Err(Error::Mismatch(format!("settings must be the same on every rank of a group: {text}"))),
    }
}

/// Ranks, in ascending order, in words.
fn listed(ranks: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &rank in ranks {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == rank => *last = rank,
            _ => runs.push((rank, rank)),
        }
    }
    let words: Vec<_> = runs
        .iter()
        .map(|&(first, last)| match last - first {
            0 => first.to_string(),
            1 => format!("{first}, {last}"),
            _ => format!("{first} to {last}"),
        })
        .collect();
    format!("{} {}", if ranks.len() == 1 { "rank" } else { "ranks" }, words.join(", "))
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::tuning::Overrides;

    fn terms(setting: Setting, text: &str) -> Terms {
        Terms::new(&Wishes::from_sources(&Overrides::default().with(setting, text).unwrap(), |_| None).unwrap())
    }

    fn silent() -> Terms {
        Terms::new(&Wishes::default())
    }

    #[test]
    fn terms_survive_the_journey() {
        for terms in [silent(), terms(Setting::ChunkBytes, "4K"), terms(Setting::SingleCopy, "never")] {
            assert_eq!(Terms::from_bytes(&terms.to_bytes()), terms);
        }
    }

    #[test]
    fn the_same_value_is_agreed_on_wherever_it_comes_from() {
        let chunk = || terms(Setting::ChunkBytes, "256K");
        check_agreement(&[chunk(), chunk(), silent()], 3).unwrap();
        // With so many ranks the default is another one.
        assert!(check_agreement(&[chunk(), silent()], 128).is_err());
        check_agreement(&[terms(Setting::Shm, "1"), silent()], 2).unwrap();
    }

    #[test]
    fn what_is_a_rank_s_own_may_differ() {
        check_agreement(&[terms(Setting::Spins, "5"), terms(Setting::InlineBytes, "0"), silent()], 3).unwrap();
    }

    #[test]
    fn a_difference_names_the_ranks_and_their_values() {
        let short = terms(Setting::ChunkBytes, "4K");
        let all = [short, silent(), silent(), silent(), short, terms(Setting::ChunkBytes, "8K")];
        assert_eq!(
            check_agreement(&all, 6).unwrap_err().to_string(),
            "settings must be the same on every rank of a group: chunk_bytes (TORCH_RMPI_CHUNK_BYTES) is 4K on ranks 0, 4, \
             256K (the default) on ranks 1 to 3, 8K on rank 5"
        );
        let text = check_agreement(&[terms(Setting::Shm, "0"), terms(Setting::SingleCopy, "never")], 2)
            .unwrap_err()
            .to_string();
        assert!(text.contains("is 0 on rank 0, 1 (the default) on rank 1; single_copy"), "{text}");
    }

    #[test]
    fn ranks_are_listed_briefly() {
        let listed = |ranks: &[usize]| listed(ranks);
        assert_eq!(
            [listed(&[3]), listed(&[0, 1]), listed(&[0, 1, 2, 5, 7, 8])],
            ["rank 3", "ranks 0, 1", "ranks 0 to 2, 5, 7, 8"]
        );
    }
}
