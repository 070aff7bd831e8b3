//! Where nodes come in: TCP, then TLS with a certificate of the fleet.
//!
//! Each packet that it can save a node, it saves: what the broker says right after the handshake travels
//! with the handshake's last words, and acknowledgements wait for something to travel with.

use super::embedded::{EmbeddedOptions, SESSIONS_MAX, StartError};
use super::verifier::Ageless;
use rustls::ServerConfig;
use rustls::server::{ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use shared::io::tcp::acknowledge_late;
use shared::model::NodeId;
use shared::trust::certificate::{node_of_certificate, serial_of_certificate};
use socket2::SockRef;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::debug;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// TLS sessions that can be resumed: each node leaves two tickets.
const RESUMABLE_MAX: usize = 2 * SESSIONS_MAX;

/// Accepts connections, and says who is at the other end.
pub(super) struct Door {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

/// Who a certificate of the fleet says is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// `None` where its common name is not a node's name.
    pub(super) node: Option<NodeId>,
    /// In lower-case hexadecimal.
    pub(super) serial: String,
    pub(super) address: SocketAddr,
}

/// What is said over one connection.
pub(super) type Stream = TlsStream<SparingStream>;

impl Door {
    /// Listens. The certificates are read once.
    pub(super) fn open(options: &EmbeddedOptions) -> Result<Self, StartError> {
        let config = server_config(options)?;
        let listener = listen(options.listen).map_err(|source| StartError::Listen {
            address: options.listen,
            source: source.into(),
        })?;
        Ok(Self { listener, acceptor: TlsAcceptor::from(config) })
    }

    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The next connection, before anything was said over it.
    pub(super) async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.listener.accept().await
    }

    /// The handshake of one connection. Whoever shows no certificate of the fleet does not get past it.
    pub(super) fn greet(
        &self,
        stream: TcpStream,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<(Stream, Identity)>> + Send + use<> {
        let acceptor = self.acceptor.clone();
        async move {
            let mut stream = acceptor.accept(SparingStream::new(stream)?).await?;
            stream.get_mut().0.established = true;
            let identity = identify(&stream, address)?;
            Ok((stream, identity))
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket =
        socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    // A restarted hub must not wait for the old connections' TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn server_config(options: &EmbeddedOptions) -> Result<Arc<ServerConfig>, StartError> {
    let refused = |error: Box<dyn std::error::Error + Send + Sync>| StartError::Certificates(error);
    let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>, StartError> {
        let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
        read.map_err(|error| refused(error.into()))
    };
    let key = PrivateKeyDer::from_pem_file(&options.key).map_err(|error| refused(error.into()))?;
    let mut roots = rustls::RootCertStore::empty();
    for authority in certificates(&options.client_ca)? {
        roots.add(authority).map_err(|error| refused(error.into()))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider))
        .build()
        .map_err(|error| refused(error.into()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| refused(error.into()))?
        .with_client_cert_verifier(Arc::new(Ageless(verifier)))
        .with_single_cert(certificates(&options.certificate_chain)?, key)
        .map_err(|error| refused(error.into()))?;
    config.session_storage = ServerSessionMemoryCache::new(RESUMABLE_MAX);
    Ok(Arc::new(config))
}

fn identify(stream: &Stream, address: SocketAddr) -> io::Result<Identity> {
    let (_, connection) = stream.get_ref();
    let certificate = connection.peer_certificates().and_then(<[_]>::first);
    let certificate =
        certificate.ok_or_else(|| io::Error::other("it showed no certificate"))?.as_ref();
    let serial = serial_of_certificate(certificate).map_err(io::Error::other)?;
    Ok(Identity { node: node_of_certificate(certificate).ok(), serial, address })
}

/// A TCP connection that holds back its last words of the handshake until the first words after it are
/// flushed, or until the kernel's 200 ms are over, and acknowledges late.
#[derive(Debug)]
pub(super) struct SparingStream {
    stream: TcpStream,
    has_written: bool,
    /// The other end's second flight has come: what is written from then on waits.
    holds: bool,
    /// The handshake is over.
    established: bool,
    /// Everything goes out at once, from here on.
    released: bool,
}

impl SparingStream {
    fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        acknowledge_late(&stream);
        let (has_written, holds, established, released) = (false, false, false, false);
        Ok(Self { stream, has_written, holds, established, released })
    }

    fn release(&mut self) {
        self.released = true;
        if std::mem::take(&mut self.holds)
            && let Err(error) = SockRef::from(&self.stream).set_tcp_cork(false)
        {
            debug!(%error, "what was held goes out a little later");
        }
    }

    fn note_read(&mut self) {
        acknowledge_late(&self.stream);
        if self.has_written && !self.holds && !self.released {
            self.holds = SockRef::from(&self.stream).set_tcp_cork(true).is_ok();
        }
    }
}

impl AsyncRead for SparingStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.note_read();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for SparingStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.has_written = true;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.has_written = true;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.established {
            self.release();
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.release();
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
