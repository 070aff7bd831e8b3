//! Starts a task for each sink, hands it what the core wants delivered, and shows how all of them are.
//!
//! The core bounds what waits for a sink; the queues here have room for that and refuse more. Nothing
//! here waits.

use crate::config::{Config, MqttConfig, RemoteWriteConfig, SinkConfig, WebhookConfig};
use crate::core::{ConfiguredSinks, Delivery, SINK_DELIVERIES_MAX, SinkKey};
use crate::export::http::{HttpClient, HttpUrl};
use crate::export::outlet::{self, Order, Outlet};
use crate::export::remote_write::RemoteWrite;
use crate::export::results::files::FilesSink;
use crate::export::results::mqtt::{MqttSink, MqttSinkOptions};
use crate::export::results::webhook::WebhookSink;
use crate::export::tally::{SinkView, Tally};
use crate::export::tls::{SinkTlsError, client_config};
use shared::io::keys::fresh_seed;
use shared::model::SinkId;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::mpsc;

/// Ends of deliveries that wait for the loop; a sink waits for it past that.
const ENDED_MAX: usize = 1_024;

/// Under this name remote write is shown.
const REMOTE_WRITE: &str = "remote_write";

/// Why a sink was not started.
#[derive(Debug, Error)]
pub enum SinkError {
    /// Its address is none.
    #[error("could not use the sink `{name}`: {problem}")]
    Address {
        /// The sink.
        name: String,
        /// What was wrong and what was expected.
        problem: String,
    },
    /// TLS towards it can't be prepared.
    #[error("could not use the sink `{name}`")]
    Tls {
        /// The sink.
        name: String,
        /// Why.
        #[source]
        source: SinkTlsError,
    },
}

/// The running sinks.
pub(super) struct Sinks {
    running: BTreeMap<SinkKey, Running>,
    ended: mpsc::Sender<u64>,
}

struct Running {
    orders: mpsc::Sender<Order>,
    tally: Arc<Tally>,
}

impl Sinks {
    /// No sinks; nothing ever ends.
    pub(super) fn none() -> (Self, mpsc::Receiver<u64>) {
        let (ended, ends) = mpsc::channel(ENDED_MAX);
        (Self { running: BTreeMap::new(), ended }, ends)
    }

    /// The sinks of `config`, on the current tokio runtime, and where their ends of deliveries arrive.
    ///
    /// # Errors
    /// [`SinkError`], which names the sink. One that can't be reached is none: it holds.
    pub(super) fn start(config: &Config) -> Result<(Self, mpsc::Receiver<u64>), SinkError> {
        let (mut sinks, ends) = Self::none();
        if let Some(remote_write) = &config.remote_write {
            let outlet = RemoteWrite::new(remote_write_client(remote_write)?);
            sinks.run(SinkKey::Telemetry, outlet, Tally::new(REMOTE_WRITE, REMOTE_WRITE));
        }
        for sink in &config.sinks {
            let (key, name) = (SinkKey::Results(SinkId::of(sink.name())), sink.name());
            match sink {
                SinkConfig::Files(files) => {
                    let (folder, bytes_max) = (files.folder.clone(), files.file_bytes_max);
                    let outlet = FilesSink::new(folder, name.to_owned(), bytes_max);
                    sinks.run(key, outlet, Tally::new(name, "files"));
                }
                SinkConfig::Webhook(webhook) => {
                    let outlet = WebhookSink::new(webhook_client(webhook)?, webhook.format);
                    sinks.run(key, outlet, Tally::new(name, "webhook"));
                }
                SinkConfig::Mqtt(mqtt) => {
                    let outlet = MqttSink::new(mqtt_options(mqtt)?);
                    sinks.run(key, outlet, Tally::new(name, "mqtt"));
                }
            }
        }
        Ok((sinks, ends))
    }

    fn run<O: Outlet>(&mut self, key: SinkKey, outlet: O, tally: Tally) {
        let (orders, queue) = mpsc::channel(SINK_DELIVERIES_MAX);
        let tally = Arc::new(tally);
        tokio::spawn(outlet::run(outlet, queue, self.ended.clone(), Arc::clone(&tally)));
        self.running.insert(key, Running { orders, tally });
    }

    /// What the core must know of them.
    pub(super) fn configured(&self) -> ConfiguredSinks {
        let results = self.running.keys().filter_map(|key| match key {
            SinkKey::Results(sink) => Some(*sink),
            SinkKey::Telemetry => None,
        });
        let telemetry = self.running.contains_key(&SinkKey::Telemetry);
        ConfiguredSinks { telemetry, results: results.collect() }
    }

    /// Hands over a delivery; its number comes back when it has ended.
    ///
    /// # Errors
    /// When it never will.
    pub(super) fn deliver(&self, ticket: u64, delivery: Delivery) -> Result<(), String> {
        let running = self.running.get(&delivery.sink).ok_or("there is no such sink")?;
        let bytes = delivery.bytes();
        running.tally.queued(bytes);
        running.orders.try_send(Order { ticket, delivery }).map_err(|error| {
            running.tally.ended(bytes);
            format!("the sink `{}` takes no orders: {error}", running.tally.name())
        })
    }

    /// How they are.
    pub(super) fn views(&self) -> Vec<SinkView> {
        self.running.values().map(|running| running.tally.view()).collect()
    }
}

fn remote_write_client(config: &RemoteWriteConfig) -> Result<HttpClient, SinkError> {
    http_client(REMOTE_WRITE, &config.url, config.ca_file.as_deref(), &config.bearer_token_file)
}

fn webhook_client(config: &WebhookConfig) -> Result<HttpClient, SinkError> {
    http_client(&config.name, &config.url, config.ca_file.as_deref(), &config.bearer_token_file)
}

fn http_client(
    name: &str,
    url: &str,
    ca_file: Option<&Path>,
    token_file: &Option<PathBuf>,
) -> Result<HttpClient, SinkError> {
    let url: HttpUrl = url.parse().map_err(address(name))?;
    let tls = url.https.then(|| client_config(ca_file)).transpose().map_err(tls(name))?;
    Ok(HttpClient::new(url, tls, token_file.clone()))
}

fn mqtt_options(config: &MqttConfig) -> Result<MqttSinkOptions, SinkError> {
    let name = &config.name;
    let broker: crate::config::MqttUrl = config.broker.parse().map_err(address(name))?;
    let topic = crate::config::TopicTemplate::new(&config.topic, name).map_err(address(name))?;
    let ca_file = config.ca_file.as_deref();
    let tls = broker.tls.then(|| client_config(ca_file)).transpose().map_err(tls(name))?;
    // Two hubs with one configuration must not throw each other out.
    let [a, b, c, d, ..] = fresh_seed();
    let client_id = format!("hinterland-{name}-{a:02x}{b:02x}{c:02x}{d:02x}");
    let credentials_file = config.credentials_file.clone();
    Ok(MqttSinkOptions { client_id, broker, topic, credentials_file, tls })
}

fn address(name: &str) -> impl Fn(String) -> SinkError + '_ {
    move |problem| SinkError::Address { name: name.to_owned(), problem }
}

fn tls(name: &str) -> impl Fn(SinkTlsError) -> SinkError + '_ {
    move |source| SinkError::Tls { name: name.to_owned(), source }
}
