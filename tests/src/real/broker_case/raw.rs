//! A client that does as it likes: MQTT 5 by hand over TLS, blocking. It sends what a well-behaved
//! library would refuse to send, and says what comes back.

use anyhow::{Context, Result, bail};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An answer that takes longer is none.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The reason code of MQTT 5 for what is not allowed.
pub const NOT_AUTHORIZED: u8 = 0x87;

const CONNACK: u8 = 2;
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const SUBACK: u8 = 9;

/// The raw client.
#[derive(Debug)]
pub struct RawClient {
    stream: StreamOwned<ClientConnection, TcpStream>,
    /// Read and not yet taken apart.
    buffer: Vec<u8>,
    /// Messages that came while another answer was awaited.
    messages: Vec<(String, Vec<u8>)>,
}

/// What the raw client says of itself.
#[derive(Debug, Clone, Default)]
pub struct Introduction {
    /// The client id.
    pub client_id: String,
    /// The user name, if any.
    pub username: Option<String>,
    /// The will's topic, if any; its payload is empty.
    pub will_topic: Option<String>,
    /// Speaks MQTT 3.1.1 instead of 5.
    pub is_version_3: bool,
}

struct Packet {
    kind: u8,
    flags: u8,
    body: Vec<u8>,
}

impl RawClient {
    /// Opens the connection; with TLS 1.3 a refused certificate shows at the first answer only.
    ///
    /// # Errors
    /// When the TLS handshake fails.
    pub fn open(address: SocketAddr, server_name: &str, tls: Arc<ClientConfig>) -> Result<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        socket.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        let connection = ClientConnection::new(tls, server_name.to_owned().try_into()?)?;
        let mut stream = StreamOwned::new(connection, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Self { stream, buffer: Vec::new(), messages: Vec::new() })
    }

    /// Sends CONNECT and gives the reason code of the CONNACK (0 is success).
    ///
    /// # Errors
    /// When the broker closes instead of answering.
    pub fn connect(&mut self, introduction: &Introduction) -> Result<u8> {
        self.send(0x10, &connect_body(introduction))?;
        let answer = self.wait_for(CONNACK)?;
        answer.get(1).copied().context("an empty CONNACK")
    }

    /// Publishes at QoS 0.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn publish(&mut self, topic: &str, payload: &[u8]) -> Result<()> {
        let mut body = text(topic);
        body.push(0);
        body.extend_from_slice(payload);
        self.send(0x30, &body)
    }

    /// Publishes at QoS 0 to a topic with an alias; no topic where the alias is to name it.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn publish_by_alias(&mut self, topic: &str, alias: u16, payload: &[u8]) -> Result<()> {
        let mut body = text(topic);
        body.extend_from_slice(&[3, 0x23]);
        body.extend_from_slice(&alias.to_be_bytes());
        body.extend_from_slice(payload);
        self.send(0x30, &body)
    }

    /// Publishes at QoS 1 and gives the reason code of the PUBACK.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn publish_acknowledged(&mut self, topic: &str, payload: &[u8]) -> Result<u8> {
        let mut body = text(topic);
        body.extend_from_slice(&[0, 1, 0]);
        body.extend_from_slice(payload);
        self.send(0x32, &body)?;
        let answer = self.wait_for(PUBACK)?;
        // A PUBACK without a reason code means success.
        Ok(answer.get(2).copied().unwrap_or(0))
    }

    /// Subscribes and gives the reason code (below 0x80 is success).
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn subscribe(&mut self, filter: &str) -> Result<u8> {
        let mut body = vec![0, 2, 0];
        body.extend(text(filter));
        body.push(0);
        self.send(0x82, &body)?;
        let answer = self.wait_for(SUBACK)?;
        answer.last().copied().context("an empty SUBACK")
    }

    /// The messages that come within `wait`, with those that came before.
    ///
    /// # Errors
    /// When what comes is not MQTT.
    pub fn messages_within(&mut self, wait: Duration) -> Result<Vec<(String, Vec<u8>)>> {
        let until = Instant::now() + wait;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            match self.next_packet(left.max(Duration::from_millis(1))) {
                Ok(Some(packet)) => self.keep_message(&packet)?,
                Ok(None) => {}
                Err(_) => break,
            }
        }
        Ok(std::mem::take(&mut self.messages))
    }

    /// Whether the broker closes the connection within `wait`.
    #[must_use]
    pub fn is_closed_within(&mut self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            if self.next_packet(left.max(Duration::from_millis(1))).is_err() {
                return true;
            }
        }
        false
    }

    fn send(&mut self, first_byte: u8, body: &[u8]) -> Result<()> {
        let mut packet = vec![first_byte];
        packet.extend(variable_length(body.len()));
        packet.extend_from_slice(body);
        self.stream.write_all(&packet)?;
        Ok(self.stream.flush()?)
    }

    fn wait_for(&mut self, kind: u8) -> Result<Vec<u8>> {
        let until = Instant::now() + ANSWER_TIMEOUT;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            match self.next_packet(left.max(Duration::from_millis(1)))? {
                Some(packet) if packet.kind == kind => return Ok(packet.body),
                Some(packet) => self.keep_message(&packet)?,
                None => {}
            }
        }
        bail!("no answer of kind {kind}")
    }

    fn keep_message(&mut self, packet: &Packet) -> Result<()> {
        if packet.kind == PUBLISH {
            self.messages.push(message(packet)?);
        }
        Ok(())
    }

    /// The next packet; none when nothing comes in time; an error when the connection is closed.
    fn next_packet(&mut self, wait: Duration) -> Result<Option<Packet>> {
        loop {
            if let Some(packet) = self.take_packet() {
                return Ok(Some(packet));
            }
            self.stream.sock.set_read_timeout(Some(wait))?;
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => bail!("the broker closed the connection"),
                Ok(count) => self.buffer.extend(chunk.iter().take(count)),
                Err(error) if is_timeout(error.kind()) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn take_packet(&mut self) -> Option<Packet> {
        let first_byte = *self.buffer.first()?;
        let mut body_length = 0;
        let mut header_length = 1;
        loop {
            let byte = usize::from(*self.buffer.get(header_length)?);
            body_length += (byte & 0x7f) << (7 * (header_length - 1));
            header_length += 1;
            if byte & 0x80 == 0 {
                break;
            }
        }
        if self.buffer.len() < header_length + body_length {
            return None;
        }
        let body = self.buffer.drain(..header_length + body_length).skip(header_length).collect();
        Some(Packet { kind: first_byte >> 4, flags: first_byte & 0x0f, body })
    }
}

fn is_timeout(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn message(packet: &Packet) -> Result<(String, Vec<u8>)> {
    let body = &packet.body;
    let topic_length = body.first_chunk::<2>().context("a PUBLISH without a topic")?;
    let topic_end = 2 + usize::from(u16::from_be_bytes(*topic_length));
    let topic = body.get(2..topic_end).context("a cut topic")?;
    let mut payload_begin = topic_end + if packet.flags & 0x06 == 0 { 0 } else { 2 };
    let properties_length = *body.get(payload_begin).context("no properties")?;
    payload_begin += 1 + usize::from(properties_length);
    let payload = body.get(payload_begin..).context("a cut payload")?;
    Ok((String::from_utf8(topic.to_vec())?, payload.to_vec()))
}

fn connect_body(introduction: &Introduction) -> Vec<u8> {
    let mut body = text("MQTT");
    body.push(if introduction.is_version_3 { 4 } else { 5 });
    let will_flag = if introduction.will_topic.is_some() { 0x04 } else { 0 };
    let username_flag = if introduction.username.is_some() { 0x80 } else { 0 };
    body.push(0x02 | will_flag | username_flag);
    body.extend_from_slice(&30_u16.to_be_bytes());
    let properties = |body: &mut Vec<u8>| {
        if !introduction.is_version_3 {
            body.push(0);
        }
    };
    properties(&mut body);
    body.extend(text(&introduction.client_id));
    if let Some(topic) = &introduction.will_topic {
        properties(&mut body);
        body.extend(text(topic));
        body.extend(text(""));
    }
    if let Some(username) = &introduction.username {
        body.extend(text(username));
    }
    body
}

fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes(), text.as_bytes()].concat()
}

fn variable_length(mut length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(length & 0x7f).unwrap_or(0);
        length >>= 7;
        if length == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}
