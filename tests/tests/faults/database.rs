//! Rows 11, 12, 15 and 16: ovsdb-server killed in the middle, frozen, out of space, and its file
//! damaged.

use rig::{Recovery, rounds};

use super::*;

#[test]
fn ovsdb_server_killed_at_any_moment_of_an_add_or_a_del() {
    let site = Site::new();
    let web = site.host.container("web");
    let switch = site.host.switch();
    let mut healed = Recovery::of("11 ovsdb-server killed in ADD or DEL: the same verb succeeds");
    let (mut failed, all) = (0, rounds(10, 600));
    for round in 0..all {
        let verb = ["ADD", "DEL"][round % 2];
        // One that has lost its database again and again tries only every eight seconds.
        switch.kill_vswitchd();
        switch.start_vswitchd();
        if verb == "DEL" {
            site.add(&web, &lab()).success();
        }
        let reply = std::thread::scope(|scope| {
            let call = scope.spawn(|| match verb {
                "ADD" => site.add(&web, &lab()),
                _ => site.del(&web, &lab()),
            });
            // A call of a debug build is at work for some 5 to 40 ms.
            std::thread::sleep(Duration::from_micros(3000 + (round as u64 * 2311) % 37_000));
            switch.kill_ovsdb();
            switch.start_ovsdb();
            call.join().unwrap()
        });
        failed += usize::from(!reply.ok());
        let what = format!("round {round}, {verb}");
        healed.until(&what, || match verb {
            "ADD" => site.add(&web, &lab()).ok().then_some(()),
            _ => site.del(&web, &lab()).ok().then_some(()),
        });
        // What was committed although its answer was lost is there once.
        let ports = site.host.vsctl("list-ports ovsbr1").lines().count();
        assert_eq!(ports, usize::from(verb == "ADD"), "{what}");
        if verb == "ADD" {
            site.assert_whole(&what, &[&web]);
            site.del(&web, &lab()).success();
        } else {
            site.assert_whole(&what, &[]);
        }
    }
    println!("{failed} of {all} calls failed and were repeated");
    site.assert_clean("after all");
}

/// Longer than any deadline of ours. Nothing is done twice when it goes on.
#[test]
fn ovsdb_server_frozen_under_the_agent_and_an_add() {
    let site = Site::with_agent();
    let (web, _) = site.plug("web");
    let db = site.host.container("db");
    let switch = site.host.switch();
    let mut thawed = Recovery::of("12 ovsdb-server thawed: what was lost meanwhile is back");
    for _ in 0..rounds(1, 20) {
        switch.freeze_ovsdb();
        let error = site.add(&db, &lab()).failure();
        assert!(said(&error).contains("ovsdb-server"), "{error}");
        site.host.ip("address flush dev ovsbr1");
        std::thread::sleep(Duration::from_secs(4));
        switch.thaw_ovsdb();
        thawed.until("the gateway answers", || web.ping(GATEWAY).then_some(()));
        // The record of the ADD that failed may be there for its runtime's DEL, and nothing else.
        site.del(&db, &lab()).success();
        site.assert_whole("after the thaw", &[&web]);
        site.add(&db, &lab()).success();
        site.assert_whole("the same ADD", &[&web, &db]);
        site.del(&db, &lab()).success();
    }
    site.del(&web, &lab()).success();
    site.assert_clean("after all");
}

#[test]
fn a_conf_db_that_is_full_fails_the_add_and_heals() {
    let site = Site::new();
    let web = site.host.container("web");
    let db = site.host.container("db");
    site.host.sh("mkdir /run/rig/small; mount -t tmpfs -o size=256k none /run/rig/small");
    site.host.switch().move_database("/run/rig/small");
    site.host.switch().restart_vswitchd();
    site.assert_heals("on a small disk", &web);
    site.add(&web, &lab()).success();
    let fill = "cat /dev/zero >/run/rig/small/filler 2>/dev/null || true";
    let room = "rm -f /run/rig/small/filler";
    let mut healed = Recovery::of("15 conf.db full: ADD succeeds once there is room");
    for round in 0..rounds(3, 50) {
        site.host.sh(fill);
        // The last page may take some records yet.
        let (mut added, mut refused) = (0, None);
        while refused.is_none() {
            let reply = site.add(&db, &lab());
            if reply.ok() {
                added += 1;
                assert!(added < 40, "the database never fills up");
                // What can no longer be written of a DEL is said, and stays to be finished.
                let del = site.del(&db, &lab());
                refused = (!del.ok()).then(|| del.failure());
            } else {
                refused = Some(reply.failure());
            }
        }
        let text = said(&refused.unwrap());
        assert!(text.contains("/run/rig/small/conf.db: write failed"), "{text}");
        // Those that were there go on.
        assert!(web.ping(GATEWAY), "round {round}");
        site.host.sh(room);
        healed.until("ADD", || site.add(&db, &lab()).ok().then_some(()));
        site.assert_whole(&format!("round {round}"), &[&web, &db]);
        site.del(&db, &lab()).success();
    }
    site.del(&web, &lab()).success();
    site.assert_clean("after all");
}

/// Where the records of a database file begin: "OVSDB JSON LENGTH SHA-1\n" and that many bytes.
fn records(bytes: &[u8]) -> Vec<usize> {
    let mut at = 0;
    let mut found = Vec::new();
    while let Some(end) = bytes[at..].iter().position(|byte| *byte == b'\n') {
        let head = String::from_utf8_lossy(&bytes[at..at + end]).into_owned();
        let length: usize = head.split(' ').nth(2).unwrap().parse().unwrap();
        found.push(at);
        at += end + 1 + length;
        if at >= bytes.len() {
            break;
        }
    }
    found
}

