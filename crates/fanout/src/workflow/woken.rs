//! Polls a call only if something has happened to it.
//!
//! A run has up to a thousand children, and each of its workflow tasks concerns a few of them. Without this a replay of a
//! run would poll all of them in each task, and could take longer than a workflow task may.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures::task::AtomicWaker;

/// Knows whether a future was woken since it was last polled.
pub(super) struct Woken {
    flag: Arc<Flag>,
    waker: Waker,
}

struct Flag {
    woken: AtomicBool,
    workflow: Arc<AtomicWaker>,
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Relaxed);
        // The SDK finds out in this call whether it is the SDK that wakes.
        self.workflow.wake();
    }
}

impl Woken {
    /// Returns the knowledge of a future that was not polled yet.
    pub fn of(workflow: &Arc<AtomicWaker>) -> Self {
        let flag = Arc::new(Flag {
            woken: AtomicBool::new(true),
            workflow: Arc::clone(workflow),
        });
        let waker = Waker::from(Arc::clone(&flag));
        Self { flag, waker }
    }

    /// Polls the future if it was woken.
    pub fn poll<F: Future + ?Sized>(&self, future: Pin<&mut F>) -> Option<Poll<F::Output>> {
        let woken = self.flag.woken.swap(false, Ordering::Relaxed);
        woken.then(|| future.poll(&mut Context::from_waker(&self.waker)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_future_is_polled_once_for_each_wake_up_and_wakes_the_workflow() {
        let workflow = Arc::new(AtomicWaker::new());
        let outer = Arc::new(Flag {
            woken: AtomicBool::new(false),
            workflow: Arc::default(),
        });
        workflow.register(&Waker::from(Arc::clone(&outer)));
        let woken = Woken::of(&workflow);
        let mut polled = 0;
        let mut future = std::pin::pin!(std::future::poll_fn(|_| {
            polled += 1;
            match polled {
                1 => Poll::Pending,
                _ => Poll::Ready(()),
            }
        }));
        assert_eq!(woken.poll(future.as_mut()), Some(Poll::Pending));
        assert_eq!(woken.poll(future.as_mut()), None);
        assert!(!outer.woken.load(Ordering::Relaxed));
        woken.waker.wake_by_ref();
        assert!(outer.woken.load(Ordering::Relaxed));
        assert_eq!(woken.poll(future.as_mut()), Some(Poll::Ready(())));
    }
}
