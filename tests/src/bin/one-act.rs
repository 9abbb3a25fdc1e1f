//! One act of the engine in a process of its own, to be killed by a test:
//! `one-act attach|detach CONTAINER`, on the host whose namespaces it is started in.
#![allow(clippy::print_stderr, reason = "a test reads it")]

use std::process::ExitCode;

use shared::attachment::Engine;
use shared::config::Config;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let engine = Engine::new(Config::default());
    let result = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["attach", container] => {
            engine.attach(&rig::lab::request(&engine, container)).map(|record| Some(record.port))
        }
        ["detach", container] => {
            engine.detach(&rig::lab::key(container)).map(|record| record.map(|record| record.port))
        }
        _ => {
            eprintln!("usage: one-act attach|detach CONTAINER");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", shared::error::sentence(&error));
            ExitCode::FAILURE
        }
    }
}
