//! `netboot-import`: see the library for the map.

fn main() -> std::process::ExitCode {
    netboot_publisher::run_import()
}
