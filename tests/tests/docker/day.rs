//! What the page says, what is shown, what is refused.

use crate::site::{Site, with_both};

with_both!(
    the_page_starts_with_a_session_that_works,
    inspect_shows_what_was_asked_for,
    what_cannot_be_is_refused_with_what_can,
);

/// An image of the name in the page, with the two programs of it that the session uses.
fn nginx(site: &Site) {
    site.sh("mkdir -p /run/nginx/bin; cd /run/nginx
        printf 'hello' >index.html
        printf '#!/bin/sh\\nexec wget -q -O - \"$2\"\\n' >bin/curl; chmod +x bin/curl
        cp /bin/busybox bin/httpd
        printf 'FROM localhost/rig:1\\nADD . /\\nCMD [\"httpd\", \"-f\", \"-p\", \"80\", \"-h\", \"/\"]\\n' \
            >Dockerfile");
    site.docker("build -q -t nginx:stable /run/nginx");
}

fn the_page_starts_with_a_session_that_works(site: &mut Site) {
    nginx(site);
    let page = site.shipped("docs/docker.md");
    let session = page.split("```console\n").nth(1).unwrap().split("```").next().unwrap();
    let lines: Vec<_> = session.lines().map(|line| line.strip_prefix("# ").unwrap()).collect();
    let [up, setup @ .., question] = lines.as_slice() else { panic!("{session}") };
    assert_eq!((*up, setup.len()), ("ovs-port-agent up && systemctl start ovs-agent-docker", 3));
    // As it stands, on a host where neither runs yet.
    site.begin(up);
    for line in setup {
        site.shell(line);
    }
    assert_eq!(site.shell(question), "hello");
    site.shell("docker rm -f one two && docker network rm web");
}

fn inspect_shows_what_was_asked_for(site: &Site) {
    site.docker(
        "network create -d ovs-agent --subnet 10.30.0.0/24 --gateway 10.30.0.254 --ip-range \
         10.30.0.64/28 --aux-address printer=10.30.0.65 -o vlan=30 -o mtu=1400 --label a=b lan",
    );
    assert_eq!(site.inspect("lan", ".Options|json"), r#"{"mtu":"1400","vlan":"30"}"#);
    assert_eq!(site.inspect("lan", ".Labels|json"), r#"{"a":"b"}"#);
    assert_eq!(site.inspect("lan", ".Driver"), "ovs-agent");
    let ipam = site.inspect("lan", ".IPAM.Config|json");
    for part in ["10.30.0.0/24", "10.30.0.64/28", "10.30.0.254", "\"printer\":\"10.30.0.65\""] {
        assert!(ipam.contains(part), "{ipam}");
    }
    site.start("one", "--network lan");
    let containers = site.inspect("lan", ".Containers|json");
    assert!(containers.contains("\"Name\":\"one\"") && containers.contains("10.30.0.64/24"));
    let shown = site.inspect("one", ".NetworkSettings.Networks.lan|json");
    for part in
        ["\"Gateway\":\"10.30.0.254\"", "10.30.0.64", "\"MacAddress\":\"0a:58:0a:1e:00:40\""]
    {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let list = site.docker("network ls --filter driver=ovs-agent --format {{.Name}}");
    assert_eq!(list, "lan\n");
}

fn what_cannot_be_is_refused_with_what_can(site: &Site) {
    site.docker("network create -d ovs-agent -o vlan=30 taken");
    let before = site.snapshot();
    let kept = || site.sh("find /var/lib/ovs-port-agent/docker -type f | sort");
    let files = kept();
    for (options, words) in [
        ("-o vlan=5000", ["-o vlan \"5000\"", "4094"]),
        ("-o vlan=30", ["-o vlan \"30\"", "in use"]),
        ("-o vlna=31", ["-o vlna \"31\"", "did you mean vlan?"]),
        ("-o mtu=big", ["-o mtu \"big\"", "68"]),
        ("-o mtu=1000 --ipv6 --subnet fd00:31::/64", ["-o mtu \"1000\"", "1280"]),
        ("-o nat=perhaps", ["-o nat \"perhaps\"", "nat=false"]),
        ("-o bridge=nowhere --ipam-driver null", ["nowhere", ";"]),
        ("-o parent=eth0", ["-o parent \"eth0\"", "bridge, vlan, mtu, nat"]),
        ("--internal -o nat=true", ["-o nat \"true\"", "internal"]),
        ("-o vlan=0", ["-o vlan \"0\"", "--ipam-driver ovs-agent"]),
        ("--subnet 10.200.0.0/24", ["10.200.0.0/24", "--ipam-driver ovs-agent"]),
        ("--subnet 10.200.0.128/25", ["10.200.0.128/25", "10.200.0.0/24"]),
        ("-o bridge=ovsbr0 --subnet 198.18.9.0/24", ["no range", "--ip-range"]),
        ("-o bridge=ovsbr0 --internal --ipam-driver null", ["internal", "ovsbr0"]),
        ("--ipam-driver ovs-agent -o vlan=31", ["-o vlan", "untagged"]),
        ("--ipam-driver ovs-agent --internal", ["internal", "--subnet"]),
        ("--ipam-driver ovs-agent -o bridge=ovsbr0", ["-o bridge", "--subnet"]),
        ("--ipam-driver ovs-agent -o nat=false", ["-o nat \"false\"", "name another subnet"]),
        ("--ipam-driver ovs-agent --ipam-opt a=b", ["--ipam-opt a", "leave it out"]),
        (
            "--ipam-driver ovs-agent --subnet 10.200.0.0/24 --gateway 10.200.0.9",
            ["gateway \"10.200.0.9\"", "leave --gateway out"],
        ),
    ] {
        site.refused(&format!("network create -d ovs-agent {options} bad"), &words);
    }
    assert_eq!(kept(), files);
    site.soon_as_before(&before);
}
