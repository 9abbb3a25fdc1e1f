//! HTTP over the plugin socket: one call, one answer, each within its deadline and in order.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use serde_json::{Value, json};
use shared::error::sentence;
use tokio::net::UnixListener;
use tokio::sync::{Mutex as Turn, Notify, OwnedMutexGuard, Semaphore};
use tokio::time::timeout;

use crate::driver::Driver;
use crate::error::Error;

/// Longest time from request to answer. dockerd itself waits for ever.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Longest body in bytes; dockerd's have some hundred.
const MAX_BODY: usize = 1 << 20;

/// Connections at once: each may hold a body. dockerd has one for each call that is under way.
const CONNECTIONS: usize = 256;

/// After an accept that failed (too many open files).
const PAUSE: Duration = Duration::from_millis(100);

const TYPE: &str = "application/vnd.docker.plugins.v1.2+json";

/// The plugin server.
#[derive(Debug)]
pub(crate) struct Server {
    driver: Driver,
    turns: Mutex<HashMap<String, Arc<Turn<()>>>>,
    /// A container was plugged in.
    joined: Notify,
    /// dockerd has started.
    activated: Notify,
}

impl Server {
    pub(crate) fn new(driver: Driver) -> Self {
        Self { driver, turns: Mutex::default(), joined: Notify::new(), activated: Notify::new() }
    }

    pub(crate) fn driver(&self) -> &Driver {
        &self.driver
    }

    /// Does something that no CreateNetwork or DeleteNetwork may come between.
    pub(crate) async fn between_networks<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Driver) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (call, seconds) = ("the wait for another call".to_owned(), DEADLINE.as_secs());
        let turn = timeout(DEADLINE, self.turn("NetworkDriver.CreateNetwork", b"")).await;
        let turn = turn.map_err(|_| Error::Timeout { call, seconds })?;
        let this = Arc::clone(self);
        blocking(move || {
            let _turn = turn;
            work(&this.driver)
        })
        .await
    }

    /// Waits until dockerd has started.
    pub(crate) async fn activated(&self) {
        self.activated.notified().await;
    }

    /// Waits until a container is plugged in.
    pub(crate) async fn joined(&self) {
        self.joined.notified().await;
    }

    /// Serves for ever; `calls` knows what is under way.
    pub(crate) async fn serve(
        self: Arc<Self>,
        listener: UnixListener,
        calls: Arc<GracefulShutdown>,
    ) {
        let free = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&free).acquire_owned().await else { return };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::error!(%error, "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let this = Arc::clone(&self);
            let service = service_fn(move |request| Arc::clone(&this).answer(request));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            let connection = calls.watch(connection);
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection ended early");
                }
                drop(place);
            });
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        // A task of its own: dockerd hanging up must not leave a call half done.
        let call = tokio::spawn(self.handle(request));
        let (status, body) = call.await.unwrap_or_else(|_| {
            (StatusCode::OK, problem(&Error::Broken { call: "the call".to_owned() }))
        });
        let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(TYPE));
        Ok(response)
    }

    async fn handle(self: Arc<Self>, request: Request<Incoming>) -> (StatusCode, Value) {
        let method = request.uri().path().trim_start_matches('/').to_owned();
        if request.method() != Method::POST {
            return (StatusCode::METHOD_NOT_ALLOWED, json!({"Err": "plugins are called by POST"}));
        }
        let body = timeout(DEADLINE, Limited::new(request.into_body(), MAX_BODY).collect());
        let body = match body.await {
            Ok(Ok(body)) => body.to_bytes(),
            _ => return (StatusCode::OK, problem(&Error::Empty)),
        };
        let result = self.run(&method, body).await;
        match (method.as_str(), &result) {
            ("NetworkDriver.Join", Some(Ok(_))) => self.joined.notify_one(),
            ("Plugin.Activate", Some(Ok(_))) => self.activated.notify_one(),
            _ => {}
        }
        match result {
            // Docker takes a 404 for a method this driver does not have.
            None => (StatusCode::NOT_FOUND, json!({"Err": format!("there is no {method}")})),
            Some(Ok(answer)) => (StatusCode::OK, answer),
            Some(Err(error)) => {
                tracing::warn!(%method, error = %sentence(&error), "a call failed");
                (StatusCode::OK, problem(&error))
            }
        }
    }

    async fn run(self: &Arc<Self>, method: &str, body: Bytes) -> Option<Result<Value, Error>> {
        let late = || Error::Timeout { call: method.to_owned(), seconds: DEADLINE.as_secs() };
        let end = tokio::time::Instant::now() + DEADLINE;
        let Ok(turn) = tokio::time::timeout_at(end, self.turn(method, &body)).await else {
            return Some(Err(late()));
        };
        let (this, name, text) = (Arc::clone(self), method.to_owned(), body.clone());
        let mut work = tokio::task::spawn_blocking(move || {
            let answer = this.driver.call(&name, &text);
            // The turn ends with the work, not with the wait for it.
            (answer, turn)
        });
        match tokio::time::timeout_at(end, &mut work).await {
            Ok(Ok((answer, _turn))) => answer,
            Ok(Err(_)) => Some(Err(Error::Broken { call: method.to_owned() })),
            Err(_) => {
                if let Some(undoing) = Driver::undoing(method) {
                    let this = Arc::clone(self);
                    tokio::spawn(async move {
                        if let Ok((Some(Ok(_)), _turn)) = work.await {
                            let undo = move || this.driver.call(undoing, &body);
                            drop(tokio::task::spawn_blocking(undo).await);
                        }
                    });
                }
                Some(Err(late()))
            }
        }
    }

    /// Waits for the turn of a call: networks come and go one at a time, so do pools and addresses,
    /// and the calls of one network keep their order.
    async fn turn(&self, method: &str, body: &[u8]) -> OwnedMutexGuard<()> {
        let key = match method {
            "NetworkDriver.CreateNetwork" | "NetworkDriver.DeleteNetwork" => "networks".to_owned(),
            _ if method.starts_with("NetworkDriver.") => {
                let body: Value = serde_json::from_slice(body).unwrap_or_default();
                body["NetworkID"].as_str().unwrap_or_default().to_owned()
            }
            _ => "pools".to_owned(),
        };
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(key).or_default())
        };
        turn.lock_owned().await
    }
}

/// dockerd looks for `Err` in the answers of a NetworkDriver and for `Error` in those of an
/// IpamDriver; in the latter, `Err` alone would pass for success.
fn problem(error: &Error) -> Value {
    let text = sentence(error);
    json!({"Err": text, "Error": text})
}

/// Does something that may take its time, off the threads that serve.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|_| Err(Error::Broken { call: "the work".to_owned() }))
}
