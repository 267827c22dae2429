//! Reporting to a batch what its preparation or check waits for.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use temporalio_client::WorkflowSignalOptions;
use temporalio_sdk::activities::ActivityContext;
use tokio::sync::watch;

use super::heartbeats::{Heartbeats, record};
use crate::{
    base::error::{MAX_MESSAGE_CHARS, PageError, text::words, truncate},
    engine::controller::Controller,
    protocol::{WaitNews, WaitsFor},
};

/// Delay of the first report. Shorter preparations need not be reported.
const PATIENCE: Duration = Duration::from_secs(5);

/// Reports to the controller, once for each piece of news, because every report is an event in its history.
pub(super) struct WaitTeller<'a> {
    ctx: &'a ActivityContext,
    batch_id: &'a str,
    batch_run: &'a str,
    for_what: WaitsFor,
    /// The latest report. The next attempt reads it from the heartbeats of this one.
    told: watch::Sender<Option<WaitNews>>,
    _heartbeats: Heartbeats,
}

impl<'a> WaitTeller<'a> {
    /// Creates the reporter, which sends signs of life until it is dropped.
    pub fn of(
        ctx: &'a ActivityContext,
        (batch_id, batch_run): (&'a str, &'a str),
        for_what: WaitsFor,
    ) -> Self {
        let told = ctx.heartbeat_details().deserialize::<Option<WaitNews>>();
        let (told, seen) = watch::channel(told.ok().flatten().flatten());
        Self {
            ctx,
            batch_id,
            batch_run,
            for_what,
            told,
            _heartbeats: Heartbeats::with(ctx, move || seen.borrow().clone()),
        }
    }

    /// Reports that the work takes long, and what it waits for if the processor tells. The reports become less
    /// frequent, because the processor may report changes all the time.
    pub async fn tell_of_wait(&self, mut doing: watch::Receiver<Option<String>>) -> Infallible {
        let began = Instant::now();
        let mut wait = PATIENCE;
        loop {
            tokio::time::sleep(wait).await;
            let now = doing.borrow_and_update().clone();
            let told = self.told.borrow().clone();
            // After an error, the error is more informative than a long wait.
            let says_more =
                now.is_some() || told.is_none_or(|told| told.doing.is_some() || told.unknown);
            if says_more {
                self.tell(None, now).await;
            }
            wait = PATIENCE.max(began.elapsed() / 2);
            if doing.changed().await.is_err() {
                // The processor has finished reporting.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Reports why the work has to be retried.
    pub async fn tell_error(&self, error: &PageError) {
        let message = format!("{}: {}", error.error_type(), error.message());
        tracing::warn!(
            batch = self.batch_id,
            batch_run = self.batch_run,
            error = message,
            "will be retried later"
        );
        self.tell(Some(truncate(&message, MAX_MESSAGE_CHARS)), None)
            .await;
    }

    /// Reports that workers do not have the processor.
    pub async fn tell_unknown(&self, lacks: &PageError) {
        // Workers differ in their processors, and every report is an event, so only the first one is sent.
        let told = self.told.borrow().as_ref().is_some_and(|news| news.unknown);
        if !told {
            let message = truncate(lacks.message(), MAX_MESSAGE_CHARS);
            self.send(WaitNews {
                unknown: true,
                ..self.news(Some(message), None)
            })
            .await;
        }
    }

    fn news(&self, error: Option<String>, doing: Option<String>) -> WaitNews {
        WaitNews {
            batch_run: self.batch_run.to_owned(),
            for_what: self.for_what,
            error,
            doing: doing.map(|doing| truncate(&doing, MAX_MESSAGE_CHARS)),
            unknown: false,
        }
    }

    async fn tell(&self, error: Option<String>, doing: Option<String>) {
        self.send(self.news(error, doing)).await;
    }

    async fn send(&self, news: WaitNews) {
        if self.batch_id.is_empty() || self.told.borrow().as_ref() == Some(&news) {
            return;
        }
        let client = self.ctx.client();
        let controller = client.get_workflow_handle::<Controller>(self.batch_id);
        let options = WorkflowSignalOptions::default();
        match controller
            .signal(Controller::waits, news.clone(), options)
            .await
        {
            Ok(_) => {
                self.told.send_replace(Some(news.clone()));
                record(self.ctx, Some(news)).await;
            }
            Err(error) => tracing::warn!(
                error = words(&error),
                "could not report to the batch what it waits for"
            ),
        }
    }
}
