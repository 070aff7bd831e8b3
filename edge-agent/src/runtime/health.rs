//! A check by gRPC: `grpc.health.v1.Health/Check`, over plain HTTP/2.
//!
//! Whoever answers is not trusted with memory, and what a check began ends with it.

use super::grpc::{Body, Failure, Method, NOT_FOUND, UNIMPLEMENTED, ask};
use super::probe::{authority, connect};
use hyper::client::conn::http2::Builder;
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use shared::in_words;
use shared::model::GrpcAction;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::task::JoinSet;

/// An answer is one number.
const ANSWER_BYTES_MAX: usize = 4096;

/// What may be under way of answers: the least that HTTP/2 begins with.
const WINDOW_BYTES: u32 = 65_535;

/// All headers of an answer.
const HEADERS_BYTES_MAX: u32 = 8192;

/// Of a server's own words.
const WORDS_MAX: usize = 200;

/// `HealthCheckRequest` of `grpc/health/v1/health.proto`.
#[derive(Clone, PartialEq, prost::Message)]
struct Question {
    #[prost(string, tag = "1")]
    service: String,
}

/// `HealthCheckResponse` of the same.
#[derive(Clone, PartialEq, prost::Message)]
struct Answer {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Success if a server on this port of the pod says that it serves; else a sentence of what it says.
pub(super) async fn check_by_grpc(grpc: &GrpcAction, pod_host: &str) -> Result<(), String> {
    let GrpcAction { port, service } = grpc;
    match ask_for_health(pod_host, *port, service).await? {
        Ok(Answer { status: 1 }) => Ok(()),
        Ok(Answer { status }) => Err(format!("{} on port {port} is {}", of(service), word(status))),
        Err(Failure::Refused { code: NOT_FOUND, .. }) => {
            Err(format!("the server on port {port} does not know {} (NOT_FOUND)", of(service)))
        }
        Err(Failure::Refused { code: UNIMPLEMENTED, .. }) => {
            let words = "does not have the health service (UNIMPLEMENTED)";
            Err(format!("the server on port {port} {words}"))
        }
        Err(Failure::Refused { code, message }) => {
            let message: String = message.chars().take(WORDS_MAX).collect();
            Err(format!("the server on port {port} refused with the code {code}: {message}"))
        }
        Err(Failure::Unanswered(what)) => {
            let what: String = what.chars().take(WORDS_MAX).collect();
            Err(format!("port {port} does not answer in gRPC over HTTP/2: {what}"))
        }
    }
}

fn of(service: &str) -> String {
    match service {
        "" => "the server".to_owned(),
        service => format!("the service `{service}`"),
    }
}

/// A `ServingStatus`.
fn word(status: i32) -> String {
    match status {
        0 => "UNKNOWN".to_owned(),
        2 => "NOT_SERVING".to_owned(),
        3 => "SERVICE_UNKNOWN".to_owned(),
        other => format!("of the status {other}, which is none"),
    }
}

/// What is answered. No connection at all is an error of its own.
async fn ask_for_health(
    host: &str,
    port: u16,
    service: &str,
) -> Result<Result<Answer, Failure>, String> {
    let stream = TokioIo::new(connect(None, host, port).await?);
    let tasks = Tasks::default();
    let _ending = Ending(tasks.clone());
    let mut builder = Builder::new(tasks.clone());
    builder
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_header_list_size(HEADERS_BYTES_MAX);
    let (sender, connection) = match builder.handshake::<_, Body>(stream).await {
        Ok(made) => made,
        Err(error) => return Ok(Err(Failure::Unanswered(in_words(&error)))),
    };
    tasks.execute(connection);
    let authority = &authority(host, &port);
    let (name, service_of_health) = ("Check", "grpc.health.v1.Health");
    let (metadata, answer_bytes_max) = (None, ANSWER_BYTES_MAX);
    let method = Method { authority, service: service_of_health, name, metadata, answer_bytes_max };
    Ok(ask(sender, method, &Question { service: service.to_owned() }).await)
}

/// What a connection needs done beside it.
#[derive(Debug, Clone, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl Tasks {
    fn all(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F> Executor<F> for Tasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.all().spawn(async move { drop(task.await) });
    }
}

/// Ends it with the check, whatever the other side does.
struct Ending(Tasks);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.all().abort_all();
    }
}

#[cfg(test)]
mod tests;
