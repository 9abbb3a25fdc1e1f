//! Ports that somebody has already, and ports nobody can hold.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::time::Instant;

use super::*;

/// The error of an ADD that must fail, as one text.
fn fails(lab: &Host, name: &str, ports: Value) -> (u64, String) {
    let container = lab.container(name);
    let error = lab.plugin().add(&container, &conf(ports)).failure();
    let word = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
    (error["code"].as_u64().unwrap(), format!("{} | {}", word("msg"), word("details")))
}

#[test]
fn a_port_that_is_taken_is_noticed_at_once_and_nothing_is_half_done() {
    let lab = Lab::new();
    let (web, ..) = lab.add("web", json!([port(8080, "tcp")]));
    let _server = web.echo_server();
    let before = lab.host.snapshot();
    // The second of two: the first is given back.
    let (code, text) = fails(&lab.host, "late", json!([port(8081, "tcp"), port(8080, "tcp")]));
    assert_eq!(code, 101);
    assert!(text.contains("port 8080:7/tcp cannot be published: web has 8080:7/tcp"), "{text}");
    assert!(text.contains("choose another host port or address, or stop web"), "{text}");
    let mut at = port(8080, "tcp");
    at["hostIP"] = json!("127.0.0.1");
    let (_, text) = fails(&lab.host, "late", json!([at]));
    assert!(text.contains("port 127.0.0.1:8080:7/tcp cannot be published"), "{text}");

    let foreign = TcpListener::bind("[::]:8090").unwrap();
    let (code, text) = fails(&lab.host, "late", json!([port(8081, "tcp"), port(8090, "tcp")]));
    assert_eq!(code, 101);
    assert!(text.contains("0.0.0.0:8090 is in use by another program"), "{text}");
    assert!(text.contains("ss -ltnp 'sport = :8090'"), "{text}");
    drop(foreign);
    let mut elsewhere = port(8081, "tcp");
    elsewhere["hostIP"] = json!("192.0.2.77");
    let (_, text) = fails(&lab.host, "late", json!([elsewhere]));
    assert!(text.contains("192.0.2.77 is no address of this host"), "{text}");
    let (_, text) = fails(&lab.host, "late", json!([port(8081, "tcp"), port(8081, "tcp")]));
    assert!(text.contains("to be published twice"), "{text}");

    rig::assert_soon_same(&before, SOON, || lab.host.snapshot());
    TcpListener::bind("[::]:8081").expect("what a failed call bound is free again");
    lab.peer().tcp_echo_port(lab.wire.address(), 8080, DATA).unwrap();
    // UDP is another matter, and so is a port given back.
    let (dns, ..) = lab.add("dns", json!([port(8080, "udp")]));
    lab.del(&web);
    lab.del(&dns);
    let (_again, ..) = lab.add("again", json!([port(8080, "tcp"), port(8080, "udp")]));
}

#[test]
fn without_an_agent_publishing_fails_and_everything_else_works() {
    let host = Host::new();
    host.port_agent().run("up");
    let before = host.snapshot();
    let (code, text) = fails(&host, "web", json!([port(8080, "tcp")]));
    assert_eq!(code, 11);
    assert!(text.contains("published ports need a running ovs-port-agent"), "{text}");
    assert!(text.contains("systemctl start ovs-port-agent"), "{text}");
    rig::assert_same(&before, &host.snapshot());
    let web = host.container("web");
    host.plugin().add(&web, &conf(json!([]))).success();
    host.plugin().del(&web, &conf(json!([]))).success();
}

#[test]
fn an_attach_without_ports_asks_nobody() {
    let host = Host::new();
    host.port_agent().run("up");
    let listener = std::os::unix::net::UnixListener::bind(state().control()).unwrap();
    listener.set_nonblocking(true).unwrap();
    let web = host.container("web");
    host.plugin().add(&web, &conf(json!([]))).success();
    let asked = listener.accept().map(drop);
    assert_eq!(asked.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    // DEL asks for its interface alone, and does not wait for long.
    let begin = Instant::now();
    host.plugin().del(&web, &conf(json!([]))).success();
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    let (stream, _) = listener.accept().unwrap();
    let mut question = String::new();
    BufReader::new(stream).read_line(&mut question).unwrap();
    assert!(question.starts_with("{\"unlink\":"), "{question}");
    let more = listener.accept().map(drop);
    assert_eq!(more.unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn two_networks_of_one_container_publish_its_ports_once() {
    let lab = Lab::new();
    let (web, ..) = lab.add("web", json!([port(8080, "tcp")]));
    let _server = web.echo_server();
    let mut second = conf(json!([port(8080, "tcp")]));
    second["name"] = json!("blue");
    second["vlan"] = json!(30);
    second["subnets"] = json!(["10.30.0.0/24"]);
    let netns = web.path().display().to_string();
    lab.host.plugin().call("ADD", "web", &netns, "eth1", &second).success();
    tcp_from_host(ip("127.0.0.1"), 8080).unwrap();
    lab.host.plugin().call("DEL", "web", &netns, "eth1", &second).success();
    tcp_from_host(ip("127.0.0.1"), 8080).unwrap();
    // One on which nobody could be reached is as good for that.
    let mut plain = conf(json!([port(8080, "tcp")]));
    (plain["name"], plain["ipam"]) = (json!("plain"), json!({}));
    lab.host.plugin().call("ADD", "web", &netns, "eth2", &plain).success();
    tcp_from_host(ip("127.0.0.1"), 8080).unwrap();
}
