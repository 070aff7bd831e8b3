//! Asks the kernel what it has sent and received on one TCP connection: `NETLINK_SOCK_DIAG`
//! (`linux/sock_diag.h`, `linux/inet_diag.h`, `linux/tcp.h`).
//!
//! The option `TCP_INFO` holds the same, but no safe wrapper of it is whole, and it can't be asked of
//! a connection that was closed and still repeats its last packets. A kernel without this service
//! makes [`SocketDiag::open`] or [`SocketDiag::look_up`] fail; the caller has a model for that.
//!
//! It refuses to look at any connection but the one it is told, and believes no length of an answer.

use super::meter::WireBytes;
use crate::wire_cost::{
    IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, SYN_EXTRA_BYTES, TCP_HEADER_BYTES, TCP_TIMESTAMP_BYTES,
};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};

/// `AF_NETLINK`.
const NETLINK_FAMILY: i32 = 16;
/// `NETLINK_SOCK_DIAG`.
const SOCK_DIAG_PROTOCOL: i32 = 4;
/// `SOCK_DIAG_BY_FAMILY`, of the request and of the answer.
const BY_FAMILY: u16 = 20;
/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;
/// `INET_DIAG_INFO`: `struct tcp_info`.
const INFO: u16 = 2;
/// `INET_DIAG_NOCOOKIE`: whichever connection has these addresses.
const NO_COOKIE: [u8; 8] = [0xff; 8];
/// `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;
/// `struct inet_diag_msg`.
const MESSAGE_BYTES: usize = 72;
/// Of the cookie in `struct inet_diag_msg`.
const COOKIE_AT: usize = 44;
/// `struct inet_diag_req_v2` and its header.
const REQUEST_BYTES: u32 = 72;
/// An answer is about 400 bytes; the kernel fills no more than it is given.
const ANSWER_BYTES_MAX: usize = 4096;
/// Answers to questions that were given up, which may still stand before ours.
const STALE_ANSWERS_MAX: usize = 4;
/// `TCPI_OPT_TIMESTAMPS` in `tcpi_options`.
const TIMESTAMPS: u8 = 1;
/// `TCP_SYN_SENT`.
const SYN_SENT: u8 = 2;

/// A socket to the kernel's service.
#[derive(Debug)]
pub(super) struct SocketDiag {
    socket: Socket,
    sequence: u32,
}

/// What the kernel says of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    /// What crossed so far, retransmissions included.
    pub(super) wire: WireBytes,
    /// Something is not sent, or not acknowledged: it may be repeated without anybody's doing.
    pub(super) unsettled: bool,
    /// What was sent and is not acknowledged.
    pub(super) unacknowledged_bytes: u64,
}

/// Which connection. Its cookie is learned with the first answer, so that another connection that
/// has the same addresses later is not taken for it.
#[derive(Debug)]
pub(super) struct ConnectionId {
    local: SocketAddr,
    remote: SocketAddr,
    cookie: [u8; 8],
}

impl ConnectionId {
    pub(super) fn new(local: SocketAddr, remote: SocketAddr) -> Self {
        Self { local, remote, cookie: NO_COOKIE }
    }

    fn ip_header_bytes(&self) -> u64 {
        if self.remote.is_ipv4() { IPV4_HEADER_BYTES } else { IPV6_HEADER_BYTES }
    }
}

