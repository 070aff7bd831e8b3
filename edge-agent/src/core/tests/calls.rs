//! Calls: what is allowed, recorded, run once, and answered.

use super::*;
use crate::audit::{AuditAction, AuditOutcome, AuditRecord};
use crate::core::RemotePolicy;
use shared::model::{ConditionStatus, NodeStatus, PodId, RemoteAccess};
use shared::wire::{
    CallMethod, CallOutcome, CallRequest, CallResponse, ExecResult, LogCursor, LogFrom, MapBody,
    decode,
};

fn pod() -> PodId {
    "default/ocr-0".parse().unwrap()
}

fn exec() -> CallMethod {
    let (caller, command) = ("alice".to_owned(), vec!["ls".to_owned(), "/".to_owned()]);
    CallMethod::Exec { pod: pod(), container: None, caller, command, timeout_ms: 1_000 }
}

fn read(caller: &str, from: LogFrom) -> CallMethod {
    let (container, caller) = (None, caller.to_owned());
    CallMethod::ReadLog { pod: pod(), container, caller, from, bytes_max: u32::MAX, wait_ms: 0 }
}

fn first() -> LogFrom {
    LogFrom::End { lines: 3, age_ms: None }
}

fn next() -> LogFrom {
    LogFrom::After { cursor: LogCursor::default() }
}

fn done() -> CallOutcome {
    let (stdout, stderr) = (ByteBuf::from(b"bin".to_vec()), ByteBuf::new());
    CallOutcome::of(Ok(ExecResult { exit_code: Some(3), stdout, stderr, omitted_bytes: 0 }))
}

/// A node in session that allows this.
fn bench(exec: bool) -> Bench {
    let mut bench = Bench::new();
    let access = RemoteAccess { logs: true, exec };
    let policy = RemotePolicy { access, file: Some("/etc/agent.toml".into()) };
    bench.core.set_remote_policy(policy, at(bench.now));
    bench.join();
    bench
}

impl Bench {
    fn asks(&mut self, id: u64, method: CallMethod) {
        self.hub_sends(&Message::CallRequest(CallRequest { id, timeout_ms: 5_000, method }));
    }

    /// Calls that were handed out, by the core's own numbers.
    fn handed_out(&self) -> Vec<u64> {
        let id = |effect: &Effect| match effect {
            Effect::AnswerCall(request) => Some(request.id),
            _ => None,
        };
        self.others.iter().filter_map(id).collect()
    }

    /// The last call that was handed out has come to this.
    fn ends(&mut self, outcome: CallOutcome) {
        let id = *self.handed_out().last().unwrap();
        self.tell(Event::CallAnswered(CallResponse { id, outcome }));
    }

    fn call_answers(&self) -> Vec<CallResponse> {
        let answer = |message: &Message| match message {
            Message::CallResponse(response) => Some(response.clone()),
            _ => None,
        };
        self.received.iter().filter_map(answer).collect()
    }

    /// What is recorded now, by number.
    fn records(&self) -> Vec<AuditRecord> {
        let mut records = BTreeMap::new();
        for write in self.persisted.iter().flat_map(|batch| &batch.writes) {
            if let Write::Put { tree: Tree::Meta, key, value } = write
                && key.starts_with(b"audit/")
            {
                let record: AuditRecord = decode("record", value, value.len()).unwrap();
                records.insert(record.number, record);
            }
        }
        records.into_values().collect()
    }
}

#[track_caller]
fn refusal(answers: &[CallResponse]) -> &str {
    match answers {
        [CallResponse { outcome: CallOutcome::Failed { message }, .. }] => message,
        other => panic!("expected a refusal, not {other:?}"),
    }
}

#[test]
fn a_call_is_handed_out_and_its_answer_is_sent() {
    let mut bench = bench(false);
    bench.asks(5, CallMethod::TailLog { pod: pod(), lines: 3 });
    bench.ends(CallOutcome::done(vec![1]));
    let response = CallResponse { id: 5, outcome: CallOutcome::done(vec![1]) };
    assert_eq!(bench.call_answers(), [response]);
    let [record] = bench.records().try_into().unwrap();
    assert_eq!(record.outcome, AuditOutcome::Done { exit_code: None });
}

#[test]
fn the_hub_is_told_what_the_node_allows() {
    let mut bench = Bench::new();
    let access = RemoteAccess { logs: true, exec: true };
    bench.core.set_remote_policy(RemotePolicy { access, file: None }, at(bench.now));
    bench.wait(1_000);
    bench.join();
    let told = |message: &Message| match message {
        Message::MapChunk(chunk) => {
            let body = decode::<MapBody>("body", &chunk.body, chunk.body.len()).ok()?;
            let MapBody::Snapshot { items } = body else { return None };
            let node = items.into_iter().find(|item| item.key == "node")?;
            decode::<NodeStatus>("status", &node.value, node.value.len()).ok()?.remote_access
        }
        _ => None,
    };
    let told: Vec<RemoteAccess> = bench.received.iter().filter_map(told).collect();
    assert_eq!(told.last(), Some(&access));
}

