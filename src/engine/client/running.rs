//! The strides that workers are processing, as the server sees them.

use std::time::{Duration, SystemTime};

use temporalio_client::WorkflowExecutionDescription;
use temporalio_common::{
    data_converters::{
        GenericPayloadConverter as _, PayloadConverter, SerializationContext,
        SerializationContextData, WorkflowSerializationContext,
    },
    protos::temporal::api::{enums::v1::PendingActivityState, workflow::v1::PendingActivityInfo},
};

use crate::{
    base::time::Timestamp,
    page::token::PageToken,
    protocol::{self, Checkpoint},
};

/// A stride that was dispatched and has not ended, as the server sees it. No worker is asked.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct RunningStride {
    /// The number of the stride.
    pub stride: u64,
    /// Temporal's count of attempts at this dispatch, which is more than 1 after a worker was lost. The
    /// controller counts attempts at pages separately.
    pub attempt: u32,
    /// The worker that has the stride, or last had it.
    pub worker: Option<String>,
    /// The time of the dispatch.
    pub dispatched_at: Option<Timestamp>,
    /// The time at which its worker started. `None` while it waits for a worker.
    pub started_at: Option<Timestamp>,
    /// The time of the latest sign of life.
    pub heartbeat_at: Option<Timestamp>,
    /// The time without a sign of life after which its worker counts as lost.
    #[serde(skip)]
    pub(crate) heartbeat_timeout: Option<Duration>,
    /// The number of finished pages at the latest sign of life.
    pub pages_finished: u32,
    /// The page in progress at the latest sign of life.
    pub page: Option<RunningPage>,
}

/// A page that is being worked on.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct RunningPage {
    /// The exclusive start. `None` is the beginning of the data.
    pub start: Option<PageToken>,
    /// The start of the work, by the clock of the worker.
    pub since: Timestamp,
    /// The working time at the latest sign of life, measured with one clock.
    #[serde(skip)]
    pub(crate) said_for: Duration,
    /// The attempt at the page, from 1.
    pub attempt: u32,
}

impl RunningStride {
    /// The time since which its page has been worked on. If the worker has not reported a page yet, the time
    /// since which it has the stride. If no worker has it, the time of its dispatch.
    #[cfg(feature = "cli")]
    pub(crate) fn at_work_since(&self) -> Option<Timestamp> {
        let page = self.page.as_ref().map(|page| page.since);
        page.or(self.started_at).or(self.dispatched_at)
    }
}

/// Returns all strides that a description contains, by number.
pub(super) fn running_strides(
    description: &WorkflowExecutionDescription,
    converter: &PayloadConverter,
) -> Vec<RunningStride> {
    let pending = description.raw().pending_activities.iter();
    let mut strides: Vec<_> = pending.filter_map(|info| stride(info, converter)).collect();
    strides.sort_by_key(|stride| stride.stride);
    strides
}

fn stride(info: &PendingActivityInfo, converter: &PayloadConverter) -> Option<RunningStride> {
    if info.activity_type.as_ref()?.name != protocol::STRIDE {
        return None;
    }
    let number = info.activity_id.strip_prefix("stride-")?;
    let runs = matches!(
        info.state(),
        PendingActivityState::Started
            | PendingActivityState::CancelRequested
            | PendingActivityState::PauseRequested
    );
    let checkpoint = checkpoint(info, converter).unwrap_or_default();
    let said_at = checkpoint.at;
    let options = info.activity_options.as_ref();
    let timeout = options.and_then(|options| options.heartbeat_timeout);
    Some(RunningStride {
        stride: number.parse().ok()?,
        attempt: u32::try_from(info.attempt).unwrap_or(1),
        worker: (!info.last_worker_identity.is_empty()).then(|| info.last_worker_identity.clone()),
        dispatched_at: time(info.scheduled_time),
        started_at: time(info.last_started_time).filter(|_| runs),
        heartbeat_at: time(info.last_heartbeat_time),
        heartbeat_timeout: timeout.and_then(|timeout| Duration::try_from(timeout).ok()),
        pages_finished: checkpoint.done.pages,
        page: checkpoint.page.filter(|_| runs).map(|page| RunningPage {
            start: page.start,
            since: page.since,
            said_for: said_at.since(page.since),
            attempt: page.attempt,
        }),
    })
}

/// Reads the latest checkpoint of a stride. The client has already applied the codec.
fn checkpoint(info: &PendingActivityInfo, converter: &PayloadConverter) -> Option<Checkpoint> {
    let payloads = info.heartbeat_details.as_ref()?.payloads.clone();
    let data = SerializationContextData::Workflow(WorkflowSerializationContext::new());
    let context = SerializationContext::new(&data, converter);
    converter.from_payloads(&context, payloads).ok()
}

pub(super) fn time<T>(at: Option<T>) -> Option<Timestamp>
where
    SystemTime: TryFrom<T>,
{
    SystemTime::try_from(at?).ok().map(Timestamp::from)
}

#[cfg(test)]
mod tests {
    use temporalio_common::protos::temporal::api::{
        common::v1::{ActivityType, Payloads},
        workflow::v1::PendingActivityInfo,
    };

    use super::*;
    use crate::protocol::StrideReport;

    fn pending(activity: &str, state: PendingActivityState) -> PendingActivityInfo {
        let converter = PayloadConverter::default();
        let data = SerializationContextData::Workflow(WorkflowSerializationContext::new());
        let context = SerializationContext::new(&data, &converter);
        let checkpoint = Checkpoint {
            done: StrideReport {
                pages: 3,
                ..StrideReport::default()
            },
            page: Some(protocol::RunningPage {
                end: None,
                items: None,
                start: Some(PageToken::encode(&30).unwrap()),
                since: Timestamp(7),
                attempt: 2,
            }),
            at: Timestamp(12_007),
        };
        let payload = converter.to_payload(&context, &checkpoint).unwrap();
        let mut info = PendingActivityInfo {
            activity_id: "stride-12".to_owned(),
            activity_type: Some(ActivityType {
                name: activity.to_owned(),
            }),
            attempt: 1,
            last_worker_identity: "7@host".to_owned(),
            last_started_time: Some(SystemTime::UNIX_EPOCH.into()),
            heartbeat_details: Some(Payloads {
                payloads: vec![payload],
            }),
            ..PendingActivityInfo::default()
        };
        info.set_state(state);
        info
    }

    #[test]
    fn a_running_stride_tells_its_page() {
        let info = pending(protocol::STRIDE, PendingActivityState::Started);
        let seen = stride(&info, &PayloadConverter::default()).unwrap();
        assert_eq!((seen.stride, seen.pages_finished), (12, 3));
        assert_eq!(seen.started_at, Some(Timestamp(0)));
        let page = seen.page.unwrap();
        assert_eq!(
            (page.start.unwrap().as_str(), page.since),
            ("30", Timestamp(7))
        );
        assert_eq!(page.attempt, 2);
        assert_eq!(page.said_for, Duration::from_secs(12));
    }

    #[test]
    fn a_stride_that_waits_for_a_worker_has_no_page() {
        let info = pending(protocol::STRIDE, PendingActivityState::Scheduled);
        let seen = stride(&info, &PayloadConverter::default()).unwrap();
        assert_eq!((seen.started_at, seen.page), (None, None));
        assert_eq!(seen.worker.as_deref(), Some("7@host"), "who had it last");
    }

    #[test]
    fn other_activities_are_no_strides() {
        let info = pending(protocol::HOOK, PendingActivityState::Started);
        assert_eq!(stride(&info, &PayloadConverter::default()), None);
    }
}
