use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use proptest::prelude::*;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::*;
use crate::error::sentence;

fn pools() -> (TempDir, Pools) {
    let dir = tempfile::tempdir().unwrap();
    let pools = Pools::new(dir.path().join("run/leases"));
    (dir, pools)
}

fn subnet(net: &str, gateway: Option<&str>) -> Subnet {
    Subnet { net: net.parse().unwrap(), range: None, gateway: gateway.map(ip) }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The last byte of each address given to so many new owners.
fn give(pools: &Pools, subnet: &Subnet, owners: impl IntoIterator<Item = u32>) -> Vec<u8> {
    let mut given = Vec::new();
    for owner in owners {
        let lease = pools.acquire(subnet, &format!("web/c{owner}/eth0"), None).unwrap();
        let IpAddr::V4(v4) = lease.ip else { panic!("{lease:?}") };
        given.push(v4.octets()[3]);
    }
    given
}

fn free(pools: &Pools, subnet: &Subnet, last: u8, owner: &str) {
    assert!(pools.release(subnet.net, ip(&format!("10.0.0.{last}")), owner).unwrap());
}

#[test]
fn addresses_are_given_in_order_and_freed_ones_last() {
    let (_dir, pools) = pools();
    let net = subnet("10.0.0.0/28", Some("10.0.0.1"));
    assert_eq!(give(&pools, &net, 0..5), [2, 3, 4, 5, 6]);
    // One that was given, and one asked for that lies ahead.
    free(&pools, &net, 4, "web/c2/eth0");
    pools.acquire(&net, "db/a/eth0", Some(ip("10.0.0.8"))).unwrap();
    free(&pools, &net, 8, "db/a/eth0");
    assert_eq!(give(&pools, &net, 10..18), [7, 9, 10, 11, 12, 13, 14, 4]);
    assert_eq!(give(&pools, &net, 18..19), [8]);
    assert!(matches!(pools.acquire(&net, "web/z/eth0", None), Err(Error::Exhausted { .. })));
    // In a full pool, in the order of being freed.
    free(&pools, &net, 13, "web/c15/eth0");
    free(&pools, &net, 2, "web/c0/eth0");
    free(&pools, &net, 9, "web/c11/eth0");
    assert_eq!(give(&pools, &net, 20..23), [13, 2, 9]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The law: never-used addresses in order, then the one free for longest, and no address
    /// with two holders.
    #[test]
    fn a_pool_is_a_queue(acts in proptest::collection::vec((0..3u8, 0..14u8), 1..60)) {
        let (_dir, pools) = pools();
        let net = subnet("10.0.0.0/28", Some("10.0.0.1"));
        let mut queue: VecDeque<u8> = (2..15).collect();
        let mut held: BTreeMap<u8, String> = BTreeMap::new();
        for (number, (act, which)) in acts.into_iter().enumerate() {
            let owner = format!("web/c{number}/eth0");
            match act {
                0 => {
                    let Some(expected) = queue.pop_front() else {
                        let full = pools.acquire(&net, &owner, None);
                        let full = matches!(full, Err(Error::Exhausted { .. }));
                        prop_assert!(full);
                        continue;
                    };
                    prop_assert_eq!(give(&pools, &net, [number.try_into().unwrap()]), [expected]);
                    held.insert(expected, owner);
                }
                1 => {
                    let last = which + 1;
                    let asked = pools.acquire(&net, &owner, Some([10, 0, 0, last].into()));
                    match (last, held.get(&last)) {
                        (1, _) => {
                            let refused = matches!(asked, Err(Error::NotInPool { .. }));
                            prop_assert!(refused);
                        }
                        (_, Some(holder)) => match asked {
                            Err(Error::Taken { owner, .. }) => prop_assert_eq!(&owner, holder),
                            other => prop_assert!(false, "{:?}", other),
                        },
                        (_, None) => {
                            prop_assert_eq!(asked.unwrap().ip, IpAddr::from([10, 0, 0, last]));
                            queue.retain(|free| *free != last);
                            held.insert(last, owner);
                        }
                    }
                }
                _ => {
                    let Some((&last, _)) = held.iter().nth(usize::from(which)) else { continue };
                    let owner = held.remove(&last).unwrap();
                    free(&pools, &net, last, &owner);
                    queue.push_back(last);
                }
            }
            prop_assert_eq!(pools.usage(&net).unwrap().used, held.len() as u64);
        }
        let leases = pools.leases().unwrap();
        let leases = leases.into_iter().map(|(_, lease)| (lease.ip, lease.owner));
        let held = held.into_iter().map(|(last, owner)| (IpAddr::from([10, 0, 0, last]), owner));
        prop_assert_eq!(leases.collect::<Vec<_>>(), held.collect::<Vec<_>>());
    }
}

#[test]
fn asking_again_gives_the_same_address() {
    let (_dir, pools) = pools();
    for net in [subnet("10.0.0.0/24", Some("10.0.0.1")), subnet("fd00::/64", Some("fd00::1"))] {
        let first = pools.acquire(&net, "web/a/eth0", None).unwrap();
        let other = pools.acquire(&net, "web/a/eth1", None).unwrap();
        assert_ne!(first.ip, other.ip);
        assert_eq!(pools.acquire(&net, "web/a/eth0", None).unwrap(), first);
        assert_eq!(pools.acquire(&net, "web/a/eth0", Some(first.ip)).unwrap(), first);
        let error = pools.acquire(&net, "web/a/eth0", Some(other.ip)).unwrap_err();
        assert!(sentence(&error).contains(&format!("it holds {} of", first.ip)), "{error}");
        assert_eq!(error.kind(), Kind::Conflict);
        let error = pools.acquire(&net, "web/b/eth0", Some(first.ip)).unwrap_err();
        assert_eq!(error.to_string(), format!("address {} is held by web/a/eth0", first.ip));
    }
    assert_eq!(pools.leases().unwrap().len(), 4);
    assert_eq!(pools.release_all("web/a/eth0").unwrap().len(), 2);
    assert_eq!(pools.release_all("web/a/eth0").unwrap().len(), 0);
    assert_eq!(pools.leases().unwrap().len(), 2);
}

#[test]
fn only_the_owner_frees() {
    let (_dir, pools) = pools();
    let net = subnet("10.0.0.0/24", None);
    assert!(!pools.release(net.net, ip("10.0.0.1"), "web/a/eth0").unwrap());
    let lease = pools.acquire(&net, "web/a/eth0", None).unwrap();
    assert!(!pools.release(net.net, lease.ip, "web/b/eth0").unwrap());
    assert!(pools.release(net.net, lease.ip, "web/a/eth0").unwrap());
    assert!(!pools.release(net.net, lease.ip, "web/a/eth0").unwrap());
}

#[test]
fn an_empty_pool_says_who_holds_what() {
    let (_dir, pools) = pools();
    let net = subnet("10.0.0.0/28", Some("10.0.0.1"));
    for (count, network) in [(6, "web"), (4, "db"), (1, "solo"), (2, "b")] {
        for container in 0..count {
            pools.acquire(&net, &format!("{network}/c{container}/eth0"), None).unwrap();
        }
    }
    let error = pools.acquire(&net, "web/z/eth0", None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no free address in 10.0.0.0/28 (10.0.0.1-10.0.0.14): held by web/… 6, db/… 4, b/… 2, solo/c0/eth0 1"
    );
    assert_eq!(error.kind(), Kind::Exhausted);
    let none =
        Subnet { range: Some((ip("10.1.0.0"), ip("10.1.0.0"))), ..subnet("10.1.0.0/24", None) };
    let error = pools.acquire(&none, "web/z/eth0", None).unwrap_err().to_string();
    assert_eq!(error, "no free address in 10.1.0.0/24 (no usable address): held by nobody");
}

#[test]
fn two_ranges_of_one_subnet_share_their_leases() {
    let (_dir, pools) = pools();
    let part = |from, to| Subnet { range: Some((ip(from), ip(to))), ..subnet("10.0.0.0/24", None) };
    let (one, two) = (part("10.0.0.5", "10.0.0.7"), part("10.0.0.6", "10.0.0.9"));
    assert_eq!(give(&pools, &one, 0..2), [5, 6]);
    assert_eq!(give(&pools, &two, 10..12), [7, 8]);
    assert!(matches!(pools.acquire(&one, "web/x/eth0", None), Err(Error::Exhausted { .. })));
    assert_eq!(pools.usage(&one).unwrap().used, 3);
    assert_eq!(pools.usage(&two).unwrap().used, 3);
    assert_eq!(pools.usage(&two).unwrap().size, 4);
    free(&pools, &one, 6, "web/c1/eth0");
    assert_eq!(give(&pools, &two, 12..14), [9, 6]);
}

fn pool_dir(pools: &Pools) -> PathBuf {
    pools.dir.join("10.0.0.0-29")
}

#[test]
fn a_lease_nobody_can_read_stays_taken() {
    let (dir, pools) = pools();
    let net = subnet("10.0.0.0/29", None);
    let first = pools.acquire(&net, "web/a/eth0", None).unwrap();
    let pool = pool_dir(&pools);
    let secret = dir.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    fs::write(pool.join("10.0.0.2"), "").unwrap();
    fs::write(pool.join("10.0.0.3"), "{\"ip\":\"10.0.0.3\",\"owner\":\"web/").unwrap();
    fs::create_dir(pool.join("10.0.0.4")).unwrap();
    symlink(&secret, pool.join("10.0.0.5")).unwrap();
    fs::copy(pool.join("10.0.0.1"), pool.join("10.0.0.6")).unwrap();
    let error = pools.acquire(&net, "web/b/eth0", None).unwrap_err();
    assert!(error.to_string().ends_with("held by (unreadable) 5, web/a/eth0 1"), "{error}");
    for last in 2..7 {
        let address = IpAddr::from([10, 0, 0, last]);
        for owner in ["web/a/eth0", UNREADABLE] {
            assert!(!pools.release(net.net, address, owner).unwrap());
        }
        let error = pools.acquire(&net, "web/b/eth0", Some(address)).unwrap_err();
        assert!(sentence(&error).contains("(unreadable); look at the lease file"), "{error}");
    }
    assert_eq!(pools.usage(&net).unwrap(), Usage { subnet: net.net, used: 6, size: 6 });
    let leases = pools.leases().unwrap();
    assert_eq!(leases.iter().filter(|(_, lease)| lease.owner == UNREADABLE).count(), 5);
    assert_eq!(pools.release_all("web/a/eth0").unwrap(), [first]);
    assert_eq!(fs::read_to_string(secret).unwrap(), "secret");
    assert_eq!(fs::read_dir(pool).unwrap().count(), 6, "five files and the order");
}

#[test]
fn planted_links_are_not_followed() {
    let (dir, pools) = pools();
    let net = subnet("10.0.0.0/29", None);
    let elsewhere = dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::create_dir_all(&pools.dir).unwrap();
    symlink(&elsewhere, pool_dir(&pools)).unwrap();
    let error = pools.acquire(&net, "web/a/eth0", None).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    fs::remove_file(pool_dir(&pools)).unwrap();

    // The order and the owner's first name, as links to a file that must not change.
    let target = elsewhere.join("file");
    fs::write(&target, "untouched").unwrap();
    fs::create_dir(pool_dir(&pools)).unwrap();
    let hash = hash("web/a/eth0");
    symlink(&target, pool_dir(&pools).join(format!("@{hash}"))).unwrap();
    pools.acquire(&net, "web/a/eth0", None).unwrap();
    fs::remove_file(pool_dir(&pools).join(".order")).unwrap();
    symlink(&target, pool_dir(&pools).join(".order")).unwrap();
    let error = pools.acquire(&net, "web/b/eth0", None).unwrap_err();
    assert_eq!(error.kind(), Kind::System);
    assert_eq!(fs::read_to_string(target).unwrap(), "untouched");
}

fn hash(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn nobody_else_can_read_or_write() {
    let (_dir, pools) = pools();
    let net = subnet("10.0.0.0/29", None);
    pools.acquire(&net, "web/a/eth0", None).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&pools.dir), mode(&pool_dir(&pools))), (0o700, 0o700));
    for entry in fs::read_dir(pool_dir(&pools)).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
}

