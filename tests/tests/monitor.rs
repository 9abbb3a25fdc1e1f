//! The monitor: what is clearly nobody's plugs itself in; nothing else is touched.

use std::fs;
use std::net::IpAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rig::{Command, Container, Daemon, Dockerd, Host, poll};
use serde_json::Value;

/// Far above what it takes; a machine under load is slow.
const SOON: Duration = Duration::from_secs(20);

/// Far above `debounce_ms`: what would be taken has been by then.
const LONG: Duration = Duration::from_secs(3);

/// The monitor plugs into the NAT bridge, so that there is somebody to talk to.
const CONFIG: &str = "bridge_name = \"ovsbr1\"\ndebounce_ms = 300\n[[bridge]]\n\
                      name = \"ovsbr1\"\nmode = \"nat\"\naddresses = [\"10.200.0.1/24\"]\n";

/// Opens a tap and holds it until it is killed: TUNSETIFF with IFF_TAP | IFF_NO_PI.
const HOLD: &str = "import fcntl, struct, sys, time; f = open('/dev/net/tun', 'r+b', buffering=0); \
                    fcntl.ioctl(f, 0x400454ca, struct.pack('16sH', sys.argv[1].encode(), 0x1002)); \
                    time.sleep(600)";

/// The same, by a process of the user nobody.
const HOLD_AS_USER: &str = "import fcntl, os, struct, sys; f = os.open('/dev/net/tun', os.O_RDWR); \
     fcntl.ioctl(f, 0x400454ca, struct.pack('16sH', sys.argv[1].encode(), 0x1002)); \
     os.set_inheritable(f, True); os.setuid(65534); os.execvp('sleep', ['sleep', '600'])";

fn start(host: &Host, name: &str) -> Daemon {
    let agent = Daemon::start(name, host.port_agent().command("run"));
    agent.ready(SOON, || agent.log().contains("the host is up"));
    agent
}

fn ready() -> (Host, Daemon) {
    let host = Host::new();
    host.config(CONFIG);
    let agent = start(&host, "ovs-port-agent");
    (host, agent)
}

/// A veth as LXC or a script makes it: `name` here, `eth0` in the container.
fn veth(host: &Host, name: &str, container: &Container) {
    host.ip(&format!("link add {name} type veth peer name eth0 netns {}", container.name()));
    container.ip("link set eth0 up");
}

fn ports(host: &Host) -> Vec<String> {
    let mut ports: Vec<_> = host.vsctl("list-ports ovsbr1").lines().map(str::to_owned).collect();
    ports.sort();
    ports
}

fn plugged(host: &Host, port: &str) {
    poll(&format!("{port} is plugged in"), SOON, || {
        host.port_agent()
            .output("status --json")
            .stdout
            .contains(&format!("\"port\": \"{port}\""))
            .then_some(())
    });
}

fn unplugged(host: &Host, port: &str) {
    poll(&format!("{port} is gone"), SOON, || {
        (!ports(host).iter().any(|name| name == port)
            && !host.port_agent().output("status --json").stdout.contains(&format!("\"{port}\"")))
        .then_some(())
    });
}

fn passes_traffic(host: &Host, web: &Container, address: &str) {
    let gateway: IpAddr = "10.200.0.1".parse().unwrap();
    web.ip(&format!("address replace {address}/24 dev eth0"));
    let echo = host.echo_server();
    poll("ping passes", SOON, || web.ping(gateway).then_some(()));
    web.tcp_echo(gateway, 300_000).unwrap();
    drop(echo);
}

/// Why the monitor leaves an interface.
fn why(host: &Host, interface: &str, options: &str) -> String {
    let json = host.port_agent().run(&format!("monitor --dry-run --json {options}"));
    let rows: Value = serde_json::from_str(&json).unwrap();
    let row = rows.as_array().unwrap().iter().find(|row| row["interface"] == interface);
    let row = row.unwrap_or_else(|| panic!("{interface} is not listed: {json}"));
    assert_eq!(row["take"].as_bool().unwrap(), row["why"] == "", "{row}");
    row["why"].as_str().unwrap().to_owned()
}

