//! Compose with the example file: version 1 on Debian 12, version 2 on Debian 13.

use rig::INTERNET;

use crate::site::{Site, reaches, surfs, tcp, with_both};

with_both!(the_example_comes_up_works_and_goes_down, services_say_what_their_endpoints_are);

fn the_example_comes_up_works_and_goes_down(site: &Site) {
    let before = site.snapshot();
    // The user's own LAN, as the file says.
    let example = site
        .shipped("examples/docker/compose.yaml")
        .replace("198.18.7.", site.on_wire(0).to_string().trim_end_matches('0'));
    site.compose(&example, "up -d");
    let name =
        |service: &str| site.compose(&example, &format!("ps -q {service}")).trim().to_owned();
    let (web, db) = (name("web"), name("db"));
    let (front, back) = (site.container(&web), site.container(&db));
    surfs(&front, &[INTERNET]);
    let _back = back.echo_server();
    reaches(&front, "10.77.0.20".parse().unwrap());
    site.docker(&format!("exec {web} ping -c 1 -W 2 db"));
    site.docker(&format!("exec {db} ping -c 1 -W 2 web"));
    reaches(&back, site.on_wire(1).into());
    // Port 8080 of the host leads to port 80.
    let listener = front.inside(|| std::net::TcpListener::bind("0.0.0.0:80")).unwrap();
    let echo = std::thread::spawn(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        std::io::copy(&mut stream.try_clone().unwrap(), &mut stream).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        peer.ip()
    });
    tcp(site.peer(), site.lan()[0], 8080).unwrap();
    assert_eq!(echo.join().unwrap(), site.peers()[0]);
    let shown = back.ip("-o address show to 10.77.0.20");
    let interface = shown.split_whitespace().nth(1).unwrap();
    assert!(back.ip(&format!("-o link show {interface}")).contains("mtu 1400"));
    // A second "up" changes nothing, a restart brings the same.
    site.compose(&example, "up -d");
    assert_eq!((name("web"), name("db")), (web.clone(), db));
    site.compose(&example, "restart -t 0");
    site.docker(&format!("exec {web} ping -c 1 -W 2 db"));
    site.compose(&example, "down -t 0");
    drop((front, back));
    site.soon_as_before(&before);
}

fn services_say_what_their_endpoints_are(site: &Site) {
    let before = site.snapshot();
    let text = r#"
services:
  one:
    image: ${IMAGE}
    mac_address: "02:42:0a:1e:00:99"
    networks:
      web:
        ipv4_address: 10.30.0.9
        ipv6_address: fd00:30::9
        aliases: [first]
    ports: ["127.0.0.1:8080:7", "9000-9001:7-8/udp"]
    restart: always
  two:
    image: ${IMAGE}
    networks: [web]
networks:
  web:
    driver: ovs-agent
    enable_ipv6: true
    driver_opts: {vlan: "31", nat: "false"}
    ipam:
      config:
        - subnet: 10.30.0.0/24
          gateway: 10.30.0.254
          aux_addresses: {printer: 10.30.0.1}
        - subnet: fd00:30::/64
"#;
    // Version 1 takes files that say their version.
    let text = &format!("version: \"2.4\"{text}");
    site.compose(text, "up -d");
    let name = |service: &str| site.compose(text, &format!("ps -q {service}")).trim().to_owned();
    let (one, two) = (site.container(&name("one")), site.container(&name("two")));
    assert_eq!(one.mac("eth0"), [0x02, 0x42, 0x0a, 0x1e, 0x00, 0x99]);
    assert!(two.ip("route").contains("default via 10.30.0.254"));
    let _server = one.echo_server();
    reaches(&two, "10.30.0.9".parse().unwrap());
    reaches(&two, "fd00:30::9".parse().unwrap());
    site.docker(&format!("exec {} ping -c 1 -W 2 first", name("two")));
    tcp(site.host(), "127.0.0.1".parse().unwrap(), 8080).unwrap();
    crate::site::udp(site.peer(), site.lan()[0], 9000).unwrap();
    crate::site::closed(site.peer(), site.lan()[0], 8080);
    // What cannot be is said as it is by docker itself.
    let bad =
        text.replace("vlan:", "vlna:").replace("10.30.", "10.31.").replace("fd00:30", "fd00:31");
    let output = site.try_compose(&bad.replace("web", "bad"), "up -d");
    let said = format!("{}{}", output.stdout, output.stderr);
    assert!(!output.ok() && said.contains("did you mean vlan?"), "{output}");
    site.compose(&bad.replace("web", "bad"), "down -t 0");
    site.compose(text, "down -t 0");
    drop((one, two));
    site.soon_as_before(&before);
}
