//! What breaks beside the driver: the switch's database, the files it keeps.

use std::time::{Duration, Instant};

use rig::{INTERNET, poll};

use crate::site::{SOON, Site, reaches, surfs, with_both};

with_both!(a_dead_ovsdb_is_told_within_seconds_and_heals, a_torn_file_costs_one_entry_and_says_so,);

fn a_dead_ovsdb_is_told_within_seconds_and_heals(site: &Site) {
    let before = site.snapshot();
    site.docker("network create -d ovs-agent --subnet 10.30.0.0/24 web");
    site.docker("network create -d ovs-agent --ipam-driver ovs-agent pool");
    site.start("one", "--network web --restart always");
    site.start("two", "--network pool");
    site.stop_ovsdb();
    for args in [
        "run --rm --network web localhost/rig:1 true",
        "run --rm --network pool localhost/rig:1 true",
        "network create -d ovs-agent --subnet 10.31.0.0/24 db",
        "restart -t 0 one",
    ] {
        let started = Instant::now();
        site.refused(args, &["db.sock", "ovsdb-server"]);
        assert!(started.elapsed() < Duration::from_secs(10), "{args}: {:?}", started.elapsed());
    }
    // What Docker removes meanwhile is gone for Docker; what is left of it goes later.
    let started = Instant::now();
    site.docker("rm -f two");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    site.start_ovsdb();
    // Nobody has to be told.
    poll("no container starts", SOON, || {
        site.try_docker("run --rm --network web localhost/rig:1 true").ok().then_some(())
    });
    site.docker("start one");
    let two = site.start("two", "--network pool");
    let one = site.container("one");
    surfs(&one, &[INTERNET]);
    surfs(&two, &[INTERNET]);
    drop((one, two));
    site.docker("rm -f one two");
    site.docker("network rm web pool");
    let end = Instant::now() + Duration::from_secs(60);
    while !before.difference(&site.snapshot()).is_empty() && Instant::now() < end {
        std::thread::sleep(Duration::from_secs(1));
    }
    site.soon_as_before(&before);
}

fn a_torn_file_costs_one_entry_and_says_so(site: &mut Site) {
    let before = site.snapshot();
    let own = "network create -d ovs-agent --ipam-driver ovs-agent --subnet";
    for (network, subnet) in [("lost", 30), ("kept", 31)] {
        site.docker(&format!("{own} 10.{subnet}.0.0/24 {network}"));
    }
    let names = ["one", "two", "three", "four"];
    for (name, network) in names.iter().zip(["lost", "lost", "kept", "kept"]) {
        site.start(name, &format!("--network {network} --restart always"));
    }
    let talk = |site: &Site, network: &str, from: &str, to: &str| {
        let _server = site.container(to).echo_server();
        reaches(&site.container(from), site.address(network, to));
        surfs(&site.container(from), &[INTERNET]);
    };
    talk(site, "lost", "one", "two");
    for kind in ["endpoints", "pools", "networks"] {
        let name = match kind {
            "endpoints" => site.inspect("one", ".NetworkSettings.Networks.lost.EndpointID"),
            _ => "10.30.0.0".to_owned(),
        };
        let dir = format!("/var/lib/ovs-port-agent/docker/{kind}");
        let file = site.sh(&format!("grep -l {name} {dir}/*.json"));
        let file = file.trim();
        for tear in ["truncate -s 40", "truncate -s 0"] {
            site.without_driver(|site| drop(site.sh(&format!("{tear} {file}"))));
        }
        poll("nothing is said", SOON, || site.log().contains("a state file is lost").then_some(()));
        // Who runs goes on, and nobody else is hurt, nor by dockerd's own restart.
        talk(site, "lost", "one", "two");
        talk(site, "kept", "three", "four");
        site.docker("restart -t 0 four");
        talk(site, "kept", "three", "four");
        site.docker("run --rm --network kept localhost/rig:1 true");
        site.docker(&format!("{own} 10.40.0.0/24 new"));
        site.docker("run --rm --network new localhost/rig:1 true");
        site.docker("network rm new");
        let run = "run --rm --network lost localhost/rig:1 true";
        if kind == "pools" {
            site.refused(run, &["address pool", "is not known", "create it anew"]);
        } else {
            site.docker(run);
        }
        site.restart_dockerd(false, &["three", "four"]);
        talk(site, "kept", "three", "four");
        // dockerd asks for its pools again then.
        site.docker(run);
        // And the way out that the error names.
        site.docker("rm -f one two");
        site.docker("network rm lost");
        site.docker(&format!("{own} 10.30.0.0/24 lost"));
        for name in ["one", "two"] {
            site.start(name, "--network lost --restart always");
        }
        talk(site, "lost", "one", "two");
    }
    site.docker("rm -f one two three four");
    site.docker("network rm lost kept");
    site.soon_as_before(&before);
}
