//! The agent dies and comes back.

use std::net::TcpListener;

use super::*;

#[test]
fn a_killed_agent_takes_up_its_ports_again() {
    let mut lab = Lab::new();
    let mut local = port(8001, "tcp");
    local["hostIP"] = json!("127.0.0.1");
    let (web, ..) = lab.add("web", json!([port(8007, "tcp"), port(8007, "udp"), local]));
    let (gone, ..) = lab.add("gone", json!([port(8009, "tcp")]));
    let _server = web.echo_server();
    let lan = lab.wire.address();
    lab.agent.kill();
    // What nftables sends on needs no agent; what it carried itself does.
    lab.peer().tcp_echo_port(lan, 8007, DATA).unwrap();
    udp_from(lab.peer(), lan, 8007).unwrap();
    assert!(tcp_from_host(ip("127.0.0.1"), 8007).is_err());
    let status = lab.host.port_agent().output("status");
    assert!(status.stdout.contains("published ports need a running ovs-port-agent"), "{status}");
    // DEL neither fails nor waits.
    let started = std::time::Instant::now();
    lab.del(&gone);
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    refused(lab.peer(), lan, 8009);

    // Meanwhile somebody takes one of the ports.
    let foreign = TcpListener::bind("127.0.0.1:8001").unwrap();
    lab.agent = start(&lab.host);
    poll("the ports are held again", SOON, || tcp_from_host(ip("127.0.0.1"), 8007).ok());
    udp_from_host(ip("::1"), 8007).unwrap();
    TcpListener::bind("0.0.0.0:8009").expect("what went meanwhile stays gone");
    let status = lab.host.port_agent().output("status");
    assert!(!status.ok(), "{status}");
    assert!(status.stdout.contains("127.0.0.1:8001 is in use by another program"), "{status}");
    drop(foreign);
    poll("the port is taken once it is free", SOON, || tcp_from_host(ip("127.0.0.1"), 8001).ok());
    lab.del(&web);
    refused(lab.peer(), lan, 8007);
    assert_eq!(lab.host.sh("ls /run/ovs-port-agent/ports"), "");
}

/// It hears nobody any more, and nobody else may change its table.
#[test]
fn a_del_while_the_agent_ends_frees_no_address_that_a_port_leads_to() {
    let mut lab = Lab::new();
    let (web, own, _) = lab.add("web", json!([port(8007, "tcp")]));
    let server = web.echo_server();
    lab.host.sh("mv /run/ovs-port-agent/control.sock /run/kept");
    lab.del(&web);
    drop(server);
    let next = lab.host.container("next");
    let mut same = conf(json!([]));
    same["args"] = json!({"cni": {"ips": [own.to_string()]}});
    let refusal = lab.host.plugin().add(&next, &same).failure().to_string();
    assert!(refusal.contains("is held by lab/web/eth0"), "{refusal}");
    lab.agent.kill();
    lab.agent = start(&lab.host);
    poll("the address is free", SOON, || lab.host.plugin().add(&next, &same).ok().then_some(()));
    let _server = next.echo_server();
    refused(lab.peer(), lab.wire.address(), 8007);
    assert_eq!(lab.host.sh("ls /run/ovs-port-agent/ports"), "");
}

#[test]
fn what_has_no_attachment_is_dropped() {
    let mut lab = Lab::new();
    let (web, ..) = lab.add("web", json!([port(8007, "tcp")]));
    lab.agent.kill();
    // A DEL that was killed after the record went, or a lost file of one of the two.
    lab.host.sh("cp -a /run/ovs-port-agent/ports /run/kept");
    lab.del(&web);
    lab.host.sh("cp -a /run/kept/. /run/ovs-port-agent/ports/");
    lab.agent = start(&lab.host);
    poll("it is dropped", SOON, || {
        lab.host.sh("ls /run/ovs-port-agent/ports").is_empty().then_some(())
    });
    TcpListener::bind("[::]:8007").unwrap();
    assert!(!lab.host.sh("nft list table inet ovs-agent").contains("8007"));
}
