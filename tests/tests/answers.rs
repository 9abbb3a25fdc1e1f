//! ovsdb-server does what it was asked, and its answer is lost: ADD and DEL end in a state that
//! the next call understands, whichever answer it was.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};
use std::time::Duration;

use rig::lab::key;
use rig::{Lab, Switch};
use shared::attachment::Engine;
use shared::config::Config;
use shared::ovsdb::Endpoint;

/// Where the go-between listens.
const SOCKET: &str = "/run/rig/between.sock";

/// Stands between the engine and ovsdb-server and loses one answer, with its connection.
struct Between {
    /// Answers until the one that is lost; below zero, none is.
    left: AtomicIsize,
    /// What the lost answer was about.
    lost: Mutex<Option<String>>,
}

impl Between {
    fn new() -> Self {
        Self { left: AtomicIsize::new(-1), lost: Mutex::default() }
    }

    /// Stands there while `work` lasts.
    fn stand(&self, work: impl FnOnce()) {
        let listener = UnixListener::bind(SOCKET).unwrap();
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for client in listener.incoming() {
                    if ended.load(Ordering::SeqCst) {
                        return;
                    }
                    let client = client.unwrap();
                    scope.spawn(|| drop(self.serve(client)));
                }
            });
            // Also when `work` panics: the scope waits for its threads.
            let end = End(|| {
                ended.store(true, Ordering::SeqCst);
                drop(UnixStream::connect(SOCKET));
            });
            work();
            drop(end);
        });
    }

    /// Request by request, as the engine asks: one is answered before the next is sent.
    fn serve(&self, mut client: UnixStream) -> std::io::Result<()> {
        let mut server = UnixStream::connect(Switch::SOCKET)?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            let count = client.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            let request = String::from_utf8_lossy(&buffer[..count]).into_owned();
            server.write_all(&buffer[..count])?;
            let count = server.read(&mut buffer)?;
            if self.left.fetch_sub(1, Ordering::SeqCst) == 0 {
                *self.lost.lock().unwrap() = Some(request);
                return Ok(());
            }
            client.write_all(&buffer[..count])?;
        }
    }

    /// Loses the `number`th answer from now on.
    fn lose(&self, number: isize) {
        self.left.store(number, Ordering::SeqCst);
    }

    /// Loses none any more.
    fn end(&self) {
        self.left.store(-1, Ordering::SeqCst);
    }
}

/// Does something when it goes.
struct End<F: Fn()>(F);

impl<F: Fn()> Drop for End<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Losing each answer of an act in turn, which `act` does once, with the answer's number; what
/// they were about.
fn each_lost_answer(between: &Between, act: impl Fn(isize)) -> Vec<String> {
    let mut lost = Vec::new();
    between.stand(|| {
        for number in 0..100 {
            act(number);
            match between.lost.lock().unwrap().take() {
                Some(request) => lost.push(request),
                None => return,
            }
        }
        panic!("there is no end: {lost:?}");
    });
    lost
}

fn lab() -> (Lab, Engine, Between) {
    let lab = Lab::new();
    let engine = Engine::new(Config { ovsdb: Endpoint::Unix(SOCKET.into()), ..Config::default() });
    (lab, engine, Between::new())
}

#[test]
fn of_an_add() {
    let (lab, engine, between) = lab();
    let _web = lab.host.container("web");
    let before = lab.snapshot();
    let mut request = lab.request("web");
    request.link_deadline = Duration::from_secs(3);
    let lost = each_lost_answer(&between, |number| {
        between.lose(number);
        let result = engine.attach(&request);
        between.end();
        match result {
            // An answer that only the managed block waited for.
            Ok(record) => lab.check(&record).unwrap_or_else(|e| panic!("answer {number}: {e}")),
            Err(error) => assert_eq!(lab.traces(), [""; 0], "answer {number}: {error}"),
        }
        let record = engine.attach(&request).unwrap_or_else(|e| panic!("answer {number}: {e}"));
        lab.check(&record).unwrap_or_else(|e| panic!("answer {number}, ADD again: {e}"));
        engine.detach(&key("web")).unwrap();
        assert_eq!(lab.traces(), [""; 0], "answer {number}, then DEL");
    });
    assert!(lost.iter().any(|request| request.contains("\"new_port0\"")), "{lost:?}");
    lab.engine.show().unwrap();
    lab.assert_returned(&before, "after all");
}

#[test]
fn of_a_del() {
    let (lab, engine, between) = lab();
    let _web = lab.host.container("web");
    let before = lab.snapshot();
    let lost = each_lost_answer(&between, |number| {
        let record = engine.attach(&lab.request("web")).unwrap();
        between.lose(number);
        let first = engine.detach(&key("web"));
        between.end();
        if let Err(error) = first {
            assert!(error.to_string().contains("its port"), "answer {number}: {error}");
            assert!(!lab.host.ip("-o link").contains(record.port.as_str()), "answer {number}");
        }
        engine.detach(&key("web")).unwrap_or_else(|e| panic!("answer {number}: {e}"));
        assert_eq!(lab.traces(), [""; 0], "answer {number}");
        // At once, while ovs-vswitchd may not have looked yet.
        let record = engine.attach(&lab.request("web")).unwrap();
        lab.check(&record).unwrap_or_else(|e| panic!("answer {number}, ADD: {e}"));
        engine.detach(&key("web")).unwrap();
    });
    assert!(lost.iter().any(|request| request.contains("delete ports")), "{lost:?}");
    lab.engine.show().unwrap();
    lab.assert_returned(&before, "after all");
}