#[test]
fn a_command_is_recorded_before_it_runs_and_with_what_became_of_it_after() {
    let mut bench = bench(true);
    bench.asks(5, exec());
    let [began] = bench.records().try_into().unwrap();
    assert_eq!((began.number, began.outcome), (1, AuditOutcome::Began));
    assert_eq!((began.caller.as_str(), &began.pod), ("hub: alice", &pod()));
    let command = vec!["ls".to_owned(), "/".to_owned()];
    assert_eq!(began.action, AuditAction::Exec { command });
    bench.ends(done());
    let [ended] = bench.records().try_into().unwrap();
    assert_eq!(ended.outcome, AuditOutcome::Done { exit_code: Some(3) });
    assert_eq!(bench.call_answers(), [CallResponse { id: 5, outcome: done() }]);
}

#[test]
fn what_the_node_does_not_allow_is_refused_with_the_option_and_recorded() {
    let mut bench = bench(false);
    bench.asks(5, exec());
    assert!(bench.handed_out().is_empty());
    let answers = bench.call_answers();
    let words = refusal(&answers);
    assert!(words.contains("`remote_access.exec = true` in /etc/agent.toml"), "{words}");
    let [record] = bench.records().try_into().unwrap();
    assert!(matches!(record.outcome, AuditOutcome::Refused { why } if why.contains("exec")));

    let mut bench = Bench::new();
    let access = RemoteAccess { logs: false, exec: true };
    bench.core.set_remote_policy(RemotePolicy { access, file: None }, at(bench.now));
    bench.join();
    for (id, method) in
        [(1, read("alice", first())), (2, CallMethod::TailLog { pod: pod(), lines: 1 })]
    {
        bench.asks(id, method);
        assert!(bench.handed_out().is_empty());
        let answers = bench.call_answers();
        assert!(refusal(&answers[usize::try_from(id).unwrap() - 1..]).contains(".logs = true`"));
    }
}

#[test]
fn the_node_s_own_people_are_allowed_and_recorded() {
    let mut bench = Bench::new();
    let method = CallMethod::Exec {
        pod: pod(),
        container: None,
        caller: "user 0 on the node".to_owned(),
        command: vec!["ls".to_owned()],
        timeout_ms: 1,
    };
    bench.tell(Event::LocalCall { ticket: 9, method });
    bench.ends(done());
    assert!(bench.others.contains(&Effect::EndLocalCall { ticket: 9, outcome: done() }));
    assert_eq!(bench.records()[0].caller, "user 0 on the node");
}

#[test]
fn a_request_that_comes_twice_runs_once() {
    let mut bench = bench(true);
    let request = CallRequest { id: 5, timeout_ms: 5_000, method: exec() };
    let payload = bench.session.seal(&Message::CallRequest(request)).unwrap();
    bench.tell(Event::Payload(payload.clone()));
    bench.tell(Event::Payload(payload.clone()));
    // The session outlives the link; a new one knows nothing of what was sealed before it.
    bench.tell(Event::LinkDown);
    bench.tell(Event::LinkUp);
    bench.tell(Event::Payload(payload.clone()));
    bench.tell(Event::LinkDown);
    bench.tell(Event::HubAnew);
    bench.tell(Event::LinkUp);
    bench.tell(Event::Payload(payload));
    assert_eq!((bench.handed_out().len(), bench.records().len()), (1, 1));
}

#[test]
fn an_answer_for_a_link_that_is_gone_is_recorded_and_told_to_nobody() {
    let mut bench = bench(true);
    bench.asks(1, exec());
    bench.tell(Event::LinkDown);
    bench.join();
    bench.asks(1, read("bob", first()));
    let first_call = bench.handed_out()[0];
    bench.tell(Event::CallAnswered(CallResponse { id: first_call, outcome: done() }));
    assert!(bench.call_answers().is_empty(), "it would be taken for the answer to another");
    assert_eq!(bench.records()[0].outcome, AuditOutcome::Done { exit_code: Some(3) });
}

#[test]
fn an_answer_that_is_too_late_costs_no_bytes() {
    let mut bench = bench(true);
    bench.asks(1, exec());
    bench.wait(5_000);
    bench.ends(done());
    assert!(bench.call_answers().is_empty());
    assert_eq!(bench.records()[0].outcome, AuditOutcome::Done { exit_code: Some(3) });
}

