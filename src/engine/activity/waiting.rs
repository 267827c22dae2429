//! Telling a batch what it waits for beside its pages.

use std::{
    convert::Infallible,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use temporalio_client::WorkflowSignalOptions;
use temporalio_sdk::activities::ActivityContext;
use tokio::{sync::watch, task::JoinHandle};

use super::{HEARTBEATS_PER_TIMEOUT, side::ASIDE_HEARTBEAT_TIMEOUT};
use crate::{
    base::error::{MAX_MESSAGE_CHARS, PageError, text::words, truncate},
    engine::controller::Controller,
    protocol::{WaitNews, WaitsFor},
};

/// Whoever looks at a batch need not know of a preparation that is over sooner.
const PATIENCE: Duration = Duration::from_secs(5);

/// Tells the controller, once for each thing that there is to be told: every word is an event in its history.
pub(super) struct WaitTeller<'a> {
    ctx: &'a ActivityContext,
    batch_id: &'a str,
    batch_run: &'a str,
    for_what: WaitsFor,
    /// What was told last, which the next attempt finds in the heartbeats of this one.
    told: watch::Sender<Option<WaitNews>>,
    heartbeats: Mutex<Option<JoinHandle<()>>>,
}

impl<'a> WaitTeller<'a> {
    /// Sends signs of life until it is dropped.
    pub fn of(
        ctx: &'a ActivityContext,
        (batch_id, batch_run): (&'a str, &'a str),
        for_what: WaitsFor,
    ) -> Self {
        let told = ctx.heartbeat_details().deserialize::<Option<WaitNews>>();
        let (told, seen) = watch::channel(told.ok().flatten().flatten());
        let interval = ctx.info().heartbeat_timeout;
        let interval = interval.unwrap_or(ASIDE_HEARTBEAT_TIMEOUT) / HEARTBEATS_PER_TIMEOUT;
        let beating = ctx.clone();
        let heartbeats = tokio::spawn(async move {
            let mut tick = tokio::time::interval(interval);
            loop {
                tick.tick().await;
                let told = seen.borrow().clone();
                if let Err(error) = beating.record_heartbeat(told).await {
                    tracing::warn!(error = words(&error), "heartbeat not sent");
                }
            }
        });
        Self {
            ctx,
            batch_id,
            batch_run,
            for_what,
            told,
            heartbeats: Mutex::new(Some(heartbeats)),
        }
    }

    /// Tells that it takes its time, and what for where the processor says it: less and less often, as what it says may
    /// change all the time.
    pub async fn tell_of_wait(&self, mut doing: watch::Receiver<Option<String>>) -> Infallible {
        let began = Instant::now();
        let mut wait = PATIENCE;
        loop {
            tokio::time::sleep(wait).await;
            let now = doing.borrow_and_update().clone();
            let told = self.told.borrow().clone();
            // After a failure the reason for it says more than that it takes its time.
            let says_more =
                now.is_some() || told.is_none_or(|told| told.doing.is_some() || told.unknown);
            if says_more {
                self.tell(None, now).await;
            }
            wait = PATIENCE.max(began.elapsed() / 2);
            if doing.changed().await.is_err() {
                // It has no more to say.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Tells why it has to be tried again.
    pub async fn tell_error(&self, error: &PageError) {
        let message = format!("{}: {}", error.error_type(), error.message());
        tracing::warn!(
            batch = self.batch_id,
            batch_run = self.batch_run,
            error = message,
            "tried again later"
        );
        self.tell(Some(truncate(&message, MAX_MESSAGE_CHARS)), None)
            .await;
    }

    /// Tells that workers do not have the processor.
    pub async fn tell_unknown(&self, lacks: &PageError) {
        // Each worker has others, and every word is an event.
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
                if let Err(error) = self.ctx.record_heartbeat(Some(news)).await {
                    tracing::warn!(error = words(&error), "heartbeat not sent");
                }
            }
            Err(error) => tracing::warn!(
                error = words(&error),
                "the batch was not told what it waits for"
            ),
        }
    }
}

impl Drop for WaitTeller<'_> {
    fn drop(&mut self) {
        let mut heartbeats = self
            .heartbeats
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(heartbeats) = heartbeats.take() {
            heartbeats.abort();
        }
    }
}
