//! Rows 20, 21 and 25: the disk of the ledger is full, fails, or is read-only. No container is
//! held up by that, and nothing of its history is lost.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use rig::{Recovery, rounds};
use shared::ledger::{Action, Event, Ledger, Sync, Written};

use super::*;

const LIB: &str = "/var/lib/ovs-port-agent";

/// The disk of the ledger takes `room` bytes more, whatever is asked of it after.
#[test]
fn a_disk_that_fills_up_under_running_containers() {
    let site = Site::with_agent();
    let (web, db) = (site.host.container("web"), site.host.container("db"));
    site.agent().kill();
    site.host.sh(&format!(
        "mount -t tmpfs -o size=64k none /mnt; cp -a {LIB}/. /mnt; mount --move /mnt {LIB}"
    ));
    let agent = start(&site.host);
    let mut caught_up =
        Recovery::of("20 ledger's disk full: the ledger is whole once there is room");
    for round in 0..rounds(6, 200) {
        // As full as can be, less some bytes: the next lines end anywhere.
        let room = (round * 211) % 1300;
        site.host.try_sh(&format!("cat /dev/zero >{LIB}/filler 2>/dev/null"));
        let last = fs::metadata(format!("{LIB}/ledger.jsonl")).unwrap().len();
        let free = (4096 - usize::try_from(last % 4096).unwrap()) % 4096;
        if free > room {
            // Used up by a line of our own.
            let note = "x".repeat((free - room).min(400));
            let event = Event { note: Some(note), ..Event::new("rig", Action::Up) };
            site.engine.ledger().append(&event).unwrap();
        }
        site.add(&web, &lab()).success();
        site.add(&db, &lab()).success();
        assert!(web.ping(GATEWAY));
        site.del(&web, &lab()).success();
        let report = site.engine.ledger().verify().unwrap();
        assert!(report.is_sound(), "round {round}: {report:?}");
        site.host.sh(&format!("rm {LIB}/filler"));
        let begin = std::time::Instant::now();
        site.assert_whole(&format!("round {round}: room for {room} bytes"), &[&db]);
        caught_up.took(begin.elapsed());
        site.del(&db, &lab()).success();
    }
    site.assert_heals("after all", &web);
    drop(agent);
}

#[test]
fn a_read_only_var_stops_no_container_and_no_history() {
    let site = Site::with_agent();
    let (web, _) = site.plug("web");
    let db = site.host.container("db");
    let driver = site.host.docker_driver();
    let network = json!({
        "NetworkID": "1".repeat(64), "Options": {"com.docker.network.generic": {}},
        "IPv4Data": [{"AddressSpace": "a", "Pool": "10.30.0.0/24", "Gateway": "10.30.0.1/24"}],
        "IPv6Data": [],
    });
    site.host.sh("mount -o remount,ro /var/lib");
    let reply = site.add(&db, &lab());
    assert!(reply.ok() && reply.output.stderr.contains("ledger"), "not said: {}", reply.output);
    site.del(&web, &lab()).success();
    assert!(db.ping(GATEWAY));
    // Where Docker's networks are kept is a matter of the disk: refused, and nothing is left.
    let error = driver.error("NetworkDriver.CreateNetwork", &network);
    assert!(error.contains("/var/lib/ovs-port-agent/docker"), "{error}");
    assert!(!site.host.ip("-o link").contains("ovsbr1.3000"), "a network nobody remembers");
    poll("the agent says so", CONVERGED, || {
        site.agent().log().contains("the ledger cannot be").then_some(())
    });
    site.host.sh("mount -o remount,rw /var/lib");
    let mut caught_up = Recovery::of("25 /var read-only: the ledger is whole once it is writable");
    let begin = std::time::Instant::now();
    site.assert_whole("writable again", &[&db]);
    caught_up.took(begin.elapsed());
    driver.ok("NetworkDriver.CreateNetwork", &network);
    driver.ok("NetworkDriver.DeleteNetwork", &json!({"NetworkID": "1".repeat(64)}));
    driver.stop();
    site.del(&db, &lab()).success();
    site.assert_heals("writable again", &web);
}

