//! The event for which a processor's code is waiting, reported to the activity that runs it.

use tokio::sync::watch;

tokio::task_local! {
    static TELLS: watch::Sender<Option<String>>;
}

/// Reports the event, in words for people. `None` means that the wait is over. Outside such an activity the
/// call has no effect.
#[cfg_attr(
    not(any(feature = "postgres", feature = "mysql")),
    allow(
        dead_code,
        reason = "only databases with several writers are waited for"
    )
)]
pub(crate) fn tell(what: Option<String>) {
    // Outside of [`told`] there is no listener.
    let _ = TELLS.try_with(|tells| tells.send_replace(what));
}

/// Runs work that may report its waits.
#[cfg_attr(not(feature = "temporal"), allow(dead_code, reason = "for the engine"))]
pub(crate) async fn told<F: Future>(tells: watch::Sender<Option<String>>, work: F) -> F::Output {
    TELLS.scope(tells, work).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_waited_for_reaches_the_code_that_runs_the_work() {
        tell(Some("unheard".to_owned()));
        let (tells, told_of) = watch::channel(None);
        let work = async {
            tell(Some("pid 7".to_owned()));
            assert_eq!(told_of.borrow().as_deref(), Some("pid 7"));
            tell(None);
        };
        told(tells, work).await;
        assert_eq!(*told_of.borrow(), None);
    }
}
