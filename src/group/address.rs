//! Where a process is: what the members of a group tell each other before they can talk over MPI.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::mpi::{Environment, library_version};

/// Text that tells addresses of this library, and of this layout, from anything else.
const MAGIC: &str = "rmpi-address-2";

/// A process of an MPI job. Travels as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Rank in MPI_COMM_WORLD.
    pub world_rank: usize,
    /// Size of MPI_COMM_WORLD.
    pub world_size: usize,
    /// What the launcher calls the job; empty if it does not say.
    pub job: String,
    /// The kernel's boot id: equal for processes of one machine.
    pub boot_id: String,
    /// Process id.
    pub pid: u32,
    /// What the process calls the group that it is about to create: members of merged groups may differ.
    pub group: String,
    /// Name and version of the MPI library.
    pub library: String,
}

impl Address {
    /// This process's address, for a group of this name. Starts MPI if nobody has.
    pub fn local(group: &str) -> Result<Address> {
        let environment = Environment::start()?;
        let job = ["PMIX_NAMESPACE", "PMI_JOBID", "PALS_APID", "SLURM_JOB_ID"];
        Ok(Address {
            world_rank: environment.world_rank(),
            world_size: environment.world_size(),
            job: job.iter().find_map(|name| std::env::var(name).ok()).unwrap_or_default(),
            boot_id: boot_id(),
            pid: std::process::id(),
            group: group.replace('\n', " "),
            library: library_version(),
        })
    }
}

/// The kernel's boot id; empty if there is none.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Address { world_rank, world_size, job, boot_id, pid, group, library } = self;
        write!(f, "{MAGIC}\n{world_rank}\n{world_size}\n{job}\n{boot_id}\n{pid}\n{group}\n{library}")
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Address> {
        let bad = || {
            Error::Argument(format!(
                "{text:?} is not the address of a process; is every rank of the same torch-rmpi version?"
            ))
        };
        let fields: Vec<_> = text.splitn(8, '\n').collect();
        let [MAGIC, world_rank, world_size, job, boot_id, pid, group, library] = fields[..] else { return Err(bad()) };
        Ok(Address {
            world_rank: world_rank.parse().map_err(|_| bad())?,
            world_size: world_size.parse().map_err(|_| bad())?,
            job: job.to_owned(),
            boot_id: boot_id.to_owned(),
            pid: pid.parse().map_err(|_| bad())?,
            group: group.to_owned(),
            library: library.to_owned(),
        })
    }
}

/// Checks that the members are different processes of one MPI job; returns their ranks in MPI_COMM_WORLD.
pub(super) fn check(addresses: &[Address], rank: usize, environment: &Environment) -> Result<Vec<usize>> {
    let Some(own) = addresses.get(rank) else {
        return Err(Error::Argument(format!("rank {rank} is out of range for a group of {} ranks", addresses.len())));
    };
    if own.world_rank != environment.world_rank() || own.pid != std::process::id() {
        return Err(Error::Argument(format!(
            "the address of rank {rank} is of another process ({}), so two processes claim rank {rank}",
            own.pid
        )));
    }
    let mut seen = HashMap::new();
    for (index, address) in addresses.iter().enumerate() {
        if address.library != own.library {
            return Err(Error::Argument(format!(
                "ranks {rank} and {index} use different MPI libraries ({}; {})",
                own.library, address.library
            )));
        }
        let other = seen.insert(address.world_rank, index);
        if other.is_some() || address.job != own.job || address.world_size != own.world_size {
            let other = other.unwrap_or(rank);
            return Err(Error::Unavailable(format!(
                "ranks {other} and {index} are not processes of one MPI job (MPI_COMM_WORLD has {} process{} for rank \
                 {index}): they were not started together by the launcher of {}. Start them with `python -m \
                 torch_rmpi.run -n {} script.py`, or with that MPI's own mpirun",
                address.world_size,
                if address.world_size == 1 { "" } else { "es" },
                own.library,
                addresses.len()
            )));
        }
    }
    Ok(addresses.iter().map(|address| address.world_rank).collect())
}

/// A tag for creating communicators, of which those created at the same time must differ (FNV-1a, folded).
pub(super) fn creation_tag(name: &str) -> i32 {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    ((hash ^ (hash >> 32)) % crate::mpi::PORTABLE_TAG_MAX as u64) as i32
}
