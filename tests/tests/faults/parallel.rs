//! Rows 9 and 10: many calls at once, by processes.

use std::sync::Barrier;

use rig::rounds;

use super::*;

#[test]
fn the_same_add_twice_at_once_and_an_add_beside_a_del() {
    let site = Site::new();
    let web = site.host.container("web");
    let plugin = site.host.plugin();
    let netns = web.path().display().to_string();
    let call = |verb: &str| plugin.call(verb, "web", &netns, "eth0", &lab());
    let at_once = |verbs: [&str; 2]| {
        let barrier = Barrier::new(2);
        std::thread::scope(|scope| {
            let threads = verbs.map(|verb| {
                let (barrier, call) = (&barrier, &call);
                scope.spawn(move || {
                    barrier.wait();
                    timely(call(verb))
                })
            });
            threads.map(|thread| thread.join().unwrap())
        })
    };
    let all = rounds(30, 10_000);
    for round in 0..all {
        let [one, two] = at_once(["ADD", "ADD"]);
        assert_eq!(one.clone().success(), two.success(), "round {round}");
        let ports = site.host.vsctl("list-ports ovsbr1");
        assert_eq!(ports.trim(), "veth-web-eth0", "round {round}");
        let [add, del] = at_once(["ADD", "DEL"]);
        assert!(add.ok() && del.ok(), "round {round}: {}\n{}", add.output, del.output);
        // Whichever was last: all of it or nothing.
        let plugged = site.host.vsctl("list-ports ovsbr1").trim().to_owned();
        let records = site.engine.records().unwrap().0.len();
        let leases = site.engine.pools().leases().unwrap().len();
        let inside = web.try_exec("ip link show eth0").ok();
        if plugged.is_empty() {
            assert_eq!((records, leases, inside), (0, 0, false), "round {round}");
        } else {
            assert_eq!((records, leases, inside), (1, 2, true), "round {round}");
        }
        let [one, two] = at_once(["DEL", "DEL"]);
        assert!(one.ok() && two.ok(), "round {round}: {}\n{}", one.output, two.output);
        if round % 100 == 0 || round + 1 == all {
            site.assert_clean(&format!("round {round}"));
        }
    }
    site.assert_heals("after all", &web);
}
