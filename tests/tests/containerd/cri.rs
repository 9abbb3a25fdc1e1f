//! containerd, through `ctr` and through its CRI service as a kubelet speaks it.

use std::collections::BTreeMap;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use rig::{Command, Container, Daemon, Host, Output, image};

const SOCKET: &str = "/run/containerd/containerd.sock";
const FILE: &str = "/run/rig/containerd.toml";
const DEADLINE: Duration = Duration::from_secs(60);

const CONFIGURATION: &str = r#"
version = 2
root = "/run/rig/containerd/root"
state = "/run/rig/containerd/state"
[grpc]
address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "localhost/rig:1"
disable_apparmor = true
disable_cgroup = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "/etc/cni/net.d"
"#;

/// containerd on one host, with an image of busybox in both of its namespaces.
#[derive(Debug)]
pub(crate) struct Containerd {
    daemon: Daemon,
}

/// A refusal of the CRI service.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// gRPC status and message.
    pub(crate) message: String,
}

/// A pod sandbox as a kubelet describes one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pod<'a> {
    /// Name of the pod.
    pub(crate) name: &'a str,
    /// Its unique id.
    pub(crate) uid: &'a str,
}

impl Containerd {
    pub(crate) fn start(host: &Host) -> Self {
        host.write(FILE, CONFIGURATION);
        let daemon = Daemon::start("containerd", Command::new("containerd").args(["-c", FILE]));
        let this = Self { daemon };
        this.daemon.ready(DEADLINE, || this.output("version").ok());
        let image = image::file().display().to_string();
        for namespace in ["default", "k8s.io"] {
            this.ctr(&format!("-n {namespace} images import --snapshotter native {image}"));
        }
        this
    }

    /// Runs `ctr`, arguments separated by blanks, whatever its end.
    pub(crate) fn output(&self, args: &str) -> Output {
        let args = args.split_whitespace();
        Command::new("ctr").args(["-a", SOCKET]).args(args).deadline(DEADLINE).output()
    }

    /// Runs `ctr`; panics unless it succeeds. Returns its stdout.
    pub(crate) fn ctr(&self, args: &str) -> String {
        self.output(args).success().stdout
    }

    /// `ctr run --rm --cni` of one command in a new container.
    pub(crate) fn once(&self, name: &str, command: &str) -> Output {
        let image = image::NAME;
        self.output(&format!("run --rm --cni --snapshotter native {image} {name} {command}"))
    }

    /// RunPodSandbox: its id.
    pub(crate) fn run_pod(&self, pod: Pod<'_>) -> Result<String, Refusal> {
        let metadata = [text(1, pod.name), text(2, pod.uid), text(3, "default")].concat();
        // LinuxPodSandboxConfig must be there, if empty.
        let config = [bytes(1, &metadata), text(2, pod.name), bytes(8, &[])].concat();
        let reply = self.call("RunPodSandbox", &bytes(1, &config))?;
        Ok(reply.text(1))
    }

    /// PodSandboxStatus: the addresses, the first one first.
    pub(crate) fn pod_addresses(&self, id: &str) -> Result<Vec<String>, Refusal> {
        let reply = self.call("PodSandboxStatus", &text(1, id))?;
        let network = reply.message(1).message(5);
        let mut addresses = vec![network.text(1)];
        addresses.extend(network.messages(2).iter().map(|more| more.text(1)));
        Ok(addresses)
    }

    /// The network namespace of a pod: its sandbox container's.
    pub(crate) fn pod(&self, id: &str) -> Container {
        let tasks = self.ctr("-n k8s.io tasks list");
        let line = tasks.lines().find(|line| line.starts_with(id));
        let pid = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        Container::of_process(id, pid.unwrap_or_else(|| panic!("no task {id}:\n{tasks}")))
    }

    /// StopPodSandbox.
    pub(crate) fn stop_pod(&self, id: &str) -> Result<(), Refusal> {
        self.call("StopPodSandbox", &text(1, id)).map(drop)
    }

    /// RemovePodSandbox.
    pub(crate) fn remove_pod(&self, id: &str) -> Result<(), Refusal> {
        self.call("RemovePodSandbox", &text(1, id)).map(drop)
    }

