//! Docker 26 whose containers outlive it; everything else of its is in `tests/tests/docker`.

use rig::INTERNET;

use super::{CONFIG, SECOND, WIRELESS, users_machine};

#[test]
fn live_restore_with_docker_26() {
    let machine = users_machine();
    machine.write("/etc/docker/daemon.json", "{\"live-restore\": true}");
    machine.install(CONFIG);
    machine.sh("systemctl restart docker");
    let image = machine.docker_image();
    machine.sh(&format!(
        "docker network create -d ovs-agent web
         docker network create -d ovs-agent --ipam-driver ovs-agent shared
         docker run -d --restart=always --name one --network web {image}
         docker run -d --restart=always --name two --network web {image}
         docker run -d --restart=always --name three --network shared {image}"
    ));
    let pids = || machine.sh("docker inspect -f '{{.State.Pid}}' one two three");
    let same = pids();
    let (one, two) = (machine.docker_container("one"), machine.docker_container("two"));
    let there = machine.sh("docker inspect -f '{{.NetworkSettings.Networks.web.IPAddress}}' two");
    let there = there.trim().parse().unwrap();
    let _server = two.echo_server();
    for how in ["stop docker.socket docker", "kill -s KILL --kill-whom=main docker"] {
        machine.sh(&format!("systemctl {how}; systemctl restart ovs-agent-docker"));
        one.tcp_echo(there, 1 << 20).unwrap();
        // Started that often, systemd would wait ten seconds.
        machine.sh("systemctl reset-failed; systemctl start docker.socket docker");
        machine.wait("dockerd", SECOND * 60, "docker info");
        assert_eq!(pids(), same);
        one.tcp_echo(there, 1 << 20).unwrap();
        assert_eq!(one.who_answers(INTERNET).unwrap().1, WIRELESS);
        machine.sh(&format!("docker run --rm --network shared {image} true"));
    }
    drop((one, two));
    machine.sh("docker rm -f one two three; docker network rm web shared");
    assert_eq!(machine.sh("ip -o link show group 28534"), "");
    assert_eq!(machine.sh("ovs-vsctl list-ports ovsbr1"), "");
}
