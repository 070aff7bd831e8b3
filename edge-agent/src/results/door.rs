//! A pod's door: the socket that is its own, the token of its start, and how much it may ask at once.
//!
//! A door is open from before the pod's program starts until its last process has ended, and is opened
//! again for a pod that outlived the agent. Dropping it closes it.

use super::desk::Waiting;
use super::rate::Rate;
use super::server::{Visitor, serve_connection};
use super::token::{TokenKey, claimed_instance};
use crate::owner_socket::bind_for_owner;
use crate::ports::InstanceId;
use shared::model::PodId;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::DirBuilder;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tracing::warn;

/// Connections of one pod at once, over either road.
pub(super) const POD_CONNECTIONS_MAX: usize = 8;

/// Posts of all pods that wait for the loop; more wait at their connections.
const WAITING_MAX: usize = 64;

/// `sun_path` of unix(7) with its final zero: a longer path can't be connected to.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// After the system refused a connection (no descriptors left): it is asked again, not at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Says whether the process with a number belongs to a pod.
pub type Membership = Box<dyn Fn(i32) -> bool + Send + Sync>;

/// The doors of all pods of a node.
#[derive(Debug, Clone)]
pub struct Doors(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    key: TokenKey,
    address: SocketAddr,
    open: Mutex<BTreeMap<InstanceId, Arc<Owner>>>,
    posts: mpsc::Sender<Waiting>,
    begin: Instant,
}

/// The pod behind a door.
pub(super) struct Owner {
    pub(super) pod: PodId,
    instance: InstanceId,
    rate: Mutex<Rate>,
    pub(super) connections: Arc<Semaphore>,
    is_member: Membership,
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owner").field("pod", &self.pod).field("instance", &self.instance).finish()
    }
}

/// An open door.
#[derive(Debug)]
pub struct Door {
    doors: Doors,
    owner: Arc<Owner>,
    socket: Option<PathBuf>,
    listening: Option<AbortHandle>,
}

impl Doors {
    /// No doors yet, and where what is posted arrives. `address` is where
    /// [`super::serve_loopback`] listens.
    #[must_use]
    pub fn new(key: TokenKey, address: SocketAddr) -> (Self, mpsc::Receiver<Waiting>) {
        let (posts, arriving) = mpsc::channel(WAITING_MAX);
        let open = Mutex::default();
        let begin = Instant::now();
        (Self(Arc::new(Shared { key, address, open, posts, begin })), arriving)
    }

    /// Opens the door of a start: at `socket`, and by its token. Within a tokio runtime. A socket that
    /// can't be had is said and done without: the token is there too.
    #[must_use]
    pub fn open(
        &self,
        pod: &PodId,
        instance: InstanceId,
        socket: &Path,
        is_member: Membership,
    ) -> Door {
        let owner = Arc::new(Owner {
            pod: pod.clone(),
            instance,
            rate: Mutex::new(Rate::new(self.now_ms())),
            connections: Arc::new(Semaphore::new(POD_CONNECTIONS_MAX)),
            is_member,
        });
        self.table().insert(instance, Arc::clone(&owner));
        let mut door =
            Door { doors: self.clone(), owner: Arc::clone(&owner), socket: None, listening: None };
        match bind(socket) {
            Ok(listener) => {
                let serving = accept(self.clone(), owner, listener);
                door.listening = Some(tokio::spawn(serving).abort_handle());
                door.socket = Some(socket.to_owned());
            }
            Err(error) => {
                let socket = socket.display();
                warn!(%pod, %socket, %error, "no socket for the pod's results: it has to post to loopback");
            }
        }
        door
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.0.address
    }

    pub(super) fn posts(&self) -> &mpsc::Sender<Waiting> {
        &self.0.posts
    }

    /// Whose token this is, while its door is open.
    pub(super) fn owner_of(&self, token: &str) -> Option<Arc<Owner>> {
        let instance = claimed_instance(token)?;
        let owner = self.table().get(&instance).cloned()?;
        self.0.key.is_of(token, &owner.pod, instance).then_some(owner)
    }

    /// Takes so much of what a pod may post now; else the seconds until it may.
    pub(super) fn take_rate(&self, owner: &Owner, results: u64, bytes: u64) -> Result<(), u64> {
        let mut rate = owner.rate.lock().unwrap_or_else(PoisonError::into_inner);
        rate.take(results, bytes, self.now_ms())
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.0.begin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Arc<Owner>>> {
        // Entries are put and taken whole: a panic leaves none half done.
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Door {
    /// What the pod is told: where to post, and what to show there.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        let (owner, shared) = (&self.owner, &self.doors.0);
        let socket = self.socket.as_ref().map(|path| path.to_string_lossy().into_owned());
        let socket = socket.map(|path| ("HINTERLAND_RESULTS_SOCKET", path));
        let token = shared.key.token(&owner.pod, owner.instance);
        let loopback = [
            ("HINTERLAND_RESULTS_URL", format!("http://{}/v1/results", shared.address)),
            ("HINTERLAND_RESULTS_TOKEN", token),
        ];
        let all = socket.into_iter().chain(loopback);
        all.map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.doors.table().remove(&self.owner.instance);
        if let Some(listening) = &self.listening {
            listening.abort();
        }
        if let Some(socket) = &self.socket {
            let _ = std::fs::remove_file(socket);
        }
    }
}

/// A socket for this user only; one that an earlier start left is taken away.
fn bind(socket: &Path) -> io::Result<UnixListener> {
    if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        let what = format!("its path is longer than {SOCKET_PATH_BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    if let Some(folder) = socket.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    bind_for_owner(socket)
}

/// Serves one pod until the door is closed; with it its connections end.
async fn accept(doors: Doors, owner: Arc<Owner>, listener: UnixListener) {
    let mut connections = JoinSet::new();
    loop {
        // What a pod has too much of waits in the socket's own queue.
        let Ok(place) = Arc::clone(&owner.connections).acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let visitor = visitor(&owner, &stream);
                let doors = doors.clone();
                connections.spawn(async move {
                    serve_connection(doors, stream, visitor).await;
                    drop(place);
                });
            }
            Err(error) => {
                warn!(pod = %owner.pod, %error, "a pod's connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Another pod can reach the socket, where both run as one user: it is told from the pod by its
/// process, which the kernel names.
fn visitor(owner: &Arc<Owner>, stream: &UnixStream) -> Visitor {
    let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
    match pid {
        Some(pid) if (owner.is_member)(pid) => Visitor::Owner(Arc::clone(owner)),
        _ => {
            warn!(pod = %owner.pod, pid, "a process that is not of the pod came to its socket");
            Visitor::Stranger(owner.pod.clone())
        }
    }
}
