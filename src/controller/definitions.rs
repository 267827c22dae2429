//! The activities that the controller calls.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use temporalio_sdk::activities::ActivityError;

use crate::protocol::{
    self, HookOrder, KeepReport, PrepareInput, Prepared, StrideOrder, StrideReport,
};

/// The activities that the controller calls.
pub(crate) struct Orders;

#[temporalio_macros::activity_definitions]
impl Orders {
    #[activity(name = protocol::PREPARE)]
    pub(crate) fn prepare(_input: PrepareInput) -> Result<Prepared, ActivityError> {
        unimplemented!()
    }

    #[activity(name = protocol::STRIDE)]
    pub(crate) fn stride(_order: StrideOrder) -> Result<StrideReport, ActivityError> {
        unimplemented!()
    }

    #[activity(name = protocol::HOOK)]
    pub(crate) fn hook(_order: HookOrder) -> Result<(), ActivityError> {
        unimplemented!()
    }

    #[activity(name = protocol::KEEP_REPORT)]
    pub(crate) fn keep_report(_order: KeepReport) -> Result<(), ActivityError> {
        unimplemented!()
    }
}

// The definitions that the activities of a worker have to match.
pub(crate) use orders::{
    Hook as HookActivity, KeepReport as KeepReportActivity, Prepare as PrepareActivity,
    Stride as StrideActivity,
};