/// A kind of damage: its name, and what it does to a file whose records begin there.
type Damage = (&'static str, fn(&mut Vec<u8>, &[usize]));

/// Every kind of place in the file, each torn there or with one bit wrong there. The schema is
/// record 0, what `up` and ADD wrote comes after it.
const DAMAGES: [Damage; 16] = [
    ("empty", |bytes, _| bytes.clear()),
    ("torn in the first header", |bytes, _| bytes.truncate(9)),
    ("torn in the schema", |bytes, r| bytes.truncate(r[1] / 2)),
    ("the schema alone", |bytes, r| bytes.truncate(r[1])),
    ("torn in the first change", |bytes, r| bytes.truncate((r[1] + r[2]) / 2)),
    ("torn in a header in the middle", |bytes, r| bytes.truncate(r[r.len() / 2] + 11)),
    ("torn between two changes", |bytes, r| bytes.truncate(r[r.len() / 2])),
    ("torn in the last change", |bytes, r| bytes.truncate((r[r.len() - 1] + bytes.len()) / 2)),
    ("five bytes short", |bytes, _| bytes.truncate(bytes.len() - 5)),
    ("one byte short", |bytes, _| bytes.truncate(bytes.len() - 1)),
    ("nine bytes too many", |bytes, _| bytes.extend(b"OVSDB JSO")),
    ("a bit of the first header", |bytes, _| bytes[2] ^= 1),
    ("a bit of the schema", |bytes, r| bytes[r[1] / 2] ^= 1),
    ("a bit of a header in the middle", |bytes, r| bytes[r[r.len() / 2] + 20] ^= 1),
    ("a bit of a change in the middle", |bytes, r| {
        bytes[(r[r.len() / 2] + r[r.len() / 2 + 1]) / 2 + 40] ^= 1;
    }),
    ("a bit of the last change", |bytes, r| {
        let at = (r[r.len() - 1] + bytes.len()) / 2;
        bytes[at] ^= 1;
    }),
];

#[test]
fn a_damaged_conf_db_is_built_anew() {
    let site = Site::with_agent();
    let (web, _) = site.plug("web");
    let (db, there) = site.plug("db");
    let _server = db.echo_server();
    let switch = site.host.switch();
    let rows = || {
        let ports = site.host.vsctl(
            "--format=csv --no-headings --columns=name,tag,trunks,external_ids find Port \
             external_ids:owner=ovs-agent",
        );
        let mut rows: Vec<_> = ports.lines().map(str::to_owned).collect();
        rows.sort();
        rows
    };
    let before = rows();
    assert_eq!(before.len(), 2, "{before:?}");
    let mut rebuilt = Recovery::of("16 conf.db damaged: bridges, ports and traffic are back");
    let mut refused = Vec::new();
    let mut heal = |what: &str, damage: &dyn Fn(&mut Vec<u8>, &[usize])| {
        let taken = switch.damage_database(|bytes| {
            let records = records(bytes);
            assert!(records.len() > 3, "{what}: a database of {} records", records.len());
            damage(bytes, &records);
        });
        if !taken {
            refused.push(what.to_owned());
        }
        // After so many lost connections it tries again only every eight seconds; an administrator
        // restarts both.
        switch.kill_vswitchd();
        switch.start_vswitchd();
        rebuilt.until(what, || {
            let answers = site.host.try_sh("ovs-vsctl --timeout=2 show").ok();
            let ping = "ping -n -q -c 1 -W 1 10.200.0.1";
            (answers && rows() == before && web.try_exec(ping).ok() && db.try_exec(ping).ok())
                .then_some(())
        });
        site.assert_whole(what, &[&web, &db]);
        web.tcp_echo(there, 100_000).unwrap_or_else(|error| panic!("{what}: {error}"));
    };
    for (what, damage) in &DAMAGES {
        heal(what, damage);
    }
    for round in 0..rounds(0, 200) {
        let place = |len: usize| (round * 7919 + 13) % len;
        heal(&format!("torn anywhere, round {round}"), &|bytes, _| {
            let at = place(bytes.len());
            bytes.truncate(at);
        });
        heal(&format!("a bit anywhere, round {round}"), &|bytes, _| {
            let at = place(bytes.len());
            bytes[at] ^= 1 << (round % 8);
        });
    }
    println!("ovsdb-server itself refused: {refused:?}");
    // Gone altogether.
    switch.erase_database();
    rebuilt.until("deleted", || {
        (rows() == before && web.ping(GATEWAY) && db.ping(GATEWAY)).then_some(())
    });
    for container in [&web, &db] {
        site.del(container, &lab()).success();
    }
    site.assert_whole("after all", &[]);
    // The bridge of others was in the database alone: that, no agent brings back.
    // Rows have other ids, and bridges other indexes.
    let new = |line: &String| {
        ["theirs", " table _uuid=", "forwarding.json"].iter().any(|part| line.contains(part))
    };
    let difference = || site.difference().into_iter().filter(|l| !new(l)).collect::<Vec<_>>();
    poll(&format!("the rest is as it was: {:#?}", difference()), CONVERGED, || {
        difference().is_empty().then_some(())
    });
}
