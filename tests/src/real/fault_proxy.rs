//! An HTTP proxy that answers some requests by itself, as a server in trouble would: one request a connection,
//! and what is asked is counted.
//!
//! Understands no more of HTTP than a request's head and the length of its body.

use anyhow::Context;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A head of a request: a token and a few paths.
const HEAD_BYTES_MAX: u64 = 64 * 1024;

/// A request whose method and path are so is answered so.
#[derive(Debug, Clone)]
pub struct Fault {
    /// The method; any, where it is empty.
    pub method: &'static str,
    /// What the path with its query holds.
    pub path: &'static str,
    /// How it is answered.
    pub answer: FaultAnswer,
    /// How often; then such requests pass.
    pub times: usize,
}

/// How a request is answered.
#[derive(Debug, Clone)]
pub enum FaultAnswer {
    /// With this status and body, and these further header lines.
    Status(u16, &'static str, &'static str),
    /// As the server does, after so long.
    Late(Duration),
    /// As the server does, so many bytes a second.
    Slow(u32),
    /// Not at all: the connection is closed.
    Closed,
}

#[derive(Debug, Default)]
struct Shared {
    faults: Vec<Fault>,
    /// Method and path of every request, as they came.
    seen: Vec<String>,
    /// Connections to the server, some of which have ended.
    open: Vec<TcpStream>,
}

/// A running proxy. It ends with the process.
#[derive(Debug, Clone)]
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

impl FaultProxy {
    /// One before `upstream`.
    ///
    /// # Errors
    /// When there is no port.
    pub fn start(upstream: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let (address, shared) = (listener.local_addr()?, Arc::default());
        let proxy = Self { address, shared };
        let serving = proxy.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let proxy = serving.clone();
                // A connection that breaks is what the test is about, or shows in it.
                std::thread::spawn(move || drop(proxy.serve(stream, upstream)));
            }
        });
        Ok(proxy)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on.
    pub fn add(&self, fault: Fault) {
        self.lock().faults.push(fault);
    }

    /// No faults any more.
    pub fn clear(&self) {
        self.lock().faults.clear();
    }

    /// Cuts every answer that has not ended, as watches have not.
    pub fn cut(&self) {
        for stream in self.lock().open.drain(..) {
            // One that has ended is cut already.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// How many requests came whose method and path hold this, as in `PATCH /apis/`.
    #[must_use]
    pub fn seen(&self, method: &str, path: &str) -> usize {
        let of = |line: &&String| line.starts_with(method) && line.contains(path);
        self.lock().seen.iter().filter(of).count()
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, stream: TcpStream, upstream: SocketAddr) -> anyhow::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let (line, head) = read_head(&mut reader)?;
        let mut bytes_per_second = u32::MAX;
        match self.fault(&line) {
            Some(FaultAnswer::Status(status, body, headers)) => {
                drain_body(&mut reader, &head)?;
                return answer(stream, status, body, headers);
            }
            Some(FaultAnswer::Closed) => return Ok(()),
            Some(FaultAnswer::Late(by)) => std::thread::sleep(by),
            Some(FaultAnswer::Slow(rate)) => bytes_per_second = rate,
            None => {}
        }
        let mut server = TcpStream::connect(upstream)?;
        self.lock().open.push(server.try_clone()?);
        server.write_all(head.as_bytes())?;
        let (mut from_client, mut to_server) = (reader, server.try_clone()?);
        let mut to_client = stream;
        std::thread::spawn(move || drop(io::copy(&mut from_client, &mut to_server)));
        copy(&mut server, &mut to_client, bytes_per_second).context("the answer was cut")?;
        Ok(to_client.shutdown(std::net::Shutdown::Both)?)
    }

    fn fault(&self, line: &str) -> Option<FaultAnswer> {
        let mut shared = self.lock();
        shared.seen.push(line.to_owned());
        let is_meant = |fault: &&mut Fault| {
            fault.times > 0 && line.starts_with(fault.method) && line.contains(fault.path)
        };
        let fault = shared.faults.iter_mut().find(is_meant)?;
        fault.times -= 1;
        Some(fault.answer.clone())
    }
}

fn copy(from: &mut impl Read, to: &mut impl Write, bytes_per_second: u32) -> io::Result<()> {
    let mut chunk = [0; 8192];
    loop {
        let bytes = from.read(&mut chunk)?;
        if bytes == 0 {
            return Ok(());
        }
        to.write_all(chunk.get(..bytes).unwrap_or_default())?;
        let seconds = bytes as f64 / f64::from(bytes_per_second);
        std::thread::sleep(Duration::from_secs_f64(seconds));
    }
}

/// The first line and the whole head, with `Connection: close`.
fn read_head(reader: &mut impl BufRead) -> anyhow::Result<(String, String)> {
    let mut head = String::new();
    let mut limited = reader.take(HEAD_BYTES_MAX);
    loop {
        let mut line = String::new();
        anyhow::ensure!(limited.read_line(&mut line)? > 0, "the head was cut");
        if line == "\r\n" {
            break;
        }
        if !line.to_ascii_lowercase().starts_with("connection:") {
            head.push_str(&line);
        }
    }
    head.push_str("Connection: close\r\n\r\n");
    let line = head.lines().next().unwrap_or_default().to_owned();
    Ok((line, head))
}

fn drain_body(reader: &mut impl Read, head: &str) -> anyhow::Result<()> {
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_it = name.eq_ignore_ascii_case("content-length");
        is_it.then(|| value.trim().parse::<u64>().ok()).flatten()
    });
    io::copy(&mut reader.take(length.unwrap_or(0)), &mut io::sink())?;
    Ok(())
}

fn answer(mut stream: TcpStream, status: u16, body: &str, headers: &str) -> anyhow::Result<()> {
    let head = format!(
        "HTTP/1.1 {status} Fault\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n{headers}\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    Ok(stream.shutdown(std::net::Shutdown::Write)?)
}
