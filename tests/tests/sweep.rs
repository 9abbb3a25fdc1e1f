//! A share of the crash sweep; `./run sweep` tries every point.

use rig::sweep::{Choice, Verb, sweep};

/// Kills, and errors, of each verb.
const SHARE: usize = 12;

/// Another share than that of every run: a number.
const SEED: &str = "OVS_AGENT_SWEEP_SEED";

fn share_of(verb: Verb) {
    let seed = std::env::var(SEED).map_or(0, |text| text.parse().expect("a number"));
    let report = sweep(verb, Choice { every_call: false, at_most: SHARE, seed });
    println!("{verb}: {report:?}");
    assert!(report.faults.is_empty(), "{SEED}={seed}\n{}", report.faults.join("\n\n"));
    // How often a process waits, and in which order threads come, differs from run to run.
    assert!(report.kills >= 2 && report.died * 2 > report.kills, "{report:?}");
    assert!(report.errors > 0 && report.failed > 0, "{report:?}");
}

macro_rules! shares {
    ($($name:ident = $verb:ident,)*) => {
        $(#[test]
        fn $name() {
            share_of(Verb::$verb);
        })*

        #[test]
        fn no_verb_is_left_out() {
            assert_eq!([$(Verb::$verb),*], Verb::ALL);
        }
    };
}

shares! {
    cni_add = Add,
    cni_del = Del,
    cni_check = Check,
    cni_gc = Gc,
    netavark_setup = Setup,
    netavark_teardown = Teardown,
    netavark_create = Create,
    docker_create_network = CreateNetwork,
    docker_delete_network = DeleteNetwork,
    docker_create_endpoint = CreateEndpoint,
    docker_delete_endpoint = DeleteEndpoint,
    docker_join = Join,
    docker_leave = Leave,
    docker_request_address = RequestAddress,
    docker_release_address = ReleaseAddress,
    up = Up,
    down = Down,
    gc = Collect,
}
