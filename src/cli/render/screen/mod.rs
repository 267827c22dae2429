//! The full screen of `watch`: a batch, with keys that steer it.
//!
//! ```text
//!   keys, resizes ─┐                      ┌─▶ draw: model ─▶ frame
//!   looks ─────────┼─▶ model (pure) ──────┤
//!   answers ───────┘                      └─▶ requests, one at a time ─▶ batch
//! ```

mod draw;
mod failing_table;
mod keys;
mod layout;
mod line_fitting;
mod model;
mod samples;
mod terminal;
#[cfg(test)]
mod tests;

use std::{
    future::Future,
    io,
    pin::pin,
    time::{Duration, Instant, SystemTime},
};

use ratatui::crossterm::event::Event;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
    time::MissedTickBehavior,
};

use crate::{
    base::error::text::words,
    cli::{
        output::{self, one_line},
        render::follow::Followed,
    },
    engine::client::{BatchHandle, ControlError, ProgressError},
    progress::Progress,
};
use draw::draw;
use model::{Model, Moment, Pressed, Request};
use terminal::{Input, Screen};

/// The interval between two looks. Each look costs the controller one query.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The interval between two frames, because ages and notices change without an event.
const DRAW_EVERY: Duration = Duration::from_millis(250);
/// The reason of requests that a key makes.
const REASON: &str = "from watch";

/// The result of a background task of the screen.
enum Update {
    Progress {
        began: Duration,
        progress: Result<Box<Progress>, ProgressError>,
    },
    KeyResult(Request, KeyResult),
}

/// The answer to the request that a key made. The text is the fate of a request that has not taken effect yet.
type KeyResult = Result<Option<String>, ControlError>;

/// Shows the batch until it ends, `stop` resolves or a key leaves the screen. `no_worker` is the text while no worker
/// answers. The terminal is restored afterwards.
///
/// # Errors
/// Fails if the terminal cannot be read or drawn on. The batch can be followed in another way.
pub(crate) async fn follow(
    handle: &BatchHandle,
    no_worker: &str,
    stop: impl Future<Output = ()>,
) -> io::Result<Followed> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut screen = Screen::enter()?;
    let (mut input, mut events) = Input::start();
    let (tell, mut updates) = mpsc::channel(16);
    // These tasks end with this function.
    let mut tasks = JoinSet::new();
    let clock = Instant::now();
    tasks.spawn(look_again_and_again(handle.clone(), clock, tell.clone()));
    let mut model = Model::new(handle.id(), output::wants_color());
    let mut ticks = tokio::time::interval(DRAW_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut result = pin!(handle.result());
    let mut stop = pin!(stop);
    let followed = loop {
        if let Some(request) = model.next_request() {
            let (handle, tell) = (handle.clone(), tell.clone());
            tasks.spawn(async move {
                let answer = ask(&handle, request).await;
                // The receiver is gone once the screen is left.
                let _ = tell.send(Update::KeyResult(request, answer)).await;
            });
        }
        let now = moment(clock);
        model.warn(output::last_held(), now);
        if let Err(error) = screen.draw(|frame| draw(frame, &model, now)) {
            break Err(error);
        }
        tokio::select! {
            biased;
            result = &mut result => break Ok(match result {
                Ok(report) => Followed::Ended(Box::new(report)),
                Err(error) => Followed::Lost(error),
            }),
            () = &mut stop => break Ok(Followed::Detached),
            _ = hangup.recv() => break Ok(Followed::Detached),
            event = events.recv() => match event {
                Some(Ok(Event::Key(key))) => {
                    if model.press(key, moment(clock)) == Pressed::Leave {
                        break Ok(Followed::Detached);
                    }
                }
                // A resize needs no more than a redraw.
                Some(Ok(_)) => {}
                Some(Err(error)) => break Err(error),
                None => break Err(io::ErrorKind::UnexpectedEof.into()),
            },
            Some(update) = updates.recv() => match update {
                Update::Progress { began, progress: Ok(progress) } => {
                    model.look(*progress, began, moment(clock));
                }
                Update::Progress { progress: Err(ProgressError::NoWorker { .. }), .. } => {
                    model.trouble(no_worker);
                }
                // `result` reports a permanent error.
                Update::Progress { progress: Err(error), .. } => model.trouble(&words(&error)),
                Update::KeyResult(request, answer) => {
                    let answer = answer.map_err(|error| told_of(&error));
                    model.answered(request, answer, moment(clock));
                }
            },
            _ = ticks.tick() => {}
        }
    };
    input.stop();
    screen.leave();
    followed
}

fn moment(clock: Instant) -> Moment {
    Moment {
        elapsed: clock.elapsed(),
        wall: SystemTime::now().into(),
    }
}

async fn look_again_and_again(handle: BatchHandle, clock: Instant, tell: mpsc::Sender<Update>) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let began = clock.elapsed();
        let progress = handle.progress().await.map(Box::new);
        if tell
            .send(Update::Progress { began, progress })
            .await
            .is_err()
        {
            return;
        }
    }
}

fn told_of(error: &ControlError) -> String {
    one_line(&words(error))
}

/// Sends a request. Returns the fate of a request that has not taken effect.
async fn ask(handle: &BatchHandle, request: Request) -> KeyResult {
    let steered = match request {
        Request::Pause => handle.pause(REASON).await,
        Request::Resume => handle.because(REASON).resume().await,
        Request::Parallelism(pages) => handle.because(REASON).set_max_parallelism(pages).await,
    }?;
    Ok((!steered.is_applied()).then(|| steered.to_string()))
}
