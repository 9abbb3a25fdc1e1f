//! Prints what the host looks like that it runs on: `rig::Snapshot` of a booted machine.

fn main() {
    println!("{}", rig::Snapshot::of_this_host().text());
}
