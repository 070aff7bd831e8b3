//! Ports that probes and hooks call by their names: the number of the container's port of that name is put for each,
//! so that nodes and member clusters see numbers.

use super::labels::Invalid;
use super::models::said_at;
use shared::model::{Container, ContainerPort, LifecycleHandler, PodTemplate, Port, Probe};

/// Puts numbers for names, in all containers.
///
/// # Errors
/// The first name that the container has no port of, with the names that it has.
pub(super) fn number_ports(template: &mut PodTemplate) -> Result<(), Invalid> {
    let spec = &mut template.spec;
    let lists = [
        ("spec.initContainers", &mut spec.init_containers),
        ("spec.containers", &mut spec.containers),
    ];
    lists.into_iter().try_for_each(|(list, containers)| {
        let mut all = containers.iter_mut().enumerate();
        all.try_for_each(|(index, one)| number_ports_of(one, &said_at(&format!("{list}[{index}]"))))
    })
}

fn number_ports_of(container: &mut Container, at: &str) -> Result<(), Invalid> {
    let Container { ports, startup_probe, readiness_probe, liveness_probe, lifecycle, .. } =
        container;
    let probes = [
        ("startupProbe", startup_probe),
        ("readinessProbe", readiness_probe),
        ("livenessProbe", liveness_probe),
    ];
    for (field, probe) in probes {
        let Some(Probe { http_get, tcp_socket, .. }) = probe else { continue };
        let get = http_get.iter_mut().map(|get| ("httpGet", &mut get.port));
        let tcp = tcp_socket.iter_mut().map(|tcp| ("tcpSocket", &mut tcp.port));
        for (action, port) in get.chain(tcp) {
            number(port, ports, || format!("{at}.{field}.{action}.port"))?;
        }
    }
    let Some(hooks) = lifecycle else { return Ok(()) };
    for (field, hook) in [("postStart", &mut hooks.post_start), ("preStop", &mut hooks.pre_stop)] {
        let Some(LifecycleHandler { http_get: Some(get), .. }) = hook else { continue };
        number(&mut get.port, ports, || format!("{at}.lifecycle.{field}.httpGet.port"))?;
    }
    Ok(())
}

fn number(
    port: &mut Port,
    ports: &[ContainerPort],
    path: impl FnOnce() -> String,
) -> Result<(), Invalid> {
    let Port::Name(name) = &*port else { return Ok(()) };
    if let Some(found) = ports.iter().find(|one| one.name.as_ref() == Some(name)) {
        *port = Port::Number(found.container_port);
        return Ok(());
    }
    let names: Vec<String> =
        ports.iter().filter_map(|one| Some(format!("`{}`", one.name.as_ref()?))).collect();
    let expected = match names.as_slice() {
        [] => "expected a number, since none of its ports has a name".to_owned(),
        names => format!("expected a number, or one of {}", names.join(", ")),
    };
    Err((path(), format!("the container has no port named `{name}`: {expected}")))
}
