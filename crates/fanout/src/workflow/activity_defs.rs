//! The activities that the workflows call.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use serde_json::Value;
use temporalio_sdk::activities::ActivityError;

use crate::protocol::{
    self, AggregateOrder, AskOrder, EndedChild, IdOwner, ItemsRead, LookUpOrder, ProcessOrder,
    ReadOrder, WatchOrder,
};

/// The activities that the workflows call.
pub(crate) struct ActivityDefs;

#[temporalio_macros::activity_definitions]
impl ActivityDefs {
    #[activity(name = protocol::PROCESS)]
    pub(crate) fn process(_order: ProcessOrder) -> Result<Value, ActivityError> {
        unimplemented!()
    }

    #[activity(name = protocol::READ)]
    pub(crate) fn read(_order: ReadOrder) -> Result<ItemsRead, ActivityError> {
        unimplemented!()
    }

    #[activity(name = protocol::AGGREGATE)]
    pub(crate) fn aggregate(_order: AggregateOrder) -> Result<Value, ActivityError> {
        unimplemented!()
    }

    #[activity(name = protocol::ASK)]
    pub(crate) fn ask(_order: AskOrder) -> Result<(), ActivityError> {
        unimplemented!()
    }

    #[activity(name = protocol::LOOK_UP)]
    pub(crate) fn look_up(_order: LookUpOrder) -> Result<IdOwner, ActivityError> {
        unimplemented!()
    }

    #[activity(name = protocol::WATCH)]
    pub(crate) fn watch(_order: WatchOrder) -> Result<Vec<EndedChild>, ActivityError> {
        unimplemented!()
    }
}

// The definitions that the activities of a worker have to match.
pub(crate) use activity_defs::{
    Aggregate as AggregateActivity, Ask as AskActivity, LookUp as LookUpActivity,
    Process as ProcessActivity, Read as ReadActivity, Watch as WatchActivity,
};
