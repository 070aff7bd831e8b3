//! The probes of one running pod, as Kubernetes means them: the startup probe holds the others back;
//! thresholds count results in a row; at most one run of a kind is under way.

use crate::ports::ProbeKind;
use shared::model::{Container, MonotonicMs, Probe};
use std::collections::BTreeMap;

/// A run whose end never comes is given up this long after its own timeout.
const LOST_AFTER_MS: u64 = 10_000;

/// The probes of one start of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Probes {
    checks: BTreeMap<ProbeKind, Check>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Check {
    probe: Probe,
    due: MonotonicMs,
    /// The run under way is lost after this.
    under_way: Option<MonotonicMs>,
    successes: u32,
    failures: u32,
    /// What the thresholds say: for liveness true, for the others false to begin with.
    good: bool,
    message: String,
}

impl Probes {
    /// The probes of a container that runs since `now`.
    pub(super) fn new(container: &Container, now: MonotonicMs) -> Self {
        let probes = [
            (ProbeKind::Startup, &container.startup_probe),
            (ProbeKind::Readiness, &container.readiness_probe),
            (ProbeKind::Liveness, &container.liveness_probe),
        ];
        let checks = probes.into_iter().filter_map(|(kind, probe)| {
            let probe = probe.clone()?;
            let due = now.plus_ms(u64::from(probe.initial_delay_seconds) * 1000);
            let (good, message) = (kind == ProbeKind::Liveness, String::new());
            let (under_way, successes, failures) = (None, 0, 0);
            Some((kind, Check { probe, due, under_way, successes, failures, good, message }))
        });
        Self { checks: checks.collect() }
    }

    /// The probes to run now.
    pub(super) fn take_due(&mut self, now: MonotonicMs) -> Vec<(ProbeKind, Probe)> {
        let started = self.has_started();
        let mut due = Vec::new();
        for (kind, check) in &mut self.checks {
            let turn = (*kind == ProbeKind::Startup) != started;
            if !turn || check.due > now || check.under_way.is_some_and(|lost_at| now < lost_at) {
                continue;
            }
            let timeout_ms = u64::from(check.probe.timeout_seconds) * 1000;
            check.under_way = Some(now.plus_ms(timeout_ms + LOST_AFTER_MS));
            check.due = now.plus_ms(u64::from(check.probe.period_seconds.max(1)) * 1000);
            due.push((*kind, check.probe.clone()));
        }
        due
    }

    pub(super) fn has_started(&self) -> bool {
        self.checks.get(&ProbeKind::Startup).is_none_or(|check| check.good)
    }

    /// A run came to its end.
    pub(super) fn handle(&mut self, kind: ProbeKind, result: Result<(), String>) {
        let Some(check) = self.checks.get_mut(&kind) else { return };
        check.under_way = None;
        match result {
            Ok(()) => {
                (check.successes, check.failures) = (check.successes.saturating_add(1), 0);
                if check.successes >= check.probe.success_threshold {
                    check.good = true;
                    check.message.clear();
                }
            }
            Err(message) => {
                (check.successes, check.failures) = (0, check.failures.saturating_add(1));
                if check.failures >= check.probe.failure_threshold {
                    check.good = false;
                    check.message = message;
                }
            }
        }
    }

    /// Whether the pod can serve.
    pub(super) fn is_ready(&self) -> bool {
        let ready = self.checks.get(&ProbeKind::Readiness).is_none_or(|check| check.good);
        self.has_started() && ready
    }

    /// Why the pod must be restarted; `None` when it need not.
    pub(super) fn condemned(&self) -> Option<String> {
        let failed = |kind: ProbeKind| {
            let check = self.checks.get(&kind)?;
            let spent = !check.good && check.failures >= check.probe.failure_threshold;
            spent.then(|| format!("{kind:?} probe failed: {}", check.message))
        };
        failed(ProbeKind::Startup).or_else(|| failed(ProbeKind::Liveness))
    }

    /// Why the pod is not ready, for people.
    pub(super) fn unready_message(&self) -> String {
        let kind = if self.has_started() { ProbeKind::Readiness } else { ProbeKind::Startup };
        match self.checks.get(&kind) {
            Some(check) if !check.message.is_empty() => {
                format!("{kind:?} probe failed: {}", check.message)
            }
            Some(_) => format!("waits for its {} probe", format!("{kind:?}").to_lowercase()),
            None => String::new(),
        }
    }

