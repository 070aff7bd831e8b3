//! How often the disk is asked: what is to be durable at the same time is one commit.

use super::*;

#[test]
fn ten_pods_that_start_are_recorded_by_one_commit_and_told_of_by_another() {
    let mut bench = Bench::new();
    bench.join();
    bench.persisted.clear();
    bench.desire(&[Workload { replicas: 10, ..workload("ocr", 1) }], version(1, 2));
    assert_eq!(bench.started().len(), 10);
    let records = |batch: &WriteBatch, tree: Tree| {
        let is_put = |write: &&Write| matches!(write, Write::Put { tree: of, .. } if *of == tree);
        batch.writes.iter().filter(is_put).count()
    };
    let counts =
        |tree| bench.persisted.iter().map(|batch| records(batch, tree)).collect::<Vec<_>>();
    assert_eq!(counts(Tree::Pods).iter().filter(|count| **count > 0).collect::<Vec<_>>(), [&10]);
    assert_eq!(counts(Tree::Outbox).iter().filter(|count| **count > 0).collect::<Vec<_>>(), [&10]);
}
