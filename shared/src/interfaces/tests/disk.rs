//! The file on disk.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use super::*;

#[test]
fn a_tag_that_is_more_than_a_word_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("interfaces");
    fs::write(&path, LO).unwrap();
    for tag in ["", "a b", "a\nauto veth0", "a\\", "a%", "${a}", "tag#", &"x".repeat(65), "ä"] {
        let error = update(&path, tag, &[bridge("br")], &[]).unwrap_err();
        assert!(matches!(error, Error::Tag { .. }), "{tag:?}: {error}");
        assert!(!error.to_string().contains('\n'));
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), LO);
}

#[test]
fn sourced_files_count() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("interfaces.d")).unwrap();
    fs::create_dir(at("more")).unwrap();
    fs::write(at("interfaces.d/one"), "iface ovsbr0 inet manual\nsource ../nested\n").unwrap();
    fs::write(at("interfaces.d/.hidden"), "iface ovsbr5 inet manual\n").unwrap();
    fs::write(at("nested"), "auto veth-a\nsource nested\nsource interfaces\n").unwrap();
    fs::write(at("more/two"), "iface ovsbr2 inet manual\n").unwrap();
    fs::write(at("more/three.dpkg-old"), "iface ovsbr3 inet manual\n").unwrap();
    let path = at("interfaces");
    let more = at("more");
    let original = format!(
        "source interfaces.d/*\nsource-directory {}\nsource /nonexistent/*\nsource $HOME/x\n",
        more.display()
    );
    fs::write(&path, &original).unwrap();
    let bridges: Vec<_> = (0..6).map(|n| bridge(&format!("ovsbr{n}"))).collect();
    let ports = [port("veth-a", "ovsbr0", access(1)), port("veth-b", "ovsbr0", access(1))];
    assert!(update(&path, TAG, &bridges, &ports).unwrap());
    let text = fs::read_to_string(&path).unwrap();
    let names: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("iface "))
        .filter_map(|rest| rest.split(' ').next())
        .collect();
    assert_eq!(names, ["ovsbr1", "ovsbr3", "ovsbr4", "ovsbr5", "veth-b"]);
    assert!(update(&path, TAG, &[], &[]).unwrap());
    assert_eq!(fs::read_to_string(&path).unwrap(), original);
}

#[test]
fn a_missing_file_stays_missing() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path().join("interfaces"), dir.path().join("no/such/dir/interfaces")] {
        assert!(!update(&path, TAG, &[bridge("br")], &[]).unwrap());
        assert!(!path.exists());
    }
    let link = dir.path().join("link");
    symlink("nowhere", &link).unwrap();
    assert!(!update(&link, TAG, &[bridge("br")], &[]).unwrap());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_path_that_is_no_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = update(dir.path(), TAG, &[bridge("br")], &[]).unwrap_err();
    assert!(matches!(error, Error::Irregular { .. }), "{error}");
    assert!(matches!(
        update(Path::new("/dev/null"), TAG, &[bridge("br")], &[]),
        Err(Error::Irregular { .. })
    ));
}

#[test]
fn mode_owner_and_attributes_stay_and_no_file_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("interfaces");
    fs::write(&path, LO).unwrap();
    std::os::unix::fs::chown(&path, Some(1234), Some(4321))
        .expect("changing the owner takes root: run the tests as root");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    xattr::set(&path, "user.note", b"keep me").expect("the test needs user.* extended attributes");
    assert!(update(&path, TAG, &[bridge("br")], &[]).unwrap());
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (1234, 4321));
    assert_eq!(metadata.mode() & 0o7777, 0o640);
    assert_eq!(xattr::get(&path, "user.note").unwrap().as_deref(), Some(b"keep me".as_slice()));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn an_unchanged_file_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("interfaces");
    fs::write(&path, LO).unwrap();
    let state = || {
        let metadata = fs::metadata(&path).unwrap();
        (metadata.ino(), metadata.mtime_nsec(), metadata.ctime_nsec())
    };
    let before = state();
    assert!(!update(&path, TAG, &[], &[]).unwrap());
    assert_eq!(state(), before);
    assert!(update(&path, TAG, &[bridge("br")], &[]).unwrap());
    let after = state();
    assert!(!update(&path, TAG, &[bridge("br")], &[]).unwrap());
    assert_eq!(state(), after);
}