    /// When a probe is due.
    pub(super) fn poll_timeout(&self) -> Option<MonotonicMs> {
        let started = self.has_started();
        let turn = self.checks.iter().filter(|(k, _)| (**k == ProbeKind::Startup) != started);
        turn.map(|(_, check)| check.under_way.map_or(check.due, |lost| lost.max(check.due))).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::model::TcpSocketAction;

    fn at(seconds: u64) -> MonotonicMs {
        MonotonicMs(seconds * 1000)
    }

    /// Checked every 10 s with a timeout of 2 s.
    fn probe() -> Probe {
        Probe {
            exec: None,
            http_get: None,
            tcp_socket: Some(TcpSocketAction { port: 1.into(), host: None }),
            initial_delay_seconds: 0,
            period_seconds: 10,
            timeout_seconds: 2,
            success_threshold: 1,
            failure_threshold: 1,
            grpc: None,
        }
    }

    fn probes(startup: Option<Probe>, readiness: Option<Probe>) -> Probes {
        let probed = Container {
            startup_probe: startup,
            readiness_probe: readiness,
            ..Container::default()
        };
        Probes::new(&probed, at(0))
    }

    fn due(probes: &mut Probes, now: MonotonicMs) -> Vec<ProbeKind> {
        probes.take_due(now).into_iter().map(|(kind, _)| kind).collect()
    }

    fn refused() -> Result<(), String> {
        Err("refused".to_owned())
    }

    #[test]
    fn a_probe_runs_after_its_delay_and_then_once_a_period() {
        let delayed = Probe { initial_delay_seconds: 5, ..probe() };
        let mut probes = probes(None, Some(delayed));
        assert_eq!(probes.poll_timeout(), Some(at(5)));
        assert_eq!(due(&mut probes, MonotonicMs(4_999)), []);
        assert_eq!(due(&mut probes, at(5)), [ProbeKind::Readiness]);
        probes.handle(ProbeKind::Readiness, Ok(()));
        assert_eq!(probes.poll_timeout(), Some(at(15)));
        assert_eq!(due(&mut probes, at(14)), []);
        assert_eq!(due(&mut probes, at(15)), [ProbeKind::Readiness]);
    }

    #[test]
    fn a_run_whose_end_never_comes_is_given_up_ten_seconds_after_its_timeout() {
        let mut probes = probes(None, Some(probe()));
        assert_eq!(due(&mut probes, at(0)), [ProbeKind::Readiness]);
        assert_eq!(probes.poll_timeout(), Some(at(12)));
        assert_eq!(due(&mut probes, MonotonicMs(11_999)), [], "one at a time");
        assert_eq!(due(&mut probes, at(12)), [ProbeKind::Readiness]);
    }

    #[test]
    fn thresholds_count_results_in_a_row() {
        let patient = Probe { success_threshold: 2, failure_threshold: 2, ..probe() };
        let mut probes = probes(None, Some(patient));
        let mut ready_after = |result| {
            probes.handle(ProbeKind::Readiness, result);
            probes.is_ready()
        };
        assert!(!ready_after(Ok(())) && !ready_after(refused()) && !ready_after(Ok(())));
        assert!(ready_after(Ok(())));
        assert!(ready_after(refused()) && ready_after(Ok(())) && ready_after(refused()));
        assert!(!ready_after(refused()));
    }

    #[test]
    fn what_a_pod_that_is_not_ready_waits_for_is_said() {
        let mut probes = probes(Some(probe()), Some(probe()));
        assert_eq!(probes.unready_message(), "waits for its startup probe");
        assert_eq!(probes.poll_timeout(), Some(at(0)));
        probes.handle(ProbeKind::Readiness, Ok(()));
        assert!(!probes.is_ready(), "it has not started");
        probes.handle(ProbeKind::Startup, Ok(()));
        assert!(probes.is_ready());
        probes.handle(ProbeKind::Readiness, refused());
        assert_eq!(probes.unready_message(), "Readiness probe failed: refused");
    }

    #[test]
    fn only_startup_and_liveness_condemn_and_only_at_their_threshold() {
        let patient = Probe { failure_threshold: 2, ..probe() };
        let mut probes = probes(Some(patient), Some(probe()));
        probes.handle(ProbeKind::Readiness, refused());
        probes.handle(ProbeKind::Startup, refused());
        assert_eq!(probes.condemned(), None);
        probes.handle(ProbeKind::Startup, refused());
        assert_eq!(probes.condemned(), Some("Startup probe failed: refused".to_owned()));
        assert_eq!(probes.unready_message(), "Startup probe failed: refused");
    }

    #[test]
    fn the_startup_probe_is_the_only_one_whose_turn_it_is_until_it_succeeds() {
        let late = Probe { initial_delay_seconds: 30, ..probe() };
        let mut probes = probes(Some(late), Some(probe()));
        assert_eq!(probes.poll_timeout(), Some(at(30)));
        assert_eq!(due(&mut probes, at(30)), [ProbeKind::Startup]);
        probes.handle(ProbeKind::Startup, Ok(()));
        assert_eq!(probes.poll_timeout(), Some(at(0)));
        assert_eq!(due(&mut probes, at(60)), [ProbeKind::Readiness]);
    }
}