#[test]
fn a_try_that_was_killed_leaves_nothing() {
    let (_dir, pools) = pools();
    let net = subnet("10.0.0.0/29", None);
    let lease = pools.acquire(&net, "web/a/eth0", None).unwrap();
    let pool = pool_dir(&pools);
    let own = pool.join(format!("@{}", hash("web/a/eth0")));
    // Killed after the order moved on and the file was made, before it was linked …
    fs::remove_file(pool.join("10.0.0.1")).unwrap();
    assert_eq!(pools.acquire(&net, "web/a/eth0", None).unwrap().ip, ip("10.0.0.2"));
    // … half way in writing it …
    fs::remove_file(pool.join("10.0.0.2")).unwrap();
    fs::write(&own, "{\"ip\":").unwrap();
    assert_eq!(pools.acquire(&net, "web/a/eth0", None).unwrap().ip, ip("10.0.0.3"));
    // … and in release, before the second name went.
    fs::remove_file(pool.join("10.0.0.3")).unwrap();
    assert!(!pools.release(net.net, ip("10.0.0.3"), "web/a/eth0").unwrap());
    assert!(!own.exists());
    // What was lost to the order is given when nothing else is left.
    assert_eq!(give(&pools, &net, 0..6), [4, 5, 6, 1, 2, 3]);
    assert_eq!(lease.ip, ip("10.0.0.1"));
}

