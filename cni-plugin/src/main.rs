//! The plugin `ovs-agent`; all of it is in the library, where laws and fuzzer reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    ovs_agent::main()
}