impl SocketDiag {
    /// # Errors
    /// When the kernel has no such service, or a sandbox forbids it.
    pub(super) fn open() -> io::Result<Self> {
        let protocol = Some(Protocol::from(SOCK_DIAG_PROTOCOL));
        let socket = Socket::new(Domain::from(NETLINK_FAMILY), Type::DGRAM, protocol)?;
        // The kernel answers before `send` returns.
        socket.set_nonblocking(true)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// What crossed on a connection so far; `None` when it is gone, or in `TIME_WAIT`, where nothing
    /// is counted any more.
    ///
    /// # Errors
    /// When the kernel can't answer.
    pub(super) fn look_up(&mut self, id: &mut ConnectionId) -> io::Result<Option<Look>> {
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(&request(id, self.sequence))?;
        for _ in 0..STALE_ANSWERS_MAX {
            let mut answer = [0; ANSWER_BYTES_MAX];
            let length = (&self.socket).read(&mut answer)?;
            let answer = answer.get(..length).unwrap_or_default();
            if u32_at(answer, 8) == Some(self.sequence) {
                return read_answer(answer, id);
            }
        }
        Err(io::Error::other("the kernel answers other questions"))
    }
}

fn request(id: &ConnectionId, sequence: u32) -> Vec<u8> {
    // (AF_INET or AF_INET6)
    let family: u8 = if id.remote.is_ipv4() { 2 } else { 10 };
    let extensions: u8 = 1 << (INFO - 1);
    let mut bytes = Vec::with_capacity(REQUEST_BYTES as usize);
    bytes.extend(REQUEST_BYTES.to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(REQUEST.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    // (our port, which the kernel fills in)
    bytes.extend([0; 4]);
    bytes.extend([family, TCP, extensions, 0]);
    // In every state.
    bytes.extend([0xff; 4]);
    bytes.extend(id.local.port().to_be_bytes());
    bytes.extend(id.remote.port().to_be_bytes());
    bytes.extend(address(id.local.ip()));
    bytes.extend(address(id.remote.ip()));
    // (on every interface)
    bytes.extend([0; 4]);
    bytes.extend(id.cookie);
    bytes
}

fn address(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn read_answer(answer: &[u8], id: &mut ConnectionId) -> io::Result<Option<Look>> {
    let malformed = || io::Error::other("the kernel's answer is shorter than its parts");
    match u16_at(answer, 4) {
        Some(BY_FAMILY) => {}
        Some(ERROR) => {
            let number = u32_at(answer, HEADER_BYTES).ok_or_else(malformed)?;
            let error = io::Error::from_raw_os_error(number.wrapping_neg().cast_signed());
            // Gone, or another connection has its addresses (ESTALE).
            let gone = [Errno::NOENT, Errno::STALE].map(Some);
            return if gone.contains(&Errno::from_io_error(&error)) {
                Ok(None)
            } else {
                Err(error)
            };
        }
        _ => return Err(malformed()),
    }
    let message = answer.get(HEADER_BYTES..).ok_or_else(malformed)?;
    let cookie = message.get(COOKIE_AT..COOKIE_AT + 8).ok_or_else(malformed)?;
    id.cookie = cookie.try_into().map_err(|_| malformed())?;
    let attributes = message.get(MESSAGE_BYTES..).ok_or_else(malformed)?;
    let Some(info) = attribute(attributes, INFO) else { return Ok(None) };
    read_info(info, id.ip_header_bytes()).map(Some).ok_or_else(malformed)
}

/// The value of the attribute of this type.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16_at(attributes, 0)?);
        let value = attributes.get(4..length)?;
        if u16_at(attributes, 2)? == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

/// `struct tcp_info`: fields are only ever appended to it.
fn read_info(info: &[u8], ip_header_bytes: u64) -> Option<Look> {
    let (state, options) = (*info.first()?, *info.get(5)?);
    let (segments_out, segments_in) =
        (u64::from(u32_at(info, 136)?), u64::from(u32_at(info, 140)?));
    let received = u64_at(info, 128)?;
    // (segments on their way, bytes that wait to be; the latter since Linux 4.6)
    let (on_their_way, not_sent) = (u32_at(info, 24)?, u32_at(info, 144).unwrap_or(0));
    let unsettled = on_their_way > 0 || not_sent > 0;
    // Since Linux 4.19 with what was sent again; before that, what was acknowledged.
    let sent = u64_at(info, 200).or_else(|| u64_at(info, 120))?;
    let syn = ip_header_bytes + TCP_HEADER_BYTES + TCP_TIMESTAMP_BYTES + SYN_EXTRA_BYTES;
    if state == SYN_SENT {
        let wire = WireBytes { sent: segments_out.saturating_mul(syn), received: 0 };
        return Some(Look { wire, unsettled: true, unacknowledged_bytes: 0 });
    }
    let timestamps = if options & TIMESTAMPS == 0 { 0 } else { TCP_TIMESTAMP_BYTES };
    let header = ip_header_bytes + TCP_HEADER_BYTES + timestamps;
    let whole = |segments: u64, bytes: u64| {
        segments.saturating_mul(header).saturating_add(bytes).saturating_add(syn - header)
    };
    // (what was sent again, what was acknowledged, the SYN included)
    let unacknowledged_bytes = sent
        .saturating_sub(u64_at(info, 208).unwrap_or(0))
        .saturating_sub(u64_at(info, 120)?.saturating_sub(1));
    let wire =
        WireBytes { sent: whole(segments_out, sent), received: whole(segments_in, received) };
    Some(Look { wire, unsettled, unacknowledged_bytes })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    fn pair(listen: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(listen).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    fn id_of(stream: &TcpStream) -> ConnectionId {
        ConnectionId::new(stream.local_addr().unwrap(), stream.peer_addr().unwrap())
    }

    #[test]
    fn the_kernel_says_what_crossed_over_ipv4_and_over_ipv6() {
        for (listen, ip) in [("127.0.0.1:0", 20), ("[::1]:0", 40)] {
            let (mut client, mut server) = pair(listen);
            let mut diag = SocketDiag::open().unwrap();
            let mut id = id_of(&client);
            let header = ip + 32;
            let begun = diag.look_up(&mut id).unwrap().unwrap();
            let expected = WireBytes { sent: 2 * header + 8, received: header + 8 };
            assert_eq!(begun.wire, expected, "{listen}");
            assert_eq!((begun.unsettled, begun.unacknowledged_bytes), (false, 0), "{listen}");
            client.write_all(&[7; 100]).unwrap();
            server.read_exact(&mut [0; 100]).unwrap();
            let after = diag.look_up(&mut id).unwrap().unwrap();
            assert_eq!(after.wire.sent, begun.wire.sent + header + 100, "{listen}");
        }
    }

    #[test]
    fn a_connection_that_is_gone_is_not_there_and_another_is_not_taken_for_it() {
        let (client, server) = pair("127.0.0.1:0");
        let mut diag = SocketDiag::open().unwrap();
        let mut id = id_of(&client);
        let mut other = ConnectionId { cookie: [1; 8], ..id_of(&client) };
        assert!(diag.look_up(&mut id).unwrap().is_some());
        assert_eq!(diag.look_up(&mut other).unwrap(), None);
        drop((client, server));
        assert_eq!(diag.look_up(&mut id).unwrap(), None);
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(answer in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut id = ConnectionId::new(([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], 2).into());
            let _ = read_answer(&answer, &mut id);
            let _ = attribute(&answer, INFO);
        }
    }
}
