//! `netboot-publisher`: see the library for the map.

fn main() -> std::process::ExitCode {
    netboot_publisher::run()
}
