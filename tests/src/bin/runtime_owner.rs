//! Owns a `ProcessRuntime` as the agent does, so that a test can kill it at any moment. Also serves
//! as the shim's program.
//!
//! `runtime_owner FOLDER INSTANCE SCRIPT` adopts what it finds; when nothing runs it starts the pod
//! `default/ocr-0` with that shell script. Prints one word a line: `running`, `started`, `failed …`,
//! `exited …`; ends when its standard input does.

use edge_agent::placement::MainShare;
use edge_agent::ports::{
    InstanceId, NetworkRequest, ObservedState, PullTerms, Runtime, RuntimeEvent, StartRequest,
};
use edge_agent::runtime::process::{ProcessOptions, ProcessRuntime, shim_if_asked};
use shared::model::{Container, PodSecurityContext, Revision};
use std::ffi::OsString;
use std::io::{Read, Write};
use std::process::ExitCode;
use tokio::sync::mpsc;

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let Some(status) = shim_if_asked(&arguments) {
        return Ok(ExitCode::from(status));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(own())?;
    // Not waited for: the thread that reads the standard input may never end.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

async fn own() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what: &str| {
        arguments.next().ok_or_else(|| anyhow::anyhow!("expected {what}: FOLDER INSTANCE SCRIPT"))
    };
    let (folder, instance, script) = (next("a folder")?, next("a number")?, next("a script")?);
    let options = ProcessOptions {
        pids_max: None,
        folder: folder.into(),
        log_max_bytes: 1 << 20,
        log_max_files: 2,
        shim_program: std::env::current_exe()?,
    };
    let (sender, mut events) = mpsc::unbounded_channel();
    let mut runtime = ProcessRuntime::new(options, sender)?;
    let found = runtime.observe()?;
    if found.iter().any(|pod| matches!(pod.state, ObservedState::Running { .. })) {
        say("running");
    } else {
        runtime.start(request(instance.parse()?, script)?);
    }
    let (closed, mut is_closed) = mpsc::channel::<()>(1);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        drop(closed);
    });
    loop {
        tokio::select! {
            Some(event) = events.recv() => say(&words_of(&event)),
            _ = is_closed.recv() => return Ok(()),
        }
    }
}

fn request(instance: u64, script: String) -> anyhow::Result<StartRequest> {
    let command = vec!["sh".to_owned(), "-c".to_owned(), script];
    Ok(StartRequest {
        pod: "default/ocr-0".parse()?,
        instance: InstanceId(instance),
        revision: Revision(1),
        container: Container { name: "main".to_owned(), command, ..Container::default() },
        containers: vec![],
        gpus: vec![],
        gpu_memory_bytes: None,
        taken: MainShare::default(),
        grace_seconds: 30,
        parameters_id: 0,
        volumes: vec![],
        pull: PullTerms::default(),
        security: PodSecurityContext::default(),
        network: NetworkRequest::default(),
    })
}

fn words_of(event: &RuntimeEvent) -> String {
    match event {
        RuntimeEvent::Started { .. } => "started".to_owned(),
        RuntimeEvent::Preparing { reason, .. } => format!("preparing {reason}"),
        RuntimeEvent::Addressed { pod_ip, .. } => format!("addressed {pod_ip}"),
        RuntimeEvent::StartFailed { reason, message, .. } => format!("failed {reason} {message}"),
        RuntimeEvent::Exited { code, .. } => format!("exited {code}"),
        RuntimeEvent::LastWords { message, .. } => format!("last words {message}"),
        RuntimeEvent::ImageRemoved { image } => format!("removed {image:?}"),
        RuntimeEvent::NotAttached { message, .. } => format!("not attached {message}"),
        RuntimeEvent::Probed { result, .. } => format!("probed {result:?}"),
        RuntimeEvent::Container { container, event, .. } => format!("{container} {event:?}"),
    }
}

fn say(words: &str) {
    let _ = writeln!(std::io::stdout(), "{words}");
}