fn hold(program: &str, tap: &str) -> Daemon {
    let command = Command::new(program).args(["-c", HOLD, tap]).deadline(Duration::MAX);
    let daemon = Daemon::start(&format!("hold-{tap}"), command);
    daemon.ready(SOON, || fs::exists(format!("/sys/class/net/{tap}")).unwrap_or(false));
    daemon
}

#[test]
fn a_veth_plugs_itself_in_and_out() {
    let (host, agent) = ready();
    let web = host.container("web");
    veth(&host, "vethQ1W2E3", &web);
    plugged(&host, "veth-web-eth0");
    passes_traffic(&host, &web, "10.200.0.9");
    assert!(
        agent.log().contains("plugged vethQ1W2E3 into ovsbr1 container=web port=veth-web-eth0"),
        "{}",
        agent.log()
    );
    let ids = host.vsctl("get Port veth-web-eth0 external_ids");
    assert!(ids.contains("ovs-agent-caller=monitor"), "{ids}");
    assert_eq!(host.vsctl("get Port veth-web-eth0 trunks").trim(), "[0]", "untagged only");
    // The container ends.
    drop(web);
    unplugged(&host, "veth-web-eth0");
    let ledger = host.port_agent().run("ledger show");
    assert!(ledger.contains("attach") && ledger.contains("detach"), "{ledger}");
    // The same again: the name is free again, or the next choice is taken.
    let web = host.container("web");
    veth(&host, "vethQ1W2E3", &web);
    poll("it is plugged in again", SOON, || (ports(&host).len() == 1).then_some(()));
    passes_traffic(&host, &web, "10.200.0.9");
}

#[test]
fn what_a_runtime_is_still_busy_with_is_left_alone() {
    let (host, agent) = ready();
    host.ip("link add name br9 type bridge");
    let (one, two, three, four) = (
        host.container("one"),
        host.container("two"),
        host.container("three"),
        host.container("four"),
    );
    // Each is free for a moment, as runtimes leave it while they work.
    veth(&host, "veth1", &one);
    veth(&host, "veth2", &two);
    veth(&host, "veth3", &three);
    sleep(Duration::from_millis(150));
    host.ip("link set veth1 master br9");
    host.ip("address add 192.0.2.1/24 dev veth2");
    host.ip("link set veth3 up");
    host.ip("route add 198.51.100.7/32 dev veth3");
    // One that is made here and moved later, is taken once it is there.
    host.ip("link add veth4 type veth peer name veth5");
    sleep(LONG);
    assert_eq!(ports(&host), [""; 0], "{}", agent.log());
    assert_eq!(why(&host, "veth1", ""), "it is a member of br9");
    assert_eq!(why(&host, "veth2", ""), "it has an address");
    assert_eq!(why(&host, "veth3", ""), "a route leads through it");
    assert_eq!(why(&host, "veth4", ""), "its other end is on this host as well");
    host.ip("link set veth5 netns four name eth0");
    four.ip("link set eth0 up");
    plugged(&host, "veth-four-eth0");
    passes_traffic(&host, &four, "10.200.0.9");
    // Given free later, without any news of the link: the next patrol finds it; by hand at once.
    host.ip("link set veth1 nomaster");
    plugged(&host, "veth-one-eth0");
    assert_eq!(ports(&host), ["veth-four-eth0", "veth-one-eth0"]);
}