    /// Whether the runtime says that its network is ready.
    pub(crate) fn network_ready(&self) -> bool {
        let reply = self.call("Status", &[]).expect("Status is always answered");
        let conditions = reply.message(1).messages(1);
        let ready = conditions.iter().find(|condition| condition.text(1) == "NetworkReady");
        ready.is_some_and(|condition| condition.number(2) == 1)
    }

    /// One unary call of `runtime.v1.RuntimeService`.
    fn call(&self, method: &str, message: &[u8]) -> Result<Message, Refusal> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a tokio runtime");
        let call = async { tokio::time::timeout(DEADLINE, unary(method, message)).await };
        let outcome = runtime.block_on(call);
        outcome.unwrap_or_else(|_| panic!("{method}: no answer within {DEADLINE:?}"))
    }
}

async fn unary(method: &str, message: &[u8]) -> Result<Message, Refusal> {
    let stream = tokio::net::UnixStream::connect(SOCKET).await.expect("connect to containerd");
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    tokio::spawn(connection);
    // gRPC over HTTP/2: a flag (not compressed), the length, the message.
    let length = u32::try_from(message.len()).expect("a short message").to_be_bytes();
    let body = [&[0], length.as_slice(), message].concat();
    let request = Request::post(format!("http://localhost/runtime.v1.RuntimeService/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from(body)))
        .expect("a request");
    let response = sender.send_request(request).await.expect("a response");
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("a body");
    // An error without a message has its status in the headers.
    let trailers = body.trailers().cloned().unwrap_or(head.headers);
    let field = |name: &str| {
        let value = trailers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let code = field("grpc-status");
    if code == "0" {
        Ok(Message::parse(body.to_bytes().get(5..).unwrap_or_default()))
    } else {
        Err(Refusal { message: format!("gRPC status {code}: {}", field("grpc-message")) })
    }
}

/// A protobuf message without its schema: the values of each field number.
#[derive(Debug, Default)]
struct Message {
    fields: BTreeMap<u64, Vec<Value>>,
}

#[derive(Debug)]
enum Value {
    Number(u64),
    Bytes(Vec<u8>),
}

impl Message {
    fn parse(mut rest: &[u8]) -> Self {
        let mut this = Self::default();
        while !rest.is_empty() {
            let key = varint(&mut rest);
            let value = match key & 7 {
                0 => Value::Number(varint(&mut rest)),
                2 => {
                    let length = usize::try_from(varint(&mut rest)).expect("a length");
                    let (bytes, tail) = rest.split_at(length);
                    rest = tail;
                    Value::Bytes(bytes.to_vec())
                }
                other => panic!("protobuf wire type {other}: the CRI has none"),
            };
            this.fields.entry(key >> 3).or_default().push(value);
        }
        this
    }

    fn messages(&self, field: u64) -> Vec<Self> {
        let values = self.fields.get(&field).into_iter().flatten();
        values
            .filter_map(|value| match value {
                Value::Bytes(bytes) => Some(Self::parse(bytes)),
                Value::Number(_) => None,
            })
            .collect()
    }

    fn message(&self, field: u64) -> Self {
        self.messages(field).into_iter().next().unwrap_or_default()
    }

    fn text(&self, field: u64) -> String {
        match self.fields.get(&field).and_then(|values| values.first()) {
            Some(Value::Bytes(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
            _ => String::new(),
        }
    }

    fn number(&self, field: u64) -> u64 {
        match self.fields.get(&field).and_then(|values| values.first()) {
            Some(Value::Number(number)) => *number,
            _ => 0,
        }
    }
}

fn varint(rest: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, tail) = rest.split_first().expect("a whole varint");
        *rest = tail;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return value;
        }
    }
    panic!("a varint of more than 64 bits")
}

/// A length-delimited field.
fn bytes(field: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![field << 3 | 2];
    let mut length = content.len();
    while length >= 0x80 {
        out.push(u8::try_from(length & 0x7f).expect("seven bits") | 0x80);
        length >>= 7;
    }
    out.push(u8::try_from(length).expect("seven bits"));
    out.extend(content);
    out
}

fn text(field: u8, content: &str) -> Vec<u8> {
    bytes(field, content.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_reads_back() {
        let long = "x".repeat(300);
        let inner = [text(1, "a"), text(2, &long)].concat();
        let message = Message::parse(&[bytes(5, &inner), vec![2 << 3, 0xac, 0x02]].concat());
        assert_eq!(message.message(5).text(2), long);
        assert_eq!(message.number(2), 300);
    }
}
