//! The leases of one subnet: a directory with a file per address.
//!
//! A lease is one file with two names, made complete under the first and then linked to the
//! second: `@<hash of the owner>`, which finds an owner's lease without reading the others, and
//! the address itself. link(2) refuses a name that exists, so an address has one holder whatever
//! runs at once, and no lease is ever seen half written. With its first name only, a file is a
//! try that was given up, and means nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{Mode, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};
use sha2::{Digest as _, Sha256};

use super::order::{self, Order};
use super::range::{Range, number};
use super::{Error, Lease, Owner, UNREADABLE};
use crate::file;
use crate::hex;
use crate::lock::Lock;
use crate::state;

/// Longest lease file read, in bytes; ours have some 200.
const MAX_FILE: u64 = 64 * 1024;

/// How long to wait for another call for the same owner.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many groups of holders an exhausted pool names.
const HOLDERS: usize = 5;

const DIR: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// What is at an address.
enum Entry {
    Free,
    Held(Lease),
    /// Somebody's, but whose cannot be told.
    Unreadable,
}

#[derive(Debug)]
pub(super) struct Pool {
    net: IpNet,
    path: PathBuf,
    dir: OwnedFd,
}

impl Pool {
    /// The pool of `net` below `base`, if there is one.
    pub(super) fn open(base: &Path, net: IpNet) -> Result<Option<Self>, Error> {
        let net = net.trunc();
        let name = format!("{}-{}", net.network(), net.prefix_len());
        let path = base.join(&name);
        // Both with O_NOFOLLOW: a planted link leads nowhere.
        let dir = open(base, DIR, Mode::empty())
            .and_then(|base| openat(base, name.as_str(), DIR, Mode::empty()));
        match dir {
            Ok(dir) => Ok(Some(Self { net, path, dir })),
            Err(Errno::ENOENT) => Ok(None),
            // What a link is to O_DIRECTORY.
            Err(errno @ (Errno::ENOTDIR | Errno::ELOOP)) => {
                let judged = file::directory(base).and_then(|()| file::directory(&path));
                let source = judged.err().unwrap_or_else(|| errno.into());
                Err(Error::Io { path, source })
            }
            Err(errno) => Err(Error::Io { path, source: errno.into() }),
        }
    }

    /// The pool of `net` below `base`, made if missing.
    pub(super) fn make(base: &Path, net: IpNet) -> Result<Self, Error> {
        if let Some(pool) = Self::open(base, net)? {
            return Ok(pool);
        }
        let net = net.trunc();
        let path = base.join(format!("{}-{}", net.network(), net.prefix_len()));
        let make = || {
            file::directory(base)?;
            let name = path.file_name().unwrap_or_default();
            match mkdirat(open(base, DIR, Mode::empty())?, name, Mode::S_IRWXU) {
                Ok(()) | Err(Errno::EEXIST) => Ok(()),
                Err(errno) => Err(io::Error::from(errno)),
            }
        };
        make().map_err(|source| Error::Io { path: path.clone(), source })?;
        Self::open(base, net)?
            .ok_or_else(|| Error::Io { path, source: io::ErrorKind::NotFound.into() })
    }

