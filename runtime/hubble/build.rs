//! Makes Rust of Hubble's API in `proto/`, with a compiler of Protocol Buffers that is a crate, so
//! that no `protoc` has to be installed.

use std::{env, error::Error, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let folder = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("proto");
    let files = ["observer.proto", "peer.proto", "health.proto"];
    tonic_prost_build::configure()
        // Only its few requests are read by more than their own fields, in `strict`.
        .codec_path("crate::strict::Strict")
        .build_client(false)
        .compile_fds(protox::compile(files, [folder])?)?;
    Ok(())
}
