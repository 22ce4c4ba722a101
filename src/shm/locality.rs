//! Which cores this process runs on, and what they share: a last-level cache, or the memory of a NUMA node.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use rustix::thread::{CpuSet, sched_getaffinity};

/// The variable that says in which domain a rank is, whatever its cores share.
pub const DOMAIN_VARIABLE: &str = "TORCH_RMPI_DOMAIN";

/// Where Linux describes cores, caches and NUMA nodes (Documentation/ABI/stable/sysfs-devices-system-cpu and -node).
const SYSTEM: &str = "/sys/devices/system";
/// Caches of this level, as the kernel counts, are shared by the cores of a domain.
const LEVEL: &str = "3";

/// What a process's cores share, in numbers that are the same for processes of one machine that share the same. 0: they
/// share none, or it is not known. Travels as [`Locality::LEN`] bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Locality {
    /// A level 3 cache.
    pub cache: u64,
    /// A NUMA node.
    pub memory: u64,
    /// What the user calls their domain.
    pub named: u64,
}

impl Locality {
    /// Bytes of a locality.
    pub const LEN: usize = 24;

    /// That of the calling thread, as it is bound now.
    pub fn current() -> Locality {
        let named = std::env::var_os(DOMAIN_VARIABLE).filter(|name| !name.is_empty());
        let system = Path::new(SYSTEM);
        let cores = online(system, own_cores());
        Locality {
            cache: cache(system, &cores).as_ref().map_or(0, number),
            memory: memory(system, &cores).as_ref().map_or(0, number),
            named: named.as_ref().map_or(0, number),
        }
    }

    /// The locality as bytes.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        for (word, bytes) in [self.cache, self.memory, self.named].iter().zip(bytes.chunks_exact_mut(8)) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// The locality that [`Locality::to_bytes`] has made.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Locality {
        let mut words = [0; 3];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            let mut own = [0; 8];
            own.copy_from_slice(bytes);
            *word = u64::from_ne_bytes(own);
        }
        let [cache, memory, named] = words;
        Locality { cache, memory, named }
    }
}

/// A name as a number that is not 0.
fn number(name: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish() | 1
}

