//! Peers that send without end, slowly, or nonsense: bounded memory, and an end in time.

use std::fs;
use std::io::{Read as _, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use rig::{Host, Plugin, Switch};
use serde_json::{Value, json};

use super::{SOON, lab, start};

/// Address space a plugin gets, in KiB: far above what it takes for a switch of any size.
const SPACE: usize = 768 * 1024;

/// How long an ADD may take whose ovsdb-server does not answer: its deadline is 5 s, and then what
/// was begun is undone.
const LONGEST: Duration = Duration::from_secs(15);

const SERVER: &str = "/run/hostile.sock";

/// What a hostile ovsdb-server says; false once nobody listens any more.
type Say = fn(&mut UnixStream, usize) -> std::io::Result<()>;

/// Serves everybody who calls, until `work` ends.
fn serve(say: Say, work: impl FnOnce()) {
    fs::remove_file(SERVER).ok();
    let listener = UnixListener::bind(SERVER).unwrap();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for client in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let client = client.unwrap();
                client.set_write_timeout(Some(LONGEST)).unwrap();
                scope.spawn(|| {
                    let mut client = client;
                    for turn in 0.. {
                        if ended.load(Ordering::SeqCst) || say(&mut client, turn).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        ended.store(true, Ordering::SeqCst);
        drop(UnixStream::connect(SERVER));
        if let Err(panic) = caught {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn an_ovsdb_server_that_never_makes_sense_costs_five_seconds_and_little_memory() {
    let host = Host::new();
    host.port_agent().run("up");
    let web = host.container("web");
    let limited =
        format!("#!/bin/sh\nulimit -v {SPACE}\nexec {}\n", host.plugin().path().display());
    host.write("/run/limited", &limited);
    host.sh("chmod +x /run/limited");
    let plugin = Plugin::at("/run/limited".into());
    let mut conf = lab(None);
    conf["socket_file"] = SERVER.into();
    let before = host.snapshot();
    let says: [(&str, Say, &str); 7] = [
        ("silence", |client, _| client.read(&mut [0; 4096]).map(drop), "did not answer within 5 s"),
        (
            "a byte now and then",
            |client, turn| {
                std::thread::sleep(Duration::from_millis(50));
                client.write_all(if turn == 0 { b"{\"a\":\"" } else { b"x" })
            },
            "did not answer within 5 s",
        ),
        (
            "one message without end",
            |client, turn| {
                let text = [b'x'; 65536];
                client.write_all(if turn == 0 { b"{\"a\":\"" } else { &text })
            },
            "a message has more than 16777216 bytes",
        ),
        (
            "a message made to fill the memory",
            |client, turn| match turn {
                0 => client.write_all(b"{\"id\":1,\"result\":[[]"),
                1..120 => client.write_all(&b",[]".repeat(43_000)),
                120 => client.write_all(b"]}"),
                _ => client.read(&mut [0; 4096]).map(drop),
            },
            "broke",
        ),
        (
            "notifications without end",
            |client, _| {
                let update = b"{\"id\":null,\"method\":\"update\",\"params\":[null,{}]}";
                client.write_all(&update.repeat(100))
            },
            "did not answer within 5 s",
        ),
        (
            "echo requests whose answers it never reads",
            |client, _| {
                let text = "x".repeat(4000);
                client.write_all(
                    format!("{{\"id\":\"e\",\"method\":\"echo\",\"params\":[\"{text}\"]}}")
                        .as_bytes(),
                )
            },
            "did not answer within 5 s",
        ),
        (
            "another protocol, in two lines",
            |client, _| client.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            "a JSON object was expected",
        ),
    ];
    for (what, say, words) in says {
        serve(say, || {
            let begin = Instant::now();
            let failure = plugin.add(&web, &conf).failure();
            let took = begin.elapsed();
            let message = failure["msg"].as_str().unwrap();
            assert!(message.contains(words), "{what}: {message}");
            assert!(message.len() < 2000 && !message.contains(char::is_control), "{what}");
            assert!(took < LONGEST, "{what} took {took:?}");
        });
        // The record says which server was asked: an honest one has to say that nothing is left.
        fs::remove_file(SERVER).unwrap();
        symlink(Switch::SOCKET, SERVER).unwrap();
        plugin.del(&web, &lab(None)).success();
    }
    fs::remove_file(SERVER).unwrap();
    rig::assert_same(&before, &host.snapshot());
}

/// The most memory a process had, in KiB.
fn peak(pid: Pid) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().split(' ').next().unwrap().parse().unwrap()
}

/// Writes `text` again and again until the other side will not have more, at most `most` bytes.
fn pour(socket: &str, head: &str, text: &[u8], most: usize) -> usize {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_write_timeout(Some(SOON)).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    let mut sent = 0;
    while sent < most && stream.write_all(text).is_ok() {
        sent += text.len();
    }
    sent
}

#[test]
fn the_docker_driver_outlives_any_caller() {
    const SOCKET: &str = "/run/docker/plugins/ovs-agent.sock";
    let host = Host::new();
    host.port_agent().run("up");
    let driver = host.docker_driver();
    let before = peak(driver.pid());
    let answers = || {
        let begin = Instant::now();
        driver.ok("NetworkDriver.GetCapabilities", &Value::Null);
        assert!(begin.elapsed() < SOON, "it took {:?}", begin.elapsed());
    };
    // A header, and a body, without end.
    let text = [b'x'; 65536];
    assert!(pour(SOCKET, "GET /", &text, 64 << 20) < 8 << 20, "an endless path is read");
    assert!(pour(SOCKET, "POST / HTTP/1.1\r\nA: ", &text, 64 << 20) < 8 << 20);
    let head =
        "POST /NetworkDriver.Join HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n";
    assert!(pour(SOCKET, head, &text, 64 << 20) < 16 << 20, "an endless body is read");
    answers();
    // Many that say nothing, and many that stop in the midst of a body.
    let idle: Vec<_> = (0..100).map(|_| UnixStream::connect(SOCKET).unwrap()).collect();
    let half: Vec<_> = (0..100)
        .map(|_| {
            let mut stream = UnixStream::connect(SOCKET).unwrap();
            stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&text)).unwrap();
            stream
        })
        .collect();
    answers();
    drop((idle, half));
    // Bodies that are no request of dockerd's.
    for body in ["", "null", "[]", "{", "{\"NetworkID\": 7}", &"[".repeat(100_000), "\u{0}"] {
        let (status, text) = driver.post("NetworkDriver.CreateEndpoint", body);
        assert_eq!(status, 200, "{text}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        let error = answer["Err"].as_str().unwrap();
        assert!(!error.contains(char::is_control), "{error:?}");
    }
    for id in ["../../etc/passwd", "a/b", "", "a\nb"] {
        let asked = json!({ "NetworkID": id, "EndpointID": id });
        let error = driver.error("NetworkDriver.Join", &asked);
        assert!(error.contains("is no id") && !error.contains(char::is_control), "{error:?}");
    }
    answers();
    let grown = peak(driver.pid()) - before;
    assert!(grown < 96 * 1024, "its memory grew by {grown} KiB");
    driver.stop();
}

#[test]
fn the_agent_outlives_any_caller_of_its_sockets() {
    const SOCKET: &str = "/run/ovs-port-agent/control.sock";
    const METRICS: &str = "/run/ovs-port-agent/metrics.sock";
    let host = Host::new();
    host.config(&format!("metrics_listen = \"unix:{METRICS}\"\n"));
    let agent = start(&host);
    let (plugin, conf, web) = (host.plugin(), lab(Some(8080)), host.container("web"));
    let before = peak(agent.pid());
    let text = [b'x'; 65536];
    assert!(pour(SOCKET, "", &text, 64 << 20) < 24 << 20, "an endless question is read");
    assert!(pour(METRICS, "GET /", &text, 64 << 20) < 8 << 20, "an endless path is read");
    for question in ["\n", "{}\n", "{\"publish\": 7}\n", "[]\n", &("[".repeat(100_000) + "\n")] {
        let mut stream = UnixStream::connect(SOCKET).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(question.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        // It says first that it is awake, by an empty line.
        assert!(answer.trim_start().starts_with("{\"error\":"), "{answer}");
        assert!(answer.ends_with('\n') && answer.len() < 2000, "{answer}");
    }
    // More than have a turn at once, and none of them says anything: they take nobody's.
    let idle: Vec<_> = (0..64).map(|_| UnixStream::connect(SOCKET).unwrap()).collect();
    let slow: Vec<_> = (0..8).map(|_| UnixStream::connect(METRICS).unwrap()).collect();
    plugin.add(&web, &conf).success();
    assert!(host.port_agent().output("status").ok());
    drop((idle, slow));
    plugin.del(&web, &conf).success();
    let grown = peak(agent.pid()) - before;
    assert!(grown < 96 * 1024, "its memory grew by {grown} KiB");
    agent.terminate(SOON);
}
