//! The judge of bytes: a TCP proxy between a node and its broker, behind a network of its own.
//!
//! The node reaches the proxy through a pair of virtual Ethernet devices, whose far end lies in a
//! network namespace that the proxy listens in. So every packet of the link crosses that pair as it
//! would cross a cable, with a kernel at each end that makes and acknowledges it, and the node's end
//! counts it: [`Proxy::count`] reads the device's own counters and takes off the 14 bytes of Ethernet
//! a packet. Segmentation is left to TCP (`gso_max_segs 1`), so that a packet counted is a packet
//! sent; addresses are resolved beforehand and IPv6 is off, so that nothing but the link crosses.
//! Packets are counted that the node sent and that reached it; what is lost on the way up was paid
//! for, what is lost on the way down never came.
//!
//! It can be slow ([`Shape`]), cut connections, refuse them, and lose every packet one way or both.
//! It refuses to run without root: namespaces and devices need it.

mod count;

pub use count::{Count, Flow};

use super::process::wait_until;
use anyhow::{Context, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Socket, Type};
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Of an Ethernet frame, as the device counts it.
const ETHERNET_HEADER_BYTES: u64 = 14;

/// The networks of four addresses in 198.18.0.0/15, which is set aside for measurements (RFC 2544).
const NETWORKS: u32 = 1 << 15;

/// Where the proxy listens, at an address of its own.
const PORT: u16 = 8883;

/// What waits in the proxy's socket of a shaped link: half a second at 64 kbit/s.
const NARROW_BUFFER_BYTES: u32 = 4 * 1024;

/// What is read at once: of a shaped link little, so that it flows evenly.
const CHUNK_BYTES: usize = 16 * 1024;
const NARROW_CHUNK_BYTES: usize = 512;

/// Chunks on their way through a link with delay.
const CHUNKS_MAX: usize = 256;

/// Where packets are sent that are to be lost: no device has this address.
const NOBODY: &str = "02:00:00:00:00:99";

/// How slow the link is, each way.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shape {
    /// TCP payload; without it as fast as the machine.
    pub bytes_per_second: Option<u64>,
    /// From one end to the other, besides.
    pub delay: Duration,
}

/// A running proxy. Dropping it takes its network away.
#[derive(Debug)]
pub struct Proxy {
    cable: Cable,
    ways: Arc<Ways>,
    runtime: Option<Runtime>,
    accepting: Option<JoinHandle<()>>,
}

/// What every connection knows.
#[derive(Debug)]
struct Ways {
    upstream: SocketAddr,
    shape: Shape,
    up_bytes: AtomicU64,
    down_bytes: AtomicU64,
    /// Raised to cut all connections.
    cut: watch::Sender<u64>,
}

impl Proxy {
    /// Starts a proxy that passes connections on to `upstream`.
    ///
    /// # Errors
    /// When the devices can't be made: it needs root and iproute2.
    pub fn start(upstream: SocketAddr, shape: Shape) -> anyhow::Result<Self> {
        let cable = Cable::lay()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("proxy")
            .enable_all()
            .build()?;
        let ways = Arc::new(Ways {
            upstream,
            shape,
            up_bytes: AtomicU64::new(0),
            down_bytes: AtomicU64::new(0),
            cut: watch::Sender::new(0),
        });
        let mut proxy = Self { cable, ways, runtime: Some(runtime), accepting: None };
        proxy.accept_again()?;
        Ok(proxy)
    }

