//! The ranks of a node by domain: those that share a cache or a NUMA node, to whom each other's memory is near.

use std::fmt;

use super::locality::Locality;

/// From so many ranks on it is worth it to work in two levels, if the user has not named domains.
const MANY: usize = 16;

/// Two domains at least, and ranks of the node in each. Domains are numbered by their first rank, and hold theirs in
/// order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domains {
    members: Vec<Vec<usize>>,
    /// By rank: its domain, and its place there.
    places: Vec<(usize, usize)>,
    /// All ranks, so that those that are at the same part of their domains are neighbours.
    order: Vec<usize>,
    /// By rank: where it is in `order`.
    positions: Vec<usize>,
}

impl Domains {
    /// The domains of ranks with these localities; none if it is not worth it, or if one of them is in no domain. Ranks
    /// that pass the same get the same.
    ///
    /// Ranks that share a cache are a domain, if all have one and some share theirs; otherwise those of a NUMA node.
    pub fn of(localities: &[Locality]) -> Option<Domains> {
        let by = |what: fn(&Locality) -> u64| Domains::by(&localities.iter().map(what).collect::<Vec<_>>());
        if localities.iter().any(|locality| locality.named != 0) {
            return by(|locality| locality.named).filter(|domains| domains.count() < localities.len());
        }
        if localities.len() < MANY {
            return None;
        }
        let is_shared = |domains: &Domains| 2 * domains.count() <= localities.len();
        by(|locality| locality.cache).filter(is_shared).or_else(|| by(|locality| locality.memory).filter(is_shared))
    }

    /// Ranks with the same name are in one domain; 0: in none.
    pub(crate) fn by(names: &[u64]) -> Option<Domains> {
        let mut known: Vec<u64> = Vec::new();
        let mut members: Vec<Vec<usize>> = Vec::new();
        let mut places = Vec::with_capacity(names.len());
        for (rank, &name) in names.iter().enumerate() {
            let domain = known.iter().position(|&other| other == name).unwrap_or_else(|| {
                known.push(name);
                members.push(Vec::new());
                known.len() - 1
            });
            places.push((domain, members[domain].len()));
            members[domain].push(rank);
        }
        if names.contains(&0) || known.len() < 2 {
            return None;
        }
        let mut order: Vec<_> = (0..names.len()).collect();
        // By (place + 1/2) / ranks of the domain.
        let part = |rank: usize| {
            let (domain, place): (usize, usize) = places[rank];
            (2 * place + 1, members[domain].len())
        };
        order.sort_by_key(|&rank| places[rank].0);
        order.sort_by(|&a, &b| {
            let ((a, of_a), (b, of_b)) = (part(a), part(b));
            (a * of_b).cmp(&(b * of_a))
        });
        let mut positions = vec![0; names.len()];
        for (position, &rank) in order.iter().enumerate() {
            positions[rank] = position;
        }
        Some(Domains { members, places, order, positions })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// The ranks of each.
    pub fn iter(&self) -> impl Iterator<Item = &[usize]> {
        self.members.iter().map(Vec::as_slice)
    }

    /// The ranks of the domain of `rank`, and its place among them.
    pub fn around(&self, rank: usize) -> (&[usize], usize) {
        let (domain, place) = self.places[rank];
        (&self.members[domain], place)
    }

    /// The fewest ranks that a domain has.
    pub fn smallest(&self) -> usize {
        self.members.iter().map(Vec::len).min().unwrap_or(1)
    }

    /// The rank at a position of an order of all ranks, in which those that are at the same part of their domains are
    /// neighbours.
    pub fn at(&self, position: usize) -> usize {
        self.order[position]
    }

    /// Where `rank` is in that order.
    pub fn position(&self, rank: usize) -> usize {
        self.positions[rank]
    }
}

impl fmt::Display for Domains {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} domains of", self.count())?;
        for (index, members) in self.members.iter().enumerate() {
            write!(formatter, "{} {}", if index == 0 { "" } else { "," }, members.len())?;
        }
        write!(formatter, " ranks")
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    fn localities(caches: &[u64], memories: &[u64]) -> Vec<Locality> {
        caches.iter().zip(memories).map(|(&cache, &memory)| Locality { cache, memory, named: 0 }).collect()
    }

    fn members(domains: &Domains) -> Vec<&[usize]> {
        domains.iter().collect()
    }

    #[test]
    fn ranks_of_unequal_domains_in_any_order() {
        let domains = Domains::by(&[7, 9, 7, 3, 9, 7]).unwrap();
        assert_eq!(members(&domains), [&[0, 2, 5][..], &[1, 4], &[3]]);
        assert_eq!((domains.around(4), domains.smallest()), ((&[1, 4][..], 1), 1));
        assert_eq!(domains.to_string(), "3 domains of 3, 2, 1 ranks");
        // 1/6, 1/4, 1/2, 1/2, 3/4, 5/6
        assert_eq!((0..6).map(|position| domains.at(position)).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
        assert!((0..6).all(|rank| domains.at(domains.position(rank)) == rank));
    }

    #[test]
    fn counterparts_of_equal_domains_are_neighbours() {
        let domains = Domains::by(&[5, 5, 5, 6, 6, 6]).unwrap();
        assert_eq!((0..6).map(|position| domains.at(position)).collect::<Vec<_>>(), [0, 3, 1, 4, 2, 5]);
    }

    #[test]
    fn sixteen_ranks_in_two_domains_are_enough() {
        let halves = |ranks: usize| (0..ranks).map(|rank| 1 + 2 * rank as u64 / ranks as u64).collect::<Vec<_>>();
        let of = |ranks| Domains::of(&localities(&halves(ranks), &vec![1; ranks]));
        assert_eq!((of(15), of(16).map(|domains| domains.count())), (None, Some(2)));
        assert_eq!(Domains::of(&localities(&[1; 16], &[1; 16])), None);
    }

    #[test]
    fn memory_counts_where_caches_are_not_shared() {
        let halves: Vec<_> = (0..16).map(|rank| 1 + rank / 8).collect();
        let own: Vec<_> = (1..=16).collect();
        let mut some: Vec<_> = (0..16).map(|rank| 1 + rank / 4).collect();
        assert_eq!(Domains::of(&localities(&some, &halves)).unwrap().count(), 4);
        assert_eq!(Domains::of(&localities(&own, &halves)), Domains::by(&halves));
        // One rank has no cache, or all share one.
        some[3] = 0;
        assert_eq!(Domains::of(&localities(&some, &halves)), Domains::by(&halves));
        assert_eq!(Domains::of(&localities(&[1; 16], &halves)), Domains::by(&halves));
        assert_eq!(Domains::of(&localities(&some, &some)), None);
    }

    #[test]
    fn names_count_more_than_anything_else() {
        let named = |names: &[u64]| {
            let name = |&named: &u64| Locality { cache: 1, memory: 1, named };
            Domains::of(&names.iter().map(name).collect::<Vec<_>>()).map(|domains| domains.count())
        };
        assert_eq!(named(&[1, 2, 2]), Some(2));
        assert_eq!((named(&[1, 1, 1]), named(&[1, 2, 3]), named(&[1, 1, 0])), (None, None, None));
    }
}