    /// Every pool below `base`.
    pub(super) fn all(base: &Path) -> Result<Vec<Self>, Error> {
        let at = |source| Error::Io { path: base.to_owned(), source };
        let entries = match std::fs::read_dir(base) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(at(error)),
        };
        let mut nets = BTreeSet::new();
        for entry in entries {
            let name = entry.map_err(at)?.file_name();
            let net = name
                .to_str()
                .and_then(|name| name.rsplit_once('-'))
                .and_then(|(address, length)| format!("{address}/{length}").parse::<IpNet>().ok());
            nets.extend(net);
        }
        nets.into_iter().filter_map(|net| Self::open(base, net).transpose()).collect()
    }

    pub(super) fn net(&self) -> IpNet {
        self.net
    }

    /// Keeps other calls for the same owner out; [`Self::take_next`], [`Self::take_this`] and
    /// [`Self::release`] are called under it.
    pub(super) fn lock(&self, owner: &Owner) -> Result<Lock, Error> {
        Lock::acquire(&self.path.join(order::FILE), owner, PATIENCE)
            .map_err(|source| Error::Lock { source })
    }

    /// The lease of `owner`. A try that was given up half way is removed.
    pub(super) fn held_by(&self, owner: &Owner) -> Result<Option<Lease>, Error> {
        let name = owner_name(owner);
        let entry = match self.read(&name) {
            Ok(entry) => entry,
            Err(error) if error.raw_os_error() == Some(Errno::ELOOP as i32) => None,
            Err(error) => return Err(self.error(&name, error)),
        };
        match entry {
            Some((text, links)) if links >= 2 => {
                // Another owner with this hash, or a file nobody of us wrote: do not touch it.
                let lease = serde_json::from_str::<Lease>(&text)
                    .map_err(|error| self.error(&name, error.into()))?;
                if lease.owner == owner {
                    return Ok(Some(lease));
                }
                Err(self.error(&name, io::Error::other(format!("it belongs to {}", lease.owner))))
            }
            _ => self.unlink(&name).map(|_| None),
        }
    }

    /// Gives `owner`, who holds nothing here, the next free address.
    pub(super) fn take_next(&self, range: &Range, owner: &Owner) -> Result<Lease, Error> {
        loop {
            match Order::change(&self.dir, &self.path, |order| order.next(range)) {
                Ok(Some(number)) => {
                    if let Some(lease) = self.take(range.ip(number), owner)? {
                        return Ok(lease);
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    let path = self.path.display();
                    tracing::warn!("the address pool at {path} goes on without its order: {error}");
                    break;
                }
            }
        }
        // What is free but was lost to the order by a crash.
        let held: BTreeSet<u128> = self.addresses()?.into_iter().map(number).collect();
        let free = |number: &u128| range.contains(*number) && !held.contains(number);
        for number in (range.first..=range.last).filter(free) {
            if let Some(lease) = self.take(range.ip(number), owner)? {
                return Ok(lease);
            }
        }
        Err(self.exhausted(range)?)
    }

    /// The error that says who holds what.
    pub(super) fn exhausted(&self, range: &Range) -> Result<Error, Error> {
        Ok(Error::Exhausted {
            subnet: self.net,
            range: range.text(),
            holders: holders(&self.leases()?),
        })
    }

    /// Gives `owner`, who holds nothing here, this address.
    pub(super) fn take_this(&self, ip: IpAddr, owner: &Owner) -> Result<Lease, Error> {
        loop {
            if let Some(lease) = self.take(ip, owner)? {
                return Ok(lease);
            }
            let owner = match self.entry(ip)? {
                Entry::Held(lease) => lease.owner,
                Entry::Unreadable => UNREADABLE.to_owned(),
                // Freed since: try again.
                Entry::Free => continue,
            };
            return Err(Error::Taken { ip, owner });
        }
    }

    /// Makes the lease if the address is free.
    fn take(&self, ip: IpAddr, owner: &Owner) -> Result<Option<Lease>, Error> {
        let address = ip.to_string();
        if fstatat(&self.dir, address.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW).is_ok() {
            return Ok(None);
        }
        let lease = Lease { ip, owner: owner.to_owned(), since: state::uptime() };
        let name = owner_name(owner);
        let write = || -> io::Result<()> {
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
            let file = openat(&self.dir, name.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
            File::from(file).write_all(&serde_json::to_vec(&lease)?)
        };
        let link = || {
            linkat(&self.dir, name.as_str(), &self.dir, address.as_str(), AtFlags::empty())
                .map_err(io::Error::from)
        };
        let Err(error) = write().and_then(|()| link()) else {
            return Ok(Some(lease));
        };
        self.unlink(&name)?;
        if error.raw_os_error() == Some(Errno::EEXIST as i32) {
            return Ok(None);
        }
        Err(self.error(&address, error))
    }

    /// Frees the address if `owner` holds it.
    pub(super) fn release(&self, ip: IpAddr, owner: &Owner) -> Result<bool, Error> {
        match self.entry(ip)? {
            Entry::Held(lease) if lease.owner == owner => {}
            Entry::Held(_) | Entry::Free => return self.held_by(owner).map(|_| false),
            Entry::Unreadable => return Ok(false),
        }
        self.unlink(&ip.to_string())?;
        if let Err(error) = Order::change(&self.dir, &self.path, |order| order.free(number(ip))) {
            tracing::warn!("{ip} is free but not put last in {}: {error}", self.path.display());
        }
        self.unlink(&owner_name(owner))?;
        Ok(true)
    }

    /// Every lease; one that cannot be read belongs to [`UNREADABLE`].
    pub(super) fn leases(&self) -> Result<Vec<Lease>, Error> {
        let mut leases = Vec::new();
        for ip in self.addresses()? {
            match self.entry(ip)? {
                Entry::Held(lease) => leases.push(lease),
                Entry::Unreadable => {
                    leases.push(Lease { ip, owner: UNREADABLE.to_owned(), since: 0 });
                }
                Entry::Free => {}
            }
        }
        Ok(leases)
    }

    /// How many addresses of `range` are held.
    pub(super) fn used(&self, range: &Range) -> Result<u64, Error> {
        let held = self.addresses()?.into_iter().filter(|ip| range.contains(number(*ip)));
        Ok(held.count() as u64)
    }

    /// The addresses held, in order.
    fn addresses(&self) -> Result<Vec<IpAddr>, Error> {
        let list = || -> nix::Result<Vec<IpAddr>> {
            let mut addresses = Vec::new();
            for entry in Dir::openat(&self.dir, ".", DIR, Mode::empty())?.iter() {
                let name = entry?;
                let ip =
                    name.file_name().to_str().ok().and_then(|name| name.parse::<IpAddr>().ok());
                addresses.extend(ip);
            }
            Ok(addresses)
        };
        let mut addresses = list().map_err(|errno| self.error(".", errno.into()))?;
        addresses.sort_unstable();
        Ok(addresses)
    }

    fn entry(&self, ip: IpAddr) -> Result<Entry, Error> {
        let name = ip.to_string();
        let why = match self.read(&name) {
            Ok(None) => return Ok(Entry::Free),
            Ok(Some((text, _))) => match serde_json::from_str::<Lease>(&text) {
                Ok(lease) if lease.ip == ip => return Ok(Entry::Held(lease)),
                Ok(lease) => format!("it speaks of {}", lease.ip),
                Err(error) => error.to_string(),
            },
            // The system's refusals (too many open files …) say nothing of the lease.
            Err(error) if error.raw_os_error().is_some_and(|code| code != Errno::ELOOP as i32) => {
                return Err(self.error(&name, error));
            }
            Err(error) => error.to_string(),
        };
        let file = self.path.join(name);
        tracing::warn!("{ip} stays taken: cannot read its lease {}: {why}", file.display());
        Ok(Entry::Unreadable)
    }

    /// A file's text and its number of names; `None` if there is no such file.
    fn read(&self, name: &str) -> io::Result<Option<(String, u64)>> {
        // O_NONBLOCK: a planted FIFO must not hold us up.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match openat(&self.dir, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        let mut text = String::new();
        file.take(MAX_FILE).read_to_string(&mut text)?;
        Ok(Some((text, about.nlink())))
    }

    fn unlink(&self, name: &str) -> Result<(), Error> {
        match unlinkat(&self.dir, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(self.error(name, errno.into())),
        }
    }

    fn error(&self, name: &str, source: io::Error) -> Error {
        Error::Io { path: self.path.join(name), source: file::plain(source) }
    }
}

fn owner_name(owner: &Owner) -> String {
    format!("@{}", hex::encode(&Sha256::digest(owner.as_bytes())))
}

/// Who holds how many, the largest first: by network, as owners begin with it, and by full name
/// where one lease is all there is.
fn holders(leases: &[Lease]) -> String {
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for lease in leases {
        let network = lease.owner.split('/').next().unwrap_or_default();
        groups.entry(network).or_default().push(&lease.owner);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, owners)| std::cmp::Reverse(owners.len()));
    let mut text: Vec<String> = groups
        .iter()
        .take(HOLDERS)
        .map(|(network, owners)| match owners.as_slice() {
            [owner] => format!("{owner} 1"),
            owners if owners[0].contains('/') => format!("{network}/… {}", owners.len()),
            owners => format!("{network} {}", owners.len()),
        })
        .collect();
    let rest: usize = groups.iter().skip(HOLDERS).map(|(_, owners)| owners.len()).sum();
    if rest > 0 {
        text.push(format!("others {rest}"));
    }
    if text.is_empty() { "nobody".to_owned() } else { text.join(", ") }
}
