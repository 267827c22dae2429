//! Batches with partitions that are cancelled, that reach their deadline, or that are terminated.

use super::*;

#[tokio::test]
async fn a_cancelled_batch_continues_where_its_partitions_ended() {
    let env = TestEnv::new("parts-cancel").await;
    let tenants = Tenants::of(&[("a", 100), ("b", 60), ("c", 50)]).skipping();
    let (mail, gate) = Mail::gated();
    let _worker = env.worker(mail.clone()).await;
    let batch = env
        .batch::<Mail>(tenants.clone())
        .page_size(10)
        .max_parallelism(2);
    let handle = env.start(&batch).await;
    eventually("two pages are in flight", || async {
        (mail.begun() == 2).then_some(())
    })
    .await;
    handle.cancel("not today").await.unwrap();
    gate.open();
    let ended = report(&handle).await;
    assert_eq!(ended.outcome, Outcome::Cancelled, "{ended:#?}");
    let processed = ended.progress.items.processed;
    assert!(processed >= 20);
    let result = ended.output().expect("what is finished counts");
    assert_eq!(result["records"], processed);
    assert!(
        ended
            .reason
            .unwrap()
            .contains("of 3 partitions are finished")
    );
    let going_on = Continuation::of(batch.id());
    let handle = env.client.continue_batch(&going_on).await.unwrap();
    let ended = report(&handle).await;
    assert_eq!(ended.outcome, Outcome::Completed, "{ended:#?}");
    mail.assert_each_once(&tenants);
    assert_result(&ended, &tenants);
    assert_eq!(ended.progress.items.processed, 210);
}

#[tokio::test]
async fn at_its_deadline_a_batch_stops_its_partitions() {
    let env = TestEnv::new("parts-deadline").await;
    let tenants = Tenants::of(&[("a", 1_000_000), ("b", 1_000_000)]).skipping();
    let mail = Mail::new().taking(Duration::from_millis(50));
    let _worker = env.worker(mail.clone()).await;
    let batch = env
        .batch::<Mail>(tenants)
        .page_size(10)
        .deadline(Duration::from_secs(4));
    let ended = env.run(&batch).await;
    assert_eq!(ended.outcome, Outcome::Stopped, "{ended:#?}");
    assert!(ended.reason.unwrap().contains("the deadline is over"));
    assert_eq!(
        mail.seen.lock().unwrap().records.len() as u64,
        ended.progress.items.processed
    );
    assert!(
        mail.seen
            .lock()
            .unwrap()
            .records
            .values()
            .all(|times| *times == 1)
    );
}

#[tokio::test]
async fn a_partition_whose_workflow_was_terminated_ends_the_batch_with_its_name() {
    let env = TestEnv::new("parts-terminated").await;
    let tenants = Tenants::of(&[("a", 100), ("b", 100)]).skipping();
    let (mail, gate) = Mail::gated();
    let _worker = env.worker(mail.clone()).await;
    let batch = env.batch::<Mail>(tenants).page_size(10).max_parallelism(2);
    let handle = env.start(&batch).await;
    eventually("both partitions have begun", || async {
        (mail.begun() == 2).then_some(())
    })
    .await;
    let child: WorkflowHandle<_, UntypedWorkflow> = env
        .client
        .temporal()
        .get_workflow_handle(format!("{}.p1", batch.id()));
    child
        .terminate(WorkflowTerminateOptions::default())
        .await
        .unwrap();
    gate.open();
    let ended = report(&handle).await;
    assert_eq!(ended.outcome, Outcome::Failed);
    let reason = ended.reason.unwrap();
    assert!(
        reason.contains("partition \"b\" was terminated"),
        "{reason}"
    );
    let lost = ended
        .progress
        .partitions
        .iter()
        .find(|p| p.state == PartitionState::Lost);
    assert_eq!(lost.unwrap().name, "b");
    let refused = env
        .client
        .continue_batch(&Continuation::of(batch.id()))
        .await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("partition \"b\""), "{refused}");
}

#[tokio::test]
async fn terminating_a_batch_terminates_its_partitions() {
    let env = TestEnv::new("parts-end").await;
    let (mail, gate) = Mail::gated();
    let _worker = env.worker(mail.clone()).await;
    let batch = env.batch::<Mail>(Tenants::of(&[("a", 100)])).page_size(10);
    env.start(&batch).await;
    eventually("the batch has begun", || async {
        (mail.begun() >= 1).then_some(())
    })
    .await;
    let workflow = |id: String| -> WorkflowHandle<_, UntypedWorkflow> {
        env.client.temporal().get_workflow_handle(id)
    };
    let parent = workflow(batch.id().to_owned());
    parent
        .terminate(WorkflowTerminateOptions::default())
        .await
        .unwrap();
    let child = env.client.handle(format!("{}.p0", batch.id())).unwrap();
    eventually("its partition has ended", || async {
        (!child.state().await.unwrap().is_open()).then_some(())
    })
    .await;
    gate.open();
    // The workflow ids of the partitions are free again.
    let tenants = Tenants::of(&[("a", 100)]);
    mail.seen.lock().unwrap().records.clear();
    let again = Batch::of::<Mail>(batch.id(), tenants)
        .task_queue(&env.queue)
        .page_size(10)
        .rerun(true);
    assert_eq!(env.run(&again).await.outcome, Outcome::Completed);
}
