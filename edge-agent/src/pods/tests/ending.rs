//! How a pod ends, and what follows: by its restart policy, by its deadline, by what it says.

use super::*;

fn with_policy(restart_policy: RestartPolicy) -> Workload {
    let mut workload = workload("ocr", 1, container());
    workload.template.spec.restart_policy = restart_policy;
    workload
}

/// The status of a pod with this policy after its first start ended with `code`.
fn ended(restart_policy: RestartPolicy, code: i32) -> PodStatus {
    let mut pods = pods_with(&[with_policy(restart_policy)]);
    let request = started(&mut pods);
    runs(&mut pods, &request, at(1));
    exits(&mut pods, &request, code, at(2));
    only_status(&pods).clone()
}

#[test]
fn the_restart_policy_says_whether_an_end_is_the_last() {
    assert_eq!(ended(RestartPolicy::Always, 0).phase, PodPhase::Starting);
    assert_eq!(ended(RestartPolicy::OnFailure, 1).phase, PodPhase::Starting);
    let completed = ended(RestartPolicy::OnFailure, 0);
    assert_eq!((completed.phase, completed.reason.as_str()), (PodPhase::Succeeded, "Completed"));
    assert_eq!(ended(RestartPolicy::Never, 0).phase, PodPhase::Succeeded);
    let failed = ended(RestartPolicy::Never, 3);
    assert_eq!((failed.phase, failed.reason.as_str()), (PodPhase::Failed, "Error"));
    assert_eq!((failed.last_exit_code, failed.restarts), (Some(3), 0));
}

#[test]
fn the_status_says_how_a_pod_ended() {
    let message = |code| ended(RestartPolicy::Never, code).message;
    assert_eq!(message(0), "ended with status 0");
    assert_eq!(message(128), "ended with status 128: see its log");
    assert_eq!(message(137), "killed with signal 9: out of memory, or by hand");
    assert_eq!(message(143), "killed by signal 15");
}

#[test]
fn the_words_that_a_pod_leaves_are_a_part_of_its_status() {
    let with = |words: &str| {
        let mut pods = pods_with(&[with_policy(RestartPolicy::Never)]);
        let request = started(&mut pods);
        runs(&mut pods, &request, at(1));
        let (pod, instance, message) = (request.pod.clone(), request.instance, words.to_owned());
        pods.handle_runtime(RuntimeEvent::LastWords { pod, instance, message }, at(2));
        exits(&mut pods, &request, 3, at(2));
        only_status(&pods).message.clone()
    };
    assert_eq!(with("no camera"), "ended with status 3: no camera");
}

#[test]
fn what_has_ended_for_good_starts_again_when_its_content_changes() {
    let mut pods = pods_with(&[with_policy(RestartPolicy::Never)]);
    let request = started(&mut pods);
    exits(&mut pods, &request, 1, at(1));
    pods.assign(&fleet(&[with_policy(RestartPolicy::Never)]), at(2));
    let restarts = |action: &PodAction| matches!(action, PodAction::Start(_));
    assert!(!actions(&mut pods).iter().any(restarts));
    pods.assign(&fleet(&[workload("ocr", 2, container())]), at(3));
    assert_eq!(started(&mut pods).revision, Revision(2));
    assert_eq!(only_status(&pods).last_exit_code, None);
}

#[test]
fn a_crash_loop_ends_with_another_content() {
    let mut pods = pods_with(&[workload("ocr", 1, container())]);
    for second in 1..3 {
        let request = started(&mut pods);
        exits(&mut pods, &request, 1, at(second));
    }
    assert_eq!(only_status(&pods).phase, PodPhase::BackingOff);
    pods.assign(&fleet(&[workload("ocr", 2, container())]), at(3));
    started(&mut pods);
    assert_eq!(only_status(&pods).restarts, 0);
}

#[test]
fn a_program_that_is_not_there_is_tried_again_after_ten_seconds() {
    let mut pods = pods_with(&[workload("ocr", 1, container())]);
    let request = started(&mut pods);
    let (pod, instance) = (request.pod.clone(), request.instance);
    let (reason, message) = ("NotFound".to_owned(), "no such file".to_owned());
    pods.handle_runtime(RuntimeEvent::StartFailed { pod, instance, reason, message }, at(1));
    let status = only_status(&pods);
    assert_eq!((status.phase, status.restarts), (PodPhase::BackingOff, 1));
    assert_eq!((status.reason.as_str(), status.message.as_str()), ("NotFound", "no such file"));
    assert_eq!(pods.poll_timeout(), Some(MonotonicMs(11_000)));
    let made = actions(&mut pods);
    assert!(matches!(&made[..], [PodAction::Record(_), PodAction::Remove { keep_logs: true, .. }]));
    pods.handle_timeout(at(11));
    started(&mut pods);
}

#[test]
fn a_start_that_fails_while_it_is_stopped_is_stopped() {
    let mut pods = pods_with(&[workload("ocr", 1, container())]);
    let request = started(&mut pods);
    pods.assign(&BTreeMap::new(), at(1));
    let (pod, instance) = (request.pod.clone(), request.instance);
    let (reason, message) = ("NotFound".to_owned(), "no such file".to_owned());
    pods.handle_runtime(RuntimeEvent::StartFailed { pod, instance, reason, message }, at(2));
    assert_eq!(pods.statuses().count(), 0);
}

