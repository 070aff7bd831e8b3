//! What a site has for results: a receiver of webhooks that can be told to misbehave, and a broker of its
//! own, with TLS, a user and a password.

use super::process::{Process, free_port, wait_until};
use anyhow::Context;
use rumqttc::{
    AsyncClient, Broker, Event, Incoming, MqttOptions, QoS, TlsConfiguration, Transport,
};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// mosquitto needs some 20 ms; a busy machine more.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// How a receiver answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Takes everything.
    Takes,
    /// Answers 503.
    Fails,
    /// Reads, and never answers.
    Hangs,
    /// Takes a request, and answers 400 to one that contains `poison`.
    RefusesPoison,
}

/// A receiver of webhooks. Ends with its process.
#[derive(Debug, Clone)]
pub struct Receiver {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Mutex<Received>>,
}

#[derive(Debug)]
struct Received {
    mood: Mood,
    lines: Vec<String>,
    requests: u64,
}

impl Receiver {
    /// Starts one.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start(mood: Mood) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", free_port()?))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Mutex::new(Received { mood, lines: vec![], requests: 0 }));
        let receiver = Self { address, shared };
        let server = receiver.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                std::thread::spawn(move || server.serve(&stream));
            }
        });
        Ok(receiver)
    }

    /// From now on it answers so.
    pub fn set_mood(&self, mood: Mood) {
        self.lock().mood = mood;
    }

    /// Lines that it has taken.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lock().lines.clone()
    }

    /// Requests that it has read.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.lock().requests
    }

    fn lock(&self) -> MutexGuard<'_, Received> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, stream: &TcpStream) {
        let mut reader = BufReader::new(stream);
        while let Some(body) = read_body(&mut reader) {
            let Some(status) = self.answer(&body) else {
                // Hangs until the other side gives up.
                let _ = reader.read(&mut [0]);
                return;
            };
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok");
            let mut writer = stream;
            if writer.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }

    fn answer(&self, body: &str) -> Option<&'static str> {
        let mut received = self.lock();
        received.requests += 1;
        match received.mood {
            Mood::Hangs => return None,
            Mood::Fails => return Some("503 Service Unavailable"),
            Mood::RefusesPoison if body.contains("poison") => return Some("400 Bad Request"),
            Mood::Takes | Mood::RefusesPoison => {}
        }
        received.lines.extend(body.lines().map(str::to_owned));
        Some("200 OK")
    }
}

/// The body of the next request; `None` at the end of the connection.
fn read_body(reader: &mut impl BufRead) -> Option<String> {
    let mut length = None;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok();
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length?];
    reader.read_exact(&mut body).ok()?;
    String::from_utf8(body).ok()
}

/// Of the site's broker.
pub const USER: &str = "plant";
/// Of the site's broker.
pub const PASSWORD: &str = "a long password";

/// A mosquitto of the site's own.
#[derive(Debug)]
pub struct SiteBroker {
    folder: PathBuf,
    /// Where it listens.
    pub address: SocketAddr,
    process: Option<Process>,
}

impl SiteBroker {
    /// One in `folder` that does not run yet, with a certificate and its key.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub fn new(folder: &Path, certificate: &Path, key: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder)?;
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let passwords = folder.join("passwords");
        let made = Command::new("mosquitto_passwd")
            .args(["-b", "-c"])
            .arg(&passwords)
            .args([USER, PASSWORD])
            .status();
        anyhow::ensure!(made.context("tests/install.sh installs mosquitto")?.success());
        let mut text = format!(
            "listener {} 127.0.0.1\nallow_anonymous false\npassword_file {}\ncertfile {}\nkeyfile {}\n\
             persistence false\n",
            address.port(),
            passwords.display(),
            certificate.display(),
            key.display(),
        );
        if rustix::process::geteuid().is_root() {
            // It would become a user that can't read the temporary folder.
            text.push_str("user root\n");
        }
        fs::write(folder.join("mosquitto.conf"), text)?;
        Ok(Self { folder: folder.to_owned(), address, process: None })
    }

    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(&mut self) -> anyhow::Result<()> {
        // Debian has it in /usr/sbin, which is not in everybody's PATH.
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new("mosquitto");
        command.env("PATH", path).arg("-c").arg(self.folder.join("mosquitto.conf"));
        self.process = Some(Process::start(&mut command, &self.folder.join("log"))?);
        let address = self.address;
        wait_until("the site's broker listens", START_TIMEOUT, || {
            Ok(TcpStream::connect(address).is_ok())
        })
    }

    /// Kills it with signal 9.
    pub fn kill(&mut self) {
        self.process = None;
    }
}

/// A subscriber of everything at the site's broker: topics and payloads, as they come. Connects again
/// for ever, so that it may start before the broker; runs on the current tokio runtime.
pub fn subscribe(
    broker: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
) -> Arc<Mutex<Vec<(String, String)>>> {
    let taken: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
    let messages = Arc::clone(&taken);
    tokio::spawn(async move {
        let address = Broker::tcp(broker.ip().to_string(), broker.port());
        let mut options = MqttOptions::new("subscriber", address);
        options.set_transport(Transport::Tls(TlsConfiguration::Rustls(tls)));
        options.set_credentials(USER, PASSWORD);
        options.set_clean_start(true);
        options.set_max_packet_size(Some(1 << 20));
        let (client, mut eventloop) = AsyncClient::builder(options).capacity(16).build();
        loop {
            match eventloop.poll().await {
                Ok(Event::Incoming(Incoming::ConnAck(_))) => {
                    let _ = client.try_subscribe("#", QoS::AtLeastOnce);
                }
                Ok(Event::Incoming(Incoming::Publish(publish))) => {
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    let message = (text(&publish.topic), text(&publish.payload));
                    messages.lock().unwrap_or_else(PoisonError::into_inner).push(message);
                }
                Ok(_) => {}
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    });
    taken
}
