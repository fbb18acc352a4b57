//! Links the image as `linker.ld` lays it out. Link arguments go to the binary alone, so that the
//! stock target serves build scripts and image alike.

fn main() {
    let here = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    for argument in [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none,-z,norelro,-z,max-page-size=4096",
        &format!("-T{here}/linker.ld"),
        "-Tdefmt.x",
    ] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    println!("cargo:rerun-if-changed=linker.ld");
    println!("cargo:rerun-if-env-changed=DEFMT_LOG");
}
