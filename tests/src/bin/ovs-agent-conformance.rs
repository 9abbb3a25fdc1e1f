//! `ovs-agent-conformance --plugin PATH`: puts a CNI plugin before every case of the suite, on a
//! private host.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use rig::conformance::{Case, Profile, Suite, Verdict};

/// Puts a CNI plugin before the cases of the specification, on a private host in namespaces.
///
/// A case is a file: calls with environment and stdin, the answer that the specification wants, and
/// what must be seen before and after. Needs root. Exit status 1 if a case fails.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  ovs-agent-conformance --plugin /opt/cni/bin/ovs-agent
  ovs-agent-conformance --plugin /usr/lib/cni/bridge --case del-without-a-namespace
  ovs-agent-conformance --plugin ./my-plugin --profile my-plugin.json")]
struct Args {
    /// The plugin.
    #[arg(long, value_name = "PATH")]
    plugin: PathBuf,
    /// What a working configuration of it is; without it, the profile of that name that comes with
    /// the suite.
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Directory of the cases.
    #[arg(long, value_name = "DIR")]
    cases: Option<PathBuf>,
    /// Only this case; may be said more than once.
    #[arg(long, value_name = "NAME")]
    case: Vec<String>,
    /// Also say what does not apply, and each case's sentence of the specification.
    #[arg(long)]
    verbose: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    // A thread of its own: the host unshares namespaces, and `main` keeps the machine's.
    let done = std::thread::spawn(move || run(&args)).join();
    match done {
        Ok(Ok(0)) => ExitCode::SUCCESS,
        Ok(Ok(_)) => ExitCode::FAILURE,
        Ok(Err(error)) => {
            eprintln!("ovs-agent-conformance: {error}");
            ExitCode::FAILURE
        }
        Err(_) => ExitCode::FAILURE,
    }
}

/// Runs the cases; returns how many failed.
fn run(args: &Args) -> Result<usize, String> {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance");
    let plugin = args
        .plugin
        .canonicalize()
        .map_err(|error| format!("cannot find the plugin {}: {error}", args.plugin.display()))?;
    let name = args.plugin.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let own = || shipped.join("plugins").join(format!("{name}.json"));
    let profile = Profile::read(&args.profile.clone().unwrap_or_else(own))?;
    let cases = Case::all(&args.cases.clone().unwrap_or_else(|| shipped.join("cases")))?;
    let mut suite = Suite::new(&plugin, profile)?;
    println!("{name}, versions {}", suite.versions().join(", "));
    let (mut passed, mut failed) = (0, 0);
    for case in &cases {
        if !args.case.is_empty() && !args.case.contains(&case.name) {
            continue;
        }
        let outcome = suite.run(case);
        match &outcome.verdict {
            Verdict::Passed => {
                passed += 1;
                println!("ok        {}", outcome.case);
            }
            Verdict::Failed(wrong) => {
                failed += 1;
                println!("FAILED    {}: {}", outcome.case, outcome.about);
                wrong.iter().for_each(|line| println!("          {line}"));
                println!("          specification {}", outcome.spec);
            }
            Verdict::Deviates(line) => println!("deviates  {}: {line}", outcome.case),
            Verdict::Apart(why) if args.verbose => println!("apart     {}: {why}", outcome.case),
            Verdict::Apart(_) => {}
        }
        if args.verbose && !matches!(outcome.verdict, Verdict::Failed(_)) {
            println!("          specification {}", outcome.spec);
        }
    }
    println!("{passed} passed, {failed} failed");
    Ok(failed)
}