    /// Where the node connects.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (self.cable.far, PORT).into()
    }

    /// What crossed so far.
    ///
    /// # Errors
    /// When the device is gone.
    pub fn count(&self) -> anyhow::Result<Count> {
        let flow = |way: &str, payload: &AtomicU64| -> anyhow::Result<Flow> {
            let packets = self.cable.statistic(&format!("{way}_packets"))?;
            let bytes = self.cable.statistic(&format!("{way}_bytes"))?;
            let payload_bytes = payload.load(Ordering::Relaxed);
            let wire_bytes = bytes - packets * ETHERNET_HEADER_BYTES;
            Ok(Flow { packets, wire_bytes, payload_bytes })
        };
        Ok(Count { up: flow("tx", &self.ways.up_bytes)?, down: flow("rx", &self.ways.down_bytes)? })
    }

    /// Waits until nothing crosses for `quiet`, and says what crossed so far.
    ///
    /// # Errors
    /// When it does not become quiet within a minute.
    pub fn count_when_quiet(&self, quiet: Duration) -> anyhow::Result<Count> {
        let begin = std::time::Instant::now();
        let (mut last, mut since) = (self.count()?, begin);
        while since.elapsed() < quiet {
            ensure!(begin.elapsed() < Duration::from_secs(60), "the link does not become quiet");
            std::thread::sleep(Duration::from_millis(20));
            let now = self.count()?;
            if now != last {
                (last, since) = (now, std::time::Instant::now());
            }
        }
        Ok(last)
    }

    /// What crossed so far once the node has answered the next word to it: up to the node's second
    /// word, or until nothing crosses for `quiet`.
    ///
    /// # Errors
    /// When no word and answer come within a minute.
    pub fn count_of_first_answer(&self, quiet: Duration) -> anyhow::Result<Count> {
        let begin = std::time::Instant::now();
        let silent = self.count()?;
        let (mut last, mut since) = (silent, begin);
        loop {
            ensure!(begin.elapsed() < Duration::from_secs(60), "the node does not answer");
            std::thread::sleep(Duration::from_micros(500));
            let now = self.count()?;
            let answered = last.up.carried_bytes() > silent.up.carried_bytes();
            let spoke = now.up.carried_bytes() > last.up.carried_bytes();
            if answered && (spoke || since.elapsed() > quiet) {
                return Ok(last);
            }
            if now != last {
                (last, since) = (now, std::time::Instant::now());
            }
        }
    }

    /// Ends all connections with a reset to both ends.
    pub fn cut(&self) {
        self.ways.cut.send_modify(|cut| *cut += 1);
    }

    /// From now on connections are refused; those that are open stay.
    pub fn refuse(&mut self) {
        if let (Some(accepting), Some(runtime)) = (self.accepting.take(), &self.runtime) {
            accepting.abort();
            let _ended = runtime.block_on(accepting);
        }
    }

    /// Connections are accepted again.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn accept_again(&mut self) -> anyhow::Result<()> {
        let Some(runtime) = self.runtime.as_ref().filter(|_| self.accepting.is_none()) else {
            return Ok(());
        };
        let narrow = self.ways.shape.bytes_per_second.is_some();
        let listener = self.cable.listen_at_far_end(narrow)?;
        let ways = Arc::clone(&self.ways);
        let _inside = runtime.enter();
        let listener = TcpListener::from_std(listener)?;
        self.accepting = Some(runtime.spawn(accept(listener, ways)));
        Ok(())
    }

    /// Whether every packet from the node, and every packet to it, is lost.
    ///
    /// # Errors
    /// When the addresses can't be changed.
    pub fn lose_packets(&self, up: bool, down: bool) -> anyhow::Result<()> {
        self.cable.lose(up, down)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: TcpListener, ways: Arc<Ways>) {
    while let Ok((node, _)) = listener.accept().await {
        let ways = Arc::clone(&ways);
        tokio::spawn(async move {
            // A broker that refuses is told to the node by the end of its connection.
            let _ = pass(node, &ways).await;
        });
    }
}

