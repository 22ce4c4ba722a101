//! Generates the C header from `src/capi`, and with the feature `bridge` the C++ side of `src/bridge.rs`.

use std::env;
use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    println!("cargo:rerun-if-changed=src/capi");
    println!("cargo:rerun-if-changed=cbindgen.toml");
    let header = PathBuf::from(env::var("OUT_DIR")?).join("rmpi.h");
    // Only these files: other public types of the crate are none of C's business.
    let mut sources = std::fs::read_dir(root.join("src/capi"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>, std::io::Error>>()?;
    sources.sort();
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml"))?;
    let builder = cbindgen::Builder::new().with_config(config);
    sources.into_iter().fold(builder, cbindgen::Builder::with_src).generate()?.write_to_file(&header);
    println!("cargo:rustc-env=RMPI_GENERATED_HEADER={}", header.display());

    // The MPI's own libraries, so that tests and Rust programs find them at run time.
    for path in build_probe_mpi::probe().map_err(|errors| format!("{errors:?}"))?.lib_paths {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", path.display());
    }
    bridge();
    Ok(())
}

#[cfg(feature = "bridge")]
fn bridge() {
    println!("cargo:rerun-if-changed=src/bridge.rs");
    println!("cargo:rerun-if-changed=cpp/bridge/completion.hpp");
    cxx_build::bridge("src/bridge.rs").std("c++20").include("cpp").flag("-fvisibility=hidden").compile("rmpi-bridge");
}

#[cfg(not(feature = "bridge"))]
fn bridge() {}
