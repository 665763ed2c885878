//! The `sendlake` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    sendlake::cli::main()
}
