//! `TORCH_RMPI_LOG`: what is written to standard error.

use std::io::Write;
use std::sync::Once;

/// Sets the logger up at the first call. `TORCH_RMPI_LOG` takes `off` (the default), `error`, `warn`, `info` (a line per
/// group and per failure), `debug`, `trace`, or env_logger's filters. A program that has a logger of its own keeps it.
pub(crate) fn start() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let environment = env_logger::Env::new().filter_or("TORCH_RMPI_LOG", "off");
        let pid = std::process::id();
        let logger = env_logger::Builder::from_env(environment)
            .format(move |out, record| writeln!(out, "[torch-rmpi {} {pid}] {}", record.level(), record.args()))
            .try_init();
        if let Err(error) = logger {
            log::debug!("TORCH_RMPI_LOG is not used: {error}");
        }
    });
}