#[test]
fn a_store_that_can_t_be_written_refuses_commands_and_lets_logs_be_read() {
    let mut bench = bench(true);
    bench.full = true;
    bench.asks(1, exec());
    assert!(bench.handed_out().is_empty());
    let answers = bench.call_answers();
    let words = refusal(&answers).to_owned();
    assert!(words.contains("not run") && words.contains("no space"), "{words}");
    bench.asks(2, read("alice", first()));
    bench.asks(3, exec());
    assert_eq!(bench.handed_out().len(), 1);
    bench.ends(CallOutcome::done(vec![]));
    assert!(bench.records().is_empty());
    bench.full = false;
    bench.wait(10_000);
    let conditions = bench.core.node_status().conditions;
    assert_eq!(conditions[0].status, ConditionStatus::True, "{conditions:?}");
    let outcomes: Vec<_> = bench.records().into_iter().map(|record| record.outcome).collect();
    let refused = |outcome: &AuditOutcome| matches!(outcome, AuditOutcome::Refused { .. });
    assert!(refused(&outcomes[0]) && refused(&outcomes[2]), "{outcomes:?}");
    assert_eq!(outcomes[1], AuditOutcome::Done { exit_code: None });
}

#[test]
fn who_follows_a_log_is_recorded_once_and_anybody_else_again() {
    let mut bench = bench(false);
    let records = |bench: &mut Bench, method| {
        bench.asks(1, method);
        bench.ends(CallOutcome::done(vec![]));
        bench.records().len()
    };
    assert_eq!(records(&mut bench, read("alice", first())), 1);
    assert_eq!(records(&mut bench, read("alice", next())), 1);
    assert_eq!(records(&mut bench, read("bob", next())), 2);
    assert_eq!(records(&mut bench, read("alice", first())), 3);
    bench.wait(200_000);
    assert_eq!(
        records(&mut bench, read("alice", next())),
        4,
        "after a while it is another reading"
    );
}

#[test]
fn pages_of_logs_leave_at_a_bounded_rate_and_hold_up_no_command() {
    let mut bench = bench(true);
    let page = || CallOutcome::done(vec![7; 8 * 1024]);
    bench.asks(1, read("alice", first()));
    bench.ends(page());
    bench.asks(2, exec());
    bench.ends(done());
    bench.asks(3, read("alice", next()));
    bench.ends(page());
    let ids =
        |bench: &Bench| bench.call_answers().iter().map(|answer| answer.id).collect::<Vec<_>>();
    assert_eq!(ids(&bench), [1, 2]);
    bench.wait(300);
    assert_eq!(ids(&bench), [1, 2]);
    bench.wait(50);
    assert_eq!(ids(&bench), [1, 2, 3], "8 KiB a third of a second");
}

#[test]
fn a_page_that_can_t_be_afforded_keeps_no_timer_running() {
    let mut bench = bench(true);
    bench.desire_policy(Some(20_000), version(1, 2));
    for id in 1..=3 {
        bench.asks(id, read("alice", first()));
        bench.ends(CallOutcome::done(vec![7; 8 * 1024]));
        bench.wait(SECOND_MS);
    }
    assert_eq!(bench.call_answers().len(), 1, "the day has no room for more");
    let due = bench.core.poll_timeout();
    assert!(due.is_none_or(|due| due > at(bench.now).monotonic), "{due:?}");
}

#[test]
fn a_container_that_the_pod_does_not_have_is_refused_with_those_that_it_has() {
    let mut bench = bench(true);
    bench.desire(&[workload("ocr", 1)], version(1, 2));
    let method = |name: &str| {
        let (container, caller) = (Some(name.to_owned()), "alice".to_owned());
        CallMethod::ReadLog {
            pod: pod(),
            container,
            caller,
            from: first(),
            bytes_max: 1,
            wait_ms: 0,
        }
    };
    bench.asks(1, method("sidecar"));
    let answers = bench.call_answers();
    assert!(refusal(&answers).contains("no container `sidecar`: it has server"));
    bench.asks(2, method("server"));
    assert_eq!(bench.handed_out().len(), 1);
}

#[test]
fn what_crosses_the_link_is_bounded_whatever_was_asked_for() {
    let mut bench = bench(true);
    bench.asks(1, read("alice", first()));
    let bytes = bench.others.iter().find_map(|effect| match effect {
        Effect::AnswerCall(CallRequest {
            method: CallMethod::ReadLog { bytes_max, .. }, ..
        }) => Some(*bytes_max),
        _ => None,
    });
    assert_eq!(bytes, Some(8 * 1024));
    let CallMethod::Exec { caller, .. } = exec() else { panic!() };
    let command = vec!["x".repeat(1_000); 5];
    let method =
        CallMethod::Exec { pod: pod(), container: None, caller, command, timeout_ms: 1_000 };
    bench.asks(2, method);
    let answers = bench.call_answers();
    assert!(refusal(&answers).contains("2048"));
    let AuditAction::Exec { command } = &bench.records()[1].action else { panic!() };
    assert_eq!(command.len(), 2, "the beginning of it is recorded");
}