/// A device that is asked for no more than one block at a time, until this is dropped. A loop device
/// answers that all is well where a request reached its file only in part; so each is written or
/// fails.
struct ShortRequests {
    setting: String,
    usual: String,
}

impl ShortRequests {
    fn of(device: &str) -> Self {
        let setting = device.replace("/dev", "/sys/block") + "/queue/max_sectors_kb";
        let usual = fs::read_to_string(&setting).unwrap();
        fs::write(&setting, "4").unwrap();
        Self { setting, usual }
    }
}

impl Drop for ShortRequests {
    fn drop(&mut self) {
        // The device is the machine's, and others use it next.
        drop(fs::write(&self.setting, &self.usual));
    }
}

/// A real file system whose disk fails: ext4 on a loop device whose file has no room behind it. Its
/// writes succeed, its fdatasync does not, and a second one would lie.
#[test]
fn a_disk_that_fails_fdatasync_for_real_loses_no_line_it_promised() {
    let host = Host::bare();
    host.sh("mkdir /run/rig/back /run/rig/disk
         mount -t tmpfs -o size=3m none /run/rig/back
         truncate -s 32M /run/rig/back/image
         mkfs.ext4 -q -b 4096 -E lazy_itable_init=0,nodiscard -O ^has_journal /run/rig/back/image
         mount -o loop,nodiscard /run/rig/back/image /run/rig/disk
         mkdir /run/rig/disk/lib /run/rig/run");
    let short = ShortRequests::of(host.sh("findmnt -no SOURCE /run/rig/disk").trim());
    let path = Path::new("/run/rig/disk/lib/ledger.jsonl");
    let spool = Path::new("/run/rig/run/spool");
    let ledger = Ledger::new(path.to_owned(), spool.to_owned(), Sync::Always).with_boot("b");
    let event = |number: usize| Event {
        container: Some(format!("c{number}")),
        note: Some("x".repeat(400)),
        ..Event::new("cni", Action::Attach)
    };
    assert_eq!(ledger.append(&event(0)).unwrap(), Written::Ledger);
    // No page is left behind the image: what is written from here on cannot reach the disk.
    let mut filler = fs::File::create("/run/rig/back/filler").unwrap();
    while filler.write(&[0; 4096]).is_ok_and(|count| count > 0) {}
    let all = 100;
    let mut promised = vec![Written::Ledger];
    for number in 1..all {
        promised.push(ledger.append(&event(number)).unwrap());
    }
    drop(short);
    let spooled = promised.iter().filter(|written| **written == Written::Spool).count();
    println!("{spooled} of {all} lines went into the spool");
    assert!(spooled > all / 2, "the disk did not fail");
    // As after a power cut: what the disk really has.
    filler.set_len(0).unwrap();
    drop(ledger);
    let none = None::<&str>;
    host.sh("umount /run/rig/disk");
    host.sh("mount -o loop /run/rig/back/image /run/rig/disk");
    mount(none, "/run/rig/disk", none, MsFlags::MS_REMOUNT, none).unwrap();
    let ledger = Ledger::new(path.to_owned(), spool.to_owned(), Sync::Always).with_boot("b");
    ledger.append(&event(all)).unwrap();
    let report = ledger.verify().unwrap();
    let mut told: Vec<_> = ledger
        .read()
        .unwrap()
        .filter_map(|entry| entry.unwrap().line.ok())
        .filter_map(|line| line.event.container)
        .collect();
    told.sort_by_key(|name| name[1..].parse::<usize>().unwrap());
    let wanted: Vec<_> = (0..=all).map(|number| format!("c{number}")).collect();
    assert_eq!(told, wanted, "{report:?}");
    assert!(report.is_sound() && report.spooled == 0, "{report:?}");
    host.sh("umount /run/rig/disk");
}
