//! The `voxpipe` executable.

use std::process::ExitCode;
use voxpipe::allocator::HugePages;

#[global_allocator]
static ALLOCATOR: HugePages = HugePages;

fn main() -> ExitCode {
    voxpipe::cli::main()
}