#[test]
fn taps_are_taken_while_somebody_holds_them() {
    let (host, agent) = ready();
    // A tap that nobody holds.
    host.ip("tuntap add mode tap tap-mon-idle");
    // One of a VM: it keeps its name.
    let vm = hold("python3", "tap-mon-vm1");
    plugged(&host, "tap-mon-vm1");
    assert_eq!(ports(&host), ["tap-mon-vm1"], "{}", agent.log());
    assert!(host.ip("link show tap-mon-vm1").contains("UP"));
    assert_eq!(why(&host, "tap-mon-idle", ""), "no process is seen to hold it open");
    // OpenVPN's, by the name of the program.
    let openvpn = "/usr/local/bin/openvpn";
    fs::copy("/usr/bin/python3", openvpn).unwrap();
    let tunnel = hold(openvpn, "tap-mon-vpn");
    // VMs of Proxmox and libvirt, by the names they give.
    let (proxmox, libvirt) = (hold("python3", "tap9107i0"), hold("python3", "vnet9107"));
    sleep(LONG);
    assert_eq!(why(&host, "tap-mon-vpn", ""), "it is held open by openvpn, which is OpenVPN's");
    assert_eq!(why(&host, "tap9107i0", ""), "its name is one that Proxmox gives");
    assert_eq!(why(&host, "vnet9107", ""), "its name begins with none of include_prefixes");
    assert_eq!(ports(&host), ["tap-mon-vm1"]);
    // The VM ends, and its tap with it; the same starts again at once.
    vm.kill();
    let vm = hold("python3", "tap-mon-vm1");
    poll("its next tap works", SOON, || {
        let row = host.vsctl("--columns=ofport,ifindex,error find Interface name=tap-mon-vm1");
        let index = fs::read_to_string("/sys/class/net/tap-mon-vm1/ifindex").unwrap();
        (row.contains(&format!(": {}", index.trim())) && row.contains("error               : []"))
            .then_some(())
    });
    plugged(&host, "tap-mon-vm1");
    vm.kill();
    unplugged(&host, "tap-mon-vm1");
    drop((tunnel, proxmox, libvirt));
}

#[test]
fn a_users_tap_is_taken_by_an_agent_that_cannot_look_into_it() {
    let host = Host::new();
    host.config(CONFIG);
    // What the shipped unit leaves root: no CAP_DAC_OVERRIDE, no CAP_DAC_READ_SEARCH.
    let caps = "-dac_override,-dac_read_search";
    let command = Command::new("setpriv")
        .args(["--bounding-set", caps, "--inh-caps", caps])
        .args([host.port_agent().path()])
        .args(["run"])
        .deadline(Duration::MAX);
    let agent = Daemon::start("ovs-port-agent", command);
    agent.ready(SOON, || agent.log().contains("the host is up"));
    // As a user who may open the device: the machine's own lets only root.
    let command =
        Command::new("python3").args(["-c", HOLD_AS_USER, "tap-mon-user"]).deadline(Duration::MAX);
    let _holder = Daemon::start("hold-tap-mon-user", command);
    plugged(&host, "tap-mon-user");
}

#[test]
fn older_ones_wait_for_adopt_and_detached_ones_too() {
    let host = Host::new();
    host.config(CONFIG);
    let (old, new) = (host.container("old"), host.container("new"));
    veth(&host, "veth-old", &old);
    let older = "it is older than the agent's first start; --adopt takes it";
    let agent = host.port_agent();
    agent.run("up");
    assert_eq!(why(&host, "veth-old", ""), older, "no agent has started yet");
    let running = start(&host, "first-start");
    veth(&host, "veth-new", &new);
    plugged(&host, "veth-new-eth0");
    assert_eq!(why(&host, "veth-old", ""), older);
    assert_eq!(why(&host, "veth-old", "--adopt"), "");
    let table = agent.run("monitor --dry-run");
    for line in ["INTERFACE", "veth-old", "veth-new-eth0"] {
        assert!(table.contains(line), "{table}");
    }
    assert!(table.contains("it is plugged in already") && table.contains(older), "{table}");
    // A new start is no first start.
    running.terminate(SOON);
    let late = host.container("late");
    veth(&host, "veth-late", &late);
    let _running = start(&host, "second-start");
    plugged(&host, "veth-late-eth0");
    // By hand it stays out, and comes back by hand.
    assert!(agent.run("detach veth-new").contains("veth-new unplugged"));
    sleep(LONG);
    assert_eq!(ports(&host), ["veth-late-eth0"]);
    assert_eq!(why(&host, "veth-new", ""), "it was detached by hand; --adopt takes it");
    let said = agent.run("monitor --adopt");
    assert!(said.contains("veth-old plugged into ovsbr1 as veth-old-eth0"), "{said}");
    poll("all three", SOON, || (ports(&host).len() == 3).then_some(()));
    passes_traffic(&host, &old, "10.200.0.9");
}

