//! The engine on a private host: what ADD and DEL do, without a front end.

use rig::{Lab, assert_same};

#[test]
fn two_containers_talk_and_nothing_is_left() {
    let lab = Lab::new();
    let before = lab.snapshot();
    let (web, db) = (lab.host.container("web"), lab.host.container("db"));
    let one = lab.attach(&web);
    let two = lab.attach(&db);
    assert_eq!(one.port.as_str(), "veth-web-eth0");
    assert_ne!(one.addresses, two.addresses);
    for address in &two.addresses {
        let _server = db.echo_server();
        assert!(web.ping(address.address.addr()), "{}", address.address);
        web.tcp_echo(address.address.addr(), 1 << 20).unwrap();
    }
    lab.detach("web");
    lab.detach("db");
    web.remove();
    db.remove();
    assert_same(&before, &lab.snapshot());
}
