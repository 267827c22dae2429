//! A simulated batch with partitions: the state of their parent, and a controller for each partition that runs.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    simulation::{Simulation, next_run},
    simulator::SimulatedRun,
    strides::{Decided, Strides},
    world::World,
};
use crate::{
    base::time::{Timestamp, earliest},
    batch::validate::InvalidBatch,
    decisions::{
        carry::EndDetails,
        partitions::{Next, Step},
        scheduler::Ending,
        state::{
            BatchState, partition_parent::ChildEnd, partition_work::PartitionWork, publish::News,
        },
    },
    progress::phase::{Outcome, Phase},
    protocol::partition::{PartitionOrder, PartitionSnapshot},
};

/// The time for which a partition could use more pages in flight before its parent believes that it has too many.
const BELIEVED_AFTER: Duration = Duration::from_secs(3);

/// The partitions whose controllers run, by their numbers.
type Children<'a> = BTreeMap<u32, Child<'a>>;

struct Child<'a> {
    strides: Strides<'a>,
    /// The time at which its controller decides next.
    due: Option<Timestamp>,
    /// The time since which it cannot use its share.
    idle_since: Option<Timestamp>,
}

impl<'a> Simulation<'a, PartitionWork> {
    /// Runs the batch to its end.
    pub async fn run(mut self) -> Result<SimulatedRun, InvalidBatch> {
        if let Some(ending) = self.begin().await? {
            return Ok(self.end(&ending));
        }
        let mut children = Children::new();
        loop {
            self.apply_requests();
            self.make_calls().await;
            self.look_at(&mut children);
            let now = self.now();
            self.world.state().refresh(now, false, 0);
            let next = self.world.state().next();
            let steps = match next {
                Next::Steps(steps) => steps,
                Next::HandOver => {
                    let mut state = self.world.state();
                    *state = next_run(&state, now);
                    continue;
                }
                Next::Finish(ending) => return Ok(self.finish(ending).await),
            };
            let mut changed = false;
            for step in steps {
                changed |= self.carry_out(step, &mut children).await;
            }
            changed |= self.decide_for(&mut children);
            if !changed {
                self.publish();
                let due = children.values().filter_map(|child| child.due).min();
                let until = earliest(self.world.state().next_change(), due);
                let mut strides: Vec<_> = children.values_mut().map(|c| &mut c.strides).collect();
                self.wait(&mut strides, until).await;
            }
        }
    }

    /// Carries out a decided step. Returns whether it changed anything.
    async fn carry_out(&self, step: Step, children: &mut Children<'a>) -> bool {
        match step {
            Step::Begin { number, told } => {
                let child = self.child(number, &told);
                let begun = child.is_some();
                children.extend(child.map(|child| (number, child)));
                begun
            }
            Step::Tell {
                number,
                told,
                split,
            } => {
                let order = self.world.state().share_order(number, told, split);
                let Some((child, (_, order))) = children.get(&number).zip(order) else {
                    return false;
                };
                child.strides.world.state().hear_share(order);
                true
            }
            Step::Split { number, start, end } => {
                let order = self.world.state().split_order(number, start, end);
                // A range is not split if the processor fails to.
                let at = self.processor.split(&order).await.unwrap_or_default();
                self.world.state().work.partitions.split(number, at);
                true
            }
        }
    }

    /// Starts the controller of a partition.
    fn child(&self, number: u32, told: &PartitionOrder) -> Option<Child<'a>> {
        let mut parent = self.world.state();
        let input = parent.part_input(number, told)?;
        let mut state = BatchState::of(input);
        // The seed of a real batch comes from its batch run, which is a random number here.
        state.work.chain.seed_by(u64::from(number));
        // Bridges are workflows.
        state.work.outbox.on = false;
        state.begin(self.now());
        parent.partition_started(number);
        let world = World::new(Arc::clone(&self.world.shared), state);
        Some(Child {
            strides: Strides::new(self.processor, Arc::new(world)),
            due: None,
            idle_since: None,
        })
    }

    /// Takes the decisions of the partitions. Returns whether the parent has a decision to take then.
    fn decide_for(&mut self, children: &mut Children<'a>) -> bool {
        let mut changed = false;
        children.retain(|number, child| {
            let ending = self.decide_for_one(child);
            let settled = child.strides.world.state().settled_now();
            if let Some(settled) = settled {
                self.world.state().hear_settled(&settled);
                child.strides.world.state().said_settled(settled.seq);
                changed = true;
            }
            let Some(ending) = ending else {
                return true;
            };
            self.tell_failures(&child.strides.world);
            let details = end_of(&mut child.strides.world.state(), &ending);
            let ended = ChildEnd::Report(Box::new(details));
            self.world.state().partition_ended(*number, ended);
            changed = true;
            false
        });
        changed
    }

    fn decide_for_one(&mut self, child: &mut Child<'a>) -> Option<Ending> {
        loop {
            child.strides.refresh();
            self.tell_failures(&child.strides.world);
            self.combine_in(&child.strides.world, false);
            match child.strides.decide() {
                None => {}
                Some(Decided::Wait(until)) => {
                    child.strides.publish();
                    child.due = until;
                    return None;
                }
                Some(Decided::End(ending)) => {
                    self.combine_in(&child.strides.world, true);
                    return Some(ending);
                }
            }
        }
    }

    /// Tells the parent the progress of its partitions.
    fn look_at(&self, children: &mut Children<'a>) {
        let now = self.now();
        let mut state = self.world.state();
        for (number, child) in children {
            let progress = child.strides.world.state().look();
            child.idle_since = match PartitionSnapshot::is_discovering(&progress) {
                true => child.idle_since.or(Some(now)),
                false => None,
            };
            let idle = child
                .idle_since
                .is_some_and(|since| now.since(since) >= BELIEVED_AFTER);
            let look = PartitionSnapshot::of(&progress, idle);
            state.work.partitions.looked(*number, look, now);
        }
    }

    fn publish(&mut self) {
        let mut state = self.world.state();
        let progress = state.look();
        let news = state.take_news(progress);
        drop(state);
        for news in news {
            if let News::Progress(progress) = news {
                self.see(*progress);
            }
        }
    }
}

/// Ends the controller of a partition, and returns what its parent learns.
fn end_of(state: &mut BatchState, ending: &Ending) -> EndDetails {
    state.begin_to_end(ending);
    state.closing = Some(Phase::Ended);
    match ending.outcome {
        Outcome::Completed | Outcome::CompletedWithFailures => EndDetails {
            report: state.report(ending),
            continuation: None,
        },
        Outcome::Stopped | Outcome::Cancelled | Outcome::Failed => state.fitting_details(ending),
    }
}