async fn pass(mut node: TcpStream, ways: &Ways) -> std::io::Result<()> {
    let mut cut = ways.cut.subscribe();
    let socket = TcpSocket::new_v4()?;
    if ways.shape.bytes_per_second.is_some() {
        socket.set_recv_buffer_size(NARROW_BUFFER_BYTES)?;
    }
    let mut broker = socket.connect(ways.upstream).await?;
    node.set_nodelay(true)?;
    broker.set_nodelay(true)?;
    let (from_node, to_node) = node.split();
    let (from_broker, to_broker) = broker.split();
    let up = pump(from_node, to_broker, ways.shape, &ways.up_bytes);
    let down = pump(from_broker, to_node, ways.shape, &ways.down_bytes);
    let both = async { tokio::try_join!(up, down) };
    let is_cut = tokio::select! {
        _ = cut.changed() => true,
        ended = both => ended.is_err(),
    };
    if is_cut {
        // A reset instead of a goodbye.
        node.set_zero_linger()?;
        broker.set_zero_linger()?;
    }
    Ok(())
}

/// Passes on what comes one way, and at last its end.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    shape: Shape,
    passed: &AtomicU64,
) -> std::io::Result<()> {
    let (enter, mut leave) = mpsc::channel(CHUNKS_MAX);
    let narrow = shape.bytes_per_second.is_some();
    let mut chunk = vec![0; if narrow { NARROW_CHUNK_BYTES } else { CHUNK_BYTES }];
    let read = async move {
        let mut free_at = Instant::now();
        loop {
            let bytes = from.read(&mut chunk).await?;
            if bytes == 0 {
                return Ok(());
            }
            if let Some(rate) = shape.bytes_per_second {
                let nanos = bytes as u64 * 1_000_000_000 / rate;
                free_at = free_at.max(Instant::now()) + Duration::from_nanos(nanos);
                tokio::time::sleep_until(free_at).await;
            }
            let arrives = Instant::now() + shape.delay;
            let packet = chunk.get(..bytes).unwrap_or_default().to_vec();
            if enter.send((arrives, packet)).await.is_err() {
                return Ok(());
            }
        }
    };
    let write = async {
        while let Some((arrives, packet)) = leave.recv().await {
            tokio::time::sleep_until(arrives).await;
            to.write_all(&packet).await?;
            passed.fetch_add(packet.len() as u64, Ordering::Relaxed);
        }
        to.shutdown().await
    };
    tokio::try_join!(read, write).map(drop)
}

/// A pair of devices: the near end here, the far end in a namespace of its own.
#[derive(Debug)]
struct Cable {
    near: Ipv4Addr,
    far: Ipv4Addr,
    device: String,
    far_device: String,
    /// Keeps the namespace until its input ends, which it does however this process ends.
    keeper: Child,
    namespace: File,
    _claim: UnixListener,
}

const NEAR_MAC: &str = "02:00:00:00:00:01";
const FAR_MAC: &str = "02:00:00:00:00:02";

