//! What is inside the callers' containers: busybox, and images made of it without a registry.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::command::Command;
use crate::isolation::DIR;

const BUSYBOX: &str = "/bin/busybox";
const PROGRAMS: [&str; 12] =
    ["cat", "echo", "head", "ip", "ls", "nc", "ping", "sh", "sleep", "true", "wc", "wget"];

/// Name of the image that [`file`] holds.
pub const NAME: &str = "localhost/rig:1";

/// A directory tree to run containers from.
pub fn directory() -> PathBuf {
    let root = Path::new(DIR).join("rootfs");
    if root.exists() {
        return root;
    }
    assert!(
        Path::new(BUSYBOX).exists(),
        "no {BUSYBOX}: apt-get install busybox-static (./run test does)"
    );
    for dir in ["bin", "dev", "etc", "proc", "run", "sys", "tmp"] {
        fs::create_dir_all(root.join(dir)).expect("a directory in /run");
    }
    fs::copy(BUSYBOX, root.join("bin/busybox")).expect("copy busybox");
    for program in PROGRAMS {
        symlink("busybox", root.join("bin").join(program)).expect("a link in /run");
    }
    root
}

/// An image of it in a tar file as `docker save` writes one; it sleeps unless told otherwise.
pub fn file() -> PathBuf {
    let dir = Path::new(DIR).join("image");
    let file = Path::new(DIR).join("image.tar");
    if file.exists() {
        return file;
    }
    fs::create_dir_all(&dir).expect("a directory in /run");
    let (root, layer) = (directory(), dir.join("layer.tar"));
    tar(&root, &layer, ".");
    let sum = Command::new("sha256sum").args([&layer]).run();
    let sum = sum.split_whitespace().next().expect("a checksum");
    let config = json!({
        "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" },
        "os": "linux",
        "config": {"Cmd": ["/bin/sleep", "100000"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{sum}")]},
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"]}]);
    fs::write(dir.join("config.json"), config.to_string()).expect("write in /run");
    fs::write(dir.join("manifest.json"), manifest.to_string()).expect("write in /run");
    tar(&dir, &file, "manifest.json config.json layer.tar");
    file
}

fn tar(dir: &Path, file: &Path, members: &str) {
    let words = members.split_whitespace();
    let _out =
        Command::new("tar").args(["-cf"]).args([file, Path::new("-C"), dir]).args(words).run();
}