#[test]
fn a_start_that_is_never_answered_is_given_up() {
    let mut pods = pods_with(&[workload("ocr", 1, container())]);
    let request = started(&mut pods);
    assert_eq!(pods.poll_timeout(), Some(MonotonicMs(120_000)));
    pods.handle_timeout(Now { monotonic: MonotonicMs(119_999), ..at(0) });
    assert!(actions(&mut pods).is_empty());
    pods.handle_timeout(at(120));
    assert!(matches!(&actions(&mut pods)[..], [PodAction::Stop { .. }]));
    let status = only_status(&pods);
    assert_eq!((status.phase, status.reason.as_str()), (PodPhase::Stopping, "Unhealthy"));
    assert_eq!(status.message, "the runtime did not start it within 120 s");
    exits(&mut pods, &request, 137, at(121));
    started(&mut pods);
    assert_eq!(only_status(&pods).last_exit_code, Some(137));
}

#[test]
fn a_stop_that_is_not_obeyed_is_asked_for_again_without_grace() {
    let mut pods = pods_with(&[workload("ocr", 1, container())]);
    let request = started(&mut pods);
    runs(&mut pods, &request, at(1));
    pods.assign(&BTreeMap::new(), at(2));
    assert!(matches!(&actions(&mut pods)[..], [PodAction::Stop { grace_ms: 5_000, .. }]));
    assert_eq!(only_status(&pods).reason, "Removed");
    for second in [37, 67] {
        assert_eq!(pods.poll_timeout(), Some(at(second).monotonic), "its grace and half a minute");
        pods.handle_timeout(at(second - 1));
        assert!(actions(&mut pods).is_empty());
        pods.handle_timeout(at(second));
        assert!(matches!(&actions(&mut pods)[..], [PodAction::Stop { grace_ms: 0, .. }]));
    }
}

#[test]
fn what_another_start_says_is_passed_over() {
    let mut pods = pods_with(&[workload("ocr", 1, container())]);
    let request = started(&mut pods);
    runs(&mut pods, &request, at(1));
    assert_eq!(only_status(&pods).started_at, Some(UnixMs(1)));
    let other = StartRequest { instance: InstanceId(request.instance.0 ^ 1), ..request };
    exits(&mut pods, &other, 1, at(2));
    assert_eq!(only_status(&pods).phase, PodPhase::Running);
    assert!(actions(&mut pods).is_empty());
}

#[test]
fn while_held_a_start_of_another_content_waits_for_the_end_of_the_hold() {
    let mut pods = pods_with(&[workload("ocr", 1, container())]);
    let request = started(&mut pods);
    runs(&mut pods, &request, at(1));
    pods.hold(true);
    pods.assign(&fleet(&[workload("ocr", 2, container())]), at(2));
    exits(&mut pods, &request, 1, at(3));
    let restarts = |action: &PodAction| matches!(action, PodAction::Start(_));
    assert!(!actions(&mut pods).iter().any(restarts));
    pods.hold(false);
    pods.handle_timeout(at(4));
    assert_eq!(started(&mut pods).revision, Revision(2));
    assert_eq!(only_status(&pods).restarts, 0, "what should run has not run yet");
}

#[test]
fn each_change_of_a_status_is_told_once() {
    let mut pods = pods_with(&[workload("ocr", 1, container())]);
    let pod = only_status(&pods).pod.clone();
    assert_eq!(pods.take_changed(), std::slice::from_ref(&pod));
    assert_eq!(pods.take_changed(), []);
    let request = started(&mut pods);
    runs(&mut pods, &request, at(1));
    assert_eq!(pods.take_changed(), std::slice::from_ref(&pod));
    pods.handle_timeout(at(2));
    assert_eq!(pods.take_changed(), []);
    pods.assign(&BTreeMap::new(), at(3));
    pods.take_changed();
    exits(&mut pods, &request, 0, at(4));
    assert_eq!(pods.take_changed(), [pod], "that it is gone, too");
}

/// Outputs of SplitMix64 itself, and of another start of the agent.
#[test]
fn starts_are_named_by_splitmix64() {
    assert_eq!(instance_id(0, 0), InstanceId(0xe220_a839_7b1d_cdaf));
    assert_eq!(instance_id(0, 1_234_567), InstanceId(6_457_827_717_110_365_317));
    assert_eq!(instance_id(1, 1), InstanceId(0x2043_91a6_fd59_956f));
}

#[test]
fn a_start_that_takes_its_time_is_not_given_up_and_says_what_takes_it() {
    let mut pods = pods_with(&[workload("ocr", 1, container())]);
    let request = started(&mut pods);
    for seconds in [100, 200] {
        let (pod, instance) = (request.pod.clone(), request.instance);
        let (reason, message) = ("ImagePulling".to_owned(), "ocr:1 is being pulled".to_owned());
        let event = RuntimeEvent::Preparing { pod, instance, reason, message };
        pods.handle_runtime(event, at(seconds));
        pods.handle_timeout(at(seconds + 99));
        assert!(actions(&mut pods).is_empty(), "it goes on");
    }
    let status = only_status(&pods);
    assert_eq!((status.phase, status.reason.as_str()), (PodPhase::Starting, "ImagePulling"));
    assert_eq!(status.message, "ocr:1 is being pulled");
    pods.handle_timeout(at(320));
    assert!(matches!(&actions(&mut pods)[..], [PodAction::Stop { .. }]), "nothing more was said");
}
