//! Runs this program under the MPI's mpirun.

use std::env;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::endings::ENDINGS;

/// Set in the environment of the ranks, to their number.
pub const RANK_MARK: &str = "RMPI_RUST_TEST_RANK";

/// Set in the environment of the ranks to the nodes that they shall think they are on, a letter for each rank.
const NODES_MARK: &str = "RMPI_RUST_TEST_NODES";

/// One run of all tests takes seconds; more means that a rank hangs.
const TIME_LIMIT: Duration = Duration::from_secs(120);

/// The same for the domains.
const DOMAINS_MARK: &str = "RMPI_RUST_TEST_DOMAINS";

/// Set in the environment of the ranks to how they shall end, if that is what is tested.
pub const ENDING_MARK: &str = "RMPI_RUST_TEST_ENDING";

/// What is run: a letter for each rank, the same for ranks of one node; and as many for domains, if they are to be named.
const LAYOUTS: [(&str, &str); 14] = [
    ("a", ""),
    ("aa", ""),
    ("aaa", ""),
    ("aaaa", ""),
    ("ab", ""),
    ("abc", ""),
    ("abcd", ""),
    ("aab", ""),
    ("aabb", ""),
    ("aaab", ""),
    ("abcc", ""),
    ("aaa", "xyx"),
    ("aaaa", "xxyy"),
    ("aaaa", "xyzy"),
];

pub fn all() -> ExitCode {
    let layouts = LAYOUTS.iter().map(|(nodes, domains)| {
        let of_domains = if domains.is_empty() { String::new() } else { format!(", domains {domains}") };
        print!("multirank with {} ranks on nodes {nodes}{of_domains} ... ", nodes.len());
        told(run(nodes, domains, None, TIME_LIMIT), true)
    });
    let endings = ENDINGS.iter().map(|ending| {
        print!("a process that ends {} ... ", ending.name);
        told(run(ending.nodes, "", Some(ending.name), ending.limit), ending.well)
    });
    let passed: Vec<bool> = layouts.chain(endings).collect();
    let failed = passed.iter().filter(|passed| !**passed).count();
    println!(
        "\ntest result: {}. {} passed; {failed} failed",
        if failed == 0 { "ok" } else { "FAILED" },
        passed.len() - failed
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints what came of a run, and returns whether it is what it should be.
fn told(ended: io::Result<ExitStatus>, well: bool) -> bool {
    let passed = ended.as_ref().is_ok_and(|status| status.success() == well);
    match ended {
        Ok(_) if passed => println!("ok"),
        Ok(status) => println!("FAILED ({status})"),
        Err(error) => println!("FAILED: {error}"),
    }
    passed
}

/// The mpirun beside the mpicc that the crate was built with.
fn mpirun() -> PathBuf {
    let beside = env::var_os("MPICC").and_then(|mpicc| Some(Path::new(&mpicc).parent()?.join("mpirun")));
    beside.filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from("mpirun"))
}

/// The node that this rank shall think it is on, if it matters.
pub fn node_of_this_rank() -> Option<String> {
    letter_of_this_rank(NODES_MARK)
}

/// The domain that it shall think it is in, if it matters.
pub fn domain_of_this_rank() -> Option<String> {
    letter_of_this_rank(DOMAINS_MARK)
}

fn letter_of_this_rank(mark: &str) -> Option<String> {
    let letters = env::var(mark).ok()?;
    let variables = ["OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"];
    let rank = variables.iter().find_map(|name| env::var(name).ok()).unwrap();
    letters.chars().nth(rank.parse().ok()?).map(String::from)
}

fn run(nodes: &str, domains: &str, ending: Option<&str>, limit: Duration) -> io::Result<ExitStatus> {
    let mut command = Command::new(mpirun());
    if rmpi::mpi::library_version().starts_with("Open MPI") {
        command.arg("--oversubscribe").args(["--bind-to", "none"]);
        command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    }
    command
        .args(["-n", &nodes.len().to_string()])
        .arg(env::current_exe()?)
        .env(RANK_MARK, nodes.len().to_string())
        .env(NODES_MARK, nodes)
        .env(DOMAINS_MARK, domains)
        .stdin(Stdio::null());
    if let Some(ending) = ending {
        // What is printed there is what is expected.
        command.env(ENDING_MARK, ending).stdout(Stdio::null()).stderr(Stdio::null());
    }
    command.process_group(0);
    // Whoever ends this process, for one that tries out changes to the core, must not leave ranks behind.
    // SAFETY: between fork and exec, one system call.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    wait(&mut command.spawn()?, limit)
}

fn wait(child: &mut Child, limit: Duration) -> io::Result<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if start.elapsed() > limit {
            // mpirun ends its ranks on SIGTERM; the process group is its own.
            for signal in [libc::SIGTERM, libc::SIGKILL] {
                // SAFETY: a signal to the process group that was started above.
                unsafe { libc::kill(-(child.id() as i32), signal) };
                std::thread::sleep(Duration::from_secs(3));
            }
            child.wait()?;
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("no end within {limit:?}")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
