//! Says who reads logs and runs commands, and what came of it: in the hub's log, and of commands as Kubernetes Events on
//! the node. The node keeps the record that counts.

use crate::cluster::Told;
use crate::reconcile::{ObjectEvent, ObjectKey};
use shared::model::NodeId;
use shared::sync::CallEnded;
use shared::wire::{CallMethod, CallOutcome, ExecResult, LogFrom, decode};
use tokio::sync::{mpsc, oneshot};
use tracing::info;

/// Where an Event of one object goes.
pub(super) struct Teller {
    pub(super) events: mpsc::Sender<Told>,
    pub(super) key: ObjectKey,
    pub(super) uid: String,
}

/// A command that somebody asked for.
struct Asked {
    node: NodeId,
    pod: String,
    caller: String,
    command: Vec<String>,
}

/// Says that somebody asks; of a command also what came of it, before `reply` has it.
pub(super) fn witnessed(
    node: &NodeId,
    method: &CallMethod,
    teller: Option<Teller>,
    reply: oneshot::Sender<CallEnded>,
) -> oneshot::Sender<CallEnded> {
    match method {
        CallMethod::TailLog { pod, .. } => info!(%node, %pod, "a log is asked for"),
        CallMethod::ReadLog { pod, caller, from: LogFrom::End { .. }, .. } => {
            info!(%node, %pod, caller, "a log is asked for");
        }
        CallMethod::ReadLog { .. } => {}
        CallMethod::Exec { pod, caller, command, .. } => {
            info!(%node, %pod, caller, ?command, "a command is asked for");
            let (node, pod) = (node.clone(), pod.to_string());
            let (caller, command) = (caller.clone(), command.clone());
            return watched(Asked { node, pod, caller, command }, teller, reply);
        }
    }
    reply
}

fn watched(
    asked: Asked,
    teller: Option<Teller>,
    reply: oneshot::Sender<CallEnded>,
) -> oneshot::Sender<CallEnded> {
    let (sender, ended) = oneshot::channel();
    drop(tokio::spawn(async move {
        let Ok(ended) = ended.await else { return };
        asked.tell(&ended, teller);
        // Whoever asked may have gone away.
        let _ = reply.send(ended);
    }));
    sender
}

impl Asked {
    fn tell(&self, ended: &CallEnded, teller: Option<Teller>) {
        let Self { node, pod, caller, command } = self;
        let outcome = outcome_in_words(ended);
        info!(%node, pod, caller, ?command, outcome, "a command has ended");
        let Some(Teller { events, key, uid }) = teller else { return };
        let is_warning = matches!(ended.outcome, CallOutcome::Failed { .. });
        let message = format!("{caller}: {command:?} in {pod}: {outcome}");
        let event = ObjectEvent { is_warning, reason: "Exec".to_owned(), message };
        // Nothing depends on an Event, and the log has it.
        let _ = events.try_send(Told { key, uid, event });
    }
}

fn outcome_in_words(ended: &CallEnded) -> String {
    match &ended.outcome {
        CallOutcome::Failed { message } if ended.is_unanswered => {
            format!("{message}; whether it ran the node's audit says")
        }
        CallOutcome::Failed { message } => message.clone(),
        CallOutcome::Done { body } => {
            let result = decode::<ExecResult>("result", body, body.len());
            match result.map(|result| result.exit_code) {
                Ok(Some(code)) => format!("exit code {code}"),
                Ok(None) => "killed at its deadline".to_owned(),
                Err(error) => error.to_string(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::Kind;
    use shared::model::PodId;

    fn exec() -> CallMethod {
        let pod: PodId = "default/ocr-0".parse().unwrap();
        let (caller, command) = ("alice".to_owned(), vec!["ls".to_owned()]);
        CallMethod::Exec { pod, container: None, caller, command, timeout_ms: 1 }
    }

    #[tokio::test]
    async fn a_command_is_told_of_on_its_node_with_what_came_of_it() {
        let (events, mut told) = mpsc::channel(4);
        let key = ObjectKey { kind: Kind::Node, namespace: String::new(), name: "a".to_owned() };
        let node = NodeId::new("mast-17").unwrap();
        let result = ExecResult {
            exit_code: Some(3),
            stdout: Default::default(),
            stderr: Default::default(),
            omitted_bytes: 0,
        };
        let done =
            CallEnded { ticket: 1, outcome: CallOutcome::of(Ok(result)), is_unanswered: false };
        let silent = CallEnded::without_answer(2, "the node is offline".to_owned());
        for (ended, is_warning, words) in
            [(done, false, "exit code 3"), (silent, true, "offline; whether it ran")]
        {
            let (events, key, uid) = (events.clone(), key.clone(), "u".to_owned());
            let (reply, answer) = oneshot::channel();
            let sender = witnessed(&node, &exec(), Some(Teller { events, key, uid }), reply);
            sender.send(ended.clone()).unwrap();
            assert_eq!(answer.await.unwrap(), ended);
            let Told { event, .. } = told.recv().await.unwrap();
            assert_eq!((event.is_warning, event.reason.as_str()), (is_warning, "Exec"));
            assert!(event.message.starts_with("alice: [\"ls\"] in default/ocr-0: "), "{event:?}");
            assert!(event.message.contains(words), "{event:?}");
        }
    }
}