#[test]
fn dockers_own_bridge_is_dockers() {
    let (host, agent) = ready();
    let docker: Dockerd = host.dockerd();
    docker.load();
    let before = ports(&host);
    let one = docker.start_container("one", "--network bridge");
    let two = docker.start_container("two", "--network bridge");
    sleep(LONG);
    assert_eq!(ports(&host), before, "{}", agent.log());
    let json = host.port_agent().run("monitor --dry-run --json");
    let rows: Value = serde_json::from_str(&json).unwrap();
    let dockers =
        rows.as_array().unwrap().iter().filter(|row| row["why"] == "it is a member of docker0");
    assert_eq!(dockers.count(), 2, "{json}");
    assert!(one.ping(docker.address("bridge", "two")));
    drop((one, two));
}

#[test]
fn a_storm_of_five_hundred_is_absorbed() {
    let (host, agent) = ready();
    let many = host.container("many");
    let mut batch = String::new();
    for n in 0..500 {
        batch.push_str(&format!("link add vethS{n} type veth peer name e{n} netns many\n"));
    }
    fs::write("/run/storm", &batch).unwrap();
    let started = Instant::now();
    host.ip("-batch /run/storm");
    let made = started.elapsed();
    poll("all of them are ports", Duration::from_secs(120), || {
        (ports(&host).len() == 500).then_some(())
    });
    let took = started.elapsed();
    eprintln!("500 made in {made:?}, plugged in after {took:?}");
    poll("all of them are recorded", SOON, || {
        let json: Value =
            serde_json::from_str(&host.port_agent().output("status --json").stdout).ok()?;
        let all = json["attachments"].as_array()?;
        (all.len() == 500 && all.iter().all(|one| one["state"] == "ok")).then_some(())
    });
    // One of them, for real.
    many.ip("link set e77 up");
    many.ip("address add 10.200.0.9/24 dev e77");
    poll("it passes", SOON, || many.ping("10.200.0.1".parse().unwrap()).then_some(()));
    // Then it idles, once the collector has had its look 5 s after the last change: nothing of what
    // the storm took is kept, and nothing is looked at.
    let of_process =
        |file: &str| fs::read_to_string(format!("/proc/{}/{file}", agent.pid())).unwrap();
    let ticks = || -> u64 {
        // utime and stime of proc_pid_stat(5), behind the name in brackets.
        let stat = of_process("stat");
        let fields = stat.rsplit(')').next().unwrap().split_whitespace().skip(11).take(2);
        fields.map(|ticks| ticks.parse::<u64>().unwrap()).sum()
    };
    let mut quiet = 0;
    poll("it idles for eight seconds", Duration::from_secs(30), || {
        let before = ticks();
        sleep(Duration::from_secs(4));
        let spent = ticks() - before;
        eprintln!("{spent} ticks in 4 s");
        quiet = if spent < 5 { quiet + 1 } else { 0 };
        (quiet == 2).then_some(())
    });
    let status = of_process("status");
    let heap = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let heap: u64 = heap.trim().trim_end_matches(" kB").parse().unwrap();
    eprintln!("idle: {heap} KiB of heap and stacks");
    // The rest of the 20 MiB is the program itself.
    assert!(heap < 10 * 1024, "{heap} KiB of heap and stacks");
    let ended = Instant::now();
    drop(many);
    poll("all of them are gone", Duration::from_secs(120), || {
        ports(&host).is_empty().then_some(())
    });
    poll("and their records", SOON, || {
        (fs::read_dir("/run/ovs-port-agent/attachments").unwrap().count() == 0).then_some(())
    });
    eprintln!("unplugged after {:?}", ended.elapsed());
    host.port_agent().run("ledger verify");
}

