//! Metrics for Prometheus, over a unix socket or a loopback port: read when somebody asks, so that
//! nobody asking costs nothing.

mod figures;

use std::convert::Infallible;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use shared::config::Listen;
use shared::socket;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::Agent;
use crate::Failure;

/// What prometheus-client writes.
const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Connections at once; Prometheus opens one.
const CONNECTIONS: usize = 8;

/// Longest life of a connection.
const DEADLINE: Duration = Duration::from_secs(60);

/// After an accept that failed (too many open files).
const PAUSE: Duration = Duration::from_millis(100);

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// Serves until the agent stops; where nothing is configured, waits for that.
pub(crate) async fn serve(agent: Arc<Agent>) -> Result<(), Failure> {
    let Some(listen) = agent.engine.config().metrics.clone() else {
        agent.stopped().await;
        return Ok(());
    };
    let listener = match &listen {
        Listen::Unix(path) => {
            socket::listen(path).and_then(UnixListener::from_std).map(Listener::Unix)
        }
        Listen::Loopback(address) => TcpListener::bind(address).await.map(Listener::Tcp),
    };
    let listener = listener.map_err(|error| {
        let place = match &listen {
            Listen::Unix(path) => path.display().to_string(),
            Listen::Loopback(address) => address.to_string(),
        };
        Failure::Work(format!("cannot serve metrics at {place}: {error}"))
    })?;
    agent.health.well("metrics");
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    tokio::select! {
        () = accept(&agent, &listener, &free) => {}
        () = agent.stopped() => {}
    }
    if let Listen::Unix(path) = &listen {
        // One that stays is replaced by the next agent.
        drop(fs::remove_file(path));
    }
    Ok(())
}

async fn accept(agent: &Arc<Agent>, listener: &Listener, free: &Arc<Semaphore>) {
    loop {
        let Ok(place) = Arc::clone(free).acquire_owned().await else { return };
        let agent = Arc::clone(agent);
        let accepted = match listener {
            Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                tokio::spawn(async move {
                    talk(agent, stream).await;
                    drop(place);
                });
            }),
            Listener::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                tokio::spawn(async move {
                    talk(agent, stream).await;
                    drop(place);
                });
            }),
        };
        if let Err(error) = accepted {
            tracing::warn!(%error, "cannot accept a connection for metrics");
            sleep(PAUSE).await;
        }
    }
}

async fn talk(agent: Arc<Agent>, stream: impl AsyncRead + AsyncWrite + Unpin) {
    let service = service_fn(move |request| answer(Arc::clone(&agent), request));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    // Prometheus connects anew after a connection that ended.
    if let Ok(Err(error)) = timeout(DEADLINE, connection).await {
        tracing::debug!(%error, "a connection for metrics ended early");
    }
}

async fn answer(
    agent: Arc<Agent>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let plain = "text/plain; charset=utf-8";
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => {
            match agent.work(figures::text).await.flatten() {
                Ok(text) => (StatusCode::OK, TYPE, text),
                Err(failure) => (StatusCode::INTERNAL_SERVER_ERROR, plain, format!("{failure}\n")),
            }
        }
        (&Method::GET | &Method::HEAD, _) => {
            (StatusCode::NOT_FOUND, plain, "metrics are at /metrics\n".to_owned())
        }
        _ => (StatusCode::METHOD_NOT_ALLOWED, plain, "metrics are read by GET\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(response)
}
