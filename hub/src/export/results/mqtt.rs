//! Results by MQTT 5 to a broker of the site's choice, at QoS 1: a result is taken when the broker's
//! PUBACK says so. One message a result, its payload the line of JSON.
//!
//! The broker is the site's, not the fleet's: another address, another CA, a user and a password.
//! A connection that was lost takes nothing with it: what was not acknowledged is published again.

use super::super::outlet::{Failure, Gather};
use super::{Line, ResultSink};
use crate::config::{MqttUrl, TopicTemplate};
use rumqttc::{
    AsyncClient, Broker, Event, EventLoop, Incoming, MqttOptions, PubAckReason, PublishNotice,
    PublishNoticeError, PublishOptions, QoS, TlsConfiguration, Transport,
};
use rustls::ClientConfig;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Results that are handed to the broker in one go.
const GATHER: Gather = Gather { bytes: 256 * 1024, wait: Duration::from_millis(20) };

/// To connect, TLS and the broker's answer included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// From the first PUBLISH of a part to its last PUBACK.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(30);

/// Messages on their way without a PUBACK; brokers default to at least 20.
const IN_FLIGHT_MAX: u16 = 32;

/// A line with a body of 12 KiB in base64 has about 18 KiB; text that is quoted may double.
const PACKET_BYTES_MAX: u32 = 64 * 1024;

const KEEP_ALIVE_SECONDS: u16 = 60;

/// A file of two lines is no larger.
const CREDENTIALS_BYTES_MAX: usize = 4096;

/// What a sink of MQTT needs to know.
#[derive(Clone)]
pub(crate) struct MqttSinkOptions {
    pub(crate) client_id: String,
    pub(crate) broker: MqttUrl,
    pub(crate) topic: TopicTemplate,
    /// Two lines: the user and the password.
    pub(crate) credentials_file: Option<PathBuf>,
    /// Needed where the broker's URL is `mqtts`.
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

/// A broker of the site's choice.
pub(crate) struct MqttSink {
    options: MqttSinkOptions,
    connection: Option<Connection>,
}

struct Connection {
    client: AsyncClient,
    /// Ends with the connection; why is what it returns.
    driver: JoinHandle<String>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl MqttSink {
    pub(crate) fn new(options: MqttSinkOptions) -> Self {
        Self { options, connection: None }
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let builder = AsyncClient::builder(self.library_options()?);
        let built = builder.capacity(usize::from(IN_FLIGHT_MAX)).try_build();
        let (client, eventloop) = built.map_err(|error| self.trouble(&error.to_string()))?;
        let (up, is_up) = oneshot::channel();
        let mut connection = Connection { client, driver: tokio::spawn(drive(eventloop, up)) };
        match tokio::time::timeout(CONNECT_TIMEOUT, is_up).await {
            Ok(Ok(())) => Ok(connection),
            Ok(Err(_)) => Err(self.trouble(&connection.reason().await)),
            Err(_) => Err(self.trouble("the broker did not answer in time")),
        }
    }

    fn trouble(&self, why: &str) -> Failure {
        Failure::down(format!("{}: {why}", self.options.broker))
    }

    fn library_options(&self) -> Result<MqttOptions, Failure> {
        let MqttUrl { host, port, tls } = &self.options.broker;
        let broker = Broker::tcp(host.clone(), *port);
        let mut library = MqttOptions::new(self.options.client_id.clone(), broker);
        if *tls {
            let config = self.options.tls.clone().ok_or_else(|| self.trouble("no TLS"))?;
            library.set_transport(Transport::Tls(TlsConfiguration::Rustls(config)));
        }
        library.set_clean_start(true);
        library.set_keep_alive(KEEP_ALIVE_SECONDS);
        library.set_max_packet_size(Some(PACKET_BYTES_MAX));
        library.set_outgoing_inflight_upper_limit(IN_FLIGHT_MAX);
        library.set_connect_timeout(CONNECT_TIMEOUT);
        if let Some((user, password)) = self.credentials()? {
            library.set_credentials(user, password);
        }
        Ok(library)
    }

    fn credentials(&self) -> Result<Option<(String, String)>, Failure> {
        let Some(path) = &self.options.credentials_file else { return Ok(None) };
        let trouble = |why: &str| Failure::down(format!("{}: {why}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| trouble(&error.to_string()))?;
        let mut lines = text.lines();
        match (lines.next(), lines.next()) {
            (Some(user), Some(password)) if text.len() <= CREDENTIALS_BYTES_MAX => {
                Ok(Some((user.to_owned(), password.to_owned())))
            }
            _ => Err(trouble("expected two lines: the user and the password")),
        }
    }

    async fn publish(&self, connection: &mut Connection, part: &[Line]) -> Result<(), Failure> {
        let mut notices: Vec<PublishNotice> = Vec::with_capacity(part.len());
        for line in part {
            let topic = self.options.topic.fill(line);
            let options = PublishOptions::new(QoS::AtLeastOnce);
            let published = connection.client.publish_tracked(topic, line.text.clone(), options);
            match published.await {
                Ok(notice) => notices.push(notice),
                Err(_) => return Err(self.trouble(&connection.reason().await)),
            }
        }
        for notice in notices {
            match notice.wait_completion_async().await {
                Ok(()) => {}
                Err(PublishNoticeError::V5PubAck(reason)) => return Err(self.judge(reason)),
                Err(PublishNoticeError::Recv) => {
                    return Err(self.trouble(&connection.reason().await));
                }
                Err(other) => return Err(self.trouble(&other.to_string())),
            }
        }
        Ok(())
    }

    /// What a broker that did not take a message means by it.
    fn judge(&self, reason: PubAckReason) -> Failure {
        let words = format!("the broker answered {reason:?}");
        match reason {
            PubAckReason::TopicNameInvalid | PubAckReason::PayloadFormatInvalid => {
                Failure::Refused(words)
            }
            // Permissions and quotas are the broker's to mend: no result is lost for them.
            _ => self.trouble(&words),
        }
    }
}

impl Connection {
    /// Why it ended. Waits for the end, which is there already or about to be.
    async fn reason(&mut self) -> String {
        match tokio::time::timeout(Duration::from_secs(1), &mut self.driver).await {
            Ok(Ok(reason)) => reason,
            _ => "the connection was lost".to_owned(),
        }
    }
}

/// Runs a connection until it ends, and says why it did; `up` hears when the broker has let us in.
async fn drive(mut eventloop: EventLoop, up: oneshot::Sender<()>) -> String {
    let mut up = Some(up);
    loop {
        match eventloop.poll().await {
            Ok(Event::Incoming(Incoming::ConnAck(_))) => {
                if let Some(up) = up.take() {
                    let _ = up.send(());
                }
            }
            Ok(_) => {}
            // The library would connect again by itself; a new connection is a new client here, so
            // that nothing of the old one is repeated behind our back.
            Err(error) => return error.to_string(),
        }
    }
}

impl ResultSink for MqttSink {
    fn gather(&self) -> Gather {
        GATHER
    }

    async fn send_lines(&mut self, part: &[Line]) -> Result<(), Failure> {
        let kept = self.connection.take().filter(|kept| !kept.driver.is_finished());
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let published = self.publish(&mut connection, part);
        match tokio::time::timeout(PUBLISH_TIMEOUT, published).await {
            Ok(Ok(())) => self.connection = Some(connection),
            Ok(Err(failure)) => return Err(failure),
            Err(_) => return Err(self.trouble("no PUBACK in time")),
        }
        Ok(())
    }
}