#[test]
fn a_lost_or_garbled_order_costs_order_alone() {
    let (_dir, pools) = pools();
    let net = subnet("10.0.0.0/29", None);
    assert_eq!(give(&pools, &net, 0..2), [1, 2]);
    fs::remove_file(pool_dir(&pools).join(".order")).unwrap();
    assert_eq!(give(&pools, &net, 2..3), [3]);
    fs::write(pool_dir(&pools).join(".order"), [0xff; 100]).unwrap();
    assert_eq!(give(&pools, &net, 3..6), [4, 5, 6]);
}

/// Four threads that take and free; also one of the processes of the next test.
#[test]
fn hammer_process() {
    let (_dir, own) = pools();
    let pools = std::env::var("POOL_HAMMER").map_or(own, |dir| Pools::new(dir.into()));
    let net = subnet("10.0.0.0/24", Some("10.0.0.1"));
    let range = Some((ip("10.0.0.1"), ip("10.0.0.201")));
    let net = Subnet { range, ..net };
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (pools, net) = (&pools, &net);
            scope.spawn(move || {
                for turn in 0..60 {
                    let owner = format!("web/p{}-{thread}-{turn}/eth0", std::process::id());
                    match pools.acquire(net, &owner, None) {
                        Ok(lease) if turn % 3 == 0 => {
                            assert!(pools.release(net.net, lease.ip, &owner).unwrap());
                        }
                        Ok(_) | Err(Error::Exhausted { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
}

fn hammer(pools: &Pools) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "address::tests::hammer_process", "--test-threads=1"])
        .env("POOL_HAMMER", &pools.dir)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn killed_processes_tear_no_lease_and_lose_no_address() {
    let (_dir, pools) = pools();
    let range = Some((ip("10.0.0.1"), ip("10.0.0.201")));
    let net = Subnet { range, ..subnet("10.0.0.0/24", Some("10.0.0.1")) };
    let used = || pools.usage(&net).unwrap().used;
    for round in 0..8 {
        let mut children = [hammer(&pools), hammer(&pools)];
        // They are killed at work: after so many more leases than before.
        let enough = (used() + 3 + round).min(199);
        let start = Instant::now();
        while used() < enough && start.elapsed().as_secs() < 10 {}
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
    let left = pools.leases().unwrap();
    assert!(left.len() > 40, "{}", left.len());
    assert!(left.iter().all(|(_, lease)| lease.owner.starts_with("web/p")), "{left:?}");
    let mut more = 0;
    let end = loop {
        match pools.acquire(&net, &format!("web/more{more}/eth0"), None) {
            Ok(_) => more += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(end, Error::Exhausted { .. }), "{end}");
    assert_eq!(left.len() + more, 200);
    for (_, lease) in left {
        assert_eq!(pools.release_all(&lease.owner).unwrap(), [lease]);
    }
    assert_eq!(used(), more as u64);
}

#[test]
fn many_processes_fill_a_pool_to_the_last_address() {
    let (_dir, pools) = pools();
    let children: Vec<_> = (0..4).map(|_| hammer(&pools)).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    // 4 × 4 × 40 wanted to stay, 200 could.
    let range = Some((ip("10.0.0.1"), ip("10.0.0.201")));
    let net = Subnet { range, ..subnet("10.0.0.0/24", Some("10.0.0.1")) };
    assert_eq!(pools.usage(&net).unwrap(), Usage { subnet: net.net, used: 200, size: 200 });
    let leases = pools.leases().unwrap();
    assert!(leases.iter().all(|(_, lease)| lease.owner.starts_with("web/p")), "{leases:?}");
    let owners: BTreeSet<_> = leases.iter().map(|(_, lease)| &lease.owner).collect();
    assert_eq!(owners.len(), 200);
    assert!(matches!(pools.acquire(&net, "web/z/eth0", None), Err(Error::Exhausted { .. })));
}

#[test]
fn eight_threads_get_two_hundred_addresses_once_each() {
    let (_dir, pools) = pools();
    let range = Some((ip("10.0.0.1"), ip("10.0.0.200")));
    let net = Subnet { range, ..subnet("10.0.0.0/24", None) };
    let given = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (pools, net, given) = (&pools, &net, &given);
            scope.spawn(move || {
                for turn in 0..26 {
                    let owner = format!("web/{thread}-{turn}/eth0");
                    match pools.acquire(net, &owner, None) {
                        Ok(lease) => given.lock().unwrap().push(lease.ip),
                        Err(Error::Exhausted { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    let given = given.into_inner().unwrap();
    assert_eq!(given.len(), 200);
    assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), 200);
    let error = pools.acquire(&net, "web/201/eth0", None).unwrap_err();
    assert!(error.to_string().contains("held by web/… 200"), "{error}");
}

#[test]
fn one_owner_asking_eight_times_at_once_gets_one_address() {
    let (_dir, pools) = pools();
    let net = subnet("10.0.0.0/24", None);
    for round in 0..20 {
        let owner = format!("web/{round}/eth0");
        let given: BTreeSet<IpAddr> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| pools.acquire(&net, &owner, None).unwrap().ip))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(given.len(), 1, "{given:?}");
    }
    assert_eq!(pools.leases().unwrap().len(), 20);
}

/// Printed with `--nocapture`; the bound is far above what was measured, to find a scan only.
#[test]
fn a_lease_costs_the_same_beside_five_thousand_others() {
    let (_dir, pools) = pools();
    for net in [subnet("10.0.0.0/16", Some("10.0.0.1")), subnet("fd00::/64", Some("fd00::1"))] {
        let measure = |label: &str| {
            let mut times = [Vec::new(), Vec::new()];
            for turn in 0..200 {
                let owner = format!("web/m{turn}/eth0");
                let start = Instant::now();
                let lease = pools.acquire(&net, &owner, None).unwrap();
                times[0].push(start.elapsed().as_micros());
                let start = Instant::now();
                assert!(pools.release(net.net, lease.ip, &owner).unwrap());
                times[1].push(start.elapsed().as_micros());
            }
            let [acquire, release] = times.map(|mut times| {
                times.sort_unstable();
                times[times.len() / 2]
            });
            println!("{} {label}: acquire {acquire} µs, release {release} µs", net.net);
            (acquire, release)
        };
        let (acquire, release) = measure("0 leases");
        for owner in 0..5000 {
            pools.acquire(&net, &format!("db/{owner}/eth0"), None).unwrap();
        }
        let full = measure("5000 leases");
        assert!(full.0 < 5 * acquire + 500 && full.1 < 5 * release + 500);
    }
}
