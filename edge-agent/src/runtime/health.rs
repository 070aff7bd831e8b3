//! A check by gRPC: `grpc.health.v1.Health/Check`, over plain HTTP/2.
//!
//! Whoever answers is not trusted with memory, and what a check began ends with it.

use super::grpc::{self, Failure, Limits, Method, NOT_FOUND, Tasks, UNIMPLEMENTED, ask};
use super::probe::{authority, connect};
use shared::model::GrpcAction;
use std::sync::Arc;

/// An answer is one number.
const ANSWER_BYTES_MAX: usize = 4096;

/// What may be under way of answers: the least that HTTP/2 begins with; and their headers.
const LIMITS: Limits = Limits { window_bytes: 65_535, headers_bytes_max: 8192 };

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
    let stream = Box::new(connect(None, host, port).await?);
    let ending = Ending(Tasks::Bound(Arc::default()));
    let sender = match grpc::connect(stream, ending.0.clone(), Some(LIMITS)).await {
        Ok(sender) => sender,
        Err(what) => return Ok(Err(Failure::Unanswered(what))),
    };
    let authority = &authority(host, &port);
    let (name, service_of_health) = ("Check", "grpc.health.v1.Health");
    let (metadata, answer_bytes_max) = (None, ANSWER_BYTES_MAX);
    let method = Method { authority, service: service_of_health, name, metadata, answer_bytes_max };
    Ok(ask(sender, method, &Question { service: service.to_owned() }).await)
}

/// Ends it with the check, whatever the other side does.
struct Ending(Tasks);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end();
    }
}

#[cfg(test)]
mod tests;