#[test]
fn a_real_lxc_container_is_plugged_in_and_out() {
    let (host, _agent) = ready();
    host.unified_cgroups();
    // A veth without a bridge: lxc leaves its end to whoever wants it.
    host.sh("mkdir -p /run/lxc/root/bin /run/lxc/root/dev /run/lxc/root/proc /run/lxc/root/sys
             cp /bin/busybox /run/lxc/root/bin/
             ln -s busybox /run/lxc/root/bin/sleep");
    host.write(
        "/run/lxc/config",
        "lxc.uts.name = db\nlxc.rootfs.path = dir:/run/lxc/root\nlxc.init.cmd = /bin/sleep 600\n\
         lxc.net.0.type = veth\nlxc.net.0.flags = up\nlxc.net.0.name = eth0\n\
         lxc.apparmor.profile = unconfined\n",
    );
    host.sh("lxc-start -d -n db -f /run/lxc/config -P /run/lxc -o /run/lxc/log");
    let pid = host.sh("lxc-info -n db -P /run/lxc -p -H");
    let db = Container::of_process("db", pid.trim().parse().unwrap());
    poll("its port", SOON, || (ports(&host).len() == 1).then_some(()));
    let port = ports(&host).remove(0);
    plugged(&host, &port);
    // Named after the container, not after the letters that lxc drew.
    assert_eq!(port, "veth-db-eth0");
    passes_traffic(&host, &db, "10.200.0.9");
    drop(db);
    host.sh("lxc-stop -k -n db -P /run/lxc");
    unplugged(&host, &port);
}

#[test]
fn the_tap_of_a_real_qemu_is_plugged_in_and_out() {
    let (host, _agent) = ready();
    // No guest: its network card and what is behind it are QEMU's own.
    let machine = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg", "-nodefaults", "-display", "none", "-S", "-m", "32"])
        .args(["-netdev", "tap,id=net,ifname=tap7,script=no,downscript=no"])
        .args(["-device", "virtio-net-pci,netdev=net"])
        .deadline(Duration::MAX);
    let machine = Daemon::start("qemu", machine);
    plugged(&host, "tap7");
    let tap = host.ip("-o link show tap7");
    assert!(tap.contains(",UP,"), "{tap}");
    let looks = host.port_agent().run("monitor --dry-run");
    let line = looks.lines().find(|line| line.starts_with("tap7")).unwrap_or_default();
    assert!(line.contains("plugged in already"), "{looks}");
    machine.kill();
    unplugged(&host, "tap7");
}

/// The agent died in the middle: the interface is ours by its group, and in no switch.
#[test]
fn an_interface_that_a_killed_agent_was_plugging_in_is_plugged_in_by_the_next() {
    let (host, agent) = ready();
    let web = host.container("web");
    veth(&host, "vethweb", &web);
    plugged(&host, "veth-web-eth0");
    agent.kill();
    let file = host.sh("ls /run/ovs-port-agent/attachments/*.json");
    let text = fs::read_to_string(file.trim()).unwrap();
    let mut record: Value = serde_json::from_str(&text).unwrap();
    record["complete"] = false.into();
    host.vsctl("del-port veth-web-eth0");
    fs::write(file.trim(), record.to_string()).unwrap();
    let _agent = start(&host, "next");
    poll("it is plugged in", SOON, || {
        let text = fs::read_to_string(file.trim()).ok()?;
        let record: Value = serde_json::from_str(&text).ok()?;
        (record["complete"] == true && ports(&host) == ["veth-web-eth0"]).then_some(())
    });
    passes_traffic(&host, &web, "10.200.0.99");
}
