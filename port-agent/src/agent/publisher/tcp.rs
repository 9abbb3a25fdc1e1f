//! TCP that arrives at a published port: taken here, made anew to the container.

use std::io;
use std::net::{SocketAddr, TcpListener as Bound};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use shared::publish::Publication;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::Serving;

/// How long a container may take to take a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// Connections of one port at a time; who comes then waits until one ends. Two descriptors each, of
/// the agent's 262,144.
const CONNECTIONS: usize = 4096;

/// Silence in seconds after which an end is asked whether it is still there; it is given up after
/// nine questions, 75 s apart (tcp(7)).
const SILENCE: u32 = 60;

/// Between two tries to accept when the host is out of something.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves a listener; connections end with it.
pub(super) fn serve(bound: Bound, publication: &Publication, port: u16) -> io::Result<Serving> {
    let to = super::destination(publication, bound.local_addr()?.is_ipv4(), port);
    let listener = TcpListener::from_std(bound)?;
    Ok(Serving(tokio::spawn(accept(listener, to))))
}

async fn accept(listener: TcpListener, to: SocketAddr) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => drop(connections.spawn(carry(stream, to))),
                Err(_) => sleep(PAUSE).await,
            },
            // Their results are dropped here, one by one.
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Carries both ways until both ends have said all; either may stop speaking first.
async fn carry(mut stream: TcpStream, to: SocketAddr) {
    let Ok(Ok(mut inside)) = timeout(CONNECT, TcpStream::connect(to)).await else {
        // The caller sees what it would see without us in between: a connection reset.
        drop(stream.set_zero_linger());
        return;
    };
    // Small writes are the ends' own business; nothing is to wait here for more.
    for end in [&stream, &inside] {
        drop(end.set_nodelay(true));
        // One that has vanished holds its place no longer than this.
        let _ = setsockopt(end, sockopt::KeepAlive, &true);
        let _ = setsockopt(end, sockopt::TcpKeepIdle, &SILENCE);
    }
    // How it ended, both ends have seen.
    drop(copy_bidirectional(&mut stream, &mut inside).await);
}
