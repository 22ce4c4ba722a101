//! The C interface, from which `include/torch_rmpi/rmpi.h` is generated.
//!
//! Every function may be called from any thread, returns a status, never unwinds, and leaves a message for
//! `rmpi_last_error` when it fails. Numbers that C passes are checked: none is trusted to be a valid enumerator.

mod collectives;
mod constants;
mod group;
mod status;
mod version;

pub use collectives::*;
pub use constants::*;
pub use group::*;
pub use status::rmpi_last_error;
pub use version::*;

#[cfg(test)]
mod tests {
    /// The header is checked in, so that it can be read and packaged without cargo.
    #[test]
    fn the_header_is_current() {
        let generated = include_str!(env!("RMPI_GENERATED_HEADER"));
        let committed = include_str!("../../include/torch_rmpi/rmpi.h");
        assert!(
            generated == committed,
            "include/torch_rmpi/rmpi.h is out of date; copy {} over it",
            env!("RMPI_GENERATED_HEADER")
        );
    }
}
