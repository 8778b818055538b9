//! Work in progress.

fn main() -> std::process::ExitCode {
    impasto::sandbox::supervisor_main().unwrap_or(std::process::ExitCode::SUCCESS)
}