/// The cores that the calling thread may run on; none if the system does not say.
fn own_cores() -> BTreeSet<usize> {
    match sched_getaffinity(None) {
        Ok(set) => (0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect(),
        Err(error) => {
            log::debug!("sched_getaffinity: {error}");
            BTreeSet::new()
        }
    }
}

/// Those of `cores` that are in use: the others have no caches.
fn online(system: &Path, mut cores: BTreeSet<usize>) -> BTreeSet<usize> {
    if let Some(online) = CoreList::read(&system.join("cpu/online")) {
        cores.retain(|&core| online.contains(core));
    }
    cores
}

/// The name of the level 3 cache that all of `cores` share.
fn cache(system: &Path, cores: &BTreeSet<usize>) -> Option<String> {
    let caches = system.join(format!("cpu/cpu{}/cache", cores.first()?));
    let has_level = |cache: &PathBuf| text(&cache.join("level")).is_some_and(|level| level == LEVEL);
    let cache = entries(&caches).map(|(_, cache)| cache).find(has_level)?.join("shared_cpu_list");
    CoreList::read(&cache)?.contains_all(cores).then(|| text(&cache))?
}

/// The name of the NUMA node that all of `cores` belong to.
fn memory(system: &Path, cores: &BTreeSet<usize>) -> Option<String> {
    let holds = |node: &Path| CoreList::read(&node.join("cpulist")).is_some_and(|list| list.contains_all(cores));
    let is_node = |name: &str| name.strip_prefix("node").is_some_and(|index| index.parse::<usize>().is_ok());
    entries(&system.join("node")).find(|(name, node)| is_node(name) && holds(node)).map(|(name, _)| name)
}

/// Names and paths in a folder; none if it is not there.
fn entries(folder: &Path) -> impl Iterator<Item = (String, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
}

fn text(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// Cores as the kernel lists them: `0-3,8,10-11`.
struct CoreList(Vec<RangeInclusive<usize>>);

impl CoreList {
    fn read(path: &Path) -> Option<CoreList> {
        CoreList::parse(&text(path)?)
    }

    fn parse(text: &str) -> Option<CoreList> {
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.parse().ok()?..=last.parse().ok()?)
        };
        text.split(',').filter(|part| !part.is_empty()).map(range).collect::<Option<_>>().map(CoreList)
    }

    fn contains(&self, core: usize) -> bool {
        self.0.iter().any(|range| range.contains(&core))
    }

    /// Whether there are any, and all are in the list.
    fn contains_all(&self, cores: &BTreeSet<usize>) -> bool {
        !cores.is_empty() && cores.iter().all(|&core| self.contains(core))
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// A machine in a folder.
    struct Machine(TempDir);

    impl Machine {
        fn new() -> Self {
            Machine(tempfile::tempdir().unwrap())
        }

        fn write(self, path: &str, text: &str) -> Self {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{text}\n")).unwrap();
            self
        }

        /// Cores with caches of their own, and a level 3 cache that they share.
        fn cores(mut self, cores: &[usize], shared: Option<&str>) -> Self {
            for core in cores {
                let own = format!("cpu/cpu{core}/cache/index0");
                self = self.write(&format!("{own}/level"), "1");
                self = self.write(&format!("{own}/shared_cpu_list"), &core.to_string());
                if let Some(shared) = shared {
                    let cache = format!("cpu/cpu{core}/cache/index3");
                    self =
                        self.write(&format!("{cache}/level"), "3").write(&format!("{cache}/shared_cpu_list"), shared);
                }
            }
            self
        }

        fn online(&self, cores: &[usize]) -> BTreeSet<usize> {
            online(self.0.path(), cores.iter().copied().collect())
        }

        fn cache(&self, cores: &[usize]) -> Option<String> {
            cache(self.0.path(), &self.online(cores))
        }

        fn memory(&self, cores: &[usize]) -> Option<String> {
            memory(self.0.path(), &self.online(cores))
        }
    }

    /// Two caches of four cores, each with two threads, on two NUMA nodes.
    fn hyperthreads() -> Machine {
        Machine::new()
            .cores(&[0, 1, 2, 3, 8, 9, 10, 11], Some("0-3,8-11"))
            .cores(&[4, 5, 6, 7, 12, 13, 14, 15], Some("4-7,12-15"))
            .write("node/node0/cpulist", "0-3,8-11")
            .write("node/node1/cpulist", "4-7,12-15")
            .write("node/possible", "0-1")
    }

    #[test]
    fn threads_of_a_core_share_its_cache() {
        let machine = hyperthreads();
        assert_eq!(machine.cache(&[0, 8]).as_deref(), Some("0-3,8-11"));
        assert_eq!(machine.cache(&[0, 8]), machine.cache(&[3, 10, 11]));
        assert_eq!(machine.cache(&[12]).as_deref(), Some("4-7,12-15"));
        assert_eq!(machine.memory(&[0, 8]).as_deref(), Some("node0"));
        assert_eq!(machine.memory(&[15, 4]).as_deref(), Some("node1"));
    }

    #[test]
    fn who_is_not_bound_inside_one_has_none() {
        let machine = hyperthreads();
        assert_eq!((machine.cache(&[3, 4]), machine.memory(&[3, 4])), (None, None));
        assert_eq!((machine.cache(&[]), machine.memory(&[])), (None, None));
        // Several caches of one NUMA node.
        let machine = Machine::new().cores(&[0, 1], Some("0-1")).cores(&[2, 3], Some("2-3"));
        let machine = machine.write("node/node0/cpulist", "0-3");
        assert_eq!((machine.cache(&[1, 2]), machine.memory(&[1, 2]).as_deref()), (None, Some("node0")));
    }

    #[test]
    fn offline_cores_do_not_count() {
        // Core 2 is offline: it has no caches, and is in no list.
        let machine = Machine::new().cores(&[0, 1, 3], Some("0-1,3")).cores(&[4], Some("4"));
        let machine = machine.write("cpu/online", "0-1,3-4").write("node/node0/cpulist", "0-1,3-4");
        assert_eq!(machine.cache(&[2, 3]), machine.cache(&[0, 1]));
        assert!(machine.cache(&[2, 3]).is_some());
        assert_eq!(machine.memory(&[2, 3]).as_deref(), Some("node0"));
        assert_eq!((machine.cache(&[2]), machine.memory(&[2])), (None, None));
    }

    #[test]
    fn cores_without_such_a_cache_have_their_memory() {
        let machine = Machine::new().cores(&[0, 1], None).cores(&[2, 3], None);
        let machine = machine.write("node/node0/cpulist", "0-1").write("node/node1/cpulist", "2-3");
        // A node of memory alone.
        let machine = machine.write("node/node2/cpulist", "");
        assert_eq!((machine.cache(&[0, 1]), machine.memory(&[2]).as_deref()), (None, Some("node1")));
    }

    #[test]
    fn the_level_counts_and_not_the_place() {
        let machine = Machine::new().cores(&[0, 1], None);
        let machine = machine.write("cpu/cpu0/cache/index2/level", "3");
        let machine = machine.write("cpu/cpu0/cache/index2/shared_cpu_list", "0-1");
        assert_eq!(machine.cache(&[0, 1]).as_deref(), Some("0-1"));
    }

    #[test]
    fn nothing_is_known_where_nothing_can_be_read() {
        let machine = Machine::new();
        assert_eq!((machine.cache(&[0]), machine.memory(&[0])), (None, None));
        let machine = machine.cores(&[0], Some("zero")).write("node/node0/cpulist", "0-").write("cpu/online", "?");
        assert_eq!((machine.cache(&[0]), machine.memory(&[0])), (None, None));
    }

    #[test]
    fn a_locality_survives_the_journey() {
        let locality = Locality { cache: 1 << 60, memory: 2, named: 3 };
        assert_eq!(Locality::from_bytes(&locality.to_bytes()), locality);
        assert_eq!(Locality::current(), Locality::current());
    }
}
