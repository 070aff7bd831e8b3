//! Connects to the broker with a socket of our own: metered, and with so little waiting in the kernel
//! that what is sent later can overtake what the link has not taken yet. It saves packets: an
//! acknowledgement waits up to 40 ms for something that it can travel with, and the client's last
//! words of the TLS handshake travel with its CONNECT.
//!
//! It refuses to speak: TLS and MQTT are above it.

use super::meter::{StreamCounts, StreamEnd, WireMeter};
use crate::io::tcp::acknowledge_late;
use rustix::io::Errno;
use socket2::{Domain, SockRef, Socket, Type};
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// One payload must fit; what is unsent is bounded by [`UNSENT_BYTES_MAX`] already.
const SEND_BUFFER_BYTES: usize = 16 * 1024;

/// What the kernel takes that it can't send yet: at 64 kbit/s a quarter of a second. What is written
/// at once may exceed it by one message.
const UNSENT_BYTES_MAX: u32 = 2 * 1024;

/// What was sent and is not acknowledged for this long ends the connection. Longer than most fades
/// of a radio; without it a link whose path is dead would be believed for up to 20 minutes.
const UNACKNOWLEDGED_TIME_MAX: Duration = Duration::from_secs(120);

/// Nobody answers the SYN for this long, repeated after 1 and 3 seconds: more repeats would only cost
/// bytes. Longer than any radio's round trip.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(6);

/// A connection whose bytes are counted.
#[derive(Debug)]
pub(super) struct MeteredStream {
    stream: TcpStream,
    counts: Arc<StreamCounts>,
    meter: Arc<WireMeter>,
    greeting: Greeting,
}

/// How far the exchange has come in which a flight of ours is held back for the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Greeting {
    /// Nothing has come yet: what is written goes out at once.
    Opening,
    /// The other end has answered: what is written waits for more, or until we wait for an answer.
    Held { written: bool },
    /// Everything goes out at once, for the rest of the connection.
    Over,
}

/// Connects to the first address of `host` that accepts.
///
/// # Errors
/// What the last address said, or that there is none.
pub(super) async fn dial(
    host: &str,
    port: u16,
    meter: Arc<WireMeter>,
) -> io::Result<MeteredStream> {
    if host.parse::<IpAddr>().is_err() {
        meter.note_lookup();
    }
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in tokio::net::lookup_host((host, port)).await? {
        match connect(address, &meter).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn connect(address: SocketAddr, meter: &Arc<WireMeter>) -> io::Result<MeteredStream> {
    let stream = begin(address)?;
    let counts = Arc::new(StreamCounts::default());
    meter.track(stream.local_addr()?, address, &counts);
    // From here on its end is counted, however it ends.
    let metered =
        MeteredStream { stream, counts, meter: Arc::clone(meter), greeting: Greeting::Opening };
    tokio::time::timeout(ANSWER_TIMEOUT, metered.stream.writable())
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "nobody answers"))??;
    match metered.stream.take_error()? {
        None => metered.counts.note_connected(),
        Some(error) => {
            if error.kind() == io::ErrorKind::ConnectionRefused {
                metered.counts.note_end(StreamEnd::Reset);
            }
            return Err(error);
        }
    }
    Ok(metered)
}

/// A socket whose SYN is sent. An error here costs nothing: no packet has left.
fn begin(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    acknowledge_late(&socket);
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_TIME_MAX))?;
    match socket.connect(&address.into()) {
        Err(error) if Errno::from_io_error(&error) != Some(Errno::INPROGRESS) => Err(error),
        _ => TcpStream::from_std(socket.into()),
    }
}

impl MeteredStream {
    /// Something has come.
    fn note_answer(&mut self) {
        acknowledge_late(&self.stream);
        if self.greeting == Greeting::Opening {
            let held = SockRef::from(&self.stream).set_tcp_cork(true).is_ok();
            self.greeting = if held { Greeting::Held { written: false } } else { Greeting::Over };
        }
    }

    /// We are about to wait: what is held back must go out.
    fn release_greeting(&mut self) {
        if self.greeting == (Greeting::Held { written: true }) {
            // If this fails the kernel sends it by itself within 200 ms.
            let _ = SockRef::from(&self.stream).set_tcp_cork(false);
            self.greeting = Greeting::Over;
        }
    }

    fn note_failure(&self, error: &io::Error) {
        if error.kind() == io::ErrorKind::ConnectionReset {
            self.counts.note_end(StreamEnd::Reset);
        }
    }

    fn note_write(&mut self, result: io::Result<usize>) -> io::Result<usize> {
        match &result {
            Ok(bytes) => {
                self.counts.note_sent(*bytes);
                if matches!(self.greeting, Greeting::Held { .. }) {
                    self.greeting = Greeting::Held { written: true };
                }
            }
            Err(error) => self.note_failure(error),
        }
        result
    }
}

impl AsyncRead for MeteredStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.release_greeting();
        let before = buffer.filled().len();
        let result = ready!(Pin::new(&mut this.stream).poll_read(context, buffer));
        let bytes = buffer.filled().len().saturating_sub(before);
        match &result {
            Ok(()) if bytes == 0 && buffer.remaining() > 0 => {
                this.counts.note_end(StreamEnd::Closed);
            }
            Ok(()) => {
                this.counts.note_received(bytes);
                this.note_answer();
            }
            Err(error) => this.note_failure(error),
        }
        Poll::Ready(result)
    }
}

impl AsyncWrite for MeteredStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = ready!(Pin::new(&mut this.stream).poll_write(context, buffer));
        Poll::Ready(this.note_write(result))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = ready!(Pin::new(&mut this.stream).poll_write_vectored(context, buffers));
        Poll::Ready(this.note_write(result))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

impl Drop for MeteredStream {
    fn drop(&mut self) {
        // Before the socket is closed: afterwards the kernel says less.
        self.meter.close(&self.counts);
    }
}
