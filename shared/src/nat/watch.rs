//! News of nftables: who touched our table, or the chains our one rule elsewhere lives in.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::nft::message_texts;
use super::{Error, nft, table, tagged};

/// NFNLGRP_NFTABLES (linux/netfilter/nfnetlink.h).
const GROUP: u32 = 7;

/// A subscription of this namespace's news.
#[derive(Debug)]
pub struct Watch {
    socket: Socket,
}

/// What was heard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct News {
    /// The sockets that changed our table; 0 for one nobody knows.
    writers: Vec<u32>,
    /// Something about FORWARD or DOCKER-USER changed.
    pub forward: bool,
}

impl News {
    /// Whether anybody but the socket of that number changed our table.
    pub fn table_by_others(&self, own: u32) -> bool {
        self.writers.iter().any(|writer| *writer != own)
    }

    fn hear(&mut self, message: &Message<'_>) {
        if message.kind >> 8 != libc::NFNL_SUBSYS_NFTABLES {
            return;
        }
        let body = message.body.get(4..).unwrap_or_default();
        let [table, second, third] = message_texts(body);
        // NFPROTO_INET 1; NFTA_*_TABLE and NFTA_TABLE_NAME are 1.
        let family = message.body.first().copied().unwrap_or_default();
        if family == 1 && table.as_deref() == Some(table::NAME) {
            self.writers.push(message.writer);
        }
        // NFPROTO_IPV4 2, NFPROTO_IPV6 10
        if matches!(family, 2 | 10) && table.as_deref() == Some("filter") {
            self.forward |= match message.kind & 0xff {
                libc::NFT_MSG_NEWTABLE | libc::NFT_MSG_DELTABLE => true,
                // NFTA_CHAIN_NAME 3
                libc::NFT_MSG_NEWCHAIN | libc::NFT_MSG_DELCHAIN => {
                    tagged::is_ours(third.as_deref())
                }
                // NFTA_RULE_CHAIN 2
                libc::NFT_MSG_NEWRULE | libc::NFT_MSG_DELRULE => tagged::is_ours(second.as_deref()),
                _ => false,
            };
        }
    }
}

impl Watch {
    /// Subscribes.
    pub fn open() -> Result<Self, Error> {
        let failed = |source| system("follow nf_tables", source);
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(failed)?;
        socket.set_non_blocking(true).map_err(failed)?;
        socket.bind(&SocketAddr::new(0, 0)).map_err(failed)?;
        socket.add_membership(GROUP).map_err(failed)?;
        Ok(Self { socket })
    }

    /// Waits for something to be heard, at most that long.
    pub fn wait(&mut self, timeout: Duration) -> Result<News, Error> {
        // Rounded up: less than a millisecond would be no wait at all, again and again.
        let timeout = timeout.saturating_add(Duration::from_micros(999));
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(_) | Err(Errno::EINTR) => self.drain(),
            Err(errno) => Err(system("wait for news of nf_tables", errno.into())),
        }
    }

    /// Takes what has come since the last call, without waiting.
    pub fn drain(&mut self) -> Result<News, Error> {
        let mut news = News::default();
        let mut buffer = Vec::with_capacity(64 * 1024);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer, 0) {
                Ok(_) => messages(&buffer).for_each(|message| news.hear(&message)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(news),
                // Too much at once: the kernel dropped some of it.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    news.writers.push(0);
                    news.forward = true;
                }
                Err(source) => return Err(system("read the news of nf_tables", source)),
            }
        }
    }
}

/// Readable as soon as there is something to [`Watch::drain`].
impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A message of a datagram (netlink(7), `struct nlmsghdr`).
struct Message<'a> {
    kind: i32,
    /// The socket whose request caused it.
    writer: u32,
    body: &'a [u8],
}

fn messages(bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let header = rest.first_chunk::<16>()?;
        let word = |at: usize| {
            u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let length = usize::try_from(word(0)).ok()?;
        let kind = i32::from(u16::from_ne_bytes([header[4], header[5]]));
        let body = rest.get(16..length)?;
        let writer = word(12);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, writer, body })
    })
}

fn system(action: &str, source: io::Error) -> Error {
    let source = nft::Error::System { action: action.to_owned(), source };
    Error::Table { action: "follow", source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message as the kernel sends it: family, and texts as attributes 1, 2 and 3.
    fn news(kind: i32, writer: u32, family: u8, texts: [&str; 3]) -> News {
        let mut body = vec![family, 0, 0, 0];
        for (number, text) in (1_u16..).zip(texts) {
            let length = u16::try_from(5 + text.len()).unwrap();
            body.extend(length.to_ne_bytes());
            body.extend(number.to_ne_bytes());
            body.extend(text.as_bytes());
            body.resize((body.len() + 1).next_multiple_of(4), 0);
        }
        let kind = u16::try_from(libc::NFNL_SUBSYS_NFTABLES << 8 | kind).unwrap();
        let mut bytes = u32::try_from(16 + body.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(12, 0);
        bytes.extend(writer.to_ne_bytes());
        bytes.extend(body);
        let mut news = News::default();
        messages(&bytes).for_each(|message| news.hear(&message));
        news
    }

    #[test]
    fn our_table_and_our_chains_are_news_and_others_are_not() {
        let ours = news(libc::NFT_MSG_DELTABLE, 7, 1, [table::NAME, "", ""]);
        assert!(ours.table_by_others(8) && !ours.table_by_others(7) && !ours.forward);
        assert!(!news(libc::NFT_MSG_DELTABLE, 7, 1, ["other", "", ""]).table_by_others(8));
        for (kind, texts, forward) in [
            (libc::NFT_MSG_DELRULE, ["filter", "FORWARD", ""], true),
            (libc::NFT_MSG_DELRULE, ["filter", "DOCKER", ""], false),
            (libc::NFT_MSG_NEWCHAIN, ["filter", "", "DOCKER-USER"], true),
            (libc::NFT_MSG_DELCHAIN, ["filter", "", "INPUT"], false),
            (libc::NFT_MSG_DELTABLE, ["filter", "", ""], true),
            (libc::NFT_MSG_DELTABLE, ["nat", "", ""], false),
        ] {
            assert_eq!(news(kind, 7, 2, texts).forward, forward, "{kind} {texts:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_loop(bytes: Vec<u8>) {
            let mut news = News::default();
            messages(&bytes).for_each(|message| news.hear(&message));
            assert!(news.writers.len() <= bytes.len());
        }
    }
}