impl Cable {
    fn lay() -> anyhow::Result<Self> {
        let (number, claim) = claim_network().context("every network is in use")?;
        let mut keeper = Command::new("unshare")
            .args(["--net", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("could not start unshare")?;
        let namespace = match open_namespace(&mut keeper) {
            Ok(namespace) => namespace,
            Err(error) => {
                let _ = keeper.kill();
                let _ = keeper.wait();
                return Err(error);
            }
        };
        let first = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + number * 4;
        let cable = Self {
            near: Ipv4Addr::from(first + 1),
            far: Ipv4Addr::from(first + 2),
            device: format!("hl{number}n"),
            far_device: format!("hl{number}f"),
            keeper,
            namespace,
            _claim: claim,
        };
        cable.connect()?;
        Ok(cable)
    }

    fn connect(&self) -> anyhow::Result<()> {
        let Self { near, far, device, far_device, .. } = self;
        let process = self.keeper.id();
        ip(&format!(
            "link add {device} address {NEAR_MAC} type veth peer name {far_device} \
             address {FAR_MAC} netns {process}"
        ))?;
        let up = |device: &str| format!("link set {device} addrgenmode none gso_max_segs 1 up");
        ip(&up(device))?;
        self.far_ip(&up(far_device))?;
        ip(&format!("addr add {near}/30 dev {device}"))?;
        self.far_ip(&format!("addr add {far}/30 dev {far_device}"))?;
        self.address_far_end(FAR_MAC)?;
        self.far_ip(&format!(
            "neigh replace {near} lladdr {NEAR_MAC} dev {far_device} nud permanent"
        ))
    }

    fn address_far_end(&self, mac: &str) -> anyhow::Result<()> {
        let Self { far, device, .. } = self;
        ip(&format!("neigh replace {far} lladdr {mac} dev {device} nud permanent"))
    }

    fn lose(&self, up: bool, down: bool) -> anyhow::Result<()> {
        self.address_far_end(if up { NOBODY } else { FAR_MAC })?;
        let near = self.near;
        if down {
            return self.far_ip(&format!("route replace blackhole {near}/32"));
        }
        // Where nothing was lost there is no such route.
        let _ = self.far_ip(&format!("route del blackhole {near}/32"));
        Ok(())
    }

    fn statistic(&self, name: &str) -> anyhow::Result<u64> {
        let path = format!("/sys/class/net/{}/statistics/{name}", self.device);
        let text = fs::read_to_string(&path).with_context(|| path)?;
        Ok(text.trim().parse()?)
    }

    fn far_ip(&self, arguments: &str) -> anyhow::Result<()> {
        let process = self.keeper.id();
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{process}/ns/net")).arg("ip");
        run(command.args(arguments.split_whitespace()))
    }

    /// A socket stays in the namespace in which it was made; so only the thread that makes it has to
    /// go there.
    fn listen_at_far_end(&self, narrow: bool) -> anyhow::Result<std::net::TcpListener> {
        let address = SocketAddr::from((self.far, PORT));
        let namespace = self.namespace.try_clone()?;
        let listen = move || -> anyhow::Result<std::net::TcpListener> {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .context("could not enter the namespace")?;
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.set_nonblocking(true)?;
            if narrow {
                // Before a connection is made, or its window would be open already.
                socket.set_recv_buffer_size(NARROW_BUFFER_BYTES as usize)?;
            }
            socket.bind(&address.into())?;
            socket.listen(128)?;
            Ok(socket.into())
        };
        let thread = std::thread::spawn(listen).join();
        thread.unwrap_or_else(|_| bail!("the thread that listens has failed"))
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        let _ = ip(&format!("link del {}", self.device));
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// The namespace of `keeper`, once it has one of its own.
fn open_namespace(keeper: &mut Child) -> anyhow::Result<File> {
    let path = format!("/proc/{}/ns/net", keeper.id());
    let own = fs::read_link("/proc/self/ns/net")?;
    wait_until("a network namespace is there: it needs root", Duration::from_secs(10), || {
        ensure!(matches!(keeper.try_wait(), Ok(None)), "unshare has ended");
        Ok(fs::read_link(&path)? != own)
    })?;
    Ok(File::open(path)?)
}

/// A network that no other proxy on this machine has, and what keeps it so.
fn claim_network() -> Option<(u32, UnixListener)> {
    let begin = std::process::id().wrapping_mul(37);
    (0..NETWORKS).find_map(|offset| {
        let number = begin.wrapping_add(offset) % NETWORKS;
        let name = format!("hinterland-network-{number}");
        let address = std::os::unix::net::SocketAddr::from_abstract_name(name).ok()?;
        Some((number, UnixListener::bind_addr(&address).ok()?))
    })
}

fn ip(arguments: &str) -> anyhow::Result<()> {
    run(Command::new("ip").args(arguments.split_whitespace()))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    // Debian has `ip` in /sbin, which is not in everybody's PATH.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = command.env("PATH", path).output().with_context(|| format!("{command:?}"))?;
    if output.status.success() {
        return Ok(());
    }
    bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr))
}
