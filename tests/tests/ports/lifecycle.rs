//! From publishing to nothing.

use super::*;

#[test]
fn after_del_nothing_is_left() {
    let lab = Lab::new();
    let before = lab.host.snapshot();
    let sockets = || lab.host.sh("ss -Htuln | sort");
    let bound = sockets();
    let range: Vec<_> = (9000..9020).map(|number| port(number, "udp")).collect();
    let (web, ..) = lab.add("web", json!([port(8007, "tcp"), range[0], range[1], range[19]]));
    let _server = web.echo_server();
    assert_ne!(sockets(), bound);
    lab.peer().tcp_echo_port(lab.wire.address(), 8007, DATA).unwrap();
    udp_from(lab.peer(), lab.wire.address(), 9019).unwrap();
    // Asked again, the same answer, and no interruption.
    let again = conf(json!([port(8007, "tcp"), range[0], range[1], range[19]]));
    lab.host.plugin().add(&web, &again).success();
    lab.peer().tcp_echo_port(lab.wire.address(), 8007, DATA).unwrap();
    lab.del(&web);
    assert_eq!(sockets(), bound);
    lab.del(&web);
    drop(web);
    rig::assert_soon_same(&before, SOON, || lab.host.snapshot());
}

#[test]
fn down_takes_published_ports_along() {
    let lab = Lab::new();
    let (_web, ..) = lab.add("web", json!([port(8007, "tcp")]));
    lab.agent.terminate(SOON);
    lab.host.port_agent().run("down --force");
    assert_eq!(lab.host.sh("nft list tables | grep ovs-agent || true"), "");
    assert_eq!(lab.host.sh("ls /run/ovs-port-agent/ports"), "");
}