#[test]
fn a_link_stays_a_link_and_its_target_changes() {
    let dir = tempfile::tempdir().unwrap();
    let real = dir.path().join("real");
    fs::create_dir(dir.path().join("sub")).unwrap();
    let link = dir.path().join("sub/interfaces");
    fs::write(&real, LO).unwrap();
    symlink("../real", &link).unwrap();
    assert!(update(&link, TAG, &[bridge("br")], &[]).unwrap());
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(fs::read_to_string(&real).unwrap().contains("iface br inet manual"));
    assert_eq!(fs::read_dir(dir.path().join("sub")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn what_a_killed_writer_left_is_cleared_and_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("interfaces");
    let victim = dir.path().join("victim");
    fs::write(&path, LO).unwrap();
    fs::write(&victim, "precious").unwrap();
    symlink(&victim, dir.path().join(".interfaces.ovs-port-agent.new")).unwrap();
    assert!(update(&path, TAG, &[bridge("br")], &[]).unwrap());
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn two_writers_never_mix() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("interfaces");
    fs::write(&path, LO).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let path = &path;
            scope.spawn(move || {
                for round in 0..40 {
                    let ports: Vec<_> = (0..30)
                        .map(|n| port(&format!("w{writer}-{round}-{n}"), "br", access(1)))
                        .collect();
                    update(path, TAG, &[], &ports).unwrap();
                }
            });
        }
        for _ in 0..400 {
            let text = fs::read_to_string(&path).unwrap();
            let names: Vec<_> =
                text.lines().filter_map(|line| line.strip_prefix("iface w")).collect();
            assert!(text.starts_with(LO));
            if let Some(first) = names.first() {
                let round = first.rsplit_once('-').unwrap().0;
                assert_eq!(names.len(), 30);
                assert!(names.iter().all(|name| name.rsplit_once('-').unwrap().0 == round));
            }
        }
    });
    assert!(update(&path, TAG, &[], &[]).unwrap());
    assert_eq!(fs::read_to_string(&path).unwrap(), LO);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// An editor that writes in place, in two halves, or beside and renames.
fn edit(path: &Path, text: &str, in_place: bool) {
    use std::io::Write as _;
    let beside = path.with_extension("swp");
    let mut file = fs::File::create(if in_place { path } else { &beside }).unwrap();
    let (first, second) = text.split_at(text.len() / 2);
    file.write_all(first.as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(3));
    file.write_all(second.as_bytes()).unwrap();
    drop(file);
    if !in_place {
        fs::rename(beside, path).unwrap();
    }
}

struct End<'a>(&'a std::sync::atomic::AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn an_editor_at_work_loses_nothing() {
    for in_place in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("interfaces");
        fs::write(&path, LO).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (path, done) = (&path, &done);
            scope.spawn(move || {
                for id in (1..4094).cycle() {
                    update(path, TAG, &[], &[port("veth-a", "br", access(id))]).unwrap();
                    if done.load(std::sync::atomic::Ordering::Relaxed) {
                        break;
                    }
                }
            });
            // Ends the other thread even when an assertion here fails.
            let _end = End(done);
            for round in 0..100 {
                let text = format!("{LO}# edit {round}\niface eth0 inet dhcp\n");
                edit(path, &text, in_place);
                std::thread::sleep(Duration::from_millis(2));
                // A file of ours that came a moment too late may be seen while it is taken back.
                let late = Instant::now() + Duration::from_millis(500);
                while !fs::read_to_string(path).unwrap().starts_with(&text) {
                    assert!(Instant::now() < late, "edit {round} is lost, in place {in_place}");
                }
            }
        });
        update(&path, TAG, &[], &[port("veth-a", "br", access(1))]).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("# edit 99\n") && text.contains("iface veth-a "), "{text}");
    }
}

#[test]
fn a_file_held_open_for_writing_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("interfaces");
    fs::write(&path, LO).unwrap();
    let writer = fs::File::options().append(true).open(&path).unwrap();
    let start = Instant::now();
    let error = update(&path, TAG, &[bridge("br")], &[]).unwrap_err();
    assert_eq!(error.kind(), Kind::Busy, "{error}");
    assert!(start.elapsed() < PATIENCE + Duration::from_secs(2));
    drop(writer);
    assert_eq!(fs::read_to_string(&path).unwrap(), LO);
    assert!(update(&path, TAG, &[bridge("br")], &[]).unwrap());
}

#[test]
fn five_hundred_ports_take_less_than_20_ms() {
    // In memory: two syncs of a busy disk are not what is measured.
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = dir.path().join("interfaces");
    fs::write(&path, LO).unwrap();
    let ports = |id: u64| -> Vec<_> {
        (0..500).map(|n| port(&format!("veth-{n:05}-eth0"), "ovsbr0", access(id))).collect()
    };
    update(&path, TAG, &[bridge("ovsbr0")], &ports(1)).unwrap();
    // The best of several: other work on the machine is not what is measured.
    let best = (2..12)
        .map(|id| {
            let ports = ports(id);
            let start = Instant::now();
            assert!(update(&path, TAG, &[bridge("ovsbr0")], &ports).unwrap());
            start.elapsed()
        })
        .min()
        .unwrap();
    println!("500 ports: {best:?}");
    assert!(best < Duration::from_millis(20), "{best:?}");
}
