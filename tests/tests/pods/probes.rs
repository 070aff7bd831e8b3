//! Whether a pod answers: by command, HTTP and TCP, and never for longer than the probe's time.

use crate::scene::{Agent, Node, is_alive, read_pid, request, wait_until};
use edge_agent::ports::RuntimeEvent;
use shared::model::{EnvVar, ExecAction, HttpGetAction, Probe, TcpSocketAction};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

fn probe(change: impl FnOnce(&mut Probe)) -> Probe {
    let mut probe: Probe = serde_json::from_str("{}").unwrap();
    change(&mut probe);
    probe
}

fn exec(script: &str) -> Probe {
    let command = ["bash", "-c", script].map(str::to_owned).to_vec();
    probe(|probe| probe.exec = Some(ExecAction { command }))
}

fn http(port: u16) -> Probe {
    let get =
        HttpGetAction { path: "/ready".to_owned(), port: port.into(), ..HttpGetAction::default() };
    probe(|probe| probe.http_get = Some(get))
}

#[test]
fn a_command_is_probed_in_the_pod_s_environment_and_never_for_longer_than_its_time() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    let mut request = request(1, "exec sleep 1000");
    request.container.env =
        vec![EnvVar { name: "MODEL".into(), value: "m".into(), value_from: None }];
    assert!(matches!(agent.start(request), RuntimeEvent::Started { .. }));
    assert_eq!(agent.probe(exec(r#"[ "$MODEL" = m ] && [ "$PWD" = "$HOME" ]"#)), Ok(()));
    assert!(agent.probe(exec("exit 3")).unwrap_err().contains("exit status: 3"));
    let hanging = node.path("hanging");
    let begin = Instant::now();
    let script = format!("sleep 1000 & echo $! > {}; wait", hanging.display());
    assert!(agent.probe(exec(&script)).unwrap_err().contains("within 1 s"));
    assert!(begin.elapsed() < Duration::from_secs(3));
    let left = read_pid(&hanging);
    wait_until("what the probe started is gone", || !is_alive(left));
    assert_eq!(agent.stop(1, 0), 137);
    assert!(agent.probe(exec("true")).unwrap_err().contains("does not run"));
}

/// Answers each connection with `answer` after reading a request; keeps silent connections open.
fn serve(answers: Vec<Option<&'static str>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let count = stream.read(&mut request).unwrap();
            assert!(request[..count].starts_with(b"GET /ready HTTP/1.1\r\n"));
            match answer {
                Some(answer) => stream.write_all(answer.as_bytes()).unwrap(),
                None => silent.push(stream),
            }
        }
        // Until the test ends.
        std::thread::park();
    });
    port
}

#[test]
fn a_server_is_probed_by_http_and_tcp_and_never_for_longer_than_its_time() {
    let node = Node::new();
    let mut agent = Agent::new(&node);
    let answers = [
        ("HTTP/1.1 200 OK\r\n\r\n", Ok(())),
        ("HTTP/1.0 302 Found\r\n\r\n", Ok(())),
        ("HTTP/1.1 503 No\r\n\r\n", Err("status 503")),
        ("SSH-2.0-x\r\n", Err("does not answer in HTTP")),
        ("", Err("does not answer in HTTP")),
    ];
    let port = serve(answers.iter().map(|(answer, _)| Some(*answer)).chain([None]).collect());
    for (answer, expected) in answers {
        match (agent.probe(http(port)), expected) {
            (Ok(()), Ok(())) => {}
            (Err(said), Err(part)) if said.contains(part) => {}
            (result, _) => panic!("`{answer}`: {result:?}"),
        }
    }
    let begin = Instant::now();
    assert!(agent.probe(http(port)).unwrap_err().contains("within 1 s"));
    assert!(begin.elapsed() < Duration::from_secs(3));

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let tcp =
        probe(|probe| probe.tcp_socket = Some(TcpSocketAction { port: port.into(), host: None }));
    assert_eq!(agent.probe(tcp.clone()), Ok(()));
    drop(listener);
    // A child that another test has just forked holds a copy of the listener until it execs.
    wait_until("the probe fails", || agent.probe(tcp.clone()).is_err_and(|e| e.contains("failed")));
}
