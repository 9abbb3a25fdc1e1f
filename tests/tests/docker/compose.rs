//! `docker compose` with the example file.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use rig::{Host, INTERNET};

use crate::ports::{soon_as_before, start_agent};
use crate::up;

#[test]
fn the_example_comes_up_works_and_goes_down() {
    let host = Host::new();
    let way_out = host.uplink("wlp4s0", 1).addressed(&host).routed(&host, 100);
    let lan = host.uplink("enp2s0", 7);
    host.config(
        "[[bridge]]\nname = \"ovsbr0\"\nmode = \"direct\"\nuplink = \"enp2s0\"\n\
         [[bridge]]\nname = \"ovsbr1\"\nmode = \"nat\"\naddresses = [\"10.200.0.1/24\"]\n",
    );
    let (driver, docker) = up(&host);
    let _agent = start_agent(&host);
    let before = host.snapshot();
    let example = host.shipped("examples/docker/compose.yaml");
    docker.compose(&example, "up -d");
    let name =
        |service: &str| docker.compose(&example, &format!("ps -q {service}")).trim().to_owned();
    let (web, db) = (name("web"), name("db"));
    let (front, back) = (docker.container(&web), docker.container(&db));
    front.tcp_echo(INTERNET, 1 << 20).unwrap();
    let _server = back.echo_server();
    let listener = front.inside(|| TcpListener::bind("0.0.0.0:80")).unwrap();
    let mut caller = way_out.router().connect(way_out.address(), 8080).unwrap();
    let (mut served, seen) = listener.accept().unwrap();
    assert_eq!(seen.ip(), way_out.gateway());
    served.write_all(b"from the container").unwrap();
    drop(served);
    let mut heard = String::new();
    caller.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "from the container");
    front.tcp_echo("10.77.0.20".parse().unwrap(), 1 << 20).unwrap();
    docker.run(&format!("exec {web} ping -c 1 -W 2 db"));
    assert!(back.ping(lan.gateway()), "{}", driver.log());
    let mtu = back.ip("-o address show to 10.77.0.20");
    let interface = mtu.split_whitespace().nth(1).unwrap();
    assert!(back.ip(&format!("-o link show {interface}")).contains("mtu 1400"));
    // A second "up" changes nothing, a restart brings the same.
    docker.compose(&example, "up -d");
    assert_eq!((name("web"), name("db")), (web.clone(), db));
    docker.compose(&example, "restart -t 0");
    docker.run(&format!("exec {web} ping -c 1 -W 2 db"));
    docker.compose(&example, "down -t 0");
    drop((front, back));
    soon_as_before(&before, &host);
}
